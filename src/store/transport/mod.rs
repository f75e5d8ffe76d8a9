//! The HTTP client below the S3 store and those of OpenDAL: both bring one, but those know no client certificates,
//! do not see a file of certificates that was replaced, cannot be told to trust a server unseen, and ask the C
//! library for addresses, which a static program cannot. It promises what theirs promise: a failure says
//! whether it was met before the request could have had an effect. Names and trust are FTP's too.

mod dial;
mod fetch;
mod identity;
mod resolve;
mod trust;

pub use identity::ClientIdentity;

pub(super) use fetch::{Failure, Fetcher, SIGNED, Unanswered};
pub(super) use resolve::Resolver;
pub(super) use trust::config as tls_config;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::retry::ErrorKind;
use dial::{Dial, Proxies};
use http::Uri;
use http::header::PROXY_AUTHORIZATION;
use http::uri::Scheme;
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Connections kept for the next request to a server, and for how long.
const IDLE_CONNECTIONS: usize = 128;
const IDLE: Duration = Duration::from_secs(90);
/// Time for a request and its answer, apart from what its bytes take.
const ATTEMPT: Duration = Duration::from_secs(30);
/// What a connection must manage at least, in bytes a second.
const SLOWEST: u64 = 256 << 10;

/// How long a request that moves so many bytes may take.
pub(super) fn deadline(bytes: u64) -> Duration {
    ATTEMPT + Duration::from_secs(bytes / SLOWEST)
}

/// Whom to trust, and who we are.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// PEM file of certificate authorities, instead of the system's. It is read again when it changes.
    pub authorities: Option<PathBuf>,
    /// Such files, and directories of them, that are trusted beside the system's, where `authorities` is not given.
    /// Read once; what is not there is passed over.
    pub more_authorities: Vec<PathBuf>,
    /// What a server is shown that asks for a client certificate.
    pub identity: Option<ClientIdentity>,
    /// Trust whatever certificate the server shows.
    pub unverified: bool,
}

/// A client. `tls_unused` says that no server is reached by TLS, so that no authorities are looked for.
///
/// # Errors
/// What is wrong with a file that `tls` names.
pub(super) fn client(tls: &Tls, tls_unused: bool) -> Result<SharedHttpClient, String> {
    Transport::new(tls, tls_unused).map(SharedHttpClient::new)
}

/// One pool of connections for all that a store asks.
#[derive(Clone)]
struct Transport {
    client: Client<Dial, SdkBody>,
    proxies: Arc<Proxies>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
    }
}

impl HttpClient for Transport {
    // Time-outs of a request are the store's: by its size.
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into())));
            }
        };
        let answer = self.send(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await.map_err(classified)?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

impl Transport {
    fn new(tls: &Tls, tls_unused: bool) -> Result<Self, String> {
        let config = if tls_unused { trust::of_nobody() } else { trust::config(tls)? };
        let proxies = Proxies::from_environment();
        let dial = Dial::new(config, proxies.clone());
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(dial);
        Ok(Self { client, proxies })
    }

    /// Sends a request; the answer's body is still to come.
    fn send(
        &self,
        mut request: http::Request<SdkBody>,
    ) -> impl Future<Output = Result<http::Response<Incoming>, legacy::Error>> + use<> {
        if let Some(authorization) = self.forward_authorization(request.uri()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        self.client.request(request)
    }

    /// What a proxy wants to see on each request; where it is a tunnel, the tunnel said it.
    fn forward_authorization(&self, uri: &Uri) -> Option<http::HeaderValue> {
        if uri.scheme() != Some(&Scheme::HTTP) {
            return None;
        }
        self.proxies.before(uri)?.basic_auth().cloned()
    }
}

/// What the SDK may make of a failure.
fn classified(error: legacy::Error) -> ConnectorError {
    if error.is_connect() {
        return ConnectorError::io(error.into());
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        if let Some(hyper) = this.downcast_ref::<hyper::Error>() {
            return if hyper.is_user() {
                ConnectorError::user(error.into())
            } else if hyper.is_timeout() {
                ConnectorError::timeout(error.into())
            } else if hyper.is_incomplete_message() {
                ConnectorError::other(error.into(), Some(ErrorKind::TransientError))
            } else {
                ConnectorError::io(error.into())
            };
        }
        cause = this.source();
    }
    ConnectorError::io(error.into())
}
