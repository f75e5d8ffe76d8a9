//! The house's rules, which no compiler knows: which layer may use which, which file may know a foreign
//! library, who reads the clock. Each rule is a function from a file to its violations, and has a test
//! with a snippet that it must complain about.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers and their ranks. A file may use lower ranks and its own layer.
const LAYERS: &[(&str, u8)] = &[
    ("units", 0),
    ("world", 0),
    ("crypto", 1),
    ("store", 1),
    ("volume", 2),
    ("fs", 3),
    ("config", 4),
    ("tool", 5),
];

/// Foreign libraries and the only files that know them.
const FOREIGN: &[(&str, &[&str])] = &[
    ("fuser", &["src/fs/fuse.rs", "src/fs/session.rs"]),
    ("aws_sdk_s3", &["src/store/s3"]),
    ("aws_config", &["src/store/s3"]),
    ("aws_credential_types", &["src/store/s3"]),
    ("aws_sdk_sts", &["src/store/s3"]),
    ("aws_smithy", &["src/store/s3", "src/store/transport/"]),
    ("opendal", &["src/store/remote/", "src/store/transport/fetch.rs"]),
    ("reqsign_core", &["src/store/remote/"]),
    ("reqsign_google", &["src/store/remote/"]),
    ("suppaftp", &["src/store/ftp/"]),
    ("clap", &["src/tool/"]),
    ("indicatif", &["src/tool/"]),
    ("rpassword", &["src/config/"]),
    ("toml", &["src/config/"]),
];

/// The world's sources and the layers that may reach for them; the others are handed what they need.
const SOURCES: &[(&str, &[&str])] = &[
    ("std::env", &["src/config", "src/tool/", "src/bin/"]),
    // The directory store is a server with a clock of its own.
    ("SystemTime::now", &["src/config", "src/tool/", "src/store/dir.rs"]),
    // Faults come from a generator that the caller seeds.
    ("rand::", &["src/config", "src/tool/", "src/store/fault.rs"]),
];

/// Words that are nowhere in finished code.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!", "TODO", "FIXME", "XXX"];

/// A file longer than this is more than one idea, unless it is listed: how long it may be, and why.
const LINES: usize = 500;
const LONG: &[(&str, usize, &str)] = &[
    ("src/fs/fuse.rs", 920, "one method for each request of the kernel, a few lines each"),
    ("src/fs/names.rs", 710, "the operations on names share the order of their locks"),
    ("src/fs/publish.rs", 560, "from dirty bytes to the record, one step after the other"),
    ("src/fs/dirty.rs", 540, "one map and what happens to its pieces, with its tests"),
    ("src/fs/ledger.rs", 600, "one layout, written and read, with its tests"),
    ("src/fs/remembered.rs", 600, "one form for each kind of entry, both ways"),
    ("src/volume/native/session.rs", 600, "the life of a session, also that of another process"),
    ("src/fs/takeover.rs", 530, "one way from what is left to a mount, step by step"),
    ("src/volume/native/extents.rs", 550, "one map, its changes and its layout, with its tests"),
    ("tests/model/operations.rs", 760, "one method for each operation and what it may answer"),
    ("tests/simulation/node.rs", 600, "one node: what it does, and what it was told of it"),
    ("tests/model/run.rs", 560, "one run: choose, do, compare"),
    ("src/store/conformance.rs", 570, "one suite, a case after the other"),
    ("src/store/dir.rs", 650, "a whole object server, down to the spelling of its files"),
    ("src/volume/native/record.rs", 640, "one type, the checks of what was stored, both ways"),
];

/// A file as the rules see it.
struct Source {
    /// Relative to the package, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The code before the tests, line by line, without comments and without what strings say.
    fn code(&self) -> Vec<(usize, String)> {
        let lines = self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        let mut inside_string = false;
        let strip = |line| without_comment_and_strings(line, &mut inside_string);
        (1..).zip(lines.map(strip)).collect()
    }

