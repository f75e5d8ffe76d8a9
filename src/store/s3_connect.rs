//! How to reach a bucket: endpoint, region, credentials, trust, and the ways of the server's family.

use super::s3_identity::{ProfileCredentials, TokenCredentials, WebIdentity};
use super::transport::{self, Tls};
use super::{StoreError, StoreErrorKind};
use aws_config::environment::{
    EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider,
};
use aws_config::identity::IdentityCache;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use std::net::IpAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Parts that Amazon lets an upload have.
pub const PART_LIMIT: u32 = 10_000;

/// Where and how.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// The bucket; it must exist.
    pub bucket: String,
    /// The region; else the SDK's own sources (if the credentials come from there), else us-east-1.
    pub region: Option<String>,
    /// The endpoint; else the SDK's own sources (if the credentials come from there), else Amazon's.
    pub endpoint: Option<String>,
    /// Bucket in the path; `None`: where the endpoint is an IP address or localhost.
    pub path_style: Option<bool>,
    /// Whom to trust, and who we are, where the endpoint speaks TLS.
    pub tls: Tls,
    /// Profile of the AWS files.
    pub profile: Option<Profile>,
    /// Who asks.
    pub credentials: S3Credentials,
    /// The token that stands for credentials if neither the environment nor a profile has any.
    pub web_identity: Option<WebIdentity>,
    /// How to list.
    pub listing: Listing,
    /// Parts that an upload may have.
    pub part_limit: u32,
    /// Whether many deletions go into one request.
    pub batch_deletes: bool,
    /// Whether to ask for parts that are checked by CRC-32C; a server that does not know it checks MD5.
    pub crc32c: bool,
}

/// A profile of the AWS files.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Its credentials are used although there are some in the environment: it was named on purpose,
    /// not by a variable beside them.
    pub over_environment: bool,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            region: None,
            endpoint: None,
            path_style: None,
            tls: Tls::default(),
            profile: None,
            credentials: S3Credentials::Found,
            web_identity: None,
            listing: Listing { version: ListVersion::V2, encoded: true },
            part_limit: PART_LIMIT,
            batch_deletes: true,
            crc32c: true,
        }
    }
}

/// Who asks.
#[derive(Clone)]
pub enum S3Credentials {
    /// What the SDK finds in the environment, the AWS files or the machine.
    Found,
    /// These; nothing is looked for.
    Given {
        /// The access key's name.
        access_key: String,
        /// Its secret.
        secret_key: Zeroizing<String>,
        /// The session token of temporary credentials.
        session_token: Option<Zeroizing<String>>,
    },
    /// Those that a slot holds when a request is signed.
    Slot(S3Keys),
    /// Nobody: requests are not signed.
    Anonymous,
}

/// Keys that are replaced while they are in use.
#[derive(Clone)]
pub struct S3Keys(Arc<parking_lot::RwLock<Credentials>>);

impl S3Keys {
    /// A slot with these keys.
    pub fn new(access_key: &str, secret_key: &str, session_token: Option<&str>) -> Self {
        let keys = signing_keys(access_key, secret_key, session_token);
        Self(Arc::new(parking_lot::RwLock::new(keys)))
    }

    /// From now on requests are signed with these.
    pub fn replace(&self, access_key: &str, secret_key: &str, session_token: Option<&str>) {
        *self.0.write() = signing_keys(access_key, secret_key, session_token);
    }
}

/// Never the secret.
impl std::fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("S3Keys")
    }
}

impl ProvideCredentials for S3Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Ok(self.0.read().clone()))
    }
}

fn signing_keys(access_key: &str, secret_key: &str, session_token: Option<&str>) -> Credentials {
    Credentials::new(access_key, secret_key, session_token.map(str::to_owned), None, "given")
}

/// Never the secret.
impl std::fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Found => "Found",
            Self::Given { .. } => "Given",
            Self::Slot(_) => "Slot",
            Self::Anonymous => "Anonymous",
        })
    }
}

/// How to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Which request.
    pub version: ListVersion,
    /// Whether keys come URL-encoded, so that every character survives XML.
    pub encoded: bool,
}

/// The two requests that list a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListVersion {
    /// The older one, with a marker.
    V1,
    /// The newer one, with start-after.
    V2,
}

