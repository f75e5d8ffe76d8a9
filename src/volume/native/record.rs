//! Records as the engine sees them, and their stored form. A stored form from the bucket was
//! authenticated by the keyring before it is decoded here, but is still checked in full: a record that
//! does not make sense is damage, never a panic and never a guess.

use super::proto;
use crate::crypto::MasterNumber;
use crate::units::{ByteRange, DirId, FileId, InodeId, SegmentId, SessionId};
use crate::world::Timestamp;
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// The version of records that this program writes.
pub const FORMAT: u32 = 1;
/// Data that lies in the record itself, at most.
pub const INLINE_LIMIT: usize = 64 << 10;
/// A file's size, at most: what a signed 64-bit offset can name.
pub const SIZE_LIMIT: u64 = i64::MAX as u64;
/// The publish ids that a record keeps.
pub const PUBLISHES_KEPT: usize = 8;
/// The symlink target, at most (PATH_MAX less its NUL).
pub const SYMLINK_LIMIT: usize = 4095;

/// What is behind a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Owner, mode, times.
    pub attributes: Attributes,
    /// What kind of thing it is.
    pub content: Content,
    /// Number of names; 1 except in records at `i/`.
    pub links: u32,
    /// Where it was renamed from, until the next publish.
    pub moved_from: Option<MovedFrom>,
    /// The hidden name, in the same directory, that holds what stood here before an exchange; until the
    /// next publish.
    pub exchanged: Option<Vec<u8>>,
    /// The publish ids of its last writers, newest last.
    pub publishes: Vec<u64>,
    /// When the name was buried: the record is a tombstone.
    pub buried_at: Option<Timestamp>,
    /// In a tombstone: the thing lives on under another name.
    pub moved_away: bool,
    /// In the tombstone of something that was moved: where to.
    pub moved_to: Option<MovedTo>,
}

/// What `stat` tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    /// Permissions with set-id and sticky bits (`07777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access (set explicitly only).
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the record.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The kinds of things behind a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A regular file.
    File(FileContent),
    /// A directory: its entries' keys are made from the id.
    Directory(DirId),
    /// A symbolic link and its target.
    Symlink(FileId, Vec<u8>),
    /// A FIFO, socket or device with its device number.
    Special(FileId, SpecialKind, u64),
    /// One of several names; the record proper lies at `i/`.
    Link(InodeId),
}

/// FIFO, socket, devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SpecialKind {
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

/// A regular file's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct FileContent {
    /// Whose segments these are.
    pub id: FileId,
    /// Size in bytes.
    pub size: u64,
    /// Extents that no page holds, in order, not overlapping.
    pub extents: Vec<Extent>,
    /// Pages of extents, in order; no extent of the list above lies inside one.
    pub pages: Vec<PageRef>,
    /// The record's body.
    pub inline: Bytes,
}

impl FileContent {
    /// The same bytes as those of another file, `id`: they stay where they are, in this one's segments.
    pub fn shared_with(mut self, id: FileId) -> Self {
        let owner = self.id;
        let runs = self.extents.iter_mut().filter_map(|extent| match &mut extent.source {
            Source::Segments(run) => Some(run),
            Source::Inline(_) => None,
        });
        for run in runs.chain(self.pages.iter_mut().map(|page| &mut page.segment)) {
            run.owner = run.owner.or(Some(owner));
        }
        self.id = id;
        self
    }

    /// The other files in whose segments bytes of this one are, as far as its record tells.
    pub fn owners(&self) -> BTreeSet<FileId> {
        let runs = self.extents.iter().filter_map(|extent| match &extent.source {
            Source::Segments(run) => run.owner,
            Source::Inline(_) => None,
        });
        runs.chain(self.pages.iter().filter_map(|page| page.segment.owner)).collect()
    }
}

/// Bytes of a file and where they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Extent {
    /// The file's bytes.
    pub range: ByteRange,
    /// Where they are.
    pub source: Source,
}

/// Where an extent's bytes are.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// In the record's body, from this offset on.
    Inline(u64),
    /// In segments.
    Segments(SegmentRun),
}

