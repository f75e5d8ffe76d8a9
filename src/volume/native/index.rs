//! The index of a directory: the heads of its records in a few objects, so that `ls -l` of a directory
//! that this process has never seen costs requests by the thousand names and not by the name.
//!
//! A cache and nothing else. It is never needed: without it, or with one that is damaged, old or
//! tampered with, the records are fetched one by one. It is never trusted beyond this: a row counts only
//! if the listing shows the very ETag that the row was made for, and the objects are sealed for their own
//! keys, so that what a row says is what some node of this volume read in that record. Rows have no
//! bodies; whoever needs one fetches the record.
//!
//! Names are spread over 2^bits shards by a hash, about 1,000 to each; a shard's number is `bits` in the
//! highest byte and its place below. Shards are replaced one by one and without conditions: two nodes
//! that do so at the same time each leave a good one. Crash: some shards are new, some old.

use super::entries::{Place, Stored};
use super::listing::Listed;
use super::record::Record;
use super::{Volume, keys, proto};
use crate::crypto::{RecordContext, Role};
use crate::store::{Fetched, Key, ListRequest, ObjectMeta, PutWhen, list_all};
use crate::units::{ByteRange, DirId};
use crate::volume::VolumeError;
use futures::StreamExt;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;

/// Directories with fewer names have no index: their records are fetched in one round.
pub const WORTH_IT: usize = 64;
/// Rows out of date that are no reason to write anything: they are fetched one by one.
pub const WORTH_WRITING: usize = 16;
/// The stored form's version.
const FORMAT: u32 = 1;
/// Names in a shard, about.
const SHARD_NAMES: usize = 1000;
/// Bytes of rows in a shard, about, and at most: what a record's body holds, with some room.
const SHARD_BYTES: usize = 512 << 10;
const SHARD_LIMIT: usize = 960 << 10;
/// A shard's object, at most.
const OBJECT_LIMIT: u64 = 1 << 20;
/// A longer head is not in the index: it is fetched with its record.
const HEAD_LIMIT: usize = 4 << 10;
/// Shards of a directory: 2^10, for a million names.
const MOST_BITS: u32 = 10;
/// Shards read or written at the same time.
const PARALLEL: usize = 16;

/// What was found of a directory's index.
#[derive(Debug, Default)]
pub struct Index {
    /// The heads that are true, as the listing proved.
    pub rows: Vec<Stored>,
    bits: Option<u32>,
    /// Shards that were read: their rows, and how many of them are true.
    shards: HashMap<u32, Count>,
    /// All shards of all sizes that are there.
    there: Vec<Key>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    rows: usize,
    valid: usize,
}

impl Volume {
    /// Reads what a directory's index says about the names of `listed` for which `wanted` holds. Never
    /// fails: what cannot be read is not there.
    pub async fn read_index(
        &self,
        dir: DirId,
        listed: &[Listed],
        wanted: impl Fn(&Listed) -> bool,
    ) -> Index {
        let request = ListRequest { prefix: keys::index_prefix(dir), ..ListRequest::default() };
        let objects = match list_all(&**self.store(), request).await {
            Ok((objects, _)) => objects,
            Err(error) => {
                tracing::debug!(%dir, "index not listed: {error}");
                return Index::default();
            }
        };
        let mut index = Index::default();
        let mut newest: Option<(u32, &ObjectMeta)> = None;
        let mut shards = Vec::new();
        for object in &objects {
            let Some(shard) = keys::index_shard(dir, object.key.as_str()) else { continue };
            let bits = shard >> 24;
            if bits > MOST_BITS {
                continue;
            }
            index.there.push(object.key.clone());
            shards.push((shard, object));
            if newest.is_none_or(|(_, newest)| object.modified > newest.modified) {
                newest = Some((bits, object));
            }
        }
        // A number of shards that is being left has the older objects.
        let Some((bits, _)) = newest else { return index };
        index.bits = Some(bits);
        let by_name: HashMap<&[u8], &Listed> =
            listed.iter().map(|entry| (entry.name.as_slice(), entry)).collect();
        let needed: std::collections::HashSet<u32> = listed
            .iter()
            .filter(|entry| wanted(entry))
            .map(|entry| shard_of(&entry.name, bits))
            .collect();
        let reads: Vec<_> = shards
            .into_iter()
            .filter(|(shard, object)| needed.contains(shard) && object.size <= OBJECT_LIMIT)
            .map(|(shard, object)| self.read_shard(dir, shard, object.size))
            .collect();
        let mut reads = futures::stream::iter(reads).buffer_unordered(PARALLEL);
        while let Some((shard, rows)) = reads.next().await {
            let mut count = Count { rows: rows.len(), valid: 0 };
            for row in rows {
                let Some(entry) = by_name.get(row.name.as_slice()) else { continue };
                if row.etag != entry.etag.0 {
                    continue;
                }
                let Some(stored) = stored(dir, row, entry) else { continue };
                count.valid += 1;
                if wanted(entry) {
                    index.rows.push(stored);
                }
            }
            index.shards.insert(shard, count);
        }
        index
    }

