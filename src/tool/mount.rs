//! `strongroom mount`.

use super::connect::{self, EndSignals};
use super::mount_settings::{DiskCacheChoice, MountChoices, MountFlags, ObjectsChoice};
use super::output::Failure;
use super::settings::Common;
use crate::config::{self, StoreBase, VolumeUrl};
use crate::fs::core::{FileSystem, FsConfig};
use crate::fs::front::Front;
use crate::fs::objects::{ObjectFs, ObjectsConfig};
use crate::fs::session::{MountSettings, mount};
use crate::store::{DiskCache, Store};
use crate::volume::native::exclusive::Claim;
use crate::volume::native::gc::Background;
use crate::volume::native::{OpenSettings, keys};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, setsid};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Mount a volume on a directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom mount s3://backups/prod /mnt/backups --background --passphrase-file key
  strongroom mount file:///srv/backups /mnt --read-only
  strongroom mount s3://backups/prod /mnt/backups --exclusive   fewer requests for the only writer
  strongroom mount s3://bucket/files /mnt --layout objects --encryption AES-256-CFB   one object per file
  umount /mnt/backups
  kill -USR1 PID                  writes the counts of requests to the log (--log info)")]
pub(super) struct Mount {
    /// The volume
    #[arg(required_unless_present = "attach", value_name = "URL")]
    url: Option<VolumeUrl>,
    /// The directory to mount it on
    #[arg(required_unless_present = "attach", value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    /// Serve the volume, with the settings and on the mount, that a program hands over at this socket
    #[arg(long, value_name = "SOCKET", hide = true, conflicts_with_all = ["url", "mountpoint"])]
    attach: Option<PathBuf>,
    /// Return as soon as it serves; the server goes on in the background
    #[arg(long)]
    background: bool,
    #[command(flatten)]
    flags: MountFlags,
    /// Take the volume from the mount that has it; that one gets ESTALE for what it still writes
    #[arg(long)]
    steal: bool,
}

impl Mount {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode, Failure> {
        if let Some(socket) = &self.attach {
            return super::attach::run(socket, common);
        }
        let (Some(url), Some(mountpoint)) = (&self.url, &self.mountpoint) else {
            return Err(Failure::new("a volume and a directory are needed"));
        };
        let place = Target { flags: self, url, mountpoint };
        if !self.background {
            return place.serve(common, |_| {});
        }
        // Before any thread is started. The parent waits until the child says that it serves, and
        // takes its exit code if it ends instead. A prompt still reaches the terminal.
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: there is one thread, so that the child may do anything that this process may.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                drop(writer);
                wait_for(child, reader)
            }
            ForkResult::Child => {
                drop(reader);
                let mut writer = Some(std::fs::File::from(writer));
                place.serve(common, move |serves| {
                    if serves {
                        detach();
                    }
                    if let Some(mut writer) = writer.take() {
                        let _ = writer.write_all(b"1");
                    }
                })
            }
        }
    }
}

/// What to mount where.
struct Target<'a> {
    flags: &'a Mount,
    url: &'a VolumeUrl,
    mountpoint: &'a Path,
}

