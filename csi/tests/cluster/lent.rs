//! Web identity: keys that the store lends for the tokens that kubelet hands to the driver. No Secret that a node is
//! given has any.

use crate::Case;
use crate::driver::{self, NAMESPACE};
use crate::kubectl::{PATIENCE, until};
use crate::kubernetes::NODE;
use crate::stand::{IDLE, PREFIX, Stand, of_claim};
use crate::support::issuer::{AUDIENCE, Issuer, role};
use serde_json::json;

pub(crate) const CASES: &[Case] =
    &[("keys_are_lent_for_the_tokens_of_service_accounts", for_tokens)];

const CLASS: &str = "lent";

fn for_tokens(stand: &Stand) {
    let kubectl = &stand.cluster.kubectl;
    // Whoever has these keys knows the API server's tokens.
    let keys = kubectl.get(&["get", "--raw", "/openid/v1/jwks"]);
    let issuer = Issuer::telling(tempfile::tempdir().expect("a folder"), keys);
    let store = issuer.store_at(NODE.parse().expect("an address"));
    let bucket = store.new_bucket();
    let mut values = stand.values();
    values["tokenAudiences"] = json!([AUDIENCE]);
    let secret = |name: &str, values: serde_json::Value| {
        kubectl.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "stringData": values,
            "metadata": {"name": name, "namespace": NAMESPACE},
        }));
    };
    // The controller has keys of its own; a node gets the passphrase alone.
    secret(
        "lent-controller",
        json!({
            "accessKeyID": store.access_key, "secretAccessKey": store.secret_key,
            "passphrase": stand.passphrase, "endpoint": store.endpoint,
        }),
    );
    secret("lent-node", json!({"passphrase": stand.passphrase, "endpoint": store.endpoint}));
    values["storageClasses"].as_array_mut().expect("an array").push(json!({
        "name": CLASS,
        "secret": {"name": "lent-controller", "namespace": NAMESPACE},
        "nodeSecret": {"name": "lent-node", "namespace": NAMESPACE},
        "parameters": {"bucket": bucket, "prefix": PREFIX, "roleArn": role()},
    }));
    driver::install(&stand.cluster, "strongroom", &values);
    let space = stand.space();
    for account in ["backup", "app"] {
        space.get(&["create", "serviceaccount", account]);
    }
    space.claim(
        "data",
        json!({
            "storageClassName": CLASS, "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        }),
    );
    let of = |account: &str| json!({"serviceAccountName": account});
    space.idle("first", of_claim("data"), of("backup"));
    space.shell("first", "echo by what was lent > /data/file");
    space.idle("second", of_claim("data"), of("backup"));
    assert_eq!(space.shell("second", "cat /data/file"), "by what was lent\n");
    // What one account opened is not another one's, as long as it is used.
    space.start("other", of_claim("data"), IDLE, of("app"));
    until("the refusal", PATIENCE, || {
        let events = space.get(&["get", "events", "--output=jsonpath={.items[*].message}"]);
        let accounts = [format!("{}/backup", space.name), format!("{}/app", space.name)];
        match accounts.iter().all(|account| events.contains(account)) {
            true => Ok(()),
            false => Err(events),
        }
    });
    for pod in ["first", "second"] {
        space.delete_pod(pod);
    }
    space.ready("other");
    assert_eq!(space.shell("other", "cat /data/file"), "by what was lent\n");
    space.delete_pod("other");
    let volume = space.get(&["get", "pvc", "data", "--output=jsonpath={.spec.volumeName}"]);
    space.get(&["delete", "pvc", "data"]);
    space.get(&["wait", "--for=delete", &format!("pv/{volume}"), "--timeout=120s"]);
    driver::install(&stand.cluster, "strongroom", &stand.values());
}
