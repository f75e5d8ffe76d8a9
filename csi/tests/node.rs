//! What csi-sanity leaves out of the node plugin: bad input of every field, calls at once on one volume, mounts
//! that are dead, a store that is away, keys that are replaced.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use strongroom_csi::api::csi::volume_capability::access_mode::Mode;
use strongroom_csi::api::csi::{
    NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
};
use support::calls::{Made, capability, capability_with, refused, text};
use support::minio::Minio;
use support::{Driver, Process, mounts_below};
use tonic::Code;

/// Nothing is staged, and no process is left for it.
fn assert_nothing_left(driver: &Driver) {
    assert_eq!(mounts_below(driver.temporary.path()), Vec::<std::path::PathBuf>::new());
    support::wait_for("the workers' end", || driver.workers().is_empty());
}

#[test]
fn fields_that_are_missing_or_malformed_are_named() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    let stage = |change: &dyn Fn(&mut NodeStageVolumeRequest), code, parts: &[&str]| {
        let mut request = driver.stage_request(&made);
        change(&mut request);
        refused(driver.stage_with(request), code, parts);
    };
    let invalid = Code::InvalidArgument;
    stage(&|request| request.volume_id.clear(), invalid, &["volume_id"]);
    stage(&|request| request.volume_id = "x".repeat(129), invalid, &["volume_id", "129"]);
    stage(&|request| request.volume_id = "vol:1".to_owned(), Code::NotFound, &["vol:1"]);
    for path in ["", "relative", "/", "/var/../etc", "/var/./lib"] {
        stage(
            &|request| request.staging_target_path = path.to_owned(),
            invalid,
            &["staging_target_path"],
        );
    }
    stage(&|request| request.staging_target_path = "/etc/x".to_owned(), invalid, &["/etc/x"]);
    stage(&|request| request.volume_capability = None, invalid, &["volume_capability"]);
    stage(
        &|request| {
            request.volume_capability = Some(capability_with(Mode::SingleNodeWriter, &["suid"]));
        },
        invalid,
        &["mount_flags", "`suid`"],
    );
    stage(
        &|request| drop(request.volume_context.insert("colour".to_owned(), "red".to_owned())),
        invalid,
        &["volume_context", "`colour`"],
    );
    stage(
        &|request| drop(request.volume_context.insert("bucket".to_owned(), "other".to_owned())),
        invalid,
        &["`bucket`", "the volume's id says"],
    );
    let publish = |change: &dyn Fn(&mut NodePublishVolumeRequest), code, parts: &[&str]| {
        let mut request = driver.publish_request(&made, &made.target);
        change(&mut request);
        refused(driver.publish_with(request), code, parts);
    };
    publish(&|request| request.volume_id.clear(), invalid, &["volume_id"]);
    publish(&|request| request.target_path = "/a/../b".to_owned(), invalid, &["target_path"]);
    publish(&|request| request.staging_target_path.clear(), invalid, &["staging_target_path"]);
    publish(&|request| request.volume_capability = None, invalid, &["volume_capability"]);
    publish(&|_| (), Code::FailedPrecondition, &["is not staged at", "stage it first"]);
    let node = || driver.node();
    let request = NodeUnstageVolumeRequest {
        volume_id: made.id.clone(),
        staging_target_path: "../x".to_owned(),
    };
    refused(
        driver.block_on(node().node_unstage_volume(request)),
        invalid,
        &["staging_target_path"],
    );
    let request =
        NodeUnpublishVolumeRequest { volume_id: String::new(), target_path: "/a".to_owned() };
    refused(driver.block_on(node().node_unpublish_volume(request)), invalid, &["volume_id"]);
    let request = NodeGetVolumeStatsRequest {
        volume_id: made.id.clone(),
        volume_path: "/nowhere".to_owned(),
        ..NodeGetVolumeStatsRequest::default()
    };
    refused(driver.block_on(node().node_get_volume_stats(request)), Code::NotFound, &["/nowhere"]);
    assert_nothing_left(&driver);
}

