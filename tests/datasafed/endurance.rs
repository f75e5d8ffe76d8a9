//! Pushes and pulls that something happens to, and those that are to take no more than they were allowed.

use crate::programs::{Call, Program};
use crate::support::front::{Fate, Front, most_at_once};
use crate::support::{random_bytes, wait_for};
use crate::worlds::{Place, World};
use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn ours(world: &World, arguments: &[&str]) -> Call {
    world.call(Program::Ours, Program::Ours, arguments)
}

fn server(world: &World) -> SocketAddr {
    match &world.minio {
        Some(minio) => minio.endpoint.trim_start_matches("http://").parse().expect("an address"),
        None => world.server.as_ref().expect("a server").address,
    }
}

/// The same by way of somebody who stands before the server.
fn through(world: &World, endpoint: &str, arguments: &[&str]) -> Call {
    let port = |address: &str| format!(":{}", address.rsplit(':').next().expect("a port"));
    let (own, other) = (port(&server(world).to_string()), port(endpoint));
    let conf = world.local("through.conf");
    let text = world.configuration(Program::Ours).replace(&own, &other);
    let (own, other) = (own.replace(':', "port = "), other.replace(':', "port = "));
    let text = text.replace(&own, &other);
    fs::write(&conf, text).expect("written");
    let given = ["-c", conf.to_str().expect("text")];
    let (algorithm, passphrase) = world.encryption.unwrap_or_default();
    Program::Ours.call(given.iter().chain(arguments)).within(world.temporary.path()).envs([
        ("DATASAFED_ENCRYPTION_ALGORITHM", algorithm),
        ("DATASAFED_ENCRYPTION_PASS_PHRASE", passphrase),
    ])
}

#[test]
fn a_push_outlasts_connections_that_break_and_a_server_that_is_busy() {
    const FATES: &[Fate] =
        &[Fate::Breaks(3 << 20), Fate::Busy, Fate::Whole, Fate::Breaks(20 << 20), Fate::Busy];
    let content = random_bytes(7, (60 << 20) + 1);
    for algorithm in [None, Some("AES-256-CFB")] {
        let mut world = World::new(Place::Prefix);
        if let Some(algorithm) = algorithm {
            world = world.encrypted(algorithm);
        }
        let front = Front::before(server(&world), FATES);
        through(&world, &front.endpoint, &["push", "-", "d/x"]).run_with(Some(&content)).good();
        assert!(front.ended() >= 3, "{} connections came to no good", front.ended());
        // The original reads it, and nothing else is there.
        let real = |arguments: &[&str]| world.call(Program::Real, Program::Ours, arguments).run();
        assert!(real(&["pull", "d/x", "-"]).good() == content, "{algorithm:?}");
        assert_eq!(real(&["list", "-r", "-f", "/"]).good(), b"d/x\n");
    }
}

