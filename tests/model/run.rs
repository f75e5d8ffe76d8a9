//! One sequence of operations from a seed: the file system and the reference side by side, faults and
//! crashes, and the comparison.

use crate::content::Content;
use crate::reference::{Kind, Name, NodeId, ROOT, Reference};
use crate::world::{self, SimulatedClock};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use strongroom::crypto::Suite;
use strongroom::fs::core::{Durability, FileSystem, FsConfig};
use strongroom::fs::errno::FsError;
use strongroom::fs::ownership::Ownership;
use strongroom::fs::types::{Attr, Caller, HandleId, Ino, OpenMode};
use strongroom::store::fault::{Action, Rule, Verb, When};
use strongroom::store::{Fault, MemoryStore, Store};
use strongroom::world::World;
use tokio::runtime::Runtime;

pub(crate) const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1 };
/// An operation that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Handle {
    pub(crate) node: NodeId,
    pub(crate) id: HandleId,
    pub(crate) write: bool,
}

pub(crate) struct Run {
    pub(crate) random: StdRng,
    pub(crate) reference: Reference,
    pub(crate) handles: Vec<Handle>,
    pub(crate) fault: Arc<Fault>,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) durability: Durability,
    /// Every request fails from some point on: whatever is left in doubt stays so until the crash.
    pub(crate) dying: bool,
    world: World,
    suite: Suite,
    config: FsConfig,
    mounted: Option<(Runtime, Arc<FileSystem>)>,
    faults: bool,
    hits_at_mount: u64,
    lookups: HashMap<NodeId, u64>,
    trace: Vec<String>,
    crashes: u64,
}