#[test]
fn secrets_that_are_missing_or_wrong_stage_nothing_and_say_what_to_correct() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    for (key, value, code, part) in [
        ("accessKeyID", None, Code::Unauthenticated, "`accessKeyID`"),
        ("passphrase", None, Code::Unauthenticated, "`passphrase`"),
        ("passphrase", Some("another one"), Code::Unauthenticated, "passphrase"),
        ("passphrase", Some(""), Code::Unauthenticated, "`passphrase` is empty"),
        ("secretAccessKey", Some("x y"), Code::Unauthenticated, "`secretAccessKey` holds a space"),
        ("secretAccessKey", Some("wrongWrong"), Code::Unauthenticated, "secretAccessKey in the"),
        (
            "accessKeyID",
            Some("nobody"),
            Code::Unauthenticated,
            "accessKeyID in the volume's secret",
        ),
        ("endpoint", Some("http://127.0.0.1:1"), Code::Unavailable, "127.0.0.1:1"),
    ] {
        let mut request = driver.stage_request(&made);
        match value {
            Some(value) => request.secrets.insert(key.to_owned(), value.to_owned()),
            None => request.secrets.remove(key),
        };
        refused(driver.stage_with(request), code, &[part]);
        assert_nothing_left(&driver);
    }
    // An encrypted volume is never taken for a plain one.
    let mut request = driver.stage_request(&made);
    request.volume_context.insert("encryption".to_owned(), "none".to_owned());
    refused(driver.stage_with(request), Code::Unauthenticated, &["passphrase"]);
    assert_nothing_left(&driver);
    driver.attach(&made);
    driver.detach(&made);
}

#[test]
fn a_volume_that_is_not_there_is_not_staged() {
    let driver = Driver::start();
    let mut made = driver.make("pvc-1");
    driver.delete(&made.id).expect("deleted");
    refused(driver.stage(&made), Code::NotFound, &["no volume here"]);
    made.id = "bucket-of-nobody/pvc-1".to_owned();
    refused(driver.stage(&made), Code::NotFound, &["bucket-of-nobody"]);
    assert_nothing_left(&driver);
}

#[test]
fn a_volume_made_by_hand_is_mounted_by_its_place_and_not_deleted() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    let record = driver.minio.data_of(&driver.bucket).join("volumes/.volumes/pvc-1.json");
    fs::remove_dir_all(record).expect("removed");
    // As a static PersistentVolume: the place is the id, and nothing else is said.
    let made = Made { context: HashMap::new(), ..made };
    driver.attach(&made);
    fs::write(made.target.join("file"), "x").expect("written");
    driver.detach(&made);
    driver.delete(&made.id).expect("not ours");
    driver.attach(&made);
    assert_eq!(fs::read(made.target.join("file")).expect("read"), b"x");
    driver.detach(&made);
}

#[test]
fn calls_at_once_on_one_volume_are_one_or_are_told_to_come_back() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    let node = driver.node();
    let answers = driver.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (mut node, request) = (node.clone(), driver.stage_request(&made));
            calls.spawn(async move { node.node_stage_volume(request).await.map(drop) });
        }
        calls.join_all().await
    });
    assert!(answers.iter().any(Result::is_ok), "{answers:?}");
    let errors = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(errors.clone().all(|status| status.code() == Code::Aborted), "{answers:?}");
    assert_eq!(driver.workers().len(), 1);
    driver.publish(&made).expect("published");
    // Publishing, staging, unpublishing and unstaging at once: nothing but these answers, and at the end
    // either a mount that works or none.
    driver.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for round in 0..12 {
            let mut node = node.clone();
            let (stage, publish) =
                (driver.stage_request(&made), driver.publish_request(&made, &made.target));
            calls.spawn(async move {
                match round % 4 {
                    0 => node.node_stage_volume(stage).await.map(drop),
                    1 => node.node_publish_volume(publish).await.map(drop),
                    2 => {
                        let request = NodeUnpublishVolumeRequest {
                            volume_id: publish.volume_id,
                            target_path: publish.target_path,
                        };
                        node.node_unpublish_volume(request).await.map(drop)
                    }
                    _ => {
                        let request = NodeUnstageVolumeRequest {
                            volume_id: stage.volume_id,
                            staging_target_path: stage.staging_target_path,
                        };
                        node.node_unstage_volume(request).await.map(drop)
                    }
                }
            });
        }
        for answer in calls.join_all().await {
            let code = answer.map_or_else(|status| status.code(), |()| Code::Ok);
            assert!(
                matches!(code, Code::Ok | Code::Aborted | Code::FailedPrecondition),
                "{code:?}"
            );
        }
    });
    driver.unpublish(&made).expect("unpublished");
    driver.unstage(&made).expect("unstaged");
    assert_nothing_left(&driver);
}