/// Segments with consecutive counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRun {
    /// The first one.
    pub first: SegmentId,
    /// How many.
    pub count: u32,
    /// Plaintext length of each but the last.
    pub segment_length: u64,
    /// Plaintext length of the last.
    pub last_length: u64,
    /// Where the extent begins in the first one.
    pub start: u64,
    /// The key they are sealed under.
    pub master: MasterNumber,
    /// Whose segments they are, if not the file's own.
    pub owner: Option<FileId>,
}

impl SegmentRun {
    /// Plaintext bytes that the run holds.
    pub fn total(&self) -> u64 {
        u64::from(self.count.saturating_sub(1)) * self.segment_length + self.last_length
    }
}

/// A sealed page of extents.
#[derive(Clone, Debug, PartialEq)]
pub struct PageRef {
    /// The part of the file that its extents cover (holes inside included).
    pub range: ByteRange,
    /// The segment that holds it (a run of one). Extents in it that name no owner belong to this one's.
    pub segment: SegmentRun,
}

/// Where a record was renamed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedFrom {
    /// The directory it was in.
    pub dir: DirId,
    /// Its name there.
    pub name: Vec<u8>,
    /// The salt of the record that stood there.
    pub salt: [u8; 16],
}

/// Where what a tombstone names was renamed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedTo {
    /// The directory that it went to.
    pub dir: DirId,
    /// Its name there.
    pub name: Vec<u8>,
}

impl Record {
    /// A new record, one name, never published.
    pub fn new(attributes: Attributes, content: Content) -> Self {
        Self {
            attributes,
            content,
            links: 1,
            moved_from: None,
            exchanged: None,
            publishes: Vec::new(),
            buried_at: None,
            moved_away: false,
            moved_to: None,
        }
    }

    /// The file's content, if it is a file.
    pub fn file(&self) -> Option<&FileContent> {
        match &self.content {
            Content::File(file) => Some(file),
            _ => None,
        }
    }

    /// The same, to change.
    pub fn file_mut(&mut self) -> Option<&mut FileContent> {
        match &mut self.content {
            Content::File(file) => Some(file),
            _ => None,
        }
    }

    /// The directory's id, if it is one.
    pub fn directory(&self) -> Option<DirId> {
        match self.content {
            Content::Directory(dir) => Some(dir),
            _ => None,
        }
    }

    /// The stored form: head and body.
    pub fn encode(&self) -> (Vec<u8>, Bytes) {
        let Self {
            attributes,
            content,
            links,
            moved_from,
            exchanged,
            publishes,
            buried_at,
            moved_away,
            moved_to,
        } = self;
        let Attributes { mode, uid, gid, atime, mtime, ctime, btime, xattrs } = attributes;
        let mut head = proto::Record {
            format: FORMAT,
            mode: *mode,
            uid: *uid,
            gid: *gid,
            atime: atime.0,
            mtime: mtime.0,
            ctime: ctime.0,
            btime: btime.0,
            links: *links,
            publishes: publishes.clone(),
            buried_at: buried_at.map_or(0, |at| at.0),
            moved_away: *moved_away,
            exchanged: exchanged.clone().unwrap_or_default(),
            xattrs: xattrs
                .iter()
                .map(|(name, value)| proto::Xattr { name: name.clone(), value: value.clone() })
                .collect(),
            moved_from: moved_from.as_ref().map(|from| proto::MovedFrom {
                directory: from.dir.0.to_vec(),
                name: from.name.clone(),
                salt: from.salt.to_vec(),
            }),
            moved_to: moved_to
                .as_ref()
                .map(|to| proto::MovedTo { directory: to.dir.0.to_vec(), name: to.name.clone() }),
            ..proto::Record::default()
        };
        let mut body = Bytes::new();
        match content {
            Content::File(FileContent { id, size, extents, pages, inline }) => {
                head.set_kind(proto::Kind::File);
                head.id = id.0.to_vec();
                head.size = *size;
                let mut tables = Tables::default();
                head.extents = extents.iter().map(|extent| tables.extent(extent)).collect();
                head.pages = pages
                    .iter()
                    .map(|page| proto::ExtentPage {
                        offset: page.range.offset(),
                        length: page.range.length(),
                        segment: Some(tables.run(&page.segment)),
                    })
                    .collect();
                head.sessions = tables.sessions;
                head.owners = tables.owners;
                if !inline.is_empty() {
                    head.body_digest = blake3::hash(inline).as_bytes().to_vec();
                    body = inline.clone();
                }
            }
            Content::Directory(id) => {
                head.set_kind(proto::Kind::Directory);
                head.id = id.0.to_vec();
            }
            Content::Symlink(id, target) => {
                head.set_kind(proto::Kind::Symlink);
                head.id = id.0.to_vec();
                head.symlink_target = target.clone();
            }
            Content::Special(id, kind, rdev) => {
                head.set_kind(match kind {
                    SpecialKind::Fifo => proto::Kind::Fifo,
                    SpecialKind::Socket => proto::Kind::Socket,
                    SpecialKind::CharacterDevice => proto::Kind::CharacterDevice,
                    SpecialKind::BlockDevice => proto::Kind::BlockDevice,
                });
                head.id = id.0.to_vec();
                head.rdev = *rdev;
            }
            Content::Link(inode) => {
                head.set_kind(proto::Kind::Link);
                head.id = inode.0.to_vec();
            }
        }
        (head.encode_to_vec(), body)
    }

