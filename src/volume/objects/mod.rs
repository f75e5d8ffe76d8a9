//! The other layout: one object (or one local file) per file, plain or in datasafed's encrypted form, so
//! that other programs can read and write beside us.
//!
//! What it promises: a file appears under its name whole or not at all; reading asks for ranges side by
//! side and for a broken one again; memory is bounded whatever a file's size ([`parts`]).
//!
//! What it never does: make or remove a bucket, or notice that a file in datasafed's form was changed: that form
//! cannot tell. Of another passphrase it hears where a push has stored something to tell it by beside the file.
//!
//! | file | what |
//! |---|---|
//! | [`layout`] | names and contents as the caller sees them: plain, or `.enc` and deciphered |
//! | [`bucket`] | files in a bucket ([`transfer`]: their bytes; [`copying`]: copies that the store makes) |
//! | [`directory`] | files in a local directory |
//! | [`ftp`] | files on a server of FTP |
//! | [`remote`] | files in stores that do not speak S3 |
//! | [`limited`] | any of these within a rate |
//! | [`tree`] | a bucket as a mount needs it: names, ranges, copies; [`attributes`] of files in headers |
//! | [`writer`] | a file that a mount writes |
//! | [`progress`] | how far it has come, for another process that goes on with it |
//! | [`parts`] | how a stream is cut, and how much of it may be in memory |

pub mod attributes;
pub mod bucket;
pub mod directory;
pub mod error;
pub mod layout;
pub mod parts;
pub mod progress;
pub mod tree;
mod tree_moves;
pub mod writer;

mod copying;
mod ftp;
mod limited;
mod listing;
mod local;
mod remote;
mod transfer;

pub use bucket::{BucketFiles, Requests};
pub use directory::DirectoryFiles;
pub use error::ObjectsError;
pub use ftp::FtpFiles;
pub use layout::{Layout, SUFFIX};
pub use limited::LimitedFiles;
pub use local::{Replacement, Unfinished};
pub use parts::PartWriter;
pub use remote::RemoteFiles;
pub use tree::BucketTree;
pub use writer::Writer;

use crate::crypto::datasafed::StreamKey;
use crate::world::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use parts::{Piece, Plan};
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender};

/// When something was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modified {
    /// As its writer said.
    Told(Timestamp),
    /// As the store's clock said when it was stored.
    Stored(Timestamp),
    /// Nobody knows: a directory that is only the beginning of names.
    Unknown,
}

/// A file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file and its bytes.
    File(u64),
    /// A directory that was found on the way.
    Directory,
    /// A directory that nothing but the names of files tells of.
    Implied,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path below the root, without `/` at either end.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// When it was last changed.
    pub modified: Modified,
}

/// What to list of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFiles {
    /// How many levels; `None`: all of them.
    pub depth: Option<u32>,
    /// Whether the time that a file's writer told is wanted, which takes a request for each file of a bucket.
    pub told_times: bool,
}

/// What is stored beside a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// Its time.
    pub modified: Timestamp,
    /// Of an enciphered file what tells its key from others ([`StreamKey::check`]).
    pub key_check: Option<String>,
}

/// Takes entries as they are found; an error ends the listing.
pub type Emit<'a> = &'a mut (dyn FnMut(Entry) -> Result<(), ObjectsError> + Send);

/// A place of files. Paths are relative to its root, without `/` at either end; empty is the root.
#[async_trait]
pub trait Files: Send + Sync + 'static {
    /// The file at a path, with the time that its writer told: `NotFound` if there is none,
    /// `IsDirectory` where a directory can be told from nothing.
    async fn find(&self, path: &str) -> Result<Entry, ObjectsError>;

    /// What is in a directory. Order: unspecified, but all of one directory come in the order of their names
    /// if the depth is bounded; else files in the order of their paths, implied directories last.
    async fn list(
        &self,
        directory: &str,
        request: ListFiles,
        emit: Emit<'_>,
    ) -> Result<(), ObjectsError>;

    /// Sends a file's content, deciphered if there is a key, from front to back, some MiB at a time in
    /// the buffers that they came in. A receiver that is gone ends it without an error.
    async fn read(
        &self,
        path: &str,
        key: Option<Arc<StreamKey>>,
        out: Sender<Vec<Bytes>>,
    ) -> Result<(), ObjectsError>;

    /// Stores what comes as the file's whole content, and what belongs beside it where there is a place for that. Until
    /// `Piece::End` came and everything is stored, whatever was there stays.
    async fn write(
        &self,
        path: &str,
        beside: Beside,
        pieces: Receiver<Piece>,
    ) -> Result<(), ObjectsError>;

    /// Makes a file of another one's content and of what is beside that, without moving the bytes here; `false`: the
    /// place cannot, and did nothing. Until the copy is whole, whatever was at `to` stays.
    async fn copy(&self, from: &str, to: &str) -> Result<bool, ObjectsError> {
        let _ = (from, to);
        Ok(false)
    }

    /// Gives a file another name at once, in the place of what file is there; `false`: the place cannot, and did
    /// nothing.
    async fn rename(&self, from: &str, to: &str) -> Result<bool, ObjectsError> {
        let _ = (from, to);
        Ok(false)
    }

    /// Removes a file; none is no error.
    async fn remove(&self, path: &str) -> Result<(), ObjectsError>;

    /// Removes everything below a directory, and the directory.
    async fn remove_tree(&self, path: &str) -> Result<(), ObjectsError>;

    /// Makes a directory and those above it, where there are directories.
    async fn make_directory(&self, path: &str) -> Result<(), ObjectsError>;

    /// Removes an empty directory, where there are directories; none is no error.
    async fn remove_directory(&self, path: &str) -> Result<(), ObjectsError>;

    /// Whether directories are things of their own, which the first file in them makes.
    fn has_directories(&self) -> bool;

    /// How a stream of `size` bytes (if that is known) is to be cut for [`Files::write`].
    fn plan(&self, size: Option<u64>) -> Plan;
}
