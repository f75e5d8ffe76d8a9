//! The table of an arena as another process finds it. Read as hostile: what contradicts itself is refused.

use super::arena::BLOCK;
use crate::units::{ByteRange, FileId};
use std::io;

/// Entries of the table that are read at a time.
const PART: usize = 8192;
pub(super) const SLOT: usize = 64;
/// Two slots, written in turn.
pub(super) const ENTRY: usize = 2 * SLOT;
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"SRARENA2");
pub(super) const FILLED: u32 = 0x4649_4c4c;

/// Where the data begin behind a table for so many blocks.
pub(super) fn data_of(blocks: usize) -> usize {
    BLOCK + (blocks * ENTRY).next_multiple_of(BLOCK)
}

/// A run as the table of an arena describes it.
pub(super) struct FoundRun {
    pub(super) first: usize,
    pub(super) blocks: usize,
    pub(super) slot: usize,
    pub(super) file: FileId,
    pub(super) range: ByteRange,
    pub(super) sequence: u64,
}

/// Whether the memory has no header.
pub(super) fn begins_with_zeros(memory: &std::fs::File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut header = [0; 32];
    match memory.read_exact_at(&mut header, 0) {
        Ok(()) => Ok(header == [0; 32]),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads the table of an arena in memory of this length: the number of blocks, and the runs in the order
/// of their blocks. Nothing is mapped yet: reading what was never touched must not take memory.
pub(super) fn read_table(
    memory: &std::fs::File,
    length: u64,
) -> io::Result<(usize, Vec<FoundRun>)> {
    use std::os::unix::fs::FileExt;
    let damaged = |why| io::Error::other(format!("data of the former worker: {why}"));
    let mut header = [0; 32];
    memory.read_exact_at(&mut header, 0)?;
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let blocks = usize::try_from(word(8)).unwrap_or(usize::MAX);
    let fits = blocks > 0
        && blocks as u64 <= length / BLOCK as u64
        && (data_of(blocks) + blocks * BLOCK) as u64 == length;
    if word(0) != MAGIC || word(24) != BLOCK as u64 || !fits || word(16) != data_of(blocks) as u64 {
        return Err(damaged("this memory is no arena of this version"));
    }
    let mut runs: Vec<FoundRun> = Vec::new();
    // In parts: sparse memory of any length must not take as much of ours.
    let mut part = vec![0; PART * ENTRY];
    for begin in (0..blocks).step_by(PART) {
        let part = &mut part[..(blocks - begin).min(PART) * ENTRY];
        memory.read_exact_at(part, (BLOCK + begin * ENTRY) as u64)?;
        for (first, entry) in (begin..).zip(part.chunks_exact(ENTRY)) {
            let slots =
                [0, 1].map(|slot| read_slot(&entry[slot * SLOT..][..SLOT], first, slot, blocks));
            let Some(run) = slots.into_iter().flatten().max_by_key(|run| run.sequence) else {
                continue;
            };
            if runs.last().is_some_and(|before| before.first + before.blocks > first) {
                return Err(damaged("two pieces lie over each other"));
            }
            runs.push(run);
        }
    }
    Ok((blocks, runs))
}

fn read_slot(bytes: &[u8], first: usize, slot: usize, blocks: usize) -> Option<FoundRun> {
    let number = |at: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(eight)
    };
    let (run_blocks, length) = ((number(0) >> 32) as usize, number(32));
    let whole = number(0) as u32 == FILLED
        && number(48) == checksum(&bytes[..48])
        && run_blocks > 0
        && run_blocks <= blocks - first
        && length > 0
        && length <= (run_blocks * BLOCK) as u64
        && number(40) < u64::MAX / 2;
    let mut file = [0; 16];
    file.copy_from_slice(&bytes[8..24]);
    let range = ByteRange::checked(number(24), length).filter(|_| whole)?;
    let sequence = number(40);
    Some(FoundRun { first, blocks: run_blocks, slot, file: FileId(file), range, sequence })
}

/// FNV-1a: against tearing, not against an adversary.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
