//! The volumes that the keeper holds, and what is done with them. Each volume has a lock, so that a request
//! that waits for the kernel keeps nobody else from another volume.

use super::answer;
use super::mounts;
use super::protocol::{Answer, FailureKind, Held, LARGEST_BLOB, MountOptions, Request};
use super::protocol::{check_path, check_volume};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long an unmount may take to arrive in the kernel.
const UNMOUNTING: Duration = Duration::from_secs(20);

/// Why a request was not carried out.
pub(super) struct Refusal(pub(super) FailureKind, pub(super) String);

type Result<T> = std::result::Result<T, Refusal>;

/// One staged volume.
struct Volume {
    path: PathBuf,
    options: MountOptions,
    /// `major:minor` of its mount.
    device: String,
    fuse: OwnedFd,
    arena: OwnedFd,
    state: OwnedFd,
    blob: Option<Zeroizing<Vec<u8>>>,
    /// Since when nobody serves it.
    unserved_since: Option<Instant>,
    /// The keeper has taken the worker's place.
    answering: bool,
}

/// A volume by id.
type Slot = Arc<Place>;

/// What is known of a volume by id.
#[derive(Default)]
struct Place {
    /// `None` before it is staged and after it is gone.
    volume: Mutex<Option<Volume>>,
    /// What the last list said of it: the answer while a request that waits for the kernel has the lock.
    listed: Mutex<Option<Held>>,
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Option<Volume>> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listed(&self) -> MutexGuard<'_, Option<Held>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All volumes.
pub(super) struct Volumes {
    slots: Mutex<BTreeMap<String, Slot>>,
    /// Paths must be below one of these, if there are any.
    below: Vec<PathBuf>,
    patience: Duration,
}

impl Volumes {
    pub(super) fn new(below: Vec<PathBuf>, patience: Duration) -> Self {
        Self { slots: Mutex::default(), below, patience }
    }

    /// Carries a request out: the answer and the descriptors that go with it.
    pub(super) fn carry_out(&self, request: Request) -> Result<(Answer, Vec<OwnedFd>)> {
        let done = |()| (Answer::Done, Vec::new());
        match request {
            Request::Stage { volume, path, options } => {
                let descriptors = self.stage(&volume, &path, &options)?;
                Ok((Answer::Device, descriptors))
            }
            Request::Device { volume } => Ok((Answer::Device, self.device(&volume)?)),
            Request::Publish { volume, target, read_only } => {
                self.publish(&volume, &target, read_only).map(done)
            }
            Request::Unpublish { target } => self.unpublish(&target).map(done),
            Request::Unstage { volume } => self.unstage(&volume).map(done),
            Request::List => Ok((Answer::Volumes { volumes: self.list()? }, Vec::new())),
            Request::Remember { volume, blob } => self.remember(&volume, Some(blob)).map(done),
            Request::Recall { volume } => {
                let blob =
                    self.with(&volume, |held| Ok(held.blob.as_ref().map(|blob| blob.to_vec())))?;
                Ok((Answer::Blob { blob }, Vec::new()))
            }
            Request::Forget { volume } => self.remember(&volume, None).map(done),
        }
    }

