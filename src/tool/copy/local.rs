//! A tree in this machine's file system.

use super::item::{Item, Keeps, Kind, name};
use crate::tool::output::{Failure, shown};
use crate::tool::transfer::{Temporary, begin, beside};
use crate::volume::native::record::SpecialKind;
use crate::world::Timestamp;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Extended attributes that travel: those that every owner of a file may set.
const XATTRS: &[u8] = b"user.";

/// Extended attributes by their names.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A directory and all that is below.
#[derive(Clone, Debug)]
pub(super) struct LocalTree {
    root: PathBuf,
}

/// A file on its way into a tree: under another name until it is whole.
pub(super) struct Incoming {
    pub(super) file: tokio::fs::File,
    temporary: Temporary,
    place: PathBuf,
}

impl LocalTree {
    pub(super) fn new(root: &Path) -> Self {
        // Whoever names a symbolic link means the directory behind it, which is what gets owner and time.
        Self { root: root.canonicalize().unwrap_or_else(|_| root.to_owned()) }
    }

    /// Set-id bits do not come out of a bucket by themselves; owners only where we may set them.
    pub(super) fn keeps() -> Keeps {
        let owner = nix::unistd::geteuid().is_root();
        Keeps { mode: 0o1777, owner, live_times: true, directories: true, coarse: false }
    }

    pub(super) fn place(&self, path: &[u8]) -> PathBuf {
        match path {
            b"" => self.root.clone(),
            path => self.root.join(OsStr::from_bytes(path)),
        }
    }

    /// The root itself.
    pub(super) fn root(&self) -> Result<Item, Failure> {
        // Whoever names a symbolic link means the directory behind it.
        let data = fs::metadata(&self.root).map_err(|error| said(&self.root, &error))?;
        Ok(item_of(Vec::new(), Kind::Directory, &data))
    }

    /// Everything below, and what could not be looked at.
    pub(super) fn scan(&self) -> (Vec<Item>, Vec<Failure>) {
        let (mut items, mut failures) = (Vec::new(), Vec::new());
        for entry in WalkDir::new(&self.root).min_depth(1) {
            let found = entry.map_err(|error| Failure::new(format!("cannot look at {error}")));
            match found.and_then(|entry| self.item(entry.path())) {
                Ok(item) => items.push(item),
                Err(failure) => failures.push(failure),
            }
        }
        (items, failures)
    }

    fn item(&self, place: &Path) -> Result<Item, Failure> {
        let data = fs::symlink_metadata(place).map_err(|error| said(place, &error))?;
        let path = place.strip_prefix(&self.root).unwrap_or(place).as_os_str().as_bytes().to_vec();
        let form = data.file_type();
        let kind = if form.is_file() {
            Kind::File(data.len())
        } else if form.is_dir() {
            Kind::Directory
        } else if form.is_symlink() {
            let target = fs::read_link(place).map_err(|error| said(place, &error))?;
            Kind::Symlink(target.into_os_string().into_vec())
        } else if form.is_fifo() {
            Kind::Special(SpecialKind::Fifo, 0)
        } else if form.is_socket() {
            Kind::Special(SpecialKind::Socket, 0)
        } else if form.is_block_device() {
            Kind::Special(SpecialKind::BlockDevice, data.rdev())
        } else {
            Kind::Special(SpecialKind::CharacterDevice, data.rdev())
        };
        Ok(item_of(path, kind, &data))
    }

    /// Opens a file to read, if it is one still.
    pub(super) fn open(&self, item: &Item) -> Result<fs::File, Failure> {
        let place = self.place(&item.path);
        let failed = |error| said(&place, &error);
        // What was put in its place meanwhile is neither followed nor waited for.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file =
            fs::File::options().read(true).custom_flags(flags).open(&place).map_err(failed)?;
        match file.metadata().map_err(failed)?.is_file() {
            true => Ok(file),
            false => Err(Failure::new(format!("{}: is no file any more", place.display()))),
        }
    }

    /// The attributes of a file or directory that travel.
    pub(super) fn xattrs(&self, item: &Item) -> Result<Xattrs, Failure> {
        let place = self.place(&item.path);
        let mut xattrs = Xattrs::new();
        let names = match xattr::list(&place) {
            Ok(names) => names,
            // A file system without them has none to keep.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOTSUP) => return Ok(xattrs),
            Err(error) => return Err(said(&place, &error)),
        };
        for name in names.filter(|name| name.as_bytes().starts_with(XATTRS)) {
            if let Some(value) = xattr::get(&place, &name).map_err(|error| said(&place, &error))? {
                xattrs.insert(name.into_vec(), value);
            }
        }
        Ok(xattrs)
    }

