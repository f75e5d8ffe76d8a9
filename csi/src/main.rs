//! The CSI driver of Strongroom: one program, a subcommand for each process.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use strongroom::config::parse_duration;
use strongroom_csi::keeper;

#[derive(Debug, Parser)]
#[command(name = "strongroom-csi", version, about)]
struct Cli {
    /// What is logged: error, warn, info, debug, or a filter as tracing has it
    #[arg(long, global = true, env = "STRONGROOM_LOG", default_value = "info")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount volumes and hold their connections to the kernel (privileged)
    Keeper {
        /// Where to listen
        #[arg(long)]
        socket: PathBuf,
        /// A user that may ask, besides root and this process's own
        #[arg(long, value_name = "NUMBER")]
        allow_uid: Vec<u32>,
        /// Mount only below this directory (may be given several times)
        #[arg(long, value_name = "DIR")]
        below: Vec<PathBuf>,
        /// How long requests wait for a worker before they are answered with EIO
        #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = parse_duration)]
        patience: Duration,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match cli.command {
        Command::Keeper { socket, allow_uid, below, patience } => {
            keeper::run(keeper::Settings { socket, allowed: allow_uid, below, patience })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
