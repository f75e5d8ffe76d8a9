//! The bytes of files that are being written from front to back and are not stored yet, once more, where whoever takes
//! over finds them: of short ones all, of long ones those that the store does not have (`unfinished.rs` says which it
//! has). What is changed in its middle has a scratch file, which goes with its process.
//!
//! Crash story: bytes are here before the node's new size is written down, and that before the write is answered. A
//! process that is killed in between leaves more than the size says, which is cut off, since the kernel sends that
//! write again; what does not reach up to the size is no file, and is told as lost. Bytes go from here when it is
//! written down that the store has them; the last ones stay, since a write whose answer was not sent comes again and
//! is known by them.

use super::ObjectFs;
use super::content::Content;
use super::table::Node;
use crate::fs::arena::{Arena, Run};
use crate::fs::types::Ino;
use crate::units::FileId;
use crate::volume::objects::Writer;
use std::sync::Arc;

/// How much room is taken at once for a file that grows.
const STEP: usize = 1 << 20;
/// Bytes that stay: more than one write has.
const LAST: u64 = 2 << 20;

/// A file's bytes, in order: from its beginning on, or those that the store does not have.
#[derive(Default)]
pub(super) struct Spare {
    runs: Vec<Run>,
    /// Where in the file they end.
    end: u64,
    /// Which writer's bytes they are, 0 for none's.
    writer: u64,
    /// What [`State::spare`](super::table::State::spare) says of them: a process that fails to take over may leave
    /// the same bytes once more.
    number: u64,
}

/// How the arena calls a node's bytes.
fn file_id(ino: Ino, number: u64) -> FileId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&ino.0.to_le_bytes());
    id[8..].copy_from_slice(&number.to_le_bytes());
    FileId(id)
}

