//! A service account of Google's: what is signed with its key is what gets a token, and the token goes with every
//! request. The server that gives tokens is this test, behind a proxy that leads Google's name to it.

use crate::programs::Program;
use crate::support::authority::Authority;
use crate::worlds::{Place, World};
use data_encoding::BASE64URL_NOPAD;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

const NAME: &str = "oauth2.googleapis.com";

fn openssl(folder: &Path, arguments: &[&str]) -> bool {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output();
    output.expect("openssl starts").status.success()
}

/// Gives a token for every assertion, and notes them: by way of a proxy, with a certificate of Google's name.
fn tokens(certificate: &Path, token: String) -> (String, Arc<Mutex<Vec<String>>>) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::from_pem_file(certificate.join("public.crt")).expect("read");
    let key = PrivateKeyDer::from_pem_file(certificate.join("private.key")).expect("read");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("its own versions")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("they belong together");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let proxy = format!("http://{}", listener.local_addr().expect("bound"));
    let noted = Arc::new(Mutex::new(Vec::new()));
    let notes = noted.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut line = String::new();
            // Byte by byte: what follows is TLS.
            while !line.ends_with("\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("a request");
                line.push(byte[0].into());
            }
            assert!(line.starts_with(&format!("CONNECT {NAME}:443 ")), "{line}");
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("sent");
            let connection = rustls::ServerConnection::new(config.clone()).expect("a connection");
            let mut reader = BufReader::new(rustls::StreamOwned::new(connection, client));
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a header");
                let lower = line.to_lowercase();
                if let Some(text) = lower.strip_prefix("content-length:") {
                    length = text.trim().parse().expect("a number");
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            let body = String::from_utf8(body).expect("text");
            notes.lock().expect("no thread failed").push(body);
            let answer = format!(
                "{{\"access_token\":\"{token}\",\"expires_in\":3600,\"token_type\":\"Bearer\"}}"
            );
            let stream = reader.get_mut();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{answer}",
                answer.len()
            )
            .expect("sent");
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (proxy, noted)
}

#[test]
fn a_service_account_signs_for_a_token_that_goes_with_every_request() {
    let world = World::new(Place::Google);
    let folder = world.temporary.path();
    assert!(openssl(folder, &["genpkey", "-algorithm", "RSA", "-out", "key.pem"]));
    assert!(openssl(folder, &["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"]));
    let key = fs::read_to_string(folder.join("key.pem")).expect("read");
    let account = "backup@project.iam.gserviceaccount.com";
    let json = serde_json::json!({
        "type": "service_account", "project_id": "project", "private_key_id": "1",
        "private_key": key, "client_email": account, "client_id": "1",
        "token_uri": format!("https://{NAME}/token"),
    });
    fs::write(folder.join("account.json"), json.to_string()).expect("written");
    let authority = Authority::new();
    let certificate = authority.certificate("google", &format!("DNS:{NAME}"), "2");
    let token = crate::support::fresh_hex::<20>();
    let (proxy, noted) = tokens(&certificate, token.clone());
    let conf = world.configuration(Program::Ours);
    let of_file = conf.replace("anonymous = true", "service_account_file = account.json");
    // In a value of the INI's, `#` and line ends need quoting.
    let inline = conf
        .replace("anonymous = true", &format!("service_account_credentials = \"\"\"{json}\"\"\""));
    for (number, conf) in [of_file, inline].into_iter().enumerate() {
        let path = world.local("account.conf");
        fs::write(&path, conf).expect("written");
        let run = |arguments: &[&str], input| {
            let given = ["-c", path.to_str().expect("text")];
            let call = Program::Ours.call(given.iter().chain(arguments)).within(folder);
            let variables = [
                ("HTTPS_PROXY", proxy.clone()),
                ("AWS_CA_BUNDLE", authority.file().display().to_string()),
            ];
            call.envs(variables).run_with(input)
        };
        run(&["push", "-", "x"], Some(b"content".as_slice())).good();
        assert_eq!(run(&["pull", "x", "-"], None).good(), b"content");
        let noted = std::mem::take(&mut *noted.lock().expect("no thread failed"));
        // One for each run.
        assert_eq!(noted.len(), 2, "{number}: {noted:?}");
        for body in noted {
            let assertion = body.split('&').find_map(|pair| pair.strip_prefix("assertion="));
            let assertion = assertion.expect("an assertion").to_owned();
            let (signed, signature) = assertion.rsplit_once('.').expect("a signature");
            let (_, claims) = signed.split_once('.').expect("claims");
            let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).expect("base 64");
            let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
            assert_eq!(claims["iss"], account);
            let scope = claims["scope"].as_str().expect("a scope");
            assert!(scope.ends_with("/auth/devstorage.read_write"), "{scope}");
            let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).expect("base 64");
            fs::write(folder.join("signed"), signed).expect("written");
            fs::write(folder.join("signature"), signature).expect("written");
            let verify =
                ["dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "signed"];
            assert!(openssl(folder, &verify), "signed by another key");
        }
    }
    let seen =
        crate::google_parts::authorizations(world.server.as_ref().expect("a server").address);
    let bearer = format!("Bearer {token}");
    assert!(seen.len() >= 8 && seen.iter().all(|seen| *seen == bearer), "{seen:?}");
}
