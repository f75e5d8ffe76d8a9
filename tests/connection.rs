//! How servers are reached that do not just listen: behind nginx that asks for client certificates, with
//! certificates that are replaced while a mount is in use, by way of proxies, and by name.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use support::authority::Authority;
use support::gate::{Gate, Identity};
use support::minio::Minio;
use support::{Backend, Run, Volume, wait_for};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn run(volume: &Volume, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
    let mut command = volume.command(arguments);
    // Nothing of this machine's ways: a test says all that is to be there.
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.envs(variables.iter().copied());
    volume.run(&mut command, None)
}

/// A place for a volume on the tests' server.
fn place() -> (Volume, Arc<Minio>) {
    let volume = Volume::place(Backend::Minio);
    let minio = volume.minio.clone().expect("a server");
    (volume, minio)
}

#[test]
fn a_server_that_asks_for_a_client_certificate_gets_it_or_the_error_says_so() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (volume, minio) = place();
    let gate = Gate::start(&authority, &clients, &minio.endpoint);
    let identity = Identity::new(&clients);
    let (endpoint, trusted) = (gate.endpoint(), authority.file());
    let (certificate, key) = (identity.certificate(), identity.key());
    let there = [("AWS_ENDPOINT_URL", &*endpoint), ("CA_CERT_PATH", text(&trusted))];
    let init = ["init", &volume.url, "--kdf", "raw"];

    let said = run(&volume, &init, &there).failed();
    assert!(said.contains("--client-cert"), "{said}");

    let flags = ["--client-cert", text(&certificate), "--client-key", text(&key)];
    run(&volume, &[&init[..], &flags].concat(), &there).succeeded();
    let variables = [("CLIENT_CERT_PATH", text(&certificate)), ("CLIENT_KEY_PATH", text(&key))];
    let known = [there, variables].concat();
    run(&volume, &["push", text(&trusted), &volume.at("file")], &known).succeeded();
    let pulled = run(&volume, &["pull", &volume.at("file"), "-"], &known).succeeded_with_bytes();
    assert_eq!(pulled, fs::read(&trusted).expect("read"));

    // Mistakes with the files.
    let other = Identity::new(&clients);
    let other_key = other.key();
    let mistakes: [(&[&str], &[&str]); 4] = [
        (&["--client-key", text(&key)], &["--client-cert", "without its certificate"]),
        (&["--client-cert", text(&certificate), "--client-key", text(&other_key)], &["go with"]),
        (&["--client-cert", "/nowhere/client.crt"], &["/nowhere/client.crt", "cannot read"]),
        (&["--client-cert", text(&certificate)], &["client.crt", "no private key"]),
    ];
    for (flags, parts) in mistakes {
        run(&volume, &[&["ls", &volume.url], flags].concat(), &there).failed_saying(parts);
    }
}

#[test]
fn certificates_that_are_replaced_are_used_by_a_mount_that_stays() {
    let (first, second) = (Authority::new(), Authority::new());
    let (volume, minio) = place();
    let gate = Gate::start(&first, &first, &minio.endpoint);
    let identity = Identity::new(&first);
    let trusted = volume.local("authorities.pem");
    fs::copy(first.file(), &trusted).expect("copied");
    let (endpoint, certificate, key) = (gate.endpoint(), identity.certificate(), identity.key());
    let flags = [
        "--endpoint",
        &endpoint,
        "--ca-cert",
        text(&trusted),
        "--client-cert",
        text(&certificate),
        "--client-key",
        text(&key),
    ];
    run(&volume, &[&["init", &volume.url, "--kdf", "raw"], &flags[..]].concat(), &[]).succeeded();
    let mount = volume.mount_with(&flags);
    fs::write(mount.join("before"), b"before").expect("stored");

    // All of them at once: what the server shows, whom it trusts, whom we trust, who we are.
    identity.replace(&second);
    let next = trusted.with_extension("next");
    fs::copy(second.file(), &next).expect("copied");
    fs::rename(&next, &trusted).expect("renamed");
    gate.replace(&second, &second);

    fs::write(mount.join("after"), b"after").expect("stored with the new certificates");
    assert_eq!(fs::read(mount.join("before")).expect("read"), b"before");
    mount.unmount();
    let listed = run(&volume, &["ls", &volume.url], &[]).succeeded();
    assert!(listed.contains("after"), "{listed}");
}

