//! Two mounts of one volume at once. One after the other, operations on both of them have the outcomes
//! that they have on one local directory; at the same time, nothing that was acknowledged is lost.

mod support;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use support::{Backend, Mount, Volume, on_every_backend, random_bytes, seed};

on_every_backend![
    operations_on_two_mounts_in_turns_come_out_as_on_one_local_directory,
    of_two_writes_that_overlap_one_is_acknowledged_and_neither_is_lost,
    what_one_node_closes_another_opens,
    a_former_name_of_what_another_node_renamed_is_not_listed,
    what_another_node_moves_or_removes_keeps_nobody_from_setting_attributes,
    racing_changes_of_a_tree_leave_one_tree,
];

/// What is done to a directory tree.
#[derive(Clone, Debug)]
enum Operation {
    Write(PathBuf, u64, usize),
    WriteNew(PathBuf),
    Append(PathBuf, u64, usize),
    Patch(PathBuf, u64, u64, usize),
    Truncate(PathBuf, u64),
    Read(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf),
    Remove(PathBuf),
    MakeDirectory(PathBuf),
    RemoveDirectory(PathBuf),
    SetMode(PathBuf, u32),
    List(PathBuf),
}

const DIRECTORIES: [&str; 4] = ["", "d", "e", "d/f"];
const NAMES: [&str; 3] = ["a", "b", "c"];

fn any_path(random: &mut StdRng) -> PathBuf {
    let directory = DIRECTORIES.choose(random).expect("some");
    // A directory itself, now and then.
    match random.random_bool(0.2) && !directory.is_empty() {
        true => PathBuf::from(directory),
        false => Path::new(directory).join(NAMES.choose(random).expect("some")),
    }
}

fn any_operation(random: &mut StdRng) -> Operation {
    use Operation::*;
    let path = any_path(random);
    let bytes = random.next_u64();
    let length = *[0, 10, 4096, 70_000, 300_000].choose(random).expect("some");
    match random.random_range(0..24) {
        0..4 => Write(path, bytes, length),
        4 => WriteNew(path),
        5 | 6 => Append(path, bytes, length),
        7 => Patch(path, bytes, random.random_range(0..100_000), length),
        8 => Truncate(path, random.random_range(0..200_000)),
        9..13 => Read(path),
        13 | 14 => Rename(path, any_path(random)),
        15 => Link(path, any_path(random)),
        16 => Symlink(path),
        17 => Remove(path),
        18 | 19 => MakeDirectory(PathBuf::from(DIRECTORIES[random.random_range(1..4)])),
        20 => RemoveDirectory(PathBuf::from(DIRECTORIES[random.random_range(1..4)])),
        21 => SetMode(path, random.random_range(0..0o1000)),
        _ => List(PathBuf::from(*DIRECTORIES.choose(random).expect("some"))),
    }
}

/// Does it under `root` and says what came of it: what was read, or the number of the error.
fn apply(root: &Path, operation: &Operation) -> Result<String, i32> {
    use Operation::*;
    let done = match operation {
        Write(path, seed, length) => fs::write(root.join(path), random_bytes(*seed, *length)),
        WriteNew(path) => OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(root.join(path))
            .and_then(|mut file| file.write_all(b"new")),
        Append(path, seed, length) => OpenOptions::new()
            .append(true)
            .open(root.join(path))
            .and_then(|mut file| file.write_all(&random_bytes(*seed, *length))),
        Patch(path, seed, at, length) => OpenOptions::new()
            .write(true)
            .open(root.join(path))
            .and_then(|file| file.write_all_at(&random_bytes(*seed, *length), *at)),
        Truncate(path, size) => OpenOptions::new()
            .write(true)
            .open(root.join(path))
            .and_then(|file| file.set_len(*size)),
        Read(path) => return described(&root.join(path)).map_err(number),
        Rename(from, to) => fs::rename(root.join(from), root.join(to)),
        Link(from, to) => fs::hard_link(root.join(from), root.join(to)),
        Symlink(path) => symlink("a/target", root.join(path)),
        Remove(path) => fs::remove_file(root.join(path)),
        MakeDirectory(path) => fs::create_dir(root.join(path)),
        RemoveDirectory(path) => fs::remove_dir(root.join(path)),
        // chmod(2) follows symbolic links.
        SetMode(path, mode) => {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(*mode))
        }
        List(path) => return listed(&root.join(path)).map_err(number),
    };
    done.map(|()| String::new()).map_err(number)
}

/// Removals are in the store when their directory is synchronised.
fn stored(root: &Path, operation: &Operation) {
    if let Operation::Remove(path) | Operation::RemoveDirectory(path) = operation {
        let parent = root.join(path);
        let parent = parent.parent().expect("below the root");
        File::open(parent).and_then(|parent| parent.sync_all()).expect("synchronised");
    }
}

