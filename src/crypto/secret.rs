//! Types for secrets: wiped from memory when dropped, and without `Debug`, `Clone`, `Display` or
//! `Serialize`, so that no log line, error or stored form can hold one by accident.

use zeroize::Zeroizing;

/// A passphrase, or a raw secret, exactly as it was given: bytes, not trimmed, not normalised.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes the bytes over; they are wiped when the passphrase is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// How many bytes it has, for checks such as "not empty".
    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// The bytes, for one expression.
    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// A 32-byte key of any kind; wiped when dropped.
pub(super) struct Key32(Zeroizing<[u8; 32]>);

impl Key32 {
    /// Filled in place, so that no copy stays behind on the stack of a constructor.
    pub(super) fn filled(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut key = Self(Zeroizing::new([0; 32]));
        fill(&mut key.0);
        key
    }

    /// The bytes, for one expression.
    pub(super) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}
