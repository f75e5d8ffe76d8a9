//! Opening and closing files: close-to-open consistency, and the choice between page cache and direct I/O.

use super::ahead::Step;
use super::core::FileSystem;
use super::errno::FsError;
use super::inode::{Body, Inode, State};
use super::io::FileHandleState;
use super::types::{Caller, EntryReply, HandleId, Ino, OpenMode, Opened};
use crate::units::FileId;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Files of this size are read without the page cache.
const DIRECT_FROM: u64 = 8 << 20;
/// How long after a look-up the kernel sends the open that it was for.
const SAME_OPEN: Duration = Duration::from_millis(20);
impl FileSystem {
    /// Opens a file.
    pub async fn open(
        self: &Arc<Self>,
        _caller: &Caller,
        ino: Ino,
        mode: OpenMode,
    ) -> Result<Opened, FsError> {
        let inode = self.inode(ino)?;
        inode.file()?;
        if mode.write && self.volume.is_read_only() {
            return Err(FsError::ReadOnly);
        }
        let _pin = inode.pin();
        let name = inode.state.lock().names.iter().next().cloned();
        if let Some((parent, name)) = name {
            self.step(parent, &name, Step::Open).await;
        }
        self.revalidate(&inode).await?;
        self.load_map(&inode).await?;
        if mode.truncate && mode.write {
            self.set_size(&inode, 0).await?;
        }
        Ok(self.opened(inode.clone(), mode))
    }

    pub(super) fn opened(&self, inode: Arc<Inode>, mode: OpenMode) -> Opened {
        let failures = {
            let mut state = inode.state.lock();
            state.handles += 1;
            state.writers += u32::from(mode.write);
            state.failures
        };
        let pinned = self.pin_segments(&inode);
        let handle = self.next_handle();
        // Measured with a server that does nothing: reads through the page cache reach 0.4 to 0.6 GB/s,
        // direct ones 3 GB/s. So a big file that is only read goes direct, unless whoever read it
        // before did so in small pieces, for which the page cache asks ahead.
        let (direct_io, keep_cache) = match &mut inode.state.lock().content {
            Body::File(body) => {
                let big = body.size >= DIRECT_FROM && !body.read_in_small_pieces;
                let direct_io = mode.direct || big && !mode.write;
                let keep_cache = body.in_page_cache;
                body.in_page_cache |= !direct_io;
                (direct_io, keep_cache)
            }
            _ => (mode.direct, false),
        };
        let opened = Opened { handle, direct_io, keep_cache };
        if let Some(recorder) = &self.recorder {
            recorder.opened(opened, inode.ino, mode, self.opening_request());
        }
        self.files.lock().insert(
            handle,
            Arc::new(FileHandleState {
                inode,
                mode,
                reading: Mutex::default(),
                failures_seen: Mutex::new(failures),
                pinned: Mutex::new(pinned),
            }),
        );
        opened
    }

    /// Creates and opens a file.
    pub async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        umask: u32,
        open: OpenMode,
    ) -> Result<(EntryReply, Opened), FsError> {
        // Whether the name is free the only writer knows; its first close or fsync stores the file.
        let asks_store = open.excl && !self.is_only_writer();
        match self.create_file(caller, parent, name, mode & !umask, asks_store).await {
            Ok(inode) => {
                let reply = self.entry_reply(&inode, true);
                let opened = self.opened(inode, open);
                Ok((reply, opened))
            }
            Err(FsError::Exists) if !open.excl => {
                // Another node was faster: without O_EXCL its file is opened.
                let inode = self.find(parent, name).await?;
                let reply = self.entry_reply(&inode, true);
                Ok((reply, self.open(caller, inode.ino, open).await?))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps the segments of a file that is opened: its own, and those that it shares with others.
    pub(super) fn pin_segments(&self, inode: &Inode) -> Vec<FileId> {
        let mut pinned: Vec<FileId> = inode.file().into_iter().collect();
        if let Body::File(body) = &inode.state.lock().content {
            pinned.extend(body.stored.owners());
        }
        pinned.iter().for_each(|file| self.volume.session().pin(*file));
        pinned
    }

    /// Keeps for one handle what another one keeps: their files share segments from now on.
    pub(super) fn pin_too(&self, from: &FileHandleState, to: &FileHandleState) {
        let kept = from.pinned.lock().clone();
        let mut pinned = to.pinned.lock();
        for file in kept {
            if !pinned.contains(&file) {
                self.volume.session().pin(file);
                pinned.push(file);
            }
        }
    }

    /// The last descriptor of an open file is gone.
    pub async fn release(self: &Arc<Self>, _ino: Ino, handle: HandleId) -> Result<(), FsError> {
        let Some(file) = self.files.lock().remove(&handle) else { return Ok(()) };
        if let Some(recorder) = &self.recorder {
            recorder.closed(handle);
        }
        // What close could not store is tried again by the background task.
        {
            let mut state = file.inode.state.lock();
            state.handles = state.handles.saturating_sub(1);
            state.writers = state.writers.saturating_sub(u32::from(file.mode.write));
            // Everybody who had it open was told.
            state.lost &= state.handles > 0;
        }
        file.pinned.lock().drain(..).for_each(|id| self.volume.session().unpin(id));
        {
            let (small, large) = {
                let reading = file.reading.lock();
                (reading.small, reading.large)
            };
            if small.saturating_add(large) > 16
                && let Body::File(body) = &mut file.inode.state.lock().content
            {
                body.read_in_small_pieces = small > large;
            }
        }
        if file.inode.state.lock().unlinked {
            self.discard_if_unused(&file.inode);
        }
        self.note_body(&file.inode);
        self.table.lock().drop_if_unused(file.inode.ino);
        Ok(())
    }

    /// Close to open: asks the store whether an inode is still as known. Only the look-up that the kernel
    /// sends for the same open(2) counts as having asked; each answer serves one open.
    async fn revalidate(&self, inode: &Inode) -> Result<(), FsError> {
        if self.is_only_writer() {
            return Ok(());
        }
        let now = self.boot_time();
        let known = {
            let mut state = inode.state.lock();
            let looked_up = state.looked_up_at.take();
            let just_now = looked_up.is_some_and(|at| now.saturating_sub(at) < SAME_OPEN);
            if state.unlinked || just_now {
                return Ok(());
            }
            let names = if state.lost_a_name { Err(state.names.clone()) } else { Ok(()) };
            if names.is_ok() && state.is_changed() {
                return Ok(());
            }
            names.map(|()| state.names.iter().next().cloned())
        };
        let known = match known {
            Ok(known) => known,
            Err(names) => {
                // The kernel may have come by the lost one; it asks again, and so do we.
                let mut table = self.table.lock();
                names.iter().for_each(|(parent, name)| table.doubt_name(*parent, name));
                return Err(FsError::Moved);
            }
        };
        if let Some((parent, name)) = known {
            let found = self.find_dentry_checked(parent, &name, Some(now)).await?;
            if found.child.is_none_or(|child| child.ino != inode.ino) {
                return Err(FsError::Moved);
            }
        }
        Ok(())
    }

    /// Frees what an unlinked file holds that nobody can reach any more.
    fn discard_if_unused(&self, inode: &Inode) {
        let mut state = inode.state.lock();
        if state.handles == 0 {
            if let Body::File(body) = &mut state.content {
                body.dirty.truncate(0);
            }
            let State { modified, published, .. } = &mut *state;
            *published = *modified;
        }
        drop(state);
        self.room.notify_waiters();
    }
}
