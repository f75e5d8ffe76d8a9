//! Files in stores that do not speak S3. As in a bucket, the key is the path below the root's prefix, and
//! directories are the beginnings of keys.

use super::bucket::{KEY_CHECK, of_directory, told_time};
use super::listing::{self, Flat};
use super::parts::{Piece, Plan};
use super::transfer::{self, RANGE, RANGES};
use super::{Beside, Emit, Entry, Files, Kind, ListFiles, Modified, ObjectsError};
use crate::crypto::datasafed::{OVERHEAD, StreamKey};
use crate::store::{
    Body, Headers, Patience, Remote, RemoteEntry, RemoteFile, StoreError, StoreErrorKind,
};
use crate::units::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Requests at once for the times of listed files.
const HEADS: usize = 32;
/// Files that are listed before their times are asked for.
const PAGE: usize = 1000;
/// How often it is looked whether an upload is stuck, and how often it has to be found so.
const LOOK: Duration = Duration::from_secs(10);
const LOOKS: u32 = 3;
/// Deletions at once.
const DELETES: usize = 16;

/// Files in a store.
pub struct RemoteFiles {
    remote: Arc<Remote>,
    /// Empty, or ends in `/`.
    prefix: String,
    /// What is told of a directory's time.
    directories: Modified,
    afterwards: TaskTracker,
}

impl RemoteFiles {
    /// The files below a prefix (without `/` at either end; may be empty). What is still to be done when a
    /// transfer was broken off is tracked by `afterwards`.
    pub fn new(remote: Remote, prefix: &str, afterwards: TaskTracker) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let (remote, directories) = (Arc::new(remote), Modified::Unknown);
        Self { remote, prefix, directories, afterwards }
    }

    /// The same where directories are told to be of this time.
    pub fn with_directories_of(self, directories: Modified) -> Self {
        Self { directories, ..self }
    }

    fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    fn below(&self, directory: &str) -> String {
        match directory {
            "" => self.prefix.clone(),
            _ => format!("{}{directory}/", self.prefix),
        }
    }

    async fn head(&self, path: &str) -> Result<RemoteFile, ObjectsError> {
        // The root is no file.
        if path.is_empty() {
            return Err(ObjectsError::NotFound);
        }
        self.remote.head(&self.key(path)).await.map_err(|error| match error.kind {
            StoreErrorKind::NotFound => ObjectsError::NotFound,
            _ => error.into(),
        })
    }

    /// What was listed; `None` for the directory itself.
    fn listed(&self, found: RemoteEntry, directory: &str) -> Option<Entry> {
        if found.path == self.below(directory) {
            return None;
        }
        let path = found.path.strip_prefix(&self.prefix)?;
        Some(match path.strip_suffix('/') {
            Some(path) => {
                let (kind, modified) = (Kind::Directory, self.directories);
                Entry { path: path.to_owned(), kind, modified }
            }
            None => Entry {
                path: path.to_owned(),
                kind: Kind::File(found.size),
                modified: Modified::Stored(found.modified),
            },
        })
    }

    async fn with_told_times(
        &self,
        entries: Vec<Entry>,
        told_times: bool,
    ) -> Result<Vec<Entry>, ObjectsError> {
        if !told_times {
            return Ok(entries);
        }
        let asked = entries.into_iter().map(async |entry: Entry| {
            let Kind::File(_) = entry.kind else { return Ok(entry) };
            match self.head(&entry.path).await {
                Ok(found) => Ok(Entry { modified: told(&found), ..entry }),
                // Deleted since it was listed.
                Err(ObjectsError::NotFound) => Ok(entry),
                Err(error) => Err(error),
            }
        });
        let asked: Vec<_> = asked.collect();
        futures::stream::iter(asked).buffered(HEADS).try_collect().await
    }

    async fn list_flat(
        &self,
        directory: &str,
        told_times: bool,
        emit: Emit<'_>,
    ) -> Result<(), ObjectsError> {
        let mut flat = Flat::new(directory);
        let below = self.below(directory);
        let mut listing = self.remote.list(&below, true).await.map_err(of_directory)?;
        let mut page = Vec::new();
        loop {
            let found = listing.next().await.map_err(of_directory)?;
            let is_last = found.is_none();
            page.extend(found.and_then(|found| self.listed(found, directory)));
            if page.len() >= PAGE || is_last {
                let entries = self.with_told_times(std::mem::take(&mut page), told_times).await?;
                for entry in entries {
                    flat.saw(&entry);
                    emit(entry)?;
                }
            }
            if is_last {
                return flat.implied().try_for_each(emit);
            }
        }
    }

    /// One directory, in the order of its names.
    async fn list_one(
        &self,
        directory: &str,
        told_times: bool,
    ) -> Result<Vec<Entry>, ObjectsError> {
        let below = self.below(directory);
        let mut listing = self.remote.list(&below, false).await.map_err(of_directory)?;
        let mut entries = Vec::new();
        while let Some(found) = listing.next().await.map_err(of_directory)? {
            entries.extend(self.listed(found, directory));
        }
        listing::keep_names(&mut entries, directory);
        self.with_told_times(entries, told_times).await
    }

    /// A range of the object, as it is.
    async fn bytes(
        &self,
        path: &str,
        found: &RemoteFile,
        range: ByteRange,
    ) -> Result<Body, ObjectsError> {
        let range = ByteRange::between(range.offset(), range.end().min(found.size));
        let patience = if range.offset() == 0 { Patience::Soon } else { Patience::Long };
        let path = self.key(path);
        let body = self.remote.read(&path, range, found, patience).await;
        body.map_err(|error| match error.kind {
            StoreErrorKind::NotFound | StoreErrorKind::PreconditionFailed => {
                ObjectsError::Changed(path)
            }
            _ => error.into(),
        })
    }

    /// Refuses what was enciphered with another key, where that is told beside it.
    async fn prove_key(
        &self,
        path: &str,
        found: &RemoteFile,
        key: &StreamKey,
    ) -> Result<(), ObjectsError> {
        let check = found.headers.metadata.get(KEY_CHECK);
        let Some(iv) = check.and_then(|check| key.refuses(check)) else { return Ok(()) };
        let body = self.bytes(path, found, ByteRange::new(0, OVERHEAD)).await?;
        let bytes: Vec<u8> = body.parts().flatten().copied().collect();
        match bytes == iv {
            true => Err(ObjectsError::OtherKey(self.key(path))),
            false => Ok(()),
        }
    }

    /// The content of a range of a file, deciphered if there is a key.
    async fn range(
        &self,
        path: &str,
        found: &RemoteFile,
        key: Option<&StreamKey>,
        wanted: ByteRange,
    ) -> Result<Vec<Bytes>, ObjectsError> {
        let range = key.map_or(wanted, |_| StreamKey::object_range(wanted));
        let body = self.bytes(path, found, range).await?;
        let Some(key) = key else { return Ok(body.parts().cloned().collect()) };
        let mut whole = Vec::with_capacity(body.len());
        body.parts().for_each(|part| whole.extend_from_slice(part));
        let opened = key.open_range(wanted, whole);
        let opened = opened.map_err(|error| ObjectsError::Damaged(error.to_string()))?;
        Ok(vec![Bytes::from(opened)])
    }
}

