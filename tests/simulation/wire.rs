//! The way from one node to the store: it takes its time, loses requests and replies, and repeats late.

use crate::gate::Gate;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use strongroom::store::{
    ETag, Fetched, Key, ListPage, ListRequest, ObjectMeta, PutWhen, Store, StoreError,
    StoreErrorKind,
};
use strongroom::units::ByteRange;

/// How bad the way is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Of a request that has no effect and gets no reply.
    pub(crate) lost_request: f64,
    /// Of a reply.
    pub(crate) lost_reply: f64,
    /// Of a request that takes effect a second time, minutes later.
    pub(crate) repeat: f64,
}

/// A node's way.
pub(crate) struct Wire {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) actor: usize,
    pub(crate) weather: Mutex<Weather>,
    /// Whether DELETE honours a condition: else what is repeated could hit another object.
    pub(crate) conditional_delete: bool,
}

impl Wire {
    async fn travel(&self) {
        let milliseconds = match self.gate.below(100) {
            0 => self.gate.below(60_000),
            1..10 => self.gate.below(5_000),
            _ => 1 + self.gate.below(150),
        };
        self.gate.wait(self.actor, Duration::from_millis(milliseconds)).await;
    }

    async fn send<T>(
        &self,
        operation: &'static str,
        key: &str,
        request: impl Future<Output = Result<T, StoreError>>,
        again: Option<Repeat>,
    ) -> Result<T, StoreError> {
        let weather = *self.weather.lock();
        let unknown = || {
            StoreError::new(StoreErrorKind::Unavailable, operation, key)
                .with_source("simulated")
                .with_effect_unknown()
        };
        self.travel().await;
        if self.gate.chance(weather.lost_request) {
            self.travel().await;
            return Err(unknown());
        }
        let result = request.await;
        if let Some(again) = again
            && self.gate.chance(weather.repeat)
        {
            // Servers refuse requests that are older than 15 minutes.
            let later = Duration::from_secs(self.gate.below(900));
            let (gate, store) = (self.gate.clone(), self.inner.clone());
            tokio::spawn(async move {
                gate.wait(usize::MAX, later).await;
                let _ = match again {
                    Repeat::Put(key, body, when) => store.put(&key, body, when).await.map(drop),
                    Repeat::Delete(key, etag) => store.delete(&key, etag.as_ref()).await,
                    Repeat::DeleteMany(keys) => store.delete_many(&keys).await.map(drop),
                };
            });
        }
        self.travel().await;
        if self.gate.chance(weather.lost_reply) {
            return Err(unknown());
        }
        result
    }
}

enum Repeat {
    Put(Key, Bytes, PutWhen),
    Delete(Key, Option<ETag>),
    DeleteMany(Vec<Key>),
}

fn is_name(key: &Key) -> bool {
    key.as_str().starts_with("t/") || key.as_str().starts_with("i/")
}

#[async_trait]
impl Store for Wire {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        // A creation that is repeated finds a tombstone where names are not deleted by their owners.
        let harmless = when != PutWhen::IfAbsent || !self.conditional_delete || !is_name(key);
        let again = harmless.then(|| Repeat::Put(key.clone(), body.clone(), when.clone()));
        self.send("put", key.as_str(), self.inner.put(key, body, when), again).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        self.send("get", key.as_str(), self.inner.get(key, range, unless), None).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        self.send("head", key.as_str(), self.inner.head(key), None).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        // The assumption on stores without conditional DELETE: one is sent once and arrives once.
        let harmless = self.conditional_delete || !is_name(key);
        let again = harmless.then(|| Repeat::Delete(key.clone(), if_match.cloned()));
        self.send("delete", key.as_str(), self.inner.delete(key, if_match), again).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let again = Some(Repeat::DeleteMany(keys.to_vec()));
        self.send("delete", "many", self.inner.delete_many(keys), again).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let mut request = request.clone();
        if request.limit == 0 {
            // Many pages, so that names move while they are listed.
            request.limit = 2 + self.gate.below(12) as u32;
        }
        self.send("list", &request.prefix, self.inner.list(&request), None).await
    }

    fn describe(&self) -> String {
        format!("node {}", self.actor)
    }
}
