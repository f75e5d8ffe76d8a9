//! What people and machines see: errors, tables, JSON, progress, the log.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use super::attach::protocol::FailureKind;
use super::settings::Common;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// What stands before the lines of failures, where that is not the program's name.
static CALLER: OnceLock<&str> = OnceLock::new();

/// Prints failures as `caller: ...` from now on, unless another one was set before.
pub(super) fn begin_failures_with(caller: &'static str) {
    let _ = CALLER.set(caller);
}

/// A failure as the user reads it: one line that says what, on which object, why, and what to do.
#[derive(Debug)]
pub(super) struct Failure {
    text: String,
    kind: FailureKind,
}

impl Failure {
    pub(super) fn new(text: impl fmt::Display) -> Self {
        Self { text: text.to_string(), kind: FailureKind::Other }
    }

    /// Whose lines have been printed already.
    pub(super) fn told() -> Self {
        Self::new("")
    }

    /// The same, said to be of a kind.
    pub(super) fn of(self, kind: FailureKind) -> Self {
        Self { kind, ..self }
    }

    /// What a program that started this one can do about it.
    pub(super) fn kind(&self) -> FailureKind {
        self.kind
    }

    pub(super) fn print(&self) {
        if self.text.is_empty() {
            return;
        }
        // One line: causes of causes may have brought more.
        let line = self.text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        let caller = CALLER.get().copied().unwrap_or("strongroom");
        let _ = writeln!(io::stderr(), "{caller}: {line}");
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { text: error.to_string(), kind: super::attach::kinds::kind_of(&error) }
    }
}

/// What became of several things that a command was asked to do: a failure does not keep it from the
/// rest, as with rm(1).
#[derive(Debug, Default)]
pub(super) struct Tally {
    failed: bool,
}

impl Tally {
    /// Tells of a failure at once.
    pub(super) fn count(&mut self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            failure.print();
            self.failed = true;
        }
    }

    /// What the whole came to.
    pub(super) fn finish(self) -> Result<(), Failure> {
        if self.failed { Err(Failure::told()) } else { Ok(()) }
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
pub(super) fn start_log(common: &Common) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    let file = common.file()?;
    let level = common.log.as_deref().or(file.log.as_deref()).unwrap_or("warn");
    let form = match (common.log_format, file.log_format.as_deref()) {
        (Some(form), _) => form,
        (None, None) => LogFormat::Text,
        (None, Some(text)) => LogFormat::from_str(text, false).map_err(|_| {
            Failure::new(format!("configuration file: log_format {text:?}: choose text or json"))
        })?,
    };
    // The SDK warns of every place where it finds no credentials; what that means is in our own error.
    const USUAL: &str = "warn,aws_config=error,aws_smithy_runtime=error";
    let wanted = match level {
        "warn" => USUAL,
        other => other,
    };
    let filter = EnvFilter::try_new(wanted).map_err(|error| {
        Failure::new(format!("log {level:?}: {error}: choose error, warn, info or debug"))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // A second subscriber in one process (tests) is no reason to fail.
    let _ = match form {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
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

/// The same where the end of the reader is not the end of the work; whether it still reads.
pub(super) fn line_if_read(text: impl fmt::Display) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
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
