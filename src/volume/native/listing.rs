//! A directory's entries. LIST tells names, sizes and marks; the records are fetched only where they
//! are not known by their marks already.

use super::entries::{Loaded, Place, Stored};
use super::namespace::Found;
use super::parts::cuts;
use super::{Volume, keys};
use crate::store::{ETag, ListRequest, ObjectMeta};
use crate::units::DirId;
use crate::volume::VolumeError;
use crate::world::Timestamp;
use futures::{StreamExt, TryStreamExt};

/// Records fetched at the same time.
const PARALLEL: usize = 64;
/// Pages listed at the same time.
const PARALLEL_LISTS: usize = 16;

/// A living name in a directory.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The name: one that a user can give, so that it may become a part of a path.
    pub name: Vec<u8>,
    /// The mark of its record.
    pub etag: ETag,
    /// The size of its object in bytes.
    pub size: u64,
    /// When the store says it was written.
    pub modified: Timestamp,
    /// The store's clock when it was listed.
    pub seen: Timestamp,
}

/// What one page of a directory was.
#[derive(Clone, Debug)]
pub enum Small {
    /// All living names.
    Names(Vec<Listed>),
    /// Too little: listing it takes about so many requests.
    Pages(u64),
}

impl Volume {
    /// The living names of a directory, in no particular order.
    pub async fn list_directory(&self, dir: DirId) -> Result<Vec<Listed>, VolumeError> {
        let objects = self.list_objects(dir).await?;
        Ok(self.living(dir, objects))
    }

    /// The same by one request, if that is enough.
    pub async fn list_small_directory(&self, dir: DirId) -> Result<Small, VolumeError> {
        let page = self.list_page(dir, None).await?;
        if page.next.is_none() {
            return Ok(Small::Names(self.living(dir, page.objects)));
        }
        Ok(Small::Pages(2 + self.cuts(dir, &page).len() as u64))
    }

    /// The buried names of a directory that can be given back, with their tombstones.
    pub async fn list_buried(&self, dir: DirId) -> Result<Vec<Stored>, VolumeError> {
        let objects = self.list_objects(dir).await?;
        let places = objects
            .iter()
            .filter(|object| is_tombstone_size(object.meta.size))
            .filter_map(|object| keys::entry_name(self.keyring(), dir, object.meta.key.as_str()))
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
        let first = self.list_page(dir, None).await?;
        let is_alive = |seen: &Seen| {
            let name = keys::entry_name(self.keyring(), dir, seen.meta.key.as_str());
            !is_tombstone_size(seen.meta.size) && name.is_some_and(|name| !is_hidden(&name))
        };
        if first.objects.iter().any(is_alive) {
            return Ok(false);
        }
        if first.next.is_none() {
            return Ok(true);
        }
        // Only tombstones so far, a page of them.
        let rest = self.list_rest(dir, first).await?;
        Ok(!rest.iter().any(is_alive))
    }

    /// Loads the records of listed names for their attributes, many at once: the bigger ones without
    /// their bodies. Names that were buried since are left out.
    pub async fn load_listed(
        &self,
        dir: DirId,
        listed: Vec<Listed>,
    ) -> Result<Vec<Stored>, VolumeError> {
        futures::stream::iter(listed)
            .map(|entry| async move {
                let place = Place::Entry(dir, entry.name);
                match self.load_head(&place, entry.size).await? {
                    Loaded::Live(stored) => self.settled(stored).await.map(Some),
                    Loaded::Tombstone(_) | Loaded::Absent | Loaded::Unchanged => Ok(None),
                }
            })
            .buffer_unordered(PARALLEL)
            .try_filter_map(|stored| async move { Ok(stored) })
            .try_collect()
            .await
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

    /// Everything below a directory's prefix. After a full first page the rest is listed in parts at the
    /// same time.
    async fn list_objects(&self, dir: DirId) -> Result<Vec<Seen>, VolumeError> {
        let first = self.list_page(dir, None).await?;
        if first.next.is_none() {
            return Ok(first.objects);
        }
        self.list_rest(dir, first).await
    }

    async fn list_rest(&self, dir: DirId, first: Page) -> Result<Vec<Seen>, VolumeError> {
        let cuts = self.cuts(dir, &first);
        let starts = std::iter::once(first.next.clone()).chain(cuts.iter().cloned().map(Some));
        let ends = cuts.iter().cloned().map(Some).chain(std::iter::once(None));
        let parts: Vec<_> = starts.zip(ends).collect();
        let listed: Vec<Vec<Seen>> = futures::stream::iter(parts)
            .map(|(start, end)| self.list_part(dir, start, end))
            .buffered(PARALLEL_LISTS)
            .try_collect()
            .await?;
        let mut objects = first.objects;
        objects.extend(listed.into_iter().flatten());
        Ok(objects)
    }

    /// Where what comes after a full first page is cut into parts.
    fn cuts(&self, dir: DirId, first: &Page) -> Vec<String> {
        let (Some(lowest), Some(highest)) = (first.objects.first(), first.objects.last()) else {
            return Vec::new();
        };
        let prefix = keys::directory_prefix(dir);
        let (lowest, highest) = (lowest.meta.key.as_str(), highest.meta.key.as_str());
        cuts(&prefix, lowest, highest, self.keyring().names_are_sealed())
    }

    /// The objects after `start`, up to and with `end`.
    async fn list_part(
        &self,
        dir: DirId,
        start: Option<String>,
        end: Option<String>,
    ) -> Result<Vec<Seen>, VolumeError> {
        let (mut objects, mut start) = (Vec::new(), start);
        loop {
            let page = self.list_page(dir, start).await?;
            let inside =
                |seen: &Seen| end.as_deref().is_none_or(|end| seen.meta.key.as_str() <= end);
            let taken = page.objects.len();
            objects.extend(page.objects.into_iter().filter(inside));
            let past = |next: &String| end.as_ref().is_some_and(|end| next >= end);
            match page.next {
                Some(next) if taken > 0 && !past(&next) => start = Some(next),
                _ => return Ok(objects),
            }
        }
    }

    async fn list_page(
        &self,
        dir: DirId,
        start_after: Option<String>,
    ) -> Result<Page, VolumeError> {
        let prefix = keys::directory_prefix(dir);
        let request = ListRequest { prefix, start_after, ..ListRequest::default() };
        let page = self.store().list(&request).await?;
        let date = page.date;
        let objects = page.objects.into_iter().map(|meta| Seen { meta, date }).collect();
        Ok(Page { objects, next: page.next })
    }

    /// The living names among a listing's objects.
    fn living(&self, dir: DirId, objects: Vec<Seen>) -> Vec<Listed> {
        let mut names = Vec::with_capacity(objects.len());
        for Seen { meta: ObjectMeta { key, size, etag, modified }, date } in objects {
            if is_tombstone_size(size) {
                continue;
            }
            match keys::entry_name(self.keyring(), dir, key.as_str()) {
                Some(name) if is_hidden(&name) => {}
                Some(name) if keys::is_name(&name) => {
                    names.push(Listed { name, etag, size, modified, seen: date });
                }
                // Not ours, or its name was tampered with: nothing that could be shown. A name that no user can
                // give would lead elsewhere as soon as it is a part of a path.
                Some(_) | None => tracing::warn!(%key, "object in a directory is no entry of it"),
            }
        }
        names
    }
}

/// An object and the store's clock when it was listed.
struct Seen {
    meta: ObjectMeta,
    date: Timestamp,
}

struct Page {
    objects: Vec<Seen>,
    next: Option<String>,
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
