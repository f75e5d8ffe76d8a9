//! Counts requests by verb and result, and bytes: what a run costs.

use super::{
    ETag, Fetched, Key, ListPage, ListRequest, ObjectMeta, PutWhen, Store, StoreError,
    StoreErrorKind,
};
use crate::units::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The verbs, in the order of the table.
pub const VERBS: [&str; 6] = ["put", "get", "head", "delete", "delete_many", "list"];

/// One verb's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that were answered as asked (an unmet condition and a missing object are answers).
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Bytes of bodies, sent or received.
    pub bytes: u64,
    /// The sum of their times, in microseconds.
    pub microseconds: u64,
}

#[derive(Default)]
struct Cell {
    answered: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    microseconds: AtomicU64,
}

/// How often a cache had what was asked for.
#[derive(Debug, Default)]
pub struct Hits {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Hits {
    /// Counts a look.
    pub fn count(&self, hit: bool) {
        let cell = if hit { &self.hits } else { &self.misses };
        cell.fetch_add(1, Ordering::Relaxed);
    }

    /// Hits and misses so far.
    pub fn snapshot(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

/// The decorator.
pub struct Meter {
    inner: Arc<dyn Store>,
    cells: [Cell; VERBS.len()],
}

impl Meter {
    /// Counts what goes to `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, cells: Default::default() }
    }

    /// The counts so far, by verb.
    pub fn snapshot(&self) -> [(&'static str, Count); VERBS.len()] {
        std::array::from_fn(|index| {
            let Cell { answered, failed, bytes, microseconds } = &self.cells[index];
            let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
            (
                VERBS[index],
                Count {
                    answered: read(answered),
                    failed: read(failed),
                    bytes: read(bytes),
                    microseconds: read(microseconds),
                },
            )
        })
    }

    pub(super) async fn count<T>(
        &self,
        verb: usize,
        bytes: impl FnOnce(&T) -> u64,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let result = request.await;
        let Cell { answered, failed, bytes: total, microseconds } = &self.cells[verb];
        let time = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        microseconds.fetch_add(time, Ordering::Relaxed);
        let is_answer = |error: &StoreError| {
            matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::PreconditionFailed)
        };
        match &result {
            Ok(value) => {
                answered.fetch_add(1, Ordering::Relaxed);
                total.fetch_add(bytes(value), Ordering::Relaxed);
            }
            Err(error) if is_answer(error) => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Meter {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        let length = body.len() as u64;
        self.count(0, |_| length, self.inner.put(key, body, when)).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let length = |fetched: &Fetched| match fetched {
            Fetched::Object(object) => object.body.len() as u64,
            Fetched::Unchanged => 0,
        };
        self.count(1, length, self.inner.get(key, range, unless)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        self.count(2, |_| 0, self.inner.head(key)).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        self.count(3, |()| 0, self.inner.delete(key, if_match)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        self.count(4, |_| 0, self.inner.delete_many(keys)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        self.count(5, |_| 0, self.inner.list(request)).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
