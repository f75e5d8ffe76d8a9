//! Sealing on one core, beside the raw ciphers in the same run: `cargo bench --bench crypto`.
#![allow(missing_docs)]

use aes::Aes256;
use aes::cipher::KeyIvInit;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
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

fn sealing(criterion: &mut Criterion) {
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
                let tag = black_box(
                    key.seal_in_place_separate_tag(nonce, Aad::empty(), chunk).expect("sealed"),
                );
                let _ = black_box(tag);
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

criterion_group!(benches, sealing);
criterion_main!(benches);
