//! The tool without a mount: what each command prints, stores and answers with its exit code.

mod support;

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Stdio;
use support::{Backend, Volume, on_every_backend, random_bytes, set_mode};

on_every_backend![
    files_go_in_and_out_with_mode_and_time,
    pipes_carry_any_bytes,
    a_file_of_more_than_64_segments_is_the_same,
    listings_show_what_is_there,
    names_are_made_moved_and_removed,
    every_passphrase_opens_the_volume_until_it_is_removed,
    a_rotated_master_key_leaves_old_files_readable,
];

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn push(volume: &Volume, path: &str, bytes: &[u8]) {
    volume.tool_with_input(["push", "-", &volume.at(path)], bytes).succeeded();
}

fn cat(volume: &Volume, path: &str) -> Vec<u8> {
    volume.tool(["cat", &volume.at(path)]).succeeded_with_bytes()
}

fn json(volume: &Volume, arguments: &[&str]) -> Value {
    serde_json::from_str(&volume.tool(arguments).succeeded()).expect("JSON")
}

fn files_go_in_and_out_with_mode_and_time(backend: Backend) {
    let volume = Volume::new(backend);
    let (source, back) = (volume.local("source"), volume.local("back"));
    for (index, size) in [0, 1, 65_536, 65_537, 8_388_608, 9_000_000].into_iter().enumerate() {
        let bytes = random_bytes(index as u64, size);
        fs::write(&source, &bytes).expect("written");
        set_mode(&source, 0o640);
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789);
        fs::File::options()
            .write(true)
            .open(&source)
            .unwrap()
            .set_modified(time)
            .expect("time set");
        let url = volume.at(&format!("deep/er/{size}"));
        let run = volume.tool(["push", text(&source), &url]);
        assert_eq!(run.succeeded(), "", "nothing is printed in a pipe");
        volume.tool(["pull", &url, text(&back)]).succeeded();
        assert!(fs::read(&back).expect("read") == bytes, "{size}");
        let data = back.metadata().expect("there");
        assert_eq!(data.mode() & 0o7777, 0o640);
        assert_eq!((data.mtime(), data.mtime_nsec()), (1_700_000_000, 123_456_789));
    }
    // Into a directory under the file's own name, on both sides.
    volume.tool(["push", text(&source), &format!("{}/", volume.at("dir"))]).succeeded();
    let directory = volume.local("directory");
    fs::create_dir(&directory).expect("made");
    volume.tool(["pull", &volume.at("dir/source"), text(&directory)]).succeeded();
    assert!(fs::read(directory.join("source")).expect("read") == fs::read(&source).expect("read"));
    // The same name again replaces the file, on both sides.
    fs::write(&source, "replaced").expect("written");
    volume.tool(["push", text(&source), &volume.at("dir/source")]).succeeded();
    volume.tool(["pull", &volume.at("dir/source"), text(&back)]).succeeded();
    assert_eq!(fs::read(&back).expect("read"), b"replaced");
}

fn pipes_carry_any_bytes(backend: Backend) {
    let volume = Volume::new(backend);
    for size in [0, 1, 65_535, 1_000_000, 20_000_000] {
        let bytes = random_bytes(size as u64, size);
        push(&volume, "piped", &bytes);
        assert!(cat(&volume, "piped") == bytes, "{size} by cat");
        let pulled = volume.tool(["pull", &volume.at("piped"), "-"]).succeeded_with_bytes();
        assert!(pulled == bytes, "{size} by pull");
    }
    push(&volume, "a", b"one ");
    push(&volume, "b", b"two");
    let both = volume.tool(["cat", &volume.at("a"), &volume.at("b")]);
    assert_eq!(both.succeeded(), "one two");
}

