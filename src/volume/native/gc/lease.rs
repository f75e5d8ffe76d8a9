//! One garbage collection at a time: a lease of the whole volume, at `g/lease`.
//!
//! It is taken, renewed and given back by CAS, so that whoever was replaced learns it at its next step.
//! It is renewed before every batch of deletions, and about every minute in between.
//!
//! **Why clients look at it.** Where DELETE is unconditional, gc looks at a buried name and then deletes
//! it; a client that puts a new name there in between would lose it. So gc says in the lease that it is
//! `deleting` before it looks at a batch, and that it is not when every answer has come. A client that
//! finds an old tombstone first dates it anew, then reads the lease: a batch that begins later sees the
//! new date, one that is under way is waited for ([`Volume::await_deletions`]). A DELETE is never sent
//! twice, and takes effect within [`SETTLED`] or not at all (requests to S3 carry their time and are
//! refused after 15 minutes).

use super::GcError;
use super::tables::{self, Kept};
use crate::store::{ETag, StoreError, StoreErrorKind};
use crate::units::SessionId;
use crate::volume::VolumeError;
use crate::volume::native::{Volume, keys, proto};
use crate::world::Timestamp;
use prost::Message;
use std::time::Duration;

/// How old an unchanged lease must be before another one may take it, and before a deletion whose
/// answer was lost has happened or never will.
pub(super) const SETTLED: Duration = Duration::from_secs(20 * 60);
/// How often it is renewed where nothing is deleted.
const RENEWAL: Duration = Duration::from_secs(60);
/// How long a client waits for a batch, and between two looks.
const PATIENCE: u32 = 300;
const PAUSE: Duration = Duration::from_millis(100);
const FORMAT: u32 = 1;

/// The lease, held.
pub(super) struct Lease {
    stored: proto::GcLease,
    etag: ETag,
}

/// The lease as it stands in the store.
struct Seen {
    stored: proto::GcLease,
    etag: ETag,
    /// `None`: the store did not tell.
    age: Option<Duration>,
}

impl Lease {
    /// Takes the lease.
    ///
    /// # Errors
    /// [`GcError::Held`] if somebody holds it, or held it a short while ago and was cut short.
    pub(super) async fn acquire(volume: &Volume, host: &str) -> Result<Self, GcError> {
        let current = read(volume).await?;
        if let Some(Seen { stored, age, .. }) = &current
            && (!stored.released || stored.deleting)
            && age.is_none_or(|age| age < SETTLED)
        {
            return Err(GcError::Held {
                host: stored.host.clone(),
                age: age.unwrap_or_default(),
                settling: stored.released,
            });
        }
        let number = current.as_ref().map_or(0, |seen| seen.stored.number);
        let stored = proto::GcLease {
            format: FORMAT,
            session: volume.session().id().0.to_vec(),
            host: host.to_owned(),
            number: number + 1,
            released: false,
            deleting: false,
        };
        let etag = write(volume, &stored, current.map(|seen| seen.etag)).await?;
        Ok(Self { stored, etag })
    }

    /// Shows that the lease is still ours, and says whether buried names are about to be deleted.
    pub(super) async fn renew(&mut self, volume: &Volume, deleting: bool) -> Result<(), GcError> {
        self.change(volume, deleting, false).await
    }

    /// Gives it back. `deleting`: the answer to a deletion is missing.
    pub(super) async fn release(&mut self, volume: &Volume, deleting: bool) -> Result<(), GcError> {
        self.change(volume, deleting, true).await
    }

    /// Renews it for ever; ends when it is lost.
    pub(super) async fn keep(&mut self, volume: &Volume) -> GcError {
        loop {
            tokio::time::sleep(RENEWAL).await;
            if let Err(error) = self.renew(volume, false).await {
                return error;
            }
        }
    }

    async fn change(
        &mut self,
        volume: &Volume,
        deleting: bool,
        released: bool,
    ) -> Result<(), GcError> {
        // A session that was declared dead in the meantime holds nothing.
        volume.session().check_lease(volume).await?;
        if volume.session().id().0[..] != self.stored.session[..] {
            return Err(GcError::LeaseLost);
        }
        let number = self.stored.number + 1;
        let stored = proto::GcLease { number, deleting, released, ..self.stored.clone() };
        self.etag = write(volume, &stored, Some(self.etag.clone())).await?;
        self.stored = stored;
        Ok(())
    }
}

/// Gives back a lease of this session whose holder was dropped. What was being deleted may still be.
pub(super) async fn abandon(volume: &Volume) -> Result<(), GcError> {
    match read(volume).await? {
        Some(Seen { stored, etag, .. })
            if stored.session[..] == volume.session().id().0[..] && !stored.released =>
        {
            let mut lease = Lease { stored, etag };
            let deleting = lease.stored.deleting;
            lease.release(volume, deleting).await
        }
        _ => Ok(()),
    }
}

impl Volume {
    /// Returns when no deletion of buried names is under way that was decided on before this call.
    pub(in crate::volume::native) async fn await_deletions(&self) -> Result<(), VolumeError> {
        let mut first = None;
        for _ in 0..PATIENCE {
            let seen = match read(self).await {
                Ok(None) => return Ok(()),
                Ok(Some(seen)) => seen,
                Err(GcError::Volume(error)) => return Err(error),
                Err(other) => return Err(VolumeError::Invalid(other.to_string())),
            };
            let settled = seen.age.is_some_and(|age| age >= SETTLED);
            if !seen.stored.deleting || settled || first.is_some_and(|n| n != seen.stored.number) {
                return Ok(());
            }
            if seen.stored.released {
                // It has ended without an answer: nothing will change soon.
                break;
            }
            first = Some(seen.stored.number);
            tokio::time::sleep(PAUSE).await;
        }
        let error = StoreError::new(StoreErrorKind::Unavailable, "put", keys::gc_lease());
        let why = "a garbage collection is deleting names that were removed long ago, or was cut short \
                   while it did: the name is free again in 20 minutes at the latest";
        Err(error.with_source(why).into())
    }
}

async fn read(volume: &Volume) -> Result<Option<Seen>, GcError> {
    let key = keys::gc_lease();
    let Some(Kept { message, etag, modified, date }) =
        tables::read::<proto::GcLease>(volume, &key, "lease").await?
    else {
        return Ok(None);
    };
    let stored = message;
    if stored.format != FORMAT {
        let (found, known) = (stored.format.into(), FORMAT.into());
        return Err(VolumeError::NewerFormat { what: key.to_string(), found, known }.into());
    }
    SessionId::try_from(&stored.session[..])
        .map_err(|_| VolumeError::corrupt(&key, "its holder has no id"))?;
    Ok(Some(Seen { stored, etag, age: age(modified, date) }))
}

/// Stores a lease over `base`, or where there is none.
async fn write(
    volume: &Volume,
    stored: &proto::GcLease,
    base: Option<ETag>,
) -> Result<ETag, GcError> {
    tables::replace(volume, &keys::gc_lease(), &stored.encode_to_vec(), base).await
}

/// How old something is by the store's own clock; `None` if the store did not tell the time.
pub(super) fn age(modified: Timestamp, date: Timestamp) -> Option<Duration> {
    if date.0 == 0 || modified.0 == 0 {
        return None;
    }
    // Negative within the store's own precision.
    Some(Duration::from_nanos(u64::try_from(date.0.saturating_sub(modified.0)).unwrap_or(0)))
}
