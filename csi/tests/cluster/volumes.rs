//! Volumes that a StorageClass makes: from the claim to the bucket and back.

use crate::Case;
use crate::cluster::TOOLS;
use crate::kubectl::{PATIENCE, until};
use crate::stand::{FRUGAL, IDLE, PREFIX, Stand, dynamic, of_claim};
use serde_json::json;

pub(crate) const CASES: &[Case] = &[
    ("a_pod_runs_in_a_cluster_of_real_parts", a_pod_runs),
    (
        "what_a_pod_writes_is_ciphertext_that_another_pod_reads_and_the_claims_deletion_removes",
        from_claim_to_bucket_and_back,
    ),
    ("two_pods_on_one_volume_see_each_others_files", two_pods),
    ("a_claim_used_read_only_refuses_writes", read_only),
    ("files_belong_to_the_pods_group", group),
    ("a_volume_of_a_pod_alone_comes_and_goes_with_it", ephemeral),
    ("a_claim_grows_under_a_running_pod", expansion),
    ("a_volume_attributes_class_reaches_a_claim_that_is_used", attributes),
];

fn a_pod_runs(stand: &Stand) {
    let space = stand.space();
    space.start("one", json!({"emptyDir": {}}), "echo ran from $0", json!({}));
    assert_eq!(space.succeeds("one").trim(), "ran from sh");
    let images = space.get(&["get", "pod", "one", "--output=jsonpath={.spec.containers[*].image}"]);
    assert_eq!(images, TOOLS);
}

fn from_claim_to_bucket_and_back(stand: &Stand) {
    let space = stand.space();
    for claim in ["mine", "sibling"] {
        space.claim(claim, dynamic(&["ReadWriteOnce"], "1Gi"));
    }
    space.idle("writer", of_claim("mine"), json!({}));
    space.shell(
        "writer",
        "mkdir /data/the-directory && echo the plain content > /data/the-directory/the-name && \
         seq 1 300000 > /data/numbers && ln -s numbers /data/link",
    );
    let sum = space.shell("writer", "sha256sum < /data/numbers");
    space.delete_pod("writer");
    for plain in ["the plain content", "the-directory", "the-name", "299999\n300000"] {
        assert!(!stand.stores(plain), "{plain:?} is in the bucket as it is");
    }
    space.idle("reader", of_claim("mine"), json!({}));
    assert_eq!(space.shell("reader", "cat /data/the-directory/the-name"), "the plain content\n");
    assert_eq!(space.shell("reader", "sha256sum < /data/link"), sum);
    space.delete_pod("reader");

    let (mine, sibling) = (space.handle("mine"), space.handle("sibling"));
    let below = |handle: &str| {
        let path = handle.strip_prefix(&format!("{}/", stand.bucket)).expect("in the bucket");
        stand.objects(&format!("{path}/"))
    };
    let record = |handle: &str| {
        let name = handle.rsplit_once('/').expect("a path").1;
        stand.objects(&format!("{PREFIX}/.volumes/{name}"))
    };
    assert!(below(&mine).len() > 3 && record(&mine).len() == 1);
    let (others, kept) = (below(&sibling), record(&sibling));
    let volume = space.get(&["get", "pvc", "mine", "--output=jsonpath={.spec.volumeName}"]);
    space.get(&["delete", "pvc", "mine"]);
    space.get(&["wait", "--for=delete", &format!("pv/{volume}"), "--timeout=120s"]);
    assert_eq!(below(&mine), [""; 0], "objects of a volume that was deleted");
    assert_eq!(record(&mine), [""; 0]);
    assert!(!others.is_empty() && below(&sibling) == others && record(&sibling) == kept);
}

fn two_pods(stand: &Stand) {
    let space = stand.space();
    space.claim("shared", dynamic(&["ReadWriteMany"], "1Gi"));
    for pod in ["first", "second"] {
        space.start(pod, of_claim("shared"), IDLE, json!({}));
    }
    for pod in ["first", "second"] {
        space.ready(pod);
        space.shell(pod, &format!("echo from {pod} > /data/{pod}"));
    }
    assert_eq!(space.shell("first", "cat /data/second"), "from second\n");
    assert_eq!(space.shell("second", "cat /data/first"), "from first\n");
    // One of them goes; the volume stays with the other one.
    space.delete_pod("first");
    space.shell("second", "echo and more >> /data/first");
    assert_eq!(space.shell("second", "cat /data/first"), "from first\nand more\n");
}

fn read_only(stand: &Stand) {
    let space = stand.space();
    space.claim("papers", dynamic(&["ReadWriteMany"], "1Gi"));
    space.idle("writer", of_claim("papers"), json!({}));
    space.shell("writer", "echo written > /data/file");
    let volume = json!({"persistentVolumeClaim": {"claimName": "papers", "readOnly": true}});
    space.idle("reader", volume, json!({}));
    assert_eq!(space.shell("reader", "cat /data/file"), "written\n");
    for line in ["echo x > /data/file", "echo x > /data/new", "rm /data/file", "mkdir /data/d"] {
        let refused = space.ask(&["exec", "reader", "--", "sh", "-c", line]);
        let why = refused.expect_err("the claim is used read-only");
        assert!(why.contains("Read-only file system"), "{line}: {why}");
    }
    space.shell("writer", "echo written again > /data/file");
}

