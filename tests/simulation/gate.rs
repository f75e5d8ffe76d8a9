//! One thread, one clock: whoever waits names the time until which it waits, and when everybody waits,
//! the earliest goes on. So a seed decides every interleaving.

use crate::world::SimulatedClock;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often other tasks get their turn before those that do not wait are said to be computing.
const YIELDS: usize = 16;

/// The gate.
pub(crate) struct Gate {
    clock: Arc<SimulatedClock>,
    state: Mutex<State>,
}

struct State {
    now: Duration,
    next: u64,
    waiting: BTreeMap<(Duration, u64), (usize, oneshot::Sender<()>)>,
    /// Of every actor the number of its waits, or `None` if it has ended.
    actors: Vec<Option<usize>>,
    random: StdRng,
}

/// A wait; given up when it is dropped.
struct Waiting<'a> {
    gate: &'a Gate,
    key: (Duration, u64),
    actor: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        state.waiting.remove(&self.key);
        if let Some(Some(waits)) = state.actors.get_mut(self.actor) {
            *waits -= 1;
        }
    }
}

impl Gate {
    pub(crate) fn new(clock: Arc<SimulatedClock>, seed: u64, actors: usize) -> Arc<Self> {
        let state = State {
            now: Duration::ZERO,
            next: 0,
            waiting: BTreeMap::new(),
            actors: vec![Some(0); actors],
            random: StdRng::seed_from_u64(seed),
        };
        Arc::new(Self { clock, state: Mutex::new(state) })
    }

    /// Waits for a while of simulated time. Who is no actor (an index beyond them) is not waited for.
    pub(crate) async fn wait(&self, actor: usize, time: Duration) {
        let (sender, receiver) = oneshot::channel();
        let waiting = {
            let mut state = self.state.lock();
            let key = (state.now + time, state.next);
            state.next += 1;
            state.waiting.insert(key, (actor, sender));
            if let Some(Some(waits)) = state.actors.get_mut(actor) {
                *waits += 1;
            }
            Waiting { gate: self, key, actor }
        };
        // An error: the gate is gone, and the run with it.
        let _ = receiver.await;
        drop(waiting);
    }

    /// An actor has done all that it had to.
    pub(crate) fn finish(&self, actor: usize) {
        self.state.lock().actors[actor] = None;
    }

    pub(crate) fn chance(&self, probability: f64) -> bool {
        self.state.lock().random.random_bool(probability)
    }

    /// A number below `limit`.
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.state.lock().random.random_range(0..limit)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().actors.iter().all(Option::is_none)
    }

    /// Lets one after the other go on until all actors have ended.
    pub(crate) async fn drive(&self) {
        loop {
            loop {
                for _ in 0..YIELDS {
                    tokio::task::yield_now().await;
                }
                // Somebody without a wait is computing on another thread.
                if self.state.lock().actors.iter().flatten().all(|waits| *waits > 0) {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(50)).await;
            }
            if self.is_over() {
                return;
            }
            let next = {
                let mut state = self.state.lock();
                let Some((key, _)) = state.waiting.first_key_value() else { return };
                let key = *key;
                let passed = key.0.saturating_sub(state.now);
                state.now = state.now.max(key.0);
                self.clock.advance(passed);
                state
                    .waiting
                    .get_mut(&key)
                    .map(|(_, sender)| std::mem::replace(sender, oneshot::channel().0))
            };
            let Some(sender) = next else { continue };
            let _ = sender.send(());
        }
    }
}
