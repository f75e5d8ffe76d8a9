//! What the original does not have: trees, and names and sizes within the storage.

use super::flags::Parsed;
use super::storage::{Storage, failure};
use super::{go, paths, print};
use crate::config;
use crate::tool::copy::{Ends, Place, Standing, Wishes, copied, standing};
use crate::tool::output::Failure;
use crate::tool::usage::{self, Name, NameKind, SumForm};
use crate::volume::objects::{Entry, Kind as What, ListFiles};
use crate::world::Timestamp;
use futures::StreamExt;
use std::collections::HashMap;
use std::path::Path;

/// Files that are renamed at the same time.
const AT_ONCE: usize = 16;

/// Refuses what says nothing of one file.
pub(super) fn refuse_of_trees(parsed: &Parsed) -> Result<(), Failure> {
    let given = ["dry-run", "ignore-times", "json"].into_iter().find(|flag| parsed.switch(flag));
    match given {
        Some(flag) => Err(Failure::new(format!("--{flag} is of trees: add -r"))),
        None => Ok(()),
    }
}

/// `push -r` and `pull -r`: with a `/` at its end the target takes the tree in by its name.
pub(super) async fn tree(name: &str, parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let (first, second) = (&parsed.positionals[0], &parsed.positionals[1]);
    let ends = match name {
        "push" => Ends::Push(Path::new(first), place(storage, &parsed.path(1))?),
        _ => Ends::Pull(place(storage, &parsed.path(0))?, Path::new(second)),
    };
    go_on(ends, parsed, storage).await
}

/// `sync`: the target becomes like the source, however it is written.
pub(super) async fn sync(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let (first, second) = (&parsed.positionals[0], &parsed.positionals[1]);
    let ends = match (parsed.switch("push"), parsed.switch("pull")) {
        (true, false) => {
            let mut to = place(storage, &parsed.path(1))?;
            to.called = match to.called.trim_end_matches('/') {
                "" => ".".to_owned(),
                called => called.to_owned(),
            };
            Ends::Push(Path::new(first), to)
        }
        (false, true) => {
            // As it is without what its text ends in.
            let to = Path::new(second).components().as_path();
            Ends::Pull(place(storage, &parsed.path(0))?, to)
        }
        _ => {
            return Err(Failure::new(
                "say which way: `sync --push lpath rpath`, or `sync --pull rpath lpath`",
            ));
        }
    };
    go_on(ends, parsed, storage).await
}

async fn go_on(ends: Ends<'_>, parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let wishes = Wishes {
        delete: parsed.switch("delete"),
        ignore_times: parsed.switch("ignore-times"),
        dry_run: parsed.switch("dry-run"),
        at_once: storage.at_once,
    };
    let (done, went_well) = copied(ends, wishes).await?;
    if parsed.switch("json") && !wishes.dry_run {
        print(format!("{}\n", serde_json::to_string_pretty(&done)?).as_bytes())?;
    }
    match went_well {
        true => Ok(()),
        false => Err(Failure::new("not everything was copied: the lines before say what was not")),
    }
}

fn place(storage: &Storage, path: &str) -> Result<Place, Failure> {
    Ok(Place {
        layout: storage.layout.clone(),
        path: storage.target(path)?.path,
        called: path.to_owned(),
        local: storage.local.clone(),
    })
}

/// `cp`.
pub(super) async fn copy(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let (from, to) = (parsed.path(0), parsed.path(1));
    if parsed.switch("recursive") {
        return go_on(Ends::Within(place(storage, &from)?, place(storage, &to)?), parsed, storage)
            .await;
    }
    refuse_of_trees(parsed)?;
    match what(storage, &from).await? {
        Standing::File => {}
        Standing::Directory => {
            return Err(Failure::new(format!("{from}: is a directory: use -r for trees")));
        }
        Standing::Nothing => return Err(missing(&from)),
    }
    let (source, target) = (storage.file(&from)?, file_target(storage, &from, &to).await?);
    if source == target {
        return Err(Failure::new(format!("{from} and {to} are the same")));
    }
    let copied = storage.layout.copy(&source, &target, now()).await;
    copied.map_err(|error| of(&from, &to, failure(error)))
}

