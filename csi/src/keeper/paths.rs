//! Where the keeper may mount, and how it gets there: every part of a path is opened by its name in the one
//! before, and none of them may be a symbolic link. What was checked is then what is used (by its descriptor),
//! whoever puts something else in its place meanwhile.

use super::protocol::check_path;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Directories that all paths must be below; anywhere if there are none.
pub(super) struct Allowed(pub(super) Vec<PathBuf>);

/// Why a path is not used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It names no place.
    Invalid(String),
    /// It is not for this caller.
    Denied(String),
}

impl Allowed {
    /// Whether a path may be mounted on: strictly below, and without a link on the way as far as there is one.
    pub(super) fn check(&self, path: &Path) -> Result<(), Unusable> {
        check_path(path).map_err(Unusable::Invalid)?;
        let below = |allowed: &PathBuf| path != allowed && path.starts_with(allowed);
        if !self.0.is_empty() && !self.0.iter().any(below) {
            let why = format!("{}: is not below an allowed directory", path.display());
            return Err(Unusable::Denied(why));
        }
        match Spot::find(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(Unusable::Denied(format!(
                "{}: has a symbolic link in it, or something that is no directory: {error}",
                path.display()
            ))),
        }
    }
}

/// A name in a directory that is open: what a path leads to.
pub(super) struct Spot {
    parent: OwnedFd,
    name: OsString,
}

impl Spot {
    /// `None` if a directory on the way is missing.
    pub(super) fn find(path: &Path) -> io::Result<Option<Self>> {
        Self::walk(path, false)
    }

    /// Makes directories that are missing on the way.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        Self::walk(path, true)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn walk(path: &Path, make: bool) -> io::Result<Option<Self>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut spot =
            Self { parent: nix::fcntl::open("/", flags, Mode::empty())?, name: OsString::new() };
        for part in path.components() {
            let Component::Normal(part) = part else { continue };
            if !spot.name.is_empty() {
                spot.parent = match spot.open() {
                    Err(Errno::ENOENT) if make => spot.directory()?,
                    Err(Errno::ENOENT) => return Ok(None),
                    opened => opened?,
                };
            }
            spot.name = part.to_owned();
        }
        Ok(Some(spot))
    }

    fn open(&self) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.parent, self.name.as_os_str(), flags, Mode::empty())
    }

    /// The directory of this name, made if it is missing: nothing below a missing mount is for anybody but
    /// root.
    pub(super) fn directory(&self) -> io::Result<OwnedFd> {
        match mkdirat(&self.parent, self.name.as_os_str(), Mode::from_bits_truncate(0o750)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(self.open()?),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the directory of this name, if it is there.
    pub(super) fn remove_directory(&self) -> io::Result<()> {
        match unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A path for system calls that take nothing else; good while this is. Only its last part is looked up
    /// again.
    pub(super) fn path(&self) -> PathBuf {
        by_descriptor(&self.parent).join(OsStr::new(&self.name))
    }
}

/// A path to what a descriptor has open.
pub(super) fn by_descriptor(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_on_the_way_is_followed_however_much_of_it_is_missing() {
        let temporary = tempfile::tempdir().expect("a directory");
        let root = temporary.path().canonicalize().expect("its path");
        let (inside, outside) = (root.join("inside"), root.join("outside"));
        std::fs::create_dir_all(inside.join("real")).expect("made");
        std::fs::create_dir(&outside).expect("made");
        symlink(&outside, inside.join("link")).expect("linked");
        symlink(root.join("nowhere"), inside.join("dead")).expect("linked");
        let allowed = Allowed(vec![inside.clone()]);
        for good in ["a", "real/a", "new/a/b"] {
            assert_eq!(allowed.check(&inside.join(good)), Ok(()), "{good}");
            Spot::make(&inside.join(good)).expect("made").directory().expect("made");
            assert!(inside.join(good).is_dir());
        }
        for bad in ["link/a", "link/new/a", "dead/a", "dead/new/a"] {
            let checked = allowed.check(&inside.join(bad));
            assert!(matches!(checked, Err(Unusable::Denied(_))), "{bad}");
            assert!(Spot::make(&inside.join(bad)).is_err(), "{bad}");
        }
        // The last part is looked at when it is used.
        for link in ["link", "dead"] {
            let spot = Spot::find(&inside.join(link)).expect("found").expect("there");
            assert!(spot.directory().is_err() && spot.remove_directory().is_err());
        }
        assert_eq!(std::fs::read_dir(&outside).expect("listed").count(), 0);
        assert!(!root.join("nowhere").exists());
        for bad in [&inside, &outside, &root.join("inside-not")] {
            assert!(matches!(allowed.check(bad), Err(Unusable::Denied(_))), "{}", bad.display());
        }
        let up = inside.join("../outside/x");
        assert!(matches!(allowed.check(&up), Err(Unusable::Invalid(_))));
        let spot = Spot::find(&inside.join("new/a/b")).expect("found").expect("there");
        spot.remove_directory().expect("removed");
        spot.remove_directory().expect("is gone already");
        assert!(!inside.join("new/a/b").exists());
    }
}
