//! Credentials for a token (AssumeRoleWithWebIdentity of Amazon's Security Token Service). The SDK has this too,
//! but accepts only answers that name the role as Amazon does, which MinIO's do not, and does not say which token of
//! whom was refused.

use super::s3_errors::root_cause;
use super::transport::{self, Tls};
use super::{StoreError, StoreErrorKind};
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_sts::Client;
use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;
use zeroize::Zeroizing;

/// How a failure of this begins, for whoever tells what to do about it.
pub(super) const FAILED: &str = "web identity: ";
/// And of one that may pass by itself.
pub(super) const UNANSWERED: &str = "web identity, for now: ";

/// How sessions are called that nobody gave a name.
const SESSION: &str = "strongroom";

/// Who asks, by a token that somebody else renews.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebIdentity {
    /// The file with the token; read for each request for credentials.
    pub token_file: PathBuf,
    /// The role that is asked for.
    pub role: String,
    /// How the session is called in the provider's logs, unless by the program.
    pub session: Option<String>,
    /// Who gives credentials for the token, unless it is the store or Amazon.
    pub endpoint: Option<String>,
}

/// Gets credentials for a token.
#[derive(Debug)]
pub(super) struct TokenCredentials {
    identity: WebIdentity,
    client: Client,
    place: String,
}

impl TokenCredentials {
    /// By settings without an endpoint of the store's; `store` is that one, if it was given. A store that is not
    /// Amazon's gives credentials itself.
    pub(super) fn new(identity: WebIdentity, settings: &SdkConfig, store: Option<&str>) -> Self {
        let own = store.filter(|endpoint| !is_amazon(endpoint));
        let general = settings.endpoint_url().filter(|endpoint| !is_amazon(endpoint));
        let endpoint = identity.endpoint.as_deref().or(general).or(own);
        let mut builder = aws_sdk_sts::config::Builder::from(settings);
        builder.set_endpoint_url(endpoint.map(str::to_owned));
        let place = endpoint.unwrap_or("Amazon").to_owned();
        Self { identity, client: Client::from_conf(builder.build()), place }
    }

    async fn get(&self) -> Result<Credentials, String> {
        let Self { identity, client, place } = self;
        let file = identity.token_file.display();
        let token = tokio::fs::read_to_string(&identity.token_file).await;
        let token = token.map_err(|error| format!("{FAILED}the token's file {file}: {error}"))?;
        let session = identity.session.as_deref().unwrap_or(SESSION);
        let whose = format!("the token in {file}");
        let keys = exchange((client, place), &identity.role, session, &token, &whose).await?;
        Ok(Credentials::new(
            keys.access_key,
            keys.secret_key.as_str(),
            Some(keys.session_token.to_string()),
            Some(keys.expires),
            "WebIdentity",
        ))
    }
}

/// A token that somebody handed over, for keys of a while.
pub struct GivenToken {
    /// It.
    pub token: Zeroizing<String>,
    /// Whose it is, for messages.
    pub whose: String,
    /// The role that is asked for.
    pub role: String,
    /// How the session is called in the provider's logs.
    pub session: String,
    /// Who gives keys for the token, unless it is the store or Amazon.
    pub endpoint: Option<String>,
    /// The store's endpoint: one that is not Amazon's gives keys itself.
    pub store: Option<String>,
    /// The region; us-east-1 unless it is told.
    pub region: Option<String>,
    /// Whom to trust, and who we are, where the endpoint speaks TLS.
    pub tls: Tls,
}

/// Keys of a while.
pub struct TokenKeys {
    /// Name of the access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: Zeroizing<String>,
    /// What goes with every request.
    pub session_token: Zeroizing<String>,
    /// Until when they are good.
    pub expires: SystemTime,
}

