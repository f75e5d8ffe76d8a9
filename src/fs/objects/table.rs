//! The nodes that the kernel holds, that are open, or that are not stored yet.

use super::content::Content;
use super::reading::Ahead;
use super::recorder::Recorded;
use super::remembered::{Keep, Written};
use super::spare::Spare;
use crate::fs::errno::FsError;
use crate::fs::types::{Ino, Kind};
use crate::store::{ETag, Headers};
use crate::volume::objects::tree::Found;
use crate::world::Timestamp;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// One file or directory.
pub(super) struct Node {
    pub(super) ino: Ino,
    /// What is not in the store yet; held by whoever changes it.
    pub(super) content: tokio::sync::Mutex<Content>,
    /// The same bytes for a process that takes over; changed by whoever has the content.
    pub(super) spare: Arc<Mutex<Spare>>,
    pub(super) state: Recorded,
}

impl Node {
    fn new(ino: Ino, state: State, content: Content, keep: Option<Arc<Keep>>) -> Self {
        Self {
            ino,
            content: tokio::sync::Mutex::new(content),
            spare: Arc::default(),
            state: Recorded::new(state, keep, ino),
        }
    }
}

pub(super) struct State {
    /// Parent and name; the root and what was removed have none.
    pub(super) place: Option<(Ino, String)>,
    pub(super) lookups: u64,
    pub(super) handles: u32,
    /// Of these, those that may write.
    pub(super) writers: u32,
    /// Nodes in the table whose parent it is.
    pub(super) children: u32,
    pub(super) kind: Kind,
    /// Permissions only.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u32,
    pub(super) size: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    /// A symbolic link's target, once it is known.
    pub(super) link: Option<Vec<u8>>,
    /// The object, or a directory's mark; none where nothing is stored.
    pub(super) found: Option<Found>,
    /// Which content this is, of all that this mount has seen.
    pub(super) content_id: u64,
    /// This mount has moved the object with its directory; what its mark is now is not known.
    pub(super) was_moved: bool,
    /// How often somebody else has replaced the object.
    pub(super) replaced: u64,
    /// This mount is changing what the store has of it, or moving it: what the store says meanwhile is
    /// neither the old nor the new.
    pub(super) busy: u32,
    /// This mount has removed its name, or given it to something else.
    pub(super) removed_here: bool,
    /// Counts writes.
    pub(super) changes: u64,
    /// It was tried to be stored, and nobody knows whether it was.
    pub(super) maybe_stored: Option<Attempt>,
    /// Counts this mount's own changes: what was asked of the store before one is not true after it.
    pub(super) version: u64,
    /// When the store was asked last (boot time); none: it has to be asked again.
    pub(super) checked: Option<Duration>,
    /// It was sent to be stored since it was stored last, perhaps by a former process: it may be there.
    pub(super) sent: bool,
    /// Something of its content is not in the store.
    pub(super) dirty: bool,
    /// Its content is [`Content::Lost`].
    pub(super) lost: bool,
    /// What the runs in the arena are called that have its content, 0 if none has.
    pub(super) spare: u64,
    /// Its time was set, by utimens(2), and not by a write.
    pub(super) time_was_set: bool,
    /// The content whose pages the kernel may have.
    pub(super) opened: Option<ETag>,
    /// The names in a directory, and when they were listed.
    pub(super) names: Option<(Duration, HashSet<String>)>,
    /// Names that were looked for in a directory in vain, and when.
    pub(super) absent: HashMap<String, Duration>,
    pub(super) ahead: Ahead,
    /// What whoever takes over knows of it.
    pub(super) written: Written,
}

impl State {
    /// Of a node of which nothing is stored.
    pub(super) fn new(kind: Kind, now: Timestamp, content_id: u64) -> Self {
        Self {
            place: None,
            lookups: 0,
            handles: 0,
            writers: 0,
            children: 0,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            atime: now,
            mtime: now,
            ctime: now,
            link: None,
            found: None,
            content_id,
            was_moved: false,
            busy: 0,
            removed_here: false,
            changes: 0,
            maybe_stored: None,
            replaced: 0,
            version: 0,
            checked: None,
            sent: false,
            dirty: false,
            lost: false,
            spare: 0,
            time_was_set: false,
            opened: None,
            names: None,
            absent: HashMap::new(),
            ahead: Ahead::default(),
            written: Written::default(),
        }
    }

    fn is_unused(&self) -> bool {
        self.lookups == 0 && self.handles == 0 && self.children == 0 && !self.dirty
    }
}

/// What was sent to be stored.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) size: u64,
    /// [`State::changes`] then.
    pub(super) changes: u64,
    /// With one of these.
    pub(super) headers: [Headers; 2],
}

