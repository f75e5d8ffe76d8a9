//! A file that is changed somewhere in its middle: what the store has, and over it what was written since.
//!
//! The invariant: extents do not overlap, none is empty, and none reaches beyond the size; what no extent covers
//! is the store's up to `base_end`, and zeros from there on.

use crate::units::ByteRange;
use crate::volume::scratch::Scratch;
use crate::world::Entropy;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// What was written over may lie in the scratch file before it is written anew: as much again, and this.
const WASTE: u64 = 64 << 20;
/// Bytes that are moved at once.
const MOVE: u64 = 1 << 20;

/// Bytes written since, or zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    length: u64,
    /// Where in the scratch file; none: zeros.
    at: Option<u64>,
}

impl Extent {
    fn after(self, skip: u64) -> Self {
        Self { length: self.length - skip, at: self.at.map(|at| at + skip) }
    }
}

/// Where the bytes of a piece of the file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// At this place of the scratch file.
    Scratch(u64),
    /// In the store, at the same place.
    Base,
    /// Nowhere: zeros.
    Zeros,
}

/// A changed file.
pub(super) struct Overlay {
    scratch: Scratch,
    extents: BTreeMap<u64, Extent>,
    size: u64,
    /// What of the store's object is still part of it.
    base_end: u64,
    /// Not before the scratch file is that long it is looked whether most of it is waste.
    next_look: u64,
}

impl Overlay {
    /// Over an object of `size` bytes; nothing is changed yet.
    pub(super) fn over(size: u64, directory: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        let scratch = Scratch::create(directory, entropy)?;
        Ok(Self { scratch, extents: BTreeMap::new(), size, base_end: size, next_look: WASTE })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether something of the store's object is still part of it.
    pub(super) fn needs_base(&self) -> bool {
        self.base_end > 0
            && self.pieces(ByteRange::new(0, self.base_end)).any(|(_, from)| from == Source::Base)
    }

    pub(super) fn write(&mut self, offset: u64, data: Vec<u8>) -> io::Result<()> {
        let length = data.len() as u64;
        if length == 0 {
            return Ok(());
        }
        let at = self.scratch.append(data)?;
        let before = self.extents.range(..offset).next_back();
        // What goes on both in the file and in the scratch file is one extent.
        let joined = before.filter(|(start, extent)| {
            *start + extent.length == offset && extent.at.map(|at| at + extent.length) == Some(at)
        });
        let joined = joined.map(|(start, _)| *start);
        self.cut(ByteRange::new(offset, length));
        match joined.and_then(|start| self.extents.get_mut(&start)) {
            Some(extent) => extent.length += length,
            None => drop(self.extents.insert(offset, Extent { length, at: Some(at) })),
        }
        self.size = self.size.max(offset + length);
        Ok(())
    }

    /// Makes a range zeros; the size stays.
    pub(super) fn zero(&mut self, range: ByteRange) {
        let range = range.intersection(ByteRange::new(0, self.size));
        if !range.is_empty() {
            self.cut(range);
            self.extents.insert(range.offset(), Extent { length: range.length(), at: None });
        }
    }

    pub(super) fn set_size(&mut self, size: u64) {
        if size < self.size {
            self.cut(ByteRange::between(size, self.size));
            self.base_end = self.base_end.min(size);
        }
        self.size = size;
    }

    /// Takes a range out of the extents.
    fn cut(&mut self, range: ByteRange) {
        let before = self.extents.range(..range.offset()).next_back();
        if let Some((&start, &extent)) = before
            && start + extent.length > range.offset()
        {
            let head = Extent { length: range.offset() - start, ..extent };
            self.extents.insert(start, head);
            if start + extent.length > range.end() {
                self.extents.insert(range.end(), extent.after(range.end() - start));
            }
        }
        let within: Vec<u64> =
            self.extents.range(range.offset()..range.end()).map(|(start, _)| *start).collect();
        for start in within {
            let Some(extent) = self.extents.remove(&start) else { continue };
            if start + extent.length > range.end() {
                self.extents.insert(range.end(), extent.after(range.end() - start));
            }
        }
    }

    /// The pieces of a range, in order; those beyond the end are left out.
    pub(super) fn pieces(
        &self,
        range: ByteRange,
    ) -> impl Iterator<Item = (ByteRange, Source)> + '_ {
        let range = range.intersection(ByteRange::new(0, self.size));
        let mut at = range.offset();
        std::iter::from_fn(move || {
            if at >= range.end() {
                return None;
            }
            let covering = self.extents.range(..=at).next_back();
            let covering = covering.filter(|(start, extent)| *start + extent.length > at);
            let (end, source) = match covering {
                Some((start, extent)) => {
                    let source = extent
                        .at
                        .map_or(Source::Zeros, |place| Source::Scratch(place + (at - start)));
                    (start + extent.length, source)
                }
                None => {
                    let next =
                        self.extents.range(at..).next().map_or(u64::MAX, |(start, _)| *start);
                    match at < self.base_end {
                        true => (next.min(self.base_end), Source::Base),
                        false => (next, Source::Zeros),
                    }
                }
            };
            let piece = ByteRange::between(at, end.min(range.end()));
            at = piece.end();
            Some((piece, source))
        })
    }

