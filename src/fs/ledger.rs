//! What must outlive this process, as keys and values in a memory file that another process holds too:
//! whoever takes over reads them and goes on writing. Written as it changes; a process that is killed at
//! any instruction leaves every change that was finished, and at most one that is recognised as torn.
//!
//! Layout, all numbers little endian. The first block has two header slots of 64 bytes (magic, version,
//! generation, offset and length of a region, whether a change could not be written, checksum); the valid
//! one of the higher generation counts. The region has entries back to back (length of key and value,
//! length of the key, kind, checksum, key, value), then zeros. A later entry of a key wins; one of kind
//! `REMOVED` takes the key away. A full region is rewritten without what is out of date into another, larger
//! if need be, and the header slot that does not count is written last.
//!
//! Read as hostile: every length is bounded by what is there before memory is taken. What follows a torn
//! entry was never written, so anything but zeros there means that the memory is damaged, and the reader is
//! told: it must not take silence for completeness.

use nix::fcntl::{FallocateFlags, fallocate};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The version of the layout and of what is in it. Another one is not taken over.
const VERSION: u32 = 1;
const MAGIC: u64 = u64::from_le_bytes(*b"SRLEDGR1");
const HEADER: u64 = 4096;
const SLOT: usize = 64;
const ENTRY: usize = 16;
const PUT: u16 = 1;
const REMOVED: u16 = 2;
/// The smallest region.
const REGION: u64 = 64 << 10;
/// A region is never larger: a state that big is a fault, and is told as one.
const LARGEST: u64 = 1 << 30;
/// A key and its value, at most.
const LONGEST: usize = 1 << 20;

/// The memory, and where in it everything is.
pub(crate) struct Ledger {
    file: File,
    inner: Mutex<Inner>,
}

struct Inner {
    generation: u64,
    region: Region,
    /// Bytes of the region in use.
    used: u64,
    /// Where the newest entry of each key is: its offset in the region and its length.
    index: HashMap<Vec<u8>, (u64, u32)>,
    /// Bytes of those entries.
    live: u64,
    /// A change could not be written: whoever takes over knows that something is missing.
    incomplete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Region {
    offset: u64,
    length: u64,
}

/// What a former process left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The newest value of each key, in no order.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Not everything is there.
    pub damaged: bool,
}

impl Ledger {
    /// Goes on with what is in the memory, or makes it ready if it is empty (`None` then).
    ///
    /// # Errors
    /// If the memory is no ledger, or one of another version.
    pub(super) fn open(file: File) -> io::Result<(Self, Option<Found>)> {
        let length = file.metadata()?.len();
        if length == 0 {
            file.set_len(HEADER + REGION)?;
            let region = Region { offset: HEADER, length: REGION };
            let inner = Inner {
                generation: 0,
                region,
                used: 0,
                index: HashMap::new(),
                live: 0,
                incomplete: false,
            };
            let ledger = Self { file, inner: Mutex::new(inner) };
            ledger.write_header(0, region, false)?;
            return Ok((ledger, None));
        }
        let (generation, region, incomplete) = newest_slot(&file, length)?;
        let mut bytes = vec![0; region.length as usize];
        file.read_exact_at(&mut bytes, region.offset)?;
        let mut parsed = parse(&bytes, generation);
        parsed.damaged |= incomplete;
        let mut index = HashMap::new();
        let mut live = 0;
        let mut entries = Vec::new();
        for (key, (at, value)) in parsed.entries {
            let whole = (ENTRY + key.len() + value.len()) as u32;
            live += u64::from(whole);
            entries.push((key.to_vec(), value.to_vec()));
            index.insert(key.to_vec(), (at as u64, whole));
        }
        let found = Found { entries, damaged: parsed.damaged };
        let used = parsed.used as u64;
        // A torn entry is followed by nothing: the next one is written over it.
        clear(&file, region.offset + used, region.length - used)?;
        let inner = Inner { generation, region, used, index, live, incomplete: found.damaged };
        Ok((Self { file, inner: Mutex::new(inner) }, Some(found)))
    }

