//! A volume's life as an orchestrator leads it: made, staged, published, written to, and all the way back.

mod support;

use std::fs;
use strongroom_csi::api::csi::volume_capability::access_mode::Mode;
use strongroom_csi::api::csi::{
    CapacityRange, ControllerExpandVolumeRequest, GetPluginInfoRequest, ListVolumesRequest,
    NodeGetInfoRequest, ProbeRequest,
};
use support::calls::{capability, refused};
use support::{Driver, Process, mounts_below};
use tonic::Code;

#[test]
fn a_file_written_in_one_pod_is_read_in_the_next_and_only_ciphertext_is_in_the_bucket() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    assert!(made.id.starts_with(&format!("{}/volumes/pvc-1", driver.bucket)), "{}", made.id);
    driver.attach(&made);
    let content = b"a row of the customers' table ".repeat(10_000);
    fs::create_dir(made.target.join("base")).expect("a directory");
    fs::write(made.target.join("base/customers"), &content).expect("written");
    assert!(!driver.condition(&made).abnormal);
    driver.detach(&made);
    assert!(mounts_below(driver.temporary.path()).is_empty());
    assert!(!made.target.exists(), "the target directory is removed");

    driver.attach(&made);
    assert_eq!(fs::read(made.target.join("base/customers")).expect("read"), content);
    driver.detach(&made);

    for file in support::files_below(&driver.minio.data_of(&driver.bucket)) {
        let bytes = fs::read(&file).expect("an object");
        let found = bytes.windows(9).any(|window| window == b"customers");
        assert!(!found, "plaintext is in {}", file.display());
    }
    driver.delete(&made.id).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
    driver.delete(&made.id).expect("deleted already");
}

#[test]
fn every_process_is_restarted_between_any_two_calls_and_nothing_is_lost() {
    let mut driver = Driver::start();
    let made = driver.make("pvc-1");
    driver.restart(Process::Controller);
    assert_eq!(driver.make("pvc-1").id, made.id, "the same name is the same volume");
    driver.restart(Process::Node);
    driver.stage(&made).expect("staged");
    driver.restart(Process::Node);
    driver.publish(&made).expect("published");
    fs::write(made.target.join("before"), "before").expect("written");
    driver.restart(Process::Node);
    fs::write(made.target.join("after"), "after").expect("written after a restart");
    driver.restart(Process::Node);
    driver.stage(&made).expect("staged already");
    driver.publish(&made).expect("published already");
    assert_eq!(fs::read(made.target.join("before")).expect("read"), b"before");
    driver.restart(Process::Node);
    driver.unpublish(&made).expect("unpublished");
    driver.restart(Process::Node);
    driver.unstage(&made).expect("unstaged");
    driver.restart(Process::Keeper);
    driver.attach(&made);
    assert_eq!(fs::read(made.target.join("after")).expect("read"), b"after");
    driver.detach(&made);
    driver.restart(Process::Controller);
    driver.delete(&made.id).expect("deleted");
    assert_eq!(driver.objects(), Vec::<String>::new());
}

#[test]
fn a_pod_notices_nothing_when_its_worker_is_killed() {
    use std::io::Write;
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    driver.attach(&made);
    let mut file = fs::File::create(made.target.join("log")).expect("a file");
    file.write_all(b"first ").expect("written");
    let before = driver.workers();
    assert_eq!(before.len(), 1);
    nix::sys::signal::kill(before[0], nix::sys::signal::Signal::SIGKILL).expect("killed");
    file.write_all(b"second").expect("written over the kill");
    file.sync_all().expect("stored");
    drop(file);
    assert_eq!(fs::read(made.target.join("log")).expect("read"), b"first second");
    assert_ne!(driver.workers(), before);
    driver.detach(&made);
}

#[test]
fn a_read_only_publish_refuses_writes_and_a_writable_one_beside_it_does_not() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    driver.attach(&made);
    fs::write(made.target.join("file"), "x").expect("written");
    let reader = driver.local("pod-reader/mount");
    let mut request = driver.publish_request(&made, &reader);
    request.readonly = true;
    driver.publish_with(request.clone()).expect("published");
    driver.publish_with(request.clone()).expect("published already");
    assert_eq!(fs::read(reader.join("file")).expect("read"), b"x");
    let error = fs::write(reader.join("file"), "y").expect_err("read-only");
    assert_eq!(error.raw_os_error(), Some(nix::libc::EROFS));
    request.readonly = false;
    refused(driver.publish_with(request), Code::AlreadyExists, &["in another mode"]);
    driver.unpublish_at(&made, &reader).expect("unpublished");
    driver.detach(&made);

    // The access mode says it for the whole volume.
    let mut request = driver.stage_request(&made);
    request.volume_capability = Some(capability(Mode::MultiNodeReaderOnly));
    driver.stage_with(request).expect("staged");
    let mut request = driver.publish_request(&made, &made.target);
    request.volume_capability = Some(capability(Mode::MultiNodeReaderOnly));
    driver.publish_with(request).expect("published");
    assert!(fs::write(made.target.join("file"), "y").is_err());
    driver.detach(&made);
}