fn a_file_of_more_than_64_segments_is_the_same(backend: Backend) {
    const SIZE: usize = 600 << 20;
    let volume = Volume::new(backend);
    let source = volume.local("source");
    let mut hasher = blake3::Hasher::new();
    {
        let mut file = fs::File::create(&source).expect("created");
        for index in 0..SIZE >> 20 {
            let block = random_bytes(index as u64, 1 << 20);
            hasher.update(&block);
            file.write_all(&block).expect("written");
        }
    }
    volume.tool(["push", text(&source), &volume.at("big")]).succeeded();
    fs::remove_file(&source).expect("removed");
    if backend == Backend::Dir {
        let segments = support::objects(&volume, "d").len();
        assert!(segments > 64, "{segments} segments");
    }
    assert_eq!(json(&volume, &["stat", &volume.at("big"), "--json"])["size"], SIZE);
    let mut child = volume
        .command(["cat", &volume.at("big")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("strongroom starts");
    let mut found = blake3::Hasher::new();
    let mut output = child.stdout.take().expect("a pipe");
    assert_eq!(std::io::copy(&mut output, &mut found).expect("read"), SIZE as u64);
    assert!(child.wait().expect("ends").success());
    assert_eq!(found.finalize(), hasher.finalize());
}

fn listings_show_what_is_there(backend: Backend) {
    let volume = Volume::new(backend);
    assert_eq!(volume.tool(["ls", &volume.url]).succeeded(), "");
    assert_eq!(json(&volume, &["ls", &volume.url, "--json"]), Value::Array(Vec::new()));
    push(&volume, "b/c/deep", b"12345");
    push(&volume, "a", b"1");
    push(&volume, "line\nend", b"");
    let mount = volume.mount();
    symlink("a", mount.join("link")).expect("linked");
    fs::hard_link(mount.join("a"), mount.join("b/hard")).expect("linked");
    set_mode(&mount.join("a"), 0o4750);
    mount.unmount();

    let list = |arguments: &[&str]| volume.tool(arguments).succeeded();
    assert_eq!(list(&["ls", &volume.url]), "a\nb/\nline\\nend\nlink\n");
    assert_eq!(list(&["ls", &volume.at("b")]), "c/\nhard\n");
    assert_eq!(list(&["ls", &volume.at("b/c/deep")]), "deep\n");
    let all = list(&["ls", "-R", &volume.url]);
    assert_eq!(all, "a\nb/\nb/c/\nb/c/deep\nb/hard\nline\\nend\nlink\n");
    let long = list(&["ls", "-l", &volume.url]);
    let first = long.lines().next().expect("a line");
    assert!(first.starts_with("-rwsr-x---") && first.ends_with(" a"), "{first}");
    assert!(long.contains("\ndrwxr-xr-x") && long.contains("\nlrwxrwxrwx"), "{long}");

    let rows = json(&volume, &["ls", "-R", "--json", &volume.url]);
    let row = |path: &str| {
        let rows = rows.as_array().expect("a list");
        rows.iter().find(|row| row["path"] == path).unwrap_or_else(|| panic!("{path}: {rows:?}"))
    };
    assert_eq!(rows.as_array().map(Vec::len), Some(7));
    assert_eq!((&row("b")["kind"], &row("b/c/deep")["size"]), (&"directory".into(), &5.into()));
    assert_eq!((&row("link")["kind"], &row("link")["target"]), (&"symlink".into(), &"a".into()));
    assert_eq!((&row("a")["mode"], &row("a")["links"]), (&"4750".into(), &2.into()));
    assert_eq!(row("b/hard")["links"], 2);
    assert_eq!(row("line\nend")["kind"], "file");

    let stat = json(&volume, &["stat", &volume.at("b/c/deep"), "--json"]);
    assert_eq!((&stat["path"], &stat["size"]), (&"b/c/deep".into(), &5.into()));
    let time = stat["mtime"].as_str().expect("text");
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    let plain = list(&["stat", &volume.at("b/c/deep")]);
    assert!(plain.contains("size: 5") && plain.contains("kind: file"), "{plain}");
    assert_eq!(json(&volume, &["stat", &volume.url, "--json"])["kind"], "directory");
}

fn names_are_made_moved_and_removed(backend: Backend) {
    let volume = Volume::new(backend);
    let tool = |arguments: &[&str]| {
        let (command, paths) = arguments.split_first().expect("a command");
        let place =
            |path: &&str| if path.starts_with('-') { path.to_string() } else { volume.at(path) };
        volume.tool(std::iter::once(command.to_string()).chain(paths.iter().map(place)))
    };
    let listing = || volume.tool(["ls", "-R", &volume.url]).succeeded();
    tool(&["mkdir", "one", "two"]).succeeded();
    tool(&["mkdir", "-p", "one/deep/er", "one/deep"]).succeeded();
    tool(&["mkdir", "missing/child"]).failed_saying(&["no such file or directory"]);
    push(&volume, "file", b"content");
    tool(&["mv", "file", "renamed"]).succeeded();
    tool(&["mv", "renamed", "two"]).succeeded();
    assert_eq!(listing(), "one/\none/deep/\none/deep/er/\ntwo/\ntwo/renamed\n");
    tool(&["mv", "two", "one/deep/moved"]).succeeded();
    assert_eq!(cat(&volume, "one/deep/moved/renamed"), b"content");
    tool(&["mv", "one", "one/deep/inside"]).failed_saying(&["lies inside"]);
    push(&volume, "other", b"other");
    tool(&["mv", "-n", "other", "one/deep/moved/renamed"]).failed_saying(&["exists"]);
    tool(&["mv", "other", "one/deep/moved/renamed"]).succeeded();
    assert_eq!(cat(&volume, "one/deep/moved/renamed"), b"other");
    tool(&["mv", "missing", "x"]).failed_saying(&["missing", "no such"]);
    tool(&["rmdir", "one/deep/er"]).succeeded();
    tool(&["rmdir", "one"]).failed_saying(&["one", "not empty"]);
    tool(&["rm", "missing"]).failed_saying(&["missing", "no such"]);
    tool(&["rm", "-f", "missing", "also/missing"]).succeeded();
    tool(&["rm", "one"]).failed_saying(&["one", "-r"]);
    for index in 0..40 {
        push(&volume, &format!("one/many/{}/{index}", index % 4), b"x");
    }
    tool(&["rm", "-r", "one"]).succeeded();
    assert_eq!(listing(), "");
    // The names are free again.
    tool(&["mkdir", "one"]).succeeded();
    push(&volume, "file", b"new content");
    assert_eq!(cat(&volume, "file"), b"new content");
    let other = Volume::new(Backend::Dir);
    volume.tool(["mv", &volume.at("file"), &other.at("file")]).failed_saying(&["another volume"]);
}

fn every_passphrase_opens_the_volume_until_it_is_removed(backend: Backend) {
    let volume = Volume::new(backend);
    push(&volume, "file", b"content");
    let second = volume.local("second");
    let secret = support::fresh_hex::<32>();
    fs::write(&second, &secret).expect("written");
    set_mode(&second, 0o600);
    let url = &volume.url;
    let new = ["--new-passphrase-file", text(&second), "--label", "vault", "--kdf", "raw"];
    let added = volume.tool(["key", "add", url].into_iter().chain(new)).succeeded();
    assert!(added.contains("slot 2") || added.contains("slot 1"), "{added}");
    let slots = json(&volume, &["key", "list", url, "--json"]);
    let labels: Vec<&str> =
        slots.as_array().unwrap().iter().filter_map(|slot| slot["label"].as_str()).collect();
    assert_eq!(labels, ["first", "vault"]);
    let listed = volume.tool(["key", "list", url]).succeeded();
    assert!(listed.contains("first") && listed.contains("raw"), "{listed}");
    assert!(!listed.contains(&secret) && !added.contains(&secret));

    let with_second = |arguments: &[&str]| {
        volume.tool(arguments.iter().copied().chain(["--passphrase-file", text(&second)]))
    };
    assert_eq!(with_second(&["cat", &volume.at("file")]).succeeded(), "content");
    // An Argon2id slot beside the raw ones, removed again.
    let third = volume.local("third");
    fs::write(&third, "a short passphrase\n").expect("written");
    set_mode(&third, 0o600);
    volume.tool(["key", "add", url, "--new-passphrase-file", text(&third)]).succeeded();
    let run = volume.tool(["cat", &volume.at("file"), "--passphrase-file", text(&third)]);
    assert_eq!(run.succeeded(), "content");
    let first = slots[0]["slot"].to_string();
    let removed = with_second(&["key", "remove", url, &first]).succeeded();
    assert!(removed.contains("rotate"), "what a removal does not do is said: {removed}");
    volume.tool(["cat", &volume.at("file")]).failed_saying(&["passphrase"]);
    assert_eq!(with_second(&["cat", &volume.at("file")]).succeeded(), "content");
    with_second(&["key", "remove", url, &first]).failed();
    let slots = json_of(with_second(&["key", "list", url, "--json"]).succeeded());
    let third_slot =
        slots.as_array().unwrap().iter().find(|slot| slot["label"] == "added").unwrap();
    with_second(&["key", "remove", url, &third_slot["slot"].to_string()]).succeeded();
    // The last one stays: without it nobody could ever read the volume.
    let last = slots.as_array().unwrap().iter().find(|slot| slot["label"] == "vault").unwrap();
    with_second(&["key", "remove", url, &last["slot"].to_string()]).failed_saying(&["last"]);
}

fn json_of(text: String) -> Value {
    serde_json::from_str(&text).expect("JSON")
}

fn a_rotated_master_key_leaves_old_files_readable(backend: Backend) {
    let volume = Volume::new(backend);
    let large = random_bytes(1, 9_000_000);
    push(&volume, "before", &large);
    let rotated = volume.tool(["key", "rotate", &volume.url]).succeeded();
    assert!(rotated.contains("master key 2"), "{rotated}");
    push(&volume, "after", &large);
    assert!(cat(&volume, "before") == large && cat(&volume, "after") == large);
    let mount = volume.mount();
    assert!(fs::read(mount.join("before")).expect("read") == large);
    fs::write(mount.join("before"), "rewritten").expect("written");
    mount.unmount();
    assert_eq!(cat(&volume, "before"), b"rewritten");
}

#[test]
fn a_pull_that_fails_leaves_the_local_file_as_it_was() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", &random_bytes(1, 20_000_000));
    let local = volume.local("local");
    fs::write(&local, "the old file").expect("written");
    let segments = support::objects(&volume, "d");
    fs::remove_file(segments.last().expect("a segment")).expect("removed");
    volume.tool(["pull", &volume.at("file"), text(&local)]).failed_saying(&["file"]);
    assert_eq!(fs::read(&local).expect("read"), b"the old file");
    volume.tool(["pull", &volume.at("file"), "/proc/no/such/place"]).failed_saying(&["/proc/no"]);
}

#[test]
fn a_pull_writes_through_links_and_into_pipes_instead_of_replacing_them() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", b"content");
    let (real, link) = (volume.local("real"), volume.local("link"));
    fs::write(&real, "old").expect("written");
    std::os::unix::fs::symlink("real", &link).expect("made");
    volume.tool(["pull", &volume.at("file"), text(&link)]).succeeded();
    assert_eq!(fs::read(&real).expect("read"), b"content");
    assert!(link.symlink_metadata().expect("there").is_symlink(), "the link was replaced");

    let pipe = volume.local("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read(pipe))
    };
    volume.tool(["pull", &volume.at("file"), text(&pipe)]).succeeded();
    assert_eq!(reader.join().expect("read").expect("read"), b"content");
    assert!(!pipe.metadata().expect("there").is_file(), "the pipe was replaced");
    volume.tool(["pull", &volume.at("file"), &volume.at("copy")]).failed_saying(&["is a URL"]);
}

