//! Two names swapped. Neither name is ever empty, and what stands behind each is never without a name:
//!
//! 1. A copy of A's record goes to a hidden name H in A's directory, saying that it came from A.
//! 2. A gets B's record, saying that it came from B and that H has what stood at A. Commit point: before
//!    it nothing has happened (H is garbage), after it whoever reads A finishes the exchange.
//! 3. B gets what H holds, saying that it came from H.
//! 4. H is buried.
//!
//! Crash after 1: gc buries H, since A has the same thing. After 2: both names lead to what was B, and H
//! to what was A, until A is read. After 3: only H is left over; the next reader of A buries it.

use super::Volume;
use super::entries::{Expect, Loaded, Place, Stored};
use super::keys::NAME_LIMIT;
use super::namespace::moved_from;
use super::record::{Content, Record};
use crate::volume::VolumeError;
use std::sync::Arc;

/// How often a step is based anew on what another node has just done.
const ATTEMPTS: usize = 16;

impl Volume {
    /// Swaps two names; returns what the first and the second have then. `Conflict` if one of them was
    /// changed since it was read: nothing has happened then.
    pub async fn exchange(&self, a: &Stored, b: &Stored) -> Result<(Stored, Stored), VolumeError> {
        let Place::Entry(a_dir, _) = &a.place else {
            return Err(VolumeError::Invalid("only names can be exchanged".to_owned()));
        };
        let Place::Entry(b_dir, _) = &b.place else {
            return Err(VolumeError::Invalid("only names can be exchanged".to_owned()));
        };
        if a.record.directory() == Some(*b_dir) || b.record.directory() == Some(*a_dir) {
            let why = "a directory cannot be moved into itself";
            return Err(VolumeError::Invalid(why.to_owned()));
        }
        let mut name = b"\0exchange-".to_vec();
        name.extend(data_encoding::HEXLOWER.encode(&a.salt).into_bytes());
        let mut copy = (*a.record).clone();
        copy.moved_from = moved_from(a);
        copy.exchanged = None;
        let hidden_place = Place::Entry(*a_dir, name.clone());
        let hidden = match self.put_record(&hidden_place, copy, Expect::Free).await {
            // An exchange of this very record was cut short after its first step: the copy serves again.
            Err(VolumeError::Exists(what)) => match self.load(&hidden_place, None).await? {
                Loaded::Live(hidden) if came_from(&hidden.record, &a.place) => hidden,
                _ => return Err(VolumeError::Conflict(what)),
            },
            other => other?,
        };

        let mut record = (*b.record).clone();
        record.moved_from = moved_from(b);
        record.exchanged = Some(name);
        let new_a = match self.replace(a, record).await {
            Ok(new_a) => new_a,
            Err(VolumeError::Conflict(what)) => {
                // Somebody changed A: what H holds is out of date, and A has what it is a copy of.
                if let Err(error) = self.bury(&hidden, true).await {
                    tracing::warn!("a copy of {} is left for gc: {error}", a.place);
                }
                return Err(VolumeError::Conflict(what));
            }
            Err(error) => return Err(error),
        };
        let (new_a, new_b) = self.finish(new_a).await?;
        let loaded = match new_b {
            Some(new_b) => Loaded::Live(new_b),
            // Another node was faster.
            None => self.load(&b.place, None).await?,
        };
        match loaded {
            Loaded::Live(new_b) if same_thing(&new_b.record, &a.record) => Ok((new_a, new_b)),
            // Moved on since.
            _ => Err(VolumeError::Conflict(b.place.to_string())),
        }
    }

    /// A record as it was read, after the exchange that it is a step of is finished.
    pub(super) async fn settled(&self, entry: Stored) -> Result<Stored, VolumeError> {
        if entry.record.exchanged.is_none() {
            return Ok(entry);
        }
        self.finish_exchange(entry).await
    }

    /// Goes on with an exchange from its second step: `a` says which name holds what stood there before.
    /// Returns what is at `a`'s place then. Any number of nodes may do this at the same time.
    pub async fn finish_exchange(&self, a: Stored) -> Result<Stored, VolumeError> {
        self.finish(a).await.map(|(a, _)| a)
    }

