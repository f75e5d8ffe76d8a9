//! Stored bytes that are stored once more, in other segments: many small ones as one, and those that
//! may be swept since the session that stored them was declared dead.
//!
//! Crash story: until the record is published, new segments are garbage and the record refers to the
//! old ones; after it the old ones are garbage. Nothing is taken from the map before the new bytes are
//! stored, and only where the map still says what was read.

use super::core::{FileSystem, map_missing};
use super::errno::FsError;
use super::inode::Inode;
use super::publish::segment_length;
use crate::units::{ByteRange, FileId};
use crate::volume::VolumeError;
use crate::volume::native::extents::{ExtentMap, Piece};
use crate::volume::native::record::{FileContent, SegmentRun, Source};
use std::sync::Arc;

/// Small segments at the end of a file that are merged at once; so many may be there at any time of
/// each size, and so much bigger is what becomes of them: a byte is stored again at most three times.
const MERGED: usize = 8;
/// The smallest size that is told apart.
const SMALLEST: u64 = 64 << 10;

impl FileSystem {
    /// Merges the small segments that a file has at its end if there are many: a file that is appended to
    /// with an fsync after each line would else have one of each. A failure is no harm: the file is
    /// stored as it is.
    pub(super) async fn merge_small_segments(self: &Arc<Self>, inode: &Arc<Inode>, file: FileId) {
        let due = {
            let state = inode.state.lock();
            let Ok(body) = state.file() else { return };
            let Some(map) = &body.map else { return };
            to_merge(map, segment_length(body.size))
        };
        if let Some(range) = due
            && let Err(error) = self.store_again(inode, file, range).await
        {
            tracing::warn!(file = %inode.state.lock().place, "small segments not merged: {error}");
        }
    }

    /// Stores again what no record refers to and what was stored under a session that was declared dead
    /// since: it may be swept. An error if it is swept already; nothing was acknowledged of it.
    pub(super) async fn store_former_segments_again(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        file: FileId,
    ) -> Result<(), FsError> {
        let session = self.volume.session();
        if session.epoch() == 0 {
            return Ok(());
        }
        loop {
            let next = {
                let state = inode.state.lock();
                let body = state.file()?;
                let map = body.map.as_ref().ok_or_else(map_missing)?;
                let doubtful = map.runs().find(|(_, run)| {
                    session.is_former(run.first.session) && !refers_to(&body.stored, run)
                });
                let limit = segment_length(body.size);
                doubtful.map(|(range, _)| ByteRange::new(range.offset(), range.length().min(limit)))
            };
            let Some(range) = next else { return Ok(()) };
            self.store_again(inode, file, range).await?;
        }
    }

    /// Reads what is stored of a range, in which there is no hole, and stores it as one new segment.
    async fn store_again(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        file: FileId,
        range: ByteRange,
    ) -> Result<(), VolumeError> {
        let (pieces, number) = {
            let mut state = inode.state.lock();
            let Ok(body) = state.file_mut() else { return Ok(()) };
            let Some(map) = &body.map else { return Ok(()) };
            (map.lookup(range), body.numbers.take(self.volume.session()))
        };
        let parts = self.volume.read_pieces(file, pieces.clone()).await?;
        let (_, run) = self.volume.upload(file, number, parts).await;
        let run = run?;
        let mut state = inode.state.lock();
        let Ok(body) = state.file_mut() else { return Ok(()) };
        for (range_of_piece, piece) in pieces {
            let Some(map) = &body.map else { return Ok(()) };
            // Not what was written over meanwhile.
            let same = map.lookup(range_of_piece) == [(range_of_piece, piece)];
            if same {
                let start = range_of_piece.offset() - range.offset();
                body.put(range_of_piece, Piece::Segments(SegmentRun { start, ..run.clone() }));
            }
        }
        Ok(())
    }
}

/// The end of a file that is worth merging: at least [`MERGED`] segments of one size or smaller.
fn to_merge(map: &ExtentMap, limit: u64) -> Option<ByteRange> {
    let small = map.trailing_segments(limit / 2);
    let merged = MERGED as u64;
    let (mut from, mut due) = (0, None);
    let mut to = SMALLEST * merged;
    while to / merged < limit / 2 {
        let smaller = small.iter().take_while(|part| part.length() < to);
        // What is smaller still goes along, but is no reason to store the bigger ones again.
        if smaller.clone().filter(|part| part.length() >= from).count() >= MERGED {
            due = Some(smaller.count());
        }
        (from, to) = (to, to * merged);
    }
    let (last, mut first) = (small.first()?, small.first()?);
    for part in &small[..due?] {
        if last.end() - part.offset() > limit {
            break;
        }
        first = part;
    }
    Some(ByteRange::between(first.offset(), last.end()))
}

/// Whether a record refers to every segment of a run outside its pages.
fn refers_to(content: &FileContent, run: &SegmentRun) -> bool {
    content.extents.iter().any(|extent| match &extent.source {
        Source::Segments(stored) => {
            stored.first.session == run.first.session
                && stored.owner == run.owner
                && stored.first.counter <= run.first.counter
                && run.first.counter + u64::from(run.count)
                    <= stored.first.counter + u64::from(stored.count)
        }
        Source::Inline(_) => false,
    })
}
