//! Open files: what is written, and how it gets into the store.
//!
//! A file that is written from front to back goes into the store while it grows, and appears when it is closed.
//! Anything else is an [`Overlay`] over what the store has, and is stored anew as a whole. Whoever reads back or
//! changes what has left already makes the file appear as it is: only the store has those bytes.
//!
//! Crash story: until a file is stored whatever stood under its name stands there, whole. With a killed server goes
//! what it has written: close(2) and fsync(2) had not returned. If another one takes over, it goes on with what was
//! written from front to back ([`super::spare`], [`super::unfinished`]).

use super::ObjectFs;
use super::overlay::{Overlay, Source};
use super::table::{Node, State};
use crate::fs::errno::FsError;
use crate::fs::types::{Caller, FallocateMode, HandleId, Kind, SeekWhence};
use crate::store::{ETag, Headers};
use crate::units::ByteRange;
use crate::volume::objects::Writer;
use crate::volume::objects::writer::Taken;
use bytes::{Bytes, BytesMut};
use std::io;
use std::sync::Arc;

/// The largest file: what a store's uploads in parts can hold.
pub(super) const LARGEST: u64 = 5 << 40;
/// Zeros that are sent for a gap, so that a file that is written from front to back with holes need not be
/// kept elsewhere.
const GAP: u64 = 256 << 20;
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// What of a file is not in the store.
#[derive(Default)]
pub(super) enum Content {
    /// Nothing.
    #[default]
    Clean,
    /// Written from front to back so far.
    Stream(Box<Writer>),
    /// Changed otherwise.
    Overlay(Overlay),
    /// It was written and could not be stored; its bytes had left and are lost.
    Lost(FsError),
}

