//! One volume that the keeper holds: what it has of it, and what it knows of it now.

use super::answer;
use super::mounts;
use super::protocol::{Held, MountOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// What was known of a volume when its lock was last to be had. Where it is mounted is asked of the kernel's table,
/// which needs no lock: a caller that has just unpublished it must not be told of that target.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) held: Held,
    device: String,
    fuse: Arc<OwnedFd>,
}

impl Known {
    /// The same with the mounts as they are now.
    pub(super) fn now(self) -> io::Result<Held> {
        let Self { mut held, device, fuse } = self;
        held.mounted = is_mounted(&held.path, &device, &fuse)?;
        held.targets = published(bindings(&held.path, &device, &fuse)?);
        Ok(held)
    }
}

fn is_mounted(path: &Path, device: &str, fuse: &OwnedFd) -> io::Result<bool> {
    let there = mounts::at(path)?;
    let ours = there.is_some_and(|there| there.is_volume() && there.device == device);
    Ok(ours && !is_over(fuse)?)
}

/// Those of the whole volume: kubelet binds directories of it besides (`subPath`), which are no targets.
fn published(bindings: Vec<mounts::Mounted>) -> Vec<(PathBuf, bool)> {
    let whole = bindings.into_iter().filter(|there| there.is_whole);
    whole.map(|there| (there.path, there.read_only)).collect()
}

fn bindings(path: &Path, device: &str, fuse: &OwnedFd) -> io::Result<Vec<mounts::Mounted>> {
    let ours = |there: &mounts::Mounted| there.is_volume() && there.device == device;
    let table: Vec<_> = mounts::table()?.into_iter().filter(ours).collect();
    if is_over(fuse)? {
        return Ok(Vec::new());
    }
    Ok(table.into_iter().filter(|there| there.path != path).collect())
}

/// Asked after the table was read: when the last mount of a connection is gone, the kernel gives its device's number
/// to the next mount of anybody.
fn is_over(fuse: &OwnedFd) -> io::Result<bool> {
    mounts::is_over(fuse.as_fd(), Duration::ZERO)
}

/// One staged volume.
pub(super) struct Volume {
    pub(super) path: PathBuf,
    pub(super) options: MountOptions,
    /// `major:minor` of its mount.
    pub(super) device: String,
    /// Shared and never copied: a process that closes a copy gives up its locks on the file.
    pub(super) fuse: Arc<OwnedFd>,
    pub(super) arena: Arc<OwnedFd>,
    pub(super) state: Arc<OwnedFd>,
    pub(super) blob: Option<Zeroizing<Vec<u8>>>,
    /// Since when nobody serves it.
    pub(super) unserved_since: Option<Instant>,
    /// Its requests are answered with EIO.
    pub(super) answering: bool,
    /// It is being unmounted; whoever does that waits for the kernel without the volume's lock.
    pub(super) ending: bool,
}

impl Volume {
    /// What a worker needs of it.
    pub(super) fn descriptors(&self) -> Vec<Arc<OwnedFd>> {
        vec![self.fuse.clone(), self.arena.clone(), self.state.clone()]
    }

    pub(super) fn told(&mut self, volume: String) -> io::Result<Known> {
        let served = self.look_for_worker();
        let held = Held {
            volume,
            path: self.path.clone(),
            options: self.options.clone(),
            mounted: self.is_mounted()?,
            served,
            unserved_seconds: self.unserved_since.map_or(0, |since| since.elapsed().as_secs()),
            answered_with_errors: self.answering,
            targets: published(self.bindings()?),
            remembered: self.blob.is_some(),
        };
        Ok(Known { held, device: self.device.clone(), fuse: self.fuse.clone() })
    }

    pub(super) fn is_mounted(&self) -> io::Result<bool> {
        is_mounted(&self.path, &self.device, &self.fuse)
    }

    pub(super) fn bindings(&self) -> io::Result<Vec<mounts::Mounted>> {
        bindings(&self.path, &self.device, &self.fuse)
    }

    /// Whether a mount is this volume's; where that cannot be told, it is.
    pub(super) fn owns(&self, there: &mounts::Mounted) -> bool {
        self.device == there.device && !is_over(&self.fuse).unwrap_or(false)
    }

    /// A worker that takes the place and fails again does not end the wait, nor does one who asks for the
    /// descriptors: only one that serves.
    fn look_for_worker(&mut self) -> bool {
        let served = answer::is_served(self.state.as_fd());
        if served {
            (self.unserved_since, self.answering) = (None, false);
        } else {
            self.unserved_since.get_or_insert_with(Instant::now);
        }
        served
    }

    /// Answers requests with EIO if nobody has served them for so long.
    pub(super) fn answer_if_alone(&mut self, volume: &str, patience: Duration) {
        self.look_for_worker();
        let waited = self.unserved_since.map_or(Duration::ZERO, |since| since.elapsed());
        if waited < patience || self.unserved_since.is_none() {
            return;
        }
        if !std::mem::replace(&mut self.answering, true) {
            tracing::error!(
                "volume {volume}: nobody serves {} for {} s: its requests are answered with EIO until \
                 a worker comes",
                self.path.display(),
                waited.as_secs()
            );
        }
        if let Err(error) = answer::answer_with_errors(self.state.as_fd(), self.fuse.as_fd()) {
            // Unmounted from outside: the next stage or unstage finds that out.
            tracing::debug!("volume {volume}: connection: {error}");
        }
    }
}
