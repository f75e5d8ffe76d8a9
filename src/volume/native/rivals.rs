//! Moves of one thing by several nodes at the same time: how the second one ends, so that nothing has two names.

use super::Volume;
use super::entries::{Loaded, Place, Stored};
use super::exchange::same_thing;
use super::namespace::ATTEMPTS;
use super::record::{Content, MovedTo};
use crate::units::FileId;
use crate::volume::VolumeError;

/// What a tombstone says of the thing that was there.
pub(super) enum End {
    Removed,
    /// It was moved, and not to where this node moves it.
    Elsewhere,
    /// Nothing: it is another thing's, that came there since.
    Unknown,
}

pub(super) fn end_of(source: &Stored, tombstone: &Stored, to: &Place) -> End {
    let is_elsewhere = |moved: &MovedTo| Place::Entry(moved.dir, moved.name.clone()) != *to;
    match tombstone.record.moved_to.as_ref().is_some_and(is_elsewhere) {
        _ if !same_thing(&source.record, &tombstone.record) => End::Unknown,
        true => End::Elsewhere,
        false => End::Removed,
    }
}

impl Volume {
    /// Ends a move that another node's move was faster than: as if it had come after that, and found nothing
    /// under the old name.
    ///
    /// One step: the new name is buried if nobody has changed it since. Crash before it: both names stand,
    /// those of a directory until gc unites them. If somebody has changed it, it is a file of its own.
    pub(super) async fn take_back(
        &self,
        moved: Stored,
        tombstone: &Stored,
    ) -> Result<Stored, VolumeError> {
        let moved_to = tombstone.record.moved_to.clone();
        match self.bury_as(&moved, true, moved_to).await {
            Ok(()) => Err(VolumeError::Conflict(tombstone.place.to_string())),
            Err(VolumeError::Conflict(_)) => {
                self.become_its_own(moved).await?;
                Err(VolumeError::Conflict(tombstone.place.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a file that may be under another name, too, a file of its own, with the same bytes: two records of one
    /// id would be taken for one file. Not what is meant to have several names, nor what has no content to mix up.
    ///
    /// One step, repeated where somebody changes it meanwhile. Crash before it: both names stand.
    pub(super) async fn become_its_own(&self, mut moved: Stored) -> Result<Stored, VolumeError> {
        for _ in 0..ATTEMPTS {
            let mut record = (*self.whole(&moved).await?.record).clone();
            let id = FileId(self.world().entropy.bytes());
            let Content::File(content) = record.content else { return Ok(moved) };
            record.content = Content::File(content.shared_with(id));
            record.moved_from = None;
            match self.replace(&moved, record).await {
                Err(VolumeError::Conflict(_)) => {}
                other => return other,
            }
            match self.load(&moved.place, None).await? {
                Loaded::Live(current) if same_thing(&moved.record, &current.record) => {
                    moved = current;
                }
                // It has gone on, or something else came there.
                _ => return Ok(moved),
            }
        }
        Err(VolumeError::Conflict(moved.place.to_string()))
    }
}
