//! Ranges of what is stored: blocks ahead of who reads in order, and no more than is asked for by who does not.

use super::ObjectFs;
use super::table::Node;
use crate::fs::errno::FsError;
use crate::fs::types::Ino;
use crate::units::ByteRange;
use crate::volume::objects::{BucketTree, ObjectsError};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

/// Bytes of a block.
const BLOCK: u64 = 4 << 20;
/// Blocks that are asked for ahead, at most.
const AHEAD: u64 = 4;
/// How far from where a reader is expected it may be and still read in order: the kernel's requests overtake
/// each other.
const SLACK: u64 = 8 << 20;
/// How often a read is tried again after this mount has changed the object itself.
const ATTEMPTS: usize = 3;

/// How a file is read.
#[derive(Default)]
pub(super) struct Ahead {
    next: u64,
    /// Bytes read in order until here.
    run: u64,
}

impl Ahead {
    /// Takes note of a read; whether it goes on from the last ones, and for how long they do.
    fn note(&mut self, range: ByteRange) -> Option<u64> {
        let goes_on = range.offset() <= self.next + SLACK && range.offset() + SLACK >= self.next;
        // The beginning of a file that is read from its beginning.
        let goes_on = goes_on && (self.run > 0 || range.offset() == 0);
        if goes_on {
            self.next = self.next.max(range.end());
            self.run += range.length();
            return Some(self.run);
        }
        // From here on, if the next one follows.
        *self = Self { next: range.end(), run: 0 };
        None
    }

    /// Whether a read begins where the one before ended.
    fn follows(&self, range: ByteRange) -> bool {
        range.offset() == self.next && self.next > 0
    }
}

type Parts = Arc<Vec<Bytes>>;
/// A block that somebody is fetching, or has.
type Block = Shared<BoxFuture<'static, Result<Parts, Failed>>>;

/// Why there is no block; an error of the store's cannot be shared as it is.
#[derive(Clone)]
enum Failed {
    Changed,
    Other(FsError),
}

/// Blocks, the last ones used.
pub(super) struct Blocks {
    blocks: Arc<Mutex<LruCache<BlockKey, Block>>>,
    capacity: u64,
}

/// A file, which of its contents, which block.
type BlockKey = (Ino, u64, u64);

impl Blocks {
    /// So many bytes of them.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            blocks: Arc::new(Mutex::new(LruCache::unbounded())),
            capacity: (bytes / BLOCK).max(2),
        }
    }

    /// A block; fetched once for all who ask.
    fn get(
        &self,
        (ino, content): (Ino, u64),
        index: u64,
        fetch: impl FnOnce() -> BoxFuture<'static, Result<Parts, Failed>>,
    ) -> Block {
        let mut blocks = self.blocks.lock();
        if let Some(block) = blocks.get(&(ino, content, index)) {
            return block.clone();
        }
        let block = fetch().shared();
        blocks.put((ino, content, index), block.clone());
        while blocks.len() as u64 > self.capacity {
            blocks.pop_lru();
        }
        drop(blocks);
        // It goes on also if nobody waits. What failed is not kept: the next one asks anew.
        let (fetched, all) = (block.clone(), self.blocks.clone());
        tokio::spawn(async move {
            if fetched.await.is_err() {
                all.lock().pop(&(ino, content, index));
            }
        });
        block
    }

    fn forget_failed(&self, (ino, content): (Ino, u64), index: u64) {
        let mut blocks = self.blocks.lock();
        let has_failed = |block: &Block| block.peek().is_some_and(|fetched| fetched.is_err());
        if blocks.peek(&(ino, content, index)).is_some_and(has_failed) {
            blocks.pop(&(ino, content, index));
        }
    }

    /// How many blocks a reader may have asked for ahead: all readers share the room.
    fn ahead(&self) -> u64 {
        let blocks = self.blocks.lock();
        let readers: HashSet<Ino> = blocks.iter().map(|((ino, ..), _)| *ino).collect();
        (self.capacity / (readers.len() as u64).max(1)).saturating_sub(1).min(AHEAD)
    }
}

async fn fetch(
    tree: Arc<BucketTree>,
    path: String,
    etag: crate::store::ETag,
    range: ByteRange,
) -> Result<Parts, Failed> {
    match tree.read(&path, &etag, range).await {
        Ok(parts) => Ok(Arc::new(parts)),
        Err(ObjectsError::Changed(_)) => Err(Failed::Changed),
        Err(error) => Err(Failed::Other(error.into())),
    }
}

impl ObjectFs {
    /// Reads of what is stored.
    pub(super) async fn read_stored(
        &self,
        node: &Arc<Node>,
        wanted: ByteRange,
    ) -> Result<Bytes, FsError> {
        for _ in 0..ATTEMPTS {
            let is_checked = {
                let state = node.state.lock();
                state.checked.is_some() || state.place.is_none()
            };
            if !is_checked {
                self.refresh(node).await?;
            }
            let version = node.state.lock().version;
            match self.read_once(node, wanted).await {
                Err(Failed::Changed) => {}
                Err(Failed::Other(error)) => return Err(error),
                Ok(bytes) => return Ok(bytes),
            }
            // This mount may be moving it: what it is doing is awaited.
            drop((self.paths.read().await, node.content.lock().await));
            let mut state = node.state.lock();
            if state.version == version {
                // Another one did it; the next open sees what it did.
                state.checked = None;
                break;
            }
        }
        Err(FsError::stale(format!(
            "{}: replaced or removed by somebody else while it was read",
            self.shown(node)
        )))
    }

