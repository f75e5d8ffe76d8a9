//! A mount that goes on where a killed process left it.
//!
//! What that process left is in two memory files that somebody else holds: the ledger (see `remembered.rs`)
//! and the arena with the dirty bytes. First comes what needs no store: inodes under the kernel's numbers,
//! their names, open handles, removals on their way. Then, for files that are open or were changed, the map:
//! the record in the store, the changes of content that it does not have, in their order, and between them,
//! by their numbers, the dirty runs. The record in the store is the one that was known, or one that this
//! very session stored and had no time to write down; applying changes once more that it has already leads
//! to the same map.
//!
//! Nothing is guessed. Where something that was accepted cannot be recovered, whoever has the file open for
//! writing is told so by EIO at every write, fsync and close.

use super::arena::Run;
use super::core::FileSystem;
use super::dirty::DirtyMap;
use super::errno::FsError;
use super::estate::{Estate, Former};
use super::inode::{Body, FileBody, Identity, Inode, ROOT, State};
use super::io::FileHandleState;
use super::recorder::Written;
use super::remembered::{BurialForm, ChangedForm, ContentChange, HandleForm, Node, key};
use super::settle::merge_attributes;
use super::table::Dentry;
use super::types::{HandleId, Ino, Opened};
use crate::units::FileId;
use crate::volume::native::entries::Loaded;
use crate::volume::native::record::{Content, FileContent, Record};
use crate::volume::native::{Place, Stored};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Files whose maps are loaded at the same time.
const PARALLEL: usize = 64;
/// How often what seems to be damaged or gone is looked at again, and how long that is waited for.
const LOOKS: usize = 3;
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Names that a file may have had one after the other.
const MOVES: usize = 8;

