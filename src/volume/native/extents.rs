//! The map of a file while it is in use: which bytes lie where. Later writes win; what nothing covers
//! is a hole. Pages that were read or written stay valid until an insert or a removal touches them, so
//! that a publish rewrites only what changed.

use super::record::{Extent, FileContent, PageRef, SegmentRun, Source};
use crate::units::{ByteRange, SegmentId};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Extents outside pages that a record may hold before they move into pages.
const UNPAGED_LIMIT: usize = 1000;
/// Extents in a page.
const PAGE_EXTENTS: usize = 512;

/// Where a piece of a file lies.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// In memory, from the record's body.
    Inline(Bytes),
    /// In segments.
    Segments(SegmentRun),
}

/// The map. Extents never overlap and are never empty.
#[derive(Clone, Debug, Default)]
pub struct ExtentMap {
    extents: BTreeMap<u64, (u64, Piece)>,
    pages: BTreeMap<u64, PageRef>,
}

/// The parts of a record that the map fills in.
#[derive(Debug)]
pub struct Layout {
    /// Extents outside pages.
    pub extents: Vec<Extent>,
    /// Pages still valid.
    pub pages: Vec<PageRef>,
    /// The record's body.
    pub inline: Bytes,
}

impl ExtentMap {
    /// The map of a record's content; `pages` are the extents of its pages, in order.
    pub fn new(content: &FileContent, pages: Vec<Vec<Extent>>) -> Self {
        let mut map = Self::default();
        for extent in content.extents.iter().chain(pages.iter().flatten()) {
            let piece = match &extent.source {
                Source::Inline(offset) => {
                    let start = usize::try_from(*offset).unwrap_or(usize::MAX);
                    let length = usize::try_from(extent.range.length()).unwrap_or(usize::MAX);
                    // `Record::decode` proved that the body holds it.
                    Piece::Inline(content.inline.slice(start..start + length))
                }
                Source::Segments(run) => Piece::Segments(run.clone()),
            };
            map.extents.insert(extent.range.offset(), (extent.range.length(), piece));
        }
        map.pages = content.pages.iter().map(|page| (page.range.offset(), page.clone())).collect();
        map
    }

    /// Puts a piece at `range`, over whatever is there.
    pub fn insert(&mut self, range: ByteRange, piece: Piece) {
        if range.is_empty() {
            return;
        }
        self.remove(range);
        let (mut range, mut piece) = (range, normalised(piece, range.length()));
        if let Some((&offset, (length, before))) = self.extents.range(..range.offset()).next_back()
            && offset + length == range.offset()
            && let Some(joined) = join(before, *length, &piece)
        {
            range = ByteRange::new(offset, length + range.length());
            piece = joined;
            self.touch(ByteRange::new(offset, 1));
            self.extents.remove(&offset);
        }
        if let Some((length, after)) = self.extents.get(&range.end())
            && let Some(joined) = join(&piece, range.length(), after)
        {
            let end = range.end();
            range = ByteRange::new(range.offset(), range.length() + length);
            piece = joined;
            self.touch(ByteRange::new(end, 1));
            self.extents.remove(&end);
        }
        self.extents.insert(range.offset(), (range.length(), piece));
    }

