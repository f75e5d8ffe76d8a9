//! Names and contents as the caller sees them. With a key every file is `NAME.enc` in datasafed's form:
//! the ending is hidden, sizes are those of the plaintext, files without it are not seen. Directories
//! and names are as they are.

use super::parts::PartWriter;
use super::{Beside, Emit, Entry, Files, Kind, ListFiles, Modified, ObjectsError};
use crate::crypto::datasafed::{OVERHEAD, StreamKey};
use crate::world::{Entropy, Timestamp};
use bytes::Bytes;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, channel};

/// Ends the names of files in datasafed's form.
pub const SUFFIX: &str = ".enc";

/// A place of files, plain or in datasafed's form.
#[derive(Clone)]
pub struct Layout {
    files: Arc<dyn Files>,
    key: Option<Arc<StreamKey>>,
    entropy: Arc<dyn Entropy>,
    scratch: PathBuf,
}

impl Layout {
    /// Plain without a key.
    pub fn new(
        files: Arc<dyn Files>,
        key: Option<Arc<StreamKey>>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { files, key, entropy, scratch: PathBuf::from("/tmp") }
    }

    /// The same with another directory than /tmp for what is too large for memory.
    pub fn with_scratch(self, scratch: PathBuf) -> Self {
        Self { scratch, ..self }
    }

    /// Whether files are in datasafed's form.
    pub fn is_encrypted(&self) -> bool {
        self.key.is_some()
    }

    /// Whether directories are things of their own.
    pub fn has_directories(&self) -> bool {
        self.files.has_directories()
    }

    fn stored(&self, path: &str) -> String {
        if self.is_encrypted() { format!("{path}{SUFFIX}") } else { path.to_owned() }
    }

    /// An entry as the caller sees it; `None` if it is not seen.
    fn seen(&self, mut entry: Entry) -> Option<Entry> {
        if let (true, Kind::File(size)) = (self.is_encrypted(), &mut entry.kind) {
            entry.path.truncate(entry.path.strip_suffix(SUFFIX)?.len());
            // Shorter than an IV: it cannot be opened, and has no plaintext.
            *size = size.saturating_sub(OVERHEAD);
        }
        Some(entry)
    }

    /// The file at a path.
    pub async fn find(&self, path: &str) -> Result<Entry, ObjectsError> {
        let entry = self.files.find(&self.stored(path)).await?;
        self.seen(entry).ok_or(ObjectsError::NotFound)
    }

    /// What is in a directory; see [`Files::list`].
    pub async fn list(
        &self,
        directory: &str,
        request: ListFiles,
        emit: Emit<'_>,
    ) -> Result<(), ObjectsError> {
        let mut emit = |entry| self.seen(entry).map_or(Ok(()), &mut *emit);
        self.files.list(directory, request, &mut emit).await
    }

    /// Sends a file's content from front to back; a receiver that is gone ends it.
    pub async fn read(&self, path: &str, out: Sender<Vec<Bytes>>) -> Result<(), ObjectsError> {
        self.files.read(&self.stored(path), self.key.clone(), out).await
    }

    /// Stores what `produce` writes, on a thread of its own, as the file's content. An error of it leaves
    /// whatever was there. `size` is that of the content, if it is known.
    pub async fn write(
        &self,
        path: &str,
        modified: Timestamp,
        size: Option<u64>,
        produce: impl FnOnce(&mut PartWriter<'_>) -> io::Result<()> + Send + 'static,
    ) -> Result<(), ObjectsError> {
        let overhead = if self.is_encrypted() { OVERHEAD } else { 0 };
        let plan = self.files.plan(size.map(|size| size.saturating_add(overhead)));
        let (out, pieces) = channel(1);
        let (key, entropy) = (self.key.clone(), self.entropy.clone());
        let iv: [u8; 16] = entropy.bytes();
        let key_check = key.as_ref().map(|key| key.check(&iv));
        let scratch = self.scratch.clone();
        let runtime = Handle::current();
        // Not waited for: it may sit in a read of standard input that never ends.
        drop(tokio::task::spawn_blocking(move || {
            let encryptor = key.as_ref().map(|key| key.encryptor_with_iv(iv));
            let rest = (&*scratch, &*entropy);
            let mut writer = PartWriter::new(plan, out, runtime, encryptor, rest);
            match produce(&mut writer) {
                Ok(()) => writer.finish(),
                Err(error) => writer.fail(error),
            }
        }));
        let beside = Beside { modified, key_check };
        self.files.write(&self.stored(path), beside, pieces).await
    }

    /// Makes a file of another one's content and time (`now` where that has none). Until it is whole, whatever was at
    /// `to` stays.
    pub async fn copy(&self, from: &str, to: &str, now: Timestamp) -> Result<(), ObjectsError> {
        if self.files.copy(&self.stored(from), &self.stored(to)).await? {
            return Ok(());
        }
        let found = self.find(from).await?;
        let modified = match found.modified {
            Modified::Told(time) | Modified::Stored(time) => time,
            Modified::Unknown => now,
        };
        let Kind::File(size) = found.kind else { return Err(ObjectsError::IsDirectory) };
        let (sender, mut pieces) = channel::<Vec<Bytes>>(1);
        let shown = from.to_owned();
        let produce = move |out: &mut PartWriter<'_>| {
            let mut total = 0;
            while let Some(batch) = pieces.blocking_recv() {
                for piece in batch {
                    out.write_all(&piece)?;
                    total += piece.len() as u64;
                }
            }
            // The end alone does not say that all of it came.
            match total == size {
                true => Ok(()),
                false => Err(io::Error::other(format!("{shown} gave {total} of {size} bytes"))),
            }
        };
        let (read, written) =
            tokio::join!(self.read(from, sender), self.write(to, modified, Some(size), produce));
        read.and(written)
    }

    /// Gives a file another name, in the place of what file is there; where the place cannot, by a copy: a crash
    /// then leaves both.
    pub async fn rename(&self, from: &str, to: &str, now: Timestamp) -> Result<(), ObjectsError> {
        if self.files.rename(&self.stored(from), &self.stored(to)).await? {
            return Ok(());
        }
        self.copy(from, to, now).await?;
        self.remove(from).await
    }

    /// Removes a file; none is no error.
    pub async fn remove(&self, path: &str) -> Result<(), ObjectsError> {
        self.files.remove(&self.stored(path)).await
    }

    /// Removes everything below a directory, also what is not seen, and the directory.
    pub async fn remove_tree(&self, path: &str) -> Result<(), ObjectsError> {
        self.files.remove_tree(path).await
    }

    /// Makes a directory, where there are any.
    pub async fn make_directory(&self, path: &str) -> Result<(), ObjectsError> {
        self.files.make_directory(path).await
    }

    /// Removes an empty directory, where there are any.
    pub async fn remove_directory(&self, path: &str) -> Result<(), ObjectsError> {
        self.files.remove_directory(path).await
    }
}
