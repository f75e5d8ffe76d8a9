//! Fifty volumes on one node: made, staged, written to, killed and restarted together; and what that costs in memory.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};
use support::{Driver, Process, mounts_below, wait_for};

const VOLUMES: usize = 50;
/// Memory that the derivation of a key from a passphrase takes, in KiB.
const ARGON2ID: u64 = 64 << 10;
/// Calls under way at once, as kubelet has them.
const AT_ONCE: usize = 8;

/// Memory of a process that is its own (anonymous and not shared), in KiB.
fn own_memory(pid: Pid) -> u64 {
    let rollup =
        fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process of ours");
    let sum = |name: &str| -> u64 {
        let lines = rollup.lines().filter_map(|line| line.strip_prefix(name));
        lines.filter_map(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).sum()
    };
    sum("Private_Dirty:") + sum("Private_Clean:")
}

/// The most memory that a process ever had, in KiB.
fn peak_memory(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process of ours");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().strip_suffix(" kB").and_then(|size| size.trim().parse().ok()).expect("a size")
}

fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(item) =
                    items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    work(item);
                }
            });
        }
    });
}

#[test]
#[allow(clippy::print_stdout, reason = "figures for whoever runs it by hand")]
fn fifty_volumes_on_a_node_are_served_through_a_kill_of_everything_but_the_keeper() {
    let mut driver = Driver::start();
    let plugin = |driver: &Driver| {
        own_memory(driver.pid(Process::Node)) + own_memory(driver.pid(Process::Keeper))
    };
    println!("own memory: node plugin and keeper without volumes {} KiB", plugin(&driver));
    let start = Instant::now();
    let made: Vec<_> = (0..VOLUMES).map(|number| driver.make(&format!("pvc-{number}"))).collect();
    println!("{VOLUMES} volumes made in {:?}", start.elapsed());
    let start = Instant::now();
    in_parallel(&made, |made| driver.attach(made));
    println!("staged and published in {:?}", start.elapsed());
    wait_for("the workers", || driver.workers().len() == VOLUMES);

    // Before use: what a volume costs that nobody writes to yet.
    let workers: Vec<u64> = driver.workers().into_iter().map(own_memory).collect();
    let largest = workers.iter().max().expect("workers");
    let plugin = plugin(&driver);
    println!("own memory: largest worker {largest} KiB, node plugin and keeper {plugin} KiB");
    assert!(*largest <= 30 << 10, "a worker has {largest} KiB before use");
    assert!(plugin <= 40 << 10, "node plugin and keeper have {plugin} KiB");

    in_parallel(&made, |made| {
        fs::write(made.target.join("before"), &made.id).expect("written");
    });
    let former = driver.workers();
    let deriving = former.iter().map(|worker| peak_memory(*worker)).min().expect("workers");
    assert!(deriving > ARGON2ID, "{deriving} KiB: a first worker derives its volume's key");
    driver.end(Process::Node, Signal::SIGKILL);
    for worker in &former {
        // Some have ended already: nobody asks them any more.
        let _ = kill(*worker, Signal::SIGKILL);
    }
    driver.run(Process::Node);
    let start = Instant::now();
    in_parallel(&made, |made| {
        assert_eq!(fs::read_to_string(made.target.join("before")).expect("read"), made.id);
        fs::write(made.target.join("after"), &made.id).expect("written");
    });
    println!("all of them answered {:?} after the restart", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    for worker in driver.workers() {
        assert!(!former.contains(&worker), "{worker} is one that was killed");
        let peak = peak_memory(worker);
        assert!(
            peak < ARGON2ID,
            "{peak} KiB: it derived a key that the one before it has handed over"
        );
    }

    in_parallel(&made, |made| driver.detach(made));
    assert!(mounts_below(driver.temporary.path()).is_empty());
    in_parallel(&made, |made| {
        driver.attach(made);
        assert_eq!(fs::read_to_string(made.target.join("after")).expect("read"), made.id);
        driver.detach(made);
        driver.delete(&made.id).expect("deleted");
    });
    assert_eq!(driver.objects(), Vec::<String>::new());
}