    /// The layer and its rank; `None` for what is above all layers (`lib.rs`, `bin/`).
    fn layer(&self) -> Option<(&'static str, u8)> {
        let inside = self.path.strip_prefix("src/")?;
        let name = inside.split('/').next()?.trim_end_matches(".rs");
        LAYERS.iter().copied().find(|(layer, _)| *layer == name)
    }
}

/// `inside` carries over the lines whether a string is open.
fn without_comment_and_strings(line: &str, inside: &mut bool) -> String {
    let mut code = String::new();
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if *inside => drop(characters.next()),
            // A character literal of a quotation mark opens no string.
            '\'' if !*inside && characters.peek() == Some(&'"') => drop(characters.next()),
            '"' => *inside = !*inside,
            '/' if !*inside && characters.peek() == Some(&'/') => break,
            _ if !*inside => code.push(character),
            _ => {}
        }
    }
    code
}

/// Whether `word` stands in the code as a path of its own, not as the end of another name.
fn uses(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|character| character.is_alphanumeric() || character == '_')
    })
}

/// A layer uses lower ranks only; layers of one rank do not know each other.
fn layers(source: &Source) -> Vec<String> {
    let Some((layer, rank)) = source.layer() else { return Vec::new() };
    let mut found = Vec::new();
    for (number, code) in source.code() {
        for used in names_after_crate(&code) {
            let Some((other, other_rank)) = LAYERS.iter().find(|(name, _)| *name == used) else {
                continue;
            };
            let allowed = *other_rank < rank || *other == layer || (rank == 0 && *other_rank == 0);
            if !allowed {
                let place = format!("{}:{number}", source.path);
                found.push(format!("{place}: {layer} ({rank}) may not use {other} ({other_rank})"));
            }
        }
    }
    found
}

/// What follows `crate::`, also in braces: `crate::{a::B, c}` gives `a` and `c`.
fn names_after_crate(code: &str) -> Vec<String> {
    let identifier = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut names = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        let rest = &code[at + word.len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let mut depth = 0_i32;
                let mut start = 0;
                for (index, character) in group.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            names.push(identifier(&group[start..index]));
                            start = group.len();
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            names.push(identifier(&group[start..index]));
                            start = index + 1;
                        }
                        _ => {}
                    }
                }
                names.push(identifier(&group[start..]));
            }
            None => names.push(identifier(rest)),
        }
    }
    names
}

/// A foreign library is known to one file (or one family of files).
fn foreign(source: &Source) -> Vec<String> {
    restricted(source, FOREIGN, "imports")
}

/// Clock, randomness and environment come from above.
fn sources(source: &Source) -> Vec<String> {
    restricted(source, SOURCES, "reaches for")
}

fn restricted(source: &Source, rows: &[(&str, &[&str])], verb: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, code) in source.code() {
        for (word, places) in rows {
            let known = places.iter().any(|place| source.path.starts_with(place));
            if !known && uses(&code, word) {
                let places = places.join(", ");
                let at = format!("{}:{number}", source.path);
                found.push(format!("{at}: {verb} {word}, which only {places} may"));
            }
        }
    }
    found
}

/// Only the tool talks to the terminal.
fn printing(source: &Source) -> Vec<String> {
    if source.path.starts_with("src/tool/") {
        return Vec::new();
    }
    let words = ["println!", "eprintln!", "print!", "eprint!"];
    let printing = |code: &str| words.iter().any(|word| uses(code, word));
    let lines = source.code().into_iter().filter(|(_, code)| printing(code));
    lines
        .map(|(number, _)| format!("{}:{number}: prints, which only the tool may", source.path))
        .collect()
}

/// Nothing is left for later.
fn unfinished(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for word in UNFINISHED.iter().filter(|word| uses(line, word)) {
            found.push(format!("{}:{}: {word}", source.path, index + 1));
        }
    }
    found
}

/// Files stay short.
fn length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    match LONG.iter().find(|(path, ..)| *path == source.path) {
        None if lines > LINES => vec![format!("{}: {lines} lines: split it", source.path)],
        Some((_, most, _)) if lines > *most => {
            vec![format!("{}: {lines} lines, {most} are allowed: split it", source.path)]
        }
        Some(_) if lines <= LINES => {
            vec![format!("{}: {lines} lines: no longer long, take it off the list", source.path)]
        }
        _ => Vec::new(),
    }
}

