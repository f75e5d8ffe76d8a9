//! What a mark leaves for the next one, and what does not fit into memory meanwhile: tables of rows,
//! cut into parts that are sealed like records and bound to their keys.
//!
//! Crash story: parts are garbage until `g/mark` names their mark; the next run deletes them.

use super::GcError;
use crate::crypto::{RecordContext, Role};
use crate::store::{ETag, Fetched, Key, PutWhen, StoreErrorKind};
use crate::units::{FileId, SessionId};
use crate::volume::VolumeError;
use crate::volume::native::{Volume, keys, proto};
use crate::world::Timestamp;
use parking_lot::Mutex;
use prost::Message;
use std::collections::{BTreeMap, VecDeque};

/// Encoded bytes after which a part is stored; records hold 1 MiB.
const PART: usize = 400 << 10;
/// A row longer than this is stored without what makes it long, and read again by the next mark.
pub(super) const LONG_ROW: usize = 400 << 10;
/// Parts of one table, at most: what a mark says of itself is bounded before it is believed.
const PARTS_LIMIT: u32 = 1 << 20;
/// Buckets of facts, by the first byte of an id.
pub(super) const BUCKETS: usize = 256;
/// How often a conditional change with an unknown outcome is sent again.
const ATTEMPTS: usize = 4;
/// Bytes of one fact.
const FACT: usize = 37;

/// A kind of row.
pub(super) trait Row: Message + Default + Clone {
    fn put(self, part: &mut proto::GcPart);
    fn take(part: proto::GcPart) -> Vec<Self>;
}

macro_rules! row {
    ($kind:ty, $field:ident) => {
        impl Row for $kind {
            fn put(self, part: &mut proto::GcPart) {
                part.$field.push(self);
            }
            fn take(part: proto::GcPart) -> Vec<Self> {
                part.$field
            }
        }
    };
}
row!(proto::GcRow, rows);
row!(proto::GcCandidate, candidates);
row!(proto::GcNoted, noted);
row!(proto::GcDoomed, doomed);

/// The tables of one mark.
pub(super) struct Tables<'a> {
    volume: &'a Volume,
    /// The mark's id: 32 hexadecimal digits.
    pub(super) mark: String,
    /// A dry run stores nothing.
    pub(super) stores: bool,
    parts: Mutex<BTreeMap<String, u32>>,
}

impl<'a> Tables<'a> {
    pub(super) fn new(volume: &'a Volume, stores: bool) -> Self {
        let id: [u8; 16] = volume.world().entropy.bytes();
        let mark = data_encoding::HEXLOWER.encode(&id);
        Self { volume, mark, stores, parts: Mutex::default() }
    }

    pub(super) fn writer<R: Row>(&self, table: impl Into<String>) -> Writer<'_, 'a, R> {
        Writer { tables: self, table: table.into(), rows: Vec::new(), bytes: 0 }
    }

    /// Says what was stored.
    pub(super) fn stored(&self) -> Vec<proto::GcTable> {
        let parts = self.parts.lock();
        parts
            .iter()
            .map(|(name, parts)| proto::GcTable { name: name.clone(), parts: *parts })
            .collect()
    }

    /// Stores bytes as the next part of a table.
    async fn put(&self, table: &str, bytes: &[u8]) -> Result<(), GcError> {
        let part = {
            let mut parts = self.parts.lock();
            let parts = parts.entry(table.to_owned()).or_default();
            *parts += 1;
            *parts - 1
        };
        let key = keys::gc_table(&self.mark, table, part);
        let sealed = seal(self.volume, &key, bytes)?;
        // Under a fresh id, so that sending it again does no harm.
        self.volume.store().put(&key, sealed.into(), PutWhen::Always).await?;
        Ok(())
    }
}

