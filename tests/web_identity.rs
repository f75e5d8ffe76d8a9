//! Credentials for a token, as pods have one: a real MinIO gives them for a token that an issuer of identities has
//! signed (OpenID Connect; AssumeRoleWithWebIdentity). The issuer is this test: a key, and two documents by HTTP.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use support::issuer::{Issuer, role};
use support::minio::Minio;
use support::{STRONGROOM, fresh_hex, random_bytes};

/// What a pod's environment has in place of keys.
fn environment(minio: &Minio, token: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", minio.endpoint.clone()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ROLE_ARN", role()),
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
    let minio = issuer.store();
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
    // However much is logged, neither the token nor the passphrase is.
    let (_, _, told) = run(&good, &["ls", &volume, "--log", "trace", flag, path]);
    assert!(told.lines().count() > 10, "{told}");
    for file in [good[4].1.as_str(), &at("passphrase")] {
        let secret = fs::read_to_string(file).expect("written");
        assert!(!told.contains(secret.trim()), "{file}: {told}");
    }
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
