//! The two programs, and what a run of one gave.

use crate::support::minio::cache::cached;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// The real datasafed.
    Real,
    /// Strongroom, called by that name.
    Ours,
}

/// Both.
pub(crate) const BOTH: [Program; 2] = [Program::Real, Program::Ours];

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The line that says why it failed, and what follows it.
    pub(crate) fn error(&self) -> Option<&str> {
        let at = match self.stderr.starts_with("Error: ") {
            true => 0,
            false => self.stderr.find("\nError: ")? + 1,
        };
        Some(&self.stderr[at..])
    }

    /// Standard output of a run that went well.
    pub(crate) fn good(self) -> Vec<u8> {
        assert_eq!(self.code, Some(0), "{}{}", self.text(), self.stderr);
        self.stdout
    }

    /// That it failed with code 1 and one line that holds these parts.
    pub(crate) fn bad(&self, parts: &[&str]) {
        let Self { code, stderr, .. } = self;
        assert_eq!(*code, Some(1), "{}{stderr}", self.text());
        assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
        assert!(stderr.starts_with("Error: "), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in {stderr:?}");
        }
    }
}

/// A run to be.
pub(crate) struct Call {
    command: Command,
}

impl Program {
    /// A command line in an environment of its own: what this process has of variables that either program
    /// reads is not handed down.
    pub(crate) fn call<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(self, arguments: I) -> Call {
        let mut command = match self {
            Self::Real => Command::new(real()),
            Self::Ours => Command::new(crate::support::STRONGROOM),
        };
        command.arg0("datasafed").args(arguments);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let read = ["DATASAFED_", "RCLONE_", "AWS_", "SSL_"];
            if read.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.env("TZ", "UTC").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Call { command }
    }
}

impl Call {
    /// With these variables.
    pub(crate) fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// In this directory.
    pub(crate) fn within(mut self, directory: &std::path::Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// The command itself, for runs of other kinds.
    pub(crate) fn command(self) -> Command {
        self.command
    }

    /// Runs it without input.
    pub(crate) fn run(self) -> Outcome {
        self.run_with(None)
    }

    /// Runs it with what a pipe gives.
    pub(crate) fn run_with(mut self, input: Option<&[u8]>) -> Outcome {
        if input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self.command.spawn().expect("the program starts");
        let pipe = child.stdin.take();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if let (Some(mut pipe), Some(input)) = (pipe, input) {
                    // A program that failed before it read everything has its reason.
                    let _ = pipe.write_all(input);
                }
            });
            let output = child.wait_with_output().expect("it ends");
            Outcome {
                code: output.status.code(),
                stdout: output.stdout,
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            }
        })
    }
}

/// The program that `make tools` compiled.
fn real() -> PathBuf {
    cached("bin/datasafed-v0.2.0-go-lz4")
}

/// Arguments of a command line, as a shell would have to be given them.
pub(crate) fn shown(arguments: &[OsString]) -> String {
    arguments.iter().map(|argument| format!("{argument:?}")).collect::<Vec<_>>().join(" ")
}
