//! Inodes as this mount knows them: what the store has of a thing, and what is changed here.

use super::dirty::DirtyMap;
use super::errno::FsError;
use super::recorder::{Recorded, Recorder, Written};
use super::settle::merge_attributes;
use super::types::{Attr, Ino, Kind};
use crate::units::{ByteRange, DirId, FileId, SegmentId};
use crate::volume::native::extents::{ExtentMap, Piece};
use crate::volume::native::record::{Attributes, Content, FileContent, Record, SpecialKind};
use crate::volume::native::session::Session;
use crate::volume::native::{Place, Stored};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The root's number.
pub(super) const ROOT: Ino = Ino(1);

/// What a small map takes in memory, about.
const MAP: u64 = 1 << 10;

/// What the store calls a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    File(FileId),
    Directory(DirId),
}

impl Identity {
    pub(super) fn of(content: &Content) -> Option<Self> {
        match content {
            Content::File(file) => Some(Self::File(file.id)),
            Content::Directory(dir) => Some(Self::Directory(*dir)),
            Content::Symlink(id, _) | Content::Special(id, _, _) => Some(Self::File(*id)),
            Content::Link(_) => None,
        }
    }

    /// The number that it prefers: the same on every mount.
    pub(super) fn preferred(self) -> u64 {
        let (Self::File(FileId(id)) | Self::Directory(DirId(id))) = self;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&id[..8]);
        // Below 2^63, so that programs with signed numbers are content; 0 and 1 are taken.
        (u64::from_be_bytes(bytes) >> 1).max(2)
    }
}

/// One file, directory, symlink or special file.
pub(super) struct Inode {
    pub(super) ino: Ino,
    pub(super) identity: Identity,
    pub(super) state: Recorded,
    /// Whoever changes the inode's record in the store holds this: each change is based on the one
    /// before. Taken before `state`, held across requests.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Woken when an upload of this inode ends.
    pub(super) uploaded: tokio::sync::Notify,
    /// Directories that the table knows to be in this one; changed under the table's lock.
    pub(super) subdirectories: AtomicU32,
}

/// What is known of an inode, including what the store does not have yet.
pub(super) struct State {
    /// Lookups that the kernel holds.
    pub(super) lookups: u64,
    pub(super) handles: u32,
    pub(super) writers: u32,
    /// Operations under way that need the content as it is in memory.
    pub(super) pins: u32,
    /// Open directories whose listing has it: the kernel may take it from there at any time.
    pub(super) listed: u32,
    /// The record in the store; `None` until the first publish.
    pub(super) home: Option<Stored>,
    /// Where the first publish goes.
    pub(super) place: Place,
    /// The id under which the file is stored since it lost a conflict; its own data stay where they are.
    pub(super) kept_as: Option<FileId>,
    /// The last name is gone: nothing is published any more.
    pub(super) unlinked: bool,
    /// Its only name, if its removal was asked for and may have happened although it failed.
    pub(super) doomed_name: Option<(Ino, Vec<u8>)>,
    pub(super) attributes: Attributes,
    pub(super) links: u32,
    pub(super) content: Body,
    /// Counts changes; `published` is the count that the store has.
    pub(super) modified: u64,
    pub(super) published: u64,
    /// A directory's times are those of entries that came or went since: the store gets them later.
    pub(super) times_pending: bool,
    /// When the store was last asked about it (boot time); `None`: ask again.
    pub(super) checked_at: Option<Duration>,
    /// When the kernel's look-up was answered by the store (boot time), for the open that follows it.
    pub(super) looked_up_at: Option<Duration>,
    /// A failure that nobody has been told of yet, with a number for each handle to compare.
    pub(super) failure: Option<FsError>,
    pub(super) failures: u64,
    /// A name that led here leads elsewhere, which the kernel does not know: another node was at it.
    pub(super) lost_a_name: bool,
    /// Names of this mount's table that lead here.
    pub(super) names: HashSet<(Ino, Vec<u8>)>,
    /// Bytes that were accepted are lost with a former process: every write, fsync and close says so.
    pub(super) lost: bool,
    /// What is written down for a process that takes over.
    pub(super) written: Written,
    /// The newest change of content that the record being sent covers, and the one that the store has.
    pub(super) sent_change: u64,
    pub(super) published_change: u64,
}