    fn stage(&self, volume: &str, path: &Path, options: &MountOptions) -> Result<Vec<OwnedFd>> {
        check_volume(volume).map_err(invalid)?;
        self.check_place(path)?;
        if options
            .selinux_context
            .as_ref()
            .is_some_and(|context| context.contains('"') || context.chars().any(char::is_control))
        {
            return Err(invalid(format!("volume {volume}: selinux context: not one")));
        }
        let refused = |error: io::Error| {
            Refusal(
                FailureKind::System,
                format!("volume {volume}: mount on {}: {error}", path.display()),
            )
        };
        let place = self.slot(volume);
        let mut slot = place.lock();
        if let Some(held) = slot.as_mut() {
            if held.path != path || held.options != *options {
                return Err(Refusal(
                    FailureKind::Conflict,
                    format!(
                        "volume {volume}: is staged at {} already, with {}: unstage it first",
                        held.path.display(),
                        if held.path == path { "other options" } else { "this path" }
                    ),
                ));
            }
            if held.is_mounted().map_err(refused)? {
                return held.descriptors(volume);
            }
            // Somebody else has unmounted it: the connection is of no use any more.
            let over =
                mounts::is_over(held.fuse.as_fd(), Duration::from_secs(1)).map_err(refused)?;
            if !over {
                return Err(Refusal(
                    FailureKind::Busy,
                    format!(
                        "volume {volume}: its mount at {} was taken away, but programs use it still",
                        path.display()
                    ),
                ));
            }
            *slot = None;
        }
        // A mount that a former keeper left: its connection is dead, or served by a worker that nobody
        // reaches. It must not lie beneath the new one.
        while let Some(former) =
            mounts::at(path).map_err(refused)?.filter(mounts::Mounted::is_volume)
        {
            // One that is being worked on is not a former keeper's either.
            let of_another = self.held().iter().find_map(|(other, slot)| {
                let same = |held: &Option<Volume>| {
                    held.as_ref().is_some_and(|held| held.device == former.device)
                };
                let held = slot.volume.try_lock();
                (other != volume && held.map_or(true, |held| same(&held))).then(|| other.clone())
            });
            if let Some(other) = of_another {
                let why = format!("volume {volume}: {}: is volume {other}'s", path.display());
                return Err(Refusal(FailureKind::Conflict, why));
            }
            tracing::warn!("{}: a mount of a former keeper is removed", path.display());
            if mounts::unmount(path).is_err() {
                mounts::detach(path).map_err(refused)?;
            }
            drop(former);
        }
        make_directory(path).map_err(refused)?;
        let memory = |name| memfd_create(name, MFdFlags::MFD_CLOEXEC).map_err(io::Error::from);
        let arena = memory(c"strongroom-arena").map_err(refused)?;
        let state = memory(c"strongroom-state").map_err(refused)?;
        let (fuse, device) = mounts::stage(volume, path, options).map_err(refused)?;
        let held = Volume {
            path: path.to_owned(),
            options: options.clone(),
            device,
            fuse,
            arena,
            state,
            blob: None,
            unserved_since: None,
            answering: false,
        };
        let held = slot.insert(held);
        *place.listed() = held.told(volume.to_owned()).ok();
        held.descriptors(volume)
    }

    fn device(&self, volume: &str) -> Result<Vec<OwnedFd>> {
        self.with(volume, |held| held.descriptors(volume))
    }

    fn publish(&self, volume: &str, target: &Path, read_only: bool) -> Result<()> {
        self.check_place(target)?;
        self.with(volume, |held| {
            let failed = |error: io::Error| {
                Refusal(
                    FailureKind::System,
                    format!(
                        "volume {volume}: bind {} to {}: {error}",
                        held.path.display(),
                        target.display()
                    ),
                )
            };
            if !held.is_mounted().map_err(failed)? {
                return Err(Refusal(
                    FailureKind::NotMounted,
                    format!(
                        "volume {volume}: {} does not hold its mount: stage it again",
                        held.path.display()
                    ),
                ));
            }
            if let Some(there) =
                mounts::at(target).map_err(failed)?.filter(mounts::Mounted::is_volume)
            {
                if there.device == held.device
                    && there.read_only == (read_only || held.options.read_only)
                {
                    return Ok(());
                }
                let what = if there.device == held.device {
                    "in another mode"
                } else {
                    "of another volume"
                };
                return Err(Refusal(
                    FailureKind::Conflict,
                    format!(
                        "volume {volume}: {}: holds a mount {what}: unpublish it first",
                        target.display()
                    ),
                ));
            }
            make_directory(target).map_err(failed)?;
            mounts::bind(&held.path, target, read_only).map_err(failed)
        })
    }

