//! A MinIO server on loopback, shared by the tests of one process that run at the same time.

#[allow(dead_code, reason = "each test binary uses its own part")]
#[path = "cache.rs"]
pub(crate) mod cache;

use cache::cached;
use nix::sys::signal::Signal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program that `make tools` compiles; STRONGROOM_MINIO names another one.
const PROGRAM: &str = "minio-v0.0.0-20260212201848-7aac2a2c5b7c";
const START: Duration = Duration::from_secs(60);
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A running server. It ends, and its data go, when the last test lets go of it.
pub(crate) struct Minio {
    /// The server's address, with scheme.
    pub(crate) endpoint: String,
    /// The access key's name.
    pub(crate) access_key: String,
    /// The access key's secret.
    pub(crate) secret_key: String,
    address: SocketAddr,
    certificates: Option<PathBuf>,
    data: TempDir,
    /// The server, and what keeps the thread that started it.
    running: Mutex<(Child, Sender<()>)>,
    buckets: AtomicU32,
}

impl Minio {
    /// The server of this process; the first caller starts it.
    pub(crate) fn shared() -> Arc<Self> {
        // Weak, because a static is never dropped: the process would leave the server behind.
        static SERVER: Mutex<Weak<Minio>> = Mutex::new(Weak::new());
        let mut server = SERVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        server.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *server = Arc::downgrade(&started);
            started
        })
    }

    /// Starts a server of one's own, for tests that stop it.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// The same at another address of this machine.
    pub(crate) fn start_at(address: IpAddr) -> Self {
        Self::launch(address, 0, None, &[])
    }

    /// The same; with a directory of `public.crt` and `private.key` it speaks TLS.
    pub(crate) fn start_with(certificates: Option<&Path>) -> Self {
        Self::launch(LOOPBACK, 0, certificates, &[])
    }

    /// The same at some address, with variables in its environment.
    pub(crate) fn start_told(address: IpAddr, variables: &[(&str, &str)]) -> Self {
        Self::launch(address, 0, None, variables)
    }

    /// The same with TLS at a port of its own, for names that nobody writes a port behind.
    pub(crate) fn start_named(
        address: SocketAddr,
        certificates: &Path,
        variables: &[(&str, &str)],
    ) -> Self {
        Self::launch(address.ip(), address.port(), Some(certificates), variables)
    }

    fn launch(
        listen: IpAddr,
        port: u16,
        certificates: Option<&Path>,
        variables: &[(&str, &str)],
    ) -> Self {
        let program = program();
        assert!(program.exists(), "{} is missing: run `make tools`", program.display());
        let data = tempfile::tempdir().expect("a temporary directory");
        let access_key = super::fresh_hex::<8>();
        let secret_key = super::fresh_hex::<20>();
        // Another process may take a free port between our look and the server's: try again.
        for _ in 0..5 {
            let address = match port {
                0 => free_address_on(listen),
                port => SocketAddr::new(listen, port),
            };
            let certificates = certificates.map(Path::to_owned);
            let secrets = (access_key.clone(), secret_key.clone());
            let mut server =
                command(&program, data.path(), address, certificates.as_deref(), &secrets);
            server.envs(variables.iter().copied());
            let (mut child, thread) = spawn(server);
            if answers(address, &mut child) {
                let scheme = if certificates.is_some() { "https" } else { "http" };
                return Self {
                    endpoint: format!("{scheme}://{address}"),
                    access_key,
                    secret_key,
                    address,
                    certificates,
                    data,
                    running: Mutex::new((child, thread)),
                    buckets: AtomicU32::new(0),
                };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = std::fs::read_to_string(data.path().join("log")).unwrap_or_default();
        panic!("MinIO does not answer: {log}");
    }

    /// The server answers nothing from now on, as if the network were gone.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// It answers again, after [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// The server is killed: whoever asks finds nobody at its address.
    pub(crate) fn kill(&self) {
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        running.0.kill().expect("it was there");
        running.0.wait().expect("it is gone");
    }

    /// A process that becomes the server, at the same address with the same data, when it is told to by
    /// [`Self::start_again`]. To be made before files are opened on a mount of this server: a new
    /// process closes the files that it inherited, and such a close waits for the server.
    pub(crate) fn understudy(&self) -> Understudy {
        let secrets = (self.access_key.clone(), self.secret_key.clone());
        let certificates = self.certificates.as_deref();
        let server = command(&program(), self.data.path(), self.address, certificates, &secrets);
        let mut waiting = Command::new("sh");
        waiting.args(["-c", "read -r told && exec \"$0\" \"$@\" </dev/null"]);
        waiting.arg(server.get_program()).args(server.get_args());
        waiting.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        waiting.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let (child, thread) = spawn(waiting);
        Understudy { child, thread }
    }

    /// Starts it again after [`Self::kill`].
    pub(crate) fn start_again(&self, understudy: Understudy) {
        use std::io::Write;
        let Understudy { mut child, thread } = understudy;
        let mut told = child.stdin.take().expect("its input is a pipe");
        told.write_all(b"go\n").expect("it waits");
        assert!(answers(self.address, &mut child), "MinIO does not answer at its old address");
        *self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (child, thread);
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let pid = running.0.id().try_into().expect("process ids fit");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is there");
    }

    /// Makes an empty bucket. On a single drive every top-level directory is one.
    pub(crate) fn new_bucket(&self) -> String {
        let name = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir_all(self.data.path().join("data").join(&name)).expect("bucket made");
        name
    }

    /// Where a bucket's objects lie: each is a directory with the file `xl.meta` in it.
    pub(crate) fn data_of(&self, bucket: &str) -> PathBuf {
        self.data.path().join("data").join(bucket)
    }

    /// What a client needs in its environment.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }
}

/// A server to be.
pub(crate) struct Understudy {
    child: Child,
    thread: Sender<()>,
}

impl Drop for Minio {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let child = &mut running.0;
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The server's command line and environment; its log is appended to.
fn command(
    program: &Path,
    data: &Path,
    address: SocketAddr,
    certificates: Option<&Path>,
    (access_key, secret_key): &(String, String),
) -> Command {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(data.join("log"));
    let log = log.expect("a log");
    let mut command = Command::new(program);
    command
        .args(["server", "--quiet", "--address", &address.to_string()])
        .args(["--console-address", &free_address_on(LOOPBACK).to_string()])
        .arg(data.join("data"))
        .env("MINIO_ROOT_USER", access_key)
        .env("MINIO_ROOT_PASSWORD", secret_key)
        .env("MINIO_BROWSER", "off")
        .env("MINIO_UPDATE", "off")
        .env("HOME", data)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log);
    if let Some(certificates) = certificates {
        command.arg("--certs-dir").arg(certificates);
    }
    command
}

/// Starts the server from a thread that lasts as long as the sender: the kernel kills the server when
/// that thread is gone, also when the whole process is killed. A test's own thread ends too early.
fn spawn(mut command: Command) -> (Child, Sender<()>) {
    let (lasts, lasted) = channel::<()>();
    let (started, child) = channel();
    std::thread::spawn(move || {
        super::ends_with_this_thread(&mut command, Signal::SIGKILL);
        let _ = started.send(command.spawn());
        // An error: the sender was dropped.
        let _ = lasted.recv();
    });
    (child.recv().expect("the thread answers").expect("MinIO starts"), lasts)
}

fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("STRONGROOM_MINIO") {
        return path.into();
    }
    cached(Path::new("bin").join(PROGRAM))
}