impl FileSystem {
    /// Goes on where the former process stopped. To be called before any request is answered.
    ///
    /// # Errors
    /// If the store cannot be asked for what is needed; then nothing is lost, and it can be tried again.
    pub(super) async fn restore(self: &Arc<Self>, estate: Estate) -> Result<(), FsError> {
        let Estate { recorder: _, former, runs, takeovers: _ } = estate;
        let Some(mut former) = former else { return Ok(()) };
        let mut runs_of: HashMap<FileId, Vec<Run>> = HashMap::new();
        for run in runs {
            runs_of.entry(run.file()).or_default().push(run);
        }
        let inodes = self.restore_inodes(&mut former);
        let open = self.restore_handles(&mut former, &inodes);
        *self.replies.lock() = std::mem::take(&mut former.replies);
        let (mut work, mut lost) = (Vec::new(), Vec::<(_, VecDeque<u64>)>::new());
        for (ino, inode) in &inodes {
            let Ok(file) = inode.file() else { continue };
            let changes = former.content.remove(ino).unwrap_or_default();
            let kept_as = inode.state.lock().kept_as;
            let mut runs = kept_as.and_then(|id| runs_of.remove(&id)).unwrap_or_default();
            // Written before it was kept beside another node's, if that is not open here too.
            if kept_as.is_none() || self.table.lock().by_identity(Identity::File(file)).is_none() {
                runs.extend(runs_of.remove(&file).unwrap_or_default());
                runs.sort_by_key(Run::sequence);
            }
            let changed = former.changed.remove(ino);
            if inode.state.lock().lost {
                // It was given up by a start that failed later, and goes on as the store has it.
                lost.push((inode.clone(), changes.into_keys().collect()));
                continue;
            }
            // Its size alone may be what the record does not have.
            let resized = changed.as_ref().is_some_and(|changed| {
                let stored = inode.state.lock().file().map(|body| body.stored.size).ok();
                changed.changed && stored.is_some() && changed.size != stored
            });
            if !changes.is_empty() || !runs.is_empty() || resized {
                work.push((inode.clone(), Some((changes, runs, changed))));
            } else if open.contains_key(ino) {
                work.push((inode.clone(), None));
            }
        }
        for (file, runs) in runs_of {
            // Nobody can have it open: who opens a file enters it first.
            tracing::error!(
                ?file,
                "{} pieces of a file that nothing leads to are dropped",
                runs.len()
            );
        }
        let results = futures::stream::iter(work).map(|(inode, content)| async move {
            let orders: VecDeque<u64> =
                content.iter().flat_map(|(changes, ..)| changes.keys().copied()).collect();
            let mut base = self.prepare(&inode, content.as_ref()).await;
            for _ in 0..LOOKS {
                // A store that has just come back may say of anything that it is not there.
                if !base.as_ref().is_err_and(FsError::is_about_data) {
                    break;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                base = self.prepare(&inode, content.as_ref()).await;
            }
            let restored = base.and_then(|()| match content {
                Some((changes, runs, changed)) => put_together(&inode, changes, runs, changed),
                None => Ok(()),
            });
            match restored {
                Err(error) if error.is_about_data() => {
                    self.declare_lost(&inode, orders, &error).await
                }
                other => other,
            }
        });
        results.buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        for (inode, orders) in lost {
            let error = FsError::io("what was written before an earlier restart");
            self.declare_lost(&inode, orders, &error).await?;
        }
        if former.damaged {
            let error = FsError::io("what the former worker left is damaged");
            for (ino, writes) in open {
                if let Some(inode) = inodes.get(&ino).filter(|_| writes) {
                    self.declare_lost(inode, VecDeque::new(), &error).await?;
                }
            }
            // From here on the inodes say it, until they are closed.
            if let Some(recorder) = &self.recorder {
                recorder.ledger.told(&former.senseless);
            }
        }
        for (directory, name, burial) in former.burials {
            self.bury_again(directory, &name, &burial);
        }
        // What neither the kernel nor anything here needs, such as what an unanswered request had made: it
        // makes the same again.
        for ino in inodes.into_keys() {
            self.table.lock().drop_if_unused(ino);
        }
        Ok(())
    }

    fn restore_inodes(&self, former: &mut Former) -> BTreeMap<Ino, Arc<Inode>> {
        let mut inodes = BTreeMap::new();
        let mut names = Vec::new();
        let mut table = self.table.lock();
        if let Some(root) = table.get(ROOT) {
            if let Some(changed) = former.changed.remove(&ROOT) {
                apply(&changed, &mut root.state.lock());
            }
            inodes.insert(ROOT, root);
        }
        for (ino, node) in std::mem::take(&mut former.nodes) {
            if ino == ROOT {
                continue;
            }
            let Node { identity, kept_as, place, home, names: known } = node;
            let changed = former.changed.get(&ino);
            let record = match (&home, identity) {
                (Some(home), _) => (*home.record).clone(),
                (None, Identity::File(file)) => {
                    let attributes = changed.and_then(ChangedForm::attributes).unwrap_or_default();
                    Record::new(attributes, Content::File(empty(file)))
                }
                // A directory is stored when it is made.
                (None, Identity::Directory(_)) => {
                    former.spoilt(key(b'N', ino.0));
                    continue;
                }
            };
            let never_stored = home.is_none();
            let mut state = State::new(&record, home, place);
            state.kept_as = kept_as;
            state.lookups = former.lookups.get(&ino).copied().unwrap_or(0);
            if never_stored && changed.is_none() {
                // Made by a request that was not answered.
                state.published = state.modified;
            }
            if let Some(changed) = changed {
                apply(changed, &mut state);
            }
            state.written = Written::adopted(state.lookups, changed.is_some());
            if table.by_identity(kept_as.map_or(identity, Identity::File)).is_some() {
                former.spoilt(key(b'N', ino.0));
                continue;
            }
            names.extend(known.into_iter().map(|(parent, name)| (parent, name, ino)));
            inodes.insert(ino, table.add_as(ino, identity, state));
        }
        for (parent, name, ino) in names {
            let (Some(child), true) = (inodes.get(&ino), inodes.contains_key(&parent)) else {
                continue;
            };
            // Whatever is known of it is as old as the former process.
            let dentry =
                Dentry { child: Some(child.clone()), link: None, checked_at: Duration::ZERO };
            table.set_name(parent, &name, dentry);
        }
        inodes
    }

    /// Enters the open files and directories; returns which inodes those are, and whether for writing.
    fn restore_handles(
        &self,
        former: &mut Former,
        inodes: &BTreeMap<Ino, Arc<Inode>>,
    ) -> HashMap<Ino, bool> {
        let mut open: HashMap<Ino, bool> = HashMap::new();
        for (number, form) in std::mem::take(&mut former.files) {
            self.skip_handles(HandleId(number));
            let Some(inode) = inodes.get(&Ino(form.ino)) else {
                former.spoilt(key(b'H', number));
                continue;
            };
            let (handle, mode) = (HandleId(number), form.mode());
            {
                let mut state = inode.state.lock();
                state.handles += 1;
                state.writers += u32::from(mode.write);
            }
            let pinned = self.pin_segments(inode);
            *open.entry(inode.ino).or_default() |= mode.write;
            let state = FileHandleState {
                inode: inode.clone(),
                mode,
                reading: Mutex::default(),
                failures_seen: Mutex::new(0),
                pinned: Mutex::new(pinned),
            };
            self.files.lock().insert(handle, Arc::new(state));
            let HandleForm { direct_io, keep_cache, unique, .. } = form;
            self.expect_again(unique, Opened { handle, direct_io, keep_cache });
        }
        for (number, form) in std::mem::take(&mut former.directories) {
            self.skip_handles(HandleId(number));
            if let Some(inode) = inodes.get(&Ino(form.ino)) {
                self.reopen_directory(inode, HandleId(number));
            }
        }
        open
    }

    /// Loads a file's map: of what the store has, and if it was changed, of what the changes are based on.
    async fn prepare(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        changes: Option<&Changes>,
    ) -> Result<(), FsError> {
        if let Some((_, _, changed)) = changes {
            let base = self.base(inode).await?;
            let mut state = inode.state.lock();
            match base {
                Base::Known => {}
                Base::Stored(home) => {
                    let Content::File(content) = &home.record.content else {
                        return Err(FsError::io("its record is not a file's any more"));
                    };
                    state.content = Body::File(Box::new(FileBody::new(content.clone())));
                    state.place = home.place.clone();
                    if changed.is_none() {
                        state.attributes = home.record.attributes.clone();
                    } else if let Some(known) = &state.home
                        && known.etag != home.etag
                        && !self.volume.session().made_last(&home.record.publishes)
                    {
                        // Another node has changed the attributes and nothing else.
                        let (known, theirs) = (&known.record.attributes, &home.record.attributes);
                        state.attributes = merge_attributes(known, &state.attributes, theirs);
                    }
                    state.home = Some(home);
                }
                Base::Theirs(content) => {
                    // The next publish is based on what ours is, meets theirs, and keeps ours beside it.
                    state.content = Body::File(Box::new(FileBody::new(content)));
                    state.modified = state.modified.max(state.published + 1);
                }
                Base::Removed(content) => {
                    state.content = Body::File(Box::new(FileBody::new(content)));
                    state.unlinked = true;
                }
            }
        }
        self.load_map(inode).await
    }

    /// What a file's changes are based on.
    async fn base(&self, inode: &Inode) -> Result<Base, FsError> {
        let (home, mut place, identity, unlinked) = {
            let state = inode.state.lock();
            (state.home.clone(), state.place.clone(), state.identity(inode), state.unlinked)
        };
        let whole = home.as_ref().is_none_or(|home| home.record.is_whole());
        if unlinked && whole {
            return Ok(Base::Known);
        }
        for _ in 0..MOVES {
            match self.volume.load(&place, None).await? {
                Loaded::Live(entry) => {
                    let found = self.volume.resolve(entry).await?;
                    let current = found.home();
                    if Identity::of(&current.record.content) != Some(identity) || unlinked {
                        break;
                    }
                    let known = home.as_ref().is_some_and(|home| {
                        home.etag == current.etag || same_content(&home.record, &current.record)
                    });
                    if known || self.volume.session().made_last(&current.record.publishes) {
                        return Ok(Base::Stored(current.clone()));
                    }
                    match &current.record.content {
                        Content::File(theirs) if !whole => return Ok(Base::Theirs(theirs.clone())),
                        _ => break,
                    }
                }
                Loaded::Tombstone(buried) => {
                    if Identity::of(&buried.record.content) != Some(identity) {
                        break;
                    }
                    if let Some(to) = &buried.record.moved_to {
                        place = Place::Entry(to.dir, to.name.clone());
                        continue;
                    }
                    let ours = self.volume.session().made_last(&buried.record.publishes);
                    match &buried.record.content {
                        Content::File(content) if unlinked || ours => {
                            return Ok(Base::Removed(content.clone()));
                        }
                        Content::File(content) if !whole => {
                            return Ok(Base::Theirs(content.clone()));
                        }
                        _ => break,
                    }
                }
                Loaded::Absent | Loaded::Unchanged => break,
            }
        }
        // Not stored yet; or another node has changed it, which the next publish finds out and settles: for
        // that, what ours is based on must be here.
        if whole {
            return Ok(Base::Known);
        }
        Err(FsError::stale(format!(
            "{place}: changed by another node while the server was restarted"
        )))
    }

    /// Somebody must be told: nothing that was accepted disappears in silence. What was written and is not
    /// stored is given up, since a part of it would be a content that the file never had: the file is what
    /// the store says. `orders` are the changes of its content that the ledger has.
    async fn declare_lost(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        orders: VecDeque<u64>,
        error: &FsError,
    ) -> Result<(), FsError> {
        {
            let mut state = inode.state.lock();
            let State { content, written, home, .. } = &mut *state;
            let Body::File(body) = content else { return Ok(()) };
            let unstored = body.dirty.dirty_bytes() > 0 || !orders.is_empty();
            if !orders.is_empty() {
                written.adopt_content(orders, body.mark);
            }
            if unstored {
                let stored = match home.as_ref().map(|home| &home.record.content) {
                    Some(Content::File(content)) => content.clone(),
                    _ => empty(inode.file()?),
                };
                // Another mark: what is written of the former content is taken out of the ledger.
                *content = Body::File(Box::new(FileBody::new(stored)));
            }
            if state.writers > 0 || state.is_changed() || unstored {
                tracing::error!(file = %state.place, "bytes of an open file are lost: {error}");
                state.lost = true;
                state.published = state.modified;
            }
        }
        match self.load_map(inode).await {
            Err(error) if !error.is_about_data() => Err(error),
            // Readers hear of it by themselves.
            _ => Ok(()),
        }
    }

    /// A removal that was answered and perhaps not sent.
    fn bury_again(self: &Arc<Self>, directory: Ino, name: &[u8], burial: &BurialForm) {
        let Some((identity, place)) = burial.read() else { return };
        let Some(directory) = self.table.lock().get(directory) else {
            // Nobody looks at that directory any more; it is finished all the same.
            let fs = self.clone();
            let key = super::remembered::burial_key(directory, name);
            self.runtime.spawn(async move {
                if fs.bury_if_same(identity, &place).await.is_ok()
                    && let Some(recorder) = &fs.recorder
                {
                    recorder.ledger.remove(&key);
                }
            });
            return;
        };
        let checked_at = self.boot_time();
        let absent = Dentry { child: None, link: None, checked_at };
        self.table.lock().set_name(directory.ino, name, absent);
        self.bury_restored(&directory, name, identity, place);
    }
}

/// What a file's changes are based on.
enum Base {
    /// What the ledger says.
    Known,
    /// This record, which stands in the store.
    Stored(Stored),
    /// This content; the name is gone.
    Removed(FileContent),
    /// This content, which another node has made of it or taken its name from since.
    Theirs(FileContent),
}

/// What a former process left of one file's content.
type Changes = (BTreeMap<u64, ContentChange>, Vec<Run>, Option<ChangedForm>);

/// Puts a file's content together again, on the map of what it is based on.
fn put_together(
    inode: &Inode,
    changes: BTreeMap<u64, ContentChange>,
    runs: Vec<Run>,
    changed: Option<ChangedForm>,
) -> Result<(), FsError> {
    let mut state = inode.state.lock();
    let orders = changes.keys().copied().collect();
    let body = state.file_mut()?;
    let map = body.map.as_mut().ok_or_else(super::core::map_missing)?;
    let mut dirty = DirtyMap::default();
    let mut changes = changes.into_iter().peekable();
    for run in runs {
        while let Some((_, change)) = changes.next_if(|(order, _)| *order < run.sequence()) {
            apply_content(change, map, &mut dirty);
        }
        dirty.adopt(run);
    }
    changes.for_each(|(_, change)| apply_content(change, map, &mut dirty));
    if let Some(changed) = &changed {
        body.size = changed.size.unwrap_or(body.size);
        body.settled_size = changed.settled_size;
    }
    body.size = body.size.max(dirty.end());
    body.dirty = dirty;
    let (unstored, mark) = (body.dirty.dirty_bytes() > 0, body.mark);
    state.written.adopt_content(orders, mark);
    // Where the record has it all, only that the former process had no time to say so, the changes stay
    // written until the next publish: runs that they make void are described until then.
    if unstored && !state.is_changed() {
        state.modified += 1;
    }
    Ok(())
}

/// Whether two records of one file say the same content, as far as their heads tell: every write changes
/// the time, so that where all the rest is equal, so is what lies in the body.
fn same_content(a: &Record, b: &Record) -> bool {
    match (&a.content, &b.content) {
        (Content::File(x), Content::File(y)) => {
            a.attributes.mtime == b.attributes.mtime
                && (x.size, &x.extents, &x.pages) == (y.size, &y.extents, &y.pages)
        }
        _ => false,
    }
}

fn apply_content(
    change: ContentChange,
    map: &mut crate::volume::native::extents::ExtentMap,
    dirty: &mut DirtyMap,
) {
    let ContentChange { range, piece } = change;
    dirty.punch(range);
    match piece {
        Some(piece) => map.insert(range, piece),
        None => map.remove(range),
    }
}

/// What of an inode is not in the store.
fn apply(changed: &ChangedForm, state: &mut State) {
    if let Some(attributes) = changed.attributes() {
        state.attributes = attributes;
    }
    state.links = changed.links;
    state.unlinked = changed.unlinked;
    state.times_pending = changed.times_pending;
    state.lost = changed.lost;
    if let Some(message) = &changed.stale {
        state.failure = Some(FsError::stale(message));
        state.failures += 1;
    }
    if changed.changed {
        state.modified = state.published + 1;
    }
    if let (Body::File(body), Some(size)) = (&mut state.content, changed.size) {
        (body.size, body.settled_size) = (size, changed.settled_size);
    }
}

fn empty(id: FileId) -> FileContent {
    FileContent { id, size: 0, extents: Vec::new(), pages: Vec::new(), inline: bytes::Bytes::new() }
}
