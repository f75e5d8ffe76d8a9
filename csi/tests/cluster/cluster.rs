//! The cluster: brought up step by step, each waited for.

use crate::confined;
use crate::image::{Image, ctr};
use crate::kubectl::{Kubectl, PATIENCE, until};
use crate::kubernetes::{self, NODE_NAME, Running, done};
use crate::support::files_below;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The image that the cases' pods run programs of.
pub(crate) const TOOLS: &str = "test.local/tools:1";

/// A Kubernetes of one node. It ends with the namespaces that it runs in.
pub(crate) struct Cluster {
    pub(crate) directory: PathBuf,
    pub(crate) kubectl: Kubectl,
    kubelet: std::sync::Mutex<Running>,
}

impl Cluster {
    /// Starts everything, and returns when a pod can be made.
    pub(crate) fn up() -> Self {
        let start = Instant::now();
        let directory = confined::directory();
        kubernetes::prepare(&directory);
        let kubectl = Kubectl::new(directory.join("kubeconfig"));
        let mut processes = vec![
            kubernetes::etcd(),
            kubernetes::containerd(&directory),
            kubernetes::api_server(&directory),
        ];
        step("containerd", &mut processes, || answers(ctr().arg("version")));
        pause(&directory);
        let ready = || kubectl.ask(&["get", "--raw", "/readyz"]).map(drop);
        step("the API server", &mut processes, ready);
        processes.push(kubernetes::controller_manager(&directory));
        processes.push(kubernetes::scheduler(&directory));
        processes.push(kubernetes::kubelet(&directory));
        tools(&directory);
        let node = format!("node/{NODE_NAME}");
        let ready = ["wait", "--for=condition=Ready", &node, "--timeout=1s"];
        step("the node", &mut processes, || kubectl.ask(&ready).map(drop));
        let account = ["get", "serviceaccount", "default"];
        step("the first service account", &mut processes, || kubectl.ask(&account).map(drop));
        let kubelet = std::sync::Mutex::new(processes.pop().expect("it was started last"));
        println!("the cluster is up after {:.1?}", start.elapsed());
        Self { directory, kubectl, kubelet }
    }

    /// Kills kubelet and starts it again; returns when it has told the API server that it is there.
    pub(crate) fn restart_kubelet(&self) {
        let mut kubelet = self.kubelet.lock().expect("nobody failed holding it");
        let renewed = || {
            let lease = ["--namespace=kube-node-lease", "lease", NODE_NAME];
            self.kubectl.object(&lease)["spec"]["renewTime"].to_string()
        };
        kubelet.child.kill().expect("it was there");
        kubelet.child.wait().expect("it is gone");
        let before = renewed();
        *kubelet = kubernetes::kubelet(&self.directory);
        until("kubelet", PATIENCE, || match renewed() == before {
            true => Err("it has not renewed its lease".to_owned()),
            false => Ok(()),
        });
    }
}

/// Waits for a step of the start, unless a program has ended.
fn step(what: &str, processes: &mut [Running], mut attempt: impl FnMut() -> Result<(), String>) {
    until(what, PATIENCE, || {
        for process in &mut *processes {
            let ended = process.child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "{} ended: {ended:?}", process.name);
        }
        attempt()
    });
}

/// The last lines of each program, for a failure.
pub(crate) fn tell() {
    for path in files_below(&confined::directory().join("log")) {
        let log = std::fs::read(&path).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let all: Vec<&str> = log.lines().collect();
        println!("--- {}\n{}", path.display(), all[all.len().saturating_sub(25)..].join("\n"));
    }
}

fn answers(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The program that holds a pod's namespaces: it waits, and ends when it is told to.
fn pause(directory: &Path) {
    let (source, program) = (directory.join("pause.c"), directory.join("pause"));
    let text = "#include <signal.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
                static void end(int number) { (void)number; _exit(0); }\n\
                int main(void) { signal(SIGINT, end); signal(SIGTERM, end); signal(SIGCHLD, SIG_IGN);\n\
                for (;;) pause(); }\n";
    std::fs::write(&source, text).expect("written");
    done(Command::new("cc").args(["-static", "-O2", "-o"]).arg(&program).arg(&source));
    let image = Image::new(directory, "test.local/pause:1").file(&program, "/pause");
    image.entrypoint(&["/pause"]).import();
}

/// A shell with its tools, and a backup program.
fn tools(directory: &Path) {
    let restic = Path::new("/usr/bin/restic");
    assert!(restic.exists(), "restic is missing: run `make tools`");
    Image::new(directory, TOOLS).shell().program(restic, "/usr/bin/restic").import();
}
