//! Writes down what a process that takes over needs, as it changes: an inode's state whenever its lock is
//! given up. So nothing that is acknowledged is missing, since every acknowledgement comes after that, and
//! no operation has to think of it. A mount that nobody can take over has no recorder and pays one branch.

use super::errno::FsError;
use super::inode::{Body, Identity, State};
use super::ledger::Ledger;
use super::remembered::{ChangedForm, ContentChange, HandleForm, NodeForm, content_key, key};
use super::types::{HandleId, Ino, OpenMode, Opened};
use crate::store::ETag;
use crate::volume::native::Place;
use crate::world::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// What writes, and what numbers the changes of content.
pub(super) struct Recorder {
    pub(super) ledger: Ledger,
    pub(super) arena: Arc<super::arena::Arena>,
    /// What ids of new things are made from.
    pub(super) secret: [u8; 32],
}

/// A state that is written down when its lock is given up.
pub(super) struct Recorded {
    state: Mutex<State>,
    recorder: Option<Arc<Recorder>>,
    ino: Ino,
    identity: Identity,
}

/// The lock.
pub(super) struct Guard<'a> {
    state: MutexGuard<'a, State>,
    of: &'a Recorded,
}

impl Recorded {
    pub(super) fn new(
        state: State,
        recorder: Option<Arc<Recorder>>,
        ino: Ino,
        identity: Identity,
    ) -> Self {
        Self { state: Mutex::new(state), recorder, ino, identity }
    }

    pub(super) fn lock(&self) -> Guard<'_> {
        let mut state = self.state.lock();
        if self.recorder.is_some()
            && let Body::File(body) = &mut state.content
        {
            body.remembers_changes = true;
        }
        Guard { state, of: self }
    }

    /// Nobody needs it any more: what was written of it is of no account.
    pub(super) fn forget(&self) {
        let Some(recorder) = &self.recorder else { return };
        recorder.forget(self.ino, &mut self.state.lock().written);
    }
}

impl Deref for Guard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(recorder) = &self.of.recorder {
            recorder.record(self.of.ino, self.of.identity, &mut self.state);
        }
    }
}

/// What the ledger has of an inode.
#[derive(Default)]
pub(super) struct Written {
    node: Option<WrittenNode>,
    lookups: u64,
    changed: Option<WrittenChange>,
    /// Changes of content, by order; all of the content with this mark.
    content: VecDeque<u64>,
    content_mark: u64,
    /// The ledger has an entry, though perhaps not this one: of a former process.
    has_node: bool,
    has_change: bool,
}

#[derive(PartialEq)]
struct WrittenNode {
    etag: Option<ETag>,
    place: Place,
    names: usize,
    kept_as: bool,
    with_body: bool,
}

#[derive(PartialEq)]
struct WrittenChange {
    modified: u64,
    published: u64,
    links: u32,
    unlinked: bool,
    times_pending: bool,
    lost: bool,
    size: u64,
    settled_size: u64,
    stale: bool,
    times: (Timestamp, Timestamp),
}

impl Written {
    /// What a former process wrote of an inode.
    pub(super) fn adopted(lookups: u64, has_change: bool) -> Self {
        Self { lookups, has_node: true, has_change, ..Self::default() }
    }

    /// What a former process wrote of the content that now has this mark.
    pub(super) fn adopt_content(&mut self, content: VecDeque<u64>, mark: u64) {
        (self.content, self.content_mark) = (content, mark);
    }

    /// The newest change of content that is written.
    pub(super) fn newest_change(&self) -> u64 {
        self.content.back().copied().unwrap_or(0)
    }
}

impl Recorder {
    fn record(&self, ino: Ino, identity: Identity, state: &mut State) {
        let open_and_gone = state.unlinked && state.handles > 0;
        let needed = state.lookups > 0
            || state.handles > 0
            || state.is_changed() && !state.unlinked
            || state.times_pending;
        if !needed && !state.written.has_node {
            return;
        }
        // First where the bytes are, then what is based on it: a reader of half of this finds more than it
        // needs, never less.
        self.record_content(ino, state);
        let node = WrittenNode {
            etag: state.home.as_ref().map(|home| home.etag.clone()),
            place: state.place.clone(),
            names: state.names.len(),
            kept_as: state.kept_as.is_some(),
            with_body: open_and_gone,
        };
        if state.written.node.as_ref() != Some(&node) {
            let form = NodeForm::of(
                identity,
                state.kept_as,
                &state.place,
                state.home.as_ref(),
                open_and_gone,
                state.names.iter(),
            );
            self.ledger.put(&key(b'N', ino.0), &form.encode_to_vec());
            state.written.node = Some(node);
            state.written.has_node = true;
        }
        if state.written.lookups != state.lookups {
            self.ledger.put(&key(b'L', ino.0), &state.lookups.to_le_bytes());
            state.written.lookups = state.lookups;
        }
        self.record_change(ino, state);
        self.drop_published(ino, state);
    }

