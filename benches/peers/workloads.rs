//! The rows of the table: what programs do.

use super::support::random_bytes;
use super::systems::{Ground, Kind};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const GIB: u64 = 1 << 30;

/// A row of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Ground, &Material) -> Took,
}

/// How long until the program was answered, and how long from then until all was stored.
#[derive(Clone, Copy, Default)]
pub(crate) struct Took {
    answered: Duration,
    stored: Duration,
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{:.2}", self.answered.as_secs_f64());
        if self.stored > Duration::from_millis(50) {
            text += &format!(" + {:.1}", self.stored.as_secs_f64());
        }
        f.pad(&text)
    }
}

/// The rows in their order; later ones use what earlier ones left.
pub(crate) fn rows(latency: bool) -> Vec<Row> {
    let row = |name, run: fn(&mut Ground, &Material) -> Took| Row { name, run };
    if latency {
        return vec![
            row("cp -r of 300 files", |ground, material| copy(ground, material, 300)),
            row("ls -lR of them, cold", |ground, _| list(ground, 300)),
            row("cat of them, cold", |ground, _| cat(ground, 300)),
            row("rm -rf of them", |ground, _| remove(ground)),
            row("write 1 GiB, fsync", write),
            row("read 1 GiB, cold", |ground, _| read(ground)),
            row("1,000 reads of 4 KiB, depth 16, cold", |ground, _| random_reads(ground)),
        ];
    }
    vec![
        row("tar -x of 5,000 small files", extract),
        row("cp -r of 1,000 files", |ground, material| copy(ground, material, 1000)),
        row("cat of them, cold", |ground, _| cat(ground, 1000)),
        row("rm -rf of them", |ground, _| remove(ground)),
        row("find over 20,000 entries, cold", find),
        row("restic backup of 500 MB", restic),
        row("write 1 GiB, fsync", write),
        row("read 1 GiB, cold", |ground, _| read(ground)),
        row("1,000 reads of 4 KiB, depth 16, cold", |ground, _| random_reads(ground)),
    ]
}

/// What the programs work on, made once.
pub(crate) struct Material {
    directory: TempDir,
    megabyte: Vec<u8>,
}

impl Material {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let noise = random_bytes(7, 1 << 20);
        let tree = directory.path().join("tree");
        for index in 0..5000_usize {
            let folder = tree.join(format!("d{}", index / 100));
            fs::create_dir_all(&folder).expect("made");
            let from = index * 97 % (noise.len() - 8192);
            fs::write(folder.join(format!("f{index}")), &noise[from..from + 512 + index % 7000])
                .expect("written");
        }
        run(Command::new("tar")
            .arg("-cf")
            .arg(directory.path().join("tree.tar"))
            .arg("-C")
            .arg(&tree)
            .arg("."));
        for count in [300, 1000] {
            let small = directory.path().join(format!("small{count}"));
            fs::create_dir(&small).expect("made");
            for index in 0..count {
                fs::write(small.join(format!("f{index}")), &noise[index..index + 1000])
                    .expect("written");
            }
        }
        // Half of it compresses, as a database's files do.
        let database = directory.path().join("database");
        fs::create_dir(&database).expect("made");
        for index in 0..5_u64 {
            let mut bytes = random_bytes(100 + index, 50_000_000);
            bytes.resize(100_000_000, 0x20);
            fs::write(database.join(format!("relation{index}")), bytes).expect("written");
        }
        Self { directory, megabyte: noise }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn extract(ground: &mut Ground, material: &Material) -> Took {
    let target = ground.join("extracted");
    fs::create_dir(&target).expect("made");
    let before = ground.stored();
    let answered = timed(|| {
        run(Command::new("tar").arg("-xf").arg(material.path("tree.tar")).arg("-C").arg(&target))
    });
    Took { answered, stored: ground.settle(before + 5000) }
}

fn copy(ground: &mut Ground, material: &Material, count: usize) -> Took {
    let before = ground.stored();
    let from = material.path(&format!("small{count}"));
    let to = ground.join("copied");
    let answered = timed(|| run(Command::new("cp").arg("-r").arg(from).arg(to)));
    Took { answered, stored: ground.settle(before + count) }
}

fn list(ground: &mut Ground, count: usize) -> Took {
    ground.make_cold();
    let mut lines = 0;
    let answered = timed(|| {
        let output =
            Command::new("ls").arg("-lR").arg(ground.join("copied")).output().expect("ls runs");
        lines = output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| line.starts_with(b"-"))
            .count();
    });
    assert_eq!(lines, count);
    Took { answered, ..Took::default() }
}

