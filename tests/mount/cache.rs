//! What is kept of a volume on this machine: by the kernel from one open to the next, and on a disk.

use crate::support::{Backend, Mount, Volume, files_below, random_bytes};
use crate::{error_of, run};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

const FILES: u64 = 3;
const SIZE: usize = 2 << 20;

fn read_all(mount: &Mount<'_>) {
    for file in 0..FILES {
        let bytes = fs::read(mount.join(file.to_string())).expect("read");
        assert!(bytes == random_bytes(file, SIZE), "file {file}");
    }
}

fn kept(cache: &Path) -> u64 {
    files_below(cache)
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .map(|file| file.len())
        .sum()
}

#[test]
fn what_was_read_is_kept_on_a_disk_that_is_bounded_and_may_vanish() {
    let volume = Volume::new(Backend::Dir);
    let mount = volume.mount();
    for file in 0..FILES {
        fs::write(mount.join(file.to_string()), random_bytes(file, SIZE)).expect("written");
    }
    mount.unmount();
    let cache = volume.local("cache");
    let path = cache.to_str().expect("text");
    let flags = ["--cache-dir", path];
    // A range that comes while others are being written to the disk is not kept: a later reader's is.
    for _ in 0..20 {
        let mount = volume.mount_with(&flags);
        read_all(&mount);
        mount.unmount();
        if kept(&cache) >= FILES * SIZE as u64 {
            break;
        }
    }
    assert!(kept(&cache) >= FILES * SIZE as u64, "{}", kept(&cache));
    let mount = volume.mount_with(&flags);
    // Nothing readable is kept.
    let plain = random_bytes(0, SIZE);
    for file in files_below(&cache) {
        let bytes = fs::read(file).expect("read");
        assert!(!bytes.windows(32).any(|window| window == &plain[70_000..70_032]));
    }
    let other = volume.local("other");
    fs::create_dir(&other).expect("made");
    volume
        .tool(["mount", &volume.url, other.to_str().expect("text"), "--cache-dir", path])
        .failed_saying(&[path, "another process", "another directory"]);
    mount.unmount();

    // What is kept need not be in the store any more.
    let (segments, away) = (volume.store().join("d@"), volume.local("away"));
    fs::rename(&segments, &away).expect("moved");
    let mount = volume.mount_with(&flags);
    read_all(&mount);
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(error_of(fs::read(mount.join("0"))), libc::EIO);
    mount.unmount();
    fs::rename(&away, &segments).expect("moved back");

    // A damaged cache costs requests, never bytes.
    for (index, file) in files_below(&cache).into_iter().enumerate() {
        let file = OpenOptions::new().write(true).open(file).expect("opened");
        match index % 3 {
            0 => file.write_all_at(&[0; 64], 100_000).expect("written"),
            1 => file.set_len(5_000).expect("cut"),
            _ => file.write_all_at(&[0xff; 8], 16).expect("written"),
        }
    }
    let mount = volume.mount_with(&flags);
    read_all(&mount);
    mount.unmount();
    let mount = volume.mount_with(&flags);
    fs::remove_dir_all(&cache).expect("removed");
    read_all(&mount);
    mount.unmount();

    let mount = volume.mount_with(&["--cache-dir", path, "--cache-size", "3MiB"]);
    read_all(&mount);
    assert!(kept(&cache) <= 3 << 20, "{}", kept(&cache));
    mount.unmount();
}

/// Bytes of a file that the kernel's page cache holds, by fincore(1): it opens the file itself.
fn in_page_cache(path: &Path) -> u64 {
    let shown = Command::new("fincore").args(["-b", "-n", "-o", "RES"]).arg(path).output();
    let shown = shown.expect("fincore runs").stdout;
    String::from_utf8_lossy(&shown).trim().parse().expect("a number")
}

