//! Records. Bytes from outside must not panic; a record that was sealed and then changed must not open.
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz record_open`.
#![no_main]

#[path = "common.rs"]
mod common;

use common::{Counting, DIR, change, keyring};
use libfuzzer_sys::fuzz_target;
use strongroom::crypto::{HeadOutcome, RecordContext, Role, Suite};

fuzz_target!(|input: &[u8]| {
    let context = RecordContext { role: Role::Entry, scope: &DIR.0, name: b"name" };
    for suite in Suite::ALL {
        let keyring = keyring(suite);
        let _ = keyring.open_record(&context, input);
        let _ = keyring.open_record_head(&context, input);
        let _ = keyring.open_name(DIR, input);
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
});
