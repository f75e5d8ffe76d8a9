//! What is wrong outside the program: passphrases, settings, stores, damaged objects. Each case ends in
//! one line of error that names the thing and what to do, with an exit code that is not zero; damage is
//! EIO for the file it is in, named in the log, and touches no other file.

mod damage;
mod outage;
#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use support::{Backend, Volume, files_below, on_every_backend, set_mode};

on_every_backend![
    a_wrong_passphrase_opens_nothing,
    a_missing_passphrase_is_asked_for_by_name,
    a_place_without_a_volume_says_how_to_make_one,
    a_second_volume_in_the_same_place_is_refused,
];

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Every way in says the same of the volume as it is.
fn check_refused(volume: &Volume, parts: &[&str]) {
    let mount_point = volume.local("unused mount point");
    fs::create_dir_all(&mount_point).expect("made");
    let file = volume.passphrase_file();
    for command in [
        vec!["ls", &volume.url],
        vec!["cat", &volume.at("file")],
        vec!["push", text(&file), &volume.at("file")],
        vec!["key", "list", &volume.url],
        vec!["verify", &volume.url],
        vec!["mount", &volume.url, text(&mount_point)],
        vec!["mount", &volume.url, text(&mount_point), "--background"],
    ] {
        volume.tool(command).failed_saying(parts);
    }
    assert!(!support::is_mounted(&mount_point));
}

fn a_wrong_passphrase_opens_nothing(backend: Backend) {
    let volume = Volume::new(backend);
    let other = support::fresh_hex::<32>();
    fs::write(volume.passphrase_file(), &other).expect("written");
    let file = volume.passphrase_file();
    check_refused(&volume, &[&volume.url, "wrong passphrase", text(&file)]);
    let run = volume.tool(["ls", &volume.url]);
    assert!(!String::from_utf8_lossy(&run.output.stderr).contains(&other), "it is shown");
}

fn a_missing_passphrase_is_asked_for_by_name(backend: Backend) {
    let volume = Volume::new(backend);
    let mut command = volume.command(["ls", &volume.url]);
    command.env_remove("STRONGROOM_PASSPHRASE_FILE");
    volume.run(&mut command, None).failed_saying(&["--passphrase-file", "STRONGROOM_PASSPHRASE"]);

    let missing = volume.local("no such file");
    let run = volume.tool(["ls", &volume.url, "--passphrase-file", text(&missing)]);
    run.failed_saying(&["no such file", "No such file or directory"]);
    let empty = volume.local("empty");
    fs::write(&empty, "\n").expect("written");
    set_mode(&empty, 0o600);
    let run = volume.tool(["ls", &volume.url, "--passphrase-file", text(&empty)]);
    run.failed_saying(&[text(&empty), "empty"]);
}

fn a_place_without_a_volume_says_how_to_make_one(backend: Backend) {
    let volume = Volume::place(backend);
    check_refused(&volume, &[&volume.url, "no volume", "strongroom init"]);
}

fn a_second_volume_in_the_same_place_is_refused(backend: Backend) {
    let volume = Volume::new(backend);
    let init = |url: &str| volume.tool(["init", url, "--kdf", "raw"]);
    init(&volume.url).failed_saying(&[&volume.url, "holds a volume already"]);
    let inside = format!("{}/inside", volume.url);
    init(&inside).failed_saying(&["inside the volume", "choose a place outside"]);
    volume.tool(["ls", &volume.url]).succeeded();
}

#[test]
fn a_place_that_is_not_empty_gets_no_volume() {
    let volume = Volume::place(Backend::Dir);
    fs::create_dir_all(volume.store()).expect("made");
    fs::write(volume.store().join("precious"), "data").expect("written");
    let run = volume.tool(["init", &volume.url, "--kdf", "raw"]);
    run.failed_saying(&["not empty"]);
    assert_eq!(files_below(&volume.store()), [volume.store().join("precious")]);
}

