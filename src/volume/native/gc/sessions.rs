//! Who lives. A session that was silent for long is declared dead: its record is replaced by CAS, so that
//! its next renewal fails and it starts anew under another id. Its segments are garbage, unless something
//! refers to them, a grace period after that.
//!
//! Crash story: declaring is one conditional PUT. A session that renews itself at the same moment wins.

use super::lease::age;
use super::{GcError, GcSettings};
use crate::store::{ETag, Fetched, ListRequest, PutWhen, StoreErrorKind, list_all};
use crate::units::{FileId, SessionId};
use crate::volume::VolumeError;
use crate::volume::native::session::context;
use crate::volume::native::{Volume, keys, proto};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

/// Sessions read at the same time.
const PARALLEL: usize = 32;
/// The stored form's version.
const FORMAT: u32 = 1;

/// A session in the store.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) id: SessionId,
    stored: proto::Session,
    etag: ETag,
    age: Option<Duration>,
}

impl Seen {
    fn is_fenced(&self) -> bool {
        !self.stored.fenced_by.is_empty()
    }

    /// Whether it was declared dead at least so long ago.
    pub(super) fn is_dead(&self, since: Duration) -> bool {
        self.is_fenced() && self.age.is_some_and(|age| age >= since)
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        format!("{} on {:?}", self.stored.program.escape_debug(), self.stored.host)
    }
}

/// The sessions that live, or may, and the files that any session keeps.
#[derive(Clone, Default)]
pub(super) struct Living {
    pub(super) sessions: BTreeSet<SessionId>,
    pub(super) pinned: HashSet<FileId>,
}

impl Living {
    pub(super) fn add(&mut self, seen: &[Seen], settings: &GcSettings) -> Result<(), GcError> {
        for session in seen {
            if !session.is_dead(settings.grace) {
                self.sessions.insert(session.id);
            }
            for file in &session.stored.pinned_files {
                let file = FileId::try_from(&file[..]).map_err(|_| {
                    GcError::Void(format!("session {} pins something without an id", session.id))
                })?;
                self.pinned.insert(file);
            }
        }
        Ok(())
    }
}

/// Reads all sessions.
pub(super) async fn read(volume: &Volume) -> Result<Vec<Seen>, GcError> {
    let request = ListRequest { prefix: "s/".to_owned(), ..ListRequest::default() };
    let (objects, _) = list_all(&**volume.store(), request).await?;
    let reads = objects.into_iter().map(|object| async move {
        let id = keys::session_id(object.key.as_str())
            .ok_or_else(|| GcError::unexpected(&object.key))?;
        let found = match volume.store().get(&object.key, None, None).await {
            Ok(Fetched::Object(found)) => found,
            Ok(Fetched::Unchanged) => return Ok(None),
            // Ended since.
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |why: &dyn std::fmt::Display| {
            GcError::Void(format!("session {id} cannot be read: {why}"))
        };
        volume.learn_master(crate::crypto::record_master(&found.body.bytes())).await;
        let opened = volume
            .keyring()
            .open_record(&context(object.key.as_str()), &found.body.bytes())
            .map_err(|error| damaged(&error))?;
        let stored =
            proto::Session::decode(&opened.head[..]).map_err(|_| damaged(&"not a session"))?;
        if stored.format != FORMAT {
            return Err(damaged(&"written by a newer program: upgrade strongroom"));
        }
        let age = age(found.meta.modified, found.date);
        Ok(Some(Seen { id, stored, etag: found.meta.etag, age }))
    });
    futures::stream::iter(reads)
        .buffered(PARALLEL)
        .try_filter_map(|seen| async move { Ok(seen) })
        .try_collect()
        .await
}

/// Sessions other than ours that live.
pub(super) fn others<'a>(volume: &Volume, seen: &'a [Seen]) -> Vec<&'a Seen> {
    let own = volume.session().id();
    seen.iter().filter(|session| session.id != own && !session.is_fenced()).collect()
}

/// Those that have been silent for too long.
pub(super) fn silent(volume: &Volume, seen: &[Seen], silence: Duration) -> Vec<Seen> {
    let mut others = others(volume, seen);
    others.retain(|session| session.age.is_some_and(|age| age >= silence));
    others.into_iter().cloned().collect()
}

/// Declares a session dead. Says whether it was still as it was read.
pub(super) async fn declare_dead(volume: &Volume, seen: &Seen) -> Result<bool, GcError> {
    let fenced_by = volume.session().id().0.to_vec();
    let stored = proto::Session { fenced_by, ..seen.stored.clone() };
    let key = keys::session(seen.id);
    let entropy = &*volume.world().entropy;
    let sealed = volume
        .keyring()
        .seal_record(&context(key.as_str()), &stored.encode_to_vec(), &[], false, entropy)
        .map_err(|error| VolumeError::corrupt(&key, error))?;
    match volume.store().put(&key, sealed.into(), PutWhen::IfMatch(seen.etag.clone())).await {
        Ok(_) => Ok(true),
        // Lost or refused: the next run sees what became of it.
        Err(error)
            if error.effect_unknown
                || matches!(
                    error.kind,
                    StoreErrorKind::PreconditionFailed | StoreErrorKind::NotFound
                ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes the record of a session that has been dead for long: what is absent is dead too.
pub(super) async fn forget(volume: &Volume, seen: &Seen) -> Result<(), GcError> {
    Ok(volume.store().delete(&keys::session(seen.id), None).await?)
}
