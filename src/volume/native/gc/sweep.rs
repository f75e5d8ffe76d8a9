//! The deletions. Before every batch the lease is renewed, the plan's age checked and the sessions are
//! read again: what a session has begun to keep open since is left alone.
//!
//! Crash story: a segment that was deleted was garbage for good, since nothing that refers to it was there
//! in two marks; how far a sweep came does not matter. Buried names: see [`super::lease`].

use super::heads;
use super::lease::Lease;
use super::sessions::{self, Living};
use super::tables::Reader;
use super::{Done, GcError, GcSettings};
use crate::store::{Key, ListRequest, StoreErrorKind};
use crate::units::{DirId, FileId, SegmentId, SessionId};
use crate::volume::VolumeError;
use crate::volume::native::{Volume, keys, proto};
use crate::world::Timestamp;
use futures::{FutureExt, StreamExt};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Segments in a batch: what one request deletes.
const SEGMENTS: usize = 1000;
/// Names in a batch, and how many are looked at and deleted at the same time.
const NAMES: usize = 256;
const PARALLEL: usize = 32;
/// How long after the lease's renewal a name may still be deleted.
const BATCH: Duration = Duration::from_secs(60);

/// What a sweep works on.
pub(super) struct Sweep<'a> {
    pub(super) volume: &'a Arc<Volume>,
    pub(super) settings: &'a GcSettings,
    pub(super) lease: &'a mut Lease,
    pub(super) mark: &'a proto::GcMark,
    /// This machine's time when the mark began.
    pub(super) planned_at: Duration,
    pub(super) done: &'a mut Done,
    pub(super) progress: &'a (dyn Fn(u64) + Sync),
}

