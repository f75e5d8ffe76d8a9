//! The stored format against another implementation (the `openssl` command, which reads the frozen vectors
//! from the passphrase to the plaintext), and frozen objects that must not open, each named after its flaw.
//!
//! `STRONGROOM_WRITE_VECTORS=1 cargo test --release --test crypto_vectors` writes missing flawed vectors;
//! an existing one is never overwritten.

use data_encoding::{BASE64, HEXLOWER};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use strongroom::crypto::{
    CryptoError, HeadOutcome, Kdf, Keyring, KeyringRecord, MasterNumber, NewSlot, Passphrase,
    RecordContext, Role, SegmentSpec, Suite,
};
use strongroom::units::{DirId, FileId, SegmentId, SessionId, VolumeId};
use strongroom::world::Entropy;

const VOLUME: VolumeId = VolumeId([0x11; 16]);
const FILE: FileId = FileId([0x22; 16]);
const DIR: DirId = DirId([0x33; 16]);
const SEGMENT: SegmentId = SegmentId { session: SessionId([0x44; 16]), counter: 7 };
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const CONTEXT: RecordContext<'static> =
    RecordContext { role: Role::Entry, scope: DIR.as_bytes(), name: b"name" };

const DAMAGED_RECORD: CryptoError = CryptoError::Damaged { what: "record" };
const DAMAGED_SEGMENT: CryptoError = CryptoError::Damaged { what: "segment" };

/// Bytes that count up: the same objects at every run. For tests alone.
#[derive(Default)]
struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn vector(name: &str) -> Vec<u8> {
    let text =
        std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    HEXLOWER.decode(text.trim().as_bytes()).expect("vector is hexadecimal")
}

/// The frozen bytes of a flawed vector; made from a sound one where it is missing and that was asked for.
fn flawed(name: &str, sound: &[u8], flaw: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let name = format!("{name}.hex");
    if !path(&name).exists() && std::env::var_os("STRONGROOM_WRITE_VECTORS").is_some() {
        let mut bytes = sound.to_vec();
        flaw(&mut bytes);
        std::fs::write(path(&name), format!("{}\n", HEXLOWER.encode(&bytes))).expect("written");
    }
    let bytes = vector(&name);
    assert_ne!(bytes, sound, "{name} has no flaw");
    bytes
}

fn secret() -> Passphrase {
    Passphrase::new(SECRET.to_vec())
}

fn keyring(suite: Suite) -> Keyring {
    if suite == Suite::None {
        return Keyring::create(VOLUME, suite, None, &Counting::default()).expect("made").0;
    }
    let record = keyring_record(suite);
    Keyring::open(VOLUME, suite, &record, Some(&secret())).expect("the frozen keyring opens")
}

fn keyring_record(suite: Suite) -> KeyringRecord {
    serde_json::from_slice(&vector(&format!("keyring_raw_{suite}.hex"))).expect("parses")
}

fn spec(keyring: &Keyring) -> SegmentSpec {
    SegmentSpec { segment: SEGMENT, file: FILE, master: keyring.current_master(), length: 40 }
}

