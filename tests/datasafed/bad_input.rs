//! What cannot be done: exit code 1 and one line that says what to do; nothing half done remains.

use crate::programs::{Outcome, Program};
use crate::worlds::{PASSPHRASE, Place, World};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn ours(world: &World, arguments: &[&str]) -> Outcome {
    world.call(Program::Ours, Program::Ours, arguments).run()
}

/// Ours with a configuration of its own.
fn with_conf(world: &World, text: &str, arguments: &[&str]) -> Outcome {
    let conf = world.local("given.conf");
    fs::write(&conf, text).expect("written");
    let given = ["-c", conf.to_str().expect("text")];
    Program::Ours.call(given.iter().chain(arguments)).within(world.temporary.path()).run()
}

#[test]
fn an_unknown_provider_or_key_is_named_with_those_that_are_known() {
    let world = World::new(Place::Bucket);
    let conf = world.configuration(Program::Ours);
    let list = &["list", "/"];
    let other = conf.replace("provider = Minio", "provider = Amazon");
    with_conf(&world, &other, list).bad(&["\"Amazon\"", "AWS", "Minio", "Other"]);
    let typo = format!("{conf}froce_path_style = true\n");
    with_conf(&world, &typo, list).bad(&["froce_path_style", "is force_path_style meant?"]);
    let lost = format!("{conf}sse_kms_key_id = x\n");
    with_conf(&world, &lost, list).bad(&["sse_kms_key_id", "take it out"]);
    let kind = conf.replace("type = s3", "type = dropbox");
    with_conf(&world, &kind, list).bad(&["\"dropbox\"", "s3", "local"]);
    let none = conf.replace("type = s3\n", "");
    with_conf(&world, &none, list).bad(&["no type", "type = s3"]);
    let root = conf.replace(&format!("root = {}", world.bucket(Program::Ours)), "root =");
    with_conf(&world, &root, list).bad(&["storage.root is empty"]);
    let half = conf.replace("secret_access_key = ", "secret_access_key = #");
    with_conf(&world, &half, list).bad(&["storage.secret_access_key is empty"]);
    let flag = format!("{conf}force_path_style = perhaps\n");
    with_conf(&world, &flag, list).bad(&["force_path_style = perhaps", "true or false"]);
}

