//! The log: none unless it is asked for, on standard error or in a file.

use super::flags::Parsed;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts what the flags ask for. A log that cannot be written is no reason to fail.
pub(super) fn start(parsed: &Parsed, command: &str) {
    let mut layers: Vec<Boxed> = Vec::new();
    if parsed.switch("console-log") {
        let level = filter(parsed.text("log-level").unwrap_or("info"));
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(parsed.switch("force-color"));
        let timed = parsed.text("console-timestamps").is_none_or(|_| {
            // On unless it was switched off.
            parsed.switch("console-timestamps")
        });
        layers.push(match (parsed.switch("json-log-console"), timed) {
            (true, _) => layer.json().with_filter(level).boxed(),
            (false, true) => layer.with_filter(level).boxed(),
            (false, false) => layer.without_time().with_filter(level).boxed(),
        });
    }
    if let Some(directory) = parsed.text("log-dir").filter(|directory| !directory.is_empty()) {
        match open(Path::new(directory), parsed.text("log-file"), command) {
            Ok(file) => {
                let level = filter(parsed.text("file-log-level").unwrap_or("debug"));
                let layer =
                    tracing_subscriber::fmt::layer().with_writer(Mutex::new(file)).with_ansi(false);
                layers.push(match parsed.switch("json-log-file") {
                    true => layer.json().with_filter(level).boxed(),
                    false => layer.with_filter(level).boxed(),
                });
            }
            Err(error) => {
                use io::Write;
                let _ = writeln!(io::stderr(), "no log in {directory}: {error}");
            }
        }
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

/// The file: as it is named, else one for each run in `cli-logs`.
fn open(directory: &Path, file: Option<&str>, command: &str) -> io::Result<File> {
    let path = match file.filter(|file| !file.is_empty()) {
        Some(file) => file.into(),
        None => {
            let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
            let name = format!("datasafed-{now}-{}-{command}.0.log", std::process::id());
            directory.join("cli-logs").join(name)
        }
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path)
}
