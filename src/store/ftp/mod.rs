//! Files on a server of FTP (RFC 959, 2228, 2389, 3659, 4217), through suppaftp. OpenDAL's own client for it appends to
//! what is there, cannot read from the middle, and asks the C library for addresses; so this one rests on the library
//! below it.
//!
//! # What it promises
//! - A file appears under its name when it is whole: it is sent under another one, its size asked for, and renamed.
//! - A connection that the server has ended meanwhile is replaced by another one unseen.
//! - Every wait is bounded.
//!
//! What it cannot promise: that the server has the file on its disk, or that nobody reads along, unless TLS is on.

mod errors;
mod listing;
mod session;
mod stream;

pub use listing::{Listed, ListedKind, list_line, machine_line};
pub use stream::{FtpReader, FtpWriter};

use super::retry::{Attempts, Effect, Request};
use super::transport::{Resolver, Tls, tls_config};
use super::{RetryPolicy, StoreError, StoreErrorKind};
use crate::world::{Entropy, Timestamp};
use errors::classified;
use parking_lot::Mutex;
use session::Session;
use std::sync::Arc;
use std::time::Duration;
use suppaftp::FtpError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

/// Connections at once, unless told otherwise: servers let a client have few.
const SESSIONS: u32 = 4;
/// How long a request is tried again.
const SOON: Duration = Duration::from_secs(30);
/// How often a listing that broke off is asked for.
const LISTINGS: u32 = 3;
/// How long one attempt may take, apart from what its bytes take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// Where and how.
pub struct FtpConfig {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who asks; empty: anonymous.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
    /// What goes by TLS.
    pub security: FtpSecurity,
    /// Whom to trust, and who we are.
    pub tls: Tls,
    /// Whether directories are listed in the form for machines (MLSD) where the server knows it.
    pub machine_listings: bool,
    /// Connections at once; 0: as many as are usual.
    pub sessions: u32,
}

/// Never the password.
impl std::fmt::Debug for FtpConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, user, security, .. } = self;
        write!(f, "FtpConfig {{ {user}@{host}:{port}, {security:?} }}")
    }
}

/// What goes by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FtpSecurity {
    /// Nothing.
    None,
    /// Everything, from the first byte on (usually on port 990).
    Implicit,
    /// Everything, once the server was asked for it (AUTH TLS).
    Explicit,
}

/// A server.
pub struct Ftp {
    config: FtpConfig,
    tls: Option<Arc<rustls::ClientConfig>>,
    resolver: Resolver,
    entropy: Arc<dyn Entropy>,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
    place: String,
}

/// A connection in use, and the turn that it takes.
pub(super) struct Held {
    session: Session,
    _turn: OwnedSemaphorePermit,
}

impl Ftp {
    /// Opens no connection.
    ///
    /// # Errors
    /// What is wrong with a file that the settings of TLS name.
    pub fn new(config: FtpConfig, entropy: Arc<dyn Entropy>) -> Result<Self, StoreError> {
        let scheme = if config.security == FtpSecurity::None { "ftp" } else { "ftps" };
        let place = format!("{scheme}://{}:{}", config.host, config.port);
        let tls = match config.security {
            FtpSecurity::None => None,
            _ => Some(Arc::new(tls_config(&config.tls).map_err(|why| {
                StoreError::new(StoreErrorKind::Invalid, "connect", &place).with_source(why)
            })?)),
        };
        let sessions = if config.sessions == 0 { SESSIONS } else { config.sessions };
        Ok(Self {
            config,
            tls,
            resolver: Resolver::new(),
            entropy,
            turns: Arc::new(Semaphore::new(sessions as usize)),
            idle: Mutex::new(Vec::new()),
            place,
        })
    }

    /// How this place is called in messages.
    pub fn describe(&self) -> &str {
        &self.place
    }

    /// Keeps a connection whose request went well, or was refused in good order.
    fn park(&self, session: Session) {
        if !session.is_dirty() {
            self.idle.lock().push(session);
        }
    }

    /// What becomes of a failed request's connection, and of the others: if it was gone, so are they.
    fn failed(
        &self,
        operation: &'static str,
        path: &str,
        error: FtpError,
        session: Session,
    ) -> StoreError {
        match &error {
            FtpError::UnexpectedResponse(answer) if answer.status.code() != 421 => {
                self.park(session);
            }
            _ => self.idle.lock().clear(),
        }
        classified(error, operation, path, &self.place)
    }

    /// Does something on a connection, again if the connection is lost.
    async fn ask<T, F: Future<Output = (Session, Result<T, FtpError>)>>(
        &self,
        operation: &'static str,
        path: &str,
        work: impl Fn(Session) -> F,
    ) -> Result<T, StoreError> {
        let (held, value) = self.on_session(operation, path, work).await?;
        self.park(held.session);
        Ok(value)
    }