/// How an operation ended.
pub(crate) enum Ended<T> {
    Done(T),
    Refused,
    /// A fault: it may have happened or not.
    Doubt,
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (world, clock) = world::world(seed);
        let inner: Arc<dyn Store> = if random.random_bool(0.5) {
            Arc::new(MemoryStore::new(clock.clone()))
        } else {
            Arc::new(MemoryStore::without_conditional_delete(clock.clone()))
        };
        let suite = [Suite::None, Suite::Aes256Gcm, Suite::Aes256Cfb][random.random_range(0..3)];
        let durability =
            if random.random_bool(0.2) { Durability::Fsync } else { Durability::Close };
        let config = FsConfig {
            dirty_bytes: [1 << 20, 16 << 20][random.random_range(0..2)],
            upload_bytes: [1 << 20, 32 << 20][random.random_range(0..2)],
            attribute_ttl: Duration::from_secs(1),
            durability,
            ownership: Ownership::default(),
        };
        let fault = Arc::new(Fault::new(inner, seed));
        let mut run = Self {
            random,
            reference: Reference::new(),
            handles: Vec::new(),
            fault,
            clock,
            durability,
            dying: false,
            world,
            suite,
            config,
            mounted: None,
            faults: false,
            hits_at_mount: 0,
            lookups: HashMap::new(),
            trace: vec![format!("seed {seed}, {suite:?}, {durability:?}")],
            crashes: 0,
        };
        let runtime = Self::runtime();
        let (store, world) = (run.store(), run.world.clone());
        runtime.block_on(world::init(&store, &world, suite)).expect("init");
        run.mount();
        run
    }

    fn store(&self) -> Arc<dyn Store> {
        self.fault.clone()
    }

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
    }

    fn mount(&mut self) {
        let runtime = Self::runtime();
        let (store, world, config) = (self.store(), self.world.clone(), self.config.clone());
        let handle = runtime.handle().clone();
        let suite = self.suite;
        let fs = runtime.block_on(async move {
            let volume = world::open(store, &world, suite).await.expect("open");
            FileSystem::start(volume, config, handle).await.expect("start")
        });
        self.mounted = Some((runtime, fs));
        self.hits_at_mount = self.fault.hits();
        self.lookups.clear();
    }

    pub(crate) fn fs(&self) -> Arc<FileSystem> {
        self.mounted.as_ref().expect("mounted").1.clone()
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = &self.mounted.as_ref().expect("mounted").0;
        let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await });
        ended.unwrap_or_else(|_| self.fail("hangs"))
    }

    pub(crate) fn note(&mut self, what: String) {
        if std::env::var_os("STRONGROOM_TRACE").is_some() {
            println!("{what}");
        }
        self.trace.push(what);
    }

    pub(crate) fn fail(&self, what: impl std::fmt::Display) -> ! {
        let skip = self.trace.len().saturating_sub(60);
        let seed = &self.trace[0];
        panic!("{what}\n{seed}\n{}", self.trace[skip..].join("\n"));
    }

    pub(crate) fn chance(&mut self, chance: f64) -> bool {
        self.random.random_bool(chance)
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        Some(from[self.random.random_range(0..from.len())].clone())
    }

    /// Compares an operation's end with what was expected: `Ok`, or an error by its number.
    pub(crate) fn judge<T>(
        &mut self,
        expected: Option<i32>,
        result: Result<T, FsError>,
    ) -> Ended<T> {
        let last = self.trace.len() - 1;
        match result {
            Ok(value) if expected.is_none() => Ended::Done(value),
            Ok(_) => self.fail(format!("succeeded, but error {expected:?} was expected")),
            Err(error) if expected == Some(error.errno()) && !error.is_fault() => {
                self.trace[last] += &format!(" -> {error}");
                Ended::Refused
            }
            Err(error) => {
                self.trace[last] += &format!(" -> {error}");
                let hit = self.fault.hits() > self.hits_at_mount;
                if hit && error.is_fault() && !matches!(error, FsError::Stale { .. }) {
                    return Ended::Doubt;
                }
                self.fail(format!("failed: {error}"))
            }
        }
    }

    // Faults.

    pub(crate) fn start_faults(&mut self) {
        self.fault.clear();
        let chance = [0.05, 0.2, 0.5][self.random.random_range(0..3)];
        for _ in 0..self.random.random_range(1..4) {
            let action = self.pick(&[
                Action::FailBefore,
                Action::FailAfter,
                Action::FailAfter,
                Action::LoseRequest,
                Action::Truncate,
                Action::Delay(Duration::ZERO),
            ]);
            let verb = self.pick(&[None, None, Some(Verb::Put), Some(Verb::Get)]).flatten();
            let prefix = self.pick(&["", "", "t/", "d/", "i/", "s/"]).unwrap_or_default();
            let (when, action) = (When::Chance(chance), action.unwrap_or(Action::FailBefore));
            let rule = verb.map_or(Rule::any(when, action), |verb| Rule::new(verb, when, action));
            self.fault.add(rule.under(prefix));
        }
        self.faults = true;
        self.fault.set_enabled(true);
    }

    pub(crate) fn end_faults(&mut self) {
        self.faults = false;
        self.fault.clear();
    }

    /// From the `nth` request on nothing reaches the store; of that one perhaps only the reply is lost.
    pub(crate) fn start_dying(&mut self, nth: u64) {
        let first = if self.chance(0.5) { Action::FailAfter } else { Action::FailBefore };
        self.fault.clear();
        self.fault.add(Rule::any(When::Nth(nth), first));
        self.fault.add(Rule::any(When::From(nth + 1), Action::FailBefore));
        self.fault.set_enabled(true);
        self.dying = true;
    }

    /// Runs something while the store is well.
    pub(crate) fn undisturbed<T>(&mut self, what: impl FnOnce(&mut Self) -> T) -> T {
        self.fault.set_enabled(false);
        let result = what(self);
        self.fault.set_enabled(true);
        result
    }

    // Nodes and their numbers.

    /// The number by which the mount knows a node, looked up by a name if the mount may have forgotten.
    pub(crate) fn ino(&mut self, node: NodeId) -> Result<Ino, FsError> {
        if node == ROOT {
            return Ok(Ino::ROOT);
        }
        if self.lookups.get(&node).copied().unwrap_or(0) == 0 {
            let name = self.reference.names_of(node).into_iter().next();
            let Some(name) = name else { self.fail(format!("node {node} has no name")) };
            let parent = self.ino(name.0)?;
            let fs = self.fs();
            let attr = self.wait(fs.lookup(&CALLER, parent, name.1.as_bytes()))?.attr;
            self.known(node, &attr);
        }
        let ino = self.reference.nodes[node].ino;
        Ok(Ino(ino.unwrap_or_else(|| self.fail(format!("node {node} has no number")))))
    }

    /// The kernel got a reply with a node: one more lookup, and the number is the same as ever.
    pub(crate) fn known(&mut self, node: NodeId, attr: &Attr) {
        *self.lookups.entry(node).or_default() += 1;
        match self.reference.nodes[node].ino {
            Some(ino) if ino != attr.ino.0 => {
                self.fail(format!("node {node} was {ino} and is {} now", attr.ino))
            }
            _ => self.reference.nodes[node].ino = Some(attr.ino.0),
        }
    }

    /// The kernel drops what it knows of a node.
    pub(crate) fn forget(&mut self, node: NodeId) {
        if let Some(count) = self.lookups.remove(&node)
            && let Some(ino) = self.reference.nodes[node].ino
        {
            self.fs().forget(Ino(ino), count);
        }
    }

    /// Names in doubt: the store is asked, twice, since whoever meets a move half done finishes it.
    pub(crate) fn settle(&mut self, names: &[Name]) {
        if self.dying {
            return;
        }
        self.undisturbed(|run| {
            for last in [false, true] {
                run.clock.advance(Duration::from_secs(2));
                for name in names {
                    run.settle_one(name, last);
                }
            }
        });
    }

    fn settle_one(&mut self, name: &Name, last: bool) {
        let fs = self.fs();
        let found = self
            .ino(name.0)
            .and_then(|parent| self.wait(fs.lookup(&CALLER, parent, name.1.as_bytes())));
        match found {
            Ok(reply) => {
                let node = self.identify(name, &reply.attr);
                self.known(node, &reply.attr);
                self.reference.shown(name, Some(node));
                let others = self.reference.names_of(node);
                if last && others.len() > links(&reply.attr) {
                    // This may have finished a move of which the other name was the old one.
                    for other in others.iter().filter(|other| *other != name) {
                        self.settle_one(other, false);
                    }
                }
                let names = self.reference.names_of(node);
                if last && names.len() > links(&reply.attr) {
                    self.fail(format!("{names:?} lead to one node with one name"));
                }
            }
            Err(FsError::NotFound) => {
                let slot = self.reference.slots.entry(name.clone()).or_default();
                if !slot.stored.contains(&None) && slot.live.is_some() {
                    self.fail(format!("{name:?} vanished"));
                }
                self.reference.shown(name, None);
            }
            Err(error) => self.fail(format!("{name:?} cannot be looked up: {error}")),
        }
    }

    /// Which of a name's possible nodes this is.
    fn identify(&mut self, name: &Name, attr: &Attr) -> NodeId {
        let slot = self.reference.slots.get(name).cloned().unwrap_or_default();
        let possible: Vec<NodeId> =
            slot.stored.iter().copied().chain([slot.live]).flatten().collect();
        let nodes = &self.reference.nodes;
        let same = possible.iter().find(|node| nodes[**node].ino == Some(attr.ino.0));
        let fresh = possible
            .iter()
            .find(|node| nodes[**node].ino.is_none() && nodes[**node].kind == kind(attr));
        match same.or(fresh) {
            Some(node) => *node,
            None => {
                let known = nodes.iter().position(|node| node.ino == Some(attr.ino.0));
                self.fail(format!("{name:?} is node {known:?}: {attr:?}, but may be {slot:?}"))
            }
        }
    }

    // Crash and comparison.

    /// The process is killed and the volume is mounted again.
    pub(crate) fn crash(&mut self) {
        self.crashes += 1;
        self.note(format!("crash {} ({} requests hit)", self.crashes, self.fault.hits()));
        self.handles.clear();
        let (runtime, fs) = self.mounted.take().expect("mounted");
        // Its tasks end wherever they are.
        drop(runtime);
        drop(fs);
        self.dying = false;
        self.fault.set_enabled(false);
        if !self.faults {
            self.fault.clear();
        }
        self.mount();
        self.verify();
        self.fault.set_enabled(true);
        self.hits_at_mount = self.fault.hits();
    }

    /// Everything that the new mount shows is allowed, and everything promised is there.
    fn verify(&mut self) {
        // Whoever meets both names of a half-done move finishes it: what stays is seen the second time.
        self.walk(false);
        self.clock.advance(Duration::from_secs(2));
        let seen = self.walk(true);
        for (id, node) in self.reference.nodes.iter().enumerate().skip(1) {
            if node.acknowledged && !node.doomed && !seen.values().any(|seen| *seen == id) {
                self.fail(format!("node {id} has no name left: {node:?}"));
            }
        }
        let nodes: BTreeSet<NodeId> = seen.values().copied().chain([ROOT]).collect();
        for node in nodes {
            self.verify_node(node);
        }
        self.reference.slots.clear();
        for (name, node) in seen {
            self.reference.set(&name, Some(node));
        }
        for (id, node) in self.reference.nodes.iter_mut().enumerate() {
            let lives = id == ROOT || self.reference.slots.values().any(|s| s.live == Some(id));
            node.acknowledged = lives;
            node.doomed = !lives;
        }
    }

    fn walk(&mut self, last: bool) -> BTreeMap<Name, NodeId> {
        let mut seen = BTreeMap::new();
        let mut directories = vec![ROOT];
        let mut links_of = HashMap::new();
        while let Some(dir) = directories.pop() {
            let listed = self.list(dir).unwrap_or_else(|error| self.fail(error));
            let of_dir = self.reference.slots.range((dir, String::new())..(dir + 1, String::new()));
            let mut names: BTreeSet<String> = of_dir.map(|((_, name), _)| name.clone()).collect();
            names.extend(listed.iter().cloned());
            for text in names {
                let name = (dir, text);
                let parent = self.ino(dir).unwrap_or_else(|error| self.fail(error));
                let fs = self.fs();
                match self.wait(fs.lookup(&CALLER, parent, name.1.as_bytes())) {
                    Ok(reply) => {
                        let node = self.identify(&name, &reply.attr);
                        let slot = self.reference.slots.get(&name).cloned().unwrap_or_default();
                        if !slot.stored.contains(&Some(node)) {
                            self.fail(format!("{name:?} is node {node}, but may be {slot:?}"));
                        }
                        if last && !listed.contains(&name.1) {
                            self.fail(format!("{name:?} is not in the directory"));
                        }
                        self.known(node, &reply.attr);
                        links_of.insert(node, links(&reply.attr));
                        let again = seen.values().any(|seen| *seen == node);
                        if self.reference.kind(node) == Kind::Directory && !again {
                            directories.push(node);
                        }
                        seen.insert(name, node);
                    }
                    Err(FsError::NotFound) => {
                        let slot = self.reference.slots.get(&name).cloned().unwrap_or_default();
                        if !slot.stored.contains(&None) {
                            self.fail(format!("{name:?} vanished: {slot:?}"));
                        }
                        if last && listed.contains(&name.1) {
                            self.fail(format!("{name:?} is in the directory and is not"));
                        }
                    }
                    Err(error) => self.fail(format!("{name:?} cannot be looked up: {error}")),
                }
            }
        }
        for (node, links) in links_of {
            let names: Vec<&Name> =
                seen.iter().filter(|(_, seen)| **seen == node).map(|(name, _)| name).collect();
            if last && names.len() > links {
                self.fail(format!("{names:?} lead to node {node} that has {links} names"));
            }
        }
        seen
    }

    fn verify_node(&mut self, id: NodeId) {
        let found = self.observe(id).unwrap_or_else(|error| {
            self.fail(format!("node {id} cannot be read: {error}: {:?}", self.reference.nodes[id]))
        });
        let node = &self.reference.nodes[id];
        if !node.versions.contains(&found) {
            let differences: Vec<_> = node
                .versions
                .iter()
                .map(|version| (version.content.difference(&found.content), version))
                .collect();
            self.fail(format!(
                "node {id} is {found:?}; allowed (first difference): {differences:?}"
            ));
        }
        self.reference.nodes[id].versions = vec![found];
    }

    /// A node as the mount shows it.
    pub(crate) fn observe(&mut self, node: NodeId) -> Result<crate::reference::Version, FsError> {
        let (fs, ino) = (self.fs(), self.ino(node)?);
        self.wait(async {
            let attr = fs.getattr(ino, None).await?.0;
            let mut version = crate::reference::Version { mode: attr.mode, ..Default::default() };
            for name in fs.listxattr(ino).await?.split(|byte| *byte == 0) {
                if !name.is_empty() {
                    version.xattrs.insert(name.to_vec(), fs.getxattr(ino, name).await?);
                }
            }
            match kind(&attr) {
                Kind::Symlink => version.target = fs.readlink(ino).await?,
                Kind::Directory => {}
                Kind::File => {
                    let mode = OpenMode { read: true, ..OpenMode::default() };
                    let handle = fs.open(&CALLER, ino, mode).await?.handle;
                    let content = read_all(&fs, ino, handle, attr.size).await;
                    fs.release(ino, handle).await?;
                    version.content = content?;
                }
            }
            Ok(version)
        })
    }

    /// The names in a directory.
    pub(crate) fn list(&mut self, dir: NodeId) -> Result<BTreeSet<String>, FsError> {
        let (fs, ino) = (self.fs(), self.ino(dir)?);
        let rows = self.wait(async {
            let handle = fs.opendir(ino).await?;
            let mut rows = Vec::new();
            let result = loop {
                let offset =
                    rows.last().map_or(0, |row: &strongroom::fs::types::DirEntry| row.next_offset);
                match fs.readdir(ino, handle, offset, false).await {
                    Ok(more) if more.is_empty() => break Ok(()),
                    Ok(more) => rows.extend(more),
                    Err(error) => break Err(error),
                }
            };
            fs.releasedir(handle).await?;
            result.map(|()| rows)
        })?;
        let names: Vec<String> = rows
            .into_iter()
            .map(|row| String::from_utf8_lossy(&row.name).into_owned())
            .filter(|name| name != "." && name != "..")
            .collect();
        let set: BTreeSet<String> = names.iter().cloned().collect();
        if set.len() != names.len() {
            self.fail(format!("a name is listed twice: {names:?}"));
        }
        Ok(set)
    }
}

async fn read_all(
    fs: &Arc<FileSystem>,
    ino: Ino,
    handle: HandleId,
    size: u64,
) -> Result<Content, FsError> {
    let mut content = Content::default();
    while content.size() < size {
        let bytes = fs.read(ino, handle, content.size(), 1 << 20).await?;
        if bytes.is_empty() {
            return Err(FsError::io(format!("ends at {} of {size}", content.size())));
        }
        content.write(content.size(), &bytes);
    }
    let more = fs.read(ino, handle, size, 10).await?;
    if more.is_empty() { Ok(content) } else { Err(FsError::io("goes on after its end")) }
}

fn links(attr: &Attr) -> usize {
    if kind(attr) == Kind::Directory { 1 } else { attr.nlink as usize }
}

fn kind(attr: &Attr) -> Kind {
    match attr.kind {
        strongroom::fs::types::Kind::Directory => Kind::Directory,
        strongroom::fs::types::Kind::Symlink => Kind::Symlink,
        _ => Kind::File,
    }
}
