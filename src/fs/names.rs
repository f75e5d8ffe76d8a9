//! Names: create, remove, link, rename. Each change stands in the store when it returns, except the
//! creation of a file without O_EXCL, which its first close or fsync stores.

use super::core::{FileSystem, check_name};
use super::errno::FsError;
use super::inode::{Body, Identity, Inode, State};
use super::table::Dentry;
use super::types::{Caller, EntryReply, Ino, Kind, RenameMode};
use crate::units::{DirId, FileId};
use crate::volume::VolumeError;
use crate::volume::native::entries::Expect;
use crate::volume::native::namespace::Found;
use crate::volume::native::record::{
    Attributes, Content, FileContent, Record, SYMLINK_LIMIT, SpecialKind,
};
use crate::volume::native::{Place, Stored};
use bytes::Bytes;
use std::sync::Arc;

/// How often a change is based anew on what another node has just done.
const ATTEMPTS: usize = 8;

impl FileSystem {
    /// Makes a regular file (not opened), FIFO, socket or device.
    pub async fn mknod(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> Result<EntryReply, FsError> {
        let permissions = mode & !umask & 0o7777;
        let kind = match Kind::from_mode(mode).ok_or(FsError::Invalid)? {
            Kind::File => {
                let inode = self.create_file(caller, parent, name, permissions, true).await?;
                return Ok(self.entry_reply(&inode, true));
            }
            Kind::Fifo => SpecialKind::Fifo,
            Kind::Socket => SpecialKind::Socket,
            Kind::CharDevice => SpecialKind::CharacterDevice,
            Kind::BlockDevice => SpecialKind::BlockDevice,
            Kind::Directory | Kind::Symlink => return Err(FsError::Invalid),
        };
        let content = Content::Special(FileId(self.new_id()), kind, rdev.into());
        self.make(caller, parent, name, permissions, content).await
    }

    /// Makes a directory.
    pub async fn mkdir(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        umask: u32,
    ) -> Result<EntryReply, FsError> {
        let content = Content::Directory(DirId(self.new_id()));
        self.make(caller, parent, name, mode & !umask & 0o7777, content).await
    }

    /// Makes a symbolic link.
    pub async fn symlink(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<EntryReply, FsError> {
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        if target.len() > SYMLINK_LIMIT {
            return Err(FsError::NameTooLong);
        }
        let content = Content::Symlink(FileId(self.new_id()), target.to_vec());
        self.make(caller, parent, name, 0o777, content).await
    }

    /// Creates a regular file: at once with `exclusive`, else when its content is first stored.
    pub(super) async fn create_file(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        permissions: u32,
        exclusive: bool,
    ) -> Result<Arc<Inode>, FsError> {
        let content = Content::File(FileContent {
            id: FileId(self.new_id()),
            size: 0,
            extents: Vec::new(),
            pages: Vec::new(),
            inline: Bytes::new(),
        });
        if exclusive {
            return self.make_inode(caller, parent, name, permissions, content).await;
        }
        check_name(name)?;
        if self.volume.is_read_only() {
            return Err(FsError::ReadOnly);
        }
        let directory = self.inode(parent)?;
        self.late.wait_for(parent, name).await;
        if self.find_dentry(parent, name).await?.child.is_some() {
            return Err(FsError::Exists);
        }
        let record = self.new_record(caller, &directory, permissions, content);
        let place = Place::Entry(directory.directory()?, name.to_vec());
        Ok(self.enter(&directory, name, &record, None, place))
    }

    /// Removes a name of anything but a directory.
    pub async fn unlink(self: &Arc<Self>, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let directory = self.inode(parent)?;
        for _ in 0..ATTEMPTS {
            let dentry = self.find_dentry(parent, name).await?;
            let inode = dentry.child.clone().ok_or(FsError::NotFound)?;
            if matches!(inode.identity, Identity::Directory(_)) {
                return Err(FsError::IsDirectory);
            }
            if self.take_away(&directory, name, &inode).await? {
                return Ok(());
            }
        }
        Err(FsError::stale("another node keeps changing this name"))
    }

    /// Removes an empty directory.
    pub async fn rmdir(self: &Arc<Self>, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let directory = self.inode(parent)?;
        for _ in 0..ATTEMPTS {
            let dentry = self.find_dentry(parent, name).await?;
            let inode = dentry.child.clone().ok_or(FsError::NotFound)?;
            self.require_empty(&inode).await?;
            if self.take_away(&directory, name, &inode).await? {
                return Ok(());
            }
        }
        Err(FsError::stale("another node keeps changing this name"))
    }

    /// Takes a name away from an inode; `false` if the name was changed meanwhile, here or elsewhere.
    async fn take_away(
        self: &Arc<Self>,
        directory: &Arc<Inode>,
        name: &[u8],
        inode: &Arc<Inode>,
    ) -> Result<bool, FsError> {
        let permit = self.late.permit().await?;
        let turn = inode.turn.lock().await;
        let dentry = self.table.lock().name(directory.ino, name);
        let Some(dentry) = dentry.filter(|dentry| leads_to(dentry, inode)) else {
            return Ok(false);
        };
        let mut counted = None;
        let found = match found(inode, &dentry) {
            Some(found) => Some(found),
            None if inode.state.lock().home.is_some() => {
                self.table.lock().forget_name(directory.ino, name);
                return Ok(false);
            }
            None => self.stored_in_doubt(inode).await?,
        };
        let (mut now, mut late) = (found, None);
        if may_wait(inode) && !self.volume.is_read_only() {
            late = now.take_if(|found| found.inode.is_none());
        }
        if let Some(found) = now {
            counted = match self.volume.unlink(&found).await {
                Err(VolumeError::Conflict(_)) => {
                    self.table.lock().forget_name(directory.ino, name);
                    return Ok(false);
                }
                Err(error) => {
                    if self.volume.is_in_doubt(&found.entry.place) {
                        if found.inode.is_none() {
                            let doomed = (directory.ino, name.to_vec());
                            inode.state.lock().doomed_name = Some(doomed);
                        }
                        self.doubt_places([&found.entry.place]);
                    }
                    return Err(error.into());
                }
                Ok(counted) => counted,
            };
        }
        self.name_gone(inode, counted);
        self.absent(directory, name);
        // Last, so that a failure finds what it has to take back.
        if let Some(found) = late {
            self.bury_late(directory, name, inode, found, permit);
        }
        drop(turn);
        self.note_body(inode);
        self.table.lock().drop_if_unused(inode.ino);
        Ok(true)
    }

    /// A file whose first publish was reported as failed may stand in the store all the same.
    async fn stored_in_doubt(&self, inode: &Inode) -> Result<Option<Found>, FsError> {
        let (place, identity) = {
            let state = inode.state.lock();
            (state.place.clone(), state.identity(inode))
        };
        if !self.volume.is_in_doubt(&place) {
            return Ok(None);
        }
        let found = self.volume.lookup_place(&place).await?;
        Ok(found.filter(|found| Identity::of(&found.home().record.content) == Some(identity)))
    }

    /// Gives a file one more name.
    pub async fn link(
        self: &Arc<Self>,
        ino: Ino,
        parent: Ino,
        name: &[u8],
    ) -> Result<EntryReply, FsError> {
        check_name(name)?;
        let (inode, directory) = (self.inode(ino)?, self.inode(parent)?);
        if matches!(inode.identity, Identity::Directory(_)) {
            return Err(FsError::Permission);
        }
        let dir = directory.directory()?;
        self.late.wait_for(parent, name).await;
        if self.find_dentry(parent, name).await?.child.is_some() {
            return Err(FsError::Exists);
        }
        let _turn = inode.turn.lock().await;
        // A name leads to what is stored: everything that is dirty goes first.
        self.store_locked(&inode).await?;
        let (old_name, home) = {
            let (names, home) = {
                let state = inode.state.lock();
                (state.names.clone(), state.home.clone())
            };
            let table = self.table.lock();
            let known = names.into_iter().find_map(|(parent, name)| {
                let dentry = table.name(parent, &name)?;
                Some(((parent, name), found(&inode, &dentry)?))
            });
            (known, home)
        };
        let linked = match (&old_name, &home) {
            (Some((_, old)), _) => {
                self.volume.link(old, dir, name).await.map(|(old, new)| (Some(old), new))
            }
            // None of its names is known, but where its record is.
            (None, Some(home)) => {
                self.volume.link_record(home, dir, name).await.map(|new| (None, new))
            }
            _ => return Err(FsError::stale("another node is changing the file's names")),
        };
        if linked.is_err() {
            self.table.lock().doubt_name(parent, name);
        }
        let (old, new) = linked?;
        let checked_at = self.boot_time();
        {
            let mut state = inode.state.lock();
            if let Some(home) = &new.inode {
                state.links = home.record.links;
                state.attributes.ctime = home.record.attributes.ctime;
                state.rebase(&inode, home.clone());
            }
        }
        let dentry =
            |entry: Stored| Dentry { child: Some(inode.clone()), link: Some(entry), checked_at };
        {
            let mut table = self.table.lock();
            if let (Some(((parent, name), _)), Some(old)) = (old_name, old) {
                table.set_name(parent, &name, dentry(old.entry));
            }
            table.set_name(parent, name, dentry(new.entry));
        }
        self.touch(&directory);
        Ok(self.entry_reply(&inode, true))
    }

    /// Moves a name.
    pub async fn rename(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        check_name(new_name)?;
        for _ in 0..ATTEMPTS {
            match self.try_rename(parent, name, new_parent, new_name, mode).await {
                // Another node changed one of the names: look again.
                Err(RenameError::Again) => {
                    let mut table = self.table.lock();
                    table.forget_name(parent, name);
                    table.forget_name(new_parent, new_name);
                }
                Err(RenameError::Failed(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
        Err(FsError::stale("another node keeps changing these names"))
    }

    async fn try_rename(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), RenameError> {
        let (from, to) = (self.inode(parent)?, self.inode(new_parent)?);
        let to_dir = to.directory()?;
        self.late.wait_for(new_parent, new_name).await;
        let source = self.find_dentry(parent, name).await?;
        let moving = source.child.clone().ok_or(FsError::NotFound)?;
        let target = self.find_dentry(new_parent, new_name).await?;
        if let Some(replaced) = &target.child {
            if mode == RenameMode::NoReplace {
                return Err(FsError::Exists.into());
            }
            if Arc::ptr_eq(replaced, &moving) {
                // Two names of one file (or the same name twice): nothing happens, as POSIX says.
                return Ok(());
            }
            let directories = (is_directory(&moving), is_directory(replaced));
            match (mode, directories) {
                (RenameMode::Exchange, _) | (_, (false, false)) => {}
                (_, (true, true)) => self.require_empty(replaced).await?,
                (_, (true, false)) => return Err(FsError::NotDirectory.into()),
                (_, (false, true)) => return Err(FsError::IsDirectory.into()),
            }
        } else if mode == RenameMode::Exchange {
            return Err(FsError::NotFound.into());
        }
        // Turns in the order of the numbers, so that two renames never wait for each other.
        let mut locked: Vec<&Arc<Inode>> =
            [Some(&moving), target.child.as_ref()].into_iter().flatten().collect();
        locked.sort_by_key(|inode| inode.ino);
        let mut turns = Vec::new();
        for inode in locked {
            turns.push(inode.turn.lock().await);
        }
        if moving.state.lock().home.is_none() {
            self.store_locked(&moving).await?;
        }
        // What was known before the turns came may have changed: a link makes an entry a reference.
        let (source, target) = {
            let table = self.table.lock();
            let source = table.name(parent, name).filter(|dentry| leads_to(dentry, &moving));
            let now = table.name(new_parent, new_name).and_then(|dentry| dentry.child);
            let same = now.map(|inode| inode.ino) == target.child.as_ref().map(|inode| inode.ino);
            let target = table.name(new_parent, new_name).filter(|_| same);
            match (source, target) {
                (Some(source), Some(target)) => (source, target),
                _ => return Err(RenameError::Again),
            }
        };
        let pins = (moving.pin(), target.child.as_ref().map(|other| other.pin()));
        if mode == RenameMode::Exchange {
            // Each record is copied to the other's name, with the data in it.
            self.load_map(&moving).await?;
            if let Some(other) = &target.child {
                self.load_map(other).await?;
            }
        }
        let source_found = found(&moving, &source).ok_or(RenameError::Again)?;
        let target_found = match &target.child {
            Some(replaced) => {
                if replaced.state.lock().home.is_none() {
                    self.store_locked(replaced).await?;
                }
                found(replaced, &target)
            }
            None => None,
        };
        let checked_at = self.boot_time();
        if let (RenameMode::Exchange, Some(target_found), Some(other)) =
            (mode, &target_found, &target.child)
        {
            let (a, b) = (&source_found.entry, &target_found.entry);
            let exchanged = self.volume.exchange(a, b).await;
            if exchanged.is_err() {
                // It may have happened, or happen when somebody meets it.
                self.doubt_places([&a.place, &b.place]);
            }
            let (new_a, new_b) = exchanged?;
            self.moved(other, target_found, &from, name, new_a, checked_at);
            self.moved(&moving, &source_found, &to, new_name, new_b, checked_at);
        } else {
            let expect = match &target_found {
                Some(found) => Expect::Exactly(found.entry.etag.clone()),
                None => Expect::Free,
            };
            let moved = self.volume.rename(&source_found.entry, to_dir, new_name, expect).await;
            if moved.is_err() {
                let new_place = Place::Entry(to_dir, new_name.to_vec());
                if let (Some(replaced), Some(Found { inode: None, .. })) =
                    (&target.child, &target_found)
                {
                    let doomed = (new_parent, new_name.to_vec());
                    replaced.state.lock().doomed_name = Some(doomed);
                }
                self.doubt_places([&source_found.entry.place, &new_place]);
            }
            let moved = moved?;
            if let (Some(found), Some(replaced)) = (&target_found, &target.child) {
                let counted = match &found.inode {
                    // One name less for a file that has others. The move itself stands already.
                    Some(inode) => match self.volume.count_links(inode, -1).await {
                        Ok(counted) => Some(counted),
                        Err(error) => {
                            tracing::warn!(file = %inode.place, "names not counted: {error}");
                            Some(inode.clone())
                        }
                    },
                    None => None,
                };
                self.name_gone(replaced, counted);
            }
            self.absent(&from, name);
            self.moved(&moving, &source_found, &to, new_name, moved, checked_at);
        }
        drop((turns, pins));
        for inode in [Some(&moving), target.child.as_ref()].into_iter().flatten() {
            self.note_body(inode);
        }
        self.touch(&from);
        self.touch(&to);
        if let Some(replaced) = &target.child {
            self.table.lock().drop_if_unused(replaced.ino);
        }
        Ok(())
    }

    /// Enters an inode's new name.
    fn moved(
        &self,
        inode: &Arc<Inode>,
        was: &Found,
        directory: &Inode,
        name: &[u8],
        entry: Stored,
        checked_at: std::time::Duration,
    ) {
        let link = was.inode.is_some().then(|| entry.clone());
        if link.is_none() {
            self.take_id_of(inode, &entry);
            let mut state = inode.state.lock();
            if !state.rebase(inode, entry) {
                // Another node has put something else under the old name, and that was moved.
                state.lost_a_name = true;
                drop(state);
                return self.table.lock().forget_name(directory.ino, name);
            }
            state.attributes.ctime = self.now();
        }
        let dentry = Dentry { child: Some(inode.clone()), link, checked_at };
        let mut table = self.table.lock();
        table.set_name(directory.ino, name, dentry);
        *table.made.entry(directory.ino).or_default() += 1;
    }

    /// A file that another node has moved too, and that has become a file of its own under the name that this
    /// one gave it: whoever has it open stays with it.
    fn take_id_of(&self, inode: &Arc<Inode>, entry: &Stored) {
        let Content::File(content) = &entry.record.content else { return };
        let mut table = self.table.lock();
        {
            let mut state = inode.state.lock();
            if state.identity(inode) == Identity::File(content.id) {
                return;
            }
            let Some(home) = &mut state.home else { return };
            let known = home.record.file().map(|known| known.clone().shared_with(content.id));
            if known.as_ref() != Some(content) {
                return;
            }
            Arc::make_mut(&mut home.record).content = Content::File(content.clone());
        }
        table.detach(inode, content.id);
    }

    async fn make(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        permissions: u32,
        content: Content,
    ) -> Result<EntryReply, FsError> {
        let inode = self.make_inode(caller, parent, name, permissions, content).await?;
        Ok(self.entry_reply(&inode, true))
    }

    /// Creates a name in the store at once; whoever comes second gets `Exists`.
    async fn make_inode(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        permissions: u32,
        content: Content,
    ) -> Result<Arc<Inode>, FsError> {
        check_name(name)?;
        let directory = self.inode(parent)?;
        let dir = directory.directory()?;
        self.late.wait_for(parent, name).await;
        let own_pending = self.table.lock().name(parent, name).and_then(|dentry| dentry.child);
        if own_pending.is_some_and(|child| child.state.lock().home.is_none()) {
            return Err(FsError::Exists);
        }
        let record = self.new_record(caller, &directory, permissions, content);
        let asked_at = self.boot_time();
        let former = self.table.lock().name(parent, name).and_then(|dentry| dentry.child);
        let stored = match self.volume.create(dir, name, record).await {
            Err(VolumeError::Exists(_)) => {
                // What was known of this name may be out of date. It is not forgotten: a file whose name
                // this is must still be found by it.
                self.table.lock().doubt_name(parent, name);
                return Err(FsError::Exists);
            }
            Err(error) => {
                // It may be there all the same.
                self.table.lock().doubt_name(parent, name);
                return Err(error.into());
            }
            Ok(stored) => stored,
        };
        if let Some(former) = former {
            // The name was free: a removal that seemed to fail had happened.
            self.was_removed(&former, parent, name);
        }
        let (record, place) = (stored.record.clone(), stored.place.clone());
        let inode = self.enter(&directory, name, &record, Some(stored), place);
        if is_directory(&inode) {
            // Its id is new: nobody has put anything into it before.
            self.listed_whole(inode.ino, asked_at, &[]);
        }
        Ok(inode)
    }

    /// A new thing's record: owner, group and mode as a local disk would give them.
    fn new_record(
        &self,
        caller: &Caller,
        directory: &Inode,
        permissions: u32,
        content: Content,
    ) -> Record {
        let now = self.now();
        let (setgid, group) = {
            let state = directory.state.lock();
            (state.attributes.mode & libc::S_ISGID != 0, state.attributes.gid)
        };
        let is_directory = matches!(content, Content::Directory(_));
        let mut mode = match content {
            // Nobody looks at the mode of a symbolic link.
            Content::Symlink(..) => permissions & 0o7777,
            _ => self.config.ownership.new_mode(permissions, is_directory),
        };
        if setgid && is_directory {
            mode |= libc::S_ISGID;
        }
        let attributes = Attributes {
            mode,
            uid: caller.uid,
            gid: if setgid { group } else { caller.gid },
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            xattrs: std::collections::BTreeMap::new(),
        };
        Record::new(attributes, content)
    }

    fn enter(
        &self,
        directory: &Inode,
        name: &[u8],
        record: &Record,
        home: Option<Stored>,
        place: Place,
    ) -> Arc<Inode> {
        let checked_at = self.boot_time();
        let mut state = State::new(record, home, place);
        state.checked_at = Some(checked_at);
        let identity =
            Identity::of(&record.content).unwrap_or(Identity::File(FileId(self.new_id())));
        let inode = {
            let mut table = self.table.lock();
            let inode = table.add(identity, false, state);
            let dentry = Dentry { child: Some(inode.clone()), link: None, checked_at };
            table.set_name(directory.ino, name, dentry);
            *table.made.entry(directory.ino).or_default() += 1;
            inode
        };
        self.touch(directory);
        inode
    }

    /// One name of an inode is gone; `counted` is the record of a file that had several, as it is now.
    fn name_gone(&self, inode: &Inode, counted: Option<Stored>) {
        let mut state = inode.state.lock();
        state.links = state.links.saturating_sub(1);
        state.attributes.ctime = self.now();
        if let Some(counted) = counted {
            // The count is not trusted to say that there is no other name: what is written goes on to
            // be stored.
            state.links = counted.record.links.max(1);
            state.rebase(inode, counted);
        } else if state.links == 0 {
            state.unlinked = true;
            if state.handles == 0 {
                if let Body::File(body) = &mut state.content {
                    body.dirty.truncate(0);
                }
                state.published = state.modified;
            }
        }
    }

    /// An inode's name turned out to be free. If its removal was in doubt, it has happened.
    pub(super) fn was_removed(&self, inode: &Inode, parent: Ino, name: &[u8]) {
        let doomed = {
            let mut state = inode.state.lock();
            state.doomed_name.take_if(|doomed| doomed.0 == parent && doomed.1 == name)
        };
        if doomed.is_some() {
            self.name_gone(inode, None);
        }
    }

    /// A name is known to be absent now.
    fn absent(&self, directory: &Inode, name: &[u8]) {
        let dentry = Dentry { child: None, link: None, checked_at: self.boot_time() };
        self.table.lock().set_name(directory.ino, name, dentry);
        self.touch(directory);
    }

    /// A directory's entries changed: its times say so. They are kept in memory, and stored with the
    /// next change of the directory itself or when its entries have not changed for a while.
    fn touch(&self, directory: &Inode) {
        let now = self.now();
        let mut state = directory.state.lock();
        state.attributes.mtime = now;
        state.attributes.ctime = now;
        state.times_pending = true;
    }

    async fn require_empty(&self, inode: &Inode) -> Result<(), FsError> {
        let dir = inode.directory()?;
        self.late.wait_for_all(Some(inode.ino)).await;
        let pending = self.table.lock().children(inode.ino);
        if pending.iter().any(|(_, child)| child.state.lock().home.is_none()) {
            return Err(FsError::NotEmpty);
        }
        if self.volume.is_empty_directory(dir).await? { Ok(()) } else { Err(FsError::NotEmpty) }
    }
}

enum RenameError {
    Again,
    Failed(FsError),
}

impl From<FsError> for RenameError {
    fn from(error: FsError) -> Self {
        Self::Failed(error)
    }
}

impl From<VolumeError> for RenameError {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::Conflict(_) | VolumeError::Exists(_) => Self::Again,
            other => Self::Failed(other.into()),
        }
    }
}

/// Whether nothing of an inode would be lost with the memory of a removal that has failed.
fn may_wait(inode: &Inode) -> bool {
    let state = inode.state.lock();
    state.handles == 0 && !state.is_changed() && state.links <= 1 && state.doomed_name.is_none()
}

fn is_directory(inode: &Inode) -> bool {
    matches!(inode.identity, Identity::Directory(_))
}

fn leads_to(dentry: &Dentry, inode: &Arc<Inode>) -> bool {
    dentry.child.as_ref().is_some_and(|child| Arc::ptr_eq(child, inode))
}

/// What the store has of a name; `None` if nothing was stored yet, or it must be looked up again.
fn found(inode: &Inode, dentry: &Dentry) -> Option<Found> {
    let home = inode.state.lock().home.clone()?;
    Some(match &dentry.link {
        Some(entry) => Found { entry: entry.clone(), inode: Some(home) },
        // The record was moved to `i/` since this name was looked up.
        None if matches!(home.place, Place::Inode(_)) => return None,
        None => Found { entry: home, inode: None },
    })
}
