//! A store that answers with older objects, hides some or exchanges them, against a manifest that was
//! made before: everything is found. What users do in between is told and is no failure.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use support::{Backend, Volume, objects, random_bytes};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn push(volume: &Volume, path: &str, bytes: &[u8]) {
    volume.tool_with_input(["push", "-", &volume.at(path)], bytes).succeeded();
}

/// Makes a name by `make`, and returns where its record lies.
fn record_made(volume: &Volume, make: impl FnOnce()) -> PathBuf {
    let before = objects(volume, "t");
    make();
    let new: Vec<PathBuf> =
        objects(volume, "t").into_iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(new.len(), 1, "one name is made");
    new[0].clone()
}

fn pushed(volume: &Volume, path: &str, bytes: &[u8]) -> PathBuf {
    record_made(volume, || push(volume, path, bytes))
}

fn manifest(volume: &Volume) -> PathBuf {
    let path = volume.local("manifest");
    volume.tool(["verify", &volume.url, "--manifest", text(&path)]).succeeded();
    path
}

/// What `verify --against` says of a volume that lost nothing.
fn nothing_lost(volume: &Volume, manifest: &Path) -> String {
    let said =
        volume.tool(["verify", &volume.url, "--quick", "--against", text(manifest)]).succeeded();
    assert!(said.contains("nothing is missing or older"), "{said}");
    said
}

/// Asserts that `verify --against` fails and has this line.
fn finds(volume: &Volume, manifest: &Path, line: &str) {
    let run = volume.tool(["verify", &volume.url, "--quick", "--against", text(manifest)]);
    let said = String::from_utf8_lossy(&run.output.stdout).into_owned();
    run.failed_saying(&["missing or older"]);
    assert!(said.lines().any(|found| found.starts_with(line)), "{line:?} is not in:\n{said}");
}

#[test]
fn a_record_that_is_rolled_back_is_found() {
    let volume = Volume::new(Backend::Dir);
    let mount = volume.mount();
    for (name, first, second) in [
        ("small", b"first".to_vec(), b"second".to_vec()),
        ("large", random_bytes(1, 300_000), random_bytes(2, 200_000)),
    ] {
        // Replaced whole by the tool, and written over by a mount.
        let record = pushed(&volume, name, &first);
        let old = fs::read(&record).expect("read");
        push(&volume, name, &second);
        let made = manifest(&volume);
        nothing_lost(&volume, &made);
        let new = fs::read(&record).expect("read");
        fs::write(&record, &old).expect("rolled back");
        // Nothing in the volume itself contradicts it.
        volume.tool(["verify", &volume.url]).succeeded();
        finds(&volume, &made, &format!("older    /{name}"));
        fs::write(&record, &new).expect("put right");
        nothing_lost(&volume, &made);

        fs::write(mount.join(name), "written over").expect("written");
        let made = manifest(&volume);
        fs::write(&record, &new).expect("rolled back");
        finds(&volume, &made, &format!("older    /{name}"));
        fs::write(&record, &old).expect("rolled back further");
        finds(&volume, &made, &format!("older    /{name}"));
        fs::remove_file(&record).expect("removed");
    }
    drop(mount);
}

#[test]
fn a_rollback_by_many_versions_is_found_by_its_time() {
    let volume = Volume::new(Backend::Dir);
    let record = pushed(&volume, "file", b"0");
    let old = fs::read(&record).expect("read");
    for version in 1..12 {
        push(&volume, "file", version.to_string().as_bytes());
    }
    let made = manifest(&volume);
    fs::write(&record, &old).expect("rolled back");
    finds(&volume, &made, "older    /file");
}

#[test]
fn a_record_that_is_hidden_is_missing_and_so_is_what_is_below_it() {
    let volume = Volume::new(Backend::Dir);
    let record = pushed(&volume, "file", b"bytes");
    let dir = record_made(&volume, || {
        volume.tool(["mkdir", &volume.at("dir")]).succeeded();
    });
    push(&volume, "dir/below", b"bytes");
    let made = manifest(&volume);
    let whole = fs::read(&record).expect("read");
    fs::remove_file(&record).expect("hidden");
    finds(&volume, &made, "missing  /file");
    fs::write(&record, whole).expect("put back");
    nothing_lost(&volume, &made);
    fs::remove_file(&dir).expect("hidden");
    finds(&volume, &made, "missing  /dir");
    finds(&volume, &made, "missing  /dir/below: its record is there");
}

