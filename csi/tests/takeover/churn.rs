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
fn churn(
    directory: &Path,
    thread: u64,
    links: bool,
    (ended, done): (&AtomicBool, &AtomicU64),
) -> io::Result<u64> {
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
        match links {
            true => fs::hard_link(name("directory").join("file"), name("linked")),
            // An object has one name.
            false => fs::write(name("linked"), "content"),
        }
        .map_err(context("link"))?;
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

pub(crate) fn check_churn(mut ground: Ground, kills: u64) {
    ground.serve();
    let (ended, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let directory = ground.staging();
    let rounds: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let (directory, links) = (&directory, !ground.is_of_files());
                let told = (&ended, &done);
                scope.spawn(move || churn(directory, thread, links, told))
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
    if ground.is_of_files() {
        ground.serve();
        assert_eq!(listed(&directory), expected);
        return ground.unstage();
    }
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
