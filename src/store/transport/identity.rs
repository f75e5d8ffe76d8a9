//! Who we are to a server that asks for a client certificate.

use super::trust::{Watched, certificates};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A client certificate and its key, both PEM files. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl ClientIdentity {
    /// The files that settings name: none, both, or one that holds both.
    ///
    /// # Errors
    /// A key without a certificate.
    pub fn of_files(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Option<Self>, String> {
        match (certificate, key) {
            (None, None) => Ok(None),
            (Some(certificate), key) => {
                Ok(Some(Self { key: key.unwrap_or_else(|| certificate.clone()), certificate }))
            }
            (None, Some(key)) => Err(format!(
                "client key {} is given without its certificate: name that too (--client-cert FILE or \
                 CLIENT_CERT_PATH)",
                key.display()
            )),
        }
    }

    /// What is in the files.
    fn read(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, String> {
        let shown = self.certificate.display();
        let chain = certificates(&self.certificate)?;
        if chain.is_empty() {
            return Err(format!(
                "client certificate {shown} holds no certificate: give a PEM file"
            ));
        }
        let shown = self.key.display();
        let pem = std::fs::read(&self.key)
            .map(Zeroizing::new)
            .map_err(|error| format!("cannot read client key {shown}: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
            format!("client key {shown} holds no private key: give a PEM file without a password")
        })?;
        let identity = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            format!("client key {shown} does not go with {}: {error}", self.certificate.display())
        })?;
        Ok(Arc::new(identity))
    }
}

/// Shows a server what the files hold at that moment.
#[derive(Debug)]
pub(super) struct Shown {
    files: ClientIdentity,
    provider: Arc<CryptoProvider>,
    current: Watched<Arc<CertifiedKey>>,
}

impl Shown {
    /// What these files hold, now and later.
    pub(super) fn new(
        files: ClientIdentity,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let watched = vec![files.certificate.clone(), files.key.clone()];
        let current = Watched::new(watched, || files.read(&provider))?;
        Ok(Self { files, provider, current })
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let identity = self.current.get(|| self.files.read(&self.provider));
        identity.key.choose_scheme(schemes).is_some().then_some(identity)
    }

    fn has_certs(&self) -> bool {
        true
    }
}
