//! Rank 1: an object store as four verbs (put, get, delete, list) with the conditions that the volume
//! needs. This layer never sees plaintext or keys of encryption, and does not know what a file is.
//!
//! # The contract of every store
//! - A `put` is atomic: a reader sees the former object or the new one, whole; never a part.
//! - Read after write: what `put` acknowledged, every later `get` and `list` sees.
//! - `PutWhen::IfAbsent` and `PutWhen::IfMatch` are decided by the store, so of two nodes one wins.
//! - An [`ETag`] changes when the content changes. Equal ETags of one key mean equal content.
//! - `delete` of a missing key succeeds.
//! - `list` returns keys in the order of their bytes, each once.
//! - An error says whether the effect may have happened all the same ([`StoreError::effect_unknown`]).
//! - Dropping the future of a verb may leave its effect undone or done, never half done.

mod around_files;
mod body;
mod cache_entry;
pub mod conformance;
pub mod conformance_files;
mod dir;
mod disk_cache;
mod error;
pub mod fault;
mod files;
mod ftp;
mod limit;
mod memory;
mod meter;
mod prefix;
mod probe;
mod providers;
mod remote;
mod retry;
mod retry_files;
mod s3;
mod s3_connect;
mod s3_errors;
mod s3_files;
mod s3_headers;
mod s3_identity;
mod throttle;
mod transport;

pub use around_files::{BoundedFiles, MeterFiles};
pub use body::Body;
pub use dir::DirStore;
pub use disk_cache::DiskCache;
pub use error::{StoreError, StoreErrorKind};
pub use fault::Fault;
pub use files::{
    COPY_LIMIT, CopySource, FileStore, Headers, KeptPart, Part, PartBody, PartCheck, PartsFrom,
    Upload, Version,
};
pub use ftp::{
    Ftp, FtpConfig, FtpReader, FtpSecurity, FtpWriter, Listed, ListedKind, list_line, machine_line,
};
pub use limit::Limit;
pub use memory::MemoryStore;
pub use meter::{Count, Hits, Meter, VERBS};
pub use prefix::Prefixed;
pub use probe::{Capabilities, probe};
pub use providers::{PROVIDERS, PathStyle, Provider};
pub use remote::{
    AzureConfig, AzureCredentials, GoogleConfig, GoogleCredentials, Patience, Remote, RemoteEntry,
    RemoteFile, RemoteUpload,
};
pub use retry::{Retry, RetryPolicy};
pub use retry_files::RetryFiles;
pub use s3::S3Store;
pub use s3_connect::{ListVersion, Listing, PART_LIMIT, Profile, S3Config, S3Credentials, S3Keys};
pub use s3_errors::NO_CREDENTIALS;
pub use s3_identity::{GivenToken, TokenKeys, WebIdentity};
pub use throttle::{Rate, Throttle};
pub use transport::{ClientIdentity, Tls};

use crate::units::ByteRange;
use crate::world::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;

/// The longest key in bytes that S3 takes.
pub const KEY_LIMIT: usize = 1024;

/// An object's key: UTF-8, 1 to 1,024 bytes, any character.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// A key, or `None` if the text is empty or too long.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (!text.is_empty() && text.len() <= KEY_LIMIT).then_some(Self(text))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The store's mark of an object's content, opaque, as the store spells it (with its quotes, if any).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

/// When a `put` may take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutWhen {
    /// Whatever is there.
    Always,
    /// Only if the key has no object (`If-None-Match: *`).
    IfAbsent,
    /// Only if the key's object has this ETag (`If-Match`); a missing object is `NotFound` or `PreconditionFailed`.
    IfMatch(ETag),
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key, whole (relative to the store's root).
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// Its content's mark.
    pub etag: ETag,
    /// When the store says it was last written.
    pub modified: Timestamp,
}

/// An object, or the part asked for.
#[derive(Clone, Debug)]
pub struct Object {
    /// The whole object's meta data.
    pub meta: ObjectMeta,
    /// The bytes: shorter than asked for only where the object ends.
    pub body: Body,
    /// The store's clock at its answer.
    pub date: Timestamp,
    /// What is stored beside the bytes, by name in lower case; empty where the store keeps nothing, or a cache answered.
    pub metadata: BTreeMap<String, String>,
}

impl Object {
    /// None of an object's bytes.
    fn of_nothing(meta: ObjectMeta) -> Self {
        let date = meta.modified;
        Self { meta, body: Body::default(), date, metadata: BTreeMap::new() }
    }
}

/// The answer to a conditional `get`.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// The object (or its part).
    Object(Object),
    /// It still has the ETag that the caller named.
    Unchanged,
}

/// What to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Only keys that begin with this (may be empty).
    pub prefix: String,
    /// Roll keys up at the first `/` after the prefix.
    pub roll_up: bool,
    /// Only keys (and rolled-up prefixes) after this one, in byte order.
    pub start_after: Option<String>,
    /// At most this many objects and prefixes; 0: the store's own page size (1,000 on S3).
    pub limit: u32,
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// The objects, in byte order of their keys.
    pub objects: Vec<ObjectMeta>,
    /// The rolled-up prefixes, each ending in `/`, in byte order.
    pub prefixes: Vec<String>,
    /// Where the next page starts (`start_after`), or `None` if this was the last one.
    pub next: Option<String>,
    /// The store's clock at its answer.
    pub date: Timestamp,
}

/// An object store. See the module's contract.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes a whole object and returns its ETag.
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError>;

    /// Reads an object, or `range` of it. With `unless`, an object that still has this ETag is not sent again.
    /// A range that starts at or after the end gives an empty body.
    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError>;

    /// Meta data of an object.
    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError>;

    /// Deletes an object; with `if_match` only while it has this ETag, on stores that can
    /// ([`crate::store`]'s probe tells), else `PreconditionFailed`.
    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError>;

    /// Deletes up to 1,000 objects in one request where the store can; returns those that failed.
    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError>;

    /// One page of a listing.
    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError>;

    /// What this store is, for messages: `s3://bucket at http://127.0.0.1:9000`. Never holds a secret.
    fn describe(&self) -> String;
}

/// Where this store's own decisions end: reads every page of a listing.
pub async fn list_all(
    store: &dyn Store,
    mut request: ListRequest,
) -> Result<(Vec<ObjectMeta>, Vec<String>), StoreError> {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    loop {
        let page = store.list(&request).await?;
        objects.extend(page.objects);
        prefixes.extend(page.prefixes);
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return Ok((objects, prefixes)),
        }
    }
}