#[test]
fn the_page_cache_is_kept_from_one_open_to_the_next_while_the_content_stays() {
    let volume = Volume::new(Backend::Dir);
    let (one, two) = (volume.mount(), volume.mount());
    let (path, elsewhere) = (one.join("file"), two.join("file"));
    fs::write(&path, random_bytes(1, SIZE)).expect("written");
    fs::read(&path).expect("read");
    assert_eq!(in_page_cache(&path), SIZE as u64, "kept over two opens");
    // Another node stores other content of the same length, with the same time of change.
    let file = OpenOptions::new().write(true).open(&elsewhere).expect("opened");
    file.write_all_at(&random_bytes(2, SIZE), 0).expect("written");
    let modified = fs::metadata(&path).expect("there").modified().expect("a time");
    file.set_modified(modified).expect("set");
    nix::unistd::close(file).expect("closed");
    assert!(fs::read(&path).expect("read") == random_bytes(2, SIZE));
    assert_eq!(in_page_cache(&path), SIZE as u64);
    // A write past the cache does not leave what was in it.
    let mut flags = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(flags.write(true), libc::O_DIRECT);
    let direct = flags.open(&path).expect("opened");
    direct.write_all_at(&vec![7; 8192], 4096).expect("written");
    direct.set_modified(UNIX_EPOCH + Duration::from_secs(1)).expect("set");
    drop(direct);
    let mut expected = random_bytes(2, SIZE);
    expected[4096..12288].fill(7);
    assert!(fs::read(&path).expect("read") == expected);
    let file = File::open(&path).expect("opened");
    run("truncate", &["-s".as_ref(), "5000".as_ref(), path.as_os_str()]);
    let mut bytes = vec![0; 8192];
    assert_eq!(file.read_at(&mut bytes, 0).expect("read"), 5000);
    assert!(bytes[..5000] == expected[..5000]);
    drop(file);
    one.unmount();
    two.unmount();
}

/// Bytes of its own that a process has in memory.
fn memory_of(mount: &Mount<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// Their data lie in their records, of which only the heads are kept.
#[test]
fn many_small_files_need_little_memory_and_can_be_changed_all_the_same() {
    const FILES: u64 = 1_500;
    let volume = Volume::new(Backend::Dir);
    let content = |file: u64| random_bytes(file, 40_000 + file as usize * 13);
    let mount = volume.mount_with(&["--memory-limit", "64MiB"]);
    let before = memory_of(&mount);
    for file in 0..FILES {
        fs::write(mount.join(file.to_string()), content(file)).expect("written");
    }
    let written = memory_of(&mount) - before;
    assert!(written < 48 << 20, "{written} bytes");
    for file in 0..FILES {
        assert!(fs::read(mount.join(file.to_string())).expect("read") == content(file), "{file}");
    }
    let read = memory_of(&mount) - before;
    assert!(read < 48 << 20, "{read} bytes");
    // Of those that were used first only the heads are there.
    let path = |file: u64| mount.join(file.to_string());
    let mut appended = OpenOptions::new().append(true).open(path(0)).expect("opened");
    appended.write_all(b"more").expect("written");
    drop(appended);
    fs::set_permissions(path(1), fs::Permissions::from_mode(0o600)).expect("changed");
    fs::rename(path(2), path(FILES + 2)).expect("renamed");
    fs::hard_link(path(3), path(FILES + 3)).expect("linked");
    let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
    let here = nix::fcntl::AT_FDCWD;
    nix::fcntl::renameat2(here, &path(6), here, &path(7), exchange).expect("exchanged");
    for file in 100..FILES {
        fs::rename(path(file), path(FILES + file)).expect("renamed");
    }
    fs::hard_link(path(3), mount.join("third")).expect("linked");
    fs::remove_file(path(FILES + 3)).expect("removed");
    assert_eq!(fs::metadata(path(3)).expect("there").nlink(), 2);
    let renamed = memory_of(&mount) - before;
    assert!(renamed < 48 << 20, "{renamed} bytes");
    OpenOptions::new().write(true).open(path(4)).expect("opened").set_len(30_000).expect("cut");
    let middle = OpenOptions::new().read(true).write(true).open(path(5)).expect("opened");
    middle.write_all_at(b"in its middle", 20_000).expect("written");
    fs::remove_file(path(5)).expect("removed while it is open");
    let mut whole = content(5);
    whole[20_000..20_013].copy_from_slice(b"in its middle");
    let mut read = vec![0; whole.len()];
    middle.read_exact_at(&mut read, 0).expect("read");
    assert!(read == whole);
    drop(middle);
    mount.unmount();
    let mount = volume.mount();
    let read = |file: u64| fs::read(mount.join(file.to_string())).expect("read");
    assert!(read(0) == [&content(0)[..], b"more"].concat());
    assert!(read(1) == content(1) && read(FILES + 2) == content(2));
    assert!(read(3) == content(3) && !mount.join((FILES + 3).to_string()).exists());
    assert!(fs::read(mount.join("third")).expect("read") == content(3));
    assert_eq!(fs::metadata(mount.join("3")).expect("there").nlink(), 2);
    assert!(read(4) == content(4)[..30_000]);
    assert!(read(6) == content(7) && read(7) == content(6));
    assert!((100..FILES).all(|file| read(FILES + file) == content(file)));
    assert!(!mount.join("2").exists() && !mount.join("5").exists());
    mount.unmount();
}
