//! The keeper's socket: who may ask, one request for each connection, and the thread that watches.

use super::protocol::{Answer, FailureKind, Message, VERSION};
use super::volumes::{Done, Refusal, Volumes};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use strongroom::tool::attach::protocol::{encode, parse};
use strongroom::tool::attach::socket;

/// Requests at a time; more are refused. One of them may wait for the kernel.
const CONNECTIONS: usize = 64;
/// How long a caller may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often volumes without a worker are looked for.
const WATCH: Duration = Duration::from_millis(500);

/// A request that waits for the store, and then for another worker, is answered within so many seconds with the usual
/// settings.
const LONG_ENOUGH: u64 = 600;

/// How the keeper runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens. The directory is made; only the keeper's user can enter it then, unless others may ask.
    pub socket: PathBuf,
    /// Users that may ask, besides root and the keeper's own.
    pub allowed: Vec<u32>,
    /// Paths must be below one of these; anywhere if there are none.
    pub below: Vec<PathBuf>,
    /// For how long requests wait for a worker before they are answered with EIO.
    pub patience: Duration,
}

/// The kernel's limits for the time of a request that are shorter than what a request may have to wait, in seconds.
fn request_limits() -> Vec<(&'static str, u64)> {
    let limits =
        ["/proc/sys/fs/fuse/max_request_timeout", "/proc/sys/fs/fuse/default_request_timeout"];
    // Kernels before 6.14 have none.
    let set = limits.map(|place| Some((place, limit(&std::fs::read_to_string(place).ok()?)?)));
    set.into_iter().flatten().collect()
}

/// A limit, unless it is none or long enough.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|seconds| (1..LONG_ENOUGH).contains(seconds))
}

/// Runs the keeper until it is killed: nothing else ends it, since all mounts end with it.
///
/// # Errors
/// If the socket cannot be made.
pub fn run(settings: Settings) -> io::Result<()> {
    protect();
    let Settings { socket, allowed, below, patience } = settings;
    let listener = listen(&socket, &allowed)?;
    let volumes = Arc::new(Volumes::new(below, patience));
    for (setting, seconds) in request_limits() {
        tracing::warn!(
            "{setting} is {seconds}: the kernel ends a mount for good when a request takes longer, be it that a worker is \
             started anew or that the store is away: set it to 0"
        );
    }
    {
        let volumes = volumes.clone();
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(WATCH);
                volumes.watch();
            }
        })?;
    }
    tracing::info!("keeper listens at {}", socket.display());
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("{}: {error}", socket.display());
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(seat) = Seat::take(&open) else { continue };
        let (volumes, allowed) = (volumes.clone(), allowed.clone());
        let serve = move || {
            let _seat = seat;
            if let Err(error) = serve(&stream, &volumes, &allowed) {
                tracing::warn!("a request was not understood or not answered: {error}");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("request".to_owned()).spawn(serve) {
            tracing::warn!("a request was not taken: {error}");
        }
    }
    Ok(())
}

/// One of so many requests at a time, given back however it ends: also by a panic.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let seat = Self(open.clone());
        (open.fetch_add(1, Ordering::Relaxed) < CONNECTIONS).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// No core dump with other people's secrets, the last process to be killed when memory is short, and deaf to
/// the signal that workers send each other. Before there are threads, which inherit that.
fn protect() {
    let mut deaf = SigSet::empty();
    deaf.add(Signal::SIGUSR2);
    if let Err(error) = deaf.thread_block() {
        tracing::warn!("SIGUSR2 not blocked: {error}");
    }
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-999") {
        tracing::warn!(
            "oom_score_adj not set, the keeper may be killed when memory is short: {error}"
        );
    }
}

fn listen(path: &Path, allowed: &[u32]) -> io::Result<UnixListener> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if let Some(parent) = path.parent() {
        // Where others may ask they have to get here, too.
        let mode = if allowed.is_empty() { 0o700 } else { 0o755 };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(mode).create(parent).map_err(named)?;
    }
    // One that a former keeper left.
    if std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(named(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another keeper listens here",
            )));
        }
        std::fs::remove_file(path).map_err(named)?;
    }
    let listener = UnixListener::bind(path).map_err(named)?;
    // Who may ask is decided by who it is; others need not even connect.
    let mode = if allowed.is_empty() { 0o600 } else { 0o666 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(named)?;
    Ok(listener)
}

fn serve(stream: &UnixStream, volumes: &Volumes, allowed: &[u32]) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (answer, descriptors) = match handle(stream, volumes, allowed)? {
        None => return Ok(()),
        Some(Ok(done)) => done,
        Some(Err(Refusal(kind, message))) => {
            tracing::info!("refused: {message}");
            (Answer::Failed { kind, message }, Vec::new())
        }
    };
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    socket::send(stream, &encode(&answer), &descriptors)
}

type Handled = Result<Done, Refusal>;

fn handle(stream: &UnixStream, volumes: &Volumes, allowed: &[u32]) -> io::Result<Option<Handled>> {
    let caller = getsockopt(&stream.as_fd(), PeerCredentials)?.uid();
    let own = nix::unistd::geteuid().as_raw();
    if caller != 0 && caller != own && !allowed.contains(&caller) {
        let text = format!("user {caller} may not ask the keeper: --allow-uid {caller} lets it");
        return Ok(Some(Err(Refusal(FailureKind::Denied, text))));
    }
    let Some((message, descriptors)) = socket::receive(stream)? else { return Ok(None) };
    drop(descriptors);
    let message = zeroize::Zeroizing::new(message);
    let asked = match parse::<Message>(&message) {
        Ok(Message { version: VERSION, request }) => volumes.carry_out(request),
        Ok(Message { version, .. }) => Err(Refusal(
            FailureKind::Invalid,
            format!("protocol version {version}: this keeper speaks {VERSION}: replace its pod"),
        )),
        Err(why) => Err(Refusal(FailureKind::Invalid, why)),
    };
    Ok(Some(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_shorter_than_a_wait_is_told() {
        assert_eq!([limit("0\n"), limit("600\n"), limit("65535"), limit("none")], [None; 4]);
        assert_eq!([limit("1\n"), limit("599")], [Some(1), Some(599)]);
    }

    #[test]
    fn a_seat_is_given_back_also_by_a_panic() {
        let open = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 {
            let seats: Vec<_> =
                (0..CONNECTIONS).map(|_| Seat::take(&open).expect("free")).collect();
            assert!(Seat::take(&open).is_none());
            let panicked = std::thread::spawn(move || {
                assert!(seats.is_empty(), "one panic of this test");
            });
            assert!(panicked.join().is_err());
            assert_eq!(open.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_new_directory_is_for_the_keeper_alone_unless_others_may_ask() {
        let temporary = tempfile::tempdir().expect("a directory");
        for (name, allowed, mode) in [("own", vec![], 0o700), ("shared", vec![1], 0o755)] {
            let directory = temporary.path().join(name);
            let _listener = listen(&directory.join("socket"), &allowed).expect("it listens");
            let known = std::fs::metadata(directory).expect("made").permissions().mode();
            // Less, where the umask takes more away.
            assert_eq!(known & 0o777 & !mode, 0, "{name}: {known:o}");
        }
    }
}
