//! One record in the store: loading it, and changing it on condition that nobody else did.
//!
//! A conditional PUT whose reply is lost is not repeated blindly: the object is read, and if it holds
//! our salt, or our publish id is among the last eight that it keeps, the PUT succeeded.

use super::namespace::GRACE;
use super::record::{Content, DecodeError, FORMAT, PUBLISHES_KEPT, Record};
use super::{Volume, keys};
use crate::crypto::{CryptoError, Role};
use crate::store::{ETag, Fetched, Key, Object, PutWhen, StoreErrorKind};
use crate::units::{DirId, InodeId};
use crate::volume::VolumeError;
use crate::world::Timestamp;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How often a conditional PUT with an unknown outcome is looked at and sent again.
const ATTEMPTS: usize = 8;
/// Places with changes of unknown outcome that are remembered, and such changes of one place.
const UNSETTLED: usize = 1024;

/// Where a record lies.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// Under a name in a directory.
    Entry(DirId, Vec<u8>),
    /// At `i/`, shared by several names.
    Inode(InodeId),
}

impl Place {
    /// Whether no user can name it: it is a step of an exchange.
    pub fn is_hidden(&self) -> bool {
        matches!(self, Self::Entry(_, name) if super::listing::is_hidden(name))
    }

    /// The object's key.
    pub fn key(&self, volume: &Volume) -> Key {
        match self {
            Self::Entry(dir, name) => keys::entry(volume.keyring(), *dir, name),
            Self::Inode(inode) => keys::inode(*inode),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(_, name) => write!(f, "{}", name.escape_ascii()),
            Self::Inode(inode) => write!(f, "i/{inode}"),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(dir, name) => write!(f, "{dir}/{}", name.escape_ascii()),
            Self::Inode(inode) => write!(f, "i/{inode}"),
        }
    }
}

/// A record as it stands in the store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The record.
    pub record: Arc<Record>,
    /// Where it lies.
    pub place: Place,
    /// The object's mark.
    pub etag: ETag,
    /// The record's own mark: every sealing has a fresh one.
    pub salt: [u8; 16],
    /// When the store says it was written.
    pub modified: Timestamp,
    /// The store's clock when it was read or written (0: not known).
    pub seen: Timestamp,
}

/// What a key holds.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// A record with a living name.
    Live(Stored),
    /// A buried name.
    Tombstone(Stored),
    /// Nothing.
    Absent,
    /// What the caller knows already.
    Unchanged,
}

/// What must stand at a record's key for a change to take effect.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Nothing, or a tombstone.
    Free,
    /// The object with this mark.
    Exactly(ETag),
}

/// Changes of this session whose caller is gone, or was told that they failed, and which may have happened
/// all the same; by their publish ids. One whose caller still waits is none of them: what it has put is met
/// as another node's is.
#[derive(Default)]
pub(super) struct Unsettled(Mutex<HashMap<Place, Vec<u64>>>);

impl Unsettled {
    fn lost(&self, place: &Place, publish_id: u64) {
        let mut places = self.0.lock();
        // What is dropped here costs no more than a conflict with ourselves, which keeps both versions.
        if places.len() >= UNSETTLED && !places.contains_key(place) {
            places.clear();
        }
        let ids = places.entry(place.clone()).or_default();
        if ids.len() >= UNSETTLED {
            ids.clear();
        }
        ids.push(publish_id);
    }

    fn settled(&self, place: &Place) {
        self.0.lock().remove(place);
    }

    /// Whether the last change of a record is one of these.
    fn holds(&self, place: &Place, publishes: &[u64]) -> bool {
        let places = self.0.lock();
        publishes.last().is_some_and(|last| places.get(place).is_some_and(|ids| ids.contains(last)))
    }
}

/// A change on its way. Dropped while its outcome is open, by a caller that waits no longer for example, it
/// is unsettled.
struct Sent<'a> {
    unsettled: &'a Unsettled,
    place: &'a Place,
    publish_id: u64,
    open: bool,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if self.open {
            self.unsettled.lost(self.place, self.publish_id);
        }
    }
}

