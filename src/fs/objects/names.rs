//! Look-ups, and making and removing names.

use super::attributes::kind_of;
use super::content::Content;
use super::table::{Busy, Node, State};
use super::{ObjectFs, name_of};
use crate::fs::errno::FsError;
use crate::fs::types::{Caller, EntryReply, Ino, Kind, OpenMode, Opened};
use crate::volume::objects::Writer;
use crate::volume::objects::tree::{Found, Looked};
use std::sync::Arc;
use std::time::Duration;

/// The node that was known under a name when the store was asked for it.
pub(super) struct Before {
    node: Arc<Node>,
    version: u64,
}

impl Before {
    pub(super) fn of(node: Option<Arc<Node>>) -> Option<Self> {
        node.map(|node| {
            let version = node.state.lock().version;
            Self { node, version }
        })
    }
}

/// Names that are remembered of one directory as not there.
const ABSENT: usize = 1000;

impl ObjectFs {
    pub(super) async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<EntryReply, FsError> {
        let _paths = self.paths.read().await;
        // What is no text is no object's name.
        let name = name_of(name).map_err(|error| match error {
            FsError::Invalid => FsError::NotFound,
            other => other,
        })?;
        let node = self.find(parent, name).await?;
        Ok(self.entry(&node))
    }

    /// What is under a name, as far as is known or the store says.
    pub(super) async fn find(&self, parent: Ino, name: &str) -> Result<Arc<Node>, FsError> {
        let directory = self.parent(parent)?;
        let known = self.table.lock().child(parent, name);
        if let Some(node) = &known {
            let state = node.state.lock();
            if self.is_known(&state) {
                drop(state);
                return Ok(node.clone());
            }
        } else if self.is_absent(&directory, name) {
            return Err(FsError::NotFound);
        }
        let before = Before::of(known);
        let path = match self.path_in(parent, name) {
            // Too long for a key: it cannot be there.
            Err(FsError::NameTooLong) => return Err(FsError::NotFound),
            other => other?,
        };
        let asked = self.now();
        let looked = self.tree.look(&path).await?;
        let found = self.adopt(parent, name, looked, before);
        if matches!(found, Err(FsError::NotFound)) {
            self.note_absent(&directory, name, asked);
        }
        found
    }

    /// Whether a name is known not to be there, by a listing, or since it was looked for a moment ago.
    fn is_absent(&self, directory: &Node, name: &str) -> bool {
        let state = directory.state.lock();
        let names = state.names.as_ref();
        let is_fresh = |at: &Duration| self.is_fresh(Some(*at));
        names.is_some_and(|(at, names)| is_fresh(at) && !names.contains(name))
            || state.absent.get(name).is_some_and(is_fresh)
    }

    fn note_absent(&self, directory: &Node, name: &str, asked: Duration) {
        let mut state = directory.state.lock();
        if state.absent.len() >= ABSENT {
            state.absent.clear();
        }
        state.absent.insert(name.to_owned(), asked);
    }

    /// Takes what the store says of a name for true. `before` is what was known when it was asked.
    pub(super) fn adopt(
        &self,
        parent: Ino,
        name: &str,
        looked: Looked,
        before: Option<Before>,
    ) -> Result<Arc<Node>, FsError> {
        let mut table = self.table.lock();
        let known = table.child(parent, name);
        let asked = before.as_ref().map(|before| (Arc::as_ptr(&before.node), before.version));
        // Else this mount has changed it since the store was asked, or somebody was faster. Changes begin without
        // the table's lock: whoever acts on this asks it under the lock of the state that is acted on.
        let is_current = |node: &Arc<Node>, state: &State| {
            !state.dirty && state.busy == 0 && asked == Some((Arc::as_ptr(node), state.version))
        };
        if let Some(node) = &known {
            let state = node.state.lock();
            if !is_current(node, &state) {
                drop(state);
                return Ok(node.clone());
            }
        } else if let Some(before) = before
            && before.node.state.lock().place.as_ref() != Some(&(parent, name.to_owned()))
        {
            // This mount has removed or moved it since. One that the kernel only forgot keeps its place.
            return Err(FsError::NotFound);
        }
        let (kind, found) = match looked {
            Looked::Nothing => {
                if let Some(node) = known {
                    // What is on its way into a directory makes it one.
                    let below = table.below(node.ino);
                    if below.iter().any(|inner| inner.state.lock().dirty) {
                        return Ok(node);
                    }
                    let mut state = node.state.lock();
                    if !is_current(&node, &state) {
                        drop(state);
                        return Ok(node);
                    }
                    state.replaced += 1;
                    drop(state);
                    table.detach(&node);
                }
                return Err(FsError::NotFound);
            }
            Looked::File(found) => (kind_of(&found), Some(found)),
            Looked::Directory(mark) => (Kind::Directory, mark),
        };
        if let Some(node) = known {
            let mut state = node.state.lock();
            if !is_current(&node, &state) {
                drop(state);
                return Ok(node);
            }
            let etags = [&state.found, &found].map(|found| found.as_ref().map(|found| &found.etag));
            // The kernel keeps a link's target as long as it keeps the node.
            let is_same_link = kind != Kind::Symlink || etags[0] == etags[1];
            if state.kind == kind && is_same_link {
                self.fill(&mut state, found);
                drop(state);
                return Ok(node);
            }
            state.replaced += 1;
            drop(state);
            table.detach(&node);
        }
        let mut state = State::new(kind, self.world.clock.now(), self.next_number());
        self.fill(&mut state, found);
        table.add(parent, name, state, Content::Clean)
    }

