//! A local directory as an object store: the embedded default behind `file://`.
//!
//! An object is a file with the object's bytes and nothing else. Its ETag is its modification time and
//! size: every put sets a time that this key never had before, in nanoseconds, under the key's lock.
//! Copies of the directory that keep times (cp -a, rsync -a) keep the ETags.
//!
//! Durable: a put is acknowledged after fsync of the file and of the directory that names it. Crash
//! story: the bytes are written to a temporary file, which rename(2) puts in place; what a crash leaves
//! of it is removed at the next open. Two processes at once are kept apart by flock(2) on one of 256
//! lock files that are never removed.

use super::{
    ETag, Fetched, Key, ListPage, ListRequest, Object, ObjectMeta, PutWhen, Store, StoreError,
    StoreErrorKind,
};
use crate::units::ByteRange;
use crate::world::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Where temporary files and locks are; no key is spelled like this.
const OWN: &str = ".strongroom-store";
/// Ends the name of a directory, so that keys `a` and `a/b` can both be.
const DIRECTORY: char = '@';
/// Ends a piece of a component that was too long for one name.
const CONTINUED: char = '~';
/// Longest encoded piece; local names have up to 255 bytes.
const PIECE: usize = 240;
/// Objects in a page of a listing unless the caller asks for fewer.
const PAGE: usize = 20_000;
/// Temporary files older than this belong to nobody.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// The store.
#[derive(Debug, Clone)]
pub struct DirStore {
    root: Arc<PathBuf>,
    /// Device and inode of the root.
    identity: (u64, u64),
}

impl DirStore {
    /// Whether a directory was used as a store before.
    pub fn is_one(root: &Path) -> bool {
        root.join(OWN).exists()
    }

