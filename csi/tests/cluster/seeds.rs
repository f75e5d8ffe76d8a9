//! The users' own manifests, word for word: a repository on each provider's storage, by the names and certificates
//! that providers have, with a real store behind them.

use crate::Case;
use crate::driver;
use crate::kubectl::{PATIENCE, until};
use crate::kubernetes::NODE;
use crate::names;
use crate::repositories::{IMAGE, secret, text, with_operator};
use crate::stand::{Space, Stand, of_claim};
use crate::support::minio::Minio;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Instant;

pub(crate) const CASES: &[Case] =
    &[("the_users_manifests_become_ready_as_they_stand_on_every_provider", as_they_stand)];

/// Where the regions of the manifests are.
const DOMAINS: &[&str] = &[
    "s3.cn-northwest-1.amazonaws.com.cn",
    "oss-cn-zhangjiakou.aliyuncs.com",
    "obs.cn-north-4.myhuaweicloud.com",
    "cos.ap-guangzhou.myqcloud.com",
    "storage.googleapis.com",
];
/// The manifests, and the Secrets that they name.
const SEEDS: &[(&str, &str)] = &[
    ("s3", "s3-credential-for-backuprepo"),
    ("oss", "oss-credential-for-backuprepo"),
    ("obs", "obs-credential-for-backuprepo"),
    ("cos", "cos-credential-for-backuprepo"),
    ("gcs-s3comp", "gcs-credential-for-backuprepo"),
    ("minio", "minio-credential-for-backuprepo"),
    ("s3-compatible", "s3-comp-credential-for-backuprepo"),
];
const BUCKET: &str = "test-kb-backup";
/// The port that nobody writes behind a name.
const TLS: u16 = 443;

fn as_they_stand(stand: &Stand) {
    let kubectl = &stand.cluster.kubectl;
    let node: IpAddr = NODE.parse().expect("an address");
    let IpAddr::V4(address) = node else { panic!("of the fourth version") };
    names::serve(address, DOMAINS);
    let hosts = DOMAINS.iter().map(|domain| format!("DNS:{domain},DNS:*.{domain}"));
    let hosts = hosts.chain([format!("IP:{NODE}")]).collect::<Vec<_>>().join(",");
    let certificates = stand.authority.certificate("providers", &hosts, "2");
    let domains = [("MINIO_DOMAIN", &*DOMAINS.join(","))];
    // The API server has the port on its own address.
    let store = Minio::start_named(SocketAddr::new(node, TLS), &certificates, &domains);
    std::fs::create_dir_all(store.data_of(BUCKET)).expect("made");
    std::fs::create_dir_all(stand.minio.data_of(BUCKET)).expect("made");
    with_operator(stand);
    let space = stand.space();
    for &(name, credential) in SEEDS {
        let seed = Path::new(env!("CARGO_MANIFEST_DIR"));
        let seed = seed.join(format!("tests/operator/seeds/{name}.yaml"));
        let seed = std::fs::read_to_string(seed).expect("a manifest");
        // What users put in for themselves: without a scheme it is TLS, as the original takes it.
        let seed = seed.replace("<ip:port>", &format!("{NODE}:{TLS}"));
        let keys = if seed.contains("<endpoint>") { &stand.minio } else { &store };
        let seed = seed.replace("<endpoint>", &stand.minio.endpoint);
        secret(
            stand,
            credential,
            &[("accessKeyId", &keys.access_key), ("secretAccessKey", &keys.secret_key)],
        );
        for method in ["Tool", "Mount"] {
            let seed = seed.replace("accessMethod: Tool", &format!("accessMethod: {method}"));
            let applied = Instant::now();
            let file = stand.cluster.directory.join("seed.yaml");
            std::fs::write(&file, &seed).expect("written");
            kubectl.get(&["apply", "--filename", file.to_str().expect("text")]);
            let status = ready(stand, name);
            println!("{name} by {method} is ready {:.1?} after it was applied", applied.elapsed());
            kubectl.get(&["label", "namespace", &space.name, "strongroom.io/backup-repo=my-repo"]);
            used(keys, &space, name, method, &status);
            let gone = "strongroom.io/backup-repo-";
            kubectl.get(&["label", "namespace", &space.name, gone]);
            kubectl.get(&["delete", "backuprepo", "my-repo", "--timeout=120s"]);
        }
    }
    driver::install(&stand.cluster, "strongroom", &stand.values());
}

fn ready(stand: &Stand, name: &str) -> Value {
    until(name, PATIENCE, || {
        let repo = stand.cluster.kubectl.object(&["backuprepo", "my-repo"]);
        assert_eq!(
            repo["metadata"]["annotations"]["dataprotection.kubeblocks.io/is-default-repo"],
            "true"
        );
        match repo["status"]["phase"] == "Ready" {
            true => Ok(repo["status"].clone()),
            false => Err(format!("{:#}", repo["status"])),
        }
    })
}

/// A pod of a namespace that asks for the repository stores a file, which is in the bucket then.
fn used(store: &Minio, space: &Space<'_>, name: &str, method: &str, status: &Value) {
    let file = format!("{name}-{method}").to_lowercase();
    let pod = format!("pod-{file}");
    match method {
        "Tool" => {
            let config = text(status, "toolConfigSecretName");
            exists(space, "secret", &config);
            space.apply(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{
                        "name": "tool", "image": IMAGE, "imagePullPolicy": "Never",
                        "command": ["/usr/bin/strongroom", "datasafed"],
                        "args": ["push", "/etc/hosts", &file],
                        "volumeMounts": [{"name": "config", "mountPath": "/etc/datasafed"}],
                    }],
                    "volumes": [{"name": "config", "secret": {"secretName": config}}],
                },
            }));
        }
        _ => {
            let claim = text(status, "backupPVCName");
            exists(space, "pvc", &claim);
            let script = format!("cp /etc/hosts /data/{file} && cmp /etc/hosts /data/{file}");
            space.start(&pod, of_claim(&claim), &script, json!({}));
        }
    }
    space.succeeds(&pod);
    let found = crate::support::files_below(&store.data_of(BUCKET));
    let object = format!("/{file}/xl.meta");
    let is_there = found.iter().any(|path| path.to_string_lossy().ends_with(&object));
    assert!(is_there, "{name} {method}: {found:?}");
    space.delete_pod(&pod);
}

fn exists(space: &Space<'_>, kind: &str, name: &str) {
    until(name, PATIENCE, || space.ask(&["get", kind, name]).map(drop));
}
