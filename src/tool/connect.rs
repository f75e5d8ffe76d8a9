//! From settings to an open volume.

use super::output::{Failure, LogFormat};
use crate::config::StoreBase;
use crate::config::{self, ConfigFile, PassphraseSource, VolumeUrl};
use crate::crypto::{CryptoError, Suite};
use crate::store::{
    Count, DirStore, Key, Limit, ListRequest, Meter, Prefixed, Retry, RetryPolicy, S3Config,
    S3Store, Store, StoreErrorKind,
};
use crate::units::ByteRange;
use crate::volume::VolumeError;
use crate::volume::native::descriptor::{Descriptor, SIZE_LIMIT};
use crate::volume::native::{OpenSettings, Volume, keys};
use clap::Args;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long an operation waits for the store unless the settings say otherwise.
const IO_TIMEOUT: Duration = Duration::from_secs(300);
/// Requests under way at once.
const REQUESTS: usize = 64;

/// Flags that every command has.
#[derive(Clone, Debug, Args)]
pub(super) struct Common {
    /// Configuration file
    #[arg(long, global = true, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// File with the passphrase (one line end at its end is not part of it)
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, or a filter as tracing has it
    #[arg(
        long,
        global = true,
        env = "STRONGROOM_LOG",
        default_value = "warn",
        value_name = "LEVEL"
    )]
    pub(super) log: String,
    /// The log's form
    #[arg(long, global = true, env = "STRONGROOM_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// S3 endpoint; without a scheme it is https (else AWS_ENDPOINT_URL, else Amazon's)
    #[arg(long, global = true, env = "STRONGROOM_ENDPOINT", value_name = "URL")]
    pub(super) endpoint: Option<String>,
    /// S3 region (else AWS_REGION and the AWS files, else us-east-1)
    #[arg(long, global = true, env = "STRONGROOM_REGION")]
    pub(super) region: Option<String>,
    /// Bucket in the path; by itself for IP addresses and localhost
    #[arg(long, global = true)]
    pub(super) path_style: bool,
    /// Certificate authorities for the endpoint, PEM (else AWS_CA_BUNDLE, else the system's)
    #[arg(
        long,
        global = true,
        visible_alias = "ca-cert",
        env = "STRONGROOM_CA_BUNDLE",
        value_name = "FILE"
    )]
    pub(super) ca_bundle: Option<PathBuf>,
    /// Profile of the AWS files (else AWS_PROFILE)
    #[arg(long, global = true)]
    pub(super) profile: Option<String>,
    /// How long an operation waits for a store that does not answer (5m)
    #[arg(long, global = true, env = "STRONGROOM_IO_TIMEOUT", value_name = "DURATION", value_parser = config::parse_duration)]
    pub(super) io_timeout: Option<Duration>,
    #[arg(skip)]
    pub(super) meter: MeterSlot,
    /// A key is derived from a passphrase once, however many paths a command names.
    #[arg(skip)]
    volumes: Volumes,
    /// One client for a bucket, however often a place in it is looked at.
    #[arg(skip)]
    clients: Clients,
}

/// The bucket that this run has connected to.
#[derive(Clone, Default)]
struct Clients(Arc<tokio::sync::Mutex<Option<Client>>>);

/// A bucket's name and its store.
type Client = (String, Arc<dyn Store>);

/// The volumes that this run has opened.
#[derive(Clone, Default)]
struct Volumes(Arc<tokio::sync::Mutex<Vec<OpenedVolume>>>);

struct OpenedVolume {
    base: StoreBase,
    root: String,
    volume: Arc<Volume>,
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

/// Counts the requests of whatever store this run connects to.
#[derive(Clone, Default)]
pub(super) struct MeterSlot(Arc<OnceLock<Arc<Meter>>>);

impl MeterSlot {
    /// The counts so far, as `verb=answered` pairs; failed requests after a slash.
    pub(super) fn summary(&self) -> String {
        let Some(meter) = self.0.get() else { return String::new() };
        let row = |(verb, count): (&str, Count)| {
            format!("{verb}={}/{} bytes={}", count.answered, count.failed, count.bytes)
        };
        meter.snapshot().map(row).join(" ")
    }

