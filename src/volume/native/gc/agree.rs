//! What two marks agree on. Facts are taken together bucket by bucket, by the first byte of an id, so that
//! one 256th of them is in memory; then beside them what the former mark noted.

use super::heads;
use super::mark::{Mark, Name, Watched};
use super::tables::{BUCKETS, Fact, Reader};
use super::ways::Lost;
use super::{Amount, Found, GcError};
use crate::units::{DirId, FileId, InodeId, SessionId};
use crate::volume::native::entries::Place;
use crate::volume::native::proto;
use crate::world::Timestamp;
use std::collections::BTreeMap;

/// What a noted row is about.
const UNUSED_INODE: u32 = 1;
const WRONG_COUNT: u32 = 2;
const HIDDEN: u32 = 3;
const LOST: u32 = 4;
const TWICE: u32 = 5;
/// Directories with several names that one run looks at; what is left waits for the next one.
const MOST_TWICE: usize = 64;

/// Values of hidden names: seen first; the thing has another name; it has none.
const FIRST: u64 = 0;
const NAMED: u64 = 1;
const NAMELESS: u64 = 2;

/// What is to be mended, in memory: there is little of it.
#[derive(Default)]
pub(super) struct Repairs {
    /// Records at `i/` that no entry refers to.
    pub(super) unused: Vec<InodeId>,
    /// Buried ones that a living entry refers to.
    pub(super) revived: Vec<InodeId>,
    /// Those that count wrongly, and their number of names.
    pub(super) counts: Vec<(InodeId, u32)>,
    /// Hidden names of things that have another one.
    pub(super) leftovers: Vec<Place>,
    /// Hidden names of things that have no other.
    pub(super) stranded: Vec<(Place, [u8; 16])>,
    pub(super) lost: Vec<Lost>,
    pub(super) twice: Vec<Twice>,
}

/// A directory that several living names lead to, as several marks saw them.
pub(super) struct Twice {
    pub(super) dir: DirId,
    /// Names that the root reaches on a way that does not lead through the directory itself.
    pub(super) good: Vec<Name>,
    /// Those below itself, or without a way to the root.
    pub(super) bad: Vec<Name>,
}

type Noted = BTreeMap<(u32, [u8; 16]), proto::GcNoted>;

/// Ends a mark: fills its tables and says what may be done.
pub(super) async fn conclude(mark: &Mark<'_>, found: &mut Found) -> Result<Repairs, GcError> {
    let (started, completed) = {
        let tally = mark.tally.lock();
        (tally.started, tally.completed)
    };
    let former = former_notes(mark).await?;
    let mut conclusion = Conclusion {
        mark,
        former,
        noted: Noted::new(),
        repairs: Repairs::default(),
        started,
        completed,
    };
    conclusion.facts(found).await?;
    conclusion.hidden();
    conclusion.lost();
    conclusion.twice();
    let mut writer = mark.tables.writer::<proto::GcNoted>("noted");
    for (_, row) in conclusion.noted {
        writer.push(row).await?;
    }
    writer.flush().await?;
    Ok(conclusion.repairs)
}

/// Ids of things of whose names a former mark wants to hear.
pub(super) async fn watched(
    volume: &crate::volume::native::Volume,
    former: &proto::GcMark,
) -> Result<Watched, GcError> {
    let mut reader = Reader::<proto::GcNoted>::new(volume, former, "noted");
    let mut watched = Watched::default();
    while let Some(row) = reader.next().await? {
        match row.what {
            HIDDEN => watched.hidden.extend(<[u8; 16]>::try_from(&row.target[..])),
            TWICE => watched.twice.extend(<[u8; 16]>::try_from(&row.id[..])),
            _ => {}
        }
    }
    Ok(watched)
}

async fn former_notes(mark: &Mark<'_>) -> Result<Noted, GcError> {
    let mut notes = Noted::new();
    let Some(former) = &mark.former else { return Ok(notes) };
    let mut reader = Reader::<proto::GcNoted>::new(mark.volume, former, "noted");
    while let Some(row) = reader.next().await? {
        if let Ok(id) = <[u8; 16]>::try_from(&row.id[..]) {
            notes.insert((row.what, id), row);
        }
    }
    Ok(notes)
}

struct Conclusion<'m, 'a> {
    mark: &'m Mark<'a>,
    former: Noted,
    noted: Noted,
    repairs: Repairs,
    started: Timestamp,
    completed: Timestamp,
}

impl Conclusion<'_, '_> {
    /// Whether a mark that was complete then and this one are a grace period apart.
    fn is_ripe(&self, since: i64) -> bool {
        let grace = i64::try_from(self.mark.settings.grace.as_nanos()).unwrap_or(i64::MAX);
        !self.mark.settings.rules.two_marks || self.started.0.saturating_sub(since) >= grace
    }

