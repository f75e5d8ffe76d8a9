//! The client below OpenDAL. It sends again what may succeed later, whole answers included: OpenDAL's own layer for that
//! counts attempts rather than time, and wraps an upload's writer so that its failed parts hold their memory until
//! somebody asks, and that it cannot be given up in the middle of a write.

use super::{Tls, Transport, deadline};
use crate::store::retry::{Attempts, Effect};
use crate::store::s3_errors::{is_tls, root_cause};
use crate::store::{RetryPolicy, StoreError, StoreErrorKind, retry};
use crate::world::Entropy;
use aws_smithy_types::body::SdkBody;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter, Result};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long an answer's body may stand still.
const STALL: Duration = Duration::from_secs(30);
/// How long the same signed request may be sent: signatures are good for a quarter of an hour.
pub(in crate::store) const SIGNED: Duration = Duration::from_secs(13 * 60);
/// The most that an answer may have, in bytes: ranges are asked for, and pages of listings.
const LONGEST: usize = 64 << 20;

/// The connections of a store.
pub(in crate::store) struct Fetcher {
    transport: Transport,
    entropy: Arc<dyn Entropy>,
    /// Of requests under way.
    turns: Arc<Semaphore>,
}

impl Fetcher {
    /// `tls_unused` as for [`super::client`].
    ///
    /// # Errors
    /// What is wrong with a file that `tls` names.
    pub(in crate::store) fn new(
        tls: &Tls,
        tls_unused: bool,
        entropy: Arc<dyn Entropy>,
    ) -> std::result::Result<Self, String> {
        let turns = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Ok(Self { transport: Transport::new(tls, tls_unused)?, entropy, turns })
    }

    /// From now on no more than so many requests are under way at once, those of what was made of this before
    /// included. To be called once.
    pub(in crate::store) fn limit(&self, at_once: usize) {
        self.turns
            .forget_permits(Semaphore::MAX_PERMITS - at_once.clamp(1, Semaphore::MAX_PERMITS));
    }

    /// Asks again for so long.
    pub(in crate::store) fn within(&self, soon: Duration) -> HttpTransporter {
        self.with(soon, soon, Arc::default())
    }

    /// The same for one upload: once something was answered it is patient. What fails for good is noted.
    pub(in crate::store) fn for_upload(
        &self,
        soon: Duration,
        patient: Duration,
    ) -> (HttpTransporter, Arc<Failure>) {
        let failure = Arc::new(Failure::default());
        (self.with(soon, patient, failure.clone()), failure)
    }

    fn with(&self, soon: Duration, patient: Duration, failure: Arc<Failure>) -> HttpTransporter {
        let (transport, turns) = (self.transport.clone(), self.turns.clone());
        let entropy = self.entropy.clone();
        let answered = AtomicBool::new(false);
        HttpTransporter::new(Fetch { transport, entropy, turns, soon, patient, answered, failure })
    }
}

/// The first request that failed for good.
#[derive(Default)]
pub(in crate::store) struct Failure {
    failed: CancellationToken,
    under_way: AtomicUsize,
    why: Mutex<Option<(StoreErrorKind, String)>>,
}

impl Failure {
    /// Waits until there is one.
    pub(in crate::store) async fn happened(&self) {
        self.failed.cancelled().await;
    }

    /// What it was, if it was one.
    pub(in crate::store) fn reason(&self) -> Option<(StoreErrorKind, String)> {
        self.why.lock().clone()
    }

    /// Requests whose answer is awaited.
    pub(in crate::store) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    fn note(&self, kind: StoreErrorKind, why: &str) {
        self.why.lock().get_or_insert_with(|| (kind, why.to_owned()));
        self.failed.cancel();
    }
}

/// Counts a request as long as it lasts.
struct Asking<'a>(&'a AtomicUsize);

impl<'a> Asking<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Fetch {
    transport: Transport,
    entropy: Arc<dyn Entropy>,
    turns: Arc<Semaphore>,
    soon: Duration,
    patient: Duration,
    answered: AtomicBool,
    failure: Arc<Failure>,
}

impl HttpTransport for Fetch {
    // Redirections are answers like others: neither Azure nor Google sends any to a client that knows them.
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let (parts, body) = request.into_parts();
        let body = body.to_bytes();
        let patience = match self.answered.load(Ordering::Relaxed) {
            true => self.patient,
            false => self.soon,
        };
        let patience = patience + deadline(body.len() as u64) - deadline(0);
        let policy = RetryPolicy::within(patience.min(SIGNED));
        let attempts = Attempts { policy, entropy: self.entropy.clone() };
        let asked = retry::Request {
            operation: "ask",
            object: parts.uri.path(),
            // Whatever is sent twice has the same effect; what is completed twice is looked for by whoever asked.
            effect: Effect::Repeatable,
        };
        let attempt = || {
            let request = Request::from_parts(parts.clone(), body.clone());
            async { self.once(request).await }
        };
        let _asking = Asking::new(&self.failure.under_way);
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        match attempts.again(asked, attempt).await {
            Ok(answer) => {
                self.answered.store(true, Ordering::Relaxed);
                let status = answer.status();
                if !status.is_success() {
                    self.failure.note(by_status(status), &told(status, answer.body()));
                }
                let size = answer.body().len() as u64;
                Ok(answer.map(|body| {
                    let body = futures::stream::iter([Ok(Buffer::from(body))]);
                    HttpBody::new(body, Some(size))
                }))
            }
            Err(error) => {
                let why = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
                self.failure.note(error.kind, &why);
                Err(Unanswered { kind: error.kind, why }.into())
            }
        }
    }
}

