//! Open files: what is written, and how it gets into the store.
//!
//! A file that is written from front to back goes into the store while it grows, and appears when it is closed.
//! Anything else is an [`Overlay`] over what the store has, and is stored anew as a whole. Whoever reads back or
//! changes what has left already makes the file appear as it is: only the store has those bytes.
//!
//! Crash story: until a file is stored whatever stood under its name stands there, whole. What a killed server
//! has written of it is gone with it: close(2) and fsync(2) had not returned.

use super::Handle;
use super::ObjectFs;
use super::callers::Users;
use super::overlay::{Overlay, Source};
use super::table::{Node, State};
use crate::fs::errno::FsError;
use crate::fs::types::{Caller, FallocateMode, HandleId, Ino, Kind, OpenMode, Opened, SeekWhence};
use crate::units::ByteRange;
use crate::volume::objects::Writer;
use crate::volume::objects::writer::Taken;
use bytes::{Bytes, BytesMut};
use std::io;
use std::sync::Arc;

/// The largest file: what a store's uploads in parts can hold.
const LARGEST: u64 = 5 << 40;

/// What of a file is not in the store.
#[derive(Default)]
pub(super) enum Content {
    /// Nothing.
    #[default]
    Clean,
    /// Written from front to back so far.
    Stream(Writer),
    /// Changed otherwise.
    Overlay(Overlay),
    /// It was written and could not be stored; its bytes had left and are lost.
    Lost(FsError),
}

impl ObjectFs {
    fn open_handle(&self, caller: &Caller, node: &Arc<Node>, mode: OpenMode) -> HandleId {
        let id = HandleId(self.next_number());
        let replaced = {
            let mut state = node.state.lock();
            state.handles += 1;
            state.replaced
        };
        let mut users = Users::default();
        users.note(caller.pid);
        let users = Arc::new(parking_lot::Mutex::new(users));
        self.handles.lock().insert(id, Handle { node: node.clone(), mode, replaced, users });
        id
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
            (state.kind, state.dirty || self.is_fresh(state.checked), state.place.is_some())
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
        let handle = self.open_handle(caller, &node, mode);
        if mode.truncate && mode.write {
            let _paths = self.paths.read().await;
            let mut content = node.content.lock().await;
            if let Err(error) = self.truncate(&node, &mut content, 0).await {
                drop(content);
                self.close_handle(handle);
                return Err(error);
            }
        }
        let mut state = node.state.lock();
        let etag = state.found.as_ref().map(|found| found.etag.clone());
        let keep_cache = !state.dirty && etag.is_some() && state.opened == etag;
        state.opened = etag;
        Ok(Opened { handle, direct_io: mode.direct, keep_cache })
    }

    /// The handle of a file that was just made, and is to be stored even if nothing is written.
    pub(super) fn open_new(&self, caller: &Caller, node: &Arc<Node>, mode: OpenMode) -> Opened {
        Opened {
            handle: self.open_handle(caller, node, mode),
            direct_io: mode.direct,
            keep_cache: false,
        }
    }

    fn close_handle(&self, handle: HandleId) -> Option<Arc<Node>> {
        let Handle { node, .. } = self.handles.lock().remove(&handle)?;
        let mut state = node.state.lock();
        state.handles = state.handles.saturating_sub(1);
        drop(state);
        Some(node)
    }

    /// A file of which nothing is written yet.
    pub(super) fn new_stream(&self, path: String) -> Content {
        Content::Stream(Writer::new(self.tree.clone(), path, None, self.budget.clone()))
    }

