//! One node: what it does in directories of its own, where a model knows what must be there after every
//! step, and in a directory that all nodes fight for, where only damage is looked for.

use crate::gate::Gate;
use crate::lab;
use crate::wire::{Weather, Wire, traces_requests};
use crate::world;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use strongroom::crypto::Suite;
use strongroom::store::{MemoryStore, Store};
use strongroom::units::{ByteRange, DirId, FileId};
use strongroom::volume::VolumeError;
use strongroom::volume::native::Volume;
use strongroom::volume::native::entries::{Expect, Loaded, Place};
use strongroom::volume::native::extents::Piece;
use strongroom::volume::native::files::WriteError;
use strongroom::volume::native::namespace::Found;
use strongroom::volume::native::record::{Attributes, Content, FileContent, Record};
use strongroom::world::World;

/// Names in each of a node's two directories.
const NAMES: u64 = 4;
/// Names that all nodes fight for.
const SHARED: u64 = 5;

type Name = (usize, u64);

/// What must be there: names, and what the files behind them hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    names: BTreeMap<Name, u32>,
    files: BTreeMap<u32, Vec<(u8, u32)>>,
    next: u32,
}

impl Model {
    fn bytes(&self, file: u32) -> Vec<u8> {
        let parts = self.files[&file].iter();
        parts.flat_map(|(seed, length)| bytes_of(*seed, *length)).collect()
    }

    fn shown(&self) -> BTreeMap<Name, Vec<u8>> {
        self.names.iter().map(|(name, file)| (*name, self.bytes(*file))).collect()
    }

    fn new_file(&mut self, content: Vec<(u8, u32)>) -> u32 {
        self.next += 1;
        self.files.insert(self.next, content);
        self.next
    }
}

fn bytes_of(seed: u8, length: u32) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

/// A file that is open: its content must be readable whatever happens to its names.
struct Handle {
    content: FileContent,
    bytes: Vec<u8>,
}

pub(crate) struct Node {
    pub(crate) gate: Arc<Gate>,
    pub(crate) actor: usize,
    pub(crate) base: Arc<MemoryStore>,
    pub(crate) world: World,
    pub(crate) weather: Weather,
    pub(crate) conditional_delete: bool,
    pub(crate) trace: bool,
    volume: Option<Arc<Volume>>,
    dirs: [DirId; 2],
    shared: DirId,
    model: Model,
    handles: Vec<Handle>,
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(Name, u8, u32),
    Append(Name, u8, u32),
    Remove(Name),
    Rename(Name, Name),
    Link(Name, Name),
    Exchange(Name, Name),
    Clone(Name, Name),
    Read(Name),
    Open(Name),
    ReadOpen,
    Close,
    Contend(u64),
}

impl Node {
    pub(crate) fn new(
        gate: Arc<Gate>,
        actor: usize,
        base: Arc<MemoryStore>,
        world: World,
        weather: Weather,
        conditional_delete: bool,
        shared: DirId,
    ) -> Self {
        Self {
            gate,
            actor,
            base,
            world,
            weather,
            conditional_delete,
            trace: std::env::var_os("STRONGROOM_TRACE").is_some(),
            volume: None,
            dirs: [DirId([0; 16]); 2],
            shared,
            model: Model::default(),
            handles: Vec::new(),
            epoch: 0,
        }
    }

    /// Makes this node's directories, before anything else happens.
    pub(crate) async fn prepare(&mut self) {
        let volume = self.calm().await;
        for (index, dir) in self.dirs.iter_mut().enumerate() {
            let path = format!("node{}-{index}", self.actor);
            let attributes = Attributes { mode: 0o755, ..Attributes::default() };
            *dir = volume.make_directories(path.as_bytes(), &attributes).await.expect("made");
        }
        volume.session().end(&volume).await.expect("ended");
    }

