//! Names that are gone here and on their way to be buried in the store. unlink and rmdir of what is stored
//! and not in use are answered at once and sent at once, many at the same time; whatever depends on one
//! waits for it: making the same name again, removing the directory, fsync of the directory, fsync of a
//! file in it (and its close, where that stores), unmount.
//!
//! Crash before one is sent: the name is there again, with all that it names. A removal that fails is
//! told by the next fsync of the directory and at unmount, and the name shows again.

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::{Identity, Inode};
use super::remembered::{BurialForm, burial_key};
use super::types::Ino;
use crate::volume::VolumeError;
use crate::volume::native::Place;
use crate::volume::native::namespace::Found;
use parking_lot::Mutex;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Removals under way, at most; the next one waits for one of them.
const MOST: usize = 256;
/// Failures that are kept to be told.
const MOST_FAILURES: usize = 1024;
/// How often a removal is based anew on what another node has just done.
const ATTEMPTS: usize = 8;

/// The names of a directory that are on their way, and what tells when each has arrived.
type Names = HashMap<Vec<u8>, watch::Receiver<()>>;

/// The removals under way.
pub(super) struct Late {
    pending: Mutex<HashMap<Ino, Names>>,
    /// By directory: the name and what went wrong.
    failures: Mutex<Vec<(Ino, String, FsError)>>,
    permits: Arc<Semaphore>,
}

impl Default for Late {
    fn default() -> Self {
        Self {
            pending: Mutex::default(),
            failures: Mutex::default(),
            permits: Arc::new(Semaphore::new(MOST)),
        }
    }
}

impl Late {
    /// The names of a directory that are on their way.
    pub(super) fn names(&self, directory: Ino) -> HashSet<Vec<u8>> {
        let pending = self.pending.lock();
        pending.get(&directory).into_iter().flat_map(|names| names.keys().cloned()).collect()
    }

    /// Waits until a name is not on its way any more.
    pub(super) async fn wait_for(&self, directory: Ino, name: &[u8]) {
        let waiting =
            self.pending.lock().get(&directory).and_then(|names| names.get(name).cloned());
        if let Some(mut waiting) = waiting {
            // Ends when the sender is dropped, with the task that does the work.
            while waiting.changed().await.is_ok() {}
        }
    }

    /// The same for all names of a directory, or of all directories.
    pub(super) async fn wait_for_all(&self, directory: Option<Ino>) {
        let waiting: Vec<_> = {
            let pending = self.pending.lock();
            let wanted = |ino: &Ino| directory.is_none_or(|directory| directory == *ino);
            pending
                .iter()
                .filter(|(ino, _)| wanted(ino))
                .flat_map(|(_, names)| names.values().cloned())
                .collect()
        };
        for mut waiting in waiting {
            while waiting.changed().await.is_ok() {}
        }
    }

    /// Failures that nobody was told of yet.
    pub(super) fn take_failures(&self, directory: Option<Ino>) -> Vec<(String, FsError)> {
        let mut failures = self.failures.lock();
        let (told, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut *failures)
            .into_iter()
            .partition(|(ino, _, _)| directory.is_none_or(|directory| directory == *ino));
        *failures = kept;
        told.into_iter().map(|(_, name, error)| (name, error)).collect()
    }

    /// A removal failed, which somebody must be told.
    fn failed(&self, directory: &Inode, name: &[u8], error: VolumeError) {
        let shown = name.escape_ascii().to_string();
        tracing::error!(name = shown, "not removed: {error}");
        let mut failures = self.failures.lock();
        if failures.len() < MOST_FAILURES {
            failures.push((directory.ino, shown, error.into()));
        }
    }

    /// Room for one more.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, FsError> {
        let permit = self.permits.clone().acquire_owned().await;
        permit.map_err(|_| FsError::io("file system is stopping"))
    }

    fn begin(&self, directory: Ino, name: &[u8]) -> watch::Sender<()> {
        let (sender, receiver) = watch::channel(());
        self.pending.lock().entry(directory).or_default().insert(name.to_vec(), receiver);
        sender
    }

    fn end(&self, directory: Ino, name: &[u8]) {
        let mut pending = self.pending.lock();
        if let Some(names) = pending.get_mut(&directory) {
            names.remove(name);
            if names.is_empty() {
                pending.remove(&directory);
            }
        }
    }
}

