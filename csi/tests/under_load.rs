//! Backup programs on a published volume whose worker is killed twenty times, while the node plugin is killed, restarted
//! and upgraded with its worker's program: they notice nothing, and every byte is there when the volume is
//! mounted elsewhere. Where the keeper is killed as well, they are told soon, and what was acknowledged is there.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::calls::Made;
use support::{Driver, Process, wait_for};

const KILLS: u32 = 20;
/// The longest that a program may take, in seconds.
const LIMIT: &str = "400";

/// What is done to the driver while a program runs.
struct Trouble {
    driver: Driver,
    worker: PathBuf,
    kills: u32,
    upgrades: u32,
}

impl Trouble {
    fn new() -> Self {
        let mut driver = Driver::start();
        let worker = driver.local("strongroom");
        support::programs::copy(support::strongroom(), &worker);
        driver.worker_binary.clone_from(&worker);
        driver.restart(Process::Node);
        Self { driver, worker, kills: 0, upgrades: 0 }
    }

    fn serving(&self) -> Option<Pid> {
        self.driver.workers().first().copied()
    }

    /// Kills the worker that serves now, and waits for the next one's process. Every sixth time the node plugin goes,
    /// too: killed, or ended and started again with another file as its worker's program.
    fn strike(&mut self) {
        let mut worker = None;
        wait_for("a worker", || {
            worker = self.serving();
            worker.is_some()
        });
        let worker = worker.expect("one");
        self.kills += 1;
        match self.kills % 12 {
            5 => {
                self.driver.end(Process::Node, Signal::SIGKILL);
                let _ = kill(worker, Signal::SIGKILL);
                self.driver.run(Process::Node);
            }
            11 => {
                let next = self.worker.with_extension("next");
                support::programs::copy(support::strongroom(), &next);
                fs::rename(next, &self.worker).expect("replaced");
                self.driver.restart(Process::Node);
                self.upgrades += 1;
            }
            _ => kill(worker, Signal::SIGKILL).expect("it was there"),
        }
        wait_for("the next worker", || self.serving().is_some_and(|next| next != worker));
    }

    /// Strikes again and again until a program has ended, which must be a good end.
    fn through(&mut self, what: &str, mut program: Child, said: &Path, pause: Duration) {
        loop {
            std::thread::sleep(pause);
            if let Some(status) = program.try_wait().expect("a child of ours") {
                let text = fs::read_to_string(said).expect("readable");
                let lines: Vec<&str> = text.lines().collect();
                let end = lines[lines.len().saturating_sub(30)..].join("\n");
                assert!(status.success(), "{what} after {} kills: {status}: {end}", self.kills);
                return;
            }
            self.strike();
        }
    }

    /// The volume as another mount has it, by which nothing of this node's memory can be seen.
    fn elsewhere(&self, made: &Made) {
        self.driver.detach(made);
        self.driver.attach(made);
    }
}

/// A program that is ended when it hangs; what it says goes into a file.
fn start(program: &mut Command, said: &Path) -> Child {
    let open = || File::options().append(true).create(true).open(said).expect("a file");
    program.stdin(Stdio::null()).stdout(open()).stderr(open());
    support::ends_with_this_thread(program, Signal::SIGTERM).spawn().expect("timeout starts")
}

