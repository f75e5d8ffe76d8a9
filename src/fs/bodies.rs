//! The data of small files that lie in their records, as far as there is memory for them: of files that nobody uses, those
//! that were used last are kept. A file that is let go of is known as after a listing, by the head of its record, and
//! is fetched again by whoever opens it.

use super::core::FileSystem;
use super::inode::Inode;
use super::types::Ino;
use lru::LruCache;
use std::sync::Arc;

/// Of the memory for data that are not stored, the part that these may take.
const SHARE: u64 = 8;

/// Files with data in memory, the one used last at the end.
pub(super) struct Bodies {
    files: LruCache<Ino, u64>,
    bytes: u64,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { files: LruCache::unbounded(), bytes: 0 }
    }
}

impl Bodies {
    /// Notes what a file has in memory; returns whose data are to go so that all together have at most `limit` bytes.
    fn note(&mut self, ino: Ino, bytes: u64, limit: u64) -> Vec<Ino> {
        let before = match bytes {
            0 => self.files.pop(&ino),
            _ => self.files.put(ino, bytes),
        };
        self.bytes = self.bytes + bytes - before.unwrap_or(0);
        let mut surplus = Vec::new();
        while self.bytes > limit
            && let Some((ino, bytes)) = self.files.pop_lru()
        {
            self.bytes -= bytes;
            surplus.push(ino);
        }
        surplus
    }
}

impl FileSystem {
    /// Lets go of the data of files that were not used for long, now that this one was. One that is in use is noted again
    /// when it is closed or stored.
    pub(super) fn note_body(&self, inode: &Arc<Inode>) {
        let bytes = inode.state.lock().body_bytes();
        let limit = self.config.dirty_bytes / SHARE;
        let surplus = self.bodies.lock().note(inode.ino, bytes, limit);
        for ino in surplus {
            let inode = self.table.lock().get(ino);
            if let Some(inode) = inode {
                inode.state.lock().forget_body();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_used_last_are_kept() {
        let mut bodies = Bodies::default();
        assert!(bodies.note(Ino(2), 40, 100).is_empty());
        assert!(bodies.note(Ino(3), 40, 100).is_empty());
        assert!(bodies.note(Ino(2), 50, 100).is_empty());
        assert_eq!(bodies.note(Ino(4), 30, 100), [Ino(3)]);
        assert_eq!(bodies.bytes, 80);
        assert!(bodies.note(Ino(4), 0, 100).is_empty());
        assert_eq!(bodies.note(Ino(5), 200, 100), [Ino(2), Ino(5)]);
        assert_eq!((bodies.bytes, bodies.files.len()), (0, 0));
    }
}