    /// Bindings are known by the kernel's table, so that those of a former keeper are found too.
    fn unpublish(&self, target: &Path) -> Result<()> {
        self.check_place(target)?;
        let failed = |error: io::Error| {
            let kind = match error.raw_os_error() {
                Some(nix::libc::EBUSY) => FailureKind::Busy,
                _ => FailureKind::System,
            };
            Refusal(kind, format!("unmount {}: {error}", target.display()))
        };
        while let Some(there) = mounts::at(target).map_err(failed)? {
            let path_of = |held: &Volume| held.path == target;
            if !there.is_volume()
                || self.held().iter().any(|(_, slot)| {
                    slot.volume.try_lock().is_ok_and(|held| held.as_ref().is_some_and(path_of))
                })
            {
                return Err(invalid(format!("{}: is no published volume", target.display())));
            }
            mounts::unmount(target).map_err(failed)?;
        }
        match std::fs::remove_dir(target) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                Err(Refusal(FailureKind::System, format!("remove {}: {error}", target.display())))
            }
        }
    }

    fn unstage(&self, volume: &str) -> Result<()> {
        let slot = self.slot(volume);
        let mut slot = slot.lock();
        let Some(held) = slot.as_mut() else { return Ok(()) };
        let path = held.path.display().to_string();
        let failed = |error: io::Error| {
            let kind = match error.raw_os_error() {
                Some(nix::libc::EBUSY) => FailureKind::Busy,
                _ => FailureKind::System,
            };
            Refusal(kind, format!("volume {volume}: unmount {path}: {error}"))
        };
        let bound = held.bindings().map_err(failed)?;
        if let Some((first, _)) = bound.first() {
            return Err(Refusal(
                FailureKind::Busy,
                format!("volume {volume}: is published at {}: unpublish it first", first.display()),
            ));
        }
        // Requests of the unmount itself, should nobody serve: the kernel waits for their answers.
        held.unserved_since.get_or_insert_with(Instant::now);
        if held.is_mounted().map_err(failed)? {
            mounts::unmount(&held.path).map_err(failed)?;
        }
        if !mounts::is_over(held.fuse.as_fd(), UNMOUNTING).map_err(failed)? {
            return Err(Refusal(
                FailureKind::Busy,
                format!("volume {volume}: {path} is unmounted here, but used elsewhere still"),
            ));
        }
        *slot = None;
        drop(slot);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Not while somebody stages it again.
        if slots
            .get(volume)
            .is_some_and(|slot| slot.volume.try_lock().is_ok_and(|slot| slot.is_none()))
        {
            slots.remove(volume);
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<Held>> {
        let failed = |error: io::Error| {
            Refusal(FailureKind::System, format!("list of volumes: table of mounts: {error}"))
        };
        let mut volumes = Vec::new();
        for (volume, slot) in self.held() {
            // A request that waits for the kernel keeps nobody from the other volumes.
            let Ok(mut held) = slot.volume.try_lock() else {
                volumes.extend(slot.listed().clone());
                continue;
            };
            let told = match held.as_mut() {
                Some(held) => Some(held.told(volume).map_err(failed)?),
                None => None,
            };
            slot.listed().clone_from(&told);
            volumes.extend(told);
        }
        Ok(volumes)
    }

    fn remember(&self, volume: &str, blob: Option<Vec<u8>>) -> Result<()> {
        let blob = blob.map(Zeroizing::new);
        if blob.as_ref().is_some_and(|blob| blob.len() > LARGEST_BLOB) {
            return Err(invalid(format!("volume {volume}: more than 64 KiB to remember")));
        }
        self.with(volume, |held| {
            held.blob = blob;
            Ok(())
        })
    }

    /// Answers the requests of volumes that nobody serves for too long. To be called every second or so.
    pub(super) fn watch(&self) {
        for (volume, slot) in self.held() {
            // One that a request is busy with is not left alone.
            let Ok(mut slot) = slot.volume.try_lock() else { continue };
            if let Some(held) = slot.as_mut() {
                held.answer_if_alone(&volume, self.patience);
            }
        }
    }

    fn check_place(&self, path: &Path) -> Result<()> {
        check_path(path).map_err(invalid)?;
        let allowed =
            self.below.is_empty() || self.below.iter().any(|below| path.starts_with(below));
        // A link on the way could lead out of there. The last part may be a mount, which is not asked.
        let direct = path.ancestors().skip(1).find_map(|above| {
            match std::fs::canonicalize(above) {
                Ok(real) => Some(real == above),
                // It will be made, unless a link that leads nowhere has its name.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    std::fs::symlink_metadata(above).is_ok().then_some(false)
                }
                Err(_) => Some(false),
            }
        });
        let direct = direct.unwrap_or(false);
        if allowed && direct {
            Ok(())
        } else {
            let why = if allowed {
                "has a symbolic link in it"
            } else {
                "is not below an allowed directory"
            };
            Err(Refusal(FailureKind::Denied, format!("{}: {why}", path.display())))
        }
    }

    fn slot(&self, volume: &str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(volume.to_owned()).or_default().clone()
    }

    fn held(&self) -> Vec<(String, Slot)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|(volume, slot)| (volume.clone(), slot.clone())).collect()
    }

    fn with<T>(&self, volume: &str, work: impl FnOnce(&mut Volume) -> Result<T>) -> Result<T> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get(volume).cloned();
        drop(slots);
        let unknown = || {
            let text = format!("volume {}: is not staged here", volume.escape_debug());
            Refusal(FailureKind::NotFound, text)
        };
        let slot = slot.ok_or_else(unknown)?;
        let mut slot = slot.lock();
        work(slot.as_mut().ok_or_else(unknown)?)
    }
}

