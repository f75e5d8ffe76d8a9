//! `strongroom backuprepo`: BackupRepos from the command line, with the flags that kbcli has, through the user's
//! kubeconfig. Nothing here needs the operator's program, but its kinds have to be known to the cluster.
//!
//! | file | what |
//! |---|---|
//! | `cluster` | which cluster, and what is asked of it |
//! | `flags` | a provider's parameters as flags |
//! | `create`, `change`, `show` | the commands |

mod change;
mod cluster;
mod create;
mod flags;
mod show;

use clap::{Args, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

/// Which cluster is meant.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Place {
    /// The kubeconfig (else KUBECONFIG, else ~/.kube/config)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<std::path::PathBuf>,
    /// Its context (else the current one)
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

impl Place {
    /// The same, where arguments that were not understood yet say nothing else.
    fn or_in(self, arguments: &[OsString]) -> Self {
        Self {
            kubeconfig: flags::value_of(arguments, "--kubeconfig")
                .map(Into::into)
                .or(self.kubeconfig),
            context: flags::value_of(arguments, "--context").or(self.context),
        }
    }
}

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// The names alone
    Name,
    /// The objects, as the cluster has them
    Json,
    /// The same
    Yaml,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Action {
    /// Make a repository, with a Secret for its keys (flags depend on --provider: create --provider s3 --help)
    #[command(disable_help_flag = true)]
    Create {
        /// See create --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// List the repositories
    #[command(visible_alias = "ls")]
    List {
        /// How
        #[arg(short, long, default_value = "table")]
        output: Format,
    },
    /// Show a repository, and what is wrong with it
    Describe {
        /// Which
        name: String,
    },
    /// Change a repository's parameters or keys, or make it the default
    #[command(disable_help_flag = true)]
    Update {
        /// See update --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Delete a repository, when nothing uses it any more
    #[command(visible_alias = "rm")]
    Delete(change::Delete),
}

/// Repositories for backups in a cluster.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom backuprepo create my-repo --provider s3 --region eu-central-1 --bucket backups \\
      --access-key-id KEY --secret-access-key-file secret --access-method Tool --default --wait
  strongroom backuprepo list
  strongroom backuprepo describe my-repo
  strongroom backuprepo update my-repo --access-key-id KEY --secret-access-key-file secret
  strongroom backuprepo delete my-repo")]
pub struct Command {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    action: Action,
}

impl Command {
    /// Carries it out. What is wrong is told on standard error, with what to do; the exit code is 1 then.
    pub fn run(self) -> ExitCode {
        self.carried_out().unwrap_or_else(|error| {
            // Nobody is left to be told if that fails.
            let _ = writeln!(io::stderr(), "strongroom: {error}");
            ExitCode::FAILURE
        })
    }

    fn carried_out(self) -> io::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Self { place, action } = self;
        runtime.block_on(async {
            match action {
                Action::Create { arguments } => create::run(place, arguments).await,
                Action::List { output } => show::list(&place, output).await,
                Action::Describe { name } => show::describe(&place, &name).await,
                Action::Update { arguments } => change::update(place, arguments).await,
                Action::Delete(delete) => delete.run(&place).await,
            }
        })
    }
}
