//! What a caller of the garbage collection says and is told.

use super::super::namespace::GRACE;
use crate::store::StoreError;
use crate::volume::VolumeError;
use std::time::Duration;

/// Bytes of facts in memory unless the settings say otherwise.
const MEMORY: usize = 64 << 20;

/// How garbage is collected.
#[derive(Clone, Debug)]
pub struct GcSettings {
    /// What must lie between two marks, and how old a segment must be; at least [`GRACE`], since clients
    /// count on that, unless `alone`.
    pub grace: Duration,
    /// The caller knows that nobody else uses the volume until this is over.
    pub alone: bool,
    /// Change nothing: only say what would be done.
    pub dry_run: bool,
    /// Do as if there had never been a mark: then this one deletes no segment.
    pub forget: bool,
    /// Bytes of facts in memory.
    pub memory: usize,
    /// This machine's name, for whoever finds the volume leased.
    pub host: String,
    /// For tests that show what each rule is for.
    #[doc(hidden)]
    pub rules: Rules,
}

impl Default for GcSettings {
    fn default() -> Self {
        Self {
            grace: GRACE,
            alone: false,
            dry_run: false,
            forget: false,
            memory: MEMORY,
            host: String::new(),
            rules: Rules::default(),
        }
    }
}

/// The rules that keep data, each of which a test takes out to see data lost. Never but in tests.
#[doc(hidden)]
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Rules {
    pub two_marks: bool,
    pub age: bool,
    pub dead_sessions: bool,
    pub pins: bool,
    pub tombstones: bool,
    pub former_keys: bool,
    pub lease: bool,
    pub look: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            two_marks: true,
            age: true,
            dead_sessions: true,
            pins: true,
            tombstones: true,
            former_keys: true,
            lease: true,
            look: true,
        }
    }
}

/// Why garbage was not collected.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// Another garbage collection is at work, or was cut short a short while ago.
    #[error(
        "{} {host:?}, {} s ago: it can be taken over 20 minutes after its last sign of life",
        if *settling {
            "a garbage collection missed an answer while it deleted names: on"
        } else {
            "another garbage collection holds the volume: on"
        },
        age.as_secs()
    )]
    Held {
        /// Where.
        host: String,
        /// When it last gave a sign of life.
        age: Duration,
        /// It has ended, but a deletion of which no answer came may still happen.
        settling: bool,
    },
    /// Another garbage collection has taken the lease.
    #[error(
        "another garbage collection took over: this one was silent for too long; nothing is lost"
    )]
    LeaseLost,
    /// The mark is worth nothing: nothing is deleted.
    #[error("nothing is deleted: {0}")]
    Void(String),
    /// The settings would endanger data.
    #[error("{0}")]
    Unsafe(String),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

impl From<StoreError> for GcError {
    fn from(error: StoreError) -> Self {
        Self::Volume(error.into())
    }
}

impl GcError {
    pub(super) fn unexpected(key: &dyn std::fmt::Display) -> Self {
        Self::Void(format!(
            "{key}: not an object of this volume: move it away, or `strongroom verify` the volume"
        ))
    }
}

/// A number of objects and their bytes as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a mark found, and so what is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Names, living and buried, and records at `i/`.
    pub names: u64,
    /// Of those the buried ones.
    pub buried: u64,
    /// Directories.
    pub directories: u64,
    /// All segments.
    pub segments: Amount,
    /// Sessions that live, this one included.
    pub sessions: u64,
    /// Sessions that are silent for so long that they are declared dead.
    pub silent: u64,
    /// Records that were read; the others were as the former mark saw them.
    pub reread: u64,
    /// Records that are there although the listing lacks them.
    pub unlisted: u64,
    /// Segments that nothing refers to, to be deleted.
    pub garbage: Amount,
    /// Segments that nothing refers to, which a later mark must confirm.
    pub waiting: Amount,
    /// Buried names that are old enough to be deleted.
    pub old_names: u64,
    /// Moves and exchanges to be finished, hidden names and second names of directories to be buried,
    /// counts to be corrected, shared records without names to be buried.
    pub repairs: u64,
    /// Things without a way to the root, which go to `lost+found`.
    pub lost: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Segments that were deleted.
    pub segments: Amount,
    /// Buried names that were deleted.
    pub names: u64,
    /// Records that were mended.
    pub mended: u64,
    /// Things that were given a name under `lost+found`.
    pub found: u64,
    /// Indexes, probes and old marks that were deleted.
    pub debris: u64,
    /// Deletions that failed or of which no answer came; the next run tries again.
    pub failed: u64,
}
