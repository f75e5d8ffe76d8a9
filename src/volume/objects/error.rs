//! What can go wrong with files, by what the caller can do about it.

use crate::store::StoreError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A failed operation. The texts of the first three are those that datasafed prints.
#[derive(Debug)]
pub enum ObjectsError {
    /// No such file.
    NotFound,
    /// No such directory.
    NoDirectory,
    /// A file was asked for, and there is a directory.
    IsDirectory,
    /// A local file or directory.
    Local {
        /// The system call.
        operation: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A request to the store.
    Store(StoreError),
    /// A path that cannot be a name in the store.
    Invalid(String),
    /// The file was replaced by another one while it was read.
    Changed(String),
    /// The file is not in the form that it should have: what is wrong.
    Damaged(String),
    /// The file was encrypted with another passphrase or algorithm.
    OtherKey(String),
    /// What was to be stored could not be read.
    Source(io::Error),
    /// What was read could not be passed on.
    Sink(io::Error),
    /// A part of the program ended before it should have.
    Ended,
}

impl ObjectsError {
    /// A failed system call on a path.
    pub fn local(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Local { operation, path: path.to_owned(), source }
    }

    /// A file in datasafed's form that is shorter than its IV.
    pub(super) fn without_iv(size: u64) -> Self {
        let why = if size == 0 { "EOF" } else { "unexpected EOF" };
        Self::Damaged(format!("unable to read iv from cipherText, error: {why}"))
    }
}

impl fmt::Display for ObjectsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("object not found"),
            Self::NoDirectory => f.write_str("directory not found"),
            Self::IsDirectory => f.write_str("is a directory not a file"),
            Self::Local { operation, path, source } => {
                write!(f, "{operation} {}: {}", path.display(), reason(source))
            }
            Self::Store(error) => error.fmt(f),
            Self::Invalid(why) | Self::Damaged(why) => f.write_str(why),
            Self::Changed(path) => {
                write!(f, "{path} was replaced by somebody else while it was read: try again")
            }
            Self::OtherKey(path) => write!(
                f,
                "{path} was encrypted with another passphrase, or with another algorithm: what it holds cannot be read \
                 with these"
            ),
            Self::Source(error) | Self::Sink(error) => f.write_str(&reason(error)),
            Self::Ended => f.write_str("the transfer ended too early"),
        }
    }
}

impl std::error::Error for ObjectsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Local { source, .. } | Self::Source(source) | Self::Sink(source) => Some(source),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for ObjectsError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What the system says of an error, in small letters and without its number.
pub fn reason(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    let text = nix::errno::Errno::from_raw(number).desc();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}
