//! Messages over a unix stream socket, with file descriptors where they are needed: a length (four
//! bytes, little endian), then so many bytes. Descriptors travel with the first byte of the length.
//!
//! Nothing is believed of the other side but who it is, which the kernel says: lengths are bounded before
//! memory is taken, descriptors beyond those expected are closed, and every read and write has the time-out
//! that the caller sets on the stream.

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// A message is never longer.
pub const LIMIT: usize = 1 << 20;
/// Descriptors with one message, at most.
pub const MOST_DESCRIPTORS: usize = 4;

/// Sends one message, with descriptors; the caller keeps its own copies of them.
pub fn send(
    mut stream: &UnixStream,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let length = u32::try_from(message.len()).ok().filter(|_| message.len() <= LIMIT);
    let length = length.ok_or_else(|| io::Error::other("message longer than 1 MiB"))?.to_le_bytes();
    if descriptors.is_empty() {
        stream.write_all(&length)?;
    } else {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&raw)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        let parts = [IoSlice::new(&length)];
        let sent = loop {
            match sendmsg::<()>(stream.as_raw_fd(), &parts, &control, flags, None) {
                Err(nix::errno::Errno::EINTR) => {}
                other => break other?,
            }
        };
        stream.write_all(&length[sent..])?;
    }
    stream.write_all(message)
}

/// Receives one message and its descriptors; `None` if the other side has closed the connection.
pub fn receive(mut stream: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let (count, descriptors) = receive_some(stream, &mut length)?;
    if count == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[count..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message longer than 1 MiB"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(Some((message, descriptors)))
}

fn receive_some(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut space = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            for descriptor in raw {
                // SAFETY: the kernel has just made this descriptor for this process, and nothing else
                // in it knows the number yet.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
    }
    if received.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_arrives_whole_and_with_its_descriptors() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        send(&one, b"with", &[writer.as_fd()]).expect("sent");
        send(&one, b"", &[]).expect("sent");
        drop((one, writer));
        let (message, descriptors) = receive(&other).expect("read").expect("a message");
        assert_eq!((&message[..], descriptors.len()), (&b"with"[..], 1));
        let mut copy = std::fs::File::from(descriptors.into_iter().next().expect("one"));
        copy.write_all(b"x").expect("the pipe's end works");
        drop(copy);
        let mut text = String::new();
        let mut reader = reader;
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "x");
        assert_eq!(receive(&other).expect("read").expect("a message").0, b"");
        assert!(receive(&other).expect("read").is_none());
    }

    #[test]
    fn lengths_and_ends_that_lie_are_errors() {
        for (bytes, what) in [
            (&[0xff, 0xff, 0xff, 0xff][..], "1 MiB"),
            (&[9, 0][..], ""),
            (&[9, 0, 0, 0, 1][..], ""),
        ] {
            let (mut one, other) = UnixStream::pair().expect("a pair");
            one.write_all(bytes).expect("written");
            drop(one);
            let error = receive(&other).expect_err("no message").to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
