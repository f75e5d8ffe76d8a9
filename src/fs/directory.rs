//! Reading directories. A handle reads a snapshot taken when it starts, so that rows stay where they
//! are while entries come and go; names created on this mount and not stored yet are in it.

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::{Inode, ROOT};
use super::table::Dentry;
use super::types::{DirEntry, HandleId, Ino, Kind};
use crate::units::DirId;
use crate::volume::native::index::{Index, WORTH_IT, WORTH_WRITING};
use crate::volume::native::listing::Listed;
use crate::volume::native::namespace::Found;
use crate::volume::native::record::Content;
use crate::volume::native::{Place, Stored};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Rows that one call returns, at most.
const ROWS: usize = 1024;
/// The offset of the first row after `.` and `..`.
const FIRST: u64 = 2;
/// How often it is looked, and how long, whether an index that is being written before an unmount is there.
const INDEXING: Duration = Duration::from_millis(10);
const INDEXING_LIMIT: Duration = Duration::from_secs(5);

/// An open directory.
pub(super) struct DirectoryHandle {
    inode: Arc<Inode>,
    rows: Mutex<Option<Arc<Vec<Row>>>>,
}

struct Row {
    name: Vec<u8>,
    inode: Held,
}

/// An inode that an open directory's listing has: it stays in the table meanwhile.
struct Held(Arc<Inode>);

impl std::ops::Deref for Held {
    type Target = Arc<Inode>;

    fn deref(&self) -> &Arc<Inode> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state.lock().listed -= 1;
    }
}

impl FileSystem {
    /// Opens a directory.
    pub async fn opendir(&self, ino: Ino) -> Result<HandleId, FsError> {
        let inode = self.inode(ino)?;
        inode.directory()?;
        inode.state.lock().handles += 1;
        let handle = self.next_handle();
        if let Some(recorder) = &self.recorder {
            recorder.opened_directory(handle, inode.ino);
        }
        let directory = DirectoryHandle { inode, rows: Mutex::default() };
        self.directories.lock().insert(handle, Arc::new(directory));
        Ok(handle)
    }

    /// A directory that a former process had open. Where its reader was is found in a new snapshot: the
    /// rows of a directory come in the same order while nothing in it changes.
    pub(super) fn reopen_directory(&self, inode: &Arc<Inode>, handle: HandleId) {
        inode.state.lock().handles += 1;
        let directory = DirectoryHandle { inode: inode.clone(), rows: Mutex::default() };
        self.directories.lock().insert(handle, Arc::new(directory));
    }

    /// Rows from `offset` on. Reading from the start takes a new snapshot.
    pub async fn readdir(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        plus: bool,
    ) -> Result<Vec<DirEntry>, FsError> {
        let directory = self.directories.lock().get(&handle).cloned().ok_or(FsError::BadHandle)?;
        let known = directory.rows.lock().clone();
        let rows = match known {
            Some(rows) if offset > 0 => rows,
            _ => {
                let rows = Arc::new(self.snapshot(&directory.inode).await?);
                self.follow(ino, rows.iter().map(|row| row.name.clone()));
                *directory.rows.lock() = Some(rows.clone());
                rows
            }
        };
        let mut entries = Vec::new();
        for (at, name) in [(0, &b"."[..]), (1, &b".."[..])] {
            if offset <= at {
                // The kernel knows the parent's number better; any directory's does for `..`.
                let ino = if at == 0 { ino } else { ROOT };
                entries.push(DirEntry {
                    ino,
                    kind: Kind::Directory,
                    name: name.to_vec(),
                    next_offset: at + 1,
                    entry: None,
                });
            }
        }
        let skip = usize::try_from(offset.saturating_sub(FIRST)).unwrap_or(usize::MAX);
        for (index, row) in rows.iter().enumerate().skip(skip).take(ROWS) {
            let entry = self.entry_reply(&row.inode, false);
            entries.push(DirEntry {
                ino: row.inode.ino,
                kind: entry.attr.kind,
                name: row.name.clone(),
                next_offset: FIRST + index as u64 + 1,
                entry: plus.then_some(entry),
            });
        }
        Ok(entries)
    }

    /// Closes a directory.
    pub async fn releasedir(&self, handle: HandleId) -> Result<(), FsError> {
        let Some(directory) = self.directories.lock().remove(&handle) else { return Ok(()) };
        if let Some(recorder) = &self.recorder {
            recorder.closed(handle);
        }
        {
            let mut state = directory.inode.state.lock();
            state.handles = state.handles.saturating_sub(1);
        }
        let rows = directory.rows.lock().take();
        let listed: Vec<Ino> =
            rows.iter().flat_map(|rows| rows.iter()).map(|row| row.inode.ino).collect();
        drop(rows);
        let mut table = self.table.lock();
        table.drop_if_unused(directory.inode.ino);
        // Rows that the kernel did not take as lookups are known only for as long as they are read.
        listed.into_iter().for_each(|ino| table.drop_if_unused(ino));
        Ok(())
    }

