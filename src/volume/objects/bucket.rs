//! Files in a bucket: the key is the path below the root's prefix, with the bytes of the file and nothing
//! else. Directories are the beginnings of keys; an empty object whose key ends in `/` marks one.

use super::copying;
use super::listing::{self, Flat};
use super::parts::{Piece, Plan};
use super::transfer::{self, Transfer};
use super::{Beside, Emit, Entry, Files, Kind, ListFiles, Modified, ObjectsError};
use crate::crypto::datasafed::StreamKey;
use crate::store::{
    COPY_LIMIT, FileStore, Headers, Key, ListRequest, ObjectMeta, Store, StoreError, StoreErrorKind,
};
use crate::world::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_util::task::TaskTracker;

/// The metadata that holds a file's time, as rclone and s3fs write it: seconds, with a fraction.
pub(super) const MTIME: &str = "mtime";
/// The metadata that holds a file's [`StreamKey::check`]: one word, as Azure's names have to be.
pub const KEY_CHECK: &str = "keycheck";
/// Requests at once for the times of listed files.
const HEADS: usize = 32;
/// Objects deleted in one go.
const DELETE_BATCH: usize = 1000;

/// The requests of a bucket. The same server behind all of them.
#[derive(Clone)]
pub struct Requests {
    /// Reads, lists, deletes; gives up soon.
    pub store: Arc<dyn Store>,
    /// The same, but patient: for the middle of a transfer.
    pub patient: Arc<dyn Store>,
    /// Writes; patient with the parts of an upload.
    pub files: Arc<dyn FileStore>,
    /// What is still to be done after a transfer was given up: to be waited for, a little.
    pub afterwards: TaskTracker,
}

/// Files in a bucket.
pub struct BucketFiles {
    requests: Requests,
    /// Empty, or ends in `/`.
    prefix: String,
}

impl BucketFiles {
    /// The files below a prefix (without `/` at either end; may be empty).
    pub fn new(requests: Requests, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { requests, prefix }
    }

    fn key(&self, path: &str) -> Result<Key, ObjectsError> {
        let key = Key::new(format!("{}{path}", self.prefix)).filter(|_| !path.is_empty());
        key.ok_or_else(|| {
            ObjectsError::Invalid(format!(
                "{path:?} cannot be an object's name: it needs 1 to {} bytes with its prefix",
                crate::store::KEY_LIMIT
            ))
        })
    }

    /// The beginning of the keys in a directory.
    fn below(&self, directory: &str) -> String {
        match directory {
            "" => self.prefix.clone(),
            _ => format!("{}{directory}/", self.prefix),
        }
    }

    /// What was listed as an object: a file, or the mark of a directory; `None` for the mark of `directory`
    /// itself.
    fn listed(&self, object: ObjectMeta, directory: &str) -> Option<Entry> {
        let path = object.key.as_str().strip_prefix(&self.prefix)?;
        let is_mark = object.size == 0 && (path.is_empty() || path.ends_with('/'));
        if !is_mark {
            let modified = Modified::Stored(object.modified);
            return Some(Entry { path: path.to_owned(), kind: Kind::File(object.size), modified });
        }
        if object.key.as_str() == self.below(directory) {
            return None;
        }
        let path = path.trim_end_matches('/').to_owned();
        Some(Entry { path, kind: Kind::Directory, modified: Modified::Unknown })
    }

    /// The same entry with the time that its writer told.
    async fn with_told_time(&self, entry: Entry) -> Result<Entry, ObjectsError> {
        let Kind::File(_) = entry.kind else { return Ok(entry) };
        match self.requests.files.head_file(&self.key(&entry.path)?).await {
            Ok((_, headers)) => match told_time(&headers) {
                Some(time) => Ok(Entry { modified: Modified::Told(time), ..entry }),
                None => Ok(entry),
            },
            // Deleted since it was listed.
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(entry),
            Err(error) => Err(error.into()),
        }
    }

    async fn with_told_times(&self, entries: Vec<Entry>) -> Result<Vec<Entry>, ObjectsError> {
        let requests: Vec<_> =
            entries.into_iter().map(|entry| self.with_told_time(entry)).collect();
        let answers: Vec<_> = futures::stream::iter(requests).buffered(HEADS).collect().await;
        answers.into_iter().collect()
    }

