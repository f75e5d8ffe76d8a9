//! Names, links and attributes.

use crate::support::{self, Backend, Volume, on_every_backend, random_bytes};
use crate::{check_after_remount, describe, error_of, read_write};
use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

on_every_backend![
    a_rename_replaces_moves_and_keeps_open_files,
    renames_without_replacement_and_exchanges_are_atomic,
    hard_links_share_one_file,
    an_unlinked_open_file_lives_until_it_is_closed,
    directories_refuse_what_posix_refuses,
    attributes_are_kept_to_the_nanosecond,
    extended_attributes_are_kept,
    every_name_of_up_to_255_bytes_is_kept,
    a_directory_of_2000_names_changes_while_it_is_read,
    a_directory_counts_the_directories_in_it,
    special_files_are_kept,
];

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
    let before = describe(&mount.path);
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(describe(&mount.path), before);
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
    let before = describe(&mount.path);
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(describe(&mount.path), before);
    mount.unmount();
}

fn hard_links_share_one_file(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let at = |name: &str| mount.join(name);
    let changed = |meta: &fs::Metadata| (meta.ctime(), meta.ctime_nsec());
    fs::create_dir(at("dir")).expect("made");
    fs::write(at("first"), "content").expect("written");
    let unlinked = at("first").metadata().unwrap();
    fs::hard_link(at("first"), at("dir/second")).expect("linked");
    let linked = at("first").metadata().unwrap();
    assert!(changed(&linked) > changed(&unlinked), "the second name changes the file");
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
    fs::create_dir(mount.join("d")).expect("made");
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

fn a_directory_counts_the_directories_in_it(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let links = |path: &str| mount.join(path).metadata().expect("there").nlink();
    for name in ["from", "from/one", "from/two", "to", "to/three"] {
        fs::create_dir(mount.join(name)).expect("made");
    }
    fs::write(mount.join("from/file"), "not a directory").expect("written");
    assert_eq!((links("from"), links("to"), links("from/one")), (4, 3, 2));
    fs::rename(mount.join("from/one"), mount.join("to/one")).expect("moved");
    assert_eq!((links("from"), links("to")), (3, 4));
    fs::rename(mount.join("to/one"), mount.join("to/three")).expect("replaced");
    assert_eq!(links("to"), 3);
    fs::remove_dir(mount.join("to/three")).expect("removed");
    assert_eq!(links("to"), 2);
    mount.unmount();
    // After a remount a directory counts what was looked at.
    let mount = volume.mount();
    assert_eq!(fs::read_dir(mount.join("from")).expect("readable").count(), 2);
    support::wait_for("the attributes that the kernel keeps to expire", || {
        mount.join("from").metadata().expect("there").nlink() == 3
    });
    mount.unmount();
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
