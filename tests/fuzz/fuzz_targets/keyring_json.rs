//! The stored keyring: any JSON is refused or parsed, never a panic, and what was parsed is stored and
//! parsed again as the same. Slots are not tried: their derivation is slow on purpose.
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz keyring_json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom::crypto::KeyringRecord;

fuzz_target!(|input: &[u8]| {
    let Ok(record) = serde_json::from_slice::<KeyringRecord>(input) else { return };
    let stored = serde_json::to_vec(&record).expect("a record is JSON");
    let again: KeyringRecord = serde_json::from_slice(&stored).expect("what was stored parses");
    assert!(record == again);
    assert!(record.slots().all(|slot| slot.kdf.check().is_ok()));
});
