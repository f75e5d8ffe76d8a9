//! `doctor` against servers that are wrong in one way each: it says how far it came, what stopped it and
//! what to do. Other commands say the same in their one line of error.

mod support;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::authority::Authority;
use support::minio::Minio;
use support::{Backend, Run, Volume, wait_for};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Runs the tool with some variables set, or without them.
fn run(volume: &Volume, arguments: &[&str], variables: &[(&str, Option<&str>)]) -> Run {
    let mut command = volume.command(arguments);
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    volume.run(&mut command, None)
}

/// Asserts what doctor says in which checks, that it fails, and that `ls` fails in the same words.
fn finds(volume: &Volume, variables: &[(&str, Option<&str>)], fine: &[&str], wrong: &[&str]) {
    let diagnosis = run(volume, &["doctor", &volume.url, "--json"], variables);
    let said: serde_json::Value =
        serde_json::from_slice(&diagnosis.output.stdout).expect("doctor prints JSON");
    let rows = said["checks"].as_array().expect("checks");
    let rows: HashMap<&str, (&str, &str)> = rows
        .iter()
        .map(|row| {
            let field = |name: &str| row[name].as_str().expect("text");
            (field("check"), (field("status"), field("finding")))
        })
        .collect();
    for check in fine {
        assert!(rows.get(check).is_some_and(|(status, _)| *status != "fail"), "{check}: {said}");
    }
    let (check, parts) = wrong.split_first().expect("a check");
    let (status, finding) = rows.get(check).unwrap_or_else(|| panic!("no {check}: {said}"));
    assert_eq!(*status, "fail", "{said}");
    for part in parts {
        assert!(finding.contains(part), "{part:?} is not in: {finding}");
    }
    assert_eq!(said["healthy"], false);
    diagnosis.failed_saying(&[check]);

    let lines = run(volume, &["doctor", &volume.url], variables);
    let said = String::from_utf8_lossy(&lines.output.stdout).into_owned();
    lines.failed();
    let line = said.lines().find(|line| line.starts_with(&format!("FAIL  {check}: ")));
    let line = line.unwrap_or_else(|| panic!("{check}: {said}"));
    assert!(parts.iter().all(|part| line.contains(part)), "{said}");
}

/// The line of error of another command.
fn says(volume: &Volume, variables: &[(&str, Option<&str>)], parts: &[&str]) {
    run(volume, &["ls", &volume.url, "--io-timeout", "3s"], variables).failed_saying(parts);
}

