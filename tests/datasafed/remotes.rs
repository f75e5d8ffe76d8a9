//! Servers that do not speak S3: large files, TLS, servers that break off, and what cannot be done.

use crate::programs::{Outcome, Program};
use crate::servers::{ACCOUNT, Secured, Server};
use crate::support::authority::Authority;
use crate::support::random_bytes;
use crate::worlds::{Place, World};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Every kind of server.
const REMOTES: [Place; 4] = [Place::Ftp, Place::OldFtp, Place::Azure, Place::Google];

fn ours(world: &World, arguments: &[&str]) -> crate::programs::Call {
    world.call(Program::Ours, Program::Ours, arguments)
}

/// Ours with a configuration of its own.
fn with_conf(world: &World, text: &str, arguments: &[&str]) -> Outcome {
    let conf = world.local("given.conf");
    fs::write(&conf, text).expect("written");
    let given = ["-c", conf.to_str().expect("text")];
    Program::Ours.call(given.iter().chain(arguments)).within(world.temporary.path()).run()
}

#[test]
fn files_in_many_parts_come_back_from_either_program() {
    let content = random_bytes(1, (45 << 20) + 12_345);
    for place in REMOTES {
        for world in [World::new(place), World::new(place).encrypted("AES-256-CFB")] {
            ours(&world, &["push", "-", "deep/er/ours"]).run_with(Some(&content)).good();
            for program in crate::programs::BOTH {
                let call = world.call(program, Program::Ours, ["pull", "deep/er/ours", "-"]);
                assert!(call.run().good() == content, "{place:?} {program:?}");
            }
            let call = world.call(Program::Real, Program::Ours, ["push", "-", "theirs"]);
            call.run_with(Some(&content)).good();
            assert!(ours(&world, &["pull", "theirs", "-"]).run().good() == content, "{place:?}");
            let list = ours(&world, &["list", "-r", "-f", "/"]).run().good();
            let mut lines: Vec<&str> = std::str::from_utf8(&list).expect("text").lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["deep/er/ours", "theirs"], "{place:?}");
        }
    }
}

#[test]
fn a_producer_that_died_leaves_what_was_there() {
    for place in REMOTES {
        let world = World::new(place);
        ours(&world, &["push", "-", "x"]).run_with(Some(b"before")).good();
        let long = random_bytes(2, 20 << 20);
        for half in [&long[..], &long[..1000]] {
            let push = ["push", "--expect-size", "20971521", "-", "x"];
            ours(&world, &push).run_with(Some(half)).bad(&["instead of 20971521"]);
        }
        assert_eq!(ours(&world, &["pull", "x", "-"]).run().good(), b"before", "{place:?}");
        assert_eq!(ours(&world, &["list", "-r", "/"]).run().good(), b"x\n", "{place:?}");
        if place.is_ftp() {
            // Nothing half done, nor anything beside it.
            let names = fs::read_dir(world.directory(Program::Ours)).expect("listed");
            assert_eq!(names.count(), 1);
        }
    }
}

