//! The volumes that the keeper holds, and what is done with them. Each volume has a lock, so that a request
//! that waits for the kernel keeps nobody else from another volume.

use super::held::{Known, Volume};
use super::mounts;
use super::paths::{Allowed, Spot, Unusable};
use super::protocol::check_volume;
use super::protocol::{Answer, FailureKind, Held, LARGEST_BLOB, MountOptions, Request};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long an unmount may take to arrive in the kernel.
const UNMOUNTING: Duration = Duration::from_secs(20);

/// Why a request was not carried out.
pub(super) struct Refusal(pub(super) FailureKind, pub(super) String);

pub(super) type Result<T> = std::result::Result<T, Refusal>;

/// A volume by id.
type Slot = Arc<Place>;

/// What is known of a volume by id.
#[derive(Default)]
struct Place {
    /// `None` before it is staged and after it is gone.
    volume: Mutex<Option<Volume>>,
    /// What the last list said of it: the answer while a request that waits for the kernel has the lock.
    listed: Mutex<Option<Known>>,
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Option<Volume>> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listed(&self) -> MutexGuard<'_, Option<Known>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All volumes.
pub(super) struct Volumes {
    slots: Mutex<BTreeMap<String, Slot>>,
    allowed: Allowed,
    patience: Duration,
}

/// An answer and the descriptors that go with it.
pub(super) type Done = (Answer, Vec<Arc<OwnedFd>>);

impl Volumes {
    pub(super) fn new(below: Vec<PathBuf>, patience: Duration) -> Self {
        Self { slots: Mutex::default(), allowed: Allowed(below), patience }
    }