/// Whose bytes a run has, and what they are called.
pub(super) fn owner_of(run: &Run) -> (Ino, u64) {
    let FileId(id) = run.file();
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&id[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    (Ino(number(0)), number(8))
}

fn end_of(run: &Run) -> u64 {
    run.offset() + run.len() as u64
}

impl Spare {
    /// What a former process left of a file of this size; `None` if that has a gap or does not reach up to its end.
    pub(super) fn adopted(mut runs: Vec<Run>, number: u64, size: u64) -> Option<Self> {
        // What was written, and nobody was told so. It may be cut off the first of them already, by a process that was
        // killed before this one and left the others.
        runs.retain(|run| run.offset() < size);
        runs.sort_by_key(|run| (run.offset(), run.sequence()));
        if let Some(last) = runs.last_mut() {
            last.truncate(usize::try_from(size - last.offset()).ok()?);
        }
        // None are left where the store has all that was acknowledged.
        let mut end = runs.first().map_or(size, Run::offset);
        for run in &runs {
            if run.offset() != end {
                return None;
            }
            end = end_of(run);
        }
        (end == size).then_some(Self { runs, end, writer: 0, number })
    }

    /// Where in the file they begin.
    pub(super) fn start(&self) -> u64 {
        self.runs.first().map_or(self.end, Run::offset)
    }

    /// Where in the file they end.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Those from a place on.
    pub(super) fn from(&self, start: u64) -> impl Iterator<Item = &[u8]> {
        self.runs.iter().filter_map(move |run| {
            let skipped = usize::try_from(start.saturating_sub(run.offset())).ok()?;
            run.bytes().get(skipped..).filter(|bytes| !bytes.is_empty())
        })
    }

    /// Whether they have these bytes at a place.
    pub(super) fn has(&self, start: u64, mut bytes: &[u8]) -> bool {
        if start < self.start() {
            return false;
        }
        for known in self.from(start) {
            let (now, later) = bytes.split_at(bytes.len().min(known.len()));
            if !known.starts_with(now) {
                return false;
            }
            bytes = later;
        }
        bytes.is_empty()
    }

    /// Whether they are all bytes of a writer that the store is not known to have.
    pub(super) fn is_all_of(&self, writer: &Writer) -> bool {
        let is_its = self.writer == writer.id() && self.end == writer.length();
        match writer.whole() {
            Some(whole) => whole.is_empty() || is_its,
            None => is_its && !writer.has_failed(),
        }
    }

    /// The bytes before a place are in the store, which is written down.
    pub(super) fn stored(&mut self, writer: u64, until: u64) {
        if self.writer == writer {
            let until = until.min(self.end.saturating_sub(LAST));
            let count = self.runs.iter().take_while(|run| end_of(run) <= until).count();
            // From the first one on: a process that is killed meanwhile leaves no gap.
            self.runs.drain(..count).for_each(drop);
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds bytes; whether there was room for all.
    fn append(&mut self, arena: &Arc<Arena>, ino: Ino, mut data: &[u8]) -> bool {
        let file = file_id(ino, self.number);
        while !data.is_empty() {
            if self.runs.last().is_none_or(|run| run.room() == 0) {
                let wanted =
                    data.len().max(usize::try_from(self.end).map_or(STEP, |end| end.min(STEP)));
                let Some(run) = arena.allocate(file, self.end, wanted) else {
                    return false;
                };
                self.runs.push(run);
            }
            let Some(run) = self.runs.last_mut() else { return false };
            let count = run.append(data);
            self.end += count as u64;
            data = &data[count..];
        }
        true
    }
}

impl ObjectFs {
    /// Has a node's bytes kept for whoever takes over, as far as that can be. For whoever holds its content and has
    /// changed it, before it says so.
    pub(super) fn keep_spare(&self, node: &Node, content: &Content) {
        self.keep_written(node, content, &[]);
    }

    /// The same for whoever has added these bytes at its end.
    pub(super) fn keep_written(&self, node: &Node, content: &Content, written: &[u8]) {
        let Some(keep) = &self.keep else { return };
        let mut spare = node.spare.lock();
        let is_lost = matches!(content, Content::Lost(_));
        if is_lost != node.state.lock().lost {
            node.state.lock().lost = is_lost;
        }
        let Content::Stream(writer) = content else { return spare.clear() };
        let known = writer.length().saturating_sub(written.len() as u64);
        let goes_on = spare.writer == writer.id() && spare.end == known && !writer.has_failed();
        if goes_on {
            if !spare.append(&keep.arena, node.ino, written) {
                // A kill now loses it, and says so.
                tracing::debug!("{}: a kill would lose what is written to it", self.shown(node));
                spare.clear();
            }
            return;
        }
        let Some(whole) = writer.whole() else { return spare.clear() };
        // Whole before it counts, and what was there before goes after that.
        let number = keep.arena.next_sequence();
        let mut next = Spare { writer: writer.id(), number, ..Spare::default() };
        if !next.append(&keep.arena, node.ino, whole) {
            next.clear();
        }
        node.state.lock().spare = next.number;
        *spare = next;
    }

    /// Goes on with what a former process left of a node's bytes, which a writer has. For whoever holds its content.
    pub(super) fn adopt_spare(&self, node: &Node, writer: &Writer, adopted: Spare) {
        *node.spare.lock() = Spare { writer: writer.id(), ..adopted };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino(7);

    fn spare(arena: &Arc<Arena>, bytes: &[u8]) -> Spare {
        let mut spare = Spare { writer: 1, number: 3, ..Spare::default() };
        for part in bytes.chunks(300_000) {
            assert!(spare.append(arena, INO, part));
        }
        spare
    }

    fn all(spare: &Spare, start: u64) -> Vec<u8> {
        spare.from(start).flatten().copied().collect()
    }

    #[test]
    fn what_the_store_has_goes_and_the_last_bytes_stay() {
        let arena = Arc::new(Arena::create(32 << 20).expect("memory"));
        let bytes: Vec<u8> = (0..10_u32 << 20).map(|at| (at / 1000) as u8).collect();
        let mut spare = spare(&arena, &bytes);
        assert!(all(&spare, 0) == bytes && spare.start() == 0);
        spare.stored(2, 8 << 20);
        assert_eq!(spare.start(), 0);
        spare.stored(1, 5 << 20);
        let start = spare.start();
        assert!(start > 3 << 20 && start <= 5 << 20, "{start}");
        assert!(all(&spare, start) == bytes[start as usize..]);
        assert!(all(&spare, 6 << 20) == bytes[6 << 20..]);
        spare.stored(1, 10 << 20);
        assert!(spare.start() <= 8 << 20 && spare.end() == 10 << 20);
        let last = (bytes.len() - 500_000) as u64;
        assert!(spare.has(last, &bytes[last as usize..]));
        assert!(spare.has(last - 10, &bytes[last as usize - 10..][..700]));
        assert!(!spare.has(last, &bytes[last as usize - 700_000..][..500_000]));
        assert!(!spare.has(0, &bytes[..10]));
        let beyond = [&bytes[last as usize..], b"more"].concat();
        assert!(!spare.has(last, &beyond));
    }

    #[test]
    fn what_was_written_and_not_told_is_cut_off_and_a_gap_is_no_file() {
        let arena = Arc::new(Arena::create(32 << 20).expect("memory"));
        let bytes: Vec<u8> = (0..5_u32 << 20).map(|at| (at / 777) as u8).collect();
        for (cut, size) in
            [(0, 5 << 20), (0, 4_567_890), (0, 1 << 20), (0, 10), (2, 5 << 20), (2, 4_000_000)]
        {
            let mut left = spare(&arena, &bytes);
            left.runs.drain(..cut);
            let start = left.start();
            let Spare { runs, .. } = left;
            let adopted = Spare::adopted(runs, 3, size).expect("all of it");
            assert_eq!((adopted.start(), adopted.end()), (start, size));
            assert!(all(&adopted, start) == bytes[start as usize..size as usize], "{cut} {size}");
        }
        let Spare { mut runs, .. } = spare(&arena, &bytes);
        runs.remove(1);
        assert!(Spare::adopted(runs, 3, 5 << 20).is_none());
        let Spare { runs, .. } = spare(&arena, &bytes);
        assert!(Spare::adopted(runs, 3, (5 << 20) + 1).is_none());
        // Nothing of the file is here: the store may have it.
        let Spare { mut runs, .. } = spare(&arena, &bytes);
        runs.drain(..3);
        for (runs, size) in [(runs, 10), (Vec::new(), 7), (Vec::new(), 0)] {
            let adopted = Spare::adopted(runs, 3, size).expect("nothing");
            assert_eq!(
                (adopted.start(), adopted.end(), all(&adopted, 0)),
                (size, size, Vec::new())
            );
        }
    }

    #[test]
    fn a_process_that_is_killed_before_it_decides_leaves_the_same_to_the_next() {
        let arena = Arc::new(Arena::create(16 << 20).expect("memory"));
        let bytes: Vec<u8> = (0..5_u32 << 20).map(|at| (at / 555) as u8).collect();
        let left = spare(&arena, &bytes);
        std::mem::forget(left);
        let mut memory = arena.memory().try_clone_to_owned().expect("descriptor");
        for size in [3_456_789, 3_456_789, 2 << 20, 2 << 20, 1_000_000] {
            let (next, runs) = Arena::adopt(memory, 0).expect("an arena");
            let adopted = Spare::adopted(runs, 3, size).expect("all of it");
            assert!(all(&adopted, 0) == bytes[..size as usize]);
            memory = next.memory().try_clone_to_owned().expect("descriptor");
            // Its runs are not given back, since it has decided nothing.
            std::mem::forget(adopted);
        }
    }
}
