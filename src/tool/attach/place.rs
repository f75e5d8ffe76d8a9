//! The worker's place: a lock on the mount's state that one process at a time has, until it ends.
//!
//! A lock of fcntl(2), because the descriptors of all workers are copies of one: only such a lock belongs to
//! a process and not to them. The kernel gives it up with the process, however that ends, and also when the
//! process closes any descriptor of the same file: so there is one, which stays open.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

/// How long a former worker may take to let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at.
const STEP: Duration = Duration::from_millis(10);

/// Asks a worker to end at once: its successor takes over what is not stored.
pub(super) const LET_GO: Signal = Signal::SIGUSR2;

/// Takes the place, asking who has it to let go.
///
/// # Errors
/// `TimedOut` if the former worker does not.
pub(super) fn take(state: &File) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut asked = None;
    loop {
        match fcntl(state, FcntlArg::F_SETLK(&lock())) {
            Ok(_) => return Ok(()),
            Err(Errno::EACCES | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        let holder = holder(state)?;
        if holder.is_some() && holder != asked {
            if let Some(pid) = holder {
                tracing::info!("a former worker ({pid}) is asked to let go");
                // It may be another user's, or have ended just now: then there is only to wait.
                let _ = kill(pid, LET_GO);
            }
            asked = holder;
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "another worker serves this mount and does not let go",
            ));
        }
        std::thread::sleep(STEP);
    }
}

/// Who has the place, if it is a process that can be seen from here.
fn holder(state: &File) -> io::Result<Option<Pid>> {
    let mut found = lock();
    fcntl(state, FcntlArg::F_GETLK(&mut found))?;
    let locked = found.l_type != libc::F_UNLCK as libc::c_short;
    Ok((locked && found.l_pid > 0).then(|| Pid::from_raw(found.l_pid)))
}

/// The whole file, for writing.
fn lock() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