    pub(super) fn carry_out(&self, request: Request) -> Result<Done> {
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

    fn stage(
        &self,
        volume: &str,
        path: &Path,
        options: &MountOptions,
    ) -> Result<Vec<Arc<OwnedFd>>> {
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
            if held.ending {
                return Err(ending(volume));
            }
            if held.is_mounted().map_err(refused)? {
                return Ok(held.descriptors());
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
                let same =
                    |held: &Option<Volume>| held.as_ref().is_some_and(|held| held.owns(&former));
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
        let memory =
            |name| memfd_create(name, MFdFlags::MFD_CLOEXEC).map(Arc::new).map_err(io::Error::from);
        let arena = memory(c"strongroom-arena").map_err(refused)?;
        let state = memory(c"strongroom-state").map_err(refused)?;
        let (fuse, device) = mounts::stage(volume, path, options).map_err(refused)?;
        let held = Volume {
            path: path.to_owned(),
            options: options.clone(),
            device,
            fuse: Arc::new(fuse),
            arena,
            state,
            blob: None,
            unserved_since: None,
            answering: false,
            ending: false,
        };
        let held = slot.insert(held);
        *place.listed() = held.told(volume.to_owned()).ok();
        Ok(held.descriptors())
    }

    fn device(&self, volume: &str) -> Result<Vec<Arc<OwnedFd>>> {
        self.with(volume, |held| Ok(held.descriptors()))
    }

    fn publish(&self, volume: &str, target: &Path, read_only: bool) -> Result<()> {
        self.check_place(target)?;
        self.with(volume, |held| {
            if held.ending {
                return Err(ending(volume));
            }
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
            // Known without the volume's lock, which a request may have that waits for the kernel.
            let staged =
                |slot: &Slot| slot.listed().as_ref().is_some_and(|known| known.held.path == target);
            if !there.is_volume() || self.held().iter().any(|(_, slot)| staged(slot)) {
                return Err(invalid(format!("{}: is no published volume", target.display())));
            }
            mounts::unmount(target).map_err(failed)?;
        }
        Spot::find(target)
            .and_then(|spot| spot.map_or(Ok(()), |spot| spot.remove_directory()))
            .map_err(|error| {
                Refusal(FailureKind::System, format!("remove {}: {error}", target.display()))
            })
    }

    /// The kernel may ask the worker before it lets go, and that worker may have to be started first: nothing
    /// that a start needs is kept from others meanwhile.
    fn unstage(&self, volume: &str) -> Result<()> {
        let place = self.slot(volume);
        let (path, fuse, mounted) = {
            let mut slot = place.lock();
            let Some(held) = slot.as_mut() else { return Ok(()) };
            if held.ending {
                return Err(ending(volume));
            }
            let failed = |error| unmounting(volume, &held.path, &error);
            if let Some(mounts::Mounted { path: first, .. }) =
                held.bindings().map_err(failed)?.first()
            {
                return Err(Refusal(
                    FailureKind::Busy,
                    format!(
                        "volume {volume}: is published at {}: unpublish it first",
                        first.display()
                    ),
                ));
            }
            let mounted = held.is_mounted().map_err(failed)?;
            held.ending = true;
            (held.path.clone(), held.fuse.clone(), mounted)
        };
        let unmounted = match mounted {
            true => mounts::unmount(&path),
            false => Ok(()),
        };
        let over = unmounted.and_then(|()| mounts::is_over(fuse.as_fd(), UNMOUNTING));
        let mut slot = place.lock();
        if !matches!(over, Ok(true)) {
            slot.iter_mut().for_each(|held| held.ending = false);
        }
        if !over.map_err(|error| unmounting(volume, &path, &error))? {
            let path = path.display();
            let why =
                format!("volume {volume}: {path} is unmounted here, but used elsewhere still");
            return Err(Refusal(FailureKind::Busy, why));
        }
        *slot = None;
        *place.listed() = None;
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
                let known = slot.listed().clone();
                volumes.extend(known.map(Known::now).transpose().map_err(failed)?);
                continue;
            };
            let told = match held.as_mut() {
                Some(held) => Some(held.told(volume).map_err(failed)?),
                None => None,
            };
            slot.listed().clone_from(&told);
            volumes.extend(told.map(|known| known.held));
        }
        Ok(volumes)
    }

    fn remember(&self, volume: &str, blob: Option<Vec<u8>>) -> Result<()> {
        let blob = blob.map(Zeroizing::new);
        if blob.as_ref().is_some_and(|blob| blob.len() > LARGEST_BLOB) {
            return Err(invalid(format!("volume {volume}: more than 64 KiB to remember")));
        }
        let place = self.slot_of(volume)?;
        let mut slot = place.lock();
        let held = slot.as_mut().ok_or_else(|| unknown(volume))?;
        held.blob = blob;
        // Whoever asks while the volume is busy must not take it for one that never had a worker.
        if let Some(known) = place.listed().as_mut() {
            known.held.remembered = held.blob.is_some();
        }
        Ok(())
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
        self.allowed.check(path).map_err(|unusable| match unusable {
            Unusable::Invalid(why) => invalid(why),
            Unusable::Denied(why) => Refusal(FailureKind::Denied, why),
        })
    }

    fn slot(&self, volume: &str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(volume.to_owned()).or_default().clone()
    }

    fn held(&self) -> Vec<(String, Slot)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|(volume, slot)| (volume.clone(), slot.clone())).collect()
    }

    fn slot_of(&self, volume: &str) -> Result<Slot> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(volume).cloned().ok_or_else(|| unknown(volume))
    }

    fn with<T>(&self, volume: &str, work: impl FnOnce(&mut Volume) -> Result<T>) -> Result<T> {
        let slot = self.slot_of(volume)?;
        let mut slot = slot.lock();
        work(slot.as_mut().ok_or_else(|| unknown(volume))?)
    }
}

fn invalid(message: String) -> Refusal {
    Refusal(FailureKind::Invalid, message)
}

fn unknown(volume: &str) -> Refusal {
    let text = format!("volume {}: is not staged here", volume.escape_debug());
    Refusal(FailureKind::NotFound, text)
}

fn ending(volume: &str) -> Refusal {
    Refusal(FailureKind::Busy, format!("volume {volume}: it is being unmounted: try again"))
}

fn unmounting(volume: &str, path: &Path, error: &io::Error) -> Refusal {
    let kind = match error.raw_os_error() {
        Some(nix::libc::EBUSY) => FailureKind::Busy,
        _ => FailureKind::System,
    };
    Refusal(kind, format!("volume {volume}: unmount {}: {error}", path.display()))
}
