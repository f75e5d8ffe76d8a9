//! Templates of StorageProviders. `make fuzz TARGETS=template`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("template"), |input: &[u8]| {
    (parsers::parser("template").check)(input);
});
