//! The table of commands, and those that are a few lines each.

use super::flags::{Flag, Kind, Parsed, flag};
use super::storage::{Storage, failure};
use super::{compression, go, list, more, print, pull, push};
use crate::tool::output::Failure;
use crate::volume::objects::{Entry, Kind as What, ListFiles, ObjectsError};

/// A row of the table.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// How it is written, after its name.
    pub(super) usage: &'static str,
    pub(super) about: &'static str,
    /// How many arguments it takes.
    pub(super) arguments: usize,
    pub(super) flags: &'static [Flag],
    /// Groups of flags of which one may be given.
    pub(super) exclusive: &'static [&'static [&'static str]],
    /// Whether the configuration has to be usable.
    pub(super) needs_storage: bool,
}

const COMPRESSIONS: Kind = Kind::Choice(compression::NAMES);

// Of trees, which the original does not have.
const RECURSIVE: Flag =
    flag("recursive", Some('r'), Kind::Switch, "", "a directory with all that is in it");
const DRY_RUN: Flag =
    flag("dry-run", None, Kind::Switch, "", "of a tree: only tell what would be done");
const IGNORE_TIMES: Flag = flag(
    "ignore-times",
    None,
    Kind::Switch,
    "",
    "of a tree: copy files of the same size and time, too",
);
const TREE_JSON: Flag =
    flag("json", None, Kind::Switch, "", "of a tree: tell as JSON what was done");

/// What the original does not have, in the order of the help.
pub(super) const MORE: &[Command] = &[
    Command {
        name: "cat",
        usage: "rpath",
        about: "Print a file",
        arguments: 1,
        flags: &[flag("decompress", Some('d'), COMPRESSIONS, "", "decompress it")],
        exclusive: &[],
        needs_storage: true,
    },
    Command {
        name: "cp",
        usage: "[-r] rpath rpath",
        about: "Copy a file, or with -r a tree, within the storage",
        arguments: 2,
        flags: &[RECURSIVE, DRY_RUN, IGNORE_TIMES, TREE_JSON],
        exclusive: &[],
        needs_storage: true,
    },
    Command {
        name: "du",
        usage: "[-s|-d number] rpath",
        about: "Add up the sizes of files, directory by directory",
        arguments: 1,
        flags: &[
            flag("depth", Some('d'), Kind::Integer, "", "directories so far below, no deeper"),
            flag("human", None, Kind::Switch, "", "sizes as people read them"),
            flag("json", None, Kind::Switch, "", "as JSON"),
            flag("summarize", Some('s'), Kind::Switch, "", "only the sum"),
        ],
        exclusive: &[&["depth", "summarize"]],
        needs_storage: true,
    },
    Command {
        name: "mv",
        usage: "rpath rpath",
        about: "Give a file or a directory another name",
        arguments: 2,
        flags: &[],
        exclusive: &[],
        needs_storage: true,
    },
    Command {
        name: "sync",
        usage: "--push|--pull [--delete] [--dry-run] from to",
        about: "Make a directory like another one: in the storage (--push), or local (--pull)",
        arguments: 2,
        flags: &[
            flag("delete", None, Kind::Switch, "", "remove what the source does not have"),
            flag("pull", None, Kind::Switch, "", "from the storage: rpath lpath"),
            flag("push", None, Kind::Switch, "", "into the storage: lpath rpath"),
            DRY_RUN,
            IGNORE_TIMES,
            TREE_JSON,
        ],
        exclusive: &[&["pull", "push"]],
        needs_storage: true,
    },
    Command {
        name: "tree",
        usage: "[-L number] rpath",
        about: "Draw a directory with all that is below",
        arguments: 1,
        flags: &[
            flag("directories", Some('d'), Kind::Switch, "", "directories only"),
            flag("levels", Some('L'), Kind::Integer, "", "so many levels, no deeper"),
        ],
        exclusive: &[],
        needs_storage: true,
    },
];

/// A command by its name.
pub(super) fn named(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().chain(MORE).find(|command| command.name == name)
}