impl Sweep<'_> {
    /// To be called before every batch.
    pub(super) async fn check(&mut self, deleting: bool) -> Result<(), GcError> {
        if self.settings.rules.lease {
            self.lease.renew(self.volume, deleting).await?;
        }
        let age = self.volume.world().clock.boot_time().saturating_sub(self.planned_at);
        if age > 2 * self.settings.grace {
            return Err(GcError::Void("the plan is too old by now; run again".to_owned()));
        }
        Ok(())
    }

    /// Deletes segments that the marks agree on.
    pub(super) async fn segments(&mut self) -> Result<(), GcError> {
        let mut reader = Reader::<proto::GcCandidate>::new(self.volume, self.mark, "candidates");
        let grace = i64::try_from(self.settings.grace.as_nanos()).unwrap_or(i64::MAX);
        loop {
            let mut batch = Vec::new();
            let mut last = false;
            while batch.len() < SEGMENTS {
                let Some(row) = reader.next().await? else {
                    last = true;
                    break;
                };
                let ripe = self.mark.started.saturating_sub(row.since) >= grace;
                if ripe || !self.settings.rules.two_marks {
                    batch.push(row);
                }
            }
            if !batch.is_empty() {
                self.segment_batch(batch).await?;
            }
            if last {
                return Ok(());
            }
        }
    }

    async fn segment_batch(&mut self, batch: Vec<proto::GcCandidate>) -> Result<(), GcError> {
        self.check(false).await?;
        let mut living = Living::default();
        living.add(&sessions::read(self.volume).await?, self.settings)?;
        let rules = &self.settings.rules;
        let (mut doomed, mut bytes) = (Vec::new(), 0);
        for row in &batch {
            let damaged = |_| VolumeError::corrupt(keys::gc_mark(), "a row without an id");
            let file = FileId::try_from(&row.file[..]).map_err(damaged)?;
            let session = SessionId::try_from(&row.session[..]).map_err(damaged)?;
            let kept = rules.pins && living.pinned.contains(&file)
                || rules.dead_sessions && living.sessions.contains(&session);
            if !kept {
                let segment = SegmentId { session, counter: row.counter };
                doomed.push(keys::segment(file, segment));
                bytes += row.size;
            }
        }
        let failed = self.volume.store().delete_many(&doomed).await?;
        if let Some((key, error)) = failed.first() {
            tracing::warn!("{} segments not deleted; the first, {key}: {error}", failed.len());
            // What they measure is not known here.
            self.done.failed += failed.len() as u64;
        }
        self.done.segments.count += (doomed.len() - failed.len()) as u64;
        self.done.segments.bytes += bytes;
        (self.progress)(doomed.len() as u64);
        Ok(())
    }

    /// Deletes names that were buried long ago: look, check age and lease, delete. Returns whether every
    /// answer came; if not, the lease must say so.
    pub(super) async fn names(&mut self) -> Result<bool, GcError> {
        let tables = self.mark.tables.iter().map(|table| table.name.clone());
        let tables: Vec<String> = tables.filter(|name| name.starts_with('z')).collect();
        for table in tables {
            let mut reader = Reader::<proto::GcDoomed>::new(self.volume, self.mark, &table);
            loop {
                let mut batch = Vec::new();
                while batch.len() < NAMES
                    && let Some(row) = reader.next().await?
                {
                    batch.push(row.key);
                }
                if batch.is_empty() {
                    break;
                }
                if !self.name_batch(&batch).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn name_batch(&mut self, batch: &[String]) -> Result<bool, GcError> {
        let conditional = self.volume.capabilities().delete_if_match;
        let begun = self.volume.world().clock.boot_time();
        self.check(!conditional).await?;
        let deletions: Vec<_> =
            batch.iter().map(|key| self.delete_name(key, conditional, begun).boxed()).collect();
        let mut results = futures::stream::iter(deletions).buffer_unordered(PARALLEL);
        let (mut deleted, mut failed, mut settled) = (0, 0, true);
        let mut error = None;
        while let Some(result) = results.next().await {
            match result {
                Ok(Deleted::Yes) => deleted += 1,
                Ok(Deleted::Left) => {}
                Ok(Deleted::Failed) => failed += 1,
                Ok(Deleted::Unknown) => (failed, settled) = (failed + 1, conditional),
                // The others of the batch have their answers first.
                Err(other) => error = Some(other),
            }
        }
        drop(results);
        self.done.names += deleted;
        self.done.failed += failed;
        (self.progress)(batch.len() as u64);
        match error {
            Some(error) if settled => Err(error),
            _ => Ok(settled),
        }
    }

    async fn delete_name(
        &self,
        key: &str,
        conditional: bool,
        begun: Duration,
    ) -> Result<Deleted, GcError> {
        let place = keys::place(self.volume.keyring(), key)
            .ok_or_else(|| GcError::unexpected(&key.escape_debug()))?;
        let Some(head) = heads::load(self.volume, &place).await? else {
            return Ok(Deleted::Left);
        };
        let old = head.age.is_some_and(|age| age >= 2 * self.settings.grace);
        if self.settings.rules.look && (head.record.buried_at.is_none() || !old) {
            return Ok(Deleted::Left);
        }
        let passed = self.volume.world().clock.boot_time().saturating_sub(begun);
        if !conditional && passed >= BATCH {
            return Ok(Deleted::Left);
        }
        let Some(key) = Key::new(key) else { return Ok(Deleted::Left) };
        // With its ETag also where the store ignores it: such a request is never sent twice from below.
        match self.volume.store().delete(&key, Some(&head.etag)).await {
            Ok(()) => Ok(Deleted::Yes),
            Err(error) if error.effect_unknown => Ok(Deleted::Unknown),
            Err(error) => match error.kind {
                StoreErrorKind::PreconditionFailed | StoreErrorKind::NotFound => Ok(Deleted::Left),
                _ => {
                    tracing::warn!("buried name not deleted: {error}");
                    Ok(Deleted::Failed)
                }
            },
        }
    }

    /// Records of sessions that have been dead for long.
    pub(super) async fn forget_sessions(&mut self) -> Result<(), GcError> {
        let long = 2 * self.settings.grace;
        for session in sessions::read(self.volume).await? {
            if session.is_dead(long) {
                self.check(false).await?;
                sessions::forget(self.volume, &session).await?;
                self.done.debris += 1;
            }
        }
        Ok(())
    }

    /// What is of no use: indexes of directories that are gone, debris of probes, tables of other marks.
    pub(super) async fn debris(&mut self, known: &BTreeSet<DirId>) -> Result<(), GcError> {
        let old = |modified, date| {
            super::lease::age(modified, date).is_some_and(|age| age >= self.settings.grace)
        };
        let index = |key: &str| keys::index_directory(key).is_some_and(|dir| !known.contains(&dir));
        let other = |key: &str| keys::gc_table_mark(key).is_some_and(|mark| mark != self.mark.id);
        let mut doomed =
            under(self.volume, "x/", |key, at, date| index(key) && old(at, date)).await?;
        doomed.extend(under(self.volume, "p/", |_, at, date| old(at, date)).await?);
        // Held by the lease: nobody else writes marks.
        doomed.extend(under(self.volume, "g/", |key, _, _| other(key)).await?);
        for batch in doomed.chunks(SEGMENTS) {
            self.check(false).await?;
            let failed = self.volume.store().delete_many(batch).await?;
            self.done.debris += (batch.len() - failed.len()) as u64;
        }
        Ok(())
    }
}

enum Deleted {
    Yes,
    Left,
    Failed,
    Unknown,
}

async fn under(
    volume: &Volume,
    prefix: &str,
    choose: impl Fn(&str, Timestamp, Timestamp) -> bool,
) -> Result<Vec<Key>, GcError> {
    let mut request = ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() };
    let mut chosen = Vec::new();
    loop {
        let page = volume.store().list(&request).await?;
        let objects = page.objects.into_iter();
        chosen.extend(
            objects
                .filter(|object| choose(object.key.as_str(), object.modified, page.date))
                .map(|object| object.key),
        );
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return Ok(chosen),
        }
    }
}
