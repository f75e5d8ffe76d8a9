//! Our datasafed beside the real one over MinIO, in turns: `cargo bench --bench datasafed`.
//!
//! Prints a table: medians in seconds, how many times faster ours is, and the most memory that either
//! process took.
#![allow(missing_docs, dead_code, clippy::print_stdout)]

#[path = "../tests/datasafed/google_parts.rs"]
mod google_parts;
#[path = "../tests/datasafed/programs.rs"]
mod programs;
#[path = "../tests/datasafed/servers.rs"]
mod servers;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/datasafed/worlds.rs"]
mod worlds;

use programs::{BOTH, Program};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use worlds::{Place, World};

const GIB: usize = 1 << 30;
const BLOCK: usize = 1 << 20;
const ROUNDS: usize = 5;
const STARTS: usize = 41;
const OBJECTS: usize = 10_000;

/// What a run took.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    /// The most memory, in MiB.
    peak: u64,
}

fn main() {
    let plain = World::new(Place::Bucket);
    let encrypted = World::new(Place::Bucket).encrypted("AES-256-CFB");
    let block = support::random_bytes(1, BLOCK);
    println!(
        "{:<44} {:>8} {:>8} {:>7} {:>9} {:>9}",
        "", "real s", "ours s", "times", "real MiB", "ours MiB"
    );
    for (world, how) in [(&encrypted, "AES-256-CFB"), (&plain, "plain")] {
        pairs(&format!("push 1 GiB from a pipe, {how}"), ROUNDS, |side| {
            push(world.call(side, side, ["push", "-", "big"]).command(), &block)
        });
        pairs(&format!("pull 1 GiB to a pipe, {how}"), ROUNDS, |side| {
            pull(world.call(side, side, ["pull", "big", "-"]).command(), GIB)
        });
    }
    fill(&plain);
    let lines = |arguments: &'static [&'static str]| {
        let plain = &plain;
        move |side| pull(plain.call(side, side, arguments).command(), 0)
    };
    pairs("list -r of 10,000 objects", ROUNDS, lines(&["list", "-r", "many"]));
    pairs(
        "list -r -o json of 10,000 objects",
        ROUNDS,
        lines(&["list", "-r", "-o", "json", "many"]),
    );
    pairs("start and stat of one file", STARTS, lines(&["stat", "many/0/0"]));
}

/// Both in turns, and a row of medians.
fn pairs(what: &str, rounds: usize, run: impl Fn(Program) -> Cost) {
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (side, costs) in BOTH.into_iter().zip(&mut costs) {
            nix::unistd::sync();
            costs.push(run(side));
        }
    }
    let [real, ours] = costs.map(|costs| {
        let mut seconds: Vec<f64> = costs.iter().map(|cost| cost.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let peak = costs.iter().map(|cost| cost.peak).max().unwrap_or_default();
        Cost { seconds: seconds[seconds.len() / 2], peak }
    });
    println!(
        "{what:<44} {:>8.3} {:>8.3} {:>7.2} {:>9} {:>9}",
        real.seconds,
        ours.seconds,
        real.seconds / ours.seconds,
        real.peak,
        ours.peak
    );
}

/// A run that is given 1 GiB.
fn push(mut command: Command, block: &[u8]) -> Cost {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started");
    let mut pipe = child.stdin.take().expect("a pipe");
    for _ in 0..GIB / BLOCK {
        pipe.write_all(block).expect("it reads");
    }
    drop(pipe);
    ended(child, start)
}

/// A run whose output is read, at least so many bytes.
fn pull(mut command: Command, least: usize) -> Cost {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started");
    let mut pipe = child.stdout.take().expect("a pipe");
    let (mut buffer, mut total) = (vec![0; BLOCK], 0);
    loop {
        match pipe.read(&mut buffer).expect("readable") {
            0 => break,
            count => total += count,
        }
    }
    assert!(total >= least && total > 0, "{total} bytes");
    ended(child, start)
}

/// Waits for a process and asks the kernel what it took.
fn ended(child: Child, start: Instant) -> Cost {
    let pid = libc::pid_t::try_from(child.id()).expect("process ids fit");
    let mut status = 0;
    // SAFETY: all zeros are a value of this structure of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a child of ours that nobody else waits for; both places are ours to write.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(waited, pid, "it ended");
    assert_eq!(status, 0, "it went well");
    Cost { seconds, peak: u64::try_from(usage.ru_maxrss).unwrap_or_default() >> 10 }
}

/// Makes the objects of both sides, with their times as datasafed writes them.
fn fill(world: &World) {
    use futures::{StreamExt, TryStreamExt};
    use strongroom::store::{FileStore, Headers, Key};
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for side in BOTH {
        runtime.block_on(async {
            let store = &worlds::bucket(world, side).await;
            let metadata = [("mtime".to_owned(), "1700000000.123456789".to_owned())].into();
            let headers = &Headers { content_type: None, metadata };
            let put = |index: usize| async move {
                let key = Key::new(format!("many/{}/{}", index % 100, index / 100)).expect("a key");
                store.put_file(&key, bytes::Bytes::from_static(&[1; 100]), headers).await
            };
            let puts: Vec<_> = (0..OBJECTS).map(put).collect();
            futures::stream::iter(puts)
                .buffer_unordered(32)
                .try_for_each(|_| async { Ok(()) })
                .await
                .expect("stored");
        });
    }
}
