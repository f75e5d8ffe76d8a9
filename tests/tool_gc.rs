//! `strongroom gc` on real stores: garbage goes, nothing else does, and what is dangerous is refused.

mod support;

use serde_json::Value;
use std::time::Duration;
use support::{Backend, Volume, on_every_backend, random_bytes};

/// Short, so that a test can wait for it; stores date their objects in whole seconds.
const GRACE: Duration = Duration::from_secs(3);

on_every_backend![
    garbage_goes_in_the_end_and_nothing_else,
    a_dry_run_stores_nothing,
    one_collection_at_a_time,
    a_short_grace_period_needs_an_unused_volume,
];

fn push(volume: &Volume, path: &str, bytes: &[u8]) {
    volume.tool_with_input(["push", "-", &volume.at(path)], bytes).succeeded();
}

fn gc(volume: &Volume, flags: &[&str]) -> Value {
    let mut arguments = vec!["gc", &volume.url, "--grace", "3s", "--alone", "--json"];
    arguments.extend(flags);
    let printed = volume.tool(arguments).succeeded();
    serde_json::from_str(&printed).expect("JSON")
}

fn garbage_goes_in_the_end_and_nothing_else(backend: Backend) {
    let volume = Volume::new(backend);
    let (kept, replaced) = (random_bytes(1, 9_000_000), random_bytes(2, 300_000));
    push(&volume, "deep/er/kept", &kept);
    push(&volume, "removed", &random_bytes(3, 200_000));
    push(&volume, "replaced", &random_bytes(4, 200_000));
    push(&volume, "replaced", &replaced);
    push(&volume, "small", b"in its record");
    volume.tool(["rm", &volume.at("removed")]).succeeded();
    volume.tool(["mv", &volume.at("small"), &volume.at("moved")]).succeeded();
    assert_eq!(gc(&volume, &[])["done"]["segments"]["count"], 0, "one look is not enough");
    let (mut segments, mut names) = (0, 0);
    // Two looks for what was replaced; for what was removed its name must be old first.
    for _ in 0..6 {
        std::thread::sleep(GRACE + Duration::from_secs(1));
        let run = gc(&volume, &[]);
        segments += run["done"]["segments"]["count"].as_u64().expect("a number");
        names += run["done"]["names"].as_u64().expect("a number");
        assert_eq!(run["done"]["failed"], 0);
    }
    let last = gc(&volume, &[]);
    assert_eq!((segments, last["found"]["segments"]["count"].as_u64()), (2, Some(3)));
    assert!(names >= 1, "{names}");
    assert_eq!(last["found"]["removed_names"], 0);
    assert_eq!(last["found"]["waiting"]["count"], 0);
    // Nothing has changed since: no record was read again.
    assert_eq!(last["found"]["records_read"], 0);
    volume.tool(["verify", &volume.url]).succeeded();
    for (path, bytes) in
        [("deep/er/kept", &kept), ("replaced", &replaced), ("moved", &b"in its record".to_vec())]
    {
        let read = volume.tool(["cat", &volume.at(path)]).succeeded_with_bytes();
        assert!(&read == bytes, "{path}");
    }
}

fn a_dry_run_stores_nothing(backend: Backend) {
    let volume = Volume::new(backend);
    push(&volume, "a", &random_bytes(1, 100_000));
    push(&volume, "a", &random_bytes(2, 100_000));
    let dry = || volume.tool(["gc", &volume.url, "--dry-run", "--json"]).succeeded();
    let run: Value = serde_json::from_str(&dry()).expect("JSON");
    assert_eq!(run["dry_run"], true);
    assert_eq!(run["found"]["segments"]["count"], 2);
    if backend == Backend::Dir {
        assert!(!volume.store().join("g@").exists(), "a dry run left something");
    }
    // Young and seen once only: nothing is garbage yet.
    let printed = volume.tool(["gc", &volume.url]).succeeded();
    assert!(printed.contains("to delete: 0 B in 0 segments"), "{printed}");
}

#[test]
fn an_object_that_is_not_ours_stops_it() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "a", &random_bytes(1, 100_000));
    std::fs::create_dir_all(volume.store().join("t@/unknown@")).expect("made");
    std::fs::write(volume.store().join("t@/unknown@/object"), "x").expect("written");
    let error = volume.tool(["gc", &volume.url]).failed();
    assert!(error.contains("nothing is deleted: t/unknown/object"), "{error}");
    std::fs::remove_file(volume.store().join("t@/unknown@/object")).expect("removed");
    gc(&volume, &[]);
}

fn one_collection_at_a_time(backend: Backend) {
    let volume = Volume::new(backend);
    for index in 0..40 {
        push(&volume, &format!("file{index}"), b"x");
    }
    let runs: Vec<_> = (0..6)
        .map(|_| {
            let mut command = volume.command(["gc", &volume.url]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().expect("strongroom starts")
        })
        .collect();
    let outputs: Vec<_> =
        runs.into_iter().map(|run| run.wait_with_output().expect("ends")).collect();
    assert!(outputs.iter().any(|output| output.status.success()), "one of them works");
    for output in outputs.iter().filter(|output| !output.status.success()) {
        let error = String::from_utf8_lossy(&output.stderr);
        let known = error.contains("holds the volume") || error.contains("took over");
        assert!(known, "{error}");
    }
    gc(&volume, &[]);
}

fn a_short_grace_period_needs_an_unused_volume(backend: Backend) {
    let volume = Volume::new(backend);
    let error = volume.tool(["gc", &volume.url, "--grace", "1m"]).failed();
    assert!(error.contains("--alone"), "{error}");
    let mount = volume.mount();
    std::fs::write(mount.path.join("file"), "content").expect("written");
    let error = volume.tool(["gc", &volume.url, "--grace", "1m", "--alone"]).failed();
    assert!(error.contains("nobody else uses"), "{error}");
    volume.tool(["gc", &volume.url]).succeeded();
    assert_eq!(std::fs::read(mount.path.join("file")).expect("read"), b"content");
}
