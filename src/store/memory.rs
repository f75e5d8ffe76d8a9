//! An object store in memory: the contract and nothing else. For tests, which inject its clock and
//! choose which conditions it honours. Nothing is durable beyond the value's life.

use super::{
    Capabilities, ETag, Fetched, Key, ListPage, ListRequest, Object, ObjectMeta, PutWhen, Store,
    StoreError, StoreErrorKind,
};
use crate::units::ByteRange;
use crate::world::{Clock, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// Objects and prefixes in a page of a listing unless the caller asks for fewer, as on S3.
const PAGE: usize = 1000;
/// Keys that one `delete_many` takes, as on S3.
const DELETE_LIMIT: usize = 1000;

/// The store. Shared by reference: two users of one `Arc` see the same objects.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    honours: Capabilities,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    // In byte order, as listings have it: `str` is ordered by its UTF-8 bytes.
    objects: BTreeMap<String, Entry>,
    /// Puts so far: no two have one ETag, whatever their key and content.
    puts: u64,
}

struct Entry {
    body: Bytes,
    etag: ETag,
    modified: Timestamp,
}

impl MemoryStore {
    /// An empty store that honours every condition and dates its objects by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let all = Capabilities { if_absent: true, if_match: true, delete_if_match: true };
        Self::with_capabilities(clock, all)
    }

    /// The same, but as MinIO does it: an ETag given to `delete` is ignored.
    pub fn without_conditional_delete(clock: Arc<dyn Clock>) -> Self {
        let honours = Capabilities { if_absent: true, if_match: true, delete_if_match: false };
        Self::with_capabilities(clock, honours)
    }

    /// An empty store that ignores the conditions missing from `honours`.
    pub fn with_capabilities(clock: Arc<dyn Clock>, honours: Capabilities) -> Self {
        Self { clock, honours, state: Mutex::default() }
    }

    /// The keys that hold an object, in byte order.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    fn remove(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let if_match = if_match.filter(|_| self.honours.delete_if_match);
        if let Some(expected) = if_match
            && state.objects.get(key.as_str()).is_none_or(|entry| entry.etag != *expected)
        {
            return Err(StoreError::new(StoreErrorKind::PreconditionFailed, "delete", key));
        }
        state.objects.remove(key.as_str());
        Ok(())
    }
}

impl Entry {
    fn meta(&self, key: &Key) -> ObjectMeta {
        ObjectMeta {
            key: key.clone(),
            size: self.body.len() as u64,
            etag: self.etag.clone(),
            modified: self.modified,
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} objects)", self.state.lock().objects.len())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for MemoryStore {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        let mut state = self.state.lock();
        let current = state.objects.get(key.as_str()).map(|entry| &entry.etag);
        let allowed = match &when {
            PutWhen::Always => true,
            PutWhen::IfAbsent => !self.honours.if_absent || current.is_none(),
            PutWhen::IfMatch(etag) => !self.honours.if_match || current == Some(etag),
        };
        if !allowed {
            return Err(StoreError::new(StoreErrorKind::PreconditionFailed, "put", key));
        }
        state.puts += 1;
        let etag = ETag(format!("\"{:x}\"", state.puts));
        let entry = Entry { body, etag: etag.clone(), modified: self.clock.now() };
        state.objects.insert(key.as_str().to_owned(), entry);
        Ok(etag)
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let state = self.state.lock();
        let missing = || StoreError::new(StoreErrorKind::NotFound, "get", key);
        let entry = state.objects.get(key.as_str()).ok_or_else(missing)?;
        if unless == Some(&entry.etag) {
            return Ok(Fetched::Unchanged);
        }
        let whole = ByteRange::new(0, entry.body.len() as u64);
        let part = range.unwrap_or(whole).intersection(whole);
        // Within the body, whose length is a usize.
        let body = entry
            .body
            .slice(part.offset().min(whole.end()) as usize..)
            .slice(..part.length() as usize);
        Ok(Fetched::Object(Object {
            meta: entry.meta(key),
            body: body.into(),
            date: self.clock.now(),
            metadata: BTreeMap::new(),
        }))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        let state = self.state.lock();
        let missing = || StoreError::new(StoreErrorKind::NotFound, "head", key);
        state.objects.get(key.as_str()).map(|entry| entry.meta(key)).ok_or_else(missing)
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        self.remove(key, if_match)
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        if keys.len() > DELETE_LIMIT {
            let what = format!("{} keys at once", keys.len());
            return Err(StoreError::new(StoreErrorKind::Invalid, "delete", what));
        }
        let failed =
            keys.iter().filter_map(|key| Some((key.clone(), self.remove(key, None).err()?)));
        Ok(failed.collect())
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let ListRequest { prefix, roll_up, start_after, limit } = request;
        let limit = if *limit == 0 { PAGE } else { (*limit as usize).min(PAGE) };
        let state = self.state.lock();
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        let (mut last, mut next) = (None::<String>, None);
        let from = Bound::Included(prefix.as_str());
        for (key, entry) in state.objects.range::<str, _>((from, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix.as_str()) else { break };
            let rolled = match rest.find('/') {
                Some(slash) if *roll_up => Some(&key[..=prefix.len() + slash]),
                _ => None,
            };
            let row = rolled.unwrap_or(key);
            let passed = start_after.as_deref().is_some_and(|after| row <= after);
            if passed || last.as_deref() == Some(row) {
                continue;
            }
            if objects.len() + prefixes.len() == limit {
                next = last;
                break;
            }
            last = Some(row.to_owned());
            match rolled {
                Some(rolled) => prefixes.push(rolled.to_owned()),
                // It came in as a key.
                None => objects.extend(Key::new(key.as_str()).map(|key| entry.meta(&key))),
            }
        }
        Ok(ListPage { objects, prefixes, next, date: self.clock.now() })
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
