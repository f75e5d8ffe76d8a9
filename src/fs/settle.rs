//! What two nodes did to one file, or one node before it crashed, brought together: a publish that
//! another change was faster than, and a move of which both names stand.
//!
//! Nothing is dropped here: what cannot be merged is kept under a name of its own, and the caller is told.

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::{Identity, Inode};
use super::table::Dentry;
use super::types::Ino;
use crate::units::{DirId, FileId};
use crate::volume::VolumeError;
use crate::volume::native::entries::Loaded;
use crate::volume::native::namespace::Found;
use crate::volume::native::record::{Attributes, Content, MovedFrom, Record};
use crate::volume::native::{Place, Stored};
use std::sync::Arc;

/// How often a change is based anew on what another node has just done.
const ATTEMPTS: usize = 8;

impl FileSystem {
    /// The record at `place` is not the one that `record` was based on (`home`). If the content is still
    /// the same, or ours is not changed, the two are merged; else ours is kept beside theirs, under a
    /// name that says so. `modified` is the count of changes that `record` covers.
    ///
    /// For a caller who holds the inode's turn.
    pub(super) async fn settle_conflict(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        home: Option<&Stored>,
        mut place: Place,
        record: Record,
        modified: u64,
    ) -> Result<(), FsError> {
        for _ in 0..ATTEMPTS {
            let entry = match self.volume.load(&place, None).await? {
                Loaded::Live(entry) => entry,
                Loaded::Tombstone(buried) => match self.moved_to(inode, &buried) {
                    // It goes on under its new name.
                    Some(new_place) => {
                        self.forget_place(inode, &place);
                        self.doubt_places([&new_place]);
                        place = new_place;
                        continue;
                    }
                    None => break,
                },
                Loaded::Absent | Loaded::Unchanged => break,
            };
            if let Some(other) = self.exchanged_with(&place, &entry).await? {
                let ours = inode.state.lock().identity(inode);
                if Identity::of(&entry.record.content) != Some(ours) {
                    place = other;
                    continue;
                }
            }
            let found = self.volume.resolve(entry).await?;
            let current = found.home();
            if Identity::of(&current.record.content) != Some(inode.state.lock().identity(inode)) {
                // Another thing is there; ours may have been seen elsewhere since.
                if let Some(other) = self.other_place(inode, &place) {
                    place = other;
                    continue;
                }
                if home.is_none() && is_empty(&record) && is_file(&current.record) {
                    self.give_way(inode, modified);
                    return Ok(());
                }
                break;
            }
            let Some(merged) = merge(home, &record, &current.record) else { break };
            let theirs = merged.content == current.record.content;
            let stored = match self.volume.replace(current, merged).await {
                Err(VolumeError::Conflict(_)) => continue,
                other => other?,
            };
            self.note_link(inode, &found);
            let mut state = inode.state.lock();
            if theirs && record.content != stored.record.content {
                if state.modified != modified {
                    // Changed again meanwhile, on the former base: the next publish sees to that.
                    return Ok(());
                }
                state.refresh(stored.clone());
            }
            // What was changed here since the record was made stays a change.
            state.attributes =
                merge_attributes(&record.attributes, &state.attributes, &stored.record.attributes);
            state.links = stored.record.links;
            self.published(&mut state, stored, modified);
            return Ok(());
        }
        self.keep_beside(inode, &place, record, modified).await?;
        Err(FsError::stale(format!("{place}: another node changed it meanwhile")))
    }

    /// Where a tombstone says that an inode went, if it is that inode's.
    pub(super) fn moved_to(&self, inode: &Inode, tombstone: &Stored) -> Option<Place> {
        let ours = inode.state.lock().identity(inode);
        let to = tombstone.record.moved_to.as_ref()?;
        (Identity::of(&tombstone.record.content) == Some(ours))
            .then(|| Place::Entry(to.dir, to.name.clone()))
    }

    /// Another node has made a file of a name where this one has made an empty one, which is nothing that
    /// could be lost: theirs is what both have opened. Who writes to ours all the same has a conflict.
    fn give_way(&self, inode: &Inode, modified: u64) {
        let names = {
            let mut state = inode.state.lock();
            state.published = state.published.max(modified);
            state.checked_at = None;
            state.lost_a_name = true;
            state.names.clone()
        };
        let mut table = self.table.lock();
        for (parent, name) in names {
            table.forget_name(parent, &name);
        }
    }

