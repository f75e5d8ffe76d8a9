//! PersistentVolumes made by hand, and a driver in the place of csi-s3.

use crate::Case;
use crate::driver::{self, NAMESPACE};
use crate::stand::{KEYS, Space, Stand, of_claim};
use crate::support::strongroom;
use serde_json::{Value, json};
use std::process::Command;

pub(crate) const CASES: &[Case] = &[
    ("a_volume_made_by_hand_is_mounted_read_only_and_outlives_its_claim", by_hand),
    ("persistent_volumes_of_csi_s3_are_served_under_its_name", in_place_of_csi_s3),
];

/// The volume that `strongroom init` makes, with a file that `strongroom push` puts there.
fn made_by_hand(stand: &Stand, path: &str) {
    let url = format!("s3://{}/{path}", stand.bucket);
    let strongroom = |words: &[&str]| {
        let mut command = Command::new(strongroom());
        command.args(words).env("STRONGROOM_PASSPHRASE", &stand.passphrase);
        command.envs(stand.minio.environment()).env("HOME", &stand.cluster.directory);
        crate::kubernetes::done(&mut command);
    };
    strongroom(&["init", &url]);
    let file = stand.cluster.directory.join("by-hand");
    std::fs::write(&file, "put there by hand\n").expect("written");
    let file = file.to_str().expect("text");
    strongroom(&["push", file, &format!("{url}//letter")]);
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