/// Tombstones that this process has seen or made not long ago: a name that comes back, as `x.tmp` does, is
/// put over its own without being refused first.
#[derive(Default)]
pub(super) struct Graves(Mutex<HashMap<Place, (ETag, Duration)>>);

impl Graves {
    /// Notes a tombstone of an age that is far from what gc may delete.
    fn seen(&self, tombstone: &Stored, now: Duration) {
        let age = tombstone.seen.0.saturating_sub(tombstone.modified.0);
        if u128::from(age.unsigned_abs()) >= GRACE.as_nanos() / 4 {
            return;
        }
        let mut graves = self.0.lock();
        if graves.len() >= UNSETTLED {
            graves.clear();
        }
        graves.insert(tombstone.place.clone(), (tombstone.etag.clone(), now));
    }

    fn take(&self, place: &Place, now: Duration) -> Option<ETag> {
        let (etag, noted) = self.0.lock().remove(place)?;
        (now.saturating_sub(noted) < GRACE / 4).then_some(etag)
    }
}

impl Volume {
    /// Reads a record whole. With `known`, an unchanged object is not sent again.
    pub async fn load(&self, place: &Place, known: Option<&ETag>) -> Result<Loaded, VolumeError> {
        let key = place.key(self);
        let object = match self.store().get(&key, None, known).await {
            Ok(Fetched::Object(object)) => object,
            Ok(Fetched::Unchanged) => return Ok(Loaded::Unchanged),
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(Loaded::Absent),
            Err(error) => return Err(error.into()),
        };
        self.learn_master(crate::crypto::record_master(&object.body.bytes())).await;
        let (stored, tombstone) = self.open_object(place, object)?;
        if tombstone {
            self.graves().seen(&stored, self.world().clock.boot_time());
        }
        Ok(if tombstone { Loaded::Tombstone(stored) } else { Loaded::Live(stored) })
    }

    /// Seals and stores a record where `expect` allows it.
    ///
    /// Commit point of every change of a name or of a file's content. Crash before the PUT took effect:
    /// the former record stands, whole. After: the new one does. A reply that is lost is settled by
    /// reading the object back.
    pub async fn put_record(
        &self,
        place: &Place,
        mut record: Record,
        expect: Expect,
    ) -> Result<Stored, VolumeError> {
        if !record.is_whole() {
            return Err(VolumeError::corrupt(
                place,
                "only its head was read: it is not stored again",
            ));
        }
        self.session().begin_change(self).await?;
        let publish_id = u64::from_le_bytes(self.world().entropy.bytes());
        record.publishes.push(publish_id);
        let surplus = record.publishes.len().saturating_sub(PUBLISHES_KEPT);
        record.publishes.drain(..surplus);
        let (head, body) = record.encode();
        let sealed = self.with_context(place, |context| {
            self.keyring().seal_record(
                context,
                &head,
                &body,
                record.buried_at.is_some(),
                &*self.world().entropy,
            )
        });
        let sealed = Bytes::from(sealed.map_err(|error| match error {
            CryptoError::Limit { .. } => VolumeError::TooBig(place.to_string()),
            other => VolumeError::corrupt(place, other),
        })?);
        let salt = self
            .salt_of(&sealed)
            .ok_or_else(|| VolumeError::corrupt(place, "the record just sealed has no salt"))?;
        // This future may be dropped while it waits for the answer.
        let mut sent = Sent { unsettled: self.unsettled(), place, publish_id, open: true };
        self.session().sends(publish_id);
        if matches!(expect, Expect::Exactly(_)) {
            self.count_replaced();
        }
        let mut in_doubt = false;
        let what = (place, &record.content);
        match self.put_sealed(what, &sealed, salt, publish_id, expect, &mut in_doubt).await {
            Ok((etag, modified, seen)) => {
                sent.open = false;
                self.unsettled().settled(place);
                self.session().check_lease(self).await?;
                let place = place.clone();
                let stored = Stored { record: Arc::new(record), place, etag, salt, modified, seen };
                if stored.record.buried_at.is_some() {
                    self.graves().seen(&stored, self.world().clock.boot_time());
                }
                Ok(stored)
            }
            Err(error) => {
                sent.open = in_doubt;
                Err(error)
            }
        }
    }

