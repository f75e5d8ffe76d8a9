//! What other programs have written is read, and they read what is written here.

use crate::{Files, Form, in_both_forms, look, run};
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::process::{Command, Output, Stdio};
use strongroom::store::{FileStore, Headers, Key};

in_both_forms![what_the_tool_stored_comes_through_the_mount_and_the_other_way_round];

/// The tool's other face on the same files.
fn datasafed(files: &Files, arguments: &[&str]) -> Output {
    let output = try_datasafed(files, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "datasafed {arguments:?}: {said}");
    output
}

fn try_datasafed(files: &Files, arguments: &[&str]) -> Output {
    let server = files.volume.minio.as_ref().expect("a server");
    let conf = files.volume.local("datasafed.conf");
    let text = format!(
        "[storage]\ntype = s3\nprovider = Minio\nenv_auth = false\naccess_key_id = {}\n\
         secret_access_key = {}\nregion = us-east-1\nendpoint = {}\nroot = {}/files\n",
        server.access_key,
        server.secret_key,
        server.endpoint,
        files.bucket()
    );
    fs::write(&conf, text).expect("written");
    let mut command = Command::new(crate::support::STRONGROOM);
    command.arg("datasafed").arg("-c").arg(&conf).args(arguments).stdin(Stdio::null());
    if files.volume.encrypted {
        command.env("DATASAFED_ENCRYPTION_ALGORITHM", "AES-256-CFB");
        command.env("DATASAFED_ENCRYPTION_PASS_PHRASE", &files.volume.passphrase);
    }
    command.output().expect("it starts")
}

fn what_the_tool_stored_comes_through_the_mount_and_the_other_way_round(form: Form) {
    let files = Files::new(form);
    let sizes = [0, 1, 16, 1000, 12_000_000];
    for (index, size) in sizes.into_iter().enumerate() {
        let bytes = crate::support::random_bytes(index as u64, size);
        let local = files.volume.local("pushed");
        fs::write(&local, bytes).expect("written");
        datasafed(
            &files,
            &["push", local.to_str().expect("text"), &format!("of the tool/{index}")],
        );
    }
    let mount = files.mount();
    for (index, size) in sizes.into_iter().enumerate() {
        let bytes = crate::support::random_bytes(index as u64, size);
        assert!(fs::read(mount.join(format!("of the tool/{index}"))).expect("read") == bytes);
        fs::create_dir_all(mount.join("of the mount")).expect("made");
        fs::write(mount.join(format!("of the mount/{index}")), bytes).expect("written");
    }
    mount.unmount();
    let listed = datasafed(&files, &["list", "-r", "-f", "/of the mount"]);
    let listed = String::from_utf8(listed.stdout).expect("text");
    assert_eq!(listed.lines().count(), sizes.len(), "{listed}");
    for (index, size) in sizes.into_iter().enumerate() {
        let pulled = datasafed(&files, &["pull", &format!("of the mount/{index}"), "-"]).stdout;
        assert!(pulled == crate::support::random_bytes(index as u64, size), "{index}");
    }
    // A copy of what a mount shows restores what the tool would have.
    datasafed(&files, &["rm", "-r", "of the tool"]);
    let mount = files.mount();
    let names: Vec<_> = fs::read_dir(&mount.path)
        .expect("listed")
        .map(|entry| entry.expect("read").file_name())
        .collect();
    assert_eq!(names, ["of the mount"]);
    mount.unmount();
}

#[test]
fn what_the_tool_encrypted_with_another_passphrase_is_an_error_until_it_is_replaced() {
    let mut files = Files::new(Form::Enciphered);
    let local = files.volume.local("pushed");
    for (name, size) in [("short", 1000), ("long", 12_000_000)] {
        fs::write(&local, crate::support::random_bytes(1, size)).expect("written");
        datasafed(&files, &["push", local.to_str().expect("text"), name]);
    }
    let former = std::mem::replace(&mut files.volume.passphrase, "another one".to_owned());
    fs::write(files.volume.passphrase_file(), "another one\n").expect("written");
    let mount = files.mount();
    for name in ["short", "long"] {
        let error = File::open(mount.join(name))
            .and_then(|mut file| file.read(&mut [0; 10]))
            .expect_err("no key");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
    }
    // From anywhere, and by whoever changes a part of it: the rest would be deciphered to nonsense and stored so.
    for offset in [5_000_000, 11_999_990] {
        let file = File::open(mount.join("long")).expect("opened");
        let error = file.read_at(&mut [0; 10], offset).expect_err("no key");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "at {offset}");
    }
    for (offset, length) in [(0, 4096), (6_000_000, 10)] {
        let file = File::options().write(true).open(mount.join("long")).expect("opened");
        let error = file.write_all_at(&vec![7; length], offset).expect_err("no key");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{length} bytes at {offset}");
        let error = file.set_len(offset + 1).expect_err("no key");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "cut at {offset}");
    }
    assert!(mount.log().contains("short.enc was encrypted with another passphrase"));
    fs::write(mount.join("short"), "anew").expect("replaced");
    // What is beside it goes along.
    fs::rename(mount.join("long"), mount.join("moved")).expect("renamed");
    fs::set_permissions(mount.join("moved"), PermissionsExt::from_mode(0o600)).expect("set");
    assert!(fs::read(mount.join("moved")).is_err(), "it is what it was");
    mount.unmount();
    assert_eq!(datasafed(&files, &["pull", "short", "-"]).stdout, b"anew");
    let passphrase = std::mem::replace(&mut files.volume.passphrase, former);
    let pulled = datasafed(&files, &["pull", "moved", "-"]).stdout;
    assert!(pulled == crate::support::random_bytes(1, 12_000_000), "it is what it was");
    files.volume.passphrase = passphrase;
    let mount = files.mount();
    assert_eq!(fs::read_to_string(mount.join("short")).expect("read"), "anew");
    assert!(fs::read(mount.join("moved")).is_err(), "it is what it was");
    mount.unmount();
}

