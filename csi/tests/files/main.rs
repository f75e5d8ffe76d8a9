//! Files in a bucket, one object each, whose server is killed: names and open files go on, whoever reads notices
//! nothing, files that are written from front to back are whole; what is lost of others is told.

#![allow(dead_code, reason = "what volumes are tested with is shared")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a failing test has to say")]

#[path = "../takeover/churn.rs"]
mod churn;
#[path = "../takeover/ground.rs"]
mod ground;
#[path = "../../../tests/support/halt.rs"]
mod halt;
mod long;
#[path = "../takeover/node.rs"]
mod node;
mod others;
mod steps;

use churn::check_churn;
use ground::minio::Minio;
use ground::{Ground, bytes_of};
use node::Order;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than what leaves at once, so that something has left.
const LONG: usize = 40 << 20;

/// One test after the other: a program that one of them starts closes the files that another one has open, which
/// stores them as they are then.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both forms in which files are stored.
fn both() -> [Ground; 2] {
    [of_files(None), of_files(Some("AES-256-CFB"))]
}

/// Files in a bucket as they are, or encrypted in datasafed's form.
fn of_files(suite: Option<&str>) -> Ground {
    of_files_with(&suite.map_or_else(Vec::new, |suite| vec![("encryption", suite.into())]))
}

/// The same by way of somebody who stands before the store.
fn of_files_before(suite: Option<&str>, endpoint: &str) -> Ground {
    let mut options = vec![("endpoint", endpoint.into())];
    options.extend(suite.map(|suite| ("encryption", suite.into())));
    of_files_with(&options)
}

