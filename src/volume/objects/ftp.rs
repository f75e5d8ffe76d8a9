//! Files on a server of FTP: a directory that somebody else keeps.

use super::bucket::of_directory;
use super::listing;
use super::local::{is_unfinished, unfinished_name};
use super::parts::{Piece, Plan};
use super::{Beside, Emit, Entry, Files, Kind, ListFiles, Modified, ObjectsError};
use crate::crypto::datasafed::{Decryptor, OVERHEAD, StreamKey};
use crate::store::{Ftp, Listed, ListedKind, StoreError, StoreErrorKind};
use crate::world::Entropy;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a broken body is asked for again without any more of it.
const PATIENT: Duration = Duration::from_secs(15 * 60);
/// Requests at once; the server's own bound of connections holds too.
const REQUESTS: usize = 4;

/// Files on a server.
pub struct FtpFiles {
    server: Arc<Ftp>,
    /// Empty, or ends in `/`.
    root: String,
    entropy: Arc<dyn Entropy>,
    afterwards: TaskTracker,
}

impl FtpFiles {
    /// The files below a directory: empty is where the server puts who logs in. What is still to be done when a
    /// transfer was broken off is tracked by `afterwards`.
    pub fn new(
        server: Ftp,
        root: &str,
        entropy: Arc<dyn Entropy>,
        afterwards: TaskTracker,
    ) -> Self {
        let root = match root {
            "" => String::new(),
            _ if root.ends_with('/') => root.to_owned(),
            _ => format!("{root}/"),
        };
        Self { server: Arc::new(server), root, entropy, afterwards }
    }

    fn place(&self, path: &str) -> String {
        match path {
            // Without the slash at its end, but for the root of all.
            "" if self.root.len() > 1 => self.root.trim_end_matches('/').to_owned(),
            _ => format!("{}{path}", self.root),
        }
    }

    async fn look(&self, path: &str) -> Result<Listed, ObjectsError> {
        // The root is no file, wherever it is.
        if path.is_empty() {
            return Err(ObjectsError::NotFound);
        }
        self.server.find(&self.place(path)).await.map_err(|error| match error.kind {
            StoreErrorKind::NotFound => ObjectsError::NotFound,
            _ => error.into(),
        })
    }

    /// The file at a path and its size.
    async fn file(&self, path: &str) -> Result<(u64, Listed), ObjectsError> {
        let found = self.look(path).await?;
        match found.kind {
            ListedKind::File(size) => Ok((size, found)),
            ListedKind::Directory => Err(ObjectsError::IsDirectory),
        }
    }

    /// One directory, in the order of its names, with what is being written.
    async fn list_all(
        &self,
        directory: &str,
        exact_times: bool,
    ) -> Result<Vec<Entry>, ObjectsError> {
        let listed = self.server.list(&self.place(directory)).await.map_err(of_directory)?;
        let entries = listed.into_iter().map(async |mut found: Listed| {
            let path = match directory {
                "" => found.name.clone(),
                _ => format!("{directory}/{}", found.name),
            };
            let is_file = matches!(found.kind, ListedKind::File(_));
            if exact_times && is_file && !found.is_exact {
                match self.server.modified(&self.place(&path)).await {
                    Ok(modified) => found.modified = modified.or(found.modified),
                    // Removed since it was listed.
                    Err(error) if error.kind == StoreErrorKind::NotFound => {}
                    Err(error) => return Err(ObjectsError::from(error)),
                }
            }
            Ok(entry(path, &found))
        });
        let entries: Vec<_> = entries.collect();
        let mut entries: Vec<Entry> =
            futures::stream::iter(entries).buffered(REQUESTS).try_collect().await?;
        listing::keep_names(&mut entries, directory);
        Ok(entries)
    }

