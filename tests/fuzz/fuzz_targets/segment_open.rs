//! Objects of segments, as they are and as sealed here and then changed. `make fuzz TARGETS=segment_open`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("segment_open"), |input: &[u8]| {
    (parsers::parser("segment_open").check)(input);
});
