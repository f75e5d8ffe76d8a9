//! Cryptography from outside: vectors that others published, vectors frozen here, and what must not open.
//!
//! `STRONGROOM_WRITE_VECTORS=1 cargo test --release --test crypto` writes missing vectors of this format
//! version; an existing one is never overwritten: stored forms are frozen.

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use strongroom::crypto::datasafed::StreamKey;
use strongroom::crypto::{
    CryptoError, HeadOutcome, Kdf, Keyring, KeyringRecord, NewSlot, Passphrase, RecordContext,
    Role, SegmentSpec, Suite,
};
use strongroom::units::{ByteRange, DirId, FileId, SegmentId, SessionId, VolumeId};
use strongroom::world::Entropy;

const VOLUME: VolumeId = VolumeId([0x11; 16]);
const FILE: FileId = FileId([0x22; 16]);
const DIR: DirId = DirId([0x33; 16]);
const SEGMENT: SegmentId = SegmentId { session: SessionId([0x44; 16]), counter: 7 };
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Bytes that count up: the same vectors at every run. For tests alone.
#[derive(Default)]
struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn keyring(suite: Suite) -> (Keyring, KeyringRecord) {
    let passphrase = Passphrase::new(SECRET.to_vec());
    let slot = NewSlot { label: "vector", passphrase: &passphrase, kdf: Kdf::Raw };
    let slot = (suite != Suite::None).then_some(slot);
    Keyring::create(VOLUME, suite, slot, &Counting::default()).expect("a keyring")
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

/// The frozen bytes of a vector; writes it where it is missing and that was asked for.
fn frozen(name: &str, made: &[u8]) -> Vec<u8> {
    let path = vector(name);
    if !path.exists() && std::env::var_os("STRONGROOM_WRITE_VECTORS").is_some() {
        std::fs::write(&path, format!("{}\n", HEXLOWER.encode(made))).expect("vector is written");
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    HEXLOWER.decode(text.trim().as_bytes()).expect("vector is hexadecimal")
}

fn plaintext(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + index / 251) as u8).collect()
}

fn context<'a>(name: &'a [u8]) -> RecordContext<'a> {
    RecordContext { role: Role::Entry, scope: DIR.as_bytes(), name }
}

#[test]
fn stored_forms_of_every_suite_are_frozen() {
    for suite in Suite::ALL {
        let (keyring, record) = keyring(suite);
        let plain = plaintext(65_536 + 100);
        let entropy = Counting::default();
        let (sealed, spec) =
            keyring.seal_segment(SEGMENT, FILE, &[&plain], &entropy).expect("sealed");
        // The whole object is long: its digest stands for the bytes, its start for the reader.
        let digest = blake3::hash(&sealed);
        let stored = frozen(&format!("segment_two_chunks_{suite}.blake3"), digest.as_bytes());
        assert_eq!(stored, digest.as_bytes(), "segment, {suite}");
        assert_eq!(keyring.open_segment(&spec, &sealed).expect("opened"), plain);

        let small = plaintext(40);
        let (sealed, spec) = keyring
            .seal_segment(SEGMENT, FILE, &[&small[..7], &small[7..]], &entropy)
            .expect("sealed");
        let stored = frozen(&format!("segment_40_bytes_{suite}.hex"), &sealed);
        assert_eq!(keyring.open_segment(&spec, &stored).expect("frozen segment opens"), small);

        for (what, tombstone, body) in
            [("entry", false, &b"inline data"[..]), ("tombstone", true, b"")]
        {
            let sealed = keyring
                .seal_record(&context(b"name"), b"head", body, tombstone, &entropy)
                .expect("sealed");
            assert_eq!(sealed.len() % 16, usize::from(tombstone));
            let stored = frozen(&format!("record_{what}_{suite}.hex"), &sealed);
            let opened =
                keyring.open_record(&context(b"name"), &stored).expect("frozen record opens");
            assert_eq!((&opened.head[..], &opened.body[..]), (&b"head"[..], body));
            assert_eq!(opened.tombstone, tombstone);
        }
        let name = keyring.seal_name(DIR, b"name");
        assert_eq!(frozen(&format!("name_{suite}.hex"), &name), name);
        if suite != Suite::None {
            let json = serde_json::to_vec(&record).expect("JSON");
            let stored = frozen(&format!("keyring_raw_{suite}.hex"), &json);
            let record: KeyringRecord =
                serde_json::from_slice(&stored).expect("frozen keyring parses");
            let passphrase = Passphrase::new(SECRET.to_vec());
            let opened = Keyring::open(VOLUME, suite, &record, Some(&passphrase)).expect("opens");
            assert_eq!(opened.seal_name(DIR, b"name"), name);
        }
    }
}

