//! Images without a container engine: a directory of programs with the libraries that they load, packed as
//! `docker save` would and given to containerd. There is no registry.

use crate::kubernetes::done;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image in the making.
pub(crate) struct Image {
    /// The directory that becomes `/`.
    root: PathBuf,
    name: String,
    entrypoint: Vec<String>,
}

impl Image {
    /// Of this name, made in a directory of its own below `place`.
    pub(crate) fn new(place: &Path, name: &str) -> Self {
        let root = place.join(name.replace(['/', ':'], "-"));
        for folder in ["tmp", "etc", "usr/bin", "bin"] {
            std::fs::create_dir_all(root.join(folder)).expect("a directory");
        }
        Self { root, name: name.to_owned(), entrypoint: Vec::new() }
    }

    /// Adds a program of this machine, and whatever it is linked with, where it expects that.
    pub(crate) fn program(self, from: &Path, to: &str) -> Self {
        self.copy(from, Path::new(to));
        for library in libraries(from) {
            self.copy(&library, &library);
        }
        self
    }

    /// Adds a file.
    pub(crate) fn file(self, from: &Path, to: &str) -> Self {
        self.copy(from, Path::new(to));
        self
    }

    /// Trusts an authority, as an image of the users' own does that has theirs among the system's.
    pub(crate) fn trusting(self, authority: &Path) -> Self {
        self.file(authority, "/etc/ssl/certs/ca-certificates.crt")
    }

    /// Adds a directory with all that is in it, at the same place.
    pub(crate) fn tree(self, from: &Path) -> Self {
        let to = self.root.join(from.strip_prefix("/").expect("an absolute path"));
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        done(Command::new("cp").args(["-a", "--dereference"]).arg(from).arg(to));
        self
    }

    /// A shell and its tools: busybox under each of its names.
    pub(crate) fn shell(self) -> Self {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
        let busybox = busybox.into_iter().find(|path| path.exists());
        let busybox = busybox.expect("busybox is missing: run `make tools`");
        self.copy(busybox, Path::new("/bin/busybox"));
        for tool in done(Command::new(busybox).arg("--list")).lines() {
            let link = self.root.join("bin").join(tool);
            if !link.exists() {
                std::os::unix::fs::symlink("/bin/busybox", link).expect("linked");
            }
        }
        self
    }

    /// What a container runs whose pod says nothing else.
    pub(crate) fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Gives it to containerd.
    pub(crate) fn import(self) {
        let layer = self.root.with_extension("layer.tar");
        let packed = |file: &Path, folder: &Path, names: &[&str]| {
            let mut tar = Command::new("tar");
            done(tar.arg("-C").arg(folder).arg("-cf").arg(file).args(names));
        };
        packed(&layer, &self.root, &["."]);
        let digest = digest_of(&layer);
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": ["PATH=/bin:/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let layer_name = layer.file_name().expect("a name").to_str().expect("text");
        let manifest = serde_json::json!([{
            "Config": "config.json", "RepoTags": [&self.name], "Layers": [layer_name],
        }]);
        let folder = self.root.parent().expect("a directory");
        std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
        std::fs::write(folder.join("manifest.json"), manifest.to_string()).expect("written");
        let archive = self.root.with_extension("tar");
        packed(&archive, folder, &["config.json", "manifest.json", layer_name]);
        done(ctr().args(["images", "import"]).arg(&archive));
        for file in [&layer, &archive] {
            std::fs::remove_file(file).expect("removed");
        }
        std::fs::remove_dir_all(&self.root).expect("removed");
    }

    fn copy(&self, from: &Path, to: &Path) {
        let to = self.root.join(to.strip_prefix("/").expect("an absolute path"));
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        std::fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

/// containerd's own tool, on the images that kubelet sees.
pub(crate) fn ctr() -> Command {
    let mut command = Command::new("ctr");
    command.args(["--address", "/run/containerd/c.sock", "--namespace", "k8s.io"]);
    command
}

/// What the dynamic linker loads for a program, itself included; nothing for a static one.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn digest_of(file: &Path) -> String {
    // Optimised code does it ten times faster than this crate in a build for tests.
    let said = done(Command::new("sha256sum").arg(file));
    said.split_whitespace().next().expect("a digest").to_owned()
}