    /// Notes something; says whether the marks before agree for a grace period.
    fn note(&mut self, what: u32, id: [u8; 16], target: &[u8], value: u64) -> bool {
        let former = self.former.get(&(what, id));
        let same = former.filter(|row| row.target == target && row.value == value);
        let since = same.map_or(self.completed.0, |row| row.since);
        let ripe = same.is_some() && self.is_ripe(since);
        let (id_bytes, target) = (id.to_vec(), target.to_vec());
        let row = proto::GcNoted { what, id: id_bytes, target, value, since };
        self.noted.insert((what, id), row);
        ripe
    }

    async fn facts(&mut self, found: &mut Found) -> Result<(), GcError> {
        let mark = self.mark;
        let mut former =
            mark.former.as_ref().map(|former| Reader::new(mark.volume, former, "candidates"));
        let mut writer = mark.tables.writer::<proto::GcCandidate>("candidates");
        let mut doomed = mark.tables.writer::<proto::GcDoomed>("zinodes");
        for bucket in 0..BUCKETS {
            let facts = mark.facts.bucket(&mark.tables, bucket).await?;
            let kind = |fact: &Fact| match fact {
                Fact::Candidate(..) => 0,
                Fact::Reference(..) => 1,
                Fact::Inode(..) => 2,
                Fact::Name(..) => 3,
            };
            let at = |number| facts.partition_point(|fact| kind(fact) < number);
            let (references, inodes, names) = (at(1), at(2), at(3));
            let garbage = self.unreferenced(&facts[..references], &facts[references..inodes]);
            for (file, session, counter, size) in garbage {
                let since = since(&mut former, file, session, counter).await?;
                let row = proto::GcCandidate {
                    file: file.0.to_vec(),
                    session: session.0.to_vec(),
                    counter,
                    size,
                    since: since.unwrap_or(self.completed.0),
                };
                let ripe = self.is_ripe(row.since);
                let amount = if ripe { &mut found.garbage } else { &mut found.waiting };
                amount.add(size);
                writer.push(row).await?;
            }
            for inode in self.inodes(&facts[inodes..names], &facts[names..]).await? {
                let key = crate::volume::native::keys::inode(inode).as_str().to_owned();
                mark.tally.lock().doomed += 1;
                doomed.push(proto::GcDoomed { key }).await?;
            }
        }
        writer.flush().await?;
        doomed.flush().await
    }

    /// Candidates that no reference covers, no living session wrote, and nobody has open.
    fn unreferenced(
        &self,
        candidates: &[Fact],
        references: &[Fact],
    ) -> Vec<(FileId, SessionId, u64, u64)> {
        let rules = &self.mark.settings.rules;
        let living = self.mark.living.lock();
        let mut references = references.iter().peekable();
        let mut covered = None;
        let mut garbage = Vec::new();
        for fact in candidates {
            let Fact::Candidate(file, session, counter, size) = *fact else { continue };
            while let Some(Fact::Reference(owner, by, first, count)) =
                references.next_if(|next| reference_start(next) <= Some((file, session, counter)))
            {
                let end = first.saturating_add(*count);
                covered = match covered {
                    Some((known, known_by, known_end)) if (known, known_by) == (*owner, *by) => {
                        Some((known, known_by, end.max(known_end)))
                    }
                    _ => Some((*owner, *by, end)),
                };
            }
            let referenced = covered
                .is_some_and(|(owner, by, end)| (owner, by) == (file, session) && counter < end);
            let alive = rules.dead_sessions && living.sessions.contains(&session);
            let open = rules.pins && living.pinned.contains(&file);
            if !referenced && !alive && !open {
                garbage.push((file, session, counter, size));
            }
        }
        garbage
    }

    /// Records at `i/`: notes those without names; returns buried ones that may be deleted.
    async fn inodes(&mut self, inodes: &[Fact], names: &[Fact]) -> Result<Vec<InodeId>, GcError> {
        let mut counts: BTreeMap<[u8; 16], (u32, bool)> = BTreeMap::new();
        for fact in names {
            if let Fact::Name(id, live) = *fact {
                let count = counts.entry(id).or_default();
                count.0 += u32::from(live);
            }
        }
        let mut doomed = Vec::new();
        for fact in inodes {
            let Fact::Inode(id, buried, old, links) = *fact else { continue };
            let inode = InodeId(id);
            match counts.get_mut(&id) {
                None => {
                    let ripe = self.note(UNUSED_INODE, id, &[], buried.into()) && old;
                    match (ripe, buried) {
                        (true, true) => doomed.push(inode),
                        (true, false) => self.repairs.unused.push(inode),
                        (false, _) => {}
                    }
                }
                Some((live, seen)) => {
                    *seen = true;
                    if buried && *live > 0 {
                        self.repairs.revived.push(inode);
                    } else if !buried && old && *live > 0 && *live != links {
                        let live = *live;
                        if self.note(WRONG_COUNT, id, &[], live.into()) {
                            self.repairs.counts.push((inode, live));
                        }
                    }
                }
            }
        }
        for (id, (live, seen)) in counts {
            let place = Place::Inode(InodeId(id));
            if live > 0 && !seen && heads::load(self.mark.volume, &place).await?.is_none() {
                return Err(GcError::Void(format!(
                    "a name refers to {place}, which is not there: `strongroom verify` tells which \
                     one; remove it or bring the object back"
                )));
            }
        }
        Ok(doomed)
    }