#[test]
fn a_passphrase_too_weak_for_the_raw_derivation_is_refused() {
    let volume = Volume::place(Backend::Dir);
    fs::write(volume.passphrase_file(), "hunter2\n").expect("written");
    let run = volume.tool(["init", &volume.url, "--kdf", "raw"]);
    assert!(!String::from_utf8_lossy(&run.output.stderr).contains("hunter2"), "it is shown");
    run.failed_saying(&["32"]);
    volume.tool(["ls", &volume.url]).failed_saying(&["no volume"]);
}

#[test]
fn a_bucket_that_is_not_there_is_named() {
    let volume = Volume::new(Backend::Minio);
    for command in [
        vec!["ls", "s3://no-such-bucket/volume"],
        vec!["init", "s3://no-such-bucket/volume", "--kdf", "raw"],
    ] {
        volume.tool(command).failed_saying(&["no-such-bucket", "no such bucket"]);
    }
}

#[test]
fn refused_credentials_are_said_to_be_refused() {
    let volume = Volume::new(Backend::Minio);
    let with = |name: &str, value: &str| {
        let mut command = volume.command(["ls", &volume.url]);
        command.env(name, value);
        volume.run(&mut command, None)
    };
    let wrong = support::fresh_hex::<20>();
    let run = with("AWS_SECRET_ACCESS_KEY", &wrong);
    assert!(!String::from_utf8_lossy(&run.output.stderr).contains(&wrong), "it is shown");
    run.failed_saying(&["access denied"]);
    with("AWS_ACCESS_KEY_ID", "nobody").failed_saying(&["access denied"]);
}

#[test]
fn an_endpoint_that_nobody_serves_is_named() {
    let volume = Volume::new(Backend::Minio);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let url = format!("http://{address}");
    let run = volume.tool(["ls", &volume.url, "--endpoint", &url, "--io-timeout", "2s"]);
    run.failed_saying(&["cannot be reached"]);
    // A server that speaks no TLS.
    let plain = volume.minio.as_ref().expect("a server").endpoint.replace("http://", "");
    let run = volume.tool(["ls", &volume.url, "--endpoint", &plain, "--io-timeout", "2s"]);
    run.failed_saying(&["TLS", "scheme"]);
}

#[test]
fn urls_that_name_nothing_are_refused_before_anything_is_touched() {
    let volume = Volume::new(Backend::Dir);
    for (url, part) in [
        ("no-scheme", "no scheme"),
        ("gopher://x/y", "scheme"),
        ("s3:///x", "no bucket"),
        ("s3://key:secret@bucket/x", "settings of their own"),
        ("file://relative/path", "three slashes"),
        ("s3://bucket/a/../b", "`..`"),
        (&format!("{}//a/../../b", volume.url), "`..`"),
    ] {
        let run = volume.tool(["ls", url]);
        // The command line itself is not understood: that is exit code 2.
        let error = String::from_utf8_lossy(&run.output.stderr).into_owned();
        assert_eq!(run.output.status.code(), Some(2), "{url}: {error}");
        assert!(error.contains(part), "{url}: {part:?} is not in: {error}");
    }
}

#[test]
fn paths_that_lead_through_a_file_or_nowhere_are_named() {
    let volume = Volume::new(Backend::Dir);
    volume.tool_with_input(["push", "-", &volume.at("dir/file")], b"x").succeeded();
    let local = volume.local("local");
    for command in [
        vec!["cat", "dir/file/below"],
        vec!["ls", "dir/file/below"],
        vec!["rm", "dir/file/below"],
        vec!["mkdir", "dir/file/below"],
        vec!["mkdir", "-p", "dir/file/below/deep"],
    ] {
        let (path, flags) = command.split_last().expect("a path");
        let url = volume.at(path);
        let run = volume.tool(flags.iter().copied().chain([url.as_str()]));
        run.failed_saying(&["dir/file", "not a directory"]);
    }
    volume
        .tool_with_input(["push", "-", &volume.at("dir/file/below")], b"x")
        .failed_saying(&["not a directory"]);
    for command in ["cat", "ls", "stat", "rm", "rmdir"] {
        let url = volume.at("dir/missing");
        volume.tool([command, &url]).failed_saying(&["dir/missing", "no such file or directory"]);
    }
    volume
        .tool(["pull", &volume.at("missing"), text(&local)])
        .failed_saying(&["missing", "no such"]);
    volume
        .tool(["pull", &volume.at("dir"), text(&local)])
        .failed_saying(&["dir", "is a directory"]);
    volume.tool(["cat", &volume.at("dir")]).failed_saying(&["dir", "is a directory"]);
    volume.tool(["rm", &volume.at("dir")]).failed_saying(&["dir", "-r"]);
    volume.tool(["rmdir", &volume.at("dir")]).failed_saying(&["dir", "not empty"]);
    volume.tool(["mkdir", &volume.at("dir")]).failed_saying(&["dir", "exists"]);
    volume.tool(["rm", "-r", &volume.url]).failed_saying(&["root"]);
    let long = volume.at(&"n".repeat(256));
    volume.tool_with_input(["push", "-", &long], b"x").failed_saying(&["too long"]);
    let missing = volume.local("no local file");
    volume.tool(["push", text(&missing), &volume.at("x")]).failed_saying(&["no local file"]);
    assert!(!local.exists());
    assert_eq!(volume.tool(["cat", &volume.at("dir/file")]).succeeded(), "x");
}

