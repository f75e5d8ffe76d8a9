//! The Helm chart, rendered by the real helm: with what is usual, with everything switched on, and refused where
//! a value makes no sense.

#[allow(dead_code, reason = "other suites use the rest")]
#[path = "../../tests/support/cache.rs"]
mod cache;

use std::path::Path;
use std::process::{Command, Output};

/// The program that `make tools` compiles.
const PROGRAM: &str = "helm-v3.22.0";

fn helm(arguments: &[&str]) -> Output {
    let program = cache::cached(Path::new("bin").join(PROGRAM));
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart");
    let home = tempfile::tempdir().expect("a folder");
    let (verb, rest) = arguments.split_first().expect("a verb");
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home.path()).arg(verb);
    if *verb == "template" {
        command.arg("release");
    }
    command.arg(chart).args(["--kube-version", "1.34.0"]).args(rest).output().expect("helm starts")
}

fn rendered(arguments: &[&str]) -> String {
    let output = helm(&[&["template", "--namespace", "storage"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The documents of a kind.
fn of_kind<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let line = format!("\nkind: {kind}\n");
    text.split("\n---").filter(|document| document.contains(&line)).collect()
}

#[test]
fn helm_finds_nothing_to_complain_of() {
    let output = helm(&["lint", "--strict"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn what_is_usual_has_one_privileged_process() {
    let text = rendered(&[]);
    for (kind, count) in [
        ("CSIDriver", 1),
        ("Deployment", 1),
        ("DaemonSet", 2),
        ("ServiceAccount", 2),
        ("StorageClass", 0),
        ("NetworkPolicy", 0),
    ] {
        assert_eq!(of_kind(&text, kind).len(), count, "{kind}: {text}");
    }
    assert_eq!(text.matches("privileged: true").count(), 1);
    let [node, keeper] = of_kind(&text, "DaemonSet")[..] else { panic!("two DaemonSets") };
    let (node, keeper) =
        if node.contains("release-keeper") { (keeper, node) } else { (node, keeper) };
    assert!(keeper.contains("privileged: true") && keeper.contains("type: OnDelete"));
    assert!(keeper.contains("mountPropagation: Bidirectional"));
    assert!(
        node.contains("type: RollingUpdate")
            && node.contains("automountServiceAccountToken: false")
    );
    assert!(node.contains("drop: [ALL]") && !node.contains("mountPropagation"));
    assert!(of_kind(&text, "Deployment")[0].contains("runAsNonRoot: true"));
    // Secrets are read by name, and there is no StorageClass that names one.
    assert!(!text.contains("resources: [secrets]"));
}

#[test]
fn without_the_liveness_sidecar_nobody_asks_for_it() {
    assert_eq!(rendered(&[]).matches("livenessProbe:").count(), 2);
    let text = rendered(&["--set=sidecars.livenessProbe="]);
    assert!(!text.contains("livenessProbe") && !text.contains("liveness-probe"), "{text}");
    assert!(!text.contains("9808"), "{text}");
}

#[test]
fn every_flag_in_the_chart_is_one_of_the_program() {
    let text = rendered(&[
        "--set=store.endpoint=https://minio:9000,store.region=eu,store.caBundleConfigMap=ca,store.clientCertSecret=us",
        "--set=node.cacheDir=/var/cache/strongroom,metricsPort=9809,operator.enabled=true",
    ]);
    let documents = [of_kind(&text, "Deployment"), of_kind(&text, "DaemonSet")].concat();
    let mut checked = 0;
    for document in documents {
        // The first container is ours; the sidecars follow.
        let ours = document.split("command: [/usr/bin/strongroom-csi]").nth(1).expect("ours");
        let ours = ours.split("securityContext").next().expect("its arguments");
        let mut words = ours.lines().filter_map(|line| line.trim().strip_prefix("- "));
        let process = words.next().expect("the subcommand");
        let help = Command::new(env!("CARGO_BIN_EXE_strongroom-csi"))
            .args([process, "--help"])
            .output()
            .expect("it starts");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        for word in words.filter(|word| word.starts_with("--")) {
            let flag = word.split('=').next().expect("a flag");
            assert!(help.contains(flag), "{process} has no {flag}:\n{help}");
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked} flags");
}

#[test]
fn a_storage_class_names_its_secret_and_the_controller_may_read_that_one() {
    let values = tempfile::NamedTempFile::new().expect("a file");
    let text = "kubeletDir: /var/snap/kubelet\nstorageClasses:\n- name: backups\n  \
                reclaimPolicy: Retain\n  secret: {name: keys, namespace: vault}\n  parameters: {bucket: b, \
                encryption: AES-256-CFB}\n  mountOptions: [memory-limit=512MiB]\nnetworkPolicy: {enabled: true}\n\
                podDisruptionBudget: {enabled: true}\ntolerations: [{operator: Exists}]\n\
                daemonsetTolerations: [{key: of-nodes, operator: Exists}]\n\
                volumeAttributesClasses:\n- name: large\n  parameters: {memoryLimit: 1GiB, cacheSize: 10GiB}\n";
    std::fs::write(values.path(), text).expect("written");
    let text = rendered(&["--values", values.path().to_str().expect("text")]);
    let class = of_kind(&text, "StorageClass")[0];
    for line in [
        "provisioner: csi.strongroom.io",
        "reclaimPolicy: Retain",
        "encryption: \"AES-256-CFB\"",
        "- memory-limit=512MiB",
        "csi.storage.k8s.io/provisioner-secret-name: \"keys\"",
        "csi.storage.k8s.io/node-stage-secret-namespace: \"vault\"",
        "csi.storage.k8s.io/node-publish-secret-name: \"keys\"",
    ] {
        assert!(class.contains(line), "{line}: {class}");
    }
    // csi-provisioner 5 refuses the whole class for it, and csi-resizer takes the one of controller-expand.
    assert!(!class.contains("controller-modify"), "{class}");
    assert!(text.contains("resources: [secrets], resourceNames: [\"keys\"], verbs: [get]"));
    assert!(text.contains("--below=/var/snap/kubelet"));
    let [attributes] = of_kind(&text, "VolumeAttributesClass")[..] else { panic!("{text}") };
    for line in ["storage.k8s.io/v1\n", "driverName: csi.strongroom.io", "memoryLimit: \"1GiB\""] {
        assert!(attributes.contains(line), "{line}: {attributes}");
    }
    for set in of_kind(&text, "DaemonSet") {
        assert!(set.contains("key: of-nodes"), "{set}");
    }
    assert_eq!(of_kind(&text, "NetworkPolicy").len(), 3);
    assert_eq!(of_kind(&text, "PodDisruptionBudget").len(), 1);
}

#[test]
fn the_operator_comes_with_its_kinds_when_it_is_asked_for() {
    let text = rendered(&[]);
    assert!(of_kind(&text, "CustomResourceDefinition").is_empty() && !text.contains("-operator"));
    let text = rendered(&["--set=operator.enabled=true"]);
    let kinds = of_kind(&text, "CustomResourceDefinition");
    assert_eq!(kinds.len(), 2);
    assert!(kinds.iter().all(|kind| kind.contains("helm.sh/resource-policy: keep")));
    let operator = of_kind(&text, "Deployment").into_iter().find(|one| one.contains("-operator"));
    let operator = operator.expect("a Deployment");
    assert!(operator.contains("--namespace=storage") && operator.contains("runAsNonRoot: true"));
    assert!(operator.contains("--observe=0.0.0.0:9809") && operator.contains("path: /readyz"));
    assert_eq!(text.matches("privileged: true").count(), 1);
}

#[test]
fn kubelet_hands_tokens_over_where_they_have_an_audience() {
    let usual = rendered(&[]);
    let [usual] = of_kind(&usual, "CSIDriver")[..] else { panic!("{usual}") };
    for line in ["podInfoOnMount: false", "requiresRepublish: false"] {
        assert!(usual.contains(line), "{line}: {usual}");
    }
    assert!(!usual.contains("tokenRequests"), "{usual}");
    let values = tempfile::NamedTempFile::new().expect("a file");
    let text = "tokenAudiences: [sts.amazonaws.com]\nstorageClasses:\n- name: lent\n  \
                secret: {name: keys, namespace: vault}\n  nodeSecret: {name: phrase, namespace: vault}\n  \
                parameters: {bucket: b, roleArn: 'arn:aws:iam::1:role/backup'}\n";
    std::fs::write(values.path(), text).expect("written");
    let lent = rendered(&["--values", values.path().to_str().expect("text")]);
    let class = of_kind(&lent, "StorageClass")[0];
    for line in ["provisioner-secret-name: \"keys\"", "node-publish-secret-name: \"phrase\""] {
        assert!(class.contains(line), "{line}: {class}");
    }
    assert!(!class.contains("node-stage-secret"), "{class}");
    let [lent] = of_kind(&lent, "CSIDriver")[..] else { panic!("{lent}") };
    let tokens = "tokenRequests:\n    - audience: \"sts.amazonaws.com\"";
    for line in ["podInfoOnMount: true", "requiresRepublish: true", tokens] {
        assert!(lent.contains(line), "{line}: {lent}");
    }
}

#[test]
fn monitoring_is_there_where_it_is_wanted() {
    let text = rendered(&[
        "--set=metricsPort=9809,monitoring.serviceMonitor=true,monitoring.prometheusRule=true",
        "--set=monitoring.dashboard=true,monitoring.labels.release=prometheus",
    ]);
    let [monitor] = of_kind(&text, "ServiceMonitor")[..] else { panic!("{text}") };
    assert!(monitor.contains("release: prometheus"), "{monitor}");
    // What the Service selects is what the pods with the port are labelled with, and the keeper is not.
    let marked = text.matches("strongroom.io/metrics: \"true\"").count();
    assert_eq!(marked, 5, "{text}");
    let [rules] = of_kind(&text, "PrometheusRule")[..] else { panic!("{text}") };
    assert!(rules.contains("alert: StrongroomDataLost"), "{rules}");
    let dashboard = text.split("strongroom.json: |-").nth(1).expect("a dashboard");
    let dashboard = dashboard.split("\n---").next().expect("its text");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).expect("JSON");
    assert_eq!(dashboard["uid"], "strongroom");
    assert_eq!(of_kind(&rendered(&[]), "Service").len(), 0);
}

#[test]
fn a_value_that_makes_no_sense_is_refused_by_its_name() {
    for (value, name) in [
        ("drivername=x", "drivername"),
        ("kubeletDir=relative", "kubeletDir"),
        ("controller.replicas=0", "replicas"),
        ("log.format=xml", "format"),
        ("store.endpoint=http://user:word@host", "endpoint"),
        ("storageClasses[0].name=x", "storageClasses"),
        ("driverName=-x", "driverName"),
        ("operator.checkEvery=often", "checkEvery"),
        ("volumeAttributesClasses[0].name=x", "volumeAttributesClasses"),
    ] {
        let output = helm(&["template", "--set", value]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(name), "{value}: {error}");
    }
}
