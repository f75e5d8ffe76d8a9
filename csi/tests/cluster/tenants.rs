//! Tenants of one repository with keys and passphrases of their own, on a store that enforces them: each has its
//! backups with both access methods, and opens nothing of the other's.

use crate::Case;
use crate::driver;
use crate::kubectl::{PATIENCE, until};
use crate::repositories::{IMAGE, place_of, ready, repository, text, with_operator};
use crate::stand::{Space, Stand, of_claim};
use crate::support::users::{User, Users};
use crate::support::{fresh_hex, strongroom};
use serde_json::{Value, json};
use std::process::{Command, Output};

pub(crate) const CASES: &[Case] =
    &[("tenants_with_secrets_of_their_own_open_nothing_of_each_others", tenants)];

const REPO: &str = "repo-tenants";

/// A namespace with a user of the store that may use its place alone, and a passphrase.
struct Tenant<'a> {
    space: Space<'a>,
    user: User,
    passphrase: String,
}

fn tenants(stand: &Stand) {
    let kubectl = &stand.cluster.kubectl;
    with_operator(stand);
    let users = Users::of(&stand.minio);
    let [one, two] = [(); 2].map(|()| {
        let space = stand.space();
        let place = format!("{REPO}/{}", space.name);
        // What the driver notes of the claim lies beside it.
        let note = format!("{REPO}/.volumes/{}.json", space.name);
        let user = users.add_below(&stand.bucket, &place, &[&note]);
        Tenant { space, user, passphrase: fresh_hex::<16>() }
    });
    let mut repo = repository(stand, REPO, "Mount");
    repo["metadata"]["annotations"]["strongroom.io/tenant-secrets"] = "true".into();
    kubectl.apply(&repo);
    for tenant in [&one, &two] {
        let label = format!("strongroom.io/backup-repo={REPO}");
        kubectl.get(&["label", "namespace", &tenant.space.name, &label]);
    }
    enrol(stand, &one);
    // The other one is told what is missing.
    let missing = format!("strongroom.io/tenant={}", two.space.name);
    until("the word for who has no Secret", PATIENCE, || {
        let status = kubectl.object(&["backuprepo", REPO])["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let told = conditions.iter().any(|condition| {
            condition["type"] == "NamespacesPrepared"
                && condition["message"].as_str().is_some_and(|text| text.contains(&missing))
        });
        if told { Ok(()) } else { Err(format!("{status:#}")) }
    });
    enrol(stand, &two);
    let claim = text(&ready(stand, REPO), "backupPVCName");
    for tenant in [&one, &two] {
        let write =
            format!("echo a backup of {0} > /data/dump && cat /data/dump", tenant.space.name);
        tenant.space.start("writes", of_claim(&claim), &write, json!({}));
        assert_eq!(tenant.space.succeeds("writes"), backup(tenant));
        tenant.space.delete_pod("writes");
        let path = format!("{REPO}/{}/dump.enc", tenant.space.name);
        assert_eq!(stand.objects(&path), std::slice::from_ref(&path));
    }
    assert!(!stand.stores("a backup of"));
    // The keys open their own place alone, and the passphrase its own backups, whatever keys there are.
    let root =
        User { name: stand.minio.access_key.clone(), secret: stand.minio.secret_key.clone() };
    for (own, other) in [(&one, &two), (&two, &one)] {
        let opened = pull(stand, &own.user, &own.passphrase, own);
        assert_eq!(String::from_utf8_lossy(&opened.stdout), backup(own));
        for (user, passphrase, place) in [
            (&own.user, &own.passphrase, other),
            (&own.user, &other.passphrase, other),
            (&root, &own.passphrase, other),
            (&root, &stand.passphrase, other),
        ] {
            let refused = pull(stand, user, passphrase, place);
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(!refused.status.success() && refused.stdout.is_empty(), "{said}");
            let expected = if user.name == root.name { "passphrase" } else { "denied" };
            assert!(said.contains(expected), "{said}");
        }
    }
    // What was mounted there, the tool that the namespace was given restores, and no other one's.
    kubectl.get(&["label", "namespace", &two.space.name, "strongroom.io/access-method=Tool"]);
    let config = until("the tool's configuration", PATIENCE, || {
        let status = kubectl.object(&["backuprepo", REPO])["status"].clone();
        let config = status["toolConfigSecretName"].as_str().map(str::to_owned);
        let config = config.ok_or_else(|| format!("{status:#}"))?;
        two.space.ask(&["get", "secret", &config]).map(|_| config)
    });
    two.space.apply(tool("own", &config, &place_of(REPO, &two.space)));
    assert_eq!(two.space.succeeds("own"), backup(&two));
    two.space.apply(tool("other", &config, &place_of(REPO, &one.space)));
    let phase = || two.space.get(&["get", "pod", "other", "--output=jsonpath={.status.phase}"]);
    until("the refusal", PATIENCE, || match &*phase() {
        "Failed" => Ok(()),
        other => Err(other.to_owned()),
    });
    let said = two.space.get(&["logs", "other"]);
    assert!(said.contains("denied") && !said.contains("a backup of"), "{said}");
    for tenant in [&one, &two] {
        let labels = ["strongroom.io/backup-repo-", "strongroom.io/access-method-"];
        kubectl.get(&[&["label", "namespace", &tenant.space.name], &labels[..]].concat());
        let given = || tenant.space.ask(&["get", "secret", &config]);
        until("the end of what it was given", PATIENCE, || match given() {
            Ok(said) => Err(said),
            Err(_) => Ok(()),
        });
    }
    kubectl.get(&["delete", "backuprepo", REPO, "--timeout=120s"]);
    let left = kubectl.get(&["get", "secrets", "--all-namespaces", "--output=name"]);
    assert!(!left.contains(&format!("secret-{REPO}")), "{left}");
    driver::install(&stand.cluster, "strongroom", &stand.values());
}

