//! The passphrase file. `make fuzz TARGETS=passphrase`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("passphrase"), |input: &[u8]| {
    (parsers::parser("passphrase").check)(input);
});
