//! One store, one clock, as many sessions as a test wants; and a store that lets something happen just
//! before a request.

use crate::world::{self, SimulatedClock};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use strongroom::crypto::Suite;
use strongroom::store::fault::Verb;
use strongroom::store::{
    ETag, Fetched, Key, ListPage, ListRequest, MemoryStore, ObjectMeta, PutWhen, Store, StoreError,
};
use strongroom::units::{ByteRange, DirId};
use strongroom::volume::VolumeError;
use strongroom::volume::native::Volume;
use strongroom::volume::native::gc::{Done, Found, GcSettings};
use strongroom::volume::native::namespace::GRACE;
use strongroom::volume::native::record::Attributes;
use strongroom::volume::native::verify::Depth;
use strongroom::world::World;

/// Runs a test's future.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// A volume whose names are spelled as they are, so that their order in listings is known.
pub(crate) struct Lab {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) world: World,
}

impl Lab {
    /// On a store whose DELETE honours conditions, or one like MinIO.
    pub(crate) async fn new(conditional_delete: bool) -> Self {
        let (world, clock) = world::world(7);
        let store = if conditional_delete {
            MemoryStore::new(clock.clone())
        } else {
            MemoryStore::without_conditional_delete(clock.clone())
        };
        let store = Arc::new(store);
        let shared: Arc<dyn Store> = store.clone();
        world::init(&shared, &world, Suite::None).await.expect("initialised");
        Self { store, clock, world }
    }

    /// One more session.
    pub(crate) async fn open(&self) -> Arc<Volume> {
        self.open_on(self.store.clone()).await
    }

    /// The same through another store.
    pub(crate) async fn open_on(&self, store: Arc<dyn Store>) -> Arc<Volume> {
        world::open(store, &self.world, Suite::None).await.expect("opened")
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// A little more than a grace period.
    pub(crate) fn pass_grace(&self) {
        self.pass(GRACE + Duration::from_secs(60));
    }

    /// Stores a file by a session that ends.
    pub(crate) async fn push(&self, name: &[u8], seed: u8) -> Vec<u8> {
        let volume = self.open().await;
        let bytes = write(&volume, volume.root_directory(), name, seed).await;
        volume.session().end(&volume).await.expect("ended");
        bytes
    }

    /// What a new session reads.
    pub(crate) async fn read(&self, name: &[u8]) -> Result<Vec<u8>, VolumeError> {
        let volume = self.open().await;
        read(&volume, volume.root_directory(), name).await
    }

    /// One run of gc, by a session of its own on `store`.
    pub(crate) async fn collect_on(
        &self,
        store: Arc<dyn Store>,
        settings: &GcSettings,
    ) -> (Found, Done) {
        let volume = self.open_on(store).await;
        let result = volume.collect(settings).await.expect("collected");
        volume.session().end(&volume).await.expect("ended");
        result
    }

    pub(crate) async fn collect(&self) -> (Found, Done) {
        self.collect_on(self.store.clone(), &GcSettings::default()).await
    }

    /// Runs gc until all that is garbage now must be gone.
    pub(crate) async fn collect_all(&self) {
        for _ in 0..10 {
            self.pass_grace();
            self.collect().await;
        }
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.keys().into_iter().filter(|key| key.starts_with(prefix)).collect()
    }

    /// Everything that a name leads to is there.
    pub(crate) async fn assert_whole(&self) {
        let volume = self.open().await;
        let report =
            volume.verify(Depth::Content, &|_| {}, &mut |_| Ok(())).await.expect("verified");
        let shown: Vec<_> = report
            .damage
            .iter()
            .map(|(path, why)| format!("{}: {why}", path.escape_ascii()))
            .collect();
        assert!(shown.is_empty(), "{shown:#?}");
    }
}

/// Bytes of a file that needs a segment.
pub(crate) fn content(seed: u8) -> Vec<u8> {
    (0..70_000_u32).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

pub(crate) async fn write(volume: &Arc<Volume>, dir: DirId, name: &[u8], seed: u8) -> Vec<u8> {
    let bytes = content(seed);
    let attributes = Attributes { mode: 0o644, ..Attributes::default() };
    volume.write_file(dir, name, attributes, &mut &bytes[..], |_| {}).await.expect("written");
    bytes
}

pub(crate) async fn read(
    volume: &Arc<Volume>,
    dir: DirId,
    name: &[u8],
) -> Result<Vec<u8>, VolumeError> {
    let shown = name.escape_ascii().to_string();
    let found =
        volume.lookup(dir, name).await?.ok_or_else(|| VolumeError::NotFound(shown.clone()))?;
    let content =
        found.home().record.file().ok_or_else(|| VolumeError::IsDirectory(shown.clone()))?;
    let mut bytes = Vec::new();
    match volume.read_file(content, &mut bytes, |_| {}).await {
        Ok(()) => Ok(bytes),
        Err(strongroom::volume::native::files::WriteError::Volume(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

type Happening = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Something that happens once, just before a request.
struct Trap {
    verb: Verb,
    /// What the request's key, or the listing's `start_after`, must begin with.
    key: String,
    happening: Happening,
}

/// A store in whose requests other nodes get their turn; listings have one key a page, and may hide keys.
pub(crate) struct Trapped {
    inner: Arc<dyn Store>,
    traps: Mutex<Vec<Trap>>,
    hidden: Mutex<Vec<String>>,
}

impl Trapped {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, traps: Mutex::default(), hidden: Mutex::default() })
    }

    /// Before the next request of this kind.
    pub(crate) fn before(
        &self,
        verb: Verb,
        key: impl Into<String>,
        happening: impl FnOnce() -> BoxFuture<'static, ()> + Send + 'static,
    ) {
        let happening: Happening = Box::new(happening);
        self.traps.lock().push(Trap { verb, key: key.into(), happening });
    }

    /// Listings leave out what begins with this.
    pub(crate) fn hide(&self, prefix: impl Into<String>) {
        self.hidden.lock().push(prefix.into());
    }

    /// Whether everything has happened.
    pub(crate) fn is_sprung(&self) -> bool {
        self.traps.lock().is_empty()
    }

    async fn spring(&self, verb: Verb, key: &str) {
        let trap = {
            let mut traps = self.traps.lock();
            let found =
                traps.iter().position(|trap| trap.verb == verb && key.starts_with(&trap.key));
            found.map(|index| traps.remove(index))
        };
        if let Some(trap) = trap {
            (trap.happening)().await;
        }
    }
}

#[async_trait]
impl Store for Trapped {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        self.spring(Verb::Put, key.as_str()).await;
        self.inner.put(key, body, when).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        self.spring(Verb::Get, key.as_str()).await;
        self.inner.get(key, range, unless).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        self.spring(Verb::Delete, key.as_str()).await;
        self.inner.delete(key, if_match).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        if let Some(first) = keys.first() {
            self.spring(Verb::DeleteMany, first.as_str()).await;
        }
        self.inner.delete_many(keys).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let after = request.start_after.as_deref().unwrap_or(&request.prefix);
        self.spring(Verb::List, after).await;
        let mut request = request.clone();
        if !request.roll_up {
            request.limit = 1;
        }
        let mut page = self.inner.list(&request).await?;
        let hidden = self.hidden.lock();
        page.objects
            .retain(|object| !hidden.iter().any(|prefix| object.key.as_str().starts_with(prefix)));
        Ok(page)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