#[test]
fn a_frozen_argon2id_and_pbkdf2_slot_opens() {
    for (name, kdf) in [
        ("keyring_argon2id", Kdf::Argon2id { memory_kib: 8192, passes: 1, lanes: 1 }),
        ("keyring_pbkdf2", Kdf::Pbkdf2HmacSha256 { iterations: 100_000 }),
    ] {
        let passphrase = Passphrase::new(b"correct horse".to_vec());
        let slot = NewSlot { label: "vector", passphrase: &passphrase, kdf };
        let (_, record) =
            Keyring::create(VOLUME, Suite::Aes256Gcm, Some(slot), &Counting::default())
                .expect("made");
        let stored = frozen(&format!("{name}.hex"), &serde_json::to_vec(&record).expect("JSON"));
        let record: KeyringRecord = serde_json::from_slice(&stored).expect("parses");
        assert!(Keyring::open(VOLUME, Suite::Aes256Gcm, &record, Some(&passphrase)).is_ok());
        let wrong = Passphrase::new(b"correct horsf".to_vec());
        let error = Keyring::open(VOLUME, Suite::Aes256Gcm, &record, Some(&wrong)).err();
        assert_eq!(error, Some(CryptoError::WrongPassphrase));
        let other = VolumeId([0x12; 16]);
        assert!(Keyring::open(other, Suite::Aes256Gcm, &record, Some(&passphrase)).is_err());
        assert!(Keyring::open(VOLUME, Suite::Aes256Cfb, &record, Some(&passphrase)).is_err());
    }
}

#[test]
fn slots_and_master_keys_come_and_go() {
    let entropy = Counting::default();
    let (mut keyring, mut record) = keyring(Suite::Aes256Gcm);
    let second = Passphrase::new(b"second passphrase".to_vec());
    let kdf = Kdf::Argon2id { memory_kib: 8192, passes: 1, lanes: 1 };
    let slot = NewSlot { label: "second", passphrase: &second, kdf };
    let id = keyring.add_slot(&mut record, slot, &entropy).expect("added");
    let plain = plaintext(1000);
    let (old, old_spec) = keyring.seal_segment(SEGMENT, FILE, &[&plain], &entropy).expect("sealed");
    let number = keyring.add_master(&mut record, &entropy).expect("rotated");
    assert_eq!(keyring.current_master(), number);
    let id2 = SegmentId { counter: 8, ..SEGMENT };
    let (new, new_spec) = keyring.seal_segment(id2, FILE, &[&plain], &entropy).expect("sealed");
    assert_ne!(old_spec.master, new_spec.master);
    let opened = Keyring::open(VOLUME, Suite::Aes256Gcm, &record, Some(&second)).expect("opens");
    assert_eq!(opened.open_segment(&old_spec, &old).expect("old data stays readable"), plain);
    assert_eq!(opened.open_segment(&new_spec, &new).expect("new data"), plain);
    Keyring::remove_slot(&mut record, id).expect("removed");
    let error = Keyring::open(VOLUME, Suite::Aes256Gcm, &record, Some(&second)).err();
    assert_eq!(error, Some(CryptoError::WrongPassphrase));
    let last = record.slots().next().expect("one is left").id;
    assert!(Keyring::remove_slot(&mut record, last).is_err(), "the last slot stays");
}

