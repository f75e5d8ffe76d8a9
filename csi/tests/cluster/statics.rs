//! PersistentVolumes made by hand, and a driver in the place of csi-s3.

use crate::Case;
use crate::driver::{self, NAMESPACE};
use crate::stand::{KEYS, PREFIX, Space, Stand, dynamic, of_claim};
use crate::support::strongroom;
use serde_json::{Value, json};
use std::process::Command;

pub(crate) const CASES: &[Case] = &[
    ("a_volume_made_by_hand_is_mounted_read_only_and_outlives_its_claim", by_hand),
    ("what_a_lost_cluster_left_needs_its_bucket_and_passphrase_alone", after_a_loss),
    ("persistent_volumes_of_csi_s3_are_served_under_its_name", in_place_of_csi_s3),
];

/// The volume that `strongroom init` makes, with a file that `strongroom push` puts there.
fn made_by_hand(stand: &Stand, path: &str) {
    let url = format!("s3://{}/{path}", stand.bucket);
    let tool = |words: &[&str]| crate::kubernetes::done(&mut tool(stand, words));
    tool(&["init", &url]);
    let file = stand.cluster.directory.join("by-hand");
    std::fs::write(&file, "put there by hand\n").expect("written");
    let file = file.to_str().expect("text");
    tool(&["push", file, &format!("{url}//letter")]);
}

/// The tool, with the store's keys and the passphrase and nothing of the cluster.
fn tool(stand: &Stand, words: &[&str]) -> Command {
    let mut command = Command::new(strongroom());
    command.args(words).env("STRONGROOM_PASSPHRASE", &stand.passphrase);
    command.envs(stand.minio.environment()).env("HOME", &stand.cluster.directory);
    command
}

/// A file as any other program would put it into the bucket.
fn put_there(stand: &Stand, path: &str, name: &str, text: &str) {
    let crate::support::minio::Minio { endpoint, access_key, secret_key, .. } = &stand.minio;
    let conf = stand.cluster.directory.join("datasafed.conf");
    let storage = format!(
        "[storage]\ntype = s3\nprovider = Minio\nendpoint = {endpoint}\naccess_key_id = {access_key}\n\
         secret_access_key = {secret_key}\nroot = {}/{path}\n",
        stand.bucket
    );
    std::fs::write(&conf, storage).expect("written");
    let file = stand.cluster.directory.join("letter");
    std::fs::write(&file, text).expect("written");
    let mut command = Command::new(strongroom());
    command.env_clear().env("HOME", &stand.cluster.directory);
    command.args(["datasafed", "--conf"]).arg(conf).arg("push").arg(file).arg(name);
    crate::kubernetes::done(&mut command);
}

/// A PersistentVolume and the claim that is bound to it and nothing else.
fn bound(space: &Space<'_>, name: &str, mode: &str, csi: &Value) {
    let class = "";
    space.stand.cluster.kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "storageClassName": class, "capacity": {"storage": "10Gi"}, "accessModes": [mode],
            "claimRef": {"namespace": &space.name, "name": name}, "csi": csi,
        },
    }));
    space.claim(
        name,
        json!({
            "storageClassName": class, "accessModes": [mode], "volumeName": name,
            "resources": {"requests": {"storage": "10Gi"}},
        }),
    );
}

fn by_hand(stand: &Stand) {
    let space = stand.space();
    made_by_hand(stand, "hand/made");
    let csi = json!({
        "driver": "csi.strongroom.io",
        "volumeHandle": format!("{}/hand/made", stand.bucket),
        "readOnly": true,
        "nodeStageSecretRef": {"name": KEYS, "namespace": NAMESPACE},
    });
    bound(&space, "by-hand", "ReadOnlyMany", &csi);
    for pod in ["first", "second"] {
        space.idle(pod, of_claim("by-hand"), json!({}));
        assert_eq!(space.shell(pod, "cat /data/letter"), "put there by hand\n");
        let refused = space.ask(&["exec", pod, "--", "sh", "-c", "echo x > /data/letter"]);
        let why = refused.expect_err("the volume is read-only");
        assert!(why.contains("Read-only file system"), "{why}");
    }
    for pod in ["first", "second"] {
        space.delete_pod(pod);
    }
    let before = stand.objects("hand/made/");
    space.get(&["delete", "pvc", "by-hand"]);
    space.get(&["delete", "pv", "by-hand"]);
    assert_eq!(stand.objects("hand/made/"), before, "what was made by hand is removed by hand");
}

