//! What can go wrong with a file system operation, by meaning, and the one place where a meaning
//! becomes a number of errno(3). Shortage of memory is not among them: it makes callers wait.

use crate::volume::VolumeError;

/// A failed operation. Cheap to clone, since a failed upload is told to every handle once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// No such name or node.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Something else than a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory still has names.
    #[error("directory not empty")]
    NotEmpty,
    /// A name of more than 255 bytes, or a target of more than 4,095.
    #[error("name too long")]
    NameTooLong,
    /// Arguments that mean nothing.
    #[error("invalid argument")]
    Invalid,
    /// The file was changed, replaced or removed by another node.
    #[error("stale: {message}")]
    Stale {
        /// What happened to which object.
        message: String,
    },
    /// The name that the kernel used leads elsewhere by now. It looks the path up again on this answer, and
    /// programs never see it unless that keeps happening.
    #[error("the name leads elsewhere")]
    Moved,
    /// The store failed or gave damaged data.
    #[error("input/output error: {message}")]
    Io {
        /// What failed, on which object, and why.
        message: String,
    },
    /// The store refused our credentials.
    #[error("access denied: {message}")]
    Denied {
        /// What was refused.
        message: String,
    },
    /// The operation is not for this caller or this node.
    #[error("operation not permitted")]
    Permission,
    /// The store is full.
    #[error("no space left: {message}")]
    NoSpace {
        /// What did not fit.
        message: String,
    },
    /// The mount or the store takes no changes.
    #[error("read-only file system")]
    ReadOnly,
    /// Beyond the largest file.
    #[error("file too large")]
    TooBig,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoData,
    /// A value too large for its place.
    #[error("out of range")]
    Range,
    /// A seek for data or a hole at or beyond the end.
    #[error("no such offset")]
    NoSuchOffset,
    /// Not offered.
    #[error("operation not supported")]
    NotSupported,
    /// A symbolic link where none may be, or a directory moved into itself.
    #[error("too many levels of links")]
    Loop,
    /// No more names for this file.
    #[error("too many links")]
    TooManyLinks,
    /// The two names cannot be on one file system.
    #[error("cross-device link")]
    CrossDevice,
    /// The handle is not open, or not for this.
    #[error("bad file handle")]
    BadHandle,
    /// The store answered something that says nothing about the data.
    #[error("the store failed: {message}")]
    Unclear {
        /// What failed, on which object, and why.
        message: String,
    },
    /// The store did not answer within the time it is given.
    #[error("timed out: {message}")]
    TimedOut {
        /// What was waited for.
        message: String,
    },
    /// In use.
    #[error("resource busy")]
    Busy,
}

impl FsError {
    /// A failure of the store or of its data.
    pub fn io(message: impl std::fmt::Display) -> Self {
        Self::Io { message: message.to_string() }
    }

    /// A change by another node.
    pub fn stale(message: impl std::fmt::Display) -> Self {
        Self::Stale { message: message.to_string() }
    }

    /// The number that programs see. Exhaustive, so that a new meaning needs a decision here.
    pub const fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::Invalid => libc::EINVAL,
            Self::Stale { .. } | Self::Moved => libc::ESTALE,
            Self::Io { .. } | Self::Unclear { .. } => libc::EIO,
            Self::Denied { .. } => libc::EACCES,
            Self::Permission => libc::EPERM,
            Self::NoSpace { .. } => libc::ENOSPC,
            Self::ReadOnly => libc::EROFS,
            Self::TooBig => libc::EFBIG,
            Self::NoData => libc::ENODATA,
            Self::Range => libc::ERANGE,
            Self::NoSuchOffset => libc::ENXIO,
            // EOPNOTSUPP and not ENOSYS: the kernel would stop asking for the whole life of the mount.
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::Loop => libc::ELOOP,
            Self::TooManyLinks => libc::EMLINK,
            Self::CrossDevice => libc::EXDEV,
            Self::BadHandle => libc::EBADF,
            // EIO and not ETIMEDOUT: backup tools know the former from disks and give up cleanly.
            Self::TimedOut { .. } => libc::EIO,
            Self::Busy => libc::EBUSY,
        }
    }

    /// Whether it is the data that are damaged, changed or gone: everything else may pass, when the store is
    /// back, has room, or takes the keys again.
    pub const fn is_about_data(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Stale { .. } | Self::NotFound)
    }

    /// Whether an operator should hear of it: the store's or the network's fault, not the caller's.
    pub const fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Io { .. }
                | Self::Unclear { .. }
                | Self::TimedOut { .. }
                | Self::Stale { .. }
                | Self::Denied { .. }
                | Self::NoSpace { .. }
        )
    }
}

impl From<VolumeError> for FsError {
    /// The one place that turns the engine's errors into the kernel's.
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::NotFound(_) => Self::NotFound,
            VolumeError::Exists(_) => Self::Exists,
            VolumeError::NotDirectory(_) => Self::NotDirectory,
            VolumeError::IsDirectory(_) => Self::IsDirectory,
            VolumeError::NotEmpty(_) => Self::NotEmpty,
            VolumeError::Conflict(_) | VolumeError::Fenced | VolumeError::TakenOver => {
                Self::stale(error)
            }
            VolumeError::Exclusive(_) => {
                tracing::error!("{error}");
                Self::Busy
            }
            VolumeError::InvalidName(_) => Self::NameTooLong,
            VolumeError::Invalid(_) => Self::Invalid,
            VolumeError::TooBig(_) => Self::TooBig,
            VolumeError::ReadOnly => Self::ReadOnly,
            VolumeError::Store(ref store) => {
                use crate::store::StoreErrorKind as Kind;
                match store.kind {
                    // What the kernel asked for exists; that the store lacks a part of it is damage.
                    Kind::NotFound | Kind::Corrupt => Self::io(error),
                    Kind::NoBucket | Kind::Other => Self::Unclear { message: error.to_string() },
                    Kind::Denied | Kind::ClockSkew | Kind::Tls => {
                        Self::Denied { message: error.to_string() }
                    }
                    Kind::PreconditionFailed => Self::stale(error),
                    Kind::Unreachable | Kind::Unavailable => {
                        Self::TimedOut { message: error.to_string() }
                    }
                    Kind::Full => Self::NoSpace { message: error.to_string() },
                    Kind::ReadOnly => Self::ReadOnly,
                    Kind::Invalid => Self::Invalid,
                }
            }
            VolumeError::NotAVolume(_)
            | VolumeError::NewerFormat { .. }
            | VolumeError::Corrupt { .. }
            | VolumeError::Passphrase(_) => {
                tracing::error!("{error}");
                Self::io(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meaning_has_one_number_and_faults_are_told() {
        let late = FsError::TimedOut { message: "put d/1".into() };
        assert_eq!(late.errno(), libc::EIO);
        assert!(late.is_fault());
        assert!(!FsError::NotFound.is_fault());
        assert_eq!(FsError::NotSupported.errno(), libc::EOPNOTSUPP);
        assert_eq!(FsError::io("get d/1: tag").to_string(), "input/output error: get d/1: tag");
    }
}
