//! One writer: a lease of the whole volume, at `g/exclusive`. Whoever holds it need not ask the store
//! what other nodes have changed.
//!
//! The lease names a session and lives as long as that session does: it is never renewed itself, and a
//! session that ends gives it back. Nothing rests on it alone: every change stays conditional, so a lease
//! that is stolen or has lapsed costs its former holder an error (ESTALE), never anybody's data.
//!
//! **Why no two can write.** A claimant writes its session, then the lease, by CAS, then looks at all
//! sessions, and withdraws if one of them lives. Everybody else writes its session, then looks at the
//! lease, before its first change. So of two who begin at the same moment at least one sees the other.
//! Sessions that were silent for long are declared dead first, by CAS: they start anew, and look at the
//! lease again. Garbage collection goes on beside it: it changes only what no name leads to, or by CAS.
//!
//! Crash story: a claimant that dies after any step leaves a lease whose session is silent.

use super::gc::tables::{self, Kept};
use super::gc::{GcError, sessions};
use super::{Volume, keys, proto};
use crate::store::ETag;
use crate::units::SessionId;
use crate::volume::VolumeError;
use prost::Message;
use std::time::Duration;

/// How long a session must have been silent before its lease may be taken: twice as long as it
/// acknowledges anything without a sign of life.
pub const SILENCE: Duration = Duration::from_secs(600);
/// How often a claim is based anew on what another claimant has just done.
const ATTEMPTS: usize = 4;
const FORMAT: u32 = 1;

/// What a claimant says of itself, and whom it may replace.
pub struct Claim {
    /// Which process this is, for whoever finds the lease on the same machine later.
    pub process: String,
    /// Whether the process that a lease names certainly is no more.
    pub is_gone: fn(&str) -> bool,
    /// Take the volume from whoever has it.
    pub steal: bool,
}

impl Volume {
    /// Takes the volume for this session alone, until it ends.
    ///
    /// # Errors
    /// `Exclusive` if another session has it or writes to it; `Invalid` where the store honours no
    /// conditions.
    pub async fn take_exclusively(&self, claim: &Claim) -> Result<(), VolumeError> {
        let capabilities = self.probe().await?;
        if !capabilities.if_absent || !capabilities.if_match {
            let why = "the store does not honour conditional writes, which --exclusive needs";
            return Err(VolumeError::Invalid(why.to_owned()));
        }
        self.session().begin_exclusive(self).await?;
        match self.claim(claim).await {
            Ok(()) => Ok(()),
            // What a former process stored under it may not be published yet: it is tried again.
            Err(error) if self.session().is_carried_on() => Err(error),
            Err(error) => {
                self.session().end(self).await?;
                Err(error)
            }
        }
    }

    /// Fails with `Exclusive` if another session has the volume for itself.
    pub async fn check_not_exclusive(&self) -> Result<(), VolumeError> {
        let Some((lease, _)) = self.read_exclusive().await? else { return Ok(()) };
        let seen = sessions::read(self).await.map_err(plain)?;
        match self.holder(&lease, &seen)? {
            Some(holder) if holder.age().is_none_or(|age| age < SILENCE) => {
                Err(excluded(&lease, holder))
            }
            _ => Ok(()),
        }
    }

    async fn claim(&self, claim: &Claim) -> Result<(), VolumeError> {
        let own = self.session().id();
        for _ in 0..ATTEMPTS {
            let seen = sessions::read(self).await.map_err(plain)?;
            let current = self.read_exclusive().await?;
            if let Some((lease, _)) = &current
                && let Some(holder) = self.holder(lease, &seen)?
            {
                let silent = holder.age().is_some_and(|age| age >= SILENCE);
                if !(claim.steal || silent || (claim.is_gone)(&lease.process)) {
                    return Err(excluded(lease, holder));
                }
                if !sessions::declare_dead(self, holder).await.map_err(plain)? {
                    continue;
                }
                tracing::warn!("the volume is taken over from {}", holder.shown());
            }
            let lease = proto::ExclusiveLease {
                format: FORMAT,
                session: own.0.to_vec(),
                process: claim.process.clone(),
                number: current.as_ref().map_or(0, |(lease, _)| lease.number) + 1,
            };
            // It was ours all the time: whoever came meanwhile has seen it and goes away again, and must not
            // stop us by having come.
            let held = self.session().is_carried_on()
                && current.as_ref().is_some_and(|(lease, _)| lease.session == own.0);
            let base = current.map(|(_, etag)| etag);
            let bytes = lease.encode_to_vec();
            match tables::replace(self, &keys::exclusive_lease(), &bytes, base).await {
                Ok(_) if held => return Ok(()),
                Ok(_) => return self.alone(claim.steal).await,
                // Another claimant was faster.
                Err(GcError::LeaseLost) => {}
                Err(error) => return Err(plain(error)),
            }
        }
        Err(VolumeError::Exclusive("several claimants at the same moment; try again".to_owned()))
    }

    /// After the lease was taken: nobody else writes, or this fails.
    async fn alone(&self, steal: bool) -> Result<(), VolumeError> {
        let seen = sessions::read(self).await.map_err(plain)?;
        for other in sessions::others(self, &seen) {
            if other.collects() {
                continue;
            }
            let silent = other.age().is_some_and(|age| age >= SILENCE);
            let dead =
                (silent || steal) && sessions::declare_dead(self, other).await.map_err(plain)?;
            if !dead {
                return Err(VolumeError::Exclusive(format!("{} writes to it", other.shown())));
            }
        }
        Ok(())
    }

    /// The session that a lease belongs to, if it is another one and may live.
    fn holder<'a>(
        &self,
        lease: &proto::ExclusiveLease,
        seen: &'a [sessions::Seen],
    ) -> Result<Option<&'a sessions::Seen>, VolumeError> {
        let id = SessionId::try_from(&lease.session[..])
            .map_err(|_| VolumeError::corrupt(keys::exclusive_lease(), "its holder has no id"))?;
        Ok(sessions::others(self, seen).into_iter().find(|session| session.id == id))
    }

    async fn read_exclusive(&self) -> Result<Option<(proto::ExclusiveLease, ETag)>, VolumeError> {
        let key = keys::exclusive_lease();
        let kept = tables::read::<proto::ExclusiveLease>(self, &key, "lease").await;
        let Some(Kept { message: lease, etag, .. }) = kept.map_err(plain)? else {
            return Ok(None);
        };
        if lease.format != FORMAT {
            let (found, known) = (lease.format.into(), FORMAT.into());
            return Err(VolumeError::NewerFormat { what: key.to_string(), found, known });
        }
        Ok(Some((lease, etag)))
    }
}

fn excluded(lease: &proto::ExclusiveLease, holder: &sessions::Seen) -> VolumeError {
    let age = holder.age().map_or(String::new(), |age| {
        let age = Duration::from_secs(age.as_secs());
        format!(", last heard of {} ago", humantime::format_duration(age))
    });
    let process = lease.process.split_whitespace().next().unwrap_or_default();
    let process = if process.is_empty() { String::new() } else { format!(" (process {process})") };
    VolumeError::Exclusive(format!("{}{process} has it for itself{age}", holder.shown()))
}

fn plain(error: GcError) -> VolumeError {
    match error {
        GcError::Volume(error) => error,
        other => VolumeError::Invalid(other.to_string()),
    }
}
