//! `backuprepo` from the command line, as the users' document shows it for kbcli, on a real API server.

use crate::server::{HOME, Server};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::Api;
use serde_json::Value;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_strongroom-csi");

fn run(server: &Server, words: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("backuprepo")
        .args(words)
        .env("KUBECONFIG", server.kubeconfig())
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

fn said(server: &Server, words: &[&str]) -> String {
    let output = run(server, words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

fn refused(server: &Server, words: &[&str], code: i32) -> String {
    let output = run(server, words);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
    error
}

#[test]
fn a_repository_is_made_shown_changed_and_deleted() {
    let mut server = Server::start();
    server.operate();
    let bucket = server.minio.new_bucket();
    let (endpoint, key) = (server.minio.endpoint.clone(), server.minio.access_key.clone());
    assert!(said(&server, &["list"]).contains("There are no repositories"));

    // As the document has it.
    let usual = [
        "create",
        "my-repo",
        "--provider",
        "minio",
        "--endpoint",
        &endpoint,
        "--bucket",
        &bucket,
        "--access-key-id",
        &key,
        "--secret-access-key",
        "wrong-wrong-wrong",
        "--access-method",
        "Tool",
        "--default",
    ];
    let made = said(&server, &usual);
    assert!(made.contains("backuprepo describe my-repo"), "{made}");
    // Between two attempts it may be checked again already: then the next one tells.
    let parts = ["Failed", "PreCheckFailed", "credentials: ", "bucket:", &bucket, "minio"];
    let attempts = std::iter::repeat_with(|| {
        assert!(!server.run_pre_check("my-repo"));
        server.wait_for("my-repo", |repo| {
            repo.status.as_ref().is_some_and(|status| {
                status.conditions.iter().any(|one| one.message.starts_with("credentials: "))
            })
        });
        said(&server, &["describe", "my-repo"])
    });
    let described = attempts.take(4).find(|said| parts.iter().all(|part| said.contains(part)));
    let described = described.expect("one of four descriptions has it all");
    assert!(!described.contains("wrong-wrong-wrong"));

    // The Secret is a part of the repository, and gets other keys.
    let repo = server.repo("my-repo");
    let reference = repo.spec.credential.clone().expect("a Secret");
    assert_eq!(reference.namespace.as_deref(), Some(HOME));
    let name = reference.name.expect("its name");
    let secrets = Api::<Secret>::namespaced(server.client.clone(), HOME);
    let secret = server.runtime.block_on(secrets.get(&name)).expect("the Secret");
    assert_eq!(secret.owner_references()[0].uid, repo.metadata.uid.clone().expect("a uid"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{}\n", server.minio.secret_key)).expect("written");
    let file = file.to_str().expect("text");
    said(&server, &["update", "my-repo", "--secret-access-key-file", file]);
    while !server.run_pre_check("my-repo") {}
    server.wait_for("my-repo", |repo| {
        use strongroom_csi::operator::crd::Phase;
        repo.status.as_ref().and_then(|status| status.phase) == Some(Phase::Ready)
    });
    let table = said(&server, &["list"]);
    let row = table.lines().nth(1).expect("a row");
    for part in ["my-repo", "Ready", "minio", "Tool", "true"] {
        assert!(row.contains(part), "{part} is not in: {table}");
    }
    let json: Value = serde_json::from_str(&said(&server, &["list", "-o", "json"])).expect("JSON");
    assert_eq!(json["items"][0]["metadata"]["name"], "my-repo");
    assert_eq!(said(&server, &["list", "-o", "name"]), "my-repo\n");

    // There is one default.
    let second = [
        "create",
        "--provider",
        "s3-compatible",
        "--endpoint",
        &endpoint,
        "--bucket",
        &bucket,
        "--access-key-id",
        &key,
        "--secret-access-key-file",
        file,
        "--force-path-style=true",
    ];
    let error = refused(&server, &[&second[..], &["--default"]].concat(), 1);
    assert!(error.contains("my-repo is the default repository already"), "{error}");
    let manifest = said(&server, &[&second[..], &["--dry-run"]].concat());
    assert!(
        manifest.contains("generateName: backuprepo-")
            && !manifest.contains(&server.minio.secret_key)
    );
    said(&server, &["update", "my-repo", "--default=false"]);
    said(&server, &[&second[..], &["--default"]].concat());
    let names = said(&server, &["list", "-o", "name"]);
    let other = names.lines().find(|name| name.starts_with("backuprepo-")).expect("a name");
    let spec = server.repo(other).spec;
    assert_eq!(spec.config["forcePathStyle"], "true");

    let error = refused(&server, &["delete", other], 1);
    assert!(error.contains("--auto-approve"), "{error}");
    let error = refused(&server, &["delete", "nothing", "--auto-approve"], 1);
    assert!(error.contains("there is none of this name"), "{error}");
    for name in [other, "my-repo"] {
        said(&server, &["delete", name, "--auto-approve"]);
    }
    assert!(said(&server, &["list"]).contains("There are no repositories"));
}

#[test]
fn what_is_missing_or_misspelt_is_told_before_anything_is_made() {
    let server = Server::start();
    let error = refused(&server, &["create", "x", "--provider", "minoi", "--bucket", "b"], 1);
    assert!(error.contains("minoi: is not there") && error.contains("minio, nfs"), "{error}");
    let error = refused(&server, &["create", "x"], 2);
    assert!(error.contains("--provider"), "{error}");
    let error = refused(&server, &["create", "x", "--provider", "minio", "--bucket", "b"], 2);
    assert!(error.contains("--endpoint") && error.contains("--access-key-id"), "{error}");
    let bad = ["create", "x", "--provider", "minio", "--buckett", "b"];
    assert!(refused(&server, &bad, 2).contains("--bucket"));
    let mount =
        ["create", "x", "--provider", "nfs", "--nfs-server", "server", "--access-method", "Tool"];
    assert!(refused(&server, &mount, 1).contains("use the other one"));
    let error = refused(&server, &["--kubeconfig", "/nowhere", "list"], 1);
    assert!(error.contains("no cluster") && error.contains("KUBECONFIG"), "{error}");
    let help = said(&server, &["create", "--provider", "oss", "--help"]);
    for part in ["--access-key-id", "--secret-access-key-file", "--region", "--default", "Example"]
    {
        assert!(help.contains(part), "{part} is not in: {help}");
    }
    assert!(said(&server, &["list"]).contains("There are no repositories"));
    let secrets = Api::<Secret>::namespaced(server.client.clone(), HOME);
    let left = server.runtime.block_on(secrets.list_metadata(&Default::default())).expect("a list");
    assert!(left.items.is_empty());
}
