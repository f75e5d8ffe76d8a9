//! What is inside the seals: records and pages of extents. They were authenticated before they are
//! decoded, and are still taken for hostile: a bug of another program's must not end this one.

use strongroom::crypto::MasterNumber;
use strongroom::units::{ByteRange, DirId, FileId, InodeId, SegmentId, SessionId};
use strongroom::volume::native::extents::{ExtentMap, Piece};
use strongroom::volume::native::record::{
    Attributes, Content, Extent, FileContent, MovedFrom, MovedTo, PageRef, Record, SegmentRun,
    Source, SpecialKind, decode_page, encode_page,
};
use strongroom::volume::native::rewrap::pins;
use strongroom::world::Timestamp;

/// Two bytes of the head's length, the head, the body.
pub(super) fn record_decode(input: &[u8]) {
    let Some((length, rest)) = input.split_first_chunk::<2>() else { return };
    let (head, body) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
    if let Ok(record) = Record::decode(head, None) {
        let (stored, _) = record.encode();
        let again = Record::decode(&stored, None).expect("what was encoded decodes");
        assert!(record == again);
    }
    let Ok(record) = Record::decode(head, Some(body.to_vec().into())) else { return };
    let (stored, inline) = record.encode();
    let again = Record::decode(&stored, Some(inline)).expect("what was encoded decodes");
    assert!(record == again);
    let Some(content) = record.file() else { return };
    check_map(ExtentMap::new(content, Vec::new()), content.size);
    let _ = content.clone().shared_with(FileId([9; 16]));
}

/// Eight bytes each of the page's offset and length, then the page.
pub(super) fn page_decode(input: &[u8]) {
    let Some((numbers, page)) = input.split_first_chunk::<16>() else { return };
    let offset = u64::from_be_bytes(*numbers.first_chunk().expect("16 bytes"));
    let length = u64::from_be_bytes(*numbers.last_chunk().expect("16 bytes"));
    let Some(range) = ByteRange::checked(offset, length) else { return };
    let Ok(extents) = decode_page(page, range) else { return };
    assert_eq!(decode_page(&encode_page(&extents), range).expect("decodes again"), extents);
    let content = FileContent {
        id: FileId([2; 16]),
        size: range.end(),
        extents: Vec::new(),
        pages: vec![PageRef { range, segment: run(90, 1, 100, 100) }],
        inline: bytes::Bytes::new(),
    };
    check_map(ExtentMap::new(&content, vec![extents]), range.end());
}

/// A session's head: its pins are ids, or it is refused.
pub(super) fn session(input: &[u8]) {
    let Ok(files) = pins(input) else { return };
    assert!(files.len() * 18 <= input.len(), "more pins than the bytes can say");
}

pub(super) fn session_seeds() -> Vec<Vec<u8>> {
    // Fields 1 to 8 of `Session`, by hand: the engine writes sessions only in the store.
    let pinned = [&[0x32, 16][..], &[7; 16], &[0x32, 16], &[8; 16]].concat();
    let start = b"\x08\x01\x12\x04host\x1a\x07program\x20\x02\x28\x03";
    vec![[&start[..], &pinned, &[0x3a, 1, 9, 0x40, 1]].concat(), start.to_vec()]
}

