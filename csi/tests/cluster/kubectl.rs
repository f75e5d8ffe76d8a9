//! kubectl: what is asked of the cluster, with a bound on every wait.

use crate::kubernetes::kube;
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long anything may take that a busy machine of two cores has to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// kubectl with all rights.
#[derive(Clone)]
pub(crate) struct Kubectl {
    config: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(config: PathBuf) -> Self {
        Self { config }
    }

    /// What it prints, or its complaint.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String, String> {
        self.ask_with(words, "")
    }

    /// The same where it has to work.
    pub(crate) fn get(&self, words: &[&str]) -> String {
        self.ask(words).unwrap_or_else(|error| panic!("kubectl {}: {error}", words.join(" ")))
    }

    /// Makes or changes an object.
    pub(crate) fn apply(&self, object: &Value) {
        let text = object.to_string();
        if let Err(error) = self.ask_with(&["apply", "--filename=-"], &text) {
            panic!("kubectl apply: {error}\n{object:#}");
        }
    }

    /// An object as the API server has it.
    pub(crate) fn object(&self, words: &[&str]) -> Value {
        let text = self.get(&[&["get", "--output=json"], words].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    fn ask_with(&self, words: &[&str], input: &str) -> Result<String, String> {
        let mut child = kube("kubectl")
            .arg("--kubeconfig")
            .arg(&self.config)
            .arg("--request-timeout=150s")
            .args(words)
            .env("HOME", std::env::temp_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        // Small enough for the pipe; kubectl may have ended with a complaint already.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("kubectl ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(text),
            false => Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

/// Tries until something is there; what was wrong last is told when it takes too long.
pub(crate) fn until<T>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(why) => {
                assert!(start.elapsed() < patience, "waited {patience:?} for {what}: {why}");
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
