//! A mount over MinIO beside the raw S3 client, in one run: `cargo bench --bench mount`.
//!
//! Prints a table: seconds, the ratio to the raw client where there is one, requests to the store, and
//! the server's peak memory. Everything is encrypted and every write is ended by fsync or close.
#![allow(missing_docs, dead_code, clippy::print_stdout)]

#[path = "../tests/support/mod.rs"]
mod support;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom::store::{Key, PutWhen, S3Config, S3Store, Store};
use strongroom::units::ByteRange;
use support::{Backend, Mount, Volume};

const GIB: u64 = 1 << 30;
const PART: u64 = 8 << 20;
const ROUNDS: usize = 5;

struct Row {
    what: &'static str,
    seconds: f64,
    raw: Option<f64>,
    requests: Option<u64>,
}

fn main() {
    let minio = support::minio::Minio::shared();
    let volume = Volume::with_suite(Backend::Minio, "AES-256-CFB");
    let raw = RawClient::new(&minio);
    let mut rows = Vec::new();
    let mut peak;
    {
        let mount = volume.mount_with(&["--log", "info"]);
        let big = mount.join("big");
        rows.push(beside(
            "write 1 GiB, fsync",
            &mount,
            || raw.write(),
            || write_sequentially(&big),
        ));
        drop_caches();
        rows.push(timed("rename the 1 GiB file", None, &mount, || {
            fs::rename(&big, mount.join("renamed")).expect("renamed");
        }));
        rows.push(timed("4 KiB random writes, 16 MiB, one fsync", None, &mount, || {
            write_randomly(&mount.join("random"));
        }));
        let one_by_one = Some(raw.write_small(1000));
        rows.push(timed("create 1,000 files of 100 bytes", one_by_one, &mount, || {
            small_files(&mount.join("small"), 1000);
        }));
        rows.push(timed("create one file of 100 bytes", None, &mount, || {
            fs::write(mount.join("single"), [1; 100]).expect("written");
        }));
        small_files(&mount.join("many"), 10_000);
        peak = peak_memory(&mount);
        mount.unmount();
    }
    let mount = volume.mount_with(&["--log", "info"]);
    let read = |aligned: bool| {
        // The kernel's pages of this file alone: the store's own files stay as warm as for the raw client.
        let path = mount.join("renamed");
        let file = File::open(&path).expect("opened");
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("dropped");
        read_sequentially(&path, aligned);
    };
    rows.push(beside("read 1 GiB", &mount, || raw.read(), || read(true)));
    rows.push(beside("read 1 GiB, buffer not aligned", &mount, || raw.read(), || read(false)));
    peak = peak.max(peak_memory(&mount));
    mount.unmount();
    let mount = volume.mount_with(&["--log", "info"]);
    rows.push(timed("ls -l of 10,000 files, just mounted", None, &mount, || {
        let count = fs::read_dir(mount.join("many"))
            .expect("a directory")
            .map(|entry| entry.expect("an entry").metadata().expect("its metadata").len())
            .filter(|size| *size == 100)
            .count();
        assert_eq!(count, 10_000);
    }));
    let one_by_one = Some(raw.read_small(1000));
    rows.push(timed("cat 1,000 files of 100 bytes, cold", one_by_one, &mount, || {
        for index in 0..1000 {
            let bytes = fs::read(mount.join(format!("small/{index}"))).expect("read");
            assert_eq!(bytes.len(), 100);
        }
    }));
    rows.push(timed("rm -r of the 1,000 files", None, &mount, || {
        fs::remove_dir_all(mount.join("small")).expect("removed");
    }));
    peak = peak.max(peak_memory(&mount));
    mount.unmount();

    println!("\n{:<42} {:>9} {:>9} {:>9} {:>9}", "", "seconds", "raw", "raw/ours", "requests");
    for Row { what, seconds, raw, requests } in rows {
        let raw_text = raw.map_or(String::new(), |raw| format!("{raw:.2}"));
        let ratio = raw.map_or(String::new(), |raw| format!("{:.2}", raw / seconds));
        let requests = requests.map_or(String::new(), |count| count.to_string());
        println!("{what:<42} {seconds:>9.3} {raw_text:>9} {ratio:>9} {requests:>9}");
    }
    println!("peak memory of the server: {peak} MiB (memory limit 256 MiB)");
}

