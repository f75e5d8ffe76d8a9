//! Sealed things: bytes from outside must not panic, what was sealed and then changed must not open.

use std::sync::atomic::{AtomicU8, Ordering};
use strongroom::crypto::datasafed::StreamKey;
use strongroom::crypto::{
    HeadOutcome, Kdf, Keyring, KeyringRecord, NewSlot, Passphrase, RecordContext, Role,
    SegmentSpec, Suite,
};
use strongroom::units::{ByteRange, DirId, FileId, SegmentId, SessionId, VolumeId};
use strongroom::volume::native::descriptor::Descriptor;
use strongroom::world::Entropy;

pub(super) const DIR: DirId = DirId([3; 16]);
const FILE: FileId = FileId([2; 16]);
const SEGMENT: SegmentId = SegmentId { session: SessionId([4; 16]), counter: 7 };

/// Bytes that count up, so that a finding can be repeated.
#[derive(Default)]
struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn secret() -> Passphrase {
    Passphrase::new(vec![5; 32])
}

fn made(suite: Suite) -> (Keyring, KeyringRecord) {
    let passphrase = secret();
    let slot = NewSlot { label: "fuzz", passphrase: &passphrase, kdf: Kdf::Raw };
    let slot = (suite != Suite::None).then_some(slot);
    Keyring::create(VolumeId([1; 16]), suite, slot, &Counting::default()).expect("a keyring")
}

/// The same keys at every run.
pub(super) fn keyring(suite: Suite) -> Keyring {
    made(suite).0
}