    /// Reads the stored form. `body` is `None` when only the head was fetched: then inline data is
    /// absent and [`FileContent::inline`] empty although extents refer to it.
    pub fn decode(head: &[u8], body: Option<Bytes>) -> Result<Self, DecodeError> {
        let head = proto::Record::decode(head).map_err(|_| DecodeError::Damaged("not a record"))?;
        if head.format != FORMAT {
            return Err(DecodeError::Format(head.format));
        }
        let kind = head.kind();
        let inline_length = body.as_ref().map(|body| body.len() as u64);
        if let Some(body) = &body {
            let digest = (!body.is_empty()).then(|| *blake3::hash(body).as_bytes());
            if digest.as_ref().map_or(&[][..], |digest| &digest[..]) != head.body_digest {
                return Err(DecodeError::Damaged("body does not belong to head"));
            }
        }
        let id = <[u8; 16]>::try_from(head.id.as_slice())
            .map_err(|_| DecodeError::Damaged("id is not 16 bytes"))?;
        let content = match kind {
            proto::Kind::File => {
                let tables = ReadTables::new(&head.sessions, &head.owners)?;
                let extents = tables.extents(&head.extents, head.size, inline_length)?;
                let pages = tables.pages(&head.pages, head.size)?;
                Content::File(FileContent {
                    id: FileId(id),
                    size: head.size,
                    extents,
                    pages,
                    inline: body.unwrap_or_default(),
                })
            }
            proto::Kind::Directory => Content::Directory(DirId(id)),
            proto::Kind::Symlink => {
                if head.symlink_target.is_empty() || head.symlink_target.len() > SYMLINK_LIMIT {
                    return Err(DecodeError::Damaged("symlink target is empty or too long"));
                }
                Content::Symlink(FileId(id), head.symlink_target)
            }
            proto::Kind::Fifo => Content::Special(FileId(id), SpecialKind::Fifo, head.rdev),
            proto::Kind::Socket => Content::Special(FileId(id), SpecialKind::Socket, head.rdev),
            proto::Kind::CharacterDevice => {
                Content::Special(FileId(id), SpecialKind::CharacterDevice, head.rdev)
            }
            proto::Kind::BlockDevice => {
                Content::Special(FileId(id), SpecialKind::BlockDevice, head.rdev)
            }
            proto::Kind::Link => Content::Link(InodeId(id)),
            proto::Kind::Unspecified => return Err(DecodeError::Damaged("kind is missing")),
        };
        let moved_from = match head.moved_from {
            Some(from) => Some(MovedFrom {
                dir: DirId::try_from(from.directory.as_slice())
                    .map_err(|_| DecodeError::Damaged("moved_from names no directory"))?,
                name: from.name,
                salt: from
                    .salt
                    .try_into()
                    .map_err(|_| DecodeError::Damaged("moved_from has no salt"))?,
            }),
            None => None,
        };
        let moved_to = match head.moved_to {
            Some(to) => Some(MovedTo {
                dir: DirId::try_from(to.directory.as_slice())
                    .map_err(|_| DecodeError::Damaged("moved_to names no directory"))?,
                name: to.name,
            }),
            None => None,
        };
        Ok(Self {
            attributes: Attributes {
                mode: head.mode & 0o7777,
                uid: head.uid,
                gid: head.gid,
                atime: Timestamp(head.atime),
                mtime: Timestamp(head.mtime),
                ctime: Timestamp(head.ctime),
                btime: Timestamp(head.btime),
                xattrs: head.xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect(),
            },
            content,
            links: head.links,
            moved_from,
            exchanged: Some(head.exchanged).filter(|hidden| !hidden.is_empty()),
            publishes: head.publishes,
            buried_at: (head.buried_at != 0).then_some(Timestamp(head.buried_at)),
            moved_away: head.moved_away,
            moved_to,
        })
    }
}

