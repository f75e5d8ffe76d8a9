//! One tree made like another: the work of a plan, many things at once.

use super::files::FilesTree;
use super::item::{Item, Keeps, Kind, Plan, Rules, ancestors};
use super::local::{LocalTree, Xattrs, said};
use super::stored::StoredTree;
use super::volumes::{Broken, between};
use crate::tool::output::{self, Failure, shown};
use crate::volume::native::files::WriteError;
use futures::StreamExt;
use indicatif::ProgressBar;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

/// What files under way may hold of their data, in units of `UNIT`.
const MEMORY: u64 = 128 << 20;
const UNIT: u64 = 64 << 10;
/// What one file may hold at most: the segments that are on their way.
const ONE_WRITTEN: u64 = 40 << 20;
const ONE_READ: u64 = 48 << 20;
/// Parts of an upload, which grow with it.
const ONE_IN_PARTS: u64 = 100 << 20;

/// One side of a copy.
pub(super) enum Tree {
    Local(LocalTree),
    /// In a volume.
    Stored(StoredTree),
    /// As files that other programs read, too.
    Files(FilesTree),
}

/// How a copy is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) rules: Rules,
    /// Only say what would be done.
    pub(super) dry_run: bool,
    /// Things under way at once.
    pub(super) at_once: usize,
}

/// What a copy came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    copied: AtomicU64,
    made: AtomicU64,
    bytes: AtomicU64,
    same: u64,
    removed: AtomicU64,
    failed: AtomicU64,
}

impl Outcome {
    pub(super) fn json(&self) -> Value {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        json!({
            "copied": read(&self.copied),
            "bytes": read(&self.bytes),
            "directories": read(&self.made),
            "same": self.same,
            "removed": read(&self.removed),
            "failed": read(&self.failed),
        })
    }

    /// Tells of a failure at once; the rest goes on.
    fn count(&self, result: Result<(), Failure>, of: &AtomicU64) {
        if self.went_well(result) {
            of.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The same for what is counted only if it fails.
    fn went_well(&self, result: Result<(), Failure>) -> bool {
        if let Err(failure) = &result {
            self.fails(failure);
        }
        result.is_ok()
    }

    fn fails(&self, failure: &Failure) {
        failure.print();
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed) > 0
    }

    /// What the command answers.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        if self.has_failed() { Err(Failure::told()) } else { Ok(()) }
    }
}

impl Tree {
    async fn scan(&self, to_read: bool) -> Result<(Vec<Item>, Vec<Failure>), Failure> {
        match self {
            Self::Local(tree) => {
                let tree = tree.clone();
                aside(move || Ok(tree.scan())).await
            }
            Self::Stored(tree) => tree.scan(to_read).await,
            Self::Files(tree) => tree.scan(to_read).await,
        }
    }

    async fn root(&self) -> Result<Option<Item>, Failure> {
        match self {
            Self::Local(tree) => tree.root().map(Some),
            Self::Stored(tree) => tree.root().await,
            Self::Files(_) => Ok(None),
        }
    }

    /// The extended attributes of a directory.
    fn xattrs(&self, item: &Item) -> Result<Xattrs, Failure> {
        match self {
            Self::Local(tree) => tree.xattrs(item),
            Self::Stored(_) => {
                let record = item.record.as_ref();
                Ok(record.map(|record| record.attributes.xattrs.clone()).unwrap_or_default())
            }
            Self::Files(_) => Ok(Xattrs::new()),
        }
    }

    fn keeps(&self) -> Keeps {
        match self {
            Self::Local(_) => LocalTree::keeps(),
            Self::Stored(_) => StoredTree::KEEPS,
            Self::Files(_) => FilesTree::KEEPS,
        }
    }

    async fn remove(&self, item: &Item) -> Result<(), Failure> {
        match self {
            Self::Local(tree) => {
                let (tree, item) = (tree.clone(), item.clone());
                aside(move || tree.remove(&item)).await
            }
            Self::Stored(tree) => tree.remove(item).await,
            Self::Files(tree) => tree.remove(item).await,
        }
    }

    async fn make_directory(&self, item: &Item, xattrs: Xattrs) -> Result<(), Failure> {
        match self {
            // Theirs are set at the end.
            Self::Local(tree) => tree.make_directory(item),
            Self::Stored(tree) => tree.make_directory(item, xattrs).await,
            Self::Files(tree) => tree.make_directory(item).await,
        }
    }

    async fn make(&self, item: &Item, seen: bool) -> Result<(), Failure> {
        match self {
            Self::Local(tree) => tree.make(item),
            Self::Stored(tree) => tree.make(item, seen).await,
            Self::Files(tree) => Err(tree.refused(item)),
        }
    }

    async fn set_attributes(&self, item: &Item, xattrs: &Xattrs) -> Result<(), Failure> {
        match self {
            Self::Local(tree) => tree.set_attributes(item, xattrs),
            Self::Stored(tree) => tree.set_attributes(item).await,
            Self::Files(_) => Ok(()),
        }
    }
}

