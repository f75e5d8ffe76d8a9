//! The programs of a Kubernetes of one node, and what each is told. See `confined.rs` for why ports and
//! addresses can be fixed ones.

use crate::confined;
use crate::support::minio;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The address of the service `kubernetes`, which the API server has itself: so pods reach it without a
/// kube-proxy.
pub(crate) const API: &str = "10.96.0.1";
/// The node's address; stores listen there, too.
pub(crate) const NODE: &str = "10.97.0.1";
/// The node's name.
pub(crate) const NODE_NAME: &str = "node";
/// What `make tools` compiles.
const KUBE: &str = "kube-v1.34.4";

/// A program that runs until it is ended.
pub(crate) struct Running {
    pub(crate) name: &'static str,
    pub(crate) child: Child,
}

/// A program of the cache.
pub(crate) fn program(name: &str) -> PathBuf {
    minio::cache::cached(Path::new("bin").join(name))
}

/// One of the programs of Kubernetes.
pub(crate) fn kube(name: &str) -> Command {
    let mut command = Command::new(program(KUBE));
    command.arg(name);
    command
}

/// Runs a short command to its good end.
pub(crate) fn done(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{error}", output.status);
    text
}

/// Starts a program that stays; its output goes to `log/NAME` below the directory.
pub(crate) fn start(name: &'static str, command: &mut Command) -> Running {
    let log = confined::directory().join("log").join(name);
    let file = File::options().create(true).append(true).open(log).expect("a log");
    let child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a second handle"))
        .stderr(file)
        .spawn();
    Running { name, child: child.unwrap_or_else(|error| panic!("{name}: {error}")) }
}

/// Addresses of this network, and the files that the programs are started with.
pub(crate) fn prepare(directory: &Path) {
    for folder in ["log", "pki", "cni", "pods", "volume-plugins"] {
        std::fs::create_dir(directory.join(folder)).expect("a directory");
    }
    done(Command::new("ip").args(["link", "set", "lo", "up"]));
    for address in [API, NODE] {
        done(Command::new("ip").args(["address", "add", &format!("{address}/32"), "dev", "lo"]));
    }
    certificates(&directory.join("pki"));
    let token = crate::support::fresh_hex::<16>();
    let write = |name: &str, text: String| {
        std::fs::write(directory.join(name), text).expect("written");
    };
    let shown = directory.display();
    write("tokens.csv", format!("{token},admin,1,system:masters\n"));
    write(
        "kubeconfig",
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{{name: c, cluster: {{server: 'https://{API}', certificate-authority: {shown}/pki/ca.crt}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n"
        ),
    );
    write("containerd.toml", CONTAINERD.replace("DIR", &shown.to_string()));
    write("cni/10.conflist", NETWORK.replace("DIR", &shown.to_string()));
    // The only server of names that pods know (`names.rs`).
    write("resolv.conf", format!("nameserver {NODE}\noptions timeout:1\n"));
    write("kubelet.yaml", KUBELET.replace("DIR", &shown.to_string()).replace("NODE", NODE));
}

// Without CAP_SYS_RESOURCE, as in many a build machine's container, a negative oom_score_adj is refused, and
// no pod would start.
const CONTAINERD: &str = r#"version = 2
root = "DIR/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "test.local/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "DIR/cni"
    bin_dir = "/usr/lib/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#;

const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipam":
    {"type": "host-local", "dataDir": "/run/addresses", "ranges": [[{"subnet": "10.244.0.0/24"}]],
     "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;

// Secrets are looked at anew when a pod asks, not once a minute. Images are never removed, however full the disk is: nobody
// could bring them back. Pods are in no groups by quality of service,
// which need rights over the root of all groups.
const KUBELET: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/c.sock
podLogsDir: DIR/pods
volumePluginDir: DIR/volume-plugins
resolvConf: DIR/resolv.conf
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
address: NODE
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
failSwapOn: false
syncFrequency: 10s
configMapAndSecretChangeDetectionStrategy: Get
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: '1%', imagefs.available: '1%', memory.available: 50Mi}
";

/// The cluster's authority, the API server's certificate and the key that signs service accounts.
fn certificates(folder: &Path) {
    let openssl = |words: &[&str]| done(Command::new("openssl").current_dir(folder).args(words));
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let ca = ["req", "-x509", "-subj", "/CN=cluster", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(&[&ca[..], &ec].concat());
    let names = format!("subjectAltName=IP:{API},IP:127.0.0.1,DNS:kubernetes");
    let api = ["req", "-x509", "-subj", "/CN=api", "-CA", "ca.crt", "-CAkey", "ca.key"];
    // Rust's TLS takes no authority's certificate for a server's, which openssl makes of it otherwise.
    let files = ["-addext", &names, "-addext", "basicConstraints=CA:FALSE"];
    let out = ["-keyout", "api.key", "-out", "api.crt"];
    openssl(&[&api[..], &ec, &files, &out].concat());
    openssl(&["genrsa", "-out", "accounts.key", "2048"]);
    openssl(&["rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub"]);
}

pub(crate) fn etcd() -> Running {
    let url = "http://127.0.0.1:2379";
    let mut command = Command::new("etcd");
    command.args(["--data-dir", "/run/etcd", "--listen-client-urls", url]);
    command.args(["--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:2380"]);
    start("etcd", &mut command)
}

pub(crate) fn containerd(directory: &Path) -> Running {
    let mut command = Command::new("containerd");
    start("containerd", command.arg("--config").arg(directory.join("containerd.toml")))
}

pub(crate) fn api_server(directory: &Path) -> Running {
    let pki = |name: &str| directory.join("pki").join(name).display().to_string();
    let mut command = kube("kube-apiserver");
    command
        .args(["--etcd-servers=http://127.0.0.1:2379", "--secure-port=443"])
        .arg(format!("--bind-address={API}"))
        .args(["--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC"])
        .args(["--allow-privileged", "--kubelet-preferred-address-types=InternalIP"])
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(format!("--token-auth-file={}", directory.join("tokens.csv").display()))
        .arg(format!("--tls-cert-file={}", pki("api.crt")))
        .arg(format!("--tls-private-key-file={}", pki("api.key")))
        .arg(format!("--service-account-key-file={}", pki("accounts.pub")))
        .arg(format!("--service-account-signing-key-file={}", pki("accounts.key")));
    start("kube-apiserver", &mut command)
}

pub(crate) fn controller_manager(directory: &Path) -> Running {
    let mut command = kube("kube-controller-manager");
    command
        .args(["--leader-elect=false", "--use-service-account-credentials", "--kubeconfig"])
        .arg(directory.join("kubeconfig"))
        .arg("--root-ca-file")
        .arg(directory.join("pki/ca.crt"))
        .arg("--service-account-private-key-file")
        .arg(directory.join("pki/accounts.key"));
    start("kube-controller-manager", &mut command)
}

pub(crate) fn scheduler(directory: &Path) -> Running {
    let mut command = kube("kube-scheduler");
    command.arg("--kubeconfig").arg(directory.join("kubeconfig")).arg("--leader-elect=false");
    start("kube-scheduler", &mut command)
}

pub(crate) fn kubelet(directory: &Path) -> Running {
    let mut command = kube("kubelet");
    command
        .arg("--kubeconfig")
        .arg(directory.join("kubeconfig"))
        .arg("--config")
        .arg(directory.join("kubelet.yaml"))
        .arg("--root-dir")
        .arg(directory.join("kubelet"))
        .arg("--cert-dir")
        .arg(directory.join("kubelet-pki"))
        .args(["--hostname-override", NODE_NAME, "--node-ip", NODE]);
    start("kubelet", &mut command)
}
