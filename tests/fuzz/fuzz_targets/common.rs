//! What the targets share: fixed identifiers and keys, and changes that are read from the input.
#![allow(dead_code)]

use std::sync::atomic::{AtomicU8, Ordering};
use strongroom::crypto::{Kdf, Keyring, NewSlot, Passphrase, Suite};
use strongroom::units::{DirId, FileId, SegmentId, SessionId, VolumeId};
use strongroom::world::Entropy;

pub const DIR: DirId = DirId([3; 16]);
pub const FILE: FileId = FileId([2; 16]);
pub const SEGMENT: SegmentId = SegmentId { session: SessionId([4; 16]), counter: 7 };

/// Bytes that count up, so that a finding can be repeated.
#[derive(Default)]
pub struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub fn keyring(suite: Suite) -> Keyring {
    let passphrase = Passphrase::new(vec![5; 32]);
    let slot = NewSlot { label: "fuzz", passphrase: &passphrase, kdf: Kdf::Raw };
    let slot = (suite != Suite::None).then_some(slot);
    Keyring::create(VolumeId([1; 16]), suite, slot, &Counting::default()).expect("a keyring").0
}

/// Each three bytes of `changes` flip bits of one byte, or, where they flip none, cut or lengthen.
pub fn change(sealed: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut changed = sealed.to_vec();
    for step in changes.as_chunks::<3>().0 {
        let place = usize::from(u16::from_be_bytes([step[0], step[1]]));
        match (changed.get_mut(place), step[2]) {
            (Some(_), 0) => changed.truncate(place),
            (Some(byte), bits) => *byte ^= bits,
            (None, byte) => changed.push(byte),
        }
    }
    changed
}
