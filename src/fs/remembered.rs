//! What a mount remembers for the process that takes over from it: the keys and values of its ledger.
//!
//! | key | value |
//! |---|---|
//! | `K` | the secret from which ids of new things are made, per request |
//! | `I` | how the connection to the kernel was negotiated |
//! | `S` | the session |
//! | `T` | how many processes served before |
//! | `N` number | an inode: what the store calls it, where its record lies, the record's head |
//! | `L` number | lookups of it that the kernel holds |
//! | `A` number | what of it is not in the store: attributes, size, that its last name is gone |
//! | `C` number, order | a change of its content that is not in its record: where stored bytes lie, what was cut |
//! | `H` handle | an open file |
//! | `D` handle | an open directory |
//! | `B` number, name | a name that was removed here and not in the store yet |
//! | `P` publish id | a record that was sent to the store under this id |
//! | `R` unique | a change of names under way, or done and perhaps not answered |
//!
//! Bytes that are dirty are not here but in the arena. Every value is read as hostile: what does not decode
//! is reported as damage, and nothing is guessed.

use super::inode::Identity;
use super::types::{Ino, OpenMode};
use crate::store::ETag;
use crate::units::{ByteRange, DirId, FileId, InodeId, SegmentId, SessionId};
use crate::volume::native::extents::Piece;
use crate::volume::native::record::{Attributes, Content, Record, SegmentRun};
use crate::volume::native::session::Kept;
use crate::volume::native::{Place, Stored};
use crate::world::Timestamp;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;

pub(super) const SECRET: &[u8] = b"K";
pub(super) const INIT: &[u8] = b"I";
pub(super) const SESSION: &[u8] = b"S";
pub(super) const TAKEOVERS: &[u8] = b"T";

/// A key that begins with a letter and a number.
pub(super) fn key(letter: u8, number: u64) -> Vec<u8> {
    let mut key = vec![letter];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The key of a change of content.
pub(super) fn content_key(ino: Ino, order: u64) -> Vec<u8> {
    let mut key = key(b'C', ino.0);
    key.extend_from_slice(&order.to_be_bytes());
    key
}

/// The key of a removal on its way.
pub(super) fn burial_key(directory: Ino, name: &[u8]) -> Vec<u8> {
    let mut key = key(b'B', directory.0);
    key.extend_from_slice(name);
    key
}

/// The letter, the number, and what follows.
pub(super) fn split(key: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (letter, rest) = key.split_first()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    Some((*letter, u64::from_be_bytes(*number), rest))
}

/// Where a record lies.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PlaceForm {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    name: Option<Vec<u8>>,
}

impl PlaceForm {
    pub(super) fn of(place: &Place) -> Self {
        match place {
            Place::Entry(dir, name) => Self { id: dir.0.to_vec(), name: Some(name.clone()) },
            Place::Inode(inode) => Self { id: inode.0.to_vec(), name: None },
        }
    }

    pub(super) fn read(&self) -> Option<Place> {
        let id = <[u8; 16]>::try_from(&self.id[..]).ok()?;
        Some(match &self.name {
            Some(name) => Place::Entry(DirId(id), name.clone()),
            None => Place::Inode(InodeId(id)),
        })
    }
}

/// What the store has.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HomeForm {
    #[prost(message, optional, tag = "1")]
    place: Option<PlaceForm>,
    #[prost(bytes = "vec", tag = "2")]
    head: Vec<u8>,
    /// Only of a file whose last name is gone: nobody else keeps it.
    #[prost(bytes = "vec", optional, tag = "3")]
    body: Option<Vec<u8>>,
    #[prost(string, tag = "4")]
    etag: String,
    #[prost(bytes = "vec", tag = "5")]
    salt: Vec<u8>,
    #[prost(int64, tag = "6")]
    modified: i64,
    #[prost(int64, tag = "7")]
    seen: i64,
}

impl HomeForm {
    fn of(home: &Stored, with_body: bool) -> Self {
        let Stored { record, place, etag, salt, modified, seen } = home;
        let (head, body) = record.encode();
        Self {
            place: Some(PlaceForm::of(place)),
            head,
            body: (with_body && record.is_whole()).then(|| body.to_vec()),
            etag: etag.0.clone(),
            salt: salt.to_vec(),
            modified: modified.0,
            seen: seen.0,
        }
    }

    fn read(self) -> Option<Stored> {
        Some(Stored {
            record: Arc::new(Record::decode(&self.head, self.body.map(Bytes::from)).ok()?),
            place: self.place?.read()?,
            etag: ETag(self.etag),
            salt: self.salt.try_into().ok()?,
            modified: Timestamp(self.modified),
            seen: Timestamp(self.seen),
        })
    }
}

