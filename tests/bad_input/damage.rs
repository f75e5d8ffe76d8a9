//! Objects that are not what was written: the descriptor, segments, records.

use crate::support::{Backend, Volume, objects, random_bytes};
use crate::{check_refused, text};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The descriptor after a change of its text.
fn change_descriptor(volume: &Volume, change: impl Fn(&str) -> String) {
    let path = volume.store().join("strongroom.json");
    let text = fs::read_to_string(&path).expect("the descriptor");
    let changed = change(&text);
    assert_ne!(text, changed, "the descriptor has another form than this test knows");
    fs::write(&path, changed).expect("written");
}

#[test]
fn a_newer_format_asks_for_a_newer_program() {
    let volume = Volume::new(Backend::Dir);
    change_descriptor(&volume, |text| text.replace("\"format\": 1", "\"format\": 2"));
    check_refused(&volume, &["format 2", "knows up to 1", "upgrade strongroom"]);
}

#[test]
fn a_damaged_descriptor_is_refused_whatever_is_damaged() {
    let volume = Volume::new(Backend::Dir);
    let path = volume.store().join("strongroom.json");
    let whole = fs::read(&path).expect("the descriptor");
    // Every field is authenticated or checked: change a digit, a letter or a brace anywhere.
    let positions: Vec<usize> = (0..whole.len()).step_by(23).collect();
    for at in positions {
        if whole[at].is_ascii_whitespace() {
            continue;
        }
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).expect("written");
        let run = volume.tool(["ls", &volume.url]);
        let error = run.failed();
        assert!(error.contains("strongroom.json") || error.contains("passphrase"), "{at}: {error}");
    }
    for length in [0, 1, whole.len() / 2, whole.len() - 2] {
        fs::write(&path, &whole[..length]).expect("written");
        volume.tool(["ls", &volume.url]).failed_saying(&["descriptor"]);
    }
    fs::write(&path, &whole).expect("written");
    volume.tool(["ls", &volume.url]).succeeded();
}

/// A store that wants plaintext hands out a plain volume under the name of the encrypted one.
#[test]
fn a_plain_volume_in_the_place_of_an_encrypted_one_gets_nothing() {
    let volume = Volume::new(Backend::Dir);
    let plain = Volume::with_suite(Backend::Dir, "none");
    fs::remove_dir_all(volume.store()).expect("removed");
    fs::rename(plain.store(), volume.store()).expect("put in its place");
    check_refused(&volume, &["is not encrypted", "passphrase is given", "tampered"]);
    let objects = objects(&volume, "t");
    assert_eq!(objects.len(), 1, "something was stored beside the root: {objects:?}");
}

#[test]
fn a_descriptor_with_costly_key_derivation_is_refused_before_it_costs() {
    let volume = Volume::place(Backend::Dir);
    volume.tool(["init", &volume.url]).succeeded();
    // 64 MiB become 4 TiB.
    change_descriptor(&volume, |text| text.replace("65536", "4294967295"));
    let start = std::time::Instant::now();
    volume.tool(["ls", &volume.url]).failed();
    assert!(start.elapsed().as_secs() < 5);
}

/// A volume with files in segments and in records.
struct Filled {
    volume: Volume,
    large: Vec<u8>,
}

impl Filled {
    fn new(suite: &str) -> Self {
        let volume = Volume::with_suite(Backend::Dir, suite);
        let large = random_bytes(1, 20_000_000);
        volume.tool_with_input(["push", "-", &volume.at("dir/large")], &large).succeeded();
        volume.tool_with_input(["push", "-", &volume.at("dir/other")], b"other").succeeded();
        volume
            .tool_with_input(["push", "-", &volume.at("whole")], &random_bytes(2, 9_000_000))
            .succeeded();
        Self { volume, large }
    }

