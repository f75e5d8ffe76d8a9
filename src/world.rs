//! Rank 0: what the engine needs from the world around it, as traits, so that a test can replay a run
//! from one seed. No layer below the configuration reads the clock or the random source by itself.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time as stored in records: nanoseconds since 1970-01-01 UTC, negative before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The same point in time for the standard library.
    pub fn to_system_time(self) -> SystemTime {
        let nanos = Duration::from_nanos(self.0.unsigned_abs());
        if self.0 >= 0 { UNIX_EPOCH + nanos } else { UNIX_EPOCH - nanos }
    }

    /// From the standard library's time; times beyond the years 1677 and 2262 saturate.
    pub fn from_system_time(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_nanos()).unwrap_or(i64::MAX)),
            Err(before) => {
                Self(i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos))
            }
        }
    }
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Wall clock: for what users see as mtime. Never used to decide an age or a lease.
    fn now(&self) -> Timestamp;
    /// Time since some fixed start that also counts while the machine sleeps (CLOCK_BOOTTIME): for leases.
    fn boot_time(&self) -> Duration;
}

/// A source of unpredictable bytes.
pub trait Entropy: Send + Sync {
    /// Fills the buffer.
    fn fill(&self, buffer: &mut [u8]);
}

impl dyn Entropy + '_ {
    /// `N` fresh bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

/// The sources handed to a layer at its start.
#[derive(Clone)]
pub struct World {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Unpredictable bytes.
    pub entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}
