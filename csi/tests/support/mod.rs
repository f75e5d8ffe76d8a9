//! The whole driver for a test: MinIO, keeper, controller and node plugin as real processes, workers with real
//! mounts, and clients that speak CSI to them. Everything lies below one temporary directory; what a test
//! leaves, also a failing one, is unmounted, ended by its process id and removed on drop. Every output of
//! every process is searched for the secrets.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a failing test has to say")]

#[path = "../../../tests/support/authority.rs"]
pub(crate) mod authority;
pub(crate) mod calls;
#[path = "../../../tests/support/gate.rs"]
pub(crate) mod gate;
#[path = "../../../tests/support/issuer.rs"]
pub(crate) mod issuer;
#[path = "../../../tests/support/minio.rs"]
pub(crate) mod minio;
#[path = "../../../tests/support/programs.rs"]
pub(crate) mod programs;
mod system;
pub(crate) mod users;

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use system::{ends_with_this_thread, fresh_hex, mounts_below, wait_for};

use minio::Minio;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The driver under test.
pub(crate) const DRIVER: &str = env!("CARGO_BIN_EXE_strongroom-csi");
/// How long anything may take that is not a transfer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Where the driver's own tests keep their volumes in the bucket.
pub(crate) const PREFIX: &str = "volumes";

/// One of the driver's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Process {
    Keeper,
    Controller,
    Node,
}