    /// Bytes of the scratch file.
    pub(super) fn read(&self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        self.scratch.read(at, length as usize)
    }

    /// Writes the scratch file anew if most of it is waste.
    pub(super) fn compact(&mut self, directory: &Path, entropy: &dyn Entropy) -> io::Result<()> {
        if self.scratch.end() < self.next_look {
            return Ok(());
        }
        let living: u64 = self
            .extents
            .values()
            .filter(|extent| extent.at.is_some())
            .map(|extent| extent.length)
            .sum();
        let allowed = 2 * living + WASTE;
        // Also where it fails: not at every write.
        self.next_look = allowed.max(self.scratch.end() + WASTE / 4);
        if self.scratch.end() < allowed {
            return Ok(());
        }
        let mut scratch = Scratch::create(directory, entropy)?;
        let mut extents = BTreeMap::new();
        for (&start, &extent) in &self.extents {
            let Some(at) = extent.at else {
                extents.insert(start, extent);
                continue;
            };
            let begin = scratch.end();
            let mut done = 0;
            while done < extent.length {
                let length = MOVE.min(extent.length - done);
                scratch.append(self.scratch.read(at + done, length as usize)?)?;
                done += length;
            }
            extents.insert(start, Extent { at: Some(begin), ..extent });
        }
        (self.scratch, self.extents, self.next_look) = (scratch, extents, allowed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};
    use std::cell::RefCell;

    struct Seeded(parking_lot::Mutex<StdRng>);

    impl Entropy for Seeded {
        fn fill(&self, buffer: &mut [u8]) {
            self.0.lock().fill_bytes(buffer);
        }
    }

    fn content(overlay: &Overlay, base: &[u8], range: ByteRange) -> Vec<u8> {
        let end = RefCell::new(range.offset());
        overlay
            .pieces(range)
            .flat_map(|(piece, source)| {
                assert_eq!(end.replace(piece.end()), piece.offset(), "pieces follow each other");
                assert!(!piece.is_empty());
                match source {
                    Source::Scratch(at) => overlay.read(at, piece.length()).expect("read"),
                    Source::Base => base[piece.offset() as usize..piece.end() as usize].to_vec(),
                    Source::Zeros => vec![0; piece.length() as usize],
                }
            })
            .collect()
    }

    /// Against a plain row of bytes.
    #[test]
    fn it_is_what_a_plain_file_would_be_after_any_changes() {
        let directory = tempfile::tempdir().expect("a directory");
        for seed in 0..60 {
            let mut random = StdRng::seed_from_u64(seed);
            let entropy = Seeded(parking_lot::Mutex::new(StdRng::seed_from_u64(seed)));
            let mut base = vec![0; random.random_range(0..3000)];
            random.fill_bytes(&mut base);
            let mut overlay =
                Overlay::over(base.len() as u64, directory.path(), &entropy).expect("created");
            let mut model = base.clone();
            for _ in 0..80 {
                let offset = random.random_range(0..4000_usize);
                let length = random.random_range(0..500_usize);
                match random.random_range(0..10) {
                    0..=5 => {
                        // Often where the last write ended.
                        let offset = if random.random_bool(0.3) { model.len() } else { offset };
                        let mut data = vec![0; length];
                        random.fill_bytes(&mut data);
                        if length > 0 && model.len() < offset + length {
                            model.resize(offset + length, 0);
                        }
                        if length > 0 {
                            model[offset..offset + length].copy_from_slice(&data);
                        }
                        overlay.write(offset as u64, data).expect("written");
                    }
                    6 => {
                        let end = (offset + length).min(model.len());
                        if offset < end {
                            model[offset..end].fill(0);
                        }
                        overlay.zero(ByteRange::new(offset as u64, length as u64));
                    }
                    7 => {
                        model.resize(offset, 0);
                        overlay.set_size(offset as u64);
                    }
                    8 => overlay.compact(directory.path(), &entropy).expect("compacted"),
                    _ => {
                        let range = ByteRange::new(offset as u64, length as u64);
                        let end = (offset + length).min(model.len());
                        let expected = model.get(offset..end).unwrap_or_default();
                        assert_eq!(content(&overlay, &base, range), expected);
                    }
                }
                assert_eq!(overlay.size(), model.len() as u64);
            }
            let whole = ByteRange::new(0, u64::MAX);
            assert_eq!(content(&overlay, &base, whole), model, "seed {seed}");
        }
    }

    #[test]
    fn a_file_that_is_written_over_and_over_takes_little_more_than_it_has() {
        let directory = tempfile::tempdir().expect("a directory");
        let entropy = Seeded(parking_lot::Mutex::new(StdRng::seed_from_u64(1)));
        let mut overlay = Overlay::over(0, directory.path(), &entropy).expect("created");
        for round in 0..100_u8 {
            overlay.write(0, vec![round; 4 << 20]).expect("written");
            overlay.compact(directory.path(), &entropy).expect("compacted");
            assert!(overlay.scratch.end() <= 2 * (4 << 20) + WASTE + WASTE / 2);
        }
        assert_eq!(content(&overlay, &[], ByteRange::new(5, 3)), [99; 3]);
    }
}
