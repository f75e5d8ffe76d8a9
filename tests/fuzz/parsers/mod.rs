//! Every parser of bytes that come from outside, as a function that takes any bytes and must not panic.
//! What a parser accepts has to make sense besides: it is written again and read back as the same.
//!
//! The fuzz targets and `tests/hostile.rs` share this table; a new parser is a row here and, for the
//! fuzzer, a file in `fuzz_targets`.
#![allow(dead_code, unreachable_pub, reason = "a fuzz target uses one row")]

mod content;
mod memory;
mod sealed;
// The operator's templates, without the operator.
#[path = "../../../csi/src/operator/template.rs"]
mod template;
mod templates;
mod texts;

use std::path::{Path, PathBuf};

/// A parser under test.
#[derive(Clone, Copy)]
pub struct Parser {
    /// The fuzz target's name.
    pub name: &'static str,
    /// Panics if the parser does, or accepts what makes no sense.
    pub check: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const PARSERS: &[Parser] = &[
    Parser { name: "record_open", check: sealed::record_open, seeds: sealed::record_seeds },
    Parser { name: "segment_open", check: sealed::segment_open, seeds: sealed::segment_seeds },
    Parser { name: "datasafed", check: sealed::datasafed, seeds: sealed::datasafed_seeds },
    Parser { name: "keyring_json", check: sealed::keyring_json, seeds: sealed::keyring_seeds },
    Parser { name: "descriptor", check: sealed::descriptor, seeds: sealed::descriptor_seeds },
    Parser { name: "record_decode", check: content::record_decode, seeds: content::record_seeds },
    Parser { name: "page_decode", check: content::page_decode, seeds: content::page_seeds },
    Parser { name: "session", check: content::session, seeds: content::session_seeds },
    Parser { name: "manifest", check: texts::manifest, seeds: texts::manifest_seeds },
    Parser { name: "object_keys", check: texts::object_keys, seeds: texts::key_seeds },
    Parser { name: "store_names", check: texts::store_names, seeds: texts::store_name_seeds },
    Parser { name: "url", check: texts::url, seeds: texts::url_seeds },
    Parser { name: "config_file", check: texts::config_file, seeds: texts::config_seeds },
    Parser { name: "ledger", check: memory::ledger, seeds: memory::ledger_seeds },
    Parser { name: "state_entry", check: memory::state_entry, seeds: memory::entry_seeds },
    Parser { name: "files_entry", check: memory::files_entry, seeds: memory::files_entry_seeds },
    Parser { name: "attach_message", check: memory::attach_message, seeds: memory::message_seeds },
    Parser { name: "template", check: templates::template, seeds: templates::seeds },
    Parser { name: "object_headers", check: texts::object_headers, seeds: texts::header_seeds },
    Parser { name: "ftp_line", check: texts::ftp_line, seeds: texts::ftp_seeds },
    Parser { name: "passphrase", check: texts::passphrase, seeds: texts::passphrase_seeds },
];

/// The parser of that name.
pub fn parser(name: &str) -> &'static Parser {
    PARSERS.iter().find(|parser| parser.name == name).expect("a row of the table")
}

/// For a fuzz target, before it starts: puts the seeds into its corpus, which STRONGROOM_FUZZ_CORPUS names.
pub fn write_seeds(name: &str) {
    let Some(corpus) = std::env::var_os("STRONGROOM_FUZZ_CORPUS").map(PathBuf::from) else {
        return;
    };
    for (number, seed) in (parser(name).seeds)().into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed-{number}")), seed).expect("a seed is written");
    }
}

/// The frozen vectors whose names begin like this.
fn vectors(start: &str) -> Vec<Vec<u8>> {
    // The fuzz targets are a package of their own, two directories deeper.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = [package.join("tests/vectors"), package.join("../vectors")];
    let folder = folder.iter().find(|folder| folder.is_dir()).expect("the vectors are there");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a readable directory")
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hex"))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
        })
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no vector begins with {start}");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(path).expect("readable");
        let digits: Vec<u8> =
            text.trim().chars().map(|c| c.to_digit(16).expect("hex") as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    paths.into_iter().map(read).collect()
}
