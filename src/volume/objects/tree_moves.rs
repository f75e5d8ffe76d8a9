//! How a directory moves in a bucket: everything below it is copied, then what was copied is deleted.

use super::bucket::MTIME;
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
    /// The first half of a directory's move: copies everything below it, its mark too, also what is not seen.
    pub async fn copy_directory(&self, from: &str, to: &str) -> Result<Copied, ObjectsError> {
        let (from, to) = (self.below(from), self.below(to));
        let all = self.all_below(&from).await?;
        self.copy_all(&all, (&from, &to)).await
    }

    /// The same where somebody has begun with that: what stands there stays, and only what is its copy for certain is taken for
    /// it. `None`, and nothing done: none is, and something stands there.
    pub async fn copy_rest_of_directory(
        &self,
        from: &str,
        to: &str,
    ) -> Result<Option<Copied>, ObjectsError> {
        let (from, to) = (self.below(from), self.below(to));
        let there = self.all_by_key(&to).await?;
        let all = self.all_below(&from).await?;
        let Copied(mut copied) = self.proven(&all, (&from, &to), &there).await?;
        // The mark that stands there may be that of an empty directory, which this one replaces.
        copied.retain(|key, _| key.as_str() != from);
        if copied.is_empty() && there.keys().any(|key| key.as_str() != to) {
            return Ok(None);
        }
        let mut missing = all;
        missing.retain(|object| {
            let target = self.moved_key(&object.key, &from, &to);
            object.key.as_str() == from || target.is_ok_and(|target| !there.contains_key(&target))
        });
        let Copied(now) = self.copy_all(&missing, (&from, &to)).await?;
        copied.extend(now);
        Ok(Some(Copied(copied)))
    }

    /// What was copied by somebody who had come to the end of that: the rest has come, or was changed, since.
    pub async fn copied_directory(&self, from: &str, to: &str) -> Result<Copied, ObjectsError> {
        let (from, to) = (self.below(from), self.below(to));
        let there = self.all_by_key(&to).await?;
        let all = self.all_below(&from).await?;
        self.proven(&all, (&from, &to), &there).await
    }

    async fn copy_all(
        &self,
        objects: &[ObjectMeta],
        (from, to): (&str, &str),
    ) -> Result<Copied, ObjectsError> {
        // Before the first is copied.
        for object in objects {
            self.moved_key(&object.key, from, to)?;
        }
        let mut all = HashMap::new();
        // So many at a time: what waits for its turn takes memory too.
        for objects in objects.chunks(CHUNK) {
            let copies: Vec<_> =
                objects.iter().map(|object| self.move_one(&object.key, from, to)).collect();
            let mut copies = futures::stream::iter(copies).buffer_unordered(COPIES);
            while let Some(copied) = copies.next().await {
                all.extend(copied?);
            }
        }
        Ok(Copied(all))
    }

    async fn all_by_key(&self, prefix: &str) -> Result<HashMap<Key, ObjectMeta>, ObjectsError> {
        let all = self.all_below(prefix).await?;
        Ok(all.into_iter().map(|object| (object.key.clone(), object)).collect())
    }

    /// Of these objects those whose copies stand where they are to be moved to.
    async fn proven(
        &self,
        objects: &[ObjectMeta],
        (from, to): (&str, &str),
        there: &HashMap<Key, ObjectMeta>,
    ) -> Result<Copied, ObjectsError> {
        let checks: Vec<_> = objects
            .iter()
            .filter_map(|object| {
                let target = self.moved_key(&object.key, from, to).ok()?;
                Some(self.is_copy(object, there.get(&target)?))
            })
            .collect();
        let checks: Vec<_> = futures::stream::iter(checks).buffer_unordered(COPIES).collect().await;
        let mut proven = HashMap::new();
        for checked in checks {
            proven.extend(checked?);
        }
        Ok(Copied(proven))
    }

    /// The object, if the other one is its copy: it has the same mark, or, where a store gives copies others (of uploads in
    /// parts), the same size and all that its writer told, a time among it.
    async fn is_copy(
        &self,
        object: &ObjectMeta,
        copy: &ObjectMeta,
    ) -> Result<Option<(Key, ETag)>, ObjectsError> {
        let proven = Some((object.key.clone(), object.etag.clone()));
        if copy.etag == object.etag {
            return Ok(proven);
        }
        if copy.size != object.size {
            return Ok(None);
        }
        let (Some(one), Some(other)) =
            (self.head(&object.key, 0).await?, self.head(&copy.key, 0).await?)
        else {
            return Ok(None);
        };
        let is_the_same = (&one.etag, &other.etag) == (&object.etag, &copy.etag)
            && one.headers.metadata == other.headers.metadata
            && one.headers.metadata.contains_key(MTIME);
        Ok(proven.filter(|_| is_the_same))
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

    /// Copies an object; it and the mark that it had then. None: it was removed since it was listed.
    async fn move_one(
        &self,
        key: &Key,
        from: &str,
        to: &str,
    ) -> Result<Option<(Key, ETag)>, ObjectsError> {
        let target = self.moved_key(key, from, to)?;
        let Some(found) = self.head(key, 0).await? else { return Ok(None) };
        let source = (&found.etag, found.size);
        self.copy_object(key, source, &target, &found.headers).await?;
        Ok(Some((key.clone(), found.etag)))
    }
}