#[test]
fn mount_points_that_cannot_be_are_named() {
    let volume = Volume::new(Backend::Dir);
    let refused = |path: &Path, parts: &[&str]| {
        volume.tool(["mount", &volume.url, text(path)]).failed_saying(parts);
        volume.tool(["mount", &volume.url, text(path), "--background"]).failed_saying(parts);
    };
    let missing = volume.local("missing");
    refused(&missing, &[text(&missing), "does not exist", "create the directory"]);
    let file = volume.local("file");
    fs::write(&file, "x").expect("written");
    refused(&file, &[text(&file), "not a directory"]);
    let mount = volume.mount();
    refused(&mount.path, &[text(&mount.path), "mount point already", "unmount"]);
    fs::write(mount.join("still"), "served").expect("the first mount is not disturbed");
    let path = volume.local("a path inside the volume");
    fs::create_dir(&path).expect("made");
    fs::create_dir(mount.join("dir")).expect("made");
    mount.unmount();
    volume.tool(["mount", &volume.at("dir"), text(&path)]).failed_saying(&[
        "dir",
        "path inside the volume",
        "mount the volume itself",
    ]);
}

#[test]
fn a_mount_in_its_own_store_is_refused() {
    let volume = Volume::new(Backend::Dir);
    let store = volume.store();
    for place in [store.clone(), store.join("t@"), store.parent().expect("above").to_owned()] {
        volume
            .tool(["mount", &volume.url, text(&place)])
            .failed_saying(&[text(&place), "must not lie in each other"]);
    }
}

#[test]
fn a_volume_without_its_descriptor_says_how_to_get_it_back() {
    let volume = Volume::new(Backend::Dir);
    volume.tool_with_input(["push", "-", &volume.at("file")], b"content").succeeded();
    let descriptor = volume.store().join("strongroom.json");
    fs::remove_file(&descriptor).expect("removed");
    check_refused(&volume, &["descriptor", "is gone", "newest copy", "k/"]);
    let copies = support::objects(&volume, "k");
    fs::copy(copies.last().expect("a copy"), &descriptor).expect("copied");
    assert_eq!(volume.tool(["cat", &volume.at("file")]).succeeded(), "content");
}

#[test]
fn an_endpoint_that_is_no_url_is_refused_at_once() {
    let volume = Volume::place(Backend::Minio);
    for endpoint in ["ftp://127.0.0.1", "not a url", "http://"] {
        let run = volume.tool(["ls", &volume.url, "--endpoint", endpoint]);
        run.failed_saying(&["endpoint", "http or https URL"]);
    }
}

