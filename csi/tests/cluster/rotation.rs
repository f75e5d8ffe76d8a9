//! Keys that are replaced in a Secret while pods use them, and revoked in the store when they have reached the node.

use crate::Case;
use crate::driver::{self, NAMESPACE};
use crate::kubectl::until;
use crate::restarts::undisturbed_on;
use crate::stand::{PREFIX, Stand, dynamic};
use crate::support::users::{User, Users};
use serde_json::json;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[(
    "a_pod_that_writes_does_not_notice_that_its_keys_are_replaced_in_the_secret_and_revoked",
    replaced,
)];

/// The StorageClass, and the Secret with its keys.
const NAME: &str = "rotated";
/// When kubelet republishes is its own affair: every minute or two.
const REPUBLISHED: Duration = Duration::from_secs(300);

fn replaced(stand: &Stand) {
    let kubectl = &stand.cluster.kubectl;
    let users = Users::of(&stand.minio);
    let keep = |user: &User| {
        kubectl.apply(&json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "stringData": {
                "accessKeyID": user.name, "secretAccessKey": user.secret,
                "passphrase": stand.passphrase, "endpoint": stand.minio.endpoint,
            },
        }));
    };
    let first = users.add();
    keep(&first);
    let mut values = stand.values();
    values["requiresRepublish"] = true.into();
    values["storageClasses"].as_array_mut().expect("an array").push(json!({
        "name": NAME,
        "secret": {"name": NAME, "namespace": NAMESPACE},
        "parameters": {"bucket": stand.bucket, "prefix": PREFIX},
    }));
    driver::install(&stand.cluster, "strongroom", &values);
    let space = stand.space();
    let mut claim = dynamic(&["ReadWriteOnce"], "1Gi");
    claim["storageClassName"] = NAME.into();
    undisturbed_on(&space, claim, |goes_on| {
        let handle = space.handle("written");
        let node = "--selector=app.kubernetes.io/component=node";
        let words = ["logs", "--namespace", NAMESPACE, "--tail=-1", node];
        let replaced = || {
            let log = kubectl.ask(&words)?;
            let told =
                |line: &&str| line.contains("its keys were replaced") && line.contains(&handle);
            Ok::<_, String>(log.lines().filter(told).count())
        };
        let mut user = first;
        for round in 1..=2 {
            let next = users.add();
            keep(&next);
            until("kubelet to hand over the next keys", REPUBLISHED, || match replaced()? {
                count if count >= round => Ok(()),
                count => Err(format!("replaced {count} times")),
            });
            users.revoke(&user, &stand.bucket);
            goes_on();
            user = next;
        }
    });
    let volume = space.get(&["get", "pvc", "written", "--output=jsonpath={.spec.volumeName}"]);
    space.get(&["delete", "pod", "--all", "--timeout=120s"]);
    space.get(&["delete", "pvc", "written"]);
    space.get(&["wait", "--for=delete", &format!("pv/{volume}"), "--timeout=120s"]);
    driver::install(&stand.cluster, "strongroom", &stand.values());
}
