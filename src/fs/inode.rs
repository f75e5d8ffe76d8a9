//! Inodes and names as this mount knows them.
//!
//! An inode is found by what the store calls it (its file or directory id), so a file keeps its number
//! through renames, by whichever node, and across mounts. Names map to inodes; a name may also be known
//! to be absent.

use super::absent::Listings;
use super::dirty::DirtyMap;
use super::errno::FsError;
use super::types::{Attr, Ino, Kind};
use crate::units::{DirId, FileId, SegmentId};
use crate::volume::native::extents::ExtentMap;
use crate::volume::native::record::{Attributes, Content, FileContent, Record, SpecialKind};
use crate::volume::native::session::Session;
use crate::volume::native::{Place, Stored};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The root's number.
pub(super) const ROOT: Ino = Ino(1);

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
    fn preferred(self) -> u64 {
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
    pub(super) state: Mutex<State>,
    /// Whoever changes the inode's record in the store holds this: each change is based on the one
    /// before. Taken before `state`, held across requests.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Woken when an upload of this inode ends.
    pub(super) uploaded: tokio::sync::Notify,
    /// Directories that the table knows to be in this one; changed under the table's lock.
    subdirectories: AtomicU32,
}

/// What is known of an inode, including what the store does not have yet.
pub(super) struct State {
    /// Lookups that the kernel holds.
    pub(super) lookups: u64,
    pub(super) handles: u32,
    pub(super) writers: u32,
    /// Operations under way that need the content as it is in memory.
    pub(super) pins: u32,
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
    /// A failure that nobody has been told of yet, with a number for each handle to compare.
    pub(super) failure: Option<FsError>,
    pub(super) failures: u64,
    /// Names of this mount's table that lead here.
    pub(super) names: HashSet<(Ino, Vec<u8>)>,
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
    /// An upload failed and has to be tried again.
    pub(super) upload_failed: bool,
}

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
            upload_failed: false,
        }
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
    pub(super) fn new(ino: Ino, identity: Identity, state: State) -> Self {
        Self {
            ino,
            identity,
            state: Mutex::new(state),
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
            failure: None,
            failures: 0,
            names: HashSet::new(),
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
                **body = FileBody::new(content.clone());
            }
        } else {
            self.attributes = home.record.attributes.clone();
            self.links = home.record.links.max(1);
            self.content = body(&home.record.content);
        }
        self.place = home.place.clone();
        self.home = Some(home);
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

/// What this mount knows of a name.
#[derive(Clone)]
pub(super) struct Dentry {
    /// The inode behind it, or `None` if the name is known to be absent.
    pub(super) child: Option<Arc<Inode>>,
    /// The entry itself where it is one of several names of the inode.
    pub(super) link: Option<Stored>,
    /// When that was found out (boot time); zero: ask again.
    pub(super) checked_at: Duration,
}

fn leads_to_directory(dentry: &Dentry) -> bool {
    let child = dentry.child.as_ref();
    child.is_some_and(|child| matches!(child.identity, Identity::Directory(_)))
}

/// All inodes and names.
#[derive(Default)]
pub(super) struct Table {
    by_ino: HashMap<Ino, Arc<Inode>>,
    by_identity: HashMap<Identity, Arc<Inode>>,
    names: HashMap<Ino, HashMap<Vec<u8>, Dentry>>,
    /// What is known of directories as a whole.
    pub(super) listings: Listings,
    /// Names that this mount has made, by directory, and no index knows of yet.
    pub(super) made: HashMap<Ino, usize>,
}

