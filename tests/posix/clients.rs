//! Programs that keep backups or data in a directory, each through its whole cycle: the first half stores
//! and checks, the second one restores and compares. Between them the mount goes on, or its server is
//! killed, which must cost nothing of what a program had finished.

use crate::{end_of, finish, limited, project_file, volume};
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

/// One script of `clients/`, with its variant, as a test of both kinds.
macro_rules! clients {
    ($($name:ident: $script:literal $variant:literal,)+) => {
        mod mounted { $(#[test] fn $name() { super::cycle($script, $variant, false) })+ }
        mod killed { $(#[test] fn $name() { super::cycle($script, $variant, true) })+ }
    };
}

clients! {
    borg: "borg" "",
    copied_trees: "copies" "",
    git: "git" "",
    logrotate: "logrotate" "",
    pgbackrest_bundled_and_encrypted: "pgbackrest" "bundled",
    pgbackrest_with_hard_links: "pgbackrest" "linked",
    postgres_tools: "postgres" "",
    redis: "redis" "",
    restic: "restic" "",
    rsync: "rsync" "",
    sqlite: "sqlite" "",
    tar: "tar" "",
}

fn cycle(script: &str, variant: &str, killed: bool) {
    let volume = volume();
    let mut mount = volume.mount();
    let local = volume.local("local");
    fs::create_dir(&local).expect("made");
    fs::create_dir(mount.join("repository")).expect("made");
    for phase in ["backup", "restore"] {
        let mut command = limited("bash", LIMIT);
        command.arg(project_file("clients").join(format!("{script}.sh"))).arg(phase);
        command.arg(mount.join("repository")).arg(&local).arg(variant);
        let (status, said) = finish(&mut command);
        assert!(status.success(), "{script} {phase}: {status}: {}", end_of(&said));
        if killed && phase == "backup" {
            let path = mount.kill9();
            mount = volume.mount_at(path, &[]);
        }
    }
    mount.unmount();
}
