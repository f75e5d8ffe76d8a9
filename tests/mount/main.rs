//! A real mount behaves as a local file system does, and a fresh mount finds what the last one stored.

mod cache;
mod content;
mod names;
mod promises;
#[path = "../support/mod.rs"]
mod support;

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Backend, Volume, on_every_backend, random_bytes};

on_every_backend![
    a_copied_tree_is_the_same_after_a_remount,
    two_mounts_see_each_others_closed_files,
    a_read_only_mount_refuses_changes,
];

fn a_copied_tree_is_the_same_after_a_remount(backend: Backend) {
    let volume = Volume::new(backend);
    let source = volume.local("source");
    for (number, dir) in ["a/b/c", "a/empty", "d"].iter().enumerate() {
        fs::create_dir_all(source.join(dir)).expect("made");
        for (index, size) in [0, 1, 4096, 65_535, 65_536, 65_537, 300_000].iter().enumerate() {
            if *dir == "a/empty" {
                continue;
            }
            let path = source.join(dir).join(format!("file {index}"));
            fs::write(&path, random_bytes((number * 10 + index) as u64, *size)).expect("written");
            support::set_mode(&path, [0o600, 0o644, 0o755, 0o400, 0o4755, 0o2711, 0o000][index]);
            let time = TimeSpec::new(1_000_000_000 + index as i64, 123_456_789 + index as i64);
            utimensat(nix::fcntl::AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink)
                .expect("times set");
        }
    }
    symlink("a/b/c/file 3", source.join("short")).expect("linked");
    symlink("x".repeat(4000), source.join("long and dangling")).expect("linked");
    std::os::unix::fs::lchown(source.join("short"), Some(7), Some(8)).expect("owned");
    std::os::unix::fs::chown(source.join("d/file 2"), Some(1234), Some(4321)).expect("owned");
    support::set_mode(&source.join("a/empty"), 0o1777);

    let mount = volume.mount();
    run("cp", &["-a".as_ref(), source.as_os_str(), mount.join("copy").as_os_str()]);
    let expected = describe(&source);
    assert_eq!(describe(&mount.join("copy")), expected);
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(describe(&mount.join("copy")), expected);
    // find(1) may conclude from a directory's links that it has no directories below.
    let found = Command::new("find").arg(mount.join("copy")).arg("-name").arg("file 3").output();
    assert_eq!(found.expect("find ran").stdout.split(|byte| *byte == b'\n').count() - 1, 2);
    run("rm", &["-r".as_ref(), mount.join("copy").as_os_str()]);
    assert_eq!(fs::read_dir(&mount.path).expect("readable").count(), 0);
    mount.unmount();
}

/// On a directory, whose files are the objects as they are.
#[test]
fn an_encrypted_store_shows_neither_names_nor_bytes() {
    for suite in ["AES-256-GCM", "AES-256-CFB", "AES-128-CFB"] {
        let volume = Volume::with_suite(Backend::Dir, suite);
        let mount = volume.mount();
        fs::create_dir(mount.join("finance department")).expect("made");
        let secret = "the treasure is under the oak. ";
        fs::write(mount.join("finance department/salaries"), secret.repeat(10)).expect("written");
        fs::write(mount.join("big file"), secret.repeat(1_000_000)).expect("written");
        symlink("finance department", mount.join("shortcut")).expect("linked");
        xattr::set(mount.join("big file"), "user.hidden attribute", b"hidden value").expect("set");
        mount.unmount();
        let words = ["treasure", "finance", "salaries", "big file", "shortcut", "hidden"];
        for path in support::files_below(&volume.store()) {
            let bytes = fs::read(&path).expect("read");
            for word in words {
                let inside = bytes.windows(word.len()).any(|window| window == word.as_bytes());
                assert!(!inside, "{suite}: {word:?} is in {}", path.display());
                let named = path.to_string_lossy().contains(word);
                assert!(!named, "{suite}: {word:?} names {}", path.display());
            }
        }
    }
}

