//! What people and machines see: errors, tables, JSON, progress, the log.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use super::connect::Common;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// A failure as the user reads it: one line that says what, on which object, why, and what to do.
#[derive(Debug)]
pub(super) struct Failure(String);

impl Failure {
    pub(super) fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }

    pub(super) fn print(&self) {
        // One line: causes of causes may have brought more.
        let line = self.0.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        let _ = writeln!(io::stderr(), "strongroom: {line}");
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// The log's form.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    Text,
    /// An object a line
    Json,
}

/// The log goes to standard error.
pub(super) fn start_log(common: &Common) {
    use tracing_subscriber::EnvFilter;
    // The SDK warns of every place where it finds no credentials; what that means is in our own error.
    const USUAL: &str = "warn,aws_config=error,aws_smithy_runtime=error";
    let wanted = if common.log == "warn" { USUAL } else { &common.log };
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new(USUAL));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // A second subscriber in one process (tests) is no reason to fail.
    let _ = match common.log_format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Prints a line; a reader that is gone ends the program quietly.
pub(super) fn line(text: impl fmt::Display) -> Result<(), Failure> {
    raw(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are.
pub(super) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Prints JSON.
pub(super) fn json(value: &serde_json::Value) -> Result<(), Failure> {
    line(serde_json::to_string_pretty(value)?)
}

/// A name for a terminal: bytes that could steer it are escaped.
pub(super) fn shown(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => name.escape_ascii().to_string(),
    }
}

/// Progress of a transfer: a bar on a terminal, nothing in a pipe.
pub(super) fn progress(total: Option<u64>, name: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {bytes}/{total_bytes} [{wide_bar}] {binary_bytes_per_sec} {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{msg} {bytes} {binary_bytes_per_sec} {spinner}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    // Short transfers show nothing.
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// Progress of something that is counted: a spinner on a terminal, nothing in a pipe.
pub(super) fn count(name: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{human_pos} {msg} {spinner}") {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// `strongroom version`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strongroom version --json")]
pub(super) struct Version {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Version {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        let target = include_str!(concat!(env!("OUT_DIR"), "/target.txt"));
        if self.json {
            return json(&serde_json::json!({
                "version": version,
                "target": target,
                "volume_format": crate::volume::native::descriptor::FORMAT,
            }));
        }
        line(format!("strongroom {version} ({target})"))
    }
}
