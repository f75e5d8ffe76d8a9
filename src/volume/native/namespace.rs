//! Names: how they appear, move and go. Only gc deletes segments; everything here replaces or buries a
//! name, so a crash, a lost reply or a race can leave garbage or two names for one file, never a name
//! without its data. The crash story of each operation stands at its steps.

use super::Volume;
use super::entries::{Expect, Loaded, Place, Stored};
use super::exchange::same_thing;
use super::listing::is_hidden;
use super::record::{Attributes, Content, MovedFrom, MovedTo, Record};
use super::rivals::{End, end_of};
use crate::units::{DirId, InodeId};
use crate::volume::VolumeError;
use std::sync::Arc;
use std::time::Duration;

/// How long a buried name protects what it names from being swept, at least.
pub const GRACE: Duration = Duration::from_secs(3600);
/// How often a change is based anew on what another node has just written.
pub(super) const ATTEMPTS: usize = 16;

/// A name and what is behind it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The entry.
    pub entry: Stored,
    /// The shared record, if the entry is one of several names.
    pub inode: Option<Stored>,
}

impl Found {
    /// Where attributes and content stand.
    pub fn home(&self) -> &Stored {
        self.inode.as_ref().unwrap_or(&self.entry)
    }
}

impl Volume {
    /// Looks a name up.
    pub async fn lookup(&self, dir: DirId, name: &[u8]) -> Result<Option<Found>, VolumeError> {
        self.lookup_place(&Place::Entry(dir, name.to_vec())).await
    }

    /// The same for a place.
    pub async fn lookup_place(&self, place: &Place) -> Result<Option<Found>, VolumeError> {
        match self.load(place, None).await? {
            Loaded::Live(entry) => self.resolve(entry).await.map(Some),
            Loaded::Tombstone(_) | Loaded::Absent | Loaded::Unchanged => Ok(None),
        }
    }

    /// Follows an entry to its shared record. If the entry is a step of an exchange that was cut short,
    /// the exchange is finished first.
    pub async fn resolve(&self, entry: Stored) -> Result<Found, VolumeError> {
        let entry = self.settled(entry).await?;
        let Content::Link(inode) = entry.record.content else {
            return Ok(Found { entry, inode: None });
        };
        match self.load(&Place::Inode(inode), None).await? {
            Loaded::Live(stored) => Ok(Found { entry, inode: Some(stored) }),
            _ => Err(VolumeError::corrupt(
                &entry.place,
                "the record that its name refers to is gone",
            )),
        }
    }

    /// Creates a name. `Exists` if it is taken, by whichever node.
    ///
    /// One step: the PUT with If-None-Match (or If-Match on a tombstone). Before it there is nothing.
    pub async fn create(
        &self,
        dir: DirId,
        name: &[u8],
        record: Record,
    ) -> Result<Stored, VolumeError> {
        self.put_record(&Place::Entry(dir, name.to_vec()), record, Expect::Free).await
    }

    /// Replaces a record that nobody has changed since `base`.
    pub async fn replace(&self, base: &Stored, record: Record) -> Result<Stored, VolumeError> {
        self.put_record(&base.place, record, Expect::Exactly(base.etag.clone())).await
    }

    /// Buries a name: the record stays as it was, marked and dated, and keeps what it refers to.
    ///
    /// Where the store's DELETE is conditional, a name that was moved away is deleted instead if
    /// everything that the record refers to is young: the same safety without debris. What was removed
    /// is always buried, so that it can be given back.
    pub async fn bury(&self, entry: &Stored, moved_away: bool) -> Result<(), VolumeError> {
        self.bury_as(entry, moved_away, None).await
    }

    /// Buries the old name of something that has a new one. The tombstone says which: where several nodes
    /// move one thing, that decides whose move it was.
    async fn bury_moved(&self, entry: &Stored, to: &Place) -> Result<(), VolumeError> {
        let moved_to = match to {
            Place::Entry(dir, name) => Some(MovedTo { dir: *dir, name: name.clone() }),
            Place::Inode(_) => None,
        };
        self.bury_as(entry, true, moved_to).await
    }