    /// Enters a value. A failure is not the caller's to handle: it is noted in the memory, so that whoever
    /// takes over knows.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) {
        let mut inner = self.inner.lock();
        let entry = entry(PUT, key, value, inner.generation, inner.used);
        let length = entry.len() as u32;
        let written = if key.len() + value.len() > LONGEST || key.len() > usize::from(u16::MAX) {
            Err(io::Error::other("an entry is too long"))
        } else {
            self.append(&mut inner, entry, PUT, key, value)
        };
        match written {
            Ok(at) => {
                inner.live += u64::from(length);
                if let Some((_, former)) = inner.index.insert(key.to_vec(), (at, length)) {
                    inner.live -= u64::from(former);
                }
            }
            Err(error) => self.failed(&mut inner, &error),
        }
    }

    /// Takes a key away, if it is there.
    pub(super) fn remove(&self, key: &[u8]) {
        let mut inner = self.inner.lock();
        let Some((_, former)) = inner.index.remove(key) else { return };
        inner.live -= u64::from(former);
        let entry = entry(REMOVED, key, &[], inner.generation, inner.used);
        if let Err(error) = self.append(&mut inner, entry, REMOVED, key, &[]) {
            self.failed(&mut inner, &error);
        }
    }

    fn append(
        &self,
        inner: &mut Inner,
        mut bytes: Vec<u8>,
        kind: u16,
        key: &[u8],
        value: &[u8],
    ) -> io::Result<u64> {
        if inner.used + bytes.len() as u64 > inner.region.length {
            self.rewrite(inner, bytes.len() as u64)?;
            // Bound to its place.
            bytes = entry(kind, key, value, inner.generation, inner.used);
        }
        let at = inner.used;
        self.file.write_all_at(&bytes, inner.region.offset + at)?;
        inner.used += bytes.len() as u64;
        Ok(at)
    }

    /// Writes what counts into another region, with room for `more` and as much again.
    fn rewrite(&self, inner: &mut Inner, more: u64) -> io::Result<()> {
        let former = inner.region;
        let length = ((inner.live + more) * 2).next_power_of_two().max(REGION);
        if length > LARGEST {
            return Err(io::Error::other("the state of this mount is over 512 MiB"));
        }
        let low = former.offset >= HEADER + length;
        let offset = if low { HEADER } else { former.offset + former.length };
        let region = Region { offset, length };
        if self.file.metadata()?.len() < offset + length {
            self.file.set_len(offset + length)?;
        }
        let mut old = vec![0; inner.used as usize];
        self.file.read_exact_at(&mut old, former.offset)?;
        let generation = inner.generation + 1;
        let mut new = Vec::with_capacity(inner.live as usize);
        let mut index = HashMap::with_capacity(inner.index.len());
        for (key, &(at, length)) in &inner.index {
            let value = &old[at as usize + ENTRY + key.len()..(at + u64::from(length)) as usize];
            let at = new.len() as u64;
            new.extend_from_slice(&entry(PUT, key, value, generation, at));
            index.insert(key.clone(), (at, length));
        }
        // What a process that was killed in here left.
        clear(&self.file, offset, length)?;
        self.file.write_all_at(&new, offset)?;
        self.write_header(generation, region, inner.incomplete)?;
        inner.index = index;
        (inner.generation, inner.region, inner.used) = (generation, region, new.len() as u64);
        // What stays there is cleared before the next use, and takes memory until then.
        if let Err(error) = clear(&self.file, former.offset, former.length) {
            tracing::warn!("memory of the ledger is not given back: {error}");
        }
        Ok(())
    }

    /// Whoever must know that something was missing has been told: what these keys said made no sense.
    pub(super) fn told(&self, senseless: &[Vec<u8>]) {
        senseless.iter().for_each(|key| self.remove(key));
        let mut inner = self.inner.lock();
        if !inner.incomplete {
            return;
        }
        match self.write_header(inner.generation, inner.region, false) {
            Ok(()) => inner.incomplete = false,
            Err(error) => tracing::warn!("the ledger still counts as damaged: {error}"),
        }
    }

    fn write_header(&self, generation: u64, region: Region, incomplete: bool) -> io::Result<()> {
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&MAGIC.to_le_bytes());
        slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
        slot[12..16].copy_from_slice(&u32::from(incomplete).to_le_bytes());
        slot[16..24].copy_from_slice(&generation.to_le_bytes());
        slot[24..32].copy_from_slice(&region.offset.to_le_bytes());
        slot[32..40].copy_from_slice(&region.length.to_le_bytes());
        let sum = checksum(0, &[&slot[..40]]);
        slot[40..48].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&slot, (generation % 2) * SLOT as u64)
    }

    fn failed(&self, inner: &mut Inner, error: &io::Error) {
        if !std::mem::replace(&mut inner.incomplete, true) {
            tracing::error!(
                "what a next worker would need cannot be kept: after a crash, open files that were \
                 written to will report EIO: {error}"
            );
        }
        // In place: the region is the same. If this fails too, there is nothing left to try.
        let _ = self.write_header(inner.generation, inner.region, true);
    }
}

