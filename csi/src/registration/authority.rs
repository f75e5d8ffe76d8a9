//! kubelet's plugin watcher (all versions up to 1.34 at least) sends the socket's path, percent-encoded, as
//! `:authority` of its requests, which no URI can have there; the HTTP/2 implementation below tonic resets
//! such requests (hyperium/h2#487), as RFC 9113 wants it. kubelet's CSI client says `localhost`. So what
//! comes in on the registration socket, and there alone, is read over here first: the value of each
//! literal `:authority` becomes `localhost`, everything else stays byte for byte.
//!
//! The header tables of both sides then hold another value under the same number, whose size differs.
//! That would matter once entries are evicted, after some four thousand bytes of headers on one connection;
//! kubelet makes two requests on each, with some hundred.
//! Rejected: decoding and encoding headers anew (a second HPACK for two requests), a patched h2.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What a client sends before its first frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
/// The longest frame that is looked into: the length that HTTP/2 begins with.
const LONGEST: usize = 16_384;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `:authority` in the static table.
const AUTHORITY: usize = 1;
const LOCALHOST: &[u8] = b"localhost";

/// A connection whose requests are for `localhost`.
pub struct Local<S> {
    inner: S,
    /// Bytes of a frame that is not complete.
    pending: Vec<u8>,
    /// What can be handed on.
    ready: Vec<u8>,
    /// How far that is read.
    taken: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Preface,
    Frames,
    /// It is not what is expected: whoever reads it will say so.
    Through,
}

impl<S> Local<S> {
    /// Reads over a connection from its beginning.
    pub fn new(inner: S) -> Self {
        Self { inner, pending: Vec::new(), ready: Vec::new(), taken: 0, state: State::Preface }
    }

    /// Moves what is complete from `pending` to `ready`.
    fn advance(&mut self) {
        if self.state == State::Preface {
            let length = PREFACE.len().min(self.pending.len());
            if self.pending[..length] != PREFACE[..length] {
                self.state = State::Through;
            } else if length == PREFACE.len() {
                self.ready.extend(self.pending.drain(..length));
                self.state = State::Frames;
            }
        }
        while self.state == State::Frames && self.pending.len() >= FRAME_HEADER {
            let length = usize::from(self.pending[0]) << 16
                | usize::from(self.pending[1]) << 8
                | usize::from(self.pending[2]);
            if length > LONGEST {
                self.state = State::Through;
                break;
            }
            if self.pending.len() < FRAME_HEADER + length {
                break;
            }
            let frame: Vec<u8> = self.pending.drain(..FRAME_HEADER + length).collect();
            self.ready.extend(for_localhost(&frame).unwrap_or(frame));
        }
        if self.state == State::Through {
            self.ready.append(&mut self.pending);
        }
    }
}

/// The same frame of headers for `localhost`; `None` if it is another one, or malformed.
fn for_localhost(frame: &[u8]) -> Option<Vec<u8>> {
    let (header, payload) = frame.split_at_checked(FRAME_HEADER)?;
    let (kind, flags) = (header[3], header[4]);
    if kind != HEADERS || flags & END_HEADERS == 0 {
        return None;
    }
    let padding = if flags & PADDED == 0 { 0 } else { usize::from(*payload.first()?) };
    let start = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { 5 };
    let end = payload.len().checked_sub(padding)?;
    let fields = fields_for_localhost(payload.get(start..end)?)?;
    let payload = [&payload[..start], &fields, &payload[end..]].concat();
    let length = u32::try_from(payload.len()).ok().filter(|length| *length < 1 << 24)?;
    Some([&length.to_be_bytes()[1..], &header[3..], &payload].concat())
}