/// Makes `target` like `source`. `target` is known to be empty where `target_is_new`.
pub(super) async fn run(
    source: &Tree,
    target: &Tree,
    target_is_new: bool,
    settings: Settings,
) -> Result<Outcome, Failure> {
    let Settings { mut rules, dry_run, at_once } = settings;
    let mut outcome = Outcome::default();
    let mut root = source.root().await?;
    if let (None, Tree::Local(tree), true, false) = (&root, target, target_is_new, dry_run) {
        // A volume's own root tells nothing: the new directory gets what a new directory usually has.
        root = Some(Item { mode: 0o755, ..tree.root()? });
    }
    let (items, failures) = source.scan(true).await?;
    failures.iter().for_each(|failure| outcome.fails(failure));
    if rules.delete && items.is_empty() {
        return Err(Failure::new(
            "the source is empty, so that everything would be removed: nothing was (is something not mounted \
             there?); if that is meant, remove the target itself",
        ));
    }
    // What could not be looked at may be there all the same.
    let unsure = rules.delete && !failures.is_empty();
    rules.delete &= failures.is_empty();
    if unsure {
        Failure::new("nothing is removed, since not all of the source could be looked at").print();
    }
    let (there, failures) = match target_is_new {
        true => (Vec::new(), Vec::new()),
        false => target.scan(false).await?,
    };
    failures.iter().for_each(|failure| outcome.fails(failure));
    let plan = Plan::new(items, there, target.keeps().of(source.keeps()), rules);
    outcome.same = plan.same;
    for item in &plan.obstacles {
        let kind = if item.is_directory() { "is no directory" } else { "is a directory" };
        let remedy = if unsure { "" } else { ": remove it there, or use `sync --delete`" };
        let path = shown(&item.path);
        outcome.fails(&Failure::new(format!("{path}: {kind} at the target{remedy}")));
    }
    if dry_run {
        tell(&plan)?;
        return Ok(outcome);
    }
    work(source, target, &plan, at_once, &outcome).await;
    // It belongs to the tree as well: a database's directory that others may enter is refused by its server.
    if let Some(root) = root {
        let set = match source.xattrs(&root) {
            Ok(xattrs) => target.set_attributes(&root, &xattrs).await,
            Err(failure) => Err(failure),
        };
        outcome.went_well(set);
    }
    if let Tree::Local(tree) = target {
        let tree = tree.clone();
        outcome.went_well(aside(move || tree.settle()).await);
    }
    Ok(outcome)
}

/// Work with the local disk that takes its time: a signal is not to wait for it.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn tell(plan: &Plan) -> Result<(), Failure> {
    let lines = (plan.displaced.iter().map(|item| ("remove", item)))
        .chain(plan.directories.iter().map(|item| ("make", item)))
        .chain(plan.copies.iter().map(|(item, _)| ("copy", item)))
        .chain(plan.attributes.iter().map(|item| ("change", item)))
        .chain(plan.removals.iter().map(|item| ("remove", item)));
    for (what, item) in lines {
        let slash = if item.is_directory() { "/" } else { "" };
        if !output::line_if_read(format!("{what} {}{slash}", shown(&item.path)))? {
            break;
        }
    }
    Ok(())
}