    /// Everything below a directory, as the store lists it.
    async fn list_flat(
        &self,
        directory: &str,
        told_times: bool,
        emit: Emit<'_>,
    ) -> Result<(), ObjectsError> {
        let mut flat = Flat::new(directory);
        let mut request = ListRequest { prefix: self.below(directory), ..ListRequest::default() };
        loop {
            let page = self.requests.store.list(&request).await.map_err(of_directory)?;
            let listed = page.objects.into_iter();
            let mut entries: Vec<Entry> =
                listed.filter_map(|object| self.listed(object, directory)).collect();
            if told_times {
                entries = self.with_told_times(entries).await?;
            }
            for entry in entries {
                flat.saw(&entry);
                emit(entry)?;
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        flat.implied().try_for_each(emit)
    }

    /// One directory, in the order of its names.
    async fn list_one(
        &self,
        directory: &str,
        told_times: bool,
    ) -> Result<Vec<Entry>, ObjectsError> {
        let mut request =
            ListRequest { prefix: self.below(directory), roll_up: true, ..ListRequest::default() };
        let mut entries = Vec::new();
        loop {
            let page = self.requests.store.list(&request).await.map_err(of_directory)?;
            entries.extend(page.prefixes.iter().filter_map(|prefix| {
                let path = prefix.strip_prefix(&self.prefix)?.strip_suffix('/')?.to_owned();
                Some(Entry { path, kind: Kind::Directory, modified: Modified::Unknown })
            }));
            let listed = page.objects.into_iter();
            entries.extend(listed.filter_map(|object| self.listed(object, directory)));
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        listing::keep_names(&mut entries, directory);
        if told_times { self.with_told_times(entries).await } else { Ok(entries) }
    }

    async fn remove_versions(&self, prefix: &str) -> Result<(), ObjectsError> {
        loop {
            let versions = self.requests.files.versions(prefix).await.map_err(of_directory)?;
            if versions.is_empty() {
                return Ok(());
            }
            let failed = self.requests.files.delete_versions(&versions).await?;
            first_failure(failed)?;
        }
    }
}

#[async_trait]
impl Files for BucketFiles {
    async fn find(&self, path: &str) -> Result<Entry, ObjectsError> {
        let (meta, headers) = match self.requests.files.head_file(&self.key(path)?).await {
            Ok(found) => found,
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Err(ObjectsError::NotFound);
            }
            Err(error) => return Err(error.into()),
        };
        let modified = match told_time(&headers) {
            Some(time) => Modified::Told(time),
            None => Modified::Stored(meta.modified),
        };
        Ok(Entry { path: path.to_owned(), kind: Kind::File(meta.size), modified })
    }

    async fn list(
        &self,
        directory: &str,
        ListFiles { depth, told_times }: ListFiles,
        emit: Emit<'_>,
    ) -> Result<(), ObjectsError> {
        match depth {
            None => self.list_flat(directory, told_times, emit).await,
            Some(depth) => {
                let list_one =
                    |directory: String| async move { self.list_one(&directory, told_times).await };
                listing::by_levels(directory, depth, list_one, emit).await
            }
        }
    }

    async fn read(
        &self,
        path: &str,
        key: Option<Arc<StreamKey>>,
        out: Sender<Vec<Bytes>>,
    ) -> Result<(), ObjectsError> {
        let transfer = Transfer { requests: self.requests.clone(), key: self.key(path)? };
        transfer.read(key, out).await
    }

    async fn write(
        &self,
        path: &str,
        beside: Beside,
        pieces: Receiver<Piece>,
    ) -> Result<(), ObjectsError> {
        let metadata = beside.metadata(spelled(beside.modified));
        let content_type = Some(transfer::content_type(path).to_owned());
        let transfer = Transfer { requests: self.requests.clone(), key: self.key(path)? };
        transfer.write(Headers { content_type, metadata }, pieces).await.map(drop)
    }

    async fn copy(&self, from: &str, to: &str) -> Result<bool, ObjectsError> {
        let (from, to) = (self.key(from)?, self.key(to)?);
        let (meta, headers) = match self.requests.files.head_file(&from).await {
            Ok(found) => found,
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Err(ObjectsError::NotFound);
            }
            Err(error) => return Err(error.into()),
        };
        let source = (&meta.etag, meta.size);
        copying::copy(&self.requests, COPY_LIMIT, &from, source, (&to, &headers)).await?;
        Ok(true)
    }

    async fn remove(&self, path: &str) -> Result<(), ObjectsError> {
        // Asked first: where versions are kept, deleting nothing leaves a mark.
        match self.find(path).await {
            Ok(_) => Ok(self.requests.store.delete(&self.key(path)?, None).await?),
            Err(ObjectsError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_tree(&self, path: &str) -> Result<(), ObjectsError> {
        let prefix = self.below(path);
        if self.requests.files.keeps_versions().await? {
            return self.remove_versions(&prefix).await;
        }
        let mut request = ListRequest { prefix, ..ListRequest::default() };
        loop {
            let page = self.requests.store.list(&request).await.map_err(of_directory)?;
            let keys: Vec<Key> = page.objects.into_iter().map(|object| object.key).collect();
            for keys in keys.chunks(DELETE_BATCH) {
                first_failure(self.requests.store.delete_many(keys).await?)?;
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// There are none to make.
    async fn make_directory(&self, _: &str) -> Result<(), ObjectsError> {
        Ok(())
    }

    /// There are none to remove.
    async fn remove_directory(&self, _: &str) -> Result<(), ObjectsError> {
        Ok(())
    }

    fn has_directories(&self) -> bool {
        false
    }

    fn plan(&self, size: Option<u64>) -> Plan {
        Plan::parts(self.requests.files.part_limit(), size)
    }
}

/// What metadata tell, but for what tells the key: that is another one for each content.
pub fn told_by(headers: &Headers) -> BTreeMap<&String, &String> {
    headers.metadata.iter().filter(|(name, _)| *name != KEY_CHECK).collect()
}

impl Beside {
    /// As metadata, with the time as the store has it.
    pub(super) fn metadata(&self, time: String) -> BTreeMap<String, String> {
        let check = self.key_check.clone().map(|check| (KEY_CHECK.to_owned(), check));
        [(MTIME.to_owned(), time)].into_iter().chain(check).collect()
    }
}

fn first_failure(failed: Vec<(Key, StoreError)>) -> Result<(), ObjectsError> {
    match failed.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(()),
    }
}

/// A bucket that is not there is a directory that is not there.
pub(super) fn of_directory(error: StoreError) -> ObjectsError {
    match error.kind {
        StoreErrorKind::NoBucket | StoreErrorKind::NotFound => ObjectsError::NoDirectory,
        _ => error.into(),
    }
}

/// The time that a file's writer told.
pub(super) fn told_time(headers: &Headers) -> Option<Timestamp> {
    let text = headers.metadata.get(MTIME)?;
    // As rclone writes it to Azure and Google (RFC 3339); a number is no such text.
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return i64::try_from(time.as_nanosecond()).ok().map(Timestamp);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (negative, digits) = match seconds.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, seconds),
    };
    let digits_only = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || !digits_only(digits) || !digits_only(fraction) {
        return None;
    }
    let seconds: i64 = digits.parse().ok()?;
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let time = seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?;
    Some(Timestamp(if negative { -time } else { time }))
}

/// A time as metadata have it: geesefs reads nothing but whole seconds, s3fs takes a fraction for nanoseconds.
pub(super) fn spelled(Timestamp(nanos): Timestamp) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    match (nanos / 1_000_000_000, nanos % 1_000_000_000) {
        (seconds, 0) => format!("{sign}{seconds}"),
        (seconds, fraction) => format!("{sign}{seconds}.{fraction:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Option<i64> {
        let metadata = [(MTIME.to_owned(), text.to_owned())].into();
        told_time(&Headers { content_type: None, metadata }).map(|time| time.0)
    }

    #[test]
    fn times_are_read_as_they_are_written_and_nonsense_is_no_time() {
        for nanos in [0, 1, 1_700_000_000_123_456_789, -1_500_000_000, i64::MAX] {
            assert_eq!(told(&spelled(Timestamp(nanos))), Some(nanos));
        }
        assert_eq!(told("1700000000"), Some(1_700_000_000_000_000_000));
        for text in ["0", "1700000000", "-1.500000000", "10.000000001"] {
            assert_eq!(spelled(Timestamp(told(text).expect("a time"))), text);
        }
        assert_eq!(told("1.5"), Some(1_500_000_000));
        assert_eq!(told("1.12345678999"), Some(1_123_456_789));
        for nonsense in ["", ".", "-", "x", "1.x", "+1", "99999999999999999999", "1e9", "1.-5"] {
            assert_eq!(told(nonsense), None, "{nonsense}");
        }
    }
}
