//! Records: the small sealed objects that name and describe everything else.
//!
//! Object: header of 32 bytes, salt of 16, the head's frame, the body's frame unless the body is
//! empty, zero bytes up to a multiple of 16, and one more zero byte if the record is a tombstone, so
//! that a listing's sizes tell the two apart. Header: magic `SRRECORD`, version 1, suite, flags (1 =
//! tombstone), 0, number of the master key, length of the head, length of the body (4 each,
//! big-endian), 8 zero bytes.
//!
//! Key: HKDF-SHA256(master, salt = the record's; info = label, volume id). Nonce: 0 for the head, 1 for
//! the body. Associated data of both frames: header, salt, volume id, role, length and bytes of scope
//! and name, number of the frame. So the head alone vouches for the flag and for both lengths, and a
//! record that the store moved to another name, directory or volume does not open.

use super::derive;
use super::error::CryptoError;
use super::frame::{FrameKey, FrameNonce, TAG};
use super::keyring::{Keyring, MasterNumber};
use crate::world::Entropy;

/// The longest head in bytes.
pub const MAX_HEAD: u64 = 1024 * 1024;
/// The longest body in bytes.
pub const MAX_BODY: u64 = 1024 * 1024;
/// Header and salt: what must be read to know how long the head is.
pub const RECORD_PREFIX: u64 = 48;

const MAGIC: &[u8; 8] = b"SRRECORD";
const VERSION: u8 = 1;
const TOMBSTONE: u8 = 1;
const DAMAGED: CryptoError = CryptoError::Damaged { what: "record" };

/// What a record is for; sealed for one role it does not open in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A name in a directory (`t/`).
    Entry,
    /// The shared record of a file with several names (`i/`).
    Inode,
    /// A session (`s/`).
    Session,
    /// A shard of a directory's index (`x/`).
    Index,
    /// A write-once copy of the descriptor (`k/`).
    DescriptorCopy,
    /// A page of a long extent list (under `d/`).
    ExtentPage,
}

impl Role {
    const fn letter(self) -> u8 {
        match self {
            Role::Entry => b't',
            Role::Inode => b'i',
            Role::Session => b's',
            Role::Index => b'x',
            Role::DescriptorCopy => b'k',
            Role::ExtentPage => b'd',
        }
    }
}

/// The place a record is sealed for.
#[derive(Clone, Copy)]
pub struct RecordContext<'a> {
    /// What it is for.
    pub role: Role,
    /// Bytes of the directory's id, or empty.
    pub scope: &'a [u8],
    /// The plaintext name, or the full logical key.
    pub name: &'a [u8],
}

/// A record, opened.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenedRecord {
    /// The head.
    pub head: Vec<u8>,
    /// The body, maybe empty.
    pub body: Vec<u8>,
    /// Whether it buries its name.
    pub tombstone: bool,
    /// Its random salt: tells one sealing from any other.
    pub salt: [u8; 16],
}

/// The head of a record, opened without its body.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenedHead {
    /// The head.
    pub head: Vec<u8>,
    /// Whether it buries its name.
    pub tombstone: bool,
    /// Its random salt.
    pub salt: [u8; 16],
    /// Plaintext bytes of the body.
    pub body_length: u64,
    /// Bytes of the whole object.
    pub total_length: u64,
}

/// What a prefix of a record's object was good for.
#[derive(Clone, PartialEq, Eq)]
pub enum HeadOutcome {
    /// It held the head.
    Opened(OpenedHead),
    /// It did not: so many bytes from the start are needed. At most a little over [`MAX_HEAD`].
    NeedMore(u64),
}

/// The salt of a sealed record, unopened: tells whether an object is the very one that was sealed
/// here, after a reply was lost. `None` for what is too short to be a record.
pub fn record_salt(object: &[u8]) -> Option<[u8; 16]> {
    object.get(32..RECORD_PREFIX as usize)?.try_into().ok()
}

