//! Bounds how many bytes of objects go to the store and come from it, both ways together, in a second.
//!
//! A body is paid for as a whole: before it is sent, and after it came. So the average holds; within a second
//! the network may carry a whole body at its own speed. Small bodies never wait, but take their share of what is
//! there.

use super::{ETag, Fetched, Key, ListPage, ListRequest, ObjectMeta, PutWhen, Store, StoreError};
use crate::units::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::Arc;
use tokio::sync::Mutex;

/// What is counted: bytes in units of so many, so that a limiter's 32 bits reach far enough.
const UNIT: u64 = 1 << 10;
/// Bodies up to this size do not wait.
const SMALL: u64 = 64 << 10;

/// A limit that several stores may share.
pub struct Rate {
    limiter: DefaultDirectRateLimiter,
    /// What may go at once: a second's worth.
    burst: NonZeroU32,
    /// Whose turn it is to pay.
    turn: Mutex<()>,
}

impl Rate {
    /// At most `bits` a second, at least 8,192.
    pub fn new(bits: u64) -> Self {
        let units = u32::try_from(bits / 8 / UNIT).unwrap_or(u32::MAX);
        let burst = NonZeroU32::new(units).unwrap_or(NonZeroU32::MIN);
        let limiter = RateLimiter::direct(Quota::per_second(burst));
        Self { limiter, burst, turn: Mutex::new(()) }
    }

    /// Returns when so many bytes may go.
    pub async fn pay(&self, bytes: u64) {
        let mut units = bytes.div_ceil(UNIT);
        // Records, look-ups, a session's renewal: a lease would run out behind the bodies of a large file. They take
        // what is there, if it is enough.
        if bytes <= SMALL {
            let cells = u32::try_from(units).ok().and_then(NonZeroU32::new);
            if let Some(cells) = cells {
                let _ = self.limiter.check_n(cells);
            }
            return;
        }
        let _turn = self.turn.lock().await;
        while units > 0 {
            let part = u32::try_from(units).unwrap_or(u32::MAX).min(self.burst.get());
            let Some(cells) = NonZeroU32::new(part) else { return };
            // It refuses only what is more than its burst.
            let _ = self.limiter.until_n_ready(cells).await;
            units -= u64::from(part);
        }
    }
}

/// The decorator.
pub struct Throttle {
    inner: Arc<dyn Store>,
    rate: Arc<Rate>,
}

impl Throttle {
    /// Within a limit, together with whoever else has it.
    pub fn new(inner: Arc<dyn Store>, rate: Arc<Rate>) -> Self {
        Self { inner, rate }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Throttle {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        self.rate.pay(body.len() as u64).await;
        self.inner.put(key, body, when).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let fetched = self.inner.get(key, range, unless).await?;
        if let Fetched::Object(object) = &fetched {
            self.rate.pay(object.body.len() as u64).await;
        }
        Ok(fetched)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        self.inner.delete(key, if_match).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        self.inner.delete_many(keys).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        self.inner.list(request).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
