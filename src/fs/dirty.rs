//! The bytes of one file that are not stored yet, over whatever is: an ordered map of pieces that
//! never overlap, newest bytes only.
//!
//! A piece that is being stored (frozen) is not changed in place: newer bytes cut it, so that what is
//! left of it when its upload ends is exactly what the upload may be entered for.

use super::arena::{Arena, Run};
use crate::units::{ByteRange, FileId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A sequential writer gets runs of up to this size, so that its writes are one piece.
const RESERVE: usize = 256 << 10;

/// The map.
#[derive(Default)]
pub struct DirtyMap {
    pieces: BTreeMap<u64, Piece>,
    bytes: u64,
    frozen: u64,
    next_batch: u64,
}

struct Piece {
    run: Arc<Run>,
    /// Where the piece begins in the run.
    skip: usize,
    length: usize,
    /// The batch that stores it, and where the piece begins in that batch.
    frozen: Option<(u64, u64)>,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        &self.run.bytes()[self.skip..self.skip + self.length]
    }
}

/// Pieces on their way to the store: one segment. They stay readable in the map meanwhile.
pub struct FrozenBatch {
    id: u64,
    pieces: Vec<(ByteRange, Arc<Run>, usize)>,
}

impl FrozenBatch {
    /// The pieces in the order of the file; in the segment they lie back to back.
    pub fn pieces(&self) -> Vec<(ByteRange, &[u8])> {
        self.pieces
            .iter()
            .map(|(range, run, skip)| {
                (*range, &run.bytes()[*skip..*skip + range.length() as usize])
            })
            .collect()
    }

    /// Bytes in all.
    pub fn length(&self) -> u64 {
        self.pieces.iter().map(|(range, ..)| range.length()).sum()
    }
}

impl DirtyMap {
    /// Takes bytes in; returns how many found room in the arena (from the start of `data`).
    pub fn write(&mut self, arena: &Arc<Arena>, file: FileId, offset: u64, data: &[u8]) -> usize {
        if self.overwrite_in_place(offset, data) {
            return data.len();
        }
        let mut done = self.extend_in_place(offset, data);
        while done < data.len() {
            let at = offset + done as u64;
            let rest = &data[done..];
            let wanted = rest.len().max(self.reserve(at));
            let Some(mut run) = arena.allocate(file, at, wanted) else { break };
            let count = run.append(rest);
            self.cut(ByteRange::new(at, count as u64));
            let piece = Piece { run: Arc::new(run), skip: 0, length: count, frozen: None };
            self.insert(at, piece);
            done += count;
        }
        done
    }

    /// Takes over what another process wrote. Runs come in the order of their numbers.
    pub fn adopt(&mut self, run: Run) {
        let range = ByteRange::new(run.offset(), run.len() as u64);
        self.cut(range);
        let piece = Piece { length: run.len(), run: Arc::new(run), skip: 0, frozen: None };
        self.insert(range.offset(), piece);
    }

    /// The lowest number of a run that is still here; `None` if there is none.
    pub fn oldest(&self) -> Option<u64> {
        self.pieces.values().map(|piece| piece.run.sequence()).min()
    }

    /// Where the last dirty byte is followed by none.
    pub fn end(&self) -> u64 {
        self.pieces.last_key_value().map_or(0, |(start, piece)| start + piece.length as u64)
    }

    /// What is dirty of `range`, in order.
    pub fn overlay(&self, range: ByteRange) -> Vec<(ByteRange, &[u8])> {
        self.touching(range)
            .map(|(start, piece)| {
                let part = ByteRange::new(start, piece.length as u64).intersection(range);
                let skip = (part.offset() - start) as usize;
                (part, &piece.bytes()[skip..skip + part.length() as usize])
            })
            .collect()
    }

    /// What is not dirty of `range`, in order.
    pub fn holes(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut holes = Vec::new();
        let mut at = range.offset();
        for (start, piece) in self.touching(range) {
            if start > at {
                holes.push(ByteRange::between(at, start));
            }
            at = start + piece.length as u64;
        }
        if at < range.end() {
            holes.push(ByteRange::between(at, range.end()));
        }
        holes
    }