/// Seals what gc stores.
pub(super) fn seal(volume: &Volume, key: &Key, bytes: &[u8]) -> Result<Vec<u8>, GcError> {
    let entropy = &*volume.world().entropy;
    let sealed = volume.keyring().seal_record(&context(key), bytes, &[], false, entropy);
    Ok(sealed.map_err(|error| VolumeError::corrupt(key, error))?)
}

/// Opens it. Another node may have sealed it under a master key that this one has not seen yet.
async fn open(volume: &Volume, key: &Key, object: &[u8]) -> Result<Vec<u8>, GcError> {
    volume.learn_master(crate::crypto::record_master(object)).await;
    let opened = volume.keyring().open_record(&context(key), object);
    Ok(opened.map_err(|error| VolumeError::corrupt(key, error))?.head)
}

/// Something that [`replace`] stored.
pub(in crate::volume::native) struct Kept<M> {
    pub(in crate::volume::native) message: M,
    pub(in crate::volume::native) etag: ETag,
    /// When it was stored, and when it was read, by the store's clock; 0 where the store does not tell.
    pub(in crate::volume::native) modified: Timestamp,
    pub(in crate::volume::native) date: Timestamp,
}

/// Reads what [`replace`] stored; `None`: nothing is there. `what` names it in errors.
pub(in crate::volume::native) async fn read<M: Message + Default>(
    volume: &Volume,
    key: &Key,
    what: &str,
) -> Result<Option<Kept<M>>, GcError> {
    let object = match volume.store().get(key, None, None).await {
        Ok(Fetched::Object(object)) => object,
        Ok(Fetched::Unchanged) => return Ok(None),
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let bytes = open(volume, key, &object.body.bytes()).await?;
    let message = M::decode(&bytes[..])
        .map_err(|_| VolumeError::corrupt(key, format_args!("not a {what}")))?;
    let (etag, modified) = (object.meta.etag, object.meta.modified);
    Ok(Some(Kept { message, etag, modified, date: object.date }))
}

/// Stores something that only the holder of the lease changes, over `base` or where there is nothing. A
/// lost reply is settled by reading.
///
/// # Errors
/// [`GcError::LeaseLost`] if somebody else has changed it.
pub(in crate::volume::native) async fn replace(
    volume: &Volume,
    key: &Key,
    bytes: &[u8],
    base: Option<ETag>,
) -> Result<ETag, GcError> {
    let sealed = bytes::Bytes::from(seal(volume, key, bytes)?);
    let salt = crate::crypto::record_salt(&sealed);
    let when = base.map_or(PutWhen::IfAbsent, PutWhen::IfMatch);
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let error = match volume.store().put(key, sealed.clone(), when.clone()).await {
            Ok(etag) => return Ok(etag),
            Err(error) => error,
        };
        let refused =
            matches!(error.kind, StoreErrorKind::PreconditionFailed | StoreErrorKind::NotFound);
        if !refused && !error.effect_unknown {
            return Err(error.into());
        }
        match volume.store().get(key, None, None).await {
            Ok(Fetched::Object(object))
                if crate::crypto::record_salt(&object.body.bytes()) == salt =>
            {
                return Ok(object.meta.etag);
            }
            // Sent again on the same condition: if somebody else was faster, it is refused.
            _ if !refused => last = Some(error),
            Err(unread) if unread.kind != StoreErrorKind::NotFound => return Err(unread.into()),
            _ => return Err(GcError::LeaseLost),
        }
    }
    Err(last.map_or(GcError::LeaseLost, GcError::from))
}

fn context(key: &Key) -> RecordContext<'_> {
    RecordContext { role: Role::Index, scope: &[], name: key.as_str().as_bytes() }
}

/// Fills a table.
pub(super) struct Writer<'t, 'a, R: Row> {
    tables: &'t Tables<'a>,
    table: String,
    rows: Vec<R>,
    bytes: usize,
}

