//! The memory that holds data not yet stored: one memfd, so that it can outlive the process that
//! filled it, with a table of what it holds.
//!
//! Layout: a header block, the table (an entry of 64 bytes for each block of data, meaningful at the
//! first block of a run), then the blocks. A run is a number of consecutive blocks with bytes of one
//! file from one offset on. An entry is valid if its state says so and its checksum fits; a process
//! killed in the middle of writing one leaves a checksum that does not fit. Later runs (by sequence)
//! win over earlier ones of the same bytes.

use crate::units::{ByteRange, FileId};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The unit of allocation.
pub const BLOCK: usize = 4096;
const ENTRY: usize = 64;
const MAGIC: u64 = u64::from_le_bytes(*b"SRARENA1");
const FILLED: u32 = 0x4649_4c4c;
/// Memory is given back to the system when nothing is in use and this much has been.
const RETURN: usize = 32 << 20;

/// The arena. Shared by all files of a mount.
pub struct Arena {
    memory: NonNull<u8>,
    length: usize,
    fd: OwnedFd,
    blocks: usize,
    data: usize,
    free: Mutex<Free>,
    sequence: AtomicU64,
}

// SAFETY: the memory is a shared mapping that lives as long as the arena. Parts of it are reached only
// through `Run`s, whose block ranges never overlap (`Free` hands each block to one run at a time), and
// through the table entry of a run's first block, which belongs to that run.
unsafe impl Send for Arena {}
// SAFETY: as above; the allocator itself is behind a mutex.
unsafe impl Sync for Arena {}

/// Free extents: start block to number of blocks.
struct Free {
    extents: BTreeMap<usize, usize>,
    used: usize,
    /// Highest number of blocks touched since memory was last given back.
    touched: usize,
}

impl Arena {
    /// An arena for `bytes` of data (rounded up to whole blocks), not one of them touched yet.
    pub fn create(bytes: u64) -> io::Result<Self> {
        let blocks =
            usize::try_from(bytes.div_ceil(BLOCK as u64)).map_err(io::Error::other)?.max(64);
        let data = BLOCK + (blocks * ENTRY).next_multiple_of(BLOCK);
        let length = data + blocks * BLOCK;
        let fd = memfd_create(c"strongroom-dirty", MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&fd, length as i64)?;
        let size = NonZeroUsize::new(length).ok_or_else(|| io::Error::other("empty arena"))?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; nothing else refers to it.
        let memory = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &fd,
                0,
            )?
        }
        .cast::<u8>();
        // Plaintext must not appear in a core dump.
        // SAFETY: the range is exactly the mapping made above; the advice changes no byte.
        unsafe { madvise(memory.cast::<c_void>(), length, MmapAdvise::MADV_DONTDUMP)? };
        let arena = Self {
            memory,
            length,
            fd,
            blocks,
            data,
            free: Mutex::new(Free { extents: BTreeMap::from([(0, blocks)]), used: 0, touched: 0 }),
            sequence: AtomicU64::new(1),
        };
        let header = [MAGIC, blocks as u64, data as u64, BLOCK as u64];
        for (index, word) in header.into_iter().enumerate() {
            // SAFETY: the header block is inside the mapping, aligned, and written only here.
            unsafe { arena.memory.as_ptr().add(index * 8).cast::<u64>().write(word) };
        }
        Ok(arena)
    }

    /// The memory itself, to hand to another process.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes of data that fit.
    pub fn capacity(&self) -> u64 {
        (self.blocks * BLOCK) as u64
    }

    /// Bytes in use, in whole blocks.
    pub fn used(&self) -> u64 {
        (self.free.lock().used * BLOCK) as u64
    }

    /// A run with room for up to `wanted` bytes: fewer if no free extent is that long, `None` if
    /// there is none at all.
    pub fn allocate(self: &Arc<Self>, file: FileId, offset: u64, wanted: usize) -> Option<Run> {
        let wanted = wanted.div_ceil(BLOCK).max(1);
        let mut free = self.free.lock();
        // The first extent that is long enough, else the longest: low addresses are used again first,
        // so that memory in use stays near what is needed.
        let found = free.extents.iter().find(|(_, blocks)| **blocks >= wanted);
        let (&first, &blocks) =
            found.or_else(|| free.extents.iter().max_by_key(|(_, blocks)| **blocks))?;
        let taken = blocks.min(wanted);
        free.extents.remove(&first);
        if taken < blocks {
            free.extents.insert(first + taken, blocks - taken);
        }
        free.used += taken;
        free.touched = free.touched.max(first + taken);
        drop(free);
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        Some(Run { arena: self.clone(), first, blocks: taken, length: 0, file, offset, sequence })
    }

    fn release(&self, first: usize, blocks: usize) {
        let mut free = self.free.lock();
        let (mut start, mut length) = (first, blocks);
        if let Some((&before, &count)) = free.extents.range(..first).next_back()
            && before + count == first
        {
            free.extents.remove(&before);
            (start, length) = (before, count + length);
        }
        if let Some(count) = free.extents.remove(&(first + blocks)) {
            length += count;
        }
        free.extents.insert(start, length);
        free.used -= blocks;
        if free.used == 0 && free.touched * BLOCK > RETURN {
            // SAFETY: inside the mapping; no run is alive, so nobody refers to these bytes, which
            // read as zeros from now on. The allocator is locked, so none comes alive meanwhile.
            let result = unsafe {
                let start = self.memory.add(self.data).cast::<c_void>();
                madvise(start, free.touched * BLOCK, MmapAdvise::MADV_REMOVE)
            };
            if result.is_ok() {
                free.touched = 0;
            }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `create`; every `Run` holds the arena alive, so none is left.
        let _ = unsafe { munmap(self.memory.cast::<c_void>(), self.length) };
    }
}

