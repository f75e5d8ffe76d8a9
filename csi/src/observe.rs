//! What is logged of a call: its name, its volume, how it ended and how long it took; never what is in it.

use crate::metrics;
use std::fmt::Display;
use std::time::Instant;
use tonic::{Code, Response, Status};

/// Runs a call and logs it.
pub(crate) async fn call<T>(
    name: &'static str,
    volume: impl Display,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    let start = Instant::now();
    let result = work.await;
    let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
    metrics::count(name, code, start.elapsed());
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    match &result {
        Ok(_) => tracing::info!(call = name, volume = %volume, ms, "done"),
        Err(status) if is_expected(status.code()) => {
            tracing::info!(call = name, volume = %volume, ms, code = ?status.code(), "{}", status.message());
        }
        Err(status) => {
            tracing::warn!(call = name, volume = %volume, ms, code = ?status.code(), "{}", status.message());
        }
    }
    result.map(Response::new)
}

/// What happens every day.
fn is_expected(code: Code) -> bool {
    matches!(code, Code::Aborted | Code::NotFound | Code::AlreadyExists | Code::Unimplemented)
}
