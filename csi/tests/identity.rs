//! Keys that a real MinIO lends for the tokens of pods' service accounts: no secret has any.

mod support;

use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use strongroom_csi::api::csi::NodePublishVolumeRequest;
use strongroom_csi::api::csi::volume_capability::access_mode::Mode;
use support::calls::{Made, capability, refused};
use support::issuer::{Issuer, role};
use support::{Driver, Process, mounts_below, wait_for};
use tonic::{Code, Status};

/// A driver whose store knows an issuer, and a volume whose keys are lent.
fn prepared(issuer: &Issuer) -> (Driver, Made) {
    let driver = Driver::start_with(Arc::new(issuer.store()), &[]);
    let mut wish = driver.wish("lent");
    wish.parameters.insert("roleArn".to_owned(), role());
    let volume = driver.create(wish).expect("created");
    let made = driver.made("lent", volume);
    assert_eq!(made.context["roleArn"], role());
    (driver, made)
}

/// As kubelet does it: the node's secret has no keys.
fn stage(driver: &Driver, made: &Made) -> Result<(), Status> {
    let mut request = driver.stage_request(made);
    for key in ["accessKeyID", "secretAccessKey"] {
        request.secrets.remove(key).expect("it was there");
    }
    driver.stage_with(request)
}

/// A NodePublish of a pod with this service account, with the passphrase as `nodePublishSecretRef` brings it.
fn call(driver: &Driver, made: &Made, target: &Path, account: &str) -> NodePublishVolumeRequest {
    let mut request = driver.publish_request(made, target);
    for key in ["passphrase", "endpoint"] {
        request.secrets.insert(key.to_owned(), driver.secrets()[key].clone());
    }
    let mut tell = |key: &str, value: &str| {
        request.volume_context.insert(format!("csi.storage.k8s.io/{key}"), value.to_owned());
    };
    tell("pod.namespace", "databases");
    tell("pod.name", "backup-0");
    tell("serviceAccount.name", account);
    request
}

fn with_token(driver: &Driver, request: &mut NodePublishVolumeRequest, token: &Path) {
    let token = fs::read_to_string(token).expect("written");
    driver.more_secrets.lock().expect("ours").push(token.clone());
    let tokens = serde_json::json!({
        "strongroom-tests": {"token": token, "expirationTimestamp": "2030-01-01T00:00:00Z"}
    });
    let key = "csi.storage.k8s.io/serviceAccount.tokens";
    request.volume_context.insert(key.to_owned(), tokens.to_string());
}

#[test]
fn a_volumes_keys_are_lent_for_the_tokens_of_its_pods() {
    let issuer = Issuer::start();
    let (mut driver, made) = prepared(&issuer);
    let good = issuer.token("good", 3600);
    stage(&driver, &made).expect("staged");
    stage(&driver, &made).expect("once more");
    // Without keys nobody serves, and kubelet, which looks at what is staged, must not wait for somebody who does.
    let is_untouched = |driver: &Driver| driver.workers().is_empty() && is_no_mount(&made.staging);
    assert!(is_untouched(&driver));
    driver.unstage(&made).expect("unstaged");
    stage(&driver, &made).expect("staged");
    driver.restart(Process::Node);

    let publish = |driver: &Driver, target: &Path, account: &str, token: Option<&Path>| {
        let mut request = call(driver, &made, target, account);
        token.into_iter().for_each(|token| with_token(driver, &mut request, token));
        driver.publish_with(request)
    };
    let target = made.target.clone();
    let none = publish(&driver, &target, "backup", None);
    refused(none, Code::FailedPrecondition, &["roleArn", "tokenAudiences"]);
    let stale = issuer.token("stale", -3600);
    let stale = publish(&driver, &target, "backup", Some(&stale));
    refused(stale, Code::Unauthenticated, &["service account databases/backup", &role()]);
    let elsewhere = Issuer::start();
    let foreign = elsewhere.token("foreign", 3600);
    let foreign = publish(&driver, &target, "backup", Some(&foreign));
    refused(foreign, Code::Unauthenticated, &["service account databases/backup"]);
    let mut wrong = call(&driver, &made, &target, "backup");
    with_token(&driver, &mut wrong, &good);
    wrong.secrets.insert("passphrase".to_owned(), "another one".to_owned());
    refused(driver.publish_with(wrong), Code::Unauthenticated, &["passphrase"]);
    let mut none = call(&driver, &made, &target, "backup");
    with_token(&driver, &mut none, &good);
    none.secrets.clear();
    refused(driver.publish_with(none), Code::Unauthenticated, &["node-publish-secret-name"]);
    assert!(is_untouched(&driver), "whatever was refused left nothing");

    publish(&driver, &target, "backup", Some(&good)).expect("published");
    let mut open = File::create(target.join("open")).expect("made");
    open.write_all(b"before ").expect("written");
    // Another account does not get what the first one may read; another pod of the same does.
    let second = driver.local("pod-second/mount");
    let other = publish(&driver, &second, "app", Some(&good));
    refused(other, Code::FailedPrecondition, &["databases/backup", "databases/app"]);
    publish(&driver, &second, "backup", Some(&good)).expect("published");
    fs::write(second.join("second"), "of the second").expect("written");

    // What was lent is remembered where nothing is written to a disk.
    let before = driver.workers();
    driver.end(Process::Node, Signal::SIGKILL);
    wait_for("the end of the worker", || driver.workers().is_empty());
    driver.run(Process::Node);
    wait_for("another worker", || driver.workers().len() == 1);
    assert_ne!(driver.workers(), before);
    publish(&driver, &target, "backup", Some(&good)).expect("once more");
    open.write_all(b"after").expect("written");
    open.sync_all().expect("stored");
    drop(open);
    assert!(!driver.condition(&made).abnormal);

    driver.unpublish_at(&made, &second).expect("unpublished");
    driver.unpublish_at(&made, &target).expect("unpublished");
    // Another account may be the first one now, also where kubelet has not unstaged it; the content is the volume's.
    publish(&driver, &target, "app", Some(&good)).expect("published");
    for (name, content) in [("open", "before after"), ("second", "of the second")] {
        assert_eq!(fs::read_to_string(target.join(name)).expect("read"), content);
    }
    driver.detach(&made);
    driver.delete(&made.id).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
}