#[test]
fn records_with_a_flaw_do_not_open() {
    type Flaw = fn(&mut Vec<u8>);
    let newer = CryptoError::NewerVersion { what: "record", version: 2 };
    let unknown = CryptoError::UnknownMaster { number: MasterNumber(2) };
    let flaws: [(&str, CryptoError, Flaw); 14] = [
        ("empty", DAMAGED_RECORD, |bytes| bytes.clear()),
        ("header_alone", DAMAGED_RECORD, |bytes| bytes.truncate(48)),
        ("magic_of_another_kind", DAMAGED_RECORD, |bytes| bytes[..8].copy_from_slice(b"SRSEGMNT")),
        ("version_2", newer, |bytes| bytes[8] = 2),
        ("version_0", DAMAGED_RECORD, |bytes| bytes[8] = 0),
        ("suite_says_none", DAMAGED_RECORD, |bytes| bytes[9] = 0),
        // Its length is made right for a tombstone as well: the flag itself must be authenticated.
        ("tombstone_flag_flipped", DAMAGED_RECORD, |bytes| {
            bytes[10] ^= 1;
            bytes.push(0);
        }),
        ("unknown_flag", DAMAGED_RECORD, |bytes| bytes[10] |= 0x80),
        ("unknown_master", unknown, |bytes| bytes[15] = 2),
        ("head_of_4_gib", DAMAGED_RECORD, |bytes| bytes[16..20].fill(0xff)),
        ("a_byte_moved_from_body_to_head", DAMAGED_RECORD, |bytes| {
            bytes[19] += 1;
            bytes[23] -= 1;
        }),
        ("salt_changed", DAMAGED_RECORD, |bytes| bytes[32] ^= 1),
        ("padding_not_zero", DAMAGED_RECORD, |bytes| {
            let last = bytes.len() - 1;
            bytes[last] = 1;
        }),
        ("padded_twice", DAMAGED_RECORD, |bytes| bytes.extend([0; 16])),
    ];
    for suite in [Suite::Aes256Gcm, Suite::Aes256Cfb] {
        let keyring = keyring(suite);
        let sound = vector(&format!("record_entry_{suite}.hex"));
        // Otherwise one of the flaws below would hit the tag instead of the padding.
        assert_eq!(sound.last(), Some(&0), "the sound record ends in padding");
        keyring.open_record(&CONTEXT, &sound).expect("the sound record opens");
        for (flaw, error, make) in flaws {
            let bytes = flawed(&format!("record_{flaw}_{suite}"), &sound, make);
            assert_eq!(keyring.open_record(&CONTEXT, &bytes).err(), Some(error), "{flaw}, {suite}");
            match (flaw, keyring.open_record_head(&CONTEXT, &bytes)) {
                ("empty", Ok(HeadOutcome::NeedMore(48))) => {}
                ("header_alone", Ok(HeadOutcome::NeedMore(more))) => assert!(more > 48),
                // What lies behind the head is not looked at.
                ("padding_not_zero" | "padded_twice", Ok(HeadOutcome::Opened(_))) => {}
                (_, Err(found)) => assert_eq!(found, error, "head, {flaw}, {suite}"),
                (_, Ok(_)) => panic!("head of a record with {flaw} opens, {suite}"),
            }
        }
    }
}

#[test]
fn a_record_of_an_unencrypted_volume_is_not_taken_for_an_encrypted_ones() {
    let plain = keyring(Suite::None);
    let sound = vector("record_entry_none.hex");
    plain.open_record(&CONTEXT, &sound).expect("opens where nothing is encrypted");
    for suite in Suite::ALL.into_iter().filter(|suite| *suite != Suite::None) {
        assert_eq!(keyring(suite).open_record(&CONTEXT, &sound).err(), Some(DAMAGED_RECORD));
        assert!(keyring(suite).open_record_head(&CONTEXT, &sound).is_err());
    }
}

#[test]
fn segments_with_a_flaw_do_not_open() {
    type Flaw = fn(&mut Vec<u8>);
    let newer = CryptoError::NewerVersion { what: "segment", version: 2 };
    let flaws: [(&str, CryptoError, Flaw); 9] = [
        ("header_cut", DAMAGED_SEGMENT, |bytes| bytes.truncate(31)),
        ("header_alone", DAMAGED_SEGMENT, |bytes| bytes.truncate(32)),
        ("truncated_last_chunk", DAMAGED_SEGMENT, |bytes| {
            bytes.pop();
        }),
        ("byte_appended", DAMAGED_SEGMENT, |bytes| bytes.push(0)),
        ("version_2", newer, |bytes| bytes[8] = 2),
        ("chunks_of_4_kib", DAMAGED_SEGMENT, |bytes| bytes[10] = 12),
        ("reserved_byte_set", DAMAGED_SEGMENT, |bytes| bytes[31] = 1),
        ("ciphertext_flipped", DAMAGED_SEGMENT, |bytes| {
            let at = bytes.len() - 17;
            bytes[at] ^= 1;
        }),
        ("tag_flipped", DAMAGED_SEGMENT, |bytes| {
            let at = bytes.len() - 1;
            bytes[at] ^= 1;
        }),
    ];
    for suite in [Suite::Aes256Gcm, Suite::Aes256Cfb, Suite::None] {
        let keyring = keyring(suite);
        let sound = vector(&format!("segment_40_bytes_{suite}.hex"));
        keyring.open_segment(&spec(&keyring), &sound).expect("the sound segment opens");
        for (flaw, error, make) in flaws {
            let bytes = flawed(&format!("segment_{flaw}_{suite}"), &sound, make);
            let found = keyring.open_segment(&spec(&keyring), &bytes).err();
            assert_eq!(found, Some(error), "{flaw}, {suite}");
        }
    }
}