/// Bytes of one file in the arena. Its blocks are free again when it is dropped.
pub struct Run {
    arena: Arc<Arena>,
    first: usize,
    blocks: usize,
    length: usize,
    file: FileId,
    offset: u64,
    sequence: u64,
}

impl Run {
    /// Bytes that more appends can take.
    pub fn room(&self) -> usize {
        self.blocks * BLOCK - self.length
    }

    /// Bytes that it can hold.
    pub fn capacity(&self) -> usize {
        self.blocks * BLOCK
    }

    /// Bytes that it holds.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points at `blocks * BLOCK >= length` bytes inside the mapping that belong to
        // this run alone; they change only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start(), self.length) }
    }

    /// Adds as many bytes as there is room for; returns how many.
    pub fn append(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(self.room());
        // SAFETY: `count` more bytes fit into this run's blocks, which are its own; `data` is a live
        // slice and cannot overlap them, since they are lent out only through `bytes(&self)`.
        unsafe {
            let end = self.start().add(self.length);
            std::ptr::copy_nonoverlapping(data.as_ptr(), end, count);
        }
        self.length += count;
        self.describe();
        count
    }

    /// Replaces bytes that are there; `at + data.len()` must not exceed the length.
    pub fn overwrite(&mut self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.length, "overwrite stays inside the run");
        // SAFETY: inside this run's bytes by the assertion; exclusive by `&mut self`.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), self.start().add(at), data.len());
        }
    }

    /// Forgets bytes from the end.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.describe();
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: block `first` lies inside the mapping (the allocator gave it out).
        unsafe { self.arena.memory.as_ptr().add(self.arena.data + self.first * BLOCK) }
    }

    fn entry(&self) -> *mut u8 {
        // SAFETY: the table has an entry for each block.
        unsafe { self.arena.memory.as_ptr().add(BLOCK + self.first * ENTRY) }
    }

    /// Says in the table what this run holds. The data are written before, so an entry that is whole
    /// tells the truth; one that is torn has a checksum that does not fit.
    fn describe(&self) {
        let mut entry = [0_u8; ENTRY];
        entry[0..4].copy_from_slice(&FILLED.to_le_bytes());
        entry[4..8].copy_from_slice(&(self.blocks as u32).to_le_bytes());
        entry[8..24].copy_from_slice(&self.file.0);
        entry[24..32].copy_from_slice(&self.offset.to_le_bytes());
        entry[32..40].copy_from_slice(&(self.length as u64).to_le_bytes());
        entry[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        let sum = checksum(&entry[..48]);
        entry[48..56].copy_from_slice(&sum.to_le_bytes());
        fence(Ordering::Release);
        // SAFETY: this entry belongs to this run, whose first block it describes; readers in this
        // process do not exist, another process reads only after this one ended.
        unsafe { std::ptr::copy_nonoverlapping(entry.as_ptr(), self.entry(), ENTRY) };
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // SAFETY: as in `describe`; zeroes the state before the blocks can be given to another run.
        unsafe { std::ptr::write_bytes(self.entry(), 0, ENTRY) };
        self.arena.release(self.first, self.blocks);
    }
}

