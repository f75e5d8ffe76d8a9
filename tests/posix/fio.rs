//! fio: what was written, in many ways and by several jobs at a time, is read back and verified, at once
//! and after the server was killed.

use crate::{end_of, finish, limited, volume};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Each job, and whether it can be verified again after a remount.
const JOBS: &[(&str, &str)] = &[
    ("sequential", "--rw=write --ioengine=psync --bs=64k --size=32m"),
    ("random", "--rw=randwrite --ioengine=psync --bs=16k --size=16m"),
    ("unaligned", "--rw=randwrite --ioengine=sync --bsrange=1k-96k --bs_unaligned=1 --size=8m"),
    ("large-blocks", "--rw=write --ioengine=psync --bs=4m --size=64m"),
    ("mapped", "--rw=randwrite --ioengine=mmap --bs=16k --size=4m"),
    ("o_sync", "--rw=write --ioengine=psync --sync=1 --bs=128k --size=2m"),
    ("fdatasync", "--rw=randwrite --ioengine=psync --bs=16k --fdatasync=8 --size=2m"),
    ("direct", "--rw=write --direct=1 --ioengine=psync --bs=128k --size=16m"),
    ("direct-random", "--rw=randwrite --direct=1 --ioengine=libaio --iodepth=8 --bs=4k --size=2m"),
    ("asynchronous", "--rw=randwrite --ioengine=libaio --iodepth=16 --bs=32k --size=8m"),
    ("allocated", "--rw=write --ioengine=psync --fallocate=posix --bs=64k --size=8m"),
    ("four-jobs", "--rw=randwrite --numjobs=4 --ioengine=psync --bs=32k --size=8m"),
    (
        "four-jobs-direct",
        "--rw=randwrite --numjobs=4 --direct=1 --ioengine=psync --bs=32k --size=4m",
    ),
];

#[test]
fn every_job_reads_what_it_wrote_also_after_a_crash() {
    check(&[]);
}

#[test]
fn every_job_reads_what_it_wrote_where_a_close_does_not_wait() {
    check(&["--durability", "fsync", "--memory-limit", "64MiB"]);
}

fn check(flags: &[&str]) {
    let volume = volume();
    let mount = volume.mount_with(flags);
    for (name, job) in JOBS {
        fio(&mount.path, &volume.local("fio"), name, &format!("{job} --end_fsync=1"));
    }
    // Mixed with reads, whose blocks are not all written: verified while it runs only.
    fio(
        &mount.path,
        &volume.local("fio"),
        "mixed",
        "--rw=randrw --ioengine=psync --bs=32k --size=8m",
    );
    let start = crate::support::random_bytes(1, 1_000_003);
    std::fs::write(mount.join("appended"), &start).expect("written");
    let append = "--rw=write --file_append=1 --ioengine=psync --bs=100k --size=5m --end_fsync=1";
    fio(&mount.path, &volume.local("fio"), "append", &format!("{append} --filename=appended"));
    let path = mount.kill9();
    let mount = volume.mount_at(path, flags);
    for (name, job) in JOBS {
        fio(&mount.path, &volume.local("fio"), name, &format!("{job} --verify_only=1"));
    }
    let appended = std::fs::read(mount.join("appended")).expect("readable");
    assert!(appended.starts_with(&start) && appended.len() > start.len(), "the start is kept");
    mount.unmount();
}

fn fio(directory: &Path, local: &Path, name: &str, job: &str) {
    // It leaves the state of its verification in the directory where it runs.
    std::fs::create_dir_all(local).expect("made");
    let mut command = limited("fio", LIMIT);
    command.arg(format!("--name={name}")).arg(format!("--directory={}", directory.display()));
    command.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--thread"]);
    command.args([
        "--fallocate=none",
        "--randseed=7",
        "--group_reporting",
        "--output-format=terse",
    ]);
    let (status, said) = finish(command.args(job.split(' ')).current_dir(local));
    assert!(status.success(), "{name} ({job}): {status}: {}", end_of(&said));
}