/// What the original has, in the order of the help.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "getconf",
        usage: "item",
        about: "Print a setting of the configuration, named section.field",
        arguments: 1,
        flags: &[],
        exclusive: &[],
        needs_storage: true,
    },
    Command {
        name: "list",
        usage: "[-d|-f] [-r] [--max-depth depth] [-s sortBy] [--reverse] [--newer-than time] \
                [--older-than time] [--name pattern] [-o outputFormat] rpath",
        about: "List a directory of the storage, or a file",
        arguments: 1,
        flags: &[
            flag("dirs-only", Some('d'), Kind::Switch, "", "directories only"),
            flag("files-only", Some('f'), Kind::Switch, "", "files only"),
            flag("max-depth", None, Kind::Integer, "", "so many levels only"),
            flag("name", None, Kind::Text, "", "only names that match the pattern (* ? [a-z])"),
            flag("newer-than", None, Kind::Integer, "", "only what changed after this Unix time"),
            flag("older-than", None, Kind::Integer, "", "only what changed before this Unix time"),
            flag(
                "output-format",
                Some('o'),
                Kind::Choice(&["short", "long", "json"]),
                "short",
                "short, long (time, size, path) or json",
            ),
            flag("recursive", Some('r'), Kind::Switch, "", "with everything below"),
            flag("reverse", None, Kind::Switch, "", "in reverse order"),
            flag(
                "sort",
                Some('s'),
                Kind::Choice(&["path", "size", "mtime"]),
                "",
                "by path, size or mtime; not with -r",
            ),
        ],
        exclusive: &[&["dirs-only", "files-only"], &["recursive", "sort"]],
        needs_storage: true,
    },
    Command {
        name: "mkdir",
        usage: "rpath",
        about: "Make a directory, where the storage has directories",
        arguments: 1,
        flags: &[],
        exclusive: &[],
        needs_storage: true,
    },
    Command {
        name: "pull",
        usage: "[-r] rpath lpath",
        about: "Fetch a file, or with -r a tree; - writes to standard output",
        arguments: 2,
        flags: &[
            flag(
                "decompress",
                Some('d'),
                COMPRESSIONS,
                "",
                "decompress it; see push for the names",
            ),
            DRY_RUN,
            IGNORE_TIMES,
            TREE_JSON,
            RECURSIVE,
        ],
        exclusive: &[&["recursive", "decompress"]],
        needs_storage: true,
    },
    Command {
        name: "push",
        usage: "[-r] lpath rpath",
        about: "Store a file, or with -r a tree; - reads standard input",
        arguments: 2,
        flags: &[
            flag(
                "compress",
                Some('z'),
                COMPRESSIONS,
                "",
                "compress it (names: see an unknown one)",
            ),
            flag("expect-size", None, Kind::Integer, "", "fail unless the input has so many bytes"),
            flag("fail-on-empty", None, Kind::Switch, "", "fail if the input has not one byte"),
            DRY_RUN,
            IGNORE_TIMES,
            TREE_JSON,
            RECURSIVE,
        ],
        exclusive: &[
            &["recursive", "compress"],
            &["recursive", "expect-size"],
            &["recursive", "fail-on-empty"],
        ],
        needs_storage: true,
    },
    Command {
        name: "rm",
        usage: "[-r] rpath",
        about: "Remove a file, or everything in a directory",
        arguments: 1,
        flags: &[flag("recursive", Some('r'), Kind::Switch, "", "everything in the directory")],
        exclusive: &[],
        needs_storage: true,
    },
    Command {
        name: "rmdir",
        usage: "rpath",
        about: "Remove an empty directory, where the storage has directories",
        arguments: 1,
        flags: &[],
        exclusive: &[],
        needs_storage: true,
    },
    Command {
        name: "stat",
        usage: "[--json] rpath",
        about: "Count the files and directories of a path, and add up their sizes",
        arguments: 1,
        flags: &[flag("json", None, Kind::Switch, "", "as JSON")],
        exclusive: &[],
        needs_storage: true,
    },
    Command {
        name: "version",
        usage: "[--verbose]",
        about: "Print the version",
        arguments: 0,
        flags: &[flag("verbose", Some('v'), Kind::Switch, "", "with how it was built")],
        exclusive: &[],
        needs_storage: false,
    },
];

