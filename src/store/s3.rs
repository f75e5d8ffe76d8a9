//! The S3 family, through Amazon's SDK: the only file that knows it.
//!
//! The SDK's own retries are off (`retry.rs` has them: conditional writes need care); payloads are not
//! signed, since everything is authenticated end to end; checksums are added only where an operation
//! demands them; no bucket is ever created.

use super::s3_connect::{self, ListVersion, Listing, S3Config};
use super::s3_errors::{by_answer, is_of_place, is_tls, remedy, root_cause};
use super::s3_files::DELETES;
use super::s3_headers::{ContentMd5, DateOf};
use super::s3_identity::UNANSWERED;
use super::transport::deadline;
use super::{
    Body, ETag, Fetched, Key, ListPage, ListRequest, Object, ObjectMeta, PutWhen, Store,
    StoreError, StoreErrorKind,
};
use crate::units::ByteRange;
use crate::world::Timestamp;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{CommonPrefix, Delete, EncodingType, ObjectIdentifier};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use futures::StreamExt;
use std::sync::atomic::AtomicBool;

/// Objects that one DeleteObjects takes.
const DELETE_BATCH: usize = 1000;

/// The store.
#[derive(Debug)]
pub struct S3Store {
    pub(super) client: Client,
    pub(super) bucket: String,
    place: String,
    listing: Listing,
    pub(super) part_limit: u32,
    batch_deletes: bool,
    /// Until the server refuses an upload whose parts are checked so.
    pub(super) crc32c: AtomicBool,
}

impl S3Store {
    /// Reads the SDK's settings (environment, profile files) unless the credentials are given, and makes
    /// a client. Sends no request.
    pub async fn connect(config: S3Config) -> Result<Self, StoreError> {
        let bucket = config.bucket.clone();
        let S3Config { listing, part_limit, batch_deletes, crc32c, .. } = config;
        let (client, place) = s3_connect::client(config).await?;
        let crc32c = AtomicBool::new(crc32c);
        Ok(Self { client, bucket, place, listing, part_limit, batch_deletes, crc32c })
    }

    /// Runs a request with a deadline that leaves time for its bytes.
    pub(super) async fn bounded<T, E>(
        &self,
        operation: &'static str,
        object: &str,
        bytes: u64,
        writes: bool,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match tokio::time::timeout(deadline(bytes), request).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(self.classify(operation, object, writes, error)),
            Err(_) => {
                let error = StoreError::new(StoreErrorKind::Unavailable, operation, object)
                    .with_source("no answer in time");
                Err(if writes { error.with_effect_unknown() } else { error })
            }
        }
    }

    fn classify<E>(
        &self,
        operation: &'static str,
        object: &str,
        writes: bool,
        error: SdkError<E, HttpResponse>,
    ) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let code = error.code().map(str::to_owned);
        let message = error.message().map(str::to_owned);
        let status = error.raw_response().map(|response| response.status().as_u16());
        let (kind, unknown) = match &error {
            // Credentials cannot be had now: nothing was sent.
            _ if root_cause(&error).starts_with(UNANSWERED) => (StoreErrorKind::Unavailable, false),
            SdkError::ConstructionFailure(_) => {
                // The SDK found no credentials, or could not get them.
                (StoreErrorKind::Denied, false)
            }
            SdkError::TimeoutError(_) => (StoreErrorKind::Unavailable, true),
            SdkError::DispatchFailure(failure) => {
                let text = DisplayErrorContext(&error).to_string();
                if is_tls(&text) {
                    (StoreErrorKind::Tls, false)
                } else if text.contains("credentials") && !failure.is_io() {
                    (StoreErrorKind::Denied, false)
                } else if text.contains("ConnectError")
                    || text.contains("Connect,")
                    || text.contains("dns error")
                {
                    (StoreErrorKind::Unreachable, false)
                } else {
                    (StoreErrorKind::Unavailable, true)
                }
            }
            SdkError::ResponseError(_) => (StoreErrorKind::Unavailable, true),
            _ => by_answer(code.as_deref(), status.unwrap_or(0)),
        };
        let why = match (&code, message, status) {
            (Some(code), Some(message), _) => format!("{code}: {message}"),
            (Some(code), None, _) => code.clone(),
            (None, _, Some(status)) if kind != StoreErrorKind::NotFound => {
                format!("HTTP status {status}")
            }
            (None, _, Some(_)) => String::new(),
            _ => root_cause(&error),
        };
        // A listing of everything has no object to name.
        let of_place = is_of_place(kind) || object.is_empty();
        let object = if of_place { &self.place } else { object };
        let mut result = StoreError::new(kind, operation, object);
        if !why.is_empty() {
            let plain = self.place.contains(" at http://");
            result = result.with_source(remedy(kind, code.as_deref(), status, plain, why));
        }
        if unknown && writes { result.with_effect_unknown() } else { result }
    }

    pub(super) fn corrupt(
        &self,
        operation: &'static str,
        object: &str,
        why: &'static str,
    ) -> StoreError {
        StoreError::new(StoreErrorKind::Corrupt, operation, object).with_source(why)
    }
}

