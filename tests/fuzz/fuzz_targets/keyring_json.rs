//! The stored keyring. `make fuzz TARGETS=keyring_json`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("keyring_json"), |input: &[u8]| {
    (parsers::parser("keyring_json").check)(input);
});