#[test]
fn a_healthy_volume_is_healthy() {
    for backend in [Backend::Dir, Backend::Minio] {
        let volume = Volume::new(backend);
        let said = volume.tool(["doctor", &volume.url]).succeeded();
        let mut checks = vec!["write and delete", "conditional writes", "passphrase", "clock"];
        if backend == Backend::Minio {
            checks.extend(["endpoint", "credentials", "bucket"]);
        }
        for check in checks {
            assert!(said.contains(&format!("ok    {check}: ")), "{check}: {said}");
        }
        assert!(!said.contains("FAIL"), "{said}");
    }
    let empty = Volume::place(Backend::Minio);
    let said = empty.tool(["doctor", &empty.url]).succeeded();
    assert!(said.contains("warn  volume: none here yet") && said.contains("init"), "{said}");
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_named() {
    let volume = Volume::place(Backend::Minio);
    let unused = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let endpoint = format!("http://{unused}");
    let nobody = [("AWS_ENDPOINT_URL", Some(&*endpoint))];
    finds(&volume, &nobody, &[], &["endpoint", &endpoint, "refused", "check that the server runs"]);
    says(&volume, &nobody, &[&endpoint, "refused"]);
    let unknown = [("AWS_ENDPOINT_URL", Some("http://no-such-host.invalid:9000"))];
    finds(&volume, &unknown, &[], &["endpoint", "no-such-host.invalid", "host name"]);
}

#[test]
fn credentials_that_are_wrong_are_told_apart() {
    let volume = Volume::place(Backend::Minio);
    let before = ["endpoint", "TLS"];
    let key = [("AWS_ACCESS_KEY_ID", Some("nobody"))];
    finds(&volume, &key, &before, &["credentials", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"]);
    says(&volume, &key, &["access denied", "AWS_ACCESS_KEY_ID"]);
    let secret = [("AWS_SECRET_ACCESS_KEY", Some("not the secret of it"))];
    let wrong = ["credentials", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"];
    finds(&volume, &secret, &before, &wrong);
    says(&volume, &secret, &["access denied", "AWS_SECRET_ACCESS_KEY"]);
    let none = [
        ("AWS_ACCESS_KEY_ID", None),
        ("AWS_SECRET_ACCESS_KEY", None),
        // Where this runs there may be one.
        ("AWS_EC2_METADATA_DISABLED", Some("true")),
    ];
    finds(&volume, &none, &[], &["credentials", "no credentials", "AWS_ACCESS_KEY_ID"]);
    // Nothing was sent, so nothing is known of the endpoint.
    let said = run(&volume, &["doctor", &volume.url], &none).output.stdout;
    assert!(!String::from_utf8_lossy(&said).contains("ok  "));
}

#[test]
fn a_missing_bucket_is_named() {
    let mut volume = Volume::place(Backend::Minio);
    volume.url = "s3://no-such-bucket/volume".to_owned();
    let before = ["endpoint", "credentials"];
    finds(&volume, &[], &before, &["bucket", "no-such-bucket", "create the bucket"]);
    says(&volume, &[], &["no-such-bucket", "create the bucket"]);
}

#[test]
fn a_wrong_or_missing_passphrase_is_told() {
    let volume = Volume::new(Backend::Minio);
    let file = volume.local("wrong");
    fs::write(&file, "0123456789abcdef0123456789abcdef\n").expect("written");
    support::set_mode(&file, 0o600);
    let wrong = [("STRONGROOM_PASSPHRASE_FILE", Some(text(&file)))];
    let before = ["endpoint", "credentials", "bucket", "write and delete", "clock"];
    finds(&volume, &wrong, &before, &["passphrase", "wrong passphrase", "which file"]);
    let none = [("STRONGROOM_PASSPHRASE_FILE", None)];
    finds(&volume, &none, &before, &["passphrase", "--passphrase-file"]);
}

#[test]
fn a_directory_that_is_not_there_or_cannot_be_written_is_told() {
    let mut volume = Volume::place(Backend::Dir);
    volume.url = format!("file://{}", volume.local("nowhere").display());
    finds(&volume, &[], &[], &["settings", "nowhere", "no such directory"]);
    assert!(!volume.local("nowhere").exists(), "looking has made it");

    let volume = Volume::new(Backend::Dir);
    let (store, nothing) = (volume.store(), None::<&Path>);
    mount(Some(&store), &store, nothing, MsFlags::MS_BIND, nothing).expect("bound");
    let _unmount = Unmount(store.clone());
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(nothing, &store, nothing, read_only, nothing).expect("read-only");
    let before = ["directory", "clock", "passphrase", "root directory"];
    finds(&volume, &[], &before, &["write and delete", "read-only", "mount --read-only"]);
}

/// Takes a bind mount away again, also after a failed test.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A server of one answer, whatever is asked.
fn answering(status: &str, seconds_ahead: i64, body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds_ahead);
    let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: application/xml\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut request = [0; 4096];
            let _ = connection.read(&mut request);
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    endpoint
}

#[test]
fn a_clock_that_differs_is_told_also_where_the_store_still_takes_it() {
    let volume = Volume::place(Backend::Minio);
    let refusal = "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the \
                   request time and the server's time is too large.</Message></Error>";
    let endpoint = answering("403 Forbidden", 3600, refusal);
    let skewed = [("AWS_ENDPOINT_URL", Some(&*endpoint))];
    let wrong = ["clock", &endpoint, "clocks differ", "set this machine's clock"];
    finds(&volume, &skewed, &["endpoint"], &wrong);
    says(&volume, &skewed, &["clocks differ", "set this machine's clock"]);

    let empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let endpoint = answering("200 OK", 300, empty);
    let late = [("AWS_ENDPOINT_URL", Some(&*endpoint))];
    let lines = run(&volume, &["doctor", &volume.url], &late);
    let said = String::from_utf8_lossy(&lines.output.stdout).into_owned();
    lines.failed();
    let line = said.lines().find(|line| line.starts_with("FAIL  clock: ")).expect("a line");
    assert!(line.contains(" by -") && line.contains("set this machine's clock"), "{line}");
}

/// A place for a volume on a server that speaks TLS with these certificates.
fn tls_place(certificates: &Path) -> Volume {
    let minio = Arc::new(Minio::start_with(Some(certificates)));
    let mut volume = Volume::place(Backend::Dir);
    volume.url = format!("s3://{}/volume", minio.new_bucket());
    volume.minio = Some(minio);
    volume
}

#[test]
fn tls_with_an_authority_of_ones_own_works_and_without_it_says_what_to_do() {
    let authority = Authority::new();
    let volume = tls_place(&authority.certificate("good", "IP:127.0.0.1", "2"));
    let endpoint = volume.minio.as_ref().expect("a server").endpoint.clone();
    let file = authority.file();
    let trusted = [("AWS_CA_BUNDLE", Some(text(&file)))];
    // It answers before its store is up.
    wait_for("the server's store", || {
        let run = run(&volume, &["doctor", &volume.url], &trusted);
        run.output.status.code() == Some(0)
    });
    let init = ["init", &volume.url, "--kdf", "raw", "--ca-cert", text(&file)];
    run(&volume, &init, &[]).succeeded();
    let said = run(&volume, &["doctor", &volume.url], &trusted).succeeded();
    assert!(said.contains("ok    TLS: the server's certificate is trusted"), "{said}");

    let wrong = ["TLS", &endpoint, "UnknownIssuer", "--ca-cert"];
    finds(&volume, &[], &["endpoint"], &wrong);
    says(&volume, &[], &[&endpoint, "UnknownIssuer", "--ca-cert", "AWS_CA_BUNDLE"]);
    let stranger = Authority::new();
    let stranger_file = stranger.file();
    let stranger = [("AWS_CA_BUNDLE", Some(text(&stranger_file)))];
    says(&volume, &stranger, &[&endpoint, "TLS failed", "--ca-cert"]);

    let plain = endpoint.replace("https://", "http://");
    let plain = [("AWS_ENDPOINT_URL", Some(&*plain))];
    says(&volume, &plain, &["400", "https://"]);
    let garbage = volume.local("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .expect("written");
    let garbage = [("AWS_CA_BUNDLE", Some(text(&garbage)))];
    finds(&volume, &garbage, &[], &["settings", "CA bundle", "garbage.pem"]);
    says(&volume, &garbage, &["CA bundle", "garbage.pem"]);
    let missing = [("AWS_CA_BUNDLE", Some("/no/such/file.pem"))];
    says(&volume, &missing, &["CA bundle", "/no/such/file.pem"]);
}

#[test]
fn an_expired_certificate_and_one_of_another_name_are_told_apart() {
    let authority = Authority::new();
    let file = authority.file();
    let trusted = [("AWS_CA_BUNDLE", Some(text(&file)))];
    let expired = tls_place(&authority.certificate("expired", "IP:127.0.0.1", "-1"));
    let endpoint = expired.minio.as_ref().expect("a server").endpoint.clone();
    finds(&expired, &trusted, &["endpoint"], &["TLS", &endpoint, "xpired", "renew"]);
    says(&expired, &trusted, &[&endpoint, "xpired", "renew"]);
    let named = tls_place(&authority.certificate("named", "DNS:storage.example", "2"));
    let endpoint = named.minio.as_ref().expect("a server").endpoint.clone();
    let wrong = ["TLS", &endpoint, "storage.example", "use a name that is in the certificate"];
    finds(&named, &trusted, &["endpoint"], &wrong);
    says(&named, &trusted, &[&endpoint, "storage.example"]);
}

#[test]
fn tls_to_a_server_that_speaks_none_says_so() {
    let volume = Volume::place(Backend::Minio);
    let endpoint = volume.minio.as_ref().expect("a server").endpoint.replace("http:", "https:");
    let variables = [("AWS_ENDPOINT_URL", Some(&*endpoint))];
    finds(&volume, &variables, &[], &["TLS", &endpoint, "write http://"]);
    says(&volume, &variables, &[&endpoint, "write http://"]);
    assert!(endpoint.contains(&Ipv4Addr::LOCALHOST.to_string()));
}
