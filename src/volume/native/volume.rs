//! A volume, initialised or opened.

use super::descriptor::{Descriptor, SIZE_LIMIT};
use super::entries::{Expect, Graves, Loaded, Place, Stored, Unsettled};
use super::keys;
use super::record::{Attributes, Content, Record};
use super::segments::SegmentCache;
use super::session::Session;
use crate::crypto::{Keyring, NewSlot, Passphrase, Suite};
use crate::store::{Capabilities, Fetched, ListRequest, PutWhen, Store, StoreErrorKind, probe};
use crate::units::{ByteRange, DirId, SessionId, VolumeId};
use crate::volume::VolumeError;
use crate::world::World;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a new volume shall be.
pub struct InitSettings<'a> {
    /// The encryption suite.
    pub suite: Suite,
    /// Its first passphrase; `None` if and only if the suite is `none`.
    pub slot: Option<NewSlot<'a>>,
    /// Owner and mode of the root directory.
    pub root: Attributes,
}

/// How a volume is opened.
pub struct OpenSettings {
    /// Refuse every change.
    pub read_only: bool,
    /// Bytes of sealed data kept in memory, at most.
    pub cache_bytes: u64,
    /// This machine's name, for the session.
    pub host: String,
    /// This program's name and version, for the session.
    pub program: String,
}

/// An open volume. Shared by all that use it; every method may be called from many tasks.
pub struct Volume {
    store: Arc<dyn Store>,
    opened: Opened,
    /// One look at the descriptor at a time.
    pub(super) key_turn: tokio::sync::Mutex<()>,
    world: World,
    session: Session,
    unsettled: Unsettled,
    graves: Graves,
    capabilities: OnceLock<Capabilities>,
    cache: SegmentCache,
    read_only: bool,
    opened_at: Duration,
    replaced: AtomicU64,
}

/// A descriptor and its keys, and those that were read since. Whoever uses the former ones may go on: the
/// chain only grows, by one for each change of the descriptor.
struct Opened {
    keyring: Keyring,
    descriptor: Descriptor,
    newer: OnceLock<Box<Opened>>,
}

impl Opened {
    fn new(keyring: Keyring, descriptor: Descriptor) -> Self {
        Self { keyring, descriptor, newer: OnceLock::new() }
    }

    fn newest(&self) -> &Self {
        let mut newest = self;
        while let Some(newer) = newest.newer.get() {
            newest = newer;
        }
        newest
    }
}

impl Volume {
    /// Makes a volume of an empty prefix.
    ///
    /// Commit point: the descriptor's creation. Crash before: nothing, or a probe's debris. After: a
    /// volume; the copy of the descriptor and the root's record are made good for by later changes.
    pub async fn init(
        store: &Arc<dyn Store>,
        world: &World,
        settings: InitSettings<'_>,
    ) -> Result<(), VolumeError> {
        let InitSettings { suite, slot, root } = settings;
        let what = store.describe();
        let request = ListRequest { limit: 1, ..ListRequest::default() };
        let page = store.list(&request).await?;
        if let Some(object) = page.objects.first() {
            return Err(VolumeError::NotAVolume(if object.key.as_str() == keys::DESCRIPTOR {
                format!("{what}: holds a volume already")
            } else {
                format!(
                    "{what}: is not empty ({} is there); choose an empty prefix for a new volume",
                    object.key
                )
            }));
        }
        let id = VolumeId(world.entropy.bytes());
        let (keyring, record) = Keyring::create(id, suite, slot, &*world.entropy)
            .map_err(|error| VolumeError::Invalid(error.to_string()))?;
        let mut descriptor = Descriptor::new(&keyring, record);
        let sealed = bytes::Bytes::from(descriptor.seal(&keyring));
        let key = keys::descriptor();
        // On a store without conditions the listing above has to do.
        let nonce = data_encoding::HEXLOWER.encode(&world.entropy.bytes::<8>());
        let capabilities = probe(&**store, &format!("p/{nonce}")).await?;
        let when = if capabilities.if_absent { PutWhen::IfAbsent } else { PutWhen::Always };
        let put = store.put(&key, sealed.clone(), when).await;
        if let Err(error) = put
            && !error.effect_unknown
        {
            return Err(match error.kind {
                StoreErrorKind::PreconditionFailed => {
                    VolumeError::NotAVolume(format!("{what}: holds a volume already"))
                }
                _ => error.into(),
            });
        }
        match store.get(&key, None, None).await? {
            Fetched::Object(object) if object.body.bytes() == sealed => {}
            _ => {
                return Err(VolumeError::NotAVolume(format!(
                    "{what}: another volume was initialised here at the same time"
                )));
            }
        }
        store.put(&keys::descriptor_copy(descriptor.generation), sealed, PutWhen::Always).await?;
        let settings = OpenSettings {
            read_only: false,
            cache_bytes: 0,
            host: String::new(),
            program: "init".to_owned(),
        };
        let volume = Self::assemble(store.clone(), keyring, descriptor, world.clone(), settings);
        let _ = volume.capabilities.set(capabilities);
        let root = Record::new(root, Content::Directory(volume.root_directory()));
        match volume.put_record(&volume.root_place(), root, Expect::Free).await {
            Ok(_) | Err(VolumeError::Exists(_)) => {}
            Err(error) => return Err(error),
        }
        volume.session.end(&volume).await
    }

