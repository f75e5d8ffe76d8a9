//! Keeps what was read of immutable objects in a local directory, as it came: sealed, if the caller
//! seals. It is bounded, shared with nobody, and may vanish or be damaged at any time: whatever is not
//! there, not whole or not what was stored is read from the store again.
//!
//! Entries are ranges as they were asked for, one file each, with a hash for each block, so that a part
//! of an entry is checked without reading all of it. The hashes find accidents; who forges an entry on
//! purpose is found out by the caller's authentication, as if the store had forged it.
//!
//! Crash story: an entry is written under another name and renamed, and not synchronised: after a power
//! failure its hashes tell. What is left under other names is removed at the next start.

use super::cache_entry::{Head, file_size, payload_of, read_entry, write_entry};
use super::{
    ETag, Fetched, Hits, Key, ListPage, ListRequest, Object, ObjectMeta, PutWhen, Store, StoreError,
};
use crate::units::ByteRange;
use crate::world::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Entries being written at once; what comes meanwhile is not kept.
const WRITERS: usize = 2;
/// Name of the file whose lock says that the directory is in use.
const LOCK: &str = "lock";

/// The decorator.
pub struct DiskCache {
    inner: Arc<dyn Store>,
    kept: Arc<Kept>,
    /// Which objects never change.
    is_immutable: fn(&Key) -> bool,
}

/// What a key is called in the cache: a hash of the store's place and the key.
type Name = String;

/// The directory.
struct Kept {
    directory: PathBuf,
    limit: u64,
    place: String,
    state: Mutex<State>,
    writers: Arc<Semaphore>,
    hits: Arc<Hits>,
    next: AtomicU64,
    complained: AtomicBool,
    /// Its lock ends with the process.
    _lock: nix::fcntl::Flock<File>,
}

#[derive(Default)]
struct State {
    /// Entries of each object: where they start, and how many bytes of it they hold.
    objects: HashMap<Name, BTreeMap<u64, u64>>,
    /// Sizes of the files, the least recently used first.
    recency: Option<LruCache<(Name, u64), u64>>,
    bytes: u64,
}

impl DiskCache {
    /// A cache of at most `limit` bytes in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// If the directory cannot be used, or another process uses it.
    pub fn open(
        inner: Arc<dyn Store>,
        directory: &Path,
        limit: u64,
        is_immutable: fn(&Key) -> bool,
    ) -> io::Result<Self> {
        // What is in it is sealed, but its sizes and times are nobody else's business.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join(LOCK))?;
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock)
            .map_err(|_| io::Error::other("another process uses it: choose another directory"))?;
        let kept = Kept {
            directory: directory.to_owned(),
            limit,
            place: inner.describe(),
            state: Mutex::new(State::found(directory)?),
            writers: Arc::new(Semaphore::new(WRITERS)),
            hits: Arc::new(Hits::default()),
            next: AtomicU64::new(0),
            complained: AtomicBool::new(false),
            _lock: lock,
        };
        kept.make_room(0);
        Ok(Self { inner, kept: Arc::new(kept), is_immutable })
    }

    /// How often it had what was asked for.
    pub fn hits(&self) -> Arc<Hits> {
        self.kept.hits.clone()
    }
}

impl Kept {
    fn name(&self, key: &Key) -> Name {
        let mut hash = blake3::Hasher::new();
        hash.update(&(self.place.len() as u64).to_be_bytes());
        hash.update(self.place.as_bytes()).update(key.as_str().as_bytes());
        hash.finalize().to_hex()[..32].to_owned()
    }

    fn path(&self, name: &str, start: u64) -> PathBuf {
        self.directory.join(format!("{name}-{start:x}"))
    }

    /// The part of an object, if an entry holds all of it. Blocks the thread.
    fn read(&self, key: &Key, range: ByteRange) -> Option<Object> {
        let name = self.name(key);
        let start = {
            let mut state = self.state.lock();
            let (&start, &length) =
                state.objects.get(&name)?.range(..=range.offset()).next_back()?;
            if start + length < range.end() {
                return None;
            }
            state.recency.as_mut()?.get(&(name.clone(), start));
            start
        };
        let path = self.path(&name, start);
        match read_entry(&path, ByteRange::new(range.offset() - start, range.length())) {
            Ok((head, bytes)) => Some(Object {
                meta: ObjectMeta {
                    key: key.clone(),
                    size: head.size,
                    etag: head.etag,
                    modified: head.modified,
                },
                body: bytes.into(),
                // The store was not asked.
                date: Timestamp(0),
                metadata: BTreeMap::new(),
            }),
            Err(_) => {
                self.forget(&name, start);
                None
            }
        }
    }