/// What kind of thing it is, while in use.
pub(super) enum Body {
    File(Box<FileBody>),
    Directory,
    Symlink(Vec<u8>),
    Special(SpecialKind, u64),
}

/// A file's bytes while in use.
pub(super) struct FileBody {
    pub(super) size: u64,
    /// The size without dirty data: what a publish may say, so that no byte appears that was not stored.
    pub(super) settled_size: u64,
    /// As published; its extents are in `map` once that is loaded.
    pub(super) stored: FileContent,
    pub(super) map: Option<ExtentMap>,
    pub(super) dirty: DirtyMap,
    pub(super) uploads: usize,
    pub(super) numbers: SegmentNumbers,
    /// How its readers read: decides whether the next one goes through the page cache.
    pub(super) read_in_small_pieces: bool,
    /// What the kernel's page cache has of this file is of this content: another open keeps it. Content
    /// that another node stored comes as a new value, so that the pages of the former one are dropped.
    pub(super) in_page_cache: bool,
    /// An upload failed and has to be tried again.
    pub(super) upload_failed: bool,
    /// What was stored or cut since the state's lock was taken, if that is to be written down.
    pub(super) changes: Vec<(ByteRange, Option<Piece>)>,
    pub(super) remembers_changes: bool,
    /// Tells this content from what the inode had before it was loaded anew.
    pub(super) mark: u64,
}

/// Marks of contents.
static MARKS: AtomicU64 = AtomicU64::new(1);

impl FileBody {
    pub(super) fn new(content: FileContent) -> Self {
        // A file without pages whose record is here whole needs nothing fetched to know its map.
        let complete = content.pages.is_empty() && content.is_whole();
        let map = complete.then(|| ExtentMap::new(&content, Vec::new()));
        Self {
            size: content.size,
            settled_size: content.size,
            stored: content,
            map,
            dirty: DirtyMap::default(),
            uploads: 0,
            numbers: SegmentNumbers::default(),
            read_in_small_pieces: false,
            in_page_cache: false,
            upload_failed: false,
            changes: Vec::new(),
            remembers_changes: false,
            mark: MARKS.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The same content, now that more of its record is here.
    pub(super) fn loaded(&self, content: FileContent) -> Self {
        let (read_in_small_pieces, in_page_cache) = (self.read_in_small_pieces, self.in_page_cache);
        Self { read_in_small_pieces, in_page_cache, ..Self::new(content) }
    }

    /// Enters where bytes are now. For whoever has seen the map.
    pub(super) fn put(&mut self, range: ByteRange, piece: Piece) {
        let Some(map) = &mut self.map else { return };
        if self.remembers_changes {
            self.changes.push((range, Some(piece.clone())));
        }
        map.insert(range, piece);
    }

    /// Makes a hole, also in what is dirty.
    pub(super) fn cut(&mut self, range: ByteRange) -> Result<(), FsError> {
        let map = self.map.as_mut().ok_or_else(super::core::map_missing)?;
        self.dirty.punch(range);
        map.remove(range);
        if self.remembers_changes {
            self.changes.push((range, None));
        }
        Ok(())
    }
}

/// Segment numbers set aside for one file, so that its consecutive segments are one extent.
#[derive(Default)]
pub(super) struct SegmentNumbers {
    next: Option<SegmentId>,
    left: u64,
    taken: u64,
}

impl SegmentNumbers {
    pub(super) fn take(&mut self, session: &Session) -> SegmentId {
        let next = match self.next {
            Some(next) if self.left > 0 && next.session == session.id() => next,
            _ => {
                // Most files have one segment; a big one gets more and more at once.
                self.left = (self.taken + 1).next_power_of_two().min(64);
                session.take_segments(self.left)
            }
        };
        self.left -= 1;
        self.taken += 1;
        self.next = Some(SegmentId { counter: next.counter + 1, ..next });
        next
    }
}

impl Inode {
    pub(super) fn new(
        ino: Ino,
        identity: Identity,
        state: State,
        recorder: Option<Arc<Recorder>>,
    ) -> Self {
        Self {
            ino,
            identity,
            state: Recorded::new(state, recorder, ino, identity),
            turn: tokio::sync::Mutex::default(),
            uploaded: tokio::sync::Notify::new(),
            subdirectories: AtomicU32::new(0),
        }
    }

    pub(super) fn directory(&self) -> Result<DirId, FsError> {
        match self.identity {
            Identity::Directory(dir) => Ok(dir),
            Identity::File(_) => Err(FsError::NotDirectory),
        }
    }

    pub(super) fn file(&self) -> Result<FileId, FsError> {
        match self.identity {
            Identity::File(file) => Ok(file),
            Identity::Directory(_) => Err(FsError::IsDirectory),
        }
    }

    pub(super) fn attr(&self) -> Attr {
        self.attr_of(&self.state.lock())
    }

    /// The same, by whoever holds the state.
    pub(super) fn attr_of(&self, state: &State) -> Attr {
        let mut attr = state.attr(self.ino);
        if attr.kind == Kind::Directory && attr.nlink > 0 {
            // Each directory below has a `..` that leads here.
            attr.nlink += self.subdirectories.load(Ordering::Relaxed);
        }
        attr
    }

    /// Keeps the content in memory from being replaced by what has no data.
    pub(super) fn pin(&self) -> Pin<'_> {
        self.state.lock().pins += 1;
        Pin(self)
    }
}

/// See [`Inode::pin`].
pub(super) struct Pin<'a>(&'a Inode);

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.state.lock().pins -= 1;
    }
}