    /// The same; the connection stays with the caller.
    async fn on_session<T, F: Future<Output = (Session, Result<T, FtpError>)>>(
        &self,
        operation: &'static str,
        path: &str,
        work: impl Fn(Session) -> F,
    ) -> Result<(Held, T), StoreError> {
        if path.contains(['\r', '\n', '\0']) {
            let error = StoreError::new(StoreErrorKind::Invalid, operation, path.escape_debug());
            return Err(error.with_source("FTP has no names with line ends: choose another"));
        }
        // Whoever waits for others waits as long as they take.
        let turn = self.turns.clone().acquire_owned().await;
        let turn =
            turn.map_err(|_| StoreError::new(StoreErrorKind::Other, "connect", &self.place))?;
        let attempts =
            Attempts { policy: RetryPolicy::within(SOON), entropy: self.entropy.clone() };
        let object = if path.is_empty() { &self.place } else { path };
        let request = Request { operation, object, effect: Effect::Repeatable };
        let (own, work) = (self, &work);
        let attempt = || async move {
            let idle = own.idle.lock().pop();
            let session = match idle {
                Some(session) => session,
                None => Session::open(own).await?,
            };
            match tokio::time::timeout(ATTEMPT, work(session)).await {
                Ok((session, Ok(value))) => Ok((session, value)),
                Ok((session, Err(error))) => Err(own.failed(operation, path, error, session)),
                Err(_) => {
                    let error = StoreError::new(StoreErrorKind::Unavailable, operation, path);
                    Err(error.with_source("no answer in time"))
                }
            }
        };
        let (session, value) = attempts.again(request, attempt).await?;
        Ok((Held { session, _turn: turn }, value))
    }

    /// What is at a path.
    pub async fn find(&self, path: &str) -> Result<Listed, StoreError> {
        self.ask("head", path, |mut session: Session| async move {
            let done = session.find(path).await;
            (session, done)
        })
        .await
    }

    /// When a file was last changed, if the server tells.
    pub async fn modified(&self, path: &str) -> Result<Option<Timestamp>, StoreError> {
        self.ask("head", path, |mut session: Session| async move {
            let done = session.modified(path).await;
            (session, done)
        })
        .await
    }

    /// Whether the server lists directories in the form for machines, and is asked to.
    pub async fn lists_for_machines(&self) -> Result<bool, StoreError> {
        self.ask("list", "", |session: Session| async move {
            let told = session.lists_for_machines();
            (session, Ok(told))
        })
        .await
    }

    /// The names in a directory, in no order.
    pub async fn list(self: &Arc<Self>, path: &str) -> Result<Vec<Listed>, StoreError> {
        let mut left = LISTINGS;
        loop {
            match stream::listing(self, path).await {
                Err(error) if error.is_transient() && left > 1 => left -= 1,
                done => return done,
            }
        }
    }

    /// Makes a directory and those above it; some may be there.
    pub async fn make_directories(&self, path: &str) -> Result<(), StoreError> {
        self.ask("put", path, |mut session: Session| async move {
            let done = session.make_directories(path).await;
            (session, done)
        })
        .await
    }

    /// Removes a file.
    pub async fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.ask("delete", path, |mut session: Session| async move {
            let done = session.remove(path).await;
            (session, done)
        })
        .await
    }

    /// Removes an empty directory.
    pub async fn remove_directory(&self, path: &str) -> Result<(), StoreError> {
        self.ask("delete", path, |mut session: Session| async move {
            let done = session.remove_directory(path).await;
            (session, done)
        })
        .await
    }

    /// Gives a file of so many bytes another name, in place of what has it. Where a server renames nothing onto what is
    /// there, that is called `aside` for the moment.
    pub async fn rename(
        &self,
        from: &str,
        size: u64,
        to: &str,
        aside: &str,
    ) -> Result<(), StoreError> {
        self.ask("put", to, |mut session: Session| async move {
            let done = session.rename(from, size, to, aside).await;
            (session, done)
        })
        .await
    }

    /// Gives what [`Self::rename`] has put aside its name back, where that is free.
    pub async fn put_back(&self, aside: &str, to: &str) -> Result<(), StoreError> {
        self.ask("put", to, |mut session: Session| async move {
            let done = session.put_back(aside, to).await;
            (session, done)
        })
        .await
    }

    /// The size of a file, if the server tells any.
    pub async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.ask("head", path, |mut session: Session| async move {
            let done = session.size(path).await;
            (session, done)
        })
        .await
    }

    /// Sets a file's time, if the server can.
    pub async fn set_modified(&self, path: &str, time: Timestamp) -> Result<(), StoreError> {
        self.ask("put", path, |mut session: Session| async move {
            let done = session.set_modified(path, time).await;
            (session, done)
        })
        .await
    }

    /// A file's content from a position on.
    pub async fn open(self: &Arc<Self>, path: &str, offset: u64) -> Result<FtpReader, StoreError> {
        FtpReader::open(self, path, offset).await
    }

    /// Begins a file, in place of what has its name.
    pub async fn create(self: &Arc<Self>, path: &str) -> Result<FtpWriter, StoreError> {
        FtpWriter::create(self, path).await
    }
}