    /// Opens a volume.
    pub async fn open(
        store: Arc<dyn Store>,
        world: World,
        passphrase: Option<&Passphrase>,
        settings: OpenSettings,
    ) -> Result<Arc<Self>, VolumeError> {
        let what = store.describe();
        let range = ByteRange::new(0, SIZE_LIMIT);
        let bytes = match store.get(&keys::descriptor(), Some(range), None).await {
            Ok(Fetched::Object(object)) => object.body.bytes(),
            Ok(Fetched::Unchanged) => bytes::Bytes::new(),
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Err(VolumeError::NotAVolume(format!(
                    "{what}: no volume here; `strongroom init` makes one, and `--layout objects` \
                     reads plain objects"
                )));
            }
            Err(error) => return Err(error.into()),
        };
        let what = format!("{what}: {}", keys::DESCRIPTOR);
        let descriptor = Descriptor::parse(&bytes, &what)?;
        let keyring = descriptor.open(passphrase, &what)?;
        Ok(Arc::new(Self::assemble(store, keyring, descriptor, world, settings)))
    }

    fn assemble(
        store: Arc<dyn Store>,
        keyring: Keyring,
        descriptor: Descriptor,
        world: World,
        settings: OpenSettings,
    ) -> Self {
        let OpenSettings { read_only, cache_bytes, host, program } = settings;
        let session = Session::new(SessionId(world.entropy.bytes()), host, program);
        let opened_at = world.clock.boot_time();
        Self {
            store,
            opened: Opened::new(keyring, descriptor),
            key_turn: tokio::sync::Mutex::default(),
            world,
            session,
            unsettled: Unsettled::default(),
            graves: Graves::default(),
            capabilities: OnceLock::new(),
            cache: SegmentCache::new(cache_bytes),
            read_only,
            opened_at,
            replaced: AtomicU64::new(0),
        }
    }

    /// Finds out which conditions the store honours; before the first change, once.
    pub async fn probe(&self) -> Result<Capabilities, VolumeError> {
        if let Some(known) = self.capabilities.get() {
            return Ok(*known);
        }
        let nonce = data_encoding::HEXLOWER.encode(&self.world.entropy.bytes::<8>());
        let found = probe(&*self.store, &format!("p/{nonce}")).await?;
        if !found.if_absent || !found.if_match {
            tracing::warn!(
                store = self.store.describe(),
                "this store does not honour conditional writes: use one writer per file"
            );
        }
        Ok(*self.capabilities.get_or_init(|| found))
    }

    /// The root directory's record; a default one if it was never stored.
    pub async fn root(&self) -> Result<Option<Stored>, VolumeError> {
        match self.load(&self.root_place(), None).await? {
            Loaded::Live(stored) => Ok(Some(stored)),
            Loaded::Tombstone(_) | Loaded::Absent | Loaded::Unchanged => Ok(None),
        }
    }

    /// Where the root's record lies: outside every directory, under a name that none can have.
    pub fn root_place(&self) -> Place {
        Place::Entry(self.derived_directory("strongroom 2026 parent of the root"), b"/".to_vec())
    }

    /// The root directory's id, fixed by the volume's.
    pub fn root_directory(&self) -> DirId {
        self.derived_directory("strongroom 2026 root directory")
    }

    /// The encryption suite.
    pub fn suite(&self) -> Suite {
        self.keyring().suite()
    }

    /// The descriptor as it was read last.
    pub fn descriptor(&self) -> &Descriptor {
        &self.opened.newest().descriptor
    }

    /// The keys as they were read last.
    pub fn keyring(&self) -> &Keyring {
        &self.opened.newest().keyring
    }

    /// Takes a newer descriptor and its keys for true; the caller has authenticated it and holds the turn.
    pub(super) fn set_keys(&self, keyring: Keyring, descriptor: Descriptor) {
        let newer = Box::new(Opened::new(keyring, descriptor));
        // The turn makes this the only one who adds to the chain.
        let _ = self.opened.newest().newer.set(newer);
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// This process's session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Time and randomness.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Whether changes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// For how long it has been open.
    pub fn age(&self) -> Duration {
        self.world.clock.boot_time().saturating_sub(self.opened_at)
    }

    /// Records that were replaced or buried since it was opened: each may have left garbage.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    pub(super) fn count_replaced(&self) {
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unsettled(&self) -> &Unsettled {
        &self.unsettled
    }

    pub(super) fn graves(&self) -> &Graves {
        &self.graves
    }

    pub(super) fn cache(&self) -> &SegmentCache {
        &self.cache
    }

    /// What the store can; before [`Self::probe`] only what every store can.
    pub(super) fn capabilities(&self) -> Capabilities {
        self.capabilities.get().copied().unwrap_or_default()
    }

    fn derived_directory(&self, label: &str) -> DirId {
        let key = blake3::derive_key(label, self.keyring().volume().as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&key[..16]);
        DirId(id)
    }
}
