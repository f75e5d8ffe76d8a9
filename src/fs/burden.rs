//! What a mount has to do still, for whoever watches it.

use super::core::FileSystem;
use super::inode::Body;

/// What a mount has to do still, and what is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Burden {
    /// Bytes that programs have written and the store does not have.
    pub dirty_bytes: u64,
    /// Room for such bytes.
    pub dirty_limit: u64,
    /// Files whose last change is not in the store.
    pub changed_files: u64,
    /// Open files.
    pub open_files: u64,
    /// Files of which something was lost at a takeover, until whoever has them open, or opens them next,
    /// closes them.
    pub lost_files: u64,
    /// How many processes served before this one.
    pub takeovers: u64,
}

impl FileSystem {
    /// What there is to do, from memory.
    pub fn burden(&self) -> Burden {
        let mut burden = Burden {
            dirty_limit: self.arena.capacity(),
            open_files: self.files.lock().len() as u64,
            takeovers: self.takeovers,
            ..Burden::default()
        };
        for inode in self.table.lock().all() {
            let state = inode.state.lock();
            if let Body::File(body) = &state.content
                && !state.unlinked
            {
                burden.dirty_bytes += body.dirty.dirty_bytes();
            }
            burden.changed_files += u64::from(state.is_changed() && !state.unlinked);
            burden.lost_files += u64::from(state.lost);
        }
        burden
    }
}
