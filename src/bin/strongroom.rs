//! The binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    strongroom::tool::run(std::env::args_os().collect())
}