    /// Makes a hole of `range`.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        self.touch(range);
        let mut doomed = Vec::new();
        if let Some((&offset, (length, _))) = self.extents.range(..range.offset()).next_back()
            && offset + length > range.offset()
        {
            doomed.push(offset);
        }
        doomed.extend(self.extents.range(range.offset()..range.end()).map(|(&offset, _)| offset));
        for offset in doomed {
            let Some((length, piece)) = self.extents.remove(&offset) else { continue };
            let extent = ByteRange::new(offset, length);
            for kept in [
                ByteRange::between(offset, range.offset().min(extent.end())),
                ByteRange::between(range.end().max(offset), extent.end()),
            ] {
                if !kept.is_empty() {
                    let part = slice(&piece, kept.offset() - offset, kept.length());
                    self.extents.insert(kept.offset(), (kept.length(), part));
                }
            }
        }
    }

    /// What lies at `range`, in order and without gaps; `None` is a hole.
    pub fn lookup(&self, range: ByteRange) -> Vec<(ByteRange, Option<Piece>)> {
        let mut found = Vec::new();
        let mut at = range.offset();
        let first = self
            .extents
            .range(..=range.offset())
            .next_back()
            .filter(|(offset, (length, _))| *offset + length > range.offset())
            .map_or(range.offset(), |(offset, _)| *offset);
        for (&offset, (length, piece)) in self.extents.range(first..range.end()) {
            let part = ByteRange::new(offset, *length).intersection(range);
            if part.offset() > at {
                found.push((ByteRange::between(at, part.offset()), None));
            }
            found.push((part, Some(slice(piece, part.offset() - offset, part.length()))));
            at = part.end();
        }
        if at < range.end() {
            found.push((ByteRange::between(at, range.end()), None));
        }
        found
    }

    /// The first byte at or after `offset` that is data.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        if let Some((&start, (length, _))) = self.extents.range(..=offset).next_back()
            && start + length > offset
        {
            return Some(offset);
        }
        self.extents.range(offset..).next().map(|(&start, _)| start)
    }

    /// The first byte at or after `offset` that is not data.
    pub fn next_hole(&self, mut offset: u64) -> u64 {
        while let Some((&start, (length, _))) = self.extents.range(..=offset).next_back() {
            if start + length <= offset {
                break;
            }
            offset = start + length;
        }
        offset
    }

    /// Bytes that lie in the record's body.
    pub fn inline_bytes(&self) -> u64 {
        self.inline_pieces().map(|(range, _)| range.length()).sum()
    }

    /// The pieces in the record's body, in order.
    pub fn inline_pieces(&self) -> impl Iterator<Item = (ByteRange, &Bytes)> {
        self.extents.iter().filter_map(|(&offset, (length, piece))| match piece {
            Piece::Inline(bytes) => Some((ByteRange::new(offset, *length), bytes)),
            Piece::Segments(_) => None,
        })
    }

    /// The parts of single segments that end the file's stored data, last one first: as long as they
    /// follow each other without a hole and are shorter than `limit`. Data in the record may follow.
    pub fn trailing_segments(&self, limit: u64) -> Vec<ByteRange> {
        let mut found: Vec<ByteRange> = Vec::new();
        for (&offset, (length, piece)) in self.extents.iter().rev() {
            let extent = ByteRange::new(offset, *length);
            let run = match piece {
                Piece::Inline(_) if found.is_empty() => continue,
                Piece::Inline(_) => break,
                Piece::Segments(run) => run,
            };
            if found.last().is_some_and(|next| next.offset() != extent.end()) {
                break;
            }
            for index in (0..u64::from(run.count)).rev() {
                // Offsets inside the run, which `start` of its bytes come before.
                let start = index * run.segment_length;
                let end = start + run.segment_length.min(run.total() - start);
                let part = ByteRange::between(
                    offset + start.saturating_sub(run.start),
                    (offset + end.saturating_sub(run.start)).min(extent.end()),
                );
                if part.length() >= limit {
                    return found;
                }
                if !part.is_empty() {
                    found.push(part);
                }
            }
        }
        found
    }

    /// Every run of segments and where it is in the file.
    pub fn runs(&self) -> impl Iterator<Item = (ByteRange, &SegmentRun)> {
        self.extents.iter().filter_map(|(&offset, (length, piece))| match piece {
            Piece::Segments(run) => Some((ByteRange::new(offset, *length), run)),
            Piece::Inline(_) => None,
        })
    }

    /// Number of extents.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether the file has no data at all.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The extents that must move into new pages before the map fits a record: groups in order, each
    /// for one page. Empty most of the time.
    pub fn pages_to_write(&self) -> Vec<(ByteRange, Vec<Extent>)> {
        let groups = self.unpaged_groups();
        if groups.iter().map(Vec::len).sum::<usize>() <= UNPAGED_LIMIT {
            return Vec::new();
        }
        groups
            .iter()
            .flat_map(|group| group.chunks(PAGE_EXTENTS))
            // A page costs a request; a handful of extents stays in the record.
            .filter(|chunk| chunk.len() > 16)
            .filter_map(|chunk| {
                let (first, last) = (chunk.first()?, chunk.last()?);
                let range = ByteRange::between(first.range.offset(), last.range.end());
                Some((range, chunk.to_vec()))
            })
            .collect()
    }

    /// A page of [`Self::pages_to_write`] has been stored.
    pub fn page_written(&mut self, page: PageRef) {
        self.pages.insert(page.range.offset(), page);
    }

    /// The parts of a record.
    pub fn layout(&self) -> Layout {
        let (mut extents, mut inline) = (Vec::new(), BytesMut::new());
        let mut pages = self.pages.values().peekable();
        for (&offset, (length, piece)) in &self.extents {
            while pages.next_if(|page| page.range.end() <= offset).is_some() {}
            if pages.peek().is_some_and(|page| page.range.offset() <= offset) {
                continue;
            }
            let source = match piece {
                Piece::Inline(bytes) => {
                    inline.extend_from_slice(bytes);
                    Source::Inline((inline.len() - bytes.len()) as u64)
                }
                Piece::Segments(run) => Source::Segments(run.clone()),
            };
            extents.push(Extent { range: ByteRange::new(offset, *length), source });
        }
        Layout { extents, pages: self.pages.values().cloned().collect(), inline: inline.freeze() }
    }

    /// Neighbouring extents outside pages, cut where a page or inline data lies between.
    fn unpaged_groups(&self) -> Vec<Vec<Extent>> {
        let mut groups: Vec<Vec<Extent>> = vec![Vec::new()];
        let mut pages = self.pages.values().peekable();
        for (&offset, (length, piece)) in &self.extents {
            while pages.next_if(|page| page.range.end() <= offset).is_some() {}
            let paged = pages.peek().is_some_and(|page| page.range.offset() <= offset);
            match (paged, piece) {
                (false, Piece::Segments(run)) => {
                    if let Some(group) = groups.last_mut() {
                        group.push(Extent {
                            range: ByteRange::new(offset, *length),
                            source: Source::Segments(run.clone()),
                        });
                    }
                }
                _ if groups.last().is_some_and(|group| !group.is_empty()) => {
                    groups.push(Vec::new())
                }
                _ => {}
            }
        }
        groups
    }

    /// Pages that meet `range` no longer tell the truth.
    fn touch(&mut self, range: ByteRange) {
        while let Some((&offset, _)) = self
            .pages
            .range(..range.end())
            .next_back()
            .filter(|(_, page)| page.range.end() > range.offset())
        {
            self.pages.remove(&offset);
        }
    }
}

