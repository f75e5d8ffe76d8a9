//! Sessions that live long, fall silent and are declared dead; files that are appended to all day. The
//! file system over a store in memory, with a clock that the test moves.

#[path = "model/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;
use strongroom::crypto::Suite;
use strongroom::fs::core::{Durability, FileSystem, FsConfig};
use strongroom::fs::errno::FsError;
use strongroom::fs::ownership::Ownership;
use strongroom::fs::types::{Caller, HandleId, Ino, OpenMode};
use strongroom::store::{ListRequest, MemoryStore, PutWhen, Store, list_all};
use strongroom::world::World;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1 };

struct Mounted {
    store: Arc<dyn Store>,
    world: World,
    clock: Arc<world::SimulatedClock>,
    fs: Arc<FileSystem>,
}

async fn mounted(seed: u64) -> Mounted {
    let (world, clock) = world::world(seed);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::without_conditional_delete(clock.clone()));
    world::init(&store, &world, Suite::Aes256Gcm).await.expect("init");
    let fs = mount(&store, &world).await;
    Mounted { store, world, clock, fs }
}

async fn mount(store: &Arc<dyn Store>, world: &World) -> Arc<FileSystem> {
    let volume = world::open(store.clone(), world, Suite::Aes256Gcm).await.expect("open");
    let config = FsConfig {
        dirty_bytes: 64 << 20,
        upload_bytes: 64 << 20,
        attribute_ttl: Duration::from_secs(1),
        durability: Durability::Close,
        ownership: Ownership::default(),
    };
    FileSystem::start(volume, config, tokio::runtime::Handle::current()).await.expect("start")
}

impl Mounted {
    async fn create(&self, name: &str) -> (Ino, HandleId) {
        let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
        let created = self.fs.create(&CALLER, Ino::ROOT, name.as_bytes(), 0o644, 0, mode);
        let (entry, opened) = created.await.expect("created");
        (entry.attr.ino, opened.handle)
    }

    /// What another mount reads, which began after.
    async fn read_elsewhere(&self, name: &str) -> Result<Vec<u8>, FsError> {
        let fs = mount(&self.store, &self.world).await;
        let attr = fs.lookup(&CALLER, Ino::ROOT, name.as_bytes()).await?.attr;
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let handle = fs.open(&CALLER, attr.ino, mode).await?.handle;
        let mut found = Vec::new();
        while (found.len() as u64) < attr.size {
            let bytes = fs.read(attr.ino, handle, found.len() as u64, 1 << 20).await?;
            assert!(!bytes.is_empty(), "ends at {} of {}", found.len(), attr.size);
            found.extend(bytes);
        }
        Ok(found)
    }

    async fn keys(&self, prefix: &str) -> Vec<strongroom::store::ObjectMeta> {
        let request = ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() };
        list_all(&*self.store, request).await.expect("listed").0
    }

    /// What gc does to a session that it believes dead: it replaces what stands in `s/`.
    async fn declare_sessions_dead(&self) {
        for session in self.keys("s/").await {
            let body = bytes::Bytes::from_static(b"declared dead");
            self.store.put(&session.key, body, PutWhen::Always).await.expect("put");
        }
    }

    async fn wait_for_segments(&self, count: usize) {
        while self.keys("d/").await.len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Bytes that differ everywhere, the same for the same length.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(length).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_declared_dead_starts_anew_and_stores_again_what_nothing_refers_to() {
    let mounted = mounted(1).await;
    let content = bytes(20 << 20);
    let (ino, handle) = mounted.create("file").await;
    for (index, part) in content.chunks(1 << 20).enumerate() {
        let offset = (index as u64) << 20;
        mounted.fs.write(handle, offset, part.to_vec()).await.expect("written");
    }
    mounted.wait_for_segments(2).await;
    let former = mounted.keys("d/").await;
    mounted.declare_sessions_dead().await;
    mounted.clock.advance(Duration::from_secs(3 * 3600));
    mounted.fs.fsync(ino, handle, false).await.expect("stored under a session of its own");
    // What gc may do from now on, and what it may not.
    for segment in former {
        mounted.store.delete(&segment.key, None).await.expect("deleted");
    }
    assert!(mounted.read_elsewhere("file").await.expect("readable") == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_declared_dead_whose_segments_are_swept_says_so() {
    let mounted = mounted(2).await;
    let (ino, handle) = mounted.create("file").await;
    mounted.fs.write(handle, 0, b"stored before".to_vec()).await.expect("written");
    mounted.fs.fsync(ino, handle, false).await.expect("stored");
    for (index, part) in bytes(20 << 20).chunks(1 << 20).enumerate() {
        let offset = (index as u64) << 20;
        mounted.fs.write(handle, offset, part.to_vec()).await.expect("written");
    }
    mounted.wait_for_segments(2).await;
    mounted.declare_sessions_dead().await;
    for segment in mounted.keys("d/").await {
        mounted.store.delete(&segment.key, None).await.expect("deleted");
    }
    mounted.clock.advance(Duration::from_secs(3 * 3600));
    mounted.fs.fsync(ino, handle, false).await.expect_err("a part is gone");
    let stored = mounted.read_elsewhere("file").await.expect("readable");
    assert_eq!(stored, b"stored before", "what was acknowledged stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_appended_to_all_day_has_few_segments_each_byte_stored_a_few_times() {
    let mounted = mounted(3).await;
    let (ino, handle) = mounted.create("log").await;
    let content = bytes(30 << 20);
    let mut at = 0;
    for (index, line) in content.chunks(30_000).enumerate() {
        mounted.fs.write(handle, at, line.to_vec()).await.expect("written");
        at += line.len() as u64;
        mounted.fs.fsync(ino, handle, false).await.expect("stored");
        if index % 300 == 0 {
            assert!(
                mounted.read_elsewhere("log").await.expect("readable") == content[..at as usize]
            );
        }
    }
    assert!(mounted.read_elsewhere("log").await.expect("readable") == content);
    let stored: u64 = mounted.keys("d/").await.iter().map(|segment| segment.size).sum();
    let times = stored as f64 / content.len() as f64;
    assert!(times < 3.5, "each byte was stored {times:.1} times");
    let volume = world::open(mounted.store.clone(), &mounted.world, Suite::Aes256Gcm).await;
    let volume = volume.expect("open");
    let found = volume.lookup(volume.root_directory(), b"log").await.expect("read").expect("there");
    let file = found.home().record.file().expect("a file").clone();
    let map = volume.load_map(&file).await.expect("a map");
    let segments: u64 = map.runs().map(|(_, run)| u64::from(run.count)).sum();
    assert!(segments < 32, "{segments} segments for 30 MiB");
}
