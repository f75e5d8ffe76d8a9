//! `make demo` shows what the README promises: the script checks itself what it shows.

use std::path::Path;
use std::process::Command;

#[test]
fn the_demo_shows_what_it_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/demo.sh");
    let shown = Command::new(script).arg(env!("CARGO_BIN_EXE_strongroom")).output();
    let shown = shown.expect("the script starts");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned()
        + &String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{text}");
}