/// The number of the master key that a sealed record names, unopened and so not to be trusted: it tells
/// whether the descriptor is worth another look. `None` for what is too short to be a record.
pub fn record_master(object: &[u8]) -> Option<MasterNumber> {
    let number = object.get(12..16)?.try_into().ok()?;
    Some(MasterNumber(u32::from_be_bytes(number)))
}

impl Keyring {
    /// Seals a record.
    ///
    /// # Errors
    /// `Limit` if head or body is too long.
    pub fn seal_record(
        &self,
        ctx: &RecordContext<'_>,
        head: &[u8],
        body: &[u8],
        tombstone: bool,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, CryptoError> {
        let layout = Layout {
            tombstone,
            master: self.current_master(),
            head: bounded(head.len() as u64, MAX_HEAD, "bytes in a record's head")?,
            body: bounded(body.len() as u64, MAX_BODY, "bytes in a record's body")?,
            salt: entropy.bytes(),
            overhead: self.suite().overhead(),
        };
        let prefix = self.prefix(&layout);
        let key = self.record_key(&layout)?;
        let mut object = Vec::with_capacity(layout.total());
        object.extend_from_slice(&prefix);
        for (number, content) in [(0, head), (1, body)] {
            if number == 1 && content.is_empty() {
                continue;
            }
            let start = object.len();
            if self.suite().before() > 0 {
                object.extend_from_slice(&entropy.bytes::<16>());
            }
            object.extend_from_slice(content);
            object.extend_from_slice(&[0; TAG]);
            let aad = self.associated(&prefix, ctx, number);
            key.seal(nonce(number), &aad, &mut object[start..]);
        }
        object.resize(layout.total(), 0);
        Ok(object)
    }

    /// Opens a whole record.
    ///
    /// # Errors
    /// `Damaged`, `NewerVersion`, `UnknownMaster`.
    pub fn open_record(
        &self,
        ctx: &RecordContext<'_>,
        object: &[u8],
    ) -> Result<OpenedRecord, CryptoError> {
        let prefix = object.first_chunk::<{ RECORD_PREFIX as usize }>().ok_or(DAMAGED)?;
        let layout = self.parse(prefix)?;
        if object.len() != layout.total() {
            return Err(DAMAGED);
        }
        let frames = layout.body_end();
        if object[frames..].iter().any(|byte| *byte != 0) {
            return Err(DAMAGED);
        }
        let key = self.record_key(&layout)?;
        let mut head = Vec::with_capacity(layout.head as usize);
        let head_frame = &object[prefix.len()..layout.head_end()];
        key.open(nonce(0), &self.associated(prefix, ctx, 0), head_frame, &mut head, "record")?;
        let mut body = Vec::with_capacity(layout.body as usize);
        if layout.body > 0 {
            let body_frame = &object[layout.head_end()..frames];
            key.open(nonce(1), &self.associated(prefix, ctx, 1), body_frame, &mut body, "record")?;
        }
        Ok(OpenedRecord { head, body, tombstone: layout.tombstone, salt: layout.salt })
    }

    /// Opens the head from the first bytes of a record's object.
    ///
    /// # Errors
    /// `Damaged`, `NewerVersion`, `UnknownMaster`. A prefix that is too short is no error.
    pub fn open_record_head(
        &self,
        ctx: &RecordContext<'_>,
        prefix: &[u8],
    ) -> Result<HeadOutcome, CryptoError> {
        let Some(start) = prefix.first_chunk::<{ RECORD_PREFIX as usize }>() else {
            return Ok(HeadOutcome::NeedMore(RECORD_PREFIX));
        };
        let layout = self.parse(start)?;
        let Some(frame) = prefix.get(start.len()..layout.head_end()) else {
            return Ok(HeadOutcome::NeedMore(layout.head_end() as u64));
        };
        let key = self.record_key(&layout)?;
        let mut head = Vec::with_capacity(layout.head as usize);
        key.open(nonce(0), &self.associated(start, ctx, 0), frame, &mut head, "record")?;
        Ok(HeadOutcome::Opened(OpenedHead {
            head,
            tombstone: layout.tombstone,
            salt: layout.salt,
            body_length: layout.body.into(),
            total_length: layout.total() as u64,
        }))
    }

    fn prefix(&self, layout: &Layout) -> [u8; RECORD_PREFIX as usize] {
        let Layout { tombstone, master, head, body, salt, overhead: _ } = layout;
        let mut prefix = [0; RECORD_PREFIX as usize];
        prefix[..8].copy_from_slice(MAGIC);
        prefix[8] = VERSION;
        prefix[9] = self.suite().code();
        prefix[10] = if *tombstone { TOMBSTONE } else { 0 };
        prefix[12..16].copy_from_slice(&master.0.to_be_bytes());
        prefix[16..20].copy_from_slice(&head.to_be_bytes());
        prefix[20..24].copy_from_slice(&body.to_be_bytes());
        prefix[32..48].copy_from_slice(salt);
        prefix
    }

    /// Bounds everything; believes nothing, since the head's frame authenticates these bytes.
    fn parse(&self, prefix: &[u8; RECORD_PREFIX as usize]) -> Result<Layout, CryptoError> {
        if prefix[..8] == *MAGIC && prefix[8] > VERSION {
            return Err(CryptoError::NewerVersion { what: "record", version: prefix[8] });
        }
        let number = |at: usize| {
            u32::from_be_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
        };
        let mut salt = [0; 16];
        salt.copy_from_slice(&prefix[32..]);
        let layout = Layout {
            tombstone: prefix[10] & TOMBSTONE != 0,
            master: MasterNumber(number(12)),
            head: number(16),
            body: number(20),
            salt,
            overhead: self.suite().overhead(),
        };
        // One spelling only: magic, version, suite, unknown flags and reserved bytes are all compared.
        let too_long = u64::from(layout.head) > MAX_HEAD || u64::from(layout.body) > MAX_BODY;
        if too_long || self.prefix(&layout) != *prefix {
            return Err(DAMAGED);
        }
        Ok(layout)
    }

    fn record_key(&self, layout: &Layout) -> Result<FrameKey, CryptoError> {
        let info: [&[u8]; 2] = [derive::RECORD, &self.volume().0];
        FrameKey::derive(self.suite(), self.master(layout.master)?, &layout.salt, &info)
    }

    fn associated(&self, prefix: &[u8], ctx: &RecordContext<'_>, frame: u8) -> Vec<u8> {
        let RecordContext { role, scope, name } = ctx;
        let length = |bytes: &[u8]| (bytes.len() as u64).to_be_bytes();
        let volume = self.volume();
        let parts: [&[u8]; 8] = [
            prefix,
            &volume.0,
            &[role.letter()],
            &length(scope),
            scope,
            &length(name),
            name,
            &[frame],
        ];
        parts.concat()
    }
}

/// Where everything in a record's object is.
struct Layout {
    tombstone: bool,
    master: MasterNumber,
    head: u32,
    body: u32,
    salt: [u8; 16],
    /// What the suite adds to a frame.
    overhead: usize,
}

impl Layout {
    fn head_end(&self) -> usize {
        RECORD_PREFIX as usize + self.head as usize + self.overhead
    }

    fn body_end(&self) -> usize {
        let body = if self.body == 0 { 0 } else { self.body as usize + self.overhead };
        self.head_end() + body
    }

    fn total(&self) -> usize {
        self.body_end().next_multiple_of(16) + usize::from(self.tombstone)
    }
}

fn bounded(length: u64, limit: u64, what: &'static str) -> Result<u32, CryptoError> {
    if length > limit {
        return Err(CryptoError::Limit { what, limit });
    }
    // Both limits are far below 2^32.
    Ok(length as u32)
}

fn nonce(frame: u8) -> FrameNonce {
    let mut nonce = [0; 12];
    nonce[11] = frame;
    nonce
}
