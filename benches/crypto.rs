//! Sealing on one core, beside the raw ciphers in the same run: `cargo bench --bench crypto`.
//!
//! Times are the thread's CPU time, not the wall's, so that other work on the machine counts less. What it
//! still does to clock rate and caches both sides of a comparison feel: compare within one run only.
#![allow(missing_docs)]

use aes::Aes256;
use aes::cipher::KeyIvInit;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::time::Duration;
use strongroom::crypto::{Kdf, Keyring, NewSlot, Passphrase, Suite};
use strongroom::units::{FileId, SegmentId, SessionId, VolumeId};
use strongroom::world::Entropy;

const LENGTH: usize = 8 << 20;
const CHUNK: usize = 64 << 10;

struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

fn keyring(suite: Suite) -> Keyring {
    let passphrase = Passphrase::new(vec![5; 32]);
    let slot = NewSlot { label: "bench", passphrase: &passphrase, kdf: Kdf::Raw };
    let slot = (suite != Suite::None).then_some(slot);
    Keyring::create(VolumeId([1; 16]), suite, slot, &Fixed).expect("a keyring").0
}

/// CPU time of the calling thread, shown as wall time is.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn sealing(criterion: &mut Criterion<CpuTime>) {
    let plain = vec![3_u8; LENGTH];
    let segment = SegmentId { session: SessionId([2; 16]), counter: 1 };
    let file = FileId([4; 16]);
    let mut group = criterion.benchmark_group("segment of 8 MiB");
    group.throughput(Throughput::Bytes(LENGTH as u64)).sample_size(30);

    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[9; 32]).expect("a key"));
    let mut buffer = plain.clone();
    group.bench_function("raw aws-lc-rs AES-256-GCM, 64 KiB in place", |bencher| {
        bencher.iter(|| {
            for chunk in buffer.chunks_mut(CHUNK) {
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), chunk);
                black_box(tag.expect("sealed").as_ref());
            }
        });
    });
    group.bench_function("raw cfb-mode AES-256-CFB, serial, in place", |bencher| {
        bencher.iter(|| {
            for chunk in buffer.chunks_mut(CHUNK) {
                let cipher = cfb_mode::Encryptor::<Aes256>::new(&[9; 32].into(), &[1; 16].into());
                cipher.encrypt(black_box(chunk));
            }
        });
    });
    for suite in Suite::ALL {
        let keyring = keyring(suite);
        group.bench_function(format!("seal {suite}"), |bencher| {
            bencher
                .iter(|| keyring.seal_segment(segment, file, &[&plain], &Fixed).expect("sealed"));
        });
        let (sealed, spec) =
            keyring.seal_segment(segment, file, &[&plain], &Fixed).expect("sealed");
        let chunks = &sealed[32..];
        let mut opened = Vec::with_capacity(LENGTH);
        group.bench_function(format!("open {suite}"), |bencher| {
            bencher.iter(|| {
                opened.clear();
                keyring.open_chunks(&spec, 0, chunks, &mut opened).expect("opened");
                black_box(opened.len())
            });
        });
    }
    group.finish();
}

criterion_group!(
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = sealing
);
criterion_main!(benches);
