//! What every suite of real processes and mounts asks of the system. How long anything may take is the suite's
//! own `PATIENCE`.
#![allow(dead_code, reason = "each test binary uses its own part")]

use super::PATIENCE;
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Sends a signal to a child when the thread that starts it ends: a test process that is killed has no
/// drops, and would leave its servers behind.
pub(crate) fn ends_with_this_thread(command: &mut Command, signal: Signal) -> &mut Command {
    let set = move || nix::sys::prctl::set_pdeathsig(signal).map_err(std::io::Error::from);
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(set) }
}

/// All mount points below a directory, the last one first.
pub(crate) fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(root)).collect();
    points.reverse();
    points
}

/// Waits until `condition` holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Bytes of the system's random source.
pub(crate) fn fresh<const BYTES: usize>() -> [u8; BYTES] {
    strongroom::config::system_world().entropy.bytes()
}

/// The same as hexadecimal digits.
pub(crate) fn fresh_hex<const BYTES: usize>() -> String {
    fresh::<BYTES>().map(|byte| format!("{byte:02x}")).concat()
}