fn number(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or_else(|| panic!("{error}"))
}

fn listed(path: &Path) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        names.push(format!("{name}{}", if entry.file_type()?.is_dir() { "/" } else { "" }));
    }
    names.sort();
    Ok(names.join(" "))
}

/// Kind, mode, links and content of one thing. Directories have no size, and links by their own rule.
fn described(path: &Path) -> std::io::Result<String> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    assert!(!kind.is_fifo());
    if kind.is_symlink() {
        return Ok(format!("-> {}", fs::read_link(path)?.display()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if kind.is_dir() {
        return Ok(format!("directory {mode:o}"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let sum = bytes.iter().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(*byte) + 1)
    });
    let (size, links) = (metadata.len(), metadata.nlink());
    Ok(format!("{size} bytes, {} read: {sum:x} mode {mode:o} links {links}", bytes.len()))
}

/// Everything under a directory.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("a name").path();
            let shown = described(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            if shown.starts_with("directory") {
                directories.push(path.clone());
            }
            found.insert(path.strip_prefix(root).expect("below").to_owned(), shown);
        }
    }
    found
}

/// Nothing is taken for true without asking the store.
const STRICT: [&str; 2] = ["--attribute-ttl", "0s"];

fn operations_on_two_mounts_in_turns_come_out_as_on_one_local_directory(backend: Backend) {
    let mut random = StdRng::seed_from_u64(seed());
    let volume = Volume::new(backend);
    let mut mounts = vec![volume.mount_with(&STRICT), volume.mount_with(&STRICT)];
    let local = volume.local("local");
    fs::create_dir(&local).expect("made");
    let count = if backend == Backend::Dir { 1_500 } else { 800 };
    let mut history = VecDeque::new();
    for step in 0..count {
        let operation = any_operation(&mut random);
        let node = random.random_range(0..mounts.len());
        let mut outcome = apply(&mounts[node].path, &operation);
        if let (Err(libc::ESTALE), Operation::Rename(from, to)) = (&outcome, &operation) {
            // Linux cannot give a directory its new place (__d_unalias in fs/dcache.c) while it looks names up
            // for a rename between directories: who looks at them first may go on.
            for path in [from, to] {
                let _ = fs::symlink_metadata(mounts[node].join(path));
            }
            outcome = apply(&mounts[node].path, &operation);
        }
        if outcome.is_ok() {
            stored(&mounts[node].path, &operation);
        }
        history.push_back(format!("{step}: node {node}: {operation:?}: {outcome:?}"));
        if history.len() > 60 {
            history.pop_front();
        }
        let expected = apply(&local, &operation);
        assert_eq!(outcome, expected, "{}", history.make_contiguous().join("\n"));
        if step % 200 == 199 {
            let expected = tree(&local);
            for mount in &mounts {
                assert_eq!(tree(&mount.path), expected, "{step}");
            }
        }
        if step == count / 2 {
            // A node that was killed has lost nothing, and another takes its place.
            mounts.swap_remove(0).kill9();
            mounts.push(volume.mount_with(&STRICT));
        }
    }
    mounts.into_iter().for_each(Mount::unmount);
    volume.tool(["verify", &volume.url]).succeeded();
}

/// One write of a name, by one node.
#[derive(Debug)]
#[expect(dead_code, reason = "some fields are there to be shown")]
struct Written {
    name: String,
    node: usize,
    inode: u64,
    token: u64,
    opened: Instant,
    closing: Instant,
    result: Result<(), i32>,
}

/// Contents are as long as their token says, and made of it.
fn content(token: u64) -> Vec<u8> {
    random_bytes(token, (token % 200_000) as usize + 8)
}