    /// Everything it does.
    pub(crate) async fn work(mut self, steps: u64) -> Self {
        for _ in 0..steps {
            let pause = match self.gate.below(100) {
                0..2 => self.gate.below(9_000_000),
                2..30 => self.gate.below(600_000),
                _ => self.gate.below(3_000),
            };
            self.gate.wait(self.actor, Duration::from_millis(pause)).await;
            let step = self.choose();
            let death = self.gate.chance(0.02).then(|| self.gate.below(20_000));
            self.step(step, death.map(Duration::from_millis)).await;
        }
        if let Some(volume) = self.volume.take() {
            // Some end well; the others are found dead.
            if self.gate.chance(0.5) {
                let _ = volume.session().end(&volume).await;
            }
        }
        self.gate.finish(self.actor);
        self
    }

    fn choose(&self) -> Step {
        let name = || (self.gate.below(2) as usize, self.gate.below(NAMES));
        let length = || {
            let long = self.gate.chance(0.6);
            if long { 66_000 + self.gate.below(9000) as u32 } else { self.gate.below(300) as u32 }
        };
        let seed = || self.gate.below(256) as u8;
        match self.gate.below(100) {
            0..24 => Step::Write(name(), seed(), length()),
            24..34 => Step::Append(name(), seed(), length()),
            34..44 => Step::Remove(name()),
            44..58 => Step::Rename(name(), name()),
            58..63 => Step::Link(name(), name()),
            63..68 => Step::Exchange(name(), name()),
            68..72 => Step::Clone(name(), name()),
            72..78 => Step::Read(name()),
            78..82 => Step::Open(name()),
            82..85 => Step::ReadOpen,
            85..87 => Step::Close,
            _ => Step::Contend(self.gate.below(8)),
        }
    }

    /// A volume right at the store: no time passes, nothing is lost.
    async fn calm(&self) -> Arc<Volume> {
        let store: Arc<dyn Store> = self.base.clone();
        world::open(store, &self.world, Suite::None).await.expect("opened")
    }

    async fn volume(&mut self) -> Arc<Volume> {
        if let Some(volume) = &self.volume {
            return volume.clone();
        }
        let calm = Weather { lost_request: 0.0, lost_reply: 0.0, repeat: 0.0 };
        let wire = Arc::new(Wire {
            inner: self.base.clone(),
            gate: self.gate.clone(),
            actor: self.actor,
            weather: parking_lot::Mutex::new(calm),
            conditional_delete: self.conditional_delete,
            trace: traces_requests(),
        });
        let volume = world::open(wire.clone(), &self.world, Suite::None).await.expect("opened");
        *wire.weather.lock() = self.weather;
        self.handles.clear();
        self.epoch = 0;
        self.volume = Some(volume.clone());
        volume
    }

    async fn step(&mut self, step: Step, death: Option<Duration>) {
        let volume = self.volume().await;
        // What the background task of a mount does.
        let alive = volume.session().begin_change(&volume).await;
        if volume.session().epoch() != self.epoch {
            // Declared dead: what was open may be gone, and a mount says so (EIO).
            self.epoch = volume.session().epoch();
            self.handles.clear();
        }
        if alive.is_err() {
            return;
        }
        let before = self.model.clone();
        let Some(after) = self.expected(step) else { return };
        if self.trace {
            eprintln!("node {}: {step:?} {death:?}", self.actor);
        }
        let work = self.carry_out(&volume, step);
        let result = match death {
            None => work.await,
            Some(death) => tokio::select! {
                biased;
                result = work => result,
                () = self.gate.wait(self.actor, death) => Err(None),
            },
        };
        match result {
            Ok(()) => self.model = after,
            Err(error) => {
                if self.trace {
                    let shown = error.as_ref().map(ToString::to_string);
                    eprintln!("node {}: {}", self.actor, shown.as_deref().unwrap_or("dies"));
                }
                if error.is_none() {
                    self.volume = None;
                    self.handles.clear();
                }
                self.settle(step, before, after).await;
            }
        }
        if let (Step::Open(name), Some(volume)) = (step, &self.volume) {
            self.open(volume.clone(), name).await;
        }
        match step {
            Step::ReadOpen => self.read_open().await,
            Step::Close => {
                if let (Some(handle), Some(volume)) = (self.handles.pop(), &self.volume) {
                    volume.session().unpin(handle.content.id);
                }
            }
            _ => {}
        }
    }