fn group(stand: &Stand) {
    let space = stand.space();
    space.claim("owned", dynamic(&["ReadWriteOnce"], "1Gi"));
    // Made by root in its own group, before somebody else gets the volume.
    space.idle("root", of_claim("owned"), json!({}));
    space.shell(
        "root",
        "mkdir -m 755 /data/dir && echo x > /data/dir/file && chmod 644 /data/dir/file",
    );
    space.delete_pod("root");
    let user = json!({"securityContext": {
        "runAsUser": 1000, "runAsGroup": 3000, "runAsNonRoot": true, "fsGroup": 2000,
    }});
    space.idle("user", of_claim("owned"), user);
    assert_eq!(
        space.shell("user", "stat -c %g /data /data/dir /data/dir/file"),
        "2000\n2000\n2000\n"
    );
    // The group may change what root has made, and what the user makes belongs to the group.
    space.shell("user", "echo y >> /data/dir/file && echo z > /data/dir/new");
    assert_eq!(space.shell("user", "stat -c %u:%g /data/dir/new"), "1000:2000\n");
    assert_eq!(space.shell("user", "cat /data/dir/file"), "x\ny\n");
}

fn ephemeral(stand: &Stand) {
    let space = stand.space();
    let template = json!({"spec": dynamic(&["ReadWriteOnce"], "1Gi")});
    let volume = json!({"ephemeral": {"volumeClaimTemplate": template}});
    space.idle("pod", volume, json!({}));
    space.shell("pod", "echo passing > /data/file");
    let handle = space.handle("pod-data");
    let path = handle.strip_prefix(&format!("{}/", stand.bucket)).expect("in the bucket");
    assert!(!stand.objects(&format!("{path}/")).is_empty());
    let volume = space.get(&["get", "pvc", "pod-data", "--output=jsonpath={.spec.volumeName}"]);
    space.delete_pod("pod");
    space.get(&["wait", "--for=delete", &format!("pv/{volume}"), "--timeout=120s"]);
    assert_eq!(stand.objects(&format!("{path}/")), [""; 0]);
}

fn expansion(stand: &Stand) {
    let space = stand.space();
    space.claim("growing", dynamic(&["ReadWriteOnce"], "1Gi"));
    space.idle("pod", of_claim("growing"), json!({}));
    space.shell("pod", "echo before > /data/file");
    let patch = r#"{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}"#;
    space.get(&["patch", "pvc", "growing", "--patch", patch]);
    let grown = "--for=jsonpath={.status.capacity.storage}=3Gi";
    space.get(&["wait", grown, "pvc/growing", "--timeout=120s"]);
    assert_eq!(space.shell("pod", "cat /data/file && echo after >> /data/file"), "before\n");
    let volume = space.get(&["get", "pvc", "growing", "--output=jsonpath={.spec.volumeName}"]);
    let told = space.get(&["get", "pv", &volume, "--output=jsonpath={.spec.capacity.storage}"]);
    assert_eq!(told, "3Gi");
}

/// What a VolumeAttributesClass says reaches the volume while a pod uses it; of one that makes no sense the claim tells why.
fn attributes(stand: &Stand) {
    let space = stand.space();
    let current = "{.status.currentVolumeAttributesClassName}";
    let mut born = dynamic(&["ReadWriteOnce"], "1Gi");
    born["volumeAttributesClassName"] = FRUGAL.into();
    space.claim("born", born);
    let told = space.get(&["get", "pvc", "born", &format!("--output=jsonpath={current}")]);
    assert_eq!(told, FRUGAL);
    space.claim("changed", dynamic(&["ReadWriteOnce"], "1Gi"));
    space.idle("pod", of_claim("changed"), json!({}));
    space.shell("pod", "echo before > /data/file");
    let change = |class: &str| {
        let patch = json!({"spec": {"volumeAttributesClassName": class}}).to_string();
        space.get(&["patch", "pvc", "changed", "--patch", &patch]);
    };
    change(FRUGAL);
    let reached = format!("--for=jsonpath={current}={FRUGAL}");
    space.get(&["wait", &reached, "pvc/changed", "--timeout=120s"]);
    let read = space.shell("pod", "cat /data/file && echo after >> /data/file");
    assert_eq!(read, "before\n");
    // Not by the chart, which knows what there is.
    stand.cluster.kubectl.apply(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
        "metadata": {"name": "nonsense"}, "driverName": "csi.strongroom.io",
        "parameters": {"colour": "red"},
    }));
    change("nonsense");
    until("the reason", PATIENCE, || {
        let events = space.get(&["get", "events", "--output=jsonpath={.items[*].message}"]);
        match events.contains("mutable parameter `colour` is unknown; known are memoryLimit") {
            true => Ok(()),
            false => Err(events),
        }
    });
    // It is staged anew by what it was given, and goes on to be what it was.
    space.delete_pod("pod");
    space.idle("next", of_claim("changed"), json!({}));
    assert_eq!(space.shell("next", "cat /data/file"), "before\nafter\n");
    let told = space.get(&["get", "pvc", "changed", &format!("--output=jsonpath={current}")]);
    assert_eq!(told, FRUGAL);
}