/// A configuration file of datasafed's.
fn settings(Minio { access_key, secret_key, .. }: &Minio, endpoint: &str, bucket: &str) -> String {
    format!(
        "[storage]\ntype = s3\nprovider = Minio\nenv_auth = false\naccess_key_id = {access_key}\n\
         secret_access_key = {secret_key}\nendpoint = {endpoint}\nroot = {bucket}\nforce_path_style = true\n"
    )
}

#[test]
fn datasafed_trusts_anybody_only_where_it_is_told_to() {
    let authority = Authority::new();
    let folder = authority.certificate("server", "IP:127.0.0.1", "2");
    let minio = Arc::new(Minio::start_with(Some(&folder)));
    let bucket = minio.new_bucket();
    let mut volume = Volume::place(Backend::Dir);
    volume.encrypted = false;
    volume.minio = Some(minio.clone());
    let (conf, file) = (volume.local("datasafed.conf"), volume.local("file"));
    fs::write(&file, support::random_bytes(1, 100_000)).expect("written");
    let write = |unchecked: bool| {
        let text = settings(&minio, &minio.endpoint, &bucket);
        fs::write(&conf, format!("{text}no_check_certificate = {unchecked}\n")).expect("written");
    };
    let push = ["datasafed", "-c", text(&conf), "push", text(&file), "dir/file"];
    write(true);
    wait_for("the server's store", || run(&volume, &push, &[]).output.status.success());
    let pull = ["datasafed", "-c", text(&conf), "pull", "dir/file", "-"];
    let pulled = run(&volume, &pull, &[]).succeeded_with_bytes();
    assert_eq!(pulled, fs::read(&file).expect("read"));
    write(false);
    let refused = run(&volume, &push, &[]).output;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("UnknownIssuer") && said.contains("AWS_CA_BUNDLE"), "{said}");
    let trusted = authority.file();
    run(&volume, &push, &[("CA_CERT_PATH", text(&trusted))]).succeeded();
    // As KubeBlocks copies it into the images of databases: the program, and authorities beside it, under any names,
    // which are trusted beside the image's own. So are those of SSL_CERT_DIR.
    let certs = volume.local("bin/certs");
    fs::create_dir_all(&certs).expect("made");
    fs::write(certs.join("README"), "no certificate").expect("written");
    let program = volume.local("bin/datasafed");
    support::programs::copy(support::STRONGROOM, &program);
    let elsewhere = || {
        let mut command = Command::new(&program);
        command.args(&push[1..]).env_remove("SSL_CERT_DIR").env_remove("SSL_CERT_FILE");
        command.env_remove("AWS_CA_BUNDLE").env_remove("CA_CERT_PATH");
        command.output().expect("it runs").status.success()
    };
    assert!(!elsewhere());
    fs::copy(&trusted, certs.join("of-this-house.pem")).expect("copied");
    assert!(elsewhere());
    run(&volume, &push, &[("SSL_CERT_DIR", text(&certs))]).succeeded();
}

#[test]
fn datasafed_shows_its_certificate_to_a_server_that_asks_for_one() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (volume, minio) = place();
    let gate = Gate::start(&authority, &clients, &minio.endpoint);
    let (identity, conf) = (Identity::new(&clients), volume.local("datasafed.conf"));
    let file = volume.local("file");
    fs::write(&file, support::random_bytes(1, 100_000)).expect("written");
    let settings = settings(&minio, &gate.endpoint(), &minio.new_bucket());
    fs::write(&conf, settings).expect("written");
    let (trusted, file) = (authority.file(), text(&file));
    let there = [("CA_CERT_PATH", text(&trusted))];
    let push = ["datasafed", "-c", text(&conf), "push", file, "dir/file"];
    assert_eq!(run(&volume, &push, &there).output.status.code(), Some(1));
    let (certificate, key) = (identity.certificate(), identity.key());
    let known =
        [("CLIENT_CERT_PATH", text(&certificate)), ("CLIENT_KEY_PATH", text(&key)), there[0]];
    run(&volume, &push, &known).succeeded();
    let pull = [&push[..3], &["pull", "dir/file", "-"]].concat();
    assert!(run(&volume, &pull, &known).succeeded_with_bytes() == fs::read(file).expect("read"));
}

