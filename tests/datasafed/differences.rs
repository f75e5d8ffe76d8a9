//! What ours does otherwise on purpose: see docs/datasafed.md.

use crate::programs::Program;
use crate::stored;
use crate::worlds::{Place, World};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_bucket_is_neither_made_nor_removed() {
    let world = World::new(Place::Bucket);
    let bucket = world.bucket(Program::Ours);
    let missing = format!("{bucket}-none");
    let call = |arguments: &[&str]| {
        let conf = world.local("other.conf");
        let text = world.configuration(Program::Ours);
        let text = text.replace(&format!("root = {bucket}"), &format!("root = {missing}"));
        fs::write(&conf, text.replace("no_check_bucket = true", "no_check_bucket = false"))
            .expect("written");
        Program::Ours.call(["-c", conf.to_str().expect("text")].iter().chain(arguments))
    };
    assert_eq!(call(&["push", "-", "x"]).run_with(Some(b"1")).code, Some(1));
    call(&["mkdir", "x"]).run().good();
    assert_eq!(call(&["list", "x"]).run().code, Some(1), "there is no such bucket still");
    let ours = |arguments: &[&str]| world.call(Program::Ours, Program::Ours, arguments);
    ours(&["push", "-", "a/b"]).run_with(Some(b"1")).good();
    ours(&["rm", "-r", "/"]).run().good();
    ours(&["rmdir", "/"]).run().good();
    ours(&["push", "-", "x"]).run_with(Some(b"1")).good();
    assert_eq!(ours(&["list", "-r", "/"]).run().good(), b"x\n");
}

#[test]
fn a_missing_object_leaves_the_local_file_alone() {
    for world in [World::new(Place::Bucket), World::new(Place::Directory)] {
        let target = world.local("there");
        fs::write(&target, "the former one").expect("written");
        let pull = |local: &str| world.call(Program::Ours, Program::Ours, ["pull", "none", local]);
        pull("there").run().bad(&["pull \"none\": object not found"]);
        assert_eq!(fs::read_to_string(&target).expect("there"), "the former one");
        pull("new").run().bad(&["object not found"]);
        assert!(!world.local("new").exists());
    }
}

#[test]
fn a_pulled_file_keeps_its_mode_and_pipes_stay_pipes() {
    let world = World::new(Place::Bucket);
    let ours = |arguments: &[&str]| world.call(Program::Ours, Program::Ours, arguments);
    ours(&["push", "-", "x"]).run_with(Some(b"content")).good();
    let target = world.local("there");
    fs::write(&target, "the former one").expect("written");
    fs::set_permissions(&target, PermissionsExt::from_mode(0o600)).expect("set");
    std::os::unix::fs::symlink("there", world.local("link")).expect("linked");
    ours(&["pull", "x", "link"]).run().good();
    assert_eq!(fs::read_to_string(&target).expect("there"), "content");
    assert_eq!(fs::metadata(&target).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(fs::symlink_metadata(world.local("link")).expect("there").is_symlink());
    let pipe = world.local("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).expect("read")
    });
    ours(&["pull", "x", "pipe"]).run().good();
    assert_eq!(reader.join().expect("it read"), "content");
    assert!(fs::metadata(&pipe).expect("there").file_type().is_fifo());
}

#[test]
fn a_push_that_is_ended_leaves_nothing() {
    let places =
        [Place::Bucket, Place::Mounted, Place::Ftp, Place::OldFtp, Place::Azure, Place::Google];
    for world in places.map(World::new) {
        let call = world.call(Program::Ours, Program::Ours, ["push", "-", "x"]);
        let mut child = call.command().stdin(Stdio::piped()).spawn().expect("it starts");
        let mut pipe = child.stdin.take().expect("a pipe");
        // Enough for an upload in parts to have begun.
        pipe.write_all(&crate::support::random_bytes(1, 30 << 20)).expect("it reads");
        std::thread::sleep(Duration::from_millis(300));
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        assert_eq!(child.wait().expect("it ends").code(), Some(143));
        drop(pipe);
        assert!(stored::files(&world, Program::Ours).is_empty());
    }
}

