//! Listings of names alone: directories that only the names below them tell of.

use super::{Emit, Entry, Kind, Modified, ObjectsError};
use futures::StreamExt;
use std::collections::BTreeMap;

/// Directories listed at once.
const LISTINGS: usize = 8;

/// Keeps the directories that files in a flat listing tell of.
pub(super) struct Flat {
    /// Where the listing began: it and what is above it are not told.
    root: String,
    /// Directories, and whether the listing held them itself.
    directories: BTreeMap<String, bool>,
    /// The parent that was seen last: the next file's is mostly the same.
    last: String,
}

impl Flat {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.to_owned(), directories: BTreeMap::new(), last: root.to_owned() }
    }

    /// Takes note of what the listing holds.
    pub(super) fn saw(&mut self, entry: &Entry) {
        match entry.kind {
            Kind::File(_) => {
                let parent = parent(&entry.path);
                if parent != self.last {
                    self.last = parent.to_owned();
                    self.implied_by(&self.last.clone());
                }
            }
            Kind::Directory | Kind::Implied => {
                self.directories.insert(entry.path.clone(), true);
                self.implied_by(parent(&entry.path));
            }
        }
    }

    fn implied_by(&mut self, path: &str) {
        let mut path = path;
        while !path.is_empty() && path != self.root && !self.directories.contains_key(path) {
            self.directories.insert(path.to_owned(), false);
            path = parent(path);
        }
    }

    /// The directories that the listing did not hold, in the order of their paths.
    pub(super) fn implied(self) -> impl Iterator<Item = Entry> {
        let implied = self.directories.into_iter().filter(|(_, held)| !held);
        implied.map(|(path, _)| Entry { path, kind: Kind::Implied, modified: Modified::Unknown })
    }
}

/// Directory by directory, down to a depth (1: that directory alone), each as `list_one` lists it. A directory that
/// is gone when its turn comes is told by whoever lists it.
pub(super) async fn by_levels<F: Future<Output = Result<Vec<Entry>, ObjectsError>>>(
    directory: &str,
    depth: u32,
    list_one: impl Fn(String) -> F,
    emit: Emit<'_>,
) -> Result<(), ObjectsError> {
    let mut level = vec![directory.to_owned()];
    for left in (0..depth).rev() {
        if level.is_empty() {
            break;
        }
        let listings: Vec<_> = level.into_iter().map(&list_one).collect();
        let mut listings = futures::stream::iter(listings).buffered(LISTINGS);
        let mut next = Vec::new();
        while let Some(entries) = listings.next().await {
            for entry in entries? {
                if entry.kind == Kind::Directory && left > 0 {
                    next.push(entry.path.clone());
                }
                emit(entry)?;
            }
        }
        drop(listings);
        level = next;
    }
    Ok(())
}

/// Leaves of one directory's listing what has a name in it, in the order of the names.
pub(super) fn keep_names(entries: &mut Vec<Entry>, directory: &str) {
    let skip = if directory.is_empty() { 0 } else { directory.len() + 1 };
    entries.retain(|entry| {
        let name = entry.path.get(skip..).unwrap_or("");
        !name.is_empty() && !name.contains('/')
    });
    entries.sort_by(|a, b| a.path.cmp(&b.path));
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn implied(root: &str, held: &[(&str, bool)]) -> Vec<String> {
        let mut flat = Flat::new(root);
        for (path, is_directory) in held {
            let kind = if *is_directory { Kind::Directory } else { Kind::File(1) };
            flat.saw(&Entry { path: (*path).to_owned(), kind, modified: Modified::Unknown });
        }
        flat.implied().map(|entry| entry.path).collect()
    }

    #[test]
    fn directories_are_told_once_in_order_and_not_if_the_listing_held_them() {
        let held = [("a/b/c", false), ("a/b/d", false), ("a/e", false), ("f", false)];
        assert_eq!(implied("", &held), ["a", "a/b"]);
        assert_eq!(implied("a", &held[..3]), ["a/b"]);
        assert_eq!(implied("", &[("m", true), ("m/x/y", false)]), ["m/x"]);
        assert_eq!(implied("", &[("m/n", true)]), ["m"]);
    }
}