/// Files in a bucket with more options.
fn of_files_with(options: &[(&'static str, serde_json::Value)]) -> Ground {
    let options = [&[("layout", "objects".into())], options].concat();
    Ground::new(Some(Minio::shared()), "10m", &options)
}

/// The same place as the configuration of `datasafed`.
fn storage(ground: &Ground) -> PathBuf {
    let minio = ground.minio.as_ref().expect("files are in buckets");
    let Minio { endpoint, access_key, secret_key, .. } = &**minio;
    let root = ground.url.trim_start_matches("s3://");
    let text = format!(
        "[storage]\ntype = s3\nprovider = Minio\nendpoint = {endpoint}\naccess_key_id = {access_key}\n\
         secret_access_key = {secret_key}\nroot = {root}\n"
    );
    let path = ground.local("datasafed.conf");
    fs::write(&path, text).expect("written");
    path
}

/// The command line that backup scripts call.
fn script(ground: &Ground) -> Command {
    let mut command = Command::new(ground::strongroom());
    command.env_clear().env("HOME", ground.temporary.path());
    command.args(["datasafed", "--conf"]).arg(storage(ground));
    if ground.is_encrypted() {
        command.env("DATASAFED_ENCRYPTION_ALGORITHM", "AES-256-CFB");
        command.env("DATASAFED_ENCRYPTION_PASS_PHRASE", &ground.passphrase);
    }
    command
}

/// What another program reads.
fn pulled(ground: &Ground, name: &str) -> Option<Vec<u8>> {
    let output = script(ground).args(["pull", name, "-"]).output().expect("the tool runs");
    output.status.success().then_some(output.stdout)
}

/// Another program stores a file.
fn pushed(ground: &Ground, name: &str, content: &[u8]) {
    let local = ground.local("pushed");
    fs::write(&local, content).expect("written");
    let mut push = script(ground);
    push.arg("push").arg(local).arg(name);
    assert!(push.status().expect("the tool runs").success());
}

#[test]
fn short_files_that_are_being_written_outlive_their_server() {
    let _alone = alone();
    for mut ground in both() {
        ground.serve();
        let mut file = File::create(ground.at("file")).expect("created");
        ground.kill_worker();
        file.write_all(b"one, ").expect("written");
        ground.kill_worker();
        file.write_all(b"two, ").expect("written");
        let more = bytes_of(3, 700_000);
        file.write_all(&more).expect("written");
        ground.kill_worker();
        assert_eq!(fs::metadata(ground.at("file")).expect("there").len(), 700_010);
        let mut start = [0; 10];
        let reader = File::open(ground.at("file")).expect("opened");
        reader.read_exact_at(&mut start, 0).expect("read");
        assert_eq!(&start, b"one, two, ");
        drop(reader);
        file.write_all(b"three").expect("written");
        drop(file);
        ground.kill_worker();
        let whole = [b"one, two, ".as_slice(), &more, b"three"].concat();
        assert!(fs::read(ground.at("file")).expect("read") == whole);
        // Written anew, and cut off before it is closed: what was there is of no account.
        let mut file = File::create(ground.at("file")).expect("truncated");
        ground.kill_worker();
        file.write_all(b"short").expect("written");
        ground.kill_worker();
        file.sync_all().expect("stored");
        drop(file);
        ground.unstage();
        assert_eq!(pulled(&ground, "file").as_deref(), Some(&b"short"[..]));
    }
}

#[test]
fn what_is_lost_of_a_changed_file_is_told_and_the_former_one_stands() {
    let _alone = alone();
    for mut ground in both() {
        ground.serve();
        fs::write(ground.at("long"), "the former one").expect("written");
        fs::write(ground.at("changed"), bytes_of(1, 1 << 20)).expect("written");
        // Its end before its beginning.
        let long = File::create(ground.at("long")).expect("opened");
        long.write_all_at(&bytes_of(2, LONG / 2), 300 << 20).expect("written");
        long.write_all_at(&bytes_of(2, LONG / 2), 0).expect("written");
        let changed = OpenOptions::new().write(true).open(ground.at("changed")).expect("opened");
        changed.write_all_at(b"in its middle", 500_000).expect("written");
        let unsynced = File::create(ground.at("new")).expect("made");
        unsynced.write_all_at(b"far behind", 300 << 20).expect("written");
        ground.kill_worker();
        assert_eq!(ground.stats().lost_files, 3);
        for (name, file) in [("long", &long), ("changed", &changed), ("new", &unsynced)] {
            let eio = |result: std::io::Result<()>, what: &str| {
                let error = result.expect_err(what);
                assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{name}: {what}");
            };
            eio(file.sync_all(), "fsync");
            eio(file.write_all_at(b"more", 0), "write");
            eio(nix::unistd::close(file.try_clone().expect("copied")).map_err(Into::into), "close");
            // Never the bytes of before, or zeros, for what was written.
            eio(fs::read(ground.at(name)).map(drop), "read");
        }
        drop((long, changed, unsynced));
        ground::wait_for("the end of what is lost", || ground.stats().lost_files == 0);
        assert_eq!(fs::read(ground.at("long")).expect("read"), b"the former one");
        assert!(fs::read(ground.at("changed")).expect("read") == bytes_of(1, 1 << 20));
        // The kernel knows a name for a second.
        ground::wait_for("the end of the new one", || !ground.at("new").exists());
        fs::write(ground.at("long"), "the next one").expect("written");
        ground.unstage();
        assert_eq!(pulled(&ground, "long").as_deref(), Some(&b"the next one"[..]));
        assert_eq!(pulled(&ground, "new"), None);
    }
}

#[test]
fn whoever_reads_a_file_does_not_notice_that_its_server_is_killed() {
    let _alone = alone();
    for mut ground in both() {
        ground.serve();
        let bytes = bytes_of(5, LONG);
        fs::write(ground.at("file"), &bytes).expect("written");
        let mut file = File::open(ground.at("file")).expect("opened");
        let mut read = Vec::new();
        for _ in 0..4 {
            Read::by_ref(&mut file).take(LONG as u64 / 4).read_to_end(&mut read).expect("read");
            ground.kill_worker();
        }
        assert!(read == bytes);
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(ground.at("file"), mode).expect("changed");
        ground.kill_worker();
        assert_eq!(fs::metadata(ground.at("file")).expect("there").mode() & 0o7777, 0o640);
        // Removed while it is open: what was kept of it went with its server.
        fs::remove_file(ground.at("file")).expect("removed");
        ground.kill_worker();
        assert!(!ground.at("file").exists());
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(&file, 0, 0, advice).expect("not in the kernel's memory");
        let error = file.read_exact_at(&mut [0; 10], LONG as u64 / 2).expect_err("gone");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
        drop(file);
        ground.unstage();
    }
}

#[test]
fn no_change_of_a_name_in_a_bucket_is_done_twice_or_lost_through_kills() {
    let _alone = alone();
    check_churn(of_files(None), 15);
}

#[test]
fn a_directory_of_files_that_moves_while_its_server_is_killed_is_whole() {
    let _alone = alone();
    let mut ground = of_files(None);
    ground.serve();
    fs::create_dir_all(ground.at("0/deep")).expect("made");
    let names: BTreeSet<String> = (0..150).map(|number| format!("name-{number:03}")).collect();
    for name in &names {
        fs::write(ground.at("0/deep").join(name), name).expect("written");
    }
    for round in 0..6 {
        let (from, to) = (ground.at(&round.to_string()), ground.at(&(round + 1).to_string()));
        std::thread::scope(|scope| {
            let moved = scope.spawn(|| fs::rename(&from, &to));
            std::thread::sleep(std::time::Duration::from_millis(20 + 60 * round));
            ground.kill_worker();
            moved.join().expect("no panic").expect("moved");
        });
        assert!(!from.exists());
        let there = fs::read_dir(to.join("deep")).expect("listed");
        let there: BTreeSet<String> = there
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(there, names);
    }
    for name in &names {
        assert_eq!(&fs::read_to_string(ground.at("6/deep").join(name)).expect("read"), name);
    }
    // Being listed, it is listed to its end.
    let mut entries = fs::read_dir(ground.at("6/deep")).expect("opened");
    let mut seen: BTreeSet<_> =
        (0..10).map(|_| entries.next().expect("more").expect("an entry").file_name()).collect();
    ground.kill_worker();
    for entry in entries {
        assert!(seen.insert(entry.expect("an entry").file_name()), "twice");
    }
    assert_eq!(seen.len(), names.len());
    ground.unstage();
}

/// A node plugin that is replaced need not end what is being written: its worker goes on until that is closed, and
/// the next one waits for it.
#[test]
fn a_long_file_is_written_to_its_end_although_the_next_node_plugin_is_there() {
    let _alone = alone();
    let mut ground = of_files(Some("AES-256-CFB"));
    ground.serve();
    let bytes = bytes_of(9, LONG);
    let mut long = File::create(ground.at("long")).expect("opened");
    long.write_all(&bytes[..LONG / 2]).expect("written");
    let next = ground.another_node();
    ground.node = None;
    let order = ground.take_over_with(ground.secrets());
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| next.ask(&order));
        std::thread::sleep(std::time::Duration::from_secs(2));
        long.write_all(&bytes[LONG / 2..]).expect("written");
        long.sync_all().expect("stored");
        drop(long);
        let report = asked.join().expect("no panic");
        assert!(matches!(report, node::Report::Done), "{report:?}");
    });
    ground.node = Some(next);
    assert!(matches!(ground.node().ask(&Order::Stats), node::Report::Stats(_)));
    assert!(fs::read(ground.at("long")).expect("read") == bytes);
    ground.unstage();
    assert!(pulled(&ground, "long").expect("pulled") == bytes);
}