    pub(super) fn scratch_failed(&self, error: &io::Error) -> FsError {
        let message = format!("scratch directory {}: {error}", self.config.scratch.display());
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => {
                tracing::error!("{message}: make room there, or choose another with --scratch-dir");
                FsError::NoSpace { message }
            }
            _ => FsError::io(format!("{message}: choose another with --scratch-dir")),
        }
    }

    pub(super) fn overlay(&self, size: u64) -> Result<Overlay, FsError> {
        let made = Overlay::over(size, &self.config.scratch, &*self.world.entropy);
        made.map_err(|error| self.scratch_failed(&error))
    }

    /// Makes a content one that can be changed anywhere.
    async fn make_overlay<'c>(
        &self,
        node: &Node,
        content: &'c mut Content,
    ) -> Result<&'c mut Overlay, FsError> {
        if let Content::Stream(writer) = &*content {
            match writer.whole() {
                Some(whole) => {
                    let whole = whole.to_vec();
                    let mut overlay = self.overlay(0)?;
                    overlay.write(0, whole).map_err(|error| self.scratch_failed(&error))?;
                    *content = Content::Overlay(overlay);
                }
                // Only the store has what has left.
                None => self.publish_content(node, content).await?,
            }
        }
        if matches!(content, Content::Clean) {
            self.know(node).await?;
            let size = {
                let state = node.state.lock();
                match &state.found {
                    Some(found) => found.size,
                    None if state.size == 0 => 0,
                    // Never zeros for what was there.
                    None => return Err(FsError::stale("the file is not in the store any more")),
                }
            };
            *content = Content::Overlay(self.overlay(size)?);
        }
        match content {
            Content::Overlay(overlay) => Ok(overlay),
            Content::Lost(error) => Err(error.clone()),
            Content::Clean | Content::Stream(_) => {
                Err(FsError::io("a file that changes its state"))
            }
        }
    }

    fn changed(&self, state: &mut State, size: u64) {
        let now = self.world.clock.now();
        (state.size, state.mtime, state.ctime) = (size, now, now);
        (state.dirty, state.time_was_set) = (true, false);
    }

    pub(super) async fn write(
        self: &Arc<Self>,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<u32, FsError> {
        let handle = self.handle(handle)?;
        handle.check()?;
        handle.users.lock().note(caller.pid);
        let Handle { node, mode, .. } = handle;
        if !mode.write {
            return Err(FsError::BadHandle);
        }
        let count = data.len() as u32;
        let _paths = self.paths.read().await;
        let mut content = node.content.lock().await;
        let offset = if mode.append { node.state.lock().size } else { offset };
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= LARGEST);
        let end = end.ok_or(FsError::TooBig)?;
        let is_empty = node.state.lock().size == 0;
        if matches!(&*content, Content::Clean)
            && offset == 0
            && is_empty
            && let Ok(path) = self.path(&node)
        {
            *content = self.new_stream(path);
        }
        let mut data = Some(data);
        if let Content::Stream(writer) = &mut *content
            && writer.length() == offset
            && let Some(bytes) = &data
        {
            let path = self.path(&node).unwrap_or_default();
            let headers = {
                let state = node.state.lock();
                self.headers(&state, &path, state.time_was_set)
            };
            match writer.write(bytes, &headers).await {
                Ok(Taken::All) => data = None,
                Ok(Taken::NoRoom) => {}
                Err(error) => {
                    let error = FsError::from(error);
                    *content = Content::Lost(error.clone());
                    return Err(error);
                }
            }
        }
        if let Some(data) = data {
            let overlay = self.make_overlay(&node, &mut content).await?;
            let written = overlay
                .write(offset, data)
                .and_then(|()| overlay.compact(&self.config.scratch, &*self.world.entropy));
            written.map_err(|error| self.scratch_failed(&error))?;
        }
        {
            let mut state = node.state.lock();
            let size = state.size.max(end);
            self.changed(&mut state, size);
        }
        if mode.sync {
            self.publish_content(&node, &mut content).await?;
        }
        Ok(count)
    }

    /// Sets a file's size. For a caller that holds its content and the paths.
    pub(super) async fn truncate(
        &self,
        node: &Node,
        content: &mut Content,
        size: u64,
    ) -> Result<(), FsError> {
        if node.state.lock().kind != Kind::File {
            return Err(FsError::Invalid);
        }
        if size > LARGEST {
            return Err(FsError::TooBig);
        }
        let path = self.path(node);
        if size == 0
            && let Ok(path) = path
        {
            // Whatever could not be stored is not wanted any more.
            *content = self.new_stream(path);
        } else if !matches!(&*content, Content::Stream(writer) if writer.length() == size) {
            self.make_overlay(node, content).await?.set_size(size);
        }
        self.changed(&mut node.state.lock(), size);
        Ok(())
    }

    pub(super) async fn fallocate(
        &self,
        handle: HandleId,
        offset: u64,
        length: u64,
        mode: FallocateMode,
    ) -> Result<(), FsError> {
        let Handle { node, mode: opened, .. } = self.handle(handle)?;
        if !opened.write {
            return Err(FsError::BadHandle);
        }
        let end =
            offset.checked_add(length).filter(|end| *end <= LARGEST).ok_or(FsError::TooBig)?;
        let _paths = self.paths.read().await;
        let mut content = node.content.lock().await;
        let size = node.state.lock().size;
        let grown = match mode {
            FallocateMode::Allocate | FallocateMode::ZeroRange => size.max(end),
            _ => size,
        };
        let zeroes = matches!(
            mode,
            FallocateMode::PunchHole | FallocateMode::ZeroRange | FallocateMode::ZeroRangeKeepSize
        );
        if grown == size && !zeroes {
            return Ok(());
        }
        let overlay = self.make_overlay(&node, &mut content).await?;
        overlay.set_size(grown);
        if zeroes {
            overlay.zero(ByteRange::new(offset, length));
        }
        self.changed(&mut node.state.lock(), grown);
        Ok(())
    }

    /// The whole file is data, as far as anyone can tell.
    pub(super) fn lseek(
        &self,
        handle: HandleId,
        offset: u64,
        whence: SeekWhence,
    ) -> Result<u64, FsError> {
        let size = self.handle(handle)?.node.state.lock().size;
        match whence {
            _ if offset >= size => Err(FsError::NoSuchOffset),
            SeekWhence::Data => Ok(offset),
            SeekWhence::Hole => Ok(size),
        }
    }

    pub(super) async fn read(
        self: &Arc<Self>,
        handle: HandleId,
        offset: u64,
        size: u32,
    ) -> Result<Bytes, FsError> {
        let handle = self.handle(handle)?;
        handle.check()?;
        let node = &handle.node;
        let wanted = ByteRange::new(offset, size.into());
        {
            let mut content = node.content.lock().await;
            // What has left can be read only when it has arrived.
            if matches!(&*content, Content::Stream(writer) if writer.whole().is_none()) {
                drop(content);
                self.publish(node).await?;
                content = node.content.lock().await;
            }
            match &*content {
                Content::Clean => {}
                Content::Stream(writer) => {
                    let whole = writer.whole().unwrap_or_default();
                    let range = wanted.intersection(ByteRange::new(0, whole.len() as u64));
                    let (start, end) = (range.offset() as usize, range.end() as usize);
                    return Ok(Bytes::copy_from_slice(whole.get(start..end).unwrap_or_default()));
                }
                Content::Overlay(overlay) => {
                    return self.read_overlay(node, overlay, wanted).await;
                }
                Content::Lost(error) => return Err(error.clone()),
            }
        }
        let bytes = self.read_stored(node, wanted).await?;
        handle.check()?;
        Ok(bytes)
    }

    pub(super) async fn read_overlay(
        &self,
        node: &Arc<Node>,
        overlay: &Overlay,
        range: ByteRange,
    ) -> Result<Bytes, FsError> {
        let mut whole = BytesMut::with_capacity(range.length() as usize);
        let pieces: Vec<_> = overlay.pieces(range).collect();
        for (piece, source) in pieces {
            self.piece(node, overlay, piece, source).await?.iter().for_each(|part| {
                whole.extend_from_slice(part);
            });
        }
        Ok(whole.freeze())
    }

    /// The bytes of a piece of a changed file.
    async fn piece(
        &self,
        node: &Arc<Node>,
        overlay: &Overlay,
        piece: ByteRange,
        source: Source,
    ) -> Result<Vec<Bytes>, FsError> {
        match source {
            Source::Zeros => Ok(vec![Bytes::from(vec![0; piece.length() as usize])]),
            Source::Scratch(at) => {
                let read = overlay.read(at, piece.length());
                read.map(|bytes| vec![bytes.into()]).map_err(|error| self.scratch_failed(&error))
            }
            Source::Base => {
                let found = node.state.lock().found.clone();
                let found =
                    found.ok_or_else(|| FsError::stale("the file was removed meanwhile"))?;
                let parts = self.tree.read(&self.path(node)?, &found.etag, piece).await?;
                let length: usize = parts.iter().map(Bytes::len).sum();
                if length as u64 != piece.length() {
                    return Err(FsError::io("the store has fewer bytes than it told"));
                }
                Ok(parts)
            }
        }
    }

    pub(super) async fn flush(
        self: &Arc<Self>,
        caller: &Caller,
        handle: HandleId,
    ) -> Result<(), FsError> {
        let Handle { node, users, .. } = self.handle(handle)?;
        if !node.state.lock().dirty || users.lock().is_bystander(caller.pid) {
            return Ok(());
        }
        self.publish(&node).await
    }

    pub(super) async fn release(self: &Arc<Self>, handle: HandleId) -> Result<(), FsError> {
        let Some(node) = self.close_handle(handle) else { return Ok(()) };
        // Pages that were written by mmap after the last close, or what a close could not store.
        let is_dirty = node.state.lock().dirty;
        if is_dirty && let Err(error) = self.publish(&node).await {
            tracing::error!("{}: not stored: {error}", self.shown(&node));
        }
        let mut content = node.content.lock().await;
        let (is_last, has_name) = {
            let state = node.state.lock();
            (state.handles == 0, state.place.is_some())
        };
        if is_last && (!has_name || matches!(&*content, Content::Lost(_))) {
            // Nobody can ask for it any more, or its writer was told that it is lost.
            *content = Content::Clean;
            let mut state = node.state.lock();
            (state.dirty, state.checked) = (false, None);
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