#[test]
#[allow(clippy::print_stdout, reason = "figures for whoever runs it by hand")]
fn fio_verifies_everything_through_twenty_kills_of_the_worker_and_an_upgrade() {
    const JOBS: &[&str] = &[
        "--rw=write --bs=64k --size=48m",
        "--rw=randwrite --bs=16k --size=24m",
        "--rw=randwrite --bsrange=1k-96k --bs_unaligned=1 --size=12m",
        "--rw=randwrite --bs=16k --fdatasync=8 --size=8m",
        "--rw=write --direct=1 --bs=128k --size=48m",
        "--rw=randwrite --numjobs=4 --bs=32k --size=12m",
    ];
    let mut trouble = Trouble::new();
    let made = trouble.driver.make("fio");
    trouble.driver.attach(&made);
    let said = trouble.driver.local("fio.txt");
    let fio = |name: &str, job: &str| {
        let mut fio = Command::new("timeout");
        fio.args(["--kill-after=10", LIMIT, "fio", "--verify=crc32c", "--verify_fatal=1"]);
        fio.args(["--ioengine=psync", "--thread", "--fallocate=none", "--randseed=7"]);
        fio.args(["--rate=12m", "--end_fsync=1"]).arg(format!("--name={name}"));
        fio.arg(format!("--directory={}", made.target.display())).args(job.split(' '));
        // It leaves files of its own where it is started.
        fio.current_dir(trouble_directory(&made));
        fio
    };
    let mut round = 0;
    while trouble.kills < KILLS {
        for (number, job) in JOBS.iter().enumerate() {
            let name = format!("job-{number}-{round}");
            let program = start(&mut fio(&name, job), &said);
            trouble.through(&name, program, &said, Duration::from_millis(500));
        }
        round += 1;
    }
    println!("{} kills in {round} rounds of {} jobs", trouble.kills, JOBS.len());
    assert!(trouble.upgrades > 0);
    trouble.elsewhere(&made);
    for (number, job) in JOBS.iter().enumerate() {
        let name = format!("job-{number}-0");
        let mut program = start(fio(&name, job).arg("--verify_only=1"), &said);
        let status = program.wait().expect("it ends");
        assert!(status.success(), "{name}: {}", fs::read_to_string(&said).expect("readable"));
    }
    trouble.driver.detach(&made);
}

fn trouble_directory(made: &Made) -> &Path {
    made.staging.parent().expect("a directory")
}

#[test]
#[allow(clippy::print_stdout, reason = "figures for whoever runs it by hand")]
fn pgbackrest_notices_nothing_of_twenty_kills_of_the_worker_and_an_upgrade() {
    let mut trouble = Trouble::new();
    let made = trouble.driver.make("pgbackrest");
    trouble.driver.attach(&made);
    let said = trouble.driver.local("pgbackrest.txt");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/posix/clients/pgbackrest.sh");
    // Not below the driver's own directory, which only root may enter.
    let local = tempfile::tempdir().expect("a directory");
    open_to_all(local.path());
    open_to_all(trouble.driver.temporary.path());
    for (round, variant) in ["bundled", "linked", "bundled", "linked"].iter().enumerate() {
        if trouble.kills >= KILLS {
            break;
        }
        let repository = made.target.join(format!("repository-{round}"));
        let cluster = local.path().join(round.to_string());
        for directory in [&repository, &cluster] {
            fs::create_dir(directory).expect("made");
            open_to_all(directory);
        }
        for phase in ["backup", "restore"] {
            let mut program = Command::new("timeout");
            program.args(["--kill-after=10", LIMIT, "bash"]).arg(&script).arg(phase);
            program.arg(&repository).arg(&cluster).arg(variant);
            let program = start(&mut program, &said);
            let what = format!("pgbackrest {variant} {phase}");
            trouble.through(&what, program, &said, Duration::from_millis(700));
            trouble.elsewhere(&made);
        }
    }
    println!("{} kills, {} upgrades", trouble.kills, trouble.upgrades);
    assert!(trouble.kills >= KILLS && trouble.upgrades > 0);
    trouble.driver.detach(&made);
}

/// Writes one file after the other, every other one with fsync(2), the others with close(2) alone, until something fails;
/// how many were acknowledged.
fn write_until_it_fails(place: &Path, writer: u64, files: &AtomicU64) -> (u64, io::Error) {
    let begun = Instant::now();
    let write = |number: u64| {
        let mut file = File::create(place.join(format!("{writer}-{number}")))?;
        file.write_all(&content_of(writer, number))?;
        if number.is_multiple_of(2) {
            file.sync_all()?;
        }
        nix::unistd::close(file).map_err(io::Error::from)
    };
    for number in 0.. {
        if let Err(error) = write(number) {
            return (number, error);
        }
        files.fetch_add(1, Ordering::Relaxed);
        assert!(begun.elapsed() < 2 * support::PATIENCE, "nothing fails");
    }
    unreachable!("numbers do not end")
}

