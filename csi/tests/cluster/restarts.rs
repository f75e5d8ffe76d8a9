//! What pods must not notice: workers and node plugins that are killed or replaced, kubelet that starts again;
//! and a store that is away, which must not keep a pod from being deleted.

use crate::Case;
use crate::driver::{self, NAMESPACE};
use crate::kubectl::{PATIENCE, until};
use crate::stand::{IMPATIENT, Space, Stand, dynamic, of_claim};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("a_pod_that_writes_does_not_notice_that_its_worker_is_killed", worker_killed),
    ("a_pod_that_writes_does_not_notice_that_the_node_plugin_is_killed", node_plugin_killed),
    (
        "a_pod_that_writes_does_not_notice_that_the_keeper_is_killed_and_its_worker_after_it",
        keeper_killed,
    ),
    ("a_pod_that_writes_does_not_notice_an_upgrade_of_the_chart", upgraded),
    ("a_pod_that_writes_does_not_notice_that_kubelet_starts_again", kubelet_restarted),
    ("a_pod_can_be_deleted_while_the_store_is_away", store_away),
];

/// How often a pod writes and reads back in the meantime, at least.
const ROUNDS: u32 = 40;

/// Writes a file after the other, reads each back, appends to one that stays open; any error ends it. It goes
/// on until it has been told to stop and has done so many rounds.
fn script() -> String {
    format!(
        "exec 3>>/data/log; n=0
         while [ ! -e /data/stop ] || [ $n -lt {ROUNDS} ]; do
             n=$((n + 1))
             seq $n $((n + 20000)) > /data/file-$n
             echo $n >&3
             [ \"$(seq $n $((n + 20000)) | sha256sum)\" = \"$(sha256sum < /data/file-$n)\" ]
         done
         exec 3>&-
         [ \"$(seq 1 $n | sha256sum)\" = \"$(sha256sum < /data/log)\" ]
         echo $n"
    )
}

/// A pod that writes while something is done; then another pod compares everything.
fn undisturbed(space: &Space<'_>, disturb: impl FnOnce(&dyn Fn())) {
    undisturbed_on(space, dynamic(&["ReadWriteOnce"], "1Gi"), disturb);
}

/// The same on a claim of this spec, whose name is `written`.
pub(crate) fn undisturbed_on(space: &Space<'_>, claim: Value, disturb: impl FnOnce(&dyn Fn())) {
    space.claim("written", claim);
    space.start("writer", of_claim("written"), &script(), json!({}));
    space.ready("writer");
    let written = || {
        let log = space.ask(&["exec", "writer", "--", "tail", "-n", "1", "/data/log"])?;
        log.trim().parse::<u32>().map_err(|error| format!("{log:?}: {error}"))
    };
    // Returns when the pod has written more than before.
    let goes_on = || {
        let before = until("the writer's log", PATIENCE, written);
        until("more of the writer", PATIENCE, || match written()? {
            more if more > before + 2 => Ok(()),
            same => Err(format!("it is at {same}")),
        });
    };
    goes_on();
    disturb(&goes_on);
    goes_on();
    // The pod ends as soon as the file is there, and may take this shell with it.
    let _ = space.ask(&["exec", "writer", "--", "sh", "-c", ": > /data/stop"]);
    let rounds = space.succeeds("writer");
    let restarts = "--output=jsonpath={.status.containerStatuses[*].restartCount}";
    assert_eq!(space.get(&["get", "pod", "writer", restarts]), "0");
    space.delete_pod("writer");
    let compare = format!(
        "for n in $(seq 1 {0}); do
             [ \"$(seq $n $((n + 20000)) | sha256sum)\" = \"$(sha256sum < /data/file-$n)\" ]
         done; [ \"$(seq 1 {0} | sha256sum)\" = \"$(sha256sum < /data/log)\" ]",
        rounds.trim()
    );
    space.start("reader", of_claim("written"), &compare, json!({}));
    space.succeeds("reader");
}

/// Kills processes of the driver by their command lines; how many there were.
fn kill(words: &[&str]) -> usize {
    use nix::sys::signal::{Signal, kill};
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        // A command line of another program is not looked at: a read of it may wait for a dead mount.
        if !String::from_utf8_lossy(&read("comm")).starts_with("strongroom") {
            continue;
        }
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        if words.iter().all(|word| line.contains(word)) {
            kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
            killed += 1;
        }
    }
    killed
}

fn worker_killed(stand: &Stand) {
    undisturbed(&stand.space(), |goes_on| {
        for _ in 0..5 {
            assert!(kill(&["mount", "--attach"]) >= 1, "there is a worker");
            goes_on();
        }
    });
}

fn node_plugin_killed(stand: &Stand) {
    undisturbed(&stand.space(), |goes_on| {
        // Its container ends with it, and every worker; kubelet starts it again.
        assert_eq!(kill(&["strongroom-csi node", "=csi.strongroom.io "]), 1);
        goes_on();
        let pod = "--selector=app.kubernetes.io/component=node";
        let kubectl = &stand.cluster.kubectl;
        kubectl.get(&["delete", "pod", "--namespace", NAMESPACE, pod, "--timeout=120s"]);
        goes_on();
        kubectl.get(&["rollout", "status", "--namespace", NAMESPACE, NODES, "--timeout=120s"]);
    });
}

/// Its container starts again, with a keeper that knows nothing of what is mounted.
fn keeper_killed(stand: &Stand) {
    let space = stand.space();
    let keeper = "--selector=app.kubernetes.io/component=keeper";
    let restarts = "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let words = ["get", "pods", "--namespace", NAMESPACE, keeper, restarts];
    let count = || {
        let text = stand.cluster.kubectl.ask(&words)?;
        text.parse::<u32>().map_err(|error| format!("{text:?}: {error}"))
    };
    let before = count().expect("one keeper");
    undisturbed(&space, |goes_on| {
        assert_eq!(kill(&["strongroom-csi keeper"]), 1);
        goes_on();
        until("the next keeper", PATIENCE, || match count()? {
            more if more > before => Ok(()),
            same => Err(format!("restarted {same} times")),
        });
        for _ in 0..2 {
            assert!(kill(&["mount", "--attach"]) >= 1, "there is a worker");
            goes_on();
        }
        // The new one does its work for others meanwhile.
        space.claim("another", dynamic(&["ReadWriteOnce"], "1Gi"));
        space.idle("another", of_claim("another"), json!({}));
        space.shell("another", "echo by the next keeper > /data/file");
        space.delete_pod("another");
    });
}

/// The node plugin, as the chart's release calls it.
const NODES: &str = "daemonset/strongroom-node";

fn upgraded(stand: &Stand) {
    undisturbed(&stand.space(), |goes_on| {
        let generation = || {
            let words = ["--namespace", NAMESPACE, NODES];
            stand.cluster.kubectl.object(&words)["status"]["observedGeneration"].as_u64()
        };
        let before = generation();
        let mut values = stand.values();
        values["log"] = json!({"level": "info", "format": "json"});
        driver::install(&stand.cluster, "strongroom", &values);
        assert!(generation() > before, "the node plugin was replaced");
        goes_on();
    });
}

fn kubelet_restarted(stand: &Stand) {
    let space = stand.space();
    undisturbed(&space, |goes_on| {
        stand.cluster.restart_kubelet();
        goes_on();
        // It knows the volume still: another pod gets it as well.
        space.idle("another", of_claim("written"), json!({}));
        space.shell("another", "[ $(wc -l < /data/log) -gt 1 ]");
        space.delete_pod("another");
    });
}

fn store_away(stand: &Stand) {
    let space = stand.space();
    for claim in ["quiet", "open"] {
        let mut spec = dynamic(&["ReadWriteOnce"], "1Gi");
        // A killed program waits for what it wrote to be stored: its close cannot be interrupted.
        spec["storageClassName"] = IMPATIENT.into();
        space.claim(claim, spec);
        space.idle(claim, of_claim(claim), json!({}));
        space.shell(claim, "echo stored > /data/before");
    }
    // A program that writes on and on: there are bytes that are not stored when it is killed.
    let on = "(exec 3>/data/after; while seq 10000 >&3; do sleep 0.1; done) > /dev/null 2>&1 &";
    space.shell("open", &format!("{on} sleep 1"));
    stand.minio.pause();
    std::thread::sleep(Duration::from_secs(3));
    let start = Instant::now();
    // The one with nothing to store goes as ever.
    let quiet = space.ask(&["delete", "pod", "quiet", "--timeout=60s"]);
    let open = space.ask(&["delete", "pod", "open", "--timeout=140s"]);
    let took = start.elapsed();
    stand.minio.resume();
    println!("both deleted after {took:.1?} with the store away");
    assert!(quiet.is_ok() && open.is_ok(), "{quiet:?} {open:?}");
    for claim in ["quiet", "open"] {
        space.idle("again", of_claim(claim), json!({}));
        assert_eq!(space.shell("again", "cat /data/before"), "stored\n");
        space.delete_pod("again");
    }
}