/// See [`State::busy`].
pub(super) struct Busy<'n>(&'n Node);

impl<'n> Busy<'n> {
    pub(super) fn new(node: &'n Node) -> Self {
        let mut state = node.state.lock();
        state.busy += 1;
        state.version += 1;
        drop(state);
        Self(node)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.busy = state.busy.saturating_sub(1);
        state.version += 1;
    }
}

/// All nodes.
#[derive(Default)]
pub(super) struct Table {
    nodes: HashMap<Ino, Arc<Node>>,
    /// In the order of directories.
    places: BTreeMap<(Ino, String), Ino>,
    /// Where nodes are written down for whoever takes over.
    keep: Option<Arc<Keep>>,
}

impl Table {
    pub(super) fn new(keep: Option<Arc<Keep>>) -> Self {
        Self { keep, ..Self::default() }
    }

    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Node>> {
        self.nodes.get(&ino).cloned()
    }

    pub(super) fn child(&self, parent: Ino, name: &str) -> Option<Arc<Node>> {
        let ino = self.places.get(&(parent, name.to_owned()))?;
        self.get(*ino)
    }

    /// The path of a node; none if it has no name any more.
    pub(super) fn path(&self, ino: Ino) -> Option<String> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let (parent, name) = self.nodes.get(&at)?.state.lock().place.clone()?;
            names.push(name);
            at = parent;
        }
        names.reverse();
        Some(names.join("/"))
    }

    /// Whether a node is another one, or below it.
    pub(super) fn is_within(&self, ino: Ino, above: Ino) -> bool {
        let mut at = ino;
        loop {
            if at == above {
                return true;
            }
            match self.nodes.get(&at).and_then(|node| node.state.lock().place.clone()) {
                Some((parent, _)) => at = parent,
                None => return false,
            }
        }
    }

    /// The nodes below one.
    pub(super) fn below(&self, above: Ino) -> Vec<Arc<Node>> {
        let all = self.nodes.values().filter(|node| node.ino != above);
        all.filter(|node| self.is_within(node.ino, above)).cloned().collect()
    }

    /// The nodes in a directory, by name.
    pub(super) fn children(&self, parent: Ino) -> Vec<(String, Arc<Node>)> {
        let from = (parent, String::new());
        let of_parent = self.places.range(from..).take_while(|((dir, _), _)| *dir == parent);
        of_parent.filter_map(|((_, name), ino)| Some((name.clone(), self.get(*ino)?))).collect()
    }

    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        self.nodes.values().cloned().collect()
    }

    pub(super) fn add_root(&mut self, state: State) {
        let state = State { lookups: 1, ..state };
        let root = Node::new(Ino::ROOT, state, Content::Clean, self.keep.clone());
        self.nodes.insert(Ino::ROOT, Arc::new(root));
    }

    /// A node of a former process, without a name yet.
    pub(super) fn restore(&mut self, ino: Ino, state: State) {
        let node = Node::new(ino, state, Content::Clean, self.keep.clone());
        self.nodes.insert(ino, Arc::new(node));
    }

    /// Its name; whether nobody else has that.
    pub(super) fn restore_place(&mut self, ino: Ino, parent: Ino, name: &str) -> bool {
        let Some(node) = self.nodes.get(&ino).cloned() else { return false };
        let is_free = !self.places.contains_key(&(parent, name.to_owned()));
        if is_free && self.nodes.contains_key(&parent) {
            self.place(&node, parent, name);
        }
        is_free
    }

    /// A new node under a name, which no other node has. Its number is made from its path, so that it stays
    /// the same from mount to mount as long as nothing is moved.
    pub(super) fn add(
        &mut self,
        parent: Ino,
        name: &str,
        state: State,
        content: Content,
    ) -> Result<Arc<Node>, FsError> {
        let mut path = self.path(parent).ok_or(FsError::Moved)?;
        path.push('/');
        path.push_str(name);
        let hash = blake3::hash(path.as_bytes());
        let first = hash.as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes);
        let mut ino = Ino(first.max(2));
        while self.nodes.contains_key(&ino) {
            ino = Ino(ino.0.wrapping_add(1).max(2));
        }
        let node = Arc::new(Node::new(ino, state, content, self.keep.clone()));
        self.nodes.insert(ino, node.clone());
        self.place(&node, parent, name);
        Ok(node)
    }

    fn place(&mut self, node: &Arc<Node>, parent: Ino, name: &str) {
        node.state.lock().place = Some((parent, name.to_owned()));
        self.places.insert((parent, name.to_owned()), node.ino);
        if let Some(parent) = self.nodes.get(&parent) {
            parent.state.lock().children += 1;
        }
    }

    /// Takes a node's name away.
    pub(super) fn detach(&mut self, node: &Arc<Node>) {
        let place = node.state.lock().place.take();
        if let Some(place) = place {
            self.unplace(node, place);
        }
    }

    fn unplace(&mut self, node: &Arc<Node>, place: (Ino, String)) {
        let parent = place.0;
        if self.places.get(&place) == Some(&node.ino) {
            self.places.remove(&place);
        }
        let above = self.nodes.get(&parent).cloned();
        if let Some(above) = above {
            let mut state = above.state.lock();
            state.children = state.children.saturating_sub(1);
            drop(state);
            self.drop_if_unused(parent);
        }
        self.drop_if_unused(node.ino);
    }

    /// Gives a node another name, which takes it from whoever has it.
    pub(super) fn rename(&mut self, node: &Arc<Node>, parent: Ino, name: &str) {
        if let Some(former) = self.child(parent, name).filter(|former| former.ino != node.ino) {
            self.detach(&former);
        }
        // Not dropped between its two names; and whoever takes over never finds it without one.
        let place = {
            let mut state = node.state.lock_silently();
            state.lookups += 1;
            state.place.take()
        };
        if let Some(place) = place {
            self.unplace(node, place);
        }
        self.place(node, parent, name);
        let mut state = node.state.lock();
        state.lookups = state.lookups.saturating_sub(1);
    }

    /// Counts a lookup of a node, which the kernel may have let go since it was found; returns the one that has its
    /// number.
    pub(super) fn count_lookup(&mut self, node: &Arc<Node>) -> Arc<Node> {
        let known = match self.get(node.ino) {
            Some(known) => known,
            None => {
                self.nodes.insert(node.ino, node.clone());
                let place = node.state.lock().place.take();
                if let Some((parent, name)) = place
                    && self.nodes.contains_key(&parent)
                    && self.child(parent, &name).is_none()
                {
                    self.place(node, parent, &name);
                }
                node.clone()
            }
        };
        known.state.lock().lookups += 1;
        known
    }

    pub(super) fn forget(&mut self, ino: Ino, lookups: u64) {
        if let Some(node) = self.nodes.get(&ino) {
            let mut state = node.state.lock();
            state.lookups = state.lookups.saturating_sub(lookups);
            drop(state);
            self.drop_if_unused(ino);
        }
    }

    /// Lets a node go that nobody holds, and those above it that were there for it.
    pub(super) fn drop_if_unused(&mut self, ino: Ino) {
        let mut at = ino;
        while at != Ino::ROOT {
            let Some(node) = self.nodes.get(&at).filter(|node| node.state.lock().is_unused())
            else {
                return;
            };
            let place = node.state.lock().place.clone();
            if let Some(node) = self.nodes.remove(&at) {
                node.state.forget();
            }
            let Some(place) = place else { return };
            if self.places.get(&place) == Some(&at) {
                self.places.remove(&place);
            }
            let Some(above) = self.nodes.get(&place.0) else { return };
            let mut state = above.state.lock();
            state.children = state.children.saturating_sub(1);
            drop(state);
            at = place.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(kind: Kind) -> State {
        State::new(kind, Timestamp(0), 1)
    }

    #[test]
    fn a_node_that_was_let_go_while_it_was_answered_is_known_under_its_name() {
        let mut table = Table::default();
        table.add_root(state(Kind::Directory));
        let above = table.add(Ino::ROOT, "above", state(Kind::Directory), Content::Clean);
        let above = table.count_lookup(&above.expect("added"));
        let node = table.add(above.ino, "name", state(Kind::File), Content::Clean).expect("added");
        let node = table.count_lookup(&node);
        table.forget(node.ino, 1);
        assert!(table.get(node.ino).is_none());
        let again = table.count_lookup(&node);
        assert!(Arc::ptr_eq(&again, &node));
        assert_eq!(table.path(node.ino).as_deref(), Some("above/name"));
        assert_eq!(above.state.lock().children, 1);
        // Another one has its number and name by then.
        table.forget(node.ino, 1);
        let next = table.add(above.ino, "name", state(Kind::File), Content::Clean).expect("added");
        assert_eq!(next.ino, node.ino);
        assert!(Arc::ptr_eq(&table.count_lookup(&node), &next));
        assert_eq!(next.state.lock().lookups, 1);
        table.forget(next.ino, 1);
        table.forget(above.ino, 1);
        assert_eq!(table.all().len(), 1);
    }
}