#[test]
fn the_mount_of_a_dead_server_says_how_to_remove_it() {
    let volume = Volume::new(Backend::Dir);
    let mut mount = volume.mount();
    mount.signal(nix::sys::signal::Signal::SIGKILL);
    mount.ended();
    volume
        .tool(["mount", &volume.url, text(&mount.path)])
        .failed_saying(&[text(&mount.path), "umount -l"]);
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let volume = Volume::new(Backend::Dir);
    let path = volume.local("mnt");
    fs::create_dir(&path).expect("made");
    volume
        .tool(["mount", &volume.url, text(&path), "--memory-limit", "1MiB"])
        .failed_saying(&["memory limit", "64MiB"]);
    let config = volume.local("config.toml");
    for (text_of_file, parts) in [
        ("no_such_key = 1\n", vec!["line 1", "no_such_key"]),
        ("region = \n", vec!["line 1"]),
        ("durability = \"never\"\n", vec!["durability", "never", "close or fsync"]),
        ("memory_limit = \"much\"\n", vec!["memory_limit", "much"]),
    ] {
        fs::write(&config, text_of_file).expect("written");
        let mount = ["mount", &volume.url, text(&path), "--config", text(&config)];
        volume.tool(mount).failed_saying(&parts);
    }
    let missing = volume.local("no config");
    volume
        .tool(["ls", &volume.url, "--config", text(&missing)])
        .failed_saying(&["configuration file", "no config"]);
}

/// Root may write anywhere but on a read-only mount.
#[test]
fn a_read_only_store_refuses_changes_and_can_be_read() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let volume = Volume::new(Backend::Dir);
    volume.tool_with_input(["push", "-", &volume.at("file")], b"bytes").succeeded();
    let store = volume.store();
    let nothing = None::<&Path>;
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        }
    }
    mount(Some(&store), &store, nothing, MsFlags::MS_BIND, nothing).expect("bound");
    let _unmount = Unmount(store.clone());
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(nothing, &store, nothing, read_only, nothing).expect("read-only");
    assert_eq!(volume.tool(["cat", &volume.at("file")]).succeeded(), "bytes");
    let run = volume.tool_with_input(["push", "-", &volume.at("new")], b"x");
    run.failed_saying(&["read-only"]);
    let path = volume.local("mnt");
    fs::create_dir(&path).expect("made");
    volume.tool(["mount", &volume.url, text(&path)]).failed_saying(&["read-only"]);
    let mount = volume.mount_at(path, &["--read-only"]);
    assert_eq!(fs::read(mount.join("file")).expect("read"), b"bytes");
    mount.unmount();
}

#[test]
fn a_store_that_goes_away_under_a_mount_gives_errors_and_no_wrong_bytes() {
    let volume = Volume::new(Backend::Dir);
    let mount = volume.mount_with(&["--io-timeout", "2s"]);
    fs::write(mount.join("file"), "bytes").expect("written");
    fs::rename(volume.store(), volume.local("elsewhere")).expect("renamed");
    let failed = (|| {
        let mut file = File::create(mount.join("new"))?;
        file.write_all(b"lost if nobody is told")?;
        file.sync_all()
    })();
    failed.expect_err("nothing was stored");
    fs::rename(volume.local("elsewhere"), volume.store()).expect("renamed back");
    support::wait_for("the store to be used again", || {
        fs::write(mount.join("late"), "late").is_ok()
    });
    assert_eq!(fs::read(mount.join("file")).expect("read"), b"bytes");
    drop(mount);
    assert_eq!(volume.tool(["cat", &volume.at("late")]).succeeded(), "late");
}

#[test]
fn a_world_readable_passphrase_file_is_warned_of() {
    let volume = Volume::new(Backend::Dir);
    set_mode(&volume.passphrase_file(), 0o644);
    let run = volume.tool(["ls", &volume.url]);
    let log = String::from_utf8_lossy(&run.output.stderr).into_owned();
    assert!(log.contains("can be read by every user"), "{log}");
    run.succeeded();
}

#[test]
fn an_argument_that_is_not_understood_is_exit_code_2() {
    let volume = Volume::new(Backend::Dir);
    for arguments in [vec!["no-such-command"], vec!["ls"], vec!["ls", "--no-such-flag", "s3://x"]] {
        let run = volume.tool(&arguments);
        assert_eq!(run.output.status.code(), Some(2), "{arguments:?}");
        assert!(run.output.stdout.is_empty() && !run.output.stderr.is_empty(), "{arguments:?}");
    }
}