/// Runs one that needs the storage.
pub(super) async fn run(
    command: &Command,
    parsed: &Parsed,
    storage: Storage,
) -> Result<(), Failure> {
    match command.name {
        "list" => list::run(parsed, &storage).await,
        "push" | "pull" if parsed.switch("recursive") => {
            more::tree(command.name, parsed, &storage).await
        }
        "cat" => pull::run(parsed, &storage).await,
        "cp" => more::copy(parsed, &storage).await,
        "du" => more::sizes(parsed, &storage).await,
        "mv" => more::rename(parsed, &storage).await,
        "sync" => more::sync(parsed, &storage).await,
        "tree" => more::draw(parsed, &storage).await,
        "pull" => pull::run(parsed, &storage).await,
        "push" => push::run(parsed, &storage).await,
        "stat" => stat(parsed, &storage).await,
        "rm" => remove(parsed, &storage).await,
        "mkdir" => {
            let target = storage.target(&parsed.path(0))?;
            storage.layout.make_directory(&target.path).await.map_err(failure)
        }
        "rmdir" => {
            let target = storage.target(&parsed.path(0))?;
            storage.layout.remove_directory(&target.path).await.map_err(failure)
        }
        _ => getconf(parsed, &storage),
    }
}

async fn remove(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let target = storage.target(&parsed.path(0))?;
    if parsed.switch("recursive") {
        return storage.layout.remove_tree(&target.path).await.map_err(failure);
    }
    if target.path.is_empty() && !storage.layout.is_encrypted() {
        return Err(failure(ObjectsError::IsDirectory));
    }
    storage.layout.remove(&target.path).await.map_err(failure)
}

async fn stat(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let target = storage.target(&parsed.path(0))?;
    let (mut size, mut files, mut directories) = (0_u64, 0_u64, 0_u64);
    let mut count = |entry: Entry, _| match entry.kind {
        What::File(bytes) => {
            files += 1;
            size = size.saturating_add(bytes);
        }
        What::Directory | What::Implied => directories += 1,
    };
    let request = ListFiles { depth: None, told_times: false };
    let told = storage.tell(&target, request, &mut count).await;
    if let Err(error) = told {
        // A place that is not there yet is an empty one, at the root of what is encrypted.
        let is_root = target.is_directory && parsed.path(0) == "/";
        match error {
            ObjectsError::NoDirectory if storage.layout.is_encrypted() && is_root => {}
            ObjectsError::NoDirectory if storage.layout.is_encrypted() => {
                return Err(failure(error));
            }
            error => return Err(Failure::new(format!("error in ListJSON: {}", failure(error)))),
        }
    }
    let entries = files + directories;
    let text = if parsed.switch("json") {
        format!(
            "{{\"dirs\":{directories},\"entries\":{entries},\"files\":{files},\"total_size\":{size}}}\n"
        )
    } else {
        format!("TotalSize: {size}\nEntries: {entries}\nDirs: {directories}\nFiles: {files}\n")
    };
    print(text.as_bytes())
}

fn getconf(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let item = parsed.path(0);
    let shown = go::quoted(&item);
    let Some((section, field)) = item.split_once('.') else {
        return Err(Failure::new(format!("invalid config item name {shown}")));
    };
    match storage.conf.get(section, field) {
        Some(value) => print(format!("{value}\n").as_bytes()),
        None => Err(Failure::new(format!("config item {shown} not found"))),
    }
}

/// The version whose command line this is; then, if asked for, our own.
pub(super) fn version(parsed: &Parsed) -> Result<(), Failure> {
    let mut text = "datasafed: 0.2.0\n".to_owned();
    if parsed.switch("verbose") {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let platform = format!("{}/{architecture}", std::env::consts::OS);
        for (name, value) in [
            ("BuildDate", String::new()),
            ("GitCommit", String::new()),
            ("GitTag", format!("strongroom {}", env!("CARGO_PKG_VERSION"))),
            ("GoVersion", "none".to_owned()),
            ("Compiler", "rustc".to_owned()),
            ("Platform", platform),
        ] {
            text.push_str(&format!("  {name}: {value}\n"));
        }
    }
    print(text.as_bytes())
}
