//! Records after authentication, and the map that is made of them. `make fuzz TARGETS=record_decode`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("record_decode"), |input: &[u8]| {
    (parsers::parser("record_decode").check)(input);
});
