//! Tries again what may succeed later, with growing pauses, until a deadline.
//!
//! A conditional put whose outcome is unknown is not sent again from here: only its caller can tell, by
//! reading, whether it took effect. One whose effect certainly did not happen is.

use super::{ETag, Fetched, Key, ListPage, ListRequest, ObjectMeta, PutWhen, Store, StoreError};
use crate::units::ByteRange;
use crate::world::Entropy;
use async_trait::async_trait;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// No attempt begins after this.
    pub deadline: Duration,
    /// The first pause; each following one is up to twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl RetryPolicy {
    /// Pauses from 50 ms to 5 s, for `deadline` in all.
    pub fn within(deadline: Duration) -> Self {
        Self {
            deadline,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// The decorator.
pub struct Retry {
    inner: Arc<dyn Store>,
    policy: RetryPolicy,
    entropy: Arc<dyn Entropy>,
}

impl Retry {
    /// Pauses have a random part (full jitter), so that many clients do not come back at once.
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy, entropy: Arc<dyn Entropy>) -> Self {
        Self { inner, policy, entropy }
    }

    async fn again<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        conditional: bool,
        attempt: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let mut pause = self.policy.first_pause;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let unsettled = conditional && error.effect_unknown;
            if !error.is_transient() || unsettled {
                return Err(error);
            }
            let fraction = f64::from(u16::from_le_bytes(self.entropy.bytes())) / 65536.0;
            let wait = pause / 2 + (pause / 2).mul_f64(fraction);
            if start.elapsed() + wait >= self.policy.deadline {
                return Err(error);
            }
            tracing::debug!("{error}: trying again in {} ms", wait.as_millis());
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(self.policy.longest_pause);
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Retry {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        let conditional = when != PutWhen::Always;
        self.again(conditional, || self.inner.put(key, body.clone(), when.clone())).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        self.again(false, || self.inner.get(key, range, unless)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        self.again(false, || self.inner.head(key)).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        self.again(if_match.is_some(), || self.inner.delete(key, if_match)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        self.again(false, || self.inner.delete_many(keys)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        self.again(false, || self.inner.list(request)).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
