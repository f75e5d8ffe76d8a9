//! What the driver adds to the engine: a published volume beside a mount by `strongroom mount` alone, in one run over
//! one MinIO, each time in turns; then how long a volume takes to be ready, and a killed worker to answer again:
//! `cargo bench -p strongroom-csi --bench volume`.
#![allow(missing_docs, dead_code, clippy::print_stdout)]

#[path = "../tests/support/mod.rs"]
mod support;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::calls::Made;
use support::{Driver, Process, mounts_below, strongroom, wait_for};

const GIB: u64 = 1 << 30;
const PIECE: usize = 1 << 20;
const FILES: usize = 300;
const ROUNDS: usize = 5;
/// Rounds of what is short.
const MANY: usize = 20;

fn main() {
    let mut driver = Driver::start();
    // As it is installed: what is logged of each request is no part of this.
    driver.log_level = "info";
    driver.restart(Process::Node);
    let published = driver.make("published");
    let plain = Plain::mount(&driver, &driver.make("plain"));
    driver.attach(&published);
    println!("medians of {ROUNDS} rounds in turns, seconds:");
    println!("{:<40} {:>14} {:>10} {:>7}", "", "strongroom mount", "published", "ratio");
    let places = [plain.directory.as_path(), published.target.as_path()];
    let prepared = |_: &Path| ();
    beside("write 1 GiB, fsync", places, prepared, |root| write(&root.join("big")));
    beside(
        "read 1 GiB",
        places,
        |root| drop_pages(&root.join("big")),
        |root| read(&root.join("big")),
    );
    beside(
        "create 300 files of 100 bytes",
        places,
        |root| {
            let _ = fs::remove_dir_all(root.join("small"));
        },
        |root| create(&root.join("small")),
    );
    beside("stat of 300 names that are not there", places, prepared, |root| {
        for number in 0..FILES {
            assert!(fs::metadata(root.join(format!("no-{number}"))).is_err());
        }
    });
    plain.unmount();

    let answers = (0..MANY).map(|round| {
        let before = driver.workers();
        let [worker] = before[..] else { panic!("one volume, one worker: {before:?}") };
        kill(worker, Signal::SIGKILL).expect("it runs");
        let seconds = seconds(|| {
            fs::write(published.target.join(format!("round-{round}")), "x").expect("written");
        });
        wait_for("another worker", || driver.workers() != before);
        seconds
    });
    told("a write when the worker was just killed", answers.collect());
    driver.detach(&published);
    let ready = (0..MANY).map(|_| {
        let seconds = seconds(|| driver.attach(&published));
        driver.detach(&published);
        seconds
    });
    told("NodeStage and NodePublish", ready.collect());
    let plugin = [Process::Node, Process::Keeper].map(|process| own_memory(driver.pid(process)));
    println!("own memory of the idle node plugin and keeper: {} KiB", plugin.iter().sum::<u64>());
    assert!(mounts_below(driver.temporary.path()).is_empty());
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn beside(what: &str, places: [&Path; 2], before: impl Fn(&Path), work: impl Fn(&Path)) {
    let mut taken = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (place, taken) in places.into_iter().zip(&mut taken) {
            before(place);
            nix::unistd::sync();
            taken.push(seconds(|| work(place)));
        }
    }
    let [plain, published] = taken.map(median);
    println!("{what:<40} {plain:>14.3} {published:>10.3} {:>7.2}", published / plain);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn told(what: &str, values: Vec<f64>) {
    let most = values.iter().copied().fold(0.0, f64::max);
    println!(
        "{what}: median {:.3} s, at most {most:.3} s of {}",
        median(values.clone()),
        values.len()
    );
}

fn write(path: &Path) {
    let mut file = File::create(path).expect("made");
    let piece: Vec<u8> = (0..PIECE).map(|at| (at * 31 % 251) as u8).collect();
    for _ in 0..GIB / PIECE as u64 {
        file.write_all(&piece).expect("written");
    }
    file.sync_all().expect("stored");
}

fn drop_pages(path: &Path) {
    let file = File::open(path).expect("opened");
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("dropped");
}

fn read(path: &Path) {
    let (mut file, mut piece, mut length) =
        (File::open(path).expect("opened"), vec![0; PIECE], 0_u64);
    loop {
        match file.read(&mut piece).expect("read") {
            0 => break,
            count => length += count as u64,
        }
    }
    assert_eq!(length, GIB);
}

fn create(directory: &Path) {
    fs::create_dir(directory).expect("made");
    for number in 0..FILES {
        fs::write(directory.join(number.to_string()), [7; 100]).expect("written");
    }
}

/// Memory of a process that is its own, in KiB.
fn own_memory(pid: Pid) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("ours");
    let own = rollup.lines().filter(|line| line.starts_with("Private_"));
    own.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// A volume of the driver's, mounted without it.
struct Plain {
    directory: PathBuf,
    server: Child,
}

impl Plain {
    fn mount(driver: &Driver, made: &Made) -> Self {
        let directory = driver.local("plain");
        fs::create_dir(&directory).expect("made");
        let server = Command::new(strongroom())
            .args(["mount", "--exclusive"])
            .arg(format!("s3://{}//", made.id))
            .arg(&directory)
            .envs(driver.minio.environment())
            .env("STRONGROOM_PASSPHRASE", &driver.passphrase)
            .env("STRONGROOM_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        wait_for("the mount", || mounts_below(&directory).contains(&directory));
        Self { directory, server }
    }

    fn unmount(mut self) {
        nix::mount::umount2(&self.directory, nix::mount::MntFlags::empty()).expect("unmounted");
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.server.try_wait().expect("ours").is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
