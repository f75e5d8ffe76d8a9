//! Certificates of all kinds, made by the `openssl` command.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// A certificate authority and what it has signed, by the `openssl` command.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a folder") };
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=authority of a test",
            "-days",
            "2",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ]);
        authority
    }

    /// The directory of a server's certificate and key, as MinIO wants them.
    pub(crate) fn certificate(&self, name: &str, names: &str, days: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).expect("made");
        let at = |file: &str| format!("{name}/{file}");
        fs::write(folder.join("names"), format!("subjectAltName={names}\n")).expect("written");
        self.openssl(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=server of a test",
            "-keyout",
            &at("private.key"),
            "-out",
            &at("request"),
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &at("request"),
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            days,
            "-extfile",
            &at("names"),
            "-out",
            &at("public.crt"),
        ]);
        folder
    }

    /// Its own certificate, PEM.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("openssl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
