//! What programs write.

use crate::ground::{Ground, bytes_of, limited};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn dd_of_200_mib_ends_well_although_its_server_is_killed_three_times() {
    for mut ground in [Ground::on_directory(), Ground::on_minio()] {
        ground.serve();
        let bytes = bytes_of(7, 200 << 20);
        fs::write(ground.local("source"), &bytes).expect("written");
        let mut dd = limited("dd", 120)
            .arg(format!("if={}", ground.local("source").display()))
            .arg(format!("of={}", ground.at("copy").display()))
            .args(["bs=1M", "status=none"])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("dd starts");
        for kill in 0..3 {
            // When some of it has arrived, so that each kill hits something.
            let due = (kill + 1) * (40 << 20);
            crate::ground::wait_for("dd", || {
                fs::metadata(ground.at("copy")).is_ok_and(|copy| copy.len() >= due)
            });
            ground.kill_worker();
        }
        let status = dd.wait().expect("dd ends");
        assert!(status.success(), "{status}");
        assert_eq!(ground.stats().takeovers, 3);
        assert!(fs::read(ground.at("copy")).expect("readable") == bytes, "read by the mount");
        ground.unstage();
        assert!(ground.pulled("copy") == bytes, "read elsewhere");
    }
}

#[test]
fn bytes_that_no_fsync_stored_outlive_their_server() {
    let mut ground = Ground::on_directory();
    ground.serve();
    let mut file = File::create(ground.at("file")).expect("created");
    file.write_all(b"one, ").expect("written");
    ground.kill_worker();
    file.write_all(b"two, ").expect("written");
    ground.kill_worker();
    file.write_all(b"three").expect("written");
    file.set_len(100_000).expect("longer");
    file.write_all_at(b"end", 99_997).expect("written");
    ground.kill_worker();
    let mut text = [0; 20];
    file = fs::OpenOptions::new().read(true).write(true).open(ground.at("file")).expect("opened");
    file.read_exact(&mut text[..15]).expect("read");
    assert_eq!(&text[..15], b"one, two, three");
    file.set_len(8).expect("shorter");
    ground.kill_worker();
    file.set_len(12).expect("longer");
    ground.kill_worker();
    file.seek(SeekFrom::Start(0)).expect("at the start");
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).expect("read");
    assert_eq!(rest, b"one, two\0\0\0\0");
    drop(file);
    ground.unstage();
    assert_eq!(ground.pulled("file"), b"one, two\0\0\0\0");
}