/// Every file says first what it is for.
fn introduction(source: &Source) -> Vec<String> {
    let introduced = source.text.starts_with("//! ");
    let missing = || vec![format!("{}: does not begin with what it is for (//!)", source.path)];
    if introduced { Vec::new() } else { missing() }
}

fn below(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = walkdir::WalkDir::new(root.join(folder))
        .into_iter()
        .map(|entry| entry.expect("a readable tree").into_path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{folder} has no sources");
    let read = |path: PathBuf| Source {
        path: path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned(),
        text: fs::read_to_string(path).expect("readable"),
    };
    paths.into_iter().map(read).collect()
}

fn check(rule: fn(&Source) -> Vec<String>, folders: &[&str]) {
    let files = folders.iter().flat_map(|folder| below(folder));
    // This file quotes what it forbids.
    let files = files.filter(|source| source.path != "tests/tidy.rs");
    let found: Vec<String> = files.flat_map(|source| rule(&source)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// What a rule says of a file with this text.
fn complaints(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> Vec<String> {
    rule(&Source { path: path.to_owned(), text: text.to_owned() })
}

#[test]
fn layers_use_lower_ranks_only() {
    check(layers, &["src"]);
}

#[test]
fn the_layer_rule_sees_every_way_to_name_a_layer() {
    let at = |path, text| complaints(layers, path, text);
    assert_eq!(
        at("src/fs/core.rs", "use crate::config::VolumeUrl;\n"),
        ["src/fs/core.rs:1: fs (3) may not use config (4)"]
    );
    assert_eq!(
        at("src/crypto/kdf.rs", "\nfn f() { crate::store::Key::new() }\n"),
        ["src/crypto/kdf.rs:2: crypto (1) may not use store (1)"]
    );
    assert_eq!(at("src/store/mod.rs", "use crate::{crypto::A, units::{B, C}, fs};\n").len(), 2);
    assert_eq!(at("src/units.rs", "use crate::volume;\n").len(), 1);
    assert_eq!(at("src/config.rs", "pub(crate) use crate::tool::x;\n").len(), 1);
    assert!(at("src/tool/mod.rs", "use crate::config::A;\nuse crate::fs::B;\n").is_empty());
    assert!(at("src/fs/io.rs", "use crate::fs::A; use crate::volume::B;\n").is_empty());
    assert!(at("src/lib.rs", "pub use crate::tool::run;\n").is_empty());
    // Comments and tests may speak of anything.
    assert!(at("src/fs/io.rs", "// see crate::tool\n#[cfg(test)]\nuse crate::tool;\n").is_empty());
}

#[test]
fn foreign_libraries_are_known_to_one_file() {
    check(foreign, &["src"]);
}

#[test]
fn the_foreign_rule_sees_an_import_elsewhere() {
    let at = |path, text| complaints(foreign, path, text);
    assert_eq!(
        at("src/fs/io.rs", "use fuser::FileAttr;\n"),
        ["src/fs/io.rs:1: imports fuser, which only src/fs/fuse.rs, src/fs/session.rs may"]
    );
    assert_eq!(at("src/volume/mod.rs", "fn f(x: aws_smithy_types::Blob) {}\n").len(), 1);
    assert!(at("src/fs/session.rs", "use fuser::Session;\n").is_empty());
    assert!(at("src/store/s3/client.rs", "use aws_sdk_s3::Client;\n").is_empty());
    assert!(at("src/fs/io.rs", "let text = \"fuser\"; // fuser\n").is_empty());
    assert!(at("src/fs/io.rs", "let text = \"of\nfuser\n\";\n").is_empty());
    assert_eq!(at("src/fs/io.rs", "let text = \"of\n\"; use fuser::A;\n").len(), 1);
    assert_eq!(at("src/fs/io.rs", "let mark = '\"'; use fuser::A;\n").len(), 1);
}

#[test]
fn the_world_is_handed_down() {
    check(sources, &["src"]);
}

#[test]
fn the_source_rule_sees_clock_environment_and_randomness() {
    let at = |path, text| complaints(sources, path, text);
    assert_eq!(at("src/volume/mod.rs", "let now = SystemTime::now();\n").len(), 1);
    assert_eq!(at("src/store/s3.rs", "if std::env::var(\"A\").is_ok() {}\n").len(), 1);
    assert_eq!(at("src/fs/io.rs", "use rand::random;\n").len(), 1);
    // aws_lc_rs::rand is another thing by name, but not by meaning.
    assert_eq!(at("src/fs/io.rs", "aws_lc_rs::rand::fill(&mut b)\n").len(), 1);
    assert!(at("src/store/dir.rs", "SystemTime::now()\n").is_empty());
    assert!(at("src/config/world.rs", "SystemTime::now()\n").is_empty());
    assert!(at("src/fs/io.rs", "let operand::x = strand::y;\n").is_empty());
}

#[test]
fn only_the_tool_prints() {
    check(printing, &["src", "csi/src"]);
}

#[test]
fn the_print_rule_sees_a_print() {
    assert_eq!(complaints(printing, "src/fs/io.rs", "    eprintln!(\"x\");\n").len(), 1);
    assert!(complaints(printing, "src/tool/output.rs", "println!(\"x\");\n").is_empty());
    assert!(complaints(printing, "src/fs/io.rs", "// println!(\"x\");\n").is_empty());
}

#[test]
fn nothing_is_unfinished() {
    check(unfinished, &["src", "tests", "benches", "csi/src", "csi/tests"]);
}

#[test]
fn the_unfinished_rule_sees_every_word() {
    for word in UNFINISHED {
        let text = format!("fn f() {{\n    {word}();\n}}\n");
        assert_eq!(complaints(unfinished, "src/x.rs", &text), [format!("src/x.rs:2: {word}")]);
    }
}

#[test]
fn files_are_short() {
    check(length, &["src", "tests", "benches", "csi/src", "csi/tests"]);
}

#[test]
fn the_length_rule_sees_long_files_and_needless_exceptions() {
    let long = "x\n".repeat(LINES + 1);
    assert_eq!(complaints(length, "src/x.rs", &long), ["src/x.rs: 501 lines: split it"]);
    assert!(complaints(length, "src/x.rs", &long[2..]).is_empty());
    let (listed, most, _) = LONG[0];
    assert!(complaints(length, listed, &long).is_empty());
    assert_eq!(complaints(length, listed, "x\n").len(), 1);
    assert_eq!(complaints(length, listed, &"x\n".repeat(most + 1)).len(), 1);
}

/// Tests that a document names: words in backquotes of at least four parts.
fn named_tests(document: &str) -> Vec<&str> {
    let words = document.split('`').skip(1).step_by(2);
    words
        .filter(|word| word.matches('_').count() >= 3)
        .filter(|word| word.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()))
        .collect()
}

#[test]
fn the_tests_that_promises_name_exist() {
    let tests: Vec<String> = below("tests").into_iter().map(|source| source.text).collect();
    for (document, least) in [("docs/semantics.md", 40), ("docs/objects.md", 10)] {
        let text = fs::read_to_string(document).expect("the document");
        let named = named_tests(&text);
        assert!(named.len() > least, "{document}: {named:?}");
        for name in named {
            let start = format!("fn {name}(");
            assert!(tests.iter().any(|text| text.contains(&start)), "{document}: no test {name}");
        }
        // No promise of the table stands without a test.
        for row in text.lines().filter(|line| line.starts_with("| ")).skip(1) {
            assert!(!named_tests(row).is_empty(), "{document}: no test is named: {row}");
        }
    }
}

#[test]
fn files_begin_with_their_purpose() {
    check(introduction, &["src", "tests", "csi/src", "csi/tests"]);
}

#[test]
fn the_introduction_rule_sees_a_bare_file() {
    assert_eq!(complaints(introduction, "src/x.rs", "use std::fs;\n").len(), 1);
    assert!(complaints(introduction, "src/x.rs", "//! What it does.\n").is_empty());
}
