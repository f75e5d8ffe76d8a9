//! Sessions: one mount or one run of the tool. A session says in the store that it lives, since its
//! segments must not be swept while records that refer to them are still to be published, and which
//! files it holds open, since another node may unlink them.
//!
//! Crash story: a session is written before its first change and renewed about every minute, each time
//! by CAS. Whoever believes it dead first replaces it by CAS, so a renewal that succeeds proves that
//! nobody did. After a long silence (suspend, outage) nothing is acknowledged before such a renewal.
//!
//! A session that was declared dead starts anew under another id; its pins go with it. Segments that it
//! had stored and no record refers to yet may be swept from then on: [`Session::epoch`] tells whoever is
//! about to publish them that they must be stored again first.

use super::{Volume, keys, proto};
use crate::crypto::{RecordContext, Role};
use crate::store::{ETag, Fetched, Key, PutWhen, StoreError, StoreErrorKind};
use crate::units::{FileId, SegmentId, SessionId};
use crate::volume::VolumeError;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::time::Duration;

/// How often a living session renews itself.
pub const RENEWAL: Duration = Duration::from_secs(60);
/// For how long after a renewal changes are acknowledged without another one.
pub const LEASE: Duration = Duration::from_secs(300);
/// Renewals without an answer that are remembered; more than an outage of a day makes.
const UNSETTLED: usize = 2048;
/// How often one renewal is sent, each time based on what was read.
const ATTEMPTS: usize = 4;
/// The stored form's version.
const FORMAT: u32 = 1;

/// This process's session.
pub struct Session {
    host: String,
    program: String,
    state: Mutex<State>,
    /// One renewal at a time: each is based on the former one's ETag.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    id: SessionId,
    next_segment: u64,
    /// Ids that were declared dead.
    former: Vec<SessionId>,
    etag: Option<ETag>,
    renewals: u64,
    renewed_at: Option<Duration>,
    pins: HashMap<FileId, u32>,
    /// Salts of renewals of which no answer came: what stands in the store may be one of them.
    unsettled: Vec<[u8; 16]>,
}

impl Session {
    pub(super) fn new(id: SessionId, host: String, program: String) -> Self {
        let state = State {
            id,
            next_segment: 1,
            former: Vec::new(),
            etag: None,
            renewals: 0,
            renewed_at: None,
            pins: HashMap::new(),
            unsettled: Vec::new(),
        };
        Self { host, program, state: Mutex::new(state), turn: tokio::sync::Mutex::default() }
    }

    /// The session's id, until it is declared dead.
    pub fn id(&self) -> SessionId {
        self.state.lock().id
    }

    /// How often this session was declared dead and started anew.
    pub fn epoch(&self) -> u64 {
        self.state.lock().former.len() as u64
    }

    /// Whether segments of this session may be swept unless a record refers to them: it was this one's
    /// id until it was declared dead.
    pub fn is_former(&self, session: SessionId) -> bool {
        self.state.lock().former.contains(&session)
    }

    /// `count` consecutive segment numbers, never given out before.
    pub fn take_segments(&self, count: u64) -> SegmentId {
        let mut state = self.state.lock();
        let counter = state.next_segment;
        state.next_segment += count;
        SegmentId { session: state.id, counter }
    }

    /// Keeps a file's segments from being swept while it is open here, from the next renewal on. Until
    /// then the grace period of whoever buries its last name does.
    pub fn pin(&self, file: FileId) {
        *self.state.lock().pins.entry(file).or_default() += 1;
    }