    /// The first dirty byte at or after `offset`.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        let mut touching = self.touching(ByteRange::between(offset, u64::MAX));
        touching.next().map(|(start, _)| start.max(offset))
    }

    /// The first byte at or after `offset` that is not dirty.
    pub fn next_hole(&self, mut offset: u64) -> u64 {
        for (start, piece) in self.touching(ByteRange::between(offset, u64::MAX)) {
            if start > offset {
                break;
            }
            offset = start + piece.length as u64;
        }
        offset
    }

    /// Forgets what lies at or beyond `size`.
    pub fn truncate(&mut self, size: u64) {
        self.cut(ByteRange::between(size, u64::MAX));
    }

    /// Forgets `range`, also where it is on its way to the store.
    pub fn punch(&mut self, range: ByteRange) {
        self.cut(range);
    }

    /// Bytes that are not stored, on their way or not.
    pub fn dirty_bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are not on their way.
    pub fn freezable_bytes(&self) -> u64 {
        self.bytes - self.frozen
    }

    /// Takes up to `limit` bytes that are not on their way, lowest offsets first; `None` if there are
    /// none.
    pub fn freeze(&mut self, limit: u64) -> Option<FrozenBatch> {
        let id = self.next_batch;
        let (mut length, mut chosen) = (0, Vec::new());
        for (&start, piece) in &self.pieces {
            if piece.frozen.is_some() {
                continue;
            }
            if length >= limit {
                break;
            }
            let take = (piece.length as u64).min(limit - length);
            chosen.push((start, take, length));
            length += take;
        }
        if chosen.is_empty() {
            return None;
        }
        self.next_batch += 1;
        let mut pieces = Vec::with_capacity(chosen.len());
        for (start, take, at) in chosen {
            let Some(piece) = self.pieces.get_mut(&start) else { continue };
            let rest = (take < piece.length as u64).then(|| {
                let rest = Piece {
                    run: piece.run.clone(),
                    skip: piece.skip + take as usize,
                    length: piece.length - take as usize,
                    frozen: None,
                };
                piece.length = take as usize;
                rest
            });
            piece.frozen = Some((id, at));
            pieces.push((ByteRange::new(start, take), piece.run.clone(), piece.skip));
            if let Some(rest) = rest {
                self.pieces.insert(start + take, rest);
            }
        }
        self.frozen += length;
        Some(FrozenBatch { id, pieces })
    }

    /// The batch is stored: what is left of its pieces is clean. Returns which bytes of the file those
    /// are, and where each begins in the batch; what was overwritten or cut meanwhile is not among them.
    /// The memory is free when the caller drops the batch: not before it is written down where the bytes
    /// are now.
    pub fn complete(&mut self, batch: &FrozenBatch) -> Vec<(ByteRange, u64)> {
        let mut clean = Vec::new();
        for (start, at) in self.of_batch(batch) {
            if let Some(piece) = self.pieces.remove(&start) {
                self.bytes -= piece.length as u64;
                self.frozen -= piece.length as u64;
                clean.push((ByteRange::new(start, piece.length as u64), at));
            }
        }
        clean
    }

    /// The batch could not be stored: what is left of its pieces is dirty again.
    pub fn thaw(&mut self, batch: FrozenBatch) {
        for (start, _) in self.of_batch(&batch) {
            if let Some(piece) = self.pieces.get_mut(&start) {
                piece.frozen = None;
                self.frozen -= piece.length as u64;
            }
        }
    }

    /// What is left of a batch: where each piece is in the file and in the batch.
    fn of_batch(&self, batch: &FrozenBatch) -> Vec<(u64, u64)> {
        let mut left = Vec::new();
        for (range, ..) in &batch.pieces {
            for (&start, piece) in self.pieces.range(range.offset()..range.end()) {
                if let Some((id, at)) = piece.frozen
                    && id == batch.id
                {
                    left.push((start, at));
                }
            }
        }
        left
    }

    /// Pieces that meet `range`, in order.
    fn touching(&self, range: ByteRange) -> impl Iterator<Item = (u64, &Piece)> {
        let before = self.pieces.range(..range.offset()).next_back();
        let first = before
            .filter(|(start, piece)| **start + piece.length as u64 > range.offset())
            .map_or(range.offset(), |(start, _)| *start);
        // An empty range meets nothing.
        let end = if range.is_empty() { first } else { range.end() };
        self.pieces.range(first..end).map(|(start, piece)| (*start, piece))
    }

    fn insert(&mut self, at: u64, piece: Piece) {
        self.bytes += piece.length as u64;
        self.pieces.insert(at, piece);
    }

    /// Removes `range` from the map; pieces that reach over its borders keep what is outside.
    fn cut(&mut self, range: ByteRange) {
        let doomed: Vec<u64> = self.touching(range).map(|(start, _)| start).collect();
        for start in doomed {
            let Some(piece) = self.pieces.remove(&start) else { continue };
            self.bytes -= piece.length as u64;
            if piece.frozen.is_some() {
                self.frozen -= piece.length as u64;
            }
            let whole = ByteRange::new(start, piece.length as u64);
            for kept in [
                ByteRange::between(start, range.offset().min(whole.end())),
                ByteRange::between(range.end().max(start), whole.end()),
            ] {
                if kept.is_empty() {
                    continue;
                }
                let skipped = kept.offset() - start;
                if piece.frozen.is_some() {
                    self.frozen += kept.length();
                }
                self.insert(
                    kept.offset(),
                    Piece {
                        run: piece.run.clone(),
                        skip: piece.skip + skipped as usize,
                        length: kept.length() as usize,
                        frozen: piece.frozen.map(|(id, at)| (id, at + skipped)),
                    },
                );
            }
        }
    }

    /// Overwrites bytes that are dirty in one piece that nothing else refers to.
    fn overwrite_in_place(&mut self, offset: u64, data: &[u8]) -> bool {
        let Some((&start, piece)) = self.pieces.range_mut(..=offset).next_back() else {
            return false;
        };
        let at = (offset - start) as usize;
        if piece.frozen.is_some() || at + data.len() > piece.length {
            return false;
        }
        match Arc::get_mut(&mut piece.run) {
            Some(run) => {
                run.overwrite(piece.skip + at, data);
                true
            }
            None => false,
        }
    }

    /// Appends to the piece that ends where the data begin, as far as its run has room. Only if it is all
    /// of its run: the whole run counts as written now, and a part that was cut from it must not come back
    /// when another process takes over.
    fn extend_in_place(&mut self, offset: u64, data: &[u8]) -> usize {
        let room = match self.ending_at(offset) {
            Some(piece) if piece.skip == 0 && piece.length == piece.run.len() => {
                Arc::get_mut(&mut piece.run).map_or(0, |run| run.room())
            }
            _ => 0,
        };
        let count = room.min(data.len());
        if count == 0 {
            return 0;
        }
        self.cut(ByteRange::new(offset, count as u64));
        if let Some(piece) = self.ending_at(offset)
            && let Some(run) = Arc::get_mut(&mut piece.run)
        {
            run.append(&data[..count]);
            piece.length += count;
            self.bytes += count as u64;
            return count;
        }
        0
    }

    fn ending_at(&mut self, offset: u64) -> Option<&mut Piece> {
        let (&start, piece) = self.pieces.range_mut(..offset).next_back()?;
        (start + piece.length as u64 == offset && piece.frozen.is_none()).then_some(piece)
    }

    /// How much room a run that begins at `offset` should have: more and more for whoever writes on.
    fn reserve(&self, offset: u64) -> usize {
        match self.pieces.range(..offset).next_back() {
            Some((start, piece)) if start + piece.length as u64 == offset => {
                (piece.run.capacity() * 2).min(RESERVE)
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: FileId = FileId([3; 16]);

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Truncate(u64),
        Punch(u64, u64),
        Freeze(u64),
        Complete,
        Thaw,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..20_000_u64, prop::collection::vec(any::<u8>(), 1..6000))
                .prop_map(|(offset, data)| Step::Write(offset, data)),
            1 => (0..20_000_u64).prop_map(Step::Truncate),
            1 => (0..20_000_u64, 1..8000_u64).prop_map(|(at, length)| Step::Punch(at, length)),
            2 => (1..12_000_u64).prop_map(Step::Freeze),
            2 => Just(Step::Complete),
            1 => Just(Step::Thaw),
        ]
    }

    proptest! {
        /// `dirty` is what the map must hold; `stored` what the completed batches may be entered as.
        #[test]
        fn the_map_agrees_with_a_plain_array(steps in prop::collection::vec(step(), 1..60)) {
            let arena = Arc::new(Arena::create(4 << 20).expect("memory"));
            let mut map = DirtyMap::default();
            let mut dirty: Vec<Option<u8>> = vec![None; 30_000];
            let mut stored: Vec<Option<u8>> = vec![None; 30_000];
            // What a reader must see: dirty bytes over stored ones.
            let mut truth: Vec<Option<u8>> = vec![None; 30_000];
            let mut batches = Vec::new();
            // What a recorder would keep: what happened to bytes that a run may still hold.
            let mut voided: Vec<(u64, ByteRange)> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(offset, data) => {
                        prop_assert_eq!(map.write(&arena, FILE, offset, &data), data.len());
                        for (index, byte) in data.iter().enumerate() {
                            dirty[offset as usize + index] = Some(*byte);
                            truth[offset as usize + index] = Some(*byte);
                        }
                    }
                    Step::Truncate(size) => {
                        map.truncate(size);
                        voided.push((arena.next_sequence(), ByteRange::between(size, u64::MAX)));
                        dirty[size as usize..].fill(None);
                        stored[size as usize..].fill(None);
                        truth[size as usize..].fill(None);
                    }
                    Step::Punch(at, length) => {
                        map.punch(ByteRange::new(at, length));
                        voided.push((arena.next_sequence(), ByteRange::new(at, length)));
                        let end = (at + length).min(30_000) as usize;
                        dirty[at as usize..end].fill(None);
                        stored[at as usize..end].fill(None);
                        truth[at as usize..end].fill(None);
                    }
                    Step::Freeze(limit) => {
                        if let Some(batch) = map.freeze(limit) {
                            prop_assert!(batch.length() <= limit);
                            let bytes: Vec<u8> = batch.pieces().concat_bytes();
                            batches.push((batch, bytes));
                        }
                    }
                    Step::Complete => {
                        if let Some((batch, bytes)) = batches.pop() {
                            for (range, at) in map.complete(&batch) {
                                voided.push((arena.next_sequence(), range));
                                for index in 0..range.length() {
                                    let position = (range.offset() + index) as usize;
                                    stored[position] = Some(bytes[(at + index) as usize]);
                                    dirty[position] = None;
                                }
                            }
                        }
                    }
                    Step::Thaw => {
                        if let Some((batch, _)) = batches.pop() {
                            map.thaw(batch);
                        }
                    }
                }
                let mut seen = vec![None; 30_000];
                for (range, bytes) in map.overlay(ByteRange::new(0, 30_000)) {
                    for (index, byte) in bytes.iter().enumerate() {
                        seen[range.offset() as usize + index] = Some(*byte);
                    }
                }
                prop_assert!(seen == dirty);
                let count = dirty.iter().flatten().count() as u64;
                prop_assert_eq!(map.dirty_bytes(), count);
                for position in 0..30_000 {
                    prop_assert_eq!(dirty[position].or(stored[position]), truth[position]);
                }
            }
            let taken_over = taken_over(&arena, &voided);
            prop_assert!(taken_over == dirty, "another process finds other bytes");
            drop((map, batches));
            prop_assert_eq!(arena.used(), 0);
        }
    }

    /// What a process that takes over makes of the arena.
    fn taken_over(arena: &Arena, voided: &[(u64, ByteRange)]) -> Vec<Option<u8>> {
        let memory = arena.memory().try_clone_to_owned().expect("descriptor");
        let (_, runs) = Arena::adopt(memory, 0).expect("an arena");
        let mut map = DirtyMap::default();
        let mut voided = voided.iter().peekable();
        for run in runs {
            while let Some((_, range)) = voided.next_if(|(number, _)| *number < run.sequence()) {
                map.punch(*range);
            }
            map.adopt(run);
        }
        voided.for_each(|(_, range)| map.punch(*range));
        let mut bytes = vec![None; 30_000];
        for (range, found) in map.overlay(ByteRange::new(0, 30_000)) {
            for (index, byte) in found.iter().enumerate() {
                bytes[range.offset() as usize + index] = Some(*byte);
            }
        }
        bytes
    }

    trait ConcatBytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl ConcatBytes for Vec<(ByteRange, &[u8])> {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect()
        }
    }

    #[test]
    fn a_sequential_writer_fills_few_pieces() {
        let arena = Arc::new(Arena::create(8 << 20).expect("memory"));
        let mut map = DirtyMap::default();
        for index in 0..10_000_u64 {
            assert_eq!(map.write(&arena, FILE, index * 190, &[7; 190]), 190);
        }
        assert!(map.pieces.len() < 20, "{} pieces", map.pieces.len());
    }

    #[test]
    fn a_full_arena_takes_what_fits() {
        let arena = Arc::new(Arena::create(64 * 4096).expect("memory"));
        let mut map = DirtyMap::default();
        assert_eq!(map.write(&arena, FILE, 0, &vec![1; 300 * 4096]), 64 * 4096);
        assert_eq!(map.write(&arena, FILE, 1 << 40, b"x"), 0);
        map.truncate(4096 * 10);
        assert_eq!(map.dirty_bytes(), 40_960);
    }
}