    async fn read_once(&self, node: &Arc<Node>, wanted: ByteRange) -> Result<Bytes, Failed> {
        let path = self.path(node).map_err(|_| Failed::Changed)?;
        let (found, content, run) = {
            let mut state = node.state.lock();
            let Some(found) = state.found.clone() else { return Ok(Bytes::new()) };
            let wanted = wanted.intersection(ByteRange::new(0, found.size));
            let follows = state.ahead.follows(wanted);
            let run = state.ahead.note(wanted);
            // Two reads in a row, anywhere, are a beginning as well.
            if run.is_none() && follows {
                state.ahead.run = wanted.length();
            }
            (found, state.content_id, run)
        };
        let wanted = wanted.intersection(ByteRange::new(0, found.size));
        if wanted.is_empty() {
            return Ok(Bytes::new());
        }
        let file = (node.ino, content);
        let is_short = found.size <= BLOCK;
        let Some(run) = run.or(is_short.then_some(0)) else {
            let parts = fetch(self.tree.clone(), path, found.etag, wanted).await?;
            return join(&parts, 0, wanted.length());
        };
        let blocks = found.size.div_ceil(BLOCK);
        let (first, last) = (wanted.offset() / BLOCK, (wanted.end() - 1) / BLOCK);
        let ahead = (run / BLOCK + 1).min(self.blocks.ahead());
        let until = (last + if run > 0 { ahead } else { 0 }).min(blocks - 1);
        let mut needed = Vec::new();
        for index in first..=until {
            let range = ByteRange::between(index * BLOCK, ((index + 1) * BLOCK).min(found.size));
            let block = self.blocks.get(file, index, || {
                fetch(self.tree.clone(), path.clone(), found.etag.clone(), range).boxed()
            });
            if index <= last {
                needed.push((range, index, block));
            }
        }
        let mut whole: Option<BytesMut> = None;
        for (range, index, block) in needed {
            let parts = match block.await {
                Ok(parts) => parts,
                Err(failed) => {
                    // Who tries again is not to find it once more.
                    self.blocks.forget_failed(file, index);
                    return Err(failed);
                }
            };
            let piece = wanted.intersection(range);
            let bytes = join(&parts, piece.offset() - range.offset(), piece.length())?;
            match &mut whole {
                None if first == last => return Ok(bytes),
                None => whole = Some(BytesMut::from(&bytes[..])),
                Some(whole) => whole.extend_from_slice(&bytes),
            }
        }
        Ok(whole.map(BytesMut::freeze).unwrap_or_default())
    }
}

/// `length` bytes from `skip` on, which must all be there.
fn join(parts: &[Bytes], skip: u64, length: u64) -> Result<Bytes, Failed> {
    let (mut skip, mut length) = (skip as usize, length as usize);
    let mut joined = BytesMut::new();
    for part in parts {
        if skip >= part.len() {
            skip -= part.len();
            continue;
        }
        let end = part.len().min(skip + length);
        if joined.is_empty() && end - skip == length {
            return Ok(part.slice(skip..end));
        }
        if joined.is_empty() {
            joined.reserve(length);
        }
        joined.extend_from_slice(&part[skip..end]);
        (skip, length) = (0, length - (end - skip));
        if length == 0 {
            break;
        }
    }
    match length {
        0 => Ok(joined.freeze()),
        _ => Err(Failed::Other(FsError::io("the store has fewer bytes than it told"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_in_order_is_noticed_also_when_requests_overtake_each_other() {
        const MIB: u64 = 1 << 20;
        let mut ahead = Ahead::default();
        for offset in [0, 2, 1, 4, 3] {
            assert!(ahead.note(ByteRange::new(offset * MIB, MIB)).is_some(), "{offset}");
        }
        assert!(ahead.note(ByteRange::new(500 * MIB, 4096)).is_none());
        assert!(ahead.note(ByteRange::new(20 * MIB, 4096)).is_none());
    }

    #[test]
    fn parts_are_joined_only_where_a_range_runs_over_several() {
        let parts =
            [Bytes::from_static(b"abc"), Bytes::from_static(b"defg"), Bytes::from_static(b"h")];
        let joined = |skip, length| join(&parts, skip, length).ok();
        assert_eq!(joined(0, 3).as_deref(), Some(&b"abc"[..]));
        assert_eq!(joined(2, 6).as_deref(), Some(&b"cdefgh"[..]));
        assert_eq!(joined(4, 2).as_deref(), Some(&b"ef"[..]));
        assert_eq!(joined(4, 0).as_deref(), Some(&b""[..]));
        assert!(joined(4, 5).is_none(), "bytes that are not there are no zeros");
    }
}