impl Table {
    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.by_ino.get(&ino).cloned()
    }

    pub(super) fn by_identity(&self, identity: Identity) -> Option<Arc<Inode>> {
        self.by_identity.get(&identity).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Inode>> {
        self.by_ino.values().cloned().collect()
    }

    /// Adds an inode; a number already in use is avoided by taking the next one.
    pub(super) fn add(&mut self, identity: Identity, root: bool, state: State) -> Arc<Inode> {
        if let Some(known) = self.by_identity.get(&identity) {
            return known.clone();
        }
        let mut ino = if root { ROOT } else { Ino(identity.preferred()) };
        while self.by_ino.contains_key(&ino) {
            ino = Ino(ino.0.wrapping_add(1).max(2));
        }
        let inode = Arc::new(Inode::new(ino, identity, state));
        // Names may be known since before the directory was forgotten.
        let below = self.names.get(&ino).into_iter().flatten();
        let below = below.filter(|(_, dentry)| leads_to_directory(dentry)).count();
        inode.subdirectories.store(u32::try_from(below).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.by_ino.insert(ino, inode.clone());
        self.by_identity.insert(identity, inode.clone());
        inode
    }

    /// The file is stored under another id from now on; what stands under the former one is a file of
    /// its own.
    pub(super) fn detach(&mut self, inode: &Arc<Inode>, id: FileId) {
        let mut state = inode.state.lock();
        let identity = state.identity(inode);
        if self.by_identity.get(&identity).is_some_and(|known| Arc::ptr_eq(known, inode)) {
            self.by_identity.remove(&identity);
        }
        state.kept_as = Some(id);
        self.by_identity.insert(Identity::File(id), inode.clone());
    }

    pub(super) fn name(&self, parent: Ino, name: &[u8]) -> Option<Dentry> {
        self.names.get(&parent)?.get(name).cloned()
    }

    pub(super) fn set_name(&mut self, parent: Ino, name: &[u8], dentry: Dentry) {
        let child = dentry.child.clone();
        let after = leads_to_directory(&dentry);
        let before = self.names.entry(parent).or_default().insert(name.to_vec(), dentry);
        self.count(parent, before.as_ref().is_some_and(leads_to_directory), after);
        let key = (parent, name.to_vec());
        if let Some(Dentry { child: Some(before), .. }) = before
            && !child.as_ref().is_some_and(|child| Arc::ptr_eq(child, &before))
        {
            before.state.lock().names.remove(&key);
        }
        if let Some(child) = child {
            self.listings.came(parent, name);
            child.state.lock().names.insert(key);
        }
    }

    pub(super) fn forget_name(&mut self, parent: Ino, name: &[u8]) {
        if let Some(Dentry { child: Some(before), .. }) = self.take_name(parent, name) {
            before.state.lock().names.remove(&(parent, name.to_vec()));
        }
    }

    /// The store is asked before a name is believed again.
    pub(super) fn doubt_name(&mut self, parent: Ino, name: &[u8]) {
        self.listings.came(parent, name);
        if let Some(dentry) = self.names.get_mut(&parent).and_then(|names| names.get_mut(name)) {
            dentry.checked_at = Duration::ZERO;
        }
    }

    /// Names in a directory that are known to lead somewhere.
    pub(super) fn children(&self, parent: Ino) -> Vec<(Vec<u8>, Arc<Inode>)> {
        self.names
            .get(&parent)
            .into_iter()
            .flatten()
            .filter_map(|(name, dentry)| Some((name.clone(), dentry.child.clone()?)))
            .collect()
    }

    fn take_name(&mut self, parent: Ino, name: &[u8]) -> Option<Dentry> {
        let names = self.names.get_mut(&parent)?;
        let taken = names.remove(name);
        if names.is_empty() {
            self.names.remove(&parent);
        }
        self.count(parent, taken.as_ref().is_some_and(leads_to_directory), false);
        taken
    }

    /// A name of a directory led, and leads now, to a directory.
    fn count(&self, parent: Ino, before: bool, after: bool) {
        let Some(parent) = self.by_ino.get(&parent).filter(|_| before != after) else { return };
        if after {
            parent.subdirectories.fetch_add(1, Ordering::Relaxed);
        } else {
            parent.subdirectories.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Drops an inode that neither the kernel nor anything here needs.
    pub(super) fn drop_if_unused(&mut self, ino: Ino) {
        let Some(inode) = self.by_ino.get(&ino).cloned() else { return };
        let names = {
            let state = inode.state.lock();
            let busy = match &state.content {
                Body::File(file) => file.uploads > 0 || file.dirty.dirty_bytes() > 0,
                _ => false,
            };
            let needed = state.lookups > 0
                || state.handles > 0
                || state.pins > 0
                || ((state.is_changed() || state.times_pending) && !state.unlinked)
                || busy;
            if needed || ino == ROOT {
                return;
            }
            state.names.clone()
        };
        for (parent, name) in names {
            self.take_name(parent, &name);
        }
        self.by_ino.remove(&ino);
        self.listings.forget(ino);
        self.made.remove(&ino);
        let identity = inode.state.lock().identity(&inode);
        if self.by_identity.get(&identity).is_some_and(|known| Arc::ptr_eq(known, &inode)) {
            self.by_identity.remove(&identity);
        }
    }

    /// Drops knowledge of absent names that is older than `limit`.
    pub(super) fn expire_absent(&mut self, now: Duration, limit: Duration) {
        self.listings.expire(now);
        self.names.retain(|_, names| {
            names.retain(|_, dentry| {
                dentry.child.is_some() || now.saturating_sub(dentry.checked_at) < limit
            });
            !names.is_empty()
        });
    }
}