#[async_trait]
impl Files for RemoteFiles {
    async fn find(&self, path: &str) -> Result<Entry, ObjectsError> {
        let found = self.head(path).await?;
        let (kind, modified) = (Kind::File(found.size), told(&found));
        Ok(Entry { path: path.to_owned(), kind, modified })
    }

    async fn list(
        &self,
        directory: &str,
        ListFiles { depth, told_times }: ListFiles,
        emit: Emit<'_>,
    ) -> Result<(), ObjectsError> {
        let Some(depth) = depth else {
            return self.list_flat(directory, told_times, emit).await;
        };
        let list_one =
            |directory: String| async move { self.list_one(&directory, told_times).await };
        listing::by_levels(directory, depth, list_one, emit).await
    }

    async fn read(
        &self,
        path: &str,
        key: Option<Arc<StreamKey>>,
        out: Sender<Vec<Bytes>>,
    ) -> Result<(), ObjectsError> {
        let found = self.head(path).await?;
        let overhead = if key.is_some() { OVERHEAD } else { 0 };
        let size = found.size;
        let length = size.checked_sub(overhead).ok_or_else(|| ObjectsError::without_iv(size))?;
        let (found, key) = (&found, key.as_deref());
        if let Some(key) = key {
            self.prove_key(path, found, key).await?;
        }
        let ranges = (0..length).step_by(RANGE as usize).map(|start| {
            let wanted = ByteRange::between(start, (start + RANGE).min(length));
            self.range(path, found, key, wanted)
        });
        let mut ranges = futures::stream::iter(ranges).buffered(RANGES);
        while let Some(bytes) = ranges.try_next().await? {
            // A receiver that is gone has its own reason.
            if out.send(bytes).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        path: &str,
        beside: Beside,
        pieces: Receiver<Piece>,
    ) -> Result<(), ObjectsError> {
        let time = jiff::Timestamp::from_nanosecond(beside.modified.0.into()).unwrap_or_default();
        let headers = Headers {
            content_type: Some(transfer::content_type(path).to_owned()),
            metadata: beside.metadata(time.to_string()),
        };
        // In a task of its own, which gives the upload up if this future is dropped.
        let broken_off = CancellationToken::new();
        let _guard = broken_off.clone().drop_guard();
        let (remote, key) = (self.remote.clone(), self.key(path));
        let task = self
            .afterwards
            .spawn(async move { upload(&remote, &key, &headers, pieces, broken_off).await });
        task.await.unwrap_or(Err(ObjectsError::Ended))
    }

    async fn remove(&self, path: &str) -> Result<(), ObjectsError> {
        Ok(self.remote.delete(&self.key(path)).await?)
    }

    async fn remove_tree(&self, path: &str) -> Result<(), ObjectsError> {
        let below = self.below(path);
        let mut listing = self.remote.list(&below, true).await.map_err(of_directory)?;
        loop {
            let mut page = Vec::new();
            let mut is_last = false;
            while page.len() < PAGE && !is_last {
                match listing.next().await.map_err(of_directory)? {
                    // What only the names below it tell of is gone with them.
                    Some(found) if !found.path.is_empty() => page.push(found.path),
                    Some(_) => {}
                    None => is_last = true,
                }
            }
            let deletions: Vec<_> = page.iter().map(|path| self.remote.delete(path)).collect();
            let mut deletions = futures::stream::iter(deletions).buffer_unordered(DELETES);
            while let Some(deleted) = deletions.next().await {
                deleted?;
            }
            if is_last {
                return Ok(());
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
        Plan::parts(self.remote.part_limit(), size).keeping_one()
    }
}

/// Bytes that hold their share of the budget until nobody needs them any more.
struct Held {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
    count: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Waits until parts are held though none is on its way: one of them has failed in a way that only the end of the
/// upload would tell, which may never come, since memory for the next part is not released.
async fn stuck(held: &AtomicUsize, is_asking: impl Fn() -> bool) {
    let mut looks = 0;
    while looks < LOOKS {
        tokio::time::sleep(LOOK).await;
        // One waits for the next.
        let is_stuck = held.load(Ordering::Relaxed) > 1 && !is_asking();
        looks = if is_stuck { looks + 1 } else { 0 };
    }
}

/// Stores what comes, unless it is broken off before the end came.
async fn upload(
    remote: &Remote,
    key: &str,
    headers: &Headers,
    mut pieces: Receiver<Piece>,
    broken_off: CancellationToken,
) -> Result<(), ObjectsError> {
    let mut upload = remote.begin(key, headers).await?;
    let failed = upload.failed();
    tokio::pin!(failed);
    let held = Arc::new(AtomicUsize::new(0));
    let is_asking = upload.is_asking();
    let unseen = stuck(&held, is_asking);
    tokio::pin!(unseen);
    loop {
        let step = async {
            match transfer::next(&mut pieces).await? {
                Some((body, share)) => {
                    let bytes = body.bytes().map_err(ObjectsError::Source)?;
                    held.fetch_add(1, Ordering::Relaxed);
                    let count = held.clone();
                    let bytes = Bytes::from_owner(Held { bytes, _share: share, count });
                    upload.write(bytes).await?;
                    Ok(true)
                }
                None => Ok(false),
            }
        };
        let step = tokio::select! {
            biased;
            () = broken_off.cancelled() => Err(ObjectsError::Ended),
            error = &mut failed => Err(error.into()),
            () = &mut unseen => {
                let error = StoreError::new(StoreErrorKind::Corrupt, "put", key);
                Err(error.with_source("a part was not taken, and nobody said why").into())
            }
            step = step => step,
        };
        match step {
            Ok(true) => {}
            Ok(false) => return Ok(upload.finish().await.map(drop)?),
            Err(error) => {
                upload.abort().await;
                return Err(error);
            }
        }
    }
}

fn told(found: &RemoteFile) -> Modified {
    match told_time(&found.headers) {
        Some(time) => Modified::Told(time),
        None => Modified::Stored(found.modified),
    }
}