fn of_two_writes_that_overlap_one_is_acknowledged_and_neither_is_lost(backend: Backend) {
    let first_seed = seed();
    let volume = Volume::new(backend);
    let mounts = [volume.mount(), volume.mount()];
    let written = Mutex::new(Vec::<Written>::new());
    std::thread::scope(|scope| {
        for (node, mount) in mounts.iter().enumerate() {
            let written = &written;
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(first_seed + node as u64);
                for _ in 0..60 {
                    let name = format!("file {}", random.random_range(0..3));
                    let token = random.next_u64();
                    let path = mount.join(&name);
                    let file =
                        OpenOptions::new().write(true).create(true).truncate(true).open(path);
                    let Ok(mut file) = file else {
                        panic!("{name}: {}", file.expect_err("failed"))
                    };
                    let opened = Instant::now();
                    let inode = file.metadata().expect("open").ino();
                    file.write_all(&content(token)).expect("into memory");
                    std::thread::sleep(Duration::from_millis(random.random_range(0..10)));
                    let closing = Instant::now();
                    let result = nix::unistd::close(file).map_err(|error| error as i32);
                    let row = Written { name, node, inode, token, opened, closing, result };
                    written.lock().expect("no panic").push(row);
                }
            });
        }
    });
    let written = written.into_inner().expect("no panic");
    let [one, two] = mounts;
    one.unmount();
    two.unmount();
    let mount = volume.mount();
    let mut there = BTreeMap::<Vec<u8>, String>::new();
    for entry in fs::read_dir(&mount.path).expect("a directory") {
        let path = entry.expect("a name").path();
        let name = path.file_name().expect("named").to_string_lossy().into_owned();
        there.insert(fs::read(&path).expect("read"), name);
    }
    for (index, row) in written.iter().enumerate() {
        match row.result {
            Ok(()) => {}
            Err(libc::ESTALE) => {
                let copy = there.get(&content(row.token));
                let names: Vec<_> = there.values().collect();
                let copy = copy.unwrap_or_else(|| panic!("{}: gone: {names:?}", row.name));
                assert!(copy.starts_with(&format!("{}.conflict-", row.name)), "{copy}");
            }
            Err(other) => panic!("{}: error {other}", row.name),
        }
        for other in &written[..index] {
            let overlap = row.name == other.name
                && row.opened.max(other.opened) < row.closing.min(other.closing);
            assert!(
                !overlap || row.result.is_err() || other.result.is_err(),
                "two writes that overlap were both acknowledged: one of them is lost:\n{row:?}, now {:?}\n{other:?}, now {:?}",
                there.get(&content(row.token)),
                there.get(&content(other.token)),
            );
        }
    }
    // What stands under each name is one write, whole, that was acknowledged and not replaced since.
    for name in ["file 0", "file 1", "file 2"] {
        let bytes = fs::read(mount.join(name)).expect("read");
        let row = written.iter().find(|row| content(row.token) == bytes).expect("a whole write");
        assert_eq!(row.result, Ok(()), "{name}");
        let later = written.iter().filter(|other| {
            other.name == name && other.result.is_ok() && other.opened > row.closing
        });
        assert_eq!(later.count(), 0, "{name}: an older write stands there");
    }
    mount.unmount();
    volume.tool(["verify", &volume.url]).succeeded();
}

/// Close-to-open, with the usual times: what is known for a second are names and attributes, never
/// what a file that is opened holds.
fn what_one_node_closes_another_opens(backend: Backend) {
    let volume = Volume::new(backend);
    let (one, two) = (volume.mount(), volume.mount());
    for round in 0..30_u64 {
        let (from, to) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        // The same length and time of change: only the content tells.
        let bytes = random_bytes(round, 50_000);
        let path = from.join("file");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.expect("opened");
        file.write_all_at(&bytes, 0).expect("written");
        file.set_modified(std::time::UNIX_EPOCH).expect("set");
        nix::unistd::close(file).expect("closed");
        assert!(fs::read(to.join("file")).expect("read") == bytes, "round {round}");
        assert!(fs::read(&path).expect("read") == bytes, "round {round}, the writer");
    }
    for round in 0..30_u64 {
        // What was renamed over a name is what the name opens, too.
        let (from, to) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let bytes = random_bytes(round, 5_000);
        fs::write(from.join("draft"), &bytes).expect("written");
        fs::rename(from.join("draft"), from.join("file")).expect("renamed");
        assert!(fs::read(to.join("file")).expect("read") == bytes, "round {round}");
    }
    one.unmount();
    two.unmount();
}

/// What a node knows of a former name goes with what it finds under the new one, by a look or by a listing.
fn a_former_name_of_what_another_node_renamed_is_not_listed(backend: Backend) {
    let volume = Volume::new(backend);
    let (one, two) = (volume.mount_with(&STRICT), volume.mount_with(&STRICT));
    for (at, kind) in ["file", "symlink", "directory"].into_iter().enumerate() {
        for linked in [false, true] {
            if kind == "directory" && linked {
                continue;
            }
            let place = format!("{at}{linked}");
            let (here, there) = (one.join(&place), two.join(&place));
            fs::create_dir(&here).expect("made");
            match kind {
                "file" => fs::write(here.join("former"), "content").expect("written"),
                "symlink" => symlink("target", here.join("former")).expect("made"),
                _ => fs::create_dir(here.join("former")).expect("made"),
            }
            let kind = if kind == "directory" { "/" } else { "" };
            assert_eq!(listed(&there).expect("listed"), format!("former{kind}"));
            fs::rename(here.join("former"), here.join("new")).expect("renamed");
            let mut expected = format!("new{kind}");
            if linked {
                fs::hard_link(here.join("new"), here.join("second")).expect("linked");
                expected += " second";
            }
            assert_eq!(listed(&there).expect("listed"), expected, "{place}");
            let former = fs::symlink_metadata(there.join("former"));
            assert_eq!(former.expect_err("gone").kind(), std::io::ErrorKind::NotFound);
        }
    }
    one.unmount();
    two.unmount();
}

