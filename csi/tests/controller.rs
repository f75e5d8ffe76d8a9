//! What csi-sanity leaves out of the controller: bad input of every field, secrets that are wrong, two calls at
//! once, and deletion of exactly one volume.

mod support;

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use strongroom::store::{Fetched, Key, PutWhen};
use strongroom_csi::api::csi::volume_capability::access_mode::Mode;
use strongroom_csi::api::csi::volume_capability::{AccessType, BlockVolume};
use strongroom_csi::api::csi::{
    CapacityRange, ControllerModifyVolumeRequest, CreateVolumeRequest, DeleteVolumeRequest,
    ListVolumesRequest, ValidateVolumeCapabilitiesRequest, VolumeCapability, VolumeContentSource,
};
use support::Driver;
use support::calls::{capability, capability_with, refused};
use tonic::Code;

/// A wish with one parameter more.
fn with_parameter(driver: &Driver, key: &str, value: &str) -> CreateVolumeRequest {
    let mut wish = driver.wish("pvc-1");
    wish.parameters.insert(key.to_owned(), value.to_owned());
    wish
}

/// A wish with one key of the secret changed; `None` takes it away.
fn with_secret(driver: &Driver, key: &str, value: Option<&str>) -> CreateVolumeRequest {
    let mut wish = driver.wish("pvc-1");
    match value {
        Some(value) => wish.secrets.insert(key.to_owned(), value.to_owned()),
        None => wish.secrets.remove(key),
    };
    wish
}

#[test]
fn deletion_empties_exactly_the_volume_and_no_sibling_of_the_same_beginning() {
    let driver = Driver::start();
    let (one, other) = (driver.make("pvc-1"), driver.make("pvc-10"));
    let strange = driver.minio.data_of(&driver.bucket).join("volumes/pvc-1x");
    fs::create_dir_all(&strange).expect("a directory of somebody else");
    let of_other = |keys: &[String]| {
        keys.iter().filter(|key| key.contains("pvc-10")).cloned().collect::<Vec<_>>()
    };
    let before = of_other(&driver.objects());
    assert!(before.len() > 3, "{before:?}");
    driver.delete(&one.id).expect("deleted");
    let after = driver.objects();
    assert_eq!(of_other(&after), before);
    assert_eq!(after.len(), before.len(), "nothing of the first is left: {after:?}");
    assert!(strange.exists());
    driver.delete(&other.id).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
}

#[test]
fn what_the_driver_has_not_made_is_not_deleted() {
    let driver = Driver::start();
    // A volume that a person has made, by the id that a static PersistentVolume has.
    let place = driver.minio.data_of(&driver.bucket).join("by-hand/data");
    fs::create_dir_all(&place).expect("made");
    for id in [
        format!("{}/by-hand", driver.bucket),
        format!("{}/by-hand/", driver.bucket),
        driver.bucket.clone(),
        format!("{}/../other", driver.bucket),
        "vol-0123:of-another-driver".to_owned(),
        "pvc-1".to_owned(),
    ] {
        driver.delete(&id).unwrap_or_else(|status| panic!("{id}: {status}"));
        assert!(place.exists(), "{id}");
    }
}

#[test]
fn a_volume_inside_another_one_is_neither_made_nor_deleted_with_it() {
    let driver = Driver::start();
    let outer = driver.make("pvc-1");
    for prefix in ["volumes/pvc-1", "volumes/pvc-1/t", "volumes/pvc-1/t/deep/er"] {
        let mut wish = driver.wish("pvc-2");
        wish.parameters.insert("prefix".to_owned(), prefix.to_owned());
        let said = ["inside the volume at", "volumes/pvc-1/", "choose a prefix outside"];
        refused(driver.create(wish), Code::FailedPrecondition, &said);
    }
    // What somebody has put there all the same.
    let place = driver.minio.data_of(&driver.bucket).join("volumes");
    for below in ["pvc-1/other", "pvc-1/a/b"] {
        fs::create_dir_all(place.join(below)).expect("made");
        let from = place.join("pvc-1/strongroom.json");
        let copied = Command::new("cp").arg("-r").arg(from).arg(place.join(below)).status();
        assert!(copied.expect("cp runs").success());
        let before = driver.objects();
        let said = ["is not the volume's", "nothing is deleted"];
        refused(driver.delete(&outer.id), Code::FailedPrecondition, &said);
        assert_eq!(driver.objects(), before);
        // And what was to be deleted can be used as before.
        driver.attach(&outer);
        driver.detach(&outer);
        let first = below.split('/').take(2).collect::<Vec<_>>().join("/");
        fs::remove_dir_all(place.join(first)).expect("removed");
    }
    driver.delete(&outer.id).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
    // The bucket itself may be one.
    let mut wish = driver.wish("pvc-3");
    wish.parameters.insert("prefix".to_owned(), String::new());
    let descriptor = driver.minio.data_of(&driver.bucket).join("strongroom.json");
    driver.block_on(async {
        let key = Key::new("strongroom.json").expect("a key");
        driver.store().await.put(&key, "{}".into(), PutWhen::Always).await.expect("written");
    });
    assert!(descriptor.exists());
    refused(driver.create(wish), Code::FailedPrecondition, &["inside the volume at"]);
}