/// A part of a piece.
fn slice(piece: &Piece, skip: u64, length: u64) -> Piece {
    match piece {
        Piece::Inline(bytes) => {
            // Lengths of inline pieces are at most 64 KiB.
            let (skip, length) = (skip as usize, length as usize);
            Piece::Inline(bytes.slice(skip..skip + length))
        }
        Piece::Segments(run) => {
            let mut run = run.clone();
            run.start += skip;
            normalised(Piece::Segments(run), length)
        }
    }
}

/// Drops the segments of a run that `length` bytes from its start do not need.
fn normalised(piece: Piece, length: u64) -> Piece {
    let Piece::Segments(mut run) = piece else { return piece };
    let skipped = run.start / run.segment_length;
    // A run's count is a u32, so what is skipped inside it fits.
    run.first = SegmentId { counter: run.first.counter + skipped, ..run.first };
    run.count -= skipped as u32;
    run.start %= run.segment_length;
    let needed = (run.start + length).div_ceil(run.segment_length) as u32;
    if needed < run.count {
        run.count = needed;
        run.last_length = run.segment_length;
    }
    if run.count == 1 {
        run.segment_length = run.last_length;
    }
    Piece::Segments(run)
}

/// One piece of two neighbours (`before` being `length` bytes long), where they are one run.
fn join(before: &Piece, length: u64, after: &Piece) -> Option<Piece> {
    let (Piece::Segments(a), Piece::Segments(b)) = (before, after) else { return None };
    let SegmentRun { first, count, segment_length, last_length, start, master, owner } = a;
    let alike = first.session == b.first.session && *master == b.master && *owner == b.owner;
    // Two parts of one segment.
    if alike && *count == 1 && b.count == 1 && *first == b.first && start + length == b.start {
        return Some(before.clone());
    }
    // A part of the segment that `before` ends in.
    let last_start = u64::from(*count - 1) * segment_length;
    if alike
        && *count > 1
        && b.count == 1
        && first.counter + u64::from(*count) - 1 == b.first.counter
        && start + length >= last_start
        && start + length - last_start == b.start
        && b.last_length == *last_length
    {
        return Some(before.clone());
    }
    let together = count.checked_add(b.count)?;
    let continues = alike
        && first.counter + u64::from(*count) == b.first.counter
        && last_length == segment_length
        && start + length == a.total()
        && b.start == 0
        && (b.count == 1 && b.last_length <= *segment_length
            || b.segment_length == *segment_length);
    continues.then(|| {
        Piece::Segments(SegmentRun { count: together, last_length: b.last_length, ..a.clone() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MasterNumber;
    use crate::units::SessionId;
    use proptest::prelude::*;

    fn run(counter: u64, count: u32, segment_length: u64, last_length: u64) -> SegmentRun {
        SegmentRun {
            first: SegmentId { session: SessionId([1; 16]), counter },
            count,
            segment_length,
            last_length,
            start: 0,
            master: MasterNumber(1),
            owner: None,
        }
    }

    /// What a byte of the file would read as: the segment and the offset in it.
    fn resolve(map: &ExtentMap, size: u64) -> Vec<Option<(u64, u64)>> {
        let mut bytes = Vec::new();
        for (range, piece) in map.lookup(ByteRange::new(0, size)) {
            for index in 0..range.length() {
                bytes.push(match &piece {
                    None => None,
                    Some(Piece::Inline(data)) => Some((0, u64::from(data[index as usize]))),
                    Some(Piece::Segments(run)) => {
                        let at = run.start + index;
                        Some((run.first.counter + at / run.segment_length, at % run.segment_length))
                    }
                });
            }
        }
        bytes
    }

    #[test]
    fn consecutive_segments_are_one_extent_whatever_the_order_of_their_uploads() {
        let mut map = ExtentMap::default();
        for index in [0, 2, 1, 3] {
            let last = if index == 3 { 4 } else { 10 };
            let piece = Piece::Segments(run(7 + index, 1, last, last));
            map.insert(ByteRange::new(index * 10, last), piece);
        }
        assert_eq!(map.len(), 1);
        assert_eq!(
            map.lookup(ByteRange::new(0, 34)),
            vec![(ByteRange::new(0, 34), Some(Piece::Segments(run(7, 4, 10, 4))))]
        );
    }

    #[test]
    fn parts_of_segments_that_arrive_piece_by_piece_are_one_extent() {
        let mut map = ExtentMap::default();
        for index in 0..12_u64 {
            let start = index % 4 * 2;
            let part = SegmentRun { start, ..run(5 + index / 4, 1, 8, 8) };
            map.insert(ByteRange::new(index * 2, 2), Piece::Segments(part));
        }
        assert_eq!(
            map.lookup(ByteRange::new(0, 24)),
            vec![(ByteRange::new(0, 24), Some(Piece::Segments(run(5, 3, 8, 8))))]
        );
    }

    /// Only a record of another program holds a run of so many segments.
    #[test]
    fn a_run_of_as_many_segments_as_can_be_counted_is_not_joined() {
        let mut map = ExtentMap::default();
        let most = u64::from(u32::MAX);
        map.insert(ByteRange::new(0, most), Piece::Segments(run(1, u32::MAX, 1, 1)));
        map.insert(ByteRange::new(most, 1), Piece::Segments(run(1 + most, 1, 1, 1)));
        assert_eq!((map.len(), map.lookup(ByteRange::new(0, most + 1)).len()), (2, 2));
    }

    #[test]
    fn trailing_segments_are_found_one_by_one() {
        let mut map = ExtentMap::default();
        map.insert(ByteRange::new(0, 50), Piece::Segments(run(1, 1, 50, 50)));
        map.insert(ByteRange::new(50, 10), Piece::Segments(run(4, 1, 10, 10)));
        // Three segments of 4 and one of 2, of which the first byte is covered by what comes before.
        map.insert(
            ByteRange::new(60, 13),
            Piece::Segments(SegmentRun { start: 1, ..run(7, 4, 4, 2) }),
        );
        map.insert(ByteRange::new(73, 5), Piece::Inline(Bytes::from_static(b"inner")));
        let found = map.trailing_segments(20);
        let expected = [(71, 2), (67, 4), (63, 4), (60, 3), (50, 10)];
        assert_eq!(found, expected.map(|(offset, length)| ByteRange::new(offset, length)));
        map.remove(ByteRange::new(62, 1));
        assert_eq!(map.trailing_segments(20).len(), 3);
    }

    #[test]
    fn a_publish_rewrites_only_the_pages_that_changed() {
        let mut map = ExtentMap::default();
        for index in 0..3000_u64 {
            let piece = Piece::Segments(run(index * 2 + 1, 1, 4, 4));
            map.insert(ByteRange::new(index * 8, 4), piece);
        }
        let pages = map.pages_to_write();
        assert_eq!(pages.len(), 6);
        for (range, _) in pages {
            map.page_written(PageRef { range, segment: run(9000 + range.offset(), 1, 1, 1) });
        }
        assert!(map.pages_to_write().is_empty());
        assert_eq!(map.layout().pages.len(), 6);
        assert!(map.layout().extents.is_empty());
        map.insert(ByteRange::new(1600, 4), Piece::Segments(run(8001, 1, 4, 4)));
        let layout = map.layout();
        assert_eq!((layout.pages.len(), layout.extents.len()), (5, 512));
        assert!(map.pages_to_write().is_empty(), "512 extents fit the record itself");
    }

    proptest! {
        #[test]
        fn the_map_agrees_with_a_plain_array(
            steps in prop::collection::vec((0..3_u8, 0..200_u64, 1..60_u64), 1..60)
        ) {
            let (mut map, mut model) = (ExtentMap::default(), vec![None; 260]);
            let mut counter = 1;
            for (kind, offset, length) in steps {
                let range = ByteRange::new(offset, length);
                let target = &mut model[offset as usize..(offset + length) as usize];
                match kind {
                    0 => {
                        let count = length.div_ceil(16);
                        let last = length - (count - 1) * 16;
                        let whole = if count == 1 { last } else { 16 };
                        map.insert(range, Piece::Segments(run(counter, count as u32, whole, last)));
                        for (index, byte) in target.iter_mut().enumerate() {
                            *byte = Some((counter + index as u64 / 16, index as u64 % 16));
                        }
                        counter += count;
                    }
                    1 => {
                        let data: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
                        map.insert(range, Piece::Inline(data.into()));
                        for (index, byte) in target.iter_mut().enumerate() {
                            *byte = Some((0, index as u64));
                        }
                    }
                    _ => {
                        map.remove(range);
                        target.fill(None);
                    }
                }
                prop_assert_eq!(resolve(&map, 260), model.clone());
                let layout = map.layout();
                let content = FileContent {
                    id: crate::units::FileId([2; 16]),
                    size: 260,
                    extents: layout.extents,
                    pages: layout.pages,
                    inline: layout.inline,
                };
                prop_assert_eq!(resolve(&ExtentMap::new(&content, Vec::new()), 260), model.clone());
            }
        }
    }
}