impl<R: Row> Writer<'_, '_, R> {
    pub(super) async fn push(&mut self, row: R) -> Result<(), GcError> {
        if !self.tables.stores {
            return Ok(());
        }
        self.bytes += row.encoded_len() + 8;
        self.rows.push(row);
        if self.bytes >= PART { self.flush().await } else { Ok(()) }
    }

    pub(super) async fn flush(&mut self) -> Result<(), GcError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut part = proto::GcPart::default();
        for row in self.rows.drain(..) {
            row.put(&mut part);
        }
        self.bytes = 0;
        self.tables.put(&self.table, &part.encode_to_vec()).await
    }
}

/// Reads a table in order, a part at a time.
pub(super) struct Reader<'a, R: Row> {
    volume: &'a Volume,
    mark: String,
    table: String,
    parts: u32,
    next: u32,
    rows: VecDeque<R>,
}

impl<'a, R: Row> Reader<'a, R> {
    /// A table of a mark; one that it does not name is empty.
    pub(super) fn new(volume: &'a Volume, mark: &proto::GcMark, table: &str) -> Self {
        let stored = mark.tables.iter().find(|stored| stored.name == table);
        let parts = stored.map_or(0, |stored| stored.parts.min(PARTS_LIMIT));
        let (mark, table) = (mark.id.clone(), table.to_owned());
        Self { volume, mark, table, parts, next: 0, rows: VecDeque::new() }
    }

    pub(super) async fn peek(&mut self) -> Result<Option<&R>, GcError> {
        while self.rows.is_empty() && self.next < self.parts {
            let key = keys::gc_table(&self.mark, &self.table, self.next);
            let bytes = fetch(self.volume, &key).await?;
            let part = proto::GcPart::decode(&bytes[..])
                .map_err(|_| VolumeError::corrupt(&key, "not a part of a table"))?;
            self.rows = R::take(part).into();
            self.next += 1;
        }
        Ok(self.rows.front())
    }

    pub(super) async fn next(&mut self) -> Result<Option<R>, GcError> {
        self.peek().await?;
        Ok(self.rows.pop_front())
    }
}

async fn fetch(volume: &Volume, key: &Key) -> Result<Vec<u8>, GcError> {
    match volume.store().get(key, None, None).await {
        Ok(Fetched::Object(object)) => open(volume, key, &object.body.bytes()).await,
        Ok(Fetched::Unchanged) => Err(VolumeError::corrupt(key, "no answer").into()),
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            Err(VolumeError::corrupt(key, "a part of the former mark is missing").into())
        }
        Err(error) => Err(error.into()),
    }
}

/// One thing that a mark learned about an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fact {
    /// A segment that may be garbage: session, counter, size.
    Candidate(FileId, SessionId, u64, u64),
    /// Segments that something refers to: session, first counter, number.
    Reference(FileId, SessionId, u64, u64),
    /// A record at `i/`: whether it is buried, whether it is older than the grace period, its count.
    Inode([u8; 16], bool, bool, u32),
    /// An entry that refers to a record at `i/`: whether it is a living name.
    Name([u8; 16], bool),
}

/// Facts by the first byte of their id. In memory up to a limit, then sealed in the store.
pub(super) struct Facts {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: Vec<Vec<u8>>,
    bytes: usize,
    sessions: Vec<SessionId>,
    numbers: BTreeMap<SessionId, u32>,
}

impl Facts {
    pub(super) fn new(limit: usize) -> Self {
        let state = State { buckets: vec![Vec::new(); BUCKETS], ..State::default() };
        Self { limit, state: Mutex::new(state) }
    }

    /// Adds facts; moves what is there to the store when it is too much for memory.
    pub(super) async fn add(&self, tables: &Tables<'_>, facts: &[Fact]) -> Result<(), GcError> {
        let full = {
            let mut state = self.state.lock();
            for fact in facts {
                state.push(fact);
            }
            // A dry run has nowhere to put them.
            (state.bytes > self.limit && tables.stores).then(|| {
                state.bytes = 0;
                state.buckets.iter_mut().map(std::mem::take).collect::<Vec<_>>()
            })
        };
        for (bucket, bytes) in full.into_iter().flatten().enumerate() {
            for part in bytes.chunks(PART / FACT * FACT) {
                tables.put(&format!("f{bucket:02x}"), part).await?;
            }
        }
        Ok(())
    }

