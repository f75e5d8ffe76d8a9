//! Files in a local directory, under their own names: what KubeBlocks mounts at /backupdata, an NFS share
//! or a volume of ours. Everything blocks, and is done on threads that may.

use super::local::{self, Target};
use super::parts::{Piece, Plan};
use super::{Beside, Emit, Entry, Files, Kind, ListFiles, Modified, ObjectsError};
use crate::crypto::datasafed::StreamKey;
use crate::world::{Entropy, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// What one read of a file moves.
const PIECE: usize = 1 << 20;
/// Entries that a listing may be ahead of who takes them.
const AHEAD: usize = 1024;

/// Files in a directory.
#[derive(Clone)]
pub struct DirectoryFiles {
    root: PathBuf,
    follow_links: bool,
    entropy: Arc<dyn Entropy>,
}

impl DirectoryFiles {
    /// The files below a directory. Symbolic links are followed, or are not there.
    pub fn new(root: impl Into<PathBuf>, follow_links: bool, entropy: Arc<dyn Entropy>) -> Self {
        Self { root: root.into(), follow_links, entropy }
    }

    fn place(&self, path: &str) -> PathBuf {
        // Pushing an empty path would end the name in `/`.
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn look(&self, place: &Path) -> io::Result<Metadata> {
        if self.follow_links { fs::metadata(place) } else { fs::symlink_metadata(place) }
    }

    /// How the call of [`Self::look`] is named.
    fn looking(&self) -> &'static str {
        if self.follow_links { "stat" } else { "lstat" }
    }

    fn find_now(&self, path: &str) -> Result<Entry, ObjectsError> {
        let place = self.place(path);
        let found = self.look(&place).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ObjectsError::NotFound,
            io::ErrorKind::PermissionDenied => denied(),
            _ => ObjectsError::local(self.looking(), &place, error),
        })?;
        match found.is_dir() {
            true => Err(ObjectsError::IsDirectory),
            false => Ok(entry(path.to_owned(), &found)),
        }
    }

    /// One directory, in the order of its names.
    fn list_one(&self, directory: &str) -> Result<Vec<Entry>, ObjectsError> {
        let place = self.place(directory);
        if fs::metadata(&place).is_err() {
            return Err(ObjectsError::NoDirectory);
        }
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotADirectory => ObjectsError::Invalid(format!(
                "failed to read directory entry: readdirent {}: not a directory",
                place.display()
            )),
            _ => ObjectsError::local("open", &place, error),
        };
        let mut entries = Vec::new();
        for found in fs::read_dir(&place).map_err(failed)? {
            let found = found.map_err(failed)?;
            let name = found.file_name();
            if local::is_unfinished(&name) {
                continue;
            }
            let name = name.to_string_lossy();
            let path = match directory {
                "" => name.into_owned(),
                _ => format!("{directory}/{name}"),
            };
            let metadata = match self.look(&found.path()) {
                Ok(metadata) => metadata,
                // Removed since, or a link that leads nowhere.
                Err(error) => {
                    tracing::debug!("{path} is left out: {error}");
                    continue;
                }
            };
            // Pipes, devices and links have no content to list.
            if metadata.is_dir() || metadata.is_file() {
                entries.push(entry(path, &metadata));
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    fn list_levels(
        &self,
        directory: &str,
        depth: Option<u32>,
        out: &Sender<Entry>,
    ) -> Result<(), ObjectsError> {
        // Directories that are still to be listed, with the levels below them, the next one last.
        let mut open = vec![(directory.to_owned(), depth.unwrap_or(u32::MAX))];
        let mut failure = None;
        while let Some((directory, depth)) = open.pop() {
            let entries = match self.list_one(&directory) {
                Ok(entries) => entries,
                // The others are told all the same.
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            for entry in entries {
                if entry.kind == Kind::Directory && depth > 1 {
                    open.push((entry.path.clone(), depth - 1));
                }
                if out.blocking_send(entry).is_err() {
                    return Ok(());
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn read_now(
        &self,
        path: &str,
        key: Option<&StreamKey>,
        out: &Sender<Vec<Bytes>>,
    ) -> Result<(), ObjectsError> {
        self.find_now(path)?;
        let place = self.place(path);
        let failed = |error| ObjectsError::local("read", &place, error);
        let file = File::open(&place);
        let mut file = file.map_err(|error| ObjectsError::local("open", &place, error))?;
        let mut decryptor = match key {
            None => None,
            Some(key) => {
                let mut iv = Vec::new();
                (&mut file).take(16).read_to_end(&mut iv).map_err(failed)?;
                let iv = <[u8; 16]>::try_from(iv)
                    .map_err(|iv| ObjectsError::without_iv(iv.len() as u64))?;
                Some(key.decryptor(iv))
            }
        };
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            (&mut file).take(PIECE as u64).read_to_end(&mut piece).map_err(failed)?;
            if piece.is_empty() {
                return Ok(());
            }
            if let Some(decryptor) = &mut decryptor {
                decryptor.update(&mut piece);
            }
            if out.blocking_send(vec![Bytes::from(piece)]).is_err() {
                return Ok(());
            }
        }
    }

    fn remove_tree_now(&self, path: &str) -> Result<(), ObjectsError> {
        let place = self.place(path);
        match self.look(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ObjectsError::NoDirectory),
            Err(error) => Err(ObjectsError::local(self.looking(), &place, error)),
            Ok(found) if !found.is_dir() => Err(ObjectsError::Invalid(format!(
                "can't purge non directory: {:?}",
                place.display().to_string()
            ))),
            // It would go alone, and the next push would make a directory of the root, elsewhere than the files are.
            Ok(_) if path.is_empty() && place.is_symlink() => Err(ObjectsError::Invalid(format!(
                "{:?} is the storage's root and a link: remove what is below it",
                place.display().to_string()
            ))),
            // Of a link to a directory the link goes alone.
            Ok(_) if place.is_symlink() => fs::remove_file(&place)
                .map_err(|error| ObjectsError::local("unlinkat", &place, error)),
            Ok(_) => fs::remove_dir_all(&place)
                .map_err(|error| ObjectsError::local("unlinkat", &place, error)),
        }
    }

    /// Does something on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Self, &str) -> Result<T, ObjectsError> + Send + 'static,
    ) -> Result<T, ObjectsError> {
        let (own, path) = (self.clone(), path.to_owned());
        let done = tokio::task::spawn_blocking(move || work(&own, &path)).await;
        done.unwrap_or(Err(ObjectsError::Ended))
    }
}

#[async_trait]
impl Files for DirectoryFiles {
    async fn find(&self, path: &str) -> Result<Entry, ObjectsError> {
        self.find_now(path)
    }

    async fn list(
        &self,
        directory: &str,
        ListFiles { depth, .. }: ListFiles,
        emit: Emit<'_>,
    ) -> Result<(), ObjectsError> {
        let (out, mut entries) = channel(AHEAD);
        let list = self.blocking(directory, move |own, path| own.list_levels(path, depth, &out));
        let take = async {
            while let Some(entry) = entries.recv().await {
                emit(entry)?;
            }
            Ok(())
        };
        let (listed, taken) = futures::join!(list, take);
        taken.and(listed)
    }

    async fn read(
        &self,
        path: &str,
        key: Option<Arc<StreamKey>>,
        out: Sender<Vec<Bytes>>,
    ) -> Result<(), ObjectsError> {
        self.blocking(path, move |own, path| own.read_now(path, key.as_deref(), &out)).await
    }

    async fn write(
        &self,
        path: &str,
        beside: Beside,
        pieces: Receiver<Piece>,
    ) -> Result<(), ObjectsError> {
        if let Err(error @ ObjectsError::IsDirectory) = self.find_now(path) {
            return Err(error);
        }
        let target = self.blocking(path, |own, path| {
            let place = own.place(path);
            if let Some(parent) = place.parent() {
                make_directories(parent)?;
            }
            let target = Target::open(&place, &*own.entropy);
            target.map_err(|error| ObjectsError::local("open", &place, error))
        });
        let target = target.await?;
        let _guard = target.guard();
        self.blocking(path, move |own, path| {
            let failed = |error| ObjectsError::local("write", &own.place(path), error);
            target.store(beside.modified, pieces, failed)
        })
        .await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<bool, ObjectsError> {
        match self.find_now(to) {
            Ok(_) | Err(ObjectsError::NotFound) => {}
            Err(error) => return Err(error),
        }
        self.find_now(from)?;
        let (from, to) = (self.place(from), self.place(to));
        if let Some(parent) = to.parent() {
            make_directories(parent)?;
        }
        match fs::rename(&from, &to) {
            Ok(()) => Ok(true),
            // Another file system is mounted on the way.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(false),
            Err(error) => Err(ObjectsError::local("rename", &from, error)),
        }
    }

    async fn remove(&self, path: &str) -> Result<(), ObjectsError> {
        let place = self.place(path);
        match self.find_now(path) {
            Ok(_) => fs::remove_file(&place)
                .map_err(|error| ObjectsError::local("remove", &place, error)),
            Err(ObjectsError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_tree(&self, path: &str) -> Result<(), ObjectsError> {
        self.blocking(path, Self::remove_tree_now).await
    }

    async fn make_directory(&self, path: &str) -> Result<(), ObjectsError> {
        make_directories(&self.place(path))
    }

    async fn remove_directory(&self, path: &str) -> Result<(), ObjectsError> {
        let place = self.place(path);
        // What it is decides how it is removed: a file goes too, as with remove(3).
        let removed = match fs::symlink_metadata(&place) {
            Ok(found) if !found.is_dir() => fs::remove_file(&place),
            _ => fs::remove_dir(&place),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| ObjectsError::local("remove", &place, error)),
        }
    }

    fn has_directories(&self) -> bool {
        true
    }

    fn plan(&self, _: Option<u64>) -> Plan {
        Plan::Even
    }
}

fn make_directories(place: &Path) -> Result<(), ObjectsError> {
    match fs::DirBuilder::new().recursive(true).mode(0o777).create(place) {
        Ok(()) => Ok(()),
        // Told of a file in the way, wherever on the path it is.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let error = io::Error::from_raw_os_error(nix::libc::ENOTDIR);
            Err(ObjectsError::local("mkdir", place, error))
        }
        Err(error) => {
            let blocking = place.ancestors().find(|place| fs::metadata(place).is_ok());
            Err(ObjectsError::local("mkdir", blocking.unwrap_or(place), error))
        }
    }
}

fn entry(path: String, metadata: &Metadata) -> Entry {
    let kind = if metadata.is_dir() { Kind::Directory } else { Kind::File(metadata.len()) };
    let nanos = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    let nanos = nanos.clamp(i64::MIN.into(), i64::MAX.into());
    let nanos = i64::try_from(nanos).unwrap_or_default();
    Entry { path, kind, modified: Modified::Told(Timestamp(nanos)) }
}

fn denied() -> ObjectsError {
    ObjectsError::Invalid("permission denied".to_owned())
}