impl GivenToken {
    /// Gets keys for it: one request, not repeated.
    ///
    /// # Errors
    /// `Denied` if nothing is given for the token, `Unavailable` if that may pass by itself, `Invalid` if no client can
    /// be made. The message has no token.
    pub async fn keys(&self) -> Result<TokenKeys, StoreError> {
        let Self { token, whose, role, session, endpoint, store, region, tls } = self;
        let failed =
            |kind, why: String| StoreError::new(kind, "assume role", role).with_source(why);
        let http = transport::client(tls, false);
        let http = http.map_err(|why| failed(StoreErrorKind::Invalid, why.to_string()))?;
        let region = region.clone().unwrap_or_else(|| "us-east-1".to_owned());
        // From the caller alone: nothing of this process's environment or files.
        let settings = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            .http_client(http)
            .region(Region::new(region))
            .build();
        let identity = WebIdentity {
            token_file: PathBuf::new(),
            role: role.clone(),
            session: Some(session.clone()),
            endpoint: endpoint.clone(),
        };
        let TokenCredentials { client, place, .. } =
            TokenCredentials::new(identity, &settings, store.as_deref());
        let keys = exchange((&client, &place), role, session, token, whose).await;
        keys.map_err(|why| {
            let kind = match why.starts_with(UNANSWERED) {
                true => StoreErrorKind::Unavailable,
                false => StoreErrorKind::Denied,
            };
            failed(kind, why)
        })
    }
}

/// Asks for keys; why not begins with [`FAILED`] or [`UNANSWERED`].
async fn exchange(
    (client, place): (&Client, &str),
    role: &str,
    session: &str,
    token: &str,
    whose: &str,
) -> Result<TokenKeys, String> {
    let token = token.trim();
    if token.is_empty() {
        return Err(format!("{FAILED}{whose} is empty"));
    }
    let request = client
        .assume_role_with_web_identity()
        .role_arn(role)
        .role_session_name(session)
        .web_identity_token(token);
    let answer = request.send().await.map_err(|error| {
        let why = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            _ => root_cause(&error),
        };
        // Whoever answers may repeat what was wrong.
        let why = why.replace(token, "(the token)");
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        let begins = match &error {
            SdkError::TimeoutError(_)
            | SdkError::DispatchFailure(_)
            | SdkError::ResponseError(_) => UNANSWERED,
            _ if status >= 500 || status == 429 => UNANSWERED,
            _ => FAILED,
        };
        format!("{begins}{place} gives nothing for {whose} and the role {role}: {why}")
    })?;
    let given = answer.credentials();
    let given = given.ok_or_else(|| format!("{FAILED}{place} answered without credentials"))?;
    let expires = SystemTime::try_from(*given.expiration());
    let expires = expires.map_err(|_| format!("{FAILED}{place} told no time that there is"))?;
    Ok(TokenKeys {
        access_key: given.access_key_id().to_owned(),
        secret_key: Zeroizing::new(given.secret_access_key().to_owned()),
        session_token: Zeroizing::new(given.session_token().to_owned()),
        expires,
    })
}

impl ProvideCredentials for TokenCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.get().await.map_err(CredentialsError::provider_error)
        })
    }
}

/// A profile's credentials, which are not there any more once they were not there: the SDK's own says so only the first
/// time, and then that it has said it, which ends a chain.
#[derive(Debug)]
pub(super) struct ProfileCredentials {
    inner: ProfileFileCredentialsProvider,
    absent: AtomicBool,
}

impl ProfileCredentials {
    /// Of this profile.
    pub(super) fn new(inner: ProfileFileCredentialsProvider) -> Self {
        Self { inner, absent: AtomicBool::new(false) }
    }
}

impl ProvideCredentials for ProfileCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            if self.absent.load(Ordering::Relaxed) {
                return Err(CredentialsError::not_loaded("the profile has no credentials"));
            }
            let given = self.inner.provide_credentials().await;
            if let Err(CredentialsError::CredentialsNotLoaded(_)) = given {
                self.absent.store(true, Ordering::Relaxed);
            }
            given
        })
    }
}

/// Whether an endpoint is one of Amazon's, whose stores give no credentials.
fn is_amazon(endpoint: &str) -> bool {
    let url = url::Url::parse(endpoint);
    url.is_ok_and(|url| {
        url.host_str().is_some_and(|host| {
            host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::is_amazon;

    #[test]
    fn amazons_endpoints_are_known() {
        assert!(is_amazon("https://s3.eu-west-1.amazonaws.com"));
        assert!(is_amazon("https://bucket.s3.cn-north-1.amazonaws.com.cn/"));
        assert!(!is_amazon("https://amazonaws.com.example.org"));
        assert!(!is_amazon("http://127.0.0.1:9000") && !is_amazon(""));
    }
}
