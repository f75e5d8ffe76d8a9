//! Bounds how many requests are under way at once, so that a burst waits here and not in the store.

use super::{ETag, Fetched, Key, ListPage, ListRequest, ObjectMeta, PutWhen, Store, StoreError};
use crate::units::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The decorator.
pub struct Limit {
    inner: Arc<dyn Store>,
    permits: Semaphore,
}

impl Limit {
    /// At most `requests` at once.
    pub fn new(inner: Arc<dyn Store>, requests: usize) -> Self {
        Self { inner, permits: Semaphore::new(requests.max(1)) }
    }

    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.permits.acquire().await.ok()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Limit {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        let _permit = self.permit().await;
        self.inner.put(key, body, when).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let _permit = self.permit().await;
        self.inner.get(key, range, unless).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        let _permit = self.permit().await;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        let _permit = self.permit().await;
        self.inner.delete(key, if_match).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let _permit = self.permit().await;
        self.inner.delete_many(keys).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let _permit = self.permit().await;
        self.inner.list(request).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
