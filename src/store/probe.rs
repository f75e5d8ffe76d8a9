//! Finds out by trying which conditions a store honours. Never assumed: MinIO ignores If-Match on
//! DELETE, older S3 look-alikes ignore conditions on PUT.

use super::{ETag, Key, PutWhen, Store, StoreError, StoreErrorKind};
use bytes::Bytes;

/// What a store's conditions are good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `PutWhen::IfAbsent` refuses where an object is.
    pub if_absent: bool,
    /// `PutWhen::IfMatch` refuses where another object is.
    pub if_match: bool,
    /// `delete` with an ETag refuses where another object is.
    pub delete_if_match: bool,
}

/// Tries the conditions on a scratch object at `name`, which nothing else may use, and removes it.
pub async fn probe(store: &dyn Store, name: &str) -> Result<Capabilities, StoreError> {
    let invalid = || StoreError::new(StoreErrorKind::Invalid, "probe", name);
    let key = Key::new(name).ok_or_else(invalid)?;
    let first = store.put(&key, Bytes::from_static(b"strongroom probe 1"), PutWhen::Always).await?;
    let result = try_conditions(store, &key, &first).await;
    // A leftover is harmless: nothing lists this place.
    let removed = store.delete(&key, None).await;
    let capabilities = result?;
    removed?;
    Ok(capabilities)
}

async fn try_conditions(
    store: &dyn Store,
    key: &Key,
    first: &ETag,
) -> Result<Capabilities, StoreError> {
    let body = Bytes::from_static(b"strongroom probe 2");
    let if_absent = refused(store.put(key, body.clone(), PutWhen::IfAbsent).await.map(drop))?;
    let current = store.head(key).await?.etag;
    // A store that took the conditional create above has another object now; base the rest on that.
    let accepted = store
        .put(key, Bytes::from_static(b"strongroom probe 3"), PutWhen::IfMatch(current.clone()))
        .await;
    let accepts = match accepted {
        Ok(_) => true,
        Err(error) if is_refusal(error.kind) => false,
        Err(error) => return Err(error),
    };
    let stale = if current == *first { first.clone() } else { current };
    let if_match =
        accepts && refused(store.put(key, body, PutWhen::IfMatch(stale.clone())).await.map(drop))?;
    let delete_if_match = refused(store.delete(key, Some(&stale)).await)?;
    Ok(Capabilities { if_absent, if_match, delete_if_match })
}

fn refused(result: Result<(), StoreError>) -> Result<bool, StoreError> {
    match result {
        Ok(()) => Ok(false),
        Err(error) if error.kind == StoreErrorKind::PreconditionFailed => Ok(true),
        // A store that does not know the condition is one that cannot be relied on for it.
        Err(error) if is_refusal(error.kind) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_refusal(kind: StoreErrorKind) -> bool {
    matches!(kind, StoreErrorKind::PreconditionFailed | StoreErrorKind::Invalid)
}
