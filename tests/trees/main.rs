//! Trees copied by the tool, in every direction: what arrives, what is not copied twice, what is removed.

mod harm;
mod stores;
#[path = "../support/mod.rs"]
mod support;

use nix::sys::stat::Mode;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};
use support::{Backend, Volume, on_every_backend, random_bytes, set_mode, wait_for};

on_every_backend![
    a_tree_goes_in_and_out_whole,
    what_is_the_same_is_not_copied_again,
    a_copy_that_was_killed_is_carried_on,
    a_mirror_removes_and_nothing_else_does,
    a_copy_within_a_volume_moves_no_data,
    trees_go_from_volume_to_volume,
    one_input_goes_to_several_volumes,
    an_input_that_is_not_what_it_should_be_is_not_stored,
    sums_and_drawings_show_what_is_there,
];

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn push(volume: &Volume, path: &str, bytes: &[u8]) {
    volume.tool_with_input(["push", "-", &volume.at(path)], bytes).succeeded();
}

fn json(printed: &str) -> Value {
    serde_json::from_str(printed).expect("JSON")
}

fn set_time(path: &Path, seconds: u64) {
    let time = UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    fs::File::open(path).and_then(|file| file.set_modified(time)).expect("time set");
}

/// Directories, files of all sizes, links, a FIFO, an attribute, a file that only its owner reads.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("deep/er/still")).expect("made");
    fs::create_dir(root.join("empty")).expect("made");
    for (index, size) in [0_usize, 1, 70_000, 9_000_000].into_iter().enumerate() {
        fs::write(root.join(format!("deep/{size}")), random_bytes(index as u64, size))
            .expect("written");
    }
    for index in 0..40 {
        fs::write(root.join(format!("deep/er/{index}")), format!("number {index}"))
            .expect("written");
    }
    fs::write(root.join("line\nend"), "odd").expect("written");
    symlink("deep/1", root.join("link")).expect("linked");
    symlink("/nowhere", root.join("dangling")).expect("linked");
    nix::unistd::mkfifo(&root.join("fifo"), Mode::from_bits_truncate(0o640)).expect("made");
    set_mode(&root.join("deep/1"), 0o4750);
    set_mode(&root.join("deep/0"), 0o400);
    for path in ["deep/1", "deep/er"] {
        xattr::set(root.join(path), "user.label", b"blue").expect("set");
    }
    set_mode(&root.join("deep/er/still"), 0o500);
    for (index, path) in
        ["deep/1", "deep/70000", "deep/er/7", "deep/er", "empty"].iter().enumerate()
    {
        set_time(&root.join(path), 1_600_000_000 + index as u64);
    }
    // A database refuses a directory that others may enter.
    set_mode(root, 0o700);
    std::os::unix::fs::chown(root, Some(1234), Some(1235)).expect("given away");
    set_time(root, 1_500_000_000);
}

/// Everything below by its path: kind, mode, owner, time, content.
fn look(root: &Path) -> BTreeMap<String, String> {
    walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| {
            let entry = entry.expect("read");
            let data = entry.path().symlink_metadata().expect("there");
            let path = text(entry.path().strip_prefix(root).expect("below")).to_owned();
            let form = data.file_type();
            let label = || xattr::get(entry.path(), "user.label").expect("asked");
            let what = if form.is_dir() {
                format!("directory {:?}", label())
            } else if form.is_symlink() {
                return (path, format!("-> {}", text(&fs::read_link(entry.path()).expect("read"))));
            } else if form.is_fifo() {
                "fifo".to_owned()
            } else {
                let bytes = fs::read(entry.path()).expect("read");
                format!("{} {} {:?}", bytes.len(), blake3::hash(&bytes), label())
            };
            let mode = data.permissions().mode() & 0o1777;
            let time = (data.mtime(), data.mtime_nsec());
            (path, format!("{what} {mode:o} {}:{} {time:?}", data.uid(), data.gid()))
        })
        .collect()
}