/// Zeros again, and no memory.
fn clear(file: &File, offset: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, flags, offset as i64, length as i64)?)
}

/// The header slot that counts: its generation, region, and whether something is missing.
fn newest_slot(file: &File, length: u64) -> io::Result<(u64, Region, bool)> {
    let mut newest: Option<(u64, Region, bool)> = None;
    let mut other_version = None;
    for index in 0..2 {
        let mut slot = [0; SLOT];
        if file.read_exact_at(&mut slot, index * SLOT as u64).is_err() {
            continue;
        }
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&slot[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        if number(0) != MAGIC || number(40) != checksum(0, &[&slot[..40]]) {
            continue;
        }
        let version = number(8) as u32;
        if version != VERSION {
            other_version = Some(version);
            continue;
        }
        let region = Region { offset: number(24), length: number(32) };
        let inside = region.length <= LARGEST
            && region.offset.checked_add(region.length).is_some_and(|end| end <= length)
            && region.offset >= HEADER;
        let generation = number(16);
        if inside && newest.is_none_or(|(known, ..)| generation > known) {
            newest = Some((generation, region, number(8) >> 32 != 0));
        }
    }
    newest.ok_or_else(|| {
        io::Error::other(match other_version {
            Some(version) => format!(
                "the state that the former worker left is of version {version}, this program knows \
                 {VERSION}: use the program that wrote it, or unstage the volume"
            ),
            None => "the state that the former worker left is damaged".to_owned(),
        })
    })
}

/// The newest value of each key and where its entry is.
type Entries<'a> = HashMap<&'a [u8], (usize, &'a [u8])>;

struct Parsed<'a> {
    entries: Entries<'a>,
    used: usize,
    damaged: bool,
}

/// Reads a region. Never fails: what cannot be read ends it.
fn parse(region: &[u8], generation: u64) -> Parsed<'_> {
    let mut entries = Entries::new();
    let mut at = 0;
    while let Some((kind, key, value)) = whole_entry(region, generation, at) {
        match kind {
            PUT => entries.insert(key, (at, value)),
            _ => entries.remove(key),
        };
        at += ENTRY + key.len() + value.len();
    }
    // One entry may be torn: beyond what it could have covered there is nothing.
    let torn = claimed(region, at).unwrap_or(ENTRY);
    let beyond = region.get(at + torn..).unwrap_or_default();
    Parsed { entries, used: at, damaged: beyond.iter().any(|byte| *byte != 0) }
}

/// The length that the entry at `at` says it has, with its header; `None` if it cannot be.
fn claimed(region: &[u8], at: usize) -> Option<usize> {
    let header = region.get(at..at + ENTRY)?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    (length <= LONGEST).then_some(ENTRY + length)
}

fn whole_entry(region: &[u8], generation: u64, at: usize) -> Option<(u16, &[u8], &[u8])> {
    let length = claimed(region, at)?;
    let bytes = region.get(at..at + length)?;
    let key_length = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
    let kind = u16::from_le_bytes([bytes[6], bytes[7]]);
    if !matches!(kind, PUT | REMOVED) || key_length > length - ENTRY {
        return None;
    }
    let mut sum = [0; 8];
    sum.copy_from_slice(&bytes[8..ENTRY]);
    let (key, value) = bytes[ENTRY..].split_at(key_length);
    let right = checksum(bound_to(generation, at as u64), &[&bytes[..8], key, value]);
    (u64::from_le_bytes(sum) == right).then_some((kind, key, value))
}

fn entry(kind: u16, key: &[u8], value: &[u8], generation: u64, at: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENTRY + key.len() + value.len());
    bytes.extend_from_slice(&((key.len() + value.len()) as u32).to_le_bytes());
    bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    let sum = checksum(bound_to(generation, at), &[&bytes, key, value]);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes
}

