//! Segments: immutable pieces of file data.
//!
//! Object: header of 32 bytes, then one frame (see `frame`) per 64 KiB of plaintext, the last one
//! shorter. Header: magic `SRSEGMNT`, version 1, suite, log2 of the chunk size (16), 0, number of the
//! master key (4, big-endian), 16 zero bytes. Key: HKDF-SHA256(master, salt = segment id, file id;
//! info = label, volume id, header). Nonce of a chunk: its index (4), then the length of the whole
//! segment's plaintext (8), both big-endian; so a chunk opens only at its place in a segment of that
//! length, and cutting, reordering, splicing and swapping fail.
//!
//! Whoever seals must use a segment id for one content only, ever: the nonces would repeat.

use super::derive;
use super::error::CryptoError;
use super::frame::{FrameKey, FrameNonce, TAG};
use super::keyring::{Keyring, MasterNumber};
use super::suite::Suite;
use crate::units::{ByteRange, FileId, SegmentId};
use crate::world::Entropy;

/// Plaintext bytes of a chunk; the last chunk of a segment may have fewer.
pub const CHUNK: u64 = 65536;
/// Bytes of the header of a segment's object.
pub const SEGMENT_HEADER: u64 = 32;
/// The longest plaintext of one segment.
pub const MAX_SEGMENT: u64 = 64 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"SRSEGMNT";
const VERSION: u8 = 1;
const CHUNK_LOG2: u8 = 16;
const DAMAGED: CryptoError = CryptoError::Damaged { what: "segment" };

/// Chunks of CFB that are laid out, enciphered and authenticated together: as many as go side by side
/// (see `cfb`). The other suites go chunk by chunk, each still in the nearest cache when it is sealed.
const BATCH: usize = 8;

/// All that must be known about a segment to open any part of it; kept in sealed records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSpec {
    /// Its id.
    pub segment: SegmentId,
    /// The file it was sealed for.
    pub file: FileId,
    /// The master key it was sealed under.
    pub master: MasterNumber,
    /// Plaintext length of the whole segment in bytes.
    pub length: u64,
}

impl Keyring {
    /// Seals the parts, one after the other, as one segment; returns the object and its description.
    ///
    /// # Errors
    /// `Invalid` if there is no byte to seal, `Limit` beyond [`MAX_SEGMENT`].
    pub fn seal_segment(
        &self,
        segment: SegmentId,
        file: FileId,
        parts: &[&[u8]],
        entropy: &dyn Entropy,
    ) -> Result<(Vec<u8>, SegmentSpec), CryptoError> {
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let spec = SegmentSpec { segment, file, master: self.current_master(), length };
        let key = self.segment_key(&spec)?;
        let suite = self.suite();
        let mut object = Vec::with_capacity(to_usize(self.sealed_length(length)));
        object.extend_from_slice(&self.segment_header(spec.master));
        let mut plaintext = Parts { parts, used: 0 };
        let mut ivs = [0; 16 * BATCH];
        let mut index = 0;
        while index < chunk_count(length) {
            let batch = if suite.before() > 0 { BATCH as u32 } else { 1 };
            let chunks = (chunk_count(length) - index).min(batch);
            let start = object.len();
            if let FrameKey::Gcm(_) = key
                && let Some(content) = plaintext.whole(chunk_length(length, index))
            {
                // From buffer to buffer, which saves a copy.
                object.resize(start + content.len() + TAG, 0);
                key.seal_apart(nonce(index, length), content, &mut object[start..]);
                index += chunks;
                continue;
            }
            if suite.before() > 0 {
                entropy.fill(&mut ivs[..16 * chunks as usize]);
            }
            for (chunk, iv) in (index..index + chunks).zip(ivs.chunks_exact(16)) {
                object.extend_from_slice(&iv[..suite.before()]);
                plaintext.copy(chunk_length(length, chunk), &mut object);
                object.extend_from_slice(&[0; TAG]);
            }
            seal_batch(&key, length, index, suite, &mut object[start..]);
            index += chunks;
        }
        Ok((object, spec))
    }

