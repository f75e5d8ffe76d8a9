//! What a layout of one object per file needs beyond [`Store`](super::Store): headers beside the bytes,
//! uploads in parts, and every version of what was deleted.
//!
//! # The contract
//! - An upload is invisible until it is completed, and then appears whole, with its headers.
//! - Parts may come in any order and at once; a part sent twice counts once, the last one.
//! - What arrives in the store is what was sent: the store checks a digest of every body.
//! - An upload that is neither completed nor aborted holds room until the bucket's rules clear it.
//! - A copy is made by the store itself and moves no bytes here; like an upload, it appears whole.

use super::{ETag, Key, ObjectMeta, StoreError};
use crate::units::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is read at once of a part that is not in memory, in bytes.
pub(super) const PIECE: usize = 256 << 10;

/// What is stored beside an object's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// The media type, if it is known.
    pub content_type: Option<String>,
    /// Metadata by name, in lower case, without the family's prefix (`x-amz-meta-`).
    pub metadata: BTreeMap<String, String>,
}

/// An upload in parts that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// As the store names it.
    pub id: String,
    /// What its parts are checked by.
    pub check: PartCheck,
}

/// Where the parts of an upload come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartsFrom {
    /// They are sent.
    Here,
    /// The store copies them from its objects.
    Store,
}

/// What the store checks the parts of an upload by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartCheck {
    /// MD5 (RFC 1864), which every server knows.
    Md5,
    /// CRC-32C, some thirty times faster on both sides.
    Crc32c,
}

/// The bytes of a part on its way.
#[derive(Clone)]
pub enum PartBody {
    /// In memory.
    Memory(Bytes),
    /// Somewhere else, from where they are read when they are sent.
    Kept(Arc<dyn KeptPart>),
}

/// Bytes that are more than memory is to hold.
pub trait KeptPart: Send + Sync + 'static {
    /// How many.
    fn length(&self) -> u64;

    /// So many of them, from a place on; all of which there are.
    fn read(&self, at: u64, length: usize) -> std::io::Result<Bytes>;
}

impl PartBody {
    /// How many bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Kept(part) => part.length(),
        }
    }

    /// All of them, in memory.
    pub fn bytes(&self) -> std::io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.clone()),
            Self::Kept(part) => part.read(0, usize::try_from(part.length()).unwrap_or(usize::MAX)),
        }
    }

    /// Hands them out from front to back, some at a time.
    pub fn each(&self, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
        let part = match self {
            Self::Memory(bytes) => {
                take(bytes);
                return Ok(());
            }
            Self::Kept(part) => part,
        };
        let mut at = 0;
        while at < part.length() {
            let length = (part.length() - at).min(PIECE as u64);
            take(&part.read(at, usize::try_from(length).unwrap_or(PIECE))?);
            at += length;
        }
        Ok(())
    }
}

impl From<Bytes> for PartBody {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

impl std::fmt::Debug for PartBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartBody({} bytes)", self.length())
    }
}

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its mark.
    pub etag: ETag,
    /// Its checksum as the store spells it, where parts are checked by CRC-32C.
    pub crc32c: Option<String>,
}

/// The most that one copy, or one part that is copied, may have.
pub const COPY_LIMIT: u64 = 5 << 30;

/// What is copied: the object, only while it is still the one with this ETag.
#[derive(Clone, Copy, Debug)]
pub struct CopySource<'a> {
    /// The object.
    pub key: &'a Key,
    /// Its mark; another one is `PreconditionFailed`, none `NotFound`.
    pub etag: &'a ETag,
    /// Its bytes: the more there are, the longer a store may take.
    pub size: u64,
}

/// One version of one object, or the mark that it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The object.
    pub key: Key,
    /// Which of its versions, as the store names it.
    pub id: String,
}

/// A store of files. See the module's contract.
#[async_trait]
pub trait FileStore: Send + Sync + 'static {
    /// Writes a whole object with its headers.
    async fn put_file(&self, key: &Key, body: Bytes, headers: &Headers)
    -> Result<ETag, StoreError>;

    /// Meta data and headers of an object.
    async fn head_file(&self, key: &Key) -> Result<(ObjectMeta, Headers), StoreError>;

    /// Begins an upload in parts, all of which come from there.
    async fn begin_upload(
        &self,
        key: &Key,
        headers: &Headers,
        from: PartsFrom,
    ) -> Result<Upload, StoreError>;

    /// Sends part `number` (from 1). Every part but the last has at least 5 MiB.
    async fn upload_part(
        &self,
        key: &Key,
        upload: &Upload,
        number: u32,
        body: PartBody,
    ) -> Result<Part, StoreError>;

    /// Makes the object of its parts, in order. If this is asked again after the effect was unknown,
    /// `NotFound` says that the upload is no more: it was completed, or aborted.
    async fn complete_upload(
        &self,
        key: &Key,
        upload: &Upload,
        parts: &[Part],
    ) -> Result<ETag, StoreError>;

    /// Makes an object of another one's bytes, at most [`COPY_LIMIT`] of them; without headers with the other
    /// one's. The two may be the same object, whose headers are then replaced.
    async fn copy_file(
        &self,
        source: CopySource<'_>,
        to: &Key,
        headers: Option<&Headers>,
    ) -> Result<ETag, StoreError>;

    /// Makes a range of another object (at most [`COPY_LIMIT`] bytes) part `number` of an upload.
    async fn copy_part(
        &self,
        source: CopySource<'_>,
        range: ByteRange,
        to: (&Key, &Upload),
        number: u32,
    ) -> Result<Part, StoreError>;

    /// Gives an upload up and frees its room; one that is no more is no error.
    async fn abort_upload(&self, key: &Key, upload: &Upload) -> Result<(), StoreError>;

    /// Whether the store keeps versions of what is deleted or overwritten. One that does not say keeps none.
    async fn keeps_versions(&self) -> Result<bool, StoreError>;

    /// Up to a thousand versions (and marks of deletion) under a prefix; none: there are no more. Whoever
    /// deletes what was told and asks again is told the next ones.
    async fn versions(&self, prefix: &str) -> Result<Vec<Version>, StoreError>;

    /// Deletes up to a thousand versions for good; returns those that failed.
    async fn delete_versions(
        &self,
        versions: &[Version],
    ) -> Result<Vec<(Key, StoreError)>, StoreError>;

    /// How many parts an upload may have.
    fn part_limit(&self) -> u32;
}
