//! Generated command lines through both programs: the same output, messages, exit codes and files.

use crate::generator::{Generator, Line, PULLED, plain};
use crate::programs::{BOTH, Outcome, Program, shown};
use crate::stored;
use crate::worlds::{Place, World};
use std::fs;
use std::os::unix::fs::symlink;

/// Command lines in each world, unless STRONGROOM_CASES says otherwise.
const LINES: usize = 70;
/// How far the times of the same thing on both sides may be apart, in seconds.
const APART: i64 = 20;
/// The same where the times of directories are told to the minute.
const MINUTES_APART: i64 = 60 + APART;

/// Messages of Amazon's SDK and of Go that are not looked at: ours have their own.
/// And a directory that is missing on a server of FTP, which the original does not always know as such.
const FOREIGN: [&str; 8] = [
    "RESPONSE 400",
    "status code:",
    "caused by:",
    "InvalidParameter",
    "XMinio",
    "corrupted",
    "501 \"No such",
    "unsupported protocol scheme",
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn compare(world: &World) {
    let seed = number("STRONGROOM_SEED").unwrap_or_else(crate::support::seed);
    println!("STRONGROOM_SEED={seed}");
    let lines = number("STRONGROOM_CASES").map_or(LINES, |cases| cases as usize);
    let mut generator = Generator::new(seed, world);
    for index in 0..lines {
        if index == lines / 2 {
            // From here on there are files of before and of now.
            generator.now_is_later();
        }
        let line = generator.line();
        let [real, ours] = both(world, &line);
        let what = format!("STRONGROOM_SEED={seed}: line {index}: {}", shown(&line.arguments));
        check(world, &line, &what, &real, &ours);
        if line.changes {
            let [real, ours] = BOTH.map(|side| stored::files(world, side));
            assert_eq!(
                real.keys().collect::<Vec<_>>(),
                ours.keys().collect::<Vec<_>>(),
                "{what}: other files"
            );
            assert!(real == ours, "{what}: other contents");
        }
    }
    read_each_other(world);
}

/// The same line at the same time, each program on its own place.
fn both(world: &World, line: &Line) -> [Outcome; 2] {
    std::thread::scope(|scope| {
        let run = |side: Program| {
            scope.spawn(move || {
                let own = world.local(&format!("{side:?}-pulled"));
                let arguments = line.arguments.iter().map(|argument| match argument == PULLED {
                    true => own.clone().into_os_string(),
                    false => argument.clone(),
                });
                let call = world.call(side, side, arguments);
                let call = call.envs(line.variables.iter().copied());
                call.run_with(line.input.as_deref())
            })
        };
        BOTH.map(run).map(|thread| thread.join().expect("it ran"))
    })
}

fn check(world: &World, line: &Line, what: &str, real: &Outcome, ours: &Outcome) {
    if line.has_content {
        assert!(real.stdout == ours.stdout, "{what}: other contents");
    }
    let pulled = BOTH.map(|side| std::fs::read(world.local(&format!("{side:?}-pulled"))).ok());
    // The original makes the file before it knows that there is nothing to put into it.
    if real.code == Some(0) {
        assert!(pulled[0] == pulled[1], "{what}: another file was pulled");
    }
    for side in BOTH {
        let _ = std::fs::remove_file(world.local(&format!("{side:?}-pulled")));
    }
    let text = |outcome: &Outcome| if line.has_content { String::new() } else { outcome.text() };
    let told =
        format!("{what}\nreal: {}{}ours: {}{}", text(real), real.stderr, text(ours), ours.stderr);
    assert_eq!(real.code, ours.code, "{told}");
    match (real.error(), ours.error()) {
        (None, None) => assert_eq!(ours.stderr, "", "{told}"),
        (Some(real), Some(ours)) => {
            if !FOREIGN.iter().any(|part| real.contains(part)) {
                assert_eq!(world.anonymous(real), world.anonymous(ours), "{told}");
            }
            assert!(line.usage || ours.lines().count() == 1, "{told}");
        }
        _ => panic!("one of both says why: {told}"),
    }
    let mut pair = [real, ours].map(|outcome| world.anonymous(&text(outcome)));
    if line.has_times {
        let [real_times, our_times] = [&pair[0], &pair[1]].map(|text| times(text));
        assert_eq!(real_times.len(), our_times.len(), "{told}");
        let mut ordered = [real_times, our_times];
        if line.unordered {
            ordered.iter_mut().for_each(|times| times.sort_unstable());
        }
        let apart = if world.place == Place::OldFtp { MINUTES_APART } else { APART };
        for (real, ours) in ordered[0].iter().zip(&ordered[1]) {
            assert!((real - ours).abs() <= apart, "{told}");
        }
        pair = pair.map(|text| without_times(&text));
    }
    if line.unordered {
        pair = pair.map(|text| sorted(&text));
    }
    assert_eq!(pair[0], pair[1], "{told}");
}

/// Every time in an output, in seconds since 1970.
fn times(text: &str) -> Vec<i64> {
    let words = text.split(|c: char| c.is_whitespace() || c == '"' || c == ',');
    let parsed = words.filter_map(|word| match word.parse::<jiff::Timestamp>() {
        Ok(time) => Some(time.as_second()),
        Err(_) => None,
    });
    parsed.collect()
}

/// The output with `T` for each time.
fn without_times(text: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with("\"mtime\": ") {
            out.push_str("    \"mtime\": T,\n");
        } else if let Some((time, rest)) = line.split_once('\t')
            && time.parse::<jiff::Timestamp>().is_ok()
        {
            out.push_str("T\t");
            out.push_str(rest);
        } else if line.trim_start().starts_with("\"mtime_str\": ") {
            out.push_str("    \"mtime_str\": T,\n");
        } else {
            out.push_str(line);
        }
    }
    out
}

