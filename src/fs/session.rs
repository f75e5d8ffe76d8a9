//! Mounting: the connection to the kernel, from mount(2) to the last answer. With `fuse.rs` the only
//! file that knows the FUSE library.

use super::attachable::Attachable;
use super::connection::Connection;
use super::estate::Negotiated;
use super::front::Front;
use super::fuse::FuseAdapter;
use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio_util::task::TaskTracker;

/// What the kernel's read-ahead is raised to, in KiB.
const READ_AHEAD_KIB: &str = "16384";

/// How a volume is mounted.
#[derive(Clone, Debug)]
pub struct MountSettings {
    /// The source shown by mount(8) and /proc/mounts.
    pub source: String,
    /// Other users than the one who mounts may use it.
    pub allow_other: bool,
    /// The kernel refuses every change.
    pub read_only: bool,
    /// Threads that read requests.
    pub threads: usize,
}

/// Why a directory could not be mounted on; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No such directory.
    #[error("{}: mount point does not exist: create the directory first", .0.display())]
    Missing(PathBuf),
    /// Something else than a directory.
    #[error("{}: mount point is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// A FUSE file system is mounted there whose server is gone.
    #[error("{}: a mount whose server is gone is in the way: remove it with umount -l", .0.display())]
    Dead(PathBuf),
    /// Something is mounted there.
    #[error("{}: is a mount point already ({}): unmount it or choose another directory", .0.display(), .1)]
    Busy(PathBuf, String),
    /// /dev/fuse is missing.
    #[error(
        "/dev/fuse cannot be opened: {0}: load the fuse module, or give the container the device"
    )]
    NoDevice(io::Error),
    /// mount(2) was refused.
    #[error("{}: mount was refused: {}: mounting needs root, or fusermount3 installed", .0.display(), .1)]
    Refused(PathBuf, io::Error),
}

/// A mounted file system.
pub struct Mounted {
    thread: JoinHandle<io::Result<()>>,
    unmounter: Mutex<SessionUnmounter>,
    tasks: TaskTracker,
    mountpoint: PathBuf,
}