impl State {
    /// A record as it was loaded, or (`home` absent) as it will be stored.
    pub(super) fn new(record: &Record, home: Option<Stored>, place: Place) -> Self {
        let content = body(&record.content);
        Self {
            lookups: 0,
            handles: 0,
            writers: 0,
            pins: 0,
            listed: 0,
            modified: u64::from(home.is_none()),
            published: 0,
            times_pending: false,
            home,
            place,
            kept_as: None,
            unlinked: false,
            doomed_name: None,
            attributes: record.attributes.clone(),
            links: record.links.max(1),
            content,
            checked_at: None,
            looked_up_at: None,
            failure: None,
            failures: 0,
            lost_a_name: false,
            names: HashSet::new(),
            lost: false,
            written: Written::default(),
            sent_change: 0,
            published_change: 0,
        }
    }

    /// Takes over what the store says now. Only for inodes without changes of their own. A record
    /// without its data says nothing new where the whole one is known, and does not take the place of
    /// content that is in use.
    pub(super) fn refresh(&mut self, home: Stored) {
        let same = self.home.as_ref().is_some_and(|known| known.etag == home.etag);
        if !home.record.is_whole() && (same || self.handles > 0 || self.pins > 0) {
            return;
        }
        if same {
            if let (Body::File(body), Content::File(content)) =
                (&mut self.content, &home.record.content)
                && body.map.is_none()
                && !body.stored.is_whole()
            {
                **body = body.loaded(content.clone());
            }
        } else {
            self.attributes = home.record.attributes.clone();
            self.links = home.record.links.max(1);
            self.content = body(&home.record.content);
        }
        self.place = home.place.clone();
        self.home = Some(home);
    }

    /// Bytes in memory of data that lie in the record, and of the map that says so; 0 if there are none.
    pub(super) fn body_bytes(&self) -> u64 {
        let Body::File(body) = &self.content else { return 0 };
        let stored = body.stored.inline.len() as u64;
        let mapped = body.map.as_ref().map_or(0, ExtentMap::inline_bytes);
        if stored + mapped > 0 { MAP + stored + mapped } else { 0 }
    }

