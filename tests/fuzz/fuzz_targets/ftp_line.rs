//! Lines of listings on servers of FTP. `make fuzz TARGETS=ftp_line`
#![no_main]

#[path = "../parsers/mod.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("ftp_line"), |input: &[u8]| {
    (parsers::parser("ftp_line").check)(input);
});