    /// fsync(2) of a directory: names stand in the store when their operations return, but for those
    /// removed a moment ago, and those of files created here and not closed yet.
    pub async fn fsyncdir(self: &Arc<Self>, ino: Ino) -> Result<(), FsError> {
        let children = self.table.lock().children(ino);
        for (_, child) in children {
            let pending = {
                let state = child.state.lock();
                state.home.is_none() && !state.unlinked
            };
            if pending {
                self.store_inode(&child).await?;
            }
        }
        self.removals_stored(ino).await
    }

    /// Keeps an inode for a listing.
    fn hold(&self, inode: &Arc<Inode>) -> Held {
        let mut table = self.table.lock();
        let inode = table.adopt(inode);
        inode.state.lock().listed += 1;
        Held(inode)
    }

    /// The directory as it is now.
    async fn snapshot(&self, directory: &Arc<Inode>) -> Result<Vec<Row>, FsError> {
        let dir = directory.directory()?;
        let running = self.begin_listing(directory.ino);
        let leaving = self.late.names(directory.ino);
        let asked_at = self.boot_time();
        let mut listed = self.volume.list_directory(dir).await?;
        self.listed_whole(directory.ino, asked_at, &listed);
        drop(running);
        // What was removed here is gone, though the store may not know yet; unless it was made again.
        listed.retain(|entry| {
            let again = || {
                let known = self.table.lock().name(directory.ino, &entry.name);
                known.is_some_and(|dentry| dentry.child.is_some())
            };
            !leaving.contains(&entry.name) || again()
        });
        let mut known: HashMap<Vec<u8>, Arc<Inode>> =
            self.table.lock().children(directory.ino).into_iter().collect();
        let (mut rows, mut unknown) = (Vec::new(), HashSet::new());
        for entry in &listed {
            let current = known
                .remove(&entry.name)
                .filter(|inode| self.is_as_listed(directory.ino, inode, entry, asked_at));
            match current {
                Some(inode) => {
                    rows.push(Row { name: entry.name.clone(), inode: self.hold(&inode) })
                }
                None => {
                    unknown.insert(entry.name.clone());
                }
            }
        }
        for found in self.records(directory, &listed, unknown).await? {
            let Place::Entry(_, name) = found.entry.place.clone() else { continue };
            let Some(found) = self.meet(found).await? else { continue };
            if let Some(inode) = self.learn(directory.ino, &name, &found, asked_at).child {
                rows.push(Row { name, inode: self.hold(&inode) });
            }
        }
        // What was created here and is not stored yet, or was stored since the listing began.
        for (name, inode) in known {
            // What the listing taught may be that this one has moved.
            let current = self.table.lock().name(directory.ino, &name);
            let Some(Dentry { child: Some(current), checked_at, .. }) = current else { continue };
            if !Arc::ptr_eq(&current, &inode) {
                continue;
            }
            let keep = {
                let state = inode.state.lock();
                // An answer about the inode says of this name only that it is there if the record lies at it:
                // of several names each is asked for, and a former one may have become a second one's elsewhere.
                let lies_here = state.home.as_ref().is_some_and(|home| {
                    matches!(&home.place, Place::Entry(at, known) if *at == dir && *known == name)
                });
                let answered = state.checked_at.filter(|_| lies_here).unwrap_or(checked_at);
                let since = answered.max(checked_at) >= asked_at;
                !state.unlinked && (state.home.is_none() || since)
            };
            if keep {
                rows.push(Row { name, inode: self.hold(&inode) });
            }
        }
        // The old name of a move that was finished above may be among them.
        let gone = |row: &Row| {
            let known = self.table.lock().name(directory.ino, &row.name);
            known.is_some_and(|dentry| dentry.child.is_none())
        };
        rows.retain(|row| !gone(row));
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows.dedup_by(|a, b| a.name == b.name);
        Ok(rows)
    }

    /// Whether a name is known as the listing shows it: then that was found out just now.
    pub(super) fn is_as_listed(
        &self,
        parent: Ino,
        inode: &Inode,
        entry: &Listed,
        asked_at: Duration,
    ) -> bool {
        let mut table = self.table.lock();
        let Some(mut dentry) = table.name(parent, &entry.name) else { return false };
        let mut state = inode.state.lock();
        let etag = match &dentry.link {
            // The listing tells nothing of the record that the name refers to.
            Some(link) => Some(&link.etag).filter(|_| self.is_fresh(state.checked_at)),
            None => state.home.as_ref().map(|home| &home.etag),
        };
        // A name that is being changed here is what this mount says it is, unless that is in doubt.
        let ours = state.is_changed() && !dentry.checked_at.is_zero();
        if etag != Some(&entry.etag) && !ours {
            return false;
        }
        if dentry.link.is_none() {
            state.checked_at = state.checked_at.max(Some(asked_at));
        }
        drop(state);
        dentry.checked_at = dentry.checked_at.max(asked_at);
        table.set_name(parent, &entry.name, dentry);
        true
    }

