//! A real mount behaves as a local file system does, and a fresh mount finds what the last one stored.

mod support;

use nix::fcntl::{FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{Backend, Volume, on_every_backend, random_bytes, seed};

on_every_backend![
    a_copied_tree_is_the_same_after_a_remount,
    a_large_file_is_the_same_after_a_remount,
    random_overwrites_are_kept,
    appends_and_truncations_are_kept,
    holes_are_found_and_punched,
    a_rename_replaces_moves_and_keeps_open_files,
    renames_without_replacement_and_exchanges_are_atomic,
    hard_links_share_one_file,
    an_unlinked_open_file_lives_until_it_is_closed,
    directories_refuse_what_posix_refuses,
    attributes_are_kept_to_the_nanosecond,
    extended_attributes_are_kept,
    every_name_of_up_to_255_bytes_is_kept,
    a_directory_of_2000_names_changes_while_it_is_read,
    memory_maps_see_and_make_changes,
    synchronous_and_direct_writes_are_kept,
    copy_file_range_copies,
    special_files_are_kept,
    two_mounts_see_each_others_closed_files,
    a_read_only_mount_refuses_changes,
    cfb_and_plain_volumes_work_alike,
];

/// What a tree holds, by path: kind and mode, owner, times, link target or checksum.
fn describe(root: &Path) -> Vec<String> {
    describe_tree(root, true)
}

/// A change of its entries stores a directory's times only with the next change of the directory itself.
fn describe_without_directory_times(root: &Path) -> Vec<String> {
    describe_tree(root, false)
}

fn describe_tree(root: &Path, directory_times: bool) -> Vec<String> {
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
            let time = if data.is_dir() && !directory_times {
                String::new()
            } else {
                format!("{}.{:09}", data.mtime(), data.mtime_nsec())
            };
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

fn a_large_file_is_the_same_after_a_remount(backend: Backend) {
    const MIB: u64 = 1024;
    let volume = Volume::new(backend);
    let source = volume.local("source");
    {
        let mut file = File::create(&source).expect("created");
        for index in 0..MIB {
            file.write_all(&random_bytes(index, 1 << 20)).expect("written");
        }
    }
    let expected = checksum(&source);
    let mount = volume.mount();
    let (from, to) =
        (format!("if={}", source.display()), format!("of={}/big", mount.path.display()));
    run("dd", &[&from, &to, "bs=1M", "conv=fsync"].map(OsStr::new));
    fs::remove_file(&source).expect("removed");
    assert_eq!(fs::metadata(mount.join("big")).expect("there").len(), MIB << 20);
    mount.unmount();

    let mount = volume.mount();
    assert_eq!(checksum(&mount.join("big")), expected, "by the mount");
    mount.unmount();
    let back = volume.local("back");
    volume.tool(["pull", &volume.at("big"), back.to_str().expect("text")]).succeeded();
    assert_eq!(checksum(&back), expected, "by the tool");
}

fn checksum(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).expect("open");
    std::io::copy(&mut file, &mut hasher).expect("readable");
    hasher.finalize().to_hex().to_string()
}

fn random_overwrites_are_kept(backend: Backend) {
    let mut random = StdRng::seed_from_u64(seed());
    let volume = Volume::new(backend);
    let mut model = random_bytes(1, 20_000_000);
    let mut mount = volume.mount();
    fs::write(mount.join("file"), &model).expect("written");
    for round in 0..3 {
        let file = read_write(&mount.join("file"));
        for step in 0..200 {
            let length = random.random_range(1..=if step % 10 == 0 { 1_000_000 } else { 9_000 });
            let offset = random.random_range(0..model.len() + 50_000);
            let bytes = random_bytes(random.random(), length);
            file.write_all_at(&bytes, offset as u64).expect("written");
            if model.len() < offset + length {
                model.resize(offset + length, 0);
            }
            model[offset..offset + length].copy_from_slice(&bytes);
            // What was just written is read at once, by the same handle, before it is in the store.
            let start = offset.saturating_sub(500);
            let mut found = vec![0; (length + 1000).min(model.len() - start)];
            file.read_exact_at(&mut found, start as u64).expect("read");
            assert!(found == model[start..start + found.len()], "round {round}, step {step}");
            if step % 50 == 49 {
                file.sync_all().expect("stored");
            }
        }
        drop(file);
        mount.unmount();
        check_after_remount(&volume, "file", &model);
        mount = volume.mount();
    }
    mount.unmount();
}

fn appends_and_truncations_are_kept(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let path = mount.join("log");
    let mut model = Vec::new();
    for index in 0..300 {
        let mut file = OpenOptions::new().append(true).create(true).open(&path).expect("open");
        let line = random_bytes(index, 100 + index as usize * 7);
        file.write_all(&line).expect("appended");
        model.extend_from_slice(&line);
    }
    assert!(fs::read(&path).expect("read") == model);
    let file = read_write(&path);
    // Within what is inline, across a segment's middle, to nothing, and beyond the end again.
    for length in [200_000, 70_000, 65_536, 100, 5_000_000, 4_000_000, 0, 12_345] {
        file.set_len(length).expect("truncated");
        model.resize(length as usize, 0);
        assert_eq!(file.metadata().expect("there").len(), length);
        file.write_all_at(b"mark", length / 2).expect("written");
        let end = (length as usize / 2 + 4).max(model.len());
        model.resize(end, 0);
        model[length as usize / 2..length as usize / 2 + 4].copy_from_slice(b"mark");
        file.sync_all().expect("stored");
        assert!(fs::read(&path).expect("read") == model, "after {length}");
    }
    drop(file);
    // By name, without an open handle.
    fs::write(mount.join("other"), random_bytes(9, 10_000_000)).expect("written");
    nix::unistd::truncate(&mount.join("other"), 3_000_001).expect("truncated");
    File::create(mount.join("emptied")).expect("created").write_all(b"text").expect("written");
    File::create(mount.join("emptied")).expect("opened with O_TRUNC");
    mount.unmount();
    check_after_remount(&volume, "log", &model);
    check_after_remount(&volume, "other", &random_bytes(9, 10_000_000)[..3_000_001]);
    check_after_remount(&volume, "emptied", b"");
}

fn holes_are_found_and_punched(backend: Backend) {
    const MIB: u64 = 1 << 20;
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let file = read_write(&mount.join("sparse"));
    file.set_len(64 * MIB).expect("grown");
    file.write_all_at(&random_bytes(1, MIB as usize), 16 * MIB).expect("written");
    file.write_all_at(&random_bytes(2, MIB as usize), 40 * MIB).expect("written");
    file.sync_all().expect("stored");
    check_holes(&file, &[(16 * MIB, 17 * MIB), (40 * MIB, 41 * MIB)], 64 * MIB);
    fallocate(
        &file,
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        16 * MIB as i64,
        MIB as i64 / 2,
    )
    .expect("punched");
    file.sync_all().expect("stored");
    check_holes(&file, &[(16 * MIB + MIB / 2, 17 * MIB), (40 * MIB, 41 * MIB)], 64 * MIB);
    fallocate(&file, FallocateFlags::empty(), 0, 70 * MIB as i64).expect("reserved");
    assert_eq!(file.metadata().expect("there").len(), 70 * MIB);
    drop(file);
    mount.unmount();

    let mut model = vec![0; 70 * MIB as usize];
    let first = random_bytes(1, MIB as usize);
    let half = MIB as usize / 2;
    model[16 * MIB as usize + half..17 * MIB as usize].copy_from_slice(&first[half..]);
    model[40 * MIB as usize..41 * MIB as usize].copy_from_slice(&random_bytes(2, MIB as usize));
    check_after_remount(&volume, "sparse", &model);
    if backend == Backend::Dir {
        let stored: u64 = support::files_below(&volume.store())
            .iter()
            .map(|path| path.metadata().expect("there").len())
            .sum();
        assert!(stored < 6 * MIB, "holes take room in the store: {stored} bytes");
    }
}

/// SEEK_DATA and SEEK_HOLE find exactly these ranges of data.
fn check_holes(file: &File, data: &[(u64, u64)], size: u64) {
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(start) = lseek(file, at, Whence::SeekData) {
        let end = lseek(file, start, Whence::SeekHole).expect("a hole or the end");
        found.push((start as u64, end as u64));
        at = end;
    }
    assert_eq!(found, data);
    assert_eq!(lseek(file, size as i64, Whence::SeekData), Err(nix::errno::Errno::ENXIO));
}

fn a_rename_replaces_moves_and_keeps_open_files(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let at = |name: &str| mount.join(name);
    for dir in ["one", "two", "empty", "full"] {
        fs::create_dir(at(dir)).expect("made");
    }
    fs::write(at("full/child"), "child").expect("written");
    fs::write(at("old"), "old").expect("written");
    fs::write(at("new"), "new").expect("written");
    let mut replaced = File::open(at("old")).expect("open");
    fs::rename(at("new"), at("old")).expect("replaced");
    assert_eq!(fs::read(at("old")).expect("read"), b"new");
    let mut text = String::new();
    replaced.read_to_string(&mut text).expect("the replaced file is still there for its handle");
    assert_eq!(text, "old");
    drop(replaced);
    assert!(!at("new").exists());

    // Across directories, while the file is open and being written.
    let mut open = File::create(at("one/open")).expect("created");
    open.write_all(b"before ").expect("written");
    fs::rename(at("one/open"), at("two/moved")).expect("moved");
    open.write_all(b"after").expect("written");
    open.sync_all().expect("stored");
    drop(open);
    assert_eq!(fs::read(at("two/moved")).expect("read"), b"before after");
    assert!(!at("one/open").exists());

    // Directories: with all they hold, over empty ones only, never into themselves.
    fs::rename(at("full"), at("one/deep")).expect("moved");
    assert_eq!(fs::read(at("one/deep/child")).expect("read"), b"child");
    fs::rename(at("one/deep"), at("empty")).expect("over an empty directory");
    assert_eq!(fs::read(at("empty/child")).expect("read"), b"child");
    assert_eq!(error_of(fs::rename(at("two"), at("empty"))), libc::ENOTEMPTY);
    assert_eq!(error_of(fs::rename(at("old"), at("two"))), libc::EISDIR);
    assert_eq!(error_of(fs::rename(at("two"), at("old"))), libc::ENOTDIR);
    assert_eq!(error_of(fs::rename(at("two"), at("two/inside"))), libc::EINVAL);
    assert_eq!(error_of(fs::rename(at("missing"), at("x"))), libc::ENOENT);
    let before = describe_without_directory_times(&mount.path);
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(describe_without_directory_times(&mount.path), before);
    mount.unmount();
}

fn renames_without_replacement_and_exchanges_are_atomic(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let rename = |from: &str, to: &str, flags| {
        let here = nix::fcntl::AT_FDCWD;
        renameat2(here, &mount.join(from), here, &mount.join(to), flags)
    };
    fs::write(mount.join("a"), "a").expect("written");
    fs::write(mount.join("b"), "b").expect("written");
    fs::create_dir(mount.join("dir")).expect("made");
    fs::write(mount.join("dir/inner"), "inner").expect("written");
    let refused = rename("a", "b", RenameFlags::RENAME_NOREPLACE);
    assert_eq!(refused, Err(nix::errno::Errno::EEXIST));
    assert_eq!(fs::read(mount.join("a")).expect("read"), b"a");
    rename("a", "c", RenameFlags::RENAME_NOREPLACE).expect("the name is free");
    rename("c", "b", RenameFlags::RENAME_EXCHANGE).expect("exchanged");
    assert_eq!(fs::read(mount.join("b")).expect("read"), b"a");
    assert_eq!(fs::read(mount.join("c")).expect("read"), b"b");
    rename("c", "dir", RenameFlags::RENAME_EXCHANGE).expect("a file and a directory");
    assert_eq!(fs::read(mount.join("dir")).expect("read"), b"b");
    assert_eq!(fs::read(mount.join("c/inner")).expect("read"), b"inner");
    let missing = rename("b", "missing", RenameFlags::RENAME_EXCHANGE);
    assert_eq!(missing, Err(nix::errno::Errno::ENOENT));
    let before = describe_without_directory_times(&mount.path);
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(describe_without_directory_times(&mount.path), before);
    mount.unmount();
}

fn hard_links_share_one_file(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let at = |name: &str| mount.join(name);
    fs::create_dir(at("dir")).expect("made");
    fs::write(at("first"), "content").expect("written");
    fs::hard_link(at("first"), at("dir/second")).expect("linked");
    fs::hard_link(at("dir/second"), at("third")).expect("linked");
    let (first, second) = (at("first").metadata().unwrap(), at("dir/second").metadata().unwrap());
    assert_eq!((first.nlink(), second.nlink()), (3, 3));
    assert_eq!(first.ino(), second.ino());
    fs::write(at("third"), "changed through the third").expect("written");
    support::set_mode(&at("dir/second"), 0o640);
    assert_eq!(fs::read(at("first")).expect("read"), b"changed through the third");
    assert_eq!(at("first").metadata().unwrap().permissions().mode() & 0o777, 0o640);
    // Renaming one name of a file over another does nothing (POSIX rename).
    fs::rename(at("first"), at("third")).expect("no error");
    assert!(at("first").exists() && at("third").exists());
    fs::remove_file(at("first")).expect("removed");
    assert_eq!(at("third").metadata().unwrap().nlink(), 2);
    assert_eq!(error_of(fs::hard_link(at("dir"), at("dir2"))), libc::EPERM);
    assert_eq!(error_of(fs::hard_link(at("third"), at("dir/second"))), libc::EEXIST);
    mount.unmount();

    let mount = volume.mount();
    let (second, third) = (mount.join("dir/second"), mount.join("third"));
    assert_eq!(second.metadata().unwrap().nlink(), 2);
    assert_eq!(second.metadata().unwrap().ino(), third.metadata().unwrap().ino());
    fs::write(&second, "after the remount").expect("written");
    assert_eq!(fs::read(&third).expect("read"), b"after the remount");
    fs::rename(&third, mount.join("dir/renamed")).expect("renamed");
    fs::remove_file(&second).expect("removed");
    mount.unmount();
    check_after_remount(&volume, "dir/renamed", b"after the remount");
}

fn an_unlinked_open_file_lives_until_it_is_closed(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let bytes = random_bytes(1, 3_000_000);
    fs::write(mount.join("file"), &bytes).expect("written");
    let file = read_write(&mount.join("file"));
    fs::remove_file(mount.join("file")).expect("removed");
    assert!(!mount.join("file").exists());
    file.write_all_at(b"still here", 100).expect("written");
    file.sync_all().expect("no error");
    let mut found = vec![0; bytes.len()];
    file.read_exact_at(&mut found, 0).expect("read");
    assert_eq!(&found[100..110], b"still here");
    assert!(found[110..] == bytes[110..]);
    assert_eq!(file.metadata().expect("there").nlink(), 0);
    // A new file of the same name is another one.
    fs::write(mount.join("file"), "another").expect("written");
    file.write_all_at(b"not in the new one", 0).expect("written");
    drop(file);
    mount.unmount();
    check_after_remount(&volume, "file", b"another");
}

fn directories_refuse_what_posix_refuses(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let at = |name: &str| mount.join(name);
    fs::create_dir(at("dir")).expect("made");
    assert_eq!(error_of(fs::create_dir(at("dir"))), libc::EEXIST);
    fs::write(at("dir/file"), "x").expect("written");
    assert_eq!(error_of(fs::remove_dir(at("dir"))), libc::ENOTEMPTY);
    assert_eq!(error_of(fs::remove_dir(at("dir/file"))), libc::ENOTDIR);
    assert_eq!(error_of(fs::remove_file(at("dir"))), libc::EISDIR);
    assert_eq!(error_of(File::open(at("dir/file/below"))), libc::ENOTDIR);
    assert_eq!(error_of(fs::create_dir(at("missing/dir"))), libc::ENOENT);
    let exclusive = |name: &str| OpenOptions::new().write(true).create_new(true).open(at(name));
    assert_eq!(error_of(exclusive("dir/file")), libc::EEXIST);
    exclusive("dir/other").expect("a free name");
    assert_eq!(error_of(exclusive("dir/other")), libc::EEXIST);
    fs::create_dir_all(at("dir/sub/sub")).expect("made");
    fs::remove_file(at("dir/file")).expect("removed");
    fs::remove_file(at("dir/other")).expect("removed");
    fs::remove_dir(at("dir/sub/sub")).expect("removed");
    fs::remove_dir(at("dir/sub")).expect("removed");
    fs::remove_dir(at("dir")).expect("removed");
    // The same names again, over what was removed.
    fs::create_dir(at("dir")).expect("made again");
    fs::write(at("dir/file"), "again").expect("written");
    mount.unmount();
    check_after_remount(&volume, "dir/file", b"again");
}

fn attributes_are_kept_to_the_nanosecond(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let path = mount.join("file");
    fs::write(&path, "x").expect("written");
    support::set_mode(&path, 0o6751);
    std::os::unix::fs::chown(&path, Some(4_000_000_000), Some(65_534)).expect("owned");
    // chown takes the set-id bits away; they are set again.
    support::set_mode(&path, 0o6751);
    let (atime, mtime) = (TimeSpec::new(-5, 999_999_999), TimeSpec::new(4_102_444_800, 1));
    let here = nix::fcntl::AT_FDCWD;
    utimensat(here, &path, &atime, &mtime, UtimensatFlags::NoFollowSymlink).expect("times set");
    let check = |path: &Path| {
        let data = path.metadata().expect("there");
        assert_eq!(data.mode() & 0o7777, 0o6751);
        assert_eq!((data.uid(), data.gid()), (4_000_000_000, 65_534));
        assert_eq!((data.atime(), data.atime_nsec()), (-5, 999_999_999));
        assert_eq!((data.mtime(), data.mtime_nsec()), (4_102_444_800, 1));
    };
    check(&path);
    let before = path.metadata().expect("there");
    mount.unmount();
    let mount = volume.mount();
    check(&mount.join("file"));
    let after = mount.join("file").metadata().expect("there");
    assert_eq!((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
    // Writing makes the file new and takes the set-id bits.
    fs::write(mount.join("file"), "y").expect("written");
    let data = mount.join("file").metadata().expect("there");
    assert!(data.mtime() < 4_102_444_800);
    // The parent's time tells of new and removed names.
    let parent = mount.path.metadata().expect("there");
    std::thread::sleep(Duration::from_millis(20));
    fs::remove_file(mount.join("file")).expect("removed");
    let changed = mount.path.metadata().expect("there");
    assert!((changed.mtime(), changed.mtime_nsec()) > (parent.mtime(), parent.mtime_nsec()));
    mount.unmount();
}

fn extended_attributes_are_kept(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let path = mount.join("file");
    fs::write(&path, "x").expect("written");
    fs::create_dir(mount.join("dir")).expect("made");
    xattr::set(&path, "user.one", b"1").expect("set");
    xattr::set(&path, "user.binary", &random_bytes(1, 2000)).expect("set");
    xattr::set(&path, "user.empty", b"").expect("set");
    xattr::set(&path, "user.gone", b"gone").expect("set");
    xattr::set(mount.join("dir"), "user.of directory", b"d").expect("set");
    xattr::remove(&path, "user.gone").expect("removed");
    assert_eq!(error_of(xattr::remove(&path, "user.gone")), libc::ENODATA);
    assert_eq!(xattr::get(&path, "user.gone").expect("no error"), None);
    mount.unmount();
    let mount = volume.mount();
    let path = mount.join("file");
    let names: BTreeSet<_> = xattr::list(&path).expect("listed").collect();
    let expected = ["user.binary", "user.empty", "user.one"].map(Into::into);
    assert_eq!(names, BTreeSet::from(expected));
    let get = |name: &str| xattr::get(&path, name).expect("read").expect("there");
    assert_eq!(get("user.one"), b"1");
    assert_eq!(get("user.empty"), b"");
    assert_eq!(get("user.binary"), random_bytes(1, 2000));
    assert_eq!(xattr::get(mount.join("dir"), "user.of directory").unwrap().unwrap(), b"d");
    mount.unmount();
}

fn every_name_of_up_to_255_bytes_is_kept(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let long = "n".repeat(255);
    let umlauts = "ü".repeat(127);
    let names: Vec<&[u8]> = vec![
        long.as_bytes(),
        umlauts.as_bytes(),
        b"line\nend",
        b"100%25%2F",
        b"not utf-8: \xff\xfe\x80",
        b" ",
        b"...",
        b"-rf",
        b"\\back*?\"'",
        b"\x01\x7f",
        b".strongroom-store",
        b"strongroom.json",
    ];
    for name in &names {
        let name = OsStr::from_bytes(name);
        fs::write(mount.join(name), name.as_bytes()).expect("written");
        fs::create_dir(mount.join("d").join("")).or_else(|_| Ok::<_, std::io::Error>(())).unwrap();
        fs::rename(mount.join(name), mount.join("d").join(name)).expect("moved");
    }
    let too_long = mount.join("n".repeat(256));
    assert_eq!(error_of(File::create(&too_long)), libc::ENAMETOOLONG);
    assert_eq!(error_of(fs::create_dir(&too_long)), libc::ENAMETOOLONG);
    mount.unmount();
    let mount = volume.mount();
    let found: BTreeSet<Vec<u8>> = fs::read_dir(mount.join("d"))
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name().as_bytes().to_vec())
        .collect();
    assert_eq!(found, names.iter().map(|name| name.to_vec()).collect());
    for name in names {
        let path = mount.join("d").join(OsStr::from_bytes(name));
        assert_eq!(fs::read(&path).expect("readable"), name);
        fs::remove_file(path).expect("removed");
    }
    fs::remove_dir(mount.join("d")).expect("empty again");
    mount.unmount();
}

fn a_directory_of_2000_names_changes_while_it_is_read(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount_with(&["--durability", "fsync"]);
    let dir = mount.join("dir");
    fs::create_dir(&dir).expect("made");
    for index in 0..2000 {
        fs::write(dir.join(format!("stays {index:04}")), index.to_string()).expect("written");
        if index % 4 == 0 {
            File::create(dir.join(format!("goes {index:04}"))).expect("created");
        }
    }
    // While names come and go, what stays is listed exactly once.
    let mut stays = BTreeSet::new();
    for (index, entry) in fs::read_dir(&dir).expect("readable").enumerate() {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        if name.starts_with("stays") {
            assert!(stays.insert(name.clone()), "{name} is listed twice");
        }
        if index % 4 == 0 && index < 2000 {
            fs::remove_file(dir.join(format!("goes {index:04}"))).expect("removed");
            File::create(dir.join(format!("comes {index:04}"))).expect("created");
        }
    }
    assert_eq!(stays.len(), 2000);
    mount.unmount();
    let mount = volume.mount();
    let names: BTreeSet<String> = fs::read_dir(mount.join("dir"))
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("stays")).count(), 2000);
    assert_eq!(names.iter().filter(|name| name.starts_with("comes")).count(), 500);
    assert_eq!(names.len(), 2500);
    assert_eq!(fs::read(mount.join("dir/stays 1234")).expect("read"), b"1234");
    mount.unmount();
}

