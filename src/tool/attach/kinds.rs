//! What a program that started this one can do about a failure, from the errors of all layers.

use super::protocol::FailureKind;
use crate::config::{ConfigError, InvalidUrl, PassphraseError};
use crate::crypto::CryptoError;
use crate::fs::errno::FsError;
use crate::store::{StoreError, StoreErrorKind};
use crate::volume::VolumeError;
use std::error::Error;

/// The kind of an error, by the first of its causes that has one.
pub(in crate::tool) fn kind_of(error: &(dyn Error + 'static)) -> FailureKind {
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = kind_of_one(error);
        if kind != FailureKind::Other {
            return kind;
        }
        next = error.source();
    }
    FailureKind::Other
}

fn kind_of_one(error: &(dyn Error + 'static)) -> FailureKind {
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return of_store(error.kind);
    }
    if let Some(error) = error.downcast_ref::<VolumeError>() {
        return match error {
            VolumeError::Store(error) => of_store(error.kind),
            VolumeError::NotAVolume(_) => FailureKind::NotFound,
            VolumeError::NewerFormat { .. } | VolumeError::Corrupt { .. } => FailureKind::Damaged,
            VolumeError::Passphrase(_) => FailureKind::Passphrase,
            VolumeError::Exclusive(_) | VolumeError::TakenOver => FailureKind::InUse,
            VolumeError::Invalid(_) => FailureKind::Invalid,
            _ => FailureKind::Other,
        };
    }
    if let Some(error) = error.downcast_ref::<FsError>() {
        return match error {
            FsError::Denied { .. } => FailureKind::Denied,
            FsError::TimedOut { .. } => FailureKind::Unreachable,
            FsError::Busy => FailureKind::InUse,
            FsError::Io { .. } => FailureKind::Damaged,
            _ => FailureKind::Other,
        };
    }
    if error.is::<PassphraseError>() || error.is::<CryptoError>() {
        return FailureKind::Passphrase;
    }
    if error.is::<ConfigError>() || error.is::<InvalidUrl>() {
        return FailureKind::Invalid;
    }
    FailureKind::Other
}

fn of_store(kind: StoreErrorKind) -> FailureKind {
    match kind {
        StoreErrorKind::NotFound | StoreErrorKind::NoBucket => FailureKind::NotFound,
        StoreErrorKind::Denied | StoreErrorKind::ReadOnly => FailureKind::Denied,
        StoreErrorKind::Tls => FailureKind::Tls,
        StoreErrorKind::Unreachable | StoreErrorKind::Unavailable => FailureKind::Unreachable,
        StoreErrorKind::Corrupt => FailureKind::Damaged,
        StoreErrorKind::Invalid => FailureKind::Invalid,
        StoreErrorKind::PreconditionFailed
        | StoreErrorKind::ClockSkew
        | StoreErrorKind::Full
        | StoreErrorKind::Other => FailureKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_comes_from_the_cause() {
        let store = |kind| StoreError::new(kind, "get", "d/x");
        let denied = VolumeError::from(store(StoreErrorKind::Denied));
        assert_eq!(kind_of(&denied), FailureKind::Denied);
        assert_eq!(kind_of(&store(StoreErrorKind::NoBucket)), FailureKind::NotFound);
        let wrong = VolumeError::Passphrase(CryptoError::WrongPassphrase);
        assert_eq!(kind_of(&wrong), FailureKind::Passphrase);
        assert_eq!(kind_of(&VolumeError::Exclusive(String::new())), FailureKind::InUse);
        assert_eq!(kind_of(&std::io::Error::other("x")), FailureKind::Other);
    }
}
