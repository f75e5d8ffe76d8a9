//! A file on its way into a store, in parts that OpenDAL cuts no further.
//!
//! Crash story: until [`RemoteUpload::finish`] nothing is under the name; what a killed process had sent lies in
//! the store without one (Azure forgets it after a week, Google keeps it until a rule of the bucket clears it).

use super::errors::classified;
use super::{PATIENT, Remote, RemoteFile, SOON};
use crate::store::transport::Failure;
use crate::store::{Headers, StoreError, StoreErrorKind};
use bytes::Bytes;
use opendal::options::WriteOptions;
use opendal::{OperationContext, Writer};
use std::sync::Arc;
use std::time::Duration;

/// Parts at once.
const PARTS: usize = 8;
/// What may be spent on giving up an upload.
const ABORT: Duration = Duration::from_secs(10);

/// An upload that has begun. Dropped, it is neither finished nor aborted.
pub struct RemoteUpload<'a> {
    remote: &'a Remote,
    path: &'a str,
    headers: &'a Headers,
    writer: Writer,
    failure: Arc<Failure>,
    size: u64,
}

impl Remote {
    /// Begins a file.
    pub async fn begin<'a>(
        &'a self,
        path: &'a str,
        headers: &'a Headers,
    ) -> Result<RemoteUpload<'a>, StoreError> {
        let path = self.checked("put", path)?;
        let options = WriteOptions {
            concurrent: PARTS,
            content_type: headers.content_type.clone(),
            user_metadata: Some(headers.metadata.clone().into_iter().collect()),
            ..WriteOptions::default()
        };
        let (transport, failure) = self.fetcher.for_upload(SOON, PATIENT);
        let context = OperationContext::new().with_http_transport(transport);
        let operator = self.soon.clone().with_context(context);
        let writer = operator.writer_options(path, options).await;
        let writer = writer.map_err(|error| classified(error, self.asked("put", path)))?;
        Ok(RemoteUpload { remote: self, path, headers, writer, failure, size: 0 })
    }
}

impl RemoteUpload<'_> {
    /// Takes the next part, 5 MiB at least unless it is the last. It may come back before the part is stored: the
    /// bytes are released when they are. One part stays here until the next one comes.
    pub async fn write(&mut self, part: Bytes) -> Result<(), StoreError> {
        self.size += part.len() as u64;
        self.writer.write(part).await.map_err(|error| self.refused(error))
    }

    /// Waits until a part has failed for good. Whoever waits for parts to be released has to wait for this too: one that
    /// failed is never released.
    pub fn failed(&self) -> impl Future<Output = StoreError> + Send + use<> {
        let failure = self.failure.clone();
        let (path, place) = (self.path.to_owned(), self.remote.place.clone());
        let settings = self.remote.settings;
        async move {
            failure.happened().await;
            let (kind, mut why) =
                failure.reason().unwrap_or((StoreErrorKind::Other, String::new()));
            let object = if kind == StoreErrorKind::NoBucket { place } else { path };
            if kind == StoreErrorKind::Denied {
                why = format!("{why}: {settings}");
            }
            StoreError::new(kind, "put", object).with_source(why)
        }
    }

    /// Whether a request is under way. If none is, and memory is not released either, then a part has failed unseen.
    pub fn is_asking(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let failure = self.failure.clone();
        move || failure.under_way() > 0
    }

    /// Makes the file of what was written.
    pub async fn finish(mut self) -> Result<RemoteFile, StoreError> {
        let closed = self.writer.close().await.map(drop).map_err(|error| self.refused(error));
        // Asked in either case: an answer that was lost may have been yes, and nothing else tells how long it is.
        let found = self.remote.head(self.path).await;
        let is_ours = |found: &RemoteFile| {
            // Servers may add some of their own.
            let has = |(name, value)| found.headers.metadata.get(name) == Some(value);
            found.size == self.size && self.headers.metadata.iter().all(has)
        };
        match (closed, found) {
            (_, Ok(found)) if is_ours(&found) => Ok(found),
            (Err(error), _) => {
                self.abort().await;
                Err(error)
            }
            (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(found)) => {
                let error = StoreError::new(StoreErrorKind::Corrupt, "put", self.path);
                Err(error.with_source(format!(
                    "{} bytes were sent, and {} are there: somebody else has stored a file of this name, or the \
                     store is damaged",
                    self.size, found.size
                )))
            }
        }
    }

    /// Gives it up.
    pub async fn abort(mut self) {
        match tokio::time::timeout(ABORT, self.writer.abort()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = self.refused(error);
                tracing::warn!("the parts of an upload stay behind: {error}");
            }
            Err(_) => tracing::warn!("the parts of an upload of {} stay behind", self.path),
        }
    }

    fn refused(&self, error: opendal::Error) -> StoreError {
        let mut error = classified(error, self.remote.asked("put", self.path));
        // There is no object to be found missing.
        if error.kind == StoreErrorKind::NotFound {
            error.kind = StoreErrorKind::NoBucket;
            error.object = self.remote.place.clone();
        }
        error
    }
}