#[test]
fn an_access_mode_for_one_pod_keeps_a_second_one_out() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    let mode = Some(capability(Mode::SingleNodeSingleWriter));
    let mut request = driver.stage_request(&made);
    request.volume_capability = mode.clone();
    driver.stage_with(request).expect("staged");
    let at = |path: &Path| NodePublishVolumeRequest {
        volume_capability: mode.clone(),
        ..driver.publish_request(&made, path)
    };
    driver.publish_with(at(&made.target)).expect("published");
    driver.publish_with(at(&made.target)).expect("the same call");
    let other = driver.local("pod-other/mount");
    refused(driver.publish_with(at(&other)), Code::FailedPrecondition, &["allows one pod"]);
    driver.detach(&made);

    // Staged otherwise than it is: not the same volume any more.
    driver.stage(&made).expect("staged");
    let mut request = driver.stage_request(&made);
    request.volume_capability = mode.clone();
    refused(driver.stage_with(request), Code::AlreadyExists, &["another access mode"]);
    let mut request = driver.stage_request(&made);
    request.staging_target_path = text(&driver.local("elsewhere"));
    refused(driver.stage_with(request), Code::FailedPrecondition, &["is staged at"]);
    driver.unstage(&made).expect("unstaged");
    assert_nothing_left(&driver);
}

#[test]
fn a_call_that_its_caller_gave_up_is_finished_and_its_retry_finds_the_mount() {
    let driver = Driver::start_with(std::sync::Arc::new(Minio::start()), &[]);
    let made = driver.make("pvc-1");
    driver.minio.pause();
    let mut node = driver.node();
    let request = driver.stage_request(&made);
    driver.block_on(async {
        let staging = node.node_stage_volume(request);
        let answer = tokio::time::timeout(std::time::Duration::from_millis(500), staging).await;
        assert!(answer.is_err(), "the store does not answer, so the call does not either");
    });
    // The first call is still at work.
    refused(driver.stage(&made), Code::Aborted, &["another call is at work"]);
    driver.minio.resume();
    support::wait_for("the retry", || match driver.stage(&made) {
        Ok(()) => true,
        Err(status) => {
            assert!(matches!(status.code(), Code::Aborted | Code::Unavailable), "{status}");
            false
        }
    });
    driver.publish(&made).expect("published");
    fs::write(made.target.join("file"), "x").expect("it is the volume that is written to");
    driver.detach(&made);
    driver.attach(&made);
    assert_eq!(fs::read(made.target.join("file")).expect("read"), b"x");
    driver.detach(&made);
    assert_nothing_left(&driver);
}

