//! A part of a store, under a prefix, as a store of its own.

use super::{ETag, Fetched, Key, ListPage, ListRequest, ObjectMeta, PutWhen, Store, StoreError};
use crate::units::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// All keys lie under a prefix, which callers do not see.
pub struct Prefixed {
    inner: Arc<dyn Store>,
    prefix: String,
}

impl Prefixed {
    /// Keys of the new store come after `prefix`, which is taken as it is (it usually ends in `/`).
    pub fn new(inner: Arc<dyn Store>, prefix: impl Into<String>) -> Self {
        Self { inner, prefix: prefix.into() }
    }

    fn whole(&self, key: &Key, operation: &'static str) -> Result<Key, StoreError> {
        Key::new(format!("{}{}", self.prefix, key.as_str())).ok_or_else(|| {
            StoreError::new(super::StoreErrorKind::Invalid, operation, key)
                .with_source("the key is longer than 1,024 bytes with its prefix")
        })
    }

    fn strip(&self, mut meta: ObjectMeta) -> Option<ObjectMeta> {
        meta.key = Key::new(meta.key.as_str().strip_prefix(&self.prefix)?)?;
        Some(meta)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Prefixed {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        self.inner.put(&self.whole(key, "put")?, body, when).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let fetched = self.inner.get(&self.whole(key, "get")?, range, unless).await?;
        Ok(match fetched {
            Fetched::Object(mut object) => {
                object.meta.key = key.clone();
                Fetched::Object(object)
            }
            Fetched::Unchanged => Fetched::Unchanged,
        })
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        let mut meta = self.inner.head(&self.whole(key, "head")?).await?;
        meta.key = key.clone();
        Ok(meta)
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        self.inner.delete(&self.whole(key, "delete")?, if_match).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let whole: Vec<Key> =
            keys.iter().map(|key| self.whole(key, "delete")).collect::<Result<_, _>>()?;
        let failed = self.inner.delete_many(&whole).await?;
        let strip = |key: &Key| Key::new(key.as_str().strip_prefix(&self.prefix)?);
        Ok(failed.into_iter().filter_map(|(key, error)| Some((strip(&key)?, error))).collect())
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let ListRequest { prefix, roll_up, start_after, limit } = request;
        let mut page = self
            .inner
            .list(&ListRequest {
                prefix: format!("{}{prefix}", self.prefix),
                roll_up: *roll_up,
                start_after: start_after.as_ref().map(|after| format!("{}{after}", self.prefix)),
                limit: *limit,
            })
            .await?;
        let strip = |text: String| text.strip_prefix(&self.prefix).map(str::to_owned);
        page.objects = page.objects.into_iter().filter_map(|meta| self.strip(meta)).collect();
        page.prefixes = page.prefixes.into_iter().filter_map(strip).collect();
        page.next = page.next.and_then(strip);
        Ok(page)
    }

    fn describe(&self) -> String {
        let inner = self.inner.describe();
        let prefix = self.prefix.trim_end_matches('/');
        match inner.split_once(" at ") {
            Some((place, endpoint)) => format!("{place}/{prefix} at {endpoint}"),
            None => format!("{inner}/{prefix}"),
        }
    }
}
