//! The memory that a worker leaves to the next one. `make fuzz TARGETS=ledger`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("ledger"), |input: &[u8]| {
    (parsers::parser("ledger").check)(input);
});