    async fn list_one(
        &self,
        directory: &str,
        exact_times: bool,
    ) -> Result<Vec<Entry>, ObjectsError> {
        let mut entries = self.list_all(directory, exact_times).await?;
        entries.retain(|entry| {
            let name = entry.path.rsplit('/').next().unwrap_or_default();
            !is_unfinished(OsStr::new(name))
        });
        Ok(entries)
    }
}

#[async_trait]
impl Files for FtpFiles {
    async fn find(&self, path: &str) -> Result<Entry, ObjectsError> {
        let (_, found) = self.file(path).await?;
        Ok(entry(path.to_owned(), &found))
    }

    async fn list(
        &self,
        directory: &str,
        ListFiles { depth, told_times }: ListFiles,
        emit: Emit<'_>,
    ) -> Result<(), ObjectsError> {
        let list_one =
            |directory: String| async move { self.list_one(&directory, told_times).await };
        listing::by_levels(directory, depth.unwrap_or(u32::MAX), list_one, emit).await
    }

    async fn read(
        &self,
        path: &str,
        key: Option<Arc<StreamKey>>,
        out: Sender<Vec<Bytes>>,
    ) -> Result<(), ObjectsError> {
        let (size, first) = match self.file(path).await {
            // As the original has it.
            Err(ObjectsError::IsDirectory) => return Err(ObjectsError::NotFound),
            file => file?,
        };
        if key.is_some() && size < OVERHEAD {
            return Err(ObjectsError::without_iv(size));
        }
        let mut opened = Opened::new(key.as_deref());
        let mut offset = 0;
        let mut progress = Instant::now();
        loop {
            let before = offset;
            match self.pass_on(path, size, &mut offset, &mut opened, &out).await {
                // All is here, and only the last word is missing.
                Err(ObjectsError::Store(error)) if error.is_transient() && offset == size => {
                    tracing::debug!("{error}: after the last byte");
                    return Ok(());
                }
                // Where no times are told, the rest might be another file's.
                Err(ObjectsError::Store(error))
                    if error.is_transient() && first.modified.is_some() =>
                {
                    if offset > before {
                        progress = Instant::now();
                    }
                    if offset == 0 || progress.elapsed() > PATIENT {
                        return Err(error.into());
                    }
                    tracing::debug!("{error}: going on at byte {offset}");
                    // A server that is away says so at once: not all the time.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    match self.file(path).await {
                        Ok((again, found)) if (again, found.modified) == (size, first.modified) => {
                        }
                        Ok(_) | Err(ObjectsError::NotFound) => {
                            return Err(ObjectsError::Changed(path.to_owned()));
                        }
                        Err(ObjectsError::Store(error)) if error.is_transient() => {}
                        Err(error) => return Err(error),
                    }
                }
                done => return done,
            }
        }
    }

    async fn write(
        &self,
        path: &str,
        beside: Beside,
        pieces: Receiver<Piece>,
    ) -> Result<(), ObjectsError> {
        let replaces = match self.file(path).await {
            Ok(_) => true,
            Err(ObjectsError::NotFound) => false,
            Err(error) => return Err(error),
        };
        let place = self.place(path);
        let (directory, name) = match place.rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some((directory, name)) => (directory, name),
            None => ("", place.as_str()),
        };
        if !matches!(directory, "" | "/") {
            self.server.make_directories(directory).await?;
        }
        let unfinished = || {
            let name = unfinished_name(name.as_bytes(), &*self.entropy);
            let name = String::from_utf8_lossy(&name);
            match directory {
                "" => name.into_owned(),
                "/" => format!("/{name}"),
                _ => format!("{directory}/{name}"),
            }
        };
        let (unfinished, aside) = (unfinished(), unfinished());
        // In a task of its own, which removes what is unfinished if this future is dropped.
        let broken_off = CancellationToken::new();
        let _guard = broken_off.clone().drop_guard();
        let server = self.server.clone();
        let task = self.afterwards.spawn(async move {
            let sent = send(&server, &unfinished, pieces, broken_off).await;
            let size = match sent {
                Ok(size) => size,
                Err(error) => {
                    let _ = server.remove(&unfinished).await;
                    return Err(error);
                }
            };
            // Best effort: not every server sets times.
            let _ = server.set_modified(&unfinished, beside.modified).await;
            let Err(error) = server.rename(&unfinished, size, &place, &aside).await else {
                return Ok(());
            };
            // Never both: where the former file was put aside, the new one stays until that has its name back.
            let is_safe = !replaces
                || server.find(&place).await.is_ok()
                || server.put_back(&aside, &place).await.is_ok();
            if is_safe {
                let _ = server.remove(&unfinished).await;
                return Err(error.into());
            }
            let why =
                format!("{error}: the new file is at {unfinished}, the former one at {aside}");
            Err(StoreError::new(StoreErrorKind::Other, "put", &place).with_source(why).into())
        });
        task.await.unwrap_or(Err(ObjectsError::Ended))
    }

    async fn remove(&self, path: &str) -> Result<(), ObjectsError> {
        match self.remove_file(path).await {
            // The original finds no file there, and does nothing.
            Err(ObjectsError::IsDirectory) => Ok(()),
            removed => removed,
        }
    }

    async fn remove_tree(&self, path: &str) -> Result<(), ObjectsError> {
        let (mut files, mut directories) = (Vec::new(), vec![path.to_owned()]);
        let list_all = |directory: String| async move { self.list_all(&directory, false).await };
        let mut sort = |entry: Entry| {
            match entry.kind {
                Kind::File(_) => files.push(entry.path),
                Kind::Directory | Kind::Implied => directories.push(entry.path),
            }
            Ok(())
        };
        if let Err(error) = listing::by_levels(path, u32::MAX, list_all, &mut sort).await {
            // LIST gives a file where one is named: the original takes it for a directory with nothing to remove.
            let is_listed = matches!(error, ObjectsError::NoDirectory)
                && matches!(self.list_all(path, false).await, Err(ObjectsError::NoDirectory))
                && self.file(path).await.is_ok();
            return match is_listed && !self.server.lists_for_machines().await? {
                true => Ok(()),
                false => Err(error),
            };
        }
        let removals: Vec<_> = files.iter().map(|path| self.remove_file(path)).collect();
        let mut removals = futures::stream::iter(removals).buffer_unordered(REQUESTS);
        while let Some(removed) = removals.next().await {
            removed?;
        }
        // Those below come after those above.
        for directory in directories.iter().rev().filter(|path| !path.is_empty()) {
            match self.server.remove_directory(&self.place(directory)).await {
                Err(mut error) if error.kind == StoreErrorKind::NotFound => {
                    if !matches!(self.look(directory).await, Err(ObjectsError::NotFound)) {
                        error.kind = StoreErrorKind::Denied;
                        return Err(error.into());
                    }
                }
                removed => removed?,
            }
        }
        Ok(())
    }

    async fn make_directory(&self, path: &str) -> Result<(), ObjectsError> {
        let place = self.place(path);
        if matches!(place.as_str(), "" | "/") {
            return Ok(());
        }
        let refused = match self.server.make_directories(&place).await {
            Err(error) if error.kind == StoreErrorKind::NotFound => error,
            made => return Ok(made?),
        };
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            if self.file(&path[..end]).await.is_ok() {
                return Err(ObjectsError::Invalid("is a file not a directory".to_owned()));
            }
        }
        Err(refused.into())
    }

    async fn remove_directory(&self, path: &str) -> Result<(), ObjectsError> {
        match self.server.remove_directory(&self.place(path)).await {
            // Not there, or not empty: servers say the same of both, and the original takes it for the first.
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
            removed => Ok(removed?),
        }
    }

    fn has_directories(&self) -> bool {
        true
    }

    fn plan(&self, _: Option<u64>) -> Plan {
        Plan::Even
    }
}