/// A proxy that knows one name, `store.test`, and wants a password.
struct Proxy {
    address: SocketAddr,
    /// The first line of each request, and whether the password was right.
    seen: Arc<Mutex<Vec<(String, bool)>>>,
}

impl Proxy {
    fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let noted = noted.clone();
                std::thread::spawn(move || {
                    let _ = Self::serve(client, upstream, &noted);
                });
            }
        });
        Self { address, seen }
    }

    fn serve(
        mut client: TcpStream,
        upstream: SocketAddr,
        noted: &Mutex<Vec<(String, bool)>>,
    ) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let (mut head, mut first) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if first.is_empty() {
                first.clone_from(&line);
            }
            head.push_str(&line);
        }
        // "user:pass"
        let admitted = head.to_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz");
        noted.lock().expect("whole").push((first.trim().to_owned(), admitted));
        if !first.contains("store.test") || !admitted {
            return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
        }
        let mut server = TcpStream::connect(upstream)?;
        if first.starts_with("CONNECT ") {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        } else {
            // To the server a path, not an address; one request a connection is enough here.
            let head = head.replacen("http://store.test", "", 1).replacen(
                "\r\n",
                "\r\nConnection: close\r\n",
                1,
            );
            server.write_all(format!("{head}\r\n").as_bytes())?;
        }
        let (mut to_client, mut from_server) = (client, server.try_clone()?);
        let back = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_server, &mut to_client);
            let _ = to_client.shutdown(std::net::Shutdown::Both);
        });
        let mut buffer = vec![0; 64 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => server.write_all(&buffer[..read])?,
            }
        }
        let _ = server.shutdown(std::net::Shutdown::Write);
        let _ = back.join();
        Ok(())
    }

    fn url(&self) -> String {
        format!("http://user:pass@{}", self.address)
    }
}

fn address_of(endpoint: &str) -> SocketAddr {
    endpoint.split("//").nth(1).expect("a scheme").parse().expect("an address")
}

#[test]
fn a_plain_endpoint_behind_a_proxy_is_reached_through_it() {
    let (volume, minio) = place();
    let proxy = Proxy::start(address_of(&minio.endpoint));
    let url = proxy.url();
    let behind = [
        ("AWS_ENDPOINT_URL", "http://store.test"),
        ("HTTP_PROXY", &*url),
        ("STRONGROOM_PATH_STYLE", "true"),
    ];
    run(&volume, &["init", &volume.url, "--kdf", "raw"], &behind).succeeded();
    let pushed = volume.tool_with_input(["push", "-", &volume.at("direct")], b"straight");
    pushed.succeeded();
    let pulled = run(&volume, &["pull", &volume.at("direct"), "-"], &behind).succeeded_with_bytes();
    assert_eq!(pulled, b"straight");
    let seen = proxy.seen.lock().expect("whole").clone();
    assert!(seen.len() > 3, "{seen:?}");
    for (line, admitted) in seen {
        assert!(admitted && line.contains(" http://store.test/"), "{line}");
    }
    // This machine's own servers are not reached by a proxy, nor what NO_PROXY names.
    let before = proxy.seen.lock().expect("whole").len();
    run(&volume, &["ls", &volume.url], &[("HTTP_PROXY", &url)]).succeeded();
    let excepted =
        [&behind[..], &[("NO_PROXY", ".test"), ("STRONGROOM_IO_TIMEOUT", "1s")]].concat();
    run(&volume, &["ls", &volume.url], &excepted).failed_saying(&["store.test"]);
    assert_eq!(proxy.seen.lock().expect("whole").len(), before);
}

