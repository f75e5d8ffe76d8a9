//! `strongroom mount --attach SOCKET`: from the settings that come over the socket to the end.
//!
//! The worker ends in one of three ways. The mount is gone: what programs wrote is stored and the session
//! ends. It is told to stop, or whoever started it is gone: what programs wrote is stored, as often as it
//! takes, while it goes on serving; then it ends and leaves the mount to the next worker. Its successor
//! signals that it wants the place: it ends at once, like one that is killed, which is as safe.

use super::control::{Control, End, send};
use super::place::{LET_GO, Place};
use super::progress::{self, Progress};
use super::protocol::{Answer, Derived, FailureKind, Hello, Secrets, Settings, VERSION, parse};
use super::socket;
use crate::config::{self, Handed, VolumeUrl};
use crate::crypto::Passphrase;
use crate::fs::attachable::Attachable;
use crate::fs::core::{FileSystem, FsConfig};
use crate::fs::estate::{Estate, Negotiated};
use crate::fs::objects::{ObjectFs, ObjectsConfig, ObjectsEstate};
use crate::fs::session::{Attached, attach};
use crate::store::{S3Credentials, S3Keys};
use crate::tool::connect::{self, EndSignals};
use crate::tool::mount::{cached, report_on_signal, stop};
use crate::tool::mount_settings::{MountChoices, MountFlags, ObjectsChoice};
use crate::tool::output::Failure;
use crate::tool::settings::{Common, Given};
use crate::volume::native::OpenSettings;
use crate::volume::native::exclusive::Claim;
use crate::volume::native::gc::Background;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

/// How long the starter may take to say what to serve.
const HELLO: Duration = Duration::from_secs(30);
/// Between two attempts to store everything before the end.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it may take to hear that the mount is gone, which ends the session in the store too.
const LAST_WORD: Duration = Duration::from_millis(200);
/// Threads that read requests.
const THREADS: usize = 2;

/// Serves what the socket's other side hands over.
pub(in crate::tool) fn run(path: &Path, common: &Common) -> Result<ExitCode, Failure> {
    let named = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let stream = UnixStream::connect(path).map_err(named)?;
    let peer = getsockopt(&stream.as_fd(), PeerCredentials)?.uid();
    if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
        return Err(Failure::new(format!(
            "{}: user {peer} listens there, who may not tell this one what to serve",
            path.display()
        )));
    }
    stream.set_read_timeout(Some(HELLO)).map_err(named)?;
    let (message, descriptors) = socket::receive(&stream)
        .map_err(named)?
        .ok_or_else(|| Failure::new(format!("{}: closed without settings", path.display())))?;
    let message = Zeroizing::new(message);
    let started = understood(&message, descriptors).and_then(|order| start(order, common, &stream));
    match started {
        Ok(served) => {
            stream.set_read_timeout(None).map_err(named)?;
            match served {
                Started::Volume(served) => served.serve(stream),
                Started::Files(served) => served.serve(stream),
            }
        }
        Err(failure) => {
            let answer = Answer::Failed { kind: failure.kind(), message: failure.to_string() };
            let _ = send(&stream, &answer);
            // The memory is as it was. Nothing is given up here that a destructor would take out of it.
            failure.print();
            std::process::exit(1);
        }
    }
}

/// What to serve, and with what.
struct Order {
    settings: Settings,
    secrets: Secrets,
    fuse: OwnedFd,
    arena: OwnedFd,
    state: File,
}

fn understood(message: &[u8], descriptors: Vec<OwnedFd>) -> Result<Order, Failure> {
    let invalid = |text: String| Failure::new(text).of(FailureKind::Invalid);
    let Hello { version, settings, secrets } = parse(message).map_err(invalid)?;
    if version != VERSION {
        return Err(invalid(format!(
            "protocol version {version}, this program speaks {VERSION}: both must be of one release"
        )));
    }
    let [fuse, arena, state] = <[OwnedFd; 3]>::try_from(descriptors)
        .map_err(|other| invalid(format!("{} descriptors instead of 3", other.len())))?;
    Ok(Order { settings, secrets, fuse, arena, state: state.into() })
}