/// Each three bytes of `changes` flip bits of one byte, or, where they flip none, cut or lengthen.
fn change(sealed: &[u8], changes: &[u8]) -> Vec<u8> {
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

/// A record's object: as it is, and as what is sealed and how it is changed then.
pub(super) fn record_open(input: &[u8]) {
    let context = RecordContext { role: Role::Entry, scope: &DIR.0, name: b"name" };
    for suite in Suite::ALL {
        let keyring = keyring(suite);
        let _ = keyring.open_record(&context, input);
        let _ = keyring.open_record_head(&context, input);
        let _ = keyring.open_name(DIR, input);
        let _ = strongroom::crypto::record_salt(input);
        let Some((&cut, rest)) = input.split_first() else { continue };
        let (body, changes) = rest.split_at(rest.len() / 2);
        let (head, body) = body.split_at(body.len().min(cut.into()));
        let sealed = keyring
            .seal_record(&context, head, body, cut & 1 == 1, &Counting::default())
            .expect("short enough");
        let changed = change(&sealed, changes);
        let whole = keyring.open_record(&context, &changed);
        let outcome = keyring.open_record_head(&context, &changed);
        if changed == sealed {
            let opened = whole.expect("unchanged");
            assert!(opened.head == head && opened.body == body);
        } else {
            // A checksum is no authentication, but finds changes made without knowing of it.
            assert!(whole.is_err(), "changed, and yet it opens");
            if let Ok(HeadOutcome::Opened(opened)) = outcome {
                assert!(opened.head == head, "another head opens");
                assert_eq!(opened.total_length, sealed.len() as u64);
            }
        }
    }
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    super::vectors("record_")
}

/// A segment's object: the same, and with any length and position.
pub(super) fn segment_open(input: &[u8]) {
    let (Some(numbers), Some(rest)) = (input.first_chunk::<20>(), input.get(20..)) else { return };
    let length = u64::from_be_bytes(*numbers.first_chunk().expect("20 bytes"));
    let offset = u64::from_be_bytes(*numbers[8..].first_chunk().expect("12 bytes"));
    let first = u32::from_be_bytes(*numbers[16..].first_chunk().expect("4 bytes"));
    for suite in Suite::ALL {
        let keyring = keyring(suite);
        let master = keyring.current_master();
        let spec = SegmentSpec { segment: SEGMENT, file: FILE, master, length };
        let _ = keyring.sealed_length(length);
        let _ = keyring.sealed_range(length, ByteRange::new(offset, length));
        let mut out = vec![1];
        if keyring.open_chunks(&spec, first, rest, &mut out).is_err() {
            assert_eq!(out, [1], "something is left behind");
        }
        let _ = keyring.open_segment(&spec, rest);

        let (plain, changes) = rest.split_at(rest.len() / 2);
        let sealed = keyring.seal_segment(SEGMENT, FILE, &[plain], &Counting::default());
        let Ok((sealed, spec)) = sealed else { continue };
        let changed = change(&sealed, changes);
        let opened = keyring.open_segment(&spec, &changed);
        if changed == sealed {
            assert!(opened.expect("unchanged") == plain);
        } else {
            assert!(opened.is_err(), "changed, and yet it opens");
        }
    }
}

pub(super) fn segment_seeds() -> Vec<Vec<u8>> {
    let with_numbers = |segment: Vec<u8>| {
        let numbers: [&[u8]; 4] = [&40_u64.to_be_bytes(), &8_u64.to_be_bytes(), &[0; 4], &segment];
        numbers.concat()
    };
    super::vectors("segment_").into_iter().map(with_numbers).collect()
}

/// datasafed's stream, which nothing authenticates: any bytes give bytes, and any range gives the same
/// bytes as reading from the start, in pieces of any length.
pub(super) fn datasafed(input: &[u8]) {
    let Some((numbers, object)) = input.split_first_chunk::<18>() else { return };
    let offset = u64::from_be_bytes(*numbers.first_chunk().expect("18 bytes"));
    let length = u64::from_be_bytes(*numbers[8..].first_chunk().expect("10 bytes"));
    let piece = usize::from(u16::from_be_bytes([numbers[16], numbers[17]])).max(1);
    for suite in [Suite::Aes128Cfb, Suite::Aes192Cfb, Suite::Aes256Cfb] {
        let key = StreamKey::derive(&secret(), suite).expect("a key");
        let Some((iv, cipher)) = object.split_first_chunk::<16>() else { continue };
        // What others have stored beside an object.
        let _ = key.refuses(&String::from_utf8_lossy(object));
        assert_eq!(key.refuses(&key.check(iv)), None, "a key refuses what it enciphered");
        let mut plain = cipher.to_vec();
        let mut decryptor = key.decryptor(*iv);
        plain.chunks_mut(piece).for_each(|piece| decryptor.update(piece));
        let mut again = plain.clone();
        key.encryptor_with_iv(*iv).update(&mut again);
        assert!(again == cipher, "what was deciphered is enciphered to something else");
        let Some(range) = ByteRange::checked(offset, length) else { continue };
        let wanted = StreamKey::object_range(range);
        let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(object.len());
        let part = object[cut(wanted.offset())..cut(wanted.end())].to_vec();
        if let Ok(opened) = key.open_range(range, part) {
            let from = cut(range.offset()).min(plain.len());
            assert!(plain[from..].starts_with(&opened), "a range reads otherwise than the whole");
        }
        let _ = key.open_range(range, object.to_vec());
    }
}

pub(super) fn datasafed_seeds() -> Vec<Vec<u8>> {
    let object = [&[7_u8; 16][..], b"a stream of forty bytes, more or less ..."].concat();
    let seed = |offset: u64, length: u64, piece: u16| {
        let parts: [&[u8]; 4] =
            [&offset.to_be_bytes(), &length.to_be_bytes(), &piece.to_be_bytes(), &object];
        parts.concat()
    };
    vec![seed(0, 40, 5), seed(17, 3, 16), seed(16, 16, 1), seed(39, u64::MAX - 39, 7)]
}

/// The stored keyring: refused, or stored and parsed again as the same. Slots are not tried: their
/// derivation is slow on purpose.
pub(super) fn keyring_json(input: &[u8]) {
    let Ok(record) = serde_json::from_slice::<KeyringRecord>(input) else { return };
    let stored = serde_json::to_vec(&record).expect("a record is JSON");
    let again: KeyringRecord = serde_json::from_slice(&stored).expect("what was stored parses");
    assert!(record == again);
    assert!(record.slots().all(|slot| slot.kdf.check().is_ok()));
}

pub(super) fn keyring_seeds() -> Vec<Vec<u8>> {
    super::vectors("keyring_")
}

/// The descriptor: refused, or authentic and the very one that was sealed here.
pub(super) fn descriptor(input: &[u8]) {
    let Ok(parsed) = Descriptor::parse(input, "descriptor") else { return };
    // Others take their time, and memory, on purpose.
    if parsed.keyring.slots().any(|slot| slot.kdf != Kdf::Raw) {
        return;
    }
    let _ = parsed.open(None, "descriptor");
    if let Ok(keyring) = parsed.open(Some(&secret()), "descriptor") {
        let suites = Suite::ALL.into_iter().filter(|suite| *suite == keyring.suite());
        let mut sealed = suites.map(|suite| sealed_descriptor(suite).0);
        let ours = sealed.next().expect("a known suite");
        assert_eq!(parsed.mac, ours.mac, "a changed descriptor opens");
    }
}

fn sealed_descriptor(suite: Suite) -> (Descriptor, Vec<u8>) {
    let (keyring, record) = made(suite);
    let mut descriptor = Descriptor::new(&keyring, record);
    let sealed = descriptor.seal(&keyring);
    (descriptor, sealed)
}

pub(super) fn descriptor_seeds() -> Vec<Vec<u8>> {
    Suite::ALL.into_iter().map(|suite| sealed_descriptor(suite).1).collect()
}
