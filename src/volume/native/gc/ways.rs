//! Which directories have a way to the root. In memory: 33 bytes for each directory.

use crate::units::DirId;
use std::collections::{BTreeMap, BTreeSet};

/// An entry, living or buried, that leads from one directory to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) parent: DirId,
    pub(super) child: DirId,
    pub(super) live: bool,
}

/// What a mark learned of directories.
#[derive(Default)]
pub(super) struct Ways {
    /// Entries that are directories.
    pub(super) ways: Vec<Way>,
    /// Directories with living names in them.
    pub(super) populated: BTreeSet<DirId>,
}

/// A directory without a way to the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lost {
    /// No entry leads to it, not even a buried one, and it has living names.
    Unnamed(DirId),
    /// It is below itself: the entry in `parent` that leads to it is the one to be moved.
    Cycle { parent: DirId, child: DirId },
}

impl Ways {
    /// Directories that are there: named by an entry, or with entries.
    pub(super) fn known(&self) -> BTreeSet<DirId> {
        let named = self.ways.iter().flat_map(|way| [way.parent, way.child]);
        named.chain(self.populated.iter().copied()).collect()
    }

    /// Directories that more than one living entry leads to, hidden ones among them.
    pub(super) fn named_twice(&self) -> Vec<DirId> {
        let live = self.ways.iter().filter(|way| way.live);
        let mut children: Vec<DirId> = live.map(|way| way.child).collect();
        children.sort_unstable();
        let groups = children.chunk_by(|one, other| one == other);
        groups.filter(|group| group.len() > 1).map(|group| group[0]).collect()
    }

    /// What can be reached from `roots` by living entries without passing through `dir`: the places where
    /// a name of `dir` is no part of a cycle.
    pub(super) fn reached_without(&self, dir: DirId, roots: &[DirId]) -> BTreeSet<DirId> {
        let mut below: BTreeMap<DirId, Vec<DirId>> = BTreeMap::new();
        for way in self.ways.iter().filter(|way| way.live && way.child != dir) {
            below.entry(way.parent).or_default().push(way.child);
        }
        let mut reached = BTreeSet::new();
        reach(&below, roots, &mut reached);
        reached
    }

    /// One directory of every group that cannot be reached from `roots`. Giving each a name in the tree
    /// brings everything back. A directory that a buried entry leads to waits until that is deleted:
    /// it may be given back.
    pub(super) fn lost(&self, roots: &[DirId]) -> Vec<Lost> {
        let mut below: BTreeMap<DirId, Vec<DirId>> = BTreeMap::new();
        for way in &self.ways {
            below.entry(way.parent).or_default().push(way.child);
        }
        let mut reached = BTreeSet::new();
        reach(&below, roots, &mut reached);
        let known = self.known();
        let named: BTreeSet<DirId> = self.ways.iter().map(|way| way.child).collect();
        let tops: Vec<DirId> = known
            .iter()
            .filter(|dir| !reached.contains(dir) && !named.contains(dir))
            .copied()
            .collect();
        reach(&below, &tops, &mut reached);
        let mut lost: Vec<Lost> = tops
            .into_iter()
            .filter(|top| self.populated.contains(top))
            .map(Lost::Unnamed)
            .collect();
        // What is left hangs below itself. The smallest id decides, so that marks agree.
        let mut cycles: Vec<Way> = self.ways.iter().filter(|way| way.live).copied().collect();
        cycles.sort_unstable_by_key(|way| (way.child, way.parent));
        for Way { parent, child, .. } in cycles {
            if !reached.contains(&child) && on_cycle(&below, child) {
                lost.push(Lost::Cycle { parent, child });
                reach(&below, &[child], &mut reached);
            }
        }
        lost
    }
}

fn reach(below: &BTreeMap<DirId, Vec<DirId>>, from: &[DirId], reached: &mut BTreeSet<DirId>) {
    let mut pending: Vec<DirId> = from.to_vec();
    while let Some(dir) = pending.pop() {
        if reached.insert(dir) {
            pending.extend(below.get(&dir).into_iter().flatten());
        }
    }
}

fn on_cycle(below: &BTreeMap<DirId, Vec<DirId>>, dir: DirId) -> bool {
    let mut reached = BTreeSet::new();
    reach(below, below.get(&dir).map_or(&[][..], Vec::as_slice), &mut reached);
    reached.contains(&dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(number: u8) -> DirId {
        DirId([number; 16])
    }

    fn lost(ways: &[(u8, u8, bool)], populated: &[u8]) -> Vec<Lost> {
        let ways = ways.iter().map(|(parent, child, live)| Way {
            parent: dir(*parent),
            child: dir(*child),
            live: *live,
        });
        let populated = populated.iter().map(|number| dir(*number)).collect();
        Ways { ways: ways.collect(), populated }.lost(&[dir(0)])
    }

    #[test]
    fn what_the_root_reaches_is_not_lost() {
        assert_eq!(lost(&[(0, 1, true), (1, 2, true)], &[0, 1, 2]), []);
    }

    #[test]
    fn a_directory_that_no_entry_leads_to_is_lost_if_it_has_names() {
        assert_eq!(lost(&[(1, 2, true)], &[0, 1, 2]), [Lost::Unnamed(dir(1))]);
        assert_eq!(lost(&[(1, 2, false)], &[0]), [], "only buried names");
        assert_eq!(
            lost(&[(0, 1, false)], &[1]),
            [],
            "its own name is buried and may be given back"
        );
    }

    #[test]
    fn a_directory_with_two_living_names_is_seen_and_where_it_is_not_below_itself() {
        let way = |parent, child, live| Way { parent: dir(parent), child: dir(child), live };
        let ways = vec![way(0, 1, true), way(1, 2, true), way(2, 1, true), way(0, 2, false)];
        let ways = Ways { ways, ..Ways::default() };
        assert_eq!(ways.named_twice(), [dir(1)], "a buried name does not count");
        let reached: Vec<_> = ways.reached_without(dir(1), &[dir(0)]).into_iter().collect();
        assert_eq!(reached, [dir(0)]);
    }

    #[test]
    fn a_cycle_is_cut_once() {
        let cycle = Lost::Cycle { parent: dir(3), child: dir(2) };
        assert_eq!(lost(&[(2, 3, true), (3, 2, true), (3, 1, true)], &[1, 2, 3]), [cycle]);
    }

    #[test]
    fn what_hangs_on_a_cycle_is_not_the_place_to_cut() {
        let ways = [(3, 1, true), (2, 3, true), (3, 2, true)];
        let cycle = Lost::Cycle { parent: dir(3), child: dir(2) };
        assert_eq!(lost(&ways, &[1, 2, 3]), [cycle]);
    }
}
