//! What the cases share: the cluster, a store beside it, and the driver, installed with a StorageClass; and a
//! namespace of the cluster for each case.

use crate::cluster::{Cluster, TOOLS};
use crate::driver::{self, NAMESPACE};
use crate::kubectl::{PATIENCE, until};
use crate::kubernetes::NODE;
use crate::support::authority::Authority;
use crate::support::minio::Minio;
use crate::support::{files_below, fresh_hex};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// The StorageClass of the chart's values.
pub(crate) const CLASS: &str = "strongroom";
/// Another one, whose programs do not wait long for a store that is away.
pub(crate) const IMPATIENT: &str = "impatient";
/// A VolumeAttributesClass.
pub(crate) const FRUGAL: &str = "frugal";
/// The prefix of its volumes in the bucket.
pub(crate) const PREFIX: &str = "volumes";
/// What a pod runs that lives until it is deleted.
pub(crate) const IDLE: &str = "trap exit TERM; while :; do sleep 1; done";
/// The Secret with the keys, in the driver's namespace.
pub(crate) const KEYS: &str = "keys";

/// The whole set-up.
pub(crate) struct Stand {
    pub(crate) cluster: Cluster,
    pub(crate) minio: Minio,
    pub(crate) bucket: String,
    pub(crate) passphrase: String,
    /// Whom the driver's image trusts.
    pub(crate) authority: Authority,
    spaces: AtomicU32,
}

impl Stand {
    /// Everything, ready for the first claim.
    pub(crate) fn up() -> Self {
        let cluster = Cluster::up();
        let start = Instant::now();
        let minio = Minio::start_at(NODE.parse().expect("an address"));
        let bucket = minio.new_bucket();
        let passphrase = fresh_hex::<16>();
        let authority = Authority::new();
        let spaces = AtomicU32::new(0);
        let stand = Self { cluster, minio, bucket, passphrase, authority, spaces };
        stand.cluster.kubectl.get(&["create", "namespace", NAMESPACE]);
        stand.cluster.kubectl.apply(&stand.keys());
        driver::images(&stand.cluster.directory, &stand.authority.file());
        driver::install(&stand.cluster, "strongroom", &stand.values());
        println!("the chart is installed after {:.1?}", start.elapsed());
        stand
    }

    /// The chart's values beside what every release has.
    pub(crate) fn values(&self) -> Value {
        let class = |name: &str, options: &[&str]| {
            json!({
                "name": name,
                "secret": {"name": KEYS, "namespace": NAMESPACE},
                "parameters": {"bucket": self.bucket, "prefix": PREFIX},
                "mountOptions": options,
            })
        };
        json!({
            "storageClasses": [class(CLASS, &[]), class(IMPATIENT, &["io-timeout=5s"])],
            "volumeAttributesClasses": [{"name": FRUGAL, "parameters": {"memoryLimit": "64MiB"}}],
        })
    }

    fn keys(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": KEYS, "namespace": NAMESPACE},
            "stringData": {
                "accessKeyID": self.minio.access_key,
                "secretAccessKey": self.minio.secret_key,
                "passphrase": self.passphrase,
                "endpoint": self.minio.endpoint,
            },
        })
    }

    /// A namespace for a case.
    pub(crate) fn space(&self) -> Space<'_> {
        let name = format!("case-{}", self.spaces.fetch_add(1, Ordering::Relaxed));
        self.cluster.kubectl.get(&["create", "namespace", &name]);
        let account = ["get", "serviceaccount", "default", "--namespace", &name];
        until("a service account", PATIENCE, || self.cluster.kubectl.ask(&account));
        Space { stand: self, name }
    }

    /// The keys of all objects in the bucket below a prefix. On a single drive each is a directory with a
    /// file in it.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<String> {
        let root = self.minio.data_of(&self.bucket);
        let key = |path: std::path::PathBuf| {
            let path = path.strip_prefix(&root).ok()?.to_string_lossy().into_owned();
            path.strip_suffix("/xl.meta").map(str::to_owned)
        };
        let keys = files_below(&root).into_iter().filter_map(key);
        keys.filter(|key| key.starts_with(prefix)).collect()
    }

    /// Whether some bytes are anywhere in the store, in names or in content.
    pub(crate) fn stores(&self, text: &str) -> bool {
        let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        files_below(&self.minio.data_of(&self.bucket)).iter().any(|path| {
            holds(path.as_os_str().as_encoded_bytes())
                || holds(&std::fs::read(path).unwrap_or_default())
        })
    }

    /// No output of any pod or program has a secret in it.
    pub(crate) fn keeps_its_secrets(&self) -> bool {
        let mut kept = true;
        for folder in ["log", "pods"] {
            for path in files_below(&self.cluster.directory.join(folder)) {
                let bytes = std::fs::read(&path).unwrap_or_default();
                for secret in [&self.passphrase, &self.minio.secret_key] {
                    if bytes.windows(secret.len()).any(|part| part == secret.as_bytes()) {
                        println!("a secret is in {}", path.display());
                        kept = false;
                    }
                }
            }
        }
        kept
    }

    /// What is known after a failure.
    pub(crate) fn tell(&self) {
        let namespace = ["--namespace", NAMESPACE];
        let asked: [&[&str]; 6] = [
            &["get", "pods,pvc,pv,csidriver,csinode", "--all-namespaces", "--output=wide"],
            &["describe", "pods"],
            &[
                "logs",
                "--all-containers",
                "--tail=60",
                "--selector=app.kubernetes.io/component=controller",
            ],
            &[
                "logs",
                "--all-containers",
                "--tail=120",
                "--selector=app.kubernetes.io/component=node",
            ],
            &[
                "logs",
                "--all-containers",
                "--tail=60",
                "--selector=app.kubernetes.io/component=keeper",
            ],
            &["logs", "--tail=60", "--selector=app.kubernetes.io/component=operator"],
        ];
        for words in asked {
            let words = [words, &namespace].concat();
            let words = if words[0] == "get" { &words[..4] } else { &words[..] };
            let said = self.cluster.kubectl.ask(words).unwrap_or_else(|error| error);
            println!("--- kubectl {}\n{said}", words.join(" "));
        }
    }
}

