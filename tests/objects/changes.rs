//! Changes in the middle of files, and of names: as on a local disk.

use crate::{Files, Form, in_both_forms, look, run};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

in_both_forms![
    it_is_what_a_local_disk_would_be_after_any_changes,
    what_is_written_is_read_back_at_once,
    names_move_and_go_as_on_a_local_disk,
    a_file_that_is_removed_while_it_is_open_can_be_read_to_its_end,
];

const NAMES: [&str; 6] = ["a", "b", "dir/c", "dir/d", "dir/sub/e", "other/f"];

/// One random change of the tree at `root`; what it says.
fn step(root: &Path, open: &mut HashMap<usize, File>, random: &mut StdRng) -> String {
    let kind = |error: io::Error| format!("{:?}", error.raw_os_error());
    let pick = |random: &mut StdRng| root.join(NAMES.choose(random).expect("one"));
    let slot = random.random_range(0..3_usize);
    let offset = random.random_range(0..300_000_u64);
    let mut data = vec![0; random.random_range(0..120_000)];
    random.fill_bytes(&mut data);
    let (one, two) = (pick(random), pick(random));
    let choice = random.random_range(0..100);
    let done = |result: io::Result<()>| result.map_or_else(kind, |()| "done".to_owned());
    match choice {
        0..15 => {
            let (truncate, append) = (random.random_bool(0.4), random.random_bool(0.3));
            let mut options = OpenOptions::new();
            options.read(true).create(true);
            match append {
                true => options.append(true),
                false => options.write(true).truncate(truncate),
            };
            match options.open(&one) {
                Ok(file) => {
                    open.insert(slot, file);
                    "opened".to_owned()
                }
                Err(error) => kind(error),
            }
        }
        15..40 => match open.get(&slot) {
            Some(file) => done(file.write_all_at(&data, offset)),
            None => "none".to_owned(),
        },
        40..50 => match open.get_mut(&slot) {
            Some(file) => done(file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(&data))),
            None => "none".to_owned(),
        },
        50..65 => match open.get(&slot) {
            Some(file) => {
                let mut buffer = vec![0; data.len()];
                match file.read_at(&mut buffer, offset) {
                    Ok(count) => format!("{count} {}", blake3::hash(&buffer[..count])),
                    Err(error) => kind(error),
                }
            }
            None => "none".to_owned(),
        },
        65..70 => match open.get(&slot) {
            Some(file) => done(file.set_len(offset)),
            None => "none".to_owned(),
        },
        70..74 => match open.get(&slot) {
            Some(file) => done(file.sync_all()),
            None => "none".to_owned(),
        },
        74..82 => {
            open.remove(&slot);
            "closed".to_owned()
        }
        82..88 => done(fs::rename(&one, &two)),
        88..92 => done(fs::remove_file(&one)),
        92..95 => done(fs::set_permissions(
            &one,
            PermissionsExt::from_mode(0o600 + u32::from(choice % 8 == 0)),
        )),
        95..98 => match fs::metadata(&one) {
            Ok(data) => format!("{} {:o}", data.len(), data.permissions().mode()),
            Err(error) => kind(error),
        },
        _ => match fs::read(&one) {
            Ok(bytes) => format!("{}", blake3::hash(&bytes)),
            Err(error) => kind(error),
        },
    }
}

fn it_is_what_a_local_disk_would_be_after_any_changes(form: Form) {
    let files = Files::new(form);
    let local = files.volume.local("local");
    let mount = files.mount();
    for root in [&local, &mount.path] {
        fs::create_dir_all(root.join("dir/sub")).expect("made");
        fs::create_dir_all(root.join("other")).expect("made");
    }
    let seed = crate::support::seed();
    for round in 0..4 {
        let (mut here, mut there) = (HashMap::new(), HashMap::new());
        let mut random = StdRng::seed_from_u64(seed + round);
        for index in 0..150 {
            let same = random.random::<u64>();
            let expected = step(&local, &mut here, &mut StdRng::seed_from_u64(same));
            let found = step(&mount.path, &mut there, &mut StdRng::seed_from_u64(same));
            assert_eq!(found, expected, "step {index} of round {round}, seed {seed}");
        }
        drop((here, there));
        let contents = |root: &Path| -> Vec<(String, Vec<u8>)> {
            let read = |name: &&str| Some(((*name).to_owned(), fs::read(root.join(name)).ok()?));
            NAMES.iter().filter_map(read).collect()
        };
        assert!(contents(&mount.path) == contents(&local), "after round {round}, seed {seed}");
    }
    mount.unmount();
    let mount = files.mount();
    for name in NAMES {
        let (here, there) = (fs::read(local.join(name)).ok(), fs::read(mount.join(name)).ok());
        assert!(here == there, "{name}, on another mount, seed {seed}");
    }
    mount.unmount();
}