/// `mv`: of a directory file by file, so that the same command again goes on with one that was broken off.
pub(super) async fn rename(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let (from, to) = (parsed.path(0), parsed.path(1));
    let said = |error| of(&from, &to, failure(error));
    let source = storage.target(&from)?.path;
    match what(storage, &from).await? {
        Standing::File => {
            let target = file_target(storage, &from, &to).await?;
            if source == target {
                return Err(Failure::new(format!("{from} and {to} are the same")));
            }
            storage.file(&from)?;
            return storage.layout.rename(&source, &target, now()).await.map_err(said);
        }
        Standing::Directory => {}
        Standing::Nothing => return Err(missing(&from)),
    }
    let name = paths::name(&source).to_owned();
    let target =
        storage.target(&if to.ends_with('/') { format!("{to}{name}") } else { to.clone() });
    let target = target?.path;
    if format!("{target}/").starts_with(&format!("{source}/")) || source.is_empty() {
        return Err(Failure::new(format!("{to}: lies inside {from}")));
    }
    let standing = standing(&storage.layout, &target).await.map_err(said)?;
    if standing == Standing::File {
        return Err(Failure::new(format!("{to}: is a file: remove it first")));
    }
    let entries = entries(storage, &source, true).await.map_err(said)?;
    let moved = |path: &str| format!("{target}{}", &path[source.len()..]);
    if standing == Standing::Directory {
        // One that was broken off goes on; another thing is not lost by it.
        let there = self::entries(storage, &target, true).await.map_err(said)?;
        let there: HashMap<String, Entry> =
            there.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        let other = entries.iter().find(|entry| {
            let known = there.get(&moved(&entry.path));
            known.is_some_and(|known| match (known.kind, entry.kind) {
                (What::File(_), What::File(_)) => {
                    (known.kind, known.modified) != (entry.kind, entry.modified)
                }
                (What::File(_), _) | (_, What::File(_)) => true,
                _ => false,
            })
        });
        if let Some(other) = other {
            return Err(Failure::new(format!(
                "{to}: is there already, with another {} in it: nothing was moved; remove that, or name another target",
                go::quoted(&other.path[source.len() + 1..])
            )));
        }
    }
    let (mut files, mut directories) = (Vec::new(), vec![source.clone()]);
    for Entry { path, kind, .. } in entries {
        match kind {
            What::File(_) => files.push(path),
            What::Directory | What::Implied => directories.push(path),
        }
    }
    directories.sort();
    if storage.layout.has_directories() {
        for directory in &directories {
            storage.layout.make_directory(&moved(directory)).await.map_err(said)?;
        }
    }
    let renames = files.iter().map(|file| async {
        let renamed = storage.layout.rename(file, &moved(file), now()).await;
        renamed.map_err(|error| of(file, &moved(file), failure(error)))
    });
    let renames: Vec<_> = renames.collect();
    let at_once = storage.at_once.unwrap_or(AT_ONCE).min(AT_ONCE);
    let renamed: Vec<_> = futures::stream::iter(renames).buffer_unordered(at_once).collect().await;
    renamed.into_iter().collect::<Result<(), _>>()?;
    for directory in directories.iter().rev() {
        // One that is not empty holds what is not seen here, which stays.
        let _ = storage.layout.remove_directory(directory).await;
    }
    Ok(())
}

/// `du`.
pub(super) async fn sizes(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let names = names(parsed, storage).await?;
    let depth = match parsed.text("depth") {
        _ if parsed.switch("summarize") => Some(0),
        Some(_) => Some(number(parsed, "depth")?),
        None => None,
    };
    let form =
        SumForm { deepest: depth, human: parsed.switch("human"), json: parsed.switch("json") };
    usage::tell_sums(&names, form)
}

/// `tree`.
pub(super) async fn draw(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let names = names(parsed, storage).await?;
    let levels = match parsed.text("levels") {
        Some(_) => Some(number(parsed, "levels")?),
        None => None,
    };
    usage::draw(&parsed.path(0), &names, levels, parsed.switch("directories"))
}

fn number(parsed: &Parsed, flag: &str) -> Result<usize, Failure> {
    usize::try_from(parsed.integer(flag))
        .map_err(|_| Failure::new(format!("--{flag} is negative: give a number of levels")))
}

/// What is below a path, in the order of its names.
async fn names(parsed: &Parsed, storage: &Storage) -> Result<Vec<Name>, Failure> {
    let path = parsed.path(0);
    let target = storage.target(&path)?.path;
    let said = |error| Failure::new(format!("{}: {}", go::quoted(&path), failure(error)));
    if what(storage, &path).await? == Standing::File {
        let found = storage.layout.find(&target).await.map_err(said)?;
        let What::File(size) = found.kind else { return Err(missing(&path)) };
        let path = paths::name(&target).as_bytes().to_vec();
        return Ok(vec![Name { path, kind: NameKind::File(size) }]);
    }
    let mut entries = entries(storage, &target, false).await.map_err(said)?;
    if entries.is_empty() && what(storage, &path).await? == Standing::Nothing {
        return Err(missing(&path));
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let names = entries.into_iter().filter_map(|entry| {
        let below = match target.as_str() {
            "" => &entry.path,
            _ => entry.path.strip_prefix(&target)?.strip_prefix('/')?,
        };
        let kind = match entry.kind {
            What::File(size) => NameKind::File(size),
            What::Directory | What::Implied => NameKind::Directory,
        };
        Some(Name { path: below.trim_end_matches('/').as_bytes().to_vec(), kind })
    });
    Ok(names.collect())
}

async fn entries(
    storage: &Storage,
    path: &str,
    told_times: bool,
) -> Result<Vec<Entry>, crate::volume::objects::ObjectsError> {
    let mut entries = Vec::new();
    let mut emit = |entry| {
        entries.push(entry);
        Ok(())
    };
    let request = ListFiles { depth: None, told_times };
    storage.layout.list(path, request, &mut emit).await?;
    Ok(entries)
}

/// What is at a path of the command line: a `/` at its end asks for a directory.
async fn what(storage: &Storage, path: &str) -> Result<Standing, Failure> {
    let target = storage.target(path)?;
    let found = standing(&storage.layout, &target.path).await;
    let found =
        found.map_err(|error| Failure::new(format!("{}: {}", go::quoted(path), failure(error))))?;
    Ok(match found {
        Standing::File if target.is_directory => Standing::Nothing,
        found => found,
    })
}

/// Where a file goes: into a directory that is there, or that the name asks for by a `/` at its end.
async fn file_target(storage: &Storage, from: &str, to: &str) -> Result<String, Failure> {
    let path = storage.target(to)?.path;
    let taken_in =
        to.ends_with('/') || path.is_empty() || what(storage, to).await? == Standing::Directory;
    if !taken_in {
        return storage.file(to);
    }
    let name = paths::name(from);
    Ok(if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") })
}

fn now() -> Timestamp {
    config::system_world().clock.now()
}

fn missing(path: &str) -> Failure {
    Failure::new(format!("{}: no such file or directory", go::quoted(path)))
}

fn of(from: &str, to: &str, why: Failure) -> Failure {
    Failure::new(format!("{} to {}: {why}", go::quoted(from), go::quoted(to)))
}
