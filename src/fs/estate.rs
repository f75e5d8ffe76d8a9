//! What outlives a mount's process: the ledger and the arena, and what a former process left in them.

use super::arena::{Arena, Run};
use super::core::{FileSystem, FsConfig};
use super::errno::FsError;
use super::ledger::{Found, Ledger};
use super::recorder::Recorder;
use super::remembered::{
    BurialForm, ChangedForm, ContentChange, HandleForm, InitForm, Node, NodeForm, ReplyForm,
    SECRET, SESSION, SessionForm, TAKEOVERS, key, split,
};
use super::types::Ino;
use crate::volume::native::Volume;
use crate::volume::native::record::SIZE_LIMIT;
use crate::volume::native::session::{Keep, Kept};
use crate::world::World;
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What outlives this process, and what a former one left.
pub struct Estate {
    pub(super) recorder: Arc<Recorder>,
    pub(super) former: Option<Former>,
    pub(super) runs: Vec<Run>,
    /// How many processes served before.
    pub(super) takeovers: u64,
}

/// What a former process wrote, by kind.
#[derive(Default)]
pub(super) struct Former {
    pub(super) init: Option<InitForm>,
    pub(super) session: Option<Kept>,
    pub(super) secret: Option<[u8; 32]>,
    pub(super) takeovers: u64,
    pub(super) nodes: BTreeMap<Ino, Node>,
    pub(super) lookups: HashMap<Ino, u64>,
    pub(super) changed: HashMap<Ino, ChangedForm>,
    pub(super) content: HashMap<Ino, BTreeMap<u64, ContentChange>>,
    pub(super) files: BTreeMap<u64, HandleForm>,
    pub(super) directories: BTreeMap<u64, HandleForm>,
    pub(super) burials: Vec<(Ino, Vec<u8>, BurialForm)>,
    pub(super) publishes: Vec<u64>,
    pub(super) replies: HashMap<u64, ReplyForm>,
    /// Not everything is there.
    pub(super) damaged: bool,
    /// Keys of what makes no sense, which is taken away once that is told.
    pub(super) senseless: Vec<Vec<u8>>,
}

/// No count reaches this by counting.
const UNTRUE: u64 = u64::MAX / 2;

impl Former {
    fn read(found: Found) -> Self {
        let mut former = Self { damaged: found.damaged, ..Self::default() };
        for (key, value) in found.entries {
            if former.enter(&key, &value).is_none() {
                former.spoilt(key);
            }
        }
        former
    }

    /// What this key says makes no sense.
    pub(super) fn spoilt(&mut self, key: Vec<u8>) {
        self.damaged = true;
        self.senseless.push(key);
    }

    /// `None` if an entry makes no sense.
    fn enter(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let Some((letter, number, rest)) = split(key) else {
            match key {
                SECRET => self.secret = Some(value.try_into().ok()?),
                TAKEOVERS => self.takeovers = u64::from_le_bytes(value.try_into().ok()?),
                SESSION => self.session = Some(SessionForm::decode(value).ok()?.read()?),
                super::remembered::INIT => self.init = Some(InitForm::decode(value).ok()?),
                _ => return None,
            }
            return Some(());
        };
        let ino = Ino(number);
        match letter {
            b'N' => drop(self.nodes.insert(ino, NodeForm::decode(value).ok()?.read()?)),
            b'L' => {
                let count = u64::from_le_bytes(value.try_into().ok()?);
                self.lookups.insert(ino, Some(count).filter(|count| *count < UNTRUE)?);
            }
            b'A' => {
                let changed = ChangedForm::decode(value).ok()?;
                changed.attributes()?;
                let sizes = changed.size.unwrap_or(0).max(changed.settled_size);
                if sizes > SIZE_LIMIT {
                    return None;
                }
                self.changed.insert(ino, changed);
            }
            b'C' => {
                let order = u64::from_be_bytes(rest.try_into().ok()?);
                let order = Some(order).filter(|order| *order < UNTRUE)?;
                let change = ContentChange::decode(value)?;
                self.content.entry(ino).or_default().insert(order, change);
            }
            b'H' | b'D' if number >= UNTRUE => return None,
            b'H' => drop(self.files.insert(number, HandleForm::decode(value).ok()?)),
            b'D' => drop(self.directories.insert(number, HandleForm::decode(value).ok()?)),
            b'B' => {
                let burial = BurialForm::decode(value).ok()?;
                burial.read()?;
                self.burials.push((ino, rest.to_vec(), burial));
            }
            b'P' => self.publishes.push(number),
            b'R' => drop(self.replies.insert(number, ReplyForm::decode(value).ok()?)),
            _ => return None,
        }
        Some(())
    }
}

