//! Writes down what a process that takes over needs of a node, whenever its state is changed and given up. So nothing
//! that is acknowledged is missing, since every acknowledgement comes after that. A mount that nobody can take over
//! has nothing to write to and pays one branch.

use super::remembered::Keep;
use super::table::State;
use crate::fs::types::Ino;
use parking_lot::{Mutex, MutexGuard};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A state that is written down when it was changed.
pub(super) struct Recorded {
    state: Mutex<State>,
    keep: Option<Arc<Keep>>,
    ino: Ino,
}

/// The lock.
pub(super) struct Guard<'a> {
    state: MutexGuard<'a, State>,
    of: &'a Recorded,
    is_touched: bool,
    is_silent: bool,
}

impl Recorded {
    pub(super) fn new(state: State, keep: Option<Arc<Keep>>, ino: Ino) -> Self {
        Self { state: Mutex::new(state), keep, ino }
    }

    pub(super) fn lock(&self) -> Guard<'_> {
        Guard { state: self.state.lock(), of: self, is_touched: false, is_silent: false }
    }

    /// The same for a step of a change whose next step writes it down.
    pub(super) fn lock_silently(&self) -> Guard<'_> {
        Guard { state: self.state.lock(), of: self, is_touched: false, is_silent: true }
    }

    /// Nobody needs it any more: what was written of it is of no account.
    pub(super) fn forget(&self) {
        if let Some(keep) = &self.keep {
            keep.forget(self.ino, &mut self.state.lock().written);
        }
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
        self.is_touched = true;
        &mut self.state
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.is_touched
            && !self.is_silent
            && let Some(keep) = &self.of.keep
        {
            keep.record(self.of.ino, &mut self.state);
        }
    }
}
