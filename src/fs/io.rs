//! Open files: reading, writing, and everything else that concerns bytes.

use super::core::{FileSystem, map_missing};
use super::errno::FsError;
use super::inode::Inode;
use super::reading::Reading;
use super::types::{FallocateMode, HandleId, Ino, OpenMode, SeekWhence};
use crate::units::{ByteRange, FileId};
use crate::volume::native::extents::Piece;
use crate::volume::native::record::SIZE_LIMIT;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// The unit in which memory for sealed segments is counted.
pub(super) const SEALING_UNIT: u64 = 1 << 20;
/// The largest read-ahead window.
pub(super) const PREFETCH_LIMIT: u64 = 32 << 20;

/// An open file.
pub(super) struct FileHandleState {
    pub(super) inode: Arc<Inode>,
    pub(super) mode: OpenMode,
    pub(super) reading: Mutex<Reading>,
    /// The inode's failures that this handle has reported.
    pub(super) failures_seen: Mutex<u64>,
    /// Whose segments stay as long as it is open.
    pub(super) pinned: Mutex<Vec<FileId>>,
}

impl FileSystem {
    /// Reads from an inode, dirty data over stored data.
    pub(super) async fn read_inode(
        self: &Arc<Self>,
        inode: &Inode,
        offset: u64,
        size: u64,
    ) -> Result<Bytes, FsError> {
        let id = inode.file()?;
        let (range, dirty, pieces) = {
            let state = inode.state.lock();
            let body = state.file()?;
            let range = ByteRange::between(offset, offset.saturating_add(size).min(body.size));
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            let map = body.map.as_ref().ok_or_else(map_missing)?;
            // Copied under the lock: a later write may change them in place.
            let dirty: Vec<_> = body
                .dirty
                .overlay(range)
                .into_iter()
                .map(|(range, bytes)| (range, Bytes::copy_from_slice(bytes)))
                .collect();
            let mut pieces = Vec::new();
            let mut at = range.offset();
            for (covered, _) in &dirty {
                let gap = ByteRange::between(at, covered.offset());
                if !gap.is_empty() {
                    pieces.extend(map.lookup(gap));
                }
                at = covered.end();
            }
            let gap = ByteRange::between(at, range.end());
            if !gap.is_empty() {
                pieces.extend(map.lookup(gap));
            }
            (range, dirty, pieces)
        };
        let ranges: Vec<ByteRange> = pieces.iter().map(|(range, _)| *range).collect();
        let stored = self.volume.read_pieces(id, pieces).await?;
        if dirty.is_empty() && stored.len() == 1 {
            return Ok(stored.into_iter().next().unwrap_or_default());
        }
        let mut result = vec![0; range.length() as usize];
        let mut put = |at: u64, bytes: &[u8]| {
            let start = (at - range.offset()) as usize;
            result[start..start + bytes.len()].copy_from_slice(bytes);
        };
        // A run of several segments comes back as several pieces of bytes.
        let mut stored = stored.into_iter();
        for range in ranges {
            let mut at = range.offset();
            while at < range.end() {
                let bytes = stored.next().ok_or_else(|| FsError::io("short read"))?;
                put(at, &bytes);
                at += bytes.len() as u64;
            }
        }
        for (range, bytes) in dirty {
            put(range.offset(), &bytes);
        }
        Ok(result.into())
    }

