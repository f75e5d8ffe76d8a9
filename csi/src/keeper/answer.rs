//! Requests that nobody answers, answered with EIO: better than tasks that wait for ever, or a mount that
//! is dead for good. It reads nothing of a request but its length, kind and number.
//!
//! The keeper has the right to read requests (see `strongroom::tool::attach::locks`) for the moments in which
//! it does, so that it never answers beside a worker, and keeps none from its start: a worker takes that right
//! last of all, and waits for it in milliseconds.

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use strongroom::tool::attach::locks::Part;

/// The header of a request: length, opcode, unique number, then what is not looked at.
const HEADER: usize = 40;
/// Room for the largest request that a worker lets the kernel send.
const REQUEST: usize = (1 << 20) + (64 << 10);
/// Requests that are answered at a time.
const MOST: usize = 256;
/// Requests that have no answer.
const FORGET: u32 = 2;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// See `strongroom::fs`: the notification that asks for unanswered requests once more.
const RESEND: i32 = 7;

/// What a request needs of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// The first request of a connection: an answer other than a worker's would end it.
    Worker,
    Answer(u64),
}

fn needs(request: &[u8]) -> Needs {
    let Some(header) = request.get(..HEADER) else { return Needs::Nothing };
    let number = |at: usize| {
        u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    match number(4) {
        FORGET | BATCH_FORGET | INTERRUPT => Needs::Nothing,
        INIT => Needs::Worker,
        _ => {
            let mut unique = [0; 8];
            unique.copy_from_slice(&header[8..16]);
            Needs::Answer(u64::from_ne_bytes(unique))
        }
    }
}

fn header(error: i32, unique: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&16_u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&error.to_ne_bytes());
    bytes[8..].copy_from_slice(&unique.to_ne_bytes());
    bytes
}

/// Whether a worker serves the volume: one that only tries to start does not.
pub(super) fn is_served(state: BorrowedFd<'_>) -> bool {
    Part::Served.holder(state).is_ok_and(|holder| holder.is_some())
}

/// Answers with EIO what waits now, unless a worker reads the requests; returns how many that were.
pub(super) fn answer_with_errors(state: BorrowedFd<'_>, fuse: BorrowedFd<'_>) -> io::Result<usize> {
    if !Part::Reader.take(state)? {
        return Ok(0);
    }
    // Also those that a dead worker had read and not answered.
    ask_again(fuse);
    let answered = answer_what_waits(fuse);
    Part::Reader.give_back(state)?;
    answered
}

/// Asks the kernel for the requests that were read and not answered. Older kernels than 6.9 cannot send
/// them again.
fn ask_again(fuse: BorrowedFd<'_>) {
    let _ = nix::unistd::write(fuse, &header(RESEND, 0));
}

fn answer_what_waits(fuse: BorrowedFd<'_>) -> io::Result<usize> {
    let mut buffer = vec![0; REQUEST];
    let mut answered = 0;
    // Bounded: programs that ask again at once must not keep a new worker from the volume.
    for _ in 0..MOST {
        let mut one = [PollFd::new(fuse.as_fd(), PollFlags::POLLIN)];
        poll(&mut one, PollTimeout::ZERO)?;
        if !one[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
            break;
        }
        match nix::unistd::read(fuse, &mut buffer) {
            Ok(length) => match needs(&buffer[..length]) {
                Needs::Answer(unique) => {
                    // ENOENT: its caller was killed meanwhile.
                    let _ = nix::unistd::write(fuse, &header(-libc::EIO, unique));
                    answered += 1;
                }
                Needs::Nothing => {}
                Needs::Worker => {
                    // Back to where the worker to come finds it.
                    ask_again(fuse);
                    break;
                }
            },
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_has_no_answer_gets_none() {
        let request = |opcode: u32, unique: u64| {
            let mut bytes = vec![0; HEADER];
            bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
            bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
            bytes
        };
        assert_eq!(needs(&request(FORGET, 4)), Needs::Nothing);
        assert_eq!(needs(&request(BATCH_FORGET, 4)), Needs::Nothing);
        assert_eq!(needs(&request(INTERRUPT, 4)), Needs::Nothing);
        assert_eq!(needs(&request(INIT, 2)), Needs::Worker);
        assert_eq!(needs(&request(15, 1 << 63 | 8)), Needs::Answer(1 << 63 | 8));
        assert_eq!(needs(&request(15, 8)[..39]), Needs::Nothing);
        assert_eq!(header(-5, 7)[4..8], (-5_i32).to_ne_bytes());
    }
}
