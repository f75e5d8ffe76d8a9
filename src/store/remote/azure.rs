//! Azure Blob Storage.

use super::{Remote, Tls};
use crate::store::{StoreError, StoreErrorKind};
use crate::world::Entropy;
use opendal::Operator;
use opendal::services::Azblob;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Blocks that Azure lets a blob have.
const BLOCKS: u32 = 50_000;

/// Where and how.
#[derive(Debug)]
pub struct AzureConfig {
    /// The container; it must exist.
    pub container: String,
    /// The endpoint with everything that comes before the container.
    pub endpoint: String,
    /// Who asks.
    pub credentials: AzureCredentials,
    /// Whom to trust, and who we are, where the endpoint speaks TLS.
    pub tls: Tls,
}

/// Who asks.
pub enum AzureCredentials {
    /// An account with its shared key.
    Key {
        /// The account.
        account: String,
        /// Its key, in base 64.
        key: Zeroizing<String>,
    },
    /// Whoever was given this signature: the part of its URL after the question mark.
    Signature(Zeroizing<String>),
    /// Nobody: requests are not signed.
    Anonymous,
}

/// Never the secret.
impl std::fmt::Debug for AzureCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key { .. } => "Key",
            Self::Signature(_) => "Signature",
            Self::Anonymous => "Anonymous",
        })
    }
}

impl Remote {
    /// A container. Sends no request.
    pub fn azure(config: AzureConfig, entropy: Arc<dyn Entropy>) -> Result<Self, StoreError> {
        let AzureConfig { container, endpoint, credentials, tls } = config;
        let place = format!("container {container} at {endpoint}");
        let builder = Azblob::default().container(&container).endpoint(&endpoint);
        let builder = match &credentials {
            AzureCredentials::Key { account, key } => {
                builder.account_name(account).account_key(key)
            }
            AzureCredentials::Signature(signature) => builder.sas_token(signature),
            AzureCredentials::Anonymous => builder.skip_signature(),
        };
        let operator = Operator::new(builder).map_err(|error| {
            // Not the library's words, which repeat the key.
            let why = match error.message().contains("account_key") {
                true => "the account's key is not in base 64: copy it as Azure shows it".to_owned(),
                false => error.message().to_owned(),
            };
            StoreError::new(StoreErrorKind::Invalid, "connect", &place).with_source(why)
        })?;
        let settings =
            "check storage.account and storage.key (or storage.sas_url) and what they allow";
        let plain = endpoint.starts_with("http://");
        Self::new(operator, (&tls, plain), entropy, place, settings, BLOCKS)
    }
}