    /// Notes that a name came or went, for look-ups by listings and for the directory's times.
    pub(super) fn note_name(&self, parent: Ino, name: &str, is_there: bool) {
        let Some(directory) = self.table.lock().get(parent) else { return };
        let now = self.world.clock.now();
        let mut state = directory.state.lock();
        (state.mtime, state.ctime) = (now, now);
        state.absent.remove(name);
        if let Some((_, names)) = &mut state.names {
            match is_there {
                true => drop(names.insert(name.to_owned())),
                false => drop(names.remove(name)),
            }
        }
    }

    /// A new node's attributes.
    fn new_state(&self, caller: &Caller, parent: &Node, kind: Kind, mode: u32) -> State {
        let mut state = State::new(kind, self.world.clock.now(), self.next_number());
        let is_directory = kind == Kind::Directory;
        state.mode = self.config.ownership.new_mode(mode & 0o7777, is_directory);
        (state.uid, state.gid) = (caller.uid, caller.gid);
        let above = parent.state.lock();
        if above.mode & libc::S_ISGID != 0 {
            state.gid = above.gid;
            if is_directory {
                state.mode |= libc::S_ISGID;
            }
        }
        drop(above);
        state.checked = Some(self.now());
        state
    }

    /// The directory and name of something new, which must not be there.
    async fn place_for(
        &self,
        parent: Ino,
        name: &[u8],
    ) -> Result<(Arc<Node>, String, String), FsError> {
        let name = name_of(name)?;
        let directory = self.parent(parent)?;
        let path = self.path_in(parent, name)?;
        match self.find(parent, name).await {
            Ok(_) => Err(FsError::Exists),
            Err(FsError::NotFound) => Ok((directory, name.to_owned(), path)),
            Err(error) => Err(error),
        }
    }

    fn add(
        &self,
        parent: Ino,
        name: &str,
        state: State,
        content: Content,
    ) -> Result<Arc<Node>, FsError> {
        let node = self.table.lock().add(parent, name, state, content)?;
        self.note_name(parent, name, true);
        Ok(node)
    }