#[test]
fn keys_are_renewed_before_their_time_is_over_and_a_file_stays_open() {
    let issuer = Issuer::start();
    let (driver, made) = prepared(&issuer);
    stage(&driver, &made).expect("staged");
    // Keys live as long as the token that they are lent for.
    let publish = |seconds: i64| {
        let token = issuer.token(&format!("token-{seconds}"), seconds);
        let mut request = call(&driver, &made, &made.target, "backup");
        with_token(&driver, &mut request, &token);
        driver.publish_with(request).expect("published");
    };
    let start = std::time::Instant::now();
    publish(24);
    let worker = driver.workers();
    let mut open = File::create(made.target.join("open")).expect("made");
    open.write_all(b"before ").expect("written");
    publish(3600);
    assert!(!driver.log(Process::Node).contains("its keys were replaced"), "it is too early");
    std::thread::sleep(std::time::Duration::from_secs(13).saturating_sub(start.elapsed()));
    publish(3600);
    assert!(driver.log(Process::Node).contains("its keys were replaced"));
    std::thread::sleep(std::time::Duration::from_secs(26).saturating_sub(start.elapsed()));
    open.write_all(b"after").expect("written");
    open.sync_all().expect("stored with other keys");
    drop(open);
    assert_eq!(driver.workers(), worker);
    driver.detach(&made);
}

#[test]
fn a_keeper_that_starts_anew_ends_no_pod_and_attributes_open_nothing() {
    let issuer = Issuer::start();
    let (mut driver, made) = prepared(&issuer);
    stage(&driver, &made).expect("staged");
    let good = issuer.token("good", 3600);
    let mut request = call(&driver, &made, &made.target, "backup");
    with_token(&driver, &mut request, &good);
    request.volume_capability = Some(capability(Mode::SingleNodeSingleWriter));
    driver.publish_with(request.clone()).expect("published");
    // The same volume by another PersistentVolume, which does not say that it has a role: nobody's account is asked for.
    let elsewhere = driver.local("pod-elsewhere/mount");
    for role in [None, Some("")] {
        let mut bare = driver.publish_request(&made, &elsewhere);
        bare.volume_context.remove("roleArn");
        bare.volume_context.extend(role.map(|role| ("roleArn".to_owned(), role.to_owned())));
        refused(driver.publish_with(bare), Code::FailedPrecondition, &["roleArn"]);
    }
    // kubelet binds directories of it for `subPath`, and publishes again and again.
    fs::create_dir(made.target.join("part")).expect("made");
    let part = driver.local("sub-path");
    fs::create_dir(&part).expect("made");
    let none = None::<&str>;
    nix::mount::mount(
        Some(&made.target.join("part")),
        &part,
        none,
        nix::mount::MsFlags::MS_BIND,
        none,
    )
    .expect("bound");
    driver.publish_with(request.clone()).expect("its only target");
    nix::mount::umount(&part).expect("taken away");
    let mut open = File::create(made.target.join("open")).expect("made");
    let worker = driver.workers();
    driver.restart(Process::Keeper);
    let again = driver.publish_with(request);
    refused(again, Code::FailedPrecondition, &["keeper", "pods may still use it"]);
    assert_eq!(driver.workers(), worker);
    open.write_all(b"served on").expect("written");
    open.sync_all().expect("stored");
    drop(open);
    assert_eq!(fs::read(made.target.join("open")).expect("read"), b"served on");
    nix::mount::umount(&made.target).expect("taken away");
    nix::mount::umount(&made.staging).expect("taken away");
}

#[test]
fn whoever_lends_no_keys_is_asked_again_and_nothing_hangs() {
    let issuer = Issuer::start();
    let (driver, made) = prepared(&issuer);
    let good = issuer.token("good", 3600);
    stage(&driver, &made).expect("staged");
    let mut request = call(&driver, &made, &made.target, "backup");
    with_token(&driver, &mut request, &good);
    driver.minio.pause();
    refused(driver.publish_with(request.clone()), Code::Unavailable, &["role"]);
    driver.minio.resume();
    driver.publish_with(request).expect("published");
    fs::write(made.target.join("x"), "x").expect("written");
    driver.detach(&made);
}

fn is_no_mount(staging: &Path) -> bool {
    mounts_below(staging).is_empty()
}