#[test]
fn nothing_is_left_behind_by_chunks_that_do_not_verify() {
    for suite in Suite::ALL {
        let keyring = keyring(suite);
        let plain = vec![7; 200_000];
        let (mut sealed, spec) =
            keyring.seal_segment(SEGMENT, FILE, &[&plain], &Counting::default()).expect("sealed");
        let last = sealed.len() - 1;
        sealed[last] ^= 1;
        let mut out = b"before".to_vec();
        let found = keyring.open_chunks(&spec, 0, &sealed[32..], &mut out);
        assert_eq!((found, &out[..]), (Err(DAMAGED_SEGMENT), &b"before"[..]), "{suite}");
        let beyond = keyring.open_chunks(&spec, 4, &sealed[32..132], &mut out);
        assert_eq!((beyond, &out[..]), (Err(DAMAGED_SEGMENT), &b"before"[..]), "{suite}");
        let far = keyring.open_chunks(&spec, u32::MAX, &sealed[32..132], &mut out);
        assert_eq!(far, Err(DAMAGED_SEGMENT), "{suite}");
        let absurd = SegmentSpec { length: u64::MAX, ..spec };
        let found = keyring.open_chunks(&absurd, 0, &sealed[32..], &mut out);
        assert!(matches!(found, Err(CryptoError::Limit { .. })), "{suite}");
    }
}

#[test]
fn how_the_plaintext_is_cut_into_parts_makes_no_difference() {
    let plain: Vec<u8> = (0..20 * 65_536 + 5)
        .map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for suite in Suite::ALL {
        let keyring = keyring(suite);
        let seal = |parts: &[&[u8]]| {
            keyring.seal_segment(SEGMENT, FILE, parts, &Counting::default()).expect("sealed")
        };
        let (whole, spec) = seal(&[&plain]);
        for cut in [1, 16, 4096, 65_535, 65_536, 65_537, 3 * 65_536 + 7] {
            let parts: Vec<&[u8]> = plain.chunks(cut).collect();
            assert!(seal(&parts).0 == whole, "parts of {cut}, {suite}");
        }
        assert!(seal(&[b"", &plain, b""]).0 == whole, "empty parts, {suite}");
        let two = plain.split_at(65_536);
        assert!(seal(&[two.0, b"", b"", two.1]).0 == whole, "empty parts between, {suite}");
        assert!(keyring.open_segment(&spec, &whole).expect("opens") == plain, "{suite}");
        let empty = keyring.seal_segment(SEGMENT, FILE, &[b""], &Counting::default());
        assert!(matches!(empty, Err(CryptoError::Invalid { .. })), "{suite}");
    }
}

