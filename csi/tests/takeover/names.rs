//! Names that come, move and go while the server is killed.

use crate::ground::Ground;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// One operation after the other, each of which must succeed: an EEXIST or ENOENT means that a request was
/// carried out twice.
fn churn(directory: &Path, thread: u64, ended: &AtomicBool, done: &AtomicU64) -> io::Result<u64> {
    let mut round = 0;
    while !ended.load(Ordering::Relaxed) {
        let name = |what: &str| directory.join(format!("{what}-{thread}-{round}"));
        let context = |what: &'static str| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{what} {round}: {error}"))
        };
        let exclusive = OpenOptions::new().write(true).create_new(true).open(name("new"));
        drop(exclusive.map_err(context("create"))?);
        fs::rename(name("new"), name("moved")).map_err(context("rename"))?;
        fs::create_dir(name("directory")).map_err(context("mkdir"))?;
        fs::rename(name("moved"), name("directory").join("file")).map_err(context("move"))?;
        fs::hard_link(name("directory").join("file"), name("linked")).map_err(context("link"))?;
        std::os::unix::fs::symlink("target", name("symbolic")).map_err(context("symlink"))?;
        fs::remove_file(name("directory").join("file")).map_err(context("unlink"))?;
        fs::remove_dir(name("directory")).map_err(context("rmdir"))?;
        fs::create_dir(name("directory")).map_err(context("mkdir again"))?;
        fs::remove_dir(name("directory")).map_err(context("rmdir again"))?;
        fs::remove_file(name("symbolic")).map_err(context("unlink of a link"))?;
        fs::rename(name("linked"), directory.join(format!("kept-{thread}-{round}")))
            .map_err(context("last rename"))?;
        round += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(round)
}

fn check_churn(mut ground: Ground, kills: u64) {
    ground.serve();
    let (ended, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let directory = ground.staging();
    let rounds: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let (directory, ended, done) = (&directory, &ended, &done);
                scope.spawn(move || churn(directory, thread, ended, done))
            })
            .collect();
        for kill in 0..kills {
            std::thread::sleep(Duration::from_millis(100 + 61 * (kill % 7)));
            ground.kill_worker();
        }
        ended.store(true, Ordering::Relaxed);
        let ended = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        ended.map(|rounds| rounds.expect("nothing fails")).collect()
    });
    println!("{} rounds of twelve operations through {kills} kills", done.load(Ordering::Relaxed));
    assert!(rounds.iter().all(|rounds| *rounds > 2), "{rounds:?}");
    let expected: BTreeSet<String> = (0..)
        .zip(&rounds)
        .flat_map(|(thread, rounds)| {
            (0..*rounds).map(move |round| format!("kept-{thread}-{round}"))
        })
        .collect();
    assert_eq!(listed(&directory), expected);
    ground.unstage();
    let elsewhere = String::from_utf8(ground.tool(&["ls", &ground.url])).expect("text");
    let elsewhere: BTreeSet<String> = elsewhere.lines().map(str::to_owned).collect();
    assert_eq!(elsewhere, expected);
}

fn listed(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("listed");
    entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn no_change_of_a_name_is_done_twice_or_lost_through_kills() {
    check_churn(Ground::on_directory(), 25);
}

#[test]
fn no_change_of_a_name_is_done_twice_or_lost_by_the_only_writer() {
    check_churn(Ground::new(None, "10m", &[("exclusive", true.into())]), 25);
}

#[test]
fn no_change_of_a_name_is_done_twice_or_lost_on_a_server() {
    check_churn(Ground::on_minio(), 10);
}

#[test]
fn a_volume_that_a_mount_has_for_itself_stays_its_own() {
    let mut ground = Ground::new(None, "10m", &[("exclusive", true.into())]);
    ground.serve();
    fs::write(ground.at("first"), "1").expect("written");
    let url = ground.url.clone();
    let refused = |ground: &Ground| {
        let mut command = std::process::Command::new(crate::ground::strongroom());
        command.env_clear().env("STRONGROOM_PASSPHRASE_FILE", ground.local("passphrase"));
        let output = command.args(["mkdir", &format!("{url}//x")]).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("in use"), "{said}");
    };
    refused(&ground);
    for _ in 0..3 {
        ground.kill_worker();
        refused(&ground);
        fs::write(ground.at("second"), "2").expect("written");
    }
    ground.unstage();
    ground.tool(&["mkdir", &format!("{}//x", ground.url)]);
    assert_eq!(ground.pulled("second"), b"2");
}

#[test]
fn a_directory_that_is_being_read_is_read_to_its_end() {
    let mut ground = Ground::on_directory();
    ground.serve();
    let names: BTreeSet<String> = (0..3_000).map(|number| format!("name-{number:05}")).collect();
    for name in &names {
        fs::write(ground.at(name), b"").expect("written");
    }
    let mut entries = fs::read_dir(ground.staging()).expect("opened");
    let mut seen = BTreeSet::new();
    for _ in 0..700 {
        seen.insert(entries.next().expect("more").expect("an entry").file_name());
    }
    ground.kill_worker();
    for entry in entries {
        assert!(seen.insert(entry.expect("an entry").file_name()), "twice");
    }
    assert_eq!(seen.len(), names.len());
    ground.unstage();
}
