//! Manifests: what a volume held at some time, authenticated, to be kept away from the store. A store can
//! answer with an older record, or none, and no check inside the volume finds that; against a manifest
//! it is found.
//!
//! Form: lines of JSON. The first says whose manifest it is, each further one what stood at one place, the
//! last has a MAC over the bytes of all lines before it, under a key derived from the volume's. So only
//! who can open the volume can make one. Names in it are readable: keep it like a backup of the volume.

use super::Volume;
use super::comparison::Comparison;
use super::entries::{Place, Stored};
use super::record::{Content, Record};
use crate::units::{DirId, InodeId};
use crate::world::Timestamp;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

/// The version that this program writes and reads.
const FORMAT: u32 = 1;
/// A line, at most: a path of 4,096 bytes, each escaped, fits several times.
const LINE_LIMIT: u64 = 64 << 10;

/// Whose manifest it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of this form.
    pub strongroom_manifest: u32,
    /// The volume's id.
    pub volume: String,
    /// How often the descriptor had been changed.
    pub generation: u64,
    /// When it was made, by this machine's clock, in nanoseconds since 1970.
    pub made_at: i64,
}

/// What stood at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// For people: the path, bytes that are not text as `%XX`.
    pub path: String,
    /// Where the record lies.
    pub at: At,
    /// What it is.
    pub kind: Kind,
    /// The id of the file, directory or shared record.
    pub id: String,
    /// A file's size in bytes.
    pub size: u64,
    /// BLAKE3 of what the record says of the content: extents, inline data, target.
    pub content: String,
    /// The record's own mark: every sealing has a fresh one.
    pub salt: String,
    /// The ids of its last writers, newest last.
    pub publishes: Vec<u64>,
    /// When it was last changed or buried, in nanoseconds since 1970, by its writer's clock.
    pub changed: i64,
}

/// A place: directories are named by their ids, so that one that moves takes nothing along.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum At {
    Entry { dir: String, name: String },
    Inode(String),
}

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Special,
    Link,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    lines: u64,
    mac: String,
}

/// A manifest that cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file.
    #[error(transparent)]
    File(#[from] io::Error),
    /// It is no manifest, or not a whole one.
    #[error("is no manifest: {0}")]
    Malformed(&'static str),
    /// A newer program wrote it.
    #[error("is a manifest of format {0}, this program knows up to {FORMAT}: upgrade strongroom")]
    Newer(u32),
    /// Another volume's.
    #[error("is a manifest of another volume ({0})")]
    OtherVolume(String),
    /// Changed, or made by somebody without the volume's keys.
    #[error("was changed, or was not made by somebody who can open this volume: do not trust it")]
    Forged,
}

impl Line {
    /// The line of a record as it stands in the store.
    pub(super) fn of(path: &[u8], stored: &Stored) -> Self {
        let record = &*stored.record;
        let (kind, id) = match &record.content {
            Content::File(file) => (Kind::File, file.id.to_string()),
            Content::Directory(dir) => (Kind::Directory, dir.to_string()),
            Content::Symlink(id, _) => (Kind::Symlink, id.to_string()),
            Content::Special(id, _, _) => (Kind::Special, id.to_string()),
            Content::Link(inode) => (Kind::Link, inode.to_string()),
        };
        Self {
            path: escaped(path),
            at: At::of(&stored.place),
            kind,
            id,
            size: record.file().map_or(0, |file| file.size),
            content: content_digest(record),
            salt: HEXLOWER.encode(&stored.salt),
            publishes: record.publishes.clone(),
            changed: changed(record).0,
        }
    }
}

impl At {
    fn of(place: &Place) -> Self {
        match place {
            Place::Entry(dir, name) => Self::Entry { dir: dir.to_string(), name: escaped(name) },
            Place::Inode(inode) => Self::Inode(inode.to_string()),
        }
    }

    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Entry { dir, name } => {
                Some(Place::Entry(dir.parse::<DirId>().ok()?, unescaped(name)?))
            }
            Self::Inode(inode) => Some(Place::Inode(inode.parse::<InodeId>().ok()?)),
        }
    }
}

/// Writes a manifest, line by line.
pub struct ManifestWriter<W> {
    out: W,
    hash: blake3::Hasher,
    lines: u64,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins the manifest of a volume.
    pub fn new(out: W, volume: &Volume) -> io::Result<Self> {
        let mut writer = Self { out, hash: blake3::Hasher::new(), lines: 0 };
        writer.put(&Header {
            strongroom_manifest: FORMAT,
            volume: volume.keyring().volume().to_string(),
            generation: volume.descriptor().generation,
            made_at: volume.world().clock.now().0,
        })?;
        Ok(writer)
    }

    /// One more place.
    pub fn write(&mut self, line: &Line) -> io::Result<()> {
        self.lines += 1;
        self.put(line)
    }