    pub(super) async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        (mode, umask): (u32, u32),
        open: OpenMode,
    ) -> Result<(EntryReply, Opened), FsError> {
        let _paths = self.paths.read().await;
        let (directory, name, path) = match self.place_for(parent, name).await {
            Err(FsError::Exists) if !open.excl => {
                drop(_paths);
                let node = self.find(parent, name_of(name)?).await?;
                let opened = self.open(caller, node.ino, open).await?;
                return Ok((self.entry(&node), opened));
            }
            other => other?,
        };
        let mut state = self.new_state(caller, &directory, Kind::File, mode & !umask);
        // Stored when it is closed, also if nothing is written.
        state.dirty = true;
        let node = self.add(parent, &name, state, self.new_stream(path))?;
        let opened = self.open_new(caller, &node, open);
        Ok((self.entry(&node), opened))
    }

    pub(super) async fn mknod(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        (mode, umask): (u32, u32),
        rdev: u32,
    ) -> Result<EntryReply, FsError> {
        let kind =
            Kind::from_mode(mode).filter(|kind| !matches!(kind, Kind::Directory | Kind::Symlink));
        let kind = kind.ok_or(FsError::Invalid)?;
        let _paths = self.paths.read().await;
        let (directory, name, path) = self.place_for(parent, name).await?;
        let mut state = self.new_state(caller, &directory, kind, mode & !umask);
        state.rdev = rdev;
        self.put_new(parent, &name, &path, state, b"").await
    }

    pub(super) async fn symlink(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<EntryReply, FsError> {
        if target.len() >= libc::PATH_MAX as usize {
            return Err(FsError::NameTooLong);
        }
        let _paths = self.paths.read().await;
        let (directory, name, path) = self.place_for(parent, name).await?;
        let mut state = self.new_state(caller, &directory, Kind::Symlink, 0o777);
        (state.mode, state.size) = (0o777, target.len() as u64);
        state.link = Some(target.to_vec());
        self.put_new(parent, &name, &path, state, target).await
    }

    /// Stores something new that is whole at once.
    async fn put_new(
        &self,
        parent: Ino,
        name: &str,
        path: &str,
        state: State,
        content: &[u8],
    ) -> Result<EntryReply, FsError> {
        let headers = self.headers(&state, path, true);
        let mut writer = Writer::new(self.tree.clone(), path.to_owned(), None, self.budget.clone());
        writer.write(content, &headers).await?;
        let written = writer.finish(&headers).await?;
        let node = self.add(parent, name, state, Content::Clean)?;
        self.stored(
            &node,
            Found {
                size: content.len() as u64,
                is_cut: false,
                etag: written.etag,
                stored: self.world.clock.now(),
                headers: written.headers,
            },
        );
        Ok(self.entry(&node))
    }

    pub(super) async fn mkdir(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        (mode, umask): (u32, u32),
    ) -> Result<EntryReply, FsError> {
        let _paths = self.paths.read().await;
        let (directory, name, path) = self.place_for(parent, name).await?;
        let mut state = self.new_state(caller, &directory, Kind::Directory, mode & !umask);
        // Nothing is in it.
        state.names = Some((self.now(), Default::default()));
        let headers = self.headers(&state, &path, true);
        let etag = self.tree.put_mark(&path, &headers).await?;
        let node = self.add(parent, &name, state, Content::Clean)?;
        self.stored(
            &node,
            Found { size: 0, is_cut: false, etag, stored: self.world.clock.now(), headers },
        );
        Ok(self.entry(&node))
    }

    /// Before a name leaves a directory that only the names in it tell of: marks it, so that it stays.
    pub(super) async fn keep_directory(&self, ino: Ino) -> Result<(), FsError> {
        let directory = self.node(ino)?;
        let is_marked = directory.state.lock().found.is_some();
        if is_marked || ino == Ino::ROOT {
            return Ok(());
        }
        let path = self.path(&directory)?;
        let headers = self.headers(&directory.state.lock(), &path, true);
        let etag = self.tree.put_mark(&path, &headers).await?;
        self.stored(
            &directory,
            Found { size: 0, is_cut: false, etag, stored: self.world.clock.now(), headers },
        );
        Ok(())
    }

    pub(super) async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let name = name_of(name).map_err(|_| FsError::NotFound)?;
        let _paths = self.paths.read().await;
        let node = self.find(parent, name).await?;
        if node.state.lock().kind == Kind::Directory {
            return Err(FsError::IsDirectory);
        }
        let mut content = self.content_of(&node).await;
        let _busy = Busy::new(&node);
        let is_stored = {
            let state = node.state.lock();
            state.found.is_some() || state.sent
        };
        if is_stored {
            self.keep_directory(parent).await?;
            self.keep_what_is_open(&node, &mut content).await;
            if let Err(error) = self.tree.remove(&self.path(&node)?).await {
                self.unkeep(&node, &mut content);
                return Err(error.into());
            }
        }
        self.name_gone(&node, &mut content);
        self.note_name(parent, name, false);
        Ok(())
    }

    /// A node whose object is gone, or another's.
    pub(super) fn name_gone(&self, node: &Arc<Node>, content: &mut Content) {
        let is_open = {
            let mut state = node.state.lock();
            state.version += 1;
            state.checked = None;
            state.removed_here = true;
            state.found = state.found.take().filter(|_| state.handles > 0);
            state.dirty &= state.handles > 0;
            state.handles > 0
        };
        match content {
            _ if !is_open => *content = Content::Clean,
            // Without a name nothing goes to the store.
            Content::Stream(writer) => {
                let kept = match writer.whole() {
                    Some(whole) => self.overlay_of(whole),
                    None => Err(FsError::stale("removed or replaced while it was being written")),
                };
                *content = kept.map_or_else(Content::Lost, Content::Overlay);
            }
            _ => {}
        }
        self.table.lock().detach(node);
    }

    pub(super) async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let name = name_of(name).map_err(|_| FsError::NotFound)?;
        let _paths = self.paths.read().await;
        let node = self.find(parent, name).await?;
        if node.state.lock().kind != Kind::Directory {
            return Err(FsError::NotDirectory);
        }
        self.check_empty(&node).await?;
        self.keep_directory(parent).await?;
        let _busy = Busy::new(&node);
        self.tree.remove_mark(&self.path(&node)?).await?;
        let mut content = self.content_of(&node).await;
        self.name_gone(&node, &mut content);
        self.note_name(parent, name, false);
        Ok(())
    }

    /// That nothing is in a directory, in the store or on its way there.
    pub(super) async fn check_empty(&self, directory: &Node) -> Result<(), FsError> {
        let children = self.table.lock().children(directory.ino);
        let is_on_its_way = children.iter().any(|(_, child)| child.state.lock().dirty);
        if is_on_its_way || !self.tree.is_empty(&self.path(directory)?).await? {
            return Err(FsError::NotEmpty);
        }
        Ok(())
    }
}