    /// Sends a sealed record until it stands in the store or cannot; returns its mark, and when it was
    /// written and read, as far as that is known. Says `in_doubt` once a reply was lost.
    async fn put_sealed(
        &self,
        (place, content): (&Place, &Content),
        sealed: &Bytes,
        salt: [u8; 16],
        publish_id: u64,
        mut expect: Expect,
        in_doubt: &mut bool,
    ) -> Result<(ETag, Timestamp, Timestamp), VolumeError> {
        let key = place.key(self);
        let mut when = self.condition(&expect);
        if let (Expect::Free, Some(etag)) =
            (&expect, self.graves().take(place, self.world().clock.boot_time()))
            && self.capabilities().if_match
        {
            when = self.condition(&Expect::Exactly(etag));
        }
        let mut lost = None;
        for _ in 0..ATTEMPTS {
            let error = match self.store().put(&key, sealed.clone(), when.clone()).await {
                Ok(etag) => return Ok((etag, Timestamp::default(), Timestamp::default())),
                Err(error) => error,
            };
            *in_doubt |= error.effect_unknown;
            let settled_by_reading = error.effect_unknown
                || matches!(
                    error.kind,
                    StoreErrorKind::PreconditionFailed | StoreErrorKind::NotFound
                );
            if !settled_by_reading {
                return Err(error.into());
            }
            let current = match self.load(place, None).await? {
                Loaded::Live(current) | Loaded::Tombstone(current) => current,
                Loaded::Absent | Loaded::Unchanged => match expect {
                    // The object that we meant to replace is gone: never bring its name back.
                    Expect::Exactly(_) => return Err(VolumeError::Conflict(place.to_string())),
                    Expect::Free => {
                        lost = Some(error);
                        when = self.condition(&Expect::Free);
                        continue;
                    }
                },
            };
            if current.salt == salt {
                return Ok((current.etag, current.modified, current.seen));
            }
            if current.record.publishes.contains(&publish_id) {
                // Ours stood there, and another node has changed it since. Whatever is based on ours
                // must meet theirs as a conflict: a mark that no object has.
                let etag = ETag("\"superseded\"".to_owned());
                return Ok((etag, current.modified, current.seen));
            }
            match &expect {
                Expect::Exactly(etag) if *etag == current.etag => {}
                // An earlier change of ours, whose reply was lost and whose caller was told that it
                // failed or is gone, or of the process that this one took over from, which landed late: nobody else
                // has changed the record.
                Expect::Exactly(_)
                    if self.is_unsettled(&current)
                        || current.record.buried_at.is_none()
                            && same_thing(content, &current.record.content)
                            && self.session().is_of_former(&current.record.publishes) =>
                {
                    expect = Expect::Exactly(current.etag);
                    when = self.condition(&expect);
                }
                Expect::Exactly(_) => return Err(VolumeError::Conflict(place.to_string())),
                Expect::Free if current.record.buried_at.is_some() => {
                    let current = self.refreshed_tombstone(current).await?;
                    when = self.condition(&Expect::Exactly(current.etag));
                }
                Expect::Free => return Err(VolumeError::Exists(place.to_string())),
            }
        }
        Err(lost.map_or_else(|| VolumeError::Conflict(place.to_string()), VolumeError::from))
    }

    /// Whether a change that this session made at a place may have happened although it was reported
    /// as failed.
    pub fn is_in_doubt(&self, place: &Place) -> bool {
        self.unsettled().0.lock().contains_key(place)
    }