/// Goes through the representations of header fields, RFC 7541 section 6.
fn fields_for_localhost(block: &[u8]) -> Option<Vec<u8>> {
    let mut rest = block;
    let mut written = Vec::with_capacity(block.len() + LOCALHOST.len());
    while let Some(first) = rest.first() {
        let from = rest;
        let (prefix, is_literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(&mut rest, prefix)?;
        if is_literal && index == 0 {
            string(&mut rest)?;
        }
        let value = from.len() - rest.len();
        if is_literal {
            string(&mut rest)?;
        }
        let whole = from.len() - rest.len();
        if is_literal && index == AUTHORITY {
            written.extend_from_slice(&from[..value]);
            // Not Huffman's code, and shorter than its first seven bits can say.
            written.push(LOCALHOST.len() as u8);
            written.extend_from_slice(LOCALHOST);
        } else {
            written.extend_from_slice(&from[..whole]);
        }
    }
    Some(written)
}

/// An integer that begins in the low bits of the first byte, RFC 7541 section 5.1.
fn integer(rest: &mut &[u8], prefix: u8) -> Option<usize> {
    let mask = (1_u8 << prefix) - 1;
    let (first, mut more) = rest.split_first()?;
    let mut value = usize::from(first & mask);
    if first & mask == mask {
        // More bytes than these are no length of anything in a frame.
        for shift in [0, 7, 14, 21] {
            let (byte, after) = more.split_first()?;
            more = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *rest = more;
                return Some(value);
            }
        }
        return None;
    }
    *rest = more;
    Some(value)
}

/// Steps over a string, whatever its code.
fn string(rest: &mut &[u8]) -> Option<()> {
    let length = integer(rest, 7)?;
    *rest = rest.get(length..)?;
    Some(())
}

impl<S: AsyncRead + Unpin> AsyncRead for Local<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.taken < self.ready.len() {
                let length = buffer.remaining().min(self.ready.len() - self.taken);
                buffer.put_slice(&self.ready[self.taken..self.taken + length]);
                self.taken += length;
                return Poll::Ready(Ok(()));
            }
            self.ready.clear();
            self.taken = 0;
            let mut bytes = [0; 4096];
            let mut chunk = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                if self.pending.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                // Cut short, which whoever reads it finds out.
                self.state = State::Through;
            }
            self.pending.extend_from_slice(chunk.filled());
            self.advance();
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Local<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for Local<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// `:method: POST`, `:authority: VALUE` as an entry for the table, `te` with a new name, an old entry.
    fn block(authority: &[u8]) -> Vec<u8> {
        let length = u8::try_from(authority.len()).expect("short");
        let te = b"\x40\x02te\x08trailers";
        [&[0x83, 0x41, length], authority, te, &[0xbe]].concat()
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn read_over(bytes: &[u8]) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut read = Vec::new();
        runtime.block_on(Local::new(bytes).read_to_end(&mut read)).expect("memory");
        read
    }

    #[test]
    fn requests_are_for_localhost_and_the_rest_stays() {
        let path = b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fcsi.strongroom.io-reg.sock";
        let with = |authority: &[u8]| {
            let priority = [b"\0\0\0\0\x10".as_slice(), &block(authority)].concat();
            let padded = [b"\x02".as_slice(), &block(authority), b"\0\0"].concat();
            [
                PREFACE.to_vec(),
                frame(4, 0, b"\0\x04\0\0\xff\xff"),
                frame(HEADERS, END_HEADERS, &block(authority)),
                frame(0, 1, &block(authority)[..0]),
                frame(HEADERS, END_HEADERS | PRIORITY, &priority),
                frame(HEADERS, END_HEADERS | PADDED, &padded),
            ]
            .concat()
        };
        assert_eq!(read_over(&with(path)), with(LOCALHOST));
        // Data are data, whatever they look like.
        let data = [PREFACE, &frame(0, 0, &block(path))].concat();
        assert_eq!(read_over(&data), data);
    }

    #[test]
    fn what_is_malformed_or_cut_short_is_handed_on_as_it_is() {
        let whole = [PREFACE, &frame(HEADERS, END_HEADERS, &block(b"/x"))].concat();
        for end in 0..whole.len() {
            assert_eq!(read_over(&whole[..end]), &whole[..end]);
        }
        let cases: [&[u8]; 7] = [
            b"GET / HTTP/1.1\r\n\r\n",
            &[PREFACE, &[0xff; 40]].concat(),
            &[PREFACE, &frame(HEADERS, END_HEADERS, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff])]
                .concat(),
            &[PREFACE, &frame(HEADERS, END_HEADERS, &[0x41, 0x09, b'x'])].concat(),
            &[PREFACE, &frame(HEADERS, END_HEADERS | PADDED, &[0x09, 0x41])].concat(),
            &[PREFACE, &frame(HEADERS, END_HEADERS | PRIORITY, &[0x41])].concat(),
            &[PREFACE, &frame(HEADERS, END_HEADERS | PADDED, &[])].concat(),
        ];
        for bytes in cases {
            assert_eq!(read_over(bytes), bytes);
        }
    }
}