    /// Uses a directory, which is created if it is missing (its parent is not).
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root: PathBuf = root.into();
        let fail = |error| failure("open", root.display(), error);
        match fs::create_dir(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(match error.kind() {
                    io::ErrorKind::NotFound => {
                        StoreError::new(StoreErrorKind::NoBucket, "open", root.display())
                            .with_source("its parent directory does not exist: create it first")
                    }
                    _ => fail(error),
                });
            }
            _ => {}
        }
        // An absolute path stays true when the process changes its directory to go to the background.
        let root = fs::canonicalize(&root).map_err(fail)?;
        let metadata = fs::metadata(&root).map_err(fail)?;
        let identity = (metadata.dev(), metadata.ino());
        let store = Self { root: Arc::new(root), identity };
        store.remove_abandoned();
        Ok(store)
    }

    /// Where a key's file is, below the root: for tests of the spelling.
    #[doc(hidden)]
    pub fn path_spelled(key: &str) -> PathBuf {
        path_of(key)
    }

    /// What a file's name adds to the key, if it is spelled as we spell: for tests of the spelling.
    #[doc(hidden)]
    pub fn name_read(name: &str) -> Option<String> {
        read_name(name).map(|name| name.part)
    }

    /// That the root is still the directory that was opened. Where a share was unmounted, its empty mount
    /// point would say of everything that it is missing, and take writes that nobody finds again.
    fn check_root(&self) -> io::Result<()> {
        match fs::metadata(&*self.root) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => Ok(()),
            _ => Err(io::Error::other(Gone(self.root.to_path_buf()))),
        }
    }

    fn own(&self, folder: &str) -> PathBuf {
        self.root.join(OWN).join(folder)
    }

    /// Best effort: what a crash left behind does no harm.
    fn remove_abandoned(&self) {
        let now = SystemTime::now();
        for entry in fs::read_dir(self.own("tmp")).into_iter().flatten().flatten() {
            let age = entry
                .metadata()
                .and_then(|meta| meta.modified())
                .ok()
                .and_then(|modified| now.duration_since(modified).ok());
            if age.is_some_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn lock(&self, key: &Key) -> io::Result<Flock<File>> {
        let folder = self.own("locks");
        let name = format!("{:02x}", blake3::hash(key.as_str().as_bytes()).as_bytes()[0]);
        let open = || OpenOptions::new().create(true).append(true).open(folder.join(&name));
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_root()?;
                make_directories(&self.root, &folder)?;
                open()?
            }
            other => other?,
        };
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }

    fn put_blocking(&self, key: &Key, body: &[u8], when: &PutWhen) -> Result<ETag, StoreError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let fail = |error| failure("put", key, error);
        let target = self.root.join(path_of(key.as_str()));
        let temporary = self.own("tmp").join(format!(
            "{}-{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ));
        let written = self.check_root().and_then(|()| write_new(&self.root, &temporary, body));
        let result = written.and_then(|file| {
            let _lock = self.lock(key)?;
            let current = stat(&target)?;
            let allowed = match (when, &current) {
                (PutWhen::Always, _) | (PutWhen::IfAbsent, None) => true,
                (PutWhen::IfMatch(etag), Some((_, _, current))) => etag == current,
                (PutWhen::IfAbsent, Some(_)) | (PutWhen::IfMatch(_), None) => false,
            };
            if !allowed {
                return Ok(None);
            }
            // A deleted key may come back with the same size within one tick of a coarse clock; the
            // counter tells the two apart.
            let jitter = COUNTER.fetch_add(1, Ordering::Relaxed) % 1000;
            let before = current.map_or(Timestamp(0), |(_, modified, _)| modified);
            let now = Timestamp::from_system_time(SystemTime::now()).0 + jitter as i64;
            let modified = Timestamp(now.max(before.0 + 1));
            file.set_modified(modified.to_system_time())?;
            file.sync_all()?;
            place(&self.root, &temporary, &target)?;
            Ok(Some(etag_of(modified, body.len() as u64)))
        });
        let etag = match result {
            Ok(Some(etag)) => return Ok(etag),
            Ok(None) => Err(StoreError::new(StoreErrorKind::PreconditionFailed, "put", key)),
            Err(error) => Err(fail(error)),
        };
        let _ = fs::remove_file(&temporary);
        etag
    }

    fn get_blocking(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let fail = |error| failure("get", key, error);
        let mut file = File::open(self.root.join(path_of(key.as_str()))).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let (size, modified) = (metadata.len(), modified(&metadata));
        let etag = etag_of(modified, size);
        if unless == Some(&etag) {
            return Ok(Fetched::Unchanged);
        }
        let range = range.unwrap_or(ByteRange::new(0, size)).intersection(ByteRange::new(0, size));
        let mut body = vec![0; range.length() as usize];
        file.seek(SeekFrom::Start(range.offset())).map_err(fail)?;
        file.read_exact(&mut body).map_err(fail)?;
        let meta = ObjectMeta { key: key.clone(), size, etag, modified };
        let (date, metadata) = (now(), BTreeMap::new());
        Ok(Fetched::Object(Object { meta, body: Bytes::from(body).into(), date, metadata }))
    }

    fn delete_blocking(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        let fail = |error| failure("delete", key, error);
        let target = self.root.join(path_of(key.as_str()));
        let _lock = self.lock(key).map_err(fail)?;
        let current = stat(&target).map_err(fail)?;
        if let Some(expected) = if_match
            && current.as_ref().is_none_or(|(_, _, etag)| etag != expected)
        {
            return Err(StoreError::new(StoreErrorKind::PreconditionFailed, "delete", key));
        }
        if current.is_none() {
            return Ok(());
        }
        fs::remove_file(&target).map_err(fail)?;
        let parent = target.parent().unwrap_or(&self.root);
        sync_directory(parent).map_err(fail)?;
        // Empty directories go as far as they can; a put that loses its directory makes it again.
        let mut empty = parent;
        while empty != self.root.as_path() && fs::remove_dir(empty).is_ok() {
            empty = empty.parent().unwrap_or(&self.root);
        }
        Ok(())
    }

    fn list_blocking(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let ListRequest { prefix, roll_up, start_after, limit } = request;
        let limit = if *limit == 0 { PAGE } else { *limit as usize };
        // Only the deepest directory that the prefix names is read.
        let base = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
        let mut found = Vec::new();
        self.check_root().map_err(|error| failure("list", prefix, error))?;
        let walk = walk(&directory_of(&self.root, base), base, prefix, *roll_up, &mut found);
        match walk {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|error| failure("list", prefix, error))?,
        }
        if let Some(after) = start_after {
            found.retain(|(key, _)| key > after);
        }
        found.sort();
        let more = found.len() > limit;
        found.truncate(limit);
        let next = if more { found.last().map(|(key, _)| key.clone()) } else { None };
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for (key, path) in found {
            let Some(path) = path else {
                prefixes.push(key);
                continue;
            };
            // What was deleted since is not listed.
            let Some((size, modified, etag)) =
                stat(&path).map_err(|error| failure("list", prefix, error))?
            else {
                continue;
            };
            if let Some(key) = Key::new(key) {
                objects.push(ObjectMeta { key, size, etag, modified });
            }
        }
        Ok(ListPage { objects, prefixes, next, date: now() })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let result = work(store.clone());
            match result {
                Err(error) if error.kind == StoreErrorKind::NotFound => {
                    let gone = |gone| failure(error.operation, &error.object, gone);
                    store.check_root().map_err(gone)?;
                    Err(error)
                }
                other => other,
            }
        });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => {
                Err(StoreError::new(StoreErrorKind::Other, "run", "task").with_source(error))
            }
        }
    }
}

