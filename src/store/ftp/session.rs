//! One connection: what is said on it.

use super::listing::{self, Listed, ListedKind};
use super::stream::Data;
use super::{Ftp, FtpSecurity};
use crate::store::transport::Resolver;
use crate::store::{StoreError, StoreErrorKind};
use crate::world::Timestamp;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use suppaftp::tokio::{AsyncRustlsConnector, AsyncRustlsFtpStream};
use suppaftp::tokio_rustls::TlsConnector;
use suppaftp::types::{Features, FileType};
use suppaftp::{FtpError, Mode, Status};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time for a connection with all that belongs to it.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a refusal is waited for that should be there already.
const REFUSAL: Duration = Duration::from_secs(2);
/// Seconds of silence on a connection before the kernel asks whether somebody is there.
const KEEP_ALIVE: u32 = 60;
/// What a server says when data may go.
const BEGUN: [Status; 2] = [Status::AboutToSend, Status::AlreadyOpen];

/// A connection on which somebody is logged in.
pub(super) struct Session {
    pub(super) stream: AsyncRustlsFtpStream,
    features: Features,
    machine_listings: bool,
    /// Where paths begin that do not begin with `/`; ends in `/`.
    home: String,
    /// A position was set that the next transfer would take.
    dirty: bool,
}

