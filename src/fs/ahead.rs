//! Looking ahead in a directory: a program that takes the files of a directory one after the other (cat,
//! tar, cp, a restore) waits for one round trip each, unless the next ones are asked for before it comes
//! to them.
//!
//! Only where this mount is the volume's only writer: elsewhere each open has to ask the store after it
//! began, so that what was asked ahead would be asked again. What is fetched is what the look-up and the
//! open would have fetched, and is kept as they would keep it. A window that doubles with each name taken
//! in order bounds what is fetched in vain; a jump closes it.

use super::core::FileSystem;
use super::inode::{Body, Inode};
use super::types::Ino;
use crate::units::ByteRange;
use crate::volume::native::extents::Piece;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use lru::LruCache;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Directories that are followed at the same time.
const DIRECTORIES: usize = 16;
/// A directory with more names is not followed.
const MOST_NAMES: usize = 200_000;
/// Names asked for ahead, at most.
const MOST_AHEAD: usize = 32;
/// Names taken in order before the first is asked for ahead.
const IN_ORDER: u32 = 2;
/// Names that a program may leave out and still be reading in order.
const LEFT_OUT: usize = 4;
/// Bytes of a file that are fetched when it is to be opened next.
const BEGINNING: u64 = 256 << 10;

/// The directories that are followed, the last one used first.
#[derive(Default)]
pub(super) struct Trails(Option<LruCache<Ino, Trail>>);

/// How a program goes through a directory.
struct Trail {
    /// The names in the order in which they were listed, which is that of their bytes.
    names: Arc<[Vec<u8>]>,
    /// The place of the last name taken, and how many were taken in order until then.
    last: Option<usize>,
    in_order: u32,
    /// Files are opened on the way, not only looked at.
    opens: bool,
    window: usize,
    /// What was asked for ahead, by place.
    asked: BTreeMap<usize, Ahead>,
}

/// A name that was asked for ahead. The inode stays in the table until this is let go.
type Ahead = Shared<BoxFuture<'static, Option<Arc<Inode>>>>;

/// What a program does with a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Look,
    Open,
}

impl Trails {
    fn map(&mut self) -> &mut LruCache<Ino, Trail> {
        self.0.get_or_insert_with(LruCache::unbounded)
    }
}

impl FileSystem {
    /// A directory was listed: a program may go through it now. `names` are in the order of their bytes.
    pub(super) fn follow(self: &Arc<Self>, directory: Ino, names: impl Iterator<Item = Vec<u8>>) {
        if !self.is_only_writer() {
            return;
        }
        let names: Arc<[Vec<u8>]> = names.take(MOST_NAMES + 1).collect();
        if names.len() > MOST_NAMES {
            return;
        }
        let trail = Trail {
            names,
            last: None,
            in_order: 0,
            opens: false,
            window: 0,
            asked: BTreeMap::new(),
        };
        let dropped = {
            let mut trails = self.trails.lock();
            let former = trails.map().put(directory, trail);
            let oldest =
                if trails.map().len() > DIRECTORIES { trails.map().pop_lru() } else { None };
            [former, oldest.map(|(_, trail)| trail)]
        };
        let asked = dropped.into_iter().flatten().flat_map(|trail| trail.asked.into_values());
        self.let_go(asked);
    }

    /// A program takes a name: asks for those that it will take next, and waits for this one if it was
    /// asked for already.
    pub(super) async fn step(self: &Arc<Self>, directory: Ino, name: &[u8], step: Step) {
        let (own, behind) = {
            let mut trails = self.trails.lock();
            let Some(trail) = trails.map().get_mut(&directory) else { return };
            let Ok(place) = trail.names.binary_search_by(|known| known.as_slice().cmp(name)) else {
                return;
            };
            trail.opens |= step == Step::Open;
            let mut behind = BTreeMap::new();
            if trail.last != Some(place) {
                let near = trail.last.is_some_and(|last| place > last && place - last <= LEFT_OUT);
                if near {
                    trail.in_order += 1;
                    let ahead = trail.asked.split_off(&place);
                    behind = std::mem::replace(&mut trail.asked, ahead);
                } else {
                    (trail.in_order, trail.window, trail.opens) = (0, 0, step == Step::Open);
                    behind = std::mem::take(&mut trail.asked);
                }
                trail.last = Some(place);
                if trail.in_order >= IN_ORDER {
                    trail.window = (trail.window * 2).clamp(4, MOST_AHEAD);
                    let from = trail.asked.last_key_value().map_or(place, |(&last, _)| last) + 1;
                    let to = (place + 1 + trail.window).min(trail.names.len());
                    for next in from..to {
                        let ahead =
                            self.ask_ahead(directory, trail.names[next].clone(), trail.opens);
                        trail.asked.insert(next, ahead);
                    }
                }
            }
            (trail.asked.get(&place).cloned(), behind)
        };
        self.let_go(behind.into_values());
        if let Some(own) = own {
            own.await;
        }
    }

    fn ask_ahead(self: &Arc<Self>, directory: Ino, name: Vec<u8>, opens: bool) -> Ahead {
        let fs = self.clone();
        let fetching = self.runtime.spawn(async move {
            // A failure is told to whoever asks for the name itself.
            let found = fs.find(directory, &name).await.ok()?;
            let inode = {
                let mut table = fs.table.lock();
                let inode = table.adopt(&found);
                inode.state.lock().listed += 1;
                inode
            };
            if opens {
                let pin = inode.pin();
                if fs.load_map(&inode).await.is_ok() {
                    fs.fetch_beginning(&inode);
                }
                drop(pin);
                fs.note_body(&inode);
            }
            Some(inode)
        });
        async move { fetching.await.ok().flatten() }.boxed().shared()
    }

    /// What lies in segments of a file's beginning.
    fn fetch_beginning(&self, inode: &Inode) {
        let Ok(id) = inode.file() else { return };
        let pieces = {
            let state = inode.state.lock();
            let Body::File(body) = &state.content else { return };
            let Some(map) = &body.map else { return };
            let beginning = ByteRange::between(0, body.size.min(BEGINNING));
            if beginning.is_empty() { Vec::new() } else { map.lookup(beginning) }
        };
        for (range, piece) in pieces {
            if let Some(Piece::Segments(run)) = piece {
                self.volume.prefetch(id, &run, range.length());
            }
        }
    }

    /// Inodes that were kept for a program that has passed them.
    fn let_go(self: &Arc<Self>, asked: impl Iterator<Item = Ahead>) {
        for ahead in asked {
            let fs = self.clone();
            let release = move |inode: Option<Arc<Inode>>| {
                let Some(inode) = inode else { return };
                let mut table = fs.table.lock();
                inode.state.lock().listed -= 1;
                table.drop_if_unused(inode.ino);
            };
            match ahead.peek() {
                Some(inode) => release(inode.clone()),
                None => drop(self.runtime.spawn(async move { release(ahead.await) })),
            }
        }
    }
}
