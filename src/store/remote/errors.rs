//! What OpenDAL's errors mean: in words for somebody who is woken up by them.

use crate::store::s3_errors::root_cause;
use crate::store::transport::Unanswered;
use crate::store::{StoreError, StoreErrorKind};
use opendal::{Error, ErrorKind};

/// What was asked, of whom.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) operation: &'static str,
    pub(super) object: &'a str,
    pub(super) place: &'a str,
    /// Where credentials are set.
    pub(super) settings: &'static str,
}

/// The same error in the words of this layer.
pub(super) fn classified(error: Error, asked: Asked<'_>) -> StoreError {
    use StoreErrorKind as Kind;
    let unanswered = unanswered(&error);
    let said = said(&error);
    let kind = match (&unanswered, error.kind()) {
        (Some(unanswered), _) => unanswered.kind,
        (None, ErrorKind::NotFound) => Kind::NotFound,
        (None, ErrorKind::PermissionDenied) => Kind::Denied,
        (None, ErrorKind::ConditionNotMatch) => Kind::PreconditionFailed,
        (None, ErrorKind::RateLimited) => Kind::Unavailable,
        (None, ErrorKind::ConfigInvalid | ErrorKind::Unsupported) => Kind::Invalid,
        (None, ErrorKind::Unexpected) if said.contains("credential") => Kind::Denied,
        (None, ErrorKind::Unexpected) if !error.is_permanent() => Kind::Unavailable,
        (None, _) => Kind::Other,
    };
    let remedy = match kind {
        Kind::Denied => asked.settings,
        Kind::Unreachable if said.contains("lookup") => {
            "correct storage.endpoint's host name, or this machine's name service"
        }
        Kind::Unreachable => {
            "check that the server runs, storage.endpoint's host and port, and firewalls between"
        }
        Kind::Tls => "check the server's certificate; its authority's is given with AWS_CA_BUNDLE",
        _ => "",
    };
    let is_of_place = matches!(kind, Kind::Tls | Kind::Unreachable) || asked.object.is_empty();
    let object = if is_of_place { asked.place } else { asked.object };
    let why = match (said.is_empty(), remedy.is_empty()) {
        (true, true) => return StoreError::new(kind, asked.operation, object),
        (true, false) => remedy.to_owned(),
        (false, true) => said,
        (false, false) => format!("{said}: {remedy}"),
    };
    StoreError::new(kind, asked.operation, object).with_source(why)
}

/// The connection's own failure, wherever in the chain of causes it is.
fn unanswered(error: &Error) -> Option<&Unanswered> {
    let mut cause = std::error::Error::source(error);
    while let Some(this) = cause {
        if let Some(unanswered) = this.downcast_ref() {
            return Some(unanswered);
        }
        cause = this.source();
    }
    None
}

/// What the server or the connection said, in one line.
fn said(error: &Error) -> String {
    if let Some(unanswered) = unanswered(error) {
        return unanswered.why.clone();
    }
    let message = error.message();
    // Azure's and Google's errors come as Rust prints their fields: the code says most.
    let field = |name: &str| {
        let (_, rest) = message.split_once(&format!("{name}: \""))?;
        Some(rest.split_once('"')?.0.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let text = match (field("code"), field("message")) {
        (Some(code), Some(text)) => {
            // Azure goes on with the request's number and time.
            let text = text.split(" RequestId:").next().unwrap_or_default();
            format!("{code}: {text}")
        }
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) if message.is_empty() => {
            std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
        }
        // What the library says of credentials that it cannot get tells nothing of why.
        (None, None) => match std::error::Error::source(error) {
            Some(cause) => format!("{message}: {}", root_cause(cause)),
            None => message.to_owned(),
        },
    };
    let line: Vec<&str> = text.split_whitespace().collect();
    line.join(" ")
}