/// datasafed's own samples (pkg/encryption) and some made with it.
#[test]
fn datasafed_streams_are_read_and_written_byte_for_byte() {
    let cases: &[(&[u8], &[u8], Suite, &str)] = &[
        (
            b"01234567890123456789012345678901",
            b"foo",
            Suite::Aes128Cfb,
            "3f531b215a8b0774edeb5f07f451f811c6ba0b",
        ),
        (
            b"01234567890123456789012345678901",
            b"foo",
            Suite::Aes192Cfb,
            "65cce058982cde6dec94ee7965c737bd2e9044",
        ),
        (
            b"01234567890123456789012345678901",
            b"foo",
            Suite::Aes256Cfb,
            "cd68a8ba7e886f00326ebd9da560bfca0ad5c4",
        ),
        (
            b"abcdefghijklmnopqrstuvwxyzabcdef",
            b"quick brown fox jumps over the lazy dog",
            Suite::Aes128Cfb,
            "a4fd5ed9b98b780f09c3253dadd81e9b96b52f3fbe215ab0b43e88df82457b5eb4209bdabe4d8edf045763d17807ea559f4d1e316edc9b",
        ),
        (
            b"abcdefghijklmnopqrstuvwxyzabcdef",
            b"quick brown fox jumps over the lazy dog",
            Suite::Aes192Cfb,
            "6d9cfd25a3b5f2299534c87cd6f61f16c153178e74496d9b6b67f351d9c2a4a7c1514a5a4b42efe945ac56baea71f1dff51df9dc40a8a4",
        ),
        (
            b"abcdefghijklmnopqrstuvwxyzabcdef",
            b"quick brown fox jumps over the lazy dog",
            Suite::Aes256Cfb,
            "9456421484adb715d7f6b52663908dd1acf16848077df01942847cc0e835a627c8b5c704b465ea86f47afd4e359c097582e81a544fdbd1",
        ),
        (
            b"S!B\\*d$zDsb=",
            b"The quick brown fox jumps over the lazy dog\n",
            Suite::Aes256Cfb,
            "000102030405060708090a0b0c0d0e0fb2d19fbe591842e3cfb27d3592c467f78eba5e2e8b9d325752d476e8f13fe063b3e47cb1711e9cbb594fe810",
        ),
        (
            b"S!B\\*d$zDsb=",
            b"The quick brown fox jumps over the lazy dog\n",
            Suite::Aes192Cfb,
            "000102030405060708090a0b0c0d0e0fe26f400717fd3a559b07b5445cd4895d3659e831382dfd8479ba03b6babf1b9e71df826c672f4de40d9d5e73",
        ),
        (
            b"S!B\\*d$zDsb=",
            b"The quick brown fox jumps over the lazy dog\n",
            Suite::Aes128Cfb,
            "000102030405060708090a0b0c0d0e0f8567344972ea5766775c3f20c03799f14d5b9bb1768123db0f30f465d7a6b11e48f64c5b8a3cf4c489f31ab2",
        ),
    ];
    for (passphrase, plain, suite, object) in cases {
        let object = HEXLOWER.decode(object.as_bytes()).expect("hexadecimal");
        let key = StreamKey::derive(&Passphrase::new(passphrase.to_vec()), *suite).expect("a key");
        let iv: [u8; 16] = object[..16].try_into().expect("16 bytes");
        let mut bytes = object[16..].to_vec();
        let mut decryptor = key.decryptor(iv);
        let (first, second) = bytes.split_at_mut(2);
        decryptor.update(first);
        decryptor.update(second);
        assert_eq!(bytes, *plain);
        let mut encryptor = key.encryptor_with_iv(iv);
        let (first, second) = bytes.split_at_mut(1);
        encryptor.update(first);
        encryptor.update(second);
        assert_eq!(bytes, object[16..]);
    }
}

