//! Opening and closing files.

use super::callers::Users;
use super::content::Content;
use super::table::Node;
use super::{Handle, ObjectFs};
use crate::fs::errno::FsError;
use crate::fs::once;
use crate::fs::types::{Caller, HandleId, Ino, Kind, OpenMode, Opened};
use std::sync::Arc;

impl ObjectFs {
    fn open_handle(&self, caller: &Caller, node: &Arc<Node>, mode: OpenMode) -> HandleId {
        let id = HandleId(self.next_number());
        let replaced = {
            let mut state = node.state.lock();
            state.handles += 1;
            state.writers += u32::from(mode.write);
            state.replaced
        };
        // A file system that outlives its server is served from within a container: it does not know the kernel's
        // numbers of processes.
        let mut users = if self.keep.is_some() { Users::anybody() } else { Users::default() };
        users.note(caller.pid);
        let users = Arc::new(parking_lot::Mutex::new(users));
        self.handles.lock().insert(id, Handle { node: node.clone(), mode, replaced, users });
        id
    }

    /// The answer that a file is open, for a handle that is.
    fn opened(&self, node: &Node, mode: OpenMode, opened: Opened) -> Opened {
        if let Some(keep) = &self.keep
            && let Ok(handle) = self.handle(opened.handle)
        {
            keep.opened(opened, (node.ino, mode), handle.replaced, once::current());
        }
        opened
    }

    pub(super) async fn open(
        self: &Arc<Self>,
        caller: &Caller,
        ino: Ino,
        mode: OpenMode,
    ) -> Result<Opened, FsError> {
        let node = self.node(ino)?;
        let (kind, is_known, has_name) = {
            let state = node.state.lock();
            (state.kind, self.is_known(&state), state.place.is_some())
        };
        match kind {
            Kind::File => {}
            Kind::Directory => return Err(FsError::IsDirectory),
            Kind::Symlink => return Err(FsError::Loop),
            // The kernel opens these itself.
            _ => return Err(FsError::NotSupported),
        }
        if !is_known && has_name {
            self.refresh(&node).await?;
        }
        let is_cut = {
            let state = node.state.lock();
            !state.dirty && state.found.as_ref().is_some_and(|found| found.is_cut)
        };
        if is_cut && !(mode.truncate && mode.write) {
            return Err(FsError::io(format!(
                "{}: shorter than the 16 bytes that every file of --encryption begins with: it was cut off, or \
                 written by something else",
                self.shown(&node)
            )));
        }
        let truncates = mode.truncate && mode.write;
        let paths = if truncates { Some(self.paths.read().await) } else { None };
        let mut content = self.content_of(&node).await;
        // Removed or replaced since it was looked up: the kernel looks again.
        let has_name = node.state.lock().place.is_some();
        if matches!(&*content, Content::Clean) && !has_name {
            return Err(FsError::Moved);
        }
        let handle = self.open_handle(caller, &node, mode);
        if truncates && let Err(error) = self.truncate(&node, &mut content, 0).await {
            drop(content);
            self.close_handle(handle);
            return Err(error);
        }
        drop((content, paths));
        let keep_cache = {
            let mut state = node.state.lock();
            let etag = state.found.as_ref().map(|found| found.etag.clone());
            let keep_cache = !state.dirty && etag.is_some() && state.opened == etag;
            state.opened = etag;
            keep_cache
        };
        Ok(self.opened(&node, mode, Opened { handle, direct_io: mode.direct, keep_cache }))
    }

    /// The handle of a file that was just made, and is to be stored even if nothing is written.
    pub(super) fn open_new(&self, caller: &Caller, node: &Arc<Node>, mode: OpenMode) -> Opened {
        let handle = self.open_handle(caller, node, mode);
        self.opened(node, mode, Opened { handle, direct_io: mode.direct, keep_cache: false })
    }

    fn close_handle(&self, handle: HandleId) -> Option<(Arc<Node>, OpenMode)> {
        let Handle { node, mode, .. } = self.handles.lock().remove(&handle)?;
        if let Some(keep) = &self.keep {
            keep.closed(handle);
        }
        let mut state = node.state.lock();
        state.handles = state.handles.saturating_sub(1);
        state.writers = state.writers.saturating_sub(u32::from(mode.write));
        drop(state);
        Some((node, mode))
    }

    pub(super) async fn flush(
        self: &Arc<Self>,
        caller: &Caller,
        handle: HandleId,
    ) -> Result<(), FsError> {
        let Handle { node, users, mode, .. } = self.handle(handle)?;
        let (is_dirty, is_written) = {
            let state = node.state.lock();
            (state.dirty, state.writers > 0)
        };
        // Who only reads does not end what others write; what it has made is stored all the same.
        let ends_it = !is_written || mode.write && !users.lock().is_bystander(caller.pid);
        if !is_dirty || !ends_it {
            return Ok(());
        }
        self.publish(&node).await
    }

    pub(super) async fn release(self: &Arc<Self>, handle: HandleId) -> Result<(), FsError> {
        let Some((node, mode)) = self.close_handle(handle) else { return Ok(()) };
        // Pages that were written by mmap after the last close, or what a close could not store.
        let is_dirty = {
            let state = node.state.lock();
            state.dirty && (mode.write || state.writers == 0)
        };
        let mut is_stale = false;
        if is_dirty && let Err(error) = self.publish(&node).await {
            tracing::error!("{}: not stored: {error}", self.shown(&node));
            is_stale = matches!(error, FsError::Stale { .. });
        }
        let mut content = self.content_of(&node).await;
        let (is_last, has_name) = {
            let state = node.state.lock();
            (state.handles == 0, state.place.is_some())
        };
        if is_last && (!has_name || is_stale || matches!(&*content, Content::Lost(_))) {
            // Nobody can ask for it any more, or its writer was told that it is lost, or that another one's
            // stands there.
            *content = Content::Clean;
            self.keep_spare(&node, &content);
            let mut state = node.state.lock();
            (state.dirty, state.checked, state.opened) = (false, None, None);
            let is_nowhere = state.found.is_none();
            state.size = state.found.as_ref().map_or(0, |found| found.size);
            drop(state);
            if is_nowhere {
                self.table.lock().detach(&node);
            }
        }
        drop(content);
        self.table.lock().drop_if_unused(node.ino);
        Ok(())
    }
}
