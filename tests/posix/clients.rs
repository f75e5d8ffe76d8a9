//! Programs that keep backups or data in a directory, each through its whole cycle: the first half stores
//! and checks, the second one restores and compares. Between them the mount goes on, or its server is
//! killed, which must cost nothing of what a program had finished.

use crate::support::{Backend, Volume};
use crate::{end_of, finish, limited, project_file};
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

/// One script of `clients/`, with its variant, as a test of both kinds.
macro_rules! clients {
    ($($name:ident: $script:literal $variant:literal,)+) => {
        mod mounted {
            $(#[test] fn $name() { super::cycle($script, $variant, &crate::volume(), &[], false) })+
        }
        mod killed {
            $(#[test] fn $name() { super::cycle($script, $variant, &crate::volume(), &[], true) })+
        }
    };
}

clients! {
    barman: "barman" "",
    borg: "borg" "",
    copied_trees: "copies" "",
    deep_and_wide_trees: "deep" "",
    duplicity: "duplicity" "",
    etcd: "etcd" "",
    git: "git" "",
    groups_of_pods: "fsgroup" "",
    logrotate: "logrotate" "",
    mariadb: "mariadb" "",
    pgbackrest_bundled_and_encrypted: "pgbackrest" "bundled",
    pgbackrest_with_hard_links: "pgbackrest" "linked",
    postgres_tools: "postgres" "",
    rclone: "rclone" "",
    redis: "redis" "",
    restic: "restic" "",
    rsync: "rsync" "",
    sqlite: "sqlite" "",
    tar: "tar" "",
}

/// The same on one object per file: but for those that make hard links, which objects do not have.
mod objects {
    use super::{OBJECTS, cycle, files};

    macro_rules! killed {
        ($($name:ident: $script:literal $variant:literal,)+) => {
            $(#[test] fn $name() { cycle($script, $variant, &files(), OBJECTS, true) })+
        };
    }

    killed! {
        barman: "barman" "",
        borg: "borg" "",
        duplicity: "duplicity" "",
        etcd: "etcd" "",
        logrotate: "logrotate" "",
        mariadb: "mariadb" "",
        pgbackrest_bundled_and_encrypted: "pgbackrest" "bundled",
        postgres_tools: "postgres" "",
        rclone: "rclone" "",
        redis: "redis" "",
        restic: "restic" "",
        sqlite: "sqlite" "",
    }
}

/// One object per file, in datasafed's form.
const OBJECTS: &[&str] = &["--layout", "objects", "--encryption", "AES-256-CFB"];

fn files() -> Volume {
    let volume = Volume::place(Backend::Minio);
    crate::support::set_mode(volume.temporary.path(), 0o711);
    volume
}

fn cycle(script: &str, variant: &str, volume: &Volume, flags: &[&str], killed: bool) {
    let mut mount = volume.mount_with(flags);
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
            mount = volume.mount_at(path, flags);
        }
    }
    mount.unmount();
}
