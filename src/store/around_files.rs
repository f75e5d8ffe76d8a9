//! What [`Meter`](super::Meter), [`Limit`](super::Limit) and [`Throttle`](super::Throttle) do for a store, for
//! files: they count together, wait for the same turns, and share one rate.

use super::files::CopySource;
use super::{
    ETag, FileStore, Headers, Key, Limit, Meter, ObjectMeta, Part, PartBody, PartsFrom, Rate,
    StoreError, Upload, Version,
};
use crate::units::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// Counts requests.
pub struct MeterFiles {
    inner: Arc<dyn FileStore>,
    meter: Arc<Meter>,
}

impl MeterFiles {
    /// Counts what goes to `inner` in the meter of a store.
    pub fn new(inner: Arc<dyn FileStore>, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

/// Bounds how many requests are under way, and bytes a second.
pub struct BoundedFiles {
    inner: Arc<dyn FileStore>,
    limit: Arc<Limit>,
    rate: Option<Arc<Rate>>,
}

impl BoundedFiles {
    /// Within the limits of a store.
    pub fn new(inner: Arc<dyn FileStore>, limit: Arc<Limit>, rate: Option<Arc<Rate>>) -> Self {
        Self { inner, limit, rate }
    }

    async fn pay(&self, bytes: u64) {
        if let Some(rate) = &self.rate {
            rate.pay(bytes).await;
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStore for MeterFiles {
    async fn put_file(
        &self,
        key: &Key,
        body: Bytes,
        headers: &Headers,
    ) -> Result<ETag, StoreError> {
        let length = body.len() as u64;
        self.meter.count(0, |_| length, self.inner.put_file(key, body, headers)).await
    }

    async fn head_file(&self, key: &Key) -> Result<(ObjectMeta, Headers), StoreError> {
        self.meter.count(2, |_| 0, self.inner.head_file(key)).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        headers: &Headers,
        from: PartsFrom,
    ) -> Result<Upload, StoreError> {
        self.meter.count(0, |_| 0, self.inner.begin_upload(key, headers, from)).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload: &Upload,
        number: u32,
        body: PartBody,
    ) -> Result<Part, StoreError> {
        let length = body.length();
        let request = self.inner.upload_part(key, upload, number, body);
        self.meter.count(0, |_| length, request).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload: &Upload,
        parts: &[Part],
    ) -> Result<ETag, StoreError> {
        self.meter.count(0, |_| 0, self.inner.complete_upload(key, upload, parts)).await
    }

    async fn copy_file(
        &self,
        source: CopySource<'_>,
        to: &Key,
        headers: Option<&Headers>,
    ) -> Result<ETag, StoreError> {
        self.meter.count(0, |_| 0, self.inner.copy_file(source, to, headers)).await
    }

    async fn copy_part(
        &self,
        source: CopySource<'_>,
        range: ByteRange,
        to: (&Key, &Upload),
        number: u32,
    ) -> Result<Part, StoreError> {
        self.meter.count(0, |_| 0, self.inner.copy_part(source, range, to, number)).await
    }

    async fn abort_upload(&self, key: &Key, upload: &Upload) -> Result<(), StoreError> {
        self.meter.count(3, |()| 0, self.inner.abort_upload(key, upload)).await
    }

    async fn keeps_versions(&self) -> Result<bool, StoreError> {
        self.meter.count(5, |_| 0, self.inner.keeps_versions()).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<Version>, StoreError> {
        self.meter.count(5, |_| 0, self.inner.versions(prefix)).await
    }

    async fn delete_versions(
        &self,
        versions: &[Version],
    ) -> Result<Vec<(Key, StoreError)>, StoreError> {
        self.meter.count(3, |_| 0, self.inner.delete_versions(versions)).await
    }

    fn part_limit(&self) -> u32 {
        self.inner.part_limit()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStore for BoundedFiles {
    async fn put_file(
        &self,
        key: &Key,
        body: Bytes,
        headers: &Headers,
    ) -> Result<ETag, StoreError> {
        self.pay(body.len() as u64).await;
        let _permit = self.limit.permit().await;
        self.inner.put_file(key, body, headers).await
    }

    async fn head_file(&self, key: &Key) -> Result<(ObjectMeta, Headers), StoreError> {
        let _permit = self.limit.permit().await;
        self.inner.head_file(key).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        headers: &Headers,
        from: PartsFrom,
    ) -> Result<Upload, StoreError> {
        let _permit = self.limit.permit().await;
        self.inner.begin_upload(key, headers, from).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload: &Upload,
        number: u32,
        body: PartBody,
    ) -> Result<Part, StoreError> {
        self.pay(body.length()).await;
        let _permit = self.limit.permit().await;
        self.inner.upload_part(key, upload, number, body).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload: &Upload,
        parts: &[Part],
    ) -> Result<ETag, StoreError> {
        let _permit = self.limit.permit().await;
        self.inner.complete_upload(key, upload, parts).await
    }

    async fn copy_file(
        &self,
        source: CopySource<'_>,
        to: &Key,
        headers: Option<&Headers>,
    ) -> Result<ETag, StoreError> {
        let _permit = self.limit.permit().await;
        self.inner.copy_file(source, to, headers).await
    }

    async fn copy_part(
        &self,
        source: CopySource<'_>,
        range: ByteRange,
        to: (&Key, &Upload),
        number: u32,
    ) -> Result<Part, StoreError> {
        let _permit = self.limit.permit().await;
        self.inner.copy_part(source, range, to, number).await
    }

    async fn abort_upload(&self, key: &Key, upload: &Upload) -> Result<(), StoreError> {
        let _permit = self.limit.permit().await;
        self.inner.abort_upload(key, upload).await
    }

    async fn keeps_versions(&self) -> Result<bool, StoreError> {
        let _permit = self.limit.permit().await;
        self.inner.keeps_versions().await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<Version>, StoreError> {
        let _permit = self.limit.permit().await;
        self.inner.versions(prefix).await
    }

    async fn delete_versions(
        &self,
        versions: &[Version],
    ) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let _permit = self.limit.permit().await;
        self.inner.delete_versions(versions).await
    }

    fn part_limit(&self) -> u32 {
        self.inner.part_limit()
    }
}
