//! Volume URLs. `make fuzz TARGETS=url`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("url"), |input: &[u8]| {
    (parsers::parser("url").check)(input);
});
