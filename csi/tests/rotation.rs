//! Keys that are replaced by a republish and then revoked in the store, while a backup program writes: it notices
//! nothing, and nothing is mounted anew.

mod support;

use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use strongroom_csi::api::csi::DeleteVolumeRequest;
use support::calls::Made;
use support::minio::Minio;
use support::users::{User, Users};
use support::{Driver, PREFIX, Process, fresh_hex, wait_for};

/// How often the keys are replaced.
const ROUNDS: usize = 3;
/// What is backed up anew in each round, in bytes.
const LENGTH: u64 = 96 << 20;

/// The keys of a user as a Secret has them.
fn secrets(driver: &Driver, user: &User) -> HashMap<String, String> {
    let mut secrets = driver.secrets();
    driver.more_secrets.lock().expect("ours").push(user.secret.clone());
    secrets.insert("accessKeyID".to_owned(), user.name.clone());
    secrets.insert("secretAccessKey".to_owned(), user.secret.clone());
    secrets
}

/// As kubelet does it every now and then with `requiresRepublish`.
fn republish(driver: &Driver, made: &Made, user: &User) {
    try_to_republish(driver, made, user).expect("published");
}

fn try_to_republish(driver: &Driver, made: &Made, user: &User) -> Result<(), tonic::Status> {
    let mut request = driver.publish_request(made, &made.target);
    request.secrets = secrets(driver, user);
    driver.publish_with(request)
}

fn attach(driver: &Driver, made: &Made, user: &User) {
    let mut request = driver.stage_request(made);
    request.secrets = secrets(driver, user);
    driver.stage_with(request).expect("staged");
    republish(driver, made, user);
}

fn restic(repository: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "--repo"]).arg(repository).args(arguments);
    command.env("RESTIC_PASSWORD", "rotation").stdin(Stdio::null());
    command
}

