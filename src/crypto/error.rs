//! Why sealing or opening failed, told apart by what the caller can do about it. No variant carries a
//! secret, a plaintext or bytes of an object; the caller adds the object's key.

use super::keyring::MasterNumber;

/// A failure of this layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// None of the volume's key slots opens with this passphrase: ask for another one.
    #[error("open keyring: wrong passphrase: no key slot opens with it")]
    WrongPassphrase,
    /// The volume is encrypted and no passphrase was given.
    #[error("open keyring: the volume is encrypted and no passphrase was given")]
    PassphraseNeeded,
    /// The bytes are not what was sealed for this place: damaged, cut, moved or forged.
    #[error("open {what}: damaged, or not what was sealed for this place")]
    Damaged {
        /// Which part did not verify.
        what: &'static str,
    },
    /// Written by a later version of this program: use that one.
    #[error("open {what}: stored format version {version} is newer than this program understands")]
    NewerVersion {
        /// Which kind of object.
        what: &'static str,
        /// The version it claims (not authenticated).
        version: u8,
    },
    /// Sealed under a master key this keyring does not have: read the descriptor again, another node
    /// may have added one since.
    #[error(
        "open: sealed under master key {number}, which this keyring does not have; \
             read the volume's descriptor again"
    )]
    UnknownMaster {
        /// The number asked for (not authenticated).
        number: MasterNumber,
    },
    /// The caller's or the descriptor's parameters make no sense together.
    #[error("{why}")]
    Invalid {
        /// What is wrong and what would be right.
        why: &'static str,
    },
    /// A length or a count is beyond what the format allows.
    #[error("{what}: at most {limit} are allowed")]
    Limit {
        /// What there is too much of, with its unit.
        what: &'static str,
        /// The largest allowed number.
        limit: u64,
    },
}