/// docs/operations.md, "Disaster recovery". A cluster is lost without its claims' deletion, which the driver would see.
fn after_a_loss(stand: &Stand) {
    let space = stand.space();
    space.claim("lost", dynamic(&["ReadWriteOnce"], "1Gi"));
    space.idle("writer", of_claim("lost"), json!({}));
    space.shell(
        "writer",
        "mkdir /data/pg && seq 1 200000 > /data/pg/dump.sql && ln /data/pg/dump.sql /data/same",
    );
    let sum = space.shell("writer", "sha256sum < /data/pg/dump.sql");
    space.delete_pod("writer");
    let handle = space.handle("lost");
    let volume = space.get(&["get", "pvc", "lost", "--output=jsonpath={.spec.volumeName}"]);
    let kept = r#"{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}"#;
    space.get(&["patch", "pv", &volume, "--patch", kept]);
    space.get(&["delete", "pvc", "lost"]);
    space.get(&["delete", "pv", &volume]);

    // On any machine: which volumes there are, what is in them, all of it authenticated, a file of it.
    let said = |words: &[&str]| {
        let output = tool(stand, words).output().expect("it starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {told}");
        String::from_utf8(output.stdout).expect("text")
    };
    let name = handle.rsplit_once('/').expect("a path").1;
    assert_eq!(stand.objects(&format!("{PREFIX}/.volumes/{name}")).len(), 1, "its record");
    let url = format!("s3://{handle}");
    let listed = said(&["ls", "-R", &format!("{url}//")]);
    assert!(listed.contains("dump.sql") && listed.contains("same"), "{listed}");
    said(&["verify", &url]);
    let pulled = stand.cluster.directory.join("pulled.sql");
    said(&["pull", &format!("{url}//pg/dump.sql"), pulled.to_str().expect("text")]);
    let lines: String = (1..=200_000).map(|line| format!("{line}\n")).collect();
    assert!(std::fs::read(&pulled).expect("read") == lines.as_bytes(), "another content");

    // In a new cluster: read by all, or written on.
    let secret = json!({"name": KEYS, "namespace": NAMESPACE});
    for (name, mode) in [("restored", "ReadOnlyMany"), ("resumed", "ReadWriteOnce")] {
        let csi = json!({
            "driver": "csi.strongroom.io", "volumeHandle": handle, "nodeStageSecretRef": secret,
            "readOnly": mode == "ReadOnlyMany",
        });
        bound(&space, name, mode, &csi);
        space.idle(name, of_claim(name), json!({}));
        assert_eq!(space.shell(name, "sha256sum < /data/pg/dump.sql"), sum);
        assert_eq!(space.shell(name, "stat -c %h /data/same").trim(), "2");
        if mode == "ReadWriteOnce" {
            space.shell(
                name,
                "echo more >> /data/pg/dump.sql && tail -n 1 /data/same | grep -qx more",
            );
        }
        space.delete_pod(name);
        space.get(&["delete", "pvc", name]);
        space.get(&["delete", "pv", name]);
    }
}

fn in_place_of_csi_s3(stand: &Stand) {
    let space = stand.space();
    // A second release: both drivers serve one node, each with its own keeper.
    driver::install(&stand.cluster, "csi-s3", &json!({"driverName": "ru.yandex.s3.csi"}));
    put_there(stand, "manual/path", "letter", "put there by hand\n");
    let secret = json!({"name": KEYS, "namespace": NAMESPACE});
    let csi = json!({
        "driver": "ru.yandex.s3.csi",
        "volumeHandle": format!("{}/manual/path", stand.bucket),
        "controllerPublishSecretRef": secret,
        "nodePublishSecretRef": secret,
        "nodeStageSecretRef": secret,
        "volumeAttributes": {
            "capacity": "10Gi",
            "mounter": "geesefs",
            "options": "--memory-limit 1000 --dir-mode 0777 --file-mode 0666",
        },
    });
    bound(&space, "manual", "ReadWriteMany", &csi);
    let user = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1000}});
    space.idle("pod", of_claim("manual"), user);
    assert_eq!(space.shell("pod", "cat /data/letter"), "put there by hand\n");
    // The modes of the options, for what has none of its own: everybody may make files.
    space.shell("pod", "echo answered > /data/answer");
    space.delete_pod("pod");
    space.idle("again", of_claim("manual"), json!({}));
    assert_eq!(space.shell("again", "cat /data/answer"), "answered\n");
    space.delete_pod("again");
    // As it is, for every other program that knows the bucket.
    assert!(stand.stores("answered"), "csi-s3's files are not encrypted");
    space.get(&["delete", "pvc", "manual"]);
    space.get(&["delete", "pv", "manual"]);
    driver::uninstall(&stand.cluster, "csi-s3");
}
