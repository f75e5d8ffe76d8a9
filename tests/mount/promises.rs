//! Promises of docs/semantics.md that no other test holds: space, times of access, locks.

use crate::support::{Backend, Volume};
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

#[test]
fn there_is_room_and_reading_changes_no_time() {
    let volume = Volume::new(Backend::Dir);
    let mount = volume.mount();
    let space = statvfs(&mount.path).expect("statfs");
    assert!(space.blocks_available() * space.fragment_size() >= 1 << 50);
    assert!(space.files_available() > 1 << 30 && space.name_max() == 255);
    let path = mount.join("file");
    fs::write(&path, "x").expect("written");
    let accessed = |path: &Path| {
        let metadata = fs::metadata(path).expect("there");
        (metadata.atime(), metadata.atime_nsec())
    };
    let before = accessed(&path);
    std::thread::sleep(std::time::Duration::from_millis(1_200));
    fs::read(&path).expect("read");
    assert_eq!(accessed(&path), before);
    mount.unmount();
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("opened")
}

#[test]
fn locks_hold_among_programs_of_one_node() {
    let volume = Volume::new(Backend::Dir);
    let mount = volume.mount();
    let path = mount.join("lock");
    fs::write(&path, "0123456789").expect("written");
    let other = |flags: &[&str]| {
        let done = Command::new("flock").args(flags).arg(&path).arg("true").status();
        done.expect("flock runs").success()
    };
    let held = Flock::lock(read_write(&path), FlockArg::LockExclusive).expect("locked");
    assert!(!other(&["-n"]) && !other(&["-n", "-s"]), "another program got in");
    drop(held);
    assert!(other(&["-n"]));
    let shared = Flock::lock(read_write(&path), FlockArg::LockShared).expect("locked");
    assert!(other(&["-n", "-s"]) && !other(&["-n"]));
    drop(shared);

    // Ranges, by fcntl: of one open file against another.
    let (one, two) = (read_write(&path), read_write(&path));
    let lock = |kind: i32, start, length| libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    let first = lock(libc::F_WRLCK, 0, 4);
    fcntl(&one, FcntlArg::F_OFD_SETLK(&first)).expect("locked");
    fcntl(&two, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK, 3, 1))).expect_err("held");
    fcntl(&two, FcntlArg::F_OFD_SETLK(&lock(libc::F_WRLCK, 4, 6))).expect("free");
    fcntl(&one, FcntlArg::F_OFD_SETLK(&lock(libc::F_WRLCK, 9, 1))).expect_err("held");
    fcntl(&one, FcntlArg::F_OFD_SETLK(&lock(libc::F_UNLCK, 0, 4))).expect("unlocked");
    fcntl(&two, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK, 3, 1))).expect("free now");
    // Those of processes, which end with them.
    let script = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,2,4)";
    let process = || Command::new("python3").args(["-c", script]).arg(&path).output();
    assert!(!process().expect("python3 runs").status.success(), "the range is held");
    drop(two);
    assert!(process().expect("python3 runs").status.success());
    drop(one);
    mount.unmount();
}