#[test]
fn a_mount_that_somebody_took_away_is_cleaned_up_and_made_again() {
    use nix::mount::{MntFlags, umount2};
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    driver.attach(&made);
    fs::write(made.target.join("file"), "x").expect("written");
    umount2(&made.target, MntFlags::MNT_DETACH).expect("taken away");
    umount2(&made.staging, MntFlags::MNT_DETACH).expect("taken away");
    driver.unpublish(&made).expect("unpublished");
    driver.unstage(&made).expect("unstaged");
    assert_nothing_left(&driver);
    driver.attach(&made);
    assert_eq!(fs::read(made.target.join("file")).expect("read"), b"x");
    // The directories are gone as well.
    driver.unpublish(&made).expect("unpublished");
    driver.unpublish(&made).expect("unpublished already");
    umount2(&made.staging, MntFlags::MNT_DETACH).expect("taken away");
    fs::remove_dir(&made.staging).expect("removed");
    driver.unstage(&made).expect("unstaged");
    driver.unstage(&made).expect("unstaged already");
    assert_nothing_left(&driver);
}

/// The kernel gives the device's number of a mount that is gone to the next one.
#[test]
fn another_volumes_mount_is_not_taken_for_one_that_was_taken_away() {
    use nix::mount::{MntFlags, umount2};
    let driver = Driver::start();
    let (gone, other) = (driver.make("pvc-1"), driver.make("pvc-2"));
    driver.attach(&gone);
    umount2(&gone.target, MntFlags::MNT_DETACH).expect("taken away");
    umount2(&gone.staging, MntFlags::MNT_DETACH).expect("taken away");
    driver.attach(&other);
    driver.unpublish(&gone).expect("unpublished");
    driver.unstage(&gone).expect("unstaged");
    fs::write(other.target.join("file"), "x").expect("the other one is there");
    driver.detach(&other);
    assert_nothing_left(&driver);
}

#[test]
fn when_everything_was_killed_the_next_calls_find_their_way() {
    use nix::sys::signal::{Signal, kill};
    let mut driver = Driver::start();
    let made = driver.make("pvc-1");
    driver.attach(&made);
    fs::write(made.target.join("file"), "x").expect("written");
    let workers = driver.workers();
    driver.end(Process::Node, Signal::SIGKILL);
    driver.end(Process::Keeper, Signal::SIGKILL);
    for worker in workers {
        let _ = kill(worker, Signal::SIGKILL);
    }
    driver.run(Process::Keeper);
    driver.run(Process::Node);
    // The old mount is dead: it is an error, and no hang.
    let error = fs::read(made.target.join("file")).expect_err("its server is gone");
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTCONN));
    driver.unpublish(&made).expect("unpublished");
    driver.unstage(&made).expect("nothing that it knows of");
    driver.attach(&made);
    assert_eq!(fs::read(made.target.join("file")).expect("read"), b"x");
    driver.detach(&made);
    assert_nothing_left(&driver);
}

#[test]
fn a_store_that_is_away_is_told_as_the_condition_and_pods_can_still_be_deleted() {
    let driver = Driver::start_with(std::sync::Arc::new(Minio::start()), &[]);
    let made = driver.make("pvc-1");
    driver.attach(&made);
    fs::write(made.target.join("before"), "x").expect("written");
    driver.minio.pause();
    let condition = driver.condition(&made);
    assert!(condition.abnormal && condition.message.contains("does not answer"), "{condition:?}");
    driver.unpublish(&made).expect("the pod is deleted");
    driver.minio.resume();
    support::wait_for("the unstaging", || driver.unstage(&made).is_ok());
    assert_nothing_left(&driver);
}

#[test]
fn keys_are_replaced_by_a_republish_and_count_from_then_on() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    driver.attach(&made);
    let before = driver.workers();
    let mut request = driver.publish_request(&made, &made.target);
    request.secrets = driver.secrets();
    driver.publish_with(request.clone()).expect("the same keys");
    request.secrets.insert("secretAccessKey".to_owned(), "revoked".to_owned());
    driver.publish_with(request.clone()).expect("other keys");
    let condition = driver.condition(&made);
    assert!(condition.abnormal, "the new keys are refused: {condition:?}");
    request.secrets = driver.secrets();
    driver.publish_with(request).expect("good keys again");
    assert!(!driver.condition(&made).abnormal);
    fs::write(made.target.join("file"), "x").expect("written");
    assert_eq!(driver.workers(), before, "nothing was mounted anew");
    driver.detach(&made);
}
