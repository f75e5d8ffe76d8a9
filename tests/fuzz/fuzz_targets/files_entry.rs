//! One entry of the memory of a mount of files. `make fuzz TARGETS=files_entry`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("files_entry"), |input: &[u8]| {
    (parsers::parser("files_entry").check)(input);
});
