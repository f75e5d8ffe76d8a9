//! The memory that holds data not yet stored: one memfd, so that it can outlive the process that
//! filled it, with a table of what it holds.
//!
//! Layout: a header block, the table (an entry of two slots of 64 bytes for each block of data, meaningful
//! at the first block of a run), then the blocks. A run is a number of consecutive blocks with bytes of one
//! file from one offset on. A slot is valid if its state says so and its checksum fits; of two valid ones
//! the later counts. They are written in turn, so that a process killed in the middle of writing one leaves
//! the former description, which holds for every byte that was acknowledged. Later runs (by sequence) win
//! over earlier ones of the same bytes; a run that grows gets a new number, since it grows only while all
//! of it is the newest (see `dirty.rs`).

use super::arena_table::{
    ENTRY, FILLED, FoundRun, MAGIC, SLOT, begins_with_zeros, checksum, data_of, read_table,
};
use crate::units::FileId;
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
    /// Runs that were dropped while it is not certain yet that this process takes over: they stay described.
    undecided: Mutex<Option<Vec<(usize, usize)>>>,
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
        Self::format(memfd_create(c"strongroom-dirty", MFdFlags::MFD_CLOEXEC)?, bytes)
    }

    /// The arena that a former process left in this memory, with what it holds in the order in which it
    /// was written; a new one for `bytes` of data if the memory is empty. Entries that are torn are left
    /// out: their bytes were never acknowledged. Until [`Self::decide`] nothing is taken out of the memory,
    /// so that a process that fails to take over changes nothing.
    ///
    /// # Errors
    /// If the memory is something else, or its table contradicts itself.
    pub fn adopt(fd: OwnedFd, bytes: u64) -> io::Result<(Arc<Self>, Vec<Run>)> {
        let file = std::fs::File::from(fd);
        let length = file.metadata()?.len();
        // A process that was killed while it made the arena has left a header of zeros.
        if length == 0 || begins_with_zeros(&file)? {
            return Ok((Arc::new(Self::format(file.into(), bytes)?), Vec::new()));
        }
        let (blocks, found) = read_table(&file, length)?;
        let mut arena = Self::map(file.into(), blocks)?;
        let mut extents = BTreeMap::new();
        let (mut used, mut touched, mut end) = (0, 0, 0);
        for run in &found {
            if run.first > end {
                extents.insert(end, run.first - end);
            }
            end = run.first + run.blocks;
            used += run.blocks;
            touched = end;
        }
        if end < blocks {
            extents.insert(end, blocks - end);
        }
        let next = found.iter().map(|run| run.sequence).max().unwrap_or(0) + 1;
        arena.free = Mutex::new(Free { extents, used, touched });
        arena.undecided = Mutex::new(Some(Vec::new()));
        arena.sequence = AtomicU64::new(next);
        let arena = Arc::new(arena);
        let mut runs: Vec<Run> = found
            .into_iter()
            .map(|found| {
                let FoundRun { first, blocks, slot, file, range, sequence } = found;
                let (offset, length) = (range.offset(), range.length() as usize);
                let arena = arena.clone();
                Run { arena, first, blocks, length, file, offset, sequence, slot }
            })
            .collect();
        runs.sort_by_key(|run| run.sequence);
        Ok((arena, runs))
    }

    fn format(fd: OwnedFd, bytes: u64) -> io::Result<Self> {
        let blocks =
            usize::try_from(bytes.div_ceil(BLOCK as u64)).map_err(io::Error::other)?.max(64);
        nix::unistd::ftruncate(&fd, (data_of(blocks) + blocks * BLOCK) as i64)?;
        let arena = Self::map(fd, blocks)?;
        let header = [MAGIC, blocks as u64, arena.data as u64, BLOCK as u64];
        for (index, word) in header.into_iter().enumerate() {
            // SAFETY: the header block is inside the mapping, aligned, and written only here.
            unsafe { arena.memory.as_ptr().add(index * 8).cast::<u64>().write(word) };
        }
        Ok(arena)
    }

    /// Maps memory that has room for so many blocks; all of them are free.
    fn map(fd: OwnedFd, blocks: usize) -> io::Result<Self> {
        let data = data_of(blocks);
        let length = data + blocks * BLOCK;
        let size = NonZeroUsize::new(length).ok_or_else(|| io::Error::other("empty arena"))?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; nothing in this process
        // refers to it, and no other process uses the memory while this one does.
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
        Ok(Self {
            memory,
            length,
            fd,
            blocks,
            data,
            free: Mutex::new(Free { extents: BTreeMap::from([(0, blocks)]), used: 0, touched: 0 }),
            sequence: AtomicU64::new(1),
            undecided: Mutex::new(None),
        })
    }

    /// This process has taken over: what it found of no account is free.
    pub fn decide(&self) {
        let undecided = self.undecided.lock().take();
        for (first, blocks) in undecided.into_iter().flatten() {
            self.give_back(first, blocks);
        }
    }

    /// Takes a run's description away and frees its blocks.
    fn give_back(&self, first: usize, blocks: usize) {
        // SAFETY: the table has an entry for each block, and this one belongs to a run that nobody has any
        // more; the state is zero before the blocks can be given to another run.
        unsafe { std::ptr::write_bytes(self.memory.as_ptr().add(BLOCK + first * ENTRY), 0, ENTRY) };
        self.release(first, blocks);
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
        let (arena, sequence) = (self.clone(), self.next_sequence());
        Some(Run { arena, first, blocks: taken, length: 0, file, offset, sequence, slot: 0 })
    }

    /// A number higher than that of everything written so far.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// All numbers from now on are higher than this one, too.
    pub fn raise_sequence(&self, known: u64) {
        self.sequence.fetch_max(known.saturating_add(1), Ordering::Relaxed);
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
    /// The slot that was written last.
    slot: usize,
}

