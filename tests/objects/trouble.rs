//! Settings that make no sense, servers that are killed, stores that are away.

use crate::support::{Backend, Volume, minio::Minio, random_bytes};
use crate::{Files, Form};
use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn what_makes_no_sense_is_refused_with_a_remedy() {
    let files = Files::new(Form::Plain);
    let directory = files.volume.local("mnt");
    fs::create_dir(&directory).expect("made");
    let directory = directory.to_str().expect("text");
    let url = files.volume.url.as_str();
    let refused = |more: &[&str], said: &[&str]| {
        let arguments = [&["mount", url, directory], more].concat();
        files.volume.tool(arguments).failed_saying(said);
    };
    let objects = ["--layout", "objects"];
    let with = |more: &[&'static str]| [&objects[..], more].concat();
    refused(&[], &["no volume here", "strongroom init", "--layout objects"]);
    refused(&["--encryption", "AES-256-CFB"], &["--encryption is for --layout objects"]);
    refused(&with(&["--encryption", "AES-256-GCM"]), &["AES-256-CFB"]);
    refused(&with(&["--encryption", "AES-256-CFB"]), &["passphrase"]);
    refused(&with(&["--exclusive"]), &["--layout objects has no --exclusive"]);
    refused(&with(&["--durability", "fsync"]), &["--layout objects has no --durability"]);
    refused(&with(&["--steal"]), &["--layout objects has no --steal"]);
    let key = files.volume.passphrase_file();
    let key = key.to_str().expect("text");
    let arguments = [&["mount", url, directory, "--passphrase-file", key], &objects[..]].concat();
    files.volume.tool(arguments).failed_saying(&["no --encryption", "--encryption AES-256-CFB"]);
    let arguments = [&["mount", "s3://never-made-bucket/files", directory], &objects[..]].concat();
    files.volume.tool(arguments).failed_saying(&["never-made-bucket"]);
    let store = format!("file://{}", files.volume.store().display());
    let arguments = [&["mount", &*store, directory], &objects[..]].concat();
    files.volume.tool(arguments).failed_saying(&["a bucket"]);
    // A volume's objects are no files.
    let volume = Volume::new(Backend::Minio);
    for place in [volume.url.clone(), volume.at("inside")] {
        let arguments = [&["mount", &*place, directory], &objects[..]].concat();
        volume.tool(arguments).failed_saying(&["volume of strongroom", "without --layout objects"]);
    }
    assert!(!crate::support::is_mounted(directory.as_ref()));
}

#[test]
fn a_killed_server_loses_only_what_was_not_closed() {
    for form in [Form::Plain, Form::Enciphered] {
        let files = Files::new(form);
        let mount = files.mount();
        let (old, new) = (random_bytes(1, 20_000_000), random_bytes(2, 30_000_000));
        fs::write(mount.join("closed"), &old).expect("written");
        fs::write(mount.join("replaced"), &old).expect("written");
        let mut begun = File::create(mount.join("replaced")).expect("opened");
        begun.write_all(&new).expect("written");
        let mut never = File::create(mount.join("never closed")).expect("created");
        never.write_all(&new).expect("written");
        let mut synced = File::create(mount.join("synced")).expect("created");
        synced.write_all(&new).expect("written");
        synced.sync_all().expect("stored");
        synced.write_all(b"and more").expect("written");
        let path = mount.kill9();
        let mount = files.mount_at(path);
        assert!(fs::read(mount.join("closed")).expect("read") == old);
        assert!(fs::read(mount.join("replaced")).expect("read") == old, "the former one, whole");
        assert!(!mount.join("never closed").exists(), "half a file is no file");
        assert!(fs::read(mount.join("synced")).expect("read") == new);
        mount.unmount();
    }
}

/// Files on a server of their own.
fn files_on(server: Minio) -> Files {
    let mut files = Files::new(Form::Enciphered);
    files.volume.url = format!("s3://{}/files", server.new_bucket());
    files.volume.minio = Some(Arc::new(server));
    files
}

#[test]
fn a_store_that_is_away_is_an_error_at_close_and_what_was_written_is_stored_later() {
    let files = files_on(Minio::start());
    let server = files.volume.minio.clone().expect("a server");
    let mount = files.mount_with(&["--io-timeout", "3s"]);
    fs::write(mount.join("before"), "stored before").expect("written");
    let mut file = File::create(mount.join("during")).expect("created");
    file.write_all(b"kept in memory").expect("written");
    let mut large = File::create(mount.join("large")).expect("created");
    large.write_all(&random_bytes(1, 20_000_000)).expect("written");
    server.pause();
    let started = Instant::now();
    file.sync_all().expect_err("nothing was stored");
    large.sync_all().expect_err("nothing was stored");
    assert!(started.elapsed() < Duration::from_secs(60), "it hangs");
    server.resume();
    file.sync_all().expect("stored when the server is back");
    // Its beginning had left, and is nowhere: it says so until it is closed, and nothing half appears.
    large.sync_all().expect_err("its beginning is lost");
    drop((file, large));
    assert_eq!(fs::read_to_string(mount.join("during")).expect("read"), "kept in memory");
    assert_eq!(fs::read_to_string(mount.join("before")).expect("read"), "stored before");
    assert!(!mount.join("large").exists(), "half a file is no file");
    fs::write(mount.join("large"), "anew").expect("written");
    mount.unmount();
    assert!(!files.keys().iter().any(|key| key == "large"), "under its name enciphered only");
}

#[test]
fn what_was_not_stored_is_told_when_the_server_ends() {
    let files = files_on(Minio::start());
    let server = files.volume.minio.clone().expect("a server");
    let mut mount = files.mount_with(&["--io-timeout", "2s"]);
    let mut file = File::create(mount.join("file")).expect("created");
    file.write_all(b"kept in memory").expect("written");
    server.pause();
    mount.signal(nix::sys::signal::Signal::SIGTERM);
    let code = mount.ended();
    server.resume();
    assert_eq!(code, Some(1), "{}", mount.log());
    assert!(mount.log().contains("file: not stored"), "{}", mount.log());
    drop(file);
}

#[test]
fn a_truncated_enciphered_object_is_an_error_and_never_zeros() {
    let files = Files::new(Form::Enciphered);
    let mount = files.mount();
    fs::write(mount.join("file"), "content").expect("written");
    mount.unmount();
    let key = strongroom::store::Key::new("files/file.enc").expect("a key");
    files.with_store(|store| async move {
        use strongroom::store::{FileStore, Headers};
        let short = bytes::Bytes::from_static(b"short");
        store.put_file(&key, short, &Headers::default()).await.expect("stored");
    });
    let mount = files.mount();
    let error = fs::read(mount.join("file")).expect_err("it cannot be deciphered");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(mount.log().contains("file: shorter than"), "{}", mount.log());
    fs::write(mount.join("file"), "anew").expect("replaced");
    assert_eq!(fs::read_to_string(mount.join("file")).expect("read"), "anew");
    mount.unmount();
}
