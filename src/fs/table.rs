//! Inodes and names as this mount knows them.
//!
//! An inode is found by what the store calls it (its file or directory id), so a file keeps its number
//! through renames, by whichever node, and across mounts. Names map to inodes; a name may also be known
//! to be absent.

use super::absent::Listings;
use super::inode::{Body, Identity, Inode, ROOT, State};
use super::recorder::Recorder;
use super::types::Ino;
use crate::units::FileId;
use crate::volume::native::Stored;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

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
    /// What writes down what a process that takes over needs.
    pub(super) recorder: Option<Arc<Recorder>>,
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
        self.add_as(ino, identity, state)
    }

    /// Adds an inode under a number that is free. One that is stored under another id than its own is found
    /// by that.
    pub(super) fn add_as(&mut self, ino: Ino, identity: Identity, state: State) -> Arc<Inode> {
        let found_by = state.kept_as.map_or(identity, Identity::File);
        let inode = Arc::new(Inode::new(ino, identity, state, self.recorder.clone()));
        // Names may be known since before the directory was forgotten.
        let below = self.names.get(&ino).into_iter().flatten();
        let below = below.filter(|(_, dentry)| leads_to_directory(dentry)).count();
        inode.subdirectories.store(u32::try_from(below).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.by_ino.insert(ino, inode.clone());
        self.by_identity.insert(found_by, inode.clone());
        inode
    }

    /// An inode as the table has it, to be used under the same lock. It may have been dropped since it was
    /// found, when the kernel gave its last look-up back meanwhile: then it is taken in again, unless
    /// another one has taken its place.
    pub(super) fn adopt(&mut self, inode: &Arc<Inode>) -> Arc<Inode> {
        if self.by_ino.get(&inode.ino).is_some_and(|known| Arc::ptr_eq(known, inode)) {
            return inode.clone();
        }
        let identity = inode.state.lock().identity(inode);
        match self.by_identity.get(&identity) {
            Some(known) => known.clone(),
            // Its number belongs to another one now: the kernel will look the name up again.
            None if self.by_ino.contains_key(&inode.ino) => inode.clone(),
            None => {
                self.by_ino.insert(inode.ino, inode.clone());
                self.by_identity.insert(identity, inode.clone());
                inode.clone()
            }
        }
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

    pub(super) fn set_name(&mut self, parent: Ino, name: &[u8], mut dentry: Dentry) {
        dentry.child = dentry.child.map(|child| self.adopt(&child));
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
            let mut state = inode.state.lock();
            let busy = match &state.content {
                Body::File(file) => file.uploads > 0 || file.dirty.dirty_bytes() > 0,
                _ => false,
            };
            let needed = state.lookups > 0
                || state.handles > 0
                || state.pins > 0
                || state.listed > 0
                || ((state.is_changed() || state.times_pending) && !state.unlinked)
                || busy;
            if needed || ino == ROOT {
                return;
            }
            std::mem::take(&mut state.names)
        };
        for (parent, name) in names {
            self.take_name(parent, &name);
        }
        inode.state.forget();
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
