//! Logs, which nobody asks for but those who look for a fault: where they go, and how many stay.

use crate::programs::{BOTH, Program};
use crate::worlds::{Place, World};
use std::fs;
use std::path::Path;

/// What is in a directory of logs, without what is by chance in the names.
fn kinds(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("there");
    let kind = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("text");
        match name.split('-').collect::<Vec<_>>()[..] {
            ["datasafed", _date, _time, _pid, rest] => format!("datasafed-DATE-TIME-PID-{rest}"),
            _ => name,
        }
    };
    let mut kinds: Vec<String> = entries.flatten().map(kind).collect();
    kinds.sort();
    kinds
}

#[test]
fn log_files_are_where_the_original_puts_them_and_no_more_than_were_asked_for() {
    let world = World::new(Place::Directory);
    let found = BOTH.map(|program| {
        let directory = world.local(&format!("{program:?}-logs"));
        let flags = ["--log-dir", directory.to_str().expect("text"), "--log-dir-max-files", "1"];
        for _ in 0..3 {
            world.call(program, program, flags.iter().chain(&["list", "/"])).run().good();
        }
        let logs = directory.join("cli-logs");
        let latest = fs::read_to_string(logs.join("latest.log")).expect("it leads to a log");
        assert!(!latest.is_empty(), "{program:?}");
        kinds(&logs)
    });
    // The original counts what is there beside its own start, which is there already or not.
    assert!((2..=4).contains(&found[0].len()), "{found:?}");
    assert_eq!(found[1], ["datasafed-DATE-TIME-PID-list.0.log", "latest.log"]);
    assert!(found[0].ends_with(&found[1]), "{found:?}");
}

#[test]
fn a_named_log_is_numbered_and_cut_where_the_original_cuts_it() {
    let world = World::new(Place::Directory);
    for program in BOTH {
        let directory = world.local(&format!("{program:?}-logs"));
        let file = directory.join("mine.txt");
        let [directory_text, file] = [&directory, &file].map(|path| path.to_str().expect("text"));
        let flags = ["--log-dir", directory_text, "--log-file", file];
        world.call(program, program, flags.iter().chain(&["list", "/"])).run().good();
        assert_eq!(kinds(&directory), ["mine.0.txt"], "{program:?}");
    }
    // Ours says more than one line of a push to S3.
    let world = World::new(Place::Bucket);
    let directory = world.local("logs");
    let flags = ["--log-dir", directory.to_str().expect("text"), "--max-log-file-segment-size=1"];
    let call = world.call(Program::Ours, Program::Ours, flags.iter().chain(&["list", "/"]));
    call.run().good();
    for name in kinds(&directory.join("cli-logs")) {
        let is_one = name.starts_with("datasafed-DATE-TIME-PID-list.") || name == "latest.log";
        assert!(is_one, "{name}");
    }
}

#[test]
fn a_log_on_standard_error_is_there_for_whoever_asks() {
    let world = World::new(Place::Directory);
    let run = |program: Program, flags: &[&str]| {
        let call = world.call(program, program, flags.iter().chain(&["list", "/"]));
        let outcome = call.run();
        assert_eq!(outcome.code, Some(0), "{flags:?}: {}", outcome.stderr);
        outcome.stderr
    };
    for program in BOTH {
        assert_eq!(run(program, &[]), "", "{program:?}");
        assert_ne!(run(program, &["--console-log", "--log-level=debug"]), "", "{program:?}");
        assert_eq!(run(program, &["--console-log", "--log-level=error"]), "", "{program:?}");
        let flags = ["--console-log", "--log-level=debug", "--json-log-console"];
        for line in run(program, &flags).lines() {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        }
    }
    let plain = run(Program::Ours, &["--console-log", "--log-level=debug"]);
    assert!(!plain.contains('\u{1b}'), "no colours but on a terminal: {plain}");
    let coloured = run(Program::Ours, &["--console-log", "--log-level=debug", "--force-color"]);
    assert!(coloured.contains('\u{1b}'), "{coloured}");
    let flags = ["--console-log", "--log-level=debug", "--console-timestamps=false"];
    assert!(!run(Program::Ours, &flags).starts_with("20"));
    assert!(plain.starts_with("20"), "{plain}");
}
