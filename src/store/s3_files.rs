//! Files in the S3 family: headers, uploads in parts, versions.

use super::files::{CopySource, KeptPart, PIECE};
use super::s3::{S3Store, time};
use super::{
    ETag, FileStore, Headers, Key, ObjectMeta, Part, PartBody, PartCheck, PartsFrom, StoreError,
    StoreErrorKind, Upload, Version,
};
use crate::units::ByteRange;
use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart,
    MetadataDirective,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use data_encoding::BASE64;
use futures::StreamExt;
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

/// Deletions at once where each is a request of its own.
pub(super) const DELETES: usize = 16;

/// What servers take the time for to put parts together or to copy an object, as if so much was sent.
const SLOW: u64 = 1 << 30;
/// What a key in a header is spelled with: all but RFC 3986's unreserved characters and `/`.
const COPIED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

impl S3Store {
    /// A key as the header that names a copy's source has it.
    fn source(&self, key: &Key) -> String {
        format!("{}/{}", self.bucket, utf8_percent_encode(key.as_str(), COPIED))
    }

    /// Begins an upload whose parts are to be checked so, or as by MD5 if the server does not say that it will.
    async fn begin(
        &self,
        key: &Key,
        headers: &Headers,
        wanted: PartCheck,
    ) -> Result<Upload, StoreError> {
        let wanted = (wanted == PartCheck::Crc32c).then_some(ChecksumAlgorithm::Crc32C);
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_checksum_algorithm(wanted.clone())
            .set_content_type(headers.content_type.clone())
            .set_metadata(Some(headers.metadata.clone().into_iter().collect()))
            .send();
        let output = self.bounded("put", key.as_str(), 0, true, request).await?;
        let id = output.upload_id;
        let id = id.ok_or_else(|| self.corrupt("put", key.as_str(), "an upload without a name"))?;
        let promised = wanted.is_some() && output.checksum_algorithm == wanted;
        let check = if promised { PartCheck::Crc32c } else { PartCheck::Md5 };
        Ok(Upload { id, check })
    }
}

/// As it is stored, in lower case whatever the server makes of it.
pub(super) fn metadata(told: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    let told = told.unwrap_or_default().into_iter();
    told.map(|(name, value)| (name.to_lowercase(), value)).collect()
}

#[async_trait]
impl FileStore for S3Store {
    async fn put_file(
        &self,
        key: &Key,
        body: Bytes,
        headers: &Headers,
    ) -> Result<ETag, StoreError> {
        let length = body.len() as u64;
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .content_md5(digest(&body))
            .set_content_type(headers.content_type.clone())
            .set_metadata(Some(headers.metadata.clone().into_iter().collect()))
            .body(ByteStream::from(body));
        let request = request.customize().disable_payload_signing().send();
        let output = self.bounded("put", key.as_str(), length, true, request).await?;
        output.e_tag.map(mark).ok_or_else(|| self.corrupt("put", key.as_str(), "no ETag"))
    }