async fn work(source: &Tree, target: &Tree, plan: &Plan, at_once: usize, outcome: &Outcome) {
    remove(target, &plan.displaced, at_once, outcome).await;
    // Directories that could not be made; whatever stands there instead is not written through.
    let closed: &Mutex<HashSet<Vec<u8>>> = &Mutex::default();
    // Level by level, so that parents come first.
    let depth = |item: &Item| ancestors(&item.path).count();
    let deepest = plan.directories.iter().map(depth).max();
    for level in 0..=deepest.unwrap_or(0) {
        let items: Vec<Item> =
            plan.directories.iter().filter(|item| depth(item) == level).cloned().collect();
        futures::stream::iter(items)
            .for_each_concurrent(at_once, |item| async move {
                if ancestors(&item.path).any(|path| closed.lock().contains(path)) {
                    closed.lock().insert(item.path.clone());
                    return;
                }
                let made = match source.xattrs(&item) {
                    Ok(xattrs) => target.make_directory(&item, xattrs).await,
                    Err(failure) => Err(failure),
                };
                if made.is_err() {
                    closed.lock().insert(item.path.clone());
                }
                outcome.count(made, &outcome.made);
            })
            .await;
    }
    let bar = output::progress(Some(plan.bytes()), &format!("{} files", plan.copies.len()));
    let memory = Semaphore::new((MEMORY / UNIT) as usize);
    let (bar, memory) = (&bar, &memory);
    futures::stream::iter(plan.copies.clone())
        .for_each_concurrent(at_once, |(item, seen)| async move {
            let one = match (source, target) {
                (_, Tree::Files(_)) => ONE_IN_PARTS,
                (Tree::Local(_), _) => ONE_WRITTEN,
                (_, Tree::Local(_)) => ONE_READ,
                (_, Tree::Stored(_)) => ONE_READ + ONE_WRITTEN,
            };
            let units = (item.bytes().min(one) / UNIT + 1) as u32;
            // The semaphore is never closed.
            let _permit = memory.acquire_many(units).await;
            let copied = match ancestors(&item.path).any(|path| closed.lock().contains(path)) {
                true => Err(Failure::new(format!(
                    "{}: not copied: its directory could not be made",
                    shown(&item.path)
                ))),
                false => copy(source, target, &item, seen, bar).await,
            };
            if let Ok(bytes) = copied {
                outcome.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            outcome.count(copied.map(drop), &outcome.copied);
        })
        .await;
    bar.finish_and_clear();
    if !outcome.has_failed() {
        remove(target, &plan.removals, at_once, outcome).await;
    } else if !plan.removals.is_empty() {
        Failure::new("nothing else is removed, since not everything was copied").print();
    }
    let (things, mut directories): (Vec<Item>, Vec<Item>) =
        plan.attributes.iter().cloned().partition(|item| !item.is_directory());
    if let Tree::Local(_) = target {
        let made = plan.directories.iter().filter(|item| !closed.lock().contains(&item.path));
        directories.extend(made.cloned());
    }
    // The deepest first: a directory that its owner may not enter is closed when all in it is done.
    directories.sort_by_key(|item| std::cmp::Reverse(depth(item)));
    for items in [things, directories] {
        futures::stream::iter(items)
            .map(|item| async move {
                match source.xattrs(&item) {
                    Ok(xattrs) if item.is_directory() => {
                        target.set_attributes(&item, &xattrs).await
                    }
                    _ => target.set_attributes(&item, &Xattrs::new()).await,
                }
            })
            .buffered(at_once)
            .for_each(|result| {
                outcome.went_well(result);
                std::future::ready(())
            })
            .await;
    }
}

async fn remove(target: &Tree, items: &[Item], at_once: usize, outcome: &Outcome) {
    futures::stream::iter(items.to_vec())
        .for_each_concurrent(at_once, |item| async move {
            outcome.count(target.remove(&item).await, &outcome.removed);
        })
        .await;
}

/// Copies one thing that is no directory; the bytes that it took.
async fn copy(
    source: &Tree,
    target: &Tree,
    item: &Item,
    seen: bool,
    bar: &ProgressBar,
) -> Result<u64, Failure> {
    if !matches!(item.kind, Kind::File(_)) {
        return target.make(item, seen).await.map(|()| 0);
    }
    let mut moved = 0;
    let progress = |bytes| {
        bar.inc(bytes);
        moved += bytes;
    };
    match (source, target) {
        (Tree::Local(from), Tree::Stored(to)) => {
            let file = tokio::fs::File::from_std(from.open(item)?);
            let attributes = to.attributes(item, from.xattrs(item)?);
            let target = to.target(item, seen)?;
            // One that grows all the time has an end all the same.
            let mut file = file.take(item.bytes().saturating_add(1));
            let written = to.volume.write_file_to(target, attributes, &mut file, progress).await;
            let written = written.map_err(|error| match error {
                WriteError::Source(error) => said(&from.place(&item.path), &error),
                error => to.said(&item.path, &error),
            })?;
            from.check_unchanged(item)?;
            if written != item.bytes() {
                return Err(Failure::new(format!(
                    "{}: gave {written} bytes where its size is {}: stored as it was read",
                    from.place(&item.path).display(),
                    item.bytes()
                )));
            }
        }
        (Tree::Stored(from), Tree::Local(to)) => {
            let (record, _) = from.file(item).await?;
            let Some(content) = record.file() else { return Ok(0) };
            let mut incoming = to.receive(item)?;
            let read = from.volume.read_file(content, &mut incoming.file, progress).await;
            read.map_err(|error| match error {
                WriteError::Target(error) => said(&to.place(&item.path), &error),
                error => from.said(&item.path, &error),
            })?;
            to.finish(incoming, item, &record.attributes.xattrs).await?;
        }
        (Tree::Stored(from), Tree::Stored(to)) => {
            let (record, read_at) = from.file(item).await?;
            let Some(content) = record.file() else { return Ok(0) };
            let attributes = to.attributes(item, record.attributes.xattrs.clone());
            let target = to.target(item, seen)?;
            let source = (&from.volume, content, read_at);
            between(source, (&to.volume, target), attributes, progress).await.map_err(|error| {
                match error {
                    Broken::Source(error) => from.said(&item.path, &error),
                    Broken::Target(error) => to.said(&item.path, &error),
                }
            })?;
        }
        (Tree::Local(from), Tree::Files(to)) => to.push(from, item, progress).await?,
        (Tree::Files(from), Tree::Local(to)) => from.pull(to, item, progress).await?,
        (Tree::Files(from), Tree::Files(to)) => from.copy(to, item, progress).await?,
        // Asked for by no command.
        (Tree::Local(_), Tree::Local(_))
        | (Tree::Stored(_), Tree::Files(_))
        | (Tree::Files(_), Tree::Stored(_)) => {
            return Err(Failure::new("these two sides cannot be copied from one to the other"));
        }
    }
    Ok(moved)
}