#[test]
fn keyrings_with_a_flaw_do_not_open() {
    type Flaw<'a> = &'a dyn Fn(&mut serde_json::Value);
    let other = Passphrase::new(vec![b'x'; 32]);
    let slot = NewSlot { label: "other", passphrase: &other, kdf: Kdf::Raw };
    let suite = Suite::Aes256Gcm;
    let mut record = keyring_record(suite);
    keyring(suite).add_slot(&mut record, slot, &Counting::default()).expect("added");
    let sound = serde_json::to_string(&record).expect("JSON");
    let value: serde_json::Value = serde_json::from_str(&sound).expect("JSON");
    let field = |slot: usize, name: &str| value["slots"][slot][name].clone();
    let changed = |change: Flaw<'_>| {
        let mut value = value.clone();
        change(&mut value);
        value.to_string().into_bytes()
    };
    let flaws: [(&str, CryptoError, Flaw<'_>); 6] = [
        ("keys_of_slots_swapped", CryptoError::Damaged { what: "key slot" }, &|value| {
            value["slots"][0]["key"] = field(1, "key");
            value["slots"][1]["key"] = field(0, "key");
        }),
        ("slot_renumbered", CryptoError::Damaged { what: "key slot" }, &|value| {
            value["slots"][0]["id"] = 9.into();
        }),
        ("commitment_of_another_slot", CryptoError::WrongPassphrase, &|value| {
            value["slots"][0]["commitment"] = field(1, "commitment");
        }),
        ("salt_of_another_slot", CryptoError::WrongPassphrase, &|value| {
            value["slots"][0]["salt"] = field(1, "salt");
        }),
        ("key_derivation_replaced", CryptoError::WrongPassphrase, &|value| {
            value["slots"][0]["kdf"] =
                serde_json::json!({"name": "pbkdf2-hmac-sha256", "iterations": 100_000});
        }),
        ("master_renumbered", CryptoError::Damaged { what: "wrapped master key" }, &|value| {
            value["masters"][0]["number"] = 2.into();
        }),
    ];
    for (flaw, error, make) in flaws {
        let bytes = flawed(&format!("keyring_{flaw}"), sound.as_bytes(), |bytes| {
            *bytes = changed(make);
        });
        let record: KeyringRecord = serde_json::from_slice(&bytes).expect("parses");
        let found = Keyring::open(VOLUME, suite, &record, Some(&secret())).err();
        assert_eq!(found, Some(error), "{flaw}");
    }
}

#[test]
fn passphrase_and_descriptor_must_agree_on_encryption() {
    let encrypted = keyring_record(Suite::Aes256Gcm);
    let (_, plain) =
        Keyring::create(VOLUME, Suite::None, None, &Counting::default()).expect("made");
    let open = |suite, record, passphrase| Keyring::open(VOLUME, suite, record, passphrase).err();
    let secret = secret();
    let none = open(Suite::Aes256Gcm, &encrypted, None);
    assert_eq!(none, Some(CryptoError::PassphraseNeeded));
    // The store may have put an unencrypted volume's descriptor there to be sent plaintext.
    let replaced = open(Suite::None, &plain, Some(&secret));
    assert!(matches!(replaced, Some(CryptoError::Invalid { .. })));
    assert!(matches!(open(Suite::None, &encrypted, None), Some(CryptoError::Invalid { .. })));
    let empty = open(Suite::Aes256Gcm, &plain, Some(&secret));
    assert!(matches!(empty, Some(CryptoError::Invalid { .. })));
    assert_eq!(open(Suite::None, &plain, None), None);
}

#[test]
fn a_changed_descriptor_does_not_verify() {
    for suite in Suite::ALL {
        let keyring = keyring(suite);
        let mac = keyring.mac(b"descriptor");
        assert_eq!(keyring.verify_mac(b"descriptor", &mac), Ok(()));
        for (message, mac) in [
            (&b"descriptos"[..], &mac[..]),
            (b"descriptor", &mac[..31]),
            (b"descriptor", b""),
            (b"descriptor", &[0; 32]),
        ] {
            let found = keyring.verify_mac(message, mac);
            assert_eq!(found, Err(CryptoError::Damaged { what: "descriptor" }), "{suite}");
        }
    }
}

/// What `openssl` prints, given `input`. Its absence fails the test: this check is not to be lost silently.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs the openssl command, version 3 or later: apt-get install openssl");
    // Less than a pipe's buffer, so that writing it all first cannot block.
    assert!(input.len() <= 4096);
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), input).expect("written");
    let output = child.wait_with_output().expect("openssl ends");
    assert!(output.status.success(), "openssl {arguments:?} fails");
    output.stdout
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn hkdf(key: &[u8], salt: &[u8], info: &[&[u8]]) -> Vec<u8> {
    let key = format!("hexkey:{}", hex(key));
    let salt = format!("hexsalt:{}", hex(salt));
    let info = format!("hexinfo:{}", hex(&info.concat()));
    let mut arguments = vec!["kdf", "-binary", "-keylen", "64", "-kdfopt", "digest:SHA256"];
    for option in [&key, &salt, &info] {
        // An empty salt is RFC 5869's default, which openssl takes by leaving it out.
        if !option.ends_with(':') {
            arguments.extend(["-kdfopt", option]);
        }
    }
    arguments.push("HKDF");
    openssl(&arguments, b"")
}

