//! What can go wrong in a volume, by what the caller can do about it. Messages name the operation's
//! object; they never hold a secret.

use crate::crypto::CryptoError;
use crate::store::{StoreError, StoreErrorKind};

/// A failed operation on a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No such name.
    #[error("{0}: no such file or directory")]
    NotFound(String),
    /// The name is taken.
    #[error("{0}: exists")]
    Exists(String),
    /// A directory was needed.
    #[error("{0}: not a directory")]
    NotDirectory(String),
    /// Anything but a directory was needed.
    #[error("{0}: is a directory")]
    IsDirectory(String),
    /// The directory has entries.
    #[error("{0}: directory is not empty")]
    NotEmpty(String),
    /// Another node changed it meanwhile.
    #[error("{0}: changed by another node meanwhile")]
    Conflict(String),
    /// A name over 255 bytes, or one that cannot be.
    #[error("{0}: name is too long or not a name")]
    InvalidName(String),
    /// The request cannot be carried out as asked.
    #[error("{0}")]
    Invalid(String),
    /// A record or a file would be bigger than the format allows.
    #[error("{0}: too big")]
    TooBig(String),
    /// The prefix holds no volume, or another kind of thing.
    #[error("{0}")]
    NotAVolume(String),
    /// A newer program wrote it.
    #[error(
        "{what}: written in format {found}, this program knows up to {known}: upgrade strongroom"
    )]
    NewerFormat {
        /// The object.
        what: String,
        /// The version found.
        found: u64,
        /// The newest version known here.
        known: u64,
    },
    /// Bytes in the store are not what was written there.
    #[error(
        "{object}: damaged in the store: {why}; other files are not affected, `strongroom verify` lists all damage"
    )]
    Corrupt {
        /// The object or file.
        object: String,
        /// What does not fit.
        why: String,
    },
    /// The passphrase opens nothing here, or is missing.
    #[error("{0}")]
    Passphrase(#[source] CryptoError),
    /// The session was declared dead by another node; what was stored under it may be swept.
    #[error("declared dead by another node after a long silence: nothing was changed, try again")]
    Fenced,
    /// Another session has the volume for itself, or writes to it where this one wanted to be alone.
    #[error(
        "in use: {0}: unmount it there, or read only (`mount --read-only`, `ls`, `pull`); if that machine \
         will not come back, `mount --exclusive --steal` takes the volume over"
    )]
    Exclusive(String),
    /// Another mount took over the volume that this one had for itself.
    #[error(
        "another mount has taken over this volume: nothing is changed from here any more; unmount, and \
         copy what could not be stored while it can still be read here"
    )]
    TakenOver,
    /// The volume is read-only here.
    #[error("volume is read-only here")]
    ReadOnly,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl VolumeError {
    /// Whether the same call may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }

    /// Whether it says that the thing is not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound(_) => true,
            Self::Store(error) => error.kind == StoreErrorKind::NotFound,
            _ => false,
        }
    }

    pub(crate) fn corrupt(object: impl ToString, why: impl ToString) -> Self {
        Self::Corrupt { object: object.to_string(), why: why.to_string() }
    }
}