/// A name that leads to an inode.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NameForm {
    #[prost(uint64, tag = "1")]
    pub(super) parent: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) name: Vec<u8>,
}

/// An inode.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeForm {
    #[prost(bool, tag = "1")]
    directory: bool,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "3")]
    kept_as: Option<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    place: Option<PlaceForm>,
    #[prost(message, optional, tag = "5")]
    home: Option<HomeForm>,
    #[prost(message, repeated, tag = "6")]
    names: Vec<NameForm>,
}

/// The same, as the engine knows it.
pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) kept_as: Option<FileId>,
    pub(super) place: Place,
    pub(super) home: Option<Stored>,
    pub(super) names: Vec<(Ino, Vec<u8>)>,
}

/// Names of one inode that are remembered; the others are looked up again.
const MOST_NAMES: usize = 16;

impl NodeForm {
    pub(super) fn of<'a>(
        identity: Identity,
        kept_as: Option<FileId>,
        place: &Place,
        home: Option<&Stored>,
        with_body: bool,
        names: impl Iterator<Item = &'a (Ino, Vec<u8>)>,
    ) -> Self {
        let (directory, id) = match identity {
            Identity::File(FileId(id)) => (false, id),
            Identity::Directory(DirId(id)) => (true, id),
        };
        let name =
            |(parent, name): &(Ino, Vec<u8>)| NameForm { parent: parent.0, name: name.clone() };
        Self {
            directory,
            id: id.to_vec(),
            kept_as: kept_as.map(|id| id.0.to_vec()),
            place: Some(PlaceForm::of(place)),
            home: home.map(|home| HomeForm::of(home, with_body)),
            names: names.take(MOST_NAMES).map(name).collect(),
        }
    }

    pub(super) fn read(self) -> Option<Node> {
        let id = <[u8; 16]>::try_from(&self.id[..]).ok()?;
        let kept_as = match self.kept_as {
            Some(id) => Some(FileId(id.try_into().ok()?)),
            None => None,
        };
        let home = match self.home {
            Some(home) => Some(home.read()?),
            None => None,
        };
        let names = self.names.into_iter().map(|name| (Ino(name.parent), name.name)).collect();
        let identity = match self.directory {
            true => Identity::Directory(DirId(id)),
            false => Identity::File(FileId(id)),
        };
        Some(Node { identity, kept_as, place: self.place?.read()?, home, names })
    }
}

/// What of an inode is not in the store.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ChangedForm {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) attributes: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) links: u32,
    #[prost(bool, tag = "3")]
    pub(super) unlinked: bool,
    /// Something is to be stored.
    #[prost(bool, tag = "4")]
    pub(super) changed: bool,
    #[prost(bool, tag = "5")]
    pub(super) times_pending: bool,
    /// Bytes that were accepted are lost: whoever has the file open is told.
    #[prost(bool, tag = "6")]
    pub(super) lost: bool,
    #[prost(uint64, optional, tag = "7")]
    pub(super) size: Option<u64>,
    #[prost(uint64, tag = "8")]
    pub(super) settled_size: u64,
    /// It was kept beside what another node has made of it, which is told at every close.
    #[prost(string, optional, tag = "9")]
    pub(super) stale: Option<String>,
}

impl ChangedForm {
    /// The attributes; the caller fills in the rest.
    pub(super) fn of(attributes: &Attributes) -> Self {
        let record = Record::new(attributes.clone(), Content::Directory(DirId([0; 16])));
        Self { attributes: record.encode().0, ..Self::default() }
    }

    pub(super) fn attributes(&self) -> Option<Attributes> {
        Record::decode(&self.attributes, None).ok().map(|record| record.attributes)
    }
}

/// A change of a file's content that its record in the store does not have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ContentChange {
    pub(super) range: ByteRange,
    /// What lies there now; `None`: nothing, it reads as zeros.
    pub(super) piece: Option<Piece>,
}

#[derive(Clone, PartialEq, Message)]
struct RunForm {
    #[prost(bytes = "vec", tag = "1")]
    session: Vec<u8>,
    #[prost(uint64, tag = "2")]
    counter: u64,
    #[prost(uint32, tag = "3")]
    count: u32,
    #[prost(uint64, tag = "4")]
    segment_length: u64,
    #[prost(uint64, tag = "5")]
    last_length: u64,
    #[prost(uint64, tag = "6")]
    start: u64,
    #[prost(uint32, tag = "7")]
    master: u32,
    #[prost(bytes = "vec", optional, tag = "8")]
    owner: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct ContentForm {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(uint64, tag = "2")]
    length: u64,
    #[prost(message, optional, tag = "3")]
    run: Option<RunForm>,
    #[prost(bytes = "vec", optional, tag = "4")]
    inline: Option<Vec<u8>>,
}

