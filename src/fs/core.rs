//! The file system: POSIX semantics over a volume. No kernel interface is known here; `fuse.rs` calls
//! these methods, one for each kind of request.
//!
//! Promises: a write is readable at once through every handle of this mount; what fsync, or close in
//! `close` mode, acknowledged stands in the store; a failure to store is reported at the call that asked
//! for it and once to every other open handle, and the data stay in memory to be tried again.

use super::ahead::Step;
use super::arena::Arena;
use super::errno::FsError;
use super::inode::{Identity, Inode, State};
use super::io::{FileHandleState, SEALING_UNIT};
use super::table::{Dentry, Table};
use super::types::{EntryReply, HandleId, Ino, StatFs};
use crate::units::{DirId, SessionId};
use crate::volume::native::namespace::Found;
use crate::volume::native::record::{Attributes, Content, Record};
use crate::volume::native::{Place, Volume};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes opened ahead of readers, all together.
const OPENED_AHEAD: u64 = 16 << 20;

/// When a close is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When everything is in the store.
    #[default]
    Close,
    /// At once; fsync and the end of the mount are the barriers.
    Fsync,
}

/// Settings of a mount.
#[derive(Clone, Debug)]
pub struct FsConfig {
    /// Bytes for data not yet stored.
    pub dirty_bytes: u64,
    /// Bytes of sealed segments on their way to the store at the same time.
    pub upload_bytes: u64,
    /// How long attributes and names are taken for true without asking the store.
    pub attribute_ttl: Duration,
    /// When a close is answered.
    pub durability: Durability,
    /// Owners and modes, where they are not as on a local disk.
    pub ownership: super::ownership::Ownership,
}

/// A mounted volume.
pub struct FileSystem {
    pub(super) volume: Arc<Volume>,
    pub(super) config: FsConfig,
    pub(super) table: Mutex<Table>,
    pub(super) arena: Arc<Arena>,
    /// Permits in units of [`SEALING_UNIT`] for segments being sealed and sent.
    pub(super) uploads: Arc<tokio::sync::Semaphore>,
    /// Woken when the arena has room again.
    pub(super) room: tokio::sync::Notify,
    pub(super) files: Mutex<HashMap<HandleId, Arc<FileHandleState>>>,
    pub(super) directories: Mutex<HashMap<HandleId, Arc<super::directory::DirectoryHandle>>>,
    /// Directories whose index is being written.
    pub(super) indexing: Arc<Mutex<HashSet<DirId>>>,
    pub(super) late: super::late::Late,
    pub(super) trails: Mutex<super::ahead::Trails>,
    pub(super) bodies: Mutex<super::bodies::Bodies>,
    /// Permits for pieces that are opened ahead of who reads on.
    pub(super) opened_ahead: Arc<tokio::sync::Semaphore>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) next_handle: AtomicU64,
    /// What writes down what a process that takes over needs, if one can.
    pub(super) recorder: Option<Arc<super::recorder::Recorder>>,
    /// How many processes served this mount before.
    pub(super) takeovers: u64,
    /// What the former process opened, by request, and may not have told the kernel.
    pub(super) unanswered: Mutex<HashMap<u64, super::types::Opened>>,
    /// What the former process wrote of changes of names under way, by request.
    pub(super) replies: Mutex<HashMap<u64, super::remembered::ReplyForm>>,
}