    async fn head_file(&self, key: &Key) -> Result<(ObjectMeta, Headers), StoreError> {
        let request = self.client.head_object().bucket(&self.bucket).key(key.as_str()).send();
        let output = self.bounded("head", key.as_str(), 0, false, request).await?;
        let etag = output.e_tag.ok_or_else(|| self.corrupt("head", key.as_str(), "no ETag"))?;
        let size = output.content_length.and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| self.corrupt("head", key.as_str(), "no Content-Length"))?;
        let meta = ObjectMeta {
            key: key.clone(),
            size,
            etag: mark(etag),
            modified: time(output.last_modified.as_ref()),
        };
        let metadata = metadata(output.metadata);
        Ok((meta, Headers { content_type: output.content_type, metadata }))
    }

    async fn begin_upload(
        &self,
        key: &Key,
        headers: &Headers,
        from: PartsFrom,
    ) -> Result<Upload, StoreError> {
        // Copied parts have no checksum on every server (MinIO), and then cannot be completed.
        if from == PartsFrom::Here && self.crc32c.load(Ordering::Relaxed) {
            match self.begin(key, headers, PartCheck::Crc32c).await {
                // Some refuse what they do not know ...
                Err(error) if error.kind == StoreErrorKind::Invalid => {}
                // ... and some say nothing of it, and may or may not want checksums at the end.
                Ok(upload) if upload.check == PartCheck::Md5 => {
                    if let Err(error) = self.abort_upload(key, &upload).await {
                        tracing::debug!("an empty upload stays behind: {error}");
                    }
                }
                begun => return begun,
            }
            let upload = self.begin(key, headers, PartCheck::Md5).await?;
            self.crc32c.store(false, Ordering::Relaxed);
            return Ok(upload);
        }
        self.begin(key, headers, PartCheck::Md5).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload: &Upload,
        number: u32,
        body: PartBody,
    ) -> Result<Part, StoreError> {
        let length = body.length();
        let (body, check) = (body, upload.check);
        let kept = |error: std::io::Error| {
            StoreError::new(StoreErrorKind::Other, "put", key)
                .with_source(format!("a part that is kept on this machine's disk: {error}"))
        };
        let (body, sum) = match &body {
            PartBody::Memory(_) => checked(body, check).map_err(kept)?,
            // It is read for it.
            PartBody::Kept(_) => {
                let summed = tokio::task::spawn_blocking(move || checked(body, check)).await;
                summed.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(kept)?
            }
        };
        let mut request = self
            .client
            .upload_part()
            .content_length(i64::try_from(length).unwrap_or(i64::MAX))
            .bucket(&self.bucket)
            .key(key.as_str())
            .upload_id(&upload.id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX));
        request = match check {
            PartCheck::Md5 => request.content_md5(&sum),
            PartCheck::Crc32c => request.checksum_crc32_c(&sum),
        };
        let sum = (check == PartCheck::Crc32c).then_some(sum);
        let request = request.body(match body {
            PartBody::Memory(bytes) => ByteStream::from(bytes),
            PartBody::Kept(part) => {
                ByteStream::new(SdkBody::from_body_1_x(Sending { part, at: 0 }))
            }
        });
        let request = request.customize().disable_payload_signing().send();
        let output = self.bounded("put", key.as_str(), length, true, request).await?;
        // A server that does not repeat it has not looked at it.
        if sum.is_some() && sum != output.checksum_crc32_c {
            return Err(self.corrupt(
                "put",
                key.as_str(),
                "a part whose checksum was not confirmed",
            ));
        }
        let etag = output.e_tag.map(mark);
        let etag = etag.ok_or_else(|| self.corrupt("put", key.as_str(), "no ETag"))?;
        Ok(Part { etag, crc32c: sum })
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload: &Upload,
        parts: &[Part],
    ) -> Result<ETag, StoreError> {
        let parts = (1..)
            .zip(parts)
            .map(|(number, Part { etag: ETag(etag), crc32c })| {
                let part = CompletedPart::builder().part_number(number).e_tag(etag);
                part.set_checksum_crc32_c(crc32c.clone()).build()
            })
            .collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str())
            .upload_id(&upload.id)
            .multipart_upload(parts)
            .send();
        // Servers put the parts together while the answer is awaited.
        let output = self.bounded("put", key.as_str(), SLOW, true, request).await?;
        output.e_tag.map(mark).ok_or_else(|| self.corrupt("put", key.as_str(), "no ETag"))
    }

    async fn copy_file(
        &self,
        source: CopySource<'_>,
        to: &Key,
        headers: Option<&Headers>,
    ) -> Result<ETag, StoreError> {
        let mut request = self
            .client
            .copy_object()
            .copy_source(self.source(source.key))
            .copy_source_if_match(&source.etag.0)
            .bucket(&self.bucket)
            .key(to.as_str());
        if let Some(headers) = headers {
            request = request
                .metadata_directive(MetadataDirective::Replace)
                .set_content_type(headers.content_type.clone())
                .set_metadata(Some(headers.metadata.clone().into_iter().collect()));
        }
        let output = self.bounded("put", to.as_str(), SLOW, true, request.send()).await?;
        let etag = output.copy_object_result.and_then(|result| result.e_tag);
        etag.map(mark).ok_or_else(|| self.corrupt("put", to.as_str(), "a copy without an ETag"))
    }

    async fn copy_part(
        &self,
        source: CopySource<'_>,
        range: ByteRange,
        (to, upload): (&Key, &Upload),
        number: u32,
    ) -> Result<Part, StoreError> {
        let last = range.end().saturating_sub(1);
        let request = self
            .client
            .upload_part_copy()
            .copy_source(self.source(source.key))
            .copy_source_if_match(&source.etag.0)
            .copy_source_range(format!("bytes={}-{last}", range.offset()))
            .bucket(&self.bucket)
            .key(to.as_str())
            .upload_id(&upload.id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .send();
        let output = self.bounded("put", to.as_str(), SLOW, true, request).await?;
        let copied = output.copy_part_result.map(|part| (part.e_tag, part.checksum_crc32_c));
        let (etag, crc32c) = copied.unwrap_or_default();
        let etag = etag.map(mark);
        let etag =
            etag.ok_or_else(|| self.corrupt("put", to.as_str(), "a part without an ETag"))?;
        Ok(Part { etag, crc32c })
    }

    async fn abort_upload(&self, key: &Key, upload: &Upload) -> Result<(), StoreError> {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str())
            .upload_id(&upload.id)
            .send();
        match self.bounded("delete", key.as_str(), 0, true, request).await {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    async fn keeps_versions(&self) -> Result<bool, StoreError> {
        let request = self.client.get_bucket_versioning().bucket(&self.bucket).send();
        match self.bounded("list", "", 0, false, request).await {
            // A suspended bucket still has the versions of before.
            Ok(output) => Ok(matches!(
                output.status,
                Some(BucketVersioningStatus::Enabled | BucketVersioningStatus::Suspended)
            )),
            // Servers without versions refuse the question in many ways, and so do policies.
            Err(error) if error.is_transient() => Err(error),
            Err(_) => Ok(false),
        }
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<Version>, StoreError> {
        let request = self.client.list_object_versions().bucket(&self.bucket).prefix(prefix).send();
        let output = self.bounded("list", prefix, 0, false, request).await?;
        let version = |key: Option<&str>, id: Option<&str>| {
            Some(Version { key: Key::new(key?)?, id: id.unwrap_or("null").to_owned() })
        };
        let versions = output.versions().iter();
        let versions = versions.map(|found| version(found.key(), found.version_id()));
        let marks = output.delete_markers().iter();
        let marks = marks.map(|found| version(found.key(), found.version_id()));
        Ok(versions.chain(marks).flatten().collect())
    }

    async fn delete_versions(
        &self,
        versions: &[Version],
    ) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let delete = async |version: Version| {
            let Version { key, id } = version;
            let request = self.client.delete_object().bucket(&self.bucket).key(key.as_str());
            let request = request.version_id(id).send();
            (self.bounded("delete", key.as_str(), 0, true, request).await.err(), key)
        };
        let requests: Vec<_> = versions.iter().cloned().map(delete).collect();
        let answers = futures::stream::iter(requests).buffer_unordered(DELETES);
        let answers: Vec<_> = answers.collect().await;
        let failed = answers.into_iter().filter_map(|(error, key)| Some((key, error?)));
        Ok(failed.filter(|(_, error)| error.kind != StoreErrorKind::NotFound).collect())
    }

    fn part_limit(&self) -> u32 {
        self.part_limit
    }
}

/// An ETag as headers have it: some servers leave its quotes away in XML.
fn mark(etag: String) -> ETag {
    match etag.starts_with('"') || etag.starts_with("W/") {
        true => ETag(etag),
        false => ETag(format!("\"{etag}\"")),
    }
}

/// The digest that every server of the family checks a body by (RFC 1864).
pub(super) fn digest(body: &[u8]) -> String {
    BASE64.encode(&Md5::digest(body))
}

/// A part's body with what the store checks it by, as the family spells it (CRC-32C: RFC 3720, appendix B.4;
/// big-endian).
fn checked(body: PartBody, check: PartCheck) -> std::io::Result<(PartBody, String)> {
    let sum = match check {
        PartCheck::Md5 => {
            let mut sum = Md5::new();
            body.each(|piece| sum.update(piece))?;
            BASE64.encode(&sum.finalize())
        }
        PartCheck::Crc32c => {
            let mut sum = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
            body.each(|piece| sum.update(piece))?;
            // It has 32 bits.
            BASE64.encode(&(sum.finalize() as u32).to_be_bytes())
        }
    };
    Ok((body, sum))
}

/// A part that is read while it is sent.
struct Sending {
    part: Arc<dyn KeptPart>,
    at: u64,
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        let left = self.part.length() - self.at;
        if left == 0 {
            return Poll::Ready(None);
        }
        let length = left.min(PIECE as u64);
        // Short reads of what was written a moment ago.
        let read = self.part.read(self.at, usize::try_from(length).unwrap_or(PIECE));
        self.at += length;
        Poll::Ready(Some(read.map(http_body::Frame::data)))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.part.length() - self.at)
    }
}
