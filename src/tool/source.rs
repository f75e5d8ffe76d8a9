//! What a file is made of: a stream that may have to be of a certain size.

use bytes::{Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

/// What is read at once for several readers, and how many such parts each may have waiting.
const PART: usize = 256 << 10;
const AHEAD: usize = 4;

/// A source whose end is an error unless it gave what it should: so that a producer that died half way
/// leaves no half file behind.
pub(super) struct Checked<R> {
    inner: R,
    bytes: u64,
    size: Option<u64>,
    some: bool,
}

impl<R> Checked<R> {
    /// Whatever comes.
    pub(super) fn new(inner: R) -> Self {
        Self { inner, bytes: 0, size: None, some: false }
    }

    /// So many bytes, no more and no less.
    pub(super) fn of_size(self, size: u64) -> Self {
        Self { size: Some(size), ..self }
    }

    /// At least one byte, if so.
    pub(super) fn not_empty(self, some: bool) -> Self {
        Self { some, ..self }
    }

    fn at_end(&self) -> io::Result<()> {
        match self.size {
            _ if self.some && self.bytes == 0 => Err(io::Error::other(
                "the input is empty (--fail-on-empty): nothing was stored; see why its producer ended",
            )),
            Some(size) if size != self.bytes => Err(io::Error::other(format!(
                "the input has {} bytes instead of {size}: nothing was stored; see why its producer ended",
                self.bytes
            ))),
            _ => Ok(()),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Checked<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = polled {
            let read = buffer.filled().len() - before;
            self.bytes += read as u64;
            if read == 0 && buffer.remaining() > 0 {
                return Poll::Ready(self.at_end());
            }
        }
        polled
    }
}

/// Gives the same stream to several readers. The slowest one sets the pace; one that has stopped reading is
/// left out. The first part has to be awaited beside the readers: it does the reading.
pub(super) fn split<R: AsyncRead + Unpin>(
    mut source: R,
    readers: usize,
) -> (impl Future<Output = ()>, Vec<impl AsyncRead + Unpin>) {
    let channels = (0..readers).map(|_| mpsc::channel::<io::Result<Bytes>>(AHEAD));
    let (mut senders, receivers): (Vec<_>, Vec<_>) = channels.unzip();
    let readers = receivers.into_iter().map(|receiver| {
        let next = |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async move {
            match receiver.recv().await {
                // Nothing is sent for the end alone.
                Some(Ok(part)) if part.is_empty() => None,
                Some(part) => Some((part, receiver)),
                // Whoever read has stopped without a word.
                None => Some((Err(io::ErrorKind::UnexpectedEof.into()), receiver)),
            }
        };
        StreamReader::new(Box::pin(futures::stream::unfold(receiver, next)))
    });
    let readers = readers.collect();
    let pump = async move {
        while !senders.is_empty() {
            let mut part = BytesMut::with_capacity(PART);
            let part = match source.read_buf(&mut part).await {
                Ok(_) => Ok(part.freeze()),
                Err(error) => Err(error),
            };
            // Of one kind: some kinds make readers try again, who would then find the end.
            let copy = |part: &io::Result<Bytes>| match part {
                Ok(bytes) => Ok(bytes.clone()),
                Err(error) => Err(io::Error::other(error.to_string())),
            };
            let sends = senders.iter().map(|sender| sender.send(copy(&part)));
            let sent = futures::future::join_all(sends).await;
            let mut taken = sent.iter().map(Result::is_ok);
            senders.retain(|_| taken.next().unwrap_or(false));
            if part.map_or(true, |part| part.is_empty()) {
                return;
            }
        }
    };
    (pump, readers)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(source: Checked<&[u8]>) -> io::Result<Vec<u8>> {
        let (mut source, mut bytes) = (source, Vec::new());
        source.read_to_end(&mut bytes).await.map(|_| bytes)
    }

    #[tokio::test]
    async fn an_end_that_comes_too_early_or_too_late_is_an_error() {
        let source = || Checked::new(&b"four"[..]);
        assert_eq!(read(source()).await.expect("read"), b"four");
        assert_eq!(read(source().of_size(4).not_empty(true)).await.expect("read"), b"four");
        for size in [0, 3, 5] {
            let error = read(source().of_size(size)).await.expect_err("an error").to_string();
            assert!(error.contains("4 bytes instead of"), "{error}");
        }
        assert_eq!(read(Checked::new(&b""[..]).of_size(0)).await.expect("read"), b"");
        let error = read(Checked::new(&b""[..]).not_empty(true)).await.expect_err("an error");
        assert!(error.to_string().contains("empty"), "{error}");
    }

    #[tokio::test]
    async fn every_reader_gets_all_of_it_and_one_that_stops_keeps_nobody() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let (pump, mut readers) = split(&bytes[..], 3);
        let stops = readers.pop().expect("a reader");
        let mut second = readers.pop().expect("a reader");
        let mut first = readers.pop().expect("a reader");
        drop(stops);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let (_, read, again) =
            tokio::join!(pump, first.read_to_end(&mut one), second.read_to_end(&mut two));
        read.and(again).expect("read");
        assert!(one == bytes && two == bytes);
    }

    #[tokio::test]
    async fn an_error_reaches_every_reader() {
        let (pump, mut readers) = split(Checked::new(&b"four"[..]).of_size(5), 2);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let (left, right) = readers.split_at_mut(1);
        let (_, first, second) =
            tokio::join!(pump, left[0].read_to_end(&mut one), right[0].read_to_end(&mut two));
        assert!(first.is_err() && second.is_err());
    }
}
