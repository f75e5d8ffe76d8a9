//! Programs put where a test wants them.

use std::path::Path;
use std::process::Command;

/// Copies a program that is to be run from there. By another process: a child that any other thread of this test forks
/// meanwhile would inherit the copy open for writing, and until that child has become its own program, Linux refuses to
/// run the copy (ETXTBSY).
pub(crate) fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let (from, to) = (from.as_ref(), to.as_ref());
    let status = Command::new("cp").arg("--").args([from, to]).status().expect("cp starts");
    assert!(status.success(), "cp {} {}: {status}", from.display(), to.display());
}
