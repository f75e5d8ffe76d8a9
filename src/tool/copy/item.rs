//! What a tree holds, and what has to be done to make one tree like another.

use crate::volume::native::record::{Attributes, Content, Record, SpecialKind};
use crate::world::Timestamp;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// One thing of a tree.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Its path below the tree's root, no `/` at either end; empty: the root itself.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    /// The time is that at which its store took it, not the one of its last change.
    pub(super) taken_then: bool,
    /// What a volume has of it, as long as there is room for that.
    pub(super) record: Option<Arc<Record>>,
}

/// The kinds of things.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A regular file and its size.
    File(u64),
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A FIFO, socket or device with its device number.
    Special(SpecialKind, u64),
}

impl Item {
    /// What a volume has at a path.
    pub(super) fn stored(path: Vec<u8>, record: Arc<Record>) -> Option<Self> {
        let Attributes { mode, uid, gid, mtime, .. } = record.attributes;
        let kind = match &record.content {
            Content::File(file) => Kind::File(file.size),
            Content::Directory(_) => Kind::Directory,
            Content::Symlink(_, target) => Kind::Symlink(target.clone()),
            Content::Special(_, kind, device) => Kind::Special(*kind, *device),
            Content::Link(_) => return None,
        };
        let record = Some(record);
        Some(Self { path, kind, mode, uid, gid, mtime, taken_then: false, record })
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Bytes that copying it moves.
    pub(super) fn bytes(&self) -> u64 {
        if let Kind::File(size) = self.kind { size } else { 0 }
    }

    pub(super) fn parent(&self) -> &[u8] {
        parent(&self.path)
    }
}

/// The directory that a path is in.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |at| &path[..at])
}

/// The directories above a path, without the root.
pub(super) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    ends.map(|(at, _)| &path[..at])
}

/// The name of a path.
pub(super) fn name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(path, |at| &path[at + 1..])
}

/// What a target can keep of an item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeps {
    /// Bits of the mode.
    pub(super) mode: u32,
    /// User and group.
    pub(super) owner: bool,
    /// A directory's time moves with every change of a name in it, so that it has to be set again.
    pub(super) live_times: bool,
    /// Directories have times, and modes and owners as files do.
    pub(super) directories: bool,
    /// Some times have whole seconds only.
    pub(super) coarse: bool,
}

impl Keeps {
    /// What this target keeps of what a source has.
    pub(super) fn of(self, source: Self) -> Self {
        Self {
            mode: self.mode & source.mode,
            owner: self.owner && source.owner,
            live_times: self.live_times,
            directories: self.directories && source.directories,
            coarse: self.coarse || source.coarse,
        }
    }

    /// Whether a file was changed when its copy says that it was.
    fn same_time(self, item: &Item, former: &Item) -> bool {
        const SECOND: i64 = 1_000_000_000;
        let (at, then) = (item.mtime.0, former.mtime.0);
        let whole = |nanos: i64| nanos.rem_euclid(SECOND) == 0;
        at == then
            || self.coarse
                && (whole(at) || whole(then))
                && at.div_euclid(SECOND) == then.div_euclid(SECOND)
            || former.taken_then && then >= at
    }
}

/// What has to be done to a target. The order of the fields is the order of the work, but what is only at the
/// target goes last, and only if all else was done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What is only at the target, whatever is below a directory with it.
    pub(super) removals: Vec<Item>,
    /// What stands in the way of a thing of another kind, and goes before that comes.
    pub(super) displaced: Vec<Item>,
    /// Directories to make, each after its parent.
    pub(super) directories: Vec<Item>,
    /// Everything else to make or to replace, and whether something stands there.
    pub(super) copies: Vec<(Item, bool)>,
    /// What only gets its mode, owner or time.
    pub(super) attributes: Vec<Item>,
    /// What is kept from being done, by a thing of another kind at the target.
    pub(super) obstacles: Vec<Item>,
    /// Files that are the same already.
    pub(super) same: u64,
}

/// How the plan is made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// What the source does not have goes from the target.
    pub(super) delete: bool,
    /// Files of the same size and time are copied all the same.
    pub(super) everything: bool,
}