    /// Takes one pin back.
    pub fn unpin(&self, file: FileId) {
        let mut state = self.state.lock();
        if let Some(count) = state.pins.get_mut(&file) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&file);
            }
        }
    }

    /// Makes sure that the session stands in the store before the first change.
    pub async fn begin_change(&self, volume: &Volume) -> Result<(), VolumeError> {
        if volume.is_read_only() {
            return Err(VolumeError::ReadOnly);
        }
        let begun = self.state.lock().renewed_at.is_some();
        if begun { self.check_lease(volume).await } else { self.renew(volume, true).await }
    }

    /// To be called before a change is acknowledged: the lease held when the store answered. If it did
    /// not, the session starts anew, see [`Self::epoch`].
    pub async fn check_lease(&self, volume: &Volume) -> Result<(), VolumeError> {
        let renewed_at = self.state.lock().renewed_at;
        let now = volume.world().clock.boot_time();
        match renewed_at {
            Some(at) if now.saturating_sub(at) < LEASE => Ok(()),
            _ => self.renew(volume, false).await,
        }
    }

    /// Renews the session for as long as the volume lives.
    pub async fn keep_alive(&self, volume: &Volume) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            let begun = {
                let state = self.state.lock();
                // Also who only reads: another node may remove what is open here.
                state.renewed_at.is_some() || !state.pins.is_empty() && !volume.is_read_only()
            };
            if begun && let Err(error) = self.renew(volume, false).await {
                tracing::warn!(session = %self.id(), "session not renewed: {error}");
            }
            // The next renewal does not wait for it.
            match tokio::time::timeout(RENEWAL / 2, volume.refresh_keys()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("keys not read again: {error}"),
                Err(_) => tracing::warn!("keys not read again: the store does not answer"),
            }
        }
    }

    /// Removes the session from the store: everything that it wrote is published.
    pub async fn end(&self, volume: &Volume) -> Result<(), VolumeError> {
        let _turn = self.turn.lock().await;
        let (id, begun) = {
            let state = self.state.lock();
            (state.id, state.renewed_at.is_some())
        };
        if begun {
            volume.store().delete(&keys::session(id), None).await?;
            self.state.lock().not_begun();
        }
        Ok(())
    }

    async fn renew(&self, volume: &Volume, only_begin: bool) -> Result<(), VolumeError> {
        let _turn = self.turn.lock().await;
        if only_begin && self.state.lock().renewed_at.is_some() {
            return Ok(());
        }
        match self.renew_once(volume).await {
            Err(VolumeError::Fenced) => {}
            other => return other,
        }
        let id = SessionId(volume.world().entropy.bytes());
        let former = {
            let mut state = self.state.lock();
            let former = std::mem::replace(&mut state.id, id);
            state.former.push(former);
            state.next_segment = 1;
            state.not_begun();
            former
        };
        tracing::warn!(
            "session {former} was silent for too long and was declared dead: {id} goes on in its place, \
             and stores again what is not published yet"
        );
        self.renew_once(volume).await
    }

    async fn renew_once(&self, volume: &Volume) -> Result<(), VolumeError> {
        let (id, etag, renewals, pins, begun) = {
            let state = self.state.lock();
            let pins: Vec<_> = state.pins.keys().copied().collect();
            (state.id, state.etag.clone(), state.renewals, pins, state.renewed_at.is_some())
        };
        // The lease counts from before the request: the store may have answered any time after.
        let sent_at = volume.world().clock.boot_time();
        let stored = proto::Session {
            format: FORMAT,
            host: self.host.clone(),
            program: self.program.clone(),
            started_at: volume.world().clock.now().0,
            renewals: renewals + 1,
            pinned_files: pins.iter().map(|file| file.0.to_vec()).collect(),
            ..proto::Session::default()
        };
        let key = keys::session(id);
        let sealed = volume
            .keyring()
            .seal_record(
                &context(key.as_str()),
                &stored.encode_to_vec(),
                &[],
                false,
                &*volume.world().entropy,
            )
            .map_err(|error| VolumeError::corrupt(&key, error))?;
        let salt = crate::crypto::record_salt(&sealed)
            .ok_or_else(|| VolumeError::corrupt(&key, "the record just sealed has no salt"))?;
        let etag = self.put(volume, &key, sealed.into(), salt, etag, begun).await?;
        let mut state = self.state.lock();
        state.etag = Some(etag);
        state.renewals = renewals + 1;
        state.renewed_at = Some(sent_at);
        state.unsettled.clear();
        Ok(())
    }

    /// Stores the session's record over its own former one. A lost reply is settled by reading, now or,
    /// if the store cannot be read either, at a later renewal: any record of ours proves that nobody
    /// declared this session dead.
    async fn put(
        &self,
        volume: &Volume,
        key: &Key,
        sealed: Bytes,
        salt: [u8; 16],
        mut etag: Option<ETag>,
        begun: bool,
    ) -> Result<ETag, VolumeError> {
        let capabilities = volume.capabilities();
        for _ in 0..ATTEMPTS {
            let when = match etag {
                Some(etag) if capabilities.if_match => PutWhen::IfMatch(etag),
                None if capabilities.if_absent => PutWhen::IfAbsent,
                _ => PutWhen::Always,
            };
            {
                // Before it is sent: this future may be dropped while it waits for the answer.
                let mut state = self.state.lock();
                if state.unsettled.last() != Some(&salt) {
                    if state.unsettled.len() == UNSETTLED {
                        state.unsettled.remove(0);
                    }
                    state.unsettled.push(salt);
                }
            }
            let error = match volume.store().put(key, sealed.clone(), when).await {
                Ok(etag) => return Ok(etag),
                Err(error) => error,
            };
            let refused =
                matches!(error.kind, StoreErrorKind::PreconditionFailed | StoreErrorKind::NotFound);
            if !error.effect_unknown && !refused {
                return Err(error.into());
            }
            let object = match volume.store().get(key, None, None).await {
                Ok(Fetched::Object(object)) => object,
                Err(missing) if missing.kind == StoreErrorKind::NotFound && begun => {
                    return Err(VolumeError::Fenced);
                }
                // Refused for a reason that cannot be read now: it is, at the next renewal.
                Err(unread) if refused => return Err(unread.into()),
                _ => return Err(error.into()),
            };
            let found = crate::crypto::record_salt(&object.body.bytes());
            if found == Some(salt) {
                return Ok(object.meta.etag);
            }
            let ours = {
                let mut state = self.state.lock();
                let ours = found.is_some_and(|found| state.unsettled.contains(&found));
                if ours {
                    state.etag = Some(object.meta.etag.clone());
                }
                ours
            };
            if !ours {
                // Neither ours nor unchanged: somebody declared this session dead. An answer that is
                // lost says nothing of the sort: the record read may be the one to be replaced.
                return Err(if refused { VolumeError::Fenced } else { error.into() });
            }
            etag = Some(object.meta.etag);
        }
        let error = StoreError::new(StoreErrorKind::Unavailable, "put", key);
        Err(error.with_source("no answer to any of several renewals of the session").into())
    }
}

impl State {
    /// As before the first change; pins and numbers stay.
    fn not_begun(&mut self) {
        self.etag = None;
        self.renewals = 0;
        self.renewed_at = None;
        self.unsettled.clear();
    }
}

/// What a session's record is bound to.
pub(super) fn context(key: &str) -> RecordContext<'_> {
    RecordContext { role: Role::Session, scope: &[], name: key.as_bytes() }
}
