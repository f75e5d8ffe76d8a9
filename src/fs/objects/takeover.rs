//! Going on where a former process stopped: nodes, names, open files and changes under way come from its ledger
//! without asking the store. What programs had written and the store does not have is there if it was written from
//! front to back (`spare.rs`; `unfinished.rs` has what is on its way); else it is lost, and EIO tells everybody who has
//! the file open, or opens it next, until the last close. What stands in the store under its name is whole then, and of
//! before.

use super::callers::Users;
use super::content::Content;
use super::directory::DirectoryHandle;
use super::remembered::{Former, Kept, ObjectsEstate, Written};
use super::spare::{Spare, owner_of};
use super::table::{Node, State};
use super::unfinished::Unfinished;
use super::{Handle, ObjectFs, ObjectsConfig};
use crate::fs::arena::Run;
use crate::fs::attachable::{Attachable, Still};
use crate::fs::burden::Burden;
use crate::fs::errno::FsError;
use crate::fs::ledger::Ledger;
use crate::fs::remembered::key;
use crate::fs::types::{HandleId, Ino, Kind, Opened};
use crate::store::StoreError;
use crate::volume::objects::BucketTree;
use crate::world::World;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Names above each other, at most: no key is that deep.
const DEEPEST: usize = 1024;

impl ObjectFs {
    /// Serves the files of a bucket, going on where a former process stopped.
    ///
    /// # Errors
    /// If the store cannot be asked; then what is kept is as it was.
    pub async fn take_over(
        tree: Arc<BucketTree>,
        config: ObjectsConfig,
        owner: (u32, u32),
        world: World,
        estate: ObjectsEstate,
    ) -> Result<Arc<Self>, StoreError> {
        let ObjectsEstate { keep, former, runs, .. } = estate;
        let fs = Self::prepare(tree, config, owner, world, Some(keep)).await?;
        let fs = Arc::new(fs);
        fs.restore(former, runs).await;
        Ok(fs)
    }

