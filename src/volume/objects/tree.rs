//! A bucket as a file system needs it: what is at a name, the names in a directory, ranges, copies.
//!
//! Files are objects as [`super::bucket`] has them, `NAME.enc` where there is a key. A directory is the
//! beginning of keys; its mark, an empty object whose key ends in `/`, keeps it when it is empty and holds its
//! attributes. Where a file and a directory have one name, the directory is seen.
//!
//! Crash story: every change of one object appears whole or not at all. A move is a copy and then a deletion:
//! a crash between the two leaves both names. A directory is moved object by object: a crash leaves some here
//! and some there, none lost.

use super::bucket::{KEY_CHECK, Requests};
use super::copying;
use super::error::ObjectsError;
use super::layout::SUFFIX;
use super::transfer::{self, Transfer};
use crate::crypto::datasafed::{OVERHEAD, StreamKey};
use crate::store::{
    COPY_LIMIT, ETag, Headers, Key, ListRequest, StoreError, StoreErrorKind, Upload,
};
use crate::units::ByteRange;
use crate::world::{Entropy, Timestamp};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How long what is left to be done is waited for at the end.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// The media type of a directory's mark, as s3fs and geesefs give it.
const DIRECTORY: &str = "application/x-directory";
/// Parts copied at once, and objects moved at once.
pub(super) const COPIES: usize = 16;

/// An object that stands for a file or marks a directory.
#[derive(Clone, Debug)]
pub struct Found {
    /// Bytes of the file.
    pub size: u64,
    /// It is shorter than the IV that it should begin with: nobody can say what its content was.
    pub is_cut: bool,
    /// The object's mark.
    pub etag: ETag,
    /// When it was stored, by the store's clock.
    pub stored: Timestamp,
    /// What is beside its bytes.
    pub headers: Headers,
}

/// What is at a path.
#[derive(Clone, Debug)]
pub enum Looked {
    /// Nothing.
    Nothing,
    /// A file.
    File(Found),
    /// A directory, and its mark if it has one.
    Directory(Option<Found>),
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name.
    pub name: String,
    /// The file; none: a directory.
    pub file: Option<RowFile>,
}

/// What a listing tells of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFile {
    /// Bytes of the file.
    pub size: u64,
    /// The object's mark.
    pub etag: ETag,
}

/// The files below a prefix of a bucket.
pub struct BucketTree {
    pub(super) requests: Requests,
    /// Empty, or ends in `/`.
    prefix: String,
    key: Option<Arc<StreamKey>>,
    entropy: Arc<dyn Entropy>,
    copy_limit: u64,
}

impl BucketTree {
    /// The files below a prefix (without `/` at either end; may be empty), in datasafed's form if there is a
    /// key.
    pub fn new(
        requests: Requests,
        prefix: &str,
        key: Option<Arc<StreamKey>>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { requests, prefix, key, entropy, copy_limit: COPY_LIMIT }
    }

    /// The same where copies of more than so many bytes are made in parts: for stores, and tests, that take
    /// less in one.
    pub fn with_copy_limit(self, copy_limit: u64) -> Self {
        Self { copy_limit, ..self }
    }

    /// Whether files are in datasafed's form.
    pub fn is_encrypted(&self) -> bool {
        self.key.is_some()
    }

