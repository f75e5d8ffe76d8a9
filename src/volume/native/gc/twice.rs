//! Directories with several names: two nodes moved one at the same time and each had made its new name
//! before the old one was buried; or a move was cut short, and what it left half done was moved on. All
//! names lead to the same directory, so nothing is lost by burying all but one.
//!
//! **When**: several marks have seen the same records at the same names for a grace period, so that
//! nobody is at work on them, and they still stand there.
//!
//! **How**: as if the other name were moved onto the one that stays, which at first says so by CAS
//! (`Volume::unite`). Whoever moves or removes either of the two at the same moment makes one of the
//! steps fail, and the next marks look again. A crash in between leaves a half-done move like any other,
//! so that no other gc and no mount can take the other name for the one that stays.

use super::GcError;
use super::agree::Twice;
use super::mark::digest;
use super::mend;
use super::sweep::Sweep;
use crate::volume::VolumeError;
use crate::volume::native::entries::{Loaded, Place, Stored};
use std::cmp::Reverse;

impl Sweep<'_> {
    /// Buries all names of a directory but one.
    pub(super) async fn keep_one_name(&mut self, twice: &Twice) -> Result<(), GcError> {
        self.check(false).await?;
        let (mut good, mut others) = (Vec::new(), Vec::new());
        let names = twice.good.iter().map(|name| (name, true));
        for (name, is_good) in names.chain(twice.bad.iter().map(|name| (name, false))) {
            match self.volume.load(&name.place, None).await? {
                Loaded::Live(entry) if digest(&entry.etag) == name.etag => {
                    let Some(entry) = self.after_its_exchange(entry).await? else { return Ok(()) };
                    if is_good { good.push(entry) } else { others.push(entry) }
                }
                // Somebody is at work on them.
                _ => return Ok(()),
            }
        }
        let is_it = |entry: &Stored| entry.record.directory() == Some(twice.dir);
        // Where the root reaches none of them, one is brought to `lost+found` first.
        let Some(kept) = the_one_to_keep(&good) else { return Ok(()) };
        if !good.iter().chain(&others).all(is_it) {
            return Ok(());
        }
        let mut kept = good.swap_remove(kept);
        others.append(&mut good);
        for other in others {
            self.check(false).await?;
            let united = self.volume.unite(&other, &kept).await;
            if let Ok(united) = &united {
                tracing::warn!(
                    kept = %kept.place, other = %other.place,
                    "directory {} had two names: the other is buried", twice.dir
                );
                kept = united.clone();
            }
            let done = united.is_ok();
            self.count(united.map(drop))?;
            if !done {
                return Ok(());
            }
        }
        Ok(())
    }

    /// An entry that is no step of an exchange any more; `None` if finishing that changed it.
    async fn after_its_exchange(&self, entry: Stored) -> Result<Option<Stored>, GcError> {
        if entry.record.exchanged.is_none() {
            return Ok(Some(entry));
        }
        let etag = entry.etag.clone();
        match self.volume.finish_exchange(entry).await {
            Ok(finished) => Ok(Some(finished).filter(|finished| finished.etag == etag)),
            Err(VolumeError::Conflict(_) | VolumeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Which of several names of one directory stays. One that others were moved to, as far as that can be
/// told: a mount that meets both decides the same. Then one that was given by somebody rather than by
/// `lost+found`, then the youngest.
fn the_one_to_keep(names: &[Stored]) -> Option<usize> {
    let is_old = |name: &Stored| names.iter().any(|other| moved(other, name) > moved(name, other));
    let rank = |name: &Stored| {
        let found = match (&name.place, name.record.directory()) {
            (Place::Entry(_, text), Some(dir)) => *text == mend::name(&dir.0),
            _ => true,
        };
        (Reverse(is_old(name)), Reverse(found), name.modified)
    };
    // Of equals the last, and the marks have put them in the order of their keys.
    (0..names.len()).max_by_key(|index| rank(&names[*index]))
}

/// How sure it is that what is at `to` was moved there from `from`: not at all, or it was changed at its
/// old name since, or it is the very record.
fn moved(to: &Stored, from: &Stored) -> u8 {
    match (&to.record.moved_from, &from.place) {
        (Some(moved), Place::Entry(dir, name)) if moved.dir == *dir && moved.name == *name => {
            1 + u8::from(moved.salt == from.salt)
        }
        _ => 0,
    }
}