/// What a tenant's pod wrote.
fn backup(tenant: &Tenant<'_>) -> String {
    format!("a backup of {}\n", tenant.space.name)
}

/// As an administrator does it.
fn enrol(stand: &Stand, tenant: &Tenant<'_>) {
    let Tenant { space, user, passphrase } = tenant;
    stand.cluster.kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": format!("tenant-{}", space.name), "namespace": "kb-system",
            "labels": {"strongroom.io/backup-repo": REPO, "strongroom.io/tenant": space.name},
        },
        "stringData": {
            "accessKeyId": user.name, "secretAccessKey": user.secret, "secretKey": passphrase,
        },
    }));
}

/// What somebody gets with some keys and some passphrase.
fn pull(stand: &Stand, user: &User, passphrase: &str, of: &Tenant<'_>) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("datasafed.conf");
    let config = format!(
        "[storage]\ntype = s3\nprovider = Minio\naccess_key_id = {}\nsecret_access_key = {}\nendpoint = {}\nroot = {}\n",
        user.name, user.secret, stand.minio.endpoint, stand.bucket
    );
    std::fs::write(&file, config).expect("written");
    Command::new(strongroom())
        .args(["datasafed", "--conf"])
        .arg(file)
        .args(["pull", &format!("{REPO}/{}/dump", of.space.name), "-"])
        .env("DATASAFED_ENCRYPTION_ALGORITHM", "AES-256-CFB")
        .env("DATASAFED_ENCRYPTION_PASS_PHRASE", passphrase)
        .output()
        .expect("it starts")
}

/// A pod that restores the dump at some place.
fn tool(name: &str, config: &str, place: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"case": "yes"}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "tool", "image": IMAGE, "imagePullPolicy": "Never", "env": [place],
                "command": ["/usr/bin/strongroom", "datasafed"], "args": ["pull", "dump", "-"],
                "volumeMounts": [{"name": "config", "mountPath": "/etc/datasafed", "readOnly": true}],
            }],
            "volumes": [{"name": "config", "secret": {"secretName": config}}],
        },
    })
}
