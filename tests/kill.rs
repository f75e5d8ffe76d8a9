//! What fsync or close acknowledged is readable from a fresh mount after `kill -9` at any point, and it
//! is whole. Writers note each acknowledgement the moment they have it; the server is killed at random
//! moments; the next mount is compared with the notes.

mod support;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;
use support::minio::Minio;
use support::{Backend, Volume, random_bytes, seed};

/// What one name must hold, as far as it was acknowledged.
#[derive(Clone, Debug)]
enum Promise {
    /// Exactly these bytes: the checksum.
    Whole(blake3::Hash),
    /// The first bytes that the seed makes, at least so many.
    Log { seed: u64, acknowledged: usize },
    /// Nothing: the file has another name now.
    Gone,
}

/// What a writer was about when the server died. It may have happened or not.
#[derive(Clone, Debug, Default)]
enum Pending {
    #[default]
    Nothing,
    /// A write to this name.
    Write(String),
    /// A rename of a file with this content.
    Rename { from: String, to: String, content: blake3::Hash },
}

/// What one writer knows at its end.
#[derive(Default)]
struct Notes {
    promises: BTreeMap<String, Promise>,
    pending: Pending,
}

/// Writes below a directory in a round, with a seed, until the server is gone.
type Writer = fn(&Path, u64, u64) -> Notes;

#[test]
fn acknowledged_files_survive_100_kills_on_a_directory() {
    check_kills(Backend::Dir, 100, &[], &[write_and_close, rename_into_place, append_to_logs]);
}

#[test]
fn acknowledged_files_survive_kills_on_a_server() {
    check_kills(Backend::Minio, 30, &[], &[write_and_close, rename_into_place, append_to_logs]);
}

/// SQLite commits so: the journal is removed, then the database, stored before, is closed.
#[test]
fn what_was_removed_before_a_file_was_closed_stays_removed() {
    let volume = Volume::on(Minio::start());
    let minio = volume.minio.clone().expect("a server");
    let mount = volume.mount_with(&["--attribute-ttl", "60s"]);
    let database = File::create(mount.join("database")).expect("created");
    database.sync_all().expect("stored");
    fs::write(mount.join("journal"), "of a transaction").expect("written");
    // The kernel tells the server of a close some time later, and an open file's removal is waited for.
    std::thread::sleep(Duration::from_millis(500));
    minio.pause();
    fs::remove_file(mount.join("journal")).expect("answered at once");
    let closing = std::thread::spawn(move || drop(database));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!closing.is_finished(), "closed while the journal still stands in the store");
    minio.resume();
    closing.join().expect("closed");
    let path = mount.kill9();
    let mount = volume.mount_at(path, &[]);
    assert!(!mount.join("journal").exists(), "the journal is there again");
    mount.unmount();
}

/// A close promises nothing then, an fsync does.
#[test]
fn synced_files_survive_kills_where_only_fsync_counts() {
    let flags = ["--durability", "fsync"];
    check_kills(Backend::Dir, 30, &flags, &[write_and_sync, append_to_logs]);
}

fn check_kills(backend: Backend, kills: u64, flags: &[&str], writers: &[Writer]) {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let volume = Volume::new(backend);
    let mut path = volume.local("mnt");
    fs::create_dir(&path).expect("mount point made");
    let mut acknowledged = 0;
    // Promises that outlive their round; most files are removed after their check to keep it short.
    let mut kept = Notes::default();
    for round in 0..kills {
        let mount = volume.mount_at(path, flags);
        let pause = Duration::from_micros(random.random_range(0..150_000));
        let when = format!("round {round}, killed after {pause:?}, seed {seed}");
        check(&mount.path, &kept, &when);
        let notes = std::thread::scope(|scope| {
            let start = |writer: &Writer| {
                let (writer, root, seed) = (*writer, &mount.path, random.random());
                scope.spawn(move || writer(root, round, seed))
            };
            let writers: Vec<_> = writers.iter().map(start).collect();
            std::thread::sleep(pause);
            mount.signal(Signal::SIGKILL);
            // They end by the errors of the dead mount.
            let notes = writers.into_iter().map(|writer| writer.join().expect("notes"));
            notes.collect::<Vec<Notes>>()
        });
        let mount = volume.mount_at(mount.kill9(), flags);
        for notes in notes {
            check(&mount.path, &notes, &when);
            acknowledged += notes.promises.len() as u64;
            for (name, promise) in notes.promises {
                let unsure = matches!(&notes.pending, Pending::Rename { from, to, .. }
                    if *from == name || *to == name);
                match promise {
                    Promise::Gone => {}
                    _ if !unsure && random.random_ratio(1, 10) => {
                        // A log may have grown by its last line, which was not acknowledged.
                        let found = blake3::hash(&read(&mount.join(&name), &when));
                        kept.promises.insert(name, Promise::Whole(found));
                    }
                    _ => {
                        let removed = fs::remove_file(mount.join(&name));
                        assert!(removed.is_ok() || unsure, "{when}: {name}: {removed:?}");
                    }
                }
            }
        }
        path = mount.path.clone();
        mount.unmount();
    }
    assert!(acknowledged > kills, "the writers hardly wrote: {acknowledged}");
}

