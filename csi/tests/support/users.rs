//! Users of a MinIO server, made and removed by its own client.

use super::minio::Minio;
use super::minio::cache::cached;
use super::{fresh_hex, wait_for};
use serde_json::json;
use std::fs;
use std::process::{Command, Stdio};

/// A user of the store.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) secret: String,
}

/// Who may use a server.
pub(crate) struct Users<'a> {
    minio: &'a Minio,
    directory: tempfile::TempDir,
}

impl<'a> Users<'a> {
    pub(crate) fn of(minio: &'a Minio) -> Self {
        Self { minio, directory: tempfile::tempdir().expect("a directory") }
    }

    /// What the server's own client says, and whether that went well.
    pub(crate) fn mc(&self, User { name, secret }: &User, arguments: &[&str]) -> (bool, String) {
        let address = self.minio.endpoint.trim_start_matches("http://");
        let output = Command::new(cached("bin/mc-v0.0.0-20250313080218-cf909e1063a9"))
            .arg("--config-dir")
            .arg(self.directory.path())
            .args(["--quiet", "--disable-pager"])
            .args(arguments)
            .env("MC_HOST_store", format!("http://{name}:{secret}@{address}"))
            .stdin(Stdio::null())
            .output()
            .expect("mc starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    pub(crate) fn administrate(&self, arguments: &[&str]) {
        let Minio { access_key, secret_key, .. } = self.minio;
        let root = User { name: access_key.clone(), secret: secret_key.clone() };
        let (went_well, said) = self.mc(&root, arguments);
        assert!(went_well, "{arguments:?}: {said}");
    }

    pub(crate) fn add(&self) -> User {
        let user = User { name: fresh_hex::<8>(), secret: fresh_hex::<16>() };
        self.administrate(&["admin", "user", "add", "store", &user.name, &user.secret]);
        let policy = ["admin", "policy", "attach", "store", "readwrite", "--user", &user.name];
        self.administrate(&policy);
        user
    }

    /// One that may do something below a prefix alone, and with these objects.
    pub(crate) fn add_below(&self, bucket: &str, prefix: &str, objects: &[&str]) -> User {
        let all = format!("{prefix}/*");
        let own = [&[all.as_str()], objects].concat();
        let own: Vec<String> = own.iter().map(|it| format!("arn:aws:s3:::{bucket}/{it}")).collect();
        let user = User { name: fresh_hex::<8>(), secret: fresh_hex::<16>() };
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [format!("arn:aws:s3:::{bucket}")],
             "Condition": {"StringLike": {"s3:prefix": [format!("{prefix}/*")]}}},
            {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject",
                "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
             "Resource": own},
        ]});
        let file = self.directory.path().join("policy.json");
        fs::write(&file, policy.to_string()).expect("written");
        let file = file.to_str().expect("text");
        self.administrate(&["admin", "policy", "create", "store", &user.name, file]);
        self.administrate(&["admin", "user", "add", "store", &user.name, &user.secret]);
        let name = &user.name;
        self.administrate(&["admin", "policy", "attach", "store", name, "--user", name]);
        user
    }

    /// From now on every request of the user's is refused.
    pub(crate) fn revoke(&self, user: &User, bucket: &str) {
        let place = format!("store/{bucket}");
        assert!(self.mc(user, &["ls", &place]).0, "the keys were good");
        self.administrate(&["admin", "user", "remove", "store", &user.name]);
        wait_for("the refusal of revoked keys", || !self.mc(user, &["ls", &place]).0);
    }
}
