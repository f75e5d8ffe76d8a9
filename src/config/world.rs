//! The system's clock and random source.

use crate::world::{Clock, Entropy, Timestamp, World};
use nix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The world as it is.
pub fn system_world() -> World {
    World { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_system_time(SystemTime::now())
    }

    fn boot_time(&self) -> Duration {
        // The clock exists on every Linux since 2.6.39.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        // The only failure is a kernel without getrandom(2); going on without randomness would be worse
        // than ending here.
        aws_lc_rs::rand::fill(buffer).expect("the system's random source works");
    }
}