/// nobody may read along: by AUTH TLS, and from the first byte on.
#[test]
fn ftp_goes_by_tls_with_an_authority_of_ones_own() {
    let world = World::new(Place::Directory);
    let authority = Authority::new();
    let folder = authority.certificate("server", "DNS:localhost,IP:127.0.0.1", "2");
    let both = world.local("both.pem");
    let pem = ["private.key", "public.crt"].map(|file| fs::read(folder.join(file)).expect("read"));
    fs::write(&both, pem.concat()).expect("written");
    let content = random_bytes(3, 3 << 20);
    for (secured, way) in [
        (Secured::Explicit(&both), "explicit_tls = true"),
        (Secured::Implicit(&both), "tls = true"),
    ] {
        let server = Server::ftp(secured);
        let conf = conf_of(&server, way);
        let file = world.local("tls.conf");
        fs::write(&file, &conf).expect("written");
        let run = |arguments: &[&str], authorities: Option<&Path>, input| {
            let given = ["-c", file.to_str().expect("text")];
            let call = Program::Ours.call(given.iter().chain(arguments));
            let authorities = authorities.map(|path| ("AWS_CA_BUNDLE", path.to_owned()));
            call.envs(authorities).run_with(input)
        };
        let trusted = authority.file();
        run(&["push", "-", "d/x"], Some(&trusted), Some(&content)).good();
        assert!(run(&["pull", "d/x", "-"], Some(&trusted), None).good() == content, "{way}");
        assert_eq!(run(&["list", "-r", "-f", "/"], Some(&trusted), None).good(), b"d/x\n");
        let other = Authority::new();
        let told = run(&["list", "/"], Some(&other.file()), None);
        told.bad(&["TLS failed", "AWS_CA_BUNDLE"]);
        // Neither is anything said in the clear where TLS was asked for, nor the other way round.
        let plain = with_conf(&world, &conf.replace(way, "tls = false"), &["list", "/"]);
        plain.bad(&["localhost"]);
        let unverified = format!("{conf}no_check_certificate = true\n");
        with_conf(&world, &unverified, &["list", "/"]).good();
    }
    let plain = Server::ftp(Secured::No);
    let told = with_conf(&world, &conf_of(&plain, "explicit_tls = true"), &["list", "/"]);
    told.bad(&["localhost"]);
}

fn conf_of(server: &Server, more: &str) -> String {
    let Server { address, user, password, .. } = server;
    format!(
        "[storage]\ntype = ftp\nhost = localhost\nport = {}\nuser = {user}\npass.need_obscure = {password}\n{more}\n",
        address.port()
    )
}

#[test]
fn a_server_of_ftp_that_breaks_off_is_asked_for_the_rest() {
    for encryption in [None, Some("AES-256-CFB")] {
        let mut world = World::new(Place::Ftp);
        if let Some(algorithm) = encryption {
            world = world.encrypted(algorithm);
        }
        let content = random_bytes(4, 64 << 20);
        ours(&world, &["push", "-", "x"]).run_with(Some(&content)).good();
        let command = ours(&world, &["pull", "x", "-"]).command();
        let mut child = { command }.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut pipe = child.stdout.take().expect("a pipe");
        let mut pulled = vec![0; 8 << 20];
        pipe.read_exact(&mut pulled).expect("it comes");
        world.server.as_mut().expect("a server").restart();
        pipe.read_to_end(&mut pulled).expect("it comes");
        assert!(child.wait().expect("it ends").success());
        assert!(pulled == content, "{encryption:?}");
    }
}

