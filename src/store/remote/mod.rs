//! Files in stores that do not speak S3, through OpenDAL: Azure's blobs, and Google's own protocol. Not a
//! [`Store`](super::Store): nobody has tried whether they keep all that a volume rests on.
//!
//! # What it promises
//! - A file appears whole, with its headers, when its upload is finished, and not before.
//! - A failed request is sent again, for half a minute; for ten minutes in the middle of a transfer (signatures are
//!   good for fifteen).
//! - Names go as they are; one that OpenDAL would change (a blank at an end, `//`) is refused.
//! - What was stored is asked for afterwards: its size, and the headers that it went with.
//!
//! What it cannot promise: a checksum of each body. OpenDAL sends none, so that only TLS tells of bytes that change
//! on their way.

mod azure;
mod errors;
mod google;
mod upload;

pub use azure::{AzureConfig, AzureCredentials};
pub use google::{GoogleConfig, GoogleCredentials};
pub use upload::RemoteUpload;

use super::transport::{Fetcher, Tls};
use super::{Body, ETag, Headers, Key, StoreError, StoreErrorKind};
use crate::units::ByteRange;
use crate::world::{Entropy, Timestamp};
use errors::{Asked, classified};
use futures::TryStreamExt;
use opendal::options::{ListOptions, ReadOptions, StatOptions};
use opendal::{Lister, Metadata, OperationContext, Operator};
use std::sync::Arc;
use std::time::Duration;

/// How long a request is asked again.
const SOON: Duration = Duration::from_secs(30);
/// How long in the middle of a transfer.
const PATIENT: Duration = Duration::from_secs(10 * 60);

/// A place of files.
pub struct Remote {
    soon: Operator,
    patient: Operator,
    fetcher: Fetcher,
    place: String,
    /// How the settings are called in messages.
    settings: &'static str,
    part_limit: u32,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its bytes.
    pub size: u64,
    /// Its mark.
    pub etag: Option<ETag>,
    /// Which of its versions it is, where the store tells.
    pub version: Option<String>,
    /// When it was stored.
    pub modified: Timestamp,
    /// What is beside its bytes.
    pub headers: Headers,
}

/// What a listing tells of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEntry {
    /// The whole path; a directory's ends in `/`.
    pub path: String,
    /// The file's bytes.
    pub size: u64,
    /// When it was stored.
    pub modified: Timestamp,
}

/// How long a failed request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Half a minute: nothing is lost.
    Soon,
    /// Ten minutes: what was done before would be lost.
    Long,
}

impl Remote {
    /// `tls_unused` says that the endpoint is spoken to in plain HTTP.
    fn new(
        operator: Operator,
        (tls, tls_unused): (&Tls, bool),
        entropy: Arc<dyn Entropy>,
        place: String,
        settings: &'static str,
        part_limit: u32,
    ) -> Result<Self, StoreError> {
        let fetcher = Fetcher::new(tls, tls_unused, entropy).map_err(|why| {
            StoreError::new(StoreErrorKind::Invalid, "connect", &place).with_source(why)
        })?;
        let asking = |patience| {
            let context = OperationContext::new().with_http_transport(fetcher.within(patience));
            operator.clone().with_context(context)
        };
        let (soon, patient) = (asking(SOON), asking(PATIENT));
        Ok(Self { soon, patient, fetcher, place, settings, part_limit })
    }

    /// The same with no more than so many requests under way at once, if there is a limit.
    pub fn limited(self, at_once: Option<usize>) -> Self {
        if let Some(at_once) = at_once {
            self.fetcher.limit(at_once);
        }
        self
    }

    /// How this place is called in messages.
    pub fn describe(&self) -> &str {
        &self.place
    }

    /// How many parts an upload may have.
    pub fn part_limit(&self) -> u32 {
        self.part_limit
    }

    fn operator(&self, patience: Patience) -> &Operator {
        match patience {
            Patience::Soon => &self.soon,
            Patience::Long => &self.patient,
        }
    }

