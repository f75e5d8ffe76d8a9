//! The one place that spells a volume's object keys, and reads them back.
//!
//! A name is sealed (AES-SIV) and written in base64url, or percent-encoded in a plain volume. A spelling
//! longer than 240 bytes is cut into pieces joined by `/`, each but the last ending in [`CONTINUED`],
//! which is in neither alphabet: MinIO and local directories refuse components over 255 bytes.

use crate::crypto::Keyring;
use crate::store::Key;
use crate::units::{DirId, FileId, InodeId, SegmentId, SessionId};
use data_encoding::BASE64URL_NOPAD;

/// The descriptor's key.
pub const DESCRIPTOR: &str = "strongroom.json";
/// Longest piece of a name's spelling.
const PIECE: usize = 240;
/// Ends a piece that another one follows.
const CONTINUED: char = '.';
/// The longest name, in bytes, as on local disks.
pub const NAME_LIMIT: usize = 255;
/// The longest prefix a volume may have in its bucket, so that every key stays under 1,024 bytes:
/// `t/` + 32 + `/` + 780 (a percent-encoded name of 255 bytes in pieces) leaves this much.
pub const PREFIX_LIMIT: usize = 200;

/// Whether a user may give this name: as on local disks, and a longer one would never be listed again.
pub fn is_name(name: &[u8]) -> bool {
    let special = matches!(name, b"" | b"." | b"..");
    !special && name.len() <= NAME_LIMIT && !name.contains(&b'/') && !name.contains(&0)
}

/// Where the entries of a directory lie.
pub fn directory_prefix(dir: DirId) -> String {
    format!("t/{dir}/")
}

/// The entry `name` in `dir`.
pub fn entry(keyring: &Keyring, dir: DirId, name: &[u8]) -> Key {
    let spelled = if keyring.names_are_sealed() {
        BASE64URL_NOPAD.encode(&keyring.seal_name(dir, name))
    } else {
        escape(name)
    };
    let mut text = directory_prefix(dir);
    let mut rest = spelled.as_str();
    while rest.len() > PIECE {
        // Both alphabets are ASCII, so that every byte is a boundary.
        let (piece, tail) = rest.split_at(PIECE - 1);
        text.push_str(piece);
        text.push(CONTINUED);
        text.push('/');
        rest = tail;
    }
    text.push_str(rest);
    known(text)
}

/// The name that an entry's key spells, or `None` if it is not the spelling of a name in `dir`.
pub fn entry_name(keyring: &Keyring, dir: DirId, key: &str) -> Option<Vec<u8>> {
    let spelled = key.strip_prefix(&directory_prefix(dir))?.replace("./", "");
    let name = if keyring.names_are_sealed() {
        keyring.open_name(dir, &BASE64URL_NOPAD.decode(spelled.as_bytes()).ok()?).ok()?
    } else {
        unescape(&spelled)?
    };
    // One name, one key: whatever else decodes to the same name is not ours.
    (name.len() <= NAME_LIMIT && entry(keyring, dir, &name).as_str() == key).then_some(name)
}

/// The directory and whether the key is an entry at all.
pub fn entry_directory(key: &str) -> Option<DirId> {
    key.strip_prefix("t/")?.split_once('/')?.0.parse().ok()
}

/// The place whose record lies at a key, or `None` if no record of ours can.
pub fn place(keyring: &Keyring, key: &str) -> Option<super::Place> {
    if let Some(inode) = inode_id(key) {
        return Some(super::Place::Inode(inode));
    }
    let dir = entry_directory(key)?;
    Some(super::Place::Entry(dir, entry_name(keyring, dir, key)?))
}

/// The shared record of a file with several names.
pub fn inode(inode: InodeId) -> Key {
    known(format!("i/{inode}"))
}

/// Reads back [`inode`].
pub fn inode_id(key: &str) -> Option<InodeId> {
    key.strip_prefix("i/")?.parse().ok()
}

/// Where a file's segments lie.
pub fn segments_prefix(file: FileId) -> String {
    format!("d/{file}/")
}

/// A segment of a file.
pub fn segment(file: FileId, segment: SegmentId) -> Key {
    known(format!("d/{file}/{segment}"))
}

/// Reads back [`segment`].
pub fn segment_id(key: &str) -> Option<(FileId, SegmentId)> {
    let (file, segment) = key.strip_prefix("d/")?.split_once('/')?;
    Some((file.parse().ok()?, segment.parse().ok()?))
}

/// Whether a key, relative to the volume, is a segment's: what is stored there never changes.
pub fn is_segment(key: &Key) -> bool {
    segment_id(key.as_str()).is_some()
}

/// A session.
pub fn session(session: SessionId) -> Key {
    known(format!("s/{session}"))
}

/// Reads back [`session`].
pub fn session_id(key: &str) -> Option<SessionId> {
    key.strip_prefix("s/")?.parse().ok()
}

/// Where the copies of descriptors lie.
pub const fn descriptor_copies() -> &'static str {
    "k/"
}

/// The write-once copy of a descriptor.
pub fn descriptor_copy(generation: u64) -> Key {
    known(format!("k/{generation:016x}"))
}

/// The descriptor.
pub fn descriptor() -> Key {
    known(DESCRIPTOR.to_owned())
}

/// Where the shards of a directory's index lie.
pub fn index_prefix(dir: DirId) -> String {
    format!("x/{dir}/")
}

/// One shard of a directory's index; see `index` for what the number says.
pub fn index(dir: DirId, shard: u32) -> Key {
    known(format!("x/{dir}/{shard:08x}"))
}

/// Reads back the number of a shard.
pub fn index_shard(dir: DirId, key: &str) -> Option<u32> {
    let digits = key.strip_prefix(&index_prefix(dir))?;
    let shard = u32::from_str_radix(digits, 16).ok()?;
    (index(dir, shard).as_str() == key).then_some(shard)
}

/// Who collects garbage now.
pub fn gc_lease() -> Key {
    known("g/lease".to_owned())
}

/// Who has the volume for itself.
pub fn exclusive_lease() -> Key {
    known("g/exclusive".to_owned())
}

/// What the last complete mark of the garbage collection says of itself.
pub fn gc_mark() -> Key {
    known("g/mark".to_owned())
}

/// A part of a table of a mark. Table names are letters, digits and `-`.
pub fn gc_table(mark: &str, table: &str, part: u32) -> Key {
    known(format!("g/{mark}/{table}/{part:08x}"))
}

/// The mark that a part of a table belongs to.
pub fn gc_table_mark(key: &str) -> Option<&str> {
    key.strip_prefix("g/")?.split_once('/').map(|(mark, _)| mark)
}

/// The directory whose index a shard belongs to.
pub fn index_directory(key: &str) -> Option<DirId> {
    key.strip_prefix("x/")?.split_once('/')?.0.parse().ok()
}

/// What lies at the top of a volume: objects as they are, prefixes with their `/`.
pub const TOP: &[&str] = &[DESCRIPTOR, "k/", "t/", "i/", "d/", "s/", "x/", "p/", "g/"];

fn known(text: String) -> Key {
    Key::new(text).expect("keys spelled here are 1 to 1,024 bytes: names are limited to 255")
}

/// Percent-encodes all but the characters that every store takes as they are. `.` is escaped: a
/// component `..` is special to a local directory, and it ends a piece.
fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for &byte in name {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            name.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            name.push(byte);
        }
    }
    Some(name)
}