    /// Whether a file is still what it was when the tree was looked at.
    pub(super) fn check_unchanged(&self, item: &Item) -> Result<(), Failure> {
        let now = self.item(&self.place(&item.path))?;
        if now.kind == item.kind && now.mtime == item.mtime {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{}: changed while it was read: stored as it was read; copy it again when nobody writes to it",
            self.place(&item.path).display()
        )))
    }

    pub(super) fn make_directory(&self, item: &Item) -> Result<(), Failure> {
        let place = self.place(&item.path);
        // Nobody else looks in until it has the mode that it should have.
        fs::DirBuilder::new().mode(0o700).create(&place).map_err(|error| said(&place, &error))
    }

    /// Makes or replaces what is neither a file nor a directory.
    pub(super) fn make(&self, item: &Item) -> Result<(), Failure> {
        let place = self.place(&item.path);
        let failed = |error: io::Error| said(&place, &error);
        let temporary = Temporary(beside(&place));
        let made = match &item.kind {
            Kind::Symlink(target) => {
                std::os::unix::fs::symlink(OsStr::from_bytes(target), &temporary.0)
            }
            Kind::Special(kind, device) => {
                let form = match kind {
                    SpecialKind::Fifo => SFlag::S_IFIFO,
                    SpecialKind::Socket => SFlag::S_IFSOCK,
                    SpecialKind::CharacterDevice => SFlag::S_IFCHR,
                    SpecialKind::BlockDevice => SFlag::S_IFBLK,
                };
                let mode = Mode::from_bits_truncate(item.mode & 0o777);
                mknod(&temporary.0, form, mode, *device).map_err(io::Error::from)
            }
            Kind::File(_) | Kind::Directory => Ok(()),
        };
        made.map_err(failed)?;
        let dressed = self.dress(&temporary.0, item, &Xattrs::new());
        fs::rename(&temporary.0, &place).map_err(failed)?;
        dressed
    }

    /// Begins a file.
    pub(super) fn receive(&self, item: &Item) -> Result<Incoming, Failure> {
        let place = self.place(&item.path);
        let temporary = Temporary(beside(&place));
        let file = begin(&temporary).map_err(|error| said(&place, &error))?;
        Ok(Incoming { file, temporary, place })
    }

    /// Gives a whole file its name, even if its owner or mode cannot be set.
    pub(super) async fn finish(
        &self,
        incoming: Incoming,
        item: &Item,
        xattrs: &Xattrs,
    ) -> Result<(), Failure> {
        let Incoming { file, temporary, place } = incoming;
        drop(file.into_std().await);
        let dressed = self.dress(&temporary.0, item, xattrs);
        fs::rename(&temporary.0, &place).map_err(|error| said(&place, &error))?;
        dressed
    }

    /// Owner, mode, time and attributes of what is there.
    pub(super) fn set_attributes(&self, item: &Item, xattrs: &Xattrs) -> Result<(), Failure> {
        self.dress(&self.place(&item.path), item, xattrs)
    }

    /// Does all that can be done, and tells of the first that could not.
    fn dress(&self, place: &Path, item: &Item, xattrs: &Xattrs) -> Result<(), Failure> {
        let mut first = Ok(());
        let mut done = |what: &str, result: io::Result<()>| {
            if let (Ok(()), Err(error)) = (&first, result) {
                let place = shown(self.place(&item.path).as_os_str().as_bytes());
                first = Err(Failure::new(format!(
                    "{place}: is there, but {what} could not be set: {error}"
                )));
            }
        };
        let keeps = Self::keeps();
        for (name, value) in xattrs.iter().filter(|(name, _)| name.starts_with(XATTRS)) {
            let set = xattr::set(place, OsStr::from_bytes(name), value);
            done(&format!("its attribute {}", shown(name)), set);
        }
        if keeps.owner {
            let (uid, gid) = (Uid::from_raw(item.uid), Gid::from_raw(item.gid));
            let set = fchownat(AT_FDCWD, place, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW);
            done("its owner", set.map_err(io::Error::from));
        }
        if !matches!(item.kind, Kind::Symlink(_)) {
            let mode = fs::Permissions::from_mode(item.mode & keeps.mode);
            done("its mode", fs::set_permissions(place, mode));
        }
        const SECOND: i64 = 1_000_000_000;
        let (seconds, nanos) = (item.mtime.0.div_euclid(SECOND), item.mtime.0.rem_euclid(SECOND));
        let time = TimeSpec::new(seconds, nanos);
        let set = utimensat(AT_FDCWD, place, &time, &time, UtimensatFlags::NoFollowSymlink);
        done("its time", set.map_err(io::Error::from));
        first
    }

    /// Removes a name, and what is below it if it is a directory.
    pub(super) fn remove(&self, item: &Item) -> Result<(), Failure> {
        let place = self.place(&item.path);
        let removed =
            if item.is_directory() { fs::remove_dir_all(&place) } else { fs::remove_file(&place) };
        removed.map_err(|error| said(&place, &error))
    }

    /// Makes the root if it is not there.
    pub(super) fn make_root(&self) -> Result<(), Failure> {
        let failed = |error: io::Error| said(&self.root, &error);
        if let Some(above) = self.root.parent() {
            fs::create_dir_all(above).map_err(failed)?;
        }
        // Its mode comes last: until then nobody else looks in.
        match fs::DirBuilder::new().mode(0o700).create(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(failed),
        }
    }

    /// Waits until everything is on the disk.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        let synced = fs::File::open(&self.root)
            .and_then(|root| nix::unistd::syncfs(&root).map_err(io::Error::from));
        synced.map_err(|error| said(&self.root, &error))
    }
}

fn item_of(path: Vec<u8>, kind: Kind, data: &fs::Metadata) -> Item {
    let mtime = data.modified().map_or(Timestamp(0), Timestamp::from_system_time);
    let mode = data.permissions().mode() & 0o7777;
    Item {
        path,
        kind,
        mode,
        uid: data.uid(),
        gid: data.gid(),
        mtime,
        taken_then: false,
        record: None,
    }
}

/// A failure with a local file.
pub(super) fn said(place: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {error}", shown(place.as_os_str().as_bytes())))
}

/// The last part of a local path, for a tree that keeps its name.
pub(super) fn own_name(root: &Path) -> Option<Vec<u8>> {
    let real = root.canonicalize().ok()?;
    Some(name(real.as_os_str().as_bytes()).to_vec()).filter(|name| !name.is_empty())
}