#[test]
fn who_the_plugin_is_and_what_it_has_can_be_asked() {
    let driver = Driver::start();
    for process in [Process::Controller, Process::Node] {
        let mut identity = driver.identity(process);
        let info = driver.block_on(identity.get_plugin_info(GetPluginInfoRequest {}));
        assert_eq!(info.expect("told").into_inner().name, "csi.strongroom.io");
        let probe = driver.block_on(identity.probe(ProbeRequest {})).expect("probed");
        assert_eq!(probe.into_inner().ready, Some(true));
    }
    let info = driver.block_on(driver.node().node_get_info(NodeGetInfoRequest {}));
    assert_eq!(info.expect("told").into_inner().node_id, "node-1");

    let names = ["pvc-1", "pvc-2", "pvc-3"];
    for name in names {
        driver.make(name);
    }
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListVolumesRequest { max_entries: 2, starting_token: token };
        let page = driver.block_on(driver.controller().list_volumes(request)).expect("listed");
        let page = page.into_inner();
        assert!(page.entries.len() <= 2);
        found.extend(page.entries.into_iter().map(|entry| entry.volume.expect("one").volume_id));
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, names.map(|name| format!("{}/volumes/{name}", driver.bucket)));
}

#[test]
fn a_volume_grows_while_it_is_used_and_never_shrinks() {
    let driver = Driver::start();
    let made = driver.make("pvc-1");
    driver.attach(&made);
    let expand = |required_bytes, limit_bytes| {
        let request = ControllerExpandVolumeRequest {
            volume_id: made.id.clone(),
            capacity_range: Some(CapacityRange { required_bytes, limit_bytes }),
            secrets: driver.secrets(),
            volume_capability: None,
        };
        let expanded = driver.block_on(driver.controller().controller_expand_volume(request));
        expanded.map(|answer| answer.into_inner().capacity_bytes)
    };
    assert_eq!(expand(5 << 30, 0).expect("expanded"), 5 << 30);
    assert_eq!(expand(2 << 30, 0).expect("big enough already"), 5 << 30);
    refused(expand(1 << 30, 2 << 30), Code::OutOfRange, &["no volume shrinks"]);
    driver.detach(&made);
    driver.attach(&made);
    assert_eq!(driver.stats(&made).expect("stats").usage[0].total, 5 << 30);
    driver.detach(&made);
}

#[test]
fn kubelet_finds_the_plugin_by_its_registration_socket() {
    use strongroom_csi::api::registration::registration_client::RegistrationClient;
    use strongroom_csi::api::registration::{InfoRequest, RegistrationStatus};
    let driver = Driver::start();
    let socket = driver.local("registry/csi.strongroom.io-reg.sock");
    // It has its name a moment before it listens.
    let listens = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
    support::wait_for("the registration socket", listens);
    let address = format!("unix:{}", socket.display());
    let endpoint = tonic::transport::Endpoint::from_shared(address).expect("an address");
    let mut client =
        RegistrationClient::new(driver.block_on(endpoint.connect()).expect("it listens"));
    let info = driver.block_on(client.get_info(InfoRequest {})).expect("told").into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.strongroom.io"));
    assert!(
        info.endpoint.ends_with("kubelet/plugins/csi.strongroom.io/csi.sock"),
        "{}",
        info.endpoint
    );
    let status = RegistrationStatus { plugin_registered: true, error: String::new() };
    driver.block_on(client.notify_registration_status(status)).expect("taken");
    support::wait_for("the log", || driver.log(Process::Node).contains("registered with kubelet"));
}

#[test]
fn no_process_shows_a_secret_at_the_highest_level_of_its_log() {
    let driver = Driver::start_with(support::minio::Minio::shared(), &["--log", "trace"]);
    let made = driver.make("pvc-1");
    driver.attach(&made);
    fs::write(made.target.join("file"), "x").expect("written");
    assert!(!driver.condition(&made).abnormal);
    let mut request = driver.publish_request(&made, &made.target);
    request.secrets = driver.secrets();
    driver.publish_with(request).expect("published with secrets");
    assert_eq!(driver.workers().len(), 1, "its arguments and environment are searched, too");
    driver.assert_no_secret();
    for process in [Process::Controller, Process::Node] {
        let log = driver.log(process);
        // What is searched is what was written: the key's name may be there, and is.
        assert!(log.contains("TRACE") && log.contains(&driver.minio.access_key), "{process:?}");
    }
    driver.detach(&made);
    driver.delete(&made.id).expect("deleted");
    driver.assert_no_secret();
}
