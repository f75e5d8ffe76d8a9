//! The CSI driver of Strongroom: one program, a subcommand for each process.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use strongroom::config::parse_duration;
use strongroom::store::{ClientIdentity, Tls};
use strongroom_csi::api::csi::controller_server::ControllerServer;
use strongroom_csi::api::csi::identity_server::IdentityServer;
use strongroom_csi::api::csi::node_server::NodeServer;
use strongroom_csi::backuprepo;
use strongroom_csi::controller::{self, ControllerService, Listed};
use strongroom_csi::driver::DriverName;
use strongroom_csi::identity::{IdentityService, Ready};
use strongroom_csi::keeper;
use strongroom_csi::metrics;
use strongroom_csi::node::{self, NodeService};
use strongroom_csi::operator;
use strongroom_csi::place::Defaults;
use strongroom_csi::registration::{self, RegistrationService};
use strongroom_csi::serve;
use strongroom_csi::volume::{Dialect, Reach};
use tokio::sync::watch;
use tonic::transport::Server;

#[derive(Debug, Parser)]
#[command(name = "strongroom-csi", version, about, max_term_width = 100)]
struct Cli {
    /// What is logged: error, warn, info, debug, or a filter as tracing has it
    #[arg(long, global = true, env = "STRONGROOM_LOG", default_value = "info")]
    log: String,
    /// The log's form
    #[arg(long, global = true, env = "STRONGROOM_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, delete and change volumes (no privileges)
    Controller {
        #[command(flatten)]
        driver: Driver,
        /// A place whose volumes are listed, with --credentials (may be given several times)
        #[arg(long, value_name = "s3://BUCKET/PREFIX", requires = "credentials")]
        list: Vec<Listed>,
    },
    /// Stage and publish volumes on this node (no privileges)
    Node {
        #[command(flatten)]
        driver: Driver,
        #[command(flatten)]
        node: NodeFlags,
    },
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
    #[command(flatten)]
    Operator(operator::Command),
    /// Make, list, change and delete BackupRepos
    #[command(name = "backuprepo")]
    Repositories(backuprepo::Command),
}

/// What controller and node have in common.
#[derive(Debug, Args)]
struct Driver {
    /// The CSI socket: unix:///csi/csi.sock
    #[arg(long, env = "CSI_ENDPOINT", value_parser = serve::socket_path)]
    endpoint: PathBuf,
    /// The driver's name; ru.yandex.s3.csi makes it take over from csi-s3
    #[arg(long, env = "STRONGROOM_DRIVER_NAME", default_value = "csi.strongroom.io")]
    driver_name: DriverName,
    /// S3 endpoint for volumes whose parameters and secret name none
    #[arg(long, env = "STRONGROOM_ENDPOINT", value_name = "URL")]
    s3_endpoint: Option<String>,
    /// S3 region for volumes whose parameters and secret name none
    #[arg(long, env = "STRONGROOM_REGION", value_name = "REGION")]
    s3_region: Option<String>,
    /// Certificate authorities of the endpoints, PEM (else the system's)
    #[arg(long, env = "STRONGROOM_CA_BUNDLE", value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
    /// Client certificate for endpoints that ask for one, PEM
    #[arg(long, env = "STRONGROOM_CLIENT_CERT", value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// Its private key, PEM (else in the certificate's file)
    #[arg(long, env = "STRONGROOM_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// Directory with accessKeyID, secretAccessKey and passphrase, a file each, for calls without secrets
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
    /// Where Prometheus finds /metrics: 127.0.0.1:9809 (else nowhere)
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// How long a call waits for the store
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    store_timeout: Duration,
}

impl Driver {
    fn defaults(&self) -> Defaults {
        Defaults {
            reach: Reach {
                endpoint: self.s3_endpoint.clone(),
                region: self.s3_region.clone(),
                path_style: None,
            },
            tls: Tls {
                authorities: self.ca_bundle.clone(),
                more_authorities: strongroom::config::more_authorities(),
                identity: self.client_cert.clone().map(|certificate| ClientIdentity {
                    key: self.client_key.clone().unwrap_or_else(|| certificate.clone()),
                    certificate,
                }),
                unverified: false,
            },
            patience: self.store_timeout,
        }
    }
}

