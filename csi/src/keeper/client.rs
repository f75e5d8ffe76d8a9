//! The keeper as the node plugin sees it: one short connection for each request, so that a keeper that was
//! replaced meanwhile is simply the one that answers the next request.

use super::protocol::{Answer, FailureKind, Held, Message, MountOptions, Request, VERSION};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strongroom::tool::attach::protocol::{encode, parse};
use strongroom::tool::attach::socket;

/// How long the keeper may take for one request; the longest wait is that for the end of an unmount.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection's other end, by path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keeper {
    path: PathBuf,
}

/// What a worker needs of a staged volume.
#[derive(Debug)]
pub struct Device {
    /// The connection to the kernel.
    pub fuse: OwnedFd,
    /// The memory for data that is not stored yet.
    pub arena: OwnedFd,
    /// The memory for everything else that must outlive a worker.
    pub state: OwnedFd,
}

impl Device {
    /// Copies of the same descriptors.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self {
            fuse: self.fuse.try_clone()?,
            arena: self.arena.try_clone()?,
            state: self.state.try_clone()?,
        })
    }
}

/// Why a request to the keeper failed; every message names volume and path.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// No keeper answers at this socket.
    #[error("keeper at {}: {source}: does its pod run on this node?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It answers something that is not understood.
    #[error("keeper at {}: {why}: is it of another version?", path.display())]
    Misunderstood {
        /// The socket.
        path: PathBuf,
        /// What.
        why: String,
    },
    /// It refused.
    #[error("{message}")]
    Refused {
        /// What the caller can do about it.
        kind: FailureKind,
        /// For people.
        message: String,
    },
}

impl KeeperError {
    /// Why the keeper refused, if it did.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

impl Keeper {
    /// The keeper behind a socket.
    ///
    /// # Errors
    /// `Unreachable` if nobody listens there now.
    pub async fn connect(path: &Path) -> Result<Self, KeeperError> {
        let keeper = Self { path: path.to_owned() };
        keeper.list().await?;
        Ok(keeper)
    }

    /// Mounts a volume on a directory, or finds it mounted there already. Its requests wait for a worker.
    pub async fn stage(
        &self,
        volume: &str,
        path: &Path,
        options: &MountOptions,
    ) -> Result<Device, KeeperError> {
        let (volume, path, options) = (volume.to_owned(), path.to_owned(), options.clone());
        self.device_of(Request::Stage { volume, path, options }).await
    }

    /// The descriptors of a staged volume, for its next worker.
    pub async fn device(&self, volume: &str) -> Result<Device, KeeperError> {
        self.device_of(Request::Device { volume: volume.to_owned() }).await
    }

    /// Binds a staged volume to a directory. Idempotent; `Conflict` if another volume or another mode is
    /// there, `NotMounted` if the staging path does not hold the live mount.
    pub async fn publish(
        &self,
        volume: &str,
        target: &Path,
        read_only: bool,
    ) -> Result<(), KeeperError> {
        let (volume, target) = (volume.to_owned(), target.to_owned());
        self.done(Request::Publish { volume, target, read_only }).await
    }

    /// Takes a binding and its directory away, also a dead or a missing one.
    pub async fn unpublish(&self, target: &Path) -> Result<(), KeeperError> {
        self.done(Request::Unpublish { target: target.to_owned() }).await
    }

    /// Unmounts a volume and waits until the kernel has let go of it. `Busy` while programs use it.
    pub async fn unstage(&self, volume: &str) -> Result<(), KeeperError> {
        self.done(Request::Unstage { volume: volume.to_owned() }).await
    }

    /// All volumes that it holds, sorted by id.
    pub async fn list(&self) -> Result<Vec<Held>, KeeperError> {
        match self.ask(Request::List).await? {
            (Answer::Volumes { volumes }, _) => Ok(volumes),
            _ => Err(self.misunderstood("no list of volumes")),
        }
    }

    /// Keeps bytes for a staged volume until it is unstaged, in the keeper's memory only.
    pub async fn remember(&self, volume: &str, blob: &[u8]) -> Result<(), KeeperError> {
        self.done(Request::Remember { volume: volume.to_owned(), blob: blob.to_vec() }).await
    }

    /// The bytes that were to be kept.
    pub async fn recall(&self, volume: &str) -> Result<Option<Vec<u8>>, KeeperError> {
        match self.ask(Request::Recall { volume: volume.to_owned() }).await? {
            (Answer::Blob { blob }, _) => Ok(blob),
            _ => Err(self.misunderstood("no blob")),
        }
    }

    /// Drops them.
    pub async fn forget(&self, volume: &str) -> Result<(), KeeperError> {
        self.done(Request::Forget { volume: volume.to_owned() }).await
    }

    async fn done(&self, request: Request) -> Result<(), KeeperError> {
        match self.ask(request).await? {
            (Answer::Done, _) => Ok(()),
            _ => Err(self.misunderstood("another answer than expected")),
        }
    }

    async fn device_of(&self, request: Request) -> Result<Device, KeeperError> {
        let (answer, descriptors) = self.ask(request).await?;
        match (answer, <[OwnedFd; 3]>::try_from(descriptors)) {
            (Answer::Device, Ok([fuse, arena, state])) => Ok(Device { fuse, arena, state }),
            _ => Err(self.misunderstood("no three descriptors")),
        }
    }

    fn misunderstood(&self, why: impl Into<String>) -> KeeperError {
        KeeperError::Misunderstood { path: self.path.clone(), why: why.into() }
    }

    async fn ask(&self, request: Request) -> Result<(Answer, Vec<OwnedFd>), KeeperError> {
        let keeper = self.clone();
        let asked = tokio::task::spawn_blocking(move || keeper.ask_and_wait(request)).await;
        asked.unwrap_or_else(|error| Err(self.misunderstood(error.to_string())))
    }

    fn ask_and_wait(&self, request: Request) -> Result<(Answer, Vec<OwnedFd>), KeeperError> {
        let unreachable = |source| KeeperError::Unreachable { path: self.path.clone(), source };
        let message = encode(&Message { version: VERSION, request });
        let exchange = || {
            let stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            socket::send(&stream, &message, &[])?;
            socket::receive(&stream)
        };
        let (answer, descriptors) = exchange()
            .map_err(unreachable)?
            .ok_or_else(|| self.misunderstood("it closed the connection without an answer"))?;
        match parse(&answer).map_err(|why| self.misunderstood(why))? {
            Answer::Failed { kind, message } => Err(KeeperError::Refused { kind, message }),
            answer => Ok((answer, descriptors)),
        }
    }
}