impl Plan {
    /// Compares two trees. A file is the same if size and time of change are, as with rsync.
    pub(super) fn new(source: Vec<Item>, target: Vec<Item>, keeps: Keeps, rules: Rules) -> Self {
        let mut there: HashMap<Vec<u8>, Item> =
            target.into_iter().map(|item| (item.path.clone(), item)).collect();
        let mut plan = Self::default();
        let mut blocked: Vec<Vec<u8>> = Vec::new();
        let mut alike: Vec<Item> = Vec::new();
        let mut sorted = source;
        sorted.sort_by(|a, b| a.path.cmp(&b.path));
        for item in sorted {
            let former = there.remove(&item.path);
            if blocked.iter().any(|path| is_below(&item.path, path)) {
                continue;
            }
            let Some(former) = former else {
                if item.is_directory() {
                    plan.directories.push(item);
                } else {
                    plan.copies.push((item, false));
                }
                continue;
            };
            match (item.is_directory(), former.is_directory()) {
                (true, true) => {
                    if !keeps.directories {
                        // There is nothing to set.
                    } else if !is_alike(&item, &former, keeps) || item.mtime != former.mtime {
                        plan.attributes.push(item);
                    } else if keeps.live_times {
                        alike.push(item);
                    }
                }
                (false, false) => {
                    let same = item.kind == former.kind
                        && match item.kind {
                            Kind::File(_) => keeps.same_time(&item, &former) && !rules.everything,
                            Kind::Directory | Kind::Symlink(_) | Kind::Special(..) => true,
                        };
                    match (same, is_alike(&item, &former, keeps)) {
                        (false, _) => plan.copies.push((item, true)),
                        (true, false) if !matches!(item.kind, Kind::Symlink(_)) => {
                            plan.attributes.push(item);
                            plan.same += 1;
                        }
                        (true, _) => plan.same += 1,
                    }
                }
                // A directory in the place of a file, or the other way round.
                (is_directory, _) if rules.delete => {
                    // What is below it goes with it.
                    there.retain(|path, _| !is_below(path, &item.path));
                    plan.displaced.push(former);
                    if is_directory {
                        plan.directories.push(item);
                    } else {
                        plan.copies.push((item, false));
                    }
                }
                _ => {
                    blocked.push(item.path.clone());
                    plan.obstacles.push(item);
                }
            }
        }
        if rules.delete {
            let mut rest: Vec<Item> = there.into_values().collect();
            rest.sort_by(|a, b| a.path.cmp(&b.path));
            // What is below another one goes with it.
            let going: HashSet<Vec<u8>> = rest.iter().map(|item| item.path.clone()).collect();
            plan.removals = rest
                .into_iter()
                .filter(|item| !ancestors(&item.path).any(|path| going.contains(path)))
                .collect();
        }
        let changed: HashSet<Vec<u8>> = (plan.removals.iter().chain(&plan.displaced))
            .chain(&plan.directories)
            .chain(plan.copies.iter().map(|(item, _)| item))
            .map(|item| item.parent().to_vec())
            .collect();
        plan.attributes.extend(alike.into_iter().filter(|item| changed.contains(&item.path)));
        plan
    }

    /// Bytes that the copies move.
    pub(super) fn bytes(&self) -> u64 {
        self.copies.iter().fold(0, |sum, (item, _)| sum.saturating_add(item.bytes()))
    }
}

