//! `strongroom man`.

use super::output::{self, Failure};
use clap::{Args, Command};
use std::path::PathBuf;

/// Print a manual page, or write all of them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom man | man -l -
  strongroom man mount | man -l -
  strongroom man key add | man -l -
  strongroom man --directory /usr/share/man/man1")]
pub(super) struct Man {
    /// The command (else the page of the whole program)
    command: Vec<String>,
    /// Write the pages of all commands here: strongroom.1, strongroom-mount.1, ...
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    directory: Option<PathBuf>,
}

impl Man {
    /// `program` is the command line that the pages tell of.
    pub(super) fn run(&self, mut program: Command) -> Result<(), Failure> {
        // Names of pages come from names of commands, and global flags are shown in each.
        program.build();
        if let Some(directory) = &self.directory {
            let fail = |error| Failure::new(format!("{}: {error}", directory.display()));
            std::fs::create_dir_all(directory).map_err(fail)?;
            return clap_mangen::generate_to(program, directory).map_err(fail);
        }
        let mut page = &program;
        for name in &self.command {
            page = page.find_subcommand(name).ok_or_else(|| {
                Failure::new(format!("{name}: no such command: `strongroom help` lists them"))
            })?;
        }
        let mut text = Vec::new();
        clap_mangen::Man::new(page.clone()).render(&mut text)?;
        output::raw(&text)
    }
}