#[async_trait]
impl Store for DirStore {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        let key = key.clone();
        self.blocking(move |store| store.put_blocking(&key, &body, &when)).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let (key, unless) = (key.clone(), unless.cloned());
        self.blocking(move |store| store.get_blocking(&key, range, unless.as_ref())).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        let key = key.clone();
        self.blocking(move |store| {
            let path = store.root.join(path_of(key.as_str()));
            match stat(&path).map_err(|error| failure("head", &key, error))? {
                Some((size, modified, etag)) => Ok(ObjectMeta { key, size, etag, modified }),
                None => Err(StoreError::new(StoreErrorKind::NotFound, "head", &key)),
            }
        })
        .await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        let (key, if_match) = (key.clone(), if_match.cloned());
        self.blocking(move |store| store.delete_blocking(&key, if_match.as_ref())).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let keys = keys.to_vec();
        self.blocking(move |store| {
            let failed = keys.into_iter().filter_map(|key| {
                let error = store.delete_blocking(&key, None).err()?;
                Some((key, error))
            });
            Ok(failed.collect())
        })
        .await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let request = request.clone();
        self.blocking(move |store| store.list_blocking(&request)).await
    }

    fn describe(&self) -> String {
        format!("file://{}", self.root.display())
    }
}

/// The root is not what was opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "the directory {} is gone, or another one is in its place: mount its share again or put it back",
    .0.display()
)]
struct Gone(PathBuf);

/// Collects the keys under a directory: objects with their paths, rolled-up prefixes without.
fn walk(
    directory: &Path,
    base: &str,
    prefix: &str,
    roll_up: bool,
    found: &mut Vec<(String, Option<PathBuf>)>,
) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // What is not spelled as we spell (our own folder, files of others) is no object.
        let Some(Name { part, is_directory, continued }) = name.to_str().and_then(read_name) else {
            continue;
        };
        let key = format!("{base}{part}");
        if !is_directory {
            if key.starts_with(prefix) {
                found.push((key, Some(entry.path())));
            }
            continue;
        }
        let relevant = key.starts_with(prefix) || prefix.starts_with(&key);
        if !relevant {
            continue;
        }
        if roll_up && !continued && key.len() > prefix.len() {
            if holds_objects(&entry.path())? {
                found.push((key, None));
            }
            continue;
        }
        match walk(&entry.path(), &key, prefix, roll_up, found) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn holds_objects(directory: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(read_name) else { continue };
        let holds = !name.is_directory || holds_objects(&entry.path())?;
        if holds {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Size, time and mark of an object's file; `None` if there is none.
fn stat(path: &Path) -> io::Result<Option<(u64, Timestamp, ETag)>> {
    match fs::metadata(path) {
        Ok(metadata) => {
            let (size, modified) = (metadata.len(), modified(&metadata));
            Ok(Some((size, modified, etag_of(modified, size))))
        }
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn etag_of(modified: Timestamp, size: u64) -> ETag {
    ETag(format!("\"{:x}-{size:x}\"", modified.0))
}

fn modified(metadata: &fs::Metadata) -> Timestamp {
    Timestamp(metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()))
}

/// The store's own clock, as a server has one.
fn now() -> Timestamp {
    Timestamp::from_system_time(SystemTime::now())
}

fn write_new(root: &Path, path: &Path, body: &[u8]) -> io::Result<File> {
    let open = || OpenOptions::new().create_new(true).write(true).open(path);
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                make_directories(root, folder)?;
            }
            open()?
        }
        // A process with our number was killed and left it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()?
        }
        other => other?,
    };
    file.write_all(body)?;
    Ok(file)
}