/// Mounts a file system; it serves when this returns.
pub fn mount<F: Front>(
    fs: Arc<F>,
    mountpoint: &Path,
    settings: &MountSettings,
    runtime: tokio::runtime::Handle,
) -> Result<Mounted, MountError> {
    check_mountpoint(mountpoint)?;
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    device.map_err(MountError::NoDevice)?;
    let mut options = vec![
        MountOption::FSName(settings.source.clone()),
        MountOption::Subtype("strongroom".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
        MountOption::NoDev,
        MountOption::NoSuid,
    ];
    if settings.read_only {
        options.push(MountOption::RO);
    }
    let mut config = Config::default();
    config.mount_options = options;
    config.acl = if settings.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(settings.threads.max(1));
    let adapter = FuseAdapter::new(fs, runtime);
    let tasks = adapter.tasks();
    let refused = |error| MountError::Refused(mountpoint.to_owned(), error);
    let mut session = Session::new(adapter, mountpoint, &config).map_err(refused)?;
    let unmounter = Mutex::new(session.unmount_callable());
    let thread = std::thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(move || session.run())
        .map_err(refused)?;
    raise_read_ahead(mountpoint);
    Ok(Mounted { thread, unmounter, tasks, mountpoint: mountpoint.to_owned() })
}

/// A connection that somebody else has made, served from here.
pub struct Attached {
    thread: JoinHandle<io::Result<()>>,
    tasks: TaskTracker,
}

/// Serves a mount's connection, from its beginning or where a former process stopped. For a file system
/// that was made to be taken over.
///
/// # Errors
/// If the connection is none, or the kernel was told something else by the former process.
pub(crate) fn attach<F: Attachable>(
    fs: Arc<F>,
    fuse: OwnedFd,
    negotiated: Negotiated,
    threads: usize,
    runtime: tokio::runtime::Handle,
) -> io::Result<Attached> {
    let kept = || fs.kept().ok_or_else(|| io::Error::other("nothing would be kept of this mount"));
    kept()?;
    let (connection, library) = Connection::prepare(fuse, negotiated.0)?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    // All threads read from one descriptor: a clone that a process makes dies with it and takes the
    // requests that were read through it along.
    config.n_threads = Some(threads.max(1));
    let adapter = FuseAdapter::new(fs.clone(), runtime);
    let tasks = adapter.tasks();
    let number = library.as_raw_fd();
    let session = Session::from_fd(adapter, library, SessionACL::All, config)?;
    let fuse = connection.establish(number, kept()?)?;
    // Not before: who fails to serve must leave the memory as it found it. Nor later: what is written from now on may
    // take the place of what was of no account.
    fs.decide();
    let thread = std::thread::Builder::new().name("fuse".to_owned()).spawn(move || {
        let _fuse = fuse;
        session.run()
    })?;
    Ok(Attached { thread, tasks })
}

impl Attached {
    /// Whether the kernel still sends requests.
    pub fn is_served(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits until the kernel has sent its last request and all are answered. Blocks the thread.
    pub fn join(self) -> (io::Result<()>, TaskTracker) {
        let panicked = |_| Err(io::Error::other("the thread that serves the mount panicked"));
        let result = self.thread.join().unwrap_or_else(panicked);
        self.tasks.close();
        (result, self.tasks)
    }
}

impl Mounted {
    /// Takes the mount away; if programs still use it, it disappears from the tree and ends with them.
    pub fn unmount(&self) -> io::Result<()> {
        match self.unmounter.lock().unmount() {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                nix::mount::umount2(&self.mountpoint, nix::mount::MntFlags::MNT_DETACH)
                    .map_err(io::Error::from)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the kernel still sends requests.
    pub fn is_served(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits until the kernel has sent its last request and all are answered. Blocks the thread.
    pub fn join(self) -> (io::Result<()>, TaskTracker) {
        let result = self
            .thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that serves the mount panicked")));
        self.tasks.close();
        (result, self.tasks)
    }
}

fn check_mountpoint(path: &Path) -> Result<(), MountError> {
    let owned = || path.to_owned();
    match std::fs::metadata(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            return Err(MountError::Dead(owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Missing(owned()));
        }
        Err(error) => return Err(MountError::Refused(owned(), error)),
        Ok(metadata) if !metadata.is_dir() => return Err(MountError::NotDirectory(owned())),
        Ok(_) => {}
    }
    let absolute = std::fs::canonicalize(path).unwrap_or_else(|_| owned());
    let Some(what) = mounted_there(&absolute) else { return Ok(()) };
    // The kernel may know the root's attributes for a second more than there is a server; this it asks.
    match nix::sys::statvfs::statvfs(path) {
        Err(nix::errno::Errno::ENOTCONN) => Err(MountError::Dead(owned())),
        _ => Err(MountError::Busy(owned(), what)),
    }
}

/// What is mounted at exactly this directory, from /proc/self/mountinfo (proc(5)).
fn mounted_there(path: &Path) -> Option<String> {
    let wanted = path.to_str()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    table.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let at = place.split(' ').nth(4)?;
        let mut source = source.split(' ');
        let kind = source.next()?;
        // Only FUSE: mounting over another kind of mount is the user's good right. The type has no
        // subtype behind it when the mount was made by mount(2) and not by fusermount3.
        (unescape(at) == wanted && (kind == "fuse" || kind.starts_with("fuse.")))
            .then(|| format!("{kind} of {}", source.next().unwrap_or("unknown")))
    })
}

/// Mount tables write blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Best effort: a longer read-ahead keeps more requests under way when a file is read in order.
fn raise_read_ahead(mountpoint: &Path) {
    use std::os::unix::fs::MetadataExt;
    // The mount's own device number; its root is answered from memory, so this does not wait.
    let Ok(metadata) = std::fs::metadata(mountpoint) else { return };
    let device = metadata.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB) {
        tracing::debug!("read-ahead not raised: {setting}: {error}");
    }
}