#[test]
fn a_place_with_objects_of_others_is_not_taken_for_a_new_volume() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    // The record is lost; the volume's objects are not.
    let record = driver.minio.data_of(&driver.bucket).join("volumes/.volumes/pvc-1.json");
    fs::remove_dir_all(record).expect("removed");
    refused(
        driver.create(driver.wish("pvc-1")),
        Code::FailedPrecondition,
        &["is not empty", "choose another prefix"],
    );
    driver.delete(&made.id).expect("unknown");
    assert!(!driver.objects().is_empty(), "what has no record is not touched");
}

#[test]
fn a_deletion_that_was_cut_short_is_taken_up_again() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    // As a controller leaves it that is killed after its first page of deletions.
    driver.block_on(async {
        let store = driver.store().await;
        let key = Key::new("volumes/.volumes/pvc-1.json").expect("a key");
        let Ok(Fetched::Object(object)) = store.get(&key, None, None).await else {
            panic!("there is no record");
        };
        let record = String::from_utf8(object.body.bytes().to_vec()).expect("text");
        let deleting = record.replace("\"ready\"", "\"deleting\"");
        assert_ne!(deleting, record);
        store.put(&key, deleting.into(), PutWhen::Always).await.expect("written");
        let descriptor = Key::new("volumes/pvc-1/strongroom.json").expect("a key");
        store.delete(&descriptor, None).await.expect("removed");
    });
    refused(driver.create(driver.wish("pvc-1")), Code::Aborted, &["still being deleted"]);
    refused(driver.stage(&made), Code::FailedPrecondition, &["still being made or deleted"]);
    driver.delete(&made.id).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
    assert_eq!(driver.make("pvc-1").id, made.id, "the name is free again");
}

#[test]
fn the_same_name_is_the_same_volume_or_an_error() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    assert_eq!(driver.create(driver.wish("pvc-1")).expect("the same").volume_id, made.id);
    let mut wish = driver.wish("pvc-1");
    wish.capacity_range = Some(CapacityRange { required_bytes: 2 << 30, limit_bytes: 0 });
    refused(driver.create(wish), Code::AlreadyExists, &["with 1073741824 bytes"]);
    let mut wish = driver.wish("pvc-1");
    wish.capacity_range = Some(CapacityRange { required_bytes: 0, limit_bytes: 1 << 20 });
    refused(driver.create(wish), Code::AlreadyExists, &["with 1073741824 bytes"]);
    let wish = with_parameter(&driver, "encryption", "AES-256-CFB");
    refused(driver.create(wish), Code::AlreadyExists, &["with other parameters"]);
}

#[test]
fn names_of_1_and_of_128_bytes_and_strange_ones_are_volumes() {
    let driver = Driver::start();
    let mut ids = Vec::new();
    for name in ["x", &"n".repeat(128), &"N".repeat(127), "../..", "a/b", "ü ü", ".volumes"] {
        let volume = driver.create(driver.wish(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(volume.volume_id.len() <= 128);
        assert!(volume.volume_id.starts_with(&format!("{}/volumes/", driver.bucket)));
        ids.push(volume.volume_id);
    }
    let mut unique = ids.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), ids.len());
    for id in &ids {
        driver.delete(id).expect("deleted");
    }
    assert_eq!(driver.objects(), Vec::<String>::new());
    let mut wish = driver.wish("x");
    wish.name = "n".repeat(129);
    refused(driver.create(wish), Code::InvalidArgument, &["name: is longer than 128 bytes"]);
}

