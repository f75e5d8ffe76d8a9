//! Backup programs on a published volume whose worker is killed twenty times, while the node plugin is killed, restarted
//! and upgraded with its worker's program: they notice nothing, and every byte is there when the volume is
//! mounted elsewhere.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
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
        fs::copy(support::strongroom(), &worker).expect("copied");
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
                fs::copy(support::strongroom(), &next).expect("copied");
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

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(directory).expect("there").mode();
    fs::set_permissions(directory, fs::Permissions::from_mode(mode | 0o55)).expect("opened");
}
