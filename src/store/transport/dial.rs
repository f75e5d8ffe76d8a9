//! The way to a server: straight, through a proxy that forwards plain requests, or through a tunnel in one.

use super::resolve::Resolver;
use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rustls::ClientConfig;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower_service::Service;

/// Time for a connection with all that belongs to it: name, TCP, proxy, TLS.
const CONNECT: Duration = Duration::from_secs(10);

/// The proxies that the environment names: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, in either case.
pub(super) struct Proxies(Matcher);

impl Proxies {
    /// Those of this process.
    pub(super) fn from_environment() -> Arc<Self> {
        Arc::new(Self(Matcher::from_env()))
    }

    /// The proxy before a server. This machine itself is never reached by one, as in Go's and curl's habit.
    pub(super) fn before(&self, server: &Uri) -> Option<Intercept> {
        let host = server.host()?.trim_matches(['[', ']']);
        let local = host.eq_ignore_ascii_case("localhost")
            || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        if local { None } else { self.0.intercept(server) }
    }
}

/// Opens connections.
#[derive(Clone)]
pub(super) struct Dial {
    direct: HttpsConnector<HttpConnector<Resolver>>,
    tls: Arc<ClientConfig>,
    proxies: Arc<Proxies>,
}

impl Dial {
    /// Connections with these certificates, by these proxies.
    pub(super) fn new(tls: ClientConfig, proxies: Arc<Proxies>) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let tls = Arc::new(tls);
        Self { direct: over(tcp, &tls), tls, proxies }
    }
}

fn over<T>(transport: T, tls: &Arc<ClientConfig>) -> HttpsConnector<T> {
    let names = hyper_rustls::DefaultServerNameResolver::default();
    HttpsConnector::new(transport, tls.clone(), false, Arc::new(names))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Dial {
    type Response = Line;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Line, Failure>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.direct.poll_ready(context)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let (mut direct, tls) = (self.direct.clone(), self.tls.clone());
        let proxy = self.proxies.before(&server);
        let opened = async move {
            let Some(proxy) = proxy else { return direct.call(server).await.map(Line::straight) };
            if server.scheme() == Some(&Scheme::HTTP) {
                return direct.call(proxy.uri().clone()).await.map(Line::forwarded);
            }
            let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            over(tunnel, &tls).call(server).await.map(Line::straight)
        };
        Box::pin(async move {
            match tokio::time::timeout(CONNECT, opened).await {
                Ok(line) => line,
                Err(_) => Err(Failure::from(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {} s", CONNECT.as_secs()),
                ))),
            }
        })
    }
}

/// A connection.
pub(super) struct Line {
    stream: Box<dyn Stream>,
    forwarded: bool,
}

impl Line {
    fn straight(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), forwarded: false }
    }

    /// To a proxy, which wants to be told the whole address with each request.
    fn forwarded(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), forwarded: true }
    }
}

trait Stream: Read + Write + Connection + Unpin + Send {}

impl<T: Read + Write + Connection + Unpin + Send> Stream for T {}

impl Connection for Line {
    fn connected(&self) -> Connected {
        let connected = self.stream.connected();
        if self.forwarded { connected.proxy(true) } else { connected }
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