#[async_trait]
impl Store for S3Store {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        let length = body.len() as u64;
        let mut request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .body(ByteStream::from(body));
        match when {
            PutWhen::Always => {}
            PutWhen::IfAbsent => request = request.if_none_match("*"),
            PutWhen::IfMatch(ETag(etag)) => request = request.if_match(etag),
        }
        let request = request.customize().disable_payload_signing().send();
        let output = self.bounded("put", key.as_str(), length, true, request).await?;
        let etag = output.e_tag.ok_or_else(|| self.corrupt("put", key.as_str(), "no ETag"))?;
        Ok(ETag(etag))
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        if let Some(range) = range
            && range.is_empty()
        {
            let meta = self.head(key).await?;
            return Ok(Fetched::Object(Object::of_nothing(meta)));
        }
        let mut request = self.client.get_object().bucket(&self.bucket).key(key.as_str());
        if let Some(range) = range {
            // Servers read it as a signed number, and ignore a range that does not fit.
            let last = (range.end() - 1).min(i64::MAX as u64);
            request = request.range(format!("bytes={}-{last}", range.offset()));
        }
        if let Some(ETag(etag)) = unless {
            request = request.if_none_match(etag);
        }
        let expected = range.map_or(8 << 20, ByteRange::length);
        let fetch = async {
            // The reply's own clock is only in the raw headers.
            let date = std::sync::Arc::new(parking_lot::Mutex::new(None));
            let sent = request.customize().interceptor(DateOf(date.clone())).send().await;
            let output = match sent {
                Ok(output) => output,
                Err(error) => {
                    let status = error.raw_response().map(|response| response.status().as_u16());
                    return match status {
                        Some(304) => Ok(Fetched::Unchanged),
                        Some(416) => {
                            let meta = self.head(key).await?;
                            Ok(Fetched::Object(Object::of_nothing(meta)))
                        }
                        _ => Err(self.classify("get", key.as_str(), false, error)),
                    };
                }
            };
            let length = output.content_length.and_then(|length| u64::try_from(length).ok());
            let length = length.ok_or_else(|| self.corrupt("get", key.as_str(), "no length"))?;
            if let Some(range) = range
                && length > range.length()
            {
                return Err(self.corrupt("get", key.as_str(), "more bytes than were asked for"));
            }
            let size =
                match output.content_range.as_deref().and_then(|range| range.rsplit('/').next()) {
                    Some(total) => total.parse().unwrap_or(length),
                    None => length,
                };
            if let Some(range) = range
                && range.offset() > 0
                && output.content_range.is_none()
            {
                return Err(self.corrupt("get", key.as_str(), "the range was ignored"));
            }
            let modified = time(output.last_modified.as_ref());
            let etag = output.e_tag.clone();
            let metadata = super::s3_files::metadata(output.metadata);
            let body = collect(output.body, length).await.map_err(|why| {
                StoreError::new(StoreErrorKind::Unavailable, "get", key).with_source(why)
            })?;
            let etag = etag.ok_or_else(|| self.corrupt("get", key.as_str(), "no ETag"))?;
            let date = date.lock().take().unwrap_or(modified);
            let meta = ObjectMeta { key: key.clone(), size, etag: ETag(etag), modified };
            Ok(Fetched::Object(Object { meta, body, date, metadata }))
        };
        match tokio::time::timeout(deadline(expected), fetch).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::new(StoreErrorKind::Unavailable, "get", key)
                .with_source("no answer in time")),
        }
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        let request = self.client.head_object().bucket(&self.bucket).key(key.as_str()).send();
        let output = self.bounded("head", key.as_str(), 0, false, request).await?;
        let etag = output.e_tag.ok_or_else(|| self.corrupt("head", key.as_str(), "no ETag"))?;
        Ok(ObjectMeta {
            key: key.clone(),
            size: output.content_length.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            etag: ETag(etag),
            modified: time(output.last_modified.as_ref()),
        })
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        let mut request = self.client.delete_object().bucket(&self.bucket).key(key.as_str());
        if let Some(ETag(etag)) = if_match {
            request = request.if_match(etag);
        }
        match self.bounded("delete", key.as_str(), 0, true, request.send()).await {
            Err(error) if error.kind == StoreErrorKind::NotFound && if_match.is_none() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        if !self.batch_deletes {
            let delete = async |key: Key| (self.delete(&key, None).await.err(), key);
            let requests: Vec<_> = keys.iter().cloned().map(delete).collect();
            let answers = futures::stream::iter(requests).buffer_unordered(DELETES);
            let answers: Vec<_> = answers.collect().await;
            let failed = answers.into_iter().filter_map(|(error, key)| Some((key, error?)));
            return Ok(failed.collect());
        }
        let mut failed = Vec::new();
        for batch in keys.chunks(DELETE_BATCH) {
            let invalid = |error: aws_sdk_s3::error::BuildError| {
                StoreError::new(StoreErrorKind::Invalid, "delete", &self.place).with_source(error)
            };
            let objects = batch
                .iter()
                .map(|key| ObjectIdentifier::builder().key(key.as_str()).build().map_err(invalid))
                .collect::<Result<Vec<_>, _>>()?;
            let delete = Delete::builder()
                .set_objects(Some(objects))
                .quiet(true)
                .build()
                .map_err(invalid)?;
            let request = self.client.delete_objects().bucket(&self.bucket).delete(delete);
            let request = request.customize().interceptor(ContentMd5).send();
            let output = self.bounded("delete", &self.place, 0, true, request).await?;
            for error in output.errors() {
                let Some(key) = error.key().and_then(Key::new) else { continue };
                let (kind, _) = by_answer(error.code(), 0);
                if kind == StoreErrorKind::NotFound {
                    continue;
                }
                let why = error.message().or(error.code()).unwrap_or("no reason given").to_owned();
                let error = StoreError::new(kind, "delete", &key).with_source(why);
                failed.push((key, error));
            }
        }
        Ok(failed)
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let Page { contents, prefixes, truncated, date } = match self.listing.version {
            ListVersion::V1 => self.page_v1(request).await?,
            ListVersion::V2 => self.page_v2(request).await?,
        };
        let ListRequest { prefix, start_after, .. } = request;
        let decoded = |text: &str| match self.listing.encoded {
            true => decoded(text),
            false => text.to_owned(),
        };
        let mut objects = Vec::new();
        for object in &contents {
            let key = object.key().map(decoded).and_then(Key::new);
            let (Some(key), Some(etag)) = (key, object.e_tag()) else {
                return Err(self.corrupt("list", prefix, "an object without key or ETag"));
            };
            objects.push(ObjectMeta {
                key,
                size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                etag: ETag(etag.to_owned()),
                modified: time(object.last_modified()),
            });
        }
        let prefixes: Vec<String> = prefixes
            .iter()
            .filter_map(|prefix| prefix.prefix().map(decoded))
            // With start-after inside a rolled-up prefix some servers give that prefix again.
            .filter(|prefix| start_after.as_ref().is_none_or(|after| prefix > after))
            .collect();
        let next = if truncated {
            let last = objects.last().map(|object| object.key.as_str());
            let last = last.into_iter().chain(prefixes.last().map(String::as_str)).max();
            let last = last.map(|last| match last.strip_suffix('/') {
                // Everything under a rolled-up prefix has been told.
                Some(_) if prefixes.iter().any(|prefix| prefix == last) => {
                    format!("{last}\u{10ffff}")
                }
                _ => last.to_owned(),
            });
            Some(last.ok_or_else(|| {
                self.corrupt("list", prefix, "an empty page that is not the last")
            })?)
        } else {
            None
        };
        Ok(ListPage { objects, prefixes, next, date })
    }

    fn describe(&self) -> String {
        self.place.clone()
    }
}