impl FileSystem {
    /// Buries a name without anybody waiting. The inode was marked as gone already, was not in use, and
    /// had no changes of its own.
    pub(super) fn bury_late(
        self: &Arc<Self>,
        directory: &Arc<Inode>,
        name: &[u8],
        inode: &Arc<Inode>,
        found: Found,
        permit: OwnedSemaphorePermit,
    ) {
        // The directory keeps its number as long as it is waited for by that.
        directory.state.lock().pins += 1;
        let done = self.late.begin(directory.ino, name);
        let written = burial_key(directory.ino, name);
        if let Some(recorder) = &self.recorder {
            let identity = inode.state.lock().identity(inode);
            let form = BurialForm::of(identity, &found.entry.place);
            recorder.ledger.put(&written, &form.encode_to_vec());
        }
        let (fs, directory, inode, name) =
            (self.clone(), directory.clone(), inode.clone(), name.to_vec());
        self.runtime.spawn(async move {
            let identity = inode.state.lock().identity(&inode);
            let result = fs.bury_whatever_it_is(identity, found).await;
            if let Err(error) = result {
                fs.came_back(&directory, &name, &inode, error);
            }
            if let Some(recorder) = &fs.recorder {
                recorder.ledger.remove(&written);
            }
            fs.late.end(directory.ino, &name);
            directory.state.lock().pins -= 1;
            fs.table.lock().drop_if_unused(directory.ino);
            drop(permit);
            drop(done);
        });
    }

    /// Buries a name that a former process removed, if it still leads to the same thing.
    pub(super) async fn bury_if_same(
        &self,
        identity: Identity,
        place: &Place,
    ) -> Result<(), VolumeError> {
        match self.volume.lookup_place(place).await? {
            Some(found) if Identity::of(&found.home().record.content) == Some(identity) => {
                self.bury_whatever_it_is(identity, found).await
            }
            _ => Ok(()),
        }
    }

    /// The same without anybody waiting, for a directory that is in use.
    pub(super) fn bury_restored(
        self: &Arc<Self>,
        directory: &Arc<Inode>,
        name: &[u8],
        identity: Identity,
        place: Place,
    ) {
        directory.state.lock().pins += 1;
        let done = self.late.begin(directory.ino, name);
        let (fs, directory, name) = (self.clone(), directory.clone(), name.to_vec());
        self.runtime.spawn(async move {
            match fs.bury_if_same(identity, &place).await {
                Ok(()) => {
                    if let Some(recorder) = &fs.recorder {
                        recorder.ledger.remove(&burial_key(directory.ino, &name));
                    }
                }
                Err(error) => {
                    fs.table.lock().doubt_name(directory.ino, &name);
                    fs.late.failed(&directory, &name, error);
                }
            }
            fs.late.end(directory.ino, &name);
            directory.state.lock().pins -= 1;
            fs.table.lock().drop_if_unused(directory.ino);
            drop(done);
        });
    }

    /// Buries the name as it is now, as long as it leads to the same thing.
    async fn bury_whatever_it_is(
        &self,
        identity: Identity,
        found: Found,
    ) -> Result<(), VolumeError> {
        let mut found = found;
        for _ in 0..ATTEMPTS {
            match self.volume.unlink(&found).await {
                Err(VolumeError::Conflict(_)) => {}
                other => return other.map(drop),
            }
            match self.volume.lookup_place(&found.entry.place).await? {
                Some(now) if Identity::of(&now.home().record.content) == Some(identity) => {
                    found = now;
                }
                // Another node has removed it, or put another thing there since.
                _ => return Ok(()),
            }
        }
        Err(VolumeError::Conflict(found.entry.place.to_string()))
    }

    /// A removal failed: the store decides whether the name is there.
    fn came_back(&self, directory: &Inode, name: &[u8], inode: &Inode, error: VolumeError) {
        {
            let mut state = inode.state.lock();
            state.unlinked = false;
            state.links = state.links.max(1);
            state.checked_at = None;
        }
        self.table.lock().doubt_name(directory.ino, name);
        self.late.failed(directory, name, error);
    }

    /// Waits until what was removed beside a file is removed in the store. SQLite commits by removing a
    /// journal and then closes the database: a journal that a crash brings back would undo the commit.
    pub(super) async fn removals_beside(&self, inode: &Inode) {
        let directories: HashSet<Ino> =
            inode.state.lock().names.iter().map(|(directory, _)| *directory).collect();
        for directory in directories {
            self.late.wait_for_all(Some(directory)).await;
        }
    }

    /// Waits for the removals in a directory; the first failure that nobody was told of yet.
    pub(super) async fn removals_stored(&self, directory: Ino) -> Result<(), FsError> {
        self.late.wait_for_all(Some(directory)).await;
        match self.late.take_failures(Some(directory)).into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}