    /// The same; also returns what is at B's place now, if it was seen there.
    async fn finish(&self, mut a: Stored) -> Result<(Stored, Option<Stored>), VolumeError> {
        for _ in 0..ATTEMPTS {
            let (Place::Entry(dir, _), Some(name), Some(from)) =
                (&a.place, a.record.exchanged.clone(), a.record.moved_from.clone())
            else {
                return Ok((a, None));
            };
            let hidden = match self.load(&Place::Entry(*dir, name), None).await? {
                Loaded::Live(hidden) if came_from(&hidden.record, &a.place) => hidden,
                // Finished already. The mark goes with the next publish.
                _ => return Ok((without_mark(a), None)),
            };
            let b_place = Place::Entry(from.dir, from.name.clone());
            let mut copy = (*hidden.record).clone();
            copy.moved_from = moved_from(&hidden);
            let arrived = |record: &Record| {
                record.moved_from.as_ref().is_some_and(|from| from.salt == hidden.salt)
            };
            let step = match self.load(&b_place, None).await? {
                Loaded::Live(b) if arrived(&b.record) => Ok(b),
                Loaded::Tombstone(b) if arrived(&b.record) => Ok(b),
                Loaded::Live(b) if same_thing(&b.record, &a.record) => {
                    if b.salt != from.salt {
                        // Changed under its old name since: the change moves along.
                        let mut record = (*b.record).clone();
                        record.moved_from = moved_from(&b);
                        record.exchanged.clone_from(&a.record.exchanged);
                        a = match self.replace(&a, record).await {
                            Err(VolumeError::Conflict(_)) => match self.load(&a.place, None).await?
                            {
                                Loaded::Live(a) => a,
                                _ => return Err(VolumeError::NotFound(a.place.to_string())),
                            },
                            other => other?,
                        };
                        continue;
                    }
                    self.replace(&b, copy).await
                }
                Loaded::Live(_) => {
                    // Another thing came to B's name: what was at A stays beside it.
                    let beside = Place::Entry(from.dir, beside(&from.name, &hidden.salt));
                    tracing::warn!(
                        "{b_place} was replaced during an exchange: {beside} is the other file"
                    );
                    match self.put_record(&beside, copy, Expect::Free).await {
                        Err(VolumeError::Exists(_)) => Ok(hidden.clone()),
                        other => other,
                    }
                }
                _ => self.put_record(&b_place, copy, Expect::Free).await,
            };
            let there = match step {
                Ok(there) => Some(there).filter(|there| there.place == b_place),
                Err(VolumeError::Conflict(_) | VolumeError::Exists(_)) => continue,
                Err(error) => return Err(error),
            };
            match self.bury(&hidden, true).await {
                // Whoever changed it has finished too.
                Ok(()) | Err(VolumeError::Conflict(_)) => return Ok((without_mark(a), there)),
                Err(error) => return Err(error),
            }
        }
        Err(VolumeError::Conflict(a.place.to_string()))
    }
}

fn without_mark(mut a: Stored) -> Stored {
    Arc::make_mut(&mut a.record).exchanged = None;
    a
}

fn came_from(record: &Record, place: &Place) -> bool {
    let from = record.moved_from.as_ref().map(|from| Place::Entry(from.dir, from.name.clone()));
    from.as_ref() == Some(place)
}

/// Whether two records are of one file, directory or whatever it is.
pub(super) fn same_thing(a: &Record, b: &Record) -> bool {
    match (&a.content, &b.content) {
        (Content::File(a), Content::File(b)) => a.id == b.id,
        (Content::Directory(a), Content::Directory(b)) => a == b,
        (
            Content::Symlink(a, _) | Content::Special(a, _, _),
            Content::Symlink(b, _) | Content::Special(b, _, _),
        ) => a == b,
        (Content::Link(a), Content::Link(b)) => a == b,
        _ => false,
    }
}

/// A name beside `name`, the same whoever makes it.
fn beside(name: &[u8], salt: &[u8; 16]) -> Vec<u8> {
    let mut ending = b".exchanged-".to_vec();
    ending.extend(data_encoding::HEXLOWER.encode(&salt[..8]).into_bytes());
    let mut beside = name[..name.len().min(NAME_LIMIT - ending.len())].to_vec();
    beside.extend(ending);
    beside
}