#[test]
fn a_push_that_was_killed_leaves_what_was_there() {
    for place in [Place::Bucket, Place::Directory, Place::Ftp] {
        let world = World::new(place);
        ours(&world, &["push", "-", "x"]).run_with(Some(b"the one before")).good();
        let source = crate::worlds::written(&world.local("source"), &random_bytes(8, 30 << 20));
        // At 40 Mbit/s it takes six seconds; parts of it are stored by then.
        let push = ours(&world, &["push", source.to_str().expect("text"), "x"]);
        let mut command = push.envs([("STRONGROOM_RATE_LIMIT", "40")]).command();
        let mut child = command.stdout(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(Duration::from_secs(3));
        assert!(child.try_wait().expect("ours").is_none(), "{place:?}: it is under way");
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!(ours(&world, &["pull", "x", "-"]).run().good(), b"the one before", "{place:?}");
        let listed = ours(&world, &["list", "-r", "-f", "/"]).run().good();
        assert_eq!(listed, b"x\n", "{place:?}");
        ours(&world, &["push", source.to_str().expect("text"), "x"]).run().good();
        let pulled = ours(&world, &["pull", "x", "-"]).run().good();
        assert!(pulled == fs::read(&source).expect("read"), "{place:?}");
    }
}

#[test]
fn no_more_goes_in_a_second_than_was_allowed() {
    let content = random_bytes(9, 6 << 20);
    for place in [Place::Bucket, Place::Directory, Place::Ftp, Place::Azure] {
        let world = World::new(place);
        let slow = |arguments: &[&str], input: Option<&[u8]>| {
            let begun = Instant::now();
            let call = ours(&world, arguments).envs([("STRONGROOM_RATE_LIMIT", "16Mbps")]);
            (call.run_with(input).good(), begun.elapsed())
        };
        // Six mebibytes at two megabytes a second, the first of them at once.
        let (_, pushed) = slow(&["push", "-", "x"], Some(&content));
        let (back, pulled) = slow(&["pull", "x", "-"], None);
        assert!(back == content, "{place:?}");
        for took in [pushed, pulled] {
            assert!(took > Duration::from_secs(2), "{place:?}: {took:?}");
        }
    }
    let world = World::new(Place::Directory);
    for (name, value) in [("STRONGROOM_RATE_LIMIT", "fast"), ("STRONGROOM_CONCURRENCY", "0")] {
        ours(&world, &["list", "/"]).envs([(name, value)]).run().bad(&[name, value]);
    }
}

#[test]
fn no_more_requests_are_under_way_than_were_allowed() {
    let content = random_bytes(10, 40 << 20);
    for place in [Place::Bucket, Place::Azure, Place::Google, Place::Ftp] {
        let world = World::new(place);
        for (allowed, most_allowed) in [("1", 1..=1), ("", 2..=64)] {
            let (endpoint, most) = most_at_once(server(&world));
            let run = |arguments: &[&str], input| {
                let call = through(&world, &endpoint, arguments);
                call.envs([("STRONGROOM_CONCURRENCY", allowed)]).run_with(input).good()
            };
            run(&["push", "-", "d/x"], Some(&content[..]));
            assert!(run(&["pull", "d/x", "-"], None) == content);
            for directory in 0..8 {
                run(&["push", "-", &format!("{directory}/x")], Some(b"x"));
            }
            let listed = run(&["list", "-r", "-f", "/"], None);
            assert_eq!(listed.iter().filter(|byte| **byte == b'\n').count(), 9, "{place:?}");
            let most = most.load(Ordering::SeqCst);
            assert!(most_allowed.contains(&most), "{place:?}, {allowed:?}: {most} at once");
        }
    }
}

#[test]
fn a_listing_asks_for_no_file_by_itself_unless_its_time_is_wanted() {
    let world = World::new(Place::Prefix);
    for index in 0..30 {
        let path = format!("d{}/{index}", index % 3);
        ours(&world, &["push", "-", &path]).run_with(Some(b"x")).good();
    }
    let front = Front::before(server(&world), &[Fate::Whole]);
    let list = |more: &[&str]| {
        let before = (front.asked("HEAD "), front.asked("GET "));
        let arguments = ["list", "-r", "-f", "/"].iter().chain(more).copied();
        let listed = through(&world, &front.endpoint, &arguments.collect::<Vec<_>>()).run().good();
        assert!(!listed.is_empty());
        (front.asked("HEAD ") - before.0, front.asked("GET ") - before.1)
    };
    let (heads, gets) = list(&[]);
    assert_eq!(heads, 0);
    assert!((1..=5).contains(&gets), "{gets} requests");
    let (heads, gets) = list(&["-o", "json"]);
    assert_eq!(heads, 30, "the time that its writer told is beside each");
    assert!((1..=5).contains(&gets), "{gets} requests");
}

#[test]
fn a_pull_that_was_killed_leaves_no_half_file_under_its_name() {
    let world = World::new(Place::Bucket);
    ours(&world, &["push", "-", "x"]).run_with(Some(&random_bytes(11, 20 << 20))).good();
    let mut command =
        ours(&world, &["pull", "x", "file"]).envs([("STRONGROOM_RATE_LIMIT", "16")]).command();
    let mut child = command.stdout(Stdio::null()).spawn().expect("it starts");
    let begun = || {
        let all = fs::read_dir(world.temporary.path()).expect("read").flatten();
        all.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("strongroom-part"))
    };
    wait_for("the first bytes", begun);
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(!world.local("file").exists(), "half of it");
    ours(&world, &["pull", "x", "file"]).run().good();
    assert_eq!(fs::metadata(world.local("file")).expect("there").len(), 20 << 20);
}