    /// Bytes of the object of a segment with so many bytes of plaintext. Saturates for lengths that
    /// no segment has.
    pub fn sealed_length(&self, length: u64) -> u64 {
        let overhead = length.div_ceil(CHUNK).saturating_mul(self.suite().overhead() as u64);
        length.saturating_add(overhead).saturating_add(SEGMENT_HEADER)
    }

    /// Which bytes of the object to fetch to read `range` of a segment with `length` bytes of
    /// plaintext, and the first chunk they hold. Whole chunks; what lies behind the end is left out, and
    /// nothing to read is an empty range.
    pub fn sealed_range(&self, length: u64, range: ByteRange) -> (u32, ByteRange) {
        let length = length.min(MAX_SEGMENT);
        let range = range.intersection(ByteRange::new(0, length));
        if range.is_empty() {
            return (0, ByteRange::new(SEGMENT_HEADER, 0));
        }
        let stride = CHUNK + self.suite().overhead() as u64;
        let first = range.offset() / CHUNK;
        let end = SEGMENT_HEADER + range.end().div_ceil(CHUNK) * stride;
        let end = end.min(self.sealed_length(length));
        (first as u32, ByteRange::between(SEGMENT_HEADER + first * stride, end))
    }

    /// Opens whole consecutive chunks from `first_chunk` on and appends their plaintext.
    ///
    /// # Errors
    /// `Damaged` if any of them does not verify or they are not whole; `out` is then as it was.
    /// `UnknownMaster`, `Limit` and `Invalid` for a description that no segment of this volume has.
    pub fn open_chunks(
        &self,
        spec: &SegmentSpec,
        first_chunk: u32,
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let opener = self.segment_opener(spec)?;
        let start = out.len();
        out.reserve(sealed.len());
        let mut rest = sealed;
        let mut index = first_chunk;
        while !rest.is_empty() {
            let frame = opener.sealed_chunk(index).and_then(|size| rest.split_at_checked(size));
            let opened = frame.ok_or(DAMAGED).and_then(|(frame, after)| {
                rest = after;
                opener.open(index, frame, out)
            });
            if let Err(error) = opened {
                // What verified before stays correct, but the caller is promised all or nothing.
                zeroize::Zeroize::zeroize(&mut out[start..]);
                out.truncate(start);
                return Err(error);
            }
            index += 1;
        }
        Ok(())
    }

    /// Opens chunks one by one, the segment's key derived once.
    ///
    /// # Errors
    /// `UnknownMaster`, `Limit` and `Invalid` for a description that no segment of this volume has.
    pub fn segment_opener(&self, spec: &SegmentSpec) -> Result<SegmentOpener, CryptoError> {
        let key = self.segment_key(spec)?;
        Ok(SegmentOpener { key, length: spec.length, overhead: self.suite().overhead() })
    }

    /// Opens a whole object, its header and length included.
    ///
    /// # Errors
    /// As [`Keyring::open_chunks`], and `NewerVersion`.
    pub fn open_segment(&self, spec: &SegmentSpec, object: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let (header, sealed) = object.split_first_chunk::<32>().ok_or(DAMAGED)?;
        if header[..8] == *MAGIC && header[8] > VERSION {
            return Err(CryptoError::NewerVersion { what: "segment", version: header[8] });
        }
        if *header != self.segment_header(spec.master)
            || object.len() as u64 != self.sealed_length(spec.length)
        {
            return Err(DAMAGED);
        }
        let mut plaintext = Vec::new();
        self.open_chunks(spec, 0, sealed, &mut plaintext)?;
        Ok(plaintext)
    }

    fn segment_header(&self, master: MasterNumber) -> [u8; 32] {
        let mut header = [0; 32];
        header[..8].copy_from_slice(MAGIC);
        header[8] = VERSION;
        header[9] = self.suite().code();
        header[10] = CHUNK_LOG2;
        header[12..16].copy_from_slice(&master.0.to_be_bytes());
        header
    }

