//! The driver: its image, the sidecars' images, and the chart, installed by helm as a user would.

use crate::cluster::Cluster;
use crate::image::Image;
use crate::kubernetes::{done, program};
use crate::support::{DRIVER, strongroom};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// The namespace of the driver.
pub(crate) const NAMESPACE: &str = "strongroom";
const IMAGE: &str = "test.local/strongroom";
/// What `make tools` compiles, and the images that are made of it.
const SIDECARS: &[(&str, &str)] =
    &[("csi-provisioner", "csi-provisioner-v6.3.0"), ("csi-resizer", "csi-resizer-v2.2.0")];

/// Gives containerd the images of the driver, which trust an authority, and of its sidecars.
pub(crate) fn images(directory: &Path, authority: &Path) {
    Image::new(directory, &format!("{IMAGE}:1"))
        .program(Path::new(DRIVER), "/usr/bin/strongroom-csi")
        .program(&strongroom(), "/usr/bin/strongroom")
        .trusting(authority)
        .import();
    for (name, cached) in SIDECARS {
        let place = format!("/usr/bin/{name}");
        let image = Image::new(directory, &format!("test.local/{name}:1"));
        image.program(&program(cached), &place).entrypoint(&[&place]).import();
    }
}

/// Installs the chart, or another release of it, and waits until everything runs; `more` are further values.
pub(crate) fn install(cluster: &Cluster, release: &str, more: &Value) {
    let mut values = json!({
        "image": {"repository": IMAGE, "tag": "1", "pullPolicy": "Never"},
        "kubeletDir": cluster.directory.join("kubelet"),
        "log": {"level": "debug,h2=info,hyper=info,hyper_util=info,tower=info", "format": "text"},
        "sidecars": {
            "provisioner": "test.local/csi-provisioner:1",
            "resizer": "test.local/csi-resizer:1",
            "livenessProbe": "",
        },
    });
    let (Some(values_map), Some(more)) = (values.as_object_mut(), more.as_object()) else {
        panic!("values are objects")
    };
    values_map.extend(more.clone());
    let file = cluster.directory.join(format!("{release}.json"));
    std::fs::write(&file, values.to_string()).expect("written");
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart");
    let mut helm = helm(cluster);
    helm.args(["upgrade", "--install", release]).arg(chart).arg("--values").arg(file);
    done(helm.args(["--wait", "--timeout=150s"]));
}

/// Takes a release away.
pub(crate) fn uninstall(cluster: &Cluster, release: &str) {
    done(helm(cluster).args(["uninstall", release]));
}

fn helm(cluster: &Cluster) -> Command {
    let mut command = Command::new(program("helm-v3.22.0"));
    command.args(["--namespace", NAMESPACE]).env("HOME", &cluster.directory);
    command.env("KUBECONFIG", cluster.directory.join("kubeconfig"));
    command
}
