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
use std::collections::{HashMap, HashSet, VecDeque};
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
    /// It only collects garbage.
    collects: bool,
    state: Mutex<State>,
    /// One renewal at a time: each is based on the former one's ETag.
    turn: tokio::sync::Mutex<()>,
    /// One look at who has the volume for itself at a time.
    admission: tokio::sync::Mutex<()>,
}

/// What a process must know of the session of the one that it takes over from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its id.
    pub id: SessionId,
    /// Ids that were declared dead before.
    pub former: Vec<SessionId>,
    /// Segment numbers below this one may have been used.
    pub next_segment: u64,
    /// It stands in the store, or did.
    pub begun: bool,
    /// It had the volume for itself.
    pub alone: bool,
}

/// Keeps what a process that takes over needs.
pub trait Keep: Send + Sync {
    /// The session changed. Called with a lock held.
    fn session(&self, session: &Kept);
    /// A record is about to be sent under this publish id; `forgotten` is an older one, if there are many.
    fn publish(&self, id: u64, forgotten: Option<u64>);
}

/// Publish ids that are kept of what was sent last.
const PUBLISHES_KEPT: usize = 4096;

/// Segment numbers that are kept as used at a time.
const NUMBERS_KEPT: u64 = 4096;

/// Who may write beside this session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writers {
    /// Others too. `admitted`: nobody had the volume for itself after this session was stored.
    Many { admitted: bool },
    /// This one alone.
    One,
    /// This one alone, until another one took over: it changes nothing any more.
    Others,
}

struct State {
    id: SessionId,
    writers: Writers,
    next_segment: u64,
    /// Ids that were declared dead.
    former: Vec<SessionId>,
    etag: Option<ETag>,
    renewals: u64,
    renewed_at: Option<Duration>,
    pins: HashMap<FileId, u32>,
    /// Salts of renewals of which no answer came: what stands in the store may be one of them.
    unsettled: Vec<[u8; 16]>,
    /// Tells whoever takes over; segment numbers up to this one are told already.
    keep: Option<Box<dyn Keep>>,
    /// It stands in the store, or did when a former process wrote that down.
    begun: bool,
    /// It goes on where a former process stopped: what that one stored may not be published yet.
    carried_on: bool,
    /// Publish ids of what this process and former ones sent last, if one can take over.
    sent: VecDeque<u64>,
    /// Those that former processes sent.
    inherited: HashSet<u64>,
    numbers_kept: u64,
}

impl Session {
    pub(super) fn new(id: SessionId, host: String, program: String, collects: bool) -> Self {
        let state = State {
            id,
            writers: Writers::Many { admitted: false },
            next_segment: 1,
            former: Vec::new(),
            etag: None,
            renewals: 0,
            renewed_at: None,
            pins: HashMap::new(),
            unsettled: Vec::new(),
            keep: None,
            begun: false,
            carried_on: false,
            sent: VecDeque::new(),
            inherited: HashSet::new(),
            numbers_kept: 0,
        };
        Self {
            host,
            program,
            collects,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::default(),
            admission: tokio::sync::Mutex::default(),
        }
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
        if state.next_segment > state.numbers_kept {
            state.tell();
        }
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
        if !begun {
            self.renew(volume, true).await?;
        }
        self.check_lease(volume).await
    }

    /// Begins as the only writer; [`Volume::take_exclusively`] sees to it that this is true.
    pub(super) async fn begin_exclusive(&self, volume: &Volume) -> Result<(), VolumeError> {
        if volume.is_read_only() {
            return Err(VolumeError::ReadOnly);
        }
        {
            let mut state = self.state.lock();
            state.writers = Writers::One;
            state.tell();
        }
        self.renew(volume, true).await
    }

