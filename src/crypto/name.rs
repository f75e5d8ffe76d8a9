//! Names in a directory, sealed with AES-256-SIV (RFC 5297): the same name in the same directory
//! always gives the same bytes, so that it can be looked up, and in another directory other ones.
//! The key never changes, for else one name would have two keys. What is seen: equal names within
//! one directory (there are none), and lengths.

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;

use super::error::CryptoError;
use super::keyring::Keyring;
use crate::units::DirId;

/// The longest sealed name that is looked at: 255 bytes and 16 of SIV, with room for other uses.
const MAX_SEALED: usize = 4096 + 16;

impl Keyring {
    /// The sealed name: 16 bytes longer, or the name itself if the volume is not encrypted.
    pub fn seal_name(&self, dir: DirId, name: &[u8]) -> Vec<u8> {
        match self.name_key() {
            None => name.to_vec(),
            Some(key) => Aes256Siv::new(key.into())
                .encrypt([dir.as_bytes()], name)
                // Fails only for more than 126 pieces of associated data or 64 GiB of name.
                .expect("one piece of associated data and a short name"),
        }
    }

    /// The name that was sealed for this directory.
    ///
    /// # Errors
    /// `Damaged` if it was not, or is absurdly long.
    pub fn open_name(&self, dir: DirId, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        if sealed.len() > MAX_SEALED {
            return Err(CryptoError::Damaged { what: "name" });
        }
        match self.name_key() {
            None => Ok(sealed.to_vec()),
            Some(key) => Aes256Siv::new(key.into())
                .decrypt([dir.as_bytes()], sealed)
                .map_err(|_| CryptoError::Damaged { what: "name" }),
        }
    }

    /// Whether names are sealed (and so are not readable in keys).
    pub fn names_are_sealed(&self) -> bool {
        self.name_key().is_some()
    }
}