/// Renames into place, making directories that are missing (another process may remove empty ones).
fn place(root: &Path, temporary: &Path, target: &Path) -> io::Result<()> {
    let parent = target.parent().unwrap_or(root);
    for _ in 0..100 {
        match fs::rename(temporary, target) {
            Ok(()) => return sync_directory(parent),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directories(root, parent)?
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("its directory is removed again and again"))
}

fn make_directories(root: &Path, path: &Path) -> io::Result<()> {
    if path == root {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(root);
    match fs::create_dir(path) {
        Ok(()) => sync_directory(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directories(root, parent)?;
            match fs::create_dir(path) {
                Ok(()) => sync_directory(parent),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                    ) =>
                {
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(directory) => directory.sync_all(),
        // Removed as empty by another process since: then it names nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a file's name says.
struct Name {
    /// What it adds to the key, with the `/` that a directory stands for.
    part: String,
    is_directory: bool,
    /// The next level goes on with the same component.
    continued: bool,
}

/// Reads a file's name; `None` for what is not spelled as [`path_of`] does.
fn read_name(name: &str) -> Option<Name> {
    let (spelled, is_directory) = match name.strip_suffix(DIRECTORY) {
        Some(spelled) => (spelled, true),
        None => (name, false),
    };
    let (spelled, continued) = match spelled.strip_suffix(CONTINUED) {
        Some(spelled) => (spelled, true),
        None => (spelled, false),
    };
    let mut part = decode(spelled).filter(|_| name != OWN && (is_directory || !continued))?;
    if is_directory && !continued {
        part.push('/');
    }
    Some(Name { part, is_directory, continued })
}

/// A key's path below the root.
fn path_of(key: &str) -> PathBuf {
    let mut path = PathBuf::new();
    let mut components = key.split('/').peekable();
    while let Some(component) = components.next() {
        let mut rest = encode(component);
        while rest.len() > PIECE {
            // Never in the middle of an escape of three characters.
            let mut cut = PIECE;
            while rest.as_bytes()[cut - 1] == b'%' || rest.as_bytes()[cut - 2] == b'%' {
                cut -= 1;
            }
            // Nor in the middle of a character, whose escapes are decoded together.
            while is_continuation(&rest[cut..]) {
                cut -= 3;
            }
            let (piece, tail) = rest.split_at(cut);
            path.push(format!("{piece}{CONTINUED}{DIRECTORY}"));
            // A piece is a name of its own: it must not be `.`, `..` or our own folder.
            rest = match tail.strip_prefix('.') {
                Some(tail) => format!("%2E{tail}"),
                None => tail.to_owned(),
            };
        }
        if components.peek().is_some() {
            path.push(format!("{rest}{DIRECTORY}"));
        } else {
            path.push(rest);
        }
    }
    path
}

/// The directory of a prefix that ends in `/` (or is empty).
fn directory_of(root: &Path, base: &str) -> PathBuf {
    match base.strip_suffix('/') {
        Some(_) => {
            // The spelling of a key one level below, less its last part.
            let mut path = root.join(path_of(&format!("{base}x")));
            path.pop();
            path
        }
        None => root.to_owned(),
    }
}

/// Whether an escaped byte `10xxxxxx` follows: the middle of a UTF-8 character.
fn is_continuation(text: &str) -> bool {
    matches!(text.as_bytes(), [b'%', b'8' | b'9' | b'A' | b'B', ..])
}

/// A component as a file name: escapes all but plain characters; an empty one is `%`.
fn encode(component: &str) -> String {
    if component.is_empty() {
        return "%".to_owned();
    }
    let mut text = String::with_capacity(component.len());
    for (index, byte) in component.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'=' | b'+' | b',')
            || byte == b'.' && index > 0;
        if plain {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Reads [`encode`] (or a piece of what it writes) back; `None` for what it never writes.
fn decode(text: &str) -> Option<String> {
    if text == "%" {
        return Some(String::new());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    // Another spelling of the same key would list it twice.
    String::from_utf8(decoded).ok().filter(|component| encode(component) == text)
}

fn failure(
    operation: &'static str,
    object: impl std::fmt::Display,
    error: io::Error,
) -> StoreError {
    use io::ErrorKind as Io;
    let gone = error.get_ref().is_some_and(|inner| inner.is::<Gone>());
    let kind = match error.kind() {
        _ if gone => StoreErrorKind::NoBucket,
        Io::NotFound | Io::NotADirectory => StoreErrorKind::NotFound,
        Io::PermissionDenied => StoreErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded => StoreErrorKind::Full,
        Io::ReadOnlyFilesystem => StoreErrorKind::ReadOnly,
        Io::InvalidFilename => StoreErrorKind::Invalid,
        Io::Interrupted | Io::TimedOut => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Other,
    };
    let result = StoreError::new(kind, operation, object);
    if kind == StoreErrorKind::Denied {
        let user = nix::unistd::geteuid();
        let remedy = "must be able to read and write the store's directory and all in it";
        return result.with_source(format!("{error}: the user with the number {user} {remedy}"));
    }
    result.with_source(error)
}
