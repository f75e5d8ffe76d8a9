//! Segments. Bytes from outside must not panic; a segment that was sealed and then changed must not open.
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz segment_open`.
#![no_main]

#[path = "common.rs"]
mod common;

use common::{Counting, FILE, SEGMENT, change, keyring};
use libfuzzer_sys::fuzz_target;
use strongroom::crypto::{SegmentSpec, Suite};
use strongroom::units::ByteRange;

fuzz_target!(|input: &[u8]| {
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
});
