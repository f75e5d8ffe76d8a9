//! Where a worker just started meets this process: a socket in a directory that nobody else can enter.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::process::Child;

/// How long a new process may take to come for its settings.
pub(super) const CONNECTING: Duration = Duration::from_secs(10);

/// Waits for the one connection of a process just started.
pub(super) async fn accept(listener: &UnixListener, child: &mut Child) -> io::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let pid = child.id();
    let deadline = Instant::now() + CONNECTING;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let peer = getsockopt(&stream.as_fd(), PeerCredentials)?;
                // The directory lets nobody else in; root could all the same.
                if u32::try_from(peer.pid()).ok() == pid {
                    return Ok(stream);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("it ended at once: {status}")));
        }
        if Instant::now() > deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A directory that only this user can enter, with room for a socket; removed when it is dropped.
pub(super) struct Place {
    directory: PathBuf,
    pub(super) socket: PathBuf,
}

impl Place {
    pub(super) fn make() -> io::Result<Self> {
        let places = "X".repeat(6);
        let pattern = std::env::temp_dir().join(format!("strongroom-worker-{places}"));
        // Socket paths are short; the directory of temporary files may not be.
        let directory = nix::unistd::mkdtemp(&pattern)?;
        let socket = directory.join("s");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory, socket })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
