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
use crate::volume::objects::Writer;
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
    /// What [`State::spare`](super::table::State::spare) says of them: a process that fails to take over may leave
    /// the same bytes once more.
    number: u64,
}

/// How the arena calls a node's bytes.
fn file_id(ino: Ino, number: u64) -> FileId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&ino.0.to_le_bytes());
    id[8..].copy_from_slice(&number.to_le_bytes());
    FileId(id)
}

/// Whose bytes a run has, and what they are called.
pub(super) fn owner_of(run: &Run) -> (Ino, u64) {
    let FileId(id) = run.file();
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&id[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    (Ino(number(0)), number(8))
}

impl Spare {
    /// What a former process left of a file of this size, and its bytes; `None` if that is not all of it.
    pub(super) fn adopted(mut runs: Vec<Run>, number: u64, size: u64) -> Option<(Self, Vec<u8>)> {
        runs.sort_by_key(|run| (run.offset(), run.sequence()));
        let mut whole = Vec::new();
        for run in &runs {
            if run.offset() != whole.len() as u64 {
                return None;
            }
            whole.extend_from_slice(run.bytes());
        }
        let length = whole.len() as u64;
        whole.truncate(usize::try_from(size).ok()?);
        (whole.len() as u64 == size).then_some((Self { runs, length, writer: 0, number }, whole))
    }

    /// Whether these are all bytes of a writer of which nothing has left.
    pub(super) fn is_all_of(&self, writer: &Writer) -> bool {
        let whole = writer.whole();
        whole.is_some_and(|whole| {
            whole.is_empty() || self.writer == writer.id() && self.length == whole.len() as u64
        })
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds bytes; whether there was room for all.
    fn append(&mut self, arena: &Arc<Arena>, ino: Ino, mut data: &[u8]) -> bool {
        let file = file_id(ino, self.number);
        while !data.is_empty() {
            if self.runs.last().is_none_or(|run| run.room() == 0) {
                let wanted = data.len().max((self.length as usize).min(STEP));
                let Some(run) = arena.allocate(file, self.length, wanted) else {
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
        let is_lost = matches!(content, Content::Lost(_));
        if is_lost != node.state.lock().lost {
            node.state.lock().lost = is_lost;
        }
        let short = match content {
            Content::Stream(writer) => writer.whole().map(|whole| (whole, writer.id())),
            _ => None,
        };
        let Some((whole, writer)) = short else { return spare.clear() };
        if spare.writer == writer
            && let Some(new) = whole.get(spare.length as usize..)
        {
            if !spare.append(&keep.arena, node.ino, new) {
                // A kill now loses it, and says so.
                spare.clear();
            }
            return;
        }
        // Whole before it counts, and what was there before goes after that.
        let number = keep.arena.next_sequence();
        let mut next = Spare { writer, number, ..Spare::default() };
        if !next.append(&keep.arena, node.ino, whole) {
            next.clear();
        }
        node.state.lock().spare = next.number;
        *spare = next;
    }

    /// Goes on with what a former process left of a node's bytes, which its content has read. For whoever holds that.
    pub(super) fn adopt_spare(&self, node: &Node, content: &Content, adopted: Spare) {
        if let Content::Stream(writer) = content
            && adopted.length == writer.length()
        {
            *node.spare.lock() = Spare { writer: writer.id(), ..adopted };
        } else {
            // More than was answered was written.
            self.keep_spare(node, content);
        }
    }
}