impl Volume {
    /// Copies for a worker, for which the keeper makes room.
    fn descriptors(&mut self, volume: &str) -> Result<Vec<OwnedFd>> {
        if std::mem::take(&mut self.answering) {
            answer::give_place_back(self.state.as_fd());
        }
        // Whoever asks wants to serve it: that begins a new wait.
        self.unserved_since = None;
        let copies: io::Result<Vec<OwnedFd>> =
            [&self.fuse, &self.arena, &self.state].into_iter().map(OwnedFd::try_clone).collect();
        copies.map_err(|error| {
            Refusal(
                FailureKind::System,
                format!("volume {volume}: copy of its descriptors: {error}"),
            )
        })
    }

    fn told(&mut self, volume: String) -> io::Result<Held> {
        let served = self.look_for_worker();
        Ok(Held {
            volume,
            path: self.path.clone(),
            options: self.options.clone(),
            mounted: self.is_mounted()?,
            served,
            unserved_seconds: self.unserved_since.map_or(0, |since| since.elapsed().as_secs()),
            answered_with_errors: self.answering,
            targets: self.bindings()?,
            remembered: self.blob.is_some(),
        })
    }

    fn is_mounted(&self) -> io::Result<bool> {
        Ok(mounts::at(&self.path)?
            .is_some_and(|there| there.is_volume() && there.device == self.device))
    }

    fn bindings(&self) -> io::Result<Vec<(PathBuf, bool)>> {
        let ours = |there: &mounts::Mounted| there.is_volume() && there.device == self.device;
        let table = mounts::table()?.into_iter().filter(ours);
        let others = table.filter(|there| there.path != self.path);
        Ok(others.map(|there| (there.path, there.read_only)).collect())
    }

    fn look_for_worker(&mut self) -> bool {
        let served = !self.answering && answer::is_served(self.state.as_fd());
        if served {
            self.unserved_since = None;
        } else {
            self.unserved_since.get_or_insert_with(Instant::now);
        }
        served
    }

    fn answer_if_alone(&mut self, volume: &str, patience: Duration) {
        self.look_for_worker();
        let waited = self.unserved_since.map_or(Duration::ZERO, |since| since.elapsed());
        if !self.answering && waited >= patience && answer::take_place(self.state.as_fd()) {
            tracing::error!(
                "volume {volume}: nobody serves {} for {} s: its requests are answered with EIO until \
                 a worker comes",
                self.path.display(),
                waited.as_secs()
            );
            self.answering = true;
            answer::ask_again(self.fuse.as_fd());
        }
        if self.answering
            && let Err(error) = answer::answer_with_errors(self.fuse.as_fd())
        {
            // Unmounted from outside: the next stage or unstage finds that out.
            tracing::debug!("volume {volume}: connection: {error}");
        }
    }
}

fn invalid(message: String) -> Refusal {
    Refusal(FailureKind::Invalid, message)
}

/// Nothing below a missing mount is for anybody but root.
fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path)?;
    if std::fs::symlink_metadata(path)?.is_dir() {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(nix::libc::ENOTDIR))
}
