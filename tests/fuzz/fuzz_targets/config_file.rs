//! The configuration file. `make fuzz TARGETS=config_file`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("config_file"), |input: &[u8]| {
    (parsers::parser("config_file").check)(input);
});