fn cipher(name: &str, key: &[u8], iv: &[u8], sealed: &[u8]) -> Vec<u8> {
    openssl(&["enc", "-d", name, "-K", &hex(key), "-iv", &hex(iv)], sealed)
}

/// The plaintext that GCM's counter mode gives; its tag is not looked at.
fn gcm_unverified(key: &[u8], nonce: &[u8], sealed: &[u8]) -> Vec<u8> {
    cipher("-aes-256-ctr", key, &[nonce, &[0, 0, 0, 2]].concat(), sealed)
}

fn mac(arguments: &[&str], options: &[String], input: &[u8]) -> Vec<u8> {
    let mut all = vec!["mac", "-binary"];
    all.extend(&arguments[..arguments.len() - 1]);
    options.iter().for_each(|option| all.extend(["-macopt", option]));
    all.extend(["-in", "-", arguments[arguments.len() - 1]]);
    openssl(&all, input)
}

fn gmac(key: &[u8], nonce: &[u8], input: &[u8]) -> Vec<u8> {
    let options = [format!("hexkey:{}", hex(key)), format!("hexiv:{}", hex(nonce))];
    mac(&["-cipher", "AES-256-GCM", "GMAC"], &options, input)
}

fn cmac(key: &[u8], input: &[u8]) -> Vec<u8> {
    mac(&["-cipher", "AES-256-CBC", "CMAC"], &[format!("hexkey:{}", hex(key))], input)
}

/// The key-sealing key and the first master key, read from a stored keyring by openssl alone.
fn keys_by_openssl(suite: Suite) -> (Vec<u8>, Vec<u8>) {
    let record: serde_json::Value =
        serde_json::from_slice(&vector(&format!("keyring_raw_{suite}.hex"))).expect("JSON");
    let (slot, master) = (&record["slots"][0], &record["masters"][0]);
    let field = |value: &serde_json::Value| {
        BASE64.decode(value.as_str().expect("text").as_bytes()).expect("base64")
    };
    let salt = field(&slot["salt"]);
    let stretched = hkdf(SECRET, &salt, &[b"strongroom v1 raw secret\0"]);
    // The key derivation's code is 3 and it has no parameters.
    let parameters = [&[3_u8][..], &[0; 12]].concat();
    let info: [&[u8]; 3] = [b"strongroom v1 slot\0", &VOLUME.0, &parameters];
    let both = hkdf(&stretched[..32], &salt, &info);
    assert_eq!(both[32..], field(&slot["commitment"]), "commitment, {suite}");
    let wrapped = field(&slot["key"]);
    let sealing = gcm_unverified(&both[..32], &wrapped[..12], &wrapped[12..44]);
    let wrapping = hkdf(&sealing, &[], &[b"strongroom v1 master wrap\0", &VOLUME.0]);
    let wrapped = field(&master["key"]);
    let master = gcm_unverified(&wrapping[..32], &wrapped[..12], &wrapped[12..44]);
    (sealing, master)
}

#[test]
fn openssl_reads_a_frozen_segment_from_the_passphrase_to_the_plaintext() {
    let plain: Vec<u8> = (0..40).map(|index| index * 31).map(|byte: u16| byte as u8).collect();
    for (suite, name, key_length) in [
        (Suite::Aes256Gcm, "-aes-256-ctr", 32),
        (Suite::Aes256Cfb, "-aes-256-cfb", 32),
        (Suite::Aes192Cfb, "-aes-192-cfb", 24),
        (Suite::Aes128Cfb, "-aes-128-cfb", 16),
    ] {
        let (_, master) = keys_by_openssl(suite);
        let object = vector(&format!("segment_40_bytes_{suite}.hex"));
        let (header, chunk) = object.split_at(32);
        let salt = [&[0x44; 16][..], &7_u64.to_be_bytes(), &FILE.0].concat();
        let keys = hkdf(&master, &salt, &[b"strongroom v1 segment\0", &VOLUME.0, header]);
        let nonce = [&0_u32.to_be_bytes()[..], &40_u64.to_be_bytes()].concat();
        let (body, tag) = chunk.split_at(chunk.len() - 16);
        let opened = if suite == Suite::Aes256Gcm {
            gcm_unverified(&keys[..32], &nonce, body)
        } else {
            assert_eq!(gmac(&keys[32..], &nonce, body), tag, "tag, {suite}");
            cipher(name, &keys[..key_length], &body[..16], &body[16..])
        };
        assert_eq!(opened, plain, "{suite}");
    }
}