/// Whatever way a file came to what it is.
#[test]
fn what_a_mount_encrypted_with_another_passphrase_is_an_error() {
    let mut files = Files::new(Form::Enciphered);
    let bytes = crate::support::random_bytes(1, 12_000_000);
    let mount = files.mount();
    fs::write(mount.join("empty"), "").expect("written");
    fs::write(mount.join("short"), &bytes[..1000]).expect("written");
    fs::write(mount.join("long"), &bytes).expect("written");
    fs::write(mount.join("named"), &bytes).expect("written");
    fs::rename(mount.join("named"), mount.join("renamed")).expect("renamed");
    fs::set_permissions(mount.join("renamed"), PermissionsExt::from_mode(0o600)).expect("set");
    // Its mode changes while its parts are on their way, so that it has other headers at its end.
    let mut file = File::create(mount.join("modes")).expect("made");
    file.write_all(&bytes).expect("written");
    file.set_permissions(PermissionsExt::from_mode(0o600)).expect("set");
    file.set_modified(std::time::UNIX_EPOCH).expect("set");
    drop(file);
    fs::write(mount.join("patched"), &bytes).expect("written");
    let file = File::options().write(true).open(mount.join("patched")).expect("opened");
    file.write_all_at(&bytes[..10], 5_000_000).expect("written");
    drop(file);
    fs::write(mount.join("appended"), &bytes[..1000]).expect("written");
    let mut file = File::options().append(true).open(mount.join("appended")).expect("opened");
    file.write_all(&bytes[1000..]).expect("written");
    drop(file);
    std::os::unix::fs::symlink("short", mount.join("link")).expect("made");
    mount.unmount();
    let names = ["empty", "short", "long", "renamed", "modes", "patched", "appended", "link"];
    let mut checks = std::collections::BTreeSet::new();
    for name in names {
        let check = files.headers(&format!("{name}.enc")).remove("keycheck").expect(name);
        let iv = check.split('-').nth(1).expect("an IV").to_owned();
        let object = files.bytes(&format!("{name}.enc"));
        assert_eq!(data_encoding::HEXLOWER.encode(&object[..16]), iv, "{name}");
        assert!(checks.insert(check), "{name}");
    }
    assert!(datasafed(&files, &["pull", "modes", "-"]).stdout == bytes);
    files.volume.passphrase = "another one".to_owned();
    fs::write(files.volume.passphrase_file(), "another one\n").expect("written");
    for name in names {
        let pulled = try_datasafed(&files, &["pull", name, "-"]);
        let said = String::from_utf8_lossy(&pulled.stderr);
        assert!(!pulled.status.success() && pulled.stdout.is_empty(), "{name}: {said}");
        assert!(said.contains("passphrase"), "{name}: {said}");
    }
    let mount = files.mount();
    for name in &names[1..7] {
        let error = fs::read(mount.join(name)).expect_err("no key");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
    }
    assert!(fs::read_link(mount.join("link")).is_err());
    mount.unmount();
}

fn put(files: &Files, path: &str, content: &'static [u8], metadata: &[(&str, &str)]) {
    let key = Key::new(format!("files/{path}")).expect("a key");
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let headers = Headers { content_type: None, metadata: metadata.collect() };
    files.with_store(|store| async move {
        store.put_file(&key, Bytes::from_static(content), &headers).await.expect("stored");
    });
}