    /// Stores a file that lost against another node's under a name and an id of its own. Whoever asks
    /// for its former names gets the other node's version; open handles keep this one.
    async fn keep_beside(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        place: &Place,
        mut record: Record,
        modified: u64,
    ) -> Result<(), FsError> {
        let names = inode.state.lock().names.clone();
        if let Content::File(content) = record.content {
            let (parent, dir, name) = self.conflict_directory(place, &names);
            let kept_as = inode.state.lock().kept_as;
            let id = kept_as.unwrap_or_else(|| FileId(self.volume.world().entropy.bytes()));
            record.content = Content::File(content.shared_with(id));
            record.links = 1;
            let conflict = self.conflict_name(&name);
            let stored = self.volume.create(dir, &conflict, record).await?;
            tracing::error!(
                file = %name.escape_ascii(),
                kept_as = %conflict.escape_ascii(),
                "another node changed the file meanwhile: its version stays, this one is kept beside it"
            );
            let mut table = self.table.lock();
            for (parent, name) in &names {
                table.forget_name(*parent, name);
            }
            table.detach(inode, id);
            {
                let mut state = inode.state.lock();
                state.links = 1;
                state.lost_a_name = true;
                self.published(&mut state, stored, modified);
            }
            if let Some(parent) = parent {
                let checked_at = self.boot_time();
                let dentry = Dentry { child: Some(inode.clone()), link: None, checked_at };
                table.set_name(parent, &conflict, dentry);
            }
            return Ok(());
        }
        // A directory's or symlink's attributes: theirs stay.
        let mut state = inode.state.lock();
        state.published = state.published.max(modified);
        state.checked_at = None;
        drop(state);
        let mut table = self.table.lock();
        for (parent, name) in names {
            table.forget_name(parent, &name);
        }
        Ok(())
    }

    /// Where the other half of an exchange went that `entry` came to `place` by. If this mount began the
    /// exchange and was told that it failed, both names are doubted.
    async fn exchanged_with(
        &self,
        place: &Place,
        entry: &Stored,
    ) -> Result<Option<Place>, FsError> {
        let from = |record: &Record| {
            record.moved_from.as_ref().map(|from| Place::Entry(from.dir, from.name.clone()))
        };
        let Some(came_from) = from(&entry.record) else { return Ok(None) };
        let other = if entry.record.exchanged.is_some() {
            self.volume.finish_exchange(entry.clone()).await?;
            Some(came_from)
        } else if came_from.is_hidden() {
            match self.volume.load(&came_from, None).await? {
                Loaded::Live(hidden) | Loaded::Tombstone(hidden) => from(&hidden.record),
                Loaded::Absent | Loaded::Unchanged => None,
            }
        } else {
            None
        };
        if let Some(other) = &other {
            self.doubt_places([place, other]);
        }
        Ok(other)
    }

