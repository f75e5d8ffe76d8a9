//! One mark: what is there and what refers to it. Reads only, but for the tables that it leaves.
//!
//! Order: sessions, then `d/` (this fixes the candidates), then `t/`, then `i/` (a file's record moves from
//! an entry to `i/`, never back), then sessions again. Each listing is read in [`SHARDS`] parts at the same
//! time, in the order of keys, beside the rows that the former mark left of the same keys: a record is read
//! only where its ETag is another one.

use super::heads::{self, Head};
use super::sessions::{self, Living};
use super::tables::{Fact, Facts, LONG_ROW, Reader, Tables};
use super::ways::{Way, Ways};
use super::{GcError, GcSettings, lease};
use crate::store::{ETag, ListRequest, ObjectMeta};
use crate::units::{DirId, FileId, SessionId};
use crate::volume::native::entries::Place;
use crate::volume::native::listing::{is_hidden, is_tombstone_size};
use crate::volume::native::record::Record;
use crate::volume::native::{Volume, keys, proto};
use crate::world::Timestamp;
use futures::{FutureExt, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Parts of the key space that are listed at the same time: by the first digit of the id.
const SHARDS: usize = 16;
/// Records read at the same time in each of them.
const PARALLEL: usize = 16;
/// So many names may vanish between two marks before that is suspicious, whatever their share.
const VANISHED: u64 = 100;

/// What a mark works on.
pub(super) struct Mark<'a> {
    pub(super) volume: &'a Arc<Volume>,
    pub(super) settings: &'a GcSettings,
    pub(super) former: Option<proto::GcMark>,
    pub(super) tables: Tables<'a>,
    pub(super) facts: Facts,
    /// Ids of things whose names the former mark wants to hear of.
    pub(super) watched: Watched,
    pub(super) living: Mutex<Living>,
    pub(super) tally: Mutex<Tally>,
    pub(super) progress: &'a (dyn Fn(u64) + Sync),
}

/// What the former mark noted, by the ids of the things.
#[derive(Default)]
pub(super) struct Watched {
    /// They have hidden names.
    pub(super) hidden: HashSet<[u8; 16]>,
    /// Directories with several names.
    pub(super) twice: HashSet<[u8; 16]>,
}

/// A name and what the store said of the record there.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) place: Place,
    /// See [`digest`].
    pub(super) etag: Vec<u8>,
}

/// What it found, as far as that is not in the tables.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) started: Timestamp,
    pub(super) completed: Timestamp,
    pub(super) names: u64,
    pub(super) buried: u64,
    pub(super) reread: u64,
    pub(super) unlisted: u64,
    pub(super) vanished: u64,
    pub(super) segments: u64,
    pub(super) segment_bytes: u64,
    pub(super) doomed: u64,
    pub(super) ways: Ways,
    pub(super) hidden: Vec<(Place, [u8; 16])>,
    pub(super) named: HashSet<[u8; 16]>,
    /// Living names of directories that the former mark saw to have several.
    pub(super) names_of: HashMap<DirId, Vec<Name>>,
    /// Half-done moves, from and to.
    pub(super) moves: Vec<(Place, Place)>,
    pub(super) exchanges: Vec<Place>,
}

/// A listed key and what is known of it.
struct Listed {
    key: String,
    place: Place,
    etag: ETag,
    age: Option<Duration>,
}

/// What is to be done for one key.
enum Job {
    Keep(Listed, proto::GcRow),
    Read(Listed),
    /// The former mark saw it, the listing lacks it.
    Missing(proto::GcRow),
}