fn memory_maps_see_and_make_changes(backend: Backend) {
    use nix::sys::mman::{MapFlags, MmapAdvise, MsFlags, ProtFlags, madvise, mmap, msync, munmap};
    const LENGTH: usize = 1 << 20;
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let path = mount.join("mapped");
    let mut model = random_bytes(1, LENGTH);
    fs::write(&path, &model).expect("written");
    let file = read_write(&path);
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let length = std::num::NonZeroUsize::new(LENGTH).expect("not zero");
    // SAFETY: the address is the kernel's choice and the file is LENGTH bytes long as long as it is mapped.
    let map =
        unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) }.expect("mapped");
    // SAFETY: the mapping is LENGTH readable and writable bytes, used here alone until munmap.
    let bytes = unsafe { std::slice::from_raw_parts_mut(map.cast::<u8>().as_ptr(), LENGTH) };
    assert!(bytes == model.as_slice(), "the map shows what was written");
    for at in [0, 4095, 4096, 123_456, LENGTH - 5] {
        bytes[at..at + 5].copy_from_slice(b"magic");
        model[at..at + 5].copy_from_slice(b"magic");
    }
    // SAFETY: the range is the mapping's own.
    unsafe { madvise(map, LENGTH, MmapAdvise::MADV_SEQUENTIAL) }.expect("advised");
    // SAFETY: the same.
    unsafe { msync(map, LENGTH, MsFlags::MS_SYNC) }.expect("stored");
    assert!(fs::read(&path).expect("read") == model, "another handle sees the map's changes");
    // SAFETY: `bytes` is not used after this.
    unsafe { munmap(map, LENGTH) }.expect("unmapped");
    drop(file);
    mount.unmount();
    check_after_remount(&volume, "mapped", &model);
}

