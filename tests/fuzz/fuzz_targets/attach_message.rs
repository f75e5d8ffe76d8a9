//! Messages between a worker and whoever started it. `make fuzz TARGETS=attach_message`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("attach_message"), |input: &[u8]| {
    (parsers::parser("attach_message").check)(input);
});
