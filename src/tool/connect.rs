//! From settings to an open volume.

use super::attach::protocol::FailureKind;
use super::output::Failure;
use super::settings::Common;
use crate::config::StoreBase;
use crate::config::{self, VolumeUrl};
use crate::crypto::{CryptoError, Suite};
use crate::store::{
    Count, DirStore, DiskCache, Hits, Key, Limit, ListRequest, Meter, Prefixed, Rate, Retry,
    RetryPolicy, S3Store, Store, StoreErrorKind, Throttle,
};
use crate::units::ByteRange;
use crate::volume::VolumeError;
use crate::volume::native::descriptor::{Descriptor, SIZE_LIMIT};
use crate::volume::native::record::Attributes;
use crate::volume::native::{OpenSettings, Volume, keys};
use crate::world::Timestamp;
use std::sync::{Arc, OnceLock};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The bucket that this run has connected to.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<tokio::sync::Mutex<Option<Client>>>);

/// The place of the configuration file whose settings were used, a bucket's name, and its store.
type Client = (Option<String>, String, Arc<dyn Store>);

/// The volumes that this run has opened.
#[derive(Clone, Default)]
pub(super) struct Volumes(Arc<tokio::sync::Mutex<Vec<OpenedVolume>>>);

struct OpenedVolume {
    /// The place of the configuration file whose settings were used.
    place: Option<String>,
    base: StoreBase,
    root: String,
    volume: Arc<Volume>,
    /// Its session is renewed in the background.
    renewed: bool,
}

impl Volumes {
    /// Renews a volume's session from now on: a pipe may stand still for longer than a silent session is
    /// taken for alive.
    async fn keep_alive(&self, volume: &Arc<Volume>) {
        let mut opened = self.0.lock().await;
        for known in opened.iter_mut().filter(|known| Arc::ptr_eq(&known.volume, volume)) {
            if !std::mem::replace(&mut known.renewed, true) {
                let volume = volume.clone();
                tokio::spawn(async move { volume.session().keep_alive(&volume).await });
            }
        }
    }
}

/// The limit on bytes a second of whatever this run connects to.
#[derive(Clone, Default)]
pub(super) struct RateSlot(Arc<OnceLock<Arc<Rate>>>);

impl RateSlot {
    fn get_or_init(&self, make: impl FnOnce() -> Arc<Rate>) -> &Arc<Rate> {
        self.0.get_or_init(make)
    }
}

impl std::fmt::Debug for RateSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RateSlot")
    }
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Volumes")
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clients")
    }
}

/// Counts the requests of whatever store this run connects to, and what its disk cache spares.
#[derive(Clone, Default)]
pub(super) struct MeterSlot(Arc<Meters>);

#[derive(Default)]
struct Meters {
    store: OnceLock<Arc<Meter>>,
    disk: OnceLock<Arc<Hits>>,
}

impl MeterSlot {
    /// The counts so far, as `verb=answered` pairs; failed requests after a slash.
    pub(super) fn summary(&self) -> String {
        let Some(meter) = self.0.store.get() else { return String::new() };
        let row = |(verb, count): (&str, Count)| {
            format!("{verb}={}/{} bytes={}", count.answered, count.failed, count.bytes)
        };
        meter.snapshot().map(row).join(" ")
    }

    /// How many requests were answered so far.
    pub(super) fn answered(&self) -> u64 {
        self.requests().map(|(_, count)| count.answered).sum()
    }

    /// The counts so far, by verb.
    pub(super) fn requests(&self) -> impl Iterator<Item = (&'static str, Count)> {
        self.0.store.get().map(|meter| meter.snapshot()).into_iter().flatten()
    }

    /// Hits and misses of the disk cache, where there is one.
    pub(super) fn disk_cache(&self) -> Option<(u64, u64)> {
        self.0.disk.get().map(|hits| hits.snapshot())
    }

    /// Counts what a disk cache spares.
    pub(super) fn beside(&self, cache: &DiskCache) {
        let _ = self.0.disk.set(cache.hits());
    }

    pub(super) fn around(&self, store: Arc<dyn Store>) -> Arc<Meter> {
        let meter = Arc::new(Meter::new(store));
        // One store is used in a run; what was looked at before it is not counted.
        let _ = self.0.store.set(meter.clone());
        meter
    }
}

