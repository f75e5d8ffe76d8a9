//! Names of files in a directory store. `make fuzz TARGETS=store_names`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("store_names"), |input: &[u8]| {
    (parsers::parser("store_names").check)(input);
});