impl FtpFiles {
    /// Removes a file; none is no error, a directory is one.
    async fn remove_file(&self, path: &str) -> Result<(), ObjectsError> {
        match self.file(path).await {
            Ok(_) => {}
            Err(ObjectsError::NotFound) => return Ok(()),
            Err(error) => return Err(error),
        }
        match self.server.remove(&self.place(path)).await {
            // Servers say the same of what is not there and of what may not be removed.
            Err(mut error) if error.kind == StoreErrorKind::NotFound => {
                match self.file(path).await {
                    Err(ObjectsError::NotFound) => Ok(()),
                    _ => {
                        error.kind = StoreErrorKind::Denied;
                        Err(error.into())
                    }
                }
            }
            removed => Ok(removed?),
        }
    }

    /// Sends what comes from `offset` on, and moves that along.
    async fn pass_on(
        &self,
        path: &str,
        size: u64,
        offset: &mut u64,
        opened: &mut Opened<'_>,
        out: &Sender<Vec<Bytes>>,
    ) -> Result<(), ObjectsError> {
        let place = self.place(path);
        let mut reader = self.server.open(&place, *offset).await?;
        while let Some(piece) = reader.next().await? {
            *offset += piece.len() as u64;
            if *offset > size {
                return Err(ObjectsError::Changed(path.to_owned()));
            }
            let piece = opened.open(piece);
            if !piece.is_empty() && out.send(vec![piece]).await.is_err() {
                // A receiver that is gone has its own reason.
                return Ok(());
            }
        }
        if *offset < size {
            let error = StoreError::new(StoreErrorKind::Unavailable, "get", &place);
            let why = format!("the data ended after {offset} of {size} bytes");
            return Err(error.with_source(why).into());
        }
        Ok(())
    }
}