#[test]
fn parameters_that_are_unknown_or_malformed_are_named() {
    let driver = Driver::start();
    for (key, value, parts) in [
        ("bukcet", "x", vec!["`bukcet`", "known are bucket, prefix"]),
        ("mounter", "geesefs", vec!["`mounter` is unknown"]),
        ("bucket", "", vec!["`bucket`", "is missing"]),
        ("bucket", "a b", vec!["`bucket`"]),
        ("prefix", "a/../../b", vec!["`prefix`", ".."]),
        ("layout", "objects", vec!["`encryption`", "is missing", "AES-256-CFB"]),
        ("layout", "other", vec!["`layout`", "native, objects"]),
        ("encryption", "ROT13", vec!["`encryption`", "ROT13"]),
        ("endpoint", "ftp://x", vec!["`endpoint`"]),
        ("endpoint", "http://user:word@x", vec!["`endpoint`"]),
        ("region", "a b", vec!["`region`"]),
        ("forcePathStyle", "perhaps", vec!["`forcePathStyle`"]),
        ("options", "memory-limit=lots", vec!["`options`", "`memory-limit`", "lots"]),
        ("options", "exec", vec!["`options`", "`exec` is unknown"]),
        ("prefix", &"p/".repeat(80), vec!["shorten the prefix"]),
    ] {
        let wish = with_parameter(&driver, key, value);
        refused(driver.create(wish), Code::InvalidArgument, &parts);
    }
    let mut wish = driver.wish("pvc-1");
    wish.mutable_parameters.insert("colour".to_owned(), "red".to_owned());
    refused(driver.create(wish), Code::InvalidArgument, &["`colour`", "memoryLimit"]);
    assert_eq!(driver.objects(), Vec::<String>::new(), "nothing was made");
}

#[test]
fn fields_that_are_missing_or_cannot_be_had_are_named() {
    let driver = Driver::start();
    let check = |change: &dyn Fn(&mut CreateVolumeRequest), code, part: &str| {
        let mut wish = driver.wish("pvc-1");
        change(&mut wish);
        refused(driver.create(wish), code, &[part]);
    };
    let invalid = Code::InvalidArgument;
    check(&|wish| wish.name.clear(), invalid, "name: is missing");
    check(&|wish| wish.volume_capabilities.clear(), invalid, "volume_capabilities");
    check(
        &|wish| wish.volume_capabilities = vec![VolumeCapability::default()],
        invalid,
        "access_type is missing",
    );
    check(
        &|wish| wish.volume_capabilities[0].access_type = Some(AccessType::Block(BlockVolume {})),
        invalid,
        "never a block device",
    );
    check(
        &|wish| wish.volume_capabilities[0].access_mode = None,
        invalid,
        "access_mode is missing",
    );
    check(
        &|wish| wish.volume_capabilities = vec![capability(Mode::Unknown)],
        invalid,
        "access_mode is unknown",
    );
    check(
        &|wish| {
            wish.volume_capabilities =
                vec![capability_with(Mode::SingleNodeWriter, &["ro", "suid"])];
        },
        invalid,
        "`suid` is unknown",
    );
    check(
        &|wish| wish.volume_content_source = Some(VolumeContentSource::default()),
        invalid,
        "volumes begin empty",
    );
    let range = |required_bytes, limit_bytes| Some(CapacityRange { required_bytes, limit_bytes });
    check(&|wish| wish.capacity_range = range(-1, 0), invalid, "negative");
    check(&|wish| wish.capacity_range = range(9, 5), Code::OutOfRange, "limit");
    let delete = DeleteVolumeRequest { volume_id: String::new(), secrets: HashMap::new() };
    let deleted = driver.block_on(driver.controller().delete_volume(delete));
    refused(deleted, invalid, &["volume_id: is missing"]);
    let list = ListVolumesRequest { max_entries: -1, starting_token: String::new() };
    let listed = driver.block_on(driver.controller().list_volumes(list));
    refused(listed, invalid, &["max_entries"]);
    for token in ["x", "9:x", "0:other/key", "-1:x"] {
        let list = ListVolumesRequest { max_entries: 1, starting_token: token.to_owned() };
        let listed = driver.block_on(driver.controller().list_volumes(list));
        refused(listed, Code::Aborted, &["starting_token"]);
    }
    assert_eq!(driver.objects(), Vec::<String>::new(), "nothing was made");
}