/// Encodes a page of extents: the plaintext of its segment.
pub fn encode_page(extents: &[Extent]) -> Vec<u8> {
    let mut tables = Tables::default();
    let extents = extents.iter().map(|extent| tables.extent(extent)).collect();
    proto::ExtentList { extents, sessions: tables.sessions, owners: tables.owners }.encode_to_vec()
}

/// Reads a page back; its extents must lie inside `range` and outside the body.
pub fn decode_page(bytes: &[u8], range: ByteRange) -> Result<Vec<Extent>, DecodeError> {
    let list =
        proto::ExtentList::decode(bytes).map_err(|_| DecodeError::Damaged("not an extent page"))?;
    let extents = ReadTables::new(&list.sessions, &list.owners)?.extents(
        &list.extents,
        range.end(),
        Some(0),
    )?;
    match extents.first() {
        Some(first) if first.range.offset() < range.offset() => {
            Err(DecodeError::Damaged("extent lies outside its page"))
        }
        _ => Ok(extents),
    }
}

/// A stored form that does not make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer program wrote it.
    #[error("record format {0} is not known to this program")]
    Format(u32),
    /// It contradicts itself.
    #[error("{0}")]
    Damaged(&'static str),
}

/// The tables that extents refer to by position, while encoding.
#[derive(Default)]
struct Tables {
    sessions: Vec<Vec<u8>>,
    owners: Vec<Vec<u8>>,
}

impl Tables {
    fn extent(&mut self, extent: &Extent) -> proto::Extent {
        let source = match &extent.source {
            Source::Inline(offset) => proto::extent::Source::BodyOffset(*offset),
            Source::Segments(run) => proto::extent::Source::Segments(self.run(run)),
        };
        proto::Extent {
            offset: extent.range.offset(),
            length: extent.range.length(),
            source: Some(source),
        }
    }

    fn run(&mut self, run: &SegmentRun) -> proto::SegmentRun {
        proto::SegmentRun {
            session: position(&mut self.sessions, &run.first.session.0),
            counter: run.first.counter,
            count: run.count,
            segment_length: run.segment_length,
            last_length: run.last_length,
            start: run.start,
            master: run.master.0,
            owner: run.owner.map_or(0, |owner| 1 + position(&mut self.owners, &owner.0)),
        }
    }
}

fn position(table: &mut Vec<Vec<u8>>, id: &[u8; 16]) -> u32 {
    // Newest last: most extents of a record are of the session that writes it.
    let found = table.iter().rposition(|known| known == id);
    let index = found.unwrap_or_else(|| {
        table.push(id.to_vec());
        table.len() - 1
    });
    u32::try_from(index).expect("a record's head is limited to far fewer entries")
}

/// The tables while decoding.
struct ReadTables {
    sessions: Vec<SessionId>,
    owners: Vec<FileId>,
}