    /// Ends it, and gives back what it was written to.
    pub fn finish(mut self, volume: &Volume) -> io::Result<W> {
        let mac = volume.keyring().manifest_mac(self.hash.finalize().as_bytes());
        self.put(&Trailer { lines: self.lines, mac: HEXLOWER.encode(&mac) })?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn put(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.hash.update(&text);
        self.out.write_all(&text)
    }
}

/// A manifest that was read and is authentic. Holds all its lines, some 400 bytes each.
pub struct Manifest {
    /// Whose it is.
    pub header: Header,
    lines: HashMap<At, Line>,
}

impl Manifest {
    /// Reads a manifest of this volume: first its MAC, and only then what it says.
    pub fn read(file: impl Read + Seek, volume: &Volume) -> Result<Self, ManifestError> {
        let keyring = volume.keyring();
        let verify =
            |digest: &[u8; 32], mac: &[u8]| keyring.verify_manifest_mac(digest, mac).is_ok();
        let manifest = Self::read_with(file, verify)?;
        if manifest.header.volume != keyring.volume().to_string() {
            return Err(ManifestError::OtherVolume(manifest.header.volume));
        }
        Ok(manifest)
    }

    /// The same with any check of the MAC: for tests of the parser.
    #[doc(hidden)]
    pub fn read_with(
        file: impl Read + Seek,
        verify: impl Fn(&[u8; 32], &[u8]) -> bool,
    ) -> Result<Self, ManifestError> {
        let mut file = io::BufReader::new(file);
        let whole = |line: &[u8]| line.last() == Some(&b'\n');
        let cut_short = ManifestError::Malformed("its end is missing");
        let first = next_line(&mut file)?;
        let Version { strongroom_manifest } = serde_json::from_slice(&first)
            .map_err(|_| ManifestError::Malformed("its first line is another one's"))?;
        if strongroom_manifest > FORMAT {
            return Err(ManifestError::Newer(strongroom_manifest));
        }
        let (mut hash, mut line, mut count) = (blake3::Hasher::new(), first, 0_u64);
        let trailer: Trailer = loop {
            if !whole(&line) {
                return Err(cut_short);
            }
            let next = next_line(&mut file)?;
            if next.is_empty() {
                break serde_json::from_slice(&line).map_err(|_| cut_short)?;
            }
            hash.update(&line);
            (line, count) = (next, count + 1);
        };
        let digest = *hash.finalize().as_bytes();
        let mac = HEXLOWER.decode(trailer.mac.as_bytes()).unwrap_or_default();
        if !verify(&digest, &mac) || trailer.lines.checked_add(1) != Some(count) {
            return Err(ManifestError::Forged);
        }
        // Authentic; once more from the start, now for what it says, and hashed again, since the file
        // may have been changed meanwhile.
        file.seek(SeekFrom::Start(0))?;
        let malformed = |_| ManifestError::Malformed("a line of it makes no sense");
        let mut hash = blake3::Hasher::new();
        let first = next_line(&mut file)?;
        hash.update(&first);
        let header: Header = serde_json::from_slice(&first).map_err(malformed)?;
        let mut lines = HashMap::new();
        for _ in 1..count {
            let text = next_line(&mut file)?;
            hash.update(&text);
            let line: Line = serde_json::from_slice(&text).map_err(malformed)?;
            lines.insert(line.at.clone(), line);
        }
        if *hash.finalize().as_bytes() != digest {
            return Err(ManifestError::Forged);
        }
        Ok(Self { header, lines })
    }

    /// Starts a comparison with the volume as it is.
    pub fn compare(self) -> Comparison {
        Comparison::new(self.header, self.lines)
    }
}

/// The version alone: a newer manifest may have other fields.
#[derive(Deserialize)]
struct Version {
    strongroom_manifest: u32,
}

/// Up to and with the next line end; empty at the end.
fn next_line(file: &mut impl BufRead) -> Result<Vec<u8>, ManifestError> {
    let mut line = Vec::new();
    file.take(LINE_LIMIT).read_until(b'\n', &mut line)?;
    if line.len() as u64 == LINE_LIMIT && line.last() != Some(&b'\n') {
        return Err(ManifestError::Malformed("a line of it is too long"));
    }
    Ok(line)
}

fn content_digest(record: &Record) -> String {
    // The stored form of a record with this content and nothing else.
    let (head, _) = Record::new(Default::default(), record.content.clone()).encode();
    HEXLOWER.encode(&blake3::hash(&head).as_bytes()[..16])
}

fn changed(record: &Record) -> Timestamp {
    record.attributes.ctime.max(record.buried_at.unwrap_or_default())
}

/// Bytes as text: what is no text, steers a terminal or is a `%` becomes `%XX`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '%' {
                let mut buffer = [0; 4];
                let bytes = character.encode_utf8(&mut buffer).bytes();
                bytes.for_each(|byte| text.push_str(&format!("%{byte:02X}")));
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        bytes.push((digit(rest.next()?)? * 16 + digit(rest.next()?)?) as u8);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_escaped_to_text_and_back() {
        for name in [&b"plain"[..], b"100%", b"\xff\xfe\n\x1b[2J", "é\u{85}".as_bytes(), b"%zz"] {
            let text = escaped(name);
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert_eq!(unescaped(&text).as_deref(), Some(name));
        }
        assert_eq!(unescaped("%4"), None);
    }
}
