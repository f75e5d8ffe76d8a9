//! Keys of objects as a listing gives them, and names of files. `make fuzz TARGETS=object_keys`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("object_keys"), |input: &[u8]| {
    (parsers::parser("object_keys").check)(input);
});
