//! datasafed's command line (version 0.2.0): what KubeBlocks injects into images of databases, so that their
//! scripts push, pull, list and remove backups. Same commands, flags, output, messages and exit codes;
//! what differs on purpose is a table in docs/datasafed.md. Everything is printed on standard output,
//! errors as one line `Error: ...` on standard error with exit code 1.

mod commands;
mod compression;
mod flags;
mod go;
mod help;
mod list;
mod log;
mod more;
mod paths;
mod pull;
mod push;
mod storage;

use super::connect::{self, EndSignals};
use super::forbid_core_dumps;
use super::output::Failure;
use commands::Command;
use flags::{GLOBAL, Parsed};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use storage::Storage;
pub use storage::files;

/// What may be spent on giving up a transfer that a signal ended.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// Whether the program was called as datasafed, by the name of its file.
pub(super) fn is_called(program: &std::ffi::OsStr) -> bool {
    std::path::Path::new(program).file_name().is_some_and(|name| name == "datasafed")
}

/// Runs a command line without the program's name.
pub(super) fn run(arguments: &[OsString]) -> ExitCode {
    forbid_core_dumps();
    super::output::begin_failures_with("Error");
    match understand(arguments) {
        Ok(Request::Help(text)) => said(print(text.as_bytes())),
        Ok(Request::Run(command, parsed)) => {
            let (done, code) = perform(command, &parsed);
            match done {
                Ok(()) => code,
                Err(failure) => said(Err(failure)),
            }
        }
        Err(failure) => {
            // Usage errors may have a suggestion on lines of their own.
            let _ = writeln!(io::stderr(), "Error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a failure as one line.
fn said(result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    let text = failure.to_string();
    let line = text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
    let _ = writeln!(io::stderr(), "Error: {line}");
    ExitCode::FAILURE
}

/// Prints what a command has to say.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text).and_then(|()| stdout.flush());
    written.map_err(|error| {
        Failure::new(format!("write standard output: {}", storage::reason(&error)))
    })
}

enum Request {
    Help(String),
    Run(&'static Command, Parsed),
}

/// Which command with which flags; nothing is done yet.
fn understand(arguments: &[OsString]) -> Result<Request, Failure> {
    let Some(at) = flags::command_at(arguments) else {
        flags::parse(arguments, &[GLOBAL])?;
        return Ok(Request::Help(help::all(true)));
    };
    let name = arguments[at].to_string_lossy();
    let rest: Vec<OsString> = [&arguments[..at], &arguments[at + 1..]].concat();
    if name == "help" {
        return Ok(Request::Help(help::topic(&rest)));
    }
    let command = commands::named(&name).ok_or_else(|| unknown(&name))?;
    match flags::parse(&rest, &[command.flags, GLOBAL])? {
        None => Ok(Request::Help(help::of(command))),
        Some(parsed) => {
            check_count(command, &parsed)?;
            Ok(Request::Run(command, parsed))
        }
    }
}

fn check_count(command: &Command, parsed: &Parsed) -> Result<(), Failure> {
    let given = parsed.positionals.len();
    match parsed.positionals.first() {
        _ if given == command.arguments => Ok(()),
        Some(first) if command.arguments == 0 => {
            let first = first.to_string_lossy();
            Err(Failure::new(format!(
                "unknown command {} for \"datasafed {}\"",
                go::quoted(&first),
                command.name
            )))
        }
        _ => Err(Failure::new(format!("accepts {} arg(s), received {given}", command.arguments))),
    }
}

fn unknown(name: &str) -> Failure {
    let mut text = format!("unknown command {} for \"datasafed\"", go::quoted(name));
    let near: Vec<&str> = help::suggestions(name);
    if !near.is_empty() {
        text.push_str("\n\nDid you mean this?\n");
        near.iter().for_each(|name| text.push_str(&format!("\t{name}\n")));
    }
    Failure::new(text)
}

/// Does what a command says, until it is done or a signal ends it.
fn perform(command: &'static Command, parsed: &Parsed) -> (Result<(), Failure>, ExitCode) {
    log::start(parsed, command.name);
    tracing::debug!("{} begins", command.name);
    if !command.needs_storage {
        return (commands::version(parsed), ExitCode::SUCCESS);
    }
    let conf = PathBuf::from(parsed.text("conf").unwrap_or(crate::config::datasafed::FILE));
    let runtime = match connect::runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return (Err(failure), ExitCode::FAILURE),
    };
    let result = runtime.block_on(async {
        let mut signals = EndSignals::register().ok();
        let storage = match Storage::open(&conf).await {
            Ok(storage) => storage,
            Err(failure) => return (Err(failure), ExitCode::FAILURE),
        };
        let ended = async {
            match &mut signals {
                Some(signals) => signals.first().await,
                None => std::future::pending().await,
            }
        };
        let afterwards = storage.afterwards.clone();
        // Exclusive flags are looked at once the storage is known to be usable, as the original does.
        let exclusive = command.exclusive.iter().try_for_each(|group| parsed.exclusive(group));
        let work = async {
            exclusive?;
            commands::run(command, parsed, storage).await
        };
        tokio::select! {
            result = work => (result, ExitCode::SUCCESS),
            signal = ended => {
                afterwards.close();
                let _ = tokio::time::timeout(AFTERWARDS, afterwards.wait()).await;
                (Ok(()), ExitCode::from(128 + signal))
            }
        }
    });
    // A read of standard input cannot be broken off.
    runtime.shutdown_background();
    result
}
