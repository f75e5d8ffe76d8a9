//! What the kernel asked of this process, by kind: how often, how often in vain, and how long it took. Counts and
//! times only, never a name.

use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The kinds, as FUSE calls them.
pub const OPERATIONS: [&str; 31] = [
    "copy_file_range",
    "create",
    "fallocate",
    "flush",
    "fsync",
    "fsyncdir",
    "getattr",
    "getxattr",
    "link",
    "listxattr",
    "lookup",
    "lseek",
    "mkdir",
    "mknod",
    "open",
    "opendir",
    "read",
    "readdir",
    "readdirplus",
    "readlink",
    "release",
    "releasedir",
    "removexattr",
    "rename",
    "rmdir",
    "setattr",
    "setxattr",
    "statfs",
    "symlink",
    "unlink",
    "write",
];

/// The bounds of the table of times, in microseconds: an answer from memory, one from a store nearby, one from a
/// store far away, one that needed the store again and again.
pub const BOUNDS: [u64; 6] = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// What is known of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Requests that were answered.
    pub answered: u64,
    /// The sum of their times, in microseconds.
    pub microseconds: u64,
    /// How many of them took at most that long, for each of [`BOUNDS`].
    pub within: [u64; BOUNDS.len()],
}

struct Cell {
    answered: AtomicU64,
    microseconds: AtomicU64,
    /// Those that took at most so long and longer than the bound before.
    up_to: [AtomicU64; BOUNDS.len()],
}

impl Cell {
    const fn new() -> Self {
        Self {
            answered: AtomicU64::new(0),
            microseconds: AtomicU64::new(0),
            up_to: [const { AtomicU64::new(0) }; BOUNDS.len()],
        }
    }
}

/// One table for a process, which serves one mount.
static CELLS: [Cell; OPERATIONS.len()] = [const { Cell::new() }; OPERATIONS.len()];
/// Requests that were answered with an error, by its number; larger ones with the first.
static ERRORS: [AtomicU64; 134] = [const { AtomicU64::new(0) }; 134];

/// Counts an answer.
pub(super) fn answered(operation: &'static str, time: Duration) {
    let Some(index) = OPERATIONS.iter().position(|known| *known == operation) else { return };
    let Cell { answered, microseconds, up_to } = &CELLS[index];
    let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    answered.fetch_add(1, Ordering::Relaxed);
    microseconds.fetch_add(time, Ordering::Relaxed);
    if let Some(bound) = BOUNDS.iter().position(|bound| time <= *bound) {
        up_to[bound].fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts an error that a request was answered with.
pub(super) fn refused(errno: i32) {
    let index = usize::try_from(errno).ok().filter(|index| *index < ERRORS.len()).unwrap_or(0);
    ERRORS[index].fetch_add(1, Ordering::Relaxed);
}

/// The kinds that were asked for.
pub fn operations() -> BTreeMap<&'static str, Operation> {
    let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
    let seen = |(name, cell): (&&'static str, &Cell)| {
        let Cell { answered, microseconds, up_to } = cell;
        let mut sum = 0;
        let within = std::array::from_fn(|bound| {
            sum += read(&up_to[bound]);
            sum
        });
        let operation =
            Operation { answered: read(answered), microseconds: read(microseconds), within };
        (operation.answered > 0).then_some((*name, operation))
    };
    OPERATIONS.iter().zip(&CELLS).filter_map(seen).collect()
}

/// The errors that requests were answered with, by name: `EIO`, `ENOENT`.
pub fn errors() -> BTreeMap<String, u64> {
    let counts = ERRORS.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
    counts
        .filter(|(_, count)| *count > 0)
        .map(|(errno, count)| (format!("{:?}", Errno::from_raw(errno as i32)), count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_every_bound_that_holds_them() {
        for time in [50, 100, 101, 5_000_000, 50_000_000] {
            answered("lseek", Duration::from_micros(time));
        }
        answered("no such operation", Duration::ZERO);
        let lseek = operations()["lseek"];
        assert_eq!(lseek.answered, 5);
        assert_eq!(lseek.microseconds, 55_000_251);
        assert_eq!(lseek.within, [2, 3, 3, 3, 3, 4]);
    }

    #[test]
    fn every_kind_that_the_kernel_may_ask_for_has_a_row() {
        let source = include_str!("fuse.rs");
        let mut found = 0;
        for way in ["self.begin(", "self.once(", "self.spawn("] {
            for call in source.split(way).skip(1) {
                let arguments = call.split("async").next().expect("its arguments");
                // What one of these ways hands on to another has its name from its caller.
                let Some(name) = arguments.split('"').nth(1) else { continue };
                assert!(OPERATIONS.contains(&name), "{name}");
                found += 1;
            }
        }
        assert!(found >= OPERATIONS.len(), "{found}");
    }

    #[test]
    fn errors_are_counted_by_name() {
        refused(nix::libc::EMLINK);
        refused(nix::libc::EMLINK);
        refused(-5);
        refused(1_000);
        let errors = errors();
        assert_eq!(errors["EMLINK"], 2);
        assert_eq!(errors["UnknownErrno"], 2);
    }
}