impl Fetch {
    async fn once(
        &self,
        request: Request<Bytes>,
    ) -> std::result::Result<Response<Bytes>, StoreError> {
        let request = request.map(|body| match body.is_empty() {
            true => SdkBody::empty(),
            false => SdkBody::from(body),
        });
        let limit = deadline(request.body().content_length().unwrap_or(0));
        let answer = match tokio::time::timeout(limit, self.transport.send(request)).await {
            Ok(answer) => answer.map_err(|error| unanswered(&error))?,
            Err(_) => return Err(late("no answer in time")),
        };
        let (head, body) = answer.into_parts();
        let mut whole = BytesMut::new();
        let mut body = body.into_data_stream();
        loop {
            match tokio::time::timeout(STALL, body.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(piece))) if whole.len() + piece.len() <= LONGEST => {
                    whole.extend_from_slice(&piece);
                }
                Ok(Some(Ok(_))) => {
                    let error = StoreError::new(StoreErrorKind::Corrupt, "ask", "");
                    return Err(error.with_source("an answer without an end"));
                }
                Ok(Some(Err(error))) => return Err(late(root_cause(&error))),
                Err(_) => return Err(late(format!("nothing came for {} s", STALL.as_secs()))),
            }
        }
        let whole = whole.freeze();
        let status = head.status;
        if is_transient(status) {
            return Err(late(told(status, &whole)));
        }
        if status == StatusCode::UNAUTHORIZED {
            let error = StoreError::new(StoreErrorKind::Denied, "ask", "");
            return Err(error.with_source(told(status, &whole)));
        }
        Ok(Response::from_parts(head, whole))
    }
}

fn late(why: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "ask", "").with_source(why.into())
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn by_status(status: StatusCode) -> StoreErrorKind {
    match status.as_u16() {
        401 | 403 => StoreErrorKind::Denied,
        404 => StoreErrorKind::NoBucket,
        507 => StoreErrorKind::Full,
        400..=499 => StoreErrorKind::Invalid,
        _ => StoreErrorKind::Other,
    }
}

/// What an error answer says: the code in the XML of Azure, the message in the JSON of Google, in one line.
fn told(status: StatusCode, body: &[u8]) -> String {
    const MOST: usize = 300;
    let text = String::from_utf8_lossy(&body[..body.len().min(16 << 10)]);
    let between = |from: &str, to: &str| {
        let (_, rest) = text.split_once(from)?;
        Some(rest.split_once(to)?.0.to_owned())
    };
    let code = between("<Code>", "</Code>");
    let message = between("<Message>", "</Message>").or_else(|| {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let error = value.get("error_description").or_else(|| value.get("error"))?;
        Some(error.get("message").unwrap_or(error).as_str()?.to_owned())
    });
    let said = [code, message].into_iter().flatten().collect::<Vec<_>>().join(": ");
    // Azure goes on with the request's number and time.
    let said = said.split("RequestId:").next().unwrap_or_default();
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = (0..=line.len().min(MOST)).rev().find(|at| line.is_char_boundary(*at));
    match line.get(..end.unwrap_or(0)).filter(|line| !line.is_empty()) {
        Some(line) => line.to_owned(),
        None => format!("HTTP status {}", status.as_u16()),
    }
}

/// A request that got no answer, or none that may be used.
#[derive(Debug)]
pub(in crate::store) struct Unanswered {
    /// What the caller can do about it.
    pub(in crate::store) kind: StoreErrorKind,
    /// Why.
    pub(in crate::store) why: String,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Unanswered {}

impl From<Unanswered> for Error {
    fn from(unanswered: Unanswered) -> Self {
        // It was asked often enough.
        Self::new(ErrorKind::Unexpected, "no answer").set_source(unanswered).set_persistent()
    }
}

fn unanswered(error: &legacy::Error) -> StoreError {
    let why = root_cause(error);
    let kind = if is_tls(&format!("{error:?} {why}")) {
        StoreErrorKind::Tls
    } else if error.is_connect() {
        StoreErrorKind::Unreachable
    } else {
        StoreErrorKind::Unavailable
    };
    StoreError::new(kind, "ask", "").with_source(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_answers_are_told_in_one_line() {
        let told = |body: &str| told(StatusCode::FORBIDDEN, body.as_bytes());
        let azure = "<?xml?><Error><Code>AuthenticationFailed</Code><Message>Server failed.\nRequestId:1\nTime:2\
                     </Message></Error>";
        assert_eq!(told(azure), "AuthenticationFailed: Server failed.");
        assert_eq!(told("{\"error\":{\"code\":403,\"message\":\"not\\nyou\"}}"), "not you");
        assert_eq!(told("{\"error\":\"x\",\"error_description\":\"bad key\"}"), "bad key");
        for other in ["", "<html>", "{\"error\":[1]}", "[]"] {
            assert_eq!(told(other), "HTTP status 403", "{other}");
        }
        let long = format!("<Code>{}</Code>", "ä".repeat(10_000));
        assert!(told(&long).len() <= 300);
    }
}