    pub(super) async fn bury_as(
        &self,
        entry: &Stored,
        moved_away: bool,
        moved_to: Option<MovedTo>,
    ) -> Result<(), VolumeError> {
        // The steps of an exchange leave their tombstones as the proof that it had come that far.
        let from = entry.record.moved_from.as_ref();
        let exchanged = entry.place.is_hidden() || from.is_some_and(|from| is_hidden(&from.name));
        let may_delete = moved_away && !exchanged && self.capabilities().delete_if_match;
        if may_delete && self.is_young(entry) {
            self.session().begin_change(self).await?;
            let key = entry.place.key(self);
            match self.store().delete(&key, Some(&entry.etag)).await {
                Ok(()) => return Ok(()),
                Err(error) if error.effect_unknown => match self.load(&entry.place, None).await? {
                    Loaded::Absent => return Ok(()),
                    Loaded::Live(current) if current.etag == entry.etag => {}
                    _ => return Err(VolumeError::Conflict(entry.place.to_string())),
                },
                Err(error) => {
                    if error.kind == crate::store::StoreErrorKind::PreconditionFailed {
                        return Err(VolumeError::Conflict(entry.place.to_string()));
                    }
                    return Err(error.into());
                }
            }
        }
        let mut record = (*self.whole(entry).await?.record).clone();
        record.buried_at = Some(self.world().clock.now());
        record.moved_away = moved_away;
        record.moved_to = moved_to;
        self.replace(entry, record).await.map(drop)
    }

    /// Takes a name away; a file with several names counts one less, and its record as it is then is
    /// returned.
    ///
    /// Crash or failure between the two steps: the count is one too high until gc counts again, nothing
    /// is lost.
    pub async fn unlink(&self, found: &Found) -> Result<Option<Stored>, VolumeError> {
        self.bury(&found.entry, false).await?;
        let Some(inode) = &found.inode else { return Ok(None) };
        match self.count_links(inode, -1).await {
            Ok(counted) => Ok(Some(counted)),
            Err(error) => {
                // The name is gone, which is what was asked for.
                tracing::warn!(file = %inode.place, "names not counted: {error}");
                Ok(found.inode.clone())
            }
        }
    }

    /// Moves an entry to another name, replacing what `target` says is there.
    ///
    /// 1. PUT the new entry, which says where it came from. Crash here: both names stand, on the same
    ///    segments, both readable; whoever meets both finishes the move.
    /// 2. Bury the old entry, only if it is still the record that was copied; its tombstone says where it
    ///    went. This decides between nodes that move one thing at the same time: whoever comes second
    ///    takes the new name back (`Conflict`), so that nothing has two names. What has replaced a file by
    ///    then is not taken back, which would bring nothing of that file back; nor is it known to be a
    ///    second name where the old one is gone without a tombstone. It becomes a file of its own then.
    pub async fn rename(
        &self,
        from: &Stored,
        dir: DirId,
        name: &[u8],
        target: Expect,
    ) -> Result<Stored, VolumeError> {
        let replaces = !matches!(target, Expect::Free);
        self.rename_over(from, dir, name, target, replaces).await
    }

