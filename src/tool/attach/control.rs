//! The worker's side of the socket once it serves: a question, its answer, until the other side is gone.

use super::protocol::{
    Answer, FailureKind, Health, OperationStats, Request, RequestStats, Secrets, Stats, encode,
    parse,
};
use super::socket;
use crate::fs::attachable::Attachable;
use crate::fs::errno::FsError;
use crate::fs::operations::{self, Operation};
use crate::store::{Count, S3Keys};
use crate::tool::connect::MeterSlot;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Failures that are told with a drain.
const FAILURES_TOLD: usize = 5;
/// Between two attempts of a drain.
const AGAIN: Duration = Duration::from_millis(500);

/// What the questions are about.
pub(super) struct Control<F> {
    pub(super) fs: Arc<F>,
    pub(super) runtime: Handle,
    pub(super) meter: MeterSlot,
    /// The keys, where they can be replaced.
    pub(super) keys: Option<S3Keys>,
    /// What the store said last.
    pub(super) reachable: AtomicBool,
}

/// Why the worker is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// After everything is stored.
    Stored,
    /// At once: somebody takes over.
    Now,
}

impl<F: Attachable> Control<F> {
    /// Answers until the worker is to end, or nobody asks any more. Blocks the thread.
    pub(super) fn serve(&self, stream: &UnixStream) -> End {
        loop {
            let message = match socket::receive(stream) {
                Ok(Some((message, _))) => zeroize::Zeroizing::new(message),
                Ok(None) => return End::Stored,
                Err(error) => {
                    tracing::warn!("the socket to whoever started this: {error}");
                    return End::Stored;
                }
            };
            let (answer, end) = match parse(&message) {
                Ok(request) => self.answer(request),
                Err(message) => (Answer::Failed { kind: FailureKind::Invalid, message }, None),
            };
            if let Err(error) = send(stream, &answer) {
                tracing::warn!("the socket to whoever started this: {error}");
                return end.unwrap_or(End::Stored);
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn answer(&self, request: Request) -> (Answer, Option<End>) {
        match request {
            Request::Health { within } => (Answer::Health(self.health(within)), None),
            Request::Stats => (Answer::Stats(self.stats()), None),
            Request::Credentials { secrets } => (self.replace_keys(&secrets), None),
            Request::Drain { within } => (self.drain(Duration::from_millis(within)), None),
            Request::Stop => (Answer::Done, Some(End::Stored)),
            Request::HandOver => (Answer::Done, Some(End::Now)),
        }
    }

    fn health(&self, within: u64) -> Health {
        let within = Duration::from_millis(within);
        let asked =
            self.runtime.block_on(async { tokio::time::timeout(within, self.fs.look()).await });
        let message = match asked {
            Ok(Ok(_)) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("{}: no answer within {within:?}", self.fs.place()),
        };
        let reachable = message.is_empty();
        self.reachable.store(reachable, Ordering::Relaxed);
        Health { reachable, message }
    }

    fn stats(&self) -> Stats {
        let burden = self.fs.burden();
        Stats {
            dirty_bytes: burden.dirty_bytes,
            dirty_limit: burden.dirty_limit,
            changed_files: burden.changed_files,
            open_files: burden.open_files,
            takeovers: burden.takeovers,
            lost_files: burden.lost_files,
            store_reachable: self.reachable.load(Ordering::Relaxed),
            requests: self.meter.requests().map(told_request).collect(),
            operations: operations::operations().into_iter().map(told_operation).collect(),
            errors: operations::errors(),
            caches: [("memory", self.fs.cache_hits()), ("disk", self.meter.disk_cache())]
                .into_iter()
                .filter_map(|(cache, counts)| Some((cache.to_owned(), counts?)))
                .collect(),
            pid: std::process::id(),
        }
    }

    fn replace_keys(&self, secrets: &Secrets) -> Answer {
        let Secrets { access_key, secret_key, session_token, passphrase: _, derived: _ } = secrets;
        match (&self.keys, access_key, secret_key) {
            (Some(keys), Some(access_key), Some(secret_key)) => {
                keys.replace(access_key, secret_key, session_token.as_deref());
                tracing::info!("the store's keys are replaced");
                Answer::Done
            }
            // A directory needs none.
            (None, None, None) => Answer::Done,
            (None, ..) => Answer::Failed {
                kind: FailureKind::Invalid,
                message: "new keys: it was started without any, and does not sign".to_owned(),
            },
            _ => Answer::Failed {
                kind: FailureKind::Invalid,
                message: "new keys: name or secret is missing".to_owned(),
            },
        }
    }

    /// Stores what there is, again and again while it fails and there is time.
    fn drain(&self, within: Duration) -> Answer {
        let deadline = Instant::now() + within;
        let failures = self.runtime.block_on(async {
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match tokio::time::timeout(left, self.fs.store_everything()).await {
                    Ok(failed) if failed.is_empty() => return Vec::new(),
                    Ok(failed) if left < AGAIN => return failed,
                    Ok(_) => tokio::time::sleep(AGAIN).await,
                    // What is not dirty any more may still not be published.
                    Err(_) => {
                        let late = FsError::io("the time for this drain is up");
                        return vec![("everything".to_owned(), late)];
                    }
                }
            }
        });
        let told = failures.iter().take(FAILURES_TOLD);
        Answer::Drained {
            bytes_left: self.fs.burden().dirty_bytes.max(u64::from(!failures.is_empty())),
            failures: told.map(|(file, error)| format!("{file}: {error}")).collect(),
        }
    }
}

fn told_request((verb, count): (&'static str, Count)) -> (String, RequestStats) {
    let Count { answered, failed, bytes, microseconds } = count;
    (verb.to_owned(), RequestStats { answered, failed, bytes, microseconds })
}

fn told_operation((kind, operation): (&'static str, Operation)) -> (String, OperationStats) {
    let Operation { answered, microseconds, within } = operation;
    let within = operations::BOUNDS.into_iter().zip(within).collect();
    (kind.to_owned(), OperationStats { answered, microseconds, within })
}

/// Sends an answer.
pub(super) fn send(stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    socket::send(stream, &encode(answer), &[])
}