    /// The segments of the file that has most of them.
    fn segments(&self) -> Vec<PathBuf> {
        let mut by_file = std::collections::BTreeMap::<PathBuf, Vec<PathBuf>>::new();
        for path in objects(&self.volume, "d") {
            let file = path.parent().expect("d/<file>/<segment>").to_owned();
            by_file.entry(file).or_default().push(path);
        }
        let segments = by_file.into_values().max_by_key(Vec::len).expect("a file with segments");
        assert!(segments.len() >= 2, "the file has several segments");
        segments
    }

    /// The large file cannot be read whole: EIO on the mount, with its name in the log; an error that
    /// names it from the tool. Not a byte that differs is given out, and the other files are fine.
    fn check_damaged(&self, what: &str) {
        let volume = &self.volume;
        let mount = volume.mount();
        let mut found = Vec::new();
        let mut file = File::open(mount.join("dir/large")).expect("opens");
        let error = file.read_to_end(&mut found).expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{what}");
        assert!(self.large.starts_with(&found), "{what}: wrong bytes were given out");
        // The undamaged parts of the file can still be read.
        assert_eq!(fs::read(mount.join("dir/other")).expect("read"), b"other");
        assert!(fs::read(mount.join("whole")).expect("read") == random_bytes(2, 9_000_000));
        let log = mount.log();
        assert!(log.contains("ERROR") && log.contains("d/"), "{what}: not in the log: {log}");
        drop(file);
        mount.unmount();

        let kept = volume.local("kept");
        fs::write(&kept, "the old file").expect("written");
        let run = volume.tool(["pull", &volume.at("dir/large"), text(&kept)]);
        run.failed_saying(&["dir/large"]);
        assert_eq!(fs::read(&kept).expect("read"), b"the old file", "{what}");
        let left: Vec<_> = fs::read_dir(volume.temporary.path())
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name())
            .filter(|name| name.to_string_lossy().contains(".strongroom-"))
            .collect();
        assert!(left.is_empty(), "{what}: a part of the file was left: {left:?}");
        let report = volume.tool(["verify", &volume.url, "--json"]);
        assert_eq!(report.output.status.code(), Some(1), "{what}");
        let report: serde_json::Value =
            serde_json::from_slice(&report.output.stdout).expect("JSON");
        assert_eq!(report["damage"].as_array().expect("a list").len(), 1, "{what}: {report}");
        assert_eq!(report["damage"][0]["path"], "/dir/large", "{what}");
    }
}

fn check_damage(what: &str, damage: fn(&[PathBuf])) {
    for suite in ["AES-256-GCM", "AES-256-CFB", "none"] {
        let filled = Filled::new(suite);
        damage(&filled.segments());
        filled.check_damaged(&format!("{what}, {suite}"));
    }
}

#[test]
fn a_changed_byte_in_a_segment_is_an_error_for_its_file_only() {
    check_damage("a changed byte", |segments| {
        let file = File::options().read(true).write(true).open(&segments[1]).expect("open");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 3_000_000).expect("read");
        file.write_all_at(&[byte[0] ^ 0x10], 3_000_000).expect("written");
    });
}

#[test]
fn a_truncated_segment_is_an_error_for_its_file_only() {
    check_damage("a truncated segment", |segments| {
        let file = File::options().write(true).open(&segments[1]).expect("open");
        file.set_len(1_000_000).expect("truncated");
    });
}

#[test]
fn an_empty_segment_is_an_error_for_its_file_only() {
    check_damage("an empty segment", |segments| drop(File::create(&segments[0]).expect("emptied")));
}

#[test]
fn a_segment_longer_than_it_was_is_an_error_or_as_it_was() {
    // The record says how long it is: what follows is never read, or refused.
    let filled = Filled::new("AES-256-GCM");
    let mut file = File::options().append(true).open(&filled.segments()[0]).expect("open");
    file.write_all(&[0; 100_000]).expect("appended");
    let run = filled.volume.tool(["cat", &filled.volume.at("dir/large")]);
    if run.output.status.success() {
        assert!(run.output.stdout == filled.large, "wrong bytes were given out");
    }
}