impl ContentChange {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { range, piece } = self;
        let mut form = ContentForm {
            offset: range.offset(),
            length: range.length(),
            ..ContentForm::default()
        };
        match piece {
            None => {}
            Some(Piece::Inline(bytes)) => form.inline = Some(bytes.to_vec()),
            Some(Piece::Segments(run)) => {
                let SegmentRun { first, count, segment_length, last_length, start, master, owner } =
                    run;
                form.run = Some(RunForm {
                    session: first.session.0.to_vec(),
                    counter: first.counter,
                    count: *count,
                    segment_length: *segment_length,
                    last_length: *last_length,
                    start: *start,
                    master: master.0,
                    owner: owner.map(|owner| owner.0.to_vec()),
                });
            }
        }
        form.encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let form = ContentForm::decode(bytes).ok()?;
        let range =
            ByteRange::checked(form.offset, form.length).filter(|range| !range.is_empty())?;
        let piece = match (form.run, form.inline) {
            (None, None) => None,
            (None, Some(bytes)) if bytes.len() as u64 == range.length() => {
                Some(Piece::Inline(bytes.into()))
            }
            (Some(run), None) => {
                let owner = match run.owner {
                    Some(owner) => Some(FileId(owner.try_into().ok()?)),
                    None => None,
                };
                let run = SegmentRun {
                    first: SegmentId {
                        session: SessionId(run.session.try_into().ok()?),
                        counter: run.counter,
                    },
                    count: run.count,
                    segment_length: run.segment_length,
                    last_length: run.last_length,
                    start: run.start,
                    master: crate::crypto::MasterNumber(run.master),
                    owner,
                };
                // Each number is bounded, so that their sums are.
                let small = |number: u64| number <= crate::volume::native::SEGMENT_LIMIT;
                let sound = run.count > 0
                    && small(run.segment_length)
                    && small(run.last_length)
                    && run.start.checked_add(range.length()).is_some_and(|end| end <= run.total());
                Some(Piece::Segments(sound.then_some(run)?))
            }
            _ => return None,
        };
        Some(Self { range, piece })
    }
}

/// An open file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HandleForm {
    #[prost(uint64, tag = "1")]
    pub(super) ino: u64,
    /// Bits in the order of [`OpenMode`]'s fields.
    #[prost(uint32, tag = "2")]
    mode: u32,
    #[prost(bool, tag = "3")]
    pub(super) direct_io: bool,
    #[prost(bool, tag = "4")]
    pub(super) keep_cache: bool,
    /// The request that opened it, in case its answer never left.
    #[prost(uint64, tag = "5")]
    pub(super) unique: u64,
}

impl HandleForm {
    pub(super) fn of(
        ino: Ino,
        mode: OpenMode,
        (direct_io, keep_cache): (bool, bool),
        unique: u64,
    ) -> Self {
        let OpenMode { read, write, append, truncate, sync, direct, excl } = mode;
        let bits = [read, write, append, truncate, sync, direct, excl];
        let mode = (0..).zip(bits).map(|(at, bit)| u32::from(bit) << at).sum();
        Self { ino: ino.0, mode, direct_io, keep_cache, unique }
    }

    pub(super) fn mode(&self) -> OpenMode {
        let bit = |at: u32| self.mode & (1 << at) != 0;
        OpenMode {
            read: bit(0),
            write: bit(1),
            append: bit(2),
            truncate: bit(3),
            sync: bit(4),
            direct: bit(5),
            excl: bit(6),
        }
    }
}

/// A name removed here, on its way to be buried in the store.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BurialForm {
    #[prost(bool, tag = "1")]
    directory: bool,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    place: Option<PlaceForm>,
}

impl BurialForm {
    pub(super) fn of(identity: Identity, place: &Place) -> Self {
        let (directory, id) = match identity {
            Identity::File(FileId(id)) => (false, id),
            Identity::Directory(DirId(id)) => (true, id),
        };
        Self { directory, id: id.to_vec(), place: Some(PlaceForm::of(place)) }
    }

    pub(super) fn read(&self) -> Option<(Identity, Place)> {
        let id = <[u8; 16]>::try_from(&self.id[..]).ok()?;
        let identity = match self.directory {
            true => Identity::Directory(DirId(id)),
            false => Identity::File(FileId(id)),
        };
        Some((identity, self.place.as_ref()?.read()?))
    }
}

/// A change of names under way.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ReplyForm {
    /// It was done; what follows is of no account then.
    #[prost(bool, tag = "1")]
    pub(super) done: bool,
    /// The number of what it is about, 0 if nothing was there.
    #[prost(uint64, tag = "2")]
    pub(super) ino: u64,
}

