//! Files without names, names that others take away, many files at once: nothing is lost without an error.

use crate::support::{random_bytes, wait_for};
use crate::{Files, Form, run};
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};
use nix::sys::signal::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use strongroom::store::{FileStore, Headers, Key, Store};

/// Longer than attributes are taken for true.
const AFTER: Duration = Duration::from_millis(1200);

fn both(path: std::path::PathBuf) -> File {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).open(path).expect("opened")
}

/// What the kernel has of a file is not asked of the server.
fn forget_pages(file: &File) {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("advised");
}

#[test]
fn a_file_without_a_name_can_be_of_any_length() {
    let files = Files::new(Form::Enciphered);
    let mount = files.mount();
    let bytes = random_bytes(1, 20_000_001);
    let mut file = both(mount.join("nameless"));
    fs::remove_file(mount.join("nameless")).expect("removed");
    file.write_all(&bytes).expect("written");
    forget_pages(&file);
    let mut read = vec![0; bytes.len()];
    file.read_exact_at(&mut read, 0).expect("read");
    assert!(read == bytes);
    drop(file);
    // What had left before the name went is nowhere: that is an error and no end of the file.
    let mut file = both(mount.join("leaving"));
    file.write_all(&bytes).expect("written");
    fs::remove_file(mount.join("leaving")).expect("removed");
    forget_pages(&file);
    let error = file.read_exact_at(&mut read, 0).expect_err("its beginning is nowhere");
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    drop(file);
    // A length that no memory has.
    fs::write(mount.join("short"), "short").expect("written");
    let file = both(mount.join("short"));
    file.set_len(1 << 40).expect("set");
    fs::remove_file(mount.join("short")).expect("removed");
    let mut head = [0; 6];
    file.read_exact_at(&mut head, 0).expect("read");
    assert_eq!(&head, b"short\0");
    drop(file);
    mount.unmount();
    assert_eq!(files.keys().iter().filter(|key| !key.is_empty()).count(), 0);
}

#[test]
fn who_writes_a_file_that_another_one_removed_is_told() {
    let files = Files::new(Form::Plain);
    let (one, two) = (files.mount(), files.mount());
    let mut file = both(one.join("log"));
    file.write_all(b"first").expect("written");
    file.sync_all().expect("stored");
    fs::remove_file(two.join("log")).expect("removed");
    std::thread::sleep(AFTER);
    assert!(!one.join("log").exists());
    let told = file.write_all(b"second").and_then(|()| file.sync_all());
    let error = told.expect_err("it is stored nowhere");
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    drop(file);
    one.unmount();
    two.unmount();
}

#[test]
fn a_listing_goes_on_where_many_names_are_gone() {
    let files = Files::new(Form::Plain);
    let key = |index: usize| Key::new(format!("files/dir/{index:04}")).expect("a key");
    files.with_store(|store| async move {
        let keys: Vec<Key> = (0..700).map(key).collect();
        let (body, headers) = (bytes::Bytes::from_static(b"x"), Headers::default());
        let puts = keys.iter().map(|key| store.put_file(key, body.clone(), &headers));
        for put in futures::future::join_all(puts).await {
            put.expect("stored");
        }
    });
    let mount = files.mount();
    let mut listing = fs::read_dir(mount.join("dir")).expect("opened");
    // Small pieces, so that the kernel asks again and again: it does, at least once more.
    let first = listing.next().expect("a name").expect("read").file_name();
    files.with_store(|store| async move {
        let keys: Vec<Key> = (130..690).map(key).collect();
        assert!(store.delete_many(&keys).await.expect("asked").is_empty());
    });
    let rest: Vec<_> = listing.map(|entry| entry.expect("read").file_name()).collect();
    for index in (0..130).chain(690..700) {
        let name = format!("{index:04}");
        assert!(first == *name || rest.iter().any(|listed| *listed == *name), "{name}");
    }
    mount.unmount();
}