#[test]
fn the_first_request_after_a_kill_is_answered_within_a_second() {
    let mut ground = Ground::on_minio();
    ground.serve();
    let file = File::create(ground.at("file")).expect("created");
    let mut times = Vec::new();
    for round in 0..10_u64 {
        let pid = ground.pid();
        let start = Instant::now();
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
        file.write_all_at(b"x", round).expect("written");
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("times from a kill to the first answer: {times:?}");
    assert!(times[times.len() / 2] < Duration::from_secs(1), "{times:?}");
    // Tests that run beside this one take their part of the processors, but the tenth kill in a row is
    // answered for as soon as the first: no wait of the supervisor's is in it.
    assert!(times[times.len() - 1] < Duration::from_secs(4), "{times:?}");
    drop(file);
    ground.unstage();
    assert_eq!(ground.pulled("file"), b"xxxxxxxxxx");
}

/// Each job is verified by fio itself, while its server is killed again and again, and once more when the
/// volume is mounted elsewhere.
#[test]
fn fio_verifies_what_it_wrote_although_its_server_is_killed_ten_times() {
    const JOBS: &[(&str, &str)] = &[
        ("sequential", "--rw=write --ioengine=psync --bs=64k --size=48m"),
        ("random", "--rw=randwrite --ioengine=psync --bs=16k --size=24m"),
        ("unaligned", "--rw=randwrite --ioengine=sync --bsrange=1k-96k --bs_unaligned=1 --size=8m"),
        ("fdatasync", "--rw=randwrite --ioengine=psync --bs=16k --fdatasync=8 --size=4m"),
        ("direct", "--rw=write --direct=1 --ioengine=psync --bs=128k --size=32m"),
        ("four-jobs", "--rw=randwrite --numjobs=4 --ioengine=psync --bs=32k --size=8m"),
    ];
    let mut ground = Ground::on_directory();
    ground.serve();
    let mut kills = 0;
    let mut round = 0;
    while kills < 10 {
        for (name, job) in JOBS {
            let name = format!("{name}-{round}");
            let mut fio = fio(&ground, &name, &format!("{job} --rate=16m --end_fsync=1"))
                .spawn()
                .expect("fio starts");
            std::thread::sleep(Duration::from_millis(150 + 37 * kills));
            while fio.try_wait().expect("a child of ours").is_none() {
                ground.kill_worker();
                kills += 1;
                std::thread::sleep(Duration::from_millis(400 + 90 * (kills % 5)));
            }
            let output = fio.wait_with_output().expect("fio ends");
            let said = String::from_utf8_lossy(&output.stdout);
            let said = said.chars().take(200).collect::<String>();
            assert!(output.status.success(), "{name}: {}: {said}", output.status);
        }
        round += 1;
    }
    assert!(ground.stats().takeovers >= 10);
    for (name, job) in JOBS {
        let name = format!("{name}-0");
        let output = fio(&ground, &name, &format!("{job} --verify_only=1")).output().expect("fio");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
    println!("fio was verified through {kills} kills");
    ground.unstage();
}

fn fio(ground: &Ground, name: &str, job: &str) -> std::process::Command {
    let local = ground.local("fio");
    fs::create_dir_all(&local).expect("made");
    let mut command = limited("fio", 120);
    command
        .arg(format!("--name={name}"))
        .arg(format!("--directory={}", ground.staging().display()));
    command.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--thread"]);
    command.args([
        "--fallocate=none",
        "--randseed=7",
        "--group_reporting",
        "--output-format=terse",
    ]);
    command.args(job.split(' ')).current_dir(local).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_file_without_a_name_outlives_its_server() {
    let mut ground = Ground::on_directory();
    ground.serve();
    let (small, large) = (bytes_of(1, 5_000), bytes_of(2, 20 << 20));
    for (name, bytes, stored) in
        [("never-stored", &small, false), ("stored", &small, true), ("large", &large, true)]
    {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(ground.at(name))
            .expect("created");
        file.write_all(bytes).expect("written");
        if stored {
            file.sync_all().expect("stored");
        }
        fs::remove_file(ground.at(name)).expect("removed");
        ground.kill_worker();
        let mut read = vec![0; bytes.len()];
        file.read_exact_at(&mut read, 0).expect("still readable");
        assert!(read == *bytes, "{name}");
        file.write_all(b"more").expect("still writable");
        ground.kill_worker();
        let end = bytes.len() as u64;
        file.read_exact_at(&mut read[..4], end).expect("readable");
        assert_eq!(&read[..4], b"more", "{name}");
        assert!(!ground.at(name).exists(), "{name}");
    }
    ground.unstage();
}

#[test]
fn attributes_outlive_their_server() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let mut ground = Ground::on_directory();
    ground.serve();
    let file = File::create(ground.at("file")).expect("created");
    (&file).write_all(b"x").expect("written");
    file.set_permissions(fs::Permissions::from_mode(0o4751)).expect("mode set");
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    file.set_modified(time).expect("time set");
    ground.kill_worker();
    let known = file.metadata().expect("attributes");
    assert_eq!((known.mode() & 0o7777, known.size()), (0o4751, 1));
    assert_eq!(known.modified().expect("a time"), time);
    drop(file);
    ground.kill_worker();
    assert_eq!(fs::metadata(ground.at("file")).expect("attributes").mode() & 0o7777, 0o4751);
    ground.unstage();
}

/// Numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// One file, written, cut and stored at random, is at any time what an array in memory is.
#[test]
fn a_file_is_what_was_done_to_it_through_kills() {
    const LARGEST: u64 = 24 << 20;
    let seed = std::env::var("STRONGROOM_SEED").map_or_else(
        |_| u64::from_le_bytes(crate::ground::fresh()) | 1,
        |text| text.parse().expect("a number"),
    );
    println!("STRONGROOM_SEED={seed}");
    let mut dice = Dice(seed);
    let mut ground = Ground::on_directory();
    ground.serve();
    let mut model: Vec<u8> = Vec::new();
    let options = || {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).clone()
    };
    let mut file = options().open(ground.at("file")).expect("created");
    let mut kills = 0;
    for step in 0..1_500_u64 {
        match dice.roll(100) {
            0..80 => {
                let (at, length) = (dice.roll(LARGEST), 1 + dice.roll(96 << 10));
                let bytes = bytes_of(step + seed, length as usize);
                file.write_all_at(&bytes, at).expect("written");
                let end = (at + length) as usize;
                model.resize(model.len().max(end), 0);
                model[at as usize..end].copy_from_slice(&bytes);
            }
            80..84 => {
                let size = dice.roll(LARGEST);
                file.set_len(size).expect("resized");
                model.resize(size as usize, 0);
            }
            84..87 => file.sync_all().expect("stored"),
            87..89 => {
                drop(file);
                file = options().open(ground.at("file")).expect("opened again");
            }
            89..91 => {
                ground.kill_worker();
                kills += 1;
                assert_eq!(
                    file.metadata().expect("known").len(),
                    model.len() as u64,
                    "step {step}"
                );
            }
            _ => {
                let at = dice.roll(LARGEST);
                let mut read = vec![0; 100 << 10];
                let length = file.read_at(&mut read, at).expect("read");
                let from = model.len().min(at as usize);
                let expected = &model[from..model.len().min(from + read.len())];
                assert_eq!(length, expected.len(), "step {step}: bytes from {at}");
                assert!(read[..length] == *expected, "step {step}: other bytes from {at}");
            }
        }
    }
    drop(file);
    println!("{kills} kills");
    let bytes = fs::read(ground.at("file")).expect("read");
    assert!(bytes == model, "the whole file");
    ground.unstage();
    assert!(ground.pulled("file") == model, "read elsewhere");
}
