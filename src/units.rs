//! Rank 0: the small types that every layer shares, so that an offset is never taken for a length
//! nor one identifier for another. Nothing here does I/O, allocates more than an identifier's text,
//! or knows about any layer above it.

use std::fmt;
use std::str::FromStr;

/// A range of bytes: `length` bytes from `offset` on. The end never overflows a `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

impl ByteRange {
    /// A range, or `None` if its end would not fit into a `u64`.
    pub const fn checked(offset: u64, length: u64) -> Option<Self> {
        match offset.checked_add(length) {
            Some(_) => Some(Self { offset, length }),
            None => None,
        }
    }

    /// A range whose end is known to fit; saturates at `u64::MAX` otherwise.
    pub const fn new(offset: u64, length: u64) -> Self {
        match offset.checked_add(length) {
            Some(_) => Self { offset, length },
            None => Self { offset, length: u64::MAX - offset },
        }
    }

    /// The range from `start` up to, not including, `end` (empty if `end` is not after `start`).
    pub const fn between(start: u64, end: u64) -> Self {
        Self { offset: start, length: end.saturating_sub(start) }
    }

    /// First byte.
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Number of bytes.
    pub const fn length(self) -> u64 {
        self.length
    }

    /// One past the last byte.
    pub const fn end(self) -> u64 {
        self.offset + self.length
    }

    /// Whether the range holds no byte.
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// The bytes that both ranges hold (an empty range if they do not meet).
    pub fn intersection(self, other: Self) -> Self {
        Self::between(self.offset.max(other.offset), self.end().min(other.end()))
    }
}

/// Declares an identifier of 16 bytes, written as 32 lower-case hexadecimal digits.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The identifier's bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_hex16(text).map(Self)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = InvalidId;
            fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
                bytes.try_into().map(Self).map_err(|_| InvalidId)
            }
        }
    };
}

identifier! {
    /// A volume, chosen at random when it is initialised.
    VolumeId
}
identifier! {
    /// A directory. Keys of its entries are made from it, so it does not change when it is renamed.
    DirId
}
identifier! {
    /// The content of a file (its segments' owner), or the identity of a symlink or special file.
    FileId
}
identifier! {
    /// The shared record of a file that has more than one name.
    InodeId
}
identifier! {
    /// One mount or one run of the tool.
    SessionId
}

/// A segment: the session that wrote it and that session's counter. Never used for two contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    /// The session that wrote it.
    pub session: SessionId,
    /// That session's counter, from 1.
    pub counter: u64,
}

impl SegmentId {
    /// The id's 24 bytes, as they enter key derivation: session, then counter big-endian.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.session.0);
        bytes[16..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:016x}", self.session, self.counter)
    }
}

impl FromStr for SegmentId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != 48 || !text.is_ascii() {
            return Err(InvalidId);
        }
        let (session, counter) = text.split_at(32);
        if !is_lower_hex(counter) {
            return Err(InvalidId);
        }
        let counter = u64::from_str_radix(counter, 16).map_err(|_| InvalidId)?;
        Ok(Self { session: session.parse()?, counter })
    }
}

/// The text or the bytes are not an identifier of the kind asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier")]
pub struct InvalidId;

fn parse_hex16(text: &str) -> Result<[u8; 16], InvalidId> {
    if text.len() != 32 || !is_lower_hex(text) {
        return Err(InvalidId);
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| InvalidId)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidId)?;
    }
    Ok(bytes)
}

// `from_str_radix` takes a sign and upper case; a key has one spelling only.
fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_one_spelling() {
        let id = FileId([0xab; 16]);
        assert_eq!(id.to_string().parse::<FileId>(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse::<FileId>(), Err(InvalidId));
        assert_eq!("+".repeat(32).parse::<FileId>(), Err(InvalidId));
        let segment = SegmentId { session: SessionId([1; 16]), counter: u64::MAX };
        assert_eq!(segment.to_string().parse::<SegmentId>(), Ok(segment));
        assert_eq!("é".repeat(24).parse::<SegmentId>(), Err(InvalidId));
    }

    #[test]
    fn ranges_meet_where_both_have_bytes() {
        let a = ByteRange::new(10, 10);
        assert_eq!(a.intersection(ByteRange::new(15, 100)), ByteRange::new(15, 5));
        assert!(a.intersection(ByteRange::new(20, 1)).is_empty());
        assert_eq!(ByteRange::checked(u64::MAX, 1), None);
    }
}
