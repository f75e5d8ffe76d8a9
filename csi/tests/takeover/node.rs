//! The node plugin's part, in a process of its own: whoever supervises workers must have no file of their
//! volumes open, or it waits for itself (a child closes what it inherited before it runs another program).
//! This is the test binary once more, with one test that does what it is told over a socket.

use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use strongroom::tool::attach::protocol::{
    FailureKind, Health, Secrets, Settings, Stats, encode, parse,
};
use strongroom::tool::attach::socket;
use strongroom_csi::keeper::{Keeper, MountOptions};
use strongroom_csi::worker::{Worker, WorkerError};

const SOCKET: &str = "STRONGROOM_TEST_NODE";
/// How long the node may take for anything.
const PATIENCE: Duration = Duration::from_secs(100);

/// What the node is told to do.
#[derive(Serialize, Deserialize)]
pub(crate) enum Order {
    /// Stage the volume and start its worker.
    Serve {
        keeper: PathBuf,
        program: PathBuf,
        staging: PathBuf,
        settings: Settings,
        secrets: Secrets,
    },
    /// The same for a volume that the keeper holds.
    TakeOver {
        keeper: PathBuf,
        program: PathBuf,
        settings: Settings,
        secrets: Secrets,
    },
    Stats,
    Health,
    Credentials {
        secrets: Secrets,
    },
    Drain,
    Stop,
    /// Run a program, which the test itself cannot while nobody serves the files that it has open.
    Run {
        program: PathBuf,
        arguments: Vec<String>,
        environment: Vec<(String, PathBuf)>,
    },
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Done,
    Stats(Stats),
    Health(Health),
    Drained { bytes_left: u64, failures: Vec<String> },
    Said(Vec<u8>),
    Failed { kind: Option<FailureKind>, message: String },
}

/// The process and the socket to it.
pub(crate) struct Node {
    child: Child,
    stream: UnixStream,
}

impl Node {
    pub(crate) fn start(folder: &Path) -> Self {
        let path = folder.join("node.sock");
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([
            "--exact",
            "node::the_node_plugin_of_another_test",
            "--ignored",
            "--nocapture",
        ]);
        command.env(SOCKET, &path).stdin(Stdio::null()).stdout(Stdio::null());
        crate::ground::ends_with_this_thread(&mut command, nix::sys::signal::Signal::SIGKILL);
        let child = command.spawn().expect("started");
        let (stream, _) = listener.accept().expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self { child, stream }
    }

    #[allow(dead_code, reason = "each test binary uses its own part")]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn ask(&self, order: &Order) -> Report {
        socket::send(&self.stream, &encode(order), &[]).expect("sent");
        let (report, _) = socket::receive(&self.stream).expect("answered").expect("it is there");
        parse(&report).expect("a report")
    }
}

/// As when its container is ended.
impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "a part of the other tests"]
fn the_node_plugin_of_another_test() {
    let path = std::env::var_os(SOCKET).expect("started by another test");
    let stream = UnixStream::connect(path).expect("connected");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut worker = None;
    while let Ok(Some((order, _))) = socket::receive(&stream) {
        let order = parse(&order).expect("an order");
        let report =
            runtime.block_on(carry_out(order, &mut worker)).unwrap_or_else(|failed| failed);
        socket::send(&stream, &encode(&report), &[]).expect("sent");
    }
}

async fn carry_out(order: Order, worker: &mut Option<Worker>) -> Result<Report, Report> {
    let failed =
        |error: WorkerError| Report::Failed { kind: Some(error.kind), message: error.message };
    let refused = |error: strongroom_csi::keeper::KeeperError| Report::Failed {
        kind: None,
        message: error.to_string(),
    };
    match order {
        Order::Serve { keeper, program, staging, settings, secrets } => {
            let keeper = Keeper::connect(&keeper).await.map_err(refused)?;
            let options = MountOptions::default();
            let id = crate::ground::ID;
            let device = keeper.stage(id, &staging, &options).await.map_err(refused)?;
            let started = Worker::start(&program, device, &settings, secrets).await;
            *worker = Some(started.map_err(failed)?);
            Ok(Report::Done)
        }
        Order::TakeOver { keeper, program, settings, secrets } => {
            let keeper = Keeper::connect(&keeper).await.map_err(refused)?;
            let device = keeper.device(crate::ground::ID).await.map_err(refused)?;
            let started = Worker::start(&program, device, &settings, secrets).await;
            *worker = Some(started.map_err(failed)?);
            Ok(Report::Done)
        }
        Order::Run { program, arguments, environment } => {
            let mut command = Command::new(program);
            command.env_clear().envs(environment).args(arguments);
            Ok(Report::Said(command.output().expect("it runs").stdout))
        }
        Order::Stop => {
            worker.take().expect("a worker").stop().await;
            Ok(Report::Done)
        }
        order => {
            let worker = worker.as_ref().expect("a worker");
            Ok(match order {
                Order::Stats => Report::Stats(worker.stats().await.map_err(failed)?),
                Order::Health => Report::Health(worker.health().await.map_err(failed)?),
                Order::Credentials { secrets } => {
                    worker.credentials(secrets).await.map_err(failed)?;
                    Report::Done
                }
                _ => {
                    let drained = worker.drain(Duration::from_secs(30)).await.map_err(failed)?;
                    let (bytes_left, failures) = (drained.bytes_left, drained.failures);
                    Report::Drained { bytes_left, failures }
                }
            })
        }
    }
}
