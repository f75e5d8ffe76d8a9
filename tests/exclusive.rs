//! `mount --exclusive` as users meet it: who is refused, and how a volume is got back after a crash.

mod support;

use std::fs;
use std::io::Write;
use support::{Backend, Volume};

#[test]
fn a_second_writer_is_refused_by_name_and_readers_are_welcome() {
    for backend in [Backend::Dir, Backend::Minio] {
        let volume = Volume::new(backend);
        let mount = volume.mount_with(&["--exclusive"]);
        fs::write(mount.join("file"), "content").expect("written");
        let other = volume.local("other");
        fs::create_dir(&other).expect("made");
        let other = other.to_str().expect("temporary paths are text");
        let said = ["in use", "strongroom mount", "has it for itself", "--read-only"];
        volume.tool(["mount", &volume.url, other]).failed_saying(&said);
        volume.tool(["mount", &volume.url, other, "--exclusive"]).failed_saying(&said);
        volume
            .tool_with_input(["push", "-", &volume.at("pushed")], b"x")
            .failed_saying(&["in use", "has it for itself"]);
        assert_eq!(volume.tool(["cat", &volume.at("file")]).succeeded(), "content");
        volume.tool(["gc", &volume.url]).succeeded();
        let reader = volume.mount_with(&["--read-only"]);
        assert_eq!(fs::read(reader.join("file")).expect("read"), b"content");
        reader.unmount();
        fs::write(mount.join("file"), "changed").expect("written");
        mount.unmount();
        volume.tool_with_input(["push", "-", &volume.at("pushed")], b"x").succeeded();
        assert_eq!(volume.tool(["cat", &volume.at("file")]).succeeded(), "changed");
    }
}

#[test]
fn after_a_crash_the_same_machine_has_the_volume_back_at_once() {
    let volume = Volume::new(Backend::Minio);
    let mount = volume.mount_with(&["--exclusive"]);
    fs::write(mount.join("file"), "acknowledged").expect("written");
    let place = mount.kill9();
    // Whether anybody is left is not known to others for a while.
    volume
        .tool_with_input(["push", "-", &volume.at("pushed")], b"x")
        .failed_saying(&["has it for itself", "--steal"]);
    let mount = volume.mount_at(place, &["--exclusive"]);
    assert_eq!(fs::read(mount.join("file")).expect("read"), b"acknowledged");
    fs::write(mount.join("file"), "after").expect("written");
    mount.unmount();
}

#[test]
fn a_stolen_volume_is_estale_for_its_former_mount() {
    let volume = Volume::new(Backend::Dir);
    let robbed = volume.mount_with(&["--exclusive"]);
    fs::write(robbed.join("file"), "first").expect("written");
    let thief = volume.mount_with(&["--exclusive", "--steal"]);
    fs::write(thief.join("file"), "thief").expect("written");
    let mut file = fs::File::create(robbed.join("file")).expect("opened");
    file.write_all(b"robbed").expect("memory takes it");
    let error = file.sync_all().expect_err("not its any more");
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
    assert_eq!(fs::read(thief.join("file")).expect("read"), b"thief");
    drop(robbed);
    thief.unmount();
    assert_eq!(volume.tool(["cat", &volume.at("file")]).succeeded(), "thief");
}

/// Of a small file's record a listing reads the head alone; the rest is read when it is opened.
#[test]
fn a_file_that_a_robbed_mount_has_only_listed_is_not_overwritten() {
    let volume = Volume::new(Backend::Dir);
    let before = volume.mount();
    fs::write(before.join("file"), vec![b'x'; 40_000]).expect("written");
    before.unmount();
    let robbed = volume.mount_with(&["--exclusive"]);
    let listed: Vec<u64> = fs::read_dir(robbed.join(""))
        .expect("listed")
        .map(|entry| entry.expect("an entry").metadata().expect("its size").len())
        .collect();
    assert_eq!(listed, [40_000]);
    let thief = volume.mount_with(&["--exclusive", "--steal"]);
    fs::write(thief.join("file"), vec![b'y'; 30_000]).expect("written");
    let written = fs::File::create(robbed.join("file")).and_then(|mut file| {
        file.write_all(b"robbed")?;
        file.sync_all()
    });
    let error = written.expect_err("not its any more");
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
    drop(robbed);
    thief.unmount();
    assert_eq!(volume.tool(["cat", &volume.at("file")]).succeeded(), "y".repeat(30_000));
}