/// Deciphers from front to back, if there is a key.
struct Opened<'k> {
    key: Option<&'k StreamKey>,
    iv: Vec<u8>,
    decryptor: Option<Decryptor<'k>>,
}

impl<'k> Opened<'k> {
    fn new(key: Option<&'k StreamKey>) -> Self {
        Self { key, iv: Vec::new(), decryptor: None }
    }

    fn open(&mut self, piece: Bytes) -> Bytes {
        let Some(key) = self.key else { return piece };
        let mut piece = Vec::from(piece);
        if self.decryptor.is_none() {
            let missing = (OVERHEAD as usize - self.iv.len()).min(piece.len());
            self.iv.extend(piece.drain(..missing));
            let Ok(iv) = <[u8; 16]>::try_from(&self.iv[..]) else { return Bytes::new() };
            self.decryptor = Some(key.decryptor(iv));
        }
        if let Some(decryptor) = &mut self.decryptor {
            decryptor.update(&mut piece);
        }
        Bytes::from(piece)
    }
}

/// Sends what comes under a name that nobody reads, unless it is broken off before the end came.
async fn send(
    server: &Arc<Ftp>,
    unfinished: &str,
    mut pieces: Receiver<Piece>,
    broken_off: CancellationToken,
) -> Result<u64, ObjectsError> {
    let mut writer = server.create(unfinished).await?;
    loop {
        let step = async {
            match pieces.recv().await {
                Some(Piece::Part(body, _share)) => {
                    let bytes = body.bytes().map_err(ObjectsError::Source)?;
                    writer.write(&bytes).await?;
                    Ok(true)
                }
                Some(Piece::End) => Ok(false),
                Some(Piece::Failed(error)) => Err(ObjectsError::Source(error)),
                None => Err(ObjectsError::Ended),
            }
        };
        let more = tokio::select! {
            biased;
            () = broken_off.cancelled() => Err(ObjectsError::Ended),
            step = step => step,
        };
        if !more? {
            return Ok(writer.finish().await?);
        }
    }
}

fn entry(path: String, found: &Listed) -> Entry {
    let kind = match found.kind {
        ListedKind::File(size) => Kind::File(size),
        ListedKind::Directory => Kind::Directory,
    };
    Entry { path, kind, modified: found.modified.map_or(Modified::Unknown, Modified::Told) }
}
