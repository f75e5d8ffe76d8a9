//! The file system against a reference in memory: random operations, store faults and crashes, all
//! from one seed. After every crash: what was acknowledged is there byte for byte, what was not is one
//! of the states since, nothing else appears, no name vanishes.
//!
//! `STRONGROOM_SEED=n` runs one sequence (`STRONGROOM_TRACE=1` prints its operations),
//! `STRONGROOM_CASES=n` that many.

#![allow(clippy::print_stdout, reason = "the operations of a run that is traced")]
#![allow(clippy::collapsible_if, reason = "each condition has its own comment")]

mod content;
mod operations;
mod reference;
mod run;
mod world;

use rand::RngExt;
use run::Run;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Sequences in a default run.
const CASES: u64 = 3000;

fn sequence(seed: u64) {
    let mut run = Run::new(seed);
    let disturbed = run.chance(0.7);
    let steps = run.random.random_range(20..120);
    for _ in 0..steps {
        match run.random.random_range(0..100) {
            0..4 => run.crash(),
            4..8 if disturbed => {
                run.note("faults begin".to_owned());
                run.start_faults();
            }
            8..12 => run.recover(),
            12..16 if disturbed => {
                run.end_faults();
                let nth = run.random.random_range(1..7);
                run.start_dying(nth);
                run.note(format!("the store is gone from request {nth} on"));
                run.step_to_die_in();
                run.crash();
            }
            _ => run.step(),
        }
    }
    run.recover();
    run.crash();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn what_was_acknowledged_survives_faults_and_crashes() {
    if let Some(seed) = number("STRONGROOM_SEED") {
        return sequence(seed);
    }
    let cases = number("STRONGROOM_CASES").unwrap_or(CASES);
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let run = |worker| {
            move || {
                let mut failed = Vec::new();
                for seed in (worker..cases).step_by(workers as usize) {
                    if catch_unwind(AssertUnwindSafe(|| sequence(seed))).is_err() {
                        failed.push(seed);
                    }
                    if failed.len() > 20 {
                        break;
                    }
                }
                failed
            }
        };
        let workers: Vec<_> = (0..workers).map(|worker| scope.spawn(run(worker))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
    });
    assert!(
        failed.is_empty(),
        "STRONGROOM_SEED={}: {} seeds failed: {failed:?}",
        failed[0],
        failed.len()
    );
}