    /// Whether this session put this record and its caller was told that it failed, or is gone.
    pub fn is_unsettled(&self, stored: &Stored) -> bool {
        self.unsettled().holds(&stored.place, &stored.record.publishes)
    }

    /// Opens an object's bytes as the record at `place`; also says whether it is a tombstone.
    pub(super) fn open_object(
        &self,
        place: &Place,
        object: Object,
    ) -> Result<(Stored, bool), VolumeError> {
        let opened = self
            .with_context(place, |context| {
                self.keyring().open_record(context, &object.body.bytes())
            })
            .map_err(|error| self.damage(place, error))?;
        let body = Some(opened.body.into());
        let meaning = self.meaning(place, &opened.head, body, opened.tombstone)?;
        let stored = stored(place, meaning, opened.salt, object);
        Ok((stored, opened.tombstone))
    }

    /// The record that opened bytes at `place` mean; `body` is `None` if it was not fetched.
    pub(super) fn meaning(
        &self,
        place: &Place,
        head: &[u8],
        body: Option<Bytes>,
        tombstone: bool,
    ) -> Result<Record, VolumeError> {
        let record = Record::decode(head, body).map_err(|error| self.malformed(place, error))?;
        if record.buried_at.is_some() != tombstone {
            return Err(VolumeError::corrupt(place, "tombstone mark contradicts the record"));
        }
        Ok(record)
    }

    fn salt_of(&self, sealed: &[u8]) -> Option<[u8; 16]> {
        crate::crypto::record_salt(sealed)
    }

    fn condition(&self, expect: &Expect) -> PutWhen {
        let capabilities = self.capabilities();
        match expect {
            Expect::Free if capabilities.if_absent => PutWhen::IfAbsent,
            Expect::Exactly(etag) if capabilities.if_match => PutWhen::IfMatch(etag.clone()),
            // A store without conditions: one writer per file is assumed, and said once at mount.
            _ => PutWhen::Always,
        }
    }

    pub(super) fn with_context<T>(
        &self,
        place: &Place,
        use_it: impl FnOnce(&crate::crypto::RecordContext<'_>) -> T,
    ) -> T {
        match place {
            Place::Entry(dir, name) => use_it(&crate::crypto::RecordContext {
                role: Role::Entry,
                scope: dir.as_bytes(),
                name,
            }),
            Place::Inode(inode) => use_it(&crate::crypto::RecordContext {
                role: Role::Inode,
                scope: &[],
                name: keys::inode(*inode).as_str().as_bytes(),
            }),
        }
    }

    pub(super) fn damage(&self, place: &Place, error: CryptoError) -> VolumeError {
        match error {
            CryptoError::NewerVersion { .. } => VolumeError::NewerFormat {
                what: place.to_string(),
                found: u64::from(FORMAT) + 1,
                known: u64::from(FORMAT),
            },
            other => VolumeError::corrupt(format!("{place} ({})", place.key(self)), other),
        }
    }

    pub(super) fn malformed(&self, place: &Place, error: DecodeError) -> VolumeError {
        match error {
            DecodeError::Format(found) => VolumeError::NewerFormat {
                what: place.to_string(),
                found: found.into(),
                known: FORMAT.into(),
            },
            DecodeError::Damaged(why) => {
                VolumeError::corrupt(format!("{place} ({})", place.key(self)), why)
            }
        }
    }
}

/// Whether two records say something of the same file or directory.
fn same_thing(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::File(a), Content::File(b)) => a.id == b.id,
        (Content::Directory(a), Content::Directory(b)) => a == b,
        (Content::Symlink(a, _), Content::Symlink(b, _))
        | (Content::Special(a, ..), Content::Special(b, ..)) => a == b,
        _ => false,
    }
}

/// A record with what the store said of its object.
pub(super) fn stored(place: &Place, record: Record, salt: [u8; 16], object: Object) -> Stored {
    Stored {
        record: Arc::new(record),
        place: place.clone(),
        etag: object.meta.etag,
        salt,
        modified: object.meta.modified,
        seen: object.date,
    }
}
