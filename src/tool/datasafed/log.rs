//! The log: none unless it is asked for, on standard error or in files.

use super::flags::Parsed;
use super::go;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

/// What the files' names begin and end with.
const PREFIX: &str = "datasafed-";
const SUFFIX: &str = ".log";
/// Leads to the newest file.
const LATEST: &str = "latest.log";

/// Limits where the command line says none.
const MOST_FILES: i64 = 100;
const MOST_MEGABYTES: f64 = 1000.0;
const OLDEST: Duration = Duration::from_secs(720 * 3600);
const LONGEST: i64 = 50_000_000;

/// Starts what the flags ask for. A log that cannot be written is no reason to fail.
pub(super) fn start(parsed: &Parsed, command: &str) {
    let mut layers: Vec<Boxed> = Vec::new();
    if parsed.switch("console-log") {
        let level = filter(parsed.text("log-level").unwrap_or("info"));
        let is_coloured = parsed.switch("force-color") || io::stderr().is_terminal();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(is_coloured && !parsed.switch("disable-color"));
        let timed = parsed.text("console-timestamps").is_none_or(|_| {
            // On unless it was switched off.
            parsed.switch("console-timestamps")
        });
        layers.push(match (parsed.switch("json-log-console"), timed) {
            (true, true) => layer.json().with_filter(level).boxed(),
            (true, false) => layer.json().without_time().with_filter(level).boxed(),
            (false, true) => layer.with_timer(Time { local: true }).with_filter(level).boxed(),
            (false, false) => layer.without_time().with_filter(level).boxed(),
        });
    }
    if let Some(directory) = parsed.text("log-dir").filter(|directory| !directory.is_empty()) {
        let level = filter(parsed.text("file-log-level").unwrap_or("debug"));
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(Mutex::new(Files::new(parsed, Path::new(directory), command)))
            .with_ansi(false)
            .with_timer(Time { local: parsed.switch("file-log-local-tz") });
        layers.push(match parsed.switch("json-log-file") {
            true => layer.json().with_filter(level).boxed(),
            false => layer.with_filter(level).boxed(),
        });
    }
    if !layers.is_empty() {
        // A second one in one process (tests) is no reason to fail either.
        let _ = tracing_subscriber::registry().with(layers).try_init();
    }
}

fn filter(level: &str) -> EnvFilter {
    let level = if level == "warning" { "warn" } else { level };
    EnvFilter::new(format!("strongroom={level}"))
}

fn time(local: bool, form: &str) -> String {
    let now = jiff::Zoned::now();
    let now = if local { now } else { now.with_time_zone(jiff::tz::TimeZone::UTC) };
    now.strftime(form).to_string()
}

/// Times in front of lines.
struct Time {
    local: bool,
}

impl FormatTime for Time {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        out.write_str(&time(self.local, "%Y-%m-%dT%H:%M:%S%.6f%:z"))
    }
}

/// Files of at most some length, one after the other, made when there is something to say. Those of former runs
/// are removed when they are too many, too old, or too much.
struct Files {
    directory: PathBuf,
    /// What the files are called, up to their number; and what follows it.
    name: (String, String),
    /// Whether the name was given: then nothing leads to the newest, and others are left alone.
    is_given: bool,
    number: u32,
    longest: u64,
    current: Option<(File, u64)>,
    limits: Limits,
    has_failed: bool,
}

struct Limits {
    files: usize,
    bytes: f64,
    age: Option<Duration>,
}

impl Files {
    fn new(parsed: &Parsed, directory: &Path, command: &str) -> Self {
        let given = parsed.text("log-file").filter(|file| !file.is_empty());
        let path = match given {
            Some(file) => PathBuf::from(file),
            None => {
                let now = time(parsed.switch("file-log-local-tz"), "%Y%m%d-%H%M%S");
                let name = format!("{PREFIX}{now}-{}-{command}{SUFFIX}", std::process::id());
                directory.join("cli-logs").join(name)
            }
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = match name.rsplit_once('.') {
            Some((stem, ending)) => (stem.to_owned(), format!(".{ending}")),
            None => (name, String::new()),
        };
        let number = |flag: &str, usual: i64| match parsed.text(flag) {
            Some(_) => parsed.integer(flag),
            None => usual,
        };
        let age = match parsed.text("log-dir-max-age").map(go::duration) {
            // Below zero is no limit, as zero is.
            Some(Ok(seconds)) => Duration::try_from_secs_f64(seconds).unwrap_or_default(),
            _ => OLDEST,
        };
        let megabytes = parsed.text("log-dir-max-total-size-mb");
        let limits = Limits {
            // None is no limit.
            files: usize::try_from(number("log-dir-max-files", MOST_FILES)).unwrap_or(0),
            bytes: megabytes.and_then(|text| text.parse().ok()).unwrap_or(MOST_MEGABYTES) * 1e6,
            age: (!age.is_zero()).then_some(age),
        };
        Self {
            directory: path.parent().unwrap_or(Path::new("")).to_owned(),
            name,
            is_given: given.is_some(),
            number: 0,
            longest: u64::try_from(number("max-log-file-segment-size", LONGEST)).unwrap_or(0),
            current: None,
            limits,
            has_failed: false,
        }
    }

    fn open(&mut self) -> io::Result<File> {
        let (stem, ending) = &self.name;
        let name = format!("{stem}.{}{ending}", self.number);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let file = File::create(self.directory.join(&name))?;
        self.number += 1;
        if !self.is_given {
            let latest = self.directory.join(LATEST);
            let _ = fs::remove_file(&latest);
            let _ = symlink(&name, latest);
            self.limits.keep(&self.directory, &name);
        }
        Ok(file)
    }
}

impl Limits {
    /// Removes what is more than a directory of logs may have beside the newest, the oldest first.
    fn keep(&self, directory: &Path, newest: &str) {
        if self.files == 0 && self.age.is_none() {
            return;
        }
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with(PREFIX) && name.ends_with(SUFFIX) && name != newest
            })
            .filter_map(|entry| {
                let data = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((data.modified().ok()?, data.len(), entry.path()))
            })
            .collect();
        files.sort_by(|a, b| b.cmp(a));
        let most = if self.files == 0 { usize::MAX } else { self.files };
        let mut bytes = 0.0;
        for (index, (modified, length, path)) in files.into_iter().enumerate() {
            bytes += length as f64;
            let is_old =
                modified.elapsed().is_ok_and(|age| self.age.is_some_and(|most| age > most));
            if index + 1 >= most || bytes > self.bytes || is_old {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Write for Files {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let length = line.len() as u64;
        if self.current.as_ref().is_some_and(|(_, written)| written + length > self.longest) {
            self.current = None;
        }
        if self.current.is_none() && !self.has_failed {
            match self.open() {
                Ok(file) => self.current = Some((file, 0)),
                Err(error) => {
                    self.has_failed = true;
                    let place = self.directory.display();
                    let _ = writeln!(io::stderr(), "no log in {place}: {error}");
                }
            }
        }
        if let Some((file, written)) = &mut self.current {
            // A full disk is no reason to fail, nor to speak of it with every line.
            if file.write_all(line).is_err() {
                (self.current, self.has_failed) = (None, true);
                return Ok(line.len());
            }
            *written += length;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
