//! Who may do what with a mount: locks on three bytes of its state, which are all that worker and keeper know
//! of each other while both live.
//!
//! Locks of fcntl(2), because the descriptors of all workers are copies of one: only such a lock belongs to a
//! process and not to them. The kernel gives it up with the process, however that ends, and also when the
//! process closes any descriptor of the same file: so nobody closes one before its end. What is written at
//! those bytes has nothing to do with it.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::io;
use std::os::fd::AsFd;

/// What one process at a time has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The worker's place: the memory is this process's to read and to write.
    Place,
    /// Requests are read from the connection. A worker has it from before it attaches until its end; the
    /// keeper for the moments in which it answers with errors.
    Reader,
    /// Programs are served: the worker is through with its start. Nobody else ever takes it.
    Served,
}

impl Part {
    fn lock(self, kind: libc::c_int) -> libc::flock {
        libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: match self {
                Self::Place => 0,
                Self::Reader => 1,
                Self::Served => 2,
            },
            l_len: 1,
            l_pid: 0,
        }
    }

    /// Takes it, unless another process has it; says whether. Never waits.
    ///
    /// # Errors
    /// If the descriptor is of no file that can be locked, or not open for writing.
    pub fn take(self, state: impl AsFd) -> io::Result<bool> {
        match fcntl(state, FcntlArg::F_SETLK(&self.lock(libc::F_WRLCK))) {
            Ok(_) => Ok(true),
            Err(Errno::EACCES | Errno::EAGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives it back; nothing happens if this process does not have it.
    ///
    /// # Errors
    /// As for [`Part::take`].
    pub fn give_back(self, state: impl AsFd) -> io::Result<()> {
        fcntl(state, FcntlArg::F_SETLK(&self.lock(libc::F_UNLCK)))
            .map(drop)
            .map_err(io::Error::from)
    }

    /// The other process that has it: its number as it is seen from here, 0 if it is not.
    ///
    /// # Errors
    /// As for [`Part::take`].
    pub fn holder(self, state: impl AsFd) -> io::Result<Option<i32>> {
        let mut found = self.lock(libc::F_WRLCK);
        fcntl(state, FcntlArg::F_GETLK(&mut found))?;
        let locked = found.l_type != libc::F_UNLCK as libc::c_short;
        Ok(locked.then(|| found.l_pid.max(0)))
    }
}