fn cat(ground: &mut Ground, count: usize) -> Took {
    ground.make_cold();
    let mut bytes = 0;
    let answered = timed(|| {
        let script = "cat \"$1\"/*";
        let output =
            Command::new("sh").args(["-c", script, "sh"]).arg(ground.join("copied")).output();
        bytes = output.expect("cat runs").stdout.len();
    });
    assert_eq!(bytes, count * 1000);
    Took { answered, ..Took::default() }
}

fn remove(ground: &mut Ground) -> Took {
    let copied = fs::read_dir(ground.join("copied")).expect("listed").count();
    let before = ground.stored();
    let answered = timed(|| run(Command::new("rm").arg("-rf").arg(ground.join("copied"))));
    // In fsync mode the removals may still be under way: the unmount waits for them.
    let stored = match ground.kind {
        Kind::Fsync => ground.settle(0),
        // It removes afterwards too.
        Kind::Geesefs => timed(|| {
            let deadline = Instant::now() + Duration::from_secs(300);
            while ground.stored() + copied > before {
                assert!(Instant::now() < deadline, "geesefs did not remove what it said it had");
                std::thread::sleep(Duration::from_millis(100));
            }
        }),
        _ => Duration::ZERO,
    };
    Took { answered, stored }
}

fn find(ground: &mut Ground, _: &Material) -> Took {
    ground.populate(20, 1000);
    // Once before, so that the index of directories that ours keeps is there, as after a day of use.
    let _ = Command::new("find").arg(ground.join("entries")).output().expect("find runs");
    ground.make_cold();
    let mut lines = 0;
    let answered = timed(|| {
        let output = Command::new("find")
            .arg(ground.join("entries"))
            .arg("-ls")
            .output()
            .expect("find runs");
        lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    });
    assert_eq!(lines, 20_021, "the directory, 20 in it and 20,000 files");
    Took { answered, ..Took::default() }
}

fn restic(ground: &mut Ground, material: &Material) -> Took {
    let repository = ground.join("restic");
    let command = |action: &[&str]| {
        let mut command = Command::new("restic");
        command.args(["--no-cache", "--quiet", "-r"]).arg(&repository).args(action);
        command.env("RESTIC_PASSWORD", "benchmark");
        command
    };
    run(&mut command(&["init"]));
    let answered = timed(|| run(command(&["backup"]).arg(material.path("database"))));
    let stored = if matches!(ground.kind, Kind::Rclone | Kind::Geesefs) {
        let files = walkdir::WalkDir::new(&repository)
            .into_iter()
            .flatten()
            .filter(|entry| entry.file_type().is_file());
        let count = files.count();
        ground.settle(count)
    } else {
        ground.settle(0)
    };
    Took { answered, stored }
}

fn write(ground: &mut Ground, material: &Material) -> Took {
    let before = ground.stored();
    let path = ground.join("big");
    let answered = timed(|| {
        let mut file = File::create(path).expect("created");
        (0..GIB >> 20).for_each(|_| file.write_all(&material.megabyte).expect("written"));
        file.sync_all().expect("stored");
    });
    Took { answered, stored: ground.settle(before + 1) }
}

fn read(ground: &mut Ground) -> Took {
    ground.make_cold();
    let path = ground.join("big");
    // What a peer had not stored before it was unmounted, it stores now.
    super::support::wait_for("the file", || path.exists());
    let answered = timed(|| {
        let mut memory = vec![0; (1 << 20) + 4096];
        let start = memory.as_ptr().align_offset(4096);
        let mut file = File::open(&path).expect("opened");
        let mut total = 0;
        loop {
            match file.read(&mut memory[start..start + (1 << 20)]).expect("read") {
                0 => break,
                count => total += count as u64,
            }
        }
        assert_eq!(total, GIB);
    });
    Took { answered, ..Took::default() }
}

fn random_reads(ground: &mut Ground) -> Took {
    ground.make_cold();
    let file = File::open(ground.join("big")).expect("opened");
    let answered = timed(|| {
        std::thread::scope(|scope| {
            for thread in 0..16_u64 {
                let file = &file;
                scope.spawn(move || {
                    let mut state = thread;
                    for _ in 0..1000_usize.div_ceil(16) {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let block = (state >> 33) % (GIB / 4096);
                        file.read_exact_at(&mut [0; 4096], block * 4096).expect("read");
                    }
                });
            }
        });
    });
    Took { answered, ..Took::default() }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn run(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
