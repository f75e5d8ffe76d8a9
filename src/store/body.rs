//! The bytes of an object as they came: a row of buffers, so that large bodies need no copy.

use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// An immutable body. Clones share its buffers.
#[derive(Clone, Default)]
pub struct Body {
    /// None of them empty.
    parts: Arc<[Bytes]>,
    /// Where each part ends.
    ends: Arc<[usize]>,
}

impl Body {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// All of it in one buffer, which is a copy where it came in several.
    pub fn bytes(&self) -> Bytes {
        match &*self.parts {
            [] => Bytes::new(),
            [whole] => whole.clone(),
            parts => {
                let mut whole = BytesMut::with_capacity(self.len());
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                whole.freeze()
            }
        }
    }

    /// Its buffers, in order, none of them empty.
    pub fn parts(&self) -> impl Iterator<Item = &Bytes> {
        self.parts.iter()
    }

    /// A range of it, copied only where it runs over several buffers; `None` if it is not all there.
    pub fn range(&self, range: Range<usize>) -> Option<Cow<'_, [u8]>> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let mut at = range.start;
        let first = self.ends.partition_point(|end| *end <= at);
        let mut joined = Vec::new();
        for (part, end) in self.parts[first..].iter().zip(&self.ends[first..]) {
            let start = end - part.len();
            let piece = &part[at - start..range.end.min(*end) - start];
            at += piece.len();
            if at == range.end && joined.is_empty() {
                return Some(Cow::Borrowed(piece));
            }
            if joined.is_empty() {
                joined.reserve_exact(range.len());
            }
            joined.extend_from_slice(piece);
            if at == range.end {
                break;
            }
        }
        Some(Cow::Owned(joined))
    }
}

impl FromIterator<Bytes> for Body {
    fn from_iter<I: IntoIterator<Item = Bytes>>(parts: I) -> Self {
        let parts: Arc<[Bytes]> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.len();
            Some(*end)
        });
        Self { ends: ends.collect(), parts }
    }
}

impl From<Bytes> for Body {
    fn from(whole: Bytes) -> Self {
        [whole].into_iter().collect()
    }
}

/// Its length: a body may hold what nobody should read in a log.
impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Body({} bytes in {} parts)", self.len(), self.parts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_of_a_body_in_parts_is_that_of_the_whole() {
        let whole = b"in several parts of several lengths";
        let cuts = [0, 1, 1, 4, 17, whole.len()];
        let parts = cuts.windows(2).map(|cut| Bytes::copy_from_slice(&whole[cut[0]..cut[1]]));
        let body: Body = parts.collect();
        assert_eq!(body.bytes(), whole[..]);
        for start in 0..=whole.len() {
            for end in start..=whole.len() {
                let range = body.range(start..end).expect("within the body");
                assert_eq!(*range, whole[start..end], "{start}..{end}");
            }
            assert!(body.range(start..whole.len() + 1).is_none());
        }
        assert!(matches!(body.range(4..17), Some(Cow::Borrowed(_))), "no copy of a whole part");
        assert_eq!(Body::default().range(0..0).as_deref(), Some(&[][..]));
    }
}
