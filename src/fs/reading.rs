//! Reading by a handle, whose read-ahead window grows while it reads on.

use super::core::FileSystem;
use super::errno::FsError;
use super::io::{FileHandleState, PREFETCH_LIMIT};
use super::types::{HandleId, Ino};
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
        self.read_inode(&inode, offset, size.into()).await
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