#[derive(Debug, Args)]
struct NodeFlags {
    /// This node's name
    #[arg(long, env = "NODE_NAME")]
    node_id: String,
    /// The keeper's socket
    #[arg(long, value_name = "SOCKET")]
    keeper_socket: PathBuf,
    /// The strongroom program
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/strongroom")]
    worker_binary: PathBuf,
    /// Where volumes with the option cache-size keep what they have read
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Where volumes of files (layout objects) keep what is changed in its middle, enciphered, until it is stored
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
    /// kubelet's plugins_registry, where this plugin registers itself (else the registrar sidecar does)
    #[arg(long, value_name = "DIR")]
    registration_dir: Option<PathBuf>,
    /// kubelet's directory on the host, for the path of the CSI socket that kubelet is told
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    kubelet_dir: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    forbid_core_dumps();
    start_log(&cli);
    let result = match cli.command {
        Command::Keeper { socket, allow_uid, below, patience } => {
            keeper::run(keeper::Settings { socket, allowed: allow_uid, below, patience })
        }
        Command::Controller { driver, list } => run(controller(driver, list)),
        Command::Node { driver, node } => run(run_node(driver, node)),
        Command::Operator(command) => return ended(command.run()),
        Command::Repositories(command) => return command.run(),
    };
    ended(result.map(|()| ExitCode::SUCCESS))
}

fn ended(result: io::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(cli: &Cli) {
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match cli.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Keys and passphrases are in this process's memory.
fn forbid_core_dumps() {
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
}

fn run(work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

async fn controller(driver: Driver, listed: Vec<Listed>) -> io::Result<()> {
    let ended = serve::ended()?;
    let ready: Ready = Arc::new(|| Box::pin(async { Ok(()) }));
    let controller = ControllerService::new(controller::Settings {
        dialect: Dialect::of_driver(driver.driver_name.as_str()),
        defaults: driver.defaults(),
        credentials: driver.credentials.clone(),
        listed,
    });
    let router = Server::builder()
        .add_service(IdentityServer::new(IdentityService::new(driver.driver_name, ready)))
        .add_service(ControllerServer::new(controller));
    let metrics: metrics::Source = Arc::new(|| Box::pin(async { Vec::new() }));
    tokio::try_join!(
        serve::serve(router, &driver.endpoint, ended.clone()),
        serve_metrics(driver.metrics, metrics, ended),
    )?;
    Ok(())
}

async fn run_node(driver: Driver, flags: NodeFlags) -> io::Result<()> {
    let ended = serve::ended()?;
    let NodeFlags { node_id, keeper_socket, worker_binary, cache_dir, scratch_dir, .. } = &flags;
    let node = NodeService::start(node::Settings {
        node_id: node_id.clone(),
        dialect: Dialect::of_driver(driver.driver_name.as_str()),
        defaults: driver.defaults(),
        credentials: driver.credentials.clone(),
        keeper: keeper_socket.clone(),
        worker: worker_binary.clone(),
        cache: cache_dir.clone(),
        scratch: scratch_dir.clone(),
    })
    .await
    .map_err(io::Error::other)?;
    let asked = node.clone();
    let metrics: metrics::Source = Arc::new(move || {
        let node = asked.clone();
        Box::pin(async move { node.volumes().await })
    });
    let asked = node.clone();
    let ready: Ready = Arc::new(move || {
        let node = asked.clone();
        Box::pin(async move { node.ready().await })
    });
    let name = driver.driver_name.clone();
    let router = Server::builder()
        .add_service(IdentityServer::new(IdentityService::new(name.clone(), ready)))
        .add_service(NodeServer::new(node));
    let serving = serve::serve(router, &driver.endpoint, ended.clone());
    let measuring = serve_metrics(driver.metrics, metrics, ended.clone());
    let Some(registry) = &flags.registration_dir else {
        return tokio::try_join!(serving, measuring).map(drop);
    };
    let file = driver.endpoint.file_name().unwrap_or_default();
    let told = flags.kubelet_dir.join("plugins").join(name.as_str()).join(file);
    let service = RegistrationService::server(name.clone(), told.to_string_lossy().into_owned());
    let router = Server::builder().add_service(service);
    let socket = registry.join(registration::socket_name(&name));
    let registering = async {
        // kubelet asks the plugin itself as soon as it is registered: that one is there first.
        tokio::task::yield_now().await;
        serve::serve_through(registration::Local::new, router, &socket, ended).await
    };
    let served = tokio::try_join!(serving, measuring, registering).map(drop);
    let _ = std::fs::remove_file(&socket);
    served
}

/// Serves metrics, if they are wanted.
async fn serve_metrics(
    address: Option<SocketAddr>,
    source: metrics::Source,
    ended: watch::Receiver<bool>,
) -> io::Result<()> {
    match address {
        Some(address) => metrics::serve(address, source, ended).await,
        None => Ok(()),
    }
}
