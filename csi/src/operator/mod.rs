//! The operator: BackupRepos and StorageProviders for clusters without KubeBlocks, by the same contract. See
//! `docs/backuprepo.md`.
//!
//! | file | what |
//! |---|---|
//! | `crd`, `names` | the kinds, labels and annotations |
//! | `parameters`, `template`, `render`, `encryption` | what a repository asks for |
//! | `observed`, `reconcile`, `wishes`, `storage`, `precheck`, `namespaces`, `deletion`, `users`, `provider`, `conditions`, `objects` | the core: pure |
//! | `cluster`, `neighbour`, `trouble`, `run` | the edge: the API server |
//! | `health` | what it tells of itself |
//! | `probe` | what the pre-check's Job runs |

pub mod cluster;
pub mod conditions;
pub mod crd;
mod deletion;
pub mod encryption;
pub mod health;
pub mod names;
mod namespaces;
mod neighbour;
pub mod objects;
pub mod observed;
pub mod parameters;
mod perform;
pub mod precheck;
pub mod probe;
pub mod provider;
pub mod reconcile;
pub mod render;
pub mod run;
mod storage;
pub mod template;
pub mod tenants;
mod trouble;
mod users;
mod wishes;

pub(crate) use trouble::causes;

use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Toleration;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use strongroom::config::parse_duration;

/// The commands of the control plane.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep BackupRepos and StorageProviders, where KubeBlocks does not
    Operator(Flags),
    /// Print the kinds' CustomResourceDefinitions
    Crds {
        /// Write a file for each into this directory instead
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// Check a store as a workload would use it (what a repository's pre-check runs)
    PreCheck(probe::PreCheck),
}

/// The operator's flags.
#[derive(Debug, Args)]
pub struct Flags {
    /// Where pre-checks run and the CSI drivers' Secrets are
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// The image of pre-checks: this program's own
    #[arg(long, env = "STRONGROOM_IMAGE")]
    image: String,
    /// When it is fetched
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: Option<String>,
    /// A Secret that the image is fetched with (may be given several times)
    #[arg(long, value_name = "NAME")]
    image_pull_secret: Vec<String>,
    /// Where pre-checks may run besides: tolerations of pods, as a list in JSON
    #[arg(long, value_name = "JSON", value_parser = tolerations)]
    tolerations: Option<Tolerations>,
    /// A ConfigMap beside pre-checks whose ca.crt has the authorities of stores' certificates, as the driver has it
    #[arg(long, value_name = "NAME")]
    store_ca_config_map: Option<String>,
    /// How often a usable repository is looked at again
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = parse_duration)]
    check_every: Duration,
    /// When a failed pre-check is tried again; the pause doubles each time
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    retry_first: Duration,
    /// The longest such pause
    #[arg(long, default_value = "15m", value_name = "DURATION", value_parser = parse_duration)]
    retry_last: Duration,
    /// Where kubelet finds /healthz and /readyz, and Prometheus /metrics: 0.0.0.0:9809 (else nowhere)
    #[arg(long, value_name = "ADDRESS:PORT")]
    observe: Option<SocketAddr>,
}

/// A list, to clap one value.
#[derive(Clone, Debug)]
struct Tolerations(Vec<Toleration>);

fn tolerations(text: &str) -> Result<Tolerations, serde_json::Error> {
    serde_json::from_str(text).map(Tolerations)
}

impl Command {
    /// Runs it in a runtime of its own.
    ///
    /// # Errors
    /// What stopped it.
    pub fn run(self) -> io::Result<ExitCode> {
        // These wait for others most of the time: more threads would only take memory.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        match self {
            Self::Operator(flags) => runtime.block_on(operate(flags)).map(|()| ExitCode::SUCCESS),
            Self::Crds { directory } => definitions(directory).map(|()| ExitCode::SUCCESS),
            Self::PreCheck(check) => Ok(runtime.block_on(check.run())),
        }
    }
}

async fn operate(flags: Flags) -> io::Result<()> {
    let ended = crate::serve::ended()?;
    let client = kube::Client::try_default().await.map_err(|error| {
        io::Error::other(format!(
            "find the API server: {error}: run it in a pod with a service account, or set KUBECONFIG"
        ))
    })?;
    let settings = observed::Settings {
        namespace: flags.namespace,
        image: flags.image,
        pull_policy: flags.image_pull_policy,
        pull_secrets: flags.image_pull_secret,
        tolerations: flags.tolerations.map(|list| list.0).unwrap_or_default(),
        authorities: flags.store_ca_config_map,
        check_every: flags.check_every,
        retry_first: flags.retry_first,
        retry_last: flags.retry_last,
    };
    let health = health::Health::default();
    let work = run::run(cluster::Cluster::new(client, settings), health.clone(), ended.clone());
    match flags.observe {
        None => work.await,
        // Whichever fails ends the other; told to end, both do.
        Some(address) => tokio::try_join!(work, health.serve(address, ended)).map(drop),
    }
}

fn definitions(directory: Option<PathBuf>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, value) in crd::definitions() {
        let text = crd::yaml(&value).map_err(io::Error::other)?;
        match &directory {
            Some(directory) => std::fs::write(directory.join(name), text)?,
            None => write!(out, "---\n{text}")?,
        }
    }
    Ok(())
}
