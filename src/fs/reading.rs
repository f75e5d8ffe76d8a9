//! How a handle reads: its read-ahead window grows while it reads on, and what was opened beyond a
//! request is kept for the next one.

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::State;
use super::io::{FileHandleState, PREFETCH_LIMIT};
use super::types::{HandleId, Ino};
use crate::crypto::CHUNK;
use crate::store::ETag;
use crate::units::ByteRange;
use crate::volume::native::extents::Piece;
use bytes::Bytes;
use std::sync::Arc;

/// Reads that are smaller than this are small pieces.
const SMALL_READ: u64 = 64 << 10;
/// Prefetches begin and end at multiples of this.
const PREFETCH_UNIT: u64 = 8 << 20;

/// How a handle reads: its read-ahead window grows while it reads on, and closes when it jumps.
#[derive(Default)]
pub(super) struct Reading {
    next: u64,
    window: u64,
    prefetched: u64,
    pub(super) small: u32,
    pub(super) large: u32,
    rest: Option<Rest>,
}

/// The rest of a chunk of which a reader wanted the beginning: opened already, and asked for next. The
/// kernel makes two requests of a large read into a buffer that does not begin at a page.
struct Rest {
    offset: u64,
    bytes: Bytes,
    version: Version,
}

/// What an inode's bytes depend on.
#[derive(PartialEq)]
struct Version {
    modified: u64,
    home: Option<ETag>,
}

impl Version {
    fn of(state: &State) -> Self {
        let home = state.home.as_ref().map(|home| home.etag.clone());
        Self { modified: state.modified, home }
    }
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
        let size = u64::from(size);
        let end = offset.saturating_add(size);
        let whole = end.checked_next_multiple_of(CHUNK).unwrap_or(end);
        if size < SMALL_READ || whole == end {
            return self.read_inode(&inode, offset, size).await;
        }
        let version = Version::of(&inode.state.lock());
        let mut bytes = self.read_inode(&inode, offset, whole - offset).await?;
        let wanted = bytes.len().min(size as usize);
        let rest = bytes.split_off(wanted);
        // A copy, so that a few bytes do not keep a megabyte.
        let rest = (!rest.is_empty()).then(|| Bytes::copy_from_slice(&rest));
        file.reading.lock().rest = rest.map(|bytes| Rest { offset: end, bytes, version });
        Ok(bytes)
    }

    /// Reads what is at hand without waiting or opening anything; `None` if that is nothing.
    pub fn try_read(&self, ino: Ino, handle: HandleId, offset: u64, size: u32) -> Option<Bytes> {
        let file = self.file(handle).ok()?;
        let mut reading = file.reading.lock();
        let rest = reading
            .rest
            .take_if(|rest| rest.offset == offset && rest.bytes.len() >= size as usize)?;
        let is_current =
            file.inode.ino == ino && Version::of(&file.inode.state.lock()) == rest.version;
        if !is_current {
            return None;
        }
        reading.next = reading.next.max(offset + u64::from(size));
        Some(rest.bytes.slice(..size as usize))
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
            // The kernel's own read-ahead asks for several parts at once, not strictly in order.
            let near = offset.abs_diff(reading.next) <= PREFETCH_UNIT && (offset > 0 || size > 0);
            if !near {
                let Reading { small, large, .. } = *reading;
                *reading = Reading { next: offset + size, small, large, ..Reading::default() };
                return;
            }
            if offset + size <= reading.next {
                return;
            }
            reading.next = offset + size;
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
