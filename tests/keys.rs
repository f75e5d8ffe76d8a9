//! Passphrases and master keys: rotation under a running mount, removal, sealing anew.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use support::{Backend, Volume, files_below, objects, on_every_backend, random_bytes};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn push(volume: &Volume, path: &str, bytes: &[u8]) {
    volume.tool_with_input(["push", "-", &volume.at(path)], bytes).succeeded();
}

fn pull(volume: &Volume, path: &str) -> Vec<u8> {
    volume.tool(["cat", &volume.at(path)]).succeeded_with_bytes()
}

fn rotate(volume: &Volume) {
    volume.tool(["key", "rotate", &volume.url]).succeeded();
}

/// The master key's number in an object's header: the same place in records and segments.
fn master(object: &Path) -> u32 {
    let bytes = fs::read(object).expect("an object");
    assert!(bytes.starts_with(b"SRRECORD") || bytes.starts_with(b"SRSEGMNT"), "{object:?}");
    u32::from_be_bytes(bytes[12..16].try_into().expect("a header"))
}

/// Records of names and of files with several names.
fn records(volume: &Volume) -> Vec<PathBuf> {
    let mut records = objects(volume, "t");
    if volume.store().join("i@").exists() {
        records.extend(objects(volume, "i"));
    }
    records
}

on_every_backend!(a_running_mount_reads_what_is_sealed_under_a_key_that_was_added_since);

fn a_running_mount_reads_what_is_sealed_under_a_key_that_was_added_since(backend: Backend) {
    let volume = Volume::new(backend);
    push(&volume, "before", b"old");
    let mount = volume.mount();
    assert_eq!(fs::read(mount.join("before")).expect("read"), b"old");
    rotate(&volume);
    let large = random_bytes(7, 1 << 20);
    push(&volume, "small", b"new");
    push(&volume, "large", &large);
    assert_eq!(fs::read(mount.join("small")).expect("read"), b"new");
    assert_eq!(fs::read(mount.join("large")).expect("read"), large);
    assert_eq!(fs::read_dir(&mount.path).expect("listed").count(), 3);
    // And it writes under the new key from then on, which the tool reads.
    fs::write(mount.join("by mount"), "written").expect("written");
    assert_eq!(pull(&volume, "by mount"), b"written");
    mount.unmount();
    if backend == Backend::Dir {
        // The three files made since, and the root, whose times the mount stored.
        let numbers: Vec<u32> = records(&volume).iter().map(|path| master(path)).collect();
        assert_eq!(numbers.iter().filter(|number| **number == 2).count(), 4, "{numbers:?}");
    }
}

#[test]
fn a_key_that_no_descriptor_has_is_damage_and_no_endless_search() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", b"bytes");
    for record in objects(&volume, "t") {
        let mut bytes = fs::read(&record).expect("read");
        bytes[15] = 9;
        fs::write(&record, bytes).expect("written");
    }
    volume.tool(["cat", &volume.at("file")]).failed_saying(&["file", "master key 9"]);
}

#[test]
fn a_removed_passphrase_no_longer_opens() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", b"bytes");
    let new = volume.local("new");
    fs::write(&new, "another passphrase of more than thirty-two bytes").expect("written");
    support::set_mode(&new, 0o600);
    let add = ["key", "add", &volume.url, "--kdf", "raw", "--new-passphrase-file", text(&new)];
    volume.tool(add).succeeded();
    let with = |file: &Path, arguments: &[&str]| {
        let mut command = volume.command(arguments);
        command.env("STRONGROOM_PASSPHRASE_FILE", file);
        volume.run(&mut command, None)
    };
    let file = volume.at("file");
    assert_eq!(with(&new, &["cat", &file]).succeeded(), "bytes");
    assert_eq!(volume.tool(["cat", &file]).succeeded(), "bytes");
    with(&new, &["key", "remove", &volume.url, "1"]).succeeded();
    volume.tool(["cat", &file]).failed_saying(&["wrong passphrase"]);
    assert_eq!(with(&new, &["cat", &file]).succeeded(), "bytes");
    with(&new, &["key", "remove", &volume.url, "2"]).failed_saying(&["last one"]);
}