/// The entries of an output in an order of their own.
fn sorted(text: &str) -> String {
    if text.starts_with('[') {
        let inside = text.trim_start_matches('[').trim_end_matches("]\n");
        let mut entries: Vec<&str> = inside.split("\n  ,\n").map(str::trim).collect();
        entries.sort_unstable();
        return entries.join("\n");
    }
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn files_that_are_asked_for_as_directories_and_the_other_way_round() {
    const LINES: [&[&str]; 15] = [
        &["list", "d/file"],
        &["list", "-r", "d/file"],
        &["list", "d/file/"],
        &["list", "d/file/x"],
        &["stat", "d/file"],
        &["stat", "d/file/x"],
        &["pull", "d", "-"],
        &["pull", "d/file/x", "-"],
        &["rm", "d"],
        &["rm", "d/file/x"],
        &["rm", "-r", "d/file/x"],
        &["rm", "-r", "d/file"],
        &["rm", "-r", "d/it's"],
        &["rmdir", "d"],
        &["rmdir", "d/it's"],
    ];
    let places = [Place::Bucket, Place::Directory, Place::Mounted, Place::Ftp, Place::OldFtp];
    for place in places.into_iter().chain([Place::Azure, Place::Google]) {
        let world = World::new(place);
        for name in ["d/file", "d/it's"] {
            for side in BOTH {
                let push = world.call(side, side, ["push", "-", name]);
                push.run_with(Some(b"content")).good();
            }
        }
        for arguments in LINES {
            // docs/datasafed.md, "What differs on purpose".
            if place == Place::OldFtp && arguments == ["list", "d/file/"] {
                continue;
            }
            let line = plain(arguments.iter().map(|text| (*text).to_owned()).collect());
            let [real, ours] = both(&world, &line);
            let what = format!("{place:?}: {}", shown(&line.arguments));
            check(&world, &line, &what, &real, &ours);
            let [real, ours] = BOTH.map(|side| stored::files(&world, side));
            assert!(real == ours, "{what}: other files");
        }
    }
}

/// Links in a directory lead to what is there; of a removal's the link goes, and nothing of where it leads.
#[test]
fn what_links_lead_to_outlives_their_removal() {
    const LINES: [&[&str]; 8] = [
        &["list", "-r", "/"],
        &["pull", "link/inner/kept", "-"],
        &["rm", "dangling"],
        &["rm", "link"],
        &["rm", "-r", "above/link"],
        &["rm", "-r", "link/inner"],
        &["rm", "-r", "above"],
        &["list", "-r", "/"],
    ];
    for place in [Place::Directory, Place::Mounted] {
        let world = World::new(place);
        let outside = BOTH.map(|side| world.local(&format!("outside-{side:?}")));
        for (side, outside) in BOTH.into_iter().zip(&outside) {
            fs::create_dir_all(outside.join("inner")).expect("made");
            fs::create_dir_all(world.directory(side).join("above")).expect("made");
            for kept in ["kept", "inner/kept"] {
                fs::write(outside.join(kept), "kept").expect("written");
            }
            for link in ["link", "above/link"] {
                symlink(outside, world.directory(side).join(link)).expect("linked");
            }
            symlink("nowhere", world.directory(side).join("dangling")).expect("linked");
        }
        for arguments in LINES {
            let line = plain(arguments.iter().map(|text| (*text).to_owned()).collect());
            // The original reads directories beside each other and tells them as they come.
            let line = Line { unordered: arguments.contains(&"-r"), ..line };
            let [real, ours] = both(&world, &line);
            let what = format!("{place:?}: {}", shown(&line.arguments));
            check(&world, &line, &what, &real, &ours);
            let left = BOTH.map(|side| {
                let root = world.directory(side);
                ["link", "dangling", "above", "above/link"]
                    .map(|name| root.join(name).symlink_metadata().is_ok())
            });
            assert_eq!(left[0], left[1], "{what}: other links");
            let inner = outside.each_ref().map(|outside| outside.join("inner/kept").exists());
            assert_eq!(inner[0], inner[1], "{what}: other files behind the link");
            assert!(outside.iter().all(|outside| outside.join("kept").exists()), "{what}");
        }
    }
    // The storage itself is not taken from where it is.
    let world = World::new(Place::Mounted);
    let (root, moved) = (world.directory(Program::Ours), world.local("elsewhere"));
    fs::rename(&root, &moved).expect("moved");
    symlink(&moved, &root).expect("linked");
    fs::write(moved.join("kept"), "kept").expect("written");
    let refused = world.call(Program::Ours, Program::Ours, ["rm", "-r", "/"]);
    refused.run().bad(&["is the storage's root and a link"]);
    assert!(root.join("kept").exists());
}

/// What one program stored the other one reads, byte for byte.
fn read_each_other(world: &World) {
    let list = world.call(Program::Real, Program::Real, ["list", "-r", "-f", "/"]).run();
    for path in list.text().lines() {
        let mut contents = Vec::new();
        for program in BOTH {
            for side in BOTH {
                contents.push(world.call(program, side, ["pull", path, "-"]).run());
            }
        }
        assert!(contents.iter().all(|outcome| outcome.code == Some(0)), "{path}");
        assert!(contents.iter().all(|outcome| outcome.stdout == contents[0].stdout), "{path}");
    }
}

macro_rules! worlds {
    ($($name:ident: $world:expr),+ $(,)?) => {
        $(#[test] fn $name() { compare(&$world); })+
    };
}

worlds! {
    in_a_bucket: World::new(Place::Bucket),
    in_a_bucket_below_a_base: World::new(Place::Bucket).below("/ns/cluster-1//backup/"),
    in_a_prefix_of_a_bucket: World::new(Place::Prefix).below("./base"),
    in_a_bucket_encrypted: World::new(Place::Bucket).encrypted("AES-256-CFB"),
    in_a_prefix_encrypted_below_a_base: World::new(Place::Prefix).encrypted("aes-128-cfb").below("b"),
    in_a_directory: World::new(Place::Directory),
    in_a_directory_below_a_base: World::new(Place::Directory).below("base/path"),
    in_a_mounted_directory: World::new(Place::Mounted),
    in_a_mounted_directory_encrypted: World::new(Place::Mounted).encrypted("AES-192-CFB"),
    on_a_server_of_ftp: World::new(Place::Ftp),
    on_a_server_of_ftp_encrypted_below_a_base:
        World::new(Place::Ftp).encrypted("AES-256-CFB").below("base/path"),
    on_an_old_server_of_ftp: World::new(Place::OldFtp),
    in_azure: World::new(Place::Azure),
    in_azure_encrypted_below_a_base: World::new(Place::Azure).encrypted("AES-256-CFB").below("b"),
    in_google: World::new(Place::Google),
    in_google_encrypted: World::new(Place::Google).encrypted("AES-128-CFB"),
    in_a_directory_encrypted_below_a_base:
        World::new(Place::Directory).encrypted("AES-256-CFB").below("base"),
}
