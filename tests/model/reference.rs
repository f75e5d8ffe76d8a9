//! What the file system must be: names, nodes and their versions, with what a crash may leave.
//!
//! A name has what the running mount shows (`live`) and what a new mount may find (`stored`): one
//! possibility once an operation was acknowledged, several while one is in doubt. A node has versions,
//! the acknowledged one first and the current one last; after a crash any of them may stand, whole.

use crate::content::Content;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) type NodeId = usize;
pub(crate) const ROOT: NodeId = 0;
pub(crate) type Name = (NodeId, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Version {
    pub(crate) content: Content,
    pub(crate) mode: u32,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) target: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// The same on every mount; not known while its creation is in doubt.
    pub(crate) ino: Option<u64>,
    pub(crate) versions: Vec<Version>,
    /// It was promised to be kept.
    pub(crate) acknowledged: bool,
    /// Its last name was taken away, or that was tried.
    pub(crate) doomed: bool,
}

impl Node {
    pub(crate) fn current(&self) -> &Version {
        self.versions.last().expect("a node has a version")
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) live: Option<NodeId>,
    pub(crate) stored: BTreeSet<Option<NodeId>>,
}

impl Default for Slot {
    fn default() -> Self {
        Self { live: None, stored: BTreeSet::from([None]) }
    }
}

#[derive(Default)]
pub(crate) struct Reference {
    pub(crate) nodes: Vec<Node>,
    pub(crate) slots: BTreeMap<Name, Slot>,
}

impl Reference {
    pub(crate) fn new() -> Self {
        let mut reference = Self::default();
        let root = reference.add(Kind::Directory, Version { mode: 0o755, ..Version::default() });
        reference.nodes[root].ino = Some(1);
        reference.nodes[root].acknowledged = true;
        reference
    }

    pub(crate) fn add(&mut self, kind: Kind, version: Version) -> NodeId {
        let versions = vec![version];
        self.nodes.push(Node { kind, ino: None, versions, acknowledged: false, doomed: false });
        self.nodes.len() - 1
    }

    pub(crate) fn live(&self, name: &Name) -> Option<NodeId> {
        self.slots.get(name)?.live
    }

    pub(crate) fn kind(&self, node: NodeId) -> Kind {
        self.nodes[node].kind
    }

    pub(crate) fn names_of(&self, node: NodeId) -> Vec<Name> {
        let leads = |(_, slot): &(&Name, &Slot)| slot.live == Some(node);
        self.slots.iter().filter(leads).map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn children(&self, dir: NodeId) -> BTreeMap<String, NodeId> {
        let of_dir = self.slots.range((dir, String::new())..(dir + 1, String::new()));
        of_dir.filter_map(|((_, name), slot)| Some((name.clone(), slot.live?))).collect()
    }

    /// Directories that can be reached.
    pub(crate) fn directories(&self) -> Vec<NodeId> {
        let mut found = vec![ROOT];
        let mut at = 0;
        while at < found.len() {
            let children = self.children(found[at]);
            found.extend(children.into_values().filter(|node| self.kind(*node) == Kind::Directory));
            at += 1;
        }
        found
    }

    /// Nodes of a kind that have a name.
    pub(crate) fn reachable(&self, kind: Kind) -> Vec<NodeId> {
        let dirs = self.directories();
        let all: BTreeSet<NodeId> =
            dirs.iter().flat_map(|dir| self.children(*dir).into_values()).collect();
        all.into_iter().filter(|node| self.kind(*node) == kind).collect()
    }

    pub(crate) fn is_within(&self, mut dir: NodeId, ancestor: NodeId) -> bool {
        while dir != ancestor {
            match self.names_of(dir).first() {
                Some((parent, _)) => dir = *parent,
                None => return false,
            }
        }
        true
    }

    /// An acknowledged change of a name.
    pub(crate) fn set(&mut self, name: &Name, node: Option<NodeId>) {
        let before = self.live(name);
        self.slots.insert(name.clone(), Slot { live: node, stored: BTreeSet::from([node]) });
        if let Some(before) = before {
            self.mourn(before);
        }
    }

    /// A change of a name that may have happened.
    pub(crate) fn may_be(&mut self, name: &Name, node: Option<NodeId>) {
        self.slots.entry(name.clone()).or_default().stored.insert(node);
        if let Some(before) = self.live(name)
            && Some(before) != node
            && self.names_of(before).len() == 1
        {
            self.nodes[before].doomed = true;
        }
    }

    /// What the running mount shows.
    pub(crate) fn shown(&mut self, name: &Name, node: Option<NodeId>) {
        self.slots.entry(name.clone()).or_default().live = node;
    }

    fn mourn(&mut self, node: NodeId) {
        if self.names_of(node).is_empty() {
            self.nodes[node].doomed = true;
            if self.kind(node) == Kind::Directory {
                self.slots.retain(|(dir, _), _| *dir != node);
            }
        }
    }

    pub(crate) fn change(&mut self, node: NodeId, change: impl FnOnce(&mut Version)) {
        let mut version = self.nodes[node].current().clone();
        change(&mut version);
        self.nodes[node].versions.push(version);
    }

    /// The current version and the names shown are promised.
    pub(crate) fn acknowledge(&mut self, node: NodeId) {
        let current = self.nodes[node].current().clone();
        self.nodes[node].versions = vec![current];
        let names = self.names_of(node);
        if names.is_empty() {
            return;
        }
        self.nodes[node].acknowledged = true;
        self.nodes[node].doomed = false;
        for name in names {
            self.slots.entry(name).or_default().stored = BTreeSet::from([Some(node)]);
        }
    }
}