#[test]
fn swapped_segments_are_an_error_for_their_file_only() {
    for suite in ["AES-256-GCM", "AES-256-CFB"] {
        let filled = Filled::new(suite);
        let segments = filled.segments();
        let (one, two) =
            (fs::read(&segments[0]).expect("read"), fs::read(&segments[1]).expect("read"));
        fs::write(&segments[0], two).expect("written");
        fs::write(&segments[1], one).expect("written");
        filled.check_damaged(&format!("swapped segments, {suite}"));
    }
}

#[test]
fn a_missing_segment_is_an_error_for_its_file_only() {
    check_damage("a missing segment", |segments| fs::remove_file(&segments[1]).expect("removed"));
}

/// The objects under `t/`, the smallest change in which is damage.
fn records(volume: &Volume) -> Vec<PathBuf> {
    objects(volume, "t")
}

#[test]
fn a_record_moved_to_another_name_does_not_open_there() {
    for suite in ["AES-256-GCM", "AES-256-CFB"] {
        let volume = Volume::with_suite(Backend::Dir, suite);
        let push = |name: &str, bytes: &[u8]| {
            volume.tool_with_input(["push", "-", &volume.at(name)], bytes).succeeded();
        };
        push("salaries", b"of the directors");
        let before = records(&volume);
        push("public", b"for everybody");
        let after = records(&volume);
        let public = after.iter().find(|path| !before.contains(path)).expect("the new record");
        let salaries = before
            .iter()
            .find(|path| path.parent() == public.parent())
            .expect("the old record, in the same directory");
        fs::copy(salaries, public).expect("the store gives the one for the other");
        let run = volume.tool(["cat", &volume.at("public")]);
        assert!(run.output.stdout.is_empty(), "{suite}: something was given out");
        run.failed_saying(&["public", "damaged"]);
        assert_eq!(volume.tool(["cat", &volume.at("salaries")]).succeeded(), "of the directors");
        let mount = volume.mount();
        let error = fs::read(mount.join("public")).expect_err("it does not open");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{suite}");
        assert_eq!(fs::read(mount.join("salaries")).expect("read"), b"of the directors");
        mount.unmount();
    }
}

#[test]
fn a_damaged_record_is_an_error_for_its_name_only() {
    for suite in ["AES-256-GCM", "AES-256-CFB", "none"] {
        let volume = Volume::with_suite(Backend::Dir, suite);
        let push = |name: &str| {
            volume.tool_with_input(["push", "-", &volume.at(name)], name.as_bytes()).succeeded();
        };
        push("first");
        let before = records(&volume);
        push("second");
        let after = records(&volume);
        let record = after.iter().find(|path| !before.contains(path)).expect("the new record");
        let whole = fs::read(record).expect("read");
        for at in (0..whole.len()).step_by(whole.len() / 16) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(record, damaged).expect("written");
            let run = volume.tool(["cat", &volume.at("second")]);
            assert!(run.output.stdout.is_empty(), "{suite}, byte {at}: something was given out");
            run.failed_saying(&["second"]);
        }
        for length in [0, 1, 40, whole.len() - 16, whole.len() - 1] {
            fs::write(record, &whole[..length]).expect("written");
            let run = volume.tool(["cat", &volume.at("second")]);
            assert!(
                run.output.stdout.is_empty(),
                "{suite}, {length} bytes: something was given out"
            );
            run.failed_saying(&["second"]);
        }
        assert_eq!(volume.tool(["cat", &volume.at("first")]).succeeded(), "first");
        let mount = volume.mount();
        assert_eq!(fs::read(mount.join("first")).expect("read"), b"first");
        let error = fs::read(mount.join("second")).expect_err("damaged");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{suite}");
        mount.unmount();
        // What was written is there again once the store gives it back.
        fs::write(record, &whole).expect("written");
        assert_eq!(volume.tool(["cat", &volume.at("second")]).succeeded(), "second");
    }
}
