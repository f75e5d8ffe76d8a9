//! datasafed's stream and ranges of it. `make fuzz TARGETS=datasafed`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("datasafed"), |input: &[u8]| {
    (parsers::parser("datasafed").check)(input);
});