    /// Keeps a part of an object. Blocks the thread.
    fn write(&self, key: &Key, start: u64, object: &Object) {
        let name = self.name(key);
        let ObjectMeta { key: _, size, etag, modified } = &object.meta;
        let payload = object.body.len() as u64;
        let head = Head { payload, size: *size, modified: *modified, etag: etag.clone() };
        let Some(header) = head.encode() else { return };
        let whole = file_size(payload);
        if payload == 0 || whole > self.limit {
            return;
        }
        if !self.make_room(whole) {
            return;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let draft = self.directory.join(format!("draft-{number}"));
        let written = write_entry(&draft, &header, &object.body)
            .and_then(|()| fs::rename(&draft, self.path(&name, start)));
        if let Err(error) = written {
            let _ = fs::remove_file(&draft);
            self.state.lock().bytes -= whole;
            if !self.complained.swap(true, Ordering::Relaxed) {
                let directory = self.directory.display();
                tracing::warn!(
                    "{directory}: the cache cannot be written, going on without: {error}"
                );
            }
            return;
        }
        let mut state = self.state.lock();
        state.bytes -= whole;
        state.insert(name, start, payload, whole);
    }

    /// Removes what was not used for longest until there is room for more, and counts that as used. `false`:
    /// others are about to use all of it.
    fn make_room(&self, more: u64) -> bool {
        loop {
            let oldest = {
                let mut state = self.state.lock();
                if state.bytes + more <= self.limit {
                    state.bytes += more;
                    return true;
                }
                match state.recency.as_mut().and_then(LruCache::pop_lru) {
                    Some(((name, start), size)) => {
                        state.remove(&name, start, size);
                        (name, start)
                    }
                    None => return false,
                }
            };
            let _ = fs::remove_file(self.path(&oldest.0, oldest.1));
        }
    }

    fn forget(&self, name: &str, start: u64) {
        {
            let mut state = self.state.lock();
            let key = (name.to_owned(), start);
            let Some(size) = state.recency.as_mut().and_then(|recency| recency.pop(&key)) else {
                return;
            };
            state.remove(name, start, size);
        }
        let _ = fs::remove_file(self.path(name, start));
    }

    fn forget_object(&self, key: &Key) {
        let name = self.name(key);
        let starts: Vec<u64> = {
            let state = self.state.lock();
            state
                .objects
                .get(&name)
                .into_iter()
                .flat_map(|entries| entries.keys().copied())
                .collect()
        };
        starts.into_iter().for_each(|start| self.forget(&name, start));
    }
}

impl State {
    /// What an earlier process has left, the least recently written first.
    fn found(directory: &Path) -> io::Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| *name != LOCK) else { continue };
            let metadata = entry.metadata()?;
            let parsed = name.split_once('-').and_then(|(name, start)| {
                let is_name = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
                Some((is_name.then(|| name.to_owned())?, u64::from_str_radix(start, 16).ok()?))
            });
            let payload = payload_of(metadata.len());
            match (parsed, payload) {
                (Some((object, start)), Some(payload)) => {
                    found.push((metadata.modified()?, object, start, payload, metadata.len()));
                }
                _ if name.starts_with("draft-") || parsed_looks_ours(name) => {
                    let _ = fs::remove_file(entry.path());
                }
                // Something else that somebody keeps here.
                _ => {}
            }
        }
        found.sort();
        let mut state = Self { recency: Some(LruCache::unbounded()), ..Self::default() };
        for (_, name, start, payload, size) in found {
            state.insert(name, start, payload, size);
        }
        Ok(state)
    }

    fn insert(&mut self, name: Name, start: u64, payload: u64, size: u64) {
        self.objects.entry(name.clone()).or_default().insert(start, payload);
        self.bytes += size;
        let former = self.recency.as_mut().and_then(|recency| recency.put((name, start), size));
        self.bytes -= former.unwrap_or(0);
    }

    fn remove(&mut self, name: &str, start: u64, size: u64) {
        self.bytes -= size;
        if let Some(entries) = self.objects.get_mut(name) {
            entries.remove(&start);
            if entries.is_empty() {
                self.objects.remove(name);
            }
        }
    }
}

/// A name of an entry whose file is too short to be one.
fn parsed_looks_ours(name: &str) -> bool {
    name.split_once('-').is_some_and(|(object, start)| {
        object.len() == 32
            && !start.is_empty()
            && name.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
    })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for DiskCache {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        self.inner.put(key, body, when).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let (Some(range), None, true) = (range, unless, (self.is_immutable)(key)) else {
            return self.inner.get(key, range, unless).await;
        };
        let (kept, wanted) = (self.kept.clone(), key.clone());
        let found = tokio::task::spawn_blocking(move || kept.read(&wanted, range)).await;
        self.kept.hits.count(matches!(found, Ok(Some(_))));
        if let Ok(Some(object)) = found {
            return Ok(Fetched::Object(object));
        }
        let fetched = self.inner.get(key, Some(range), None).await?;
        if let Fetched::Object(object) = &fetched
            && let Ok(permit) = self.kept.writers.clone().try_acquire_owned()
        {
            let (kept, key, object) = (self.kept.clone(), key.clone(), object.clone());
            tokio::task::spawn_blocking(move || {
                kept.write(&key, range.offset(), &object);
                drop(permit);
            });
        }
        Ok(fetched)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        self.inner.delete(key, if_match).await?;
        if (self.is_immutable)(key) {
            self.kept.forget_object(key);
        }
        Ok(())
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let failed = self.inner.delete_many(keys).await?;
        keys.iter()
            .filter(|key| (self.is_immutable)(key))
            .for_each(|key| self.kept.forget_object(key));
        Ok(failed)
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        self.inner.list(request).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