#[test]
fn secrets_that_are_missing_or_wrong_are_named_and_not_repeated() {
    let driver = Driver::start();
    let wrong = "not the right one";
    for (key, value, parts) in [
        ("accessKeyID", None, vec!["`accessKeyID`", "provisioner-secret-name"]),
        ("secretAccessKey", None, vec!["`secretAccessKey`"]),
        ("passphrase", None, vec!["`passphrase`", "encryption: none"]),
        ("passphrase", Some(""), vec!["`passphrase` is empty"]),
        ("passphrase", Some("\n"), vec!["`passphrase` is empty"]),
        ("secretAccessKey", Some(""), vec!["`secretAccessKey` is empty"]),
        ("secretAccessKey", Some("a\nb"), vec!["`secretAccessKey` holds a space, a line end"]),
        ("accessKeyID", Some(wrong), vec!["`accessKeyID` holds a space"]),
        ("accessKeyID", Some("nobody"), vec!["accessKeyID in the volume's secret"]),
        ("secretAccessKey", Some("notTheRightOne"), vec!["secretAccessKey in the volume's secret"]),
        ("endpoint", Some("not an url"), vec!["endpoint"]),
        ("insecure", Some("perhaps"), vec!["`insecure`"]),
    ] {
        let wish = with_secret(&driver, key, value);
        let error = driver.create(wish).expect_err(key);
        refused::<()>(Err(error.clone()), Code::Unauthenticated, &parts);
        assert!(!error.message().contains("notTheRightOne"), "{error}");
        assert!(!error.message().contains("AWS_"), "{error}");
    }
    // Nobody is there, and there is no such bucket.
    let wish = with_secret(&driver, "endpoint", Some("http://127.0.0.1:1"));
    refused(driver.create(wish), Code::Unavailable, &["127.0.0.1:1", "check that the server runs"]);
    let wish = with_parameter(&driver, "bucket", "no-such-bucket");
    refused(driver.create(wish), Code::NotFound, &["no-such-bucket", "create the bucket first"]);
    assert_eq!(driver.objects(), Vec::<String>::new(), "nothing was made");

    // One line end at the end is how `kubectl create secret --from-file` brings them.
    let mut wish = driver.wish("pvc-1");
    for value in wish.secrets.values_mut() {
        value.push('\n');
    }
    let made = driver.create(wish).expect("created");
    assert_eq!(driver.make("pvc-1").id, made.volume_id, "the passphrase is the same");
    // The same name with another passphrase cannot be proven to be the same volume; it says what to do.
    driver.delete(&made.volume_id).expect("deleted");
}

#[test]
fn two_calls_for_one_volume_at_once_make_it_once() {
    let driver = Driver::start();
    let client = driver.controller();
    let answers = driver.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (mut client, wish) = (client.clone(), driver.wish("pvc-1"));
            calls.spawn(async move { client.create_volume(wish).await });
        }
        calls.join_all().await
    });
    let mut ids = Vec::new();
    for answer in answers {
        match answer {
            Ok(created) => ids.push(created.into_inner().volume.expect("told").volume_id),
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
        }
    }
    assert!(!ids.is_empty());
    ids.dedup();
    assert_eq!(ids.len(), 1);
    driver.make("pvc-1");
    let answers = driver.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let mut client = client.clone();
            let request =
                DeleteVolumeRequest { volume_id: ids[0].clone(), secrets: driver.secrets() };
            calls.spawn(async move { client.delete_volume(request).await });
        }
        calls.join_all().await
    });
    assert!(answers.iter().any(Result::is_ok));
    assert!(
        answers.iter().flat_map(|answer| answer.as_ref().err()).all(|e| e.code() == Code::Aborted)
    );
    assert_eq!(driver.objects(), Vec::<String>::new());
}