impl Session {
    pub(super) async fn open(server: &Ftp) -> Result<Self, StoreError> {
        let place = server.describe();
        match timeout(CONNECT, Self::connect(server)).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(FtpError::ConnectionError(error))) => {
                let why = match error.to_string() {
                    why if why.contains("lookup") => {
                        format!("{why}: correct storage.host, or this machine's name service")
                    }
                    why => format!(
                        "{why}: check that the server runs, storage.host and storage.port, and firewalls between"
                    ),
                };
                let error = StoreError::new(StoreErrorKind::Unreachable, "connect", place);
                Err(error.with_source(why))
            }
            Ok(Err(error)) => Err(super::classified(error, "connect", "", place)),
            Err(_) => {
                let error = StoreError::new(StoreErrorKind::Unreachable, "connect", place);
                Err(error.with_source(format!(
                    "no connection within {} s: check storage.port, and whether storage.tls is what the server speaks",
                    CONNECT.as_secs()
                )))
            }
        }
    }

    async fn connect(server: &Ftp) -> Result<Self, FtpError> {
        let Ftp { config, tls, resolver, .. } = server;
        let tcp = dial(resolver, &config.host, config.port).await?;
        let address = tcp.peer_addr().map_err(FtpError::ConnectionError)?;
        let connector = || {
            let tls = tls.clone().expect("made where the settings ask for TLS");
            AsyncRustlsConnector::from(TlsConnector::from(tls))
        };
        let mut stream = match config.security {
            FtpSecurity::None => AsyncRustlsFtpStream::connect_with_stream(tcp).await?,
            FtpSecurity::Explicit => {
                let stream = AsyncRustlsFtpStream::connect_with_stream(tcp).await?;
                stream.into_secure(connector(), &config.host).await?
            }
            FtpSecurity::Implicit => {
                // It opens its own.
                drop(tcp);
                let host = &config.host;
                AsyncRustlsFtpStream::connect_secure_implicit(address, connector(), host).await?
            }
        };
        // Data is sent to the address that answers here, whatever the server believes its own to be.
        stream.set_passive_nat_workaround(true);
        stream.set_mode(match address.ip() {
            IpAddr::V4(_) => Mode::Passive,
            IpAddr::V6(_) => Mode::ExtendedPassive,
        });
        let (user, password) = match config.user.as_str() {
            "" => ("anonymous", "anonymous"),
            user => (user, config.password.as_str()),
        };
        stream.login(user, password).await?;
        if config.security == FtpSecurity::Implicit {
            // The library asks for TLS of data only where it had to ask for TLS at all.
            for command in ["PBSZ 0", "PROT P"] {
                agreed(stream.custom_command(command, &[Status::CommandOk]).await.map(drop))?;
            }
        }
        let features = match stream.feat().await {
            Ok(features) => features,
            Err(FtpError::UnexpectedResponse(_) | FtpError::BadResponse) => Features::new(),
            Err(error) => return Err(error),
        };
        if features.contains_key("UTF8") {
            agreed(stream.opts("UTF8", Some("ON")).await)?;
        }
        stream.transfer_type(FileType::Binary).await?;
        // Without it no path is safe: the session moves about.
        let mut home = stream.pwd().await?;
        if !home.ends_with('/') {
            home.push('/');
        }
        let machine_listings = config.machine_listings && features.contains_key("MLST");
        Ok(Self { stream, features, machine_listings, home, dirty: false })
    }

    /// A path as the server is told it; never empty.
    pub(super) fn place(&self, path: &str) -> String {
        match path {
            "" => self.home.clone(),
            _ if path.starts_with('/') => path.to_owned(),
            _ => format!("{}{path}", self.home),
        }
    }

    fn can(&self, feature: &str) -> bool {
        self.features.contains_key(feature)
    }

    /// What is at a path.
    pub(super) async fn find(&mut self, path: &str) -> Result<Listed, FtpError> {
        let place = self.place(path);
        if self.machine_listings {
            let line = self.stream.mlst(Some(&place)).await?;
            // What is neither a file nor a directory may lead to one.
            if let Some(found) = listing::machine_fact(&line) {
                return Ok(Listed { name: path.to_owned(), ..found });
            }
        }
        match self.stream.size(&place).await {
            Ok(size) => {
                let modified = self.modified(path).await?;
                let kind = ListedKind::File(size as u64);
                Ok(Listed { name: path.to_owned(), kind, modified, is_exact: true })
            }
            // A directory has no size, and nor has what is not there.
            Err(FtpError::UnexpectedResponse(answer)) => match self.stream.cwd(&place).await {
                Ok(()) => Ok(Listed {
                    name: path.to_owned(),
                    kind: ListedKind::Directory,
                    modified: None,
                    is_exact: true,
                }),
                Err(FtpError::UnexpectedResponse(_)) => Err(FtpError::UnexpectedResponse(answer)),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// When a file was last changed, if the server tells.
    pub(super) async fn modified(&mut self, path: &str) -> Result<Option<Timestamp>, FtpError> {
        if !self.can("MDTM") {
            return Ok(None);
        }
        let place = self.place(path);
        let answer = self.stream.custom_command(format!("MDTM {place}"), &[Status::File]).await;
        match answer {
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body);
                Ok(text.split_whitespace().nth(1).and_then(listing::time))
            }
            Err(FtpError::UnexpectedResponse(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether directories are listed in the form for machines.
    pub(super) fn lists_for_machines(&self) -> bool {
        self.machine_listings
    }

    /// Begins to list a directory; and whether in the form for machines.
    pub(super) async fn list(
        &mut self,
        path: &str,
    ) -> Result<(Box<dyn AsyncRead + Send + Unpin>, bool), FtpError> {
        // Not the path itself: servers take `*` in it for a pattern, and a `-` for an option. And those that do not know
        // it say so before any data is expected.
        let place = self.place(path);
        self.stream.cwd(&place).await?;
        let command = if self.machine_listings { "MLSD" } else { "LIST" };
        let data = self.stream.custom_data_command(command, &BEGUN).await;
        let (_, data) = self.refusal(data).await?;
        Ok((Box::new(data), self.machine_listings))
    }

    /// What a server says that refuses a transfer: it then takes no connection for data, which is noticed first where
    /// TLS is spoken on that one.
    async fn refusal<T>(&mut self, begun: Result<T, FtpError>) -> Result<T, FtpError> {
        let Err(error @ FtpError::SecureError(_)) = begun else { return begun };
        match timeout(REFUSAL, self.stream.read_response_in(&[])).await {
            // Not the word that data may go, after which more would come.
            Ok(Err(FtpError::UnexpectedResponse(refused))) if refused.status.code() >= 400 => {
                Err(FtpError::UnexpectedResponse(refused))
            }
            _ => Err(error),
        }
    }

    /// Whether the connection cannot be used for something else.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(super) async fn make_directories(&mut self, path: &str) -> Result<(), FtpError> {
        let place = self.place(path);
        let place = place.trim_end_matches('/');
        match self.stream.cwd(place).await {
            Err(FtpError::UnexpectedResponse(_)) => {}
            there => return there,
        }
        let ends = place.match_indices('/').map(|(at, _)| at).chain([place.len()]);
        let mut last = Ok(());
        for end in ends.filter(|end| *end > 0) {
            // Those above are there mostly, and then refused.
            last = self.stream.mkdir(&place[..end]).await;
            if let Err(error) = &last
                && !matches!(error, FtpError::UnexpectedResponse(_))
            {
                break;
            }
        }
        match last {
            // Made by somebody else meanwhile?
            Err(FtpError::UnexpectedResponse(answer)) => match self.stream.cwd(place).await {
                Err(FtpError::UnexpectedResponse(_)) => Err(FtpError::UnexpectedResponse(answer)),
                there => there,
            },
            made => made,
        }
    }

    pub(super) async fn remove(&mut self, path: &str) -> Result<(), FtpError> {
        let place = self.place(path);
        self.stream.rm(&place).await
    }

    pub(super) async fn remove_directory(&mut self, path: &str) -> Result<(), FtpError> {
        let place = self.place(path);
        // Nobody may stand in it.
        let home = self.place("");
        agreed(self.stream.cwd(&home).await)?;
        self.stream.rmdir(&place).await
    }

    pub(super) async fn rename(
        &mut self,
        from: &str,
        size: u64,
        to: &str,
        aside: &str,
    ) -> Result<(), FtpError> {
        let (from, to, aside) = (self.place(from), self.place(to), self.place(aside));
        let refused = match self.stream.rename(&from, &to).await {
            Err(FtpError::UnexpectedResponse(answer)) => answer,
            renamed => return renamed,
        };
        match (self.stream.size(&from).await, self.stream.size(&to).await) {
            // Some servers (IIS) rename nothing onto what is there. What is there stays until the other one has its
            // name.
            (Ok(_), Ok(_)) => {
                if let Err(error) = self.stream.rename(&to, &aside).await {
                    return Err(match error {
                        FtpError::UnexpectedResponse(_) => FtpError::UnexpectedResponse(refused),
                        lost => lost,
                    });
                }
                if let Err(error) = self.stream.rename(&from, &to).await {
                    agreed(self.stream.rename(&aside, &to).await)?;
                    return Err(error);
                }
                agreed(self.stream.rm(&aside).await)
            }
            // Put aside before, by an attempt that was cut off.
            (Ok(_), Err(FtpError::UnexpectedResponse(_))) => {
                agreed(self.stream.rename(&aside, &to).await)?;
                Err(FtpError::UnexpectedResponse(refused))
            }
            // Done before: the answer was lost.
            (Err(FtpError::UnexpectedResponse(_)), Ok(there)) if there as u64 == size => Ok(()),
            _ => Err(FtpError::UnexpectedResponse(refused)),
        }
    }

    pub(super) async fn put_back(&mut self, aside: &str, to: &str) -> Result<(), FtpError> {
        let (aside, to) = (self.place(aside), self.place(to));
        self.stream.rename(&aside, &to).await
    }

    pub(super) async fn set_modified(
        &mut self,
        path: &str,
        time: Timestamp,
    ) -> Result<(), FtpError> {
        if !self.can("MFMT") {
            return Ok(());
        }
        let command = format!("MFMT {} {}", listing::spelled(time), self.place(path));
        agreed(self.stream.custom_command(command, &[Status::File]).await.map(drop))
    }

    /// A file's content from a position on.
    pub(super) async fn retrieve(
        &mut self,
        path: &str,
        offset: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, FtpError> {
        if offset > 0 {
            let offset = usize::try_from(offset).map_err(|_| FtpError::BadResponse)?;
            self.dirty = true;
            self.stream.resume_transfer(offset).await?;
        }
        let place = self.place(path);
        let data = self.stream.retr_as_stream(place).await;
        let data = self.refusal(data).await?;
        self.dirty = false;
        Ok(Box::new(data))
    }

    /// Begins to store a file.
    pub(super) async fn store(&mut self, path: &str) -> Result<Box<dyn Data>, FtpError> {
        let place = self.place(path);
        let data = self.stream.put_with_stream(place).await;
        Ok(Box::new(self.refusal(data).await?))
    }

    /// The size of a file; none if the server does not tell any.
    pub(super) async fn size(&mut self, path: &str) -> Result<Option<u64>, FtpError> {
        let place = self.place(path);
        match self.stream.size(&place).await {
            Ok(size) => Ok(Some(size as u64)),
            Err(FtpError::UnexpectedResponse(answer)) if answer.status.code() < 510 => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A refusal does no harm.
fn agreed(result: Result<(), FtpError>) -> Result<(), FtpError> {
    match result {
        Err(FtpError::UnexpectedResponse(_)) => Ok(()),
        other => other,
    }
}

async fn dial(resolver: &Resolver, host: &str, port: u16) -> Result<TcpStream, FtpError> {
    let addresses = resolver.addresses(host).await.map_err(FtpError::ConnectionError)?;
    let mut failure = io::Error::other(format!("failed to lookup address of {host}: it has none"));
    for address in addresses {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) => {
                // While data goes elsewhere nothing is said here, and what is on the way forgets silent connections.
                let _ = stream.set_nodelay(true);
                let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
                let _ = setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_ALIVE);
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(FtpError::ConnectionError(failure))
}
