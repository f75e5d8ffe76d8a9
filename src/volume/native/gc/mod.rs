//! Garbage collection: the only thing that deletes segments, and names that were buried long ago.
//!
//! **It promises** that nothing is deleted that a name, living or buried, refers to, or that somebody has
//! open or is about to publish; whatever else happens at the same time, on however many nodes, and wherever
//! it is cut short.
//!
//! **It works by marks.** A mark lists what is there and who refers to it ([`mark`]). A segment goes when
//! two complete marks at least a grace period apart found no reference, it is older than the grace period,
//! and the session that wrote it is dead. Each run makes one mark and leaves it in the store for the next
//! one, under `g/`; so one run after the other, by whichever node, comes to delete what stays garbage.
//!
//! | file | what |
//! |---|---|
//! | `lease` | one gc at a time; how clients wait for deletions under way |
//! | `sessions` | who lives, who is declared dead |
//! | `mark`, `heads`, `ways` | what is there, read from the store |
//! | `tables` | what a mark leaves, and what memory does not hold |
//! | `agree` | what this mark and the former ones agree on |
//! | `sweep` | deletions |
//! | `report` | what callers say and are told |
//! | `background` | when a mount collects by itself |
//! | `mend` | half-done moves, lost directories, counts of names |
//! | `twice` | directories with two names |
//!
//! **Memory**: 33 bytes for each directory, 60 for each session and each thing that waits for a second
//! look, one page of keys in each of 16 parts, 37 bytes for each segment and each run of segments referred
//! to up to [`GcSettings::memory`], the rest of them is sealed in the store (but in a dry run, which stores
//! nothing), and then a 256th of them.
//!
//! **Crash story.** Until `g/mark` is written a mark has changed nothing. It names its tables; those of
//! other marks are debris. Deletions and repairs of a plan are independent of each other, and each is
//! decided again by the store: a plan cut short is a smaller one. The lease of a gc that died can be taken
//! 20 minutes later.

mod agree;
mod background;
mod heads;
mod lease;
mod mark;
mod mend;
mod report;
pub(super) mod sessions;
mod sweep;
pub(super) mod tables;
mod twice;
mod ways;

pub use background::Background;
pub use mend::LOST_AND_FOUND;
pub use report::{Amount, Done, Found, GcError, GcSettings, Rules};

use super::namespace::GRACE;
use super::{Place, Volume, keys, proto};
use crate::store::{ETag, StoreErrorKind};
use crate::units::DirId;
use crate::volume::VolumeError;
use agree::Repairs;
use futures::FutureExt;
use lease::Lease;
use mark::{Mark, Tally};
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use sweep::Sweep;
use tables::{Facts, Kept, Tables};

/// How long a session must have been silent to be declared dead, at least.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// The stored form's version.
const FORMAT: u32 = 1;

/// A plan: a complete mark and what follows from it.
pub struct Plan {
    /// What was found.
    pub found: Found,
    mark: proto::GcMark,
    /// The stored mark that this one takes the place of.
    former: Option<ETag>,
    lease: Option<Lease>,
    repairs: Repairs,
    moves: Vec<(Place, Place)>,
    exchanges: Vec<Place>,
    known: BTreeSet<DirId>,
    planned_at: Duration,
}