/// Stands before a server, and ends the first connections when so many bytes have come back by them; how many it
/// has ended.
fn breaking(server: SocketAddr, connections: usize, bytes: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let broken = Arc::new(AtomicUsize::new(0));
    let count = broken.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let count = count.clone();
            std::thread::spawn(move || {
                let server = TcpStream::connect(server).expect("it is there");
                let (mut up, mut asked) = (
                    server.try_clone().expect("a second handle"),
                    client.try_clone().expect("a second handle"),
                );
                std::thread::spawn(move || std::io::copy(&mut asked, &mut up));
                let mut head = Read::take(&server, bytes as u64);
                let mut client = &client;
                let came = std::io::copy(&mut head, &mut client).unwrap_or(0);
                if came == bytes as u64 && count.fetch_add(1, Ordering::SeqCst) >= connections {
                    count.fetch_sub(1, Ordering::SeqCst);
                    let _ = std::io::copy(&mut &server, &mut client);
                }
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    (endpoint, broken)
}

#[test]
fn a_body_that_breaks_off_is_asked_for_again_from_where_it_ended() {
    let content = random_bytes(6, 24 << 20);
    for place in [Place::Azure, Place::Google] {
        let world = World::new(place);
        ours(&world, &["push", "-", "x"]).run_with(Some(&content)).good();
        let server = world.server.as_ref().expect("a server");
        let (endpoint, broken) = breaking(server.address, 3, 2 << 20);
        let conf = world.configuration(Program::Ours).replace(&server.endpoint(), &endpoint);
        let pulled = with_conf(&world, &conf, &["pull", "x", "-"]).good();
        assert!(pulled == content, "{place:?}");
        assert_eq!(broken.load(Ordering::SeqCst), 3, "{place:?}");
    }
}

#[test]
fn a_file_that_was_replaced_meanwhile_is_not_mixed_with_the_other() {
    let mut world = World::new(Place::Ftp);
    let content = random_bytes(5, 64 << 20);
    ours(&world, &["push", "-", "x"]).run_with(Some(&content)).good();
    let mut child = { ours(&world, &["pull", "x", "-"]).command() }
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut pipe = child.stdout.take().expect("a pipe");
    pipe.read_exact(&mut vec![0; 8 << 20]).expect("it comes");
    let mut other = fs::File::create(world.directory(Program::Ours).join("y")).expect("made");
    other.write_all(&content[1..]).expect("written");
    fs::rename(world.directory(Program::Ours).join("y"), world.directory(Program::Ours).join("x"))
        .expect("renamed");
    world.server.as_mut().expect("a server").restart();
    std::io::copy(&mut pipe, &mut std::io::sink()).expect("it ends");
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("was replaced by somebody else"), "{told}");
}

#[test]
fn wrong_credentials_and_places_are_told_without_the_secret() {
    let list = &["list", "x"];
    let ftp = World::new(Place::Ftp);
    let conf = ftp.configuration(Program::Ours);
    let server = ftp.server.as_ref().expect("a server");
    let wrong = conf.replace(&server.password, "guessed-wrong");
    let told = with_conf(&ftp, &wrong, list);
    told.bad(&["access denied", "storage.user and storage.pass"]);
    assert!(!told.stderr.contains("guessed-wrong"), "{}", told.stderr);
    let plain = conf.replace("pass.need_obscure", "pass");
    with_conf(&ftp, &plain, list).bad(&["storage.pass is not obscured", "pass.need_obscure"]);
    with_conf(&ftp, &conf.replace("port = ", "port = x"), list).bad(&["storage.port", "number"]);
    with_conf(&ftp, &conf.replace("tls = false", "tsl = false"), list).bad(&["is tls meant?"]);
    with_conf(&ftp, &format!("{conf}socks_proxy = x\n"), list).bad(&["socks_proxy", "take it out"]);

    let azure = World::new(Place::Azure);
    let conf = azure.configuration(Program::Ours);
    let wrong = conf.replace(ACCOUNT.1, "Z3Vlc3NlZC13cm9uZw==");
    let told = with_conf(&azure, &wrong, list);
    told.bad(&["access denied", "storage.key"]);
    assert!(!told.stderr.contains("Z3Vlc3NlZC13cm9uZw"), "{}", told.stderr);
    let cut = conf.replace(ACCOUNT.1, "not base 64");
    let told = with_conf(&azure, &cut, list);
    told.bad(&["not in base 64"]);
    assert!(!told.stderr.contains("not base 64\""), "{}", told.stderr);
    let bucket = azure.bucket(Program::Ours);
    let missing = conf.replace(&format!("root = {bucket}"), "root = no-such-container");
    with_conf(&azure, &missing, list).bad(&["directory not found"]);
    fs::write(azure.local("file"), "1").expect("written");
    with_conf(&azure, &missing, &["push", "file", "x"]).bad(&["no such bucket"]);
    with_conf(&azure, &format!("{conf}sas_url = x\n"), list).bad(&["storage.sas_url"]);
    with_conf(&azure, &conf.replace("http://", "https://"), list).bad(&["TLS failed"]);

    let google = World::new(Place::Google);
    let conf = google.configuration(Program::Ours);
    let none = conf.replace("anonymous = true\n", "");
    with_conf(&google, &none, list).bad(&["service_account_file", "anonymous = true"]);
    let broken = conf.replace("anonymous = true", "service_account_credentials = secret");
    let told = with_conf(&google, &broken, list);
    told.bad(&["not the JSON file of a service account"]);
    assert!(!told.stderr.contains("secret"), "{}", told.stderr);
    let file = conf.replace("anonymous = true", "service_account_file = /nowhere.json");
    with_conf(&google, &file, list).bad(&["/nowhere.json", "No such file"]);
    let missing = conf.replace(google.bucket(Program::Ours), "no-such-bucket");
    fs::write(google.local("file"), "1").expect("written");
    with_conf(&google, &missing, &["push", "file", "x"]).bad(&["no such bucket"]);
}

#[test]
fn what_a_server_of_ftp_does_not_allow_is_told_and_changes_nothing() {
    // Neither renaming, nor removing.
    let server = Server::ftp_allowing(Secured::No, "elramwMT");
    let world = World::new(Place::Directory);
    let conf = conf_of(&server, "tls = false");
    fs::write(server.files().join("x"), "before").expect("written");
    let file = world.local("file");
    fs::write(&file, "after").expect("written");
    let told = with_conf(&world, &conf, &["push", "file", "x"]);
    assert_eq!(told.code, Some(1), "{}", told.text());
    with_conf(&world, &conf, &["rm", "x"]).bad(&["denied"]);
    assert_eq!(fs::read(server.files().join("x")).expect("there"), b"before");
}

#[test]
fn a_push_whose_container_goes_away_ends_though_its_parts_hold_all_memory() {
    let world = World::new(Place::Azure);
    // Parts of 57 MiB: one that fails, and was not asked for, holds half the memory.
    let push = ["push", "--expect-size", "3000000000000", "-", "x"];
    let mut child = { ours(&world, &push).command() }
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    let block = random_bytes(6, 4 << 20);
    for _ in 0..20 {
        pipe.write_all(&block).expect("it reads");
    }
    // The original's way to remove the container too.
    world.call(Program::Real, Program::Ours, ["rm", "-r", "/"]).run();
    let feeder = std::thread::spawn(move || while pipe.write_all(&block).is_ok() {});
    let started = std::time::Instant::now();
    let output = child.wait_with_output().expect("it ends");
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("no such bucket") && told.lines().count() == 1, "{told}");
    feeder.join().expect("it ends");
}