#[test]
fn a_pull_that_is_broken_off_leaves_nothing_behind() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", &random_bytes(1, 20_000_000));
    let target = volume.local("target");
    fs::create_dir(&target).expect("made");
    let mut command = volume.command(["pull", &volume.at("file"), text(&target)]);
    let mut child = command.stderr(Stdio::null()).spawn().expect("strongroom starts");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("process ids fit"));
    support::wait_for("the file to be begun", || support::files_below(&target).len() == 1);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is there");
    let status = child.wait().expect("ends");
    // It may have been faster than the signal; then the file is whole.
    let left = support::files_below(&target);
    match status.code() {
        Some(0) => assert_eq!(left, [target.join("file")]),
        code => assert!(code == Some(128 + 15) && left.is_empty(), "{code:?}: {left:?}"),
    }
}

#[test]
fn a_push_that_is_broken_off_changes_nothing() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", b"the old content");
    let mut child = volume
        .command(["push", "-", &volume.at("file")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("strongroom starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&random_bytes(1, 20_000_000)).expect("read by the tool");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("process ids fit"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is there");
    let status = child.wait().expect("ends");
    assert_eq!(status.code(), Some(128 + 15), "{status}");
    drop(input);
    assert_eq!(cat(&volume, "file"), b"the old content");
    // The same with a name that was not there.
    assert_eq!(volume.tool(["ls", &volume.url]).succeeded(), "file\n");
}

#[test]
fn a_reader_that_goes_away_ends_the_tool_quietly() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", &random_bytes(1, 20_000_000));
    for index in 0..5 {
        push(&volume, &format!("{index:0200}"), b"");
    }
    for arguments in [vec!["cat", "file"], vec!["pull", "file", "-"], vec!["ls", "-l", ""]] {
        let at = |argument: &&str| match *argument {
            "file" | "" => volume.at(argument),
            other => other.to_owned(),
        };
        let mut child = volume
            .command(arguments.iter().map(at))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strongroom starts");
        let mut output = child.stdout.take().expect("a pipe");
        output.read_exact(&mut [0; 100]).expect("the beginning");
        drop(output);
        let mut error = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut error).expect("text");
        child.wait().expect("ends");
        assert!(!error.contains("panicked"), "{arguments:?}: {error}");
        assert!(error.lines().count() <= 1, "{arguments:?}: {error}");
    }
}