    /// The same; `replaces`: what stands at the new name is another thing.
    async fn rename_over(
        &self,
        from: &Stored,
        dir: DirId,
        name: &[u8],
        mut target: Expect,
        replaces: bool,
    ) -> Result<Stored, VolumeError> {
        let place = Place::Entry(dir, name.to_vec());
        let mut source = self.whole(from).await?;
        if source.record.directory() == Some(dir) {
            let why = "a directory cannot be moved into itself";
            return Err(VolumeError::Invalid(why.to_owned()));
        }
        for _ in 0..ATTEMPTS {
            let mut record = (*source.record).clone();
            record.moved_from = moved_from(&source);
            record.exchanged = None;
            let moved = self.put_record(&place, record, target).await?;
            match self.bury_moved(&source, &place).await {
                Ok(()) => return Ok(arrived(moved)),
                Err(VolumeError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
            match self.load(&source.place, None).await? {
                // Another node changed the thing under its old name since: what it wrote moves too.
                Loaded::Live(current) if self.is_still(&source, &current).await? => {
                    source = current;
                }
                Loaded::Tombstone(tombstone) => match end_of(&source, &tombstone, &place) {
                    // Removed, which comes before the move: this is its only name.
                    End::Removed => return Ok(moved),
                    End::Elsewhere if replaces && source.record.directory().is_none() => {
                        return self.become_its_own(moved).await;
                    }
                    End::Elsewhere => return self.take_back(moved, &tombstone).await,
                    End::Unknown => return self.become_its_own(moved).await,
                },
                // Removed or moved, and perhaps another thing came to the name: this one has the new name,
                // which may be its only one.
                _ => return self.become_its_own(moved).await,
            }
            target = Expect::Exactly(moved.etag);
        }
        Err(VolumeError::Conflict(from.place.to_string()))
    }

    /// Finishes a move of which a crash or a lost reply left both names: `to` says that it came from
    /// `from`. Whatever changed under the old name since moves along. Returns what the new name has then.
    ///
    /// Repeats the second step of [`Self::rename`], or all of it if the old entry was changed since.
    pub async fn finish_move(&self, from: &Stored, to: &Stored) -> Result<Stored, VolumeError> {
        let (Place::Entry(dir, name), Some(moved)) = (&to.place, &to.record.moved_from) else {
            return Err(VolumeError::Invalid("only names are moved".to_owned()));
        };
        if to.record.exchanged.is_some() {
            return self.finish_exchange(to.clone()).await;
        }
        if moved.salt != from.salt {
            // What is replaced is its own former state.
            let target = Expect::Exactly(to.etag.clone());
            return self.rename_over(from, *dir, name, target, false).await;
        }
        match self.bury_moved(from, &to.place).await {
            Ok(()) => Ok(arrived(to.clone())),
            // Changed, moved or buried since it was read: whoever did that knows better.
            Err(VolumeError::Conflict(_)) => match self.load(&to.place, None).await? {
                Loaded::Live(to) => Ok(to),
                _ => Err(VolumeError::NotFound(to.place.to_string())),
            },
            Err(error) => Err(error),
        }
    }

    /// Makes one name of two that lead to the same directory: the other is buried. Returns what `kept` has
    /// then. `Conflict` if either was changed since it was read: nothing is lost then.
    ///
    /// 1. PUT the entry that stays, which says that it came from the other one. Crash here: both stand, as
    ///    after the first step of [`Self::rename`], and whoever meets both finishes it the same way.
    /// 2. Bury the other entry, only if it is still the same record.
    pub async fn unite(&self, other: &Stored, kept: &Stored) -> Result<Stored, VolumeError> {
        let dir = kept.record.directory();
        if dir.is_none() || dir != other.record.directory() || other.place == kept.place {
            return Err(VolumeError::Invalid("only names of one directory are united".to_owned()));
        }
        let mut record = (*kept.record).clone();
        if other.record.attributes.ctime > record.attributes.ctime {
            record.attributes = other.record.attributes.clone();
        }
        record.moved_from = moved_from(other);
        record.exchanged = None;
        let kept = self.replace(kept, record).await?;
        self.bury_moved(other, &kept.place).await?;
        Ok(arrived(kept))
    }

    /// Whether what stands at a place is the thing that was read there, perhaps changed: its record may
    /// have been moved to `i/` since.
    async fn is_still(&self, source: &Stored, current: &Stored) -> Result<bool, VolumeError> {
        if same_thing(&source.record, &current.record) {
            return Ok(true);
        }
        let Content::Link(inode) = current.record.content else { return Ok(false) };
        match self.load(&Place::Inode(inode), None).await? {
            Loaded::Live(inode) => Ok(same_thing(&source.record, &inode.record)),
            _ => Ok(false),
        }
    }

    /// Gives a buried name back to what it named, as long as its tombstone is there.
    ///
    /// One step: the tombstone is replaced, by CAS, by the record without its mark. For one of several
    /// names of a file the count follows; a crash in between leaves it one too low until gc counts.
    pub async fn undelete(&self, dir: DirId, name: &[u8]) -> Result<Stored, VolumeError> {
        let place = Place::Entry(dir, name.to_vec());
        let shown = || name.escape_ascii().to_string();
        let tombstone = match self.load(&place, None).await? {
            Loaded::Tombstone(tombstone) => tombstone,
            Loaded::Live(_) => return Err(VolumeError::Exists(shown())),
            Loaded::Absent | Loaded::Unchanged => return Err(VolumeError::NotFound(shown())),
        };
        if tombstone.record.moved_away {
            let why = "was renamed, not removed: it is there under its new name";
            return Err(VolumeError::Invalid(format!("{}: {why}", shown())));
        }
        let mut record = (*tombstone.record).clone();
        record.buried_at = None;
        let restored = self.replace(&tombstone, record).await?;
        if let Content::Link(inode) = restored.record.content
            && let Loaded::Live(inode) = self.load(&Place::Inode(inode), None).await?
        {
            self.count_links(&inode, 1).await?;
        }
        Ok(restored)
    }

    /// Gives a file one more name; returns the file as the new name finds it.
    ///
    /// 1. The record goes to `i/` under a fresh id (or, if it is there, counts one more). Crash: garbage,
    ///    or a count too high until gc counts again.
    /// 2. The old entry is replaced by a reference, by CAS: commit point of the move to `i/`.
    /// 3. The new entry is created.
    pub async fn link(
        &self,
        found: &Found,
        dir: DirId,
        name: &[u8],
    ) -> Result<(Found, Found), VolumeError> {
        if let Some(inode) = &found.inode {
            let new = self.link_record(inode, dir, name).await?;
            return Ok((Found { entry: found.entry.clone(), inode: new.inode.clone() }, new));
        }
        let id = InodeId(self.world().entropy.bytes());
        let mut record = (*self.whole(&found.entry).await?.record).clone();
        record.links = 2;
        record.attributes.ctime = self.world().clock.now();
        record.moved_from = None;
        let inode = self.put_record(&Place::Inode(id), record, Expect::Free).await?;
        let reference = Record::new(Attributes::default(), Content::Link(id));
        let old_entry = self.replace(&found.entry, reference).await?;
        let new = self.refer(inode, id, dir, name).await?;
        Ok((Found { entry: old_entry, inode: new.inode.clone() }, new))
    }

    /// The same for a file whose record is known, whichever names it has; returns the new one.
    pub async fn link_record(
        &self,
        home: &Stored,
        dir: DirId,
        name: &[u8],
    ) -> Result<Found, VolumeError> {
        let Place::Inode(id) = home.place else {
            let only = Found { entry: home.clone(), inode: None };
            return Ok(Box::pin(self.link(&only, dir, name)).await?.1);
        };
        let inode = self.count_links(home, 1).await?;
        self.refer(inode, id, dir, name).await
    }

    /// Creates an entry that refers to a shared record which counts it already.
    async fn refer(
        &self,
        inode: Stored,
        id: InodeId,
        dir: DirId,
        name: &[u8],
    ) -> Result<Found, VolumeError> {
        let reference = Record::new(Attributes::default(), Content::Link(id));
        match self.create(dir, name, reference).await {
            Ok(entry) => Ok(Found { entry, inode: Some(inode) }),
            Err(error @ (VolumeError::Exists(_) | VolumeError::TooBig(_))) => {
                self.count_links(&inode, -1).await?;
                Err(error)
            }
            // The name may be there: a count too high harms nobody, and gc counts again.
            Err(error) => Err(error),
        }
    }

    /// A tombstone that is about to be replaced by a living name must not be one that gc is deleting.
    ///
    /// gc deletes tombstones older than two grace periods. One that is older than one is dated anew
    /// first, so that a gc that looks from now on leaves it alone. If gc may have looked already, and
    /// DELETE is unconditional here, deletions under way are waited for: one of them may still hit.
    pub(super) async fn refreshed_tombstone(
        &self,
        tombstone: Stored,
    ) -> Result<Stored, VolumeError> {
        let age = tombstone.seen.0.saturating_sub(tombstone.modified.0);
        // Where the store did not tell its time the tombstone may be of any age.
        let age = match tombstone.seen.0 {
            0 => Duration::MAX,
            _ => Duration::from_nanos(u64::try_from(age).unwrap_or(0)),
        };
        if age < GRACE {
            return Ok(tombstone);
        }
        let mut record = (*tombstone.record).clone();
        record.buried_at = Some(self.world().clock.now());
        let fresh = Box::pin(self.replace(&tombstone, record)).await?;
        // Half a grace period for the store's clock and the time that this took.
        if age >= GRACE + GRACE / 2 && !self.capabilities().delete_if_match {
            self.await_deletions().await?;
        }
        Ok(fresh)
    }

    /// Counts names of a file that has several, based anew on what another node has just written.
    pub async fn count_links(&self, inode: &Stored, by: i32) -> Result<Stored, VolumeError> {
        let mut base = inode.clone();
        for _ in 0..ATTEMPTS {
            let counted = match self.whole(&base).await {
                Ok(whole) => {
                    let mut record = (*whole.record).clone();
                    record.links = record.links.saturating_add_signed(by);
                    record.attributes.ctime = self.world().clock.now();
                    self.replace(&whole, record).await
                }
                Err(error) => Err(error),
            };
            match counted {
                Err(VolumeError::Conflict(_)) => match self.load(&base.place, None).await? {
                    Loaded::Live(current) => base = current,
                    _ => return Err(VolumeError::NotFound(base.place.to_string())),
                },
                other => return other,
            }
        }
        Err(VolumeError::Conflict(inode.place.to_string()))
    }

    fn is_young(&self, entry: &Stored) -> bool {
        let Content::File(file) = &entry.record.content else { return false };
        // This session began less than half a grace period ago only if it wrote the segments itself;
        // inline data needs no segments at all.
        file.extents.is_empty() && file.pages.is_empty()
            || file.extents.iter().all(|extent| match &extent.source {
                super::record::Source::Inline(_) => true,
                super::record::Source::Segments(run) => {
                    run.first.session == self.session().id() && run.owner.is_none()
                }
            }) && file.pages.is_empty()
                && self.age() < GRACE / 2
    }
}

/// A moved record whose old name is buried. Nothing is left to finish: the next publish need not say where
/// it came from.
fn arrived(mut moved: Stored) -> Stored {
    Arc::make_mut(&mut moved.record).moved_from = None;
    moved
}

/// What a record that is copied from `source` says of it.
pub(super) fn moved_from(source: &Stored) -> Option<MovedFrom> {
    match &source.place {
        Place::Entry(dir, name) => {
            Some(MovedFrom { dir: *dir, name: name.clone(), salt: source.salt })
        }
        Place::Inode(_) => None,
    }
}
