//! BackupRepos: the operator in its pod, pre-checks as real Jobs, and workloads of two namespaces that use one
//! repository with both access methods.

use crate::Case;
use crate::database;
use crate::driver::{self, NAMESPACE};
use crate::kubectl::{PATIENCE, until};
use crate::stand::{Space, Stand};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

pub(crate) const CASES: &[Case] =
    &[("repositories_serve_namespaces_and_a_database_with_both_access_methods", both_methods)];

const ENCRYPTION: &str = r#"{"algorithm":"AES-256-CFB","passPhraseSecretKeyRef":{"name":"backup-encryption","key":"secretKey"}}"#;
/// The image that has the tool.
pub(crate) const IMAGE: &str = "test.local/strongroom:1";

fn both_methods(stand: &Stand) {
    let kubectl = &stand.cluster.kubectl;
    with_operator(stand);
    database::image(stand, &crate::support::strongroom());
    let (one, two) = (stand.space(), stand.space());
    for method in ["Tool", "Mount"] {
        let name = format!("repo-{}", method.to_lowercase());
        let applied = Instant::now();
        kubectl.apply(&repository(stand, &name, method));
        // Whatever it was at is taken up by the next one.
        kill_operator(stand);
        for space in [&one, &two] {
            let label = format!("strongroom.io/backup-repo={name}");
            kubectl.get(&["label", "--overwrite", "namespace", &space.name, &label]);
        }
        // The second one cannot mount, and says so.
        kubectl.get(&["label", "namespace", &two.name, "strongroom.io/access-method=Tool"]);
        let status = ready(stand, &name);
        println!("{name} is ready and prepared {:.1?} after it was applied", applied.elapsed());
        kill_operator(stand);
        match method {
            "Tool" => {
                let config = text(&status, "toolConfigSecretName");
                tool(stand, &one, &two, &config);
                let own = json!({"secretKeyRef": {"name": config, "key": "base-path"}});
                let own = json!({"name": "DATASAFED_BACKEND_BASE_PATH", "valueFrom": own});
                let push = "datasafed push --fail-on-empty - orders.dump";
                database::survives(
                    (&one, &by_tool(&config, &own), push),
                    (&two, &by_tool(&config, &place_of(&name, &one)), PULL),
                );
                let path = format!("{name}/{}/orders.dump.enc", one.name);
                assert_eq!(stand.objects(&path), std::slice::from_ref(&path));
            }
            _ => {
                let claim = text(&status, "backupPVCName");
                mounted(stand, &one, &claim);
                let pod = json!({
                    "env": [],
                    "mounts": [{"name": "data", "mountPath": "/data"}],
                    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
                });
                let store = (&one, &pod, "cat > /data/orders.dump");
                database::survives(store, (&one, &pod, "cat /data/orders.dump"));
                // What was mounted there, the tool restores here.
                let config = text(&status, "toolConfigSecretName");
                let store = (&one, &pod, "cat > /data/more.dump");
                let pull = "datasafed pull more.dump -";
                database::survives(store, (&two, &by_tool(&config, &place_of(&name, &one)), pull));
                let path = format!("{name}/{}/more.dump.enc", one.name);
                assert_eq!(stand.objects(&path), std::slice::from_ref(&path));
            }
        }
        assert!(!stand.stores("PGDMP"), "a dump that is no ciphertext");
        let labels = ["strongroom.io/backup-repo-", "strongroom.io/access-method-"];
        for space in [&one, &two] {
            kubectl.get(&[&["label", "namespace", &space.name], &labels[..]].concat());
        }
        kubectl.get(&["delete", "backuprepo", &name, "--timeout=120s"]);
    }
    driver::install(&stand.cluster, "strongroom", &stand.values());
}

/// Installs the operator and the providers, and makes the namespace of the users' manifests.
pub(crate) fn with_operator(stand: &Stand) {
    let kubectl = &stand.cluster.kubectl;
    let mut values = stand.values();
    values["operator"] = json!({"enabled": true});
    driver::install(&stand.cluster, "strongroom", &values);
    let providers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/storage-providers");
    kubectl.get(&["apply", "--filename", providers.to_str().expect("text")]);
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kb-system"},
    }));
    secret(
        stand,
        "minio-credential-for-backuprepo",
        &[("accessKeyId", &stand.minio.access_key), ("secretAccessKey", &stand.minio.secret_key)],
    );
    secret(stand, "backup-encryption", &[("secretKey", &stand.passphrase)]);
}

const PULL: &str = "datasafed pull orders.dump -";

