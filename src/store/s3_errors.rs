//! What an S3 server's refusals and a connection's failures mean, and what to do about each: in words for
//! somebody who is woken up by them.

use super::StoreErrorKind;
use super::s3_identity::FAILED;

/// What an error says when there are no credentials to send a request with.
pub const NO_CREDENTIALS: &str = "no credentials were found";

/// What an error answer means, and whether a write may have taken effect all the same.
pub(super) fn by_answer(code: Option<&str>, status: u16) -> (StoreErrorKind, bool) {
    use StoreErrorKind as Kind;
    match (code.unwrap_or_default(), status) {
        ("NoSuchBucket", _) => (Kind::NoBucket, false),
        ("NoSuchKey" | "NotFound", _) => (Kind::NotFound, false),
        ("PreconditionFailed", _) | (_, 412) => (Kind::PreconditionFailed, false),
        // Another conditional write to the same key was under way: whether it or this one won is
        // found out by reading.
        ("ConditionalRequestConflict" | "OperationAborted", _) => (Kind::PreconditionFailed, true),
        ("RequestTimeTooSkewed", _) => (Kind::ClockSkew, false),
        (
            "AccessDenied"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "AuthorizationHeaderMalformed"
            | "AllAccessDisabled"
            | "AccountProblem",
            _,
        ) => (Kind::Denied, false),
        (
            "QuotaExceeded"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded"
            | "InsufficientStorage",
            _,
        )
        | (_, 507) => (Kind::Full, false),
        (
            "EntityTooLarge"
            | "KeyTooLongError"
            | "XMinioInvalidObjectName"
            | "InvalidURI"
            | "NotImplemented",
            _,
        )
        | (_, 501) => (Kind::Invalid, false),
        ("SlowDown" | "RequestTimeout" | "ServiceUnavailable" | "TooManyRequests", _) => {
            (Kind::Unavailable, true)
        }
        (_, 404) => (Kind::NotFound, false),
        (_, 401 | 403) => (Kind::Denied, false),
        (_, 400) => (Kind::Invalid, false),
        (_, 408 | 429 | 500..) => (Kind::Unavailable, true),
        _ => (Kind::Other, false),
    }
}

/// Whether what a connection failed of was its TLS.
pub(super) fn is_tls(text: &str) -> bool {
    ["invalid peer certificate", "received fatal alert", "InvalidContentType", "corrupt message"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// Whether an error is about the whole place rather than about one object in it.
pub(super) fn is_of_place(kind: StoreErrorKind) -> bool {
    use StoreErrorKind as Kind;
    matches!(kind, Kind::NoBucket | Kind::Tls | Kind::Unreachable | Kind::ClockSkew)
}

/// `why`, and what to do about it. `plain` says that the endpoint was spoken to without TLS.
pub(super) fn remedy(
    kind: StoreErrorKind,
    code: Option<&str>,
    status: Option<u16>,
    plain: bool,
    why: String,
) -> String {
    if kind == StoreErrorKind::Denied && why.starts_with(FAILED) {
        return format!(
            "{why}: check AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN, and whom the role's provider trusts"
        );
    }
    if kind == StoreErrorKind::Denied && code.is_none() && status.is_none() {
        return format!(
            "{NO_CREDENTIALS} ({why}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a --profile"
        );
    }
    let todo = match kind {
        StoreErrorKind::NoBucket => "create the bucket first, or correct its name",
        StoreErrorKind::ClockSkew => "set this machine's clock (or the server's)",
        StoreErrorKind::Denied => denied(code),
        StoreErrorKind::Tls => tls(&why),
        StoreErrorKind::Unreachable if why.contains("lookup") || why.contains("dns") => {
            "correct the endpoint's host name, or this machine's name service"
        }
        StoreErrorKind::Unreachable => {
            "check that the server runs, the endpoint's host and port, and firewalls between"
        }
        StoreErrorKind::Invalid if plain && code.is_none() && status == Some(400) => {
            "if the server speaks TLS, write https:// in the endpoint"
        }
        // Also what nginx answers whoever shows no certificate.
        StoreErrorKind::Invalid if code.is_none() && status == Some(400) => {
            "the server does not say why: if it asks for a client certificate, give it with --client-cert FILE \
             and --client-key FILE, or CLIENT_CERT_PATH and CLIENT_KEY_PATH; if the keys are temporary, get new ones"
        }
        StoreErrorKind::Full => "make room, or raise the quota",
        _ => return why,
    };
    format!("{why}: {todo}")
}

fn denied(code: Option<&str>) -> &'static str {
    match code {
        Some("InvalidAccessKeyId") => {
            "the store does not know this access key: correct AWS_ACCESS_KEY_ID or the profile"
        }
        Some("SignatureDoesNotMatch") => {
            "the secret does not belong to the access key: correct AWS_SECRET_ACCESS_KEY or the profile \
             (and the region, if the store checks it)"
        }
        Some("ExpiredToken" | "InvalidToken") => {
            "the session token is no longer good: get a new one"
        }
        Some("AuthorizationHeaderMalformed") => "the region is another one: give it with --region",
        Some("AccessDenied") => "allow it in the access key's policy, or use another key",
        _ => "check the access key, its secret and what its policy allows",
    }
}

fn tls(why: &str) -> &'static str {
    if ["CertificateRequired", "certificate required"].iter().any(|sign| why.contains(sign)) {
        "the server asks for a client certificate: give it with --client-cert FILE and --client-key FILE, or \
         CLIENT_CERT_PATH and CLIENT_KEY_PATH"
    } else if why.contains("UnknownIssuer") || why.contains("CaUsedAsEndEntity") {
        "its authority is not trusted here: give the authority's certificate with --ca-cert FILE or \
         AWS_CA_BUNDLE"
    } else if why.contains("expired") || why.contains("Expired") {
        "renew the server's certificate (or set this machine's clock, if it is wrong)"
    } else if why.contains("not valid yet") || why.contains("NotValidYet") {
        "set this machine's clock, or wait until the server's certificate is valid"
    } else if why.contains("not valid for name") || why.contains("NotValidForName") {
        "use a name that is in the certificate as the endpoint, or have this name put into it"
    } else if why.contains("InvalidContentType") || why.contains("corrupt message") {
        "the server does not speak TLS there: write http:// as the endpoint's scheme, or correct its port"
    } else {
        "check the server's certificate; its authority's is given with --ca-cert FILE or AWS_CA_BUNDLE"
    }
}

/// The innermost cause, which says most.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