/// An address that nobody listened at a moment ago, on loopback, and that this process was not given before.
pub(crate) fn free_address() -> SocketAddr {
    free_address_on(Ipv4Addr::LOCALHOST.into())
}

/// Below the range that the kernel takes ports for connections from: one of those may go to the client of another
/// test before the server that it is meant for listens.
fn free_address_on(listen: IpAddr) -> SocketAddr {
    const PORTS: std::ops::Range<u32> = 10_240..32_768;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = PORTS.end - PORTS.start;
    // Each process of tests begins somewhere else.
    let first = std::process::id().wrapping_mul(2_654_435_761);
    for _ in PORTS {
        let next = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % range;
        let port = u16::try_from(PORTS.start + next).expect("below 32,768");
        if TcpListener::bind((listen, port)).is_ok() {
            return (listen, port).into();
        }
    }
    panic!("no port is free at {listen}");
}

/// Waits until the server says that it is ready for requests.
fn answers(address: SocketAddr, child: &mut Child) -> bool {
    let start = Instant::now();
    while start.elapsed() < START {
        if child.try_wait().expect("a child of ours").is_some() {
            return false;
        }
        if is_ready(address).unwrap_or(false) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    use std::io::{Read, Write};
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    connection.read_exact(&mut answer)?;
    // Without a signature it refuses, but only when its store is up: its own health check says yes
    // before that.
    // Nor does one that speaks TLS answer otherwise: it says so by 400.
    Ok(matches!(&answer, b"HTTP/1.1 403" | b"HTTP/1.0 400"))
}
