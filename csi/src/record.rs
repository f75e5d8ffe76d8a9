//! What the controller knows of a volume, in the bucket beside the volume: `PREFIX/.volumes/NAME.json`. The
//! controller itself keeps nothing, so that any of its instances can go on where another one ended.
//!
//! # Crash story
//! The record is created (If-None-Match) as `creating` before the volume, becomes `ready` when the volume is
//! whole, `deleting` before the first object is removed, and is removed itself after the last one. A call that
//! finds `creating` or `deleting` takes up the work where it was left.

use crate::status;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use strongroom::store::{ETag, Fetched, Key, PutWhen, Store, StoreErrorKind};
use strongroom::units::ByteRange;
use tonic::Status;

/// The newest form that is read and the one that is written.
const FORMAT: u32 = 1;
/// A record's size in bytes, at most.
const SIZE_LIMIT: u64 = 64 << 10;

/// The stored form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this form.
    pub format: u32,
    /// What is under way.
    pub state: State,
    /// The volume's id.
    pub id: String,
    /// The name that it was asked for by: the same name means the same volume.
    pub name: String,
    /// Bytes that were asked for; 0 if none were.
    pub capacity: i64,
    /// The parameters of its StorageClass.
    pub parameters: BTreeMap<String, String>,
    /// What of it may change, as it is now.
    pub mutable: BTreeMap<String, String>,
}

/// What is under way with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being made.
    Creating,
    /// Nothing: it can be used.
    Ready,
    /// Its objects are being removed.
    Deleting,
}

/// A record as it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it says.
    pub record: Record,
    etag: ETag,
}

impl Record {
    /// A volume that is about to be made.
    pub fn new(
        id: String,
        name: String,
        capacity: i64,
        parameters: BTreeMap<String, String>,
        mutable: BTreeMap<String, String>,
    ) -> Self {
        Self { format: FORMAT, state: State::Creating, id, name, capacity, parameters, mutable }
    }

    /// Reads the record at a key of the bucket, if there is one.
    ///
    /// # Errors
    /// The store's, or INTERNAL if what is there is none of ours.
    pub async fn load(store: &dyn Store, key: &str) -> Result<Option<Found>, Status> {
        let range = ByteRange::new(0, SIZE_LIMIT);
        let object = match store.get(&key_of(key)?, Some(range), None).await {
            Ok(Fetched::Object(object)) => object,
            Ok(Fetched::Unchanged) => return Ok(None),
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(status::of_store(&error)),
        };
        let record: Record = serde_json::from_slice(&object.body.bytes()).map_err(|error| {
            let place = store.describe();
            Status::internal(format!("{place}: {key}: is no record of a volume: {error}"))
        })?;
        if record.format > FORMAT {
            return Err(Status::failed_precondition(format!(
                "{key}: written in format {}, this driver knows up to {FORMAT}: upgrade it",
                record.format
            )));
        }
        Ok(Some(Found { record, etag: object.meta.etag }))
    }

    /// Writes a record where none is.
    ///
    /// # Errors
    /// ABORTED if there is one now.
    pub async fn create(self, store: &dyn Store, key: &str) -> Result<Found, Status> {
        self.put(store, key, PutWhen::IfAbsent).await
    }

    async fn put(self, store: &dyn Store, key: &str, when: PutWhen) -> Result<Found, Status> {
        let text = serde_json::to_vec_pretty(&self)
            .map_err(|error| Status::internal(format!("{key}: {error}")))?;
        let etag =
            store.put(&key_of(key)?, Bytes::from(text), when).await.map_err(|error| match error
                .kind
            {
                StoreErrorKind::PreconditionFailed => Status::aborted(format!(
                    "{key}: another call is at work on this volume: try again"
                )),
                _ => status::of_store(&error),
            })?;
        Ok(Found { record: self, etag })
    }
}

impl Found {
    /// Writes it anew, if nobody else has meanwhile.
    ///
    /// # Errors
    /// ABORTED if somebody has.
    pub async fn change(
        self,
        store: &dyn Store,
        key: &str,
        change: impl FnOnce(&mut Record),
    ) -> Result<Self, Status> {
        let Self { mut record, etag } = self;
        let before = record.clone();
        change(&mut record);
        if record == before {
            return Ok(Self { record, etag });
        }
        record.put(store, key, PutWhen::IfMatch(etag)).await
    }
}

/// Removes a record.
///
/// # Errors
/// The store's.
pub async fn remove(store: &dyn Store, key: &str) -> Result<(), Status> {
    store.delete(&key_of(key)?, None).await.map_err(|error| status::of_store(&error))
}

fn key_of(key: &str) -> Result<Key, Status> {
    Key::new(key).ok_or_else(|| Status::invalid_argument("volume id: its path is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_stays_as_it_is() {
        let record = Record::new(
            "bucket/pvc-1".to_owned(),
            "pvc-1".to_owned(),
            1 << 30,
            [("bucket".to_owned(), "bucket".to_owned())].into(),
            BTreeMap::new(),
        );
        let text = r#"{"format":1,"state":"creating","id":"bucket/pvc-1","name":"pvc-1","capacity":1073741824,"parameters":{"bucket":"bucket"},"mutable":{}}"#;
        assert_eq!(serde_json::to_string(&record).expect("text"), text);
        assert_eq!(serde_json::from_str::<Record>(text).expect("a record"), record);
    }
}