#[test]
fn two_tools_write_one_name_and_one_of_them_wins() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", b"old");
    let bytes: Vec<Vec<u8>> = (0..4).map(|index| random_bytes(index, 9_000_000)).collect();
    std::thread::scope(|scope| {
        for bytes in &bytes {
            scope.spawn(|| volume.tool_with_input(["push", "-", &volume.at("file")], bytes));
        }
    });
    let found = cat(&volume, "file");
    assert!(bytes.contains(&found), "a mixture of what was written");
}

#[test]
fn the_tool_sees_what_a_mount_has_closed_and_the_other_way_round() {
    let volume = Volume::new(Backend::Dir);
    let mount = volume.mount();
    fs::write(mount.join("from mount"), random_bytes(1, 9_000_000)).expect("written");
    assert!(cat(&volume, "from mount") == random_bytes(1, 9_000_000));
    push(&volume, "from tool", &random_bytes(2, 9_000_000));
    support::wait_for("the mount to see it", || mount.join("from tool").exists());
    assert!(fs::read(mount.join("from tool")).expect("read") == random_bytes(2, 9_000_000));
    volume.tool(["rm", &volume.at("from mount")]).succeeded();
    support::wait_for("the mount to see the removal", || !mount.join("from mount").exists());
    mount.unmount();
}

