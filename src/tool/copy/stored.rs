//! A tree in a volume.

use super::item::{Item, Keeps, Kind, name};
use super::local::Xattrs;
use crate::tool::names::remove_tree;
use crate::tool::output::{Failure, shown};
use crate::units::{DirId, FileId};
use crate::volume::VolumeError;
use crate::volume::native::Volume;
use crate::volume::native::files::{Target, Walked};
use crate::volume::native::namespace::Found;
use crate::volume::native::record::{Attributes, Content, Record};
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Directories listed at the same time.
const DIRECTORIES: usize = 16;
/// Records read at the same time in each.
const RECORDS: usize = 32;
/// For how long a record that was listed is taken for what is there.
const FRESH: Duration = Duration::from_secs(60);
/// What records of a source may take in memory, so that small files need not be asked for again.
const KEPT: u64 = 64 << 20;
/// How often a change is based anew on what another node has just written.
const ATTEMPTS: usize = 8;

/// A directory of a volume and all that is below.
pub(super) struct StoredTree {
    pub(super) volume: Arc<Volume>,
    /// Its path in the volume, and the whole for messages.
    inside: String,
    url: String,
    /// The directories that are known, by their paths; the root's is empty.
    directories: Mutex<HashMap<Vec<u8>, DirId>>,
    /// When the records were read (boot time), and what those take that are kept.
    scanned: Mutex<Duration>,
    kept: AtomicU64,
}

impl StoredTree {
    pub(super) const KEEPS: Keeps =
        Keeps { mode: 0o7777, owner: true, live_times: false, directories: true, coarse: false };

    pub(super) fn new(volume: Arc<Volume>, root: DirId, inside: &str, url: String) -> Self {
        let directories = Mutex::new(HashMap::from([(Vec::new(), root)]));
        let inside = inside.trim_matches('/').to_owned();
        let scanned = Mutex::default();
        Self { volume, inside, url, directories, scanned, kept: AtomicU64::new(0) }
    }

    /// The failure of something in this tree.
    pub(super) fn said(&self, path: &[u8], why: &dyn std::fmt::Display) -> Failure {
        Failure::new(format!("{}/{}: {why}", self.url.trim_end_matches('/'), shown(path)))
    }

    fn now(&self) -> Duration {
        self.volume.world().clock.boot_time()
    }

    /// The root itself, unless it is the volume's: that one belongs to whoever made the volume.
    pub(super) async fn root(&self) -> Result<Option<Item>, Failure> {
        if self.inside.is_empty() {
            return Ok(None);
        }
        let found = self.root_entry().await?;
        Ok(found.and_then(|found| Item::stored(Vec::new(), found.home().record.clone())))
    }

    async fn root_entry(&self) -> Result<Option<Found>, Failure> {
        match self.volume.walk(self.inside.as_bytes()).await {
            Ok(Walked::Name { found, .. }) => Ok(found.map(|found| *found)),
            Ok(Walked::Root) => Ok(None),
            Err(error) => Err(self.said(b"", &error)),
        }
    }

