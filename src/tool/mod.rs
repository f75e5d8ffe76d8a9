//! Rank 5: the command line. One file per group of commands; they parse, call the engine and print.

pub mod attach;
mod backuprepo;
mod connect;
mod connect_files;
mod copy;
pub mod datasafed;
mod doctor;
mod gc;
mod init;
mod key;
mod list;
mod man;
mod mount;
mod mount_settings;
mod names;
mod output;
mod settings;
mod source;
mod transfer;
mod usage;
mod verify;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use output::Failure;
use std::ffi::OsString;
use std::process::ExitCode;

/// Mounts object storage as an encrypted POSIX file system, and reaches into it without a mount.
#[derive(Debug, Parser)]
#[command(name = "strongroom", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Examples:
  strongroom init s3://backups/prod --encryption AES-256-CFB --passphrase-file key
  strongroom mount s3://backups/prod /mnt/backups --background
  pg_dump mydb | strongroom push - s3://backups/prod/dumps/mydb.sql
  strongroom ls -R s3://backups/prod

Settings come from flags, then the environment (STRONGROOM_*, AWS_*), then
~/.config/strongroom/config.toml or /etc/strongroom/config.toml.")]
struct Cli {
    #[command(flatten)]
    common: settings::Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a volume of an empty bucket prefix or directory
    Init(init::Init),
    /// Mount a volume on a directory
    Mount(Box<mount::Mount>),
    /// Store a local file, or what a pipe gives
    Push(transfer::Push),
    /// Fetch a file, or write it to a pipe
    Pull(transfer::Pull),
    /// Write files to standard output
    Cat(transfer::Cat),
    /// Copy files or trees from volume to volume, or within one without moving their data
    Cp(copy::Cp),
    /// Make a directory like another one: local, or in a volume
    Sync(copy::Sync),
    /// List a directory
    Ls(list::Ls),
    /// Show what is known of a file
    Stat(list::Stat),
    /// Tell how many bytes the files below have
    Du(usage::Du),
    /// Draw a directory with all that is below
    Tree(usage::Tree),
    /// Remove files, or trees with -r
    Rm(names::Rm),
    /// Give removed names back
    Undelete(names::Undelete),
    /// Make directories
    Mkdir(names::Mkdir),
    /// Remove empty directories
    Rmdir(names::Rmdir),
    /// Rename or move
    Mv(names::Mv),
    /// Add, remove and list passphrases; change the keys under them
    Key(key::Key),
    /// Check that everything the volume names is there, whole and authentic
    Verify(verify::Verify),
    /// Delete what nothing refers to any more
    Gc(gc::Gc),
    /// Check endpoint, TLS, credentials, bucket, conditional writes, clock and passphrase
    Doctor(doctor::Doctor),
    /// Speak datasafed's command line (as when called by that name)
    #[command(
        disable_help_flag = true,
        after_help = "Examples:
  strongroom datasafed list -r /
  tar c /data | strongroom datasafed push -z zstd - base.tar.zst"
    )]
    Datasafed {
        /// Its command and arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Make, list, describe, update and delete BackupRepos in a cluster
    #[command(
        name = "backuprepo",
        disable_help_flag = true,
        after_help = "Example:\n  strongroom backuprepo list"
    )]
    Backuprepo {
        /// Its command and arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Print the version and how this program was built
    Version(output::Version),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  strongroom completions bash > /etc/bash_completion.d/strongroom"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page, or write all of them
    Man(man::Man),
}

/// Runs a command line and returns the exit code: 0 done, 1 failed, 2 not understood.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    forbid_core_dumps();
    if arguments.first().is_some_and(|program| datasafed::is_called(program)) {
        return datasafed::run(&arguments[1..]);
    }
    let command = settings::without_empty_variables(Cli::command());
    let parsed = command
        .try_get_matches_from(arguments)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are printed here too, with exit code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Command::Datasafed { arguments } = &cli.command {
        return datasafed::run(arguments);
    }
    if let Command::Backuprepo { arguments } = &cli.command {
        backuprepo::run(arguments).print();
        return ExitCode::FAILURE;
    }
    match output::start_log(&cli.common).and_then(|()| dispatch(cli)) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}

/// Keys and plaintext are in this process's memory: no core, and no debugger of another user.
fn forbid_core_dumps() {
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { common, command } = cli;
    match command {
        // It goes to the background before there are threads.
        Command::Mount(command) => return command.run(&common),
        Command::Version(command) => command.run()?,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "strongroom", &mut text);
            output::raw(&text)?;
        }
        Command::Man(command) => command.run(Cli::command())?,
        command => {
            let runtime = connect::runtime()?;
            let result = runtime.block_on(run_in_runtime(&common, command));
            // A read of standard input cannot be broken off: after a signal it is not waited for.
            runtime.shutdown_background();
            return result;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_in_runtime(common: &settings::Common, command: Command) -> Result<ExitCode, Failure> {
    let work = async {
        match command {
            Command::Init(command) => command.run(common).await,
            Command::Push(command) => command.run(common).await,
            Command::Pull(command) => command.run(common).await,
            Command::Cat(command) => command.run(common).await,
            Command::Cp(command) => command.run(common).await,
            Command::Sync(command) => command.run(common).await,
            Command::Ls(command) => command.run(common).await,
            Command::Du(command) => command.run(common).await,
            Command::Tree(command) => command.run(common).await,
            Command::Stat(command) => command.run(common).await,
            Command::Rm(command) => command.run(common).await,
            Command::Undelete(command) => command.run(common).await,
            Command::Mkdir(command) => command.run(common).await,
            Command::Rmdir(command) => command.run(common).await,
            Command::Mv(command) => command.run(common).await,
            Command::Key(command) => command.run(common).await,
            Command::Verify(command) => command.run(common).await,
            Command::Gc(command) => command.run(common).await,
            Command::Doctor(command) => command.run(common).await,
            Command::Mount(_)
            | Command::Datasafed { .. }
            | Command::Backuprepo { .. }
            | Command::Version(_)
            | Command::Completions { .. }
            | Command::Man(_) => Ok(()),
        }
    };
    tokio::select! {
        result = work => result.map(|()| ExitCode::SUCCESS),
        signal = connect::ended_by_signal() => {
            // As a shell reports it. What was not published is garbage that nothing refers to.
            Ok(ExitCode::from(128 + signal))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
