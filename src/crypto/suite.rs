//! The algorithms a volume can be sealed with. One suite per volume, chosen at init; everything in
//! the volume names it, and an object that names another one does not open.

use std::fmt;
use std::str::FromStr;

/// How the data of a volume are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-256 in Galois/Counter mode (NIST SP 800-38D): the default.
    Aes256Gcm,
    /// AES-256 in 128-bit cipher feedback mode (NIST SP 800-38A), then GMAC under a key of its own.
    Aes256Cfb,
    /// The same with AES-192.
    Aes192Cfb,
    /// The same with AES-128.
    Aes128Cfb,
    /// Not encrypted: plain bytes with a BLAKE3 checksum against damage (not against forgery).
    None,
}

impl Suite {
    /// Every suite, the default first.
    pub const ALL: [Suite; 5] =
        [Suite::Aes256Gcm, Suite::Aes256Cfb, Suite::Aes192Cfb, Suite::Aes128Cfb, Suite::None];

    /// The byte that stands for it in stored headers; never reused for another suite.
    pub const fn code(self) -> u8 {
        match self {
            Suite::None => 0,
            Suite::Aes256Gcm => 1,
            Suite::Aes256Cfb => 2,
            Suite::Aes192Cfb => 3,
            Suite::Aes128Cfb => 4,
        }
    }

    /// The suite a stored byte stands for.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Suite::None,
            1 => Suite::Aes256Gcm,
            2 => Suite::Aes256Cfb,
            3 => Suite::Aes192Cfb,
            4 => Suite::Aes128Cfb,
            _ => return None,
        })
    }

    /// Its name, as in settings and in the descriptor.
    pub const fn name(self) -> &'static str {
        match self {
            Suite::Aes256Gcm => "AES-256-GCM",
            Suite::Aes256Cfb => "AES-256-CFB",
            Suite::Aes192Cfb => "AES-192-CFB",
            Suite::Aes128Cfb => "AES-128-CFB",
            Suite::None => "none",
        }
    }

    /// Length of the AES key in bytes if the suite is a CFB one.
    pub const fn cfb_key_length(self) -> Option<usize> {
        match self {
            Suite::Aes256Cfb => Some(32),
            Suite::Aes192Cfb => Some(24),
            Suite::Aes128Cfb => Some(16),
            Suite::Aes256Gcm | Suite::None => None,
        }
    }

    /// Bytes that sealing adds in front of a frame's content (the IV of CFB).
    pub(super) const fn before(self) -> usize {
        if self.cfb_key_length().is_some() { 16 } else { 0 }
    }

    /// Bytes that sealing adds to a frame in all: IV if any, and tag or checksum.
    pub(super) const fn overhead(self) -> usize {
        self.before() + 16
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Suite {
    type Err = UnknownSuite;
    fn from_str(text: &str) -> Result<Self, UnknownSuite> {
        Self::ALL
            .into_iter()
            .find(|suite| suite.name().eq_ignore_ascii_case(text))
            .ok_or(UnknownSuite)
    }
}

/// The text names no suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown encryption algorithm: known are AES-256-GCM, AES-256-CFB, AES-192-CFB, AES-128-CFB and none"
)]
pub struct UnknownSuite;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_one_name_and_one_code() {
        for suite in Suite::ALL {
            assert_eq!(Suite::from_code(suite.code()), Some(suite));
            assert_eq!(suite.to_string().to_lowercase().parse(), Ok(suite));
            assert_eq!(suite.to_string().to_uppercase().parse(), Ok(suite));
        }
        assert_eq!("AES-256".parse::<Suite>(), Err(UnknownSuite));
        assert_eq!((0..=255).filter(|code| Suite::from_code(*code).is_some()).count(), 5);
    }
}
