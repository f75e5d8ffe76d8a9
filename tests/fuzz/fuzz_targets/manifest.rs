//! Manifests, before their MAC is believed. `make fuzz TARGETS=manifest`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("manifest"), |input: &[u8]| {
    (parsers::parser("manifest").check)(input);
});
