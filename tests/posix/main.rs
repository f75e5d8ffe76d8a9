//! Suites and programs that others wrote, on real mounts of an encrypted volume in MinIO. A program that
//! is missing is a failure: `make tools` installs it.

mod clients;
mod fio;
mod fsx;
mod pjdfstest;
#[path = "../support/mod.rs"]
mod support;

use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use support::minio::cache::cached;
use support::{Backend, Volume};

/// A volume whose mount points every user can reach.
fn volume() -> Volume {
    let volume = Volume::new(Backend::Minio);
    support::set_mode(volume.temporary.path(), 0o711);
    volume
}

/// A file of the project's `tests/posix`.
fn project_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/posix").join(name)
}

/// A program that `make tools` compiled from a crate.
fn crate_tool(name: &str, version: &str) -> PathBuf {
    cached(format!("{name}-{version}/bin/{name}"))
}

/// A command that timeout(1) ends, with what it started, when it takes longer than `limit`.
fn limited(program: impl AsRef<OsStr>, limit: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=10").arg(limit.as_secs().to_string()).arg(program);
    command
}

/// Runs a command to its end; returns how it ended and everything that it said.
fn finish(command: &mut Command) -> (ExitStatus, String) {
    // Not a pipe: a server that a failing script left behind would hold it open.
    let said = tempfile::NamedTempFile::new().expect("a file for what it says");
    let writer = || OpenOptions::new().append(true).open(said.path()).expect("it is there");
    command.stdin(Stdio::null()).stdout(writer()).stderr(writer());
    let started = support::ends_with_this_thread(command, Signal::SIGTERM).spawn();
    let status = started.expect("timeout starts").wait().expect("it ends");
    let text = std::fs::read(said.path()).expect("readable");
    (status, String::from_utf8_lossy(&text).into_owned())
}

/// The last lines of a text, for messages.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
