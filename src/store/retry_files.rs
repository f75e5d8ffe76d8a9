//! Tries requests for files again, as [`Retry`](super::Retry) does those of a store.

use super::files::CopySource;
use super::retry::{Attempts, Effect, Request, reads};
use super::transport::deadline;
use super::{
    ETag, FileStore, Headers, Key, ObjectMeta, Part, PartBody, PartsFrom, RetryPolicy, StoreError,
    StoreErrorKind, Upload, Version,
};
use crate::units::ByteRange;
use crate::world::Entropy;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The decorator.
pub struct RetryFiles {
    inner: Arc<dyn FileStore>,
    attempts: Attempts,
    patient: Attempts,
}

impl RetryFiles {
    /// Pauses have a random part, so that many clients do not come back at once. In the middle of an
    /// upload the policy is `patient`: what was sent would be lost.
    pub fn new(
        inner: Arc<dyn FileStore>,
        policy: RetryPolicy,
        patient: RetryPolicy,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let attempts = Attempts { policy, entropy: entropy.clone() };
        Self { inner, attempts, patient: Attempts { policy: patient, entropy } }
    }
}

impl RetryFiles {
    /// Patient with a request that moves so many bytes, here or in the store: as long again as one attempt may take.
    fn patient_with(&self, bytes: u64) -> Attempts {
        let Attempts { policy, entropy } = &self.patient;
        let deadline = policy.deadline + deadline(bytes);
        Attempts { policy: RetryPolicy { deadline, ..*policy }, entropy: entropy.clone() }
    }
}

fn repeats<'a>(operation: &'static str, object: &'a str) -> Request<'a> {
    Request { operation, object, effect: Effect::Repeatable }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStore for RetryFiles {
    async fn put_file(
        &self,
        key: &Key,
        body: Bytes,
        headers: &Headers,
    ) -> Result<ETag, StoreError> {
        let attempt = || self.inner.put_file(key, body.clone(), headers);
        self.attempts.again(repeats("put", key.as_str()), attempt).await
    }

    async fn head_file(&self, key: &Key) -> Result<(ObjectMeta, Headers), StoreError> {
        let attempt = || self.inner.head_file(key);
        self.attempts.again(reads("head", key.as_str()), attempt).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        headers: &Headers,
        from: PartsFrom,
    ) -> Result<Upload, StoreError> {
        // One that began unnoticed stays behind empty.
        let attempt = || self.inner.begin_upload(key, headers, from);
        self.attempts.again(repeats("put", key.as_str()), attempt).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload: &Upload,
        number: u32,
        body: PartBody,
    ) -> Result<Part, StoreError> {
        let attempt = || self.inner.upload_part(key, upload, number, body.clone());
        self.patient_with(body.length()).again(repeats("put", key.as_str()), attempt).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload: &Upload,
        parts: &[Part],
    ) -> Result<ETag, StoreError> {
        let unknown = AtomicBool::new(false);
        let attempt = async || {
            let result = self.inner.complete_upload(key, upload, parts).await;
            if let Err(error) = &result {
                if error.effect_unknown {
                    unknown.store(true, Ordering::Relaxed);
                }
                // The upload is no more, and nobody but us ends it: the answer that never came was yes.
                if error.kind == StoreErrorKind::NotFound && unknown.load(Ordering::Relaxed) {
                    let (meta, _) = self.inner.head_file(key).await?;
                    // Not the object of before: one of so many parts says so in its mark.
                    if meta.etag.0.contains(&format!("-{}", parts.len())) {
                        return Ok(meta.etag);
                    }
                }
            }
            result
        };
        self.patient.again(repeats("put", key.as_str()), attempt).await
    }

    async fn copy_file(
        &self,
        source: CopySource<'_>,
        to: &Key,
        headers: Option<&Headers>,
    ) -> Result<ETag, StoreError> {
        // Where an object is copied onto itself, its mark may be another one after the first time.
        let unknown = AtomicBool::new(false);
        let attempt = async || {
            let result = self.inner.copy_file(source, to, headers).await;
            let Err(error) = &result else { return result };
            unknown.fetch_or(error.effect_unknown, Ordering::Relaxed);
            if error.kind == StoreErrorKind::PreconditionFailed
                && source.key == to
                && unknown.load(Ordering::Relaxed)
            {
                let (meta, found) = self.inner.head_file(to).await?;
                if headers.is_some_and(|headers| found.metadata == headers.metadata) {
                    return Ok(meta.etag);
                }
            }
            result
        };
        self.patient_with(source.size).again(repeats("put", to.as_str()), attempt).await
    }

    async fn copy_part(
        &self,
        source: CopySource<'_>,
        range: ByteRange,
        to: (&Key, &Upload),
        number: u32,
    ) -> Result<Part, StoreError> {
        let attempt = || self.inner.copy_part(source, range, to, number);
        let patient = self.patient_with(range.length());
        patient.again(repeats("put", to.0.as_str()), attempt).await
    }

    async fn abort_upload(&self, key: &Key, upload: &Upload) -> Result<(), StoreError> {
        let attempt = || self.inner.abort_upload(key, upload);
        self.attempts.again(repeats("delete", key.as_str()), attempt).await
    }

    async fn keeps_versions(&self) -> Result<bool, StoreError> {
        self.attempts.again(reads("list", ""), || self.inner.keeps_versions()).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<Version>, StoreError> {
        self.attempts.again(reads("list", prefix), || self.inner.versions(prefix)).await
    }

    async fn delete_versions(
        &self,
        versions: &[Version],
    ) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let object = versions.first().map_or("", |version| version.key.as_str());
        let attempt = || self.inner.delete_versions(versions);
        self.attempts.again(repeats("delete", object), attempt).await
    }

    fn part_limit(&self) -> u32 {
        self.inner.part_limit()
    }
}