impl Target<'_> {
    /// A mount over its own store would wait for itself: the kernel asks us for the directory that we
    /// ask the kernel for.
    fn check_places(&self) -> Result<(), Failure> {
        let StoreBase::File = self.url.base else { return Ok(()) };
        let store = VolumeUrl::directory(&self.url.path).canonicalize();
        let (Ok(store), Ok(mountpoint)) = (store, self.mountpoint.canonicalize()) else {
            return Ok(());
        };
        if store.starts_with(&mountpoint) || mountpoint.starts_with(&store) {
            return Err(Failure::new(format!(
                "{}: mount point and store must not lie in each other: choose a directory outside of {}",
                self.mountpoint.display(),
                store.display()
            )));
        }
        Ok(())
    }

    fn serve(&self, common: &Common, mut ready: impl FnMut(bool)) -> Result<ExitCode, Failure> {
        self.check_places()?;
        let mut choices = self.flags.flags.resolve(&common.file()?)?;
        if let Some(objects) = choices.objects.take() {
            return self.serve_files(common, objects, choices, ready);
        }
        let MountChoices {
            objects: _,
            read_only,
            allow_other,
            memory,
            cache,
            durability,
            attribute_ttl,
            ownership,
            exclusive,
            collects,
        } = choices;
        if self.flags.steal && !exclusive {
            return Err(Failure::new(
                "--steal takes the volume for this mount alone: add --exclusive",
            ));
        }
        let runtime = connect::runtime()?;
        let (fs, mounted, signals) = runtime.block_on(async {
            let settings = OpenSettings {
                read_only,
                cache_bytes: memory / 4,
                host: config::host_name(),
                program: concat!("strongroom mount ", env!("CARGO_PKG_VERSION")).to_owned(),
                collects: false,
            };
            let (volume, inside) = common
                .open_over(self.url, settings, |store| match &cache {
                    Some(cache) => cached(store, cache, &common.meter),
                    None => Ok(store),
                })
                .await?;
            if !inside.is_empty() {
                return Err(Failure::new(format!(
                    "{}: {inside} is a path inside the volume; mount the volume itself",
                    self.url
                )));
            }
            if !read_only {
                volume.probe().await?;
            }
            if exclusive {
                let (process, is_gone) =
                    (config::this_process(), config::is_gone as fn(&str) -> bool);
                volume
                    .take_exclusively(&Claim { process, is_gone, steal: self.flags.steal })
                    .await?;
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
            let fs = FileSystem::start(volume, config, handle.clone()).await?;
            let settings =
                MountSettings { source: self.url.to_string(), allow_other, read_only, threads: 2 };
            // Before anyone can see the mount and send one.
            let signals = EndSignals::register()?;
            let reports = signal(SignalKind::user_defined1())?;
            tokio::spawn(report_on_signal(reports, common.meter.clone()));
            let mounted = mount(fs.clone(), self.mountpoint, &settings, handle)?;
            Ok::<_, Failure>((fs, mounted, signals))
        })?;
        ready(true);
        let volume = fs.volume().clone();
        runtime.block_on(async {
            let gc = collects.then(|| Background::start(&volume, config::host_name()));
            drop(volume);
            self.until_unmounted(fs, mounted, gc, signals).await
        })
    }

    /// The same of a bucket's files as they are.
    fn serve_files(
        &self,
        common: &Common,
        ObjectsChoice { suite, scratch }: ObjectsChoice,
        choices: MountChoices,
        mut ready: impl FnMut(bool),
    ) -> Result<ExitCode, Failure> {
        if self.flags.steal {
            return Err(Failure::new("--layout objects has no --steal: nobody has a bucket alone"));
        }
        let MountChoices { read_only, allow_other, memory, attribute_ttl, ownership, .. } = choices;
        // Absolute: a server in the background has another working directory.
        let unusable = |error: std::io::Error| {
            Failure::new(format!("--scratch-dir {}: {error}", scratch.display()))
        };
        let scratch = scratch.canonicalize().map_err(unusable)?;
        if let Ok(mountpoint) = self.mountpoint.canonicalize()
            && scratch.starts_with(&mountpoint)
        {
            return Err(Failure::new(format!(
                "--scratch-dir {}: it must not lie in the mount itself",
                scratch.display()
            )));
        }
        let runtime = connect::runtime()?;
        let (fs, mounted, signals) = runtime.block_on(async {
            let tree = Arc::new(common.files(self.url, suite).await?);
            let config = ObjectsConfig { memory, attribute_ttl, ownership, scratch };
            let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
            let fs = ObjectFs::start(tree, config, owner, config::system_world()).await?;
            let settings =
                MountSettings { source: self.url.to_string(), allow_other, read_only, threads: 2 };
            let signals = EndSignals::register()?;
            let reports = signal(SignalKind::user_defined1())?;
            tokio::spawn(report_on_signal(reports, common.meter.clone()));
            let handle = tokio::runtime::Handle::current();
            let mounted = mount(fs.clone(), self.mountpoint, &settings, handle)?;
            Ok::<_, Failure>((fs, mounted, signals))
        })?;
        if suite.is_none() && !read_only {
            tracing::warn!("{}: files are stored as they are, not encrypted", self.url);
        }
        ready(true);
        runtime.block_on(self.until_unmounted(fs, mounted, None, signals))
    }

    /// Serves until the mount is taken away, from outside or after a signal; then stores what is left.
    async fn until_unmounted<F: Front>(
        &self,
        fs: Arc<F>,
        mounted: crate::fs::session::Mounted,
        gc: Option<Background>,
        mut signals: EndSignals,
    ) -> Result<ExitCode, Failure> {
        let mounted = Arc::new(mounted);
        let gone = async {
            while mounted.is_served() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = gone => stop(gc).await,
            _ = signals.first() => {
                stop(gc).await;
                // First what programs have written, while they still see their errors; then the mount.
                let _ = fs.drain().await;
                if let Err(error) = mounted.unmount() {
                    tracing::error!("{}: not unmounted: {error}", self.mountpoint.display());
                }
                // The kernel's last requests; programs that still use the mount are not waited for.
                for _ in 0..40 {
                    if !mounted.is_served() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                if mounted.is_served() {
                    tracing::warn!(
                        "{}: programs still use the mount (`fuser -vm DIR` lists them); it is detached, \
                         and what they write from now on fails",
                        self.mountpoint.display()
                    );
                }
            }
        }
        let failed = match Arc::try_unwrap(mounted) {
            Ok(mounted) if !mounted.is_served() => {
                let (result, tasks) = mounted.join();
                tasks.wait().await;
                if let Err(error) = result {
                    tracing::error!("connection to the kernel: {error}");
                }
                fs.drain().await
            }
            // Programs still use what was detached from the tree; what they wrote so far is stored.
            _ => fs.drain().await,
        };
        if failed.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        for (place, error) in &failed {
            tracing::error!("{place}: not stored: {error}");
        }
        Err(Failure::new(format!(
            "{}: {} file(s) could not be stored; the first: {}: {}",
            self.url,
            failed.len(),
            failed[0].0,
            failed[0].1
        )))
    }
}

/// A store whose segments are kept on disk.
pub(super) fn cached(
    store: Arc<dyn Store>,
    cache: &DiskCacheChoice,
    meter: &connect::MeterSlot,
) -> Result<Arc<dyn Store>, Failure> {
    let DiskCacheChoice { directory, limit } = cache;
    let cache = DiskCache::open(store, directory, *limit, keys::is_segment);
    let fail = |error| Failure::new(format!("cache directory {}: {error}", directory.display()));
    let cache = cache.map_err(fail)?;
    meter.beside(&cache);
    Ok(Arc::new(cache))
}

/// Before the session ends: a garbage collection under way would begin it anew.
pub(super) async fn stop(gc: Option<Background>) {
    if let Some(gc) = gc {
        gc.stop().await;
    }
}

/// SIGUSR1: the counts of requests go to the log.
pub(super) async fn report_on_signal(
    mut signals: tokio::signal::unix::Signal,
    meter: connect::MeterSlot,
) {
    while signals.recv().await.is_some() {
        tracing::info!("requests: {}", meter.summary());
    }
}

fn wait_for(child: Pid, reader: OwnedFd) -> Result<ExitCode, Failure> {
    let mut byte = [0];
    let serves = std::fs::File::from(reader).read(&mut byte).is_ok_and(|count| count == 1);
    if serves {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why on standard error, which it shares.
    let _ = kill(child, None::<Signal>);
    match nix::sys::wait::waitpid(child, None)? {
        nix::sys::wait::WaitStatus::Exited(_, code) => {
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        status => Err(Failure::new(format!("the server ended before it served: {status:?}"))),
    }
}

/// A session of its own, no terminal, no directory kept busy.
fn detach() {
    let _ = setsid();
    let _ = std::env::set_current_dir("/");
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
    }
}