    /// Tells `keep` what a process that takes over from this one needs, from now on and with every change;
    /// with `former`, goes on as the session of the process that this one takes over from. To be called
    /// before anything is changed through this session.
    ///
    /// If that session was declared dead meanwhile, this one starts anew as it does after any silence, and
    /// what was stored under the former id is stored again before a record refers to it.
    ///
    /// # Errors
    /// `TakenOver` if the session had the volume for itself and another one has it now.
    pub async fn carry_on(
        &self,
        volume: &Volume,
        former: Option<Kept>,
        publishes: Vec<u64>,
        keep: Box<dyn Keep>,
    ) -> Result<(), VolumeError> {
        let begun = {
            let mut state = self.state.lock();
            let begun = former.as_ref().is_some_and(|former| former.begun);
            if let Some(Kept { id, former, next_segment, begun: _, alone }) = former {
                state.id = id;
                state.former = former;
                state.next_segment = next_segment;
                (state.begun, state.carried_on) = (begun, true);
                if alone {
                    state.writers = Writers::One;
                }
            }
            state.inherited = publishes.iter().copied().collect();
            state.sent = publishes.into();
            state.keep = Some(keep);
            state.tell();
            begun
        };
        let key = keys::session(self.id());
        let found = match volume.store().get(&key, None, None).await {
            Ok(Fetched::Object(object)) => Some(object),
            Ok(Fetched::Unchanged) => None,
            Err(missing) if missing.kind == StoreErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let Some(object) = found else {
            // Ended by a drain, or never begun: nothing is lost by beginning it anew, unless segments were
            // stored under it that nothing refers to yet.
            return if begun { self.start_anew(volume).await } else { Ok(()) };
        };
        let bytes = object.body.bytes();
        volume.learn_master(crate::crypto::record_master(&bytes)).await;
        let opened = volume
            .keyring()
            .open_record(&context(key.as_str()), &bytes)
            .map_err(|error| VolumeError::corrupt(&key, error))?;
        let stored = proto::Session::decode(&opened.head[..])
            .map_err(|_| VolumeError::corrupt(&key, "not a session"))?;
        if !stored.fenced_by.is_empty() {
            return self.start_anew(volume).await;
        }
        {
            let mut state = self.state.lock();
            state.etag = Some(object.meta.etag);
            state.renewals = stored.renewals;
            state.begun = true;
            // In the store, but silent for who knows how long: nothing is acknowledged before the renewal.
            state.renewed_at = Some(Duration::ZERO);
        }
        self.renew(volume, false).await
    }

    /// Whether the last change of a record was sent by this process or one that it took over from.
    pub fn made_last(&self, publishes: &[u64]) -> bool {
        publishes.last().is_some_and(|last| self.state.lock().sent.contains(last))
    }

    /// Whether the last change of a record was sent by a process that this one took over from: such a request
    /// may arrive after that process was killed.
    pub(super) fn is_of_former(&self, publishes: &[u64]) -> bool {
        publishes.last().is_some_and(|last| self.state.lock().inherited.contains(last))
    }

    /// Whether a former process may have stored what nothing refers to yet under this session.
    pub(super) fn is_carried_on(&self) -> bool {
        self.state.lock().carried_on
    }

    /// A record is about to be sent under this publish id.
    pub(super) fn sends(&self, id: u64) {
        let mut state = self.state.lock();
        if state.keep.is_none() {
            return;
        }
        let full = state.sent.len() >= PUBLISHES_KEPT;
        let forgotten = full.then(|| state.sent.pop_front()).flatten();
        state.sent.push_back(id);
        if let Some(keep) = &state.keep {
            keep.publish(id, forgotten);
        }
    }

    /// Goes on under another id, since the former one was declared dead.
    async fn start_anew(&self, volume: &Volume) -> Result<(), VolumeError> {
        let _turn = self.turn.lock().await;
        self.replace_id(volume)?;
        self.renew_once(volume).await
    }

    /// Whether this session is the only writer, and was not silent for so long that another one may be.
    pub fn has_volume(&self, now: Duration) -> bool {
        let state = self.state.lock();
        state.writers == Writers::One
            && state.renewed_at.is_some_and(|at| now.saturating_sub(at) < LEASE)
    }

    /// A session that stands in the store now looks whether another one has the volume for itself.
    async fn admit(&self, volume: &Volume) -> Result<(), VolumeError> {
        let _one = self.admission.lock().await;
        if self.collects || self.state.lock().writers != (Writers::Many { admitted: false }) {
            return Ok(());
        }
        let id = self.id();
        if let Err(error) = volume.check_not_exclusive().await {
            // Nobody shall wait for a session that cannot write; but what a former process stored under it may
            // not be published yet.
            if !self.is_carried_on() {
                self.end(volume).await?;
            }
            return Err(error);
        }
        let mut state = self.state.lock();
        if state.id == id && state.writers == (Writers::Many { admitted: false }) {
            state.writers = Writers::Many { admitted: true };
        }
        Ok(())
    }

    /// To be called before a change is acknowledged: the lease held when the store answered. If it did
    /// not, the session starts anew, see [`Self::epoch`].
    pub async fn check_lease(&self, volume: &Volume) -> Result<(), VolumeError> {
        let renewed_at = self.state.lock().renewed_at;
        let now = volume.world().clock.boot_time();
        if renewed_at.is_none_or(|at| now.saturating_sub(at) >= LEASE) {
            self.renew(volume, false).await?;
        }
        let writers = self.state.lock().writers;
        match writers {
            Writers::Many { admitted: true } | Writers::One => Ok(()),
            Writers::Many { admitted: false } => self.admit(volume).await,
            Writers::Others => Err(VolumeError::TakenOver),
        }
    }

    /// Asks the store now whether the lease still holds, since something looks as if it did not.
    ///
    /// # Errors
    /// `TakenOver` if another one has the volume for itself by now.
    pub async fn confirm_lease(&self, volume: &Volume) -> Result<(), VolumeError> {
        self.renew(volume, false).await
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
        if self.state.lock().writers == Writers::Others {
            return Err(VolumeError::TakenOver);
        }
        match self.renew_once(volume).await {
            Err(VolumeError::Fenced) => {}
            other => return other,
        }
        self.replace_id(volume)?;
        self.renew_once(volume).await
    }

    fn replace_id(&self, volume: &Volume) -> Result<(), VolumeError> {
        let id = SessionId(volume.world().entropy.bytes());
        let mut state = self.state.lock();
        if state.writers == Writers::One {
            // What it decided without asking the store may be wrong by now.
            state.writers = Writers::Others;
            return Err(VolumeError::TakenOver);
        }
        let former = std::mem::replace(&mut state.id, id);
        state.former.push(former);
        state.next_segment = 1;
        state.numbers_kept = 0;
        state.not_begun();
        tracing::warn!(
            "session {former} was silent for too long and was declared dead: {id} goes on in its place, \
             and stores again what is not published yet"
        );
        Ok(())
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
            collects: self.collects,
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
        if !begun {
            state.begun = true;
            state.tell();
        }
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
            // A renewal of the process that this one took over from may arrive late.
            let alive = self.is_carried_on() && self.is_alive(volume, key, &object.body.bytes());
            let ours = {
                let mut state = self.state.lock();
                let ours = alive || found.is_some_and(|found| state.unsettled.contains(&found));
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

impl Session {
    /// Whether these bytes are this session's record, and nobody has declared it dead.
    fn is_alive(&self, volume: &Volume, key: &Key, bytes: &[u8]) -> bool {
        let opened = volume.keyring().open_record(&context(key.as_str()), bytes);
        opened.is_ok_and(|opened| {
            proto::Session::decode(&opened.head[..]).is_ok_and(|found| found.fenced_by.is_empty())
        })
    }
}

impl State {
    /// As before the first change; pins and numbers stay.
    fn not_begun(&mut self) {
        self.writers = match self.writers {
            Writers::Others => Writers::Others,
            Writers::Many { .. } | Writers::One => Writers::Many { admitted: false },
        };
        self.etag = None;
        self.renewals = 0;
        self.renewed_at = None;
        self.begun = false;
        self.unsettled.clear();
        self.tell();
    }

    /// Writes down what a process that takes over needs.
    fn tell(&mut self) {
        let Some(keep) = &self.keep else { return };
        self.numbers_kept = self.next_segment.saturating_add(NUMBERS_KEPT);
        keep.session(&Kept {
            id: self.id,
            former: self.former.clone(),
            next_segment: self.numbers_kept,
            begun: self.begun,
            alone: self.writers == Writers::One,
        });
    }
}

/// What a session's record is bound to.
pub(super) fn context(key: &str) -> RecordContext<'_> {
    RecordContext { role: Role::Session, scope: &[], name: key.as_bytes() }
}