    /// Writes the shards in which rows are missing or out of date, if enough are. `entries` are all living
    /// names of the directory as a listing showed them, `index` what was read for that listing.
    pub async fn write_index(
        &self,
        dir: DirId,
        entries: Vec<Stored>,
        index: Index,
    ) -> Result<(), VolumeError> {
        if self.is_read_only() {
            return Err(VolumeError::ReadOnly);
        }
        let mut rows: Vec<proto::IndexRow> = entries.iter().filter_map(row).collect();
        drop(entries);
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows.dedup_by(|a, b| a.name == b.name);
        let bytes: usize = rows.iter().map(Message::encoded_len).sum();
        let kept = index.bits.filter(|bits| still_fits(*bits, rows.len(), bytes));
        let bits = kept.unwrap_or_else(|| bits_for(rows.len(), bytes));
        let mut shards: HashMap<u32, Vec<proto::IndexRow>> =
            (0..1 << bits).map(|place| (bits << 24 | place, Vec::new())).collect();
        for row in rows {
            shards.entry(shard_of(&row.name, bits)).or_default().push(row);
        }
        let there: Vec<u32> =
            index.there.iter().filter_map(|key| keys::index_shard(dir, key.as_str())).collect();
        let stale = |shard: u32, rows: &[proto::IndexRow]| match index.shards.get(&shard) {
            // A row that is out of date is missing too: counted once.
            Some(count) => rows.len().saturating_sub(count.valid).max(count.rows - count.valid),
            // Not read, because nothing was asked of it, or because it is not there.
            None if there.contains(&shard) => 0,
            None => rows.len(),
        };
        let all: usize = shards.iter().map(|(shard, rows)| stale(*shard, rows)).sum();
        if all < WORTH_WRITING {
            return Ok(());
        }
        // What is left out costs those who list the directory a request each.
        let due = shards.into_iter().filter(|(shard, rows)| stale(*shard, rows) > 1);
        let mut writes = futures::stream::iter(due)
            .map(|(shard, rows)| self.write_shard(dir, shard, rows))
            .buffer_unordered(PARALLEL);
        while let Some(written) = writes.next().await {
            written?;
        }
        // Shards of another number of shards are in nobody's way but cost requests.
        let former: Vec<Key> = index
            .there
            .into_iter()
            .filter(|key| {
                keys::index_shard(dir, key.as_str()).is_some_and(|shard| shard >> 24 != bits)
            })
            .collect();
        for keys in former.chunks(1000) {
            self.store().delete_many(keys).await?;
        }
        Ok(())
    }

    /// A shard of `size` bytes, as was listed, and its rows; none if it cannot be read or opened.
    async fn read_shard(&self, dir: DirId, shard: u32, size: u64) -> (u32, Vec<proto::IndexRow>) {
        let key = keys::index(dir, shard);
        let range = Some(ByteRange::new(0, size));
        let body = match self.store().get(&key, range, None).await {
            Ok(Fetched::Object(object)) => object.body.bytes(),
            Ok(Fetched::Unchanged) => return (shard, Vec::new()),
            Err(error) => {
                tracing::debug!(%key, "shard of an index not read: {error}");
                return (shard, Vec::new());
            }
        };
        let rows = self.keyring().open_record(&context(&key), &body).ok().and_then(|opened| {
            let head = proto::IndexShard::decode(opened.head.as_slice()).ok()?;
            let rows = proto::IndexRows::decode(opened.body.as_slice()).ok()?.rows;
            (head.format == FORMAT && !opened.tombstone).then_some(rows)
        });
        let rows = rows.unwrap_or_else(|| {
            tracing::warn!(%key, "a directory's index is damaged or of another version: not used");
            Vec::new()
        });
        (shard, rows)
    }