/// An entry of another place or of a former use of the region is not taken for one of this.
fn bound_to(generation: u64, at: u64) -> u64 {
    generation.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at
}

/// Against tearing, not against an adversary: eight bytes at a time, multiplied and folded.
fn checksum(seed: u64, parts: &[&[u8]]) -> u64 {
    const FACTOR: u64 = 0x9fb2_1c65_1e98_df25;
    let mut sum = seed ^ 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for chunk in part.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            let product = u128::from(sum ^ u64::from_le_bytes(bytes)) * u128::from(FACTOR);
            sum = (product as u64) ^ ((product >> 64) as u64);
        }
        sum = (sum ^ part.len() as u64).wrapping_mul(FACTOR);
    }
    sum
}

/// What memory that begins with these bytes, and goes on with zeros, holds. For tests and for the fuzzer.
#[doc(hidden)]
pub fn read(bytes: &[u8]) -> io::Result<Found> {
    let file = memory()?;
    file.write_all_at(bytes, 0)?;
    file.set_len((bytes.len() as u64).max(HEADER + REGION))?;
    Ledger::open(file).map(|(_, found)| found.unwrap_or_default())
}

/// Memory with these entries, without the zeros at its end. For tests and for the fuzzer.
#[doc(hidden)]
pub fn written(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let write = || -> io::Result<Vec<u8>> {
        let file = memory()?;
        let (ledger, _) = Ledger::open(file.try_clone()?)?;
        entries.iter().for_each(|(key, value)| ledger.put(key, value));
        let mut bytes = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(end);
        Ok(bytes)
    };
    write().unwrap_or_default()
}

