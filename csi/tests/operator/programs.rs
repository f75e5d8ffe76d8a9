//! The programs of a real API server, and the files that they are started with.

use crate::minio::cache::cached;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const KUBE: &str = "kube-v1.34.4";

/// The API server on an etcd.
pub(crate) fn api_server(folder: &Path, (etcd, api): (u16, u16)) -> Command {
    let program = cached(Path::new("bin").join(KUBE));
    let place = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new(program);
    command
        .args([
            "kube-apiserver",
            "--bind-address=127.0.0.1",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
        ])
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
        .arg(format!("--secure-port={api}"))
        .arg(format!("--tls-cert-file={}", place("api.crt")))
        .arg(format!("--tls-private-key-file={}", place("api.key")))
        .arg(format!("--token-auth-file={}", place("tokens.csv")))
        .arg(format!("--service-account-key-file={}", place("key.pub")))
        .arg(format!("--service-account-signing-key-file={}", place("key.pem")))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        // Pods are made here by hand, without the accounts that a controller would make.
        .args([
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.96.0.0/16",
        ]);
    command
}

/// The files that the programs are started with; gives the kubeconfig's path.
pub(crate) fn prepare(folder: &Path, api: u16) -> PathBuf {
    let run = |words: &[&str]| {
        let done =
            Command::new("openssl").current_dir(folder).args(words).output().expect("openssl");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let ca = ["req", "-x509", "-subj", "/CN=cluster", "-keyout", "ca.key", "-out", "ca.crt"];
    run(&[&ca[..], &ec].concat());
    let server = ["req", "-x509", "-subj", "/CN=api", "-CA", "ca.crt", "-CAkey", "ca.key"];
    let files = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"];
    let out = ["-keyout", "api.key", "-out", "api.crt"];
    run(&[&server[..], &ec, &files, &out].concat());
    run(&["genrsa", "-out", "key.pem", "2048"]);
    run(&["rsa", "-in", "key.pem", "-pubout", "-out", "key.pub"]);
    let token = format!("{:x}{:x}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
    std::fs::write(folder.join("tokens.csv"), format!("{token},admin,1,system:masters\n"))
        .expect("written");
    let path = folder.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
         clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{api}', certificate-authority: {}}}}}]\n\
         users: [{{name: u, user: {{token: '{token}'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n",
        folder.join("ca.crt").display()
    );
    std::fs::write(&path, text).expect("written");
    path
}

/// Starts one of them; what it says goes to the file of this name.
pub(crate) fn spawn(folder: &Path, name: &str, command: &mut Command) -> Child {
    let log = File::options().create(true).append(true).open(folder.join(name)).expect("a log");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    let child = crate::ends_with_this_thread(command, nix::sys::signal::Signal::SIGKILL).spawn();
    child.unwrap_or_else(|error| panic!("{name}: {error}"))
}