/// The connection to the kernel.
#[derive(Clone, PartialEq, Message)]
pub(super) struct InitForm {
    /// The kernel's first request and its answer, as they were.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) request: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) reply: Vec<u8>,
    /// The kernel has that answer for certain.
    #[prost(bool, tag = "3")]
    pub(super) answered: bool,
}

/// The session.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionForm {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    former: Vec<Vec<u8>>,
    #[prost(uint64, tag = "3")]
    next_segment: u64,
    #[prost(bool, tag = "4")]
    begun: bool,
    #[prost(bool, tag = "5")]
    alone: bool,
}

impl SessionForm {
    pub(super) fn of(kept: &Kept) -> Self {
        let Kept { id, former, next_segment, begun, alone } = kept;
        Self {
            id: id.0.to_vec(),
            former: former.iter().map(|id| id.0.to_vec()).collect(),
            next_segment: *next_segment,
            begun: *begun,
            alone: *alone,
        }
    }

    pub(super) fn read(self) -> Option<Kept> {
        let session = |id: Vec<u8>| Some(SessionId(id.try_into().ok()?));
        Some(Kept {
            id: session(self.id)?,
            former: self.former.into_iter().map(session).collect::<Option<_>>()?,
            next_segment: self.next_segment,
            begun: self.begun,
            alone: self.alone,
        })
    }
}

/// Reads any entry, for tests and for the fuzzer: whether it makes sense, and is the same when written
/// again.
#[doc(hidden)]
pub fn check_entry(key: &[u8], value: &[u8]) -> bool {
    match split(key) {
        Some((b'N', ..)) => NodeForm::decode(value).ok().and_then(NodeForm::read).is_some(),
        Some((b'A', ..)) => {
            ChangedForm::decode(value).is_ok_and(|changed| changed.attributes().is_some())
        }
        Some((b'C', ..)) => ContentChange::decode(value).is_some_and(|change| {
            assert_eq!(ContentChange::decode(&change.encode()).as_ref(), Some(&change));
            true
        }),
        Some((b'H', ..)) => HandleForm::decode(value).is_ok_and(|form| {
            let _ = form.mode();
            true
        }),
        Some((b'B', ..)) => BurialForm::decode(value).is_ok_and(|burial| burial.read().is_some()),
        Some((b'P', ..)) => true,
        Some((b'R', ..)) => ReplyForm::decode(value).is_ok(),
        Some(_) => false,
        None if key == INIT => InitForm::decode(value).is_ok(),
        None if key == SESSION => {
            SessionForm::decode(value).ok().and_then(SessionForm::read).is_some()
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_read_back_as_it_was() {
        let record = Record::new(
            Attributes { mode: 0o640, ..Attributes::default() },
            Content::Symlink(FileId([7; 16]), b"target".to_vec()),
        );
        let place = Place::Entry(DirId([3; 16]), b"name".to_vec());
        let home = Stored {
            record: Arc::new(record),
            place: place.clone(),
            etag: ETag("\"e\"".to_owned()),
            salt: [9; 16],
            modified: Timestamp(5),
            seen: Timestamp(-6),
        };
        let names = [(Ino(8), b"name".to_vec())];
        let identity = Identity::File(FileId([7; 16]));
        let form = NodeForm::of(identity, None, &place, Some(&home), false, names.iter());
        let node = NodeForm::decode(&form.encode_to_vec()[..]).ok().and_then(NodeForm::read);
        let node = node.expect("an inode");
        assert!(node.identity == identity && node.place == place && node.names == names);
        let read = node.home.expect("a record");
        assert_eq!((read.record, read.etag, read.salt), (home.record, home.etag, home.salt));
        assert_eq!((read.modified, read.seen), (home.modified, home.seen));
    }

    #[test]
    fn a_change_of_content_that_makes_no_sense_is_refused() {
        let run = SegmentRun {
            first: SegmentId { session: SessionId([1; 16]), counter: 4 },
            count: 2,
            segment_length: 100,
            last_length: 50,
            start: 10,
            master: crate::crypto::MasterNumber(1),
            owner: None,
        };
        let change = |length, run: &SegmentRun| ContentChange {
            range: ByteRange::new(5, length),
            piece: Some(Piece::Segments(run.clone())),
        };
        let good = change(140, &run);
        assert_eq!(ContentChange::decode(&good.encode()), Some(good));
        assert_eq!(ContentChange::decode(&change(141, &run).encode()), None);
        let none = SegmentRun { count: 0, ..run };
        assert_eq!(ContentChange::decode(&change(1, &none).encode()), None);
        assert_eq!(ContentChange::decode(b"\xff\xff"), None);
    }

    #[test]
    fn a_handle_keeps_its_mode() {
        let mode = OpenMode { write: true, append: true, direct: true, ..OpenMode::default() };
        assert_eq!(HandleForm::of(Ino(3), mode, (true, false), 9).mode(), mode);
    }
}
