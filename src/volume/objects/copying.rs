//! Copies that the store makes itself: nothing of a file comes here.

use super::ObjectsError;
use super::bucket::Requests;
use super::transfer::Transfer;
use crate::store::{CopySource, ETag, Headers, Key, Part, PartsFrom, StoreError, StoreErrorKind};
use crate::units::ByteRange;
use futures::{StreamExt, TryStreamExt};

/// What one part of a copy in parts has.
const COPY_PART: u64 = 1 << 30;
/// Parts that are copied at the same time.
const COPIES: usize = 16;

/// Copies the object of this mark and size under another key, with these headers; more than `limit` bytes in parts.
pub(super) async fn copy(
    requests: &Requests,
    limit: u64,
    from: &Key,
    (etag, size): (&ETag, u64),
    (to, headers): (&Key, &Headers),
) -> Result<ETag, ObjectsError> {
    let source = CopySource { key: from, etag, size };
    let files = &requests.files;
    let replaced = |error: StoreError| match error.kind {
        StoreErrorKind::NotFound | StoreErrorKind::PreconditionFailed => {
            ObjectsError::Changed(from.to_string())
        }
        _ => error.into(),
    };
    if size <= limit {
        return files.copy_file(source, to, Some(headers)).await.map_err(replaced);
    }
    let upload = files.begin_upload(to, headers, PartsFrom::Store).await?;
    let part = COPY_PART.min(limit);
    let part = part.max(size.div_ceil(u64::from(files.part_limit())));
    let starts = (0..size).step_by(part as usize);
    let (to_upload, upload_id) = (to, &upload);
    let parts = starts.zip(1_u32..).map(|(start, number)| {
        let range = ByteRange::between(start, (start + part).min(size));
        async move { files.copy_part(source, range, (to_upload, upload_id), number).await }
    });
    let parts: Vec<_> = parts.collect();
    let parts = futures::stream::iter(parts).buffered(COPIES).try_collect::<Vec<Part>>().await;
    let done = match parts {
        Ok(parts) => files.complete_upload(to, &upload, &parts).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(etag) => Ok(etag),
        Err(error) => {
            let transfer = Transfer { requests: requests.clone(), key: to.clone() };
            transfer.give_up(&upload).await;
            Err(replaced(error))
        }
    }
}