fn synchronous_and_direct_writes_are_kept(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let synchronous = |name: &str, flag| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .custom_flags(flag)
            .open(mount.join(name))
            .expect("open")
    };
    let mut file = synchronous("sync", libc::O_SYNC);
    let mut model = Vec::new();
    for index in 0..20 {
        let bytes = random_bytes(index, 5000);
        file.write_all(&bytes).expect("written");
        model.extend_from_slice(&bytes);
    }
    let direct_bytes = random_bytes(99, 8 << 20);
    // Direct reads and writes want aligned memory on disks; the mount takes any.
    let direct = synchronous("direct", libc::O_DIRECT);
    for (index, block) in direct_bytes.chunks(1 << 19).enumerate() {
        direct.write_all_at(block, (index << 19) as u64).expect("written");
    }
    direct.write_all_at(b"over", 4096).expect("written");
    let mut expected = direct_bytes;
    expected[4096..4100].copy_from_slice(b"over");
    let mut found = vec![0; expected.len()];
    direct.read_exact_at(&mut found, 0).expect("read");
    assert!(found == expected);
    drop(direct);
    // O_SYNC needs no close: the server is killed while the file is open.
    let path = mount.kill9();
    drop(file);
    fs::remove_dir(path).expect("the mount point is empty");
    check_after_remount(&volume, "sync", &model);
    check_after_remount(&volume, "direct", &expected);
}