/// The most memory that a process had, in bytes.
fn peak_of_push(world: &World, arguments: &[&str], mib: usize) -> u64 {
    let call = world.call(Program::Ours, Program::Ours, arguments);
    let mut child = call.command().stdin(Stdio::piped()).spawn().expect("it starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    let block = crate::support::random_bytes(9, 1 << 20);
    for _ in 0..mib - 1 {
        pipe.write_all(&block).expect("it reads");
    }
    // Everything but the last part is on its way; the process is asked before it ends.
    let mut status = String::new();
    let path = format!("/proc/{}/status", child.id());
    File::open(path).and_then(|mut file| file.read_to_string(&mut status)).expect("it runs");
    pipe.write_all(&block).expect("it reads");
    drop(pipe);
    assert!(child.wait().expect("it ends").success());
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let kib = peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kib << 10
}

#[test]
fn a_push_takes_at_most_150_mib_of_memory() {
    let world = World::new(Place::Bucket).encrypted("AES-256-CFB");
    let peak = peak_of_push(&world, &["push", "-", "x"], 600);
    assert!(peak <= 150 << 20, "{peak}");
    let peak = peak_of_push(&world, &["push", "-z", "zstd", "-", "y"], 300);
    assert!(peak <= 150 << 20, "{peak}");
    let size = world.call(Program::Ours, Program::Ours, ["list", "-o", "long", "x"]).run().good();
    let size = String::from_utf8_lossy(&size).split('\t').nth(1).expect("a size").to_owned();
    assert_eq!(size, (600_u64 << 20).to_string());
}

#[test]
fn parts_that_are_too_large_for_memory_are_not_in_memory() {
    const MIB: usize = 2_100;
    let world = World::new(Place::Bucket).encrypted("AES-256-CFB");
    // Twenty parts, of which the last one has more than 700 MiB.
    let few = format!("{}max_upload_parts = 20\n", world.configuration(Program::Ours));
    fs::write(world.local("Ours.conf"), few).expect("written");
    let peak = peak_of_push(&world, &["push", "-", "x"], MIB);
    assert!(peak <= 150 << 20, "{peak}");
    // Parts of 54 MiB, of which no two have room: the first one does not wait for the second.
    let known = ["push", "--expect-size", "1073741824", "-", "y"];
    let peak = peak_of_push(&world, &known, 1024);
    assert!(peak <= 150 << 20, "{peak}");
    let block = crate::support::random_bytes(9, 1 << 20);
    let pull = world.call(Program::Ours, Program::Ours, ["pull", "x", "-"]);
    let mut child = pull.command().spawn().expect("it starts");
    let mut pipe = child.stdout.take().expect("a pipe");
    let mut pulled = vec![0; block.len()];
    for number in 0..MIB {
        pipe.read_exact(&mut pulled).expect("so much was pushed");
        assert!(pulled == block, "MiB {number}");
    }
    assert_eq!(pipe.read(&mut pulled).expect("the end"), 0);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_pull_goes_on_where_the_connection_broke() {
    let world = World::new(Place::Bucket).encrypted("AES-256-CFB");
    let content = crate::support::random_bytes(4, 40 << 20);
    world.call(Program::Ours, Program::Ours, ["push", "-", "x"]).run_with(Some(&content)).good();
    let breaking = Breaking::before(&world);
    let conf = world.local("breaking.conf");
    let endpoint = world.minio.as_ref().expect("a server").endpoint.clone();
    let text = world.configuration(Program::Ours).replace(&endpoint, &breaking.endpoint);
    fs::write(&conf, text).expect("written");
    let (algorithm, passphrase) = world.encryption.expect("encrypted");
    let call = Program::Ours.call(["-c", conf.to_str().expect("text"), "pull", "x", "-"]).envs([
        ("DATASAFED_ENCRYPTION_ALGORITHM", algorithm),
        ("DATASAFED_ENCRYPTION_PASS_PHRASE", passphrase),
    ]);
    assert!(call.run().good() == content);
    assert!(breaking.broken() >= 3, "{} connections were broken", breaking.broken());
}

/// A server before the real one that breaks every other connection after 5 MB.
struct Breaking {
    endpoint: String,
    count: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Breaking {
    fn before(world: &World) -> Self {
        use std::net::{TcpListener, TcpStream};
        use std::sync::atomic::Ordering;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = world.minio.as_ref().expect("a server").endpoint.clone();
        let server = server.trim_start_matches("http://").to_owned();
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let broken = count.clone();
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let (Ok(client), Ok(upstream)) = (client, TcpStream::connect(&server)) else {
                    break;
                };
                let breaks = number % 2 == 0;
                let broken = broken.clone();
                let (mut from, mut to) =
                    (client.try_clone().expect("cloned"), upstream.try_clone().expect("cloned"));
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                std::thread::spawn(move || {
                    let limit = if breaks { 5 << 20 } else { u64::MAX };
                    let mut client = client;
                    let copied = std::io::copy(&mut (&upstream).take(limit), &mut client);
                    if breaks && copied.is_ok_and(|bytes| bytes == limit) {
                        broken.fetch_add(1, Ordering::Relaxed);
                    }
                    let _ = client.shutdown(std::net::Shutdown::Both);
                    let _ = upstream.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        // Requests are signed for the host that they name.
        Self { endpoint: format!("http://{address}"), count }
    }

    fn broken(&self) -> usize {
        self.count.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn a_large_object_comes_back_in_ranges() {
    let world = World::new(Place::Prefix);
    let content = crate::support::random_bytes(5, (50 << 20) + 12_345);
    let ours = |arguments: &[&str]| world.call(Program::Ours, Program::Ours, arguments);
    ours(&["push", "-", "x"]).run_with(Some(&content)).good();
    ours(&["pull", "x", "file"]).run().good();
    assert!(fs::read(world.local("file")).expect("there") == content);
    // From a file, whose size is known.
    ours(&["push", "file", "y"]).run().good();
    assert!(ours(&["pull", "y", "-"]).run().good() == content);
    let real = world.call(Program::Real, Program::Ours, ["pull", "y", "-"]).run();
    assert!(real.good() == content);
}