/// Says that it is over when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn attributes_that_are_set_stay_while_others_look() {
    let files = Files::new(Form::Plain);
    let mount = files.mount_with(&["--attribute-ttl", "0s"]);
    fs::write(mount.join("file"), "content").expect("written");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                run("ls", ["-l".as_ref(), mount.path.as_os_str()]);
                let _ = fs::metadata(mount.join("file"));
            }
        });
        // Also when a comparison fails: else the other thread would go on for ever.
        let _done = Done(&is_done);
        for round in 0..40_u32 {
            let (mode, seconds) = (0o600 + round % 64, 1_000_000 + u64::from(round));
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            fs::set_permissions(mount.join("file"), PermissionsExt::from_mode(mode)).expect("set");
            let file = File::open(mount.join("file")).expect("opened");
            file.set_modified(time).expect("set");
            let data = fs::metadata(mount.join("file")).expect("there");
            assert_eq!(data.permissions().mode() & 0o7777, mode, "round {round}");
            assert_eq!(data.modified().expect("told"), time, "round {round}");
        }
    });
    mount.unmount();
    let headers = files.headers("file");
    assert_eq!((&*headers["mode"], &*headers["mtime"]), (&*(0o100_647).to_string(), "1000039"));
}

#[test]
fn half_a_file_takes_no_whole_ones_place() {
    let files = Files::new(Form::Plain);
    let mut mount = files.mount();
    let (old, new) = (random_bytes(1, 1_000_000), random_bytes(2, 20_000_000));
    fs::write(mount.join("file"), &old).expect("written");
    // By a process of its own: what this one starts for other tests would close the file on its way.
    let mut writer = Command::new("cp")
        .args(["/dev/stdin".as_ref(), mount.join("file").as_os_str()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("cp starts");
    let mut pipe = writer.stdin.take().expect("a pipe");
    pipe.write_all(&new).expect("taken");
    wait_for("all of it", || {
        fs::metadata(mount.join("file")).is_ok_and(|file| file.len() == new.len() as u64)
    });
    // Who only opens and closes it does not end it.
    run("sh", ["-c", &format!(": < {}", mount.join("file").display())]);
    run("sync", ["-d".as_ref(), mount.path.as_os_str()]);
    assert!(files.bytes("file") == old, "the former one stands");
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.ended(), Some(1), "{}", mount.log());
    drop(pipe);
    assert!(!writer.wait().expect("ended").success(), "it is told");
    assert!(mount.log().contains("file: not stored"), "{}", mount.log());
    assert!(files.bytes("file") == old, "the former one stands, whole");
}

#[test]
fn many_files_at_once_need_no_more_memory_than_there_is() {
    let files = Files::new(Form::Enciphered);
    let mount = files.mount_with(&["--memory-limit", "64MiB"]);
    let started = Instant::now();
    let contents: Vec<Vec<u8>> = (0..12).map(|seed| random_bytes(seed, 11_000_000)).collect();
    let mut open: Vec<File> = (0..12)
        .map(|index| File::create(mount.join(index.to_string())).expect("created"))
        .collect();
    for at in (0..11_000_000).step_by(1_000_000) {
        for (file, content) in open.iter_mut().zip(&contents) {
            file.write_all(&content[at..at + 1_000_000]).expect("written");
        }
    }
    while let Some(file) = open.pop() {
        drop(file);
    }
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
    for (index, content) in contents.iter().enumerate() {
        assert!(fs::read(mount.join(index.to_string())).expect("read") == *content, "{index}");
    }
    mount.unmount();
}

#[test]
fn a_mapped_file_that_is_opened_to_append_is_changed_where_it_was() {
    let files = Files::new(Form::Plain);
    let mount = files.mount();
    fs::write(mount.join("file"), vec![7; 10_000]).expect("written");
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).open(mount.join("file")).expect("opened");
    let length = NonZeroUsize::new(10_000).expect("not zero");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the file is as long as the mapping, which is used here alone and taken away below.
    unsafe {
        let mapped =
            mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0).expect("mapped");
        mapped.cast::<u8>().write(9);
        msync(mapped, 10_000, MsFlags::MS_SYNC).expect("written back");
        munmap(mapped, 10_000).expect("taken away");
    }
    file.write_all(b"appended").expect("written");
    drop(file);
    mount.unmount();
    let mut expected = vec![7; 10_000];
    expected[0] = 9;
    expected.extend_from_slice(b"appended");
    assert_eq!(files.bytes("file"), expected);
}