    fn asked<'a>(&'a self, operation: &'static str, object: &'a str) -> Asked<'a> {
        Asked { operation, object, place: &self.place, settings: self.settings }
    }

    /// A path that OpenDAL takes as it is.
    fn checked<'a>(&self, operation: &'static str, path: &'a str) -> Result<&'a str, StoreError> {
        let is_kept = path.trim() == path && !path.starts_with('/') && !path.contains("//");
        if is_kept && Key::new(path).is_some() {
            return Ok(path);
        }
        let error = StoreError::new(StoreErrorKind::Invalid, operation, path.escape_debug());
        Err(error.with_source(
            "a name here has 1 to 1,024 bytes, no blank at either end, and no empty component: choose another",
        ))
    }

    /// What is known of a file.
    pub async fn head(&self, path: &str) -> Result<RemoteFile, StoreError> {
        let path = self.checked("head", path)?;
        let found = self.soon.stat_options(path, StatOptions::default()).await;
        let found = found.map_err(|error| classified(error, self.asked("head", path)))?;
        Ok(file(&found))
    }

    /// A range of a file, which is not beyond its end, while it is still the same.
    pub async fn read(
        &self,
        path: &str,
        range: ByteRange,
        same: &RemoteFile,
        patience: Patience,
    ) -> Result<Body, StoreError> {
        let path = self.checked("get", path)?;
        let operator = self.operator(patience);
        let by_version = operator.info().capability().read_with_if_version_match;
        let version = same.version.clone().filter(|_| by_version);
        let etag = same.etag.as_ref().map(|etag| etag.0.clone()).filter(|_| version.is_none());
        let options = ReadOptions {
            range: (range.offset()..range.end()).into(),
            if_match: etag,
            if_version_match: version,
            ..ReadOptions::default()
        };
        let read = operator.read_options(path, options).await;
        let read = read.map_err(|error| classified(error, self.asked("get", path)))?;
        if read.len() as u64 != range.length() {
            let error = StoreError::new(StoreErrorKind::Corrupt, "get", path);
            return Err(error.with_source("fewer bytes than the object has"));
        }
        Ok(read.collect())
    }

    /// Lists what begins with a directory's path (empty, or ending in `/`): all of it, or one level.
    pub async fn list(
        &self,
        directory: &str,
        recursive: bool,
    ) -> Result<RemoteListing<'_>, StoreError> {
        let from = match directory {
            "" => "/",
            _ => self.checked("list", directory)?,
        };
        let options = ListOptions { recursive, ..ListOptions::default() };
        let lister = self.soon.lister_options(from, options).await;
        let lister = lister.map_err(|error| classified(error, self.asked("list", directory)))?;
        Ok(RemoteListing { remote: self, directory: directory.to_owned(), lister })
    }

    /// Removes a file; none is no error.
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let path = self.checked("delete", path)?;
        match self.soon.delete(path).await {
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(()),
            deleted => deleted.map_err(|error| classified(error, self.asked("delete", path))),
        }
    }
}

/// A listing under way.
pub struct RemoteListing<'a> {
    remote: &'a Remote,
    directory: String,
    lister: Lister,
}

impl RemoteListing<'_> {
    /// The next name.
    pub async fn next(&mut self) -> Result<Option<RemoteEntry>, StoreError> {
        let next = self.lister.try_next().await;
        let next =
            next.map_err(|error| classified(error, self.remote.asked("list", &self.directory)))?;
        Ok(next.map(|entry| {
            let (path, found) = entry.into_parts();
            let path = if path == "/" { String::new() } else { path };
            RemoteEntry { path, size: found.content_length(), modified: modified(&found) }
        }))
    }
}

fn file(found: &Metadata) -> RemoteFile {
    let metadata = found.user_metadata().into_iter().flatten();
    let metadata = metadata.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    RemoteFile {
        size: found.content_length(),
        etag: found.etag().map(|etag| ETag(etag.to_owned())),
        version: found.version().map(str::to_owned),
        modified: modified(found),
        headers: Headers {
            content_type: found.content_type().map(str::to_owned),
            metadata: metadata.collect(),
        },
    }
}

fn modified(found: &Metadata) -> Timestamp {
    found.last_modified().map_or(Timestamp::default(), |time| {
        Timestamp(i64::try_from(time.into_inner().as_nanosecond()).unwrap_or_default())
    })
}
