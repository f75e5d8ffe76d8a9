//! A real database's backup in a repository, and its restore by another Job: PostgreSQL, whose programs are an image of
//! their own, with the tool injected as KubeBlocks does it.

use crate::image::Image;
use crate::kubectl::{PATIENCE, until};
use crate::stand::{Space, Stand};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const IMAGE: &str = "test.local/database:1";
/// Databases do not run as root.
const USER: u32 = 65532;

/// Where a version of PostgreSQL is.
fn installed() -> PathBuf {
    std::fs::read_dir("/usr/lib/postgresql")
        .expect("postgresql is missing: run `make tools`")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("bin/initdb").exists())
        .expect("initdb")
}

/// The image, once.
pub(crate) fn image(stand: &Stand, tool: &Path) {
    let version = installed();
    let place = |name: &str| version.join("bin").join(name);
    let passwd = stand.cluster.directory.join("passwd");
    std::fs::write(&passwd, format!("database:x:{USER}:{USER}::/work:/bin/sh\n")).expect("written");
    let mut image = Image::new(&stand.cluster.directory, IMAGE).shell();
    for name in
        ["initdb", "postgres", "pg_ctl", "psql", "pg_dump", "pg_restore", "createdb", "dropdb"]
    {
        image = image.program(&place(name), place(name).to_str().expect("text"));
    }
    for name in ["plpgsql.so", "dict_snowball.so"] {
        let library = version.join("lib").join(name);
        image = image.program(&library, library.to_str().expect("text"));
    }
    let share =
        PathBuf::from("/usr/share/postgresql").join(version.file_name().expect("a version"));
    image
        .tree(&share)
        .tree(Path::new("/usr/share/zoneinfo"))
        .file(&passwd, "/etc/passwd")
        .program(tool, "/usr/bin/datasafed")
        .import();
}

/// What every script begins with: an empty server of this pod's own.
fn server() -> String {
    let bin = installed().join("bin");
    format!(
        "export PATH=$PATH:{} PGHOST=/work PGUSER=app TMPDIR=/work; cd /work; \
         initdb -D data --locale=C -E UTF8 -U app > /work/said; \
         pg_ctl -D data -o \"-k /work -c listen_addresses=''\" -l log -w start > /work/said || \
         {{ cat log; exit 1; }}; createdb shop; ",
        bin.display()
    )
}

/// The rows, as one line.
const ROWS: &str = "psql -At shop -c \"set timezone = 'UTC'; \
     select 'rows', count(*), md5(string_agg(id || what || at, ',' order by id)) from orders\" | grep rows; ";

/// A backup in one Job, which then loses its database, and a restore in another; the rows are compared.
/// `fetch` may be of another namespace.
pub(crate) fn survives(store: (&Space<'_>, &Value, &str), fetch: (&Space<'_>, &Value, &str)) {
    let fill = "psql -q shop -c \"create table orders as select n as id, md5(n::text) as what, now() as at \
                from generate_series(1, 20000) n\" -c \"create index on orders (what)\"; ";
    let (space, pod, with) = store;
    let lose = "dropdb shop; if psql -q shop -c 'select 1' 2> /work/said; then exit 1; fi; pg_ctl -D data stop > said";
    let backup = format!("{}{fill}{ROWS}pg_dump -Fc shop | {with}; {lose}", server());
    let before = job(space, "backup", pod, &backup);
    let (space, pod, with) = fetch;
    let restore =
        format!("{}{with} | pg_restore -d shop; {ROWS}pg_ctl -D data stop > said", server());
    let after = job(space, "restore", pod, &restore);
    let rows =
        |log: &str| log.lines().find(|line| line.starts_with("rows|20000|")).map(str::to_owned);
    assert!(rows(&before).is_some(), "{before}");
    assert_eq!(rows(&after), rows(&before), "{after}");
}

/// Runs a Job to its end; its output. `pod` has the volumes, mounts and variables that lead to the repository.
fn job(space: &Space<'_>, name: &str, pod: &Value, script: &str) -> String {
    let list = |field: &str, more: Value| {
        let mut list = pod[field].as_array().cloned().unwrap_or_default();
        list.push(more);
        list
    };
    let mounts = list("mounts", json!({"name": "work", "mountPath": "/work"}));
    let volumes = list("volumes", json!({"name": "work", "emptyDir": {}}));
    space.apply(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"case": "yes"}}, "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER},
            "containers": [{
                "name": "main", "image": IMAGE, "imagePullPolicy": "Never",
                "command": ["sh", "-ec", format!("set -o pipefail; {script}")],
                "env": pod["env"], "volumeMounts": mounts,
            }],
            "volumes": volumes,
        }}},
    }));
    let job = format!("job/{name}");
    let status = until(&job, PATIENCE * 2, || {
        let object = space.stand.cluster.kubectl.object(&["--namespace", &space.name, &job]);
        let status = object["status"].clone();
        match status["succeeded"].is_u64() || status["failed"].is_u64() {
            true => Ok(status),
            false => Err(status.to_string()),
        }
    });
    let log = space.get(&["logs", &job]);
    assert!(status["succeeded"].is_u64(), "{job}: {status}\n{log}");
    space.get(&["delete", &job, "--wait"]);
    log
}
