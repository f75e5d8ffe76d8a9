//! One file of the disk cache: a part of an object, what is known of the object, and a hash for each
//! block, so that a part of the file is checked without reading all of it.

use super::{Body, ETag};
use crate::units::ByteRange;
use crate::world::Timestamp;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of one block, which has one hash.
const BLOCK: u64 = 64 << 10;
/// Bytes kept of a block's hash.
const HASH: u64 = 16;
/// Bytes before the payload: format, sizes, time, and the ETag, filled with zeros.
const HEADER: u64 = 256;
const FORMAT: &[u8; 8] = b"srcache1";
/// What is known of an object, in the head of each of its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) payload: u64,
    pub(super) size: u64,
    pub(super) modified: Timestamp,
    pub(super) etag: ETag,
}

/// Bytes of the file for a payload.
pub(super) fn file_size(payload: u64) -> u64 {
    HEADER + payload + payload.div_ceil(BLOCK) * HASH
}

/// How much payload a file of a size has; `None`: no entry has this size.
pub(super) fn payload_of(size: u64) -> Option<u64> {
    let rest = size.checked_sub(HEADER).filter(|rest| *rest > HASH)?;
    let blocks = rest.div_ceil(BLOCK + HASH);
    rest.checked_sub(blocks * HASH).filter(|payload| payload.div_ceil(BLOCK) == blocks)
}

impl Head {
    /// `None`: the ETag is too long for it.
    pub(super) fn encode(&self) -> Option<[u8; HEADER as usize]> {
        let Self { payload, size, modified, etag } = self;
        let mut header = [0; HEADER as usize];
        header[..8].copy_from_slice(FORMAT);
        header[8..16].copy_from_slice(&payload.to_be_bytes());
        header[16..24].copy_from_slice(&size.to_be_bytes());
        header[24..32].copy_from_slice(&modified.0.to_be_bytes());
        header[32] = u8::try_from(etag.0.len()).ok()?;
        header.get_mut(33..33 + etag.0.len())?.copy_from_slice(etag.0.as_bytes());
        Some(header)
    }

    fn decode(header: &[u8; HEADER as usize]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(header[at..at + 8].try_into().ok()?));
        if header[..8] != FORMAT[..] {
            return None;
        }
        let etag = header.get(33..33 + usize::from(header[32]))?;
        Some(Self {
            payload: number(8)?,
            size: number(16)?,
            modified: Timestamp(i64::from_be_bytes(header[24..32].try_into().ok()?)),
            etag: ETag(String::from_utf8(etag.to_vec()).ok()?),
        })
    }
}

fn hash(header: &[u8], block: u64, bytes: &[u8]) -> [u8; HASH as usize] {
    let mut hash = blake3::Hasher::new();
    hash.update(header).update(&block.to_be_bytes()).update(bytes);
    let mut short = [0; HASH as usize];
    short.copy_from_slice(&hash.finalize().as_bytes()[..HASH as usize]);
    short
}

pub(super) fn write_entry(path: &Path, header: &[u8], body: &Body) -> io::Result<()> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    file.write_all(header)?;
    let mut hashes = Vec::new();
    for block in 0..(body.len() as u64).div_ceil(BLOCK) {
        let start = (block * BLOCK) as usize;
        let end = (start + BLOCK as usize).min(body.len());
        let bytes = body.range(start..end).ok_or_else(|| io::Error::other("a short body"))?;
        hashes.extend_from_slice(&hash(header, block, &bytes));
        file.write_all(&bytes)?;
    }
    file.write_all(&hashes)?;
    file.flush()
}

/// Reads a part of an entry and checks the blocks that it lies in.
pub(super) fn read_entry(path: &Path, part: ByteRange) -> io::Result<(Head, Bytes)> {
    let damaged = || io::Error::other("a damaged entry");
    let file = File::open(path)?;
    let mut header = [0; HEADER as usize];
    file.read_exact_at(&mut header, 0)?;
    let head = Head::decode(&header).ok_or_else(damaged)?;
    let size = file.metadata()?.len();
    if payload_of(size) != Some(head.payload) || part.end() > head.payload || part.is_empty() {
        return Err(damaged());
    }
    let (first, last) = (part.offset() / BLOCK, (part.end() - 1) / BLOCK);
    let start = first * BLOCK;
    let end = ((last + 1) * BLOCK).min(head.payload);
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact_at(&mut bytes, HEADER + start)?;
    let mut hashes = vec![0; ((last - first + 1) * HASH) as usize];
    file.read_exact_at(&mut hashes, HEADER + head.payload + first * HASH)?;
    let blocks = bytes.chunks(BLOCK as usize).zip(hashes.chunks(HASH as usize));
    for (block, (bytes, stored)) in (first..).zip(blocks) {
        if hash(&header, block, bytes) != *stored {
            return Err(damaged());
        }
    }
    let from = (part.offset() - start) as usize;
    Ok((head, Bytes::from(bytes).slice(from..from + part.length() as usize)))
}

#[cfg(test)]
mod tests {
    use super::super::{Key, Object, ObjectMeta};
    use super::*;
    use std::fs;

    fn object(bytes: &[u8]) -> Object {
        let meta = ObjectMeta {
            key: Key::new("d/x").expect("a key"),
            size: 1 << 30,
            etag: ETag("\"mark\"".to_owned()),
            modified: Timestamp(7),
        };
        let body = Bytes::copy_from_slice(bytes).into();
        Object { meta, body, date: Timestamp(9), metadata: Default::default() }
    }

    #[test]
    fn every_part_of_an_entry_comes_back_and_a_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("entry");
        let bytes: Vec<u8> = (0..2 * BLOCK + 77).map(|at| (at % 251) as u8).collect();
        let object = object(&bytes);
        let ObjectMeta { key: _, size, etag, modified } = object.meta.clone();
        let head = Head { payload: bytes.len() as u64, size, modified, etag };
        let header = head.encode().expect("short");
        write_entry(&path, &header, &object.body).expect("written");
        let file_size = fs::metadata(&path).expect("there").len();
        assert_eq!(payload_of(file_size), Some(bytes.len() as u64));
        let whole = bytes.len() as u64;
        for (start, end) in [(0, whole), (0, 1), (BLOCK - 1, BLOCK + 1), (whole - 1, whole)] {
            let (read, part) =
                read_entry(&path, ByteRange::between(start, end)).expect("a whole entry");
            assert_eq!((read, &part[..]), (head.clone(), &bytes[start as usize..end as usize]));
        }
        read_entry(&path, ByteRange::between(0, whole + 1)).expect_err("more than there is");
        let stored = fs::read(&path).expect("read");
        for at in [0, 9, 40, HEADER as usize + 5, stored.len() - 1] {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).expect("written");
            read_entry(&path, ByteRange::between(0, whole)).expect_err("changed");
        }
        for length in [0, 1, HEADER as usize, stored.len() - 1] {
            fs::write(&path, &stored[..length]).expect("written");
            read_entry(&path, ByteRange::between(0, 1)).expect_err("cut");
        }
    }

    #[test]
    fn only_sizes_that_an_entry_can_have_are_taken_for_one() {
        for payload in [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 5 * BLOCK + 1] {
            let size = HEADER + payload + payload.div_ceil(BLOCK) * HASH;
            assert_eq!(payload_of(size), Some(payload));
        }
        for size in [0, HEADER, HEADER + HASH, HEADER + BLOCK + HASH + 3] {
            assert_eq!(payload_of(size), None, "{size}");
        }
    }
}