impl Estate {
    /// Opens the memory of a mount, with what a former process left in it; new memory is made ready, with
    /// an arena for `dirty_bytes`. The caller sees to it that no other process uses it.
    ///
    /// # Errors
    /// If the memory is of another version or damaged as a whole.
    pub fn open(state: File, arena: OwnedFd, dirty_bytes: u64, world: &World) -> io::Result<Self> {
        let (ledger, found) = Ledger::open(state)?;
        let mut former = found.map(Former::read);
        let (arena, runs) = match Arena::adopt(arena, dirty_bytes) {
            Ok(adopted) => adopted,
            Err(error) => {
                let Some(former) = &mut former else { return Err(error) };
                tracing::error!("{error}");
                former.damaged = true;
                (Arc::new(Arena::create(dirty_bytes)?), Vec::new())
            }
        };
        let secret = former.as_ref().and_then(|former| former.secret);
        let secret = secret.unwrap_or_else(|| world.entropy.bytes());
        ledger.put(SECRET, &secret);
        let takeovers = former.as_ref().map_or(0, |former| former.takeovers.saturating_add(1));
        ledger.put(TAKEOVERS, &takeovers.to_le_bytes());
        let orders = former.iter().flat_map(|former| former.content.values());
        let newest = orders.filter_map(|changes| changes.keys().next_back()).max();
        arena.raise_sequence(newest.copied().unwrap_or(0));
        let recorder = Arc::new(Recorder { ledger, arena, secret });
        Ok(Self { recorder, former, runs, takeovers })
    }

    /// How many processes served this mount before.
    pub fn takeovers(&self) -> u64 {
        self.takeovers
    }

    /// The session to go on with.
    pub fn session(&self) -> Option<Kept> {
        self.former.as_ref()?.session.clone()
    }

    /// What writes the session down.
    pub fn keep(&self) -> Box<dyn Keep> {
        Box::new(KeptByLedger(self.recorder.clone()))
    }

    /// Publish ids of what former processes sent.
    pub fn publishes(&self) -> Vec<u64> {
        self.former.as_ref().map_or_else(Vec::new, |former| former.publishes.clone())
    }

    /// How the connection to the kernel was negotiated.
    pub fn negotiated(&self) -> Negotiated {
        Negotiated(self.former.as_ref().and_then(|former| former.init.clone()))
    }
}

struct KeptByLedger(Arc<Recorder>);

impl Keep for KeptByLedger {
    fn session(&self, session: &Kept) {
        self.0.ledger.put(SESSION, &SessionForm::of(session).encode_to_vec());
    }

    fn publish(&self, id: u64, forgotten: Option<u64>) {
        self.0.ledger.put(&key(b'P', id), &[]);
        if let Some(forgotten) = forgotten {
            self.0.ledger.remove(&key(b'P', forgotten));
        }
    }
}

/// How a connection to the kernel was negotiated, if it was.
pub struct Negotiated(pub(super) Option<InitForm>);

impl FileSystem {
    /// The same in memory that outlives this process, going on where a former one stopped.
    ///
    /// # Errors
    /// If what is needed of the store cannot be had; then the estate is as it was.
    pub async fn take_over(
        volume: Arc<Volume>,
        config: FsConfig,
        runtime: tokio::runtime::Handle,
        estate: Estate,
    ) -> Result<Arc<Self>, FsError> {
        let arena = estate.recorder.arena.clone();
        let kept = Some((estate.recorder.clone(), estate.takeovers));
        let fs = Self::assemble(volume, config, runtime, arena, kept);
        fs.begin_with_root().await?;
        fs.restore(estate).await?;
        fs.start_tasks();
        Ok(fs)
    }
}
