//! The connection to the kernel of a mount that outlives its server: the first request and its answer, kept
//! so that the next server can be given them again.
//!
//! The library that reads requests begins with FUSE_INIT, always, and the kernel sends it once in the life
//! of a connection. So the library never gets the connection itself at first, but one end of a pair of
//! sockets, into whose other end the request is written: the kernel's own bytes, read from the connection by
//! the first server and from the ledger by all later ones. Its answer comes out of the pair and goes to the
//! kernel the first time; later it is compared with what the kernel was told then. After that the library's
//! descriptor is replaced by the connection (dup3), of which it notices nothing. Requests that a killed server
//! had read and not answered are asked for with FUSE_NOTIFY_RESEND (Linux 6.9): they come again with the
//! highest bit of their number set. An older kernel refuses that, and those requests stay without an answer.
//!
//! Crash story: the request is written down before it is answered, and that it was answered afterwards. A
//! server that finds the first without the second asks for unanswered requests and looks which one comes.

use super::ledger::Ledger;
use super::remembered::{INIT as INIT_KEY, InitForm};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use prost::Message;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// The length of a request's header, and where its parts are (fuse.h, `fuse_in_header`).
const REQUEST_HEADER: usize = 40;
const OPCODE: std::ops::Range<usize> = 4..8;
const UNIQUE: std::ops::Range<usize> = 8..16;
/// The length of an answer's header (`fuse_out_header`): length, error, unique.
const ANSWER_HEADER: usize = 16;
const INIT: u32 = 26;
/// `enum fuse_notify_code`.
const NOTIFY_RESEND: i32 = 7;
/// Longer than any first request or its answer.
const LONGEST: usize = 4096;
/// What the kernel wants to be read into at least is 8 KiB; a server reads into as much as its largest write.
const READ: usize = (1 << 20) + (64 << 10);
/// How long the kernel may take to send its first request after a mount.
const FIRST: u16 = 10_000;
/// How long an unanswered first request may take to come again.
const AGAIN: u16 = 1_000;

/// A connection that somebody else has made.
pub(super) struct Connection {
    fuse: OwnedFd,
    init: InitForm,
    resumed: bool,
    /// Our end of the pair.
    ours: OwnedFd,
}

impl Connection {
    /// Makes the first request ready for the library; returns the descriptor to give it.
    pub(super) fn prepare(fuse: OwnedFd, known: Option<InitForm>) -> io::Result<(Self, OwnedFd)> {
        let resumed = known.is_some();
        let init = match known {
            Some(init) => init,
            None => {
                let mut first = read_request(fuse.as_fd(), AGAIN)?;
                if first.is_none() {
                    // A former server may have read it and not lived to write it down.
                    ask_again(fuse.as_fd());
                    first = read_request(fuse.as_fd(), FIRST)?;
                }
                let request = first.ok_or_else(|| {
                    io::Error::other(
                        "the kernel sends no first request: is this a mount's connection?",
                    )
                })?;
                InitForm { request, ..InitForm::default() }
            }
        };
        if opcode(&init.request) != Some(INIT) || init.request.len() > LONGEST {
            return Err(io::Error::other(
                "the connection's first request is not the one that begins it",
            ));
        }
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        nix::unistd::write(&ours, &init.request)?;
        Ok((Self { fuse, init, resumed, ours }, theirs))
    }

    /// The library has answered: tells the kernel, or compares with what it was told, and puts the
    /// connection in the place of the descriptor that the library was given.
    pub(super) fn establish(mut self, library: RawFd, ledger: &Ledger) -> io::Result<OwnedFd> {
        let mut answer = [0; LONGEST];
        let length = nix::unistd::read(&self.ours, &mut answer)?;
        let answer = &answer[..length];
        if !self.resumed {
            self.init.reply = answer.to_vec();
            self.write_down(ledger);
            nix::unistd::write(&self.fuse, answer)?;
        } else if answer != self.init.reply {
            return Err(io::Error::other(
                "this version of the program would agree on something else with the kernel than the one \
                 that began this mount: unmount and mount again to use it",
            ));
        } else if !self.init.answered {
            self.answer_again()?;
        }
        if !self.init.answered {
            self.init.answered = true;
            self.write_down(ledger);
        }
        // SAFETY: `library` is the descriptor that the session, which the caller holds, owns and goes on
        // owning: it is replaced in one step and never closed here. No other thread uses it yet.
        unsafe { nix::unistd::dup3_raw(&self.fuse, library, OFlag::O_CLOEXEC) }
            .map(std::mem::forget)?;
        if self.resumed {
            ask_again(self.fuse.as_fd());
        }
        Ok(self.fuse)
    }

    fn write_down(&self, ledger: &Ledger) {
        ledger.put(INIT_KEY, &self.init.encode_to_vec());
    }

    /// The former server may have been killed before the kernel had its answer.
    fn answer_again(&self) -> io::Result<()> {
        ask_again(self.fuse.as_fd());
        // Nothing: the kernel had it, and has nothing else to ask now.
        let Some(request) = read_request(self.fuse.as_fd(), AGAIN)? else { return Ok(()) };
        if opcode(&request) != Some(INIT) || request.len() < REQUEST_HEADER {
            // The kernel had it. What was read here comes again when it is asked for the next time.
            return Ok(());
        }
        let mut answer = self.init.reply.clone();
        if answer.len() >= ANSWER_HEADER {
            answer[UNIQUE].copy_from_slice(&request[UNIQUE]);
        }
        nix::unistd::write(&self.fuse, &answer)?;
        Ok(())
    }
}

/// Reads one request, if one comes within so many milliseconds.
fn read_request(fuse: BorrowedFd<'_>, patience: u16) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; READ];
    loop {
        let mut one = [PollFd::new(fuse.as_fd(), PollFlags::POLLIN)];
        match poll(&mut one, PollTimeout::from(patience)) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        match nix::unistd::read(fuse, &mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            // ENOENT: the request was taken back meanwhile.
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks the kernel for all requests once more that were read and not answered.
fn ask_again(fuse: BorrowedFd<'_>) {
    let mut notification = [0; ANSWER_HEADER];
    notification[..4].copy_from_slice(&(ANSWER_HEADER as u32).to_ne_bytes());
    notification[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    if let Err(error) = nix::unistd::write(fuse, &notification) {
        tracing::warn!(
            "this kernel does not send unanswered requests again (Linux 6.9 does): programs whose request \
             the former server had read wait until they are killed: {error}"
        );
    }
}

fn opcode(request: &[u8]) -> Option<u32> {
    request.get(OPCODE)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init() -> Vec<u8> {
        let mut request = vec![0; 104];
        request[..4].copy_from_slice(&104_u32.to_ne_bytes());
        request[OPCODE].copy_from_slice(&INIT.to_ne_bytes());
        request
    }

    #[test]
    fn a_connection_begins_with_its_first_request_and_nothing_else() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("opened"));
        let form = |request| Some(InitForm { request, ..InitForm::default() });
        let (_, theirs) = Connection::prepare(null(), form(init())).expect("a pair");
        let mut read = [0; 200];
        assert_eq!(nix::unistd::read(&theirs, &mut read).expect("the request"), 104);
        assert_eq!(read[..104], init()[..]);
        for other in [vec![], vec![0; 3], vec![0; 104], [init(), vec![0; LONGEST]].concat()] {
            assert!(Connection::prepare(null(), form(other)).is_err());
        }
    }
}