    /// The facts of a bucket, sorted: by id within a kind.
    pub(super) async fn bucket(
        &self,
        tables: &Tables<'_>,
        bucket: usize,
    ) -> Result<Vec<Fact>, GcError> {
        let table = format!("f{bucket:02x}");
        let parts = tables.parts.lock().get(&table).copied().unwrap_or(0);
        let mut bytes = std::mem::take(&mut self.state.lock().buckets[bucket]);
        for part in 0..parts {
            let key = keys::gc_table(&tables.mark, &table, part);
            bytes.extend(fetch(tables.volume, &key).await?);
        }
        let state = self.state.lock();
        let mut facts: Vec<Fact> =
            bytes.chunks_exact(FACT).filter_map(|bytes| state.decode(bytes)).collect();
        facts.sort_unstable();
        Ok(facts)
    }
}

impl State {
    fn push(&mut self, fact: &Fact) {
        let (tag, id, small, a, b) = match *fact {
            Fact::Candidate(file, session, counter, size) => {
                (0, file.0, self.number(session), counter, size)
            }
            Fact::Reference(file, session, counter, count) => {
                (1, file.0, self.number(session), counter, count)
            }
            Fact::Inode(id, buried, old, links) => (2, id, links, buried.into(), old.into()),
            Fact::Name(id, live) => (3, id, 0, live.into(), 0),
        };
        let bucket = &mut self.buckets[usize::from(id[0])];
        bucket.push(tag);
        bucket.extend_from_slice(&id);
        bucket.extend_from_slice(&u32::to_be_bytes(small));
        bucket.extend_from_slice(&u64::to_be_bytes(a));
        bucket.extend_from_slice(&u64::to_be_bytes(b));
        self.bytes += FACT;
    }

    fn number(&mut self, session: SessionId) -> u32 {
        let next = self.sessions.len() as u32;
        let number = *self.numbers.entry(session).or_insert(next);
        if number == next {
            self.sessions.push(session);
        }
        number
    }

    fn decode(&self, bytes: &[u8]) -> Option<Fact> {
        let id: [u8; 16] = bytes.get(1..17)?.try_into().ok()?;
        let small = u32::from_be_bytes(bytes.get(17..21)?.try_into().ok()?);
        let a = u64::from_be_bytes(bytes.get(21..29)?.try_into().ok()?);
        let b = u64::from_be_bytes(bytes.get(29..37)?.try_into().ok()?);
        let session = || self.sessions.get(small as usize).copied();
        Some(match bytes[0] {
            0 => Fact::Candidate(FileId(id), session()?, a, b),
            1 => Fact::Reference(FileId(id), session()?, a, b),
            2 => Fact::Inode(id, a != 0, b != 0, small),
            _ => Fact::Name(id, a != 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_back_as_they_were() {
        let mut state = State { buckets: vec![Vec::new(); BUCKETS], ..State::default() };
        let (file, session) = (FileId([7; 16]), SessionId([9; 16]));
        let facts = [
            Fact::Candidate(file, session, 3, u64::MAX),
            Fact::Reference(file, SessionId([1; 16]), u64::MAX, 1),
            Fact::Inode([7; 16], true, false, 12),
            Fact::Inode([7; 16], false, true, 0),
            Fact::Name([7; 16], true),
        ];
        for fact in &facts {
            state.push(fact);
        }
        let back: Vec<_> =
            state.buckets[7].chunks_exact(FACT).filter_map(|bytes| state.decode(bytes)).collect();
        assert_eq!(back, facts);
    }
}
