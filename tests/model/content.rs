//! A file's bytes as the reference has them: a plain array in pieces, shared between versions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const PIECE: u64 = 64 << 10;

#[derive(Clone, Default)]
pub(crate) struct Content {
    size: u64,
    /// What is missing is zeros.
    pieces: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.size = self.size.max(offset + data.len() as u64);
        self.put(offset, data.len() as u64, |at| data[(at - offset) as usize]);
    }

    pub(crate) fn zero(&mut self, offset: u64, length: u64) {
        self.put(offset, length.min(self.size.saturating_sub(offset)), |_| 0);
    }

    pub(crate) fn resize(&mut self, size: u64) {
        if size < self.size {
            self.pieces.split_off(&size.div_ceil(PIECE));
            if let Some(last) = self.pieces.get_mut(&(size / PIECE)) {
                Arc::make_mut(last)[(size % PIECE) as usize..].fill(0);
            }
        }
        self.size = size;
    }

    pub(crate) fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let end = offset.saturating_add(length).min(self.size);
        let mut bytes = Vec::new();
        let mut at = offset;
        while at < end {
            let stop = (at / PIECE + 1) * PIECE;
            let count = (stop.min(end) - at) as usize;
            let skip = (at % PIECE) as usize;
            match self.pieces.get(&(at / PIECE)) {
                Some(piece) => bytes.extend_from_slice(&piece[skip..skip + count]),
                None => bytes.resize(bytes.len() + count, 0),
            }
            at += count as u64;
        }
        bytes
    }

    /// The first byte that differs, or where the shorter one ends.
    pub(crate) fn difference(&self, other: &Self) -> Option<u64> {
        let indexes: BTreeSet<u64> =
            self.pieces.keys().chain(other.pieces.keys()).copied().collect();
        let zeros = Arc::new(vec![0; PIECE as usize]);
        for index in indexes {
            let a = self.pieces.get(&index).unwrap_or(&zeros);
            let b = other.pieces.get(&index).unwrap_or(&zeros);
            if !Arc::ptr_eq(a, b)
                && let Some(at) = a.iter().zip(b.iter()).position(|(a, b)| a != b)
            {
                return Some(index * PIECE + at as u64);
            }
        }
        (self.size != other.size).then(|| self.size.min(other.size))
    }

    fn put(&mut self, offset: u64, length: u64, byte: impl Fn(u64) -> u8) {
        let mut at = offset;
        while at < offset + length {
            let index = at / PIECE;
            let stop = ((index + 1) * PIECE).min(offset + length);
            let piece =
                self.pieces.entry(index).or_insert_with(|| Arc::new(vec![0; PIECE as usize]));
            let piece = Arc::make_mut(piece);
            for at in at..stop {
                piece[(at % PIECE) as usize] = byte(at);
            }
            at = stop;
        }
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.difference(other).is_none()
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = self.read(0, 8);
        write!(f, "{} bytes {head:02x?}...", self.size)
    }
}