    async fn restore(self: &Arc<Self>, mut former: Former, runs: Vec<Run>) {
        self.restore_nodes(&mut former);
        self.restore_handles(&mut former);
        let mut bytes: HashMap<(Ino, u64), Vec<Run>> = HashMap::new();
        for run in runs {
            bytes.entry(owner_of(&run)).or_default().push(run);
        }
        let mut uploads = self.uploads_of(&mut former);
        let nodes = self.table.lock().all();
        for node in nodes.iter().filter(|node| node.ino != Ino::ROOT) {
            let number = node.state.lock().spare;
            let runs = bytes.remove(&(node.ino, number)).unwrap_or_default();
            let upload = uploads.remove(&node.ino);
            let known = upload.as_ref().map(|(number, upload)| (*number, upload));
            let goes_on = self.restore_content(node, (runs, number), known, former.damaged).await;
            if let Some((number, upload)) = upload.filter(|_| !goes_on) {
                self.give_up(number, &upload);
            }
        }
        uploads.values().for_each(|(number, upload)| self.give_up(*number, upload));
        *self.replies.lock() = std::mem::take(&mut former.replies);
        self.end_moves().await;
        for node in nodes {
            self.table.lock().drop_if_unused(node.ino);
            let is_left = {
                let state = node.state.lock();
                state.dirty && state.handles == 0 && state.place.is_some()
            };
            if is_left {
                // No close comes that would store it.
                let fs = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = fs.publish(&node).await {
                        tracing::error!("{}: not stored yet: {error}", fs.shown(&node));
                    }
                    fs.table.lock().drop_if_unused(node.ino);
                });
            }
        }
        if former.damaged {
            tracing::error!(
                "not everything that the former server left can be read: files that were open for writing report EIO, \
                 and some names have to be looked up again"
            );
        }
        if let Some(keep) = &self.keep {
            keep.ledger.told(&former.senseless);
        }
    }

    /// Nodes under the names that they had; those above them are known, or it makes no sense.
    fn restore_nodes(&self, former: &mut Former) {
        let nodes = std::mem::take(&mut former.nodes);
        let mut table = self.table.lock();
        let mut senseless = Vec::new();
        for (ino, (kept, written)) in &nodes {
            let mut state = self.state_of(kept);
            let lookups = former.lookups.remove(ino).unwrap_or(0);
            state.lookups = lookups;
            state.written = Written { node: written.clone(), lookups };
            table.restore(*ino, state);
        }
        for (ino, (kept, _)) in &nodes {
            let Some((parent, name)) = &kept.place else { continue };
            let is_stored = kept.found.is_some() || kept.kind == Kind::Directory;
            // Removed a moment ago, and nobody had come to say that its name is gone.
            let is_somewhere = is_stored || kept.dirty;
            let makes_sense = leads_to_root(*ino, &nodes)
                && nodes.get(parent).is_none_or(|(above, _)| above.kind == Kind::Directory);
            if is_somewhere && !(makes_sense && table.restore_place(*ino, *parent, name)) {
                senseless.push(key(b'N', ino.0));
            }
        }
        drop(table);
        // Lookups of nothing.
        let lost = former.lookups.keys().map(|ino| key(b'L', ino.0)).collect::<Vec<_>>();
        for key in senseless.into_iter().chain(lost) {
            former.spoilt(key);
        }
    }

    fn state_of(&self, kept: &Kept) -> State {
        let mut state = State::new(kept.kind, self.world.clock.now(), self.next_number());
        self.fill(&mut state, kept.found.clone());
        let Kept { mode, owner, rdev, size, times, .. } = kept;
        (state.mode, state.rdev, state.size) = (*mode, *rdev, *size);
        ((state.uid, state.gid), (state.mtime, state.ctime)) = (*owner, *times);
        (state.dirty, state.removed_here) = (kept.dirty, kept.removed_here);
        (state.time_was_set, state.was_moved) = (kept.time_was_set, kept.was_moved);
        (state.replaced, state.checked) = (kept.replaced, None);
        (state.lost, state.sent, state.spare) = (kept.lost, kept.sent, kept.spare);
        state
    }

    fn restore_handles(&self, former: &mut Former) {
        let mut highest = 0;
        for (number, (form, replaced)) in std::mem::take(&mut former.files) {
            let Ok(node) = self.node(Ino(form.ino)) else {
                former.spoilt(key(b'H', number));
                continue;
            };
            let mode = form.mode();
            {
                let mut state = node.state.lock();
                state.handles += 1;
                state.writers += u32::from(mode.write);
            }
            let users = Arc::new(parking_lot::Mutex::new(Users::anybody()));
            let id = HandleId(number);
            self.handles.lock().insert(id, Handle { node, mode, replaced, users });
            let (direct_io, keep_cache) = (form.direct_io, form.keep_cache);
            if form.unique != 0 {
                let opened = Opened { handle: id, direct_io, keep_cache };
                self.unanswered.lock().insert(form.unique, opened);
            }
            highest = highest.max(number);
        }
        for (number, ino) in std::mem::take(&mut former.directories) {
            let Ok(node) = self.parent(ino) else {
                former.spoilt(key(b'D', number));
                continue;
            };
            node.state.lock().handles += 1;
            let handle = Arc::new(DirectoryHandle::new(node));
            self.directories.lock().insert(HandleId(number), handle);
            highest = highest.max(number);
        }
        self.counter.fetch_max(highest.saturating_add(1), Ordering::Relaxed);
    }

    /// Uploads on their way, by whose they are.
    fn uploads_of(&self, former: &mut Former) -> HashMap<Ino, (u64, Unfinished)> {
        let mut uploads = HashMap::new();
        for (number, upload) in std::mem::take(&mut former.uploads) {
            if let Some(keep) = &self.keep {
                keep.arena.raise_sequence(number);
            }
            let older = match upload.ino() {
                Some(ino) => uploads.insert(ino, (number, upload)),
                None => Some((number, upload)),
            };
            if let Some((number, older)) = older {
                self.give_up(number, &older);
            }
        }
        uploads
    }

    /// What was not in the store: its bytes, or that they are lost. Whether it goes on with the upload.
    async fn restore_content(
        self: &Arc<Self>,
        node: &Arc<Node>,
        (runs, number): (Vec<Run>, u64),
        upload: Option<(u64, &Unfinished)>,
        damaged: bool,
    ) -> bool {
        let (kind, is_dirty, has_name, is_open, is_written, size, is_whole) = {
            let state = node.state.lock();
            let (is_open, is_written) = (state.handles > 0, state.writers > 0);
            let (has_name, is_whole) = (state.place.is_some(), !damaged && !state.lost);
            (state.kind, state.dirty, has_name, is_open, is_written, state.size, is_whole)
        };
        if kind != Kind::File {
            return false;
        }
        let name = self.shown(node);
        let lost = || {
            FsError::io(format!(
                "{name}: the server of this mount was killed, and what was written to this file since its last close or \
                 fsync is lost"
            ))
        };
        let mut content = node.content.lock().await;
        if !has_name {
            if is_open {
                // What was kept of it was in the former process.
                self.lose(node, &mut content, &lost());
            }
            node.state.lock().dirty = is_open;
            return false;
        }
        if is_dirty && is_whole {
            if let Some((_, upload)) = upload
                && self.has_ended(node, upload, size).await
            {
                return false;
            }
            if let Some(spare) = Spare::adopted(runs, number, size)
                && let Some((writer, goes_on)) = self.resumed(node, spare, upload).await
            {
                *content = Content::Stream(Box::new(writer));
                return goes_on;
            }
        }
        if !(is_dirty || damaged && is_written) {
            return false;
        }
        if is_open {
            tracing::error!("{}", lost());
            self.lose(node, &mut content, &lost());
            node.state.lock().dirty = true;
            return false;
        }
        // Whoever closed it was told already that it is not stored.
        tracing::error!("{}", lost());
        let is_nowhere = {
            let mut state = node.state.lock();
            state.dirty = false;
            state.size = state.found.as_ref().map_or(0, |found| found.size);
            state.found.is_none()
        };
        drop(content);
        if is_nowhere {
            self.table.lock().detach(node);
        }
        false
    }

    /// Whether a successor would find everything that programs have written.
    fn leaves_everything(&self) -> bool {
        let nodes = self.table.lock().all();
        let has_left = |node: &Arc<Node>| match node.content.try_lock() {
            Ok(content) => match &*content {
                Content::Clean | Content::Lost(_) => false,
                Content::Stream(writer) => !node.spare.lock().is_all_of(writer),
                Content::Overlay(_) => true,
            },
            Err(_) => true,
        };
        // What has no name any more ends with this process.
        let is_wanted = |node: &Arc<Node>| {
            let state = node.state.lock();
            state.dirty && (state.place.is_some() || !state.removed_here)
        };
        !nodes.iter().any(|node| is_wanted(node) && has_left(node))
    }

    fn lost_files(&self) -> u64 {
        let nodes = self.table.lock().all();
        let is_lost = |node: &Arc<Node>| {
            node.content.try_lock().is_ok_and(|content| matches!(*content, Content::Lost(_)))
        };
        nodes.iter().filter(|node| is_lost(node)).count() as u64
    }
}

