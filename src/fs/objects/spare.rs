//! The bytes of short files that are not stored yet, once more, where whoever takes over finds them: those that were
//! written from front to back and of which nothing has left. Of all others the store has a part, or a scratch file.
//!
//! Crash story: bytes are here before the node's new size is written down, and that before the write is answered. A
//! process that is killed in between leaves more than the size says, which is cut off, since the kernel sends that
//! write again; what does not reach up to the size is no file, and is told as lost.

use super::ObjectFs;
use super::content::Content;
use super::table::Node;
use crate::fs::arena::{Arena, Run};
use crate::fs::types::Ino;
use crate::units::FileId;
use std::sync::Arc;

/// How much room is taken at once for a file that grows.
const STEP: usize = 1 << 20;

/// A file's bytes from its beginning on, in order.
#[derive(Default)]
pub(super) struct Spare {
    runs: Vec<Run>,
    length: u64,
    /// Which writer's bytes they are, 0 for none's.
    writer: u64,
}

/// How the arena calls a node's bytes.
fn file_id(ino: Ino) -> FileId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&ino.0.to_le_bytes());
    FileId(id)
}

/// Whose bytes a run has, if it is one of these.
pub(super) fn ino_of(run: &Run) -> Option<Ino> {
    let FileId(id) = run.file();
    let (number, rest) = id.split_first_chunk::<8>()?;
    rest.iter().all(|byte| *byte == 0).then(|| Ino(u64::from_le_bytes(*number)))
}

impl Spare {
    /// What a former process left of a file of this size; `None` if that is not all of it.
    pub(super) fn adopted(mut runs: Vec<Run>, size: u64) -> Option<Vec<u8>> {
        runs.sort_by_key(|run| (run.offset(), run.sequence()));
        let mut whole = Vec::new();
        for run in &runs {
            if run.offset() != whole.len() as u64 {
                return None;
            }
            whole.extend_from_slice(run.bytes());
        }
        whole.truncate(usize::try_from(size).ok()?);
        (whole.len() as u64 == size).then_some(whole)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds bytes; whether there was room for all.
    fn append(&mut self, arena: &Arc<Arena>, ino: Ino, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            if self.runs.last().is_none_or(|run| run.room() == 0) {
                let wanted = data.len().max((self.length as usize).min(STEP));
                let Some(run) = arena.allocate(file_id(ino), self.length, wanted) else {
                    return false;
                };
                self.runs.push(run);
            }
            let Some(run) = self.runs.last_mut() else { return false };
            let count = run.append(data);
            self.length += count as u64;
            data = &data[count..];
        }
        true
    }
}

impl ObjectFs {
    /// Has a node's bytes kept for whoever takes over, as far as that can be. For whoever holds its content and has
    /// changed it, before it says so.
    pub(super) fn keep_spare(&self, node: &Node, content: &Content) {
        let Some(keep) = &self.keep else { return };
        let mut spare = node.spare.lock();
        let short = match content {
            Content::Stream(writer) => writer.whole().map(|whole| (whole, writer.id())),
            _ => None,
        };
        let Some((whole, writer)) = short else { return spare.clear() };
        if spare.writer != writer || spare.length > whole.len() as u64 {
            spare.clear();
            spare.writer = writer;
        }
        let new = &whole[spare.length as usize..];
        if !spare.append(&keep.arena, node.ino, new) {
            // A kill now loses it, and says so.
            spare.clear();
        }
    }
}