/// A driver with its store.
pub(crate) struct Driver {
    pub(crate) temporary: TempDir,
    pub(crate) minio: Arc<Minio>,
    pub(crate) bucket: String,
    pub(crate) passphrase: String,
    /// How the store is reached; `None`: as it listens.
    pub(crate) endpoint: Option<String>,
    /// What else must never be told.
    pub(crate) more_secrets: std::sync::Mutex<Vec<String>>,
    running: HashMap<Process, Child>,
    /// More flags for controller and node.
    flags: Vec<String>,
    /// More flags for the node alone, from its next start on.
    pub(crate) node_flags: Vec<String>,
    /// What processes log, from their next start on.
    pub(crate) log_level: &'static str,
    /// The program of workers, from the node plugin's next start on.
    pub(crate) worker_binary: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Driver {
    /// All processes, on the server that this test process shares.
    pub(crate) fn start() -> Self {
        Self::start_with(Minio::shared(), &[])
    }

    /// The same on a server, with more flags for controller and node.
    pub(crate) fn start_with(minio: Arc<Minio>, flags: &[&str]) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let bucket = minio.new_bucket();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let mut driver = Self {
            temporary,
            minio,
            bucket,
            passphrase: format!("pass {}", fresh_hex::<16>()),
            endpoint: None,
            more_secrets: Default::default(),
            running: HashMap::new(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            node_flags: Vec::new(),
            log_level: "debug,h2=info,hyper=info,hyper_util=info,tower=info",
            worker_binary: strongroom(),
            runtime,
        };
        driver.write_credentials();
        for process in [Process::Keeper, Process::Controller, Process::Node] {
            driver.run(process);
        }
        driver
    }

    /// A path in the temporary directory.
    pub(crate) fn local(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// The CSI socket of a process.
    pub(crate) fn socket(&self, process: Process) -> PathBuf {
        self.local(match process {
            Process::Keeper => "keeper.sock",
            Process::Controller => "controller.sock",
            Process::Node => "csi.sock",
        })
    }

    /// What kubelet and the provisioner would take from a Secret.
    pub(crate) fn secrets(&self) -> HashMap<String, String> {
        [
            ("accessKeyID", &self.minio.access_key),
            ("secretAccessKey", &self.minio.secret_key),
            ("passphrase", &self.passphrase),
            ("endpoint", self.endpoint.as_ref().unwrap_or(&self.minio.endpoint)),
        ]
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .into()
    }

    /// The parameters of a StorageClass.
    pub(crate) fn parameters(&self) -> HashMap<String, String> {
        [("bucket", self.bucket.as_str()), ("prefix", PREFIX)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// The bucket, as its owner sees it.
    pub(crate) async fn store(&self) -> Arc<dyn strongroom::store::Store> {
        use strongroom_csi::place::{Defaults, bucket};
        use strongroom_csi::volume::{Keys, Reach, Secrets};
        let secrets = Secrets::parse(self.secrets(), Keys::Needed).expect("usable");
        let defaults = Defaults { patience: PATIENCE, ..Defaults::default() };
        bucket(&self.bucket, &Reach::default(), &secrets, &defaults).await.expect("a client")
    }

    /// Runs a future of the clients.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Starts a process and waits until it listens.
    pub(crate) fn run(&mut self, process: Process) {
        let socket = self.socket(process);
        let _ = std::fs::remove_file(&socket);
        let mut command = self.command(process);
        let child = ends_with_this_thread(&mut command, Signal::SIGKILL).spawn();
        let child = child.expect("the driver starts");
        self.running.insert(process, child);
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let child = self.running.get_mut(&process).expect("just started");
            let ended = child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "{process:?} ended: {}", self.log(process));
            assert!(
                start.elapsed() < PATIENCE,
                "{process:?} does not listen: {}",
                self.log(process)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends a process with a signal and waits for its end.
    pub(crate) fn end(&mut self, process: Process, signal: Signal) {
        let mut child = self.running.remove(&process).expect("it runs");
        kill(pid_of(&child), signal).expect("it is there");
        let start = Instant::now();
        while child.try_wait().expect("a child of ours").is_none() {
            assert!(start.elapsed() < PATIENCE, "{process:?} does not end: {}", self.log(process));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends a process as an upgrade does, and starts the next.
    pub(crate) fn restart(&mut self, process: Process) {
        self.end(process, Signal::SIGTERM);
        self.run(process);
    }

    /// A process's id.
    pub(crate) fn pid(&self, process: Process) -> Pid {
        pid_of(self.running.get(&process).expect("it runs"))
    }

    /// The workers: processes of `strongroom mount` that the node plugin has started.
    pub(crate) fn workers(&self) -> Vec<Pid> {
        let mine = format!("/{}", name_of(self.temporary.path()));
        processes()
            .into_iter()
            .filter(|(_, line, environment)| {
                line.contains("--attach") && environment.contains(&mine)
            })
            .map(|(pid, _, _)| pid)
            .collect()
    }

    /// What a process has logged.
    pub(crate) fn log(&self, process: Process) -> String {
        let bytes = std::fs::read(self.log_file(process)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The keys of all objects in the bucket: on a single drive each is a directory with its content's file.
    pub(crate) fn objects(&self) -> Vec<String> {
        let root = self.minio.data_of(&self.bucket);
        let mut keys: Vec<String> = files_below(&root)
            .into_iter()
            .filter_map(|path| {
                let path = path.strip_prefix(&root).ok()?.to_string_lossy().into_owned();
                path.strip_suffix("/xl.meta").map(str::to_owned)
            })
            .collect();
        keys.sort();
        keys
    }

    /// Everything that the processes have written, and that lies in their directory but the credentials.
    pub(crate) fn outputs(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let logs = files_below(self.temporary.path())
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| (path.clone(), std::fs::read(path).unwrap_or_default())).collect()
    }

    /// Panics if a secret is in any output, command line or environment of the driver's processes.
    pub(crate) fn assert_no_secret(&self) {
        let more = self.more_secrets.lock().expect("nobody panicked with it");
        let usual = [self.passphrase.as_str(), self.minio.secret_key.as_str()];
        let secrets: Vec<&str> = usual.into_iter().chain(more.iter().map(String::as_str)).collect();
        for (path, bytes) in self.outputs() {
            for secret in &secrets {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "a secret is in {}", path.display());
            }
        }
        let mine = format!("/{}", name_of(self.temporary.path()));
        for (pid, line, environment) in processes() {
            if !(line.contains(&mine) || environment.contains(&mine)) {
                continue;
            }
            for secret in &secrets {
                assert!(!line.contains(*secret), "a secret is in the arguments of {pid}: {line}");
                assert!(!environment.contains(*secret), "a secret is in the environment of {pid}");
            }
        }
    }

    fn write_credentials(&self) {
        let directory = self.local("credentials");
        std::fs::create_dir(&directory).expect("a directory");
        for (key, value) in self.secrets() {
            std::fs::write(directory.join(key), format!("{value}\n")).expect("written");
        }
    }

    fn log_file(&self, process: Process) -> PathBuf {
        self.local(&format!("{process:?}.log").to_lowercase())
    }

    fn command(&self, process: Process) -> Command {
        let mut command = Command::new(DRIVER);
        let file = self.log_file(process);
        let log = std::fs::OpenOptions::new().append(true).create(true).open(file).expect("a log");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().into_owned();
            if ["AWS_", "STRONGROOM_", "XDG_"].iter().any(|start| text.starts_with(start)) {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.temporary.path())
            .env("STRONGROOM_LOG", self.log_level)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let endpoint = format!("unix://{}", self.socket(process).display());
        match process {
            Process::Keeper => {
                command.arg("keeper").arg("--socket").arg(self.socket(process));
                command.arg("--below").arg(self.temporary.path()).args(["--patience", "20s"]);
            }
            Process::Controller => {
                let place = format!("s3://{}/{PREFIX}", self.bucket);
                command.args(["controller", "--endpoint", &endpoint]);
                command.args(["--list", &place, "--credentials"]).arg(self.local("credentials"));
                command.args(["--store-timeout", "5s"]).args(&self.flags);
            }
            Process::Node => {
                command.args(["node", "--endpoint", &endpoint, "--node-id", "node-1"]);
                command.arg("--keeper-socket").arg(self.socket(Process::Keeper));
                command.arg("--worker-binary").arg(&self.worker_binary);
                command.arg("--registration-dir").arg(self.local("registry"));
                command.arg("--kubelet-dir").arg(self.local("kubelet"));
                command.args(["--store-timeout", "5s"]).args(&self.flags).args(&self.node_flags);
            }
        }
        command
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let workers = self.workers();
        for process in [Process::Node, Process::Controller, Process::Keeper] {
            if let Some(mut child) = self.running.remove(&process) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        for worker in workers {
            let _ = kill(worker, Signal::SIGKILL);
        }
        for path in mounts_below(self.temporary.path()) {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
        if std::thread::panicking() {
            for process in [Process::Keeper, Process::Controller, Process::Node] {
                // The libraries' lines are for the search for secrets only.
                let log = self.log(process);
                let ours =
                    log.lines().filter(|line| !(line.contains("DEBUG") && line.contains("S3.")));
                eprintln!("log of {process:?}:\n{}", ours.collect::<Vec<_>>().join("\n"));
            }
        } else {
            self.assert_no_secret();
        }
    }
}

/// The `strongroom` program beside the driver's: `cargo build --workspace` has made both.
pub(crate) fn strongroom() -> PathBuf {
    let program = Path::new(DRIVER).with_file_name("strongroom");
    let built = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let sources = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"));
    let newest = sources.iter().filter_map(|path| built(path)).max();
    assert!(
        built(&program) >= newest,
        "{} is missing or older than its sources: `cargo build --workspace` makes it",
        program.display()
    );
    program
}

/// All files below a directory, without a look into mounts.
pub(crate) fn files_below(root: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(root).same_file_system(true);
    let entries = walk.into_iter().filter_map(Result::ok);
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect();
    files.sort();
    files
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("process ids fit"))
}

/// Every process of our programs with its command line and environment. Others are not looked at: reading the
/// command line of one that waits for a dead mount waits as well.
fn processes() -> Vec<(Pid, String, String)> {
    let text = |path: PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let entries = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let path = entry.path();
            if !text(path.join("comm")).starts_with("strongroom") {
                return None;
            }
            Some((Pid::from_raw(pid), text(path.join("cmdline")), text(path.join("environ"))))
        })
        .collect()
}
