//! Whom we trust: the system's authorities, those of a file as it is at that moment, or anybody.

use super::Tls;
use super::identity::Shown;
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// Bytes of a file of certificates, at most; systems' bundles have less than one MiB.
const LONGEST: u64 = 16 << 20;

/// The settings of a client's TLS.
///
/// # Errors
/// What is wrong with a file.
pub(in crate::store) fn config(tls: &Tls) -> Result<ClientConfig, String> {
    let Tls { authorities, more_authorities, identity, unverified } = tls;
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = match authorities {
        _ if *unverified => Arc::new(Unseen { refusal: None, provider: provider.clone() }),
        Some(path) => Arc::new(OfFile::new(path.clone(), provider.clone())?),
        None => match system_roots(more_authorities) {
            Ok(roots) => verifier(roots, &provider)?,
            // Nothing may ever be asked by TLS; if it is, this is what to say.
            Err(why) => Arc::new(Unseen { refusal: Some(why), provider: provider.clone() }),
        },
    };
    let builder = builder(&provider).dangerous().with_custom_certificate_verifier(verifier);
    Ok(match identity {
        Some(files) => {
            builder.with_client_cert_resolver(Arc::new(Shown::new(files.clone(), provider)?))
        }
        None => builder.with_no_client_auth(),
    })
}

/// Settings that trust no server: for clients that use no TLS.
pub(super) fn of_nobody() -> ClientConfig {
    builder(&provider()).with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

fn builder(
    provider: &Arc<CryptoProvider>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider knows the versions of its own crate")
}

/// The system's, or those that SSL_CERT_FILE and SSL_CERT_DIR name, and more: files, and directories of files whatever
/// their names are. Go's programs, which users come from, take all of them, OpenSSL's only such as are named by their
/// hashes.
fn system_roots(more: &[PathBuf]) -> Result<RootCertStore, String> {
    static FOUND: LazyLock<(RootCertStore, String)> = LazyLock::new(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        (roots, why.join("; "))
    });
    let (roots, why) = &*FOUND;
    let mut roots = roots.clone();
    roots.add_parsable_certificates(certificates_in(more));
    if roots.is_empty() {
        let why = if why.is_empty() { "none were found" } else { why };
        return Err(format!(
            "the system has no certificate authorities ({why}): install its package (ca-certificates), or \
             give a file with --ca-cert or AWS_CA_BUNDLE"
        ));
    }
    Ok(roots)
}

/// All certificates of files and directories, each once. What is no certificate is passed over.
fn certificates_in(places: &[PathBuf]) -> HashSet<CertificateDer<'static>> {
    let mut found = HashSet::new();
    let mut files = BTreeSet::new();
    for place in places {
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        // Systems have each file under several names.
        let paths = entries.map(|entry| entry.path()).chain([place.clone()]);
        files.extend(paths.filter_map(|path| path.canonicalize().ok()));
    }
    let is_usable = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|data| data.is_file() && data.len() <= LONGEST)
    };
    for file in files.into_iter().filter(is_usable) {
        match certificates(&file) {
            Ok(certificates) => found.extend(certificates),
            Err(why) => tracing::debug!("{why}"),
        }
    }
    found
}

fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| format!("certificate authorities: {error}"))
}

/// The certificates of a PEM file.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let bytes = std::fs::read(path)
        .map_err(|error| format!("cannot read certificates {shown}: {error}"))?;
    CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{shown} is not a PEM file: {error:?}"))
}

/// The usable authorities of a PEM file. Others of a bundle, as systems have them, are left out with a warning.
fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let shown = path.display();
    let mut roots = RootCertStore::empty();
    let mut useless = None;
    let found = certificates(path).map_err(|why| format!("CA bundle: {why}"))?;
    for certificate in found {
        if let Err(error) = roots.add(certificate) {
            useless = Some(error);
        }
    }
    match (roots.is_empty(), useless) {
        (false, None) => Ok(roots),
        (false, Some(error)) => {
            tracing::warn!("a certificate of CA bundle {shown} is of no use: {error}");
            Ok(roots)
        }
        (true, Some(error)) => Err(format!("CA bundle {shown}: {error}")),
        (true, None) => Err(format!(
            "CA bundle {shown} holds no certificate: give a PEM file (BEGIN CERTIFICATE)"
        )),
    }
}

