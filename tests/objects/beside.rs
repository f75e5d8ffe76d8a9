//! Two mounts of the same files, and what a mount asks of the store.

use crate::support::{random_bytes, wait_for};
use crate::{Files, Form};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Longer than attributes are taken for true.
const AFTER: Duration = Duration::from_millis(1200);

#[test]
fn what_another_mount_did_is_seen_after_a_second() {
    let files = Files::new(Form::Enciphered);
    let (one, two) = (files.mount(), files.mount());
    fs::create_dir(one.join("dir")).expect("made");
    fs::write(one.join("dir/file"), "first").expect("written");
    assert_eq!(fs::read_to_string(two.join("dir/file")).expect("read"), "first");
    fs::write(two.join("dir/file"), "second, longer").expect("written");
    fs::write(two.join("dir/new"), "new").expect("written");
    std::thread::sleep(AFTER);
    assert_eq!(fs::read_to_string(one.join("dir/file")).expect("read"), "second, longer");
    assert_eq!(fs::read_to_string(one.join("dir/new")).expect("read"), "new");
    fs::remove_file(one.join("dir/file")).expect("removed");
    fs::rename(one.join("dir"), one.join("moved")).expect("moved");
    std::thread::sleep(AFTER);
    assert!(!two.join("dir").exists() && !two.join("moved/file").exists());
    assert_eq!(fs::read_to_string(two.join("moved/new")).expect("read"), "new");
    one.unmount();
    two.unmount();
}

#[test]
fn whoever_reads_a_file_that_another_mount_replaced_is_told() {
    let files = Files::new(Form::Plain);
    let (one, two) = (files.mount(), files.mount());
    fs::write(one.join("file"), random_bytes(1, 30_000_000)).expect("written");
    let open = File::open(two.join("file")).expect("opened");
    let mut bytes = vec![0; 4096];
    open.read_exact_at(&mut bytes, 0).expect("read");
    fs::write(one.join("file"), random_bytes(2, 30_000_000)).expect("written");
    // Far from what was fetched ahead.
    let error = open.read_exact_at(&mut bytes, 25_000_000).expect_err("another file");
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    drop(open);
    assert!(fs::read(two.join("file")).expect("read") == random_bytes(2, 30_000_000));
    one.unmount();
    two.unmount();
}

/// Bytes that were fetched, by the server's own count.
fn fetched(mount: &crate::Mount<'_>) -> u64 {
    let before = mount.log().matches("requests: ").count();
    mount.signal(Signal::SIGUSR1);
    wait_for("the counts", || mount.log().matches("requests: ").count() > before);
    let log = mount.log();
    let last = log.rsplit("requests: ").next().expect("a line");
    let get = last.split("get=").nth(1).expect("counted");
    let bytes = get.split("bytes=").nth(1).expect("counted");
    bytes.split_whitespace().next().expect("a number").parse().expect("a number")
}

#[test]
fn ranges_are_fetched_and_not_files() {
    for form in [Form::Plain, Form::Enciphered] {
        let files = Files::new(form);
        let bytes = random_bytes(3, 60_000_000);
        let mount = files.mount();
        fs::write(mount.join("file"), &bytes).expect("written");
        mount.unmount();
        let mount = files.mount_with(&["--log", "info"]);
        let file = File::open(mount.join("file")).expect("opened");
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_RANDOM)
            .expect("advised");
        for offset in [50_000_001, 10_000_000, 31_234_567] {
            let mut part = vec![0; 5000];
            file.read_exact_at(&mut part, offset).expect("read");
            assert!(part == bytes[offset as usize..offset as usize + 5000]);
        }
        let fetched = fetched(&mount);
        assert!(fetched < 200_000, "{form:?}: {fetched} bytes for three reads of 5,000");
        drop(file);
        mount.unmount();
    }
}
