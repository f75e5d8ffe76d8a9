//! Objects of records, as they are and as sealed here and then changed. `make fuzz TARGETS=record_open`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("record_open"), |input: &[u8]| {
    (parsers::parser("record_open").check)(input);
});