#[test]
fn an_endpoint_with_tls_behind_a_proxy_is_reached_by_a_tunnel() {
    let authority = Authority::new();
    let folder = authority.certificate("server", "DNS:store.test,IP:127.0.0.1", "2");
    let minio = Arc::new(Minio::start_with(Some(&folder)));
    let mut volume = Volume::place(Backend::Dir);
    volume.url = format!("s3://{}/volume", minio.new_bucket());
    let proxy = Proxy::start(address_of(&minio.endpoint));
    volume.minio = Some(minio);
    let (url, trusted) = (proxy.url(), authority.file());
    let behind = [
        ("AWS_ENDPOINT_URL", "https://store.test"),
        ("HTTPS_PROXY", &*url),
        ("STRONGROOM_PATH_STYLE", "true"),
        ("AWS_CA_BUNDLE", text(&trusted)),
    ];
    wait_for("the server's store", || {
        run(&volume, &["doctor", &volume.url], &behind).output.status.code() == Some(0)
    });
    run(&volume, &["init", &volume.url, "--kdf", "raw"], &behind).succeeded();
    let seen = proxy.seen.lock().expect("whole").clone();
    for (line, admitted) in &seen {
        assert!(*admitted && line.starts_with("CONNECT store.test:443 "), "{line}");
    }
    let without = url.replace("user:pass@", "");
    let denied = [&behind[..], &[("HTTPS_PROXY", &*without), ("STRONGROOM_IO_TIMEOUT", "1s")]];
    run(&volume, &["ls", &volume.url], &denied.concat()).failed_saying(&["proxy"]);
}

#[test]
fn a_server_is_found_by_its_name() {
    let (volume, minio) = place();
    let named = minio.endpoint.replace("127.0.0.1", "localhost");
    let there = [("AWS_ENDPOINT_URL", &*named)];
    run(&volume, &["init", &volume.url, "--kdf", "raw"], &there).succeeded();
    let nowhere =
        [("AWS_ENDPOINT_URL", "http://no-such-host.invalid"), ("STRONGROOM_IO_TIMEOUT", "1s")];
    run(&volume, &["ls", &volume.url], &nowhere)
        .failed_saying(&["no-such-host.invalid", "name service"]);
}

#[test]
fn where_the_system_has_no_authorities_plain_servers_are_reached_and_others_say_why_not() {
    let (volume, minio) = place();
    let none = volume.local("none");
    fs::create_dir(&none).expect("made");
    let without = [("SSL_CERT_FILE", "/nowhere"), ("SSL_CERT_DIR", text(&none))];
    let plain = [&without[..], &[("AWS_ENDPOINT_URL", &*minio.endpoint)]].concat();
    run(&volume, &["init", &volume.url, "--kdf", "raw"], &plain).succeeded();
    run(&volume, &["ls", &volume.url], &plain).succeeded();
    let authority = Authority::new();
    let gate = Gate::start(&authority, &authority, &minio.endpoint);
    let endpoint = gate.endpoint();
    let safe = [("AWS_ENDPOINT_URL", &*endpoint), ("STRONGROOM_IO_TIMEOUT", "2s")];
    run(&volume, &["ls", &volume.url], &[&without[..], &safe].concat())
        .failed_saying(&["no certificate authorities", "--ca-cert"]);
}

/// What /etc/hosts names is not asked of a name server, which may be away: not for its other addresses either.
#[test]
fn a_host_that_only_etc_hosts_names_is_found_while_no_name_server_answers() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("hosts"), "127.0.0.1 store.test\n").expect("written");
    std::fs::write(at("resolv.conf"), "nameserver 127.0.0.1\n").expect("written");
    // In a name space of its own, so that nobody else sees the files.
    let script = "mount --bind \"$1/hosts\" /etc/hosts && mount --bind \"$1/resolv.conf\" /etc/resolv.conf && \
                  exec \"$2\" ls s3://bucket/volume --path-style --endpoint http://store.test:9 --io-timeout 2s";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(directory.path())
        .arg(support::STRONGROOM);
    command.env_clear().envs([("PATH", std::env::var("PATH").expect("set"))]);
    command.envs([("AWS_ACCESS_KEY_ID", "of-a-test"), ("AWS_SECRET_ACCESS_KEY", "of-a-test")]);
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("refused"), "{said}");
}
