//! Headers of objects that other programs wrote. `make fuzz TARGETS=object_headers`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("object_headers"), |input: &[u8]| {
    (parsers::parser("object_headers").check)(input);
});
