//! Bytes, both ways. Neither side of FTP says how many there are: an end of the data alone is no end of the file.

use super::listing::{self, Listed};
use super::session::Session;
use super::{Ftp, Held, classified};
use crate::store::transport::deadline;
use crate::store::{StoreError, StoreErrorKind};
use bytes::{Bytes, BytesMut};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use suppaftp::FtpError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long data may stand still.
const STALL: Duration = Duration::from_secs(30);
/// How long a server may take for the end of a file that was sent: it may copy it.
const SETTLE: Duration = Duration::from_secs(5 * 60);
/// What one read gives at most, in bytes.
const PIECE: usize = 1 << 20;
/// The most that a listing may have, in bytes: some million names.
const LONGEST: usize = 128 << 20;

/// A file's content on its way here.
pub struct FtpReader {
    server: Arc<Ftp>,
    path: String,
    held: Option<Held>,
    data: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

impl FtpReader {
    pub(super) async fn open(
        server: &Arc<Ftp>,
        path: &str,
        offset: u64,
    ) -> Result<Self, StoreError> {
        let begin = |mut session: Session| async move {
            let data = session.retrieve(path, offset).await;
            (session, data)
        };
        let (held, data) = server.on_session("get", path, begin).await?;
        let (server, path) = (server.clone(), path.to_owned());
        Ok(Self { server, path, held: Some(held), data: Some(data) })
    }

    /// The next bytes; none: the data ended, and the server says that all went well.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(data) = &mut self.data else { return Ok(None) };
        let mut piece = BytesMut::with_capacity(PIECE);
        while piece.len() < PIECE {
            match timeout(STALL, data.read_buf(&mut piece)).await {
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => {}
                // As a server ends TLS that does not say good-bye; whether all came is asked below.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Ok(Err(error)) => return Err(self.broken(&error.to_string())),
                Err(_) => return Err(self.broken("nothing came in time")),
            }
        }
        if !piece.is_empty() {
            return Ok(Some(piece.freeze()));
        }
        let (data, held) = (self.data.take(), self.held.take());
        let (Some(data), Some(mut held)) = (data, held) else { return Ok(None) };
        match timeout(STALL, held.session.stream.finalize_retr_stream(data)).await {
            Ok(Ok(())) => {
                self.server.park(held.session);
                Ok(None)
            }
            Ok(Err(error)) => Err(classified(error, "get", &self.path, self.server.describe())),
            Err(_) => Err(self.broken("no answer at the end of the data")),
        }
    }

    fn broken(&mut self, why: &str) -> StoreError {
        // Whatever is still on its way would be taken for the next answer.
        (self.data, self.held) = (None, None);
        let error = StoreError::new(StoreErrorKind::Unavailable, "get", &self.path);
        error.with_source(why.to_owned())
    }
}

pub(super) trait Data: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Data for T {}

/// A file on its way to the server. Dropped, it stays there as far as it came.
pub struct FtpWriter {
    server: Arc<Ftp>,
    path: String,
    held: Held,
    data: Box<dyn Data>,
    size: u64,
}

impl FtpWriter {
    pub(super) async fn create(server: &Arc<Ftp>, path: &str) -> Result<Self, StoreError> {
        let begin = |mut session: Session| async move {
            let data = session.store(path).await;
            (session, data)
        };
        let (held, data) = server.on_session("put", path, begin).await?;
        let (server, path) = (server.clone(), path.to_owned());
        Ok(Self { server, path, held, data, size: 0 })
    }

    /// Sends the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.size += bytes.len() as u64;
        match timeout(deadline(bytes.len() as u64), self.data.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.refused(error).await),
            Err(_) => Err(self.broken("nothing was taken in time")),
        }
    }

    /// Says that this was all, and returns how many bytes. The server has so many then, if it tells sizes.
    pub async fn finish(self) -> Result<u64, StoreError> {
        let Self { server, path, mut held, mut data, size } = self;
        let done = timeout(SETTLE, async {
            data.shutdown().await.map_err(FtpError::ConnectionError)?;
            // The server ends the data too. Until then nothing may be closed here: what TLS sends after the handshake
            // and nobody reads would make the kernel break the connection off, with what is still on its way.
            let _ = tokio::io::copy(&mut data, &mut tokio::io::sink()).await;
            held.session.stream.close_data_connection(data).await
        });
        let failure = match done.await {
            Ok(Ok(())) => {
                // With its turn: the next question takes one.
                let Held { session, _turn } = held;
                server.park(session);
                None
            }
            Ok(Err(error)) => {
                drop(held);
                Some(classified(error, "put", &path, server.describe()))
            }
            Err(_) => {
                drop(held);
                let error = StoreError::new(StoreErrorKind::Unavailable, "put", &path);
                Some(error.with_source("no answer at the end of the data"))
            }
        };
        // An answer that was lost may have been yes: the connection was silent as long as the data took.
        match failure {
            Some(error) if !error.is_transient() => return Err(error),
            _ => {}
        }
        match (server.size(&path).await, failure) {
            (Ok(Some(found)), _) if found == size => Ok(size),
            (Ok(None), None) => Ok(size),
            (Ok(Some(found)), None) => {
                let error = StoreError::new(StoreErrorKind::Corrupt, "put", &path);
                Err(error.with_source(format!("{size} bytes were sent, {found} are there")))
            }
            (_, Some(error)) | (Err(error), None) => Err(error),
        }
    }

    fn broken(&self, why: &str) -> StoreError {
        let error = StoreError::new(StoreErrorKind::Unavailable, "put", &self.path);
        error.with_source(why.to_owned())
    }

    /// A server that ends the data has mostly said why on the other connection.
    async fn refused(&mut self, error: io::Error) -> StoreError {
        let answer = self.held.session.stream.read_response_in(&[]);
        match timeout(Duration::from_secs(2), answer).await {
            Ok(Err(error @ FtpError::UnexpectedResponse(_))) => {
                classified(error, "put", &self.path, self.server.describe())
            }
            _ => self.broken(&error.to_string()),
        }
    }
}

/// The names in a directory.
pub(super) async fn listing(server: &Arc<Ftp>, path: &str) -> Result<Vec<Listed>, StoreError> {
    let begin = |mut session: Session| async move {
        let data = session.list(path).await;
        (session, data)
    };
    let (held, (data, for_machines)) = server.on_session("list", path, begin).await?;
    let (data, held) = (Some(data), Some(held));
    let mut reader = FtpReader { server: server.clone(), path: path.to_owned(), held, data };
    let mut text = Vec::new();
    while let Some(piece) = reader.next().await? {
        if text.len() + piece.len() > LONGEST {
            let error = StoreError::new(StoreErrorKind::Corrupt, "list", path);
            return Err(error.with_source("a listing without an end"));
        }
        text.extend_from_slice(&piece);
    }
    let read = if for_machines { listing::machine_line } else { listing::list_line };
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().filter_map(read).collect())
}