impl ReadTables {
    fn new(sessions: &[Vec<u8>], owners: &[Vec<u8>]) -> Result<Self, DecodeError> {
        let bad = |_| DecodeError::Damaged("id in a table is not 16 bytes");
        Ok(Self {
            sessions: sessions
                .iter()
                .map(|id| SessionId::try_from(id.as_slice()).map_err(bad))
                .collect::<Result<_, _>>()?,
            owners: owners
                .iter()
                .map(|id| FileId::try_from(id.as_slice()).map_err(bad))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Checks order, overlap, bounds; `inline` is the body's length, or `None` if it was not fetched.
    fn extents(
        &self,
        stored: &[proto::Extent],
        size: u64,
        inline: Option<u64>,
    ) -> Result<Vec<Extent>, DecodeError> {
        if size > SIZE_LIMIT {
            return Err(DecodeError::Damaged("size is beyond any file's"));
        }
        let mut end = 0;
        stored
            .iter()
            .map(|extent| {
                let range = ByteRange::checked(extent.offset, extent.length)
                    .ok_or(DecodeError::Damaged("extent overflows"))?;
                if range.is_empty() || range.offset() < end || range.end() > size {
                    return Err(DecodeError::Damaged("extents overlap or leave the file"));
                }
                end = range.end();
                let source = match &extent.source {
                    Some(proto::extent::Source::BodyOffset(offset)) => {
                        let fits = offset
                            .checked_add(range.length())
                            .is_some_and(|end| end <= inline.unwrap_or(INLINE_LIMIT as u64));
                        if !fits {
                            return Err(DecodeError::Damaged("extent leaves the record's body"));
                        }
                        Source::Inline(*offset)
                    }
                    Some(proto::extent::Source::Segments(run)) => {
                        let run = self.run(run)?;
                        let fits = run
                            .start
                            .checked_add(range.length())
                            .is_some_and(|end| end <= run.total());
                        if !fits {
                            return Err(DecodeError::Damaged("extent leaves its segments"));
                        }
                        Source::Segments(run)
                    }
                    None => return Err(DecodeError::Damaged("extent has no source")),
                };
                Ok(Extent { range, source })
            })
            .collect()
    }

    fn pages(&self, stored: &[proto::ExtentPage], size: u64) -> Result<Vec<PageRef>, DecodeError> {
        let mut end = 0;
        stored
            .iter()
            .map(|page| {
                let range = ByteRange::checked(page.offset, page.length)
                    .ok_or(DecodeError::Damaged("page overflows"))?;
                if range.is_empty() || range.offset() < end || range.end() > size {
                    return Err(DecodeError::Damaged("pages overlap or leave the file"));
                }
                end = range.end();
                let segment = page
                    .segment
                    .as_ref()
                    .ok_or(DecodeError::Damaged("page has no segment"))
                    .and_then(|run| self.run(run))?;
                // It may be another file's, from which this one was cloned.
                if segment.count != 1 || segment.start != 0 {
                    return Err(DecodeError::Damaged("page is not one whole segment"));
                }
                Ok(PageRef { range, segment })
            })
            .collect()
    }

    fn run(&self, run: &proto::SegmentRun) -> Result<SegmentRun, DecodeError> {
        let session = self
            .sessions
            .get(run.session as usize)
            .ok_or(DecodeError::Damaged("segment names no session"))?;
        let owner = match run.owner {
            0 => None,
            index => Some(
                *self
                    .owners
                    .get(index as usize - 1)
                    .ok_or(DecodeError::Damaged("segment names no owner"))?,
            ),
        };
        let lengths = 1..=super::SEGMENT_LIMIT;
        let sound = run.count >= 1
            && lengths.contains(&run.segment_length)
            && lengths.contains(&run.last_length)
            && run.last_length <= run.segment_length
            && (run.count > 1 || run.last_length == run.segment_length)
            && run.start < run.segment_length
            && run.counter.checked_add(u64::from(run.count)).is_some();
        if !sound {
            return Err(DecodeError::Damaged("segment lengths make no sense"));
        }
        Ok(SegmentRun {
            first: SegmentId { session: *session, counter: run.counter },
            count: run.count,
            segment_length: run.segment_length,
            last_length: run.last_length,
            start: run.start,
            master: MasterNumber(run.master),
            owner,
        })
    }
}
