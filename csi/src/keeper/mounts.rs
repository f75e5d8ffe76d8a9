//! The system calls of the keeper: mount a connection, bind it, take both away, and what the kernel's table
//! of mounts says. Nothing here asks a mounted file system anything (no `stat` of a mount's root): its
//! server may be dead, and the answer would never come.

use super::paths::{Spot, by_descriptor};
use super::protocol::MountOptions;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The type of our mounts in the kernel's table.
const KIND: &str = "fuse.strongroom";
/// What the kernel asks for in one read, as the worker answers INIT.
const MAX_READ: u32 = 1 << 20;
/// What the kernel's read-ahead is raised to, in KiB; as a plain mount does.
const READ_AHEAD_KIB: &str = "16384";

/// One line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// `major:minor`.
    pub(super) device: String,
    pub(super) path: PathBuf,
    pub(super) read_only: bool,
    pub(super) kind: String,
    /// All of it, and not one of its directories.
    pub(super) is_whole: bool,
}

/// All mounts, in the order in which they were made.
pub(super) fn table() -> io::Result<Vec<Mounted>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// What is mounted at exactly this path: the last one covers those before.
pub(super) fn at(path: &Path) -> io::Result<Option<Mounted>> {
    Ok(table()?.into_iter().rfind(|mounted| mounted.path == path))
}

impl Mounted {
    /// Whether it is a volume's, of this keeper or of a former one.
    pub(super) fn is_volume(&self) -> bool {
        self.kind == KIND
    }
}

/// See proc_pid_mountinfo(5): number, parent, device, root, place, options, optional fields, `-`, type,
/// source, options of the file system.
fn parse(table: &[u8]) -> Vec<Mounted> {
    let line = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(2);
        let (device, root) = (place.next()?, place.next()?);
        let (path, options) = (place.next()?, place.next()?);
        Some(Mounted {
            device: device.to_owned(),
            path: PathBuf::from(unescape(path)),
            read_only: options.split(',').any(|option| option == "ro"),
            kind: kind.split(' ').next()?.to_owned(),
            is_whole: root == "/",
        })
    };
    table.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Blanks, tabs, line ends and backslashes stand there as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Makes a connection to the kernel and mounts it on a directory. Returns it with the mount's device number.
pub(super) fn stage(
    volume: &str,
    path: &Path,
    options: &MountOptions,
) -> io::Result<(OwnedFd, String)> {
    let fuse = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read={MAX_READ}",
        fuse.as_raw_fd()
    );
    if let Some(context) = &options.selinux_context {
        data.push_str(&format!(",context=\"{context}\""));
    }
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    flags.set(MsFlags::MS_RDONLY, options.read_only);
    let directory = Spot::make(path)?.directory()?;
    let on = by_descriptor(&directory);
    mount(Some(volume), &on, Some(KIND), flags, Some(data.as_str()))?;
    let ours = at(path)?.filter(Mounted::is_volume);
    let device =
        ours.ok_or_else(|| io::Error::other("the mount is not in the kernel's table"))?.device;
    raise_read_ahead(&device);
    Ok((fuse.into(), device))
}

/// Best effort: a longer read-ahead keeps more requests under way when a file is read in order.
fn raise_read_ahead(device: &str) {
    let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB) {
        tracing::debug!("read-ahead not raised: {setting}: {error}");
    }
}

/// Binds a mount to one more directory.
pub(super) fn bind(from: &Path, to: &Path, read_only: bool) -> io::Result<()> {
    let none = None::<&str>;
    let (from, to) = (Spot::make(from)?, Spot::make(to)?);
    let on = to.directory()?;
    mount(Some(&from.path()), &by_descriptor(&on), none, MsFlags::MS_BIND, none)?;
    if read_only {
        let flags = MsFlags::MS_REMOUNT
            | MsFlags::MS_BIND
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV
            | MsFlags::MS_NOATIME;
        // By its name: the descriptor is of what lies beneath.
        if let Err(error) = mount(none, &to.path(), none, flags, none) {
            // A binding that can be written to must not stay.
            let _ = umount2(&to.path(), MntFlags::UMOUNT_NOFOLLOW);
            return Err(error.into());
        }
    }
    Ok(())
}

/// Takes the topmost mount of a path away; nothing that is in use.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    take_away(path, MntFlags::empty())
}

/// Takes a mount out of the tree although programs use it. Only for those whose connection is dead.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    take_away(path, MntFlags::MNT_DETACH)
}

fn take_away(path: &Path, flags: MntFlags) -> io::Result<()> {
    let spot = Spot::find(path)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(umount2(&spot.path(), flags | MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Whether the kernel has let go of a connection: its last mount is gone. Waits for that a while.
pub(super) fn is_over(fuse: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        // Not asked for readability: requests that wait there must not end the wait.
        let mut one = [PollFd::new(fuse.as_fd(), PollFlags::empty())];
        let step =
            deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(100));
        poll(&mut one, PollTimeout::from(step.as_millis() as u8))?;
        if one[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
            return Ok(true);
        }
        if step.is_zero() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_mounts_is_read_as_the_kernel_writes_it() {
        let text = b"36 35 0:57 / /var/lib/a\\040b ro,nosuid shared:1 - fuse.strongroom vol rw,user_id=0\n\
                     37 35 8:1 /x /y rw - ext4 /dev/sda1 rw\nnonsense\n";
        let table = parse(text);
        assert_eq!(table.len(), 2);
        assert!(table[0].is_volume() && table[0].read_only);
        assert_eq!((table[0].path.to_str(), &*table[0].device), (Some("/var/lib/a b"), "0:57"));
        assert!(!table[1].is_volume() && !table[1].read_only);
    }
}