impl std::fmt::Debug for MeterSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MeterSlot")
    }
}

/// A store and where in it a volume is.
pub(super) struct Location {
    /// The volume's own store: keys are relative to its prefix.
    pub(super) store: Arc<dyn Store>,
    /// The rest of the path.
    pub(super) inside: String,
}

impl Common {
    /// Opens the volume that a URL leads into, and the path inside it.
    pub(super) async fn open(
        &self,
        url: &VolumeUrl,
        settings: OpenSettings,
    ) -> Result<(Arc<Volume>, String), Failure> {
        self.open_over(url, settings, Ok).await
    }

    /// The same, with something of the caller's between the volume and its store.
    pub(super) async fn open_over(
        &self,
        url: &VolumeUrl,
        settings: OpenSettings,
        around: impl FnOnce(Arc<dyn Store>) -> Result<Arc<dyn Store>, Failure>,
    ) -> Result<(Arc<Volume>, String), Failure> {
        let own = self.at(url)?;
        let mut opened = self.volumes.0.lock().await;
        let known = opened.iter().find(|known| {
            known.base == url.base
                && known.place == own.place
                // Who may write may read.
                && (!known.volume.is_read_only() || settings.read_only)
                && url.candidates().contains(&known.root.as_str())
        });
        if let Some(known) = known {
            return Ok((known.volume.clone(), url.inside(&known.root).to_owned()));
        }
        let Location { store, inside } = own.locate(url).await?;
        let source = own.passphrase(&own.file()?);
        let passphrase = match needs_passphrase(&store).await? {
            true => Some(source.read()?),
            // Whoever gives a passphrase expects an encrypted volume. The store could put a plain one in
            // its place and be handed plaintext from then on.
            false if source.is_given() => {
                return Err(Failure::new(format!(
                    "{}: the volume is not encrypted, but a passphrase is given: if it was encrypted \
                     before, the store was tampered with; if it never was, leave the passphrase away",
                    store.describe()
                ))
                .of(FailureKind::Passphrase));
            }
            false => None,
        };
        let world = config::system_world();
        match Volume::open(around(store)?, world, passphrase.as_deref(), settings).await {
            Ok(volume) => {
                let root = url.path.len() - inside.len();
                let root = url.path[..root].trim_end_matches('/').to_owned();
                let (place, base) = (own.place.clone(), url.base.clone());
                let known = volume.clone();
                opened.push(OpenedVolume { place, base, root, volume: known, renewed: false });
                Ok((volume, inside))
            }
            Err(VolumeError::Passphrase(CryptoError::WrongPassphrase)) => {
                Err(Failure::new(format!(
                    "{url}: wrong passphrase: no key slot of this volume opens with it: it came from {}",
                    source.shown()
                ))
                .of(FailureKind::Passphrase))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a volume for a command that changes nothing.
    pub(super) async fn open_to_read(
        &self,
        url: &VolumeUrl,
    ) -> Result<(Arc<Volume>, String), Failure> {
        self.open(url, settings(true)).await
    }

    /// Opens a volume for a command that changes something.
    pub(super) async fn open_to_write(
        &self,
        url: &VolumeUrl,
    ) -> Result<(Arc<Volume>, String), Failure> {
        let (volume, inside) = self.open(url, settings(false)).await?;
        volume.probe().await?;
        self.volumes.keep_alive(&volume).await;
        Ok((volume, inside))
    }

    /// Opens a volume to collect garbage, beside whoever has it for itself too.
    pub(super) async fn open_to_collect(
        &self,
        url: &VolumeUrl,
    ) -> Result<(Arc<Volume>, String), Failure> {
        let settings = OpenSettings { collects: true, ..settings(false) };
        let (volume, inside) = self.open(url, settings).await?;
        volume.probe().await?;
        Ok((volume, inside))
    }

    /// Ends the sessions of all volumes that were written to.
    pub(super) async fn end_sessions(&self) -> Result<(), Failure> {
        let opened = self.volumes.0.lock().await;
        for known in opened.iter().filter(|known| !known.volume.is_read_only()) {
            known.volume.session().end(&known.volume).await?;
        }
        Ok(())
    }

    /// Finds the volume's root: the nearest prefix from the left that holds a descriptor.
    pub(super) async fn locate(&self, url: &VolumeUrl) -> Result<Location, Failure> {
        let own = self.at(url)?;
        for root in url.candidates() {
            let Some(store) = own.store_if_there(url, root).await? else { continue };
            if holds_volume(&store).await? {
                return Ok(Location { store, inside: url.inside(root).to_owned() });
            }
        }
        if let StoreBase::S3(bucket) = &url.base {
            // HEAD cannot tell a missing bucket from a missing object; a listing can.
            let request = ListRequest { limit: 1, ..ListRequest::default() };
            own.bucket(bucket).await?.list(&request).await?;
        }
        for root in url.candidates() {
            let copies = keys::descriptor_copies();
            let store: Arc<dyn Store> = match &url.base {
                StoreBase::File => {
                    let directory = VolumeUrl::directory(root);
                    if !DirStore::is_one(&directory) {
                        continue;
                    }
                    Arc::new(DirStore::open(directory)?)
                }
                StoreBase::S3(bucket) => under(own.bucket(bucket).await?, root),
            };
            let prefix = copies.to_owned();
            let request = ListRequest { prefix, limit: 1, ..ListRequest::default() };
            if !store.list(&request).await?.objects.is_empty() {
                return Err(Failure::new(format!(
                    "{}: the descriptor of the volume is gone: copy its newest copy, under {copies} \
                     (k@/ in a directory), to {} with another program",
                    store.describe(),
                    keys::DESCRIPTOR
                )));
            }
        }
        Err(Failure::new(format!(
            "{url}: no volume here: `strongroom init` makes one of an empty prefix; the files of a bucket are mounted \
             as they are with `strongroom mount --layout objects`"
        ))
        .of(FailureKind::NotFound))
    }

    /// The store whose keys are relative to `root`, which must exist already where that matters.
    async fn store_if_there(
        &self,
        url: &VolumeUrl,
        root: &str,
    ) -> Result<Option<Arc<dyn Store>>, Failure> {
        match &url.base {
            StoreBase::File => {
                let directory = VolumeUrl::directory(root);
                if !directory.join(keys::DESCRIPTOR).exists() {
                    return Ok(None);
                }
                let store = self.meter.around(Arc::new(DirStore::open(directory)?));
                Ok(Some(self.throttled(store)?))
            }
            StoreBase::S3(bucket) => Ok(Some(under(self.bucket(bucket).await?, root))),
        }
    }

    /// A bucket with everything that requests need around it.
    pub(super) async fn bucket(&self, bucket: &str) -> Result<Arc<dyn Store>, Failure> {
        let mut known = self.clients.0.lock().await;
        match &*known {
            Some((place, name, store)) if name == bucket && *place == self.place => {
                return Ok(store.clone());
            }
            _ => {}
        }
        let store = self.connect(bucket).await?;
        *known = Some((self.place.clone(), bucket.to_owned(), store.clone()));
        Ok(store)
    }

    async fn connect(&self, bucket: &str) -> Result<Arc<dyn Store>, Failure> {
        let store: Arc<dyn Store> = Arc::new(S3Store::connect(self.s3(bucket)?).await?);
        let store = self.meter.around(store);
        let policy = RetryPolicy::within(self.patience()?);
        let store = Arc::new(Retry::new(store, policy, config::system_world().entropy));
        // Outermost: the time that a request waits for its turn is not the store's.
        self.throttled(Arc::new(Limit::new(store, self.concurrency()?)))
    }

    /// The limit on bytes a second, one for all that this run connects to.
    pub(super) fn rate(&self) -> Result<Option<Arc<Rate>>, Failure> {
        let rate = |bits| self.rate.get_or_init(|| Arc::new(Rate::new(bits))).clone();
        Ok(self.rate_limit()?.map(rate))
    }

    pub(super) fn throttled(&self, store: Arc<dyn Store>) -> Result<Arc<dyn Store>, Failure> {
        Ok(match self.rate()? {
            Some(rate) => Arc::new(Throttle::new(store, rate)),
            None => store,
        })
    }

    /// The store of the volume that a URL leads into, or of the place where one could be.
    pub(super) async fn store_at(&self, url: &VolumeUrl) -> Result<Arc<dyn Store>, Failure> {
        match &url.base {
            StoreBase::File => match self.locate(url).await {
                Ok(location) => Ok(location.store),
                // Looking must not make a directory.
                Err(_) if !VolumeUrl::directory(&url.path).is_dir() => {
                    Err(Failure::new(format!("{url}: no such directory")))
                }
                Err(_) => self.store_for_init(url).await,
            },
            StoreBase::S3(bucket) => {
                let bucket = self.at(url)?.bucket(bucket).await?;
                for root in url.candidates() {
                    let store = under(bucket.clone(), root);
                    if holds_volume(&store).await.unwrap_or(false) {
                        return Ok(store);
                    }
                }
                Ok(under(bucket, &url.path))
            }
        }
    }

    /// The store for a new volume.
    pub(super) async fn store_for_init(&self, url: &VolumeUrl) -> Result<Arc<dyn Store>, Failure> {
        match &url.base {
            StoreBase::File => Ok(Arc::new(DirStore::open(VolumeUrl::directory(&url.path))?)),
            StoreBase::S3(bucket) => Ok(under(self.at(url)?.bucket(bucket).await?, &url.path)),
        }
    }
}

/// A store under a prefix of another one.
pub(super) fn under(store: Arc<dyn Store>, prefix: &str) -> Arc<dyn Store> {
    if prefix.is_empty() { store } else { Arc::new(Prefixed::new(store, format!("{prefix}/"))) }
}

/// Whether a volume's root is here.
pub(super) async fn holds_volume(store: &Arc<dyn Store>) -> Result<bool, Failure> {
    match store.head(&keys::descriptor()).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
        // An answer to HEAD has no body, so that a refusal does not say why; a listing's does.
        Err(error) if error.kind == StoreErrorKind::Denied => {
            let request = ListRequest { limit: 1, ..ListRequest::default() };
            store.list(&request).await?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn needs_passphrase(store: &Arc<dyn Store>) -> Result<bool, Failure> {
    let key: Key = keys::descriptor();
    let range = ByteRange::new(0, SIZE_LIMIT);
    match store.get(&key, Some(range), None).await? {
        crate::store::Fetched::Object(object) => {
            let what = format!("{}: {}", store.describe(), keys::DESCRIPTOR);
            let descriptor = Descriptor::parse(&object.body.bytes(), &what)?;
            Ok(descriptor.suite.parse::<Suite>().is_ok_and(|suite| suite != Suite::None))
        }
        crate::store::Fetched::Unchanged => Ok(true),
    }
}

fn settings(read_only: bool) -> OpenSettings {
    OpenSettings {
        read_only,
        cache_bytes: 64 << 20,
        host: config::host_name(),
        program: concat!("strongroom ", env!("CARGO_PKG_VERSION")).to_owned(),
        collects: false,
    }
}

/// What the tool makes belongs to whoever calls it.
pub(super) fn own_attributes(mode: u32, now: Timestamp) -> Attributes {
    Attributes {
        mode,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        ..Attributes::default()
    }
}

/// The runtime of all commands.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Gives the number of the first SIGINT, SIGTERM or SIGHUP from now on, be it waited for already or not: what is
/// begun before that is cleaned up, too. For a caller within the runtime.
pub(super) fn ended_by_signal() -> impl Future<Output = u8> {
    let signals = EndSignals::register();
    async {
        match signals {
            Ok(mut signals) => signals.first().await,
            // Without a handler the default action ends the process.
            Err(_) => std::future::pending().await,
        }
    }
}

/// The signals that end a program, from now on kept until they are asked for.
pub(super) struct EndSignals([(u8, Signal); 3]);

impl EndSignals {
    /// For a caller within the runtime.
    pub(super) fn register() -> std::io::Result<Self> {
        Ok(Self([
            (2, signal(SignalKind::interrupt())?),
            (15, signal(SignalKind::terminate())?),
            (1, signal(SignalKind::hangup())?),
        ]))
    }

    /// The number of the first that came or comes.
    pub(super) async fn first(&mut self) -> u8 {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.1.recv() => interrupt.0,
            _ = terminate.1.recv() => terminate.0,
            _ = hangup.1.recv() => hangup.0,
        }
    }
}
