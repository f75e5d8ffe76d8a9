//! The one place that maps failures of the engine, the keeper and the workers to gRPC codes. Messages say
//! what failed and how to mend it, in words of StorageClasses and secrets; none holds a secret.

use crate::keeper::{FailureKind as KeeperFailure, KeeperError};
use crate::worker::WorkerError;
use strongroom::store::{StoreError, StoreErrorKind};
use strongroom::tool::attach::protocol::FailureKind;
use strongroom::volume::VolumeError;
use tonic::{Code, Status};

/// A failure of the store.
pub fn of_store(error: &StoreError) -> Status {
    let text = error.to_string();
    let code = match error.kind {
        StoreErrorKind::NotFound | StoreErrorKind::NoBucket => Code::NotFound,
        // Whoever asked second: the same call may succeed later.
        StoreErrorKind::PreconditionFailed => Code::Aborted,
        StoreErrorKind::Denied => denied(&text),
        StoreErrorKind::ClockSkew | StoreErrorKind::Tls | StoreErrorKind::ReadOnly => {
            Code::FailedPrecondition
        }
        StoreErrorKind::Unreachable | StoreErrorKind::Unavailable => Code::Unavailable,
        StoreErrorKind::Full => Code::ResourceExhausted,
        StoreErrorKind::Invalid => Code::InvalidArgument,
        StoreErrorKind::Corrupt | StoreErrorKind::Other => Code::Internal,
    };
    Status::new(code, in_our_words(&text))
}

/// A failure of a volume.
pub fn of_volume(error: &VolumeError) -> Status {
    let code = match error {
        VolumeError::Store(error) => return of_store(error),
        VolumeError::Passphrase(_) => {
            return Status::unauthenticated(format!(
                "{error}: correct `passphrase` in the volume's secret"
            ));
        }
        VolumeError::NotFound(_) => Code::NotFound,
        VolumeError::Exists(_) => Code::AlreadyExists,
        VolumeError::Conflict(_) | VolumeError::Fenced => Code::Aborted,
        VolumeError::NotAVolume(_)
        | VolumeError::NewerFormat { .. }
        | VolumeError::Exclusive(_)
        | VolumeError::TakenOver
        | VolumeError::ReadOnly
        | VolumeError::NotDirectory(_)
        | VolumeError::IsDirectory(_)
        | VolumeError::NotEmpty(_) => Code::FailedPrecondition,
        VolumeError::Invalid(_) | VolumeError::InvalidName(_) | VolumeError::TooBig(_) => {
            Code::InvalidArgument
        }
        VolumeError::Corrupt { .. } => Code::DataLoss,
    };
    Status::new(code, in_our_words(&error.to_string()))
}

/// A failure of the keeper.
pub fn of_keeper(error: &KeeperError) -> Status {
    let code = match error.kind() {
        None if matches!(error, KeeperError::Unreachable { .. }) => Code::Unavailable,
        None => Code::Internal,
        Some(KeeperFailure::Invalid | KeeperFailure::Denied) => Code::InvalidArgument,
        Some(KeeperFailure::NotFound) => Code::NotFound,
        Some(KeeperFailure::Conflict) => Code::AlreadyExists,
        Some(KeeperFailure::Busy) => Code::Aborted,
        Some(KeeperFailure::NotMounted) => Code::FailedPrecondition,
        Some(KeeperFailure::System) => Code::Internal,
    };
    Status::new(code, in_our_words(&error.to_string()))
}

/// A failure of a worker.
pub fn of_worker(error: &WorkerError) -> Status {
    let code = match error.kind {
        FailureKind::Invalid => Code::InvalidArgument,
        FailureKind::NotFound => Code::NotFound,
        FailureKind::Denied => denied(&error.message),
        FailureKind::Passphrase => Code::Unauthenticated,
        FailureKind::InUse | FailureKind::Tls => Code::FailedPrecondition,
        FailureKind::Unreachable => Code::Unavailable,
        FailureKind::Damaged => Code::DataLoss,
        FailureKind::Busy => Code::Aborted,
        FailureKind::Other => Code::Internal,
    };
    Status::new(code, in_our_words(&error.message))
}

/// Keys that the store does not know are another thing than keys that may not do this.
fn denied(text: &str) -> Code {
    if text.contains("AccessDenied") || text.contains("AllAccessDisabled") {
        Code::PermissionDenied
    } else {
        Code::Unauthenticated
    }
}

/// The engine's remedies name variables and flags of the tool; here they are keys of a secret and
/// parameters of a StorageClass.
pub(crate) fn in_our_words(text: &str) -> String {
    const WORDS: &[(&str, &str)] = &[
        (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a --profile",
            "put accessKeyID and secretAccessKey into the volume's secret",
        ),
        ("AWS_ACCESS_KEY_ID or the profile", "accessKeyID in the volume's secret"),
        ("AWS_SECRET_ACCESS_KEY or the profile", "secretAccessKey in the volume's secret"),
        ("mount it without --layout objects", "leave `layout: objects` away"),
        ("give it with --region", "give it as `region` in the secret or the StorageClass"),
        (
            "unmount it there, or read only (`mount --read-only`, `ls`, `pull`); if that machine will not \
             come back, `mount --exclusive --steal` takes the volume over",
            "delete the pod that uses it there; if that node will not come back, the volume is free ten \
             minutes after its last sign of life",
        ),
        (
            "which --exclusive needs",
            "which an access mode of one node needs: add the option exclusive=false, and let one pod write",
        ),
        (
            "--ca-cert FILE or AWS_CA_BUNDLE",
            "the driver's --ca-bundle FILE (store.caBundleConfigMap of its chart)",
        ),
        (
            "--client-cert FILE and --client-key FILE, or CLIENT_CERT_PATH and CLIENT_KEY_PATH",
            "the driver's --client-cert FILE and --client-key FILE (store.clientCertSecret of its chart)",
        ),
    ];
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (theirs, ours) in WORDS {
        text = text.replace(theirs, ours);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_which_key_of_the_secret_to_correct() {
        let error = StoreError::new(StoreErrorKind::Denied, "list", "s3://b").with_source(
            "InvalidAccessKeyId: the store does not know this access key: correct AWS_ACCESS_KEY_ID or \
             the profile",
        );
        let status = of_store(&error);
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("accessKeyID in the volume's secret"), "{status}");
        assert!(!status.message().contains("AWS_"), "{status}");
    }

    #[test]
    fn a_volume_in_use_says_what_to_do_about_its_pods() {
        let status = of_volume(&VolumeError::Exclusive("session of node-2".to_owned()));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("node-2: delete the pod that uses it"), "{status}");
    }

    #[test]
    fn keys_that_may_not_are_told_from_keys_that_are_not_known() {
        let error = |source: &'static str| {
            StoreError::new(StoreErrorKind::Denied, "put", "x").with_source(source)
        };
        assert_eq!(of_store(&error("AccessDenied: no")).code(), Code::PermissionDenied);
        assert_eq!(of_store(&error("SignatureDoesNotMatch: no")).code(), Code::Unauthenticated);
    }
}
