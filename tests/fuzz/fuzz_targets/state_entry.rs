//! One entry of that memory. `make fuzz TARGETS=state_entry`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("state_entry"), |input: &[u8]| {
    (parsers::parser("state_entry").check)(input);
});
