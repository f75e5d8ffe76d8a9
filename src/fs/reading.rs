//! Reading by a handle, whose read-ahead window grows while it reads on.
//!
//! Two things go on ahead of who reads on: segments are fetched, sealed, into the volume's cache; and the
//! next piece is opened, so that one core opens while another hands over what was opened before.

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::{Inode, State};
use super::io::{FileHandleState, PREFETCH_LIMIT};
use super::types::{HandleId, Ino};
use crate::store::ETag;
use crate::units::ByteRange;
use crate::volume::native::extents::Piece;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

/// Reads that are smaller than this are small pieces.
const SMALL_READ: u64 = 64 << 10;
/// Prefetches begin and end at multiples of this.
const PREFETCH_UNIT: u64 = 8 << 20;
/// The kernel's own read-ahead asks for several parts at once, not strictly in order: how far apart they
/// may be before anything was prefetched. Of random reads in a big file few come as near as that.
const OUT_OF_ORDER: u64 = 2 << 20;
/// Small reads that follow one another before anything is prefetched for them: random ones do not.
const SMALL_IN_ORDER: u32 = 2;

/// Bytes that are opened at once ahead of a handle.
const OPENED_UNIT: u64 = 1 << 20;
/// Reads that followed one another before anything is opened ahead for them.
const OPENED_IN_ORDER: u32 = 2;

/// How a handle reads: its read-ahead window grows while it reads on, and closes when it jumps.
#[derive(Default)]
pub(super) struct Reading {
    next: u64,
    /// Reads that followed one another until now.
    in_order: u32,
    window: u64,
    prefetched: u64,
    pub(super) small: u32,
    pub(super) large: u32,
    /// What was opened ahead: one piece after the other, the first where the next read is expected.
    opened: VecDeque<Opened>,
}

/// A piece that is opened ahead of its reader.
struct Opened {
    range: ByteRange,
    content: Content,
    bytes: Bytes,
    /// The task that opens it, until it has.
    opening: Option<JoinHandle<Option<Bytes>>>,
    /// Memory that it may take.
    permit: OwnedSemaphorePermit,
}

/// Which content of a file was opened: another one is not what was read ahead.
#[derive(Clone, PartialEq, Eq)]
struct Content {
    modified: u64,
    stored: Option<ETag>,
}

impl Content {
    fn of(state: &State) -> Self {
        let stored = state.home.as_ref().map(|home| home.etag.clone());
        Self { modified: state.modified, stored }
    }
}

/// Memory for pieces opened ahead, of all handles together.
pub(super) fn room_for_opened(bytes: u64) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes / OPENED_UNIT) as usize))
}

impl FileSystem {
    /// Reads up to `size` bytes; fewer only at the end of the file.
    pub async fn read(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        size: u32,
    ) -> Result<Bytes, FsError> {
        let file = self.file(handle)?;
        self.read_ahead(&file, offset, size.into());
        let inode = self.inode(ino).unwrap_or_else(|_| file.inode.clone());
        let bytes = match self.take_opened(&file, &inode, offset, size.into()).await {
            Some(bytes) => bytes,
            None => self.read_inode(&inode, offset, size.into()).await?,
        };
        self.open_ahead(&file, &inode, offset + bytes.len() as u64);
        Ok(bytes)
    }

