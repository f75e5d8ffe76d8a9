//! A directory's entries. LIST tells names, sizes and marks; the records are fetched only where they
//! are not known by their marks already.

use super::entries::{Loaded, Place, Stored};
use super::namespace::Found;
use super::{Volume, keys};
use crate::store::{ETag, ListRequest, ObjectMeta, list_all};
use crate::units::DirId;
use crate::volume::VolumeError;
use futures::{StreamExt, TryStreamExt};

/// Records fetched at the same time.
const PARALLEL: usize = 64;

/// A living name in a directory.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The name.
    pub name: Vec<u8>,
    /// The mark of its record.
    pub etag: ETag,
}

impl Volume {
    /// The living names of a directory, in no particular order.
    pub async fn list_directory(&self, dir: DirId) -> Result<Vec<Listed>, VolumeError> {
        let mut names = Vec::new();
        self.visit_directory(dir, |listed| {
            names.push(listed);
            true
        })
        .await?;
        Ok(names)
    }

    /// The buried names of a directory that can be given back, with their tombstones.
    pub async fn list_buried(&self, dir: DirId) -> Result<Vec<Stored>, VolumeError> {
        let prefix = keys::directory_prefix(dir);
        let request = ListRequest { prefix, ..ListRequest::default() };
        let (objects, _) = list_all(&**self.store(), request).await?;
        let places = objects
            .iter()
            .filter(|object| is_tombstone_size(object.size))
            .filter_map(|object| keys::entry_name(self.keyring(), dir, object.key.as_str()))
            .filter(|name| !is_hidden(name))
            .map(|name| Place::Entry(dir, name));
        let loads = futures::stream::iter(places).map(|place| async move {
            match self.load(&place, None).await? {
                Loaded::Tombstone(stored) if !stored.record.moved_away => Ok(Some(stored)),
                _ => Ok(None),
            }
        });
        loads
            .buffer_unordered(PARALLEL)
            .try_filter_map(|stored| async move { Ok(stored) })
            .try_collect()
            .await
    }

    /// Whether a directory has no living name.
    pub async fn is_empty_directory(&self, dir: DirId) -> Result<bool, VolumeError> {
        let mut empty = true;
        self.visit_directory(dir, |_| {
            empty = false;
            false
        })
        .await?;
        Ok(empty)
    }

    /// Loads the records of many places at once. Names that were buried since are left out.
    pub async fn load_many(&self, places: Vec<Place>) -> Result<Vec<Stored>, VolumeError> {
        futures::stream::iter(places)
            .map(|place| async move {
                match self.load(&place, None).await? {
                    Loaded::Live(stored) => self.settled(stored).await.map(Some),
                    Loaded::Tombstone(_) | Loaded::Absent | Loaded::Unchanged => Ok(None),
                }
            })
            .buffer_unordered(PARALLEL)
            .try_filter_map(|stored| async move { Ok(stored) })
            .try_collect()
            .await
    }

    /// Follows many entries that are one of several names to their shared records. A record that is
    /// missing is damage; it is reported and its names are left out, so that the others can be read.
    pub async fn resolve_many(&self, entries: Vec<Stored>) -> Result<Vec<Found>, VolumeError> {
        futures::stream::iter(entries)
            .map(|entry| async move {
                match self.resolve(entry).await {
                    Err(error @ VolumeError::Corrupt { .. }) => {
                        tracing::error!("{error}");
                        Ok(None)
                    }
                    other => other.map(Some),
                }
            })
            .buffer_unordered(PARALLEL)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    async fn visit_directory(
        &self,
        dir: DirId,
        mut visit: impl FnMut(Listed) -> bool,
    ) -> Result<(), VolumeError> {
        let prefix = keys::directory_prefix(dir);
        let mut request = ListRequest { prefix, ..ListRequest::default() };
        loop {
            let page = self.store().list(&request).await?;
            for ObjectMeta { key, size, etag, .. } in page.objects {
                if is_tombstone_size(size) {
                    continue;
                }
                match keys::entry_name(self.keyring(), dir, key.as_str()) {
                    Some(name) if is_hidden(&name) => {}
                    Some(name) => {
                        if !visit(Listed { name, etag }) {
                            return Ok(());
                        }
                    }
                    // Not ours, or its name was tampered with: nothing that could be shown.
                    None => tracing::warn!(%key, "object in a directory is no entry of it"),
                }
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

/// Tombstones are a multiple of 16 bytes plus 1, so that LIST tells them apart. The record itself says
/// so too, authenticated; a store that pads objects can hide names, which it could by deleting them.
pub fn is_tombstone_size(size: u64) -> bool {
    size % 16 == 1
}

/// Names with a NUL cannot come from a user; they are steps of an exchange.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    name.contains(&0)
}
