//! Volumes whose objects are files: plain or in datasafed's form, made by this driver or there already, as csi-s3's
//! are; what backup scripts push and what pods write is the same.

mod support;

use nix::sys::signal::{Signal, kill};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use strongroom_csi::api::csi::volume_capability::access_mode::Mode;
use strongroom_csi::api::csi::{ControllerModifyVolumeRequest, ValidateVolumeCapabilitiesRequest};
use support::calls::{Made, capability, capability_with, refused};
use support::minio::Minio;
use support::{Driver, wait_for};
use tonic::Code;

const LENGTH: usize = 24 << 20;

/// What a pod finds at the volume's path by `datasafed`, the command line of backup scripts.
struct Scripts<'a> {
    driver: &'a Driver,
    root: String,
    suite: Option<&'a str>,
}

impl Scripts<'_> {
    fn run(&self, words: &[&str], input: &[u8]) -> Output {
        let Minio { endpoint, access_key, secret_key, .. } = &*self.driver.minio;
        let conf = self.driver.local("datasafed.conf");
        let text = format!(
            "[storage]\ntype = s3\nprovider = Minio\nendpoint = {endpoint}\naccess_key_id = {access_key}\n\
             secret_access_key = {secret_key}\nroot = {}\n",
            self.root
        );
        fs::write(&conf, text).expect("written");
        let mut command = Command::new(support::strongroom());
        command.env_clear().env("HOME", self.driver.temporary.path());
        if let Some(suite) = self.suite {
            command.env("DATASAFED_ENCRYPTION_ALGORITHM", suite);
            command.env("DATASAFED_ENCRYPTION_PASS_PHRASE", &self.driver.passphrase);
        }
        command.args(["datasafed", "--conf"]).arg(&conf).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        child.stdin.take().expect("a pipe").write_all(input).expect("taken");
        let output = child.wait_with_output().expect("it ends");
        // It is not to be found where secrets are searched for.
        fs::remove_file(conf).expect("removed");
        output
    }

    fn pull(&self, name: &str) -> Vec<u8> {
        let output = self.run(&["pull", name, "-"], b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn push(&self, name: &str, bytes: &[u8]) {
        let output = self.run(&["push", "-", name], bytes);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn bytes() -> Vec<u8> {
    (0..LENGTH as u32 / 4)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// One test after the other: a program that one of them starts closes the files that another one has open, which
/// stores them as they are then.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A volume of files, made by the driver.
fn make(driver: &Driver, name: &str, encryption: &str) -> Made {
    let mut wish = driver.wish(name);
    wish.parameters.insert("layout".to_owned(), "objects".to_owned());
    wish.parameters.insert("encryption".to_owned(), encryption.to_owned());
    let volume = driver.create(wish.clone()).expect("created");
    assert_eq!(driver.create(wish).expect("once more"), volume);
    driver.made(name, volume)
}

fn kill_worker(driver: &Driver) {
    let before = driver.workers();
    before.iter().for_each(|worker| kill(*worker, Signal::SIGKILL).expect("it is there"));
    wait_for("another worker", || {
        let now = driver.workers();
        now.len() == before.len() && now.iter().all(|worker| !before.contains(worker))
    });
}

#[test]
fn what_pods_write_scripts_pull_and_the_other_way_round() {
    let _alone = alone();
    let driver = Driver::start();
    let beside = make(&driver, "pvc", "none");
    for (name, suite) in [("pvc-plain", None), ("pvc-sealed", Some("AES-256-CFB"))] {
        let made = make(&driver, name, suite.unwrap_or("none"));
        driver.attach(&made);
        let root = made.id.clone();
        let scripts = Scripts { driver: &driver, root, suite };
        let bytes = bytes();
        fs::create_dir(made.target.join("backup")).expect("made");
        fs::write(made.target.join("backup/base.tar"), &bytes).expect("written");
        assert!(scripts.pull("backup/base.tar") == bytes);
        scripts.push("backup/log.1", b"of a script");
        let read = || fs::read(made.target.join("backup/log.1"));
        // A name is known not to be there for a second.
        wait_for("what the script has pushed", || read().is_ok_and(|read| read == b"of a script"));
        // Nobody who reads or has written notices that the worker is killed.
        let mut file = File::open(made.target.join("backup/base.tar")).expect("opened");
        let mut half = vec![0; LENGTH / 2];
        file.read_exact(&mut half).expect("read");
        let mut small = File::create(made.target.join("small")).expect("made");
        small.write_all(b"before ").expect("written");
        kill_worker(&driver);
        small.write_all(b"after").expect("written");
        drop(small);
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).expect("read");
        assert!([half, rest].concat() == bytes);
        drop(file);
        assert_eq!(scripts.pull("small"), b"before after");
        assert!(!driver.condition(&made).abnormal);
        let holds = |key: &str| driver.objects().iter().any(|known| known == key);
        let suffix = if suite.is_some() { ".enc" } else { "" };
        assert!(holds(&format!("volumes/{name}/small{suffix}")), "{:?}", driver.objects());
        driver.detach(&made);
        driver.delete(&made.id).expect("deleted");
        let left: Vec<String> = driver.objects();
        assert!(left.iter().all(|key| !key.starts_with(&format!("volumes/{name}/"))), "{left:?}");
    }
    // Whose name the others begin with.
    driver.attach(&beside);
    fs::write(beside.target.join("x"), "x").expect("written");
    driver.detach(&beside);
    driver.delete(&beside.id).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
    driver.assert_no_secret();
}

#[test]
fn a_killed_worker_loses_only_what_is_changed_in_its_middle_and_the_volume_says_so() {
    let _alone = alone();
    let driver = Driver::start();
    let made = make(&driver, "pvc", "AES-256-CFB");
    driver.attach(&made);
    let bytes = bytes();
    fs::write(made.target.join("changed"), &bytes).expect("written");
    let mut long = File::create(made.target.join("long")).expect("opened");
    long.write_all(&bytes).expect("written");
    let changed = File::options().write(true).open(made.target.join("changed")).expect("opened");
    changed.write_all_at(b"in its middle", 1_000_000).expect("written");
    kill_worker(&driver);
    long.write_all(&bytes).and_then(|()| long.sync_all()).expect("nothing of it is lost");
    let error = changed.sync_all().expect_err("what was changed is lost");
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    wait_for("the volume's condition", || driver.condition(&made).message.contains("lost"));
    assert!(driver.condition(&made).abnormal);
    drop((long, changed));
    wait_for("a volume that is well", || !driver.condition(&made).abnormal);
    assert!(fs::read(made.target.join("changed")).expect("read") == bytes);
    assert!(fs::read(made.target.join("long")).expect("read") == [&bytes[..], &bytes].concat());
    driver.detach(&made);
    driver.delete(&made.id).expect("deleted");
}

#[test]
fn a_fixed_place_is_the_same_for_every_claim_and_outlives_them() {
    let _alone = alone();
    let driver = Driver::start();
    let wish = |name: &str, namespace: &str, more: &[(&str, &str)]| {
        let mut wish = driver.wish(name);
        let sub_dir = ("subDir", "${pvc.metadata.namespace}");
        let whose = ("csi.storage.k8s.io/pvc/namespace", namespace);
        for (key, value) in [sub_dir, whose].iter().chain(more) {
            wish.parameters.insert((*key).to_owned(), (*value).to_owned());
        }
        wish
    };
    let sealed = [("layout", "objects"), ("encryption", "AES-256-CFB")];
    let root = format!("{}/{}/db", driver.bucket, support::PREFIX);
    let scripts = Scripts { driver: &driver, root: root.clone(), suite: Some("AES-256-CFB") };
    // Scripts may have been there before any claim.
    scripts.push("before", b"any claim");
    let first = driver.create(wish("pvc-1", "db", &sealed)).expect("created");
    assert_eq!(first.volume_id, root);
    let first = driver.made("first", first);
    driver.attach(&first);
    assert_eq!(fs::read(first.target.join("before")).expect("read"), b"any claim");
    fs::write(first.target.join("of the first"), "claim").expect("written");
    assert_eq!(scripts.pull("of the first"), b"claim");
    driver.detach(&first);
    driver.delete(&first.id).expect("taken for done");
    // The next claim, of another size, finds it all.
    let mut next = wish("pvc-2", "db", &sealed);
    next.capacity_range.as_mut().expect("a size").required_bytes = 5 << 30;
    let next = driver.create(next).expect("created");
    assert_eq!((next.volume_id.as_str(), next.capacity_bytes), (root.as_str(), 5 << 30));
    let next = driver.made("next", next);
    driver.attach(&next);
    assert_eq!(fs::read(next.target.join("of the first")).expect("read"), b"claim");
    driver.detach(&next);
    // Another namespace has another place; what it is must not change.
    let other = driver.create(wish("pvc-3", "web", &sealed)).expect("created");
    assert_ne!(other.volume_id, root);
    let exists = Code::AlreadyExists;
    let plain = [("layout", "objects"), ("encryption", "none")];
    refused(driver.create(wish("pvc-4", "db", &plain)), exists, &["`encryption`"]);
    let mut wrong = wish("pvc-5", "db", &sealed);
    wrong.secrets.insert("passphrase".to_owned(), "another one".to_owned());
    refused(
        driver.stage_with({
            let mut request = driver.stage_request(&next);
            request.secrets = wrong.secrets.clone();
            request
        }),
        Code::Unauthenticated,
        &["passphrase"],
    );
    let mut unknown = wish("pvc-7", "db", &sealed);
    unknown.parameters.remove("csi.storage.k8s.io/pvc/namespace");
    refused(
        driver.create(unknown),
        Code::InvalidArgument,
        &["`subDir`", "--extra-create-metadata"],
    );
    // A volume of the native layout comes back as well, with its own passphrase alone.
    let native = driver.create(wish("pvc-8", "native", &[])).expect("created");
    let made = driver.made("native", native.clone());
    driver.attach(&made);
    fs::write(made.target.join("file"), "sealed").expect("written");
    driver.detach(&made);
    driver.delete(&made.id).expect("taken for done");
    let again = driver.create(wish("pvc-9", "native", &[])).expect("created");
    assert_eq!(again.volume_id, native.volume_id);
    let again = driver.made("again", again);
    driver.attach(&again);
    assert_eq!(fs::read_to_string(again.target.join("file")).expect("read"), "sealed");
    driver.detach(&again);
    refused(driver.create(wish("pvc-10", "native", &sealed)), exists, &["`layout`"]);
    driver.assert_no_secret();
}

#[test]
fn volumes_of_csi_s3_are_served_as_they_are() {
    let _alone = alone();
    let driver = Driver::start_with(Minio::shared(), &["--driver-name", "ru.yandex.s3.csi"]);
    let root = format!("{}/manual/path", driver.bucket);
    let scripts = Scripts { driver: &driver, root: root.clone(), suite: None };
    scripts.push("db/dump.sql", b"select 1;\n");
    let context = [
        ("capacity", "10Gi"),
        ("mounter", "geesefs"),
        ("options", "--memory-limit 1000 --dir-mode 0777 --file-mode 0666"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let made = Made {
        id: root,
        context: context.into(),
        staging: driver.local("staging"),
        target: driver.local("pod/mount"),
    };
    let mut request = driver.stage_request(&made);
    // csi-s3's secrets have none.
    request.secrets.remove("passphrase");
    request.volume_capability = Some(capability(Mode::MultiNodeMultiWriter));
    driver.stage_with(request).expect("staged");
    let mut request = driver.publish_request(&made, &made.target);
    request.volume_capability = Some(capability(Mode::MultiNodeMultiWriter));
    driver.publish_with(request).expect("published");
    let dump = made.target.join("db/dump.sql");
    assert_eq!(fs::read(&dump).expect("read"), b"select 1;\n");
    let told = fs::metadata(&dump).expect("there");
    assert_eq!((told.mode() & 0o777, told.uid(), told.gid()), (0o666, 0, 0));
    assert_eq!(fs::metadata(made.target.join("db")).expect("there").mode() & 0o777, 0o777);
    let file = File::options().write(true).open(&dump).expect("opened");
    file.write_all_at(b"SELECT", 0).expect("written");
    drop(file);
    assert_eq!(scripts.pull("db/dump.sql"), b"SELECT 1;\n");
    let known = ValidateVolumeCapabilitiesRequest {
        volume_id: made.id.clone(),
        volume_context: made.context.clone(),
        volume_capabilities: vec![capability(Mode::MultiNodeMultiWriter)],
        secrets: driver.secrets(),
        ..Default::default()
    };
    let answer = driver.block_on(driver.controller().validate_volume_capabilities(known));
    assert!(answer.expect("asked").into_inner().confirmed.is_some());
    driver.detach(&made);
    // What was there before this driver, it does not delete.
    driver.delete(&made.id).expect("taken for done");
    assert_eq!(scripts.pull("db/dump.sql"), b"SELECT 1;\n");
}

#[test]
fn what_cannot_be_is_said_before_anything_is_written() {
    let _alone = alone();
    let driver = Driver::start();
    let wish = |given: &[(&str, &str)]| {
        let mut wish = driver.wish("pvc");
        let more = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        wish.parameters.extend(more);
        wish
    };
    let objects = ("layout", "objects");
    let invalid = Code::InvalidArgument;
    for (given, part) in [
        (&[objects][..], "`encryption`: is missing"),
        (&[objects, ("encryption", "AES-256-GCM")], "AES-256-CFB"),
        (&[objects, ("encryption", "none"), ("options", "exclusive")], "`exclusive`"),
        (&[objects, ("encryption", "none"), ("options", "durability=fsync")], "durability"),
    ] {
        refused(driver.create(wish(given)), invalid, &[part]);
    }
    let sealed = [objects, ("encryption", "AES-256-CFB")];
    let mut request = wish(&sealed);
    request.secrets.remove("passphrase");
    refused(driver.create(request), Code::Unauthenticated, &["passphrase"]);
    let mut request = wish(&sealed);
    request.volume_capabilities = vec![capability_with(Mode::SingleNodeWriter, &["exclusive"])];
    refused(driver.create(request), invalid, &["exclusive"]);
    assert_eq!(driver.objects(), Vec::<String>::new());

    let volume = driver.create(wish(&sealed)).expect("created");
    let made = driver.made("pvc", volume);
    // Neither another passphrase nor another algorithm is taken for the volume's.
    let mut request = driver.stage_request(&made);
    request.secrets.insert("passphrase".to_owned(), "another one".to_owned());
    refused(driver.stage_with(request), Code::Unauthenticated, &["passphrase"]);
    let mut request = driver.stage_request(&made);
    request.volume_context.insert("encryption".to_owned(), "AES-128-CFB".to_owned());
    refused(driver.stage_with(request), Code::Unauthenticated, &["algorithm"]);
    let mut request = driver.stage_request(&made);
    request.volume_capability = Some(capability_with(Mode::SingleNodeWriter, &["exclusive"]));
    refused(driver.stage_with(request), invalid, &["exclusive"]);
    // A volume inside it would go with it.
    let mut inside = driver.wish("inside");
    inside.parameters.insert("prefix".to_owned(), "volumes/pvc".to_owned());
    refused(driver.create(inside), Code::FailedPrecondition, &["lies inside the volume"]);
    let modify = ControllerModifyVolumeRequest {
        volume_id: made.id.clone(),
        secrets: driver.secrets(),
        mutable_parameters: [("cacheSize".to_owned(), "1GiB".to_owned())].into(),
    };
    let modified = driver.block_on(driver.controller().controller_modify_volume(modify));
    refused(modified, invalid, &["cache-size"]);

    driver.attach(&made);
    // Where one is nevertheless, nothing is deleted.
    fs::create_dir(made.target.join(".volumes")).expect("made");
    driver.detach(&made);
    refused(driver.delete(&made.id), Code::FailedPrecondition, &[".volumes", "another volume"]);
    driver.attach(&made);
    fs::remove_dir(made.target.join(".volumes")).expect("removed");
    driver.detach(&made);
    driver.delete(&made.id).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
    // A volume of the native layout is no bucket of files.
    let native = driver.make("native");
    let mut request = driver.stage_request(&native);
    request.volume_context.insert("layout".to_owned(), "objects".to_owned());
    request.volume_context.insert("encryption".to_owned(), "none".to_owned());
    refused(
        driver.stage_with(request),
        Code::InvalidArgument,
        &["volume of strongroom", "`layout: objects`"],
    );
    driver.delete(&native.id).expect("deleted");
}