    /// Writes without waiting, straight from the kernel's buffer; `None` if there is no room now.
    pub fn try_write(
        self: &Arc<Self>,
        _ino: Ino,
        handle: HandleId,
        offset: u64,
        data: &[u8],
    ) -> Option<Result<u32, FsError>> {
        let file = match self.file(handle) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        if file.mode.sync {
            return None;
        }
        match self.write_some(&file, offset, data) {
            Ok(written) if written == data.len() => Some(Ok(written as u32)),
            // The slow path writes it all again: the same bytes at the same place.
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Writes, waiting for room in memory where it must. O_SYNC handles store before this returns.
    pub async fn write(
        self: &Arc<Self>,
        handle: HandleId,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<u32, FsError> {
        let file = self.file(handle)?;
        let mut done = 0;
        while done < data.len() {
            let room = self.room.notified();
            done += self.write_some(&file, offset + done as u64, &data[done..])?;
            if done < data.len() {
                self.make_room();
                // Bounded: uploads end by the time-out of the store's retries.
                tokio::select! {
                    () = room => {}
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
            }
        }
        if file.mode.sync {
            self.store_inode(&file.inode).await?;
        }
        Ok(data.len() as u32)
    }

    fn write_some(
        self: &Arc<Self>,
        file: &FileHandleState,
        offset: u64,
        data: &[u8],
    ) -> Result<usize, FsError> {
        if offset.saturating_add(data.len() as u64) > SIZE_LIMIT {
            return Err(FsError::TooBig);
        }
        let id = file.inode.file()?;
        let now = self.now();
        let written = {
            let mut state = file.inode.state.lock();
            if state.lost {
                return Err(bytes_lost());
            }
            // Another file may have the id that this one had before it was kept beside that.
            let id = state.kept_as.unwrap_or(id);
            let body = state.file_mut()?;
            let written = body.dirty.write(&self.arena, id, offset, data);
            if written > 0 {
                body.size = body.size.max(offset + written as u64);
                // Not every kernel drops what it has of the range that is written past its cache.
                body.in_page_cache &= !file.mode.direct;
                state.attributes.mtime = now;
                state.attributes.ctime = now;
                // As a local disk does: who writes to a set-id program without being root ends its
                // privilege; the kernel asks for that by SETATTR.
                state.modified += 1;
            }
            written
        };
        self.upload_full_segments(&file.inode);
        Ok(written)
    }

    /// Reserves or frees space. Reserving changes sizes only: the store has room without end.
    pub async fn fallocate(
        self: &Arc<Self>,
        _ino: Ino,
        handle: HandleId,
        offset: u64,
        length: u64,
        mode: FallocateMode,
    ) -> Result<(), FsError> {
        let file = self.file(handle)?;
        let range = ByteRange::checked(offset, length)
            .filter(|range| range.end() <= SIZE_LIMIT)
            .ok_or(FsError::TooBig)?;
        let now = self.now();
        let mut state = file.inode.state.lock();
        let body = state.file_mut()?;
        let (punch, extend) = match mode {
            FallocateMode::Allocate => (false, true),
            FallocateMode::KeepSize => (false, false),
            FallocateMode::PunchHole | FallocateMode::ZeroRangeKeepSize => (true, false),
            FallocateMode::ZeroRange => (true, true),
        };
        if punch {
            let inside = range.intersection(ByteRange::new(0, body.size));
            if !inside.is_empty() {
                body.cut(inside)?;
            }
        }
        if extend {
            body.size = body.size.max(range.end());
            body.settled_size = body.size;
        }
        if punch || extend {
            state.attributes.mtime = now;
            state.attributes.ctime = now;
            state.modified += 1;
        }
        Ok(())
    }

    /// The next data or hole at or after `offset`.
    pub async fn lseek(
        &self,
        _ino: Ino,
        handle: HandleId,
        offset: u64,
        whence: SeekWhence,
    ) -> Result<u64, FsError> {
        let file = self.file(handle)?;
        let state = file.inode.state.lock();
        let body = state.file()?;
        if offset >= body.size {
            return Err(FsError::NoSuchOffset);
        }
        let map = body.map.as_ref().ok_or_else(map_missing)?;
        let rest = ByteRange::between(offset, body.size);
        match whence {
            SeekWhence::Data => {
                let stored = map.next_data(offset);
                let dirty = body.dirty.next_data(offset);
                let next = [stored, dirty].into_iter().flatten().min();
                next.filter(|&next| next < body.size).ok_or(FsError::NoSuchOffset)
            }
            SeekWhence::Hole => {
                let mut at = offset;
                loop {
                    let next = body.dirty.next_hole(map.next_hole(at));
                    if next == at || next >= rest.end() {
                        return Ok(next.min(rest.end()));
                    }
                    at = next;
                }
            }
        }
    }

    /// Copies bytes from one file to another; segments are shared where whole ones line up.
    pub async fn copy_file_range(
        self: &Arc<Self>,
        from: (Ino, HandleId, u64),
        to: (Ino, HandleId, u64),
        length: u64,
    ) -> Result<u64, FsError> {
        let (source, target) = (self.file(from.1)?, self.file(to.1)?);
        // One request copies a bounded part; the kernel asks again for the rest.
        let length = length.min(PREFETCH_LIMIT);
        let (source_file, target_file) = (source.inode.file()?, target.inode.file()?);
        if to.2.saturating_add(length) > SIZE_LIMIT {
            return Err(FsError::TooBig);
        }
        let end = {
            let state = source.inode.state.lock();
            from.2.saturating_add(length).min(state.file()?.size)
        };
        let mut at = from.2;
        while at < end {
            let shared = self.share(&source.inode, &target.inode, at, to.2 + (at - from.2), end)?;
            if shared > 0 {
                at += shared;
                self.pin_too(&source, &target);
                continue;
            }
            let bytes = self.read_inode(&source.inode, at, (end - at).min(SEALING_UNIT)).await?;
            if bytes.is_empty() {
                break;
            }
            let offset = to.2 + (at - from.2);
            at += bytes.len() as u64;
            self.write(to.1, offset, bytes.to_vec()).await?;
        }
        debug_assert!(source_file != target_file || from.2 != to.2 || length == 0);
        Ok(at - from.2)
    }

    /// Shares stored segments from `at` on with another file; returns the bytes shared, 0 if the bytes
    /// there must be copied.
    fn share(
        &self,
        source: &Inode,
        target: &Inode,
        at: u64,
        to: u64,
        end: u64,
    ) -> Result<u64, FsError> {
        const WORTH_IT: u64 = 64 << 10;
        let owner = source.file()?;
        let piece = {
            let state = source.state.lock();
            let body = state.file()?;
            let map = body.map.as_ref().ok_or_else(map_missing)?;
            let range = ByteRange::between(at, end);
            let clean_until = body.dirty.next_data(at).unwrap_or(u64::MAX).min(range.end());
            map.lookup(ByteRange::between(at, clean_until)).into_iter().next()
        };
        let Some((range, Some(Piece::Segments(mut run)))) = piece else { return Ok(0) };
        if range.length() < WORTH_IT {
            return Ok(0);
        }
        let now = self.now();
        let mut state = target.state.lock();
        if target.file()? != run.owner.unwrap_or(owner) {
            run.owner = Some(run.owner.unwrap_or(owner));
        } else {
            run.owner = None;
        }
        let body = state.file_mut()?;
        let place = ByteRange::new(to, range.length());
        body.cut(place)?;
        body.put(place, Piece::Segments(run));
        body.size = body.size.max(place.end());
        body.settled_size = body.settled_size.max(place.end());
        state.attributes.mtime = now;
        state.attributes.ctime = now;
        state.modified += 1;
        Ok(range.length())
    }

    /// Sets a file's size: what lies beyond is gone, what is new reads as zeros.
    pub(super) async fn set_size(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        size: u64,
    ) -> Result<(), FsError> {
        if size > SIZE_LIMIT {
            return Err(FsError::TooBig);
        }
        let _pin = inode.pin();
        self.load_map(inode).await?;
        let now = self.now();
        let mut state = inode.state.lock();
        let body = state.file_mut()?;
        if size < body.size {
            body.cut(ByteRange::between(size, u64::MAX))?;
        }
        body.size = size;
        body.settled_size = size;
        state.attributes.mtime = now;
        state.attributes.ctime = now;
        state.modified += 1;
        drop(state);
        self.room.notify_waiters();
        Ok(())
    }

    pub(super) fn file(&self, handle: HandleId) -> Result<Arc<FileHandleState>, FsError> {
        self.files.lock().get(&handle).cloned().ok_or(FsError::BadHandle)
    }

    /// Failures of this inode that this handle has not reported yet.
    pub(super) fn unreported(&self, file: &FileHandleState) -> Result<(), FsError> {
        let state = file.inode.state.lock();
        if state.lost {
            return Err(bytes_lost());
        }
        let mut seen = file.failures_seen.lock();
        if *seen == state.failures {
            return Ok(());
        }
        // Who lost against another node is told at every close: the first may have been that of a child
        // process at its exec, which nobody looks at.
        if !matches!(state.failure, Some(FsError::Stale { .. })) {
            *seen = state.failures;
        }
        state.failure.clone().map_or(Ok(()), Err)
    }
}

/// What is said of a file of which a former process took accepted bytes with it: at every write, fsync and
/// close, as long as it is open.
pub(super) fn bytes_lost() -> FsError {
    FsError::io("bytes that were written before the server was restarted are lost")
}
