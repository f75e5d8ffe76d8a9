//! An issuer of identities (OpenID Connect): a key, and two documents by HTTP; and a MinIO that gives credentials for its
//! tokens (AssumeRoleWithWebIdentity).

use super::fresh_hex;
use super::minio::{LOOPBACK, Minio};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// For whom tokens are.
pub(crate) const AUDIENCE: &str = "strongroom-tests";

/// Somebody who says who is who.
pub(crate) struct Issuer {
    folder: TempDir,
    url: String,
}

impl Issuer {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        openssl(folder.path(), &["genrsa", "-out", "key.pem", "2048"], b"");
        let modulus = openssl(folder.path(), &["rsa", "-in", "key.pem", "-modulus", "-noout"], b"");
        let modulus = String::from_utf8(modulus).expect("text");
        let modulus = modulus.trim().strip_prefix("Modulus=").expect("the modulus");
        let modulus = HEXLOWER_PERMISSIVE.decode(modulus.as_bytes()).expect("hexadecimal");
        let modulus = BASE64URL_NOPAD.encode(&modulus);
        let keys = format!(
            "{{\"keys\":[{{\"kty\":\"RSA\",\"use\":\"sig\",\"alg\":\"RS256\",\"kid\":\"1\",\"n\":\"{modulus}\",\"e\":\"AQAB\"}}]}}"
        );
        Self::telling(folder, keys)
    }

    /// Tells the keys (a JSON Web Key Set) by which tokens are signed, be it by somebody else.
    pub(crate) fn telling(folder: TempDir, keys: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let document = format!(
            "{{\"issuer\":\"{url}\",\"authorization_endpoint\":\"{url}/authorize\",\
             \"token_endpoint\":\"{url}/token\",\"jwks_uri\":\"{url}/keys\",\"response_types_supported\":[\"id_token\"],\
             \"subject_types_supported\":[\"public\"],\"id_token_signing_alg_values_supported\":[\"RS256\"]}}"
        );
        // For as long as the process lasts.
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut line = String::new();
                let mut reader = BufReader::new(client.try_clone().expect("a second handle"));
                let _ = reader.read_line(&mut line);
                let body = if line.contains(" /keys ") { &keys } else { &document };
                let _ = write!(
                    client,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { folder, url }
    }

    /// A file with a token that is good from now on for so long, or was.
    pub(crate) fn token(&self, name: &str, seconds: i64) -> PathBuf {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let now = i64::try_from(now).expect("a time");
        let expires = now + seconds;
        let head = "{\"alg\":\"RS256\",\"typ\":\"JWT\",\"kid\":\"1\"}";
        let claims = format!(
            "{{\"iss\":\"{}\",\"sub\":\"system:serviceaccount:ns:backup\",\"aud\":\"{AUDIENCE}\",\
             \"iat\":{now},\"exp\":{expires}}}",
            self.url
        );
        let signed = format!(
            "{}.{}",
            BASE64URL_NOPAD.encode(head.as_bytes()),
            BASE64URL_NOPAD.encode(claims.as_bytes())
        );
        let sign = ["dgst", "-sha256", "-sign", "key.pem", "-binary"];
        let signature = openssl(self.folder.path(), &sign, signed.as_bytes());
        let path = self.folder.path().join(name);
        fs::write(&path, format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
            .expect("written");
        path
    }

    /// A store that gives credentials for its tokens.
    pub(crate) fn store(&self) -> Minio {
        self.store_at(LOOPBACK)
    }

    /// The same at another address of this machine.
    pub(crate) fn store_at(&self, address: IpAddr) -> Minio {
        let document = format!("{}/.well-known/openid-configuration", self.url);
        let secret = fresh_hex::<8>();
        let variables = [
            ("CONFIG_URL", document.as_str()),
            ("CLIENT_ID", AUDIENCE),
            ("CLIENT_SECRET", &secret),
            ("ROLE_POLICY", "readwrite"),
        ]
        .map(|(name, value)| (format!("MINIO_IDENTITY_OPENID_{name}"), value));
        let variables = variables.each_ref().map(|(name, value)| (name.as_str(), *value));
        Minio::start_told(address, &variables)
    }
}

/// The role that a policy was given for this audience, as MinIO names it: by the SHA-1 of the audience's name.
pub(crate) fn role() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let hash = openssl(folder.path(), &["dgst", "-sha1", "-binary"], AUDIENCE.as_bytes());
    format!("arn:minio:iam:::role/{}", BASE64URL_NOPAD.encode(&hash))
}

fn openssl(folder: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    fs::write(folder.join("input"), input).expect("written");
    let input = fs::File::open(folder.join("input")).expect("there");
    let mut command = Command::new("openssl");
    let output = command.args(arguments).current_dir(folder).stdin(input).output();
    let output = output.expect("openssl starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