    /// The records of a directory's names that are not known: from its index, if there are many, and the
    /// others from their objects. If many were missing in the index, it is written anew in the background.
    async fn records(
        &self,
        directory: &Arc<Inode>,
        listed: &[Listed],
        unknown: HashSet<Vec<u8>>,
    ) -> Result<Vec<Found>, FsError> {
        let dir = directory.directory()?;
        let many = unknown.len() >= WORTH_IT;
        let mut index = Index::default();
        if many {
            let wanted = |entry: &Listed| unknown.contains(&entry.name);
            index = self.volume.read_index(dir, listed, wanted).await;
        }
        let mut entries = std::mem::take(&mut index.rows);
        let mut missing = unknown;
        for entry in &entries {
            if let Place::Entry(_, name) = &entry.place {
                missing.remove(name);
            }
        }
        let missing: Vec<Listed> =
            listed.iter().filter(|entry| missing.contains(&entry.name)).cloned().collect();
        let incomplete = !missing.is_empty();
        tracing::debug!(%dir, names = listed.len(), missing = missing.len(), "heads of a directory read");
        entries.extend(self.volume.load_listed(dir, missing).await?);
        if many && incomplete && !self.volume.is_read_only() {
            self.write_index(directory, listed, &entries, index);
        }
        let (linked, plain): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| matches!(entry.record.content, Content::Link(_)));
        let mut found: Vec<Found> =
            plain.into_iter().map(|entry| Found { entry, inode: None }).collect();
        found.extend(self.volume.resolve_many(linked).await?);
        Ok(found)
    }

    /// Brings the index of directories up to date in which this mount has made many names, for whoever
    /// lists them first; `many` is the least that counts as that.
    pub(super) async fn index_what_was_made(&self, many: usize) {
        let due: Vec<(Arc<Inode>, usize)> = {
            let mut table = self.table.lock();
            let due: Vec<(Ino, usize)> = table
                .made
                .iter()
                .filter(|(_, made)| **made >= many)
                .map(|(ino, made)| (*ino, *made))
                .collect();
            for (ino, _) in &due {
                table.made.remove(ino);
            }
            due.into_iter().filter_map(|(ino, made)| Some((table.get(ino)?, made))).collect()
        };
        for (directory, made) in due {
            let Ok(dir) = directory.directory() else { continue };
            if directory.state.lock().unlinked {
                continue;
            }
            if !self.indexing.lock().insert(dir) {
                // One that was begun before the last of these names were made.
                *self.table.lock().made.entry(directory.ino).or_default() += made;
                continue;
            }
            if let Err(error) = self.index_known(&directory, dir).await {
                tracing::debug!(%dir, "index of a directory not written: {error}");
            }
            self.indexing.lock().remove(&dir);
        }
    }

    /// The same before an unmount: after what is being written already.
    pub(super) async fn index_the_rest(&self) {
        let patience = async {
            while !self.indexing.lock().is_empty() {
                tokio::time::sleep(INDEXING).await;
            }
        };
        // Nothing is lost without an index.
        let _ = tokio::time::timeout(INDEXING_LIMIT, patience).await;
        self.index_what_was_made(WORTH_WRITING).await;
    }

    /// Writes what is known here and what the index knew already; nothing is fetched for it.
    async fn index_known(&self, directory: &Inode, dir: DirId) -> Result<(), FsError> {
        let listed = self.volume.list_directory(dir).await?;
        if listed.len() < WORTH_IT {
            return Ok(());
        }
        let mut index = self.volume.read_index(dir, &listed, |_| true).await;
        let mut entries = self.known_as_listed(directory, dir, &listed, &HashMap::new());
        entries.append(&mut index.rows);
        Ok(self.volume.write_index(dir, entries, index).await?)
    }

    /// The entries of listed names, as far as they are known and as they were listed.
    fn known_as_listed(
        &self,
        directory: &Inode,
        dir: DirId,
        listed: &[Listed],
        fetched: &HashMap<&Place, &Stored>,
    ) -> Vec<Stored> {
        let known = |entry: &Listed| {
            let place = Place::Entry(dir, entry.name.clone());
            let stored = match fetched.get(&place) {
                Some(stored) => (*stored).clone(),
                None => {
                    let dentry = self.table.lock().name(directory.ino, &entry.name)?;
                    let home = dentry.child.and_then(|child| child.state.lock().home.clone());
                    dentry.link.or(home)?
                }
            };
            (stored.etag == entry.etag && stored.place == place).then_some(stored)
        };
        listed.iter().filter_map(known).collect()
    }

    /// Brings a directory's index up to date without anybody waiting for it, once at a time.
    fn write_index(&self, directory: &Inode, listed: &[Listed], fetched: &[Stored], index: Index) {
        let Ok(dir) = directory.directory() else { return };
        if !self.indexing.lock().insert(dir) {
            return;
        }
        let fetched: HashMap<&Place, &Stored> =
            fetched.iter().map(|entry| (&entry.place, entry)).collect();
        let entries = self.known_as_listed(directory, dir, listed, &fetched);
        let (volume, indexing) = (self.volume.clone(), self.indexing.clone());
        self.runtime.spawn(async move {
            match volume.write_index(dir, entries, index).await {
                Ok(()) => tracing::debug!(%dir, "index of a directory written"),
                Err(error) => tracing::debug!(%dir, "index of a directory not written: {error}"),
            }
            indexing.lock().remove(&dir);
        });
    }
}
