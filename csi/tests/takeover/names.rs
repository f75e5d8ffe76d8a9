//! Names that come, move and go while the server is killed.

use crate::churn::check_churn;
use crate::ground::Ground;
use std::collections::BTreeSet;
use std::fs;

#[test]
fn no_change_of_a_name_is_done_twice_or_lost_through_kills() {
    check_churn(Ground::on_directory(), 25);
}

#[test]
fn no_change_of_a_name_is_done_twice_or_lost_by_the_only_writer() {
    check_churn(Ground::new(None, "10m", &[("exclusive", true.into())]), 25);
}

#[test]
fn no_change_of_a_name_is_done_twice_or_lost_on_a_server() {
    check_churn(Ground::on_minio(), 10);
}

#[test]
fn a_volume_that_a_mount_has_for_itself_stays_its_own() {
    let mut ground = Ground::new(None, "10m", &[("exclusive", true.into())]);
    ground.serve();
    fs::write(ground.at("first"), "1").expect("written");
    let url = ground.url.clone();
    let refused = |ground: &Ground| {
        let mut command = std::process::Command::new(crate::ground::strongroom());
        command.env_clear().env("STRONGROOM_PASSPHRASE_FILE", ground.local("passphrase"));
        let output = command.args(["mkdir", &format!("{url}//x")]).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("in use"), "{said}");
    };
    refused(&ground);
    for _ in 0..3 {
        ground.kill_worker();
        refused(&ground);
        fs::write(ground.at("second"), "2").expect("written");
    }
    ground.unstage();
    ground.tool(&["mkdir", &format!("{}//x", ground.url)]);
    assert_eq!(ground.pulled("second"), b"2");
}

#[test]
fn a_directory_that_is_being_read_is_read_to_its_end() {
    let mut ground = Ground::on_directory();
    ground.serve();
    let names: BTreeSet<String> = (0..3_000).map(|number| format!("name-{number:05}")).collect();
    for name in &names {
        fs::write(ground.at(name), b"").expect("written");
    }
    let mut entries = fs::read_dir(ground.staging()).expect("opened");
    let mut seen = BTreeSet::new();
    for _ in 0..700 {
        seen.insert(entries.next().expect("more").expect("an entry").file_name());
    }
    ground.kill_worker();
    for entry in entries {
        assert!(seen.insert(entry.expect("an entry").file_name()), "twice");
    }
    assert_eq!(seen.len(), names.len());
    ground.unstage();
}