/// A case's namespace.
pub(crate) struct Space<'a> {
    pub(crate) stand: &'a Stand,
    pub(crate) name: String,
}

impl Space<'_> {
    /// Runs kubectl in the namespace.
    pub(crate) fn get(&self, words: &[&str]) -> String {
        self.stand.cluster.kubectl.get(&[&["--namespace", &self.name], words].concat())
    }

    /// The same where it may fail.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String, String> {
        self.stand.cluster.kubectl.ask(&[&["--namespace", &self.name], words].concat())
    }

    /// Makes an object in the namespace.
    pub(crate) fn apply(&self, mut object: Value) {
        object["metadata"]["namespace"] = self.name.as_str().into();
        self.stand.cluster.kubectl.apply(&object);
    }

    /// A claim, and waits until it is bound.
    pub(crate) fn claim(&self, name: &str, spec: Value) {
        self.apply(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name}, "spec": spec,
        }));
        self.get(&["wait", "--for=jsonpath={.status.phase}=Bound", &format!("pvc/{name}"), LIMIT]);
    }

    /// The volume's id that a claim got.
    pub(crate) fn handle(&self, claim: &str) -> String {
        let volume = self.get(&["get", "pvc", claim, "--output=jsonpath={.spec.volumeName}"]);
        self.get(&["get", "pv", &volume, "--output=jsonpath={.spec.csi.volumeHandle}"])
    }

    /// Makes a pod and does not wait. `volume` is what is mounted at /data.
    pub(crate) fn start(&self, name: &str, volume: Value, script: &str, more: Value) {
        self.apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"case": "yes"}},
            "spec": pod_spec(volume, script, more),
        }));
    }

    /// A pod that lives until it is deleted, to run commands in.
    pub(crate) fn idle(&self, name: &str, volume: Value, more: Value) {
        self.start(name, volume, IDLE, more);
        self.ready(name);
    }

    pub(crate) fn ready(&self, name: &str) {
        self.get(&["wait", "--for=condition=Ready", &format!("pod/{name}"), LIMIT]);
    }

    /// Waits until a pod's program has ended, and that well; its output.
    pub(crate) fn succeeds(&self, name: &str) -> String {
        let phase = || self.get(&["get", "pod", name, "--output=jsonpath={.status.phase}"]);
        until(&format!("the end of pod {name}"), PATIENCE, || match &*phase() {
            "Succeeded" => Ok(()),
            "Failed" => panic!("pod {name} failed: {}", self.get(&["logs", name])),
            other => Err(other.to_owned()),
        });
        self.get(&["logs", name])
    }

    /// Runs a line of shell in a pod.
    pub(crate) fn shell(&self, pod: &str, line: &str) -> String {
        self.get(&["exec", pod, "--", "sh", "-c", line])
    }

    /// Deletes a pod and waits until it is gone, its volumes with it.
    pub(crate) fn delete_pod(&self, name: &str) {
        self.get(&["delete", "pod", name, LIMIT]);
    }
}

/// How long kubectl waits, as a flag: less than what its own requests may take.
const LIMIT: &str = "--timeout=120s";

impl Drop for Space<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let asked: [&[&str]; 3] = [
                &["describe", "pods,pvc"],
                &["get", "events", "--sort-by=.lastTimestamp"],
                &["logs", "--all-containers", "--prefix", "--tail=40", "--selector=case=yes"],
            ];
            for words in asked {
                let said = self.ask(words).unwrap_or_else(|error| error);
                println!("--- kubectl {}\n{said}", words.join(" "));
            }
        }
        // Its end is not waited for: the cluster's end comes all the same.
        let _ =
            self.stand.cluster.kubectl.ask(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// A claim's spec on the driver's StorageClass.
pub(crate) fn dynamic(modes: &[&str], size: &str) -> Value {
    json!({
        "storageClassName": CLASS, "accessModes": modes,
        "resources": {"requests": {"storage": size}},
    })
}

/// A pod's volume that is a claim.
pub(crate) fn of_claim(name: &str) -> Value {
    json!({"persistentVolumeClaim": {"claimName": name}})
}

/// What every pod of a case has; `more` are further fields of its spec.
pub(crate) fn pod_spec(mut volume: Value, script: &str, more: Value) -> Value {
    volume["name"] = "data".into();
    let mut spec = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "main", "image": TOOLS, "imagePullPolicy": "Never",
            "command": ["sh", "-ec", script],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }],
        "volumes": [volume],
    });
    let (Some(fields), Some(more)) = (spec.as_object_mut(), more.as_object()) else {
        panic!("specs are objects")
    };
    fields.extend(more.clone());
    spec
}