fn memory() -> io::Result<File> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    Ok(nix::sys::memfd::memfd_create(c"strongroom-ledger", flags)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn memory() -> File {
        super::memory().expect("memory")
    }

    fn sorted(found: Option<Found>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let found = found.expect("entries");
        assert!(!found.damaged);
        found.entries.into_iter().collect()
    }

    #[test]
    fn the_next_process_finds_what_the_last_one_wrote_and_goes_on() {
        let file = memory();
        let (ledger, found) = Ledger::open(file.try_clone().expect("copy")).expect("new");
        assert_eq!(found, None);
        ledger.put(b"a", b"1");
        ledger.put(b"b", b"2");
        ledger.put(b"a", b"3");
        ledger.remove(b"b");
        ledger.remove(b"c");
        drop(ledger);
        let (ledger, found) = Ledger::open(file.try_clone().expect("copy")).expect("taken over");
        assert_eq!(sorted(found), BTreeMap::from([(b"a".to_vec(), b"3".to_vec())]));
        ledger.put(b"d", b"4");
        drop(ledger);
        let (_, found) = Ledger::open(file).expect("taken over again");
        assert_eq!(sorted(found).len(), 2);
    }

    #[test]
    fn what_a_killed_rewrite_left_and_damage_that_was_told_are_no_damage() {
        let file = memory();
        let (ledger, _) = Ledger::open(file.try_clone().expect("copy")).expect("new");
        ledger.put(b"kept", b"1");
        // Killed before the header of the other region was written.
        let length = HEADER + 3 * REGION;
        file.set_len(length).expect("longer");
        file.write_all_at(&[7; 2 * REGION as usize], HEADER + REGION).expect("left");
        for round in 0..2000_u32 {
            ledger.put(b"other", &[round as u8; 100]);
        }
        drop(ledger);
        let (ledger, found) = Ledger::open(file.try_clone().expect("copy")).expect("taken over");
        assert_eq!(sorted(found).len(), 2);
        // Damage is told to each process until one says that it has passed it on.
        let inner = ledger.inner.lock();
        ledger.write_header(inner.generation, inner.region, true).expect("written");
        drop(inner);
        drop(ledger);
        for _ in 0..2 {
            let (_, found) = Ledger::open(file.try_clone().expect("copy")).expect("taken over");
            assert!(found.expect("entries").damaged);
        }
        let (ledger, _) = Ledger::open(file.try_clone().expect("copy")).expect("taken over");
        ledger.told(&[b"other".to_vec()]);
        drop(ledger);
        let (_, found) = Ledger::open(file).expect("taken over");
        assert_eq!(sorted(found), BTreeMap::from([(b"kept".to_vec(), b"1".to_vec())]));
    }

    #[test]
    fn a_region_that_is_full_is_rewritten_and_grows_only_by_what_counts() {
        let file = memory();
        let (ledger, _) = Ledger::open(file.try_clone().expect("copy")).expect("new");
        let mut expected = BTreeMap::new();
        for round in 0..40_000_u32 {
            let (key, value) = ((round % 50).to_le_bytes().to_vec(), vec![round as u8; 200]);
            ledger.put(&key, &value);
            expected.insert(key, value);
        }
        drop(ledger);
        assert!(file.metadata().expect("length").len() <= HEADER + 2 * REGION);
        let (_, found) = Ledger::open(file).expect("taken over");
        assert_eq!(sorted(found), expected);
    }

    #[test]
    fn much_that_counts_makes_it_grow() {
        let file = memory();
        let (ledger, _) = Ledger::open(file.try_clone().expect("copy")).expect("new");
        for round in 0..20_000_u32 {
            ledger.put(&round.to_le_bytes(), &[round as u8; 200]);
        }
        drop(ledger);
        let (_, found) = Ledger::open(file).expect("taken over");
        assert_eq!(sorted(found).len(), 20_000);
    }

    #[test]
    fn a_torn_entry_is_left_out_and_written_over() {
        let whole = |cut: usize| {
            let file = memory();
            let (ledger, _) = Ledger::open(file.try_clone().expect("copy")).expect("new");
            ledger.put(b"first", b"1");
            let at = HEADER + ledger.inner.lock().used;
            ledger.put(b"torn", &[7; 100]);
            let end = HEADER + ledger.inner.lock().used;
            drop(ledger);
            // As if the process had been killed after `cut` bytes of the entry.
            let rest = vec![0; (end - at) as usize - cut];
            file.write_all_at(&rest, at + cut as u64).expect("torn");
            file
        };
        for cut in [0, 1, 3, 8, 15, 16, 50, 119] {
            let file = whole(cut);
            let (ledger, found) =
                Ledger::open(file.try_clone().expect("copy")).expect("taken over");
            assert_eq!(sorted(found).len(), 1, "{cut}");
            ledger.put(b"second", b"2");
            drop(ledger);
            assert_eq!(sorted(Ledger::open(file).expect("again").1).len(), 2, "{cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_told() {
        let file = memory();
        let (ledger, _) = Ledger::open(file.try_clone().expect("copy")).expect("new");
        ledger.put(b"a", b"1");
        ledger.put(b"b", &[1; 100]);
        ledger.put(b"c", &[2; 100]);
        drop(ledger);
        file.write_all_at(&[0xff], HEADER + 60).expect("damaged");
        let (_, found) = Ledger::open(file).expect("taken over");
        let found = found.expect("entries");
        assert!(found.damaged && found.entries.len() == 1);
    }

    #[test]
    fn what_could_not_be_kept_is_told_to_whoever_takes_over() {
        let file = memory();
        let (ledger, _) = Ledger::open(file.try_clone().expect("copy")).expect("new");
        ledger.put(b"a", b"1");
        ledger.put(b"b", &vec![0; LONGEST + 1]);
        drop(ledger);
        let (_, found) = Ledger::open(file).expect("taken over");
        let found = found.expect("entries");
        assert!(found.damaged && found.entries.len() == 1);
    }

    #[test]
    fn another_version_is_refused_with_a_remedy() {
        let file = memory();
        drop(Ledger::open(file.try_clone().expect("copy")).expect("new"));
        let mut slot = [0; SLOT];
        file.read_exact_at(&mut slot, 0).expect("slot");
        slot[8] = 9;
        let sum = checksum(0, &[&slot[..40]]);
        slot[40..48].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&slot, 0).expect("written");
        let error = Ledger::open(file).err().expect("refused").to_string();
        assert!(error.contains("version 9") && error.contains("unstage"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            damage in prop::collection::vec((0..6000_usize, any::<u8>()), 0..20),
            length in 0..10_000_usize,
        ) {
            let file = memory();
            let (ledger, _) = Ledger::open(file.try_clone().expect("copy")).expect("new");
            for key in 0..20_u8 {
                ledger.put(&[key], &vec![key; usize::from(key) * 5]);
            }
            drop(ledger);
            let mut bytes = vec![0; 12_000];
            file.read_exact_at(&mut bytes, 0).expect("bytes");
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            let _ = read(&bytes[..length]);
        }
    }
}
