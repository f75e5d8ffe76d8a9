//! The driver in a real Kubernetes of one node: etcd, API server, controller-manager, scheduler, kubelet,
//! containerd and runc, the chart installed by the real helm, csi-provisioner and csi-resizer beside our
//! controller. `make tools` brings the programs. The cluster is started once; each case has its own
//! namespace of it. It all runs in Linux namespaces of its own (`confined.rs`), which end with it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a failing test has to say")]

mod backup;
mod cluster;
mod confined;
mod database;
mod driver;
mod image;
mod kubectl;
mod kubernetes;
mod lent;
mod names;
mod repositories;
mod restarts;
mod rotation;
mod seeds;
mod stand;
mod statics;
#[path = "../support/mod.rs"]
mod support;
mod tenants;
mod volumes;

use libtest_mimic::{Arguments, Trial};
use stand::Stand;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A case: its name is the sentence that it proves.
type Case = (&'static str, fn(&Stand));

/// The cases, in the order in which they run: what disturbs others comes last.
fn cases() -> Vec<Case> {
    [
        volumes::CASES,
        statics::CASES,
        backup::CASES,
        repositories::CASES,
        seeds::CASES,
        lent::CASES,
        tenants::CASES,
        rotation::CASES,
        restarts::CASES,
    ]
    .concat()
}

fn main() -> ExitCode {
    match confined::enter() {
        Err(code) => code,
        Ok(()) => run(),
    }
}

/// Inside, where the cluster is.
fn run() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The cases that restart processes would be failures of the others.
    arguments.test_threads = Some(1);
    let stand: Arc<OnceLock<Stand>> = Arc::default();
    let trial = |(name, case): Case| {
        let stand = stand.clone();
        Trial::test(name, move || {
            case(stand.get_or_init(|| {
                // Once is enough, also when it fails.
                static TRIED: AtomicBool = AtomicBool::new(false);
                assert!(!TRIED.swap(true, Ordering::Relaxed), "the cluster did not come up");
                Stand::up()
            }));
            Ok(())
        })
    };
    let conclusion = libtest_mimic::run(&arguments, cases().into_iter().map(trial).collect());
    let mut failed = conclusion.has_failed();
    if let Some(stand) = stand.get() {
        failed |= !stand.keeps_its_secrets();
        if failed {
            stand.tell();
        }
    }
    if failed {
        cluster::tell();
    }
    ExitCode::from(u8::from(failed))
}