/// An answer to either version of the listing request.
struct Page {
    contents: Vec<aws_sdk_s3::types::Object>,
    prefixes: Vec<CommonPrefix>,
    truncated: bool,
    date: Timestamp,
}

impl S3Store {
    async fn page_v2(&self, request: &ListRequest) -> Result<Page, StoreError> {
        let ListRequest { prefix, roll_up, start_after, limit } = request;
        let date = std::sync::Arc::new(parking_lot::Mutex::new(None));
        let sent = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_encoding_type(self.encoding())
            .set_start_after(start_after.clone())
            .set_delimiter(roll_up.then(|| "/".to_owned()))
            .set_max_keys(page_size(*limit));
        let sent = sent.customize().interceptor(DateOf(date.clone())).send();
        let output = self.bounded("list", prefix, 0, false, sent).await?;
        let date = date.lock().take().unwrap_or_default();
        Ok(Page {
            truncated: output.is_truncated().unwrap_or(false),
            contents: output.contents.unwrap_or_default(),
            prefixes: output.common_prefixes.unwrap_or_default(),
            date,
        })
    }

    /// For servers that do not know the second version.
    async fn page_v1(&self, request: &ListRequest) -> Result<Page, StoreError> {
        let ListRequest { prefix, roll_up, start_after, limit } = request;
        let date = std::sync::Arc::new(parking_lot::Mutex::new(None));
        let sent = self
            .client
            .list_objects()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_encoding_type(self.encoding())
            .set_marker(start_after.clone())
            .set_delimiter(roll_up.then(|| "/".to_owned()))
            .set_max_keys(page_size(*limit));
        let sent = sent.customize().interceptor(DateOf(date.clone())).send();
        let output = self.bounded("list", prefix, 0, false, sent).await?;
        let date = date.lock().take().unwrap_or_default();
        Ok(Page {
            truncated: output.is_truncated().unwrap_or(false),
            contents: output.contents.unwrap_or_default(),
            prefixes: output.common_prefixes.unwrap_or_default(),
            date,
        })
    }

