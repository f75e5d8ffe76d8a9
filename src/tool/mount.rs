//! `strongroom mount`.

use super::connect::{self, Common, EndSignals};
use super::output::Failure;
use crate::config::{self, ConfigFile, StoreBase, VolumeUrl};
use crate::fs::core::{Durability, FileSystem, FsConfig};
use crate::fs::session::{MountSettings, mount};
use crate::volume::native::OpenSettings;
use crate::volume::native::exclusive::Claim;
use crate::volume::native::gc::Background;
use clap::{Args, ValueEnum};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, setsid};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const MEMORY_LIMIT: u64 = 256 << 20;

/// When a close is answered.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum DurabilityChoice {
    /// When the file is in the store
    Close,
    /// At once; fsync and the end of this server are the barriers
    Fsync,
}

/// Mount a volume on a directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom mount s3://backups/prod /mnt/backups --background --passphrase-file key
  strongroom mount file:///srv/backups /mnt --read-only
  strongroom mount s3://backups/prod /mnt/backups --exclusive   fewer requests for the only writer
  umount /mnt/backups
  kill -USR1 PID                  writes the counts of requests to the log (--log info)")]
pub(super) struct Mount {
    /// The volume
    url: VolumeUrl,
    /// The directory to mount it on
    mountpoint: PathBuf,
    /// Return as soon as it serves; the server goes on in the background
    #[arg(long)]
    background: bool,
    /// Refuse every change
    #[arg(long)]
    read_only: bool,
    /// Other users may use the mount (always so when root mounts)
    #[arg(long)]
    allow_other: bool,
    /// All memory for data, dirty and cached (256MiB)
    #[arg(long, env = "STRONGROOM_MEMORY_LIMIT", value_name = "SIZE", value_parser = config::parse_size)]
    memory_limit: Option<u64>,
    /// When a close is answered (close)
    #[arg(long, env = "STRONGROOM_DURABILITY")]
    durability: Option<DurabilityChoice>,
    /// How long names and attributes are taken for true without asking the store
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = config::parse_duration)]
    attribute_ttl: Duration,
    /// Show everything as owned by this user
    #[arg(long)]
    uid: Option<u32>,
    /// Show everything as owned by this group
    #[arg(long)]
    gid: Option<u32>,
    /// Have the volume for this mount alone: names and attributes are decided here instead of asked for
    #[arg(long, env = "STRONGROOM_EXCLUSIVE", conflicts_with = "read_only")]
    exclusive: bool,
    /// Take the volume from the mount that has it; that one gets ESTALE for what it still writes
    #[arg(long, requires = "exclusive")]
    steal: bool,
    /// Do not collect garbage in the background: `strongroom gc` is run elsewhere
    #[arg(long)]
    no_gc: bool,
}

impl Mount {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode, Failure> {
        if !self.background {
            return self.serve(common, |_| {});
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
                self.serve(common, move |serves| {
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
        let file = common.file()?;
        let memory = self.memory(&file)?;
        let runtime = connect::runtime()?;
        let (fs, mounted, signals) = runtime.block_on(async {
            let settings = OpenSettings {
                read_only: self.read_only,
                cache_bytes: memory / 4,
                host: config::host_name(),
                program: concat!("strongroom mount ", env!("CARGO_PKG_VERSION")).to_owned(),
                collects: false,
            };
            let (volume, inside) = common.open(&self.url, settings).await?;
            if !inside.is_empty() {
                return Err(Failure::new(format!(
                    "{}: {inside} is a path inside the volume; mount the volume itself",
                    self.url
                )));
            }
            if !self.read_only {
                volume.probe().await?;
            }
            if self.exclusive {
                let (process, is_gone) =
                    (config::this_process(), config::is_gone as fn(&str) -> bool);
                volume.take_exclusively(&Claim { process, is_gone, steal: self.steal }).await?;
            } else if !self.read_only {
                volume.check_not_exclusive().await?;
            }
            let config = FsConfig {
                dirty_bytes: memory / 2,
                upload_bytes: memory / 4,
                attribute_ttl: self.attribute_ttl,
                durability: self.durability(&file)?,
                uid: self.uid,
                gid: self.gid,
            };
            let handle = tokio::runtime::Handle::current();
            let fs = FileSystem::start(volume, config, handle.clone()).await?;
            let root = nix::unistd::geteuid().is_root();
            let settings = MountSettings {
                source: self.url.to_string(),
                allow_other: self.allow_other || root || file.allow_other.unwrap_or(false),
                read_only: self.read_only,
                threads: 2,
            };
            // Before anyone can see the mount and send one.
            let signals = EndSignals::register()?;
            let reports = signal(SignalKind::user_defined1())?;
            tokio::spawn(report_on_signal(reports, common.meter.clone()));
            let mounted = mount(fs.clone(), &self.mountpoint, &settings, handle)?;
            Ok::<_, Failure>((fs, mounted, signals))
        })?;
        ready(true);
        let volume = fs.volume().clone();
        runtime.block_on(async {
            let collects = !self.read_only && !self.no_gc;
            let gc = collects.then(|| Background::start(&volume, config::host_name()));
            drop(volume);
            self.until_unmounted(fs, mounted, gc, signals).await
        })
    }

    /// Serves until the mount is taken away, from outside or after a signal; then stores what is left.
    async fn until_unmounted(
        &self,
        fs: Arc<FileSystem>,
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

    fn memory(&self, file: &ConfigFile) -> Result<u64, Failure> {
        const LEAST: u64 = 64 << 20;
        let memory = match (self.memory_limit, &file.memory_limit) {
            (Some(memory), _) => memory,
            (None, Some(text)) => config::parse_size(text)
                .map_err(|error| Failure::new(format!("memory_limit {text:?}: {error}")))?,
            (None, None) => MEMORY_LIMIT,
        };
        if memory < LEAST {
            return Err(Failure::new("the memory limit must be at least 64MiB"));
        }
        Ok(memory)
    }

    fn durability(&self, file: &ConfigFile) -> Result<Durability, Failure> {
        match (self.durability, file.durability.as_deref()) {
            (Some(DurabilityChoice::Close), _) | (None, None | Some("close")) => {
                Ok(Durability::Close)
            }
            (Some(DurabilityChoice::Fsync), _) | (None, Some("fsync")) => Ok(Durability::Fsync),
            (None, Some(other)) => {
                Err(Failure::new(format!("durability {other:?}: choose close or fsync")))
            }
        }
    }
}

/// Before the session ends: a garbage collection under way would begin it anew.
async fn stop(gc: Option<Background>) {
    if let Some(gc) = gc {
        gc.stop().await;
    }
}

/// SIGUSR1: the counts of requests go to the log.
async fn report_on_signal(mut signals: tokio::signal::unix::Signal, meter: connect::MeterSlot) {
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