/// Numbered files, written in pieces and closed, some synced before.
fn write_and_close(root: &Path, round: u64, seed: u64) -> Notes {
    write_files(root, round, seed, true)
}

/// The same, but only an fsync counts.
fn write_and_sync(root: &Path, round: u64, seed: u64) -> Notes {
    write_files(root, round, seed, false)
}

fn write_files(root: &Path, round: u64, seed: u64, close_counts: bool) -> Notes {
    let mut random = StdRng::seed_from_u64(seed);
    let mut notes = Notes::default();
    for number in 0.. {
        let name = format!("file {round} {number}");
        let bytes = random_bytes(random.random(), size(&mut random));
        let (sync, piece) = (random.random_bool(0.5), random.random_range(1..=200_000));
        let promise = Promise::Whole(blake3::hash(&bytes));
        notes.pending = Pending::Write(name.clone());
        let written = (|| {
            let mut file = File::create(root.join(&name))?;
            for piece in bytes.chunks(piece) {
                file.write_all(piece)?;
            }
            if sync {
                file.sync_all()?;
                notes.promises.insert(name.clone(), promise.clone());
            }
            close(file)
        })();
        if written.is_err() {
            break;
        }
        if close_counts {
            notes.promises.insert(name, promise);
        }
    }
    notes
}

/// What careful programs do: a temporary file, synced, renamed over the final name, again and again.
fn rename_into_place(root: &Path, round: u64, seed: u64) -> Notes {
    let mut random = StdRng::seed_from_u64(seed);
    let mut notes = Notes::default();
    for number in 0.. {
        let (from, to) = (format!("tmp {round} {number}"), format!("final {round} {}", number % 3));
        let bytes = random_bytes(random.random(), size(&mut random));
        let content = blake3::hash(&bytes);
        notes.pending = Pending::Write(from.clone());
        let written = (|| {
            let mut file = File::create(root.join(&from))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            notes.promises.insert(from.clone(), Promise::Whole(content));
            close(file)?;
            notes.pending = Pending::Rename { from: from.clone(), to: to.clone(), content };
            fs::rename(root.join(&from), root.join(&to))
        })();
        if written.is_err() {
            break;
        }
        notes.promises.insert(from, Promise::Gone);
        notes.promises.insert(to, Promise::Whole(content));
    }
    notes
}

/// Logs that are appended to and synced line by line, as databases do.
fn append_to_logs(root: &Path, round: u64, seed: u64) -> Notes {
    let mut random = StdRng::seed_from_u64(seed);
    let mut notes = Notes::default();
    for number in 0.. {
        let name = format!("log {round} {number}");
        let seed = random.random();
        notes.pending = Pending::Write(name.clone());
        let appended = (|| -> io::Result<()> {
            let path = root.join(&name);
            let mut file = OpenOptions::new().append(true).create_new(true).open(path)?;
            let mut length = 0;
            for _ in 0..50 {
                let line = random.random_range(1..20_000);
                file.write_all(&random_bytes(seed, length + line)[length..])?;
                file.sync_data()?;
                length += line;
                let promise = Promise::Log { seed, acknowledged: length };
                notes.promises.insert(name.clone(), promise);
            }
            Ok(())
        })();
        if appended.is_err() {
            break;
        }
    }
    notes
}

/// Closes a file and returns the error of the close, which `File` keeps to itself.
fn close(file: File) -> io::Result<()> {
    nix::unistd::close(file).map_err(io::Error::from)
}

/// Mostly inline, sometimes segments, rarely many.
fn size(random: &mut StdRng) -> usize {
    match random.random_range(0..20) {
        0..14 => random.random_range(0..66_000),
        14..19 => random.random_range(0..1_000_000),
        _ => random.random_range(0..12_000_000),
    }
}

/// Compares what is there with what was promised.
fn check(root: &Path, notes: &Notes, when: &str) {
    for (name, promise) in &notes.promises {
        let path = root.join(name);
        match (promise, &notes.pending) {
            // The old file or the new one, never none and never a mixture.
            (Promise::Whole(old), Pending::Rename { to, content, .. }) if to == name => {
                let found = blake3::hash(&read(&path, when));
                assert!(found == *old || found == *content, "{when}: {name} is neither file");
            }
            (Promise::Whole(content), Pending::Rename { from, to, .. }) if from == name => {
                let at = |name: &str| fs::read(root.join(name)).ok().map(|b| blake3::hash(&b));
                let found = [at(from), at(to)].contains(&Some(*content));
                assert!(found, "{when}: the content of {from} is neither there nor at {to}");
            }
            (Promise::Whole(content), _) => {
                let found = blake3::hash(&read(&path, when));
                assert!(found == *content, "{when}: {name} differs");
            }
            (Promise::Log { seed, acknowledged }, pending) => {
                let found = read(&path, when);
                let length = found.len();
                assert!(length >= *acknowledged, "{when}: {name} lost acknowledged lines");
                let growing = matches!(pending, Pending::Write(pending) if pending == name);
                assert!(length == *acknowledged || growing, "{when}: {name} grew");
                assert!(found == random_bytes(*seed, length), "{when}: {name} differs");
            }
            (Promise::Gone, _) => assert!(!path.exists(), "{when}: {name} is back"),
        }
    }
}

fn read(path: &Path, when: &str) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{when}: {}: {error}", path.display()))
}
