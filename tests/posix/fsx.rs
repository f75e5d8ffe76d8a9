//! fsx: random operations on one file, each read compared with what must be there.

use crate::{crate_tool, end_of, finish, limited, volume};
use std::fs;
use std::path::Path;
use std::time::Duration;

const VERSION: &str = "0.3.2";
const OPERATIONS: &str = "100000";
const LIMIT: Duration = Duration::from_secs(900);

/// How often each operation is done, beside the others. Those that wait for the store are rare, so that
/// many others come between them.
const WEIGHTS: &str = "mapread = 10\nread = 10\nwrite = 10\ntruncate = 5\ninvalidate = 1\n\
    posix_fallocate = 3\npunch_hole = 5\nsendfile = 5\nposix_fadvise = 5\ncopy_file_range = 10\n";

/// Everything is done within one stored record: inline data, whole rewrites.
#[test]
fn a_small_file_is_what_was_written() {
    let shape = "flen = 20000\n[opsize]\nmin = 1\nmax = 4000\n";
    let rare = "mapwrite = 0.1\nclose_open = 0.3\nfsync = 0.05\nfdatasync = 0.05\n";
    exercise(&["--durability", "close"], 1, shape, rare);
}

/// Maps are synchronised after each write, with every page cached by the kernel.
#[test]
fn a_file_of_some_segments_is_what_was_written() {
    let shape = "flen = 262144\n[opsize]\nmin = 1\nmax = 65536\n";
    let rare = "mapwrite = 0.5\nclose_open = 0.1\nfsync = 0.05\nfdatasync = 0.05\n";
    exercise(&["--durability", "fsync"], 2, shape, rare);
}

/// Maps are written back when the kernel likes, between other writes of the same pages.
#[test]
fn a_file_of_maps_not_synchronised_is_what_was_written() {
    let shape = "flen = 1048576\nnomsyncafterwrite = true\n[opsize]\nmin = 1\nmax = 65536\n";
    let rare = "mapwrite = 10\nclose_open = 0.05\nfsync = 0.05\nfdatasync = 0.05\n";
    exercise(&[], 3, shape, rare);
}

/// The file has no room in the memory for dirty data: they leave for the store on their own, and are
/// fetched.
#[test]
fn a_file_that_is_stored_in_parts_is_what_was_written() {
    let shape = "flen = 16777216\nnomsyncafterwrite = true\n[opsize]\nmin = 1\nmax = 131072\n";
    let rare = "mapwrite = 1\nclose_open = 0.02\nfsync = 0.02\nfdatasync = 0.02\n";
    exercise(&["--memory-limit", "64MiB", "--durability", "fsync"], 4, shape, rare);
}

fn exercise(flags: &[&str], seed: u32, shape: &str, rare: &str) {
    let volume = volume();
    let mount = volume.mount_with(flags);
    let settings = volume.local("fsx.toml");
    fs::write(&settings, format!("{shape}[weights]\n{WEIGHTS}{rare}")).expect("written");
    let file = mount.join("exercised");
    let mut command = limited(crate_tool("fsx", VERSION), LIMIT);
    command.args(["-N", OPERATIONS, "-S", &seed.to_string()]).arg("-f").arg(&settings);
    let (status, said) = finish(command.arg("-P").arg(volume.temporary.path()).arg(&file));
    let whole = said.contains("All operations completed A-OK!");
    assert!(status.success() && whole, "{status}: {}", end_of(&said));
    let before = checksum(&file);
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(checksum(&mount.join("exercised")), before, "after a remount");
    mount.unmount();
}

fn checksum(path: &Path) -> blake3::Hash {
    blake3::hash(&fs::read(path).expect("readable"))
}