#[test]
fn openssl_reads_a_frozen_record() {
    for suite in [Suite::Aes256Gcm, Suite::Aes256Cfb] {
        let (_, master) = keys_by_openssl(suite);
        let object = vector(&format!("record_entry_{suite}.hex"));
        let (prefix, frames) = object.split_at(48);
        let keys = hkdf(&master, &prefix[32..], &[b"strongroom v1 record\0", &VOLUME.0]);
        let length = |bytes: &[u8]| (bytes.len() as u64).to_be_bytes();
        let mut rest = frames;
        for (frame, content) in [(0, &b"head"[..]), (1, b"inline data")] {
            let mut nonce = [0; 12];
            nonce[11] = frame;
            let overhead = if suite == Suite::Aes256Gcm { 16 } else { 32 };
            let (sealed, after) = rest.split_at(content.len() + overhead);
            rest = after;
            let (body, tag) = sealed.split_at(sealed.len() - 16);
            let opened = if suite == Suite::Aes256Gcm {
                gcm_unverified(&keys[..32], &nonce, body)
            } else {
                let associated = [
                    prefix,
                    &VOLUME.0,
                    b"t",
                    &length(&DIR.0),
                    &DIR.0,
                    &length(b"name"),
                    b"name",
                    &[frame],
                    body,
                ];
                assert_eq!(gmac(&keys[32..], &nonce, &associated.concat()), tag, "tag, {suite}");
                cipher("-aes-256-cfb", &keys[..32], &body[..16], &body[16..])
            };
            assert_eq!(opened, content, "frame {frame}, {suite}");
        }
        assert!(rest.len() < 16 && rest.iter().all(|byte| *byte == 0), "padding, {suite}");
    }
}

/// RFC 5297, section 2.4 (S2V of one piece of associated data and a short plaintext) and 2.6.
#[test]
fn openssl_reads_a_frozen_name_and_agrees_on_the_descriptors_mac() {
    let suite = Suite::Aes256Gcm;
    let (sealing, _) = keys_by_openssl(suite);
    let keys = hkdf(&sealing, &[], &[b"strongroom v1 names\0", &VOLUME.0]);
    let sealed = vector(&format!("name_{suite}.hex"));
    let (siv, body) = sealed.split_at(16);
    let mut counter = siv.to_vec();
    counter[8] &= 0x7f;
    counter[12] &= 0x7f;
    assert_eq!(cipher("-aes-256-ctr", &keys[32..], &counter, body), b"name");
    let block = |bytes: Vec<u8>| u128::from_be_bytes(bytes.try_into().expect("16 bytes"));
    let double = |value: u128| (value << 1) ^ if value >> 127 == 1 { 0x87 } else { 0 };
    let zero = block(cmac(&keys[..32], &[0; 16]));
    let with_dir = double(zero) ^ block(cmac(&keys[..32], &DIR.0));
    let padded = block([&b"name"[..], &[0x80], &[0; 11]].concat());
    let last = (double(with_dir) ^ padded).to_be_bytes();
    assert_eq!(cmac(&keys[..32], &last), siv);

    let key = hkdf(&sealing, &[], &[b"strongroom v1 descriptor mac\0", &VOLUME.0]);
    let options = [format!("hexkey:{}", hex(&key[..32]))];
    let expected = mac(&["-digest", "SHA256", "HMAC"], &options, b"descriptor");
    assert_eq!(keyring(suite).mac(b"descriptor")[..], expected);
}
