//! The volume's descriptor. `make fuzz TARGETS=descriptor`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("descriptor"), |input: &[u8]| {
    (parsers::parser("descriptor").check)(input);
});