fn what_is_written_is_read_back_at_once(form: Form) {
    let files = Files::new(form);
    let mount = files.mount();
    // Longer than what is kept of a file that is being written: the beginning has left.
    let bytes = crate::support::random_bytes(1, 30_000_000);
    let mut options = OpenOptions::new();
    options.create_new(true).read(true).write(true);
    let mut file = options.open(mount.join("file")).expect("created");
    file.write_all(&bytes).expect("written");
    let mut head = vec![0; 1000];
    file.read_exact_at(&mut head, 5).expect("read");
    assert_eq!(head, bytes[5..1005]);
    file.write_all_at(b"changed", 15_000_000).expect("written");
    file.write_all(b"and more").expect("written");
    let mut expected = bytes.clone();
    expected[15_000_000..15_000_007].copy_from_slice(b"changed");
    expected.extend_from_slice(b"and more");
    let mut whole = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("at its start");
    file.read_to_end(&mut whole).expect("read");
    assert!(whole == expected);
    file.sync_all().expect("stored");
    let other = files.mount();
    assert!(fs::read(other.join("file")).expect("read") == expected, "fsync stores it");
    other.unmount();
    drop(file);
    // A child that only was born with the file closes it: that is not its end.
    let mut file = File::create(mount.join("begun")).expect("created");
    file.write_all(&bytes).expect("written");
    run("true", [""; 0]);
    assert!(!files.keys().iter().any(|key| key.starts_with("begun")), "half a file is no file");
    drop(file);
    assert!(fs::read(mount.join("begun")).expect("read") == bytes);
    // Made by who only reads it, as flock(1) does.
    run("flock", [mount.join("lock").as_os_str(), "true".as_ref()]);
    assert!(files.keys().iter().any(|key| key.starts_with("lock")), "{:?}", files.keys());
    // Appended to by others, as by a shell's children, each of which closes the file.
    run(
        "sh",
        [
            "-c",
            &format!(
                "{{ echo one; echo two; sh -c 'echo three'; }} > {}",
                mount.join("log").display()
            ),
        ],
    );
    run("sh", ["-c", &format!("echo four >> {}", mount.join("log").display())]);
    assert_eq!(fs::read_to_string(mount.join("log")).expect("read"), "one\ntwo\nthree\nfour\n");
    mount.unmount();
}

fn names_move_and_go_as_on_a_local_disk(form: Form) {
    let files = Files::new(form);
    let mount = files.mount();
    let at = |path: &str| mount.join(path);
    let code = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    fs::create_dir_all(at("one/two/three")).expect("made");
    fs::write(at("one/two/file"), "content").expect("written");
    fs::write(at("one/two/three/inner"), "inner").expect("written");
    std::os::unix::fs::symlink("file", at("one/two/link")).expect("linked");
    assert_eq!(code(fs::remove_dir(at("one/two"))), Some(libc::ENOTEMPTY));
    assert_eq!(code(fs::hard_link(at("one/two/file"), at("hard"))), Some(libc::EPERM));
    assert_eq!(code(fs::rename(at("one"), at("one/two/below"))), Some(libc::EINVAL));
    assert_eq!(code(fs::rename(at("one/two/file"), at("one/two/three"))), Some(libc::EISDIR));
    assert_eq!(code(fs::rename(at("one/two/three"), at("one/two/file"))), Some(libc::ENOTDIR));
    // While it is being written below.
    let mut open = File::create(at("one/two/open")).expect("created");
    open.write_all(b"before ").expect("written");
    fs::rename(at("one/two"), at("moved")).expect("moved");
    open.write_all(b"after").expect("written");
    drop(open);
    assert_eq!(fs::read_to_string(at("moved/open")).expect("read"), "before after");
    assert_eq!(fs::read_to_string(at("moved/link")).expect("read"), "content");
    assert_eq!(fs::read_to_string(at("moved/three/inner")).expect("read"), "inner");
    assert!(!at("one/two").exists() && at("one").is_dir());
    // Over an empty directory, and not over one that is not.
    fs::create_dir(at("empty")).expect("made");
    assert_eq!(code(fs::rename(at("empty"), at("moved"))), Some(libc::ENOTEMPTY));
    fs::rename(at("moved"), at("empty")).expect("moved");
    // A directory has the time that it was made or given, not that of its last change.
    let look = |root: &Path| -> Vec<(String, String)> {
        let cut = |what: String| match what.strip_prefix("directory ") {
            Some(rest) => rest.split(" (").next().expect("a part").to_owned(),
            None => what,
        };
        look(root).into_iter().map(|(path, what)| (path, cut(what))).collect()
    };
    let before = look(&mount.path);
    assert_eq!(before.iter().filter(|(path, _)| path.starts_with("empty/")).count(), 5);
    mount.unmount();
    let mount = files.mount();
    assert_eq!(look(&mount.path), before);
    // `rm -r` as it is.
    run("rm", ["-r".as_ref(), mount.join("empty").as_os_str()]);
    fs::remove_dir(mount.join("one")).expect("removed");
    assert_eq!(look(&mount.path).len(), 0);
    mount.unmount();
    assert_eq!(files.keys().iter().filter(|key| !key.is_empty()).count(), 0, "{:?}", files.keys());
}

fn a_file_that_is_removed_while_it_is_open_can_be_read_to_its_end(form: Form) {
    let files = Files::new(form);
    let mount = files.mount();
    let bytes = crate::support::random_bytes(2, 3_000_000);
    for replace in [false, true] {
        fs::write(mount.join("file"), &bytes).expect("written");
        let mut file = File::open(mount.join("file")).expect("opened");
        let mut head = vec![0; 10];
        file.read_exact(&mut head).expect("read");
        match replace {
            false => fs::remove_file(mount.join("file")).expect("removed"),
            true => {
                fs::write(mount.join("new"), "another").expect("written");
                fs::rename(mount.join("new"), mount.join("file")).expect("replaced");
                assert_eq!(fs::read_to_string(mount.join("file")).expect("read"), "another");
            }
        }
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).expect("read");
        assert!([head, rest].concat() == bytes);
    }
    // One that was never stored, and is written on without a name.
    let mut file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(mount.join("scratch"))
        .expect("created");
    fs::remove_file(mount.join("scratch")).expect("removed");
    file.write_all(b"still there").expect("written");
    file.rewind().expect("at its start");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "still there");
    drop(file);
    mount.unmount();
    assert!(!files.keys().iter().any(|key| key.contains("scratch")));
}