    /// The store is asked before what is known of these names is believed again.
    pub(super) fn doubt_places<'a>(&self, places: impl IntoIterator<Item = &'a Place>) {
        let mut table = self.table.lock();
        for place in places {
            if let Place::Entry(dir, name) = place
                && let Some(parent) = table.by_identity(Identity::Directory(*dir))
            {
                table.doubt_name(parent.ino, name);
            }
        }
    }

    /// Where else this mount has seen an inode.
    pub(super) fn other_place(&self, inode: &Inode, place: &Place) -> Option<Place> {
        let names = inode.state.lock().names.clone();
        let table = self.table.lock();
        let mut places = names.into_iter().filter_map(|(parent, name)| {
            Some(Place::Entry(table.get(parent)?.directory().ok()?, name))
        });
        places.find(|other| other != place)
    }

    /// Where a conflict copy goes: to the directory of its name, or of one of its names.
    fn conflict_directory(
        &self,
        place: &Place,
        names: &std::collections::HashSet<(Ino, Vec<u8>)>,
    ) -> (Option<Ino>, DirId, Vec<u8>) {
        let table = self.table.lock();
        let mut known = names.iter().filter_map(|(parent, name)| {
            let dir = table.get(*parent)?.directory().ok()?;
            Some((Some(*parent), dir, name.clone()))
        });
        match place {
            Place::Entry(dir, name) => known.find(|(_, known, _)| known == dir).map_or_else(
                || (None, *dir, name.clone()),
                |(ino, dir, _)| (ino, dir, name.clone()),
            ),
            Place::Inode(_) => known
                .next()
                .unwrap_or_else(|| (None, self.volume.root_directory(), b"file".to_vec())),
        }
    }

    /// An inode's record turned out to lie at `i/`: its name's entry is one of several.
    pub(super) fn note_link(&self, inode: &Arc<Inode>, found: &Found) {
        if found.inode.is_none() {
            return;
        }
        let names = inode.state.lock().names.clone();
        let mut table = self.table.lock();
        for (parent, name) in names {
            let here = table.get(parent).and_then(|parent| parent.directory().ok());
            let place = here.map(|dir| Place::Entry(dir, name.clone()));
            if place.as_ref() == Some(&found.entry.place)
                && let Some(mut dentry) = table.name(parent, &name)
            {
                dentry.link = Some(found.entry.clone());
                table.set_name(parent, &name, dentry);
            }
        }
    }

    /// A name was looked up. If this mount knows another name of the same thing and one of the two was
    /// moved to the other, a crash or a lost reply left the move half done: it is finished. Returns what
    /// the name leads to then; `None` if it was the old one.
    pub(super) async fn meet(&self, found: Found) -> Result<Option<Found>, FsError> {
        let Some((inode, other)) = self.other_half(&found) else { return Ok(Some(found)) };
        let place = found.entry.place.clone();
        let _turn = inode.turn.lock().await;
        let (here, there) =
            (self.volume.load(&place, None).await?, self.volume.load(&other, None).await?);
        let (Loaded::Live(here), Loaded::Live(there)) = (here, there) else {
            // One of the two is gone by now: it is asked for when it is needed.
            self.forget_place(&inode, &other);
            return Ok(self.volume.lookup_place(&place).await?);
        };
        if !same_thing(&here, &there) {
            return Ok(Some(found));
        }
        // There and back: this mount knows which record it moved last.
        let base = inode.state.lock().home.clone();
        let from_base = |to: &Stored, from: &Stored| {
            let mut base = base.iter().filter(|base| base.place == from.place);
            base.any(|base| names(to, base) == Some(Moved::Exactly))
        };
        let (from, to) = match (names(&here, &there), names(&there, &here)) {
            (Some(a), b) if Some(a) > b => (there, here),
            (a, Some(b)) if Some(b) > a => (here, there),
            _ if from_base(&here, &there) => (there, here),
            _ if from_base(&there, &here) => (here, there),
            // Moved neither way, or there and back: which one is the old name cannot be told.
            _ => return Ok(Some(found)),
        };
        // An earlier change of ours that seemed to fail: what is changed here is based on it.
        let ours = self.volume.is_unsettled(&from);
        let finished = match self.volume.finish_move(&from, &to).await {
            Ok(finished) => finished,
            Err(error) => {
                tracing::warn!(from = %from.place, to = %to.place, "move not finished: {error}");
                return Ok(Some(found));
            }
        };
        tracing::info!(from = %from.place, to = %to.place, "a move that was cut short is finished");
        {
            let mut state = inode.state.lock();
            // Changes not stored yet go on from the same content under the new name.
            let based_on = state.home.as_ref().map(|home| home.etag.clone());
            let unchanged =
                to.record.moved_from.as_ref().map(|moved| moved.salt) == Some(from.salt);
            if Identity::of(&finished.record.content) != Some(state.identity(&inode)) {
                // Another node has moved it, too, and this is a file of its own by now.
                state.lost_a_name = true;
            } else if based_on.as_ref() == Some(&from.etag)
                || ours && state.place == from.place
                || based_on.as_ref() == Some(&to.etag) && unchanged
            {
                state.place = finished.place.clone();
                state.home = Some(finished.clone());
            }
        }
        self.forget_place(&inode, &from.place);
        if from.place == place {
            return Ok(None);
        }
        Ok(Some(self.volume.resolve(finished).await?))
    }

    /// Another name that this mount knows of the same thing, if one of the two was moved to the other.
    fn other_half(&self, found: &Found) -> Option<(Arc<Inode>, Place)> {
        let identity = Identity::of(&found.home().record.content)?;
        let table = self.table.lock();
        let inode = table.by_identity(identity)?;
        let (names, home) = {
            let state = inode.state.lock();
            (state.names.clone(), state.home.clone())
        };
        for (parent, name) in names {
            let Some(Ok(dir)) = table.get(parent).map(|parent| parent.directory()) else {
                continue;
            };
            let place = Place::Entry(dir, name.clone());
            if place == found.entry.place {
                continue;
            }
            let entry = table.name(parent, &name).and_then(|dentry| dentry.link).or(home.clone());
            let moved_here = moved_between(&found.entry, &place);
            if moved_here || entry.is_some_and(|entry| moved_between(&entry, &found.entry.place)) {
                return Some((inode, place));
            }
        }
        None
    }

    pub(super) fn forget_place(&self, inode: &Inode, place: &Place) {
        let names = inode.state.lock().names.clone();
        let mut table = self.table.lock();
        for (parent, name) in names {
            let dir = table.get(parent).and_then(|parent| parent.directory().ok());
            if dir.map(|dir| Place::Entry(dir, name.clone())).as_ref() == Some(place) {
                table.forget_name(parent, &name);
            }
        }
    }
}