#[test]
fn after_rewrap_everything_is_readable_and_nothing_needs_the_old_key() {
    for suite in ["AES-256-GCM", "AES-128-CFB"] {
        let volume = Volume::with_suite(Backend::Dir, suite);
        let large = random_bytes(3, 9 << 20);
        push(&volume, "large", &large);
        push(&volume, "small", b"inline");
        volume.tool(["mkdir", &volume.at("dir")]).succeeded();
        push(&volume, "dir/removed", b"comes back");
        volume.tool(["rm", &volume.at("dir/removed")]).succeeded();
        let mount = volume.mount();
        fs::write(mount.join("linked"), &large[..200_000]).expect("written");
        fs::hard_link(mount.join("linked"), mount.join("dir/second")).expect("linked");
        std::os::unix::fs::symlink("small", mount.join("symlink")).expect("linked");
        let mut sparse = fs::File::create(mount.join("sparse")).expect("created");
        for offset in [0, 1 << 20, 50 << 20] {
            use std::os::unix::fs::FileExt;
            sparse.write_all_at(&large[..100_000], offset).expect("written");
        }
        sparse.flush().expect("flushed");
        drop(sparse);
        let sparse = fs::read(mount.join("sparse")).expect("read");
        mount.unmount();
        rotate(&volume);
        assert!(records(&volume).iter().all(|record| master(record) == 1));

        let said = volume.tool(["key", "rewrap", &volume.url, "--json"]).succeeded();
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let count = records(&volume).len();
        assert_eq!((said["records"].as_u64(), said["resealed"].as_u64()), {
            let count = Some(count as u64);
            (count, count)
        });
        let old: Vec<_> = records(&volume).into_iter().filter(|path| master(path) != 2).collect();
        assert!(old.is_empty(), "{old:?}");
        volume.tool(["verify", &volume.url]).succeeded();

        let again = volume.tool(["key", "rewrap", &volume.url]).succeeded();
        assert!(again.contains(": 0 of "), "{again}");
        volume.tool(["key", "rewrap", &volume.url, "--data"]).succeeded();
        // What the old key sealed is not needed any more.
        let mut gone = 0;
        for segment in objects(&volume, "d").into_iter().filter(|path| master(path) == 1) {
            fs::remove_file(segment).expect("removed");
            gone += 1;
        }
        assert!(gone >= 4, "{gone} segments");
        volume.tool(["verify", &volume.url]).succeeded();
        assert!(pull(&volume, "large") == large);
        assert!(pull(&volume, "dir/second") == large[..200_000]);
        assert!(pull(&volume, "sparse") == sparse);
        volume.tool(["undelete", &volume.at("dir/removed")]).succeeded();
        assert_eq!(pull(&volume, "dir/removed"), b"comes back");
        let again = volume.tool(["key", "rewrap", &volume.url, "--data"]).succeeded();
        assert!(again.contains(" 0 bytes"), "{again}");
    }
}

#[test]
fn a_rewrap_that_was_cut_short_goes_on_where_it_was() {
    let volume = Volume::new(Backend::Dir);
    for number in 0..10 {
        push(&volume, &format!("file {number}"), b"bytes");
    }
    rotate(&volume);
    let former: Vec<_> =
        records(&volume).into_iter().map(|path| (fs::read(&path).expect("read"), path)).collect();
    volume.tool(["key", "rewrap", &volume.url]).succeeded();
    // As if it had been killed before the last four.
    for (bytes, path) in &former[former.len() - 4..] {
        fs::write(path, bytes).expect("put back");
    }
    let said = volume.tool(["key", "rewrap", &volume.url]).succeeded();
    assert!(said.contains(": 4 of 11 records"), "{said}");
    assert!(records(&volume).iter().all(|record| master(record) == 2));
    for number in 0..10 {
        assert_eq!(pull(&volume, &format!("file {number}")), b"bytes");
    }
}

#[test]
fn a_damaged_record_is_left_and_named_and_the_others_are_done() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "a", b"bytes");
    let before = records(&volume);
    push(&volume, "b", b"bytes");
    rotate(&volume);
    let record =
        records(&volume).into_iter().find(|path| !before.contains(path)).expect("b's record");
    let mut bytes = fs::read(&record).expect("read");
    bytes[60] ^= 1;
    fs::write(&record, bytes).expect("damaged");
    let run = volume.tool(["key", "rewrap", &volume.url]);
    let said = String::from_utf8_lossy(&run.output.stdout).into_owned();
    run.failed_saying(&["1 left"]);
    assert!(said.contains("2 of 3 records") && said.contains("damaged"), "{said}");
}

#[test]
fn a_file_that_a_mount_writes_meanwhile_keeps_its_name_and_both_changes() {
    let volume = Volume::new(Backend::Dir);
    let mount = volume.mount();
    let mut file = fs::File::create(mount.join("file")).expect("created");
    file.write_all(b"first ").expect("written");
    file.sync_all().expect("stored");
    rotate(&volume);
    volume.tool(["key", "rewrap", &volume.url]).succeeded();
    file.write_all(b"second").expect("written");
    file.sync_all().expect("stored");
    drop(file);
    assert_eq!(fs::read_dir(&mount.path).expect("listed").count(), 1, "no conflict copy");
    mount.unmount();
    assert_eq!(pull(&volume, "file"), b"first second");
}

#[test]
fn a_plain_volume_has_no_keys_to_change() {
    let volume = Volume::with_suite(Backend::Dir, "none");
    volume.tool(["key", "rewrap", &volume.url]).failed_saying(&["not encrypted"]);
    assert!(files_below(&volume.store()).len() >= 3);
}
