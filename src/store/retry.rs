//! Tries again what may succeed later, with growing pauses, until a deadline.
//!
//! A conditional put whose outcome is unknown is not sent again from here: only its caller can tell, by
//! reading, whether it took effect. One whose effect certainly did not happen is.

use super::{
    ETag, Fetched, Key, ListPage, ListRequest, ObjectMeta, PutWhen, Store, StoreError,
    StoreErrorKind,
};
use crate::units::ByteRange;
use crate::world::Entropy;
use async_trait::async_trait;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// No attempt begins or goes on after this.
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
    attempts: Attempts,
}

impl Retry {
    /// Pauses have a random part (full jitter), so that many clients do not come back at once.
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy, entropy: Arc<dyn Entropy>) -> Self {
        Self { inner, attempts: Attempts { policy, entropy } }
    }
}

/// The same request several times.
pub(super) struct Attempts {
    pub(super) policy: RetryPolicy,
    pub(super) entropy: Arc<dyn Entropy>,
}

impl Attempts {
    pub(super) async fn again<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        request: Request<'_>,
        attempt: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let end = Instant::now() + self.policy.deadline;
        let mut pause = self.policy.first_pause;
        let mut before: Option<StoreError> = None;
        loop {
            let error = match timeout_at(end, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => {
                    let cut_short = request.cut_short(self.policy.deadline);
                    // What the attempt before failed of says more.
                    return Err(match before {
                        Some(error) if cut_short.effect_unknown => error.with_effect_unknown(),
                        Some(error) => error,
                        None => cut_short,
                    });
                }
            };
            let unsettled = request.effect == Effect::Conditional && error.effect_unknown;
            if !error.is_transient() || unsettled {
                return Err(error);
            }
            let fraction = f64::from(u16::from_le_bytes(self.entropy.bytes())) / 65536.0;
            let wait = pause / 2 + (pause / 2).mul_f64(fraction);
            if Instant::now() + wait >= end {
                return Err(error);
            }
            tracing::debug!("{error}: trying again in {} ms", wait.as_millis());
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(self.policy.longest_pause);
            before = Some(error);
        }
    }
}

/// What a request may have done when its answer is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it reads.
    None,
    /// The same as when it is sent once more.
    Repeatable,
    /// What only its caller can tell, by reading.
    Conditional,
}

pub(super) struct Request<'a> {
    pub(super) operation: &'static str,
    pub(super) object: &'a str,
    pub(super) effect: Effect,
}

impl Request<'_> {
    fn cut_short(&self, deadline: Duration) -> StoreError {
        let error = StoreError::new(StoreErrorKind::Unavailable, self.operation, self.object)
            .with_source(format!("no answer within {deadline:?}"));
        if self.effect == Effect::None { error } else { error.with_effect_unknown() }
    }
}

pub(super) fn reads<'a>(operation: &'static str, object: &'a str) -> Request<'a> {
    Request { operation, object, effect: Effect::None }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Retry {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        let effect = match when {
            PutWhen::Always => Effect::Repeatable,
            _ => Effect::Conditional,
        };
        let request = Request { operation: "put", object: key.as_str(), effect };
        self.attempts.again(request, || self.inner.put(key, body.clone(), when.clone())).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        self.attempts.again(reads("get", key.as_str()), || self.inner.get(key, range, unless)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        self.attempts.again(reads("head", key.as_str()), || self.inner.head(key)).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        let effect = match if_match {
            Some(_) => Effect::Conditional,
            None => Effect::Repeatable,
        };
        let request = Request { operation: "delete", object: key.as_str(), effect };
        self.attempts.again(request, || self.inner.delete(key, if_match)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let object = keys.first().map_or("", Key::as_str);
        let request = Request { operation: "delete", object, effect: Effect::Repeatable };
        self.attempts.again(request, || self.inner.delete_many(keys)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        self.attempts.again(reads("list", &request.prefix), || self.inner.list(request)).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