/// A pod with the tool's configuration.
fn by_tool(config: &str, variable: &Value) -> Value {
    json!({
        "env": [variable],
        "mounts": [{"name": "config", "mountPath": "/etc/datasafed", "readOnly": true}],
        "volumes": [{"name": "config", "secret": {"secretName": config}}],
    })
}

/// Where another namespace has its backups.
pub(crate) fn place_of(repo: &str, space: &Space<'_>) -> Value {
    json!({"name": "DATASAFED_BACKEND_BASE_PATH", "value": format!("/{repo}/{}", space.name)})
}

/// As an upgrade or a drained node does it.
fn kill_operator(stand: &Stand) {
    let which = ["--namespace", NAMESPACE, "--selector=app.kubernetes.io/component=operator"];
    stand.cluster.kubectl.get(&[&["delete", "pods", "--grace-period=1"], &which[..]].concat());
}

pub(crate) fn secret(stand: &Stand, name: &str, values: &[(&str, &String)]) {
    let values: serde_json::Map<String, Value> =
        values.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    stand.cluster.kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "kb-system"},
        "stringData": values,
    }));
}

/// The users' manifest for MinIO, with the address that they have to put in.
pub(crate) fn repository(stand: &Stand, name: &str, method: &str) -> Value {
    json!({
        "apiVersion": "dataprotection.kubeblocks.io/v1alpha1", "kind": "BackupRepo",
        "metadata": {"name": name, "annotations": {"strongroom.io/encryption": ENCRYPTION}},
        "spec": {
            "storageProviderRef": "minio", "accessMethod": method, "pvReclaimPolicy": "Retain",
            "volumeCapacity": "1Gi", "pathPrefix": name,
            "config": {"bucket": stand.bucket, "mountOptions": "", "endpoint": stand.minio.endpoint},
            "credential": {"name": "minio-credential-for-backuprepo", "namespace": "kb-system"},
        },
    })
}

pub(crate) fn text(status: &Value, field: &str) -> String {
    status[field].as_str().unwrap_or_else(|| panic!("{field} in {status:#}")).to_owned()
}

/// Waits until a repository is Ready, and both namespaces are prepared; gives its status.
pub(crate) fn ready(stand: &Stand, name: &str) -> Value {
    until(name, PATIENCE, || {
        let status = stand.cluster.kubectl.object(&["backuprepo", name])["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let prepared = conditions.iter().any(|condition| {
            condition["type"] == "NamespacesPrepared"
                && condition["message"]
                    .as_str()
                    .is_some_and(|text| text.starts_with("2 namespaces of 2"))
        });
        match status["phase"] == "Ready" && prepared {
            true => Ok(status),
            false => Err(format!("{status:#}")),
        }
    })
}

/// What one namespace pushes, the other pulls; in between it is ciphertext.
fn tool(stand: &Stand, one: &Space<'_>, two: &Space<'_>, config: &str) {
    let pod = |name: &str, words: &[&str]| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "tool", "image": IMAGE, "imagePullPolicy": "Never", "args": words,
                    "command": ["/usr/bin/strongroom", "datasafed"],
                    "volumeMounts": [{"name": "config", "mountPath": "/etc/datasafed", "readOnly": true}],
                }],
                "volumes": [{"name": "config", "secret": {"secretName": config}}],
            },
        })
    };
    // A file that every pod has, with the pod's name in it.
    one.apply(pod("the-pushing-pod", &["push", "/etc/hosts", "hosts"]));
    one.succeeds("the-pushing-pod");
    assert_eq!(stand.objects("hosts"), ["hosts.enc"]);
    assert!(!stand.stores("the-pushing-pod"));
    two.apply(pod("pull", &["pull", "hosts", "-"]));
    assert!(two.succeeds("pull").contains("the-pushing-pod"));
}

/// A pod writes to the claim that its namespace got; the store has ciphertext.
fn mounted(stand: &Stand, space: &Space<'_>, claim: &str) {
    let volume = json!({"persistentVolumeClaim": {"claimName": claim}});
    space.start(
        "mounted",
        volume,
        "echo a line of a dump > /data/dump && cat /data/dump",
        json!({}),
    );
    assert_eq!(space.succeeds("mounted"), "a line of a dump\n");
    assert!(!stand.stores("a line of a dump"));
    space.delete_pod("mounted");
    let logs =
        ["logs", "--namespace", NAMESPACE, "--selector=app.kubernetes.io/component=operator"];
    let said = stand.cluster.kubectl.get(&logs);
    assert!(!said.contains("panicked"), "{said}");
}