    /// Attributes and size, as long as the store does not have them.
    fn record_change(&self, ino: Ino, state: &mut State) {
        let home_links = state.home.as_ref().map_or(1, |home| home.record.links.max(1));
        // Every other failure is met again when what is not stored is tried again.
        let stale = match &state.failure {
            Some(FsError::Stale { message }) => Some(message),
            _ => None,
        };
        let wanted = state.is_changed()
            || state.unlinked
            || state.times_pending
            || state.lost
            || stale.is_some()
            || state.links != home_links;
        let (size, settled_size) = match &state.content {
            Body::File(body) => (body.size, body.settled_size),
            _ => (0, 0),
        };
        let change = wanted.then_some(WrittenChange {
            modified: state.modified,
            published: state.published,
            links: state.links,
            unlinked: state.unlinked,
            times_pending: state.times_pending,
            lost: state.lost,
            size,
            settled_size,
            stale: stale.is_some(),
            times: (state.attributes.mtime, state.attributes.ctime),
        });
        if state.written.changed == change && (change.is_some() || !state.written.has_change) {
            return;
        }
        state.written.has_change = change.is_some();
        let key = key(b'A', ino.0);
        if change.is_some() {
            let form = ChangedForm {
                links: state.links,
                unlinked: state.unlinked,
                changed: state.is_changed(),
                times_pending: state.times_pending,
                lost: state.lost,
                size: matches!(state.content, Body::File(_)).then_some(size),
                settled_size,
                stale: stale.cloned(),
                ..ChangedForm::of(&state.attributes)
            };
            self.ledger.put(&key, &form.encode_to_vec());
        } else {
            self.ledger.remove(&key);
        }
        state.written.changed = change;
    }

    /// Where bytes were stored, or what was cut, since the lock was taken.
    fn record_content(&self, ino: Ino, state: &mut State) {
        let State { content, written, .. } = state;
        let Body::File(body) = content else { return };
        if written.content_mark != body.mark {
            // Other content than before: what is known of that is of no account.
            for order in written.content.drain(..) {
                self.ledger.remove(&content_key(ino, order));
            }
            written.content_mark = body.mark;
        }
        for (range, piece) in body.changes.drain(..) {
            let order = self.arena.next_sequence();
            let change = ContentChange { range, piece };
            self.ledger.put(&content_key(ino, order), &change.encode());
            written.content.push_back(order);
        }
    }

    /// Changes of content that the record in the store has, and that no run in the arena is older than.
    fn drop_published(&self, ino: Ino, state: &mut State) {
        let State { content, written, published_change, .. } = state;
        let Body::File(body) = content else { return };
        if *published_change == 0 || written.content.is_empty() || body.uploads > 0 {
            return;
        }
        let oldest = body.dirty.oldest().unwrap_or(u64::MAX);
        while let Some(order) =
            written.content.pop_front_if(|order| *order <= *published_change && *order < oldest)
        {
            self.ledger.remove(&content_key(ino, order));
        }
        if written.content.front().is_none_or(|order| *order > *published_change) {
            *published_change = 0;
        }
    }

    /// An open file; `unique` is the request that opened it.
    pub(super) fn opened(&self, opened: Opened, ino: Ino, mode: OpenMode, unique: u64) {
        let Opened { handle, direct_io, keep_cache } = opened;
        let form = HandleForm::of(ino, mode, (direct_io, keep_cache), unique);
        self.ledger.put(&key(b'H', handle.0), &form.encode_to_vec());
    }

    /// An open directory.
    pub(super) fn opened_directory(&self, handle: HandleId, ino: Ino) {
        let form = HandleForm::of(ino, OpenMode::default(), (false, false), 0);
        self.ledger.put(&key(b'D', handle.0), &form.encode_to_vec());
    }

    /// Either is closed.
    pub(super) fn closed(&self, handle: HandleId) {
        self.ledger.remove(&key(b'H', handle.0));
        self.ledger.remove(&key(b'D', handle.0));
    }

    fn forget(&self, ino: Ino, written: &mut Written) {
        let Written {
            node: _,
            lookups,
            changed: _,
            content,
            content_mark: _,
            has_node,
            has_change,
        } = std::mem::take(written);
        for order in content {
            self.ledger.remove(&content_key(ino, order));
        }
        if has_change {
            self.ledger.remove(&key(b'A', ino.0));
        }
        if lookups > 0 {
            self.ledger.remove(&key(b'L', ino.0));
        }
        if has_node {
            self.ledger.remove(&key(b'N', ino.0));
        }
    }
}