/// What is served.
enum Started {
    Volume(Served<FileSystem>),
    Files(Served<ObjectFs>),
}

/// A file system that is served.
struct Served<F> {
    runtime: tokio::runtime::Runtime,
    control: Arc<Control<F>>,
    attached: Attached,
    gc: Option<Background>,
    signals: EndSignals,
    let_go: tokio::signal::unix::Signal,
    name: String,
    passphrase: Handed,
}

fn start(order: Order, common: &Common, starter: &UnixStream) -> Result<Started, Failure> {
    let Order { settings, mut secrets, fuse, arena, state } = order;
    let invalid = |text: String| Failure::new(text).of(FailureKind::Invalid);
    let url: VolumeUrl = settings.url.parse()?;
    let keys = match (&secrets.access_key, &secrets.secret_key) {
        (Some(name), Some(secret)) => {
            Some(S3Keys::new(name, secret, secrets.session_token.as_deref()))
        }
        (None, None) => None,
        _ => return Err(invalid("keys: name or secret is missing".to_owned())),
    };
    let known = secrets.derived.decode();
    let text = secrets.passphrase.take();
    let passphrase = text.map(|text| Passphrase::with_derived(text.into_bytes(), &known));
    let passphrase = Handed::new(passphrase);
    let common = common.instead(Given {
        file: settings.config().map_err(invalid)?,
        credentials: keys.clone().map_or(S3Credentials::Anonymous, S3Credentials::Slot),
        passphrase: passphrase.clone(),
    });
    drop(secrets);
    // Ends before the answer that the start came to.
    let meter = common.meter.clone();
    let _progress = Progress::tell(starter, progress::STEP, move || meter.answered())?;
    let mut choices = MountFlags::default().resolve(&common.file()?)?;
    // Before anything is read of it.
    let place = Place::take(&state).map_err(busy)?;
    let start = Start { common, url, settings, keys, passphrase, fuse, place };
    let damaged = |error: std::io::Error| Failure::new(error).of(FailureKind::Damaged);
    match choices.objects.take() {
        None => {
            let estate = Estate::open(state, arena, choices.memory / 2, &config::system_world());
            let estate = estate.map_err(damaged)?;
            let (negotiated, collects) = (estate.negotiated(), choices.collects);
            let open = async |start: &Start| {
                let fs = open(&start.common, &start.url, &start.settings, choices, estate).await?;
                let gc = collects.then(|| Background::start(fs.volume(), config::host_name()));
                Ok((fs, gc))
            };
            start.serve(negotiated, open).map(Started::Volume)
        }
        Some(objects) => {
            let estate = ObjectsEstate::open(state, arena, choices.memory / 2).map_err(damaged)?;
            let negotiated = estate.negotiated();
            let open = async |start: &Start| {
                let fs = open_files(&start.common, &start.url, (choices, objects), estate).await?;
                Ok((fs, None))
            };
            start.serve(negotiated, open).map(Started::Files)
        }
    }
}

fn busy(error: std::io::Error) -> Failure {
    Failure::new(error).of(FailureKind::Busy)
}

/// What a worker starts with, whatever it serves.
struct Start {
    common: Common,
    url: VolumeUrl,
    settings: Settings,
    keys: Option<S3Keys>,
    passphrase: Handed,
    fuse: OwnedFd,
    place: Place,
}