    /// What must be there afterwards; `None` if the step makes no sense now.
    fn expected(&self, step: Step) -> Option<Model> {
        let mut after = self.model.clone();
        let names = &self.model.names;
        match step {
            Step::Write(name, seed, length) => {
                let file = after.new_file(vec![(seed, length)]);
                // Names of one file see the new content together.
                match names.get(&name) {
                    Some(old) => {
                        let content = after.files[&file].clone();
                        after.files.insert(*old, content);
                    }
                    None => drop(after.names.insert(name, file)),
                }
            }
            Step::Append(name, seed, length) => {
                let file = names.get(&name)?;
                after.files.get_mut(file)?.push((seed, length));
            }
            Step::Remove(name) => drop(after.names.remove(&name)?),
            Step::Rename(from, to) => {
                let file = *names.get(&from)?;
                if from == to || names.get(&to) == Some(&file) {
                    return None;
                }
                after.names.remove(&from);
                after.names.insert(to, file);
            }
            Step::Link(from, to) => {
                let file = *names.get(&from)?;
                if names.contains_key(&to) {
                    return None;
                }
                after.names.insert(to, file);
            }
            Step::Exchange(a, b) => {
                let (one, two) = (*names.get(&a)?, *names.get(&b)?);
                if one == two {
                    return None;
                }
                after.names.insert(a, two);
                after.names.insert(b, one);
            }
            Step::Clone(from, to) => {
                let content = self.model.files[names.get(&from)?].clone();
                if names.contains_key(&to) {
                    return None;
                }
                let file = after.new_file(content);
                after.names.insert(to, file);
            }
            Step::Read(name) | Step::Open(name) => {
                names.get(&name)?;
            }
            Step::ReadOpen | Step::Close | Step::Contend(_) => {}
        }
        Some(after)
    }

    fn place(&self, (dir, name): Name) -> (DirId, Vec<u8>) {
        (self.dirs[dir], format!("f{name}").into_bytes())
    }

    async fn found(&self, volume: &Volume, name: Name) -> Result<Found, VolumeError> {
        let (dir, name) = self.place(name);
        let shown = || format!("node {}: {}", self.actor, name.escape_ascii());
        let found = volume.lookup(dir, &name).await?;
        Ok(found.unwrap_or_else(|| panic!("{} is gone", shown())))
    }

    /// `Err(None)` stands for the node's death.
    async fn carry_out(&self, volume: &Arc<Volume>, step: Step) -> Result<(), Option<VolumeError>> {
        match step {
            Step::Write(name, seed, length) => {
                let (dir, name) = self.place(name);
                write(volume, dir, &name, &bytes_of(seed, length)).await?;
            }
            Step::Append(name, seed, length) => {
                self.append(volume, name, bytes_of(seed, length)).await?;
            }
            Step::Remove(name) => {
                let found = self.found(volume, name).await?;
                volume.unlink(&found).await?;
            }
            Step::Rename(from, to) => {
                let found = self.found(volume, from).await?;
                let (dir, name) = self.place(to);
                let target = match self.model.names.contains_key(&to) {
                    true => Expect::Exactly(self.found(volume, to).await?.entry.etag),
                    false => Expect::Free,
                };
                volume.rename(&found.entry, dir, &name, target).await?;
            }
            Step::Link(from, to) => {
                let found = self.found(volume, from).await?;
                let (dir, name) = self.place(to);
                volume.link(&found, dir, &name).await?;
            }
            Step::Exchange(a, b) => {
                let (a, b) = (self.found(volume, a).await?, self.found(volume, b).await?);
                volume.exchange(&a.entry, &b.entry).await?;
            }
            Step::Clone(from, to) => {
                let found = self.found(volume, from).await?;
                let source = found.home().record.file().expect("a file").clone();
                // As copy_file_range does it: the source is open.
                volume.session().pin(source.id);
                let owner = source.id;
                let id = FileId(self.world.entropy.bytes());
                let content = Content::File(source.shared_with(id));
                let (dir, name) = self.place(to);
                let made = volume.create(dir, &name, Record::new(Attributes::default(), content));
                let made = made.await;
                volume.session().unpin(owner);
                made?;
            }
            Step::Read(name) => {
                let expected = self.model.bytes(self.model.names[&name]);
                let (dir, name) = self.place(name);
                match lab::read(volume, dir, &name).await {
                    Ok(bytes) => assert!(bytes == expected, "{} differs", name.escape_ascii()),
                    Err(error) => {
                        let corrupt = matches!(error, VolumeError::Corrupt { .. });
                        assert!(!corrupt, "node {}: {error}", self.actor);
                    }
                }
            }
            Step::Contend(what) => {
                // Whatever comes of it: another node may be at the same.
                if let Err(error) = self.contend(volume, what).await {
                    let damage = matches!(error, VolumeError::Corrupt { .. });
                    assert!(!damage, "node {}: {error}", self.actor);
                }
            }
            Step::Open(_) | Step::ReadOpen | Step::Close => {}
        }
        Ok(())
    }