    /// Everything below, and what could not be looked at; with what the volume has of each as far as there is
    /// room, if it is to be read.
    pub(super) async fn scan(&self, to_read: bool) -> Result<(Vec<Item>, Vec<Failure>), Failure> {
        *self.scanned.lock() = self.now();
        let root = self.directory(b"")?;
        // A store may hand out a directory within itself.
        let mut met = HashSet::from([root]);
        let (mut items, mut failures) = (Vec::new(), Vec::new());
        let mut pending = vec![(Vec::new(), root)];
        let mut listings = FuturesUnordered::new();
        loop {
            while listings.len() < DIRECTORIES
                && let Some((path, dir)) = pending.pop()
            {
                listings.push(async move {
                    let listed = self.entries(&path, dir).await;
                    (path, listed)
                });
            }
            let Some((path, listed)) = listings.next().await else { break };
            let listed = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    failures.push(self.said(&path, &error));
                    continue;
                }
            };
            for entry in listed {
                let mut item = match entry {
                    Ok(item) => item,
                    Err(failure) => {
                        failures.push(failure);
                        continue;
                    }
                };
                if let Some(dir) = item.record.as_ref().and_then(|record| record.directory()) {
                    if !met.insert(dir) {
                        let why = "the same directory is elsewhere, too: it is not looked at again";
                        failures.push(self.said(&item.path, &why));
                        continue;
                    }
                    self.directories.lock().insert(item.path.clone(), dir);
                    pending.push((item.path.clone(), dir));
                }
                if !to_read || !self.has_room(&item) {
                    item.record = None;
                }
                items.push(item);
            }
        }
        Ok((items, failures))
    }

    /// Whether what the volume has of an item may be kept; directories' always is.
    fn has_room(&self, item: &Item) -> bool {
        let Some(content) = item.record.as_ref().and_then(|record| record.file()) else {
            return true;
        };
        // An extent takes some hundred bytes.
        let parts = (content.extents.len() + content.pages.len()) as u64;
        let bytes = content.inline.len() as u64 + 1024 + 128 * parts;
        self.kept.fetch_add(bytes, Ordering::Relaxed) + bytes <= KEPT
    }

    async fn entries(
        &self,
        path: &[u8],
        dir: DirId,
    ) -> Result<Vec<Result<Item, Failure>>, VolumeError> {
        let listed = self.volume.list_directory(dir).await?;
        let entries = futures::stream::iter(listed).map(|entry| async move {
            let mut whole = path.to_vec();
            if !whole.is_empty() {
                whole.push(b'/');
            }
            whole.extend_from_slice(&entry.name);
            // One by one: a record that is damaged leaves the others readable.
            let loaded = async {
                let Some(stored) = self.volume.load_listed(dir, vec![entry]).await?.pop() else {
                    return Ok(None);
                };
                let record = match stored.record.content {
                    Content::Link(_) => self.volume.resolve(stored).await?.home().record.clone(),
                    _ => stored.record,
                };
                Ok::<_, VolumeError>(Item::stored(whole.clone(), record))
            };
            match loaded.await {
                Ok(item) => item.map(Ok),
                Err(error) => Some(Err(self.said(&whole, &error))),
            }
        });
        let entries: Vec<_> = entries.buffer_unordered(RECORDS).collect().await;
        Ok(entries.into_iter().flatten().collect())
    }

    fn directory(&self, path: &[u8]) -> Result<DirId, Failure> {
        let known = self.directories.lock().get(path).copied();
        // Its own failure has been told.
        known.ok_or_else(|| self.said(path, &"the directory is not there"))
    }

    /// The record of a file, with all that lies in it, and the boot time before it was read.
    pub(super) async fn file(&self, item: &Item) -> Result<(Arc<Record>, Duration), Failure> {
        let (scanned, now) = (*self.scanned.lock(), self.now());
        let fresh = now.saturating_sub(scanned) < FRESH;
        if let Some(record) = item.record.as_ref().filter(|record| fresh && record.is_whole()) {
            return Ok((record.clone(), scanned));
        }
        match self.found(item).await? {
            Some(found) if found.home().record.file().is_some() => {
                Ok((found.home().record.clone(), now))
            }
            Some(_) => Err(self.said(&item.path, &"is no file any more")),
            None => Err(self.said(&item.path, &"was removed meanwhile")),
        }
    }

    async fn found(&self, item: &Item) -> Result<Option<Found>, Failure> {
        let dir = self.directory(item.parent())?;
        let found = self.volume.lookup(dir, name(&item.path)).await;
        found.map_err(|error| self.said(&item.path, &error))
    }

    /// Where a file of this tree is to be written.
    pub(super) fn target<'a>(&self, item: &'a Item, seen: bool) -> Result<Target<'a>, Failure> {
        let dir = self.directory(item.parent())?;
        // As rsync does it: what other names a file has here keep what they have.
        Ok(Target { dir, name: name(&item.path), seen, alone: true })
    }

    /// Owner, mode, times and attributes that an item gets here.
    pub(super) fn attributes(&self, item: &Item, xattrs: Xattrs) -> Attributes {
        let Item { mode, uid, gid, mtime, .. } = *item;
        let now = self.volume.world().clock.now();
        Attributes { mode, uid, gid, atime: mtime, mtime, ctime: now, btime: now, xattrs }
    }

    pub(super) async fn make_directory(&self, item: &Item, xattrs: Xattrs) -> Result<(), Failure> {
        let dir = self.directory(item.parent())?;
        let id = DirId(self.volume.world().entropy.bytes());
        let record = Record::new(self.attributes(item, xattrs), Content::Directory(id));
        let id = match self.volume.create(dir, name(&item.path), record).await {
            Ok(_) => id,
            // Somebody was faster.
            Err(VolumeError::Exists(taken)) => {
                let there =
                    self.found(item).await?.and_then(|found| found.home().record.directory());
                there.ok_or_else(|| self.said(&item.path, &VolumeError::Exists(taken)))?
            }
            Err(error) => return Err(self.said(&item.path, &error)),
        };
        self.directories.lock().insert(item.path.clone(), id);
        Ok(())
    }

    /// Makes what is neither a file nor a directory, or, where something was `seen`, replaces it.
    pub(super) async fn make(&self, item: &Item, seen: bool) -> Result<(), Failure> {
        let failed = |error: VolumeError| self.said(&item.path, &error);
        let id = FileId(self.volume.world().entropy.bytes());
        let content = match &item.kind {
            Kind::Symlink(target) => Content::Symlink(id, target.clone()),
            Kind::Special(kind, device) => Content::Special(id, *kind, *device),
            Kind::File(_) | Kind::Directory => return Ok(()),
        };
        let dir = self.directory(item.parent())?;
        let record = Record::new(self.attributes(item, Xattrs::new()), content);
        for attempt in 0..ATTEMPTS {
            if (seen || attempt > 0)
                && let Some(found) = self.found(item).await?
            {
                if found.home().record.directory().is_some() {
                    return Err(failed(VolumeError::IsDirectory(shown(&item.path))));
                }
                self.volume.unlink(&found).await.map_err(failed)?;
            }
            match self.volume.create(dir, name(&item.path), record.clone()).await {
                Err(VolumeError::Exists(_) | VolumeError::Conflict(_)) => {}
                other => return other.map(drop).map_err(failed),
            }
        }
        Err(failed(VolumeError::Conflict(shown(&item.path))))
    }

    /// Owner, mode and time of what is there. What is so already is left alone.
    pub(super) async fn set_attributes(&self, item: &Item) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let found = match &*item.path {
                b"" if self.inside.is_empty() => return Ok(()),
                b"" => self.root_entry().await?,
                _ => self.found(item).await?,
            };
            let Some(found) = found else {
                return Err(self.said(&item.path, &"was removed meanwhile"));
            };
            let home = found.home();
            let mut record = (*home.record).clone();
            let Attributes { mode, uid, gid, mtime, .. } = record.attributes;
            if (mode, uid, gid, mtime) == (item.mode, item.uid, item.gid, item.mtime) {
                return Ok(());
            }
            let xattrs = std::mem::take(&mut record.attributes.xattrs);
            record.attributes = Attributes {
                atime: record.attributes.atime,
                btime: record.attributes.btime,
                ..self.attributes(item, xattrs)
            };
            match self.volume.replace(home, record).await {
                Err(VolumeError::Conflict(_)) => {}
                other => return other.map(drop).map_err(|error| self.said(&item.path, &error)),
            }
        }
        Err(self.said(&item.path, &VolumeError::Conflict(shown(&item.path))))
    }

    /// Removes a name, and what is below it if it is a directory.
    pub(super) async fn remove(&self, item: &Item) -> Result<(), Failure> {
        let Some(found) = self.found(item).await? else { return Ok(()) };
        let removed = match found.home().record.directory() {
            Some(dir) => remove_tree(&self.volume, dir, &found).await,
            None => self.volume.unlink(&found).await.map(drop),
        };
        removed.map_err(|error| self.said(&item.path, &error))
    }
}