    /// Lets go of the data that lie in the record of a file that nobody uses: its head stays.
    pub(super) fn forget_body(&mut self) {
        let is_idle = self.handles == 0 && self.pins == 0 && !self.unlinked && !self.is_changed();
        let Body::File(body) = &mut self.content else { return };
        let is_stored = body.uploads == 0 && !body.upload_failed && body.dirty.dirty_bytes() == 0;
        let Some(home) = self.home.as_mut().filter(|_| is_idle && is_stored && !self.lost) else {
            return;
        };
        let mut record = Record::clone(&home.record);
        let Content::File(content) = &mut record.content else { return };
        content.inline = bytes::Bytes::new();
        body.stored = content.clone();
        body.map = None;
        home.record = Arc::new(record);
    }

    /// A change of its names has given it a record that may hold more than that change: what another node
    /// has stored since. Then it is taken over too, or, where there are changes of our own, not taken for
    /// their base: the next publish finds out and brings both together. A record of another thing, which
    /// has taken the name meanwhile, changes nothing; the answer says whether it is this one's.
    pub(super) fn rebase(&mut self, inode: &Inode, home: Stored) -> bool {
        if Identity::of(&home.record.content) != Some(self.identity(inode)) {
            return false;
        }
        self.place = home.place.clone();
        let known = self.home.as_ref().map(|known| &known.record);
        let clean = match &self.content {
            Body::File(file) => file.uploads == 0 && file.dirty.dirty_bytes() == 0,
            _ => true,
        };
        if known.is_none_or(|known| known.content == home.record.content) {
            if let Some(known) = known {
                let theirs = &home.record.attributes;
                self.attributes = merge_attributes(&known.attributes, &self.attributes, theirs);
            }
            self.home = Some(home);
        } else if clean && !self.is_changed() {
            let links = self.links;
            self.refresh(home);
            self.links = links;
        }
        true
    }

    /// What the store calls it.
    pub(super) fn identity(&self, inode: &Inode) -> Identity {
        self.kept_as.map_or(inode.identity, Identity::File)
    }

    /// Whether the store does not have everything yet.
    pub(super) fn is_changed(&self) -> bool {
        self.modified != self.published
    }

    pub(super) fn file(&self) -> Result<&FileBody, FsError> {
        match &self.content {
            Body::File(file) => Ok(file),
            Body::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }

    pub(super) fn file_mut(&mut self) -> Result<&mut FileBody, FsError> {
        match &mut self.content {
            Body::File(file) => Ok(file),
            Body::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }

    fn attr(&self, ino: Ino) -> Attr {
        let Attributes { mode, uid, gid, atime, mtime, ctime, btime, xattrs: _ } = &self.attributes;
        let (kind, size, rdev) = match &self.content {
            Body::File(file) => (Kind::File, file.size, 0),
            Body::Directory => (Kind::Directory, 4096, 0),
            Body::Symlink(target) => (Kind::Symlink, target.len() as u64, 0),
            Body::Special(kind, rdev) => (special(*kind), 0, *rdev),
        };
        let links = if self.unlinked {
            0
        } else if kind == Kind::Directory {
            2
        } else {
            self.links
        };
        Attr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: *atime,
            mtime: *mtime,
            ctime: *ctime,
            btime: *btime,
            kind,
            mode: *mode,
            nlink: links,
            uid: *uid,
            gid: *gid,
            rdev: rdev as u32,
            blksize: 1 << 20,
        }
    }
}

pub(super) fn special(kind: SpecialKind) -> Kind {
    match kind {
        SpecialKind::Fifo => Kind::Fifo,
        SpecialKind::Socket => Kind::Socket,
        SpecialKind::CharacterDevice => Kind::CharDevice,
        SpecialKind::BlockDevice => Kind::BlockDevice,
    }
}

fn body(content: &Content) -> Body {
    match content {
        Content::File(file) => Body::File(Box::new(FileBody::new(file.clone()))),
        Content::Directory(_) => Body::Directory,
        Content::Symlink(_, target) => Body::Symlink(target.clone()),
        Content::Special(_, kind, rdev) => Body::Special(*kind, *rdev),
        // The table holds resolved records only; a reference shows as an empty special file.
        Content::Link(_) => Body::Special(SpecialKind::Fifo, 0),
    }
}
