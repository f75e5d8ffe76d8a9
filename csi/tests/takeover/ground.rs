//! A keeper, a volume and its worker as real processes, and this test in the place of the node plugin.
//! What a test leaves, also a failing one, is unmounted, ended by its process id and removed on drop.

#[allow(dead_code, reason = "other suites stop and start it")]
#[path = "../../../tests/support/minio.rs"]
pub(crate) mod minio;
#[path = "../support/system.rs"]
mod system;

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use system::{ends_with_this_thread, fresh, fresh_hex, mounts_below, wait_for};

use crate::node::{Node, Order, Report};
use minio::Minio;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom::tool::attach::protocol::Stats;
use strongroom::tool::attach::protocol::{Secrets, Settings};
use strongroom_csi::keeper::Keeper;
use tempfile::TempDir;

/// The driver under test.
pub(crate) const DRIVER: &str = env!("CARGO_BIN_EXE_strongroom-csi");
/// How long anything may take that is not a transfer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long one test may take.
const LIMIT: Duration = Duration::from_secs(240);
/// The volume's id.
pub(crate) const ID: &str = "volume-1";

/// Everything for one volume.
pub(crate) struct Ground {
    pub(crate) temporary: TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) url: String,
    pub(crate) passphrase: String,
    pub(crate) minio: Option<Arc<Minio>>,
    /// How long requests wait for a worker.
    patience: &'static str,
    keeper_process: Option<Child>,
    pub(crate) node: Option<Node>,
    options: Vec<(&'static str, serde_json::Value)>,
    /// Ends the thread that ends a mount on which a test hangs.
    _watchdog: std::sync::mpsc::Sender<()>,
}

impl Ground {
    /// An encrypted volume in a directory.
    pub(crate) fn on_directory() -> Self {
        Self::new(None, "10m", &[])
    }

    /// The same on an S3 server.
    pub(crate) fn on_minio() -> Self {
        Self::new(Some(Minio::shared()), "10m", &[])
    }

    pub(crate) fn is_of_files(&self) -> bool {
        self.options.iter().any(|(name, _)| *name == "layout")
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        !self.is_of_files() || self.options.iter().any(|(name, _)| *name == "encryption")
    }