    /// What was opened ahead for this read; `None` if it was not, or not all of it.
    async fn take_opened(
        &self,
        file: &FileHandleState,
        inode: &Arc<Inode>,
        offset: u64,
        size: u64,
    ) -> Option<Bytes> {
        let content = Content::of(&inode.state.lock());
        let mut taken = Vec::new();
        {
            let opened = &mut file.reading.lock().opened;
            let first = opened.front()?;
            if first.range.offset() != offset || first.content != content {
                // Who jumps, or wrote, begins anew.
                opened.clear();
                return None;
            }
            let mut at = offset;
            while at < offset + size
                && let Some(next) = opened.pop_front_if(|next| next.range.offset() == at)
            {
                at = next.range.end();
                taken.push(next);
            }
        }
        let mut whole = Vec::new();
        let mut at = offset;
        let end = offset + size;
        for Opened { range, content, bytes, opening, permit } in taken {
            let bytes = match opening {
                // A failure is told by reading it again.
                Some(opening) => opening.await.ok().flatten()?,
                None => bytes,
            };
            let wanted = (end - at).min(bytes.len() as u64);
            let at_end = (bytes.len() as u64) < range.length();
            whole.push(bytes.slice(..wanted as usize));
            at += wanted;
            if wanted < bytes.len() as u64 {
                let range = ByteRange::between(range.offset() + wanted, range.end());
                let bytes = bytes.slice(wanted as usize..);
                let rest = Opened { range, content, bytes, opening: None, permit };
                file.reading.lock().opened.push_front(rest);
            }
            if at == end || at_end {
                return Some(match <[Bytes; 1]>::try_from(whole) {
                    Ok([bytes]) => bytes,
                    Err(parts) => parts.concat().into(),
                });
            }
        }
        None
    }

    /// Opens the next piece for a handle that reads on, beginning at `next`.
    fn open_ahead(self: &Arc<Self>, file: &FileHandleState, inode: &Arc<Inode>, next: u64) {
        let content = {
            let state = inode.state.lock();
            match state.file() {
                Ok(body) if next < body.size => Content::of(&state),
                _ => return,
            }
        };
        let mut reading = file.reading.lock();
        if reading.in_order < OPENED_IN_ORDER || reading.next != next {
            return;
        }
        let from = reading.opened.back().map_or(next, |last| last.range.end());
        if from >= next + OPENED_UNIT {
            return;
        }
        let Ok(permit) = self.opened_ahead.clone().try_acquire_owned() else { return };
        let range = ByteRange::new(from, OPENED_UNIT);
        let opening = {
            let (fs, inode) = (self.clone(), inode.clone());
            self.runtime.spawn(async move {
                fs.read_inode(&inode, range.offset(), range.length()).await.ok()
            })
        };
        reading.opened.push_back(Opened {
            range,
            content,
            bytes: Bytes::new(),
            opening: Some(opening),
            permit,
        });
    }

    /// Prefetches for a handle that reads on.
    fn read_ahead(self: &Arc<Self>, file: &FileHandleState, offset: u64, size: u64) {
        let (from, to) = {
            let mut reading = file.reading.lock();
            if size < SMALL_READ {
                reading.small = reading.small.saturating_add(1);
            } else {
                reading.large = reading.large.saturating_add(1);
            }
            let reach = if reading.window > 0 { PREFETCH_UNIT } else { OUT_OF_ORDER };
            let near = offset.abs_diff(reading.next) <= reach && (offset > 0 || size > 0);
            if !near {
                let Reading { small, large, .. } = *reading;
                *reading = Reading { next: offset + size, small, large, ..Reading::default() };
                return;
            }
            if offset + size <= reading.next {
                return;
            }
            reading.next = offset + size;
            reading.in_order = reading.in_order.saturating_add(1);
            if size < SMALL_READ && reading.in_order < SMALL_IN_ORDER {
                return;
            }
            reading.window = (reading.window * 2).clamp(PREFETCH_UNIT, PREFETCH_LIMIT);
            let end = (reading.next + reading.window).next_multiple_of(PREFETCH_UNIT);
            if end < reading.prefetched + PREFETCH_UNIT {
                return;
            }
            let from = reading.prefetched.max(reading.next);
            reading.prefetched = end;
            (from, end)
        };
        let Ok(id) = file.inode.file() else { return };
        let pieces = {
            let state = file.inode.state.lock();
            let Ok(body) = state.file() else { return };
            let Some(map) = &body.map else { return };
            let range = ByteRange::between(from, to.min(body.size));
            if range.is_empty() {
                return;
            }
            map.lookup(range)
        };
        for (range, piece) in pieces {
            if let Some(Piece::Segments(run)) = piece {
                self.volume.prefetch(id, &run, range.length());
            }
        }
    }
}