#[test]
fn servers_that_are_not_there_are_named() {
    let list = &["list", "x"];
    let (ftp, azure) = (World::new(Place::Ftp), World::new(Place::Azure));
    let conf = ftp.configuration(Program::Ours);
    let port = ftp.server.as_ref().expect("a server").address.port();
    let nobody = conf.replace(&format!("port = {port}"), "port = 9");
    let nowhere = conf.replace("host = 127.0.0.1", "host = nowhere.invalid");
    let address = azure.server.as_ref().expect("a server").address.to_string();
    let endpoint = azure.configuration(Program::Ours).replace(&address, "127.0.0.1:9");
    // Half a minute each.
    std::thread::scope(|scope| {
        let other = World::new(Place::Directory);
        scope.spawn(|| {
            with_conf(&ftp, &nobody, list).bad(&["endpoint cannot be reached", "storage.host"]);
        });
        scope.spawn(|| {
            with_conf(&azure, &endpoint, list)
                .bad(&["endpoint cannot be reached", "storage.endpoint"]);
        });
        scope.spawn(move || {
            with_conf(&other, &nowhere, list).bad(&["nowhere.invalid", "storage.host"]);
        });
    });
}

#[test]
fn names_that_a_server_cannot_have_are_refused() {
    for place in [Place::Azure, Place::Google] {
        let world = World::new(place);
        for name in [" blank", "blank "] {
            let told = ours(&world, &["push", "-", name]).run_with(Some(b"x"));
            told.bad(&["no blank at either end"]);
        }
    }
    let world = World::new(Place::Ftp);
    ours(&world, &["push", "-", "two\nlines"]).run_with(Some(b"x")).bad(&["line ends"]);
    for name in [" blank", "semi;colon", "*", "-r", "a=b; c"] {
        ours(&world, &["push", "-", "--", name]).run_with(Some(b"x")).good();
        assert_eq!(ours(&world, &["pull", "--", name, "-"]).run().good(), b"x", "{name:?}");
    }
    let list = ours(&world, &["list", "/"]).run().text();
    assert_eq!(list, " blank\n*\n-r\na=b; c\nsemi;colon\n");
}
