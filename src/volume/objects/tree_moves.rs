//! How a directory moves in a bucket: everything below it is copied, then what was copied is deleted.

use super::error::ObjectsError;
use super::tree::{BucketTree, COPIES};
use crate::store::{ETag, Key, ListRequest, ObjectMeta, list_all};
use futures::StreamExt;
use std::collections::HashMap;

/// Objects moved before the next ones are begun.
const CHUNK: usize = 1000;
/// Objects deleted in one request.
const DELETES: usize = 1000;

/// What of a directory was copied, with the marks that it had.
pub struct Copied(HashMap<Key, ETag>);

impl BucketTree {
    /// The first half of a directory's move: copies everything below it, its mark too, also what is not seen. `again`:
    /// somebody has begun with that; what stands there and is no older stays as it is.
    pub async fn copy_directory(
        &self,
        from: &str,
        to: &str,
        again: bool,
    ) -> Result<Copied, ObjectsError> {
        let (from, to) = (self.below(from), self.below(to));
        let all = self.all_below(&from).await?;
        // Before the first is copied.
        for object in &all {
            self.moved_key(&object.key, &from, &to)?;
        }
        let mut objects = all.clone();
        if again {
            let there = self.all_by_key(&to).await?;
            // The mark that stands there may be that of an empty directory, which this one replaces.
            objects.retain(|object| {
                object.key.as_str() == from || !self.has_copy(object, (&from, &to), &there)
            });
        }
        // So many at a time: what waits for its turn takes memory too.
        for objects in objects.chunks(CHUNK) {
            let copies: Vec<_> =
                objects.iter().map(|object| self.move_one(&object.key, &from, &to)).collect();
            let mut copies = futures::stream::iter(copies).buffer_unordered(COPIES);
            while let Some(copied) = copies.next().await {
                copied?;
            }
        }
        Ok(Copied(all.into_iter().map(|object| (object.key, object.etag)).collect()))
    }

    /// What was copied by somebody who had come to the end of that: the rest has come since.
    pub async fn copied_directory(&self, from: &str, to: &str) -> Result<Copied, ObjectsError> {
        let (from, to) = (self.below(from), self.below(to));
        let there = self.all_by_key(&to).await?;
        let mut objects = self.all_below(&from).await?;
        objects.retain(|object| self.has_copy(object, (&from, &to), &there));
        Ok(Copied(objects.into_iter().map(|object| (object.key, object.etag)).collect()))
    }

    async fn all_by_key(&self, prefix: &str) -> Result<HashMap<Key, ObjectMeta>, ObjectsError> {
        let all = self.all_below(prefix).await?;
        Ok(all.into_iter().map(|object| (object.key.clone(), object)).collect())
    }

    /// Whether what stands where an object is to be moved to was put there after it: it is its copy, or what somebody has
    /// made of that. Within the second that some stores tell, only the same bytes are that.
    fn has_copy(
        &self,
        object: &ObjectMeta,
        (from, to): (&str, &str),
        there: &HashMap<Key, ObjectMeta>,
    ) -> bool {
        let target = self.moved_key(&object.key, from, to).ok();
        target.and_then(|target| there.get(&target)).is_some_and(|copy| {
            copy.modified > object.modified
                || copy.modified == object.modified && copy.etag == object.etag
        })
    }

    /// The second half: deletes what was copied. What another one has put there meanwhile stays there.
    pub async fn remove_copied(
        &self,
        from: &str,
        Copied(copied): Copied,
    ) -> Result<(), ObjectsError> {
        let mut there = self.all_below(&self.below(from)).await?;
        there.retain(|object| copied.get(&object.key) == Some(&object.etag));
        let keys: Vec<Key> = there.into_iter().map(|object| object.key).collect();
        for keys in keys.chunks(DELETES) {
            let failed = self.requests.store.delete_many(keys).await?;
            if let Some((_, error)) = failed.into_iter().next() {
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn all_below(&self, prefix: &str) -> Result<Vec<ObjectMeta>, ObjectsError> {
        let request = ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() };
        Ok(list_all(&*self.requests.store, request).await?.0)
    }

    fn moved_key(&self, key: &Key, from: &str, to: &str) -> Result<Key, ObjectsError> {
        let rest = key.as_str().strip_prefix(from).unwrap_or_default();
        self.any_key(format!("{to}{rest}"))
    }

    async fn move_one(&self, key: &Key, from: &str, to: &str) -> Result<(), ObjectsError> {
        let target = self.moved_key(key, from, to)?;
        // Removed since it was listed: nothing to move.
        let Some(found) = self.head(key, 0).await? else { return Ok(()) };
        self.copy_object(key, (&found.etag, found.size), &target, &found.headers).await.map(drop)
    }
}
