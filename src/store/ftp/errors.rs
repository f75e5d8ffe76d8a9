//! What a server's answers mean (RFC 959, section 4.2), and what to do about them.

use crate::store::{StoreError, StoreErrorKind};
use suppaftp::FtpError;

/// The same error in the words of this layer.
pub(super) fn classified(
    error: FtpError,
    operation: &'static str,
    path: &str,
    place: &str,
) -> StoreError {
    use StoreErrorKind as Kind;
    let (kind, why) = match error {
        FtpError::ConnectionError(error) => (Kind::Unavailable, error.to_string()),
        FtpError::SecureError(why) => {
            let todo =
                "check the server's certificate; its authority's is given with AWS_CA_BUNDLE";
            (Kind::Tls, format!("{why}: {todo}"))
        }
        FtpError::UnexpectedResponse(answer) => {
            let text = String::from_utf8_lossy(&answer.body);
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            match by_answer(answer.status.code(), text) {
                // No file was asked for yet: some refuse by this code whoever speaks no TLS.
                (Kind::NotFound, text) if operation == "connect" => (Kind::Denied, text),
                told => told,
            }
        }
        FtpError::BadResponse if operation == "connect" => {
            (Kind::Corrupt, "what answers is no server of FTP: correct storage.port".to_owned())
        }
        // Mostly half a line, of a connection that was broken off.
        FtpError::BadResponse => (Kind::Unavailable, "not an answer of FTP".to_owned()),
        other => (Kind::Other, other.to_string()),
    };
    let is_of_place = matches!(kind, Kind::Tls) || path.is_empty();
    let object = if is_of_place { place } else { path };
    StoreError::new(kind, operation, object).with_source(why)
}

fn by_answer(code: u32, text: String) -> (StoreErrorKind, String) {
    use StoreErrorKind as Kind;
    let lower = text.to_ascii_lowercase();
    let is_denied = lower.contains("permission") || lower.contains("denied");
    match code {
        421 | 425 | 426 | 450 | 451 => (Kind::Unavailable, text),
        430 | 530 | 532 => (Kind::Denied, format!("{text}: check storage.user and storage.pass")),
        452 | 552 => (Kind::Full, format!("{text}: make room, or raise the quota")),
        550 | 553 if is_denied => {
            (Kind::Denied, format!("{text}: allow it to storage.user on the server"))
        }
        // 501: pyftpdlib, of a directory.
        550 => (Kind::NotFound, text),
        501 if lower.contains("no such") => (Kind::NotFound, text),
        500..=504 | 534..=536 | 553 => (Kind::Invalid, text),
        _ => (Kind::Other, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        use StoreErrorKind as Kind;
        let kind = |code, text: &str| by_answer(code, text.to_owned()).0;
        assert_eq!(kind(550, "550 No such file or directory."), Kind::NotFound);
        assert_eq!(kind(550, "550 Permission denied."), Kind::Denied);
        assert_eq!(kind(530, "530 Login incorrect."), Kind::Denied);
        assert_eq!(kind(421, "421 Too many connections"), Kind::Unavailable);
        assert_eq!(kind(552, "552 Quota exceeded"), Kind::Full);
        assert_eq!(kind(502, "502 Not implemented"), Kind::Invalid);
    }
}