#[test]
fn version_completions_and_manual_are_printed() {
    let volume = Volume::place(Backend::Dir);
    let version = volume.tool(["version"]).succeeded();
    assert!(version.starts_with(&format!("strongroom {}", env!("CARGO_PKG_VERSION"))), "{version}");
    assert_eq!(json(&volume, &["version", "--json"])["volume_format"], 1);
    assert!(volume.tool(["--version"]).succeeded().contains(env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let completions = volume.tool(["completions", shell]).succeeded();
        assert!(completions.contains("strongroom") && completions.contains("mount"), "{shell}");
    }
    let manual = volume.tool(["man"]).succeeded();
    assert!(manual.contains(".TH strongroom 1") && manual.contains("Examples"), "{manual:.300}");
    let help = volume.tool(["--help"]).succeeded();
    for command in
        ["init", "mount", "push", "pull", "cat", "ls", "stat", "rm", "mkdir", "mv", "key"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in the help");
        let help = volume.tool([command, "--help"]).succeeded();
        assert!(help.contains("Example") || command == "key", "{command} has no example");
    }
}

#[test]
fn the_passphrase_comes_from_flag_then_environment_then_configuration() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", b"x");
    let wrong = volume.local("wrong");
    fs::write(&wrong, support::fresh_hex::<32>()).expect("written");
    set_mode(&wrong, 0o600);
    let list = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = volume.command(["ls", &volume.url]);
        command.args(arguments).env_remove("STRONGROOM_PASSPHRASE_FILE");
        command.envs(environment.iter().copied());
        volume.run(&mut command, None)
    };
    let right = volume.passphrase_file();
    let (right, wrong) = (text(&right), text(&wrong));
    list(&["--passphrase-file", right], &[("STRONGROOM_PASSPHRASE_FILE", wrong)]).succeeded();
    list(&[], &[("STRONGROOM_PASSPHRASE_FILE", right)]).succeeded();
    list(&[], &[("STRONGROOM_PASSPHRASE", &volume.passphrase)]).succeeded();
    list(&["--passphrase-file", wrong], &[("STRONGROOM_PASSPHRASE_FILE", right)]).failed();
    let config = volume.temporary.path().join(".config/strongroom");
    fs::create_dir_all(&config).expect("made");
    fs::write(config.join("config.toml"), format!("passphrase_file = {right:?}\n"))
        .expect("written");
    list(&[], &[]).succeeded();
    list(&[], &[("STRONGROOM_PASSPHRASE_FILE", wrong)]).failed();
}

