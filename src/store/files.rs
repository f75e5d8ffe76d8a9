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
        body: Bytes,
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