impl FileSystem {
    /// Serves a volume. Background tasks run on `runtime` until the last reference is dropped.
    pub async fn start(
        volume: Arc<Volume>,
        config: FsConfig,
        runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Self>, FsError> {
        let arena = Arena::create(config.dirty_bytes)
            .map_err(|error| FsError::io(format!("memory for dirty data: {error}")))?;
        let fs = Self::assemble(volume, config, runtime, Arc::new(arena), None);
        fs.begin_with_root().await?;
        fs.start_tasks();
        Ok(fs)
    }

    pub(super) fn assemble(
        volume: Arc<Volume>,
        config: FsConfig,
        runtime: tokio::runtime::Handle,
        arena: Arc<Arena>,
        kept: Option<(Arc<super::recorder::Recorder>, u64)>,
    ) -> Arc<Self> {
        let (recorder, takeovers) = kept.map_or((None, 0), |(kept, count)| (Some(kept), count));
        let permits = (config.upload_bytes / SEALING_UNIT).max(1) as usize;
        let mut table = Table::default();
        table.recorder.clone_from(&recorder);
        Arc::new(Self {
            arena,
            uploads: Arc::new(tokio::sync::Semaphore::new(permits)),
            room: tokio::sync::Notify::new(),
            table: Mutex::new(table),
            files: Mutex::default(),
            directories: Mutex::default(),
            indexing: Arc::default(),
            late: super::late::Late::default(),
            bodies: Mutex::default(),
            trails: Mutex::default(),
            opened_ahead: super::reading::room_for_opened(OPENED_AHEAD),
            next_handle: AtomicU64::new(1),
            recorder,
            takeovers,
            unanswered: Mutex::default(),
            replies: Mutex::default(),
            volume,
            config,
            runtime,
        })
    }

    pub(super) async fn begin_with_root(self: &Arc<Self>) -> Result<(), FsError> {
        let fs = self;
        let root = fs.volume.root().await?;
        let state = match root {
            Some(stored) => {
                let (record, place) = (stored.record.clone(), stored.place.clone());
                State::new(&record, Some(stored), place)
            }
            None => {
                // Created with the volume; a crash between the two leaves this default.
                let attributes = Attributes { mode: 0o755, ..Attributes::default() };
                let content = Content::Directory(fs.volume.root_directory());
                let mut state =
                    State::new(&Record::new(attributes, content), None, fs.volume.root_place());
                state.published = state.modified;
                state
            }
        };
        fs.table.lock().add(Identity::Directory(fs.volume.root_directory()), true, state);
        Ok(())
    }

    pub(super) fn start_tasks(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        self.runtime.spawn(super::publish::retry_in_background(weak));
        let weak = Arc::downgrade(&self.volume);
        self.runtime.spawn(async move {
            if let Some(volume) = weak.upgrade() {
                volume.session().keep_alive(&volume).await;
            }
        });
    }

    /// The volume behind it.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// How much there is room for.
    pub async fn statfs(&self) -> Result<StatFs, FsError> {
        Ok(StatFs::BOUNDLESS)
    }

    /// Looks a name up, asking the store where what is known is too old.
    pub async fn lookup(
        self: &Arc<Self>,
        _caller: &super::types::Caller,
        parent: Ino,
        name: &[u8],
    ) -> Result<EntryReply, FsError> {
        let began = self.boot_time();
        self.step(parent, name, Step::Look).await;
        let inode = self.find(parent, name).await?;
        {
            let mut state = inode.state.lock();
            // The open comes right after the answer, however long the store took for it.
            let asked = state.checked_at.is_some_and(|at| at >= began);
            state.looked_up_at = asked.then(|| self.boot_time());
            state.lost_a_name = false;
        }
        Ok(self.entry_reply(&inode, true))
    }

    /// The kernel gives lookups back.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut table = self.table.lock();
        if let Some(inode) = table.get(ino) {
            {
                let mut state = inode.state.lock();
                state.lookups = state.lookups.saturating_sub(count);
            }
            table.drop_if_unused(ino);
        }
    }

    /// One more lookup that the kernel holds (a name that readdirplus returned).
    pub fn remember(&self, ino: Ino) {
        if let Some(inode) = self.table.lock().get(ino) {
            inode.state.lock().lookups += 1;
        }
    }

    /// An inode that the kernel holds.
    pub(super) fn inode(&self, ino: Ino) -> Result<Arc<Inode>, FsError> {
        self.table.lock().get(ino).ok_or(FsError::Moved)
    }