/// A client, and the place for messages.
pub(super) async fn client(config: S3Config) -> Result<(Client, String), StoreError> {
    let S3Config { bucket, endpoint, path_style, ref tls, .. } = config;
    let invalid =
        |why: String| StoreError::new(StoreErrorKind::Invalid, "connect", &bucket).with_source(why);
    let plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    // Whoever finds credentials may have to ask a server for them that is reached otherwise.
    let tls_unused = plain && !matches!(config.credentials, S3Credentials::Found);
    let http = transport::client(tls, tls_unused).map_err(invalid)?;
    let region = config.region.map(Region::new);
    let shared = match config.credentials {
        S3Credentials::Found => {
            found(http, region, endpoint.as_deref(), config.profile, config.web_identity).await
        }
        credentials => given(http, region, credentials),
    };
    let endpoint = endpoint.or_else(|| shared.endpoint_url().map(str::to_owned));
    let path_style = path_style.unwrap_or_else(|| endpoint.as_deref().is_some_and(is_bare));
    let mut builder = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(path_style)
        .retry_config(RetryConfig::disabled())
        // Every attempt has a deadline of its own here, by its size.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    if shared.credentials_provider().is_none() {
        builder = builder.allow_no_auth();
    }
    let place = match &endpoint {
        Some(endpoint) => format!("s3://{bucket} at {}", without_userinfo(endpoint)),
        None => format!("s3://{bucket}"),
    };
    Ok((Client::from_conf(builder.build()), place))
}

/// Settings with what the SDK finds around it.
async fn found(
    http: SharedHttpClient,
    region: Option<Region>,
    endpoint: Option<&str>,
    profile: Option<Profile>,
    web_identity: Option<WebIdentity>,
) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
    // Not the SDK's whole chain: its last link asks the machine's metadata service, which most
    // machines do not have, and waits for it.
    let chain = RegionProviderChain::first_try(region)
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::new("us-east-1"));
    let region = chain.region().await;
    // For a profile that assumes a role, which asks a server.
    let settings =
        ProviderConfig::without_region().with_region(region.clone()).with_http_client(http.clone());
    let mut provider = ProfileFileCredentialsProvider::builder().configure(&settings);
    let mut named = false;
    if let Some(Profile { name, over_environment }) = profile {
        provider = provider.profile_name(&name);
        loader = loader.profile_name(name);
        named = over_environment;
    }
    if named {
        loader = loader.credentials_provider(provider.build());
    } else if let Some(identity) = web_identity {
        // In the order of the SDK's own chain.
        let settings = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(region.clone())
            .no_credentials()
            .load()
            .await;
        let token = TokenCredentials::new(identity, &settings, endpoint);
        let chain = CredentialsProviderChain::first_try(
            "environment",
            EnvironmentVariableCredentialsProvider::new(),
        );
        let chain = chain
            .or_else("profile", ProfileCredentials::new(provider.build()))
            .or_else("web identity", token);
        loader = loader.credentials_provider(chain);
    }
    loader = loader.region(region);
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    loader.load().await
}

/// Settings from the caller alone.
fn given(http: SharedHttpClient, region: Option<Region>, credentials: S3Credentials) -> SdkConfig {
    let builder = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(region.unwrap_or(Region::new("us-east-1")));
    match credentials {
        S3Credentials::Given { access_key, secret_key, session_token } => {
            let token = session_token.as_ref().map(|token| token.as_str());
            let given = signing_keys(&access_key, &secret_key, token);
            builder.credentials_provider(SharedCredentialsProvider::new(given)).build()
        }
        // Asked for at each request: what the SDK would keep goes on to be used after a change.
        S3Credentials::Slot(keys) => builder
            .credentials_provider(SharedCredentialsProvider::new(keys))
            .identity_cache(IdentityCache::no_cache())
            .build(),
        S3Credentials::Anonymous | S3Credentials::Found => builder.build(),
    }
}

/// Whether an endpoint's host is an address or localhost, for which no bucket can be part of the name.
fn is_bare(endpoint: &str) -> bool {
    let Ok(url) = url::Url::parse(endpoint) else { return false };
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok(),
        None => false,
    }
}

/// An endpoint for messages: a user name and password in it are nobody's business.
fn without_userinfo(endpoint: &str) -> String {
    match url::Url::parse(endpoint) {
        Ok(mut url) if !url.username().is_empty() || url.password().is_some() => {
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.to_string()
        }
        _ => endpoint.to_owned(),
    }
}