#[test]
fn a_configuration_that_its_user_may_not_read_is_told() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let world = World::new(Place::Bucket);
    // Where somebody else may look, unlike in the world's own directory.
    let folder = tempfile::tempdir().expect("a folder");
    let conf = folder.path().join("its.conf");
    fs::write(&conf, world.configuration(Program::Ours)).expect("written");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    };
    mode(folder.path(), 0o755);
    mode(&conf, 0o600);
    // As itself it may lie where nobody else gets to.
    let program = folder.path().join("datasafed");
    crate::support::programs::copy(crate::support::STRONGROOM, &program);
    let mut command = Command::new(program);
    command.arg("-c").arg(&conf).args(["list", "/"]).env_clear().uid(65_534).current_dir("/");
    let output = command.output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in ["Error: ", "its.conf", "permission denied", "readable for the user"] {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn wrong_credentials_and_buckets_are_told_apart_without_the_secret() {
    let world = World::new(Place::Bucket);
    let conf = world.configuration(Program::Ours);
    let minio = world.minio.as_ref().expect("a server");
    let key = conf.replace(&minio.access_key, "nobody");
    with_conf(&world, &key, &["list", "/"]).bad(&["InvalidAccessKeyId", "storage.access_key_id"]);
    let wrong = conf.replace(&minio.secret_key, "guessed-wrong");
    let told = with_conf(&world, &wrong, &["list", "/"]);
    told.bad(&["SignatureDoesNotMatch", "storage.secret_access_key"]);
    assert!(!told.stderr.contains("guessed-wrong"), "{}", told.stderr);
    let bucket = conf.replace(world.bucket(Program::Ours), "no-such-bucket");
    with_conf(&world, &bucket, &["list", "x"]).bad(&["directory not found"]);
    with_conf(&world, &bucket, &["pull", "x", "-"]).bad(&["no such bucket", "correct its name"]);
    fs::write(world.local("file"), "1").expect("written");
    with_conf(&world, &bucket, &["push", "file", "x"])
        .bad(&["no such bucket", "create the bucket"]);
}

#[test]
fn an_endpoint_that_cannot_be_used_says_why() {
    let world = World::new(Place::Bucket);
    let conf = world.configuration(Program::Ours);
    let endpoint = world.minio.as_ref().expect("a server").endpoint.clone();
    let nonsense = conf.replace(&endpoint, "ftp://host");
    with_conf(&world, &nonsense, &["list", "/"]).bad(&["storage.endpoint", "https://HOST"]);
    let tls = conf.replace("http://", "https://");
    with_conf(&world, &tls, &["list", "/"]).bad(&["TLS failed", "http://"]);
    let nobody = conf.replace(&endpoint, "http://127.0.0.1:9");
    with_conf(&world, &nobody, &["list", "/"])
        .bad(&["endpoint cannot be reached", "host and port"]);
}

#[test]
fn a_configuration_that_cannot_be_read_is_named_and_never_shown() {
    let world = World::new(Place::Directory);
    let missing = Program::Ours.call(["-c", "/nowhere/x.conf", "list", "/"]).run();
    missing.bad(&["open /nowhere/x.conf: no such file or directory"]);
    for text in
        ["[storage]\nsecret_access_key hunter2\n", "[storage\n", "k = `hunter2\n", "= hunter2"]
    {
        let told = with_conf(&world, text, &["list", "/"]);
        told.bad(&["given.conf: line "]);
        assert!(!told.stderr.contains("hunter2"), "{}", told.stderr);
    }
}

#[test]
fn encryption_without_a_passphrase_or_of_an_unknown_kind_is_refused() {
    let world = World::new(Place::Directory);
    let algorithm = |name| [("DATASAFED_ENCRYPTION_ALGORITHM", name)];
    let list = || world.call(Program::Ours, Program::Ours, ["list", "/"]);
    list()
        .envs(algorithm("AES-256-CFB"))
        .run()
        .bad(&["encryption pass phrase should not be empty"]);
    let passphrase = [("DATASAFED_ENCRYPTION_PASS_PHRASE", PASSPHRASE)];
    for name in ["ROT13", "AES-256-GCM", "none", "AES-256-CFB "] {
        let told = list().envs(passphrase).envs(algorithm(name)).run();
        told.bad(&["unknown encryption algorithm", "AES-256-CFB"]);
        assert!(!told.stderr.contains(PASSPHRASE), "{}", told.stderr);
    }
}

#[test]
fn kopia_is_refused_with_what_to_do_instead() {
    let world = World::new(Place::Directory);
    let call = world.call(Program::Ours, Program::Ours, ["list", "/"]);
    let told = call.envs([("DATASAFED_KOPIA_REPO_ROOT", "/kopia")]).run();
    told.bad(&["DATASAFED_KOPIA_REPO_ROOT", "unset it", "-z zstd"]);
    // Those that mean nothing without it change nothing.
    let others = [("DATASAFED_KOPIA_MAINTENANCE", "true"), ("DATASAFED_KOPIA_PASSWORD", "x")];
    world.call(Program::Ours, Program::Ours, ["list", "/"]).envs(others).run().good();
}

#[test]
fn paths_above_the_root_and_directories_as_sources_are_refused() {
    for world in [World::new(Place::Bucket), World::new(Place::Directory)] {
        fs::write(world.local("file"), "1").expect("written");
        ours(&world, &["push", "file", "../x"]).bad(&["prefixed with '..'"]);
        ours(&world, &["pull", "a/../../x", "-"]).bad(&["prefixed with '..'"]);
        ours(&world, &["push", "file", "x/"]).bad(&["ends with '/'"]);
        ours(&world, &["push", "/tmp", "x"]).bad(&["is a directory"]);
        ours(&world, &["push", "/nowhere", "x"]).bad(&["open /nowhere: no such file"]);
        ours(&world, &["list", "-r", "/"]).good();
        let base = world.call(Program::Ours, Program::Ours, ["list", "/"]);
        let base = base.envs([("DATASAFED_BACKEND_BASE_PATH", "../x")]).run();
        base.bad(&["base path", "DATASAFED_BACKEND_BASE_PATH"]);
    }
}

/// What is in the way of nobody: a path below a directory that is full.
fn full(world: &World) -> Option<std::path::PathBuf> {
    use nix::mount::{MsFlags, mount};
    let place = world.local("full");
    fs::create_dir_all(&place).expect("made");
    let none = None::<&str>;
    mount(none, &place, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).ok()?;
    Some(place)
}

#[test]
fn a_full_disk_leaves_the_file_that_is_there() {
    let world = World::new(Place::Bucket);
    let content = crate::support::random_bytes(1, 3 << 20);
    world.call(Program::Ours, Program::Ours, ["push", "-", "x"]).run_with(Some(&content)).good();
    let place = full(&world).expect("a small file system can be mounted");
    let target = place.join("x");
    fs::write(&target, "the former one").expect("written");
    let told = ours(&world, &["pull", "x", target.to_str().expect("text")]);
    let left = fs::read_to_string(&target);
    let names = fs::read_dir(&place).expect("readable").count();
    nix::mount::umount(&place).expect("unmounted");
    told.bad(&["pull \"x\"", "no space left on device"]);
    assert_eq!(left.expect("there"), "the former one");
    assert_eq!(names, 1, "nothing else is left");
}

#[test]
fn a_truncated_or_foreign_encrypted_object_is_an_error_where_it_can_be_told() {
    let world = World::new(Place::Directory).encrypted("AES-256-CFB");
    let root = world.directory(Program::Ours);
    for (name, bytes) in
        [("empty.enc", &b""[..]), ("short.enc", b"15 bytes are no"), ("plain", b"x")]
    {
        fs::write(root.join(name), bytes).expect("written");
    }
    fs::write(world.local("there"), "the former one").expect("written");
    ours(&world, &["pull", "empty", "there"]).bad(&["unable to read iv", "EOF"]);
    ours(&world, &["pull", "short", "there"]).bad(&["unable to read iv", "unexpected EOF"]);
    ours(&world, &["pull", "plain", "there"]).bad(&["object not found"]);
    assert_eq!(fs::read_to_string(world.local("there")).expect("there"), "the former one");
    let bucket = World::new(Place::Bucket).encrypted("AES-256-CFB");
    let plain = |arguments: &[&str], input: &[u8]| {
        let call = bucket.call(Program::Ours, Program::Ours, arguments);
        call.envs([("DATASAFED_ENCRYPTION_ALGORITHM", "")]).run_with(Some(input)).good()
    };
    plain(&["push", "-", "short.enc"], b"15 bytes are no");
    plain(&["push", "-", "empty.enc"], b"");
    ours(&bucket, &["pull", "short", "-"]).bad(&["unable to read iv", "unexpected EOF"]);
    ours(&bucket, &["pull", "empty", "-"]).bad(&["unable to read iv", "EOF"]);
}

#[test]
fn a_damaged_compressed_object_never_replaces_a_file() {
    let world = World::new(Place::Bucket);
    let text = "again and again ".repeat(100_000);
    for codec in ["zstd", "gzip", "lz4", "s2-default"] {
        let push = world.call(Program::Ours, Program::Ours, ["push", "-z", codec, "-", "good"]);
        push.run_with(Some(text.as_bytes())).good();
        let mut stored = ours(&world, &["pull", "good", "-"]).good();
        let middle = stored.len() / 2;
        stored[middle] ^= 1;
        let push = world.call(Program::Ours, Program::Ours, ["push", "-", "bad"]);
        push.run_with(Some(&stored)).good();
        fs::write(world.local("there"), "the former one").expect("written");
        let told = ours(&world, &["pull", "-d", codec, "bad", "there"]);
        told.bad(&["pull \"bad\"", "decompression error"]);
        assert_eq!(fs::read_to_string(world.local("there")).expect("there"), "the former one");
    }
}

#[test]
fn a_reader_that_is_gone_is_an_error_and_no_crash() {
    let world = World::new(Place::Bucket);
    let content = crate::support::random_bytes(2, 20 << 20);
    world.call(Program::Ours, Program::Ours, ["push", "-", "x"]).run_with(Some(&content)).good();
    let mut command = world.call(Program::Ours, Program::Ours, ["pull", "x", "-"]).command();
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    Outcome { code: output.status.code(), stdout: Vec::new(), stderr: told }
        .bad(&["pull \"x\"", "broken pipe"]);
}

#[test]
fn a_producer_that_died_is_found_out_if_it_is_asked_for() {
    for world in [World::new(Place::Bucket), World::new(Place::Mounted).encrypted("AES-256-CFB")] {
        let push = |flags: &[&str], input: &[u8]| {
            let arguments = [&["push", "-", "x"], flags].concat();
            world.call(Program::Ours, Program::Ours, arguments).run_with(Some(input))
        };
        push(&["--fail-on-empty"], b"").bad(&[
            "push to \"x\"",
            "the input is empty",
            "nothing was stored",
        ]);
        push(&["--expect-size", "5"], b"1234").bad(&["4 bytes instead of 5", "nothing was stored"]);
        let long = crate::support::random_bytes(3, 20 << 20);
        push(&["--expect-size", "20971521"], &long).bad(&["20971520 bytes instead of 20971521"]);
        push(&["--expect-size", "-1"], b"").bad(&["--expect-size is negative"]);
        assert_eq!(ours(&world, &["list", "-r", "/"]).good(), b"", "nothing was stored");
        push(&["--expect-size=4", "--fail-on-empty", "-z", "zstd"], b"1234").good();
        assert_eq!(ours(&world, &["pull", "-d", "zstd", "x", "-"]).good(), b"1234");
    }
}

#[test]
fn names_that_no_store_takes_are_refused() {
    let world = World::new(Place::Bucket);
    let long = "x".repeat(1100);
    let push = world.call(Program::Ours, Program::Ours, ["push", "-", &long]);
    push.run_with(Some(b"1")).bad(&["cannot be an object's name", "1024 bytes"]);
    let local = World::new(Place::Directory);
    let push = local.call(Program::Ours, Program::Ours, ["push", "-", &long]);
    push.run_with(Some(b"1")).bad(&["file name too long"]);
    let odd = local.call(
        Program::Ours,
        Program::Ours,
        [OsStr::new("pull"), "x".as_ref(), Path::new("/nowhere\u{1}/").as_os_str()],
    );
    odd.run().bad(&["invalid local path"]);
}