impl Start {
    /// Opens what is to be served, and takes the connection over.
    fn serve<F: Attachable>(
        self,
        negotiated: Negotiated,
        open: impl AsyncFnOnce(&Self) -> Result<(Arc<F>, Option<Background>), Failure>,
    ) -> Result<Served<F>, Failure> {
        let runtime = connect::runtime()?;
        let (fs, attached, gc, signals, let_go) = runtime.block_on(async {
            // Before anyone can see the worker and send one.
            let signals = EndSignals::register()?;
            let let_go = signal(SignalKind::from_raw(LET_GO as i32))?;
            let reports = signal(SignalKind::user_defined1())?;
            let (fs, gc) = open(&self).await?;
            tokio::spawn(report_on_signal(reports, self.common.meter.clone()));
            // Never dropped, wherever this process stops, be it by an error or by a panic: that would give back
            // the memory of dirty bytes, which are the next worker's.
            std::mem::forget(fs.clone());
            self.place.read_requests().map_err(busy)?;
            let handle = tokio::runtime::Handle::current();
            let fuse = self.fuse.try_clone()?;
            let attached = attach(fs.clone(), fuse, negotiated, THREADS, handle)?;
            // Where that cannot be told, it is served all the same: nobody else gets at the connection.
            if let Err(error) = self.place.served() {
                tracing::warn!("volume {}: {error}", self.settings.name);
            }
            tracing::debug!("volume {} is served", self.settings.name);
            Ok::<_, Failure>((fs, attached, gc, signals, let_go))
        })?;
        let Self { common, settings: Settings { name, .. }, keys, passphrase, .. } = self;
        let control = Arc::new(Control {
            fs,
            runtime: runtime.handle().clone(),
            meter: common.meter.clone(),
            keys,
            reachable: AtomicBool::new(true),
        });
        Ok(Served { runtime, control, attached, gc, signals, let_go, name, passphrase })
    }
}

/// Opens a bucket's files, and takes over.
async fn open_files(
    common: &Common,
    url: &VolumeUrl,
    (choices, objects): (MountChoices, ObjectsChoice),
    estate: ObjectsEstate,
) -> Result<Arc<ObjectFs>, Failure> {
    let ObjectsChoice { suite, scratch } = objects;
    let MountChoices { memory, attribute_ttl, ownership, .. } = choices;
    let unusable = |error: std::io::Error| {
        Failure::new(format!("scratch directory {}: {error}", scratch.display()))
    };
    let scratch = scratch.canonicalize().map_err(unusable)?;
    let tree = Arc::new(common.files(url, suite).await?);
    let config = ObjectsConfig { memory, attribute_ttl, ownership, scratch };
    // What nobody has said an owner of is root's, as on the mounts of others: this process is nobody in particular.
    Ok(ObjectFs::take_over(tree, config, (0, 0), config::system_world(), estate).await?)
}

/// Opens the volume, goes on with the former worker's session, and takes over.
async fn open(
    common: &Common,
    url: &VolumeUrl,
    settings: &Settings,
    choices: MountChoices,
    estate: Estate,
) -> Result<Arc<FileSystem>, Failure> {
    let MountChoices {
        objects: _,
        read_only,
        allow_other: _,
        memory,
        cache,
        durability,
        attribute_ttl,
        ownership,
        exclusive,
        collects: _,
    } = choices;
    let open = OpenSettings {
        read_only,
        cache_bytes: memory / 4,
        host: config::host_name(),
        program: concat!("strongroom mount ", env!("CARGO_PKG_VERSION")).to_owned(),
        collects: false,
    };
    let (volume, inside) = common
        .open_over(url, open, |store| match &cache {
            Some(cache) => cached(store, cache, &common.meter),
            None => Ok(store),
        })
        .await?;
    if !inside.is_empty() {
        let text = format!("{url}: {inside} is a path inside the volume; mount the volume itself");
        return Err(Failure::new(text).of(FailureKind::Invalid));
    }
    if !read_only {
        volume.probe().await?;
        let (session, publishes) = (estate.session(), estate.publishes());
        volume.session().carry_on(&volume, session, publishes, estate.keep()).await?;
    }
    if exclusive {
        let (process, is_gone) = (config::this_process(), config::is_gone as fn(&str) -> bool);
        volume.take_exclusively(&Claim { process, is_gone, steal: settings.steal }).await?;
    } else if !read_only {
        volume.check_not_exclusive().await?;
    }
    let config = FsConfig {
        dirty_bytes: memory / 2,
        upload_bytes: memory / 4,
        attribute_ttl,
        durability,
        ownership,
    };
    let handle = tokio::runtime::Handle::current();
    Ok(FileSystem::take_over(volume, config, handle, estate).await?)
}