/// A run as the table of an arena describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRun {
    /// Whose bytes.
    pub file: FileId,
    /// Which bytes.
    pub range: ByteRange,
    /// Later ones win.
    pub sequence: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Reads what an arena holds from its memory, in the order in which it was written: for whoever takes
/// over from a process that was killed. Entries that are torn are left out: their bytes were never
/// acknowledged whole.
pub fn read_runs(memory: &impl std::os::unix::fs::FileExt) -> io::Result<Vec<FoundRun>> {
    let word = |at: u64| {
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, at).map(|()| u64::from_le_bytes(bytes))
    };
    if word(0)? != MAGIC || word(24)? != BLOCK as u64 {
        return Err(io::Error::other("this memory is no arena of dirty data"));
    }
    let (blocks, data) = (word(8)?, word(16)?);
    let mut runs = Vec::new();
    let mut entry = [0; ENTRY];
    for block in 0..blocks {
        memory.read_exact_at(&mut entry, BLOCK as u64 + block * ENTRY as u64)?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&entry[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let state = number(0) as u32;
        let (run_blocks, length) = (number(0) >> 32, number(32));
        let whole = state == FILLED
            && number(48) == checksum(&entry[..48])
            && block + run_blocks <= blocks
            && length <= run_blocks * BLOCK as u64;
        if !whole || length == 0 {
            continue;
        }
        let mut bytes = vec![0; length as usize];
        memory.read_exact_at(&mut bytes, data + block * BLOCK as u64)?;
        let mut file = [0; 16];
        file.copy_from_slice(&entry[8..24]);
        let Some(range) = ByteRange::checked(number(24), length) else { continue };
        runs.push(FoundRun { file: FileId(file), range, sequence: number(40), bytes });
    }
    runs.sort_by_key(|run| run.sequence);
    Ok(runs)
}

/// FNV-1a: against tearing, not against an adversary.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId([7; 16]);

    #[test]
    fn blocks_are_given_out_once_and_come_back() {
        let arena = Arc::new(Arena::create(64 * BLOCK as u64).expect("memory"));
        let runs: Vec<Run> =
            (0..16).filter_map(|index| arena.allocate(FILE, index, 4 * BLOCK)).collect();
        assert_eq!(runs.len(), 16);
        assert_eq!(arena.used(), arena.capacity());
        assert!(arena.allocate(FILE, 0, 1).is_none());
        drop(runs);
        assert_eq!(arena.used(), 0);
        let whole = arena.allocate(FILE, 0, 64 * BLOCK).expect("free extents are joined again");
        assert_eq!(whole.capacity(), 64 * BLOCK);
    }

    #[test]
    fn another_process_finds_what_is_there_and_nothing_that_is_gone() {
        let arena = Arc::new(Arena::create(1 << 20).expect("memory"));
        let mut kept = arena.allocate(FILE, 4096, 100).expect("room");
        kept.append(b"kept");
        let mut gone = arena.allocate(FILE, 0, 100).expect("room");
        gone.append(b"gone");
        drop(gone);
        let file = std::fs::File::from(arena.memory().try_clone_to_owned().expect("descriptor"));
        let runs = read_runs(&file).expect("an arena");
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].range, &runs[0].bytes[..]), (ByteRange::new(4096, 4), &b"kept"[..]));
        // A torn entry is not believed.
        use std::os::unix::fs::FileExt;
        file.write_all_at(&[0xff], BLOCK as u64 + 30).expect("write");
        assert!(read_runs(&file).expect("an arena").is_empty());
    }
}
