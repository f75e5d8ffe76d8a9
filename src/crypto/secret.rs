//! Types for secrets: wiped from memory when dropped, and without `Debug`, `Clone`, `Display` or
//! `Serialize`, so that no log line, error or stored form can hold one by accident.

use super::error::CryptoError;
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// Bytes that say how a key was derived: the function with its parameters, and the salt.
pub(super) const HOW: usize = 13 + 16;
/// Bytes of a derivation: how, and the key.
const DERIVED: usize = HOW + 32;

/// A passphrase, or a raw secret, exactly as it was given: bytes, not trimmed, not normalised. It remembers the
/// keys that were derived from it, which is slow on purpose.
pub struct Passphrase {
    text: Zeroizing<Vec<u8>>,
    derived: Mutex<Zeroizing<Vec<u8>>>,
}

impl Passphrase {
    /// Takes the bytes over; they are wiped when the passphrase is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { text: Zeroizing::new(bytes), derived: Mutex::default() }
    }

    /// The same passphrase as another process had, with what [`Passphrase::derived`] gave there. Bytes that
    /// are no derivations are left out; those of another passphrase open what that one opens.
    pub fn with_derived(bytes: Vec<u8>, derived: &[u8]) -> Self {
        let whole = derived.len() / DERIVED * DERIVED;
        let derived = Mutex::new(Zeroizing::new(derived[..whole].to_vec()));
        Self { text: Zeroizing::new(bytes), derived }
    }

    /// The keys that were derived from it so far, for a process that has the same passphrase: 61 bytes each,
    /// as secret as the passphrase.
    pub fn derived(&self) -> Zeroizing<Vec<u8>> {
        self.derived.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many bytes it has, for checks such as "not empty".
    pub fn length(&self) -> usize {
        self.text.len()
    }

    /// The bytes, for one expression.
    pub(super) fn expose(&self) -> &[u8] {
        &self.text
    }

    /// The key that was derived from it in this way before, or the one that is derived now.
    pub(super) fn derive_once(
        &self,
        how: &[u8; HOW],
        derive: impl FnOnce() -> Result<Key32, CryptoError>,
    ) -> Result<Key32, CryptoError> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        let known = derived.chunks_exact(DERIVED).find_map(|one| one.strip_prefix(how));
        if let Some(key) = known {
            return Ok(Key32::filled(|out| out.copy_from_slice(key)));
        }
        let key = derive()?;
        // Grown by hand: a vector that grows by itself leaves what it held behind, unwiped.
        let mut grown = Zeroizing::new(Vec::with_capacity(derived.len() + DERIVED));
        grown.extend_from_slice(&derived);
        grown.extend_from_slice(how);
        grown.extend_from_slice(key.expose());
        *derived = grown;
        Ok(key)
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