fn two_mounts_see_each_others_closed_files(backend: Backend) {
    let volume = Volume::new(backend);
    let (one, two) = (volume.mount(), volume.mount());
    fs::write(one.join("file"), "first").expect("written");
    // No negative entry stands in the way: the name was never asked for on the other mount.
    assert_eq!(fs::read(two.join("file")).expect("read"), b"first");
    fs::write(one.join("file"), "second, longer").expect("written");
    support::wait_for("the other mount to see the change", || {
        fs::read(two.join("file")).expect("read") == b"second, longer"
    });
    fs::create_dir(two.join("dir")).expect("made");
    fs::write(two.join("dir/inner"), random_bytes(1, 200_000)).expect("written");
    support::wait_for("the directory", || one.join("dir/inner").exists());
    assert!(fs::read(one.join("dir/inner")).expect("read") == random_bytes(1, 200_000));
    // O_EXCL is decided by the store: exactly one of the two wins.
    for round in 0..20 {
        let name = format!("lock {round}");
        let take =
            |path: PathBuf| move || OpenOptions::new().write(true).create_new(true).open(path);
        let other = std::thread::spawn(take(two.join(&name)));
        let won = [take(one.join(&name))().is_ok(), other.join().expect("ended").is_ok()];
        assert!(won[0] != won[1], "{name}: taken by {won:?}");
    }
    fs::rename(one.join("file"), one.join("renamed")).expect("renamed");
    support::wait_for("the rename", || {
        !two.join("file").exists() && fs::read(two.join("renamed")).is_ok_and(|b| b.len() == 14)
    });
    fs::remove_file(two.join("renamed")).expect("removed");
    support::wait_for("the removal", || !one.join("renamed").exists());
    one.unmount();
    two.unmount();
}

fn a_read_only_mount_refuses_changes(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    fs::write(mount.join("file"), "x").expect("written");
    mount.unmount();
    let mount = volume.mount_with(&["--read-only"]);
    assert_eq!(fs::read(mount.join("file")).expect("read"), b"x");
    assert_eq!(error_of(File::create(mount.join("new"))), libc::EROFS);
    assert_eq!(error_of(fs::remove_file(mount.join("file"))), libc::EROFS);
    assert_eq!(error_of(fs::create_dir(mount.join("dir"))), libc::EROFS);
    assert_eq!(
        error_of(fs::set_permissions(mount.join("file"), fs::Permissions::from_mode(0o600))),
        libc::EROFS
    );
    mount.unmount();
}

/// What a tree holds, by path: kind and mode, owner, times, link target or checksum.
fn describe(root: &Path) -> Vec<String> {
    let mut rows: Vec<String> = walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| {
            let entry = entry.expect("a readable tree");
            let (path, data) = (entry.path(), entry.path().symlink_metadata().expect("attributes"));
            let content = if data.is_file() {
                blake3::hash(&fs::read(path).expect("readable")).to_hex().to_string()
            } else if data.is_symlink() {
                format!("{:?}", fs::read_link(path).expect("a link"))
            } else {
                String::new()
            };
            let size = if data.is_dir() { 0 } else { data.len() };
            let name = path.strip_prefix(root).expect("below the root");
            let time = format!("{}.{:09}", data.mtime(), data.mtime_nsec());
            let (mode, uid, gid) = (data.mode(), data.uid(), data.gid());
            format!("{name:?} {mode:o} {uid}:{gid} {size} {time} {content}")
        })
        .collect();
    rows.sort();
    rows
}

fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("open")
}

fn error_of<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

/// Remounts and compares one file with what it must be.
fn check_after_remount(volume: &Volume, name: &str, expected: &[u8]) {
    let mount = volume.mount();
    let found = fs::read(mount.join(name)).expect("readable after the remount");
    assert_eq!(found.len(), expected.len(), "{name}: length after the remount");
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{name}: first differing byte after the remount");
    mount.unmount();
}