    async fn append(
        &self,
        volume: &Arc<Volume>,
        name: Name,
        bytes: Vec<u8>,
    ) -> Result<(), VolumeError> {
        let found = self.found(volume, name).await?;
        let home = found.home();
        let content = home.record.file().expect("a file").clone();
        let epoch = volume.session().epoch();
        let mut map = volume.load_map(&content).await?;
        let range = ByteRange::new(content.size, bytes.len() as u64);
        if bytes.is_empty() {
            return Ok(());
        }
        let number = volume.session().take_segments(1);
        let (_, run) = volume.upload(content.id, number, vec![bytes::Bytes::from(bytes)]).await;
        map.insert(range, Piece::Segments(run?));
        let layout = map.layout();
        let mut record = (*home.record).clone();
        record.content = Content::File(FileContent {
            id: content.id,
            size: range.end(),
            extents: layout.extents,
            pages: layout.pages,
            inline: layout.inline,
        });
        (record.moved_from, record.exchanged) = (None, None);
        volume.session().begin_change(volume).await?;
        if volume.session().epoch() != epoch {
            return Err(VolumeError::Fenced);
        }
        volume.replace(home, record).await?;
        if volume.session().epoch() == epoch { Ok(()) } else { Err(VolumeError::Fenced) }
    }

