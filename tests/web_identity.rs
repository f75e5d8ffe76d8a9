//! Credentials for a token, as pods have one: a real MinIO gives them for a token that an issuer of identities has
//! signed (OpenID Connect; AssumeRoleWithWebIdentity). The issuer is this test: a key, and two documents by HTTP.

mod support;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use support::minio::Minio;
use support::{STRONGROOM, fresh_hex, random_bytes};
use tempfile::TempDir;

/// For whom tokens are.
const AUDIENCE: &str = "strongroom-tests";

/// Somebody who says who is who.
struct Issuer {
    folder: TempDir,
    url: String,
}

impl Issuer {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        openssl(folder.path(), &["genrsa", "-out", "key.pem", "2048"], b"");
        let modulus = openssl(folder.path(), &["rsa", "-in", "key.pem", "-modulus", "-noout"], b"");
        let modulus = String::from_utf8(modulus).expect("text");
        let modulus = modulus.trim().strip_prefix("Modulus=").expect("the modulus");
        let modulus = HEXLOWER_PERMISSIVE.decode(modulus.as_bytes()).expect("hexadecimal");
        let modulus = BASE64URL_NOPAD.encode(&modulus);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let document = format!(
            "{{\"issuer\":\"{url}\",\"authorization_endpoint\":\"{url}/authorize\",\
             \"token_endpoint\":\"{url}/token\",\"jwks_uri\":\"{url}/keys\",\"response_types_supported\":[\"id_token\"],\
             \"subject_types_supported\":[\"public\"],\"id_token_signing_alg_values_supported\":[\"RS256\"]}}"
        );
        let keys = format!(
            "{{\"keys\":[{{\"kty\":\"RSA\",\"use\":\"sig\",\"alg\":\"RS256\",\"kid\":\"1\",\"n\":\"{modulus}\",\"e\":\"AQAB\"}}]}}"
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
    fn token(&self, name: &str, seconds: i64) -> PathBuf {
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

/// What a pod's environment has in place of keys.
fn environment(minio: &Minio, token: &Path) -> Vec<(&'static str, String)> {
    // As MinIO names the role that a policy was given for this audience: by the SHA-1 of its name.
    let role = "arn:minio:iam:::role/";
    let hash = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        AUDIENCE.as_bytes(),
    );
    vec![
        ("AWS_ENDPOINT_URL", minio.endpoint.clone()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ROLE_ARN", format!("{role}{}", BASE64URL_NOPAD.encode(hash.as_ref()))),
        ("AWS_ROLE_SESSION_NAME", "backup".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
    ]
}

fn run(variables: &[(&'static str, String)], arguments: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = Command::new(STRONGROOM);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(&name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent");
    let output = command.args(arguments).envs(variables.iter().cloned()).output();
    let output = output.expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), output.stdout, told)
}

#[test]
fn a_token_is_as_good_as_keys_and_a_token_that_is_not_says_so() {
    let issuer = Issuer::start();
    let document = format!("{}/.well-known/openid-configuration", issuer.url);
    let minio = Minio::start_told(&[
        ("MINIO_IDENTITY_OPENID_CONFIG_URL", &document),
        ("MINIO_IDENTITY_OPENID_CLIENT_ID", AUDIENCE),
        ("MINIO_IDENTITY_OPENID_CLIENT_SECRET", &fresh_hex::<8>()),
        ("MINIO_IDENTITY_OPENID_ROLE_POLICY", "readwrite"),
    ]);
    let bucket = minio.new_bucket();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("passphrase"), fresh_hex::<16>()).expect("written");
    let content = random_bytes(1, 20 << 20);
    fs::write(at("file"), &content).expect("written");
    let good = environment(&minio, &issuer.token("good", 3600));
    let volume = format!("s3://{bucket}/volume");
    let passphrase = ["--passphrase-file", &at("passphrase")].map(str::to_owned);
    let [flag, path] = &passphrase;
    let succeeds = |arguments: &[&str]| {
        let (code, out, told) = run(&good, arguments);
        assert_eq!(code, Some(0), "{told}");
        out
    };
    succeeds(&["init", &volume, "--kdf", "raw", flag, path]);
    succeeds(&["push", &at("file"), &format!("{volume}/file"), flag, path]);
    assert!(succeeds(&["cat", &format!("{volume}/file"), flag, path]) == content);
    // The same where scripts call datasafed.
    let datasafed = ["datasafed", "-c", &at("datasafed.conf")].map(str::to_owned);
    let [name, flag, conf] = &datasafed;
    // The second as the templates of KubeBlocks' storage providers render it where no keys are given.
    for keys in ["env_auth = true", "env_auth = false\naccess_key_id = \nsecret_access_key = "] {
        let text = format!(
            "[storage]\ntype = s3\nprovider = Minio\n{keys}\nregion = us-east-1\nendpoint = {}\n\
             root = {bucket}/files\n",
            minio.endpoint
        );
        fs::write(conf, text).expect("written");
        succeeds(&[name, flag, conf, "push", &at("file"), "x"]);
        assert!(succeeds(&[name, flag, conf, "pull", "x", "-"]) == content);
    }

    // Who gives credentials is away: that may pass, and is asked for again as long as a store is.
    let mut away = good.clone();
    away.push(("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9".to_owned()));
    let volume_flag = passphrase[0].as_str();
    let ls = ["ls", &volume, "--io-timeout", "3s", volume_flag, &passphrase[1]];
    let (code, _, told) = run(&away, &ls);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("does not answer") && told.contains("for now"), "{told}");

    let stale = environment(&minio, &issuer.token("stale", -3600));
    let missing = environment(&minio, Path::new("/nowhere/token"));
    let other = Issuer::start();
    let foreign = environment(&minio, &other.token("foreign", 3600));
    for (variables, why) in [(stale, "xpired"), (missing, "/nowhere/token"), (foreign, "")] {
        let token = variables.last().expect("the token's file").1.clone();
        let (code, _, told) = run(&variables, &[name, flag, conf, "list", "/"]);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(why) && told.lines().count() == 1, "{told}");
        // A token is a secret.
        if let Ok(secret) = fs::read_to_string(token) {
            assert!(!told.contains(&secret), "{told}");
        }
    }
}