impl Mark<'_> {
    pub(super) async fn run(&self) -> Result<(), GcError> {
        self.top().await?;
        let seen = sessions::read(self.volume).await?;
        self.living.lock().add(&seen, self.settings)?;
        self.sharded(|shard| self.segments(shard)).await?;
        self.sharded(|shard| self.records('t', shard)).await?;
        self.sharded(|shard| self.records('i', shard)).await?;
        let seen = sessions::read(self.volume).await?;
        self.living.lock().add(&seen, self.settings)?;
        self.top().await?;
        let tally = self.tally.lock();
        let took = lease::age(tally.started, tally.completed).unwrap_or_default();
        if took > self.settings.grace {
            let why = format!("it took {}, longer than the grace period", took.as_secs_f32());
            return Err(GcError::Void(format!("{why}: make that longer (--grace)")));
        }
        if let Some(former) = &self.former
            && tally.vanished > VANISHED.max(former.names / 10)
            && !self.settings.forget
        {
            return Err(GcError::Void(format!(
                "{} of {} names are gone without a trace since the former mark: was something deleted \
                 by other means? If that is so and meant, --forget starts anew",
                tally.vanished, former.names
            )));
        }
        Ok(())
    }

    /// What lies at the top: nothing unexpected. Also reads the store's clock.
    async fn top(&self) -> Result<(), GcError> {
        let mut request = ListRequest { roll_up: true, ..ListRequest::default() };
        loop {
            let page = self.volume.store().list(&request).await?;
            self.note_date(page.date)?;
            let objects = page.objects.iter().map(|object| object.key.as_str());
            let unexpected = objects
                .chain(page.prefixes.iter().map(String::as_str))
                .find(|found| !keys::TOP.contains(found));
            if let Some(found) = unexpected {
                return Err(GcError::unexpected(&found.escape_debug()));
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn note_date(&self, date: Timestamp) -> Result<(), GcError> {
        if date.0 == 0 {
            return Err(GcError::Void("the store does not tell its time".to_owned()));
        }
        let mut tally = self.tally.lock();
        if tally.started.0 == 0 {
            tally.started = date;
        }
        tally.completed = tally.completed.max(date);
        Ok(())
    }

    async fn sharded<F: Future<Output = Result<(), GcError>> + Send>(
        &self,
        work: impl Fn(usize) -> F,
    ) -> Result<(), GcError> {
        let shards = (0..SHARDS).map(|shard| work(shard).boxed());
        futures::future::try_join_all(shards).await.map(drop)
    }

    /// Lists a part of what lies under `prefix`, a page at a time.
    async fn page(
        &self,
        root: char,
        shard: usize,
        after: &mut Option<String>,
    ) -> Result<Option<(Vec<ObjectMeta>, Timestamp)>, GcError> {
        let bound = |shard: usize| format!("{root}/{shard:x}");
        let start = match after.as_deref() {
            Some("") => return Ok(None),
            Some(after) => Some(after.to_owned()),
            None => (shard > 0).then(|| bound(shard)),
        };
        let request = ListRequest {
            prefix: format!("{root}/"),
            start_after: start,
            ..ListRequest::default()
        };
        let mut page = self.volume.store().list(&request).await?;
        self.note_date(page.date)?;
        *after = Some(page.next.unwrap_or_default());
        if shard + 1 < SHARDS {
            let end = bound(shard + 1);
            let inside = page.objects.partition_point(|object| object.key.as_str() <= &end[..]);
            if inside < page.objects.len() {
                page.objects.truncate(inside);
                *after = Some(String::new());
            }
        }
        Ok(Some((page.objects, page.date)))
    }

    /// Segments that may be garbage: old, and of a session that lives no more.
    async fn segments(&self, shard: usize) -> Result<(), GcError> {
        let rules = &self.settings.rules;
        let mut after = None;
        while let Some((objects, date)) = self.page('d', shard, &mut after).await? {
            let mut facts = Vec::new();
            let (mut count, mut bytes) = (0, 0);
            for object in objects {
                let (file, segment) = keys::segment_id(object.key.as_str())
                    .ok_or_else(|| GcError::unexpected(&object.key))?;
                (count, bytes) = (count + 1, bytes + object.size);
                let old =
                    lease::age(object.modified, date).is_some_and(|age| age >= self.settings.grace);
                let alive = self.living.lock().sessions.contains(&segment.session);
                if (old || !rules.age) && (!alive || !rules.dead_sessions) {
                    let (session, counter) = (segment.session, segment.counter);
                    facts.push(Fact::Candidate(file, session, counter, object.size));
                }
            }
            self.facts.add(&self.tables, &facts).await?;
            let mut tally = self.tally.lock();
            tally.segments += count;
            tally.segment_bytes += bytes;
            (self.progress)(count);
        }
        Ok(())
    }

    async fn records(&self, root: char, shard: usize) -> Result<(), GcError> {
        let table = format!("{root}{shard:x}");
        let mut former = self
            .former
            .as_ref()
            .map(|former| Reader::<proto::GcRow>::new(self.volume, former, &table));
        let mut writer = self.tables.writer::<proto::GcRow>(table);
        let mut doomed = self.tables.writer::<proto::GcDoomed>(format!("z{root}{shard:x}"));
        let mut after = None;
        loop {
            let page = self.page(root, shard, &mut after).await?;
            let last = page.is_none();
            let mut jobs = Vec::new();
            let (objects, date) = page.unwrap_or_default();
            let listed = objects.len() as u64;
            for object in objects {
                let place = keys::place(self.volume.keyring(), object.key.as_str())
                    .ok_or_else(|| GcError::unexpected(&object.key))?;
                let ObjectMeta { key, size, etag, modified } = object;
                let key = key.as_str().to_owned();
                let row = rows_up_to(&mut former, &key, &mut jobs).await?;
                let age = lease::age(modified, date);
                let listed = Listed { key, place, etag, age };
                jobs.push(match row {
                    Some(row)
                        if row.etag == digest(&listed.etag)
                            && row.buried == is_tombstone_size(size) =>
                    {
                        Job::Keep(listed, row)
                    }
                    _ => Job::Read(listed),
                });
            }
            if last && let Some(former) = &mut former {
                while let Some(row) = former.next().await? {
                    jobs.push(Job::Missing(row));
                }
            }
            let mut rows =
                futures::stream::iter(jobs).map(|job| self.do_job(job).boxed()).buffered(PARALLEL);
            while let Some((listed, row)) = rows.try_next().await?.map(Option::unzip) {
                let (Some(listed), Some(mut row)) = (listed, row) else { continue };
                self.take(&listed, &row).await?;
                if row.buried
                    && root == 't'
                    && listed.age.is_some_and(|age| age >= 2 * self.settings.grace)
                {
                    self.tally.lock().doomed += 1;
                    doomed.push(proto::GcDoomed { key: row.key.clone() }).await?;
                }
                if row.encoded_len() > LONG_ROW {
                    row = proto::GcRow { key: row.key, ..proto::GcRow::default() };
                }
                writer.push(row).await?;
            }
            (self.progress)(listed);
            if last {
                writer.flush().await?;
                return doomed.flush().await;
            }
        }
    }

    async fn do_job(&self, job: Job) -> Result<Option<(Listed, proto::GcRow)>, GcError> {
        match job {
            Job::Keep(listed, row) => Ok(Some((listed, row))),
            Job::Read(listed) => {
                self.tally.lock().reread += 1;
                let Some(head) = self.load(&listed.place).await? else {
                    // Gone since it was listed; what it was moved to says so by a name of its own.
                    return Ok(None);
                };
                self.row(listed.key, listed.place, head).await.map(Some)
            }
            Job::Missing(row) if self.settings.rules.former_keys => {
                let place = keys::place(self.volume.keyring(), &row.key)
                    .ok_or_else(|| GcError::unexpected(&row.key.escape_debug()))?;
                let Some(head) = self.load(&place).await? else {
                    self.tally.lock().vanished += u64::from(!row.buried);
                    return Ok(None);
                };
                self.tally.lock().unlisted += 1;
                self.row(row.key, place, head).await.map(Some)
            }
            Job::Missing(_) => Ok(None),
        }
    }

    async fn load(&self, place: &Place) -> Result<Option<Head>, GcError> {
        heads::load(self.volume, place).await.map_err(|error| match error {
            GcError::Volume(error) if error.is_transient() => error.into(),
            GcError::Volume(error) => GcError::Void(format!("a record does not open: {error}")),
            other => other,
        })
    }

    /// What a record that was read says.
    async fn row(
        &self,
        key: String,
        place: Place,
        head: Head,
    ) -> Result<(Listed, proto::GcRow), GcError> {
        let Head { record, etag, age, .. } = &head;
        let buried = record.buried_at.is_some();
        let (kind, target) = heads::target(record);
        let mut row = proto::GcRow {
            key: key.clone(),
            etag: digest(etag),
            buried,
            target: target.to_vec(),
            runs: Vec::new(),
            links: record.links,
            ..proto::GcRow::default()
        };
        row.set_kind(kind);
        if !buried || self.settings.rules.tombstones {
            row.runs = heads::runs(self.volume, record).await?;
        }
        let old = age.is_some_and(|age| age >= self.settings.grace);
        if !buried && self.is_step(&place, record, old, &mut row).await? {
            // Looked at again by every mark until it is done.
            row.etag.clear();
        }
        let (etag, age) = (etag.clone(), *age);
        Ok((Listed { key, place, etag, age }, row))
    }

    /// Whether a living record is to be read again by the next mark: it is a step of a move or an exchange
    /// that is not complete, or its row has been given what an exchange put under its hidden name. That
    /// counts as referred to here, as long as it is there: a listing may have seen it nowhere.
    async fn is_step(
        &self,
        place: &Place,
        record: &Record,
        old: bool,
        row: &mut proto::GcRow,
    ) -> Result<bool, GcError> {
        let (Place::Entry(dir, name), Some(from)) = (place, &record.moved_from) else {
            return Ok(false);
        };
        if is_hidden(name) {
            // The first step of an exchange is a copy; whatever stands at its source is no half of a move.
            return Ok(false);
        }
        let source = match &record.exchanged {
            Some(hidden) => Place::Entry(*dir, hidden.clone()),
            None => Place::Entry(from.dir, from.name.clone()),
        };
        let Some(other) = self.load(&source).await? else { return Ok(false) };
        if record.exchanged.is_some() {
            row.runs.extend(heads::runs(self.volume, &other.record).await?);
        }
        if other.record.buried_at.is_some() {
            // What was added to the row is not to stay in it: it is read again.
            return Ok(record.exchanged.is_some());
        }
        let unfinished = record.exchanged.is_some() || other.salt == from.salt;
        if unfinished && old {
            let mut tally = self.tally.lock();
            match &record.exchanged {
                Some(_) => tally.exchanges.push(place.clone()),
                None => tally.moves.push((source, place.clone())),
            }
        }
        Ok(unfinished)
    }

    /// Enters a row into the facts and the tally.
    async fn take(&self, listed: &Listed, row: &proto::GcRow) -> Result<(), GcError> {
        let damaged = || GcError::Void(format!("{:?}: the former mark's row is damaged", row.key));
        let id = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map_err(|_| damaged());
        let target = id(&row.target)?;
        let mut facts = Vec::with_capacity(row.runs.len() + 1);
        for run in &row.runs {
            let (owner, session) = (FileId(id(&run.owner)?), SessionId(id(&run.session)?));
            facts.push(Fact::Reference(owner, session, run.counter, run.count));
        }
        match (&listed.place, row.kind()) {
            (Place::Inode(inode), _) => {
                let grace = self.settings.grace * if row.buried { 2 } else { 1 };
                let old = listed.age.is_some_and(|age| age >= grace);
                // A file that is open somewhere keeps its record.
                let open = self.living.lock().pinned.contains(&FileId(target));
                facts.push(Fact::Inode(inode.0, row.buried, old && !open, row.links));
            }
            (_, proto::Kind::Link) => facts.push(Fact::Name(target, !row.buried)),
            _ => {}
        }
        self.facts.add(&self.tables, &facts).await?;
        let mut tally = self.tally.lock();
        tally.names += 1;
        tally.buried += u64::from(row.buried);
        let Place::Entry(parent, name) = &listed.place else { return Ok(()) };
        if row.kind() == proto::Kind::Directory {
            let way = Way { parent: *parent, child: DirId(target), live: !row.buried };
            tally.ways.ways.push(way);
        }
        if row.buried {
            return Ok(());
        }
        tally.ways.populated.insert(*parent);
        if is_hidden(name) {
            if listed.age.is_some_and(|age| age >= self.settings.grace) {
                tally.hidden.push((listed.place.clone(), target));
            }
            return Ok(());
        }
        if self.watched.hidden.contains(&target) {
            tally.named.insert(target);
        }
        if row.kind() == proto::Kind::Directory && self.watched.twice.contains(&target) {
            let name = Name { place: listed.place.clone(), etag: digest(&listed.etag) };
            tally.names_of.entry(DirId(target)).or_default().push(name);
        }
        Ok(())
    }
}

/// The former mark's row of a key; those before it are missing from the listing.
async fn rows_up_to(
    former: &mut Option<Reader<'_, proto::GcRow>>,
    key: &str,
    jobs: &mut Vec<Job>,
) -> Result<Option<proto::GcRow>, GcError> {
    let Some(former) = former else { return Ok(None) };
    while let Some(row) = former.peek().await? {
        if row.key.as_str() > key {
            return Ok(None);
        }
        let found = row.key == key;
        let row = former.next().await?;
        if found {
            return Ok(row);
        }
        jobs.extend(row.map(Job::Missing));
    }
    Ok(None)
}

/// What a row keeps of an ETag.
pub(super) fn digest(etag: &ETag) -> Vec<u8> {
    blake3::hash(etag.0.as_bytes()).as_bytes()[..16].to_vec()
}