    async fn contend(&self, volume: &Arc<Volume>, what: u64) -> Result<(), VolumeError> {
        let name = || format!("s{}", self.gate.below(SHARED)).into_bytes();
        let (one, two) = (name(), name());
        let mut dirs = vec![self.shared];
        for listed in volume.list_directory(self.shared).await? {
            let found = volume.lookup(self.shared, &listed.name).await?;
            dirs.extend(found.and_then(|found| found.home().record.directory()));
        }
        let pick = || dirs[self.gate.below(dirs.len() as u64) as usize];
        let (from, to) = (pick(), pick());
        let found = volume.lookup(from, &one).await?;
        match (what, found) {
            (0..2, _) => write(volume, from, &one, &bytes_of(1, 70_000)).await?,
            (2, None) => {
                let record = Content::Directory(DirId(self.world.entropy.bytes()));
                volume.create(from, &one, Record::new(Attributes::default(), record)).await?;
            }
            (2..4, Some(found)) => match found.home().record.directory() {
                Some(dir) if !volume.is_empty_directory(dir).await? => {}
                _ => drop(volume.unlink(&found).await?),
            },
            // A mount refuses what it can see to be a cycle; races still make some.
            (4..6, Some(found)) if found.home().record.directory() != Some(to) => {
                let there = volume.lookup(to, &two).await?;
                if let Some(there) = &there
                    && (there.home().record.directory().is_some()
                        || there.entry.place == found.entry.place)
                {
                    return Ok(());
                }
                let target = there.map_or(Expect::Free, |found| Expect::Exactly(found.entry.etag));
                volume.rename(&found.entry, to, &two, target).await?;
            }
            (6, Some(found)) if found.home().record.directory().is_none() => {
                volume.link(&found, to, &two).await?;
            }
            (7, Some(a)) => {
                if let Some(b) = volume.lookup(to, &two).await?
                    && b.entry.place != a.entry.place
                {
                    volume.exchange(&a.entry, &b.entry).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn open(&mut self, volume: Arc<Volume>, name: Name) {
        let Ok(found) = self.found(&volume, name).await else { return };
        let content = found.home().record.file().expect("a file").clone();
        volume.session().pin(content.id);
        let bytes = self.model.bytes(self.model.names[&name]);
        self.handles.push(Handle { content, bytes });
    }

    async fn read_open(&mut self) {
        let Some(handle) = self.handles.last() else { return };
        // By a session without cache, so that what is read is what is there.
        let calm = self.calm().await;
        let mut bytes = Vec::new();
        let read = calm.read_file(&handle.content, &mut bytes, |_| {}).await;
        assert!(read.is_ok() && bytes == handle.bytes, "an open file lost its content: {read:?}");
    }

    /// A step failed or was cut short: it has happened, or it has not, or a rename stands half done.
    async fn settle(&mut self, step: Step, before: Model, after: Model) {
        let calm = self.calm().await;
        if let Step::Rename(from, to) = step {
            let (from_dir, from_name) = self.place(from);
            let (to_dir, to_name) = self.place(to);
            let from = calm.load(&Place::Entry(from_dir, from_name), None).await;
            let to = calm.load(&Place::Entry(to_dir, to_name), None).await;
            if let (Ok(Loaded::Live(from)), Ok(Loaded::Live(to))) = (from, to)
                && to.record.moved_from.as_ref().is_some_and(|moved| moved.salt == from.salt)
            {
                calm.finish_move(&from, &to).await.expect("finished");
            }
        }
        if let Step::Exchange(a, b) = step {
            // Whoever reads a name that is a step of an exchange finishes it.
            for name in [a, b] {
                self.found(&calm, name).await.expect("read");
            }
        }
        let actual = self.actual(&calm).await;
        calm.session().end(&calm).await.expect("ended");
        self.model = if actual == after.shown() {
            after
        } else if actual == before.shown() {
            before
        } else {
            let names: Vec<_> = actual.keys().collect();
            panic!(
                "node {}: after {step:?} there is {names:?}, neither before nor after",
                self.actor
            )
        };
    }

    async fn actual(&self, volume: &Arc<Volume>) -> BTreeMap<Name, Vec<u8>> {
        let mut actual = BTreeMap::new();
        for (index, dir) in self.dirs.iter().enumerate() {
            for listed in volume.list_directory(*dir).await.expect("listed") {
                let number =
                    std::str::from_utf8(&listed.name[1..]).ok().and_then(|n| n.parse().ok());
                let number = number.unwrap_or_else(|| panic!("{}", listed.name.escape_ascii()));
                let read = lab::read(volume, *dir, &listed.name).await;
                let bytes = read.unwrap_or_else(|error| panic!("node {}: {error}", self.actor));
                actual.insert((index, number), bytes);
            }
        }
        actual
    }

    /// Everything that was acknowledged is there, and nothing else.
    pub(crate) async fn assert_as_expected(&self) {
        let calm = self.calm().await;
        let (actual, expected) = (self.actual(&calm).await, self.model.shown());
        calm.session().end(&calm).await.expect("ended");
        let names = |shown: &BTreeMap<Name, Vec<u8>>| shown.keys().copied().collect::<Vec<_>>();
        assert_eq!(names(&actual), names(&expected), "node {}", self.actor);
        assert!(actual == expected, "node {}: contents differ", self.actor);
    }
}

async fn write(
    volume: &Arc<Volume>,
    dir: DirId,
    name: &[u8],
    bytes: &[u8],
) -> Result<(), VolumeError> {
    let attributes = Attributes { mode: 0o644, ..Attributes::default() };
    match volume.write_file(dir, name, attributes, &mut &bytes[..], |_| {}).await {
        Ok(_) => Ok(()),
        Err(WriteError::Volume(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}
