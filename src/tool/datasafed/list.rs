//! `list`: filters, order and the three formats.

use super::flags::Parsed;
use super::storage::{Named, Storage, failure};
use super::{go, paths};
use crate::tool::output::Failure;
use crate::volume::objects::{Entry, Kind, ListFiles, Modified, ObjectsError};
use crate::world::Timestamp;
use std::io::{self, Write};

/// The time of directories that have none: 2000-01-01.
pub(super) const NO_TIME: Timestamp = Timestamp(946_684_800_000_000_000);
/// What is collected before it is written.
const BUFFER: usize = 64 << 10;

pub(super) async fn run(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let argument = parsed.path(0);
    let target = storage.target(&argument)?;
    let recursive = parsed.switch("recursive");
    let sort = parsed.text("sort").unwrap_or("path");
    let format = parsed.text("output-format").unwrap_or("short");
    let filter = Filter {
        directories: !parsed.switch("files-only") || parsed.switch("dirs-only"),
        files: !parsed.switch("dirs-only") || parsed.switch("files-only"),
        newer: parsed.integer("newer-than"),
        older: parsed.integer("older-than"),
        name: parsed.text("name").filter(|name| !name.is_empty()),
        now: crate::config::system_world().clock.now(),
    };
    let depth = match u32::try_from(parsed.integer("max-depth")) {
        Ok(depth) if depth > 0 => Some(depth),
        _ if recursive => None,
        _ => Some(1),
    };
    let told_times = format != "short" || sort == "mtime" || filter.newer > 0 || filter.older > 0;
    let mut printer =
        Printer { format, first: true, now: filter.now, out: Vec::new(), failed: None };
    let mut entries = Vec::new();
    if recursive {
        printer.header();
    }
    let mut emit = |entry: Entry, named| {
        if !filter.keeps(&entry, named) {
            return;
        }
        match recursive {
            true => printer.item(&entry),
            false => entries.push(entry),
        }
    };
    let request = ListFiles { depth, told_times };
    match storage.tell(&target, request, &mut emit).await {
        Ok(()) => {}
        // What is not there yet is empty, if it is the root.
        Err(ObjectsError::NoDirectory) if argument == "/" || argument == "." => {}
        Err(error @ ObjectsError::NoDirectory) => return Err(failure(error)),
        Err(error) => return Err(Failure::new(format!("error in ListJSON: {}", failure(error)))),
    }
    if !recursive {
        order(&mut entries, sort, parsed.switch("reverse"), filter.now);
        printer.header();
        entries.iter().for_each(|entry| printer.item(entry));
    }
    printer.footer();
    printer.finish()
}

/// What is told.
struct Filter<'a> {
    directories: bool,
    files: bool,
    newer: i64,
    older: i64,
    name: Option<&'a str>,
    now: Timestamp,
}

impl Filter<'_> {
    fn keeps(&self, entry: &Entry, named: Named) -> bool {
        let kind = match entry.kind {
            // A file that was named is told whatever kinds are wanted.
            Kind::File(_) => self.files || named == Named::Itself,
            Kind::Directory | Kind::Implied => self.directories,
        };
        let time = go::unix(time_of(entry, self.now));
        kind && !(self.newer > 0 && self.newer >= time)
            && !(self.older > 0 && self.older <= time)
            && self.name.is_none_or(|pattern| paths::matches(pattern, paths::name(&entry.path)))
    }
}

/// An implied directory is as old as the listing.
fn time_of(entry: &Entry, now: Timestamp) -> Timestamp {
    match (entry.modified, entry.kind) {
        (Modified::Told(time) | Modified::Stored(time), _) => time,
        (Modified::Unknown, Kind::Implied) => now,
        (Modified::Unknown, _) => NO_TIME,
    }
}

/// Of a directory -1, unless it is one of a bucket that was found on the way.
fn size_of(entry: &Entry) -> i64 {
    match (entry.kind, entry.modified) {
        (Kind::File(size), _) => i64::try_from(size).unwrap_or(i64::MAX),
        (Kind::Directory, Modified::Unknown) => 0,
        (Kind::Directory | Kind::Implied, _) => -1,
    }
}

fn order(entries: &mut [Entry], sort: &str, reverse: bool, now: Timestamp) {
    entries.sort_by(|a, b| {
        let order = match sort {
            "size" => size_of(a).cmp(&size_of(b)),
            "mtime" => time_of(a, now).cmp(&time_of(b, now)),
            _ => a.path.cmp(&b.path),
        };
        let order = if reverse { order.reverse() } else { order };
        order.then_with(|| a.path.cmp(&b.path))
    });
}

struct Printer<'a> {
    format: &'a str,
    first: bool,
    now: Timestamp,
    out: Vec<u8>,
    failed: Option<Failure>,
}

impl Printer<'_> {
    fn header(&mut self) {
        if self.format == "json" {
            self.out.push(b'[');
        }
    }

    fn item(&mut self, entry: &Entry) {
        let is_directory = !matches!(entry.kind, Kind::File(_));
        let slash = if is_directory && !entry.path.ends_with('/') { "/" } else { "" };
        let path = &entry.path;
        // Writing to memory does not fail.
        let _ = match self.format {
            "short" => writeln!(self.out, "{path}{slash}"),
            "long" => {
                let time = self.rfc3339(entry);
                writeln!(self.out, "{time}\t{}\t{path}{slash}", size_of(entry))
            }
            _ => {
                let before = if self.first { "\n" } else { "  ,\n" };
                let time = go::unix(time_of(entry, self.now));
                writeln!(
                    self.out,
                    "{before}  {{\n    \"path\": {},\n    \"size\": {},\n    \"mtime\": {time},\n    \
                     \"mtime_str\": \"{}\",\n    \"is_dir\": {is_directory}\n  }}",
                    go::json_string(path),
                    size_of(entry),
                    self.rfc3339(entry),
                )
            }
        };
        self.first = false;
        if self.out.len() >= BUFFER {
            self.write();
        }
    }

    fn footer(&mut self) {
        if self.format == "json" {
            self.out.extend_from_slice(b"]\n");
        }
    }

    fn rfc3339(&self, entry: &Entry) -> String {
        let time = time_of(entry, self.now);
        match (entry.modified, entry.kind) {
            (Modified::Unknown, Kind::Implied) => go::rfc3339_local(time),
            (modified, _) => go::rfc3339(modified, time),
        }
    }

    fn write(&mut self) {
        if self.failed.is_none() {
            self.failed = super::print(&self.out).err();
        }
        self.out.clear();
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.write();
        match self.failed {
            Some(failure) => Err(failure),
            None => Ok(io::stdout().flush()?),
        }
    }
}