    /// Control characters have no place in XML, but not every server can encode them.
    fn encoding(&self) -> Option<EncodingType> {
        self.listing.encoded.then_some(EncodingType::Url)
    }
}

fn page_size(limit: u32) -> Option<i32> {
    (limit > 0).then(|| i32::try_from(limit).unwrap_or(1000).min(1000))
}

/// Collects a body of known length, each part in the buffer that it came in.
async fn collect(mut body: ByteStream, length: u64) -> Result<Body, String> {
    let mut parts = Vec::new();
    let mut received = 0_u64;
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| root_cause(&error))?;
        received += part.len() as u64;
        if received > length {
            return Err("more bytes than announced".to_owned());
        }
        parts.push(part);
    }
    if received < length {
        return Err(format!("connection ended after {received} of {length} bytes"));
    }
    Ok(parts.into_iter().collect())
}

/// Listings are URL-encoded so that every character survives XML; `+` is not a blank there.
fn decoded(text: &str) -> String {
    // MinIO and Amazon write a blank as `+` and a plus as `%2B`.
    let text = text.replace('+', " ");
    percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

pub(super) fn time(at: Option<&DateTime>) -> Timestamp {
    let nanos = at.map_or(0, DateTime::as_nanos);
    Timestamp(i64::try_from(nanos).unwrap_or(i64::MAX))
}
