//! A MinIO server on loopback, shared by the tests of one process that run at the same time.

use nix::sys::signal::Signal;
use std::net::{SocketAddr, TcpListener, TcpStream};
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

/// A running server. It ends, and its data go, when the last test lets go of it.
pub(crate) struct Minio {
    /// The server's address, with scheme.
    pub(crate) endpoint: String,
    /// The access key's name.
    pub(crate) access_key: String,
    /// The access key's secret.
    pub(crate) secret_key: String,
    data: TempDir,
    child: Mutex<Child>,
    /// Keeps the thread that started the server.
    _thread: Sender<()>,
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

    /// The same; with a directory of `public.crt` and `private.key` it speaks TLS.
    pub(crate) fn start_with(certificates: Option<&Path>) -> Self {
        let program = program();
        assert!(program.exists(), "{} is missing: run `make tools`", program.display());
        let data = tempfile::tempdir().expect("a temporary directory");
        let access_key = super::fresh_hex::<8>();
        let secret_key = super::fresh_hex::<20>();
        // Another process may take a free port between our look and the server's: try again.
        for _ in 0..5 {
            let (address, console) = (free_address(), free_address());
            let log = std::fs::File::create(data.path().join("log")).expect("a log");
            let mut command = Command::new(&program);
            command
                .args(["server", "--quiet", "--address", &address.to_string()])
                .args(["--console-address", &console.to_string()])
                .arg(data.path().join("data"))
                .env("MINIO_ROOT_USER", &access_key)
                .env("MINIO_ROOT_PASSWORD", &secret_key)
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off")
                .env("HOME", data.path())
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a second handle"))
                .stderr(log);
            if let Some(certificates) = certificates {
                command.arg("--certs-dir").arg(certificates);
            }
            let (mut child, thread) = spawn(command);
            if answers(address, &mut child) {
                let scheme = if certificates.is_some() { "https" } else { "http" };
                return Self {
                    endpoint: format!("{scheme}://{address}"),
                    access_key,
                    secret_key,
                    data,
                    child: Mutex::new(child),
                    _thread: thread,
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

    fn signal(&self, signal: Signal) {
        let child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let pid = child.id().try_into().expect("process ids fit");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is there");
    }

    /// Makes an empty bucket. On a single drive every top-level directory is one.
    pub(crate) fn new_bucket(&self) -> String {
        let name = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir_all(self.data.path().join("data").join(&name)).expect("bucket made");
        name
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

impl Drop for Minio {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
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
    let cache = std::env::var_os("STRONGROOM_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/strongroom")
    });
    cache.join("bin").join(PROGRAM)
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket")
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