impl Volume {
    /// Marks, and says what is to be done. In a dry run nothing is stored; else the lease is held until
    /// [`Plan::execute`]. `progress` hears of objects that were looked at.
    pub async fn plan_collection(
        self: &Arc<Self>,
        settings: &GcSettings,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Plan, GcError> {
        let sessions = sessions::read(self).await?;
        self.check_settings(settings, &sessions)?;
        let mut found = Found::default();
        let mut lease = None;
        if !settings.dry_run {
            self.session().begin_change(self).await?;
            lease = Some(Lease::acquire(self, &settings.host).await?);
        }
        for silent in sessions::silent(self, &sessions, settings.grace.max(SILENCE)) {
            found.silent += 1;
            if !settings.dry_run && sessions::declare_dead(self, &silent).await? {
                tracing::warn!("session {} of {} is declared dead", silent.id, silent.shown());
            }
        }
        let planned_at = self.world().clock.boot_time();
        // Boxed, here and below, so that the compiler sees that it can be sent to another thread.
        let marking = self.marking(settings, found, planned_at, progress).boxed();
        let Some(mut held) = lease else { return marking.await };
        let result = tokio::select! {
            result = marking => result,
            error = held.keep(self) => Err(error),
        };
        match result {
            Ok(plan) => Ok(Plan { lease: Some(held), ..plan }),
            Err(error) => {
                // The first error counts; a lease that is not given back runs out.
                let _ = held.release(self, false).await;
                Err(error)
            }
        }
    }

    /// [`Self::plan_collection`] and [`Plan::execute`].
    pub async fn collect(
        self: &Arc<Self>,
        settings: &GcSettings,
    ) -> Result<(Found, Done), GcError> {
        let plan = self.plan_collection(settings, &|_| {}).boxed().await?;
        let found = plan.found.clone();
        let done = plan.execute(self, settings, &|_| {}).boxed().await?;
        Ok((found, done))
    }

    fn check_settings(
        &self,
        settings: &GcSettings,
        sessions: &[sessions::Seen],
    ) -> Result<(), GcError> {
        if settings.dry_run {
            return Ok(());
        }
        let capabilities = self.capabilities();
        if !capabilities.if_match || !capabilities.if_absent {
            return Err(GcError::Unsafe(
                "this store does not honour conditional writes, by which gc and mounts keep out of each \
                 other's way: no garbage is collected here"
                    .to_owned(),
            ));
        }
        if settings.grace >= GRACE {
            return Ok(());
        }
        if !settings.alone {
            return Err(GcError::Unsafe(format!(
                "a grace period under {} minutes endangers what others are writing or have just removed",
                GRACE.as_secs() / 60
            )));
        }
        match sessions::others(self, sessions).first() {
            Some(other) => Err(GcError::Unsafe(format!(
                "a grace period under {} minutes is for a volume that nobody else uses, but {} does, or \
                 did and was killed",
                GRACE.as_secs() / 60,
                other.shown()
            ))),
            None => Ok(()),
        }
    }

    async fn marking(
        self: &Arc<Self>,
        settings: &GcSettings,
        mut found: Found,
        planned_at: Duration,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Plan, GcError> {
        let (former, former_etag) = self.former_mark(settings.forget).await?.unzip();
        let former = former.flatten();
        let watched = match &former {
            Some(former) => agree::watched(self, former).await?,
            None => Default::default(),
        };
        let mark = Mark {
            volume: self,
            settings,
            former,
            tables: Tables::new(self, !settings.dry_run),
            facts: Facts::new(settings.memory),
            watched,
            living: Mutex::default(),
            tally: Mutex::default(),
            progress,
        };
        mark.run().await?;
        let repairs = agree::conclude(&mark, &mut found).await?;
        let (tables, id) = (mark.tables.stored(), mark.tables.mark.clone());
        found.sessions = mark.living.lock().sessions.len() as u64;
        let tally = std::mem::take(&mut *mark.tally.lock());
        let Tally { started, completed, names, buried, reread, unlisted, vanished: _, .. } = tally;
        let Tally { segments, segment_bytes, doomed, ways, moves, exchanges, .. } = tally;
        let stored = proto::GcMark {
            format: FORMAT,
            id,
            started: started.0,
            completed: completed.0,
            names,
            tables,
        };
        let known = ways.known();
        found.names = names;
        found.buried = buried;
        found.directories = known.len().saturating_sub(1) as u64;
        found.segments = Amount { count: segments, bytes: segment_bytes };
        found.reread = reread;
        found.unlisted = unlisted;
        found.old_names = doomed;
        let Repairs { unused, revived, counts, leftovers, stranded, lost, twice } = &repairs;
        let repaired = unused.len() + revived.len() + counts.len() + leftovers.len();
        let moved = moves.len() + exchanges.len() + twice.len();
        found.repairs = (repaired + moved) as u64;
        found.lost = (stranded.len() + lost.len()) as u64;
        let former = former_etag;
        let plan = Plan {
            found,
            mark: stored,
            former,
            lease: None,
            repairs,
            moves,
            exchanges,
            known,
            planned_at,
        };
        Ok(plan)
    }

    /// The mark in the store, unopened if it is to be forgotten.
    async fn former_mark(
        &self,
        forget: bool,
    ) -> Result<Option<(Option<proto::GcMark>, ETag)>, GcError> {
        let key = keys::gc_mark();
        if forget {
            return match self.store().head(&key).await {
                Ok(meta) => Ok(Some((None, meta.etag))),
                Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        let Some(Kept { message: mark, etag, .. }) =
            tables::read::<proto::GcMark>(self, &key, "mark").await?
        else {
            return Ok(None);
        };
        if mark.format != FORMAT {
            let (found, known) = (mark.format.into(), FORMAT.into());
            return Err(VolumeError::NewerFormat { what: key.to_string(), found, known }.into());
        }
        Ok(Some((Some(mark), etag)))
    }
}

impl Plan {
    /// Whether anything is to be done now.
    pub fn is_empty(&self) -> bool {
        let Found { garbage, old_names, repairs, lost, .. } = &self.found;
        garbage.count + old_names + repairs + lost == 0
    }

    /// Whether a later run will find something to delete.
    pub fn is_waiting(&self) -> bool {
        self.found.waiting.count > 0 || self.found.buried > self.found.old_names
    }

    /// Stores the mark for the next run, deletes and mends, and gives the lease back. A plan of a dry run
    /// does nothing.
    pub async fn execute(
        self,
        volume: &Arc<Volume>,
        settings: &GcSettings,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Done, GcError> {
        let mut done = Done::default();
        let Self { mark, former, lease: Some(mut lease), repairs, moves, exchanges, known, .. } =
            self
        else {
            return Ok(done);
        };
        let mut sweep = Sweep {
            volume,
            settings,
            lease: &mut lease,
            mark: &mark,
            planned_at: self.planned_at,
            done: &mut done,
            progress,
        };
        let result = async {
            sweep.check(false).await?;
            // Commit point of the mark: from here on the next one compares with it.
            let bytes = mark.encode_to_vec();
            tables::replace(volume, &keys::gc_mark(), &bytes, former).await?;
            sweep.segments().await?;
            sweep.mend(&repairs, &moves, &exchanges).await?;
            sweep.debris(&known).await?;
            sweep.forget_sessions().await?;
            sweep.names().await
        }
        .await;
        let settled = !matches!(result, Ok(false));
        let released = lease.release(volume, !settled).await;
        result?;
        released?;
        Ok(done)
    }
}
