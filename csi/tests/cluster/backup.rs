//! A backup program of others that writes its repository to a volume, and restores from it: what the driver is
//! for.

use crate::Case;
use crate::stand::{Space, Stand, dynamic, of_claim, pod_spec};
use serde_json::{Value, json};

pub(crate) const CASES: &[Case] =
    &[("what_a_backup_job_stored_a_restore_job_gets_back", backup_and_restore)];

/// Files of many sizes below /work: no content comes twice.
const MAKE: &str = "mkdir -p /work/deep/er && cd /work && \
    for n in $(seq 1 200); do head -c $((n * n)) /dev/urandom > deep/er/$n; done && \
    head -c 40000000 /dev/urandom > large && ln -s large link && : > empty && chmod 600 large";
const SUM: &str = "cd /work && find . -exec stat -c '%n %F %a %s' {} + | grep -v directory | sort && \
     find . -type f -exec sha256sum {} + | sort";

fn job(space: &Space<'_>, name: &str, script: &str) -> String {
    let mut spec = pod_spec(of_claim("repository"), script, json!({}));
    let more = |list: &mut Value, item: Value| list.as_array_mut().expect("a list").push(item);
    more(&mut spec["volumes"], json!({"name": "work", "emptyDir": {}}));
    let mounts = &mut spec["containers"][0]["volumeMounts"];
    more(mounts, json!({"name": "work", "mountPath": "/work"}));
    spec["containers"][0]["env"] = json!([
        {"name": "RESTIC_REPOSITORY", "value": "/data/restic"},
        {"name": "RESTIC_PASSWORD", "value": "restic's own"},
        {"name": "HOME", "value": "/tmp"},
    ]);
    space.apply(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"case": "yes"}}, "spec": spec}},
    }));
    let job = format!("job/{name}");
    let finished = || -> Result<Value, String> {
        let status = space.stand.cluster.kubectl.object(&["--namespace", &space.name, &job]);
        let status = status["status"].clone();
        match status["succeeded"].is_u64() || status["failed"].is_u64() {
            true => Ok(status),
            false => Err(status.to_string()),
        }
    };
    let status = crate::kubectl::until(&job, crate::kubectl::PATIENCE * 2, finished);
    let log = space.get(&["logs", &job]);
    assert!(status["succeeded"].is_u64(), "{job}: {status}\n{log}");
    log
}

fn backup_and_restore(stand: &Stand) {
    let space = stand.space();
    space.claim("repository", dynamic(&["ReadWriteOnce"], "10Gi"));
    let backup = format!(
        "{MAKE} && restic init --no-cache >&2 && restic backup --no-cache /work >&2 && {SUM}"
    );
    let made = job(&space, "backup", &backup);
    // Nothing but the repository is common to both: another pod, another empty /work.
    let restore = format!(
        "restic check --no-cache --read-data >&2 && restic restore --no-cache latest --target / >&2 && \
         {SUM}"
    );
    let got = job(&space, "restore", &restore);
    let files = |log: &str| -> Vec<String> {
        log.lines().filter(|line| line.contains("./")).map(str::to_owned).collect()
    };
    assert!(files(&made).len() > 400, "{made}");
    assert_eq!(files(&got), files(&made));
}