    async fn write_shard(
        &self,
        dir: DirId,
        shard: u32,
        mut rows: Vec<proto::IndexRow>,
    ) -> Result<(), VolumeError> {
        let mut bytes = 0;
        rows.retain(|row| {
            // With the tag and length of each row.
            bytes += row.encoded_len() + 8;
            bytes <= SHARD_LIMIT
        });
        let key = keys::index(dir, shard);
        let sealed = self
            .keyring()
            .seal_record(
                &context(&key),
                &proto::IndexShard { format: FORMAT }.encode_to_vec(),
                &proto::IndexRows { rows }.encode_to_vec(),
                false,
                &*self.world().entropy,
            )
            .map_err(|error| VolumeError::corrupt(&key, error))?;
        self.store().put(&key, sealed.into(), PutWhen::Always).await?;
        Ok(())
    }
}

/// What a shard is bound to.
fn context(key: &Key) -> RecordContext<'_> {
    RecordContext { role: Role::Index, scope: &[], name: key.as_str().as_bytes() }
}

fn shard_of(name: &[u8], bits: u32) -> u32 {
    let hash = blake3::hash(name);
    let [a, b, ..] = *hash.as_bytes();
    let number = u32::from(u16::from_be_bytes([a, b]));
    bits << 24 | number >> (16 - bits)
}

/// How many shards a directory shall have, as a power of two.
fn bits_for(names: usize, bytes: usize) -> u32 {
    let shards = (names / SHARD_NAMES).max(bytes / SHARD_BYTES).max(1);
    shards.next_power_of_two().ilog2().min(MOST_BITS)
}

/// Whether that many shards still do: changing it means to write all of them.
fn still_fits(bits: u32, names: usize, bytes: usize) -> bool {
    let (names, bytes) = (names >> bits, bytes >> bits);
    let crowded = names > 2 * SHARD_NAMES || bytes > 3 * SHARD_BYTES / 2;
    let empty = bits > 0 && names < SHARD_NAMES / 4 && bytes < SHARD_BYTES / 4;
    !(empty || crowded && bits < MOST_BITS)
}

/// A record as a row, unless it is too long, or a step of an exchange that whoever reads it must finish.
fn row(entry: &Stored) -> Option<proto::IndexRow> {
    let Place::Entry(_, name) = &entry.place else { return None };
    if entry.record.exchanged.is_some() || entry.record.buried_at.is_some() {
        return None;
    }
    let (head, _) = entry.record.encode();
    (head.len() <= HEAD_LIMIT).then(|| proto::IndexRow {
        name: name.clone(),
        etag: entry.etag.0.clone(),
        salt: entry.salt.to_vec(),
        head,
    })
}

/// A row as the record that it was made of; `None` if it makes no sense.
fn stored(dir: DirId, row: proto::IndexRow, entry: &Listed) -> Option<Stored> {
    let record = Record::decode(&row.head, None).ok()?;
    if record.exchanged.is_some() || record.buried_at.is_some() {
        return None;
    }
    Some(Stored {
        record: Arc::new(record),
        place: Place::Entry(dir, row.name),
        etag: entry.etag.clone(),
        salt: row.salt.try_into().ok()?,
        modified: entry.modified,
        seen: entry.seen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_shards_follows_names_and_bytes_and_stays_for_a_while() {
        assert_eq!(bits_for(64, 20_000), 0);
        assert_eq!(bits_for(10_000, 3 << 20), 4);
        assert_eq!(bits_for(2000, 8 << 20), 4);
        assert_eq!(bits_for(50_000_000, 0), MOST_BITS);
        assert!(still_fits(0, 1999, 600_000) && !still_fits(0, 2500, 600_000));
        assert!(still_fits(4, 10_000, 3 << 20) && !still_fits(4, 1000, 300_000));
        assert!(still_fits(MOST_BITS, 50_000_000, 0));
    }

    #[test]
    fn a_name_has_one_shard_of_each_number_of_shards() {
        for bits in 0..=MOST_BITS {
            let shard = shard_of(b"name", bits);
            assert_eq!(shard >> 24, bits);
            assert!(shard & 0x00ff_ffff < 1 << bits);
        }
    }
}