#[test]
fn a_store_that_does_not_answer_is_unavailable_and_the_retry_succeeds() {
    let driver = Driver::start_with(std::sync::Arc::new(support::minio::Minio::start()), &[]);
    driver.minio.pause();
    refused(driver.create(driver.wish("pvc-1")), Code::Unavailable, &["no answer within"]);
    driver.minio.resume();
    let made = driver.make("pvc-1");
    driver.minio.pause();
    refused(driver.delete(&made.id), Code::Unavailable, &["no answer within"]);
    driver.minio.resume();
    support::wait_for("the deletion", || driver.delete(&made.id).is_ok());
    assert_eq!(driver.objects(), Vec::<String>::new());
}

#[test]
fn what_a_volume_cannot_be_used_for_is_said_and_an_unknown_one_is_not_found() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    let validate = |id: &str, capability, parameters: HashMap<String, String>| {
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: vec![capability],
            parameters,
            secrets: driver.secrets(),
            ..ValidateVolumeCapabilitiesRequest::default()
        };
        let answer = driver.block_on(driver.controller().validate_volume_capabilities(request));
        answer.map(tonic::Response::into_inner)
    };
    let usual = || capability(Mode::MultiNodeMultiWriter);
    assert!(validate(&made.id, usual(), HashMap::new()).expect("told").confirmed.is_some());
    let bogus = HashMap::from([("bogus".to_owned(), "x".to_owned())]);
    let answer = validate(&made.id, usual(), bogus).expect("told");
    assert!(answer.confirmed.is_none() && answer.message.contains("`bogus`"), "{answer:?}");
    for id in ["x", "bucket-of-nobody/x", "vol:1"] {
        let answer = validate(id, usual(), HashMap::new());
        assert_eq!(answer.expect_err(id).code(), Code::NotFound, "{id}");
    }
    let modify = |key: &str, value: &str| {
        let request = ControllerModifyVolumeRequest {
            volume_id: made.id.clone(),
            secrets: driver.secrets(),
            mutable_parameters: HashMap::from([(key.to_owned(), value.to_owned())]),
        };
        driver.block_on(driver.controller().controller_modify_volume(request))
    };
    modify("memoryLimit", "128MiB").expect("modified");
    refused(modify("memoryLimit", "little"), Code::InvalidArgument, &["`memoryLimit`", "no size"]);
    refused(modify("encryption", "none"), Code::InvalidArgument, &["`encryption` is unknown"]);
}

#[test]
fn a_storage_class_may_say_how_the_store_is_reached_and_the_id_remembers_it() {
    let driver = Driver::start();
    let mut wish = with_secret(&driver, "endpoint", None);
    wish.parameters.insert("endpoint".to_owned(), driver.minio.endpoint.clone());
    wish.parameters.insert("region".to_owned(), "us-east-1".to_owned());
    let made = driver.create(wish).expect("created");
    assert!(made.volume_id.ends_with(&format!("//e={};r=us-east-1", driver.minio.endpoint)));
    let mut secrets = driver.secrets();
    secrets.remove("endpoint");
    let request = DeleteVolumeRequest { volume_id: made.volume_id, secrets };
    driver.block_on(driver.controller().delete_volume(request)).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
}

#[test]
fn as_csi_s3_it_speaks_its_parameters() {
    let driver =
        Driver::start_with(support::minio::Minio::shared(), &["--driver-name", "ru.yandex.s3.csi"]);
    let mut wish = with_parameter(&driver, "mounter", "geesefs");
    wish.parameters.insert(
        "options".to_owned(),
        "--memory-limit 1000 --dir-mode 0777 --file-mode 0666 --region %!s(<nil>)".to_owned(),
    );
    let theirs = driver.create(wish.clone()).expect("created");
    let mark = "volumes/pvc-1__XLDIR__";
    assert!(driver.objects().iter().any(|key| key == mark), "{:?}", driver.objects());
    driver.delete(&theirs.volume_id).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
    wish.parameters.insert("layout".to_owned(), "native".to_owned());
    let volume = driver.create(wish.clone()).expect("created");
    assert_eq!(volume.volume_id, format!("{}/volumes/pvc-1", driver.bucket));
    assert_eq!(volume.volume_context["mounter"], "geesefs");
    wish.parameters.insert("options".to_owned(), "--no-such-flag".to_owned());
    refused(driver.create(wish), Code::InvalidArgument, &["`options`", "`--no-such-flag`"]);
    driver.delete(&volume.volume_id).expect("deleted");
}