/// Of small files that nobody has opened a node knows the heads of their records, not their data.
fn what_another_node_moves_or_removes_keeps_nobody_from_setting_attributes(backend: Backend) {
    const LONG: [&str; 2] = ["--attribute-ttl", "60s"];
    let volume = Volume::new(backend);
    let (one, two) = (volume.mount_with(&STRICT), volume.mount_with(&LONG));
    let content = random_bytes(1, 50_000);
    let names = ["moved", "moved twice", "linked", "opened", "removed", "replaced"];
    for name in names {
        fs::write(one.join(name), &content).expect("written");
    }
    fs::create_dir(one.join("other")).expect("made");
    let look = |path: &str| fs::metadata(two.join(path)).map(|file| file.permissions().mode());
    let change = |path: &str| {
        fs::set_permissions(two.join(path), fs::Permissions::from_mode(0o640)).map_err(number)
    };
    listed(&two.path).expect("listed");
    for name in names {
        assert_eq!(look(name).expect("known") & 0o777, 0o644, "{name}");
    }
    let rename = |from: &str, to: &str| fs::rename(one.join(from), one.join(to)).expect("moved");
    rename("moved", "other/new");
    rename("moved twice", "between");
    rename("between", "other/last");
    rename("linked", "other/linked");
    fs::hard_link(one.join("other/linked"), one.join("other/second")).expect("linked");
    rename("opened", "other/opened");
    fs::remove_file(one.join("removed")).expect("removed");
    fs::write(one.join("in its place"), "another").expect("written");
    rename("in its place", "replaced");
    // By the former names, which the kernel takes for true: it is changed where it is, or the name is not there.
    for name in &names[..4] {
        let changed = change(name);
        assert!(matches!(changed, Ok(()) | Err(nix::libc::ENOENT)), "{name}: {changed:?}");
    }
    assert_eq!(change("removed"), Err(nix::libc::ENOENT));
    assert_eq!(change("replaced"), Ok(()));
    for path in ["other/new", "other/last", "other/linked", "other/second", "other/opened"] {
        assert_eq!(change(path), Ok(()), "{path}");
        for mount in [&one, &two] {
            let file = fs::metadata(mount.join(path)).expect("there");
            assert_eq!(file.permissions().mode() & 0o777, 0o640, "{path}");
            assert!(fs::read(mount.join(path)).expect("read") == content, "{path}");
        }
    }
    assert_eq!(fs::read(two.join("replaced")).expect("read"), b"another");
    assert_eq!(look("replaced").expect("there") & 0o777, 0o640);
    assert_eq!(listed(&one.path).expect("listed"), listed(&two.path).expect("listed"));
    // Nothing that was said to be lost is held against the end of the mount.
    one.unmount();
    two.unmount();
}

/// Makes, moves and removes directories and files on both nodes at once. Whatever wins: what is stored in
/// the end is one tree without damage, the same for every node that mounts it, and every file is whole.
fn racing_changes_of_a_tree_leave_one_tree(backend: Backend) {
    let first_seed = seed();
    let volume = Volume::new(backend);
    let mounts = [volume.mount(), volume.mount()];
    std::thread::scope(|scope| {
        for (node, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(first_seed + node as u64);
                for _ in 0..250 {
                    let operation = any_operation(&mut random);
                    // What another node does at the same time may come first: then these are refused.
                    // None of them may say that the volume or the connection is broken.
                    if let Err(error) = apply(&mount.path, &operation) {
                        let usual = [
                            libc::ENOENT,
                            libc::EEXIST,
                            libc::ENOTDIR,
                            libc::EISDIR,
                            libc::EINVAL,
                            libc::ENOTEMPTY,
                            libc::ESTALE,
                            libc::EPERM,
                            libc::ELOOP,
                            libc::EBUSY,
                        ];
                        assert!(
                            usual.contains(&error),
                            "node {node}: {operation:?}: error {error}"
                        );
                    }
                }
            });
        }
    });
    // Every name can be listed and read on both of them.
    let [one, two] = mounts;
    for mount in [&one, &two] {
        assert!(!tree(&mount.path).is_empty());
    }
    one.unmount();
    two.unmount();
    volume.tool(["verify", &volume.url]).succeeded();
    let (three, four) = (volume.mount(), volume.mount());
    let stored = tree(&three.path);
    assert_eq!(tree(&four.path), stored);
    three.unmount();
    four.unmount();
    volume.tool(["gc", &volume.url]).succeeded();
}