    /// Hidden names are steps of exchanges that nobody finished.
    fn hidden(&mut self) {
        let (hidden, named) = {
            let mut tally = self.mark.tally.lock();
            (std::mem::take(&mut tally.hidden), std::mem::take(&mut tally.named))
        };
        for (place, target) in hidden {
            let mut id = [0; 16];
            let key = place.key(self.mark.volume);
            id.copy_from_slice(&blake3::hash(key.as_str().as_bytes()).as_bytes()[..16]);
            let value = match (self.former.contains_key(&(HIDDEN, id)), named.contains(&target)) {
                (false, _) => FIRST,
                (true, true) => NAMED,
                (true, false) => NAMELESS,
            };
            match (self.note(HIDDEN, id, &target, value), value) {
                (true, NAMED) => self.repairs.leftovers.push(place),
                (true, NAMELESS) => self.repairs.stranded.push((place, target)),
                _ => {}
            }
        }
    }

    fn roots(&self) -> Vec<DirId> {
        let volume = self.mark.volume;
        match volume.root_place() {
            Place::Entry(above, _) => vec![volume.root_directory(), above],
            Place::Inode(_) => vec![volume.root_directory()],
        }
    }

    /// Directories that two nodes moved at the same time, or a move that was cut short left behind. The
    /// first mark sees that there are several names, the next one which they are, and one after that
    /// whether the same records still stand there: then nobody is at work on them.
    fn twice(&mut self) {
        let roots = self.roots();
        let (twice, mut names_of) = {
            let mut tally = self.mark.tally.lock();
            (tally.ways.named_twice(), std::mem::take(&mut tally.names_of))
        };
        for dir in twice {
            let mut names = names_of.remove(&dir).unwrap_or_default();
            names.sort_unstable_by_key(|name| name.place.key(self.mark.volume));
            let mut seen = blake3::Hasher::new();
            for name in &names {
                seen.update(name.place.key(self.mark.volume).as_str().as_bytes());
                seen.update(&name.etag);
            }
            let seen = seen.finalize();
            let ripe = self.note(TWICE, dir.0, seen.as_bytes(), names.len() as u64);
            // One living name and the hidden one of an exchange are nothing to mend here.
            if !ripe || names.len() < 2 || self.repairs.twice.len() >= MOST_TWICE {
                continue;
            }
            let reached = self.mark.tally.lock().ways.reached_without(dir, &roots);
            let (good, bad) = names.into_iter().partition(
                |name| matches!(&name.place, Place::Entry(parent, _) if reached.contains(parent)),
            );
            self.repairs.twice.push(Twice { dir, good, bad });
        }
    }

    fn lost(&mut self) {
        let roots = self.roots();
        let lost = self.mark.tally.lock().ways.lost(&roots);
        for lost in lost {
            let (id, parent) = match lost {
                Lost::Unnamed(dir) => (dir.0, Vec::new()),
                Lost::Cycle { parent, child } => (child.0, parent.0.to_vec()),
            };
            if self.note(LOST, id, &parent, 0) {
                self.repairs.lost.push(lost);
            }
        }
    }
}

fn reference_start(fact: &Fact) -> Option<(FileId, SessionId, u64)> {
    match *fact {
        Fact::Reference(owner, session, first, _) => Some((owner, session, first)),
        _ => None,
    }
}

/// When the marks began to agree that a segment is garbage.
async fn since(
    former: &mut Option<Reader<'_, proto::GcCandidate>>,
    file: FileId,
    session: SessionId,
    counter: u64,
) -> Result<Option<i64>, GcError> {
    let Some(former) = former else { return Ok(None) };
    let wanted = (&file.0[..], &session.0[..], counter);
    while let Some(row) = former.peek().await? {
        let row_at = (&row.file[..], &row.session[..], row.counter);
        if row_at >= wanted {
            return Ok((row_at == wanted).then_some(row.since));
        }
        former.next().await?;
    }
    Ok(None)
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}