fn copy_file_range_copies(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let source = random_bytes(5, 10_000_000);
    fs::write(mount.join("from"), &source).expect("written");
    let (from, to) = (File::open(mount.join("from")).unwrap(), read_write(&mount.join("to")));
    copy_range(&from, 1_000, &to, 500, 9_000_000);
    // What is changed later in one is not changed in the other.
    drop(from);
    read_write(&mount.join("from")).write_all_at(&[0; 100_000], 2_000_000).expect("written");
    drop(to);
    let mut expected = vec![0; 500];
    expected.extend_from_slice(&source[1_000..9_001_000]);
    assert!(fs::read(mount.join("to")).expect("read") == expected);
    fs::remove_file(mount.join("from")).expect("removed");
    run(
        "cp",
        &["--reflink=auto".as_ref(), mount.join("to").as_os_str(), mount.join("cp").as_os_str()],
    );
    mount.unmount();
    check_after_remount(&volume, "to", &expected);
    check_after_remount(&volume, "cp", &expected);
}

/// copy_file_range(2) until all is copied.
fn copy_range(from: &File, mut read_at: i64, to: &File, mut write_at: i64, mut left: usize) {
    while left > 0 {
        let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
        // SAFETY: both descriptors are open for the call and both offsets outlive it.
        let copied = unsafe {
            libc::copy_file_range(from, &raw mut read_at, to, &raw mut write_at, left, 0)
        };
        assert!(copied > 0, "{copied}: {}", std::io::Error::last_os_error());
        left -= copied as usize;
    }
}