fn good(command: &mut Command) {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Bytes of the files below a directory.
fn length(root: &Path) -> u64 {
    let files = walkdir::WalkDir::new(root).into_iter().flatten();
    files.filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

fn ended_well(mut child: Child) {
    let status = child.wait().expect("a child of ours");
    assert!(status.success(), "the backup noticed it: {status}");
}

#[test]
fn a_backup_notices_nothing_of_keys_that_are_replaced_and_revoked() {
    let minio = Arc::new(Minio::start());
    let users = Users::of(&minio);
    let driver = Driver::start_with(minio.clone(), &[]);
    let made = driver.make("rotated");
    let mut user = users.add();
    attach(&driver, &made, &user);
    let workers = driver.workers();
    let (repository, source) = (made.target.join("repository"), driver.local("source"));
    good(&mut restic(&repository, &["init"]));
    fs::create_dir(&source).expect("made");
    for round in 0..ROUNDS {
        let mut file = File::create(source.join(round.to_string())).expect("made");
        let random = File::open("/dev/urandom").expect("opened");
        std::io::copy(&mut random.take(LENGTH), &mut file).expect("written");
        let before = length(&repository);
        // Slow enough for all that happens meanwhile.
        let mut backup = restic(&repository, &["backup", "--limit-upload", "8192", "."]);
        let mut backup = backup.current_dir(&source).spawn().expect("restic starts");
        wait_for("a part of the backup", || length(&repository) > before + LENGTH / 8);
        let next = users.add();
        republish(&driver, &made, &next);
        users.revoke(&user, &driver.bucket);
        let is_running = backup.try_wait().expect("a child of ours").is_none();
        assert!(is_running, "the backup was over before the keys were revoked");
        ended_well(backup);
        user = next;
        let condition = driver.condition(&made);
        assert!(!condition.abnormal, "{condition:?}");
    }
    assert_eq!(driver.workers(), workers, "nothing was mounted anew");
    driver.detach(&made);
    // By what is in the bucket alone.
    attach(&driver, &made, &user);
    good(&mut restic(&repository, &["check", "--read-data"]));
    let restored = driver.local("restored");
    let target = restored.to_str().expect("text");
    good(&mut restic(&repository, &["restore", "latest", "--target", target]));
    good(Command::new("diff").arg("-r").arg(&source).arg(&restored));
    driver.detach(&made);
}

/// The wrong order: keys are revoked before there are others.
#[test]
fn revoked_keys_are_an_error_that_is_told_until_a_republish_brings_others() {
    let minio = Arc::new(Minio::start());
    let users = Users::of(&minio);
    let driver = Driver::start_with(minio.clone(), &[]);
    let made = driver.make("revoked");
    let user = users.add();
    attach(&driver, &made, &user);
    fs::write(made.target.join("before"), "before").expect("written");
    users.revoke(&user, &driver.bucket);
    fs::write(made.target.join("meanwhile"), "meanwhile").expect_err("it cannot be stored");
    let condition = driver.condition(&made);
    assert!(condition.abnormal, "{condition:?}");
    let next = users.add();
    republish(&driver, &made, &next);
    assert!(!driver.condition(&made).abnormal);
    fs::write(made.target.join("after"), "after").expect("written");
    driver.detach(&made);
    attach(&driver, &made, &next);
    for name in ["before", "after"] {
        assert_eq!(fs::read_to_string(made.target.join(name)).expect("read"), name);
    }
    driver.detach(&made);
}

/// Revoked while the node plugin was away: the worker that it starts again is given the keys that a republish brings.
#[test]
fn keys_that_were_revoked_while_the_node_plugin_was_away_are_replaced_by_a_republish() {
    let minio = Arc::new(Minio::start());
    let users = Users::of(&minio);
    let mut driver = Driver::start_with(minio.clone(), &[]);
    let made = driver.make("away");
    let user = users.add();
    attach(&driver, &made, &user);
    let mut open = File::create(made.target.join("open")).expect("made");
    open.write_all(b"before ").expect("written");
    driver.end(Process::Node, Signal::SIGKILL);
    wait_for("the end of the worker", || driver.workers().is_empty());
    users.revoke(&user, &driver.bucket);
    driver.run(Process::Node);
    let condition = driver.condition(&made);
    assert!(condition.abnormal, "{condition:?}");
    // The secret is not another one yet.
    try_to_republish(&driver, &made, &user).expect_err("revoked");
    let never = User { name: fresh_hex::<8>(), secret: fresh_hex::<16>() };
    try_to_republish(&driver, &made, &never).expect_err("nobody's");
    let next = users.add();
    republish(&driver, &made, &next);
    assert!(!driver.condition(&made).abnormal);
    open.write_all(b"after").expect("written");
    open.sync_all().expect("stored");
    drop(open);
    // It is remembered: another worker needs no republish.
    driver.end(Process::Node, Signal::SIGKILL);
    wait_for("the end of the worker", || driver.workers().is_empty());
    driver.run(Process::Node);
    assert_eq!(fs::read_to_string(made.target.join("open")).expect("read"), "before after");
    driver.detach(&made);
}

/// As docs/operations.md advises: rights below the prefix that volumes are made in, and nowhere else.
#[test]
fn keys_that_reach_no_further_than_a_prefix_are_enough() {
    let minio = Arc::new(Minio::start());
    let users = Users::of(&minio);
    let driver = Driver::start_with(minio.clone(), &[]);
    let user = users.add_below(&driver.bucket, PREFIX, &[]);
    let place = format!("store/{}", driver.bucket);
    assert!(!users.mc(&user, &["ls", &format!("{place}/elsewhere/")]).0, "it may look elsewhere");
    let mut wish = driver.wish("pvc-1");
    wish.secrets = secrets(&driver, &user);
    let volume = driver.create(wish).expect("created");
    let made = driver.made("pvc-1", volume);
    attach(&driver, &made, &user);
    fs::write(made.target.join("file"), "content").expect("stored");
    driver.detach(&made);
    let request = DeleteVolumeRequest { volume_id: made.id, secrets: secrets(&driver, &user) };
    driver.block_on(driver.controller().delete_volume(request)).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
}