fn is_alike(item: &Item, former: &Item, keeps: Keeps) -> bool {
    (item.mode & keeps.mode) == (former.mode & keeps.mode)
        && (!keeps.owner || (item.uid, item.gid) == (former.uid, former.gid))
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Keeps =
        Keeps { mode: 0o7777, owner: true, live_times: false, directories: true, coarse: false };

    fn item(path: &str, kind: Kind) -> Item {
        Item {
            path: path.into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp(5),
            taken_then: false,
            record: None,
        }
    }

    fn paths<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<String> {
        items.into_iter().map(|item| String::from_utf8_lossy(&item.path).into_owned()).collect()
    }

    #[test]
    fn what_is_new_or_changed_is_copied_and_the_rest_is_not() {
        let source = vec![
            item("d/same", Kind::File(3)),
            item("d", Kind::Directory),
            item("d/longer", Kind::File(4)),
            Item { mtime: Timestamp(6), ..item("d/later", Kind::File(3)) },
            Item { mode: 0o600, ..item("d/closed", Kind::File(3)) },
            item("new", Kind::Directory),
            item("new/file", Kind::File(1)),
            item("link", Kind::Symlink(b"a".into())),
        ];
        let target = vec![
            item("d", Kind::Directory),
            item("d/same", Kind::File(3)),
            item("d/longer", Kind::File(3)),
            item("d/later", Kind::File(3)),
            item("d/closed", Kind::File(3)),
            item("d/only-here", Kind::File(3)),
            item("link", Kind::Symlink(b"b".into())),
        ];
        let plan = Plan::new(source, target, ALL, Rules::default());
        assert_eq!(paths(&plan.directories), ["new"]);
        let copies = paths(plan.copies.iter().map(|(item, _)| item));
        assert_eq!(copies, ["d/later", "d/longer", "link", "new/file"]);
        let seen: Vec<bool> = plan.copies.iter().map(|(_, seen)| *seen).collect();
        assert_eq!(seen, [true, true, true, false]);
        assert_eq!(paths(&plan.attributes), ["d/closed"]);
        assert!(plan.removals.is_empty() && plan.obstacles.is_empty());
        assert_eq!((plan.same, plan.bytes()), (2, 8));
    }

    #[test]
    fn a_directory_whose_time_moves_with_its_names_gets_it_back() {
        let source = || {
            vec![
                item("a", Kind::Directory),
                item("a/new", Kind::File(1)),
                item("b", Kind::Directory),
                item("b/same", Kind::File(1)),
            ]
        };
        let target = || {
            vec![
                item("a", Kind::Directory),
                item("b", Kind::Directory),
                item("b/same", Kind::File(1)),
            ]
        };
        let live = Keeps { live_times: true, ..ALL };
        let plan = Plan::new(source(), target(), live, Rules::default());
        assert_eq!(paths(&plan.attributes), ["a"]);
        assert!(Plan::new(source(), target(), ALL, Rules::default()).attributes.is_empty());
    }

    #[test]
    fn only_a_mirror_removes_and_each_tree_once() {
        let source = vec![item("a", Kind::File(1)), item("was-file", Kind::Directory)];
        let target = || {
            vec![
                item("a", Kind::Directory),
                item("a/b", Kind::File(1)),
                item("gone", Kind::Directory),
                item("gone/x", Kind::Directory),
                item("gone/x/y", Kind::File(1)),
                item("gone-too", Kind::File(1)),
                item("was-file", Kind::File(1)),
            ]
        };
        let plan = Plan::new(source.clone(), target(), ALL, Rules::default());
        assert!(plan.removals.is_empty() && plan.displaced.is_empty());
        assert!(plan.copies.is_empty() && plan.directories.is_empty());
        assert_eq!(paths(&plan.obstacles), ["a", "was-file"]);
        let plan = Plan::new(source, target(), ALL, Rules { delete: true, ..Rules::default() });
        assert_eq!(paths(&plan.displaced), ["a", "was-file"]);
        assert_eq!(paths(&plan.removals), ["gone", "gone-too"]);
        assert_eq!(paths(plan.copies.iter().map(|(item, _)| item)), ["a"]);
        assert_eq!(paths(&plan.directories), ["was-file"]);
    }

    #[test]
    fn times_are_the_same_as_far_as_a_place_can_tell() {
        let at = |nanos| Item { mtime: Timestamp(nanos), ..item("a", Kind::File(1)) };
        let copies = |source: Item, there: Item, keeps| {
            !Plan::new(vec![source], vec![there], keeps, Rules::default()).copies.is_empty()
        };
        let coarse = Keeps { coarse: true, ..ALL };
        for (source, there, keeps, copied) in [
            (5_000_000_001, 5_000_000_000, ALL, true),
            (5_000_000_001, 5_000_000_000, coarse, false),
            (5_000_000_000, 5_999_999_999, coarse, false),
            (5_000_000_001, 5_000_000_002, coarse, true),
            (6_000_000_000, 5_999_999_999, coarse, true),
        ] {
            assert_eq!(copies(at(source), at(there), keeps), copied, "{source} {there}");
        }
        // Stored after it was changed: unless it has changed since.
        let taken = |nanos| Item { taken_then: true, ..at(nanos) };
        assert!(!copies(at(5), taken(7), coarse));
        assert!(copies(at(9_000_000_001), taken(7), coarse));
        assert!(copies(at(5), at(7), coarse));
    }

    #[test]
    fn what_lies_below_an_obstacle_is_not_touched() {
        let source = vec![
            item("a", Kind::Directory),
            item("a/b", Kind::File(1)),
            item("a-b", Kind::File(1)),
        ];
        let plan = Plan::new(source, vec![item("a", Kind::File(1))], ALL, Rules::default());
        assert_eq!(paths(&plan.obstacles), ["a"]);
        assert_eq!(paths(plan.copies.iter().map(|(item, _)| item)), ["a-b"]);
    }
}