fn special_files_are_kept(backend: Backend) {
    use std::os::unix::fs::FileTypeExt;
    let volume = Volume::new(backend);
    let mount = volume.mount();
    nix::unistd::mkfifo(&mount.join("fifo"), Mode::from_bits_truncate(0o640)).expect("made");
    let socket = std::os::unix::net::UnixListener::bind(mount.join("socket")).expect("made");
    drop(socket);
    mount.unmount();
    let mount = volume.mount();
    let fifo = mount.join("fifo").symlink_metadata().expect("there");
    assert!(fifo.file_type().is_fifo());
    assert!(mount.join("socket").symlink_metadata().expect("there").file_type().is_socket());
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

fn cfb_and_plain_volumes_work_alike(backend: Backend) {
    for suite in ["AES-256-CFB", "AES-192-CFB", "AES-128-CFB", "none"] {
        let volume = Volume::with_suite(backend, suite);
        let mount = volume.mount();
        fs::create_dir(mount.join("dir")).expect("made");
        let (small, large) = (random_bytes(1, 3000), random_bytes(2, 20_000_001));
        fs::write(mount.join("dir/small"), &small).expect("written");
        fs::write(mount.join("dir/large"), &large).expect("written");
        let mut file = read_write(&mount.join("dir/large"));
        file.seek(SeekFrom::Start(9_999_999)).expect("sought");
        file.write_all(b"in the middle").expect("written");
        drop(file);
        let missing = fs::metadata(mount.join("missing")).expect_err("missing");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        mount.unmount();
        let mut expected = large;
        expected[9_999_999..9_999_999 + 13].copy_from_slice(b"in the middle");
        check_after_remount(&volume, "dir/small", &small);
        check_after_remount(&volume, "dir/large", &expected);
    }
}