/// The tag was computed apart from this program: HKDF of HKDF, as docs/datasafed.md has it.
#[test]
fn the_check_of_a_datasafed_stream_stays_what_it_is() {
    let iv: [u8; 16] = std::array::from_fn(|at| at as u8);
    let key = |passphrase: &str, suite| {
        let passphrase = Passphrase::new(passphrase.as_bytes().to_vec());
        StreamKey::derive(&passphrase, suite).expect("a key")
    };
    let passphrase = "S!B\\*d$zDsb=";
    let own = key(passphrase, Suite::Aes256Cfb);
    let check = own.check(&iv);
    assert_eq!(check, "1-000102030405060708090a0b0c0d0e0f-9f143491b0d0b326");
    let shorter = key(passphrase, Suite::Aes128Cfb);
    assert_eq!(shorter.check(&iv), "1-000102030405060708090a0b0c0d0e0f-6534c3ca424d7975");
    assert_eq!(own.refuses(&check), None);
    assert_eq!(shorter.refuses(&check), Some(iv));
    assert_eq!(key("another one", Suite::Aes256Cfb).refuses(&check), Some(iv));
    // An IV tells nothing of another one.
    let mixed =
        [own.check(&[7; 16]).rsplit_once('-').expect("parts").0, "9f143491b0d0b326"].join("-");
    assert_eq!(own.refuses(&mixed), Some([7; 16]));
    let of_later = check.replacen('1', "2", 1);
    for nonsense in ["", "1", "1-", "1--", "1-é-é", &check[..40], &of_later, &check.to_uppercase()]
    {
        assert_eq!(own.refuses(nonsense), None, "{nonsense}");
    }
    assert_eq!(own.refuses(&format!("{check}00")), None, "of another length");
}

#[test]
fn openssl_reads_a_datasafed_stream() {
    // OKM of this passphrase (published with the format), of which AES-256 takes all 32 bytes.
    let okm = "31912c32a3cf546cc070e00abff64bc86dd17d07fe423ecbef71e610e33a4433";
    let key = StreamKey::derive(&Passphrase::new(b"S!B\\*d$zDsb=".to_vec()), Suite::Aes256Cfb)
        .expect("key");
    let plain = plaintext(100_003);
    let mut sealed = plain.clone();
    let mut encryptor = key.encryptor_with_iv([9; 16]);
    for part in sealed.chunks_mut(777) {
        encryptor.update(part);
    }
    let mut openssl = Command::new("openssl")
        .args(["enc", "-d", "-aes-256-cfb", "-K", okm, "-iv", &"09".repeat(16)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed: run make tools");
    let mut input = openssl.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &sealed));
    let output = openssl.wait_with_output().expect("openssl ends");
    writer.join().expect("joined").expect("written");
    assert!(output.status.success());
    assert!(output.stdout == plain, "openssl reads other bytes");
}

fn suites() -> impl Strategy<Value = Suite> {
    prop::sample::select(Suite::ALL.to_vec())
}