#[test]
fn what_s3fs_geesefs_and_rclone_wrote_is_read() {
    let files = Files::new(Form::Plain);
    let owner = [("uid", "1000"), ("gid", "100")];
    // s3fs: a mode with its kind in decimal, a link's target as content, marks of directories.
    let s3fs = |mode: &'static str| {
        [&[("mode", mode), ("mtime", "1500000000.250000000")], &owner[..]].concat()
    };
    put(&files, "s3fs/", b"", &s3fs("16832"));
    put(&files, "s3fs/file", b"of s3fs", &s3fs("33152"));
    put(&files, "s3fs/link", b"file", &s3fs("41471"));
    put(&files, "s3fs/pipe", b"", &s3fs("4516"));
    // geesefs: times without fractions, a link's target beside an empty object.
    put(&files, "geesefs/file", b"of geesefs", &[("mode", "33188"), ("mtime", "1600000000")]);
    put(&files, "geesefs/link", b"", &[("--symlink-target", "..%2Fs3fs%2Ffile")]);
    // rclone: a time, with --metadata an octal mode; no marks.
    put(
        &files,
        "rclone/deep/er/file",
        b"of rclone",
        &[("mtime", "1700000000.123456789"), ("mode", "100640")],
    );
    put(&files, "nobody/file", b"of nobody", &[]);
    let mount = files.mount_with(&["--uid", "4321"]);
    let data = |path: &str| fs::symlink_metadata(mount.join(path)).expect("there");
    let text = |path: &str| fs::read_to_string(mount.join(path)).expect("read");
    assert_eq!(data("s3fs").mode() & 0o7777, 0o700);
    assert_eq!((data("s3fs/file").mode(), data("s3fs/file").gid()), (0o100_600, 100));
    assert_eq!(data("s3fs/file").uid(), 4321, "shown as asked");
    assert_eq!(
        (data("s3fs/file").mtime(), data("s3fs/file").mtime_nsec()),
        (1_500_000_000, 250_000_000)
    );
    assert_eq!(fs::read_link(mount.join("s3fs/link")).expect("a link").to_str(), Some("file"));
    assert_eq!(text("s3fs/link"), "of s3fs");
    assert!(data("s3fs/pipe").file_type().is_fifo());
    assert_eq!(
        (data("geesefs/file").mode(), data("geesefs/file").mtime()),
        (0o100_644, 1_600_000_000)
    );
    assert_eq!(text("geesefs/link"), "of s3fs");
    let deep = data("rclone/deep/er/file");
    assert_eq!(
        (deep.mode(), deep.mtime(), deep.mtime_nsec()),
        (0o100_640, 1_700_000_000, 123_456_789)
    );
    assert_eq!(data("nobody").permissions().mode() & 0o7777, 0o755);
    assert_eq!(data("nobody/file").permissions().mode() & 0o7777, 0o644);
    assert_eq!(look(&mount.path).len(), 13);
    // A directory that nothing marks stays when it has become empty.
    fs::remove_file(mount.join("rclone/deep/er/file")).expect("removed");
    assert!(data("rclone/deep/er").is_dir());
    mount.unmount();
    assert!(files.keys().contains(&"rclone/deep/er/".to_owned()));
    // What was there beside what we know stays when something is changed.
    put(&files, "kept", b"bytes", &[("x-of-others", "kept"), ("mode", "33188")]);
    let mount = files.mount();
    run("chmod", ["600".as_ref(), mount.join("kept").as_os_str()]);
    mount.unmount();
    let headers = files.headers("kept");
    assert_eq!((&*headers["x-of-others"], &*headers["mode"]), ("kept", "33152"));
}

/// As objects above 5 GiB are, in parts.
#[test]
fn a_copy_in_parts_has_all_bytes_and_the_headers() {
    use strongroom::volume::objects::{BucketTree, Requests};
    let files = Files::new(Form::Plain);
    let content = crate::support::random_bytes(9, 17_000_001);
    let local = files.volume.local("pushed");
    fs::write(&local, &content).expect("written");
    datasafed(&files, &["push", local.to_str().expect("text"), "from % é"]);
    files.with_store(|store| async move {
        let requests = Requests {
            store: store.clone(),
            patient: store.clone(),
            files: store,
            afterwards: tokio_util::task::TaskTracker::new(),
        };
        let entropy = strongroom::config::system_world().entropy;
        let tree = BucketTree::new(requests, "files", None, entropy).with_copy_limit(5 << 20);
        let found = tree.file("from % é").await.expect("asked").expect("there");
        let etag = tree.copy("from % é", &found, "dir/to", None).await.expect("copied");
        let copy = tree.file("dir/to").await.expect("asked").expect("there");
        assert_eq!((copy.size, &copy.etag, &copy.headers), (found.size, &etag, &found.headers));
        // Replaced meanwhile: nothing is copied.
        let stale = strongroom::volume::objects::tree::Found { etag, ..found };
        let error =
            tree.copy("from % é", &stale, "dir/other", None).await.expect_err("another one");
        assert!(error.to_string().contains("replaced by somebody else"), "{error}");
        assert!(tree.file("dir/other").await.expect("asked").is_none());
    });
    assert_eq!(datasafed(&files, &["pull", "dir/to", "-"]).stdout, content);
}
