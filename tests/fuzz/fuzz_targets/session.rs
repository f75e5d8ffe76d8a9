//! Sessions after authentication. `make fuzz TARGETS=session`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("session"), |input: &[u8]| {
    (parsers::parser("session").check)(input);
});