fn is_empty(record: &Record) -> bool {
    let Content::File(file) = &record.content else { return false };
    file.size == 0 && record.attributes.xattrs.is_empty()
}

fn is_file(record: &Record) -> bool {
    matches!(record.content, Content::File(_))
}

/// Whether an entry says that it came from `place`.
fn moved_between(entry: &Stored, place: &Place) -> bool {
    match (&entry.record.moved_from, place) {
        (Some(MovedFrom { dir, name, salt: _ }), Place::Entry(from, from_name)) => {
            dir == from && name == from_name
        }
        _ => false,
    }
}

/// How sure it is that `to` is what `from` was moved to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moved {
    /// From its place; it was changed there since.
    FromThere,
    /// The very record that is there.
    Exactly,
}

/// Whether `to` is what `from` was moved to. A file has one name unless its names are references: then
/// only the very entry that was moved is meant, others may have come to its place since.
fn names(to: &Stored, from: &Stored) -> Option<Moved> {
    let moved = to.record.moved_from.as_ref().filter(|_| moved_between(to, &from.place))?;
    match moved.salt == from.salt {
        true => Some(Moved::Exactly),
        false if matches!(from.record.content, Content::Link(_)) => None,
        false => Some(Moved::FromThere),
    }
}

fn same_thing(a: &Stored, b: &Stored) -> bool {
    match (&a.record.content, &b.record.content) {
        (Content::Link(a), Content::Link(b)) => a == b,
        (Content::Link(_), _) | (_, Content::Link(_)) => false,
        (a, b) => Identity::of(a) == Identity::of(b),
    }
}

/// One record of two that were made of the same base; `None` if both changed the content.
fn merge(base: Option<&Stored>, ours: &Record, theirs: &Record) -> Option<Record> {
    let mut merged = theirs.clone();
    let Some(base) = base else {
        // The first publish of a file whose id we chose: what is there is our own, its reply was lost.
        merged.attributes = ours.attributes.clone();
        merged.content = ours.content.clone();
        return Some(merged);
    };
    if theirs.content == base.record.content {
        merged.content = ours.content.clone();
    } else if ours.content != base.record.content {
        return None;
    }
    merged.attributes =
        merge_attributes(&base.record.attributes, &ours.attributes, &theirs.attributes);
    Some(merged)
}

/// Ours where we changed them, theirs elsewhere.
pub(super) fn merge_attributes(
    base: &Attributes,
    ours: &Attributes,
    theirs: &Attributes,
) -> Attributes {
    fn pick<T: PartialEq + Clone>(base: &T, ours: &T, theirs: &T) -> T {
        if ours == base { theirs.clone() } else { ours.clone() }
    }
    let names = ours.xattrs.keys().chain(theirs.xattrs.keys());
    let xattrs = names
        .filter_map(|name| {
            let [base, ours, theirs] =
                [base, ours, theirs].map(|attributes| attributes.xattrs.get(name));
            Some((name.clone(), pick(&base, &ours, &theirs)?.clone()))
        })
        .collect();
    let Attributes { mode, uid, gid, atime, mtime, ctime, btime, xattrs: _ } = base;
    Attributes {
        mode: pick(mode, &ours.mode, &theirs.mode),
        uid: pick(uid, &ours.uid, &theirs.uid),
        gid: pick(gid, &ours.gid, &theirs.gid),
        atime: pick(atime, &ours.atime, &theirs.atime),
        mtime: pick(mtime, &ours.mtime, &theirs.mtime),
        ctime: pick(ctime, &ours.ctime, &theirs.ctime).max(theirs.ctime),
        btime: pick(btime, &ours.btime, &theirs.btime),
        xattrs,
    }
}