/// What files hold, read again when one of them is another than before. A file that cannot be used (it may be in
/// the middle of being replaced) leaves what was read before in force, with a warning.
#[derive(Debug)]
pub(super) struct Watched<T> {
    files: Vec<PathBuf>,
    current: Mutex<(Vec<Option<Stamp>>, T)>,
}

/// Which version of a file: device, inode, size, change time.
type Stamp = (u64, u64, u64, i64, i64);

impl<T: Clone> Watched<T> {
    /// Of these files, whose meaning `read` tells.
    pub(super) fn new(
        files: Vec<PathBuf>,
        read: impl FnOnce() -> Result<T, String>,
    ) -> Result<Self, String> {
        // Before they are read: a change in between is seen at the next look.
        let stamps = stamps(&files);
        Ok(Self { current: Mutex::new((stamps, read()?)), files })
    }

    /// What they hold now.
    pub(super) fn get(&self, read: impl FnOnce() -> Result<T, String>) -> T {
        let stamps = stamps(&self.files);
        let mut current = self.current.lock();
        if current.0 != stamps {
            match read() {
                Ok(value) => *current = (stamps, value),
                Err(why) => tracing::warn!("{why}; what it held before stays in use"),
            }
        }
        current.1.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
    };
    files.iter().map(stamp).collect()
}

/// The authorities of a file.
#[derive(Debug)]
struct OfFile {
    path: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Watched<Arc<WebPkiServerVerifier>>,
}

impl OfFile {
    fn new(path: PathBuf, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let read = || verifier(authorities(&path)?, &provider);
        let current = Watched::new(vec![path.clone()], read)?;
        Ok(Self { path, provider, current })
    }

    fn now(&self) -> Arc<WebPkiServerVerifier> {
        self.current.get(|| verifier(authorities(&self.path)?, &self.provider))
    }
}

impl ServerCertVerifier for OfFile {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.now().verify_server_cert(certificate, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whatever certificate a server shows: it is trusted, or refused for a reason that has nothing to do with it.
#[derive(Debug)]
struct Unseen {
    refusal: Option<String>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unseen {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.refusal {
            None => Ok(ServerCertVerified::assertion()),
            Some(why) => Err(Error::General(why.clone())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_certificate_is_an_error_and_no_panic() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let wrapped = |inside: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n")
        };
        for text in ["", "no certificate", &wrapped("AAAA"), &wrapped("????"), "-----BEGIN X"] {
            std::fs::write(&path, text).expect("written");
            let error = authorities(&path).expect_err(text);
            assert!(error.contains("CA bundle"), "{error}");
            assert!(error.contains("/file"), "{error}");
        }
    }

    #[test]
    fn a_file_that_was_replaced_is_read_again_and_a_broken_one_leaves_the_former() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let read = || match std::fs::read_to_string(&path) {
            Ok(text) if text != "broken" => Ok(text),
            Ok(text) => Err(text),
            Err(error) => Err(error.to_string()),
        };
        std::fs::write(&path, "first").expect("written");
        let watched = Watched::new(vec![path.clone()], read).expect("read");
        assert_eq!(watched.get(|| panic!("read again")), "first");
        for (text, seen) in [("second", "second"), ("broken", "second"), ("third", "third")] {
            let next = directory.path().join("next");
            std::fs::write(&next, text).expect("written");
            std::fs::rename(&next, &path).expect("renamed");
            assert_eq!(watched.get(read), seen);
        }
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(watched.get(read), "third");
    }
}
