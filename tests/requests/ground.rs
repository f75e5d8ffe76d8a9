//! A volume in memory, mounts of it whose requests are counted, and the kernel's part in short.

use crate::world::{self, SimulatedClock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use strongroom::crypto::{Passphrase, Suite};
use strongroom::fs::core::{Durability, FileSystem, FsConfig};
use strongroom::fs::errno::FsError;
use strongroom::fs::ownership::Ownership;
use strongroom::fs::types::{Attr, Caller, Ino, OpenMode, RenameMode, SetAttr};
use strongroom::store::{Fault, MemoryStore, Meter, Store};
use strongroom::units::DirId;
use strongroom::volume::VolumeError;
use strongroom::volume::native::exclusive::Claim;
use strongroom::volume::native::record::{Attributes, Content, Record};
use strongroom::volume::native::{OpenSettings, Volume};
use strongroom::world::World;

pub(crate) const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const READ: OpenMode = OpenMode {
    read: true,
    write: false,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    excl: false,
};
pub(crate) const WRITE: OpenMode = OpenMode { write: true, ..READ };

/// A volume and the world around it.
pub(crate) struct Ground {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<SimulatedClock>,
    world: World,
    suite: Suite,
}

/// A mount whose requests are counted.
pub(crate) struct Node {
    pub(crate) fs: Arc<FileSystem>,
    /// Faults are below the meter.
    pub(crate) fault: Arc<Fault>,
    meter: Arc<Meter>,
    counted: std::sync::Mutex<u64>,
}

impl Ground {
    pub(crate) async fn new(suite: Suite) -> Self {
        let (world, clock) = world::world(7);
        // As MinIO does it: what is removed or moved away leaves a tombstone.
        let store = Arc::new(MemoryStore::without_conditional_delete(clock.clone()));
        let shared: Arc<dyn Store> = store.clone();
        world::init(&shared, &world, suite).await.expect("a volume");
        Self { store, clock, world, suite }
    }

    pub(crate) async fn node(&self) -> Node {
        self.node_with(Durability::Close, false).await
    }

    /// A node that has the volume for itself, if nobody else has.
    pub(crate) async fn only_writer(&self, steal: bool) -> Result<Node, VolumeError> {
        let node = self.serve(Durability::Close, false, Some(steal)).await?;
        node.requests();
        Ok(node)
    }

    pub(crate) async fn node_with(&self, durability: Durability, read_only: bool) -> Node {
        self.serve(durability, read_only, None).await.expect("mounted")
    }

    async fn serve(
        &self,
        durability: Durability,
        read_only: bool,
        exclusive: Option<bool>,
    ) -> Result<Node, VolumeError> {
        let fault = Arc::new(Fault::new(self.store.clone(), 1));
        let meter = Arc::new(Meter::new(fault.clone()));
        let settings = OpenSettings {
            read_only,
            cache_bytes: 4 << 20,
            host: "node".to_owned(),
            program: "test".to_owned(),
            collects: false,
        };
        let passphrase = Passphrase::new(vec![7; 32]);
        let passphrase = (self.suite != Suite::None).then_some(&passphrase);
        let volume = Volume::open(meter.clone(), self.world.clone(), passphrase, settings).await;
        let volume = volume.expect("opened");
        if !read_only {
            volume.probe().await.expect("probed");
        }
        if let Some(steal) = exclusive {
            let claim = Claim { process: "1 test".to_owned(), is_gone: |_| false, steal };
            volume.take_exclusively(&claim).await?;
        }
        let config = FsConfig {
            dirty_bytes: 16 << 20,
            upload_bytes: 16 << 20,
            attribute_ttl: Duration::from_secs(1),
            durability,
            ownership: Ownership::default(),
        };
        let runtime = tokio::runtime::Handle::current();
        let fs = FileSystem::start(volume, config, runtime).await.expect("mounted");
        let node = Node { fs, fault, meter, counted: std::sync::Mutex::new(0) };
        node.requests();
        Ok(node)
    }

    /// What was found out before is too old to be believed.
    pub(crate) fn pass_time(&self) {
        self.clock.advance(Duration::from_secs(2));
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = self.store.keys();
        keys.retain(|key| key.starts_with(prefix));
        keys
    }
}

impl Node {
    /// Requests since the last call.
    pub(crate) fn requests(&self) -> u64 {
        let now: u64 =
            self.meter.snapshot().iter().map(|(_, count)| count.answered + count.failed).sum();
        let mut counted = self.counted.lock().expect("not poisoned");
        now - std::mem::replace(&mut *counted, now)
    }

    /// Requests of one kind so far, and bytes.
    pub(crate) fn verb(&self, wanted: &str) -> (u64, u64) {
        let snapshot = self.meter.snapshot();
        let (_, count) = snapshot.iter().find(|(verb, _)| *verb == wanted).expect("a verb");
        (count.answered, count.bytes)
    }

    /// The session stands in the store, so that the next change costs only itself.
    pub(crate) async fn warm(&self) {
        let set = SetAttr { mode: Some(0o755), ..SetAttr::default() };
        self.fs.setattr(&CALLER, Ino::ROOT, set).await.expect("changed");
        self.requests();
    }

    pub(crate) async fn lookup(&self, parent: Ino, name: &str) -> Result<Attr, FsError> {
        Ok(self.fs.lookup(&CALLER, parent, name.as_bytes()).await?.attr)
    }

    pub(crate) async fn mkdir(&self, parent: Ino, name: &str) -> Ino {
        let made = self.fs.mkdir(&CALLER, parent, name.as_bytes(), 0o755, 0).await;
        made.expect("made").attr.ino
    }

    /// open(O_CREAT | O_WRONLY), write, close, as the kernel does it.
    pub(crate) async fn write(&self, parent: Ino, name: &str, data: &[u8]) -> Result<Ino, FsError> {
        let (ino, handle) = match self.lookup(parent, name).await {
            Ok(attr) => (attr.ino, self.fs.open(&CALLER, attr.ino, WRITE).await?.handle),
            Err(FsError::NotFound) => {
                let name = name.as_bytes();
                let created = self.fs.create(&CALLER, parent, name, 0o644, 0, WRITE).await?;
                (created.0.attr.ino, created.1.handle)
            }
            Err(error) => return Err(error),
        };
        if !data.is_empty() {
            self.fs.write(handle, 0, data.to_vec()).await?;
        }
        let flushed = self.fs.flush(ino, handle).await;
        self.fs.release(ino, handle).await?;
        flushed.map(|()| ino)
    }

    pub(crate) async fn read(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let handle = self.fs.open(&CALLER, ino, READ).await?.handle;
        let bytes = self.fs.read(ino, handle, 0, 1 << 20).await;
        self.fs.release(ino, handle).await?;
        Ok(bytes?.to_vec())
    }

    pub(crate) async fn rename(&self, from: (Ino, &str), to: (Ino, &str)) -> Result<(), FsError> {
        let (name, new_name) = (from.1.as_bytes(), to.1.as_bytes());
        self.fs.rename(from.0, name, to.0, new_name, RenameMode::Replace).await
    }

    /// `ls -l`: every name with its attributes.
    pub(crate) async fn list(&self, dir: Ino) -> BTreeMap<String, Attr> {
        let handle = self.fs.opendir(dir).await.expect("opened");
        let (mut rows, mut offset) = (BTreeMap::new(), 0);
        loop {
            let more = self.fs.readdir(dir, handle, offset, true).await.expect("read");
            let Some(last) = more.last() else { break };
            offset = last.next_offset;
            for row in more {
                if let Some(entry) = row.entry {
                    let name = String::from_utf8(row.name).expect("text");
                    // The kernel keeps what readdirplus tells.
                    self.fs.remember(row.ino);
                    assert!(rows.insert(name, entry.attr).is_none(), "listed twice");
                }
            }
        }
        self.fs.releasedir(handle).await.expect("closed");
        rows
    }

    /// A directory with files that hold their names, made without the mount knowing.
    pub(crate) async fn populate(&self, name: &str, files: &[String]) {
        let volume = self.fs.volume();
        let dir = DirId(volume.world().entropy.bytes());
        let attributes = Attributes { mode: 0o755, ..Attributes::default() };
        let record = Record::new(attributes.clone(), Content::Directory(dir));
        let root = volume.root_directory();
        volume.create(root, name.as_bytes(), record).await.expect("made");
        for file in files {
            let mut source = file.as_bytes();
            let (name, attributes) = (file.as_bytes(), attributes.clone());
            volume.write_file(dir, name, attributes, &mut source, |_| ()).await.expect("written");
        }
        self.requests();
    }
}

/// Runs a test's future where background work goes on beside it.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

/// Waits for what goes on in the background.
pub(crate) async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain for {what}");
}