#[test]
fn records_that_are_exchanged_are_damage() {
    let volume = Volume::new(Backend::Dir);
    let (a, b) = (pushed(&volume, "a", b"aaaa"), pushed(&volume, "b", b"bbbb"));
    let made = manifest(&volume);
    let (of_a, of_b) = (fs::read(&a).expect("read"), fs::read(&b).expect("read"));
    fs::write(&a, of_b).expect("written");
    fs::write(&b, of_a).expect("written");
    let run = volume.tool(["verify", &volume.url, "--against", text(&made), "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&run.output.stdout).expect("JSON");
    run.failed_saying(&["2 damaged"]);
    assert_eq!(said["damage"].as_array().map(Vec::len), Some(2), "{said}");
}

#[test]
fn an_old_removal_that_is_put_back_is_found() {
    let volume = Volume::new(Backend::Dir);
    let record = pushed(&volume, "file", b"first");
    volume.tool(["rm", &volume.at("file")]).succeeded();
    let removal = fs::read(&record).expect("read");
    push(&volume, "file", b"second");
    let made = manifest(&volume);
    fs::write(&record, removal).expect("rolled back");
    finds(&volume, &made, "older    /file: an older removal");
}

#[test]
fn an_old_descriptor_that_is_put_back_is_found() {
    let volume = Volume::new(Backend::Dir);
    let path = volume.store().join("strongroom.json");
    let old = fs::read(&path).expect("read");
    volume.tool(["key", "rotate", &volume.url]).succeeded();
    let made = manifest(&volume);
    fs::write(&path, old).expect("rolled back");
    let run = volume.tool(["verify", &volume.url, "--quick", "--against", text(&made)]);
    let said = String::from_utf8_lossy(&run.output.stdout).into_owned();
    run.failed();
    assert!(said.contains("older    strongroom.json"), "{said}");
}

#[test]
fn what_users_do_is_told_and_is_no_loss() {
    let volume = Volume::new(Backend::Dir);
    volume.tool(["mkdir", &volume.at("dir")]).succeeded();
    for path in ["changed", "removed", "moved", "replaced", "kept", "dir/below"] {
        push(&volume, path, b"bytes");
    }
    let mount = volume.mount();
    fs::hard_link(mount.join("kept"), mount.join("second name")).expect("linked");
    fs::write(mount.join("by mount"), "bytes").expect("written");
    let made = manifest(&volume);
    let said = nothing_lost(&volume, &made);
    assert_eq!(said.lines().count(), 2, "nothing differs: {said}");

    push(&volume, "changed", b"other");
    volume.tool(["rm", &volume.at("removed")]).succeeded();
    volume.tool(["mv", &volume.at("moved"), &volume.at("elsewhere")]).succeeded();
    volume.tool(["mv", &volume.at("replaced"), &volume.at("dir/below")]).succeeded();
    volume.tool(["mv", &volume.at("dir"), &volume.at("other dir")]).succeeded();
    push(&volume, "added", b"new");
    fs::write(mount.join("by mount"), "more bytes").expect("written");
    fs::remove_file(mount.join("second name")).expect("removed");
    let said = nothing_lost(&volume, &made);
    for line in [
        "changed  /changed",
        "removed  /removed",
        "removed  /moved: moved",
        "added    /elsewhere",
        "removed  /replaced: moved",
        "changed  /other dir/below",
        "removed  /dir: moved",
        "added    /other dir",
        "added    /added",
        "changed  /by mount",
        "removed  /second name",
    ] {
        assert!(said.lines().any(|found| found.starts_with(line)), "{line:?} is not in:\n{said}");
    }
    assert!(!said.contains("  /kept\n"), "{said}");
}

#[test]
fn a_manifest_that_was_changed_or_is_another_volumes_is_not_believed() {
    let volume = Volume::new(Backend::Dir);
    push(&volume, "file", b"bytes");
    let path = manifest(&volume);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let whole = fs::read_to_string(&path).expect("read");
    let refused = |contents: &str, parts: &[&str]| {
        fs::write(&path, contents).expect("written");
        volume.tool(["verify", &volume.url, "--against", text(&path)]).failed_saying(parts);
    };
    refused(&whole.replace("\"size\":5", "\"size\":6"), &["do not trust"]);
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let without_one = [&lines[..1], &lines[2..]].concat().concat();
    refused(&without_one, &["do not trust"]);
    refused(&lines[..lines.len() - 1].concat(), &["manifest"]);
    refused("", &["no manifest"]);
    refused("{}\n", &["no manifest"]);
    refused(&"x".repeat(100_000), &["no manifest"]);
    let newer = whole.replace("{\"strongroom_manifest\":1", "{\"strongroom_manifest\":2");
    refused(&newer, &["format 2", "upgrade"]);
    let other = Volume::new(Backend::Dir);
    fs::write(&path, &whole).expect("written");
    other.tool(["verify", &other.url, "--against", text(&path)]).failed_saying(&["do not trust"]);
    let missing = volume.local("missing");
    volume
        .tool(["verify", &volume.url, "--against", text(&missing)])
        .failed_saying(&["missing", "No such file"]);
}

#[test]
fn no_manifest_is_made_of_a_damaged_volume() {
    let volume = Volume::new(Backend::Dir);
    let record = pushed(&volume, "file", b"bytes");
    let mut bytes = fs::read(&record).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&record, bytes).expect("damaged");
    let folder = volume.local("safe");
    fs::create_dir(&folder).expect("made");
    let path = folder.join("manifest");
    volume
        .tool(["verify", &volume.url, "--manifest", text(&path)])
        .failed_saying(&["1 damaged", "was not written"]);
    assert_eq!(fs::read_dir(&folder).expect("listed").count(), 0, "something is left behind");
    let nowhere = volume.local("no such folder/manifest");
    volume
        .tool(["verify", &volume.url, "--manifest", text(&nowhere)])
        .failed_saying(&["cannot write", "no such folder"]);
}
