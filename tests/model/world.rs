//! A world that a seed decides: a clock that moves when it is looked at or told to, random bytes from
//! a generator, and volumes in it.

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use strongroom::crypto::{Kdf, NewSlot, Passphrase, Suite};
use strongroom::store::Store;
use strongroom::volume::VolumeError;
use strongroom::volume::native::record::Attributes;
use strongroom::volume::native::{InitSettings, OpenSettings, Volume};
use strongroom::world::{Clock, Entropy, Timestamp, World};

/// 2026-01-01.
const START: i64 = 1_767_225_600_000_000_000;

/// A clock that goes on by a microsecond whenever it is read, so that no two readings are equal.
#[derive(Default)]
pub(crate) struct SimulatedClock(AtomicU64);

impl SimulatedClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    fn tick(&self) -> u64 {
        self.0.fetch_add(1000, Ordering::SeqCst)
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        Timestamp(START + self.tick() as i64)
    }

    fn boot_time(&self) -> Duration {
        Duration::from_nanos(self.tick())
    }
}

struct SimulatedEntropy(Mutex<StdRng>);

impl Entropy for SimulatedEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().fill(buffer);
    }
}

/// The world of one seed, and its clock to be moved.
pub(crate) fn world(seed: u64) -> (World, Arc<SimulatedClock>) {
    let clock = Arc::new(SimulatedClock::default());
    let entropy = Arc::new(SimulatedEntropy(Mutex::new(StdRng::seed_from_u64(seed ^ 0x5eed))));
    (World { clock: clock.clone(), entropy }, clock)
}

fn passphrase() -> Passphrase {
    Passphrase::new(vec![7; 32])
}

/// Makes a volume.
pub(crate) async fn init(
    store: &Arc<dyn Store>,
    world: &World,
    suite: Suite,
) -> Result<(), VolumeError> {
    let passphrase = passphrase();
    let slot = (suite != Suite::None).then_some(NewSlot {
        label: "test",
        passphrase: &passphrase,
        kdf: Kdf::Raw,
    });
    let root = Attributes { mode: 0o755, ..Attributes::default() };
    Volume::init(store, world, InitSettings { suite, slot, root }).await
}

/// Opens it, as one more session.
pub(crate) async fn open(
    store: Arc<dyn Store>,
    world: &World,
    suite: Suite,
) -> Result<Arc<Volume>, VolumeError> {
    let settings = OpenSettings {
        read_only: false,
        cache_bytes: 4 << 20,
        host: "node".to_owned(),
        program: "test".to_owned(),
        collects: false,
    };
    let passphrase = (suite != Suite::None).then(passphrase);
    let volume = Volume::open(store, world.clone(), passphrase.as_ref(), settings).await?;
    volume.probe().await?;
    Ok(volume)
}