/// Every byte is somewhere, once, whatever is asked for and written.
fn check_map(mut map: ExtentMap, size: u64) {
    let check = |map: &ExtentMap, range: ByteRange| {
        let mut at = range.offset();
        for (part, piece) in map.lookup(range) {
            assert_eq!(part.offset(), at, "a gap or an overlap");
            assert!(!part.is_empty());
            at = part.end();
            match piece {
                Some(Piece::Inline(bytes)) => assert_eq!(bytes.len() as u64, part.length()),
                Some(Piece::Segments(run)) => {
                    assert!(run.start + part.length() <= run.total(), "leaves its segments");
                    assert!(run.first.counter.checked_add(run.count.into()).is_some());
                }
                None => {}
            }
        }
        assert_eq!(at, range.end());
    };
    check(&map, ByteRange::new(0, size));
    check(&map, ByteRange::between(size / 3, size - size / 4));
    // A write behind each piece that goes on in its segments, which are joined, and one in its middle.
    let pieces = map.lookup(ByteRange::new(0, size));
    for (part, piece) in pieces.into_iter().take(16) {
        if let Some(Piece::Segments(last)) = piece
            && let Some(counter) = last.first.counter.checked_add(last.count.into())
            && part.end() < i64::MAX as u64 - last.segment_length
        {
            let length = last.segment_length;
            let next = SegmentRun { first: SegmentId { counter, ..last.first }, ..last };
            let next = SegmentRun { count: 1, last_length: length, start: 0, ..next };
            map.insert(ByteRange::new(part.end(), length), Piece::Segments(next));
            check(&map, ByteRange::new(part.offset(), part.length() + length));
        }
        map.remove(ByteRange::new(part.offset() + part.length() / 2, 1));
        check(&map, part);
    }
    let _ = map.layout();
}

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

fn extents() -> Vec<Extent> {
    let at = |offset, length, source| Extent { range: ByteRange::new(offset, length), source };
    let other = SegmentRun { owner: Some(FileId([8; 16])), start: 5, ..run(70, 1, 4096, 4096) };
    vec![
        at(0, 100, Source::Segments(run(1, 4, 30, 10))),
        at(100, 50, Source::Segments(other)),
        at(200, 4000, Source::Segments(run(9, 1, 4000, 4000))),
        at(1 << 40, 1 << 35, Source::Segments(run(100, 4096, 8 << 20, 8 << 20))),
        at((1 << 41) - 1, u32::MAX.into(), Source::Segments(run(9000, u32::MAX, 1, 1))),
    ]
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    let attributes = Attributes {
        mode: 0o644,
        uid: 1000,
        mtime: Timestamp(1_700_000_000_000_000_000),
        atime: Timestamp(-5),
        xattrs: [(b"user.a".to_vec(), b"value".to_vec())].into(),
        ..Attributes::default()
    };
    let mut inline = extents();
    inline.insert(2, Extent { range: ByteRange::new(160, 5), source: Source::Inline(1) });
    let file = FileContent {
        id: FileId([2; 16]),
        size: 1 << 42,
        extents: inline,
        pages: vec![PageRef { range: ByteRange::new(1 << 20, 1 << 20), segment: run(80, 1, 9, 9) }],
        inline: bytes::Bytes::from_static(b"inline"),
    };
    let id = FileId([6; 16]);
    let contents = [
        Content::File(file),
        Content::Directory(DirId([3; 16])),
        Content::Symlink(id, b"../target".to_vec()),
        Content::Special(id, SpecialKind::CharacterDevice, 0x103),
        Content::Link(InodeId([5; 16])),
    ];
    let mut seeds = Vec::new();
    for content in contents {
        let mut record = Record::new(attributes.clone(), content);
        record.publishes = vec![1, 2, 3];
        let from = MovedFrom { dir: DirId([4; 16]), name: b"before".to_vec(), salt: [7; 16] };
        record.moved_from = Some(from);
        record.buried_at = (seeds.len() % 2 == 1).then_some(Timestamp(77));
        let to = || MovedTo { dir: DirId([8; 16]), name: b"after".to_vec() };
        record.moved_to = record.buried_at.map(|_| to());
        let (head, body) = record.encode();
        let length = u16::try_from(head.len()).expect("a short record").to_be_bytes();
        seeds.push([&length[..], &head, &body].concat());
    }
    seeds
}

pub(super) fn page_seeds() -> Vec<Vec<u8>> {
    let page = encode_page(&extents());
    vec![[&[0; 8][..], &(1_u64 << 42).to_be_bytes(), &page].concat()]
}
