//! Certificate authorities from a file. It is checked here, since the SDK's client ends the program when
//! it meets a certificate that it cannot read.

use data_encoding::BASE64;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;

/// The usable certificates of a PEM file, as PEM; or why there are none. Others of a bundle, as systems
/// have them, are left out with a warning.
pub(super) fn authorities(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let bytes =
        std::fs::read(path).map_err(|error| format!("cannot read CA bundle {shown}: {error}"))?;
    usable(&bytes, &shown.to_string())
}

fn usable(bytes: &[u8], shown: &str) -> Result<Vec<u8>, String> {
    let (mut pem, mut useless) = (Vec::new(), None);
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        let certificate = certificate
            .map_err(|error| format!("CA bundle {shown} is not a PEM file: {error:?}"))?;
        let der = certificate.to_vec();
        if let Err(error) = RootCertStore::empty().add(certificate) {
            useless = Some(error);
            continue;
        }
        pem.extend(b"-----BEGIN CERTIFICATE-----\n");
        for line in BASE64.encode(&der).into_bytes().chunks(64) {
            pem.extend(line);
            pem.push(b'\n');
        }
        pem.extend(b"-----END CERTIFICATE-----\n");
    }
    match (pem.is_empty(), useless) {
        (false, None) => {}
        (false, Some(error)) => {
            tracing::warn!("a certificate of CA bundle {shown} is of no use: {error}");
        }
        (true, Some(error)) => return Err(format!("CA bundle {shown}: {error}")),
        (true, None) => {
            return Err(format!(
                "CA bundle {shown} holds no certificate: give a PEM file (BEGIN CERTIFICATE)"
            ));
        }
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_certificate_is_an_error_and_no_panic() {
        let wrapped = |inside: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n")
        };
        for text in ["", "no certificate", &wrapped("AAAA"), &wrapped("????"), "-----BEGIN X"] {
            let error = usable(text.as_bytes(), "file").expect_err(text);
            assert!(error.contains("CA bundle file"), "{error}");
        }
    }
}