impl ObjectFs {
    /// Takes a node's content to change it. What was begun and not taken, since it failed, is forgotten.
    pub(super) async fn content_of<'n>(
        &self,
        node: &'n Node,
    ) -> tokio::sync::MutexGuard<'n, Content> {
        let mut content = node.content.lock().await;
        let is_stored = {
            let state = node.state.lock();
            !state.dirty && state.place.is_some()
        };
        if is_stored && !matches!(&*content, Content::Clean) {
            *content = Content::Clean;
        }
        content
    }

    /// A file that is not in the store and has these bytes.
    pub(super) fn overlay_of(&self, whole: &[u8]) -> Result<Overlay, FsError> {
        let mut overlay = self.overlay(0)?;
        overlay.write(0, whole.to_vec()).map_err(|error| self.scratch_failed(&error))?;
        Ok(overlay)
    }

    /// Has it written down how far a file comes on its way.
    fn have_watched(&self, node: &Node, writer: &mut Writer) {
        if !writer.is_watched()
            && let Some(watch) = self.watch(node, None)
        {
            writer.watch(watch);
        }
    }

    /// A file of which nothing is written yet.
    pub(super) fn new_stream(&self, path: String) -> Content {
        let writer = Writer::new(self.tree.clone(), path, None, self.budget.clone());
        Content::Stream(Box::new(writer))
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
                Some(whole) => *content = Content::Overlay(self.overlay_of(whole)?),
                // Only the store has what has left.
                None => self.publish_content(node, content).await?,
            }
        }
        if matches!(content, Content::Clean) {
            self.know(node).await?;
            let (found, size) = {
                let state = node.state.lock();
                (state.found.clone(), state.size)
            };
            let size = match &found {
                Some(found) => found.size,
                None if size == 0 => 0,
                // Never zeros for what was there.
                None => return Err(FsError::stale("the file is not in the store any more")),
            };
            // Said now: what is written could never be joined with what cannot be read.
            if let (Some(found), Ok(path)) = (&found, self.path(node)) {
                self.tree.prove_key(&path, found).await?;
            }
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
        state.changes += 1;
    }

    pub(super) async fn write(
        self: &Arc<Self>,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<u32, FsError> {
        let handle = self.handle(handle)?;
        handle.users.lock().note(caller.pid);
        let (node, mode) = (&handle.node, handle.mode);
        if !mode.write {
            return Err(FsError::BadHandle);
        }
        let count = data.len() as u32;
        let _paths = self.paths.read().await;
        // Where O_APPEND writes, the kernel says: its pages come back where they belong.
        let mut content = self.content_of(node).await;
        handle.check()?;
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= LARGEST);
        let end = end.ok_or(FsError::TooBig)?;
        let is_empty = node.state.lock().size == 0;
        if matches!(&*content, Content::Clean)
            && offset == 0
            && is_empty
            && let Ok(path) = self.path(node)
        {
            *content = self.new_stream(path);
        }
        let mut data = Some(data);
        if matches!(&*content, Content::Stream(writer)
            if writer.length() < offset && offset - writer.length() <= GAP)
        {
            self.fill_with_zeros(node, &mut content, offset).await?;
        }
        if let Content::Stream(writer) = &mut *content
            && writer.length() == offset
            && let Some(bytes) = &data
        {
            let headers = self.headers_begun(node);
            self.have_watched(node, writer);
            match writer.write(bytes, &headers).await {
                Ok(Taken::All) => {
                    self.keep_written(node, &content, bytes);
                    data = None;
                }
                Ok(Taken::NoRoom) => {}
                Err(error) => {
                    let error = FsError::from(error);
                    self.lose(node, &mut content, &error);
                    return Err(error);
                }
            }
        } else if let Content::Stream(writer) = &*content
            && let Some(bytes) = &data
            && (has(writer.whole().unwrap_or_default(), offset, bytes)
                || node.spare.lock().has(offset, bytes))
        {
            // Asked for once more, since a former process was killed before it answered.
            data = None;
        }
        if let Some(data) = data {
            let overlay = self.make_overlay(node, &mut content).await?;
            overlay.write(offset, data).map_err(|error| self.scratch_failed(&error))?;
            if let Err(error) = overlay.compact(&self.config.scratch, &*self.world.entropy) {
                tracing::warn!("scratch file not written anew: {error}");
            }
        }
        self.keep_spare(node, &content);
        {
            let mut state = node.state.lock();
            let size = state.size.max(end);
            self.changed(&mut state, size);
        }
        acknowledge(&content);
        if mode.sync {
            self.publish_content(node, &mut content).await?;
        }
        Ok(count)
    }

    /// The headers of a file that is on its way: without a time that nobody set, since it is not known yet.
    pub(super) fn headers_begun(&self, node: &Node) -> Headers {
        let path = self.path(node).unwrap_or_default();
        let state = node.state.lock();
        self.headers_anew(&state, &path, state.time_was_set)
    }

    /// Goes on with zeros: a gap at the end of what is written from front to back.
    async fn fill_with_zeros(
        &self,
        node: &Node,
        content: &mut Content,
        until: u64,
    ) -> Result<(), FsError> {
        let headers = self.headers_begun(node);
        while let Content::Stream(writer) = content
            && writer.length() < until
        {
            let length = (until - writer.length()).min(ZEROS.len() as u64);
            let zeros = &ZEROS[..length as usize];
            self.have_watched(node, writer);
            match writer.write(zeros, &headers).await {
                Ok(Taken::All) => {
                    self.keep_written(node, content, zeros);
                    // They count at once: what is acknowledged need not be kept when it is stored.
                    self.grown_by_zeros(node, content);
                }
                Ok(Taken::NoRoom) => break,
                Err(error) => {
                    let error = FsError::from(error);
                    self.lose(node, content, &error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn grown_by_zeros(&self, node: &Node, content: &Content) {
        if let Content::Stream(writer) = content {
            let mut state = node.state.lock();
            let size = state.size.max(writer.length());
            self.changed(&mut state, size);
        }
        acknowledge(content);
    }

    /// What was written and had left is lost: whoever has it open is told, until the last close.
    pub(super) fn lose(&self, node: &Node, content: &mut Content, error: &FsError) {
        *content = Content::Lost(error.clone());
        self.keep_spare(node, content);
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
        } else {
            if matches!(&*content, Content::Stream(writer)
                if writer.length() < size
                    && size - writer.length() <= GAP
                    && writer.whole().is_none())
            {
                self.fill_with_zeros(node, content, size).await?;
            }
            if !matches!(&*content, Content::Stream(writer) if writer.length() == size) {
                self.make_overlay(node, content).await?.set_size(size);
            }
        }
        self.keep_spare(node, content);
        let mut state = node.state.lock();
        self.changed(&mut state, size);
        state.opened = None;
        drop(state);
        acknowledge(content);
        Ok(())
    }

    pub(super) async fn fallocate(
        &self,
        handle: HandleId,
        offset: u64,
        length: u64,
        mode: FallocateMode,
    ) -> Result<(), FsError> {
        let handle = self.handle(handle)?;
        let node = &handle.node;
        if !handle.mode.write {
            return Err(FsError::BadHandle);
        }
        let end =
            offset.checked_add(length).filter(|end| *end <= LARGEST).ok_or(FsError::TooBig)?;
        let _paths = self.paths.read().await;
        let mut content = self.content_of(node).await;
        handle.check()?;
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
        let overlay = self.make_overlay(node, &mut content).await?;
        overlay.set_size(grown);
        if zeroes {
            overlay.zero(ByteRange::new(offset, length));
        }
        self.keep_spare(node, &content);
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
            let mut content = self.content_of(node).await;
            // What has left can be read only when it has arrived.
            if matches!(&*content, Content::Stream(writer) if writer.whole().is_none()) {
                drop(content);
                self.publish(node).await?;
                content = self.content_of(node).await;
            }
            match &*content {
                Content::Clean => {}
                Content::Stream(writer) => {
                    let left = || FsError::io("it is being written again: try again");
                    let whole = writer.whole().ok_or_else(left)?;
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
        let base = match pieces.iter().any(|(_, source)| *source == Source::Base) {
            true => Some(self.base(node)?),
            false => None,
        };
        for (piece, source) in pieces {
            let parts = self.piece(overlay, base.as_ref(), piece, source).await?;
            parts.iter().for_each(|part| whole.extend_from_slice(part));
        }
        Ok(whole.freeze())
    }

    /// The object below a changed file: its path and its mark.
    pub(super) fn base(&self, node: &Node) -> Result<(String, ETag), FsError> {
        let found = node.state.lock().found.clone();
        let found = found.ok_or_else(|| FsError::stale("the file was removed meanwhile"))?;
        Ok((self.path(node)?, found.etag))
    }

    /// The bytes of a piece of a changed file. Fetching them goes on also while nobody waits for it.
    pub(super) async fn piece(
        &self,
        overlay: &Overlay,
        base: Option<&(String, ETag)>,
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
                let (path, etag) = base
                    .cloned()
                    .ok_or_else(|| FsError::stale("the file was removed meanwhile"))?;
                let tree = self.tree.clone();
                let fetch = tokio::spawn(async move { tree.read(&path, &etag, piece).await });
                let parts = fetch.await.map_err(FsError::io)??;
                let length: usize = parts.iter().map(Bytes::len).sum();
                if length as u64 != piece.length() {
                    return Err(FsError::io("the store has fewer bytes than it told"));
                }
                Ok(parts)
            }
        }
    }
}

/// What was written is written down by now.
fn acknowledge(content: &Content) {
    if let Content::Stream(writer) = content {
        writer.acknowledge();
    }
}

/// Whether these bytes are there already.
fn has(whole: &[u8], offset: u64, bytes: &[u8]) -> bool {
    let there = usize::try_from(offset).ok().and_then(|offset| whole.get(offset..));
    !bytes.is_empty() && there.is_some_and(|there| there.starts_with(bytes))
}