    fn around(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        let meter = Arc::new(Meter::new(store));
        // One store is used in a run; what was looked at before it is not counted.
        let _ = self.0.set(meter.clone());
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
    pub(super) fn file(&self) -> Result<ConfigFile, Failure> {
        Ok(ConfigFile::find(self.config.as_deref())?)
    }

    pub(super) fn passphrase(&self, file: &ConfigFile) -> PassphraseSource {
        PassphraseSource {
            flag: self.passphrase_file.clone(),
            config: file.passphrase_file.clone(),
        }
    }

    /// Opens the volume that a URL leads into, and the path inside it.
    pub(super) async fn open(
        &self,
        url: &VolumeUrl,
        settings: OpenSettings,
    ) -> Result<(Arc<Volume>, String), Failure> {
        let mut opened = self.volumes.0.lock().await;
        let known = opened.iter().find(|known| {
            known.base == url.base
                && known.volume.is_read_only() == settings.read_only
                && url.candidates().contains(&known.root.as_str())
        });
        if let Some(known) = known {
            return Ok((known.volume.clone(), url.inside(&known.root).to_owned()));
        }
        let file = self.file()?;
        let Location { store, inside } = self.locate(url).await?;
        let source = self.passphrase(&file);
        let passphrase = match needs_passphrase(&store).await? {
            true => Some(source.read()?),
            // Whoever gives a passphrase expects an encrypted volume. The store could put a plain one in
            // its place and be handed plaintext from then on.
            false if source.is_given() => {
                return Err(Failure::new(format!(
                    "{}: the volume is not encrypted, but a passphrase is given: if it was encrypted \
                     before, the store was tampered with; if it never was, leave the passphrase away",
                    store.describe()
                )));
            }
            false => None,
        };
        let world = config::system_world();
        match Volume::open(store, world, passphrase.as_ref(), settings).await {
            Ok(volume) => {
                let root = url.path.len() - inside.len();
                let root = url.path[..root].trim_end_matches('/').to_owned();
                opened.push(OpenedVolume { base: url.base.clone(), root, volume: volume.clone() });
                Ok((volume, inside))
            }
            Err(VolumeError::Passphrase(CryptoError::WrongPassphrase)) => {
                Err(Failure::new(format!(
                    "{url}: wrong passphrase: no key slot of this volume opens with it: it came from {}",
                    source.shown()
                )))
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

    /// Finds the volume's root: the nearest prefix from the left that holds a descriptor.
    pub(super) async fn locate(&self, url: &VolumeUrl) -> Result<Location, Failure> {
        for root in url.candidates() {
            let Some(store) = self.store_if_there(url, root).await? else { continue };
            if holds_volume(&store).await? {
                return Ok(Location { store, inside: url.inside(root).to_owned() });
            }
        }
        if let StoreBase::S3(bucket) = &url.base {
            // HEAD cannot tell a missing bucket from a missing object; a listing can.
            let request = ListRequest { limit: 1, ..ListRequest::default() };
            self.bucket(bucket).await?.list(&request).await?;
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
                StoreBase::S3(bucket) => under(self.bucket(bucket).await?, root),
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
            "{url}: no volume here: `strongroom init` makes one of an empty prefix"
        )))
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
                Ok(Some(self.meter.around(Arc::new(DirStore::open(directory)?))))
            }
            StoreBase::S3(bucket) => Ok(Some(under(self.bucket(bucket).await?, root))),
        }
    }

    /// A bucket with everything that requests need around it.
    pub(super) async fn bucket(&self, bucket: &str) -> Result<Arc<dyn Store>, Failure> {
        let mut known = self.clients.0.lock().await;
        match &*known {
            Some((name, store)) if name == bucket => return Ok(store.clone()),
            _ => {}
        }
        let store = self.connect(bucket).await?;
        *known = Some((bucket.to_owned(), store.clone()));
        Ok(store)
    }

    async fn connect(&self, bucket: &str) -> Result<Arc<dyn Store>, Failure> {
        let file = self.file()?;
        let config = S3Config {
            bucket: bucket.to_owned(),
            region: self.region.clone().or(file.region),
            // The SDK reads its variables too, but whether the bucket goes into the path is ours to say.
            endpoint: self
                .endpoint
                .clone()
                .or_else(|| config::variable("AWS_ENDPOINT_URL_S3"))
                .or_else(|| config::variable("AWS_ENDPOINT_URL"))
                .or(file.endpoint)
                .map(|endpoint| with_scheme(&endpoint))
                .transpose()?,
            path_style: self.path_style.then_some(true).or(file.path_style),
            ca_bundle: self
                .ca_bundle
                .clone()
                .or_else(|| config::variable("AWS_CA_BUNDLE").map(PathBuf::from))
                .or(file.ca_bundle),
            profile: self.profile.clone().or(file.profile),
            ..S3Config::default()
        };
        let timeout = match (self.io_timeout, &file.io_timeout) {
            (Some(timeout), _) => timeout,
            (None, Some(text)) => config::parse_duration(text)
                .map_err(|error| Failure::new(format!("io_timeout {text:?}: {error}")))?,
            (None, None) => IO_TIMEOUT,
        };
        let store: Arc<dyn Store> = Arc::new(S3Store::connect(config).await?);
        let store = self.meter.around(store);
        let policy = RetryPolicy::within(timeout);
        let store = Arc::new(Retry::new(store, policy, config::system_world().entropy));
        // Outermost: the time that a request waits for its turn is not the store's.
        Ok(Arc::new(Limit::new(store, REQUESTS)))
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
                let bucket = self.bucket(bucket).await?;
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
            StoreBase::S3(bucket) => Ok(under(self.bucket(bucket).await?, &url.path)),
        }
    }
}

/// Endpoints without a scheme are https, as rclone takes them.
fn with_scheme(endpoint: &str) -> Result<String, Failure> {
    let whole = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("https://{endpoint}"),
    };
    let usable = ::url::Url::parse(&whole)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if usable {
        Ok(whole)
    } else {
        // Not repeated: it may hold a password.
        Err(Failure::new(
            "the endpoint is no http or https URL; examples: https://minio.example:9000, \
             http://127.0.0.1:9000",
        ))
    }
}

/// A store under a prefix of another one.
fn under(store: Arc<dyn Store>, prefix: &str) -> Arc<dyn Store> {
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

/// The runtime of all commands.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Returns the number of the first SIGINT, SIGTERM or SIGHUP.
pub(super) async fn ended_by_signal() -> u8 {
    match EndSignals::register() {
        Ok(mut signals) => signals.first().await,
        // Without a handler the default action ends the process.
        Err(_) => std::future::pending().await,
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