#[test]
fn a_mount_in_the_background_serves_when_the_command_returns_and_ends_by_umount() {
    let volume = Volume::new(Backend::Dir);
    let path = volume.local("mnt");
    fs::create_dir(&path).expect("made");
    // The server keeps its standard error, for its log: a pipe would only end with it.
    let log = fs::File::create(volume.local("log")).expect("created");
    let status =
        volume.command(["mount", &volume.url, text(&path), "--background"]).stderr(log).status();
    assert!(status.expect("strongroom starts").success());
    assert!(support::is_mounted(&path));
    fs::write(path.join("file"), "x").expect("written");
    let umount = std::process::Command::new("umount").arg(&path).status().expect("umount runs");
    assert!(umount.success());
    assert_eq!(cat(&volume, "file"), b"x");
}

#[test]
fn a_signal_stores_what_was_written_and_unmounts() {
    use nix::sys::signal::Signal;
    for (signal, flags) in
        [(Signal::SIGTERM, &[][..]), (Signal::SIGINT, &["--durability", "fsync"][..])]
    {
        let volume = Volume::new(Backend::Dir);
        let mut mount = volume.mount_with(flags);
        for index in 0..50 {
            let bytes = random_bytes(index, index as usize * 10_000);
            fs::write(mount.join(format!("{index}")), bytes).expect("written");
        }
        mount.signal(signal);
        assert_eq!(mount.ended(), Some(0), "{}", mount.log());
        assert!(!support::is_mounted(&mount.path));
        for index in 0..50 {
            let bytes = random_bytes(index, index as usize * 10_000);
            assert!(cat(&volume, &index.to_string()) == bytes, "{signal}: {index}");
        }
    }
}