    pub(crate) fn new(
        minio: Option<Arc<Minio>>,
        patience: &'static str,
        options: &[(&'static str, serde_json::Value)],
    ) -> Self {
        // Before anything is measured: it may have to be built.
        let _built = strongroom();
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let url = match &minio {
            None => format!("file://{}/store", temporary.path().display()),
            Some(minio) => format!("s3://{}/volume", minio.new_bucket()),
        };
        let (watchdog, watched) = std::sync::mpsc::channel::<()>();
        let connections = temporary.path().join("connections");
        std::fs::create_dir(&connections).expect("made");
        let none = None::<&str>;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(none, &connections, Some("fusectl"), flags, none).expect("mounted");
        let root = temporary.path().to_owned();
        std::thread::spawn(move || {
            let timeout = std::sync::mpsc::RecvTimeoutError::Timeout;
            if watched.recv_timeout(LIMIT) == Err(timeout) {
                eprintln!("{}: the test hangs: its connection is ended", root.display());
                abort(&root);
            }
        });
        let mut ground = Self {
            _watchdog: watchdog,
            runtime: tokio::runtime::Runtime::new().expect("a runtime"),
            url,
            passphrase: fresh_hex::<32>(),
            minio,
            patience,
            keeper_process: None,
            node: None,
            options: options.to_vec(),
            temporary,
        };
        let secret = ground.local("passphrase");
        std::fs::write(&secret, &ground.passphrase).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&secret, mode).expect("mode set");
        if !ground.is_of_files() {
            ground.tool(&["init", &ground.url, "--encryption", "AES-256-GCM", "--kdf", "raw"]);
        }
        ground.start_keeper();
        ground
    }

    pub(crate) fn local(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// A path in the staged volume.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.staging().join(name)
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.local("staging")
    }

    /// Runs the tool on the volume, as on another machine.
    pub(crate) fn tool(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new(strongroom());
        command.env_clear().env("HOME", self.temporary.path());
        command.env("STRONGROOM_PASSPHRASE_FILE", self.local("passphrase"));
        if let Some(minio) = &self.minio {
            command.envs(minio.environment());
        }
        let output = command.args(arguments).output().expect("the tool runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output.stdout
    }

    /// What another machine reads.
    pub(crate) fn pulled(&self, name: &str) -> Vec<u8> {
        self.tool(&["cat", &format!("{}//{name}", self.url)])
    }

    pub(crate) fn start_keeper(&mut self) {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.local("keeper.log"))
            .expect("a log");
        let mut command = Command::new(DRIVER);
        command.args(["keeper", "--patience", self.patience, "--socket"]);
        command.arg(self.socket()).arg("--below").arg(self.temporary.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        ends_with_this_thread(&mut command, Signal::SIGKILL);
        self.keeper_process = Some(command.spawn().expect("the keeper starts"));
        let socket = self.socket();
        wait_for("the keeper", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    pub(crate) fn kill_keeper(&mut self) {
        if let Some(mut child) = self.keeper_process.take() {
            child.kill().expect("killed");
            child.wait().expect("waited for");
        }
    }

    pub(crate) fn keeper_pid(&self) -> Pid {
        let id = self.keeper_process.as_ref().expect("a keeper").id();
        Pid::from_raw(i32::try_from(id).expect("a process id"))
    }

    fn socket(&self) -> PathBuf {
        self.local("keeper.sock")
    }

    pub(crate) fn keeper(&self) -> Keeper {
        self.runtime.block_on(Keeper::connect(&self.socket())).expect("the keeper answers")
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut options: serde_json::Map<String, serde_json::Value> =
            self.options.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        if let Some(minio) = &self.minio {
            let environment: std::collections::HashMap<_, _> =
                minio.environment().into_iter().collect();
            let endpoint = environment["AWS_ENDPOINT_URL"].clone();
            options.entry("endpoint").or_insert_with(|| endpoint.into());
        }
        Settings { url: self.url.clone(), name: ID.to_owned(), options, steal: false }
    }

    pub(crate) fn secrets(&self) -> Secrets {
        let mut secrets = Secrets::default();
        if let Some(minio) = &self.minio {
            let environment: std::collections::HashMap<_, _> =
                minio.environment().into_iter().collect();
            secrets.access_key = Some(environment["AWS_ACCESS_KEY_ID"].clone());
            secrets.secret_key = Some(environment["AWS_SECRET_ACCESS_KEY"].clone());
        }
        secrets.passphrase = self.is_encrypted().then(|| self.passphrase.clone());
        secrets
    }

    /// Stages the volume and starts its worker.
    pub(crate) fn serve(&mut self) {
        let (settings, secrets) = (self.settings(), self.secrets());
        match self.try_serve(settings, secrets) {
            Report::Done => {}
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn try_serve(&mut self, settings: Settings, secrets: Secrets) -> Report {
        let node = self.node.get_or_insert_with(|| Node::start(self.temporary.path()));
        let (keeper, staging) =
            (self.temporary.path().join("keeper.sock"), self.temporary.path().join("staging"));
        node.ask(&Order::Serve { keeper, program: strongroom(), staging, settings, secrets })
    }

    /// A node plugin that does nothing yet. To be started before there is no worker: a child of this process
    /// closes the files that are open here.
    pub(crate) fn another_node(&self) -> Node {
        Node::start(self.temporary.path())
    }

    /// The new node plugin finds the volume in the keeper's hands.
    pub(crate) fn take_over(&mut self, node: Node) {
        let report = node.ask(&self.take_over_with(self.secrets()));
        assert!(matches!(report, Report::Done), "{report:?}");
        self.node = Some(node);
    }

    pub(crate) fn take_over_with(&self, secrets: Secrets) -> Order {
        let (keeper, settings) = (self.socket(), self.settings());
        Order::TakeOver { keeper, program: strongroom(), settings, secrets }
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("a node plugin was started")
    }

    pub(crate) fn stats(&self) -> Stats {
        let start = Instant::now();
        loop {
            match self.node().ask(&Order::Stats) {
                Report::Stats(stats) => return stats,
                other => {
                    if start.elapsed() > PATIENCE {
                        // What this process waits for in the volume ends with an error.
                        abort(self.temporary.path());
                        panic!("{other:?}");
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.stats().pid).expect("a process id"))
    }

    /// Kills the worker as the kernel does when memory is short, and waits until the next one serves.
    pub(crate) fn kill_worker(&self) {
        self.kill_worker_then(|| ());
    }

    /// The same with something that is done when it is dead.
    pub(crate) fn kill_worker_then(&self, then: impl FnOnce()) {
        let before = self.stats();
        let pid = Pid::from_raw(i32::try_from(before.pid).expect("a process id"));
        self.stats_of_next(before.takeovers, || {
            kill_and_wait(pid);
            then();
        });
    }

    /// What the worker says that serves after so many takeovers, once something is done.
    pub(crate) fn stats_of_next(&self, takeovers: u64, then: impl FnOnce()) -> Stats {
        then();
        let start = Instant::now();
        loop {
            let stats = self.stats();
            if stats.takeovers > takeovers {
                return stats;
            }
            assert!(start.elapsed() < PATIENCE, "no next worker");
        }
    }

    /// The node plugin's workers, also one that does not serve yet.
    #[allow(dead_code, reason = "each test binary uses its own part")]
    pub(crate) fn workers(&self) -> Vec<Pid> {
        let parent = self.node().pid();
        let numbers = std::fs::read_dir("/proc").expect("the processes").filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse::<i32>().ok()
        });
        let is_worker = |number: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            // After its name: its state, and its parent.
            let rest = stat.rsplit(')').next().unwrap_or_default();
            let mut fields = rest.split_whitespace();
            fields.next().is_some_and(|state| state != "Z")
                && fields.next() == Some(&parent.to_string())
        };
        numbers.filter(is_worker).map(Pid::from_raw).collect()
    }

    /// Takes the volume away in the order of the node plugin; everything is stored then.
    pub(crate) fn unstage(&mut self) {
        let report = self.node().ask(&Order::Drain);
        let Report::Drained { bytes_left, failures } = report else { panic!("{report:?}") };
        assert_eq!((bytes_left, failures), (0, Vec::new()));
        let keeper = self.keeper();
        let start = Instant::now();
        // The test's own closing of files is answered before; another process may be at it still.
        while let Err(error) = self.runtime.block_on(keeper.unstage(ID)) {
            assert!(start.elapsed() < PATIENCE, "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.node().ask(&Order::Stop);
        self.node = None;
    }
}

/// Kills a process and waits until it does nothing any more.
pub(crate) fn kill_and_wait(pid: Pid) {
    kill(pid, Signal::SIGKILL).expect("it is there");
    wait_for("the end of a process", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
    });
}

/// Ends the connection of the volume that is staged below a directory: this process has a copy of its
/// descriptor and could wait for itself.
fn abort(root: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let staging = root.join("staging");
    for line in table.lines() {
        let mut fields = line.split(' ').skip(2);
        let (device, path) = (fields.next().unwrap_or_default(), fields.nth(1));
        if path.map(Path::new) == Some(&staging)
            && let Some((_, minor)) = device.split_once(':')
        {
            let _ = std::fs::write(root.join("connections").join(minor).join("abort"), "1");
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            abort(self.temporary.path());
        }
        let worker = self.node.as_ref().and_then(|node| match node.ask(&Order::Stats) {
            Report::Stats(stats) => i32::try_from(stats.pid).ok(),
            _ => None,
        });
        self.node = None;
        if let Some(pid) = worker {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for path in mounts_below(self.temporary.path()) {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
        self.kill_keeper();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.local("keeper.log")).unwrap_or_default();
            eprintln!("log of the keeper:\n{log}");
        }
    }
}

/// The `strongroom` program beside the driver's, built now if it is missing or older than its sources.
pub(crate) fn strongroom() -> PathBuf {
    static PROGRAM: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || {
        let program = Path::new(DRIVER).with_file_name("strongroom");
        let changed = |path: &Path| std::fs::metadata(path).and_then(|known| known.modified()).ok();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let sources = walkdir::WalkDir::new(root.join("src")).into_iter();
        let newest = sources.filter_map(|entry| changed(entry.ok()?.path())).max();
        if changed(&program) < newest {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.args(["build", "--locked", "--workspace", "--bins"]).current_dir(root);
            if DRIVER.contains("/release/") {
                command.arg("--release");
            }
            assert!(command.status().expect("cargo runs").success(), "the programs are built");
        }
        assert!(changed(&program) >= newest, "{} is older than its sources", program.display());
        program
    };
    PROGRAM.get_or_init(build).clone()
}

/// Bytes that a seed decides: xorshift, for content that no compression makes smaller.
pub(crate) fn bytes_of(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A command that is killed when it takes too long: a mount that hangs must not hang the suite.
pub(crate) fn limited(program: &str, seconds: u32) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &seconds.to_string(), program]);
    command
}