impl Run {
    /// Whose bytes.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Where in the file they begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Later ones win.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

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

    /// Adds as many bytes as there is room for; returns how many. All bytes of the run count as written
    /// now: nothing newer may lie over any of them.
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

    /// Lets go of the bytes behind so many. Whoever takes over finds them until more are added.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Replaces bytes that are there; `at + data.len()` must not exceed the length.
    pub fn overwrite(&mut self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.length, "overwrite stays inside the run");
        // SAFETY: inside this run's bytes by the assertion; exclusive by `&mut self`.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), self.start().add(at), data.len());
        }
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: block `first` lies inside the mapping (the allocator gave it out).
        unsafe { self.arena.memory.as_ptr().add(self.arena.data + self.first * BLOCK) }
    }

    fn entry(&self) -> *mut u8 {
        // SAFETY: the table has an entry for each block.
        unsafe { self.arena.memory.as_ptr().add(BLOCK + self.first * ENTRY) }
    }

    /// Says in the table what this run holds. The data are written before, so a slot that is whole tells
    /// the truth; while one is written the other one still says what was true before.
    fn describe(&mut self) {
        self.sequence = self.arena.next_sequence();
        self.slot = 1 - self.slot;
        let mut slot = [0_u8; SLOT];
        slot[0..4].copy_from_slice(&FILLED.to_le_bytes());
        slot[4..8].copy_from_slice(&(self.blocks as u32).to_le_bytes());
        slot[8..24].copy_from_slice(&self.file.0);
        slot[24..32].copy_from_slice(&self.offset.to_le_bytes());
        slot[32..40].copy_from_slice(&(self.length as u64).to_le_bytes());
        slot[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        let sum = checksum(&slot[..48]);
        slot[48..56].copy_from_slice(&sum.to_le_bytes());
        fence(Ordering::Release);
        // SAFETY: this entry belongs to this run, whose first block it describes; readers in this
        // process do not exist, another process reads only after this one ended.
        unsafe {
            let place = self.entry().add(self.slot * SLOT);
            std::ptr::copy_nonoverlapping(slot.as_ptr(), place, SLOT);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(undecided) = &mut *self.arena.undecided.lock() {
            return undecided.push((self.first, self.blocks));
        }
        self.arena.give_back(self.first, self.blocks);
    }
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

    /// The arena as another process finds it.
    fn adopted(arena: &Arena) -> (Arc<Arena>, Vec<Run>) {
        Arena::adopt(arena.memory().try_clone_to_owned().expect("descriptor"), 0).expect("an arena")
    }

    #[test]
    fn another_process_finds_what_is_there_and_nothing_that_is_gone() {
        let arena = Arc::new(Arena::create(1 << 20).expect("memory"));
        let mut kept = arena.allocate(FILE, 4096, 100).expect("room");
        kept.append(b"ke");
        let mut gone = arena.allocate(FILE, 0, 100).expect("room");
        gone.append(b"gone");
        drop(gone);
        kept.append(b"pt");
        let (next, runs) = adopted(&arena);
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].offset(), runs[0].bytes()), (4096, &b"kept"[..]));
        assert_eq!(next.used(), BLOCK as u64);
        let other = next.allocate(FILE, 0, BLOCK).expect("room");
        assert!(other.first != runs[0].first && other.sequence() > runs[0].sequence());
        drop((runs, other));
        assert_eq!(adopted(&arena).1.len(), 1, "it did not take over, so nothing is gone");
        next.decide();
        assert_eq!((next.used(), adopted(&arena).1.len()), (0, 0));
        std::mem::forget(kept);
    }

    #[test]
    fn a_description_that_is_torn_leaves_the_former_one() {
        use std::os::unix::fs::FileExt;
        let arena = Arc::new(Arena::create(1 << 20).expect("memory"));
        let mut run = arena.allocate(FILE, 0, 100).expect("room");
        run.append(b"first");
        run.append(b", second");
        let file = std::fs::File::from(arena.memory().try_clone_to_owned().expect("descriptor"));
        let slot = BLOCK + run.first * ENTRY + run.slot * SLOT;
        file.write_all_at(&[0xff], slot as u64 + 30).expect("torn");
        let (_, runs) = adopted(&arena);
        assert_eq!(runs[0].bytes(), b"first");
    }

    #[test]
    fn an_arena_whose_maker_was_killed_is_made_anew() {
        let fd = memfd_create("half", MFdFlags::MFD_CLOEXEC).expect("memory");
        nix::unistd::ftruncate(&fd, 3 << 20).expect("longer");
        let (arena, runs) = Arena::adopt(fd, 1 << 20).expect("made");
        assert_eq!((arena.capacity(), runs.len()), (1 << 20, 0));
    }

    #[test]
    fn memory_that_is_no_arena_is_refused() {
        use std::os::unix::fs::FileExt;
        let arena = Arc::new(Arena::create(1 << 20).expect("memory"));
        for (at, bytes) in [(0, [1; 8]), (8, [0xff; 8]), (8, [0; 8]), (16, [3; 8]), (24, [1; 8])] {
            let fd = arena.memory().try_clone_to_owned().expect("descriptor");
            let file = std::fs::File::from(fd.try_clone().expect("descriptor"));
            let mut former = [0; 8];
            file.read_exact_at(&mut former, at).expect("read");
            file.write_all_at(&bytes, at).expect("written");
            assert!(Arena::adopt(fd, 0).is_err(), "{at}");
            file.write_all_at(&former, at).expect("restored");
        }
    }
}