fn content_of(writer: u64, number: u64) -> Vec<u8> {
    let seed = writer << 32 | number;
    let length = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44) as usize % 300_000;
    let word = |at: u64| (seed ^ at).wrapping_mul(0xd129_42f0_c2b3_4f65).to_le_bytes();
    (0..).flat_map(|at| word(at << 40)).take(length).collect()
}

#[test]
#[allow(clippy::print_stdout, reason = "figures for whoever runs it by hand")]
fn without_the_keeper_whoever_writes_is_told_soon_and_what_was_acknowledged_is_there() {
    const SOON: Duration = Duration::from_secs(10);
    let mut driver = Driver::start();
    let made = driver.make("keeper");
    let mut acknowledged = Vec::new();
    for round in 0..3_u32 {
        driver.attach(&made);
        let place = made.target.join(format!("round-{round}"));
        fs::create_dir(&place).expect("made");
        let mut open = File::create(place.join("open")).expect("created");
        open.write_all(b"neither closed nor synced").expect("written");
        let files = AtomicU64::new(0);
        let ends: Vec<(u64, io::Error)> = std::thread::scope(|scope| {
            let write = |writer| {
                let (place, files) = (&place, &files);
                scope.spawn(move || write_until_it_fails(place, writer, files))
            };
            let writers: Vec<_> = (0..3).map(write).collect();
            let goes_on = |more: u64| {
                let before = files.load(Ordering::Relaxed);
                wait_for("more files", || files.load(Ordering::Relaxed) >= before + more);
            };
            let kill_workers = |driver: &Driver| {
                let workers = driver.workers();
                assert!(!workers.is_empty());
                for worker in workers {
                    let _ = kill(worker, Signal::SIGKILL);
                }
            };
            goes_on(30);
            driver.end(Process::Keeper, Signal::SIGKILL);
            goes_on(30);
            if round > 0 {
                // The node plugin has what the next worker needs.
                kill_workers(&driver);
                goes_on(30);
            }
            if round > 1 {
                // One that knows nothing of the volume.
                driver.run(Process::Keeper);
                goes_on(30);
                kill_workers(&driver);
                goes_on(30);
                driver.end(Process::Keeper, Signal::SIGKILL);
            }
            driver.end(Process::Node, Signal::SIGKILL);
            let killed = Instant::now();
            kill_workers(&driver);
            let ends = writers.into_iter().map(|writer| writer.join().expect("no panic")).collect();
            println!("round {round}: told after {:?}", killed.elapsed());
            assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
            ends
        });
        for (_, error) in &ends {
            let code = error.raw_os_error();
            let known = [nix::libc::EIO, nix::libc::ENOTCONN, nix::libc::ECONNABORTED];
            assert!(code.is_some_and(|code| known.contains(&code)), "{error:?}");
        }
        open.sync_all().expect_err("never silence about what is lost");
        drop(open);
        driver.run(Process::Keeper);
        driver.run(Process::Node);
        // As kubelet does for the next pod.
        driver.detach(&made);
        let numbers: Vec<u64> = ends.into_iter().map(|(number, _)| number).collect();
        println!("round {round}: {numbers:?} files were acknowledged");
        acknowledged.push(numbers);
    }
    driver.attach(&made);
    for (round, numbers) in acknowledged.iter().enumerate() {
        for (writer, number) in (0..).zip(numbers) {
            for file in 0..*number {
                let name = format!("round-{round}/{writer}-{file}");
                let read = fs::read(made.target.join(&name)).expect(&name);
                assert!(read == content_of(writer, file), "{name}: {} bytes", read.len());
            }
        }
    }
    driver.detach(&made);
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(directory).expect("there").mode();
    fs::set_permissions(directory, fs::Permissions::from_mode(mode | 0o55)).expect("opened");
}