/// Whether names lead from a node to the root, which everything is below.
fn leads_to_root(ino: Ino, nodes: &BTreeMap<Ino, (Kept, Vec<u8>)>) -> bool {
    let mut at = ino;
    for _ in 0..DEEPEST {
        if at == Ino::ROOT {
            return true;
        }
        match nodes.get(&at).and_then(|(kept, _)| kept.place.as_ref()) {
            Some((parent, _)) => at = *parent,
            // Below something that was removed: it is nowhere, which its path says.
            None => return nodes.contains_key(&at),
        }
    }
    false
}

impl Attachable for ObjectFs {
    fn kept(&self) -> Option<&Ledger> {
        self.keep.as_ref().map(|keep| &keep.ledger)
    }

    fn decide(&self) {
        if let Some(keep) = &self.keep {
            keep.arena.decide();
        }
    }

    fn burden(&self) -> Burden {
        let mut burden = Burden {
            dirty_limit: self.config.memory / 2,
            open_files: self.handles.lock().len() as u64,
            lost_files: self.lost_files(),
            takeovers: self.keep.as_ref().map_or(0, |keep| keep.takeovers),
            ..Burden::default()
        };
        for node in self.table.lock().all() {
            let state = node.state.lock();
            if state.dirty && (state.place.is_some() || !state.removed_here) {
                burden.dirty_bytes += state.size;
                burden.changed_files += 1;
            }
        }
        burden
    }

    async fn store_everything(self: &Arc<Self>) -> Vec<(String, FsError)> {
        self.store_all().await
    }

    async fn hold_still(&self) -> Option<Still> {
        if !self.leaves_everything() {
            return None;
        }
        let paths = self.all_paths().await.ok()?;
        self.leaves_everything().then_some(Still(Some(paths)))
    }

    async fn look(&self) -> Result<(), StoreError> {
        self.tree.check().await
    }

    fn place(&self) -> String {
        self.tree.describe()
    }

    fn cache_hits(&self) -> Option<(u64, u64)> {
        None
    }
}