fn a_tree_goes_in_and_out_whole(backend: Backend) {
    let volume = Volume::new(backend);
    let (source, back) = (volume.local("source"), volume.local("back"));
    make_tree(&source);
    let printed = volume.tool(["push", "-r", text(&source), &volume.at("copy")]).succeeded();
    assert_eq!(printed, "", "nothing is printed in a pipe");
    volume.tool(["pull", "-r", &volume.at("copy"), text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
    // Set-id bits stay in the volume.
    assert_eq!(back.join("deep/1").metadata().expect("there").mode() & 0o7777, 0o750);
    let stat = json(&volume.tool(["stat", &volume.at("copy/deep/1"), "--json"]).succeeded());
    assert_eq!(stat["mode"], "4750");
    // The same again finds everything, and changes nothing.
    volume.tool(["pull", "-r", &volume.at("copy"), text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
    // With a slash at the end, under the own name: on both sides.
    volume.tool(["push", "-r", text(&source), &format!("{}/", volume.at("other"))]).succeeded();
    let inside = volume.local("inside");
    fs::create_dir(&inside).expect("made");
    volume
        .tool(["pull", "-r", &volume.at("other/source"), &format!("{}/", text(&inside))])
        .succeeded();
    assert_eq!(look(&inside.join("source")), look(&source));
    // A mount shows the same.
    let mount = volume.mount();
    assert_eq!(look(&mount.join("copy")), look(&source));
    mount.unmount();
    // What is no tree, or not there, is told.
    let file = volume.at("copy/deep/1");
    volume.tool(["pull", "-r", &file, text(&back)]).failed_saying(&["not a directory"]);
    volume
        .tool(["pull", "-r", &volume.at("none"), text(&back)])
        .failed_saying(&["none", "no such"]);
    volume
        .tool(["push", "-r", text(&source.join("nothing")), &volume.at("x")])
        .failed_saying(&["nothing", "no such directory"]);
    volume.tool(["pull", "-r", &volume.at("copy"), "-"]).failed_saying(&["a tree", "pipe"]);
    volume.tool(["pull", &volume.at("copy"), text(&back)]).failed_saying(&["directory", "-r"]);
    volume.tool(["push", text(&source), &volume.at("x")]).failed_saying(&["directory", "-r"]);
}

fn what_is_the_same_is_not_copied_again(backend: Backend) {
    let volume = Volume::new(backend);
    let (source, back) = (volume.local("source"), volume.local("back"));
    make_tree(&source);
    let push = |flags: &[&str]| {
        let url = volume.at("copy");
        let arguments = ["push", "-r", "--json", text(&source), &url];
        json(&volume.tool(arguments.iter().chain(flags)).succeeded())
    };
    let first = push(&[]);
    assert_eq!(
        (&first["copied"], &first["same"], &first["failed"]),
        (&48.into(), &0.into(), &0.into())
    );
    assert_eq!(first["directories"], 4);
    let again = push(&[]);
    assert_eq!(
        (&again["copied"], &again["bytes"], &again["same"]),
        (&0.into(), &0.into(), &48.into())
    );
    // Another size; another time; another mode.
    fs::write(source.join("deep/1"), "three").expect("written");
    set_time(&source.join("deep/er/7"), 1_700_000_000);
    set_mode(&source.join("deep/er/8"), 0o600);
    let changed = push(&[]);
    assert_eq!((&changed["copied"], &changed["same"]), (&2.into(), &46.into()), "{changed}");
    let all = push(&["--ignore-times"]);
    assert_eq!(all["copied"], 45, "all files: {all}");
    volume.tool(["pull", "-r", &volume.at("copy"), text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
    // The way back does the same.
    fs::write(back.join("deep/1"), "something else").expect("written");
    fs::remove_file(back.join("deep/er/9")).expect("removed");
    let sync = ["sync", "--json", &volume.at("copy"), text(&back)];
    let fetched = json(&volume.tool(sync).succeeded());
    assert_eq!((&fetched["copied"], &fetched["same"]), (&2.into(), &46.into()), "{fetched}");
    assert_eq!(look(&back), look(&source), "times of directories too");
    assert_eq!(json(&volume.tool(sync).succeeded())["copied"], 0);
    // Only said.
    fs::write(source.join("new"), "new").expect("written");
    fs::create_dir(source.join("newer")).expect("made");
    let said =
        volume.tool(["push", "-r", "--dry-run", text(&source), &volume.at("copy")]).succeeded();
    assert_eq!(said, "make newer/\ncopy new\n");
    let listed = volume.tool(["ls", &volume.at("copy")]).succeeded();
    assert!(!listed.contains("new"), "{listed}");
    let elsewhere = volume.at("elsewhere");
    let said = volume.tool(["sync", "--dry-run", text(&source), &elsewhere]).succeeded();
    assert!(said.contains("make deep/er/still/\n") && said.contains("copy deep/er/39\n"), "{said}");
    volume.tool(["ls", &elsewhere]).failed_saying(&["no such"]);
}

fn a_copy_that_was_killed_is_carried_on(backend: Backend) {
    let volume = Volume::new(backend);
    let (source, back) = (volume.local("source"), volume.local("back"));
    fs::create_dir(&source).expect("made");
    for index in 0..400 {
        fs::write(source.join(format!("{index:03}")), random_bytes(index, 100_000))
            .expect("written");
    }
    // At 40 Mbit/s the tree takes eight seconds, less the first one.
    let slow = ["push", "-r", "--rate-limit", "40", text(&source), &volume.at("copy")];
    let mut child = volume.command(slow).stdout(Stdio::null()).spawn().expect("starts");
    let count = || volume.tool(["ls", &volume.at("copy")]).output.stdout.len() / 4;
    wait_for("some files", || count() >= 60);
    child.kill().expect("killed");
    child.wait().expect("ended");
    let there = count() as u64;
    assert!((60..400).contains(&there), "{there}");
    let rest =
        json(&volume.tool(["push", "-r", "--json", text(&source), &volume.at("copy")]).succeeded());
    assert!(rest["same"].as_u64() >= Some(there), "{rest}, {there} were there");
    assert_eq!(rest["same"].as_u64().unwrap_or(0) + rest["copied"].as_u64().unwrap_or(0), 400);
    // The same on the way back; a signal that can be caught leaves no half file.
    let slow = ["pull", "-r", "--rate-limit", "40", &volume.at("copy"), text(&back)];
    let mut child = volume.command(slow).stdout(Stdio::null()).spawn().expect("starts");
    let count = || fs::read_dir(&back).map_or(0, Iterator::count);
    wait_for("some files", || count() >= 60);
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
    assert_eq!(child.wait().expect("ended").code(), Some(143));
    let half = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    assert!(!fs::read_dir(&back).expect("read").any(|entry| half(&entry.expect("read"))));
    assert!(count() < 400);
    volume.tool(["pull", "-r", &volume.at("copy"), text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
}

fn a_mirror_removes_and_nothing_else_does(backend: Backend) {
    let volume = Volume::new(backend);
    let (source, back) = (volume.local("source"), volume.local("back"));
    make_tree(&source);
    let copy = volume.at("copy");
    volume.tool(["sync", text(&source), &copy]).succeeded();
    fs::remove_dir_all(source.join("deep/er")).expect("removed");
    fs::remove_file(source.join("link")).expect("removed");
    volume.tool(["sync", text(&source), &copy]).succeeded();
    volume.tool(["stat", &volume.at("copy/deep/er/1")]).succeeded();
    let said = volume.tool(["sync", "--delete", "--dry-run", text(&source), &copy]).succeeded();
    assert!(said.ends_with("remove deep/er/\nremove link\n"), "{said}");
    let done = ["sync", "--delete", "--json", text(&source), &copy];
    assert_eq!(json(&volume.tool(done).succeeded())["removed"], 2);
    volume.tool(["sync", &copy, text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
    // On the local side too, where a file has become a directory.
    fs::create_dir(back.join("extra")).expect("made");
    fs::write(back.join("extra/file"), "x").expect("written");
    fs::remove_file(back.join("deep/1")).expect("removed");
    fs::create_dir_all(back.join("deep/1/x")).expect("made");
    volume.tool(["sync", &copy, text(&back)]).failed_saying(&[
        "deep/1",
        "is a directory",
        "--delete",
    ]);
    assert!(back.join("deep/1/x").is_dir() && back.join("extra/file").is_file());
    volume.tool(["sync", "--delete", &copy, text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
    // An empty source is more likely a mistake.
    let empty = volume.local("nothing");
    fs::create_dir(&empty).expect("made");
    volume.tool(["sync", "--delete", text(&empty), &copy]).failed_saying(&["source is empty"]);
    volume.tool(["sync", text(&volume.local("none")), &copy]).failed_saying(&["none", "no such"]);
    volume.tool(["sync", text(&source), text(&back)]).failed_saying(&["neither side is a URL"]);
    volume
        .tool(["sync", "--delete", &volume.at("copy/deep"), &copy])
        .failed_saying(&["one lies in the other"]);
    volume.tool(["stat", &volume.at("copy/deep/1")]).succeeded();
}

fn a_copy_within_a_volume_moves_no_data(backend: Backend) {
    let volume = Volume::new(backend);
    let source = volume.local("source");
    make_tree(&source);
    let (from, to) = (volume.at("from"), volume.at("to"));
    volume.tool(["push", "-r", text(&source), &from]).succeeded();
    let segments = |volume: &Volume| match &volume.minio {
        None => support::objects(volume, "d").len(),
        // On a single drive each object is a directory.
        Some(minio) => {
            let bucket =
                volume.url.trim_start_matches("s3://").split('/').next().expect("a bucket");
            let files = support::files_below(&minio.data_of(bucket));
            files.iter().filter(|path| text(path).contains("/d/")).count()
        }
    };
    let before = segments(&volume);
    assert!(before > 1, "{before}");
    volume.tool(["cp", "-r", &from, &to]).succeeded();
    volume.tool(["cp", &volume.at("from/deep/9000000"), &volume.at("alone/big")]).succeeded();
    volume.tool(["cp", &volume.at("from/deep/70000"), &volume.at("alone")]).succeeded();
    assert_eq!(segments(&volume), before);
    volume.tool(["cp", &from, &to]).failed_saying(&["directory", "-r"]);
    volume.tool(["cp", "-r", &from, &volume.at("from/deep")]).failed_saying(&["lies inside"]);
    volume.tool(["cp", &volume.at("none"), &to]).failed_saying(&["none", "no such"]);
    // The first is removed and collected: the copies have what they need.
    volume.tool(["rm", "-r", &from]).succeeded();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_secs(4));
        volume.tool(["gc", &volume.url, "--grace", "3s", "--alone"]).succeeded();
    }
    volume.tool(["verify", &volume.url]).succeeded();
    let back = volume.local("back");
    volume.tool(["pull", "-r", &to, text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
    let big = volume.tool(["cat", &volume.at("alone/big")]).succeeded_with_bytes();
    assert!(big == fs::read(source.join("deep/9000000")).expect("read"));
    let other = volume.tool(["cat", &volume.at("alone/70000")]).succeeded_with_bytes();
    assert!(other == fs::read(source.join("deep/70000")).expect("read"));
}

/// A second volume beside the first one, with the same passphrase.
fn second(volume: &Volume) -> String {
    let url = match volume.minio {
        None => format!("file://{}", text(&volume.local("second"))),
        Some(_) => format!("{}-second", volume.url),
    };
    volume.tool(["init", &url, "--encryption", "AES-256-CFB", "--kdf", "raw"]).succeeded();
    url
}

fn trees_go_from_volume_to_volume(backend: Backend) {
    let volume = Volume::new(backend);
    let (source, back) = (volume.local("source"), volume.local("back"));
    make_tree(&source);
    let other = second(&volume);
    let copy = volume.at("copy");
    volume.tool(["push", "-r", text(&source), &copy]).succeeded();
    volume.tool(["cp", "-r", &copy, &format!("{other}/there")]).succeeded();
    volume.tool(["pull", "-r", &format!("{other}/there"), text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
    let url = format!("{other}/file");
    volume.tool(["cp", &volume.at("copy/deep/9000000"), &url]).succeeded();
    let bytes = volume.tool(["cat", &url]).succeeded_with_bytes();
    assert!(bytes == fs::read(source.join("deep/9000000")).expect("read"));
    // All of a volume, and once more with nothing to do.
    let sync = ["sync", "--json", &volume.url, &format!("{other}/all")];
    assert_eq!(json(&volume.tool(sync).succeeded())["copied"], 48);
    assert_eq!(json(&volume.tool(sync).succeeded())["copied"], 0);
}

fn one_input_goes_to_several_volumes(backend: Backend) {
    let volume = Volume::new(backend);
    let other = second(&volume);
    let bytes = random_bytes(3, 20_000_000);
    let (first, also) = (volume.at("dir/piped"), format!("{other}/also"));
    let run = volume.tool_with_input(["push", "-", &first, "--also", &also], &bytes);
    run.succeeded();
    for url in [&first, &also] {
        assert!(volume.tool(["cat", url]).succeeded_with_bytes() == bytes, "{url}");
    }
    // One that is not there keeps the other from nothing.
    let missing = format!("{other}-third/x");
    let again = random_bytes(4, 3_000_000);
    let run = volume.tool_with_input(["push", "-", &first, "--also", &missing], &again);
    run.failed_saying(&["third", "no volume"]);
    assert!(volume.tool(["cat", &first]).succeeded_with_bytes() == again);
    // Trees too.
    let source = volume.local("source");
    make_tree(&source);
    let tree = format!("{other}/tree");
    volume.tool(["push", "-r", text(&source), &volume.at("tree"), "--also", &tree]).succeeded();
    for url in [&volume.at("tree"), &tree] {
        let back = volume.local(if url == &tree { "two" } else { "one" });
        volume.tool(["pull", "-r", url, text(&back)]).succeeded();
        assert_eq!(look(&back), look(&source));
    }
}

fn an_input_that_is_not_what_it_should_be_is_not_stored(backend: Backend) {
    let volume = Volume::new(backend);
    let url = volume.at("piped");
    let push = |flags: &[&str], bytes: &[u8]| {
        let arguments = ["push", "-", &url];
        volume.tool_with_input(arguments.iter().chain(flags), bytes)
    };
    push(&["--fail-on-empty"], b"").failed_saying(&["piped", "empty", "nothing was stored"]);
    push(&["--expect-size", "4"], b"thr").failed_saying(&["3 bytes instead of 4"]);
    push(&["--expect-size", "9000000"], &[7; 9_000_001]).failed_saying(&["instead of 9000000"]);
    volume.tool(["stat", &url]).failed_saying(&["no such"]);
    push(&["--expect-size", "4", "--fail-on-empty"], b"four").succeeded();
    push(&["--expect-size", "5"], b"four").failed();
    assert_eq!(volume.tool(["cat", &url]).succeeded(), "four");
}

fn sums_and_drawings_show_what_is_there(backend: Backend) {
    let volume = Volume::new(backend);
    let source = volume.local("source");
    fs::create_dir_all(source.join("a/b")).expect("made");
    fs::write(source.join("a/b/two"), "22").expect("written");
    fs::write(source.join("a/three"), "333").expect("written");
    fs::write(source.join("one"), "1").expect("written");
    symlink("one", source.join("link")).expect("linked");
    volume.tool(["push", "-r", text(&source), &volume.at("t")]).succeeded();
    let mount = volume.mount();
    fs::hard_link(mount.join("t/one"), mount.join("t/again")).expect("linked");
    mount.unmount();
    let said = |arguments: &[&str]| volume.tool(arguments).succeeded();
    let t = volume.at("t");
    assert_eq!(said(&["du", &t]), "2\ta/b\n5\ta\n6\t.\n");
    assert_eq!(said(&["du", "-s", &t]), "6\t.\n");
    assert_eq!(said(&["du", "-h", "--depth", "1", &t]), "5 B\ta\n6 B\t.\n");
    assert_eq!(said(&["du", &volume.at("t/a/three")]), "3\t.\n");
    let sums = json(&said(&["du", "--json", &t]));
    assert_eq!(sums[0], serde_json::json!({"path": "", "bytes": 6, "files": 3}));
    let shown = format!("{}/t", t.trim_end_matches("//t"));
    assert_eq!(
        said(&["tree", &t]),
        format!(
            "{shown}\n├── a/\n│   ├── b/\n│   │   └── two\n│   └── three\n├── again\n├── link -> one\n└── one\n\n\
             2 directories, 5 files\n"
        )
    );
    assert_eq!(said(&["tree", "-d", "-L", "1", &t]), format!("{shown}\n└── a/\n\n1 directories\n"));
    volume.tool(["du", &volume.at("none")]).failed_saying(&["none", "no such"]);
}
