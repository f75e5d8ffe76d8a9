//! The orchestrators' own suite, csi-sanity 5.5, against the whole driver: real processes, real mounts,
//! encrypted volumes on MinIO. Nothing is skipped but what belongs to a capability that is not advertised.
#![allow(clippy::print_stdout, reason = "how many cases passed")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::minio::cache::cached;
use support::{Driver, Process};

/// The program that `make tools` compiles.
const PROGRAM: &str = "csi-sanity-v5.5.0";
/// What this driver does not advertise, in the suite's words.
const NOT_ADVERTISED: &[&str] = &[
    "Snapshot not supported",
    "Volume Cloning not supported",
    "ControllerPublishVolume not supported",
    "testnodevolumeattachlimit not enabled",
    "No MaxVolumesPerNode",
    "ControllerPublishVolume.readonly field not supported",
    "Controller Publish, UnpublishVolume not supported",
    "ControllerUnpublishVolume not supported",
    "ListSnapshots not supported",
    "GetSnapshot not supported",
    "DeleteSnapshot not supported",
    "CreateSnapshot not supported",
    "GroupControllerService not supported",
];

#[test]
fn csi_sanity_passes() {
    let driver = Driver::start();
    let secrets = driver.secrets();
    let block = |title: &str| {
        let lines = secrets.iter().map(|(key, value)| format!("  {key}: {value:?}\n"));
        format!("{title}:\n{}", lines.collect::<String>())
    };
    let titles = [
        "CreateVolumeSecret",
        "DeleteVolumeSecret",
        "ControllerValidateVolumeCapabilitiesSecret",
        "NodeStageVolumeSecret",
        "ControllerExpandVolumeSecret",
        "ControllerModifyVolumeSecret",
    ];
    let file = |name: &str, text: String| -> PathBuf {
        let path = driver.local(name);
        fs::write(&path, text).expect("written");
        path
    };
    let secrets = file("secrets.yaml", titles.map(block).concat());
    let parameters = driver.parameters();
    let lines = parameters.iter().map(|(key, value)| format!("{key}: {value:?}\n"));
    let parameters = file("parameters.yaml", lines.collect());
    let mutable = file("mutable.yaml", "memoryLimit: 128MiB\n".to_owned());
    let report = driver.local("report.xml");
    let mut command = Command::new(cached(Path::new("bin").join(PROGRAM)));
    let endpoint = |process| format!("unix://{}", driver.socket(process).display());
    command
        .args(["--ginkgo.no-color", "--ginkgo.v"])
        .args(["--csi.endpoint", &endpoint(Process::Node)])
        .args(["--csi.controllerendpoint", &endpoint(Process::Controller)])
        .arg("--csi.stagingdir")
        .arg(driver.local("staging"))
        .arg("--csi.mountdir")
        .arg(driver.local("mount"))
        .arg("--csi.secrets")
        .arg(secrets)
        .arg("--csi.testvolumeparameters")
        .arg(parameters)
        .arg("--csi.testvolumemutableparameters")
        .arg(mutable)
        .arg("--ginkgo.junit-report")
        .arg(&report);
    let output = command.output().expect("csi-sanity starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let report = fs::read_to_string(&report).expect("a report");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));

    let cases = report.matches("<testcase ").count();
    let skipped: Vec<&str> = report
        .split("<skipped message=\"skipped - ")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap_or_default())
        .collect();
    for why in &skipped {
        assert!(NOT_ADVERTISED.contains(why), "skipped although it is advertised: {why}");
    }
    let passed = report.matches("status=\"passed\"").count();
    println!(
        "csi-sanity: {passed} passed, {} of capabilities that are not advertised",
        skipped.len()
    );
    // Its last case is disabled by the suite itself, and one more "case" is the report of the whole.
    assert!(text.contains("SUCCESS!") && text.contains(" 0 Failed "), "{text}");
    assert!(
        passed >= 57 && passed + skipped.len() >= 95,
        "{passed} of {cases} cases passed:\n{text}"
    );
    assert_eq!(driver.objects(), Vec::<String>::new(), "the suite's volumes are deleted");
}
