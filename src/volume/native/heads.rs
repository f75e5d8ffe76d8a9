//! Records of which only the head was read: all that stat tells, without the data that lie in the record
//! itself. Such a record never goes back to the store: whoever seals it anew gets the whole of it first,
//! and [`Volume::put_record`] refuses what somebody forgot.

use super::Volume;
use super::entries::{Loaded, Place, Stored, stored};
use super::record::{Content, FileContent, Record, Source};
use crate::crypto::HeadOutcome;
use crate::store::{Fetched, StoreErrorKind};
use crate::units::ByteRange;
use crate::volume::VolumeError;
use bytes::Bytes;

/// Objects up to this size are fetched whole: the round trip costs more than the bytes.
const WHOLE: u64 = 16 << 10;
/// What is read of a bigger one at first; nearly every head fits.
const FIRST: u64 = 16 << 10;
/// How often the range is corrected when the object is replaced while it is read.
const ATTEMPTS: usize = 4;

impl FileContent {
    /// Whether the data that the extents say are in the record are here.
    pub fn is_whole(&self) -> bool {
        let here = self.inline.len() as u64;
        self.extents.iter().all(|extent| match &extent.source {
            Source::Inline(offset) => offset.saturating_add(extent.range.length()) <= here,
            Source::Segments(_) => true,
        })
    }

    /// How many bytes of data its extents say are in the record.
    fn inline_length(&self) -> u64 {
        let ends = self.extents.iter().filter_map(|extent| match &extent.source {
            Source::Inline(offset) => Some(offset.saturating_add(extent.range.length())),
            Source::Segments(_) => None,
        });
        ends.max().unwrap_or(0)
    }
}

impl Record {
    /// Whether nothing of it is missing. Only a file's can be without its body.
    pub fn is_whole(&self) -> bool {
        match &self.content {
            Content::File(content) => content.is_whole(),
            _ => true,
        }
    }

    /// Whether what is missing of it is so small that who asks for its state should ask for all of it: the
    /// round trip that this may save costs more than the bytes.
    pub fn is_worth_fetching(&self) -> bool {
        match &self.content {
            Content::File(content) => !content.is_whole() && content.inline_length() <= WHOLE,
            _ => false,
        }
    }
}

impl Volume {
    /// Reads a record of `size` bytes (as a listing said) for its attributes: whole if it is small, else
    /// its head alone.
    pub async fn load_head(&self, place: &Place, size: u64) -> Result<Loaded, VolumeError> {
        if size <= WHOLE {
            return self.load(place, None).await;
        }
        let key = place.key(self);
        let mut length = FIRST;
        for _ in 0..ATTEMPTS {
            let range = Some(ByteRange::new(0, length));
            let object = match self.store().get(&key, range, None).await {
                Ok(Fetched::Object(object)) => object,
                Ok(Fetched::Unchanged) => return Ok(Loaded::Unchanged),
                Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(Loaded::Absent),
                Err(error) => return Err(error.into()),
            };
            self.learn_master(crate::crypto::record_master(&object.body.bytes())).await;
            let outcome = self
                .with_context(place, |context| {
                    self.keyring().open_record_head(context, &object.body.bytes())
                })
                .map_err(|error| self.damage(place, error))?;
            let opened = match outcome {
                HeadOutcome::Opened(opened) => opened,
                HeadOutcome::NeedMore(more) if more > length => {
                    length = more;
                    continue;
                }
                HeadOutcome::NeedMore(_) => {
                    return Err(VolumeError::corrupt(place, "ends inside its head"));
                }
            };
            let body = (opened.body_length == 0).then(Bytes::new);
            let record = self.meaning(place, &opened.head, body, opened.tombstone)?;
            let stored = stored(place, record, opened.salt, object);
            return Ok(if opened.tombstone {
                Loaded::Tombstone(stored)
            } else {
                Loaded::Live(stored)
            });
        }
        Err(VolumeError::corrupt(place, "its head changes faster than it can be read"))
    }

    /// The same record with its body. `Conflict` if another one stands at its place by now.
    pub(super) async fn whole(&self, stored: &Stored) -> Result<Stored, VolumeError> {
        if stored.record.is_whole() {
            return Ok(stored.clone());
        }
        match self.load(&stored.place, None).await? {
            Loaded::Live(whole) | Loaded::Tombstone(whole) if whole.salt == stored.salt => {
                Ok(whole)
            }
            _ => Err(VolumeError::Conflict(stored.place.to_string())),
        }
    }
}