    /// Whether it is less than a whole bucket, so that its root can have a mark.
    pub fn has_prefix(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// How this place is called in messages.
    pub fn describe(&self) -> String {
        let store = self.requests.store.describe();
        if self.prefix.is_empty() { store } else { format!("{store}, {}", self.prefix) }
    }

    /// Waits a little for uploads that were given up, so that their parts do not stay behind.
    pub async fn settle(&self) {
        self.requests.afterwards.close();
        let _ = tokio::time::timeout(AFTERWARDS, self.requests.afterwards.wait()).await;
    }

    pub(super) fn stream_key(&self) -> Option<&Arc<StreamKey>> {
        self.key.as_ref()
    }

    pub(super) fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    pub(super) fn part_limit(&self) -> u32 {
        self.requests.files.part_limit()
    }

    fn overhead(&self) -> u64 {
        if self.is_encrypted() { OVERHEAD } else { 0 }
    }

    fn file_key(&self, path: &str) -> Result<Key, ObjectsError> {
        let ending = if self.is_encrypted() { SUFFIX } else { "" };
        self.any_key(format!("{}{path}{ending}", self.prefix))
    }

    /// The key of a directory's mark; empty is the root.
    fn mark_key(&self, path: &str) -> Result<Key, ObjectsError> {
        self.any_key(self.below(path))
    }

    pub(super) fn any_key(&self, key: String) -> Result<Key, ObjectsError> {
        let length = key.len();
        Key::new(key).ok_or_else(|| {
            ObjectsError::Invalid(format!(
                "an object's name of {length} bytes: with its prefix it needs 1 to {}",
                crate::store::KEY_LIMIT
            ))
        })
    }

    pub(super) fn below(&self, directory: &str) -> String {
        match directory {
            "" => self.prefix.clone(),
            _ => format!("{}{directory}/", self.prefix),
        }
    }

    /// Whether a path fits into a key.
    pub fn fits(&self, path: &str) -> bool {
        self.file_key(path).is_ok() && self.mark_key(path).is_ok()
    }

    /// Gives up an upload that another process has begun; whether that could be done, or makes no sense.
    pub async fn give_up(&self, path: &str, upload: &Upload) -> bool {
        match self.transfer(path) {
            Ok(transfer) => transfer.give_up(upload).await,
            Err(_) => true,
        }
    }

    pub(super) fn transfer(&self, path: &str) -> Result<Transfer, ObjectsError> {
        Ok(Transfer { requests: self.requests.clone(), key: self.file_key(path)? })
    }

    /// The media type of a new file.
    pub fn content_type(path: &str) -> String {
        transfer::content_type(path).to_owned()
    }

    /// Refuses a bucket that is not there or may not be listed.
    pub async fn check(&self) -> Result<(), StoreError> {
        let request =
            ListRequest { prefix: self.prefix.clone(), limit: 1, ..ListRequest::default() };
        self.requests.store.list(&request).await.map(drop)
    }

    pub(super) async fn head(
        &self,
        key: &Key,
        overhead: u64,
    ) -> Result<Option<Found>, ObjectsError> {
        match self.requests.files.head_file(key).await {
            Ok((meta, headers)) => Ok(Some(Found {
                size: meta.size.saturating_sub(overhead),
                is_cut: meta.size < overhead,
                etag: meta.etag,
                stored: meta.modified,
                headers,
            })),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The file at a path.
    pub async fn file(&self, path: &str) -> Result<Option<Found>, ObjectsError> {
        self.head(&self.file_key(path)?, self.overhead()).await
    }

    /// The mark of the directory at a path.
    pub async fn mark(&self, path: &str) -> Result<Option<Found>, ObjectsError> {
        match self.below(path).is_empty() {
            true => Ok(None),
            false => self.head(&self.mark_key(path)?, 0).await,
        }
    }

    /// What is at a path, by two requests at once, and a third for a directory's mark.
    pub async fn look(&self, path: &str) -> Result<Looked, ObjectsError> {
        let below = self.below(path);
        let request = ListRequest { prefix: below.clone(), limit: 1, ..ListRequest::default() };
        let listed = async { Ok(self.requests.store.list(&request).await?) };
        let (file, page) = futures::try_join!(self.file(path), listed)?;
        // Its mark comes first: nothing that begins with it is shorter.
        match (page.objects.first(), file) {
            (Some(first), _) if first.key.as_str() == below => {
                Ok(Looked::Directory(self.mark(path).await?))
            }
            (Some(_), _) => Ok(Looked::Directory(None)),
            (None, Some(file)) => Ok(Looked::File(file)),
            (None, None) => Ok(Looked::Nothing),
        }
    }

    /// The names in a directory, in the order of their bytes.
    pub async fn list(&self, directory: &str) -> Result<Vec<Row>, ObjectsError> {
        let below = self.below(directory);
        let mut request =
            ListRequest { prefix: below.clone(), roll_up: true, ..ListRequest::default() };
        let mut rows = Vec::new();
        let is_name = |name: &str| !name.is_empty() && !matches!(name, "." | "..");
        loop {
            let page = self.requests.store.list(&request).await?;
            for prefix in page.prefixes {
                let name = prefix.strip_prefix(&below).and_then(|name| name.strip_suffix('/'));
                if let Some(name) = name.filter(|name| is_name(name) && !name.contains('/')) {
                    rows.push(Row { name: name.to_owned(), file: None });
                }
            }
            for object in page.objects {
                let Some(name) = object.key.as_str().strip_prefix(&below) else { continue };
                let name = match self.is_encrypted() {
                    true => name.strip_suffix(SUFFIX),
                    false => Some(name),
                };
                let Some(name) = name.filter(|name| is_name(name) && !name.contains('/')) else {
                    continue;
                };
                let size = object.size.saturating_sub(self.overhead());
                let file = Some(RowFile { size, etag: object.etag });
                rows.push(Row { name: name.to_owned(), file });
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        // The directory first where a file has the same name.
        rows.sort_by(|a, b| a.name.cmp(&b.name).then(a.file.is_some().cmp(&b.file.is_some())));
        rows.dedup_by(|b, a| a.name == b.name);
        Ok(rows)
    }

    /// Whether a directory has nothing but its mark, also nothing that is not seen.
    pub async fn is_empty(&self, directory: &str) -> Result<bool, ObjectsError> {
        let below = self.below(directory);
        let request = ListRequest { prefix: below.clone(), limit: 2, ..ListRequest::default() };
        let page = self.requests.store.list(&request).await?;
        Ok(page.objects.iter().all(|object| object.key.as_str() == below))
    }

    /// The content of a range, fewer bytes only where the file ends, in the buffers that it came in.
    ///
    /// # Errors
    /// `Changed` if the object is another one by now, or gone.
    pub async fn read(
        &self,
        path: &str,
        etag: &ETag,
        range: ByteRange,
    ) -> Result<Vec<Bytes>, ObjectsError> {
        let transfer = self.transfer(path)?;
        let store = &*self.requests.store;
        let (bytes, _) = transfer.bytes(store, self.key.as_ref(), range, Some(etag)).await?;
        Ok(bytes)
    }

    /// Proves that a file has no other key than this tree, as far as that is told beside it: by a request only where
    /// it is told that it has.
    ///
    /// # Errors
    /// `OtherKey` if it has, and those of the request.
    pub async fn prove_key(&self, path: &str, found: &Found) -> Result<(), ObjectsError> {
        match self.is_of_another_key(found) {
            true => self.read(path, &found.etag, ByteRange::new(0, 1)).await.map(drop),
            false => Ok(()),
        }
    }

    /// Whether what is beside an object says that it was made with another passphrase or algorithm.
    pub fn is_of_another_key(&self, found: &Found) -> bool {
        let check = found.headers.metadata.get(KEY_CHECK);
        self.key.as_ref().zip(check).is_some_and(|(key, check)| key.refuses(check).is_some())
    }

    /// Copies a file, with its own headers or others; returns the copy's mark.
    pub async fn copy(
        &self,
        from: &str,
        found: &Found,
        to: &str,
        headers: Option<&Headers>,
    ) -> Result<ETag, ObjectsError> {
        let size = found.size + self.overhead();
        let (from, to) = (self.file_key(from)?, self.file_key(to)?);
        let headers = headers.unwrap_or(&found.headers);
        self.copy_object(&from, (&found.etag, size), &to, headers).await
    }

    pub(super) async fn copy_object(
        &self,
        from: &Key,
        (etag, size): (&ETag, u64),
        to: &Key,
        headers: &Headers,
    ) -> Result<ETag, ObjectsError> {
        copying::copy(&self.requests, self.copy_limit, from, (etag, size), (to, headers)).await
    }

    /// Removes a file; none is no error.
    pub async fn remove(&self, path: &str) -> Result<(), ObjectsError> {
        Ok(self.requests.store.delete(&self.file_key(path)?, None).await?)
    }

    /// Removes a file that is still this one; another one, or none, stays as it is. Asked first where the store
    /// cannot be told: between the question and the removal another one may come.
    pub async fn remove_if(&self, path: &str, etag: &ETag) -> Result<(), ObjectsError> {
        match self.file(path).await? {
            Some(found) if found.etag == *etag => self.remove(path).await,
            _ => Ok(()),
        }
    }

    /// Marks a directory, or replaces its mark; returns what marks it.
    pub async fn put_mark(&self, path: &str, headers: &Headers) -> Result<ETag, ObjectsError> {
        let mut headers = headers.clone();
        headers.content_type = Some(DIRECTORY.to_owned());
        let key = self.mark_key(path)?;
        Ok(self.requests.files.put_file(&key, Bytes::new(), &headers).await?)
    }

    /// Removes a directory's mark.
    pub async fn remove_mark(&self, path: &str) -> Result<(), ObjectsError> {
        Ok(self.requests.store.delete(&self.mark_key(path)?, None).await?)
    }
}
