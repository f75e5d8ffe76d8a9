//! Google Cloud Storage, in its own protocol, for whoever has a service account rather than keys of HMAC.

use super::{Remote, Tls};
use crate::store::transport::SIGNED;
use crate::store::{StoreError, StoreErrorKind};
use crate::world::Entropy;
use data_encoding::BASE64;
use opendal::Operator;
use opendal::services::Gcs;
use reqsign_core::{Context, ProvideCredential};
use reqsign_google::{Credential, ServiceAccountTokenCredentialProvider, StaticCredentialProvider};
use std::sync::Arc;
use zeroize::Zeroizing;

/// What a token is to allow.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// Parts that Google lets an upload have.
const PARTS: u32 = 10_000;

/// Where and how.
#[derive(Debug)]
pub struct GoogleConfig {
    /// The bucket; it must exist.
    pub bucket: String,
    /// The endpoint, if it is not Google's.
    pub endpoint: Option<String>,
    /// Who asks.
    pub credentials: GoogleCredentials,
    /// Whom to trust, and who we are.
    pub tls: Tls,
}

/// Who asks.
pub enum GoogleCredentials {
    /// A service account: the JSON file that Google gives for it.
    ServiceAccount(Zeroizing<String>),
    /// Somebody else whom a JSON file of Google's describes: a user, an account of another cloud.
    Described(Zeroizing<String>),
    /// What Google's own tools find: GOOGLE_APPLICATION_CREDENTIALS, gcloud's login, the machine's own account.
    Found,
    /// Nobody: requests are not signed.
    Anonymous,
}

/// Never the secret.
impl std::fmt::Debug for GoogleCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ServiceAccount(_) => "ServiceAccount",
            Self::Described(_) => "Described",
            Self::Found => "Found",
            Self::Anonymous => "Anonymous",
        })
    }
}

/// Tells that a token ends as much earlier as a request that was signed with it may be sent again.
#[derive(Debug)]
struct Early(ServiceAccountTokenCredentialProvider);

impl ProvideCredential for Early {
    type Credential = Credential;

    async fn provide_credential(
        &self,
        context: &Context,
    ) -> reqsign_core::Result<Option<Credential>> {
        let mut given = self.0.provide_credential(context).await?;
        if let Some(token) = given.as_mut().and_then(|given| given.token.as_mut()) {
            token.expires_at = token.expires_at.map(|at| at - SIGNED);
        }
        Ok(given)
    }
}

impl Remote {
    /// A bucket. Sends no request.
    pub fn google(config: GoogleConfig, entropy: Arc<dyn Entropy>) -> Result<Self, StoreError> {
        let GoogleConfig { bucket, endpoint, credentials, tls } = config;
        let mut place = format!("gs://{bucket}");
        if let Some(endpoint) = &endpoint {
            place = format!("{place} at {endpoint}");
        }
        let plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        // The token comes from elsewhere, by TLS.
        let tls_unused = plain && matches!(credentials, GoogleCredentials::Anonymous);
        let builder = Gcs::default().bucket(&bucket);
        let builder = builder.endpoint(endpoint.as_deref().unwrap_or_default());
        let builder = match &credentials {
            // Its token is asked for once, and kept until it is no longer good: with the account itself as the
            // credential, each request would ask for one of its own.
            GoogleCredentials::ServiceAccount(json) => {
                let account = StaticCredentialProvider::new(json.as_str());
                let token = ServiceAccountTokenCredentialProvider::from_provider(account);
                builder
                    .disable_config_load()
                    .disable_vm_metadata()
                    .credential_provider(Early(token.with_scope(SCOPE)))
            }
            GoogleCredentials::Described(json) => builder
                .disable_config_load()
                .disable_vm_metadata()
                .credential(&BASE64.encode(json.as_bytes())),
            GoogleCredentials::Found => builder,
            GoogleCredentials::Anonymous => builder.skip_signature(),
        };
        let operator = Operator::new(builder).map_err(|error| {
            let why = error.message().to_owned();
            StoreError::new(StoreErrorKind::Invalid, "connect", &place).with_source(why)
        })?;
        let settings = "check storage.service_account_credentials (or service_account_file) and what its roles allow";
        Self::new(operator, (&tls, tls_unused), entropy, place, settings, PARTS)
    }
}