    fn segment_key(&self, spec: &SegmentSpec) -> Result<FrameKey, CryptoError> {
        let SegmentSpec { segment, file, master, length } = *spec;
        if length == 0 {
            return Err(CryptoError::Invalid { why: "a segment holds at least one byte" });
        }
        if length > MAX_SEGMENT {
            return Err(CryptoError::Limit { what: "bytes in a segment", limit: MAX_SEGMENT });
        }
        let mut salt = [0; 40];
        salt[..24].copy_from_slice(&segment.to_bytes());
        salt[24..].copy_from_slice(&file.0);
        let header = self.segment_header(master);
        let info: [&[u8]; 3] = [derive::SEGMENT, &self.volume().0, &header];
        FrameKey::derive(self.suite(), self.master(master)?, &salt, &info)
    }
}

/// Opens the chunks of one segment.
pub struct SegmentOpener {
    key: FrameKey,
    length: u64,
    overhead: usize,
}

impl SegmentOpener {
    /// Sealed bytes of a chunk; `None` behind the segment's end.
    pub fn sealed_chunk(&self, index: u32) -> Option<usize> {
        (index < chunk_count(self.length)).then(|| chunk_length(self.length, index) + self.overhead)
    }

    /// Opens one whole chunk and appends its plaintext.
    ///
    /// # Errors
    /// `Damaged` if it does not verify as this chunk; `out` is then as it was.
    pub fn open(&self, index: u32, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), CryptoError> {
        if self.sealed_chunk(index) != Some(sealed.len()) {
            return Err(DAMAGED);
        }
        self.key.open(nonce(index, self.length), &[], sealed, out, "segment")
    }
}

/// Seals consecutive chunks that are laid out with room for IV and tag.
fn seal_batch(key: &FrameKey, length: u64, first: u32, suite: Suite, frames: &mut [u8]) {
    let frames = frames.chunks_mut(CHUNK as usize + suite.overhead());
    match key {
        FrameKey::Cfb { cipher, .. } => {
            let mut frames: Vec<&mut [u8]> = frames.collect();
            cipher.encrypt_frames(&mut frames);
            for (index, frame) in (first..).zip(frames) {
                key.authenticate(nonce(index, length), &[], frame);
            }
        }
        FrameKey::Gcm(_) | FrameKey::Checksum(_) => {
            for (index, frame) in (first..).zip(frames) {
                key.seal(nonce(index, length), &[], frame);
            }
        }
    }
}

/// Reads the parts as if they were one slice.
struct Parts<'a> {
    parts: &'a [&'a [u8]],
    used: usize,
}

impl<'a> Parts<'a> {
    /// The next bytes if they lie in one part.
    fn whole(&mut self, wanted: usize) -> Option<&'a [u8]> {
        let whole = self.parts.first()?.get(self.used..)?.get(..wanted)?;
        self.skip(wanted);
        Some(whole)
    }

    fn copy(&mut self, mut wanted: usize, out: &mut Vec<u8>) {
        while wanted > 0 {
            // The caller asks for no more than the sum of the parts' lengths.
            let left = &self.parts[0][self.used..];
            let now = wanted.min(left.len());
            out.extend_from_slice(&left[..now]);
            wanted -= now;
            self.skip(now);
        }
    }

    /// Goes on by so many bytes of the first part.
    fn skip(&mut self, count: usize) {
        self.used += count;
        if self.used == self.parts[0].len() {
            self.parts = &self.parts[1..];
            self.used = 0;
        }
    }
}

fn nonce(index: u32, length: u64) -> FrameNonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&index.to_be_bytes());
    nonce[4..].copy_from_slice(&length.to_be_bytes());
    nonce
}

/// `length` is at most [`MAX_SEGMENT`] here.
fn chunk_count(length: u64) -> u32 {
    length.div_ceil(CHUNK) as u32
}

/// Plaintext bytes of a chunk that exists.
fn chunk_length(length: u64, index: u32) -> usize {
    to_usize((length - u64::from(index) * CHUNK).min(CHUNK))
}

fn to_usize(bounded: u64) -> usize {
    // At most a sealed segment, far below any address space's size.
    usize::try_from(bounded).expect("segments fit into memory")
}