/// The medians of rounds in which the raw client and the mount take turns.
fn beside(what: &'static str, mount: &Mount<'_>, raw: impl Fn(), ours: impl Fn()) -> Row {
    let seconds = |work: &dyn Fn()| {
        nix::unistd::sync();
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    let before = requests(mount);
    let (mut theirs, mut own): (Vec<f64>, Vec<f64>) =
        (0..ROUNDS).map(|_| (seconds(&raw), seconds(&ours))).unzip();
    let requests = requests(mount).checked_sub(before).map(|count| count / ROUNDS as u64);
    theirs.sort_by(f64::total_cmp);
    own.sort_by(f64::total_cmp);
    println!("{what}: raw {theirs:.2?}, ours {own:.2?}");
    Row { what, seconds: own[ROUNDS / 2], raw: Some(theirs[ROUNDS / 2]), requests }
}

fn timed(what: &'static str, raw: Option<f64>, mount: &Mount<'_>, work: impl FnOnce()) -> Row {
    let before = requests(mount);
    let start = Instant::now();
    work();
    let seconds = start.elapsed().as_secs_f64();
    // What the server does after the last answer (session renewals) is not counted apart.
    let requests = requests(mount).checked_sub(before);
    Row { what, seconds, raw, requests }
}

/// All requests so far, as the server reports them.
fn requests(mount: &Mount<'_>) -> u64 {
    let reports = |text: &str| text.matches("requests: ").count();
    let before = reports(&mount.log());
    mount.signal(Signal::SIGUSR1);
    support::wait_for("a report of the requests", || reports(&mount.log()) > before);
    std::thread::sleep(Duration::from_millis(5));
    let log = mount.log();
    let last = log.rsplit("requests: ").next().unwrap_or_default();
    last.split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .filter(|(verb, _)| *verb != "bytes")
        .filter_map(|(_, counts)| counts.split('/').next()?.parse::<u64>().ok())
        .sum()
}

fn peak_memory(mount: &Mount<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    kib / 1024
}

/// The limit: the same store client, 8 parts of 8 MiB at a time, nothing sealed.
struct RawClient {
    runtime: tokio::runtime::Runtime,
    store: Arc<S3Store>,
    keys: Vec<Key>,
    part: Bytes,
}

impl RawClient {
    fn new(minio: &support::minio::Minio) -> Self {
        for (name, value) in minio.environment() {
            // SAFETY: there is one thread so far.
            unsafe { std::env::set_var(name, value) };
        }
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let config = S3Config {
            bucket: minio.new_bucket(),
            endpoint: Some(minio.endpoint.clone()),
            ..S3Config::default()
        };
        let store = Arc::new(runtime.block_on(S3Store::connect(config)).expect("connected"));
        let keys = (0..GIB / PART)
            .map(|index| Key::new(format!("part/{index}")).expect("a key"))
            .collect();
        let part = Bytes::from(support::random_bytes(2, PART as usize));
        Self { runtime, store, keys, part }
    }

    fn write(&self) {
        let put = |key| self.store.put(key, self.part.clone(), PutWhen::Always);
        self.runtime
            .block_on(
                futures::stream::iter(&self.keys)
                    .map(put)
                    .buffer_unordered(8)
                    .try_for_each(|_| async { Ok(()) }),
            )
            .expect("stored");
    }

    /// Objects of 100 bytes, one after the other; seconds.
    fn write_small(&self, count: usize) -> f64 {
        let start = Instant::now();
        self.runtime.block_on(async {
            for index in 0..count {
                let key = Key::new(format!("small/{index}")).expect("a key");
                let body = Bytes::from_static(&[1; 100]);
                self.store.put(&key, body, PutWhen::IfAbsent).await.expect("stored");
            }
        });
        start.elapsed().as_secs_f64()
    }

    /// What [`Self::write_small`] wrote, one after the other; seconds.
    fn read_small(&self, count: usize) -> f64 {
        let start = Instant::now();
        self.runtime.block_on(async {
            for index in 0..count {
                let key = Key::new(format!("small/{index}")).expect("a key");
                self.store.get(&key, None, None).await.expect("read");
            }
        });
        start.elapsed().as_secs_f64()
    }

    fn read(&self) {
        let get = |key| self.store.get(key, Some(ByteRange::new(0, PART)), None);
        self.runtime
            .block_on(
                futures::stream::iter(&self.keys)
                    .map(get)
                    .buffer_unordered(8)
                    .try_for_each(|_| async { Ok(()) }),
            )
            .expect("read");
    }
}

fn write_sequentially(path: &Path) {
    let buffer = support::random_bytes(1, 1 << 20);
    let mut file = File::create(path).expect("created");
    for _ in 0..GIB >> 20 {
        file.write_all(&buffer).expect("written");
    }
    file.sync_all().expect("stored");
}

/// Into a buffer at a page's start, as dd, cp and fio have it, or behind malloc's header: then the kernel
/// makes two requests of each read of 1 MiB, since it passes on 256 pages at a time.
fn read_sequentially(path: &Path, aligned: bool) {
    let mut memory = vec![0; (1 << 20) + 2 * 4096];
    let start = memory.as_ptr().align_offset(4096) + if aligned { 0 } else { 16 };
    let buffer = &mut memory[start..start + (1 << 20)];
    let mut file = File::open(path).expect("opened");
    let mut total = 0;
    loop {
        match file.read(buffer).expect("read") {
            0 => break,
            count => total += count as u64,
        }
    }
    assert_eq!(total, GIB);
}

fn write_randomly(path: &Path) {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path).expect("opened");
    file.set_len(GIB / 4).expect("sized");
    let mut state = 1_u64;
    for _ in 0..4096 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let block = (state >> 33) % (GIB / 4 / 4096);
        file.write_all_at(&[5; 4096], block * 4096).expect("written");
    }
    file.sync_all().expect("stored");
}

fn small_files(directory: &Path, count: usize) {
    fs::create_dir(directory).expect("made");
    for index in 0..count {
        fs::write(directory.join(index.to_string()), [1; 100]).expect("written");
    }
}

fn drop_caches() {
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}
