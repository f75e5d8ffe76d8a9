//! Pages of extents after authentication. `make fuzz TARGETS=page_decode`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("page_decode"), |input: &[u8]| {
    (parsers::parser("page_decode").check)(input);
});
