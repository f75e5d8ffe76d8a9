//! Reading directories. A handle reads a snapshot taken when it starts, so that rows stay where they
//! are while entries come and go; names created on this mount and not stored yet are in it.

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::{Inode, ROOT};
use super::types::{DirEntry, HandleId, Ino, Kind};
use crate::volume::native::Place;
use crate::volume::native::record::Content;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows that one call returns, at most.
const ROWS: usize = 1024;
/// The offset of the first row after `.` and `..`.
const FIRST: u64 = 2;

/// An open directory.
pub(super) struct DirectoryHandle {
    inode: Arc<Inode>,
    rows: Mutex<Option<Arc<Vec<Row>>>>,
}

struct Row {
    name: Vec<u8>,
    inode: Arc<Inode>,
}

impl FileSystem {
    /// Opens a directory.
    pub async fn opendir(&self, ino: Ino) -> Result<HandleId, FsError> {
        let inode = self.inode(ino)?;
        inode.directory()?;
        inode.state.lock().handles += 1;
        let handle = self.next_handle();
        let directory = DirectoryHandle { inode, rows: Mutex::default() };
        self.directories.lock().insert(handle, Arc::new(directory));
        Ok(handle)
    }

    /// Rows from `offset` on. Reading from the start takes a new snapshot.
    pub async fn readdir(
        &self,
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
        {
            let mut state = directory.inode.state.lock();
            state.handles = state.handles.saturating_sub(1);
        }
        let rows = directory.rows.lock().take();
        let mut table = self.table.lock();
        table.drop_if_unused(directory.inode.ino);
        // Rows that the kernel did not take as lookups are known only for as long as they are read.
        for row in rows.iter().flat_map(|rows| rows.iter()) {
            table.drop_if_unused(row.inode.ino);
        }
        Ok(())
    }

    /// fsync(2) of a directory: names stand in the store when their operations return, so this waits
    /// only for files created here and not closed yet, whose names are not stored.
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
        Ok(())
    }

    /// The directory as it is now.
    async fn snapshot(&self, directory: &Arc<Inode>) -> Result<Vec<Row>, FsError> {
        let dir = directory.directory()?;
        let asked_at = self.boot_time();
        let listed = self.volume.list_directory(dir).await?;
        let mut known: HashMap<Vec<u8>, Arc<Inode>> =
            self.table.lock().children(directory.ino).into_iter().collect();
        let (mut rows, mut unknown) = (Vec::new(), Vec::new());
        for entry in listed {
            let current = known.remove(&entry.name).filter(|inode| {
                let dentry = self.table.lock().name(directory.ino, &entry.name);
                let link = dentry.and_then(|dentry| dentry.link).map(|link| link.etag);
                let state = inode.state.lock();
                let etag = link.or_else(|| state.home.as_ref().map(|home| home.etag.clone()));
                // A name that is being changed here is what this mount says it is.
                etag.as_ref() == Some(&entry.etag) || state.is_changed()
            });
            match current {
                Some(inode) => {
                    let mut state = inode.state.lock();
                    state.checked_at = state.checked_at.max(Some(asked_at));
                    drop(state);
                    let mut table = self.table.lock();
                    if let Some(mut dentry) = table.name(directory.ino, &entry.name) {
                        dentry.checked_at = dentry.checked_at.max(asked_at);
                        table.set_name(directory.ino, &entry.name, dentry);
                    }
                    drop(table);
                    rows.push(Row { name: entry.name, inode });
                }
                None => unknown.push(Place::Entry(dir, entry.name)),
            }
        }
        let mut linked = Vec::new();
        for stored in self.volume.load_many(unknown).await? {
            if let Content::Link(_) = stored.record.content {
                linked.push(stored);
                continue;
            }
            let Place::Entry(_, name) = &stored.place else { continue };
            let name = name.clone();
            let found = crate::volume::native::namespace::Found { entry: stored, inode: None };
            let Some(found) = self.meet(found).await? else { continue };
            if let Some(inode) = self.learn(directory.ino, &name, &found, asked_at).child {
                rows.push(Row { name, inode });
            }
        }
        for found in self.volume.resolve_many(linked).await? {
            let Place::Entry(_, name) = found.entry.place.clone() else { continue };
            let Some(found) = self.meet(found).await? else { continue };
            if let Some(inode) = self.learn(directory.ino, &name, &found, asked_at).child {
                rows.push(Row { name, inode });
            }
        }
        // What was created here and is not stored yet, or was stored since the listing began.
        for (name, inode) in known {
            let keep = {
                let state = inode.state.lock();
                let since = state.checked_at.is_some_and(|at| at >= asked_at);
                !state.unlinked && (state.home.is_none() || since)
            };
            if keep {
                rows.push(Row { name, inode });
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
}