    pub(super) fn next_handle(&self) -> HandleId {
        HandleId(self.next_handle.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn boot_time(&self) -> Duration {
        self.volume.world().clock.boot_time()
    }

    pub(super) fn now(&self) -> crate::world::Timestamp {
        self.volume.world().clock.now()
    }

    pub(super) fn is_fresh(&self, checked_at: Option<Duration>) -> bool {
        checked_at.is_some_and(|at| {
            let age = self.boot_time().saturating_sub(at);
            !at.is_zero() && age < self.trust()
        })
    }

    /// How long what the store said is taken for true: for ever by the only writer.
    pub(super) fn trust(&self) -> Duration {
        if self.is_only_writer() { Duration::MAX } else { self.config.attribute_ttl }
    }

    /// Whether nobody else changes the volume.
    pub(super) fn is_only_writer(&self) -> bool {
        self.volume.session().has_volume(self.boot_time())
    }

    /// What the kernel is told of an inode; counts one lookup if asked to.
    pub(super) fn entry_reply(&self, inode: &Arc<Inode>, count_lookup: bool) -> EntryReply {
        let mut table = self.table.lock();
        let inode = if count_lookup { table.adopt(inode) } else { inode.clone() };
        let mut state = inode.state.lock();
        state.lookups += u64::from(count_lookup);
        drop(table);
        let attr = self.shown(inode.attr_of(&state));
        drop(state);
        self.note_body(&inode);
        EntryReply { attr, generation: 0, ttl: self.config.attribute_ttl }
    }

    pub(super) fn shown(&self, attr: super::types::Attr) -> super::types::Attr {
        self.config.ownership.shown(attr, attr.ino == Ino::ROOT)
    }

    /// The inode behind a name.
    pub(super) async fn find(&self, parent: Ino, name: &[u8]) -> Result<Arc<Inode>, FsError> {
        self.find_dentry(parent, name).await?.child.ok_or(FsError::NotFound)
    }

    /// What is known of a name, after asking the store where that is too old.
    pub(super) async fn find_dentry(&self, parent: Ino, name: &[u8]) -> Result<Dentry, FsError> {
        self.find_dentry_checked(parent, name, None).await
    }

    /// The same. With `since`, the store is asked unless it was since then (boot time), whatever
    /// listings and earlier answers say.
    pub(super) async fn find_dentry_checked(
        &self,
        parent: Ino,
        name: &[u8],
        since: Option<Duration>,
    ) -> Result<Dentry, FsError> {
        check_name(name)?;
        let directory = self.inode(parent)?;
        let dir = directory.directory()?;
        let mut known = self.table.lock().name(parent, name);
        if known.as_ref().is_none_or(|known| !self.is_current(known, since)) {
            self.late.wait_for(parent, name).await;
            if since.is_none()
                && let Some(dentry) = self.known_by_listing(&directory, name).await?
            {
                return Ok(dentry);
            }
            known = self.table.lock().name(parent, name);
        }
        let mut known_etag = None;
        if let Some(dentry) = &known {
            if self.is_current(dentry, since) {
                return Ok(dentry.clone());
            }
            let home = dentry.child.as_ref().and_then(|child| child.state.lock().home.clone());
            known_etag = match &dentry.link {
                Some(link) => Some(link.etag.clone()),
                // Who opens a file of which only the head is known needs all of it; who looks its name
                // up may be about to open it.
                None => home
                    .filter(|home| match since {
                        Some(_) => home.record.is_whole(),
                        None => !home.record.is_worth_fetching(),
                    })
                    .map(|home| home.etag),
            };
        }
        let asked_at = self.boot_time();
        let place = Place::Entry(dir, name.to_vec());
        use crate::volume::native::entries::Loaded;
        let found = match self.volume.load(&place, known_etag.as_ref()).await? {
            Loaded::Live(entry) => Some(self.volume.resolve(entry).await?),
            Loaded::Unchanged => {
                if let Some(mut dentry) = known {
                    if let (Some(link), Some(child)) = (&dentry.link, &dentry.child) {
                        // The name is the same; the record that it refers to may have changed.
                        let found = self.volume.resolve(link.clone()).await?;
                        self.refresh(child, &found, asked_at);
                    }
                    dentry.checked_at = asked_at;
                    if let Some(child) = &dentry.child {
                        child.state.lock().checked_at = Some(asked_at);
                    }
                    self.table.lock().set_name(parent, name, dentry.clone());
                    return Ok(dentry);
                }
                None
            }
            Loaded::Tombstone(_) | Loaded::Absent => None,
        };
        let found = match found {
            Some(found) => self.meet(found).await?,
            None => None,
        };
        let Some(found) = found else {
            // A file that was created here meanwhile is not in the store yet.
            let mut table = self.table.lock();
            if let Some(current) = table.name(parent, name)
                && current.checked_at > asked_at
            {
                return Ok(current);
            }
            let former = table.name(parent, name).and_then(|dentry| dentry.child);
            let dentry = Dentry { child: None, link: None, checked_at: asked_at };
            table.set_name(parent, name, dentry.clone());
            table.listings.missed(parent, asked_at);
            drop(table);
            if let Some(former) = former {
                self.was_removed(&former, parent, name);
            }
            return Ok(dentry);
        };
        Ok(self.learn(parent, name, &found, asked_at))
    }

    /// Whether a name need not be asked for: that was done just now, or this mount is changing it.
    fn is_current(&self, dentry: &Dentry, since: Option<Duration>) -> bool {
        let own_changes = dentry.child.as_ref().is_some_and(|child| {
            let state = child.state.lock();
            let doubted = dentry.checked_at.is_zero();
            state.home.is_none() || state.is_changed() && !doubted
        });
        own_changes
            || match since {
                Some(since) => dentry.checked_at >= since,
                None => self.is_fresh(Some(dentry.checked_at)),
            }
    }

    /// Enters what the store said about a name.
    pub(super) fn learn(
        &self,
        parent: Ino,
        name: &[u8],
        found: &Found,
        asked_at: Duration,
    ) -> Dentry {
        let home = found.home();
        let inode = {
            let mut table = self.table.lock();
            if let Some(current) = table.name(parent, name)
                && current.checked_at > asked_at
            {
                // Something newer was entered while the request was under way.
                return current;
            }
            // Entries were resolved, so that there is an identity.
            let identity = Identity::of(&home.record.content)
                .unwrap_or(Identity::File(crate::units::FileId([0; 16])));
            match table.by_identity(identity) {
                Some(inode) => inode,
                None => {
                    let state = State::new(&home.record, Some(home.clone()), home.place.clone());
                    table.add(identity, false, state)
                }
            }
        };
        {
            let mut state = inode.state.lock();
            if state.unlinked {
                // What lost its last name here has one all the same: another node moved it before.
                state.unlinked = false;
                state.links = home.record.links.max(1);
            }
        }
        self.refresh(&inode, found, asked_at);
        let link = found.inode.is_some().then(|| found.entry.clone());
        let only_name = link.is_none();
        let dentry = Dentry { child: Some(inode.clone()), link, checked_at: asked_at };
        let mut table = self.table.lock();
        // What has one name was moved here: what is known of the former one is out of date. Of what has
        // several names, those are out of date that are not known to be references.
        let mut others = inode.state.lock().names.clone();
        others.remove(&(parent, name.to_vec()));
        inode.state.lock().lost_a_name |= only_name && !others.is_empty();
        for (parent, name) in others {
            match table.name(parent, &name) {
                _ if only_name => table.forget_name(parent, &name),
                Some(Dentry { link: None, .. }) => table.doubt_name(parent, &name),
                _ => {}
            }
        }
        let former = table.name(parent, name).and_then(|dentry| dentry.child);
        table.set_name(parent, name, dentry.clone());
        drop(table);
        if let Some(former) = former.filter(|former| !Arc::ptr_eq(former, &inode)) {
            former.state.lock().lost_a_name = true;
            // A replacement that seemed to fail had happened.
            self.was_removed(&former, parent, name);
        }
        dentry
    }

    /// Lets an inode without changes of its own take over what the store says.
    fn refresh(&self, inode: &Inode, found: &Found, asked_at: Duration) {
        let Ok(_turn) = inode.turn.try_lock() else { return };
        let mut state = inode.state.lock();
        let newer_known = state.checked_at.is_some_and(|at| at > asked_at);
        let idle = !state.is_changed()
            && match &state.content {
                super::inode::Body::File(file) => {
                    file.uploads == 0 && file.dirty.dirty_bytes() == 0
                }
                _ => true,
            };
        if newer_known {
            return;
        }
        if idle {
            state.refresh(found.home().clone());
            state.checked_at = Some(asked_at);
        } else if let Some(home) = &state.home
            && home.record.content == found.home().record.content
            && home.record.attributes == found.home().record.attributes
        {
            // Only its place or its number of names changed: our own changes go on from there.
            let home = found.home().clone();
            state.links = home.record.links.max(1);
            state.place = home.place.clone();
            state.home = Some(home);
        }
    }

    /// The name under which a version is kept that lost against another node's.
    pub(super) fn conflict_name(&self, name: &[u8]) -> Vec<u8> {
        let SessionId(id) = self.volume.session().id();
        let suffix = format!(
            ".conflict-{}-{}",
            data_encoding::HEXLOWER.encode(&id[..4]),
            self.now().0 / 1_000_000
        );
        let kept = name.len().min(255 - suffix.len());
        let mut conflict = name[..kept].to_vec();
        conflict.extend_from_slice(suffix.as_bytes());
        conflict
    }
}

/// A file's map is loaded when it is opened; without it nothing can be said of its bytes.
pub(super) fn map_missing() -> FsError {
    FsError::stale("the file was replaced by another node while it was open")
}

/// A name that a directory can hold.
pub(super) fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.len() > crate::volume::native::keys::NAME_LIMIT {
        return Err(FsError::NameTooLong);
    }
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(FsError::Invalid);
    }
    Ok(())
}