impl<F: Attachable> Served<F> {
    fn serve(self, stream: UnixStream) -> Result<ExitCode, Failure> {
        let takeovers = self.control.fs.burden().takeovers;
        let derived = Derived::encode(&self.passphrase.derived());
        send(&stream, &Answer::Serving { takeovers, derived })?;
        self.until_the_end(stream)
    }

    fn until_the_end(self, stream: UnixStream) -> Result<ExitCode, Failure> {
        let Self { runtime, control, attached, gc, mut signals, mut let_go, name, passphrase } =
            self;
        // Not needed any more.
        drop(passphrase);
        let (told, end) = tokio::sync::oneshot::channel();
        let questions = {
            let control = control.clone();
            std::thread::Builder::new().name("control".to_owned()).spawn(move || {
                // Nobody waits for it if the mount is gone first.
                let _ = told.send(control.serve(&stream));
                stream
            })?
        };
        // Nothing is written any more that a successor would not find.
        let mut still = None;
        let unmounted = runtime.block_on(async {
            let gone = async {
                while attached.is_served() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::pin!(gone);
            let end = tokio::select! {
                () = &mut gone => return true,
                end = end => end.unwrap_or(End::Stored),
                _ = signals.first() => End::Stored,
                _ = let_go.recv() => End::Now,
            };
            let fs = &control.fs;
            // What a successor would not find is stored first, whoever is waiting.
            let stored = async {
                let mut is_stored = end == End::Now;
                loop {
                    if !is_stored {
                        store_everything(fs, &name).await;
                    }
                    if let Some(still) = fs.hold_still().await {
                        return still;
                    }
                    is_stored = false;
                }
            };
            let may_go = async {
                loop {
                    let wanted = let_go.recv().await;
                    if let Some(still) = fs.hold_still().await {
                        return still;
                    }
                    if wanted.is_none() {
                        // No more signals come.
                        std::future::pending::<()>().await;
                    }
                }
            };
            let is_wanted = tokio::select! {
                () = &mut gone => return true,
                silence = stored => {
                    still = Some(silence);
                    end == End::Now
                }
                silence = may_go => {
                    still = Some(silence);
                    true
                }
            };
            // Perhaps unmounted a moment ago, and the kernel's last word is not here yet.
            !is_wanted && tokio::time::timeout(LAST_WORD, gone).await.is_ok()
        });
        if !unmounted {
            // As if killed: the next worker takes over. Nothing is given back on the way out.
            std::process::exit(0);
        }
        drop(still);
        let fs = control.fs.clone();
        let failed = runtime.block_on(async move {
            stop(gc).await;
            let (result, tasks) = attached.join();
            tasks.wait().await;
            if let Err(error) = result {
                tracing::error!("connection to the kernel: {error}");
            }
            fs.drain().await
        });
        // The other side is told by the end of the socket.
        drop(questions);
        for (file, error) in &failed {
            tracing::error!("volume {name}: {file}: not stored: {error}");
        }
        std::process::exit(i32::from(!failed.is_empty()));
    }
}

/// Returns when there is nothing left to store.
async fn store_everything<F: Attachable>(fs: &Arc<F>, name: &str) {
    let mut told = String::new();
    loop {
        let failed = fs.store_everything().await;
        let left = fs.burden().dirty_bytes;
        match failed.first() {
            None if left == 0 => return,
            None => {}
            Some((file, error)) => {
                let why = format!("{} changes; the first: {file}: {error}", failed.len());
                if why != told {
                    tracing::warn!(
                        "volume {name}: {left} bytes are not stored, of {why}; tried again until they are"
                    );
                }
                told = why;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