/// Lengths around the borders of chunks and batches.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        1..200_usize,
        65_530..65_545_usize,
        131_065..131_080_usize,
        Just(65_536 * 33),
        Just(65_536 * 33 + 1),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_range_of_a_segment_opens(suite in suites(), length in lengths(), from in 0.0..1.0_f64, to in 0.0..1.0_f64) {
        let (keyring, _) = keyring(suite);
        let plain = plaintext(length);
        let (sealed, spec) =
            keyring.seal_segment(SEGMENT, FILE, &[&plain], &Counting::default()).expect("sealed");
        prop_assert_eq!(sealed.len() as u64, keyring.sealed_length(length as u64));
        let start = (length as f64 * from) as u64;
        let end = (start + 1).max((length as f64 * to) as u64);
        let range = ByteRange::between(start, end.min(length as u64));
        let (first, fetch) = keyring.sealed_range(spec.length, range);
        let bytes = &sealed[fetch.offset() as usize..fetch.end() as usize];
        let mut opened = Vec::new();
        keyring.open_chunks(&spec, first, bytes, &mut opened).expect("opened");
        let skip = (range.offset() - u64::from(first) * 65_536) as usize;
        prop_assert_eq!(&opened[skip..skip + range.length() as usize], &plain[start as usize..range.end() as usize]);
    }

    #[test]
    fn a_changed_segment_never_opens(suite in suites(), length in lengths(), at in 0.0..1.0_f64, bit in 0..8_u8) {
        let (keyring, _) = keyring(suite);
        let plain = plaintext(length);
        let (sealed, spec) =
            keyring.seal_segment(SEGMENT, FILE, &[&plain], &Counting::default()).expect("sealed");
        let mut changed = sealed.clone();
        let place = ((changed.len() - 1) as f64 * at) as usize;
        changed[place] ^= 1 << bit;
        prop_assert!(keyring.open_segment(&spec, &changed).is_err(), "byte {} flipped", place);
        prop_assert!(keyring.open_segment(&spec, &sealed[..place]).is_err(), "cut at {}", place);
        let mut longer = sealed.clone();
        longer.push(0);
        prop_assert!(keyring.open_segment(&spec, &longer).is_err());
        for other in [
            SegmentSpec { file: FileId([0x23; 16]), ..spec },
            SegmentSpec { segment: SegmentId { counter: 8, ..SEGMENT }, ..spec },
            SegmentSpec { length: spec.length + 1, ..spec },
        ] {
            prop_assert!(keyring.open_segment(&other, &sealed).is_err());
        }
        if length > 2 * 65_536 {
            // Two whole chunks change places.
            let (_, first) = keyring.sealed_range(spec.length, ByteRange::new(0, 65_536));
            let size = first.length() as usize;
            let start = first.offset() as usize;
            let mut swapped = sealed.clone();
            let (a, b) = swapped[start..].split_at_mut(size);
            a.swap_with_slice(&mut b[..size]);
            prop_assert!(keyring.open_segment(&spec, &swapped).is_err(), "chunks swapped");
        }
    }

    #[test]
    fn a_changed_or_moved_record_never_opens(
        suite in suites(),
        head in prop::collection::vec(any::<u8>(), 0..300),
        body in prop::collection::vec(any::<u8>(), 0..300),
        tombstone in any::<bool>(),
        at in 0.0..1.0_f64,
        bit in 0..8_u8,
    ) {
        let (keyring, _) = keyring(suite);
        let entropy = Counting::default();
        let sealed = keyring.seal_record(&context(b"a"), &head, &body, tombstone, &entropy).expect("sealed");
        let opened = keyring.open_record(&context(b"a"), &sealed).expect("opened");
        prop_assert_eq!((&opened.head, &opened.body, opened.tombstone), (&head, &body, tombstone));
        match keyring.open_record_head(&context(b"a"), &sealed).expect("head") {
            HeadOutcome::Opened(opened) => prop_assert_eq!(opened.head, head),
            HeadOutcome::NeedMore(_) => prop_assert!(false, "the whole object was given"),
        }
        let mut changed = sealed.clone();
        let place = ((changed.len() - 1) as f64 * at) as usize;
        changed[place] ^= 1 << bit;
        prop_assert!(keyring.open_record(&context(b"a"), &changed).is_err(), "byte {} flipped", place);
        prop_assert!(keyring.open_record(&context(b"a"), &sealed[..place]).is_err());
        prop_assert!(keyring.open_record(&context(b"b"), &sealed).is_err(), "another name");
        let elsewhere = RecordContext { scope: &[0x34; 16], ..context(b"a") };
        prop_assert!(keyring.open_record(&elsewhere, &sealed).is_err(), "another directory");
        let role = RecordContext { role: Role::Inode, ..context(b"a") };
        prop_assert!(keyring.open_record(&role, &sealed).is_err(), "another role");
    }

    #[test]
    fn names_open_in_their_directory_alone(name in prop::collection::vec(1..=255_u8, 1..255)) {
        for suite in Suite::ALL {
            let (keyring, _) = keyring(suite);
            let sealed = keyring.seal_name(DIR, &name);
            prop_assert_eq!(keyring.open_name(DIR, &sealed).expect("opened"), name.clone());
            if suite != Suite::None {
                prop_assert!(keyring.open_name(DirId([0x34; 16]), &sealed).is_err());
                prop_assert!(!sealed.windows(name.len().max(8)).any(|part| part == &name[..]));
            }
        }
    }

    #[test]
    fn outside_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for suite in Suite::ALL {
            let (keyring, _) = keyring(suite);
            let _ = keyring.open_record(&context(b"a"), &bytes);
            let _ = keyring.open_record_head(&context(b"a"), &bytes);
            let _ = keyring.open_name(DIR, &bytes);
            let spec = SegmentSpec { segment: SEGMENT, file: FILE, master: keyring.current_master(), length: 300 };
            prop_assert!(keyring.open_segment(&spec, &bytes).is_err());
        }
        let _ = serde_json::from_slice::<KeyringRecord>(&bytes);
    }
}
