//! The bytes of one object, both ways: ranges and parts side by side, in bounded memory.

use super::ObjectsError;
use super::bucket::{KEY_CHECK, Requests};
use super::parts::Piece;
use super::progress::Progress;
use crate::crypto::datasafed::{OVERHEAD, StreamKey};
use crate::store::{
    ETag, Fetched, Headers, Key, Object, Part, PartBody, PartsFrom, Store, StoreError,
    StoreErrorKind, Upload,
};
use crate::units::ByteRange;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender};

/// What one range asks for, in bytes.
pub(super) const RANGE: u64 = 8 << 20;
/// Ranges at once: a reader has at most this many and one in memory.
pub(super) const RANGES: usize = 4;
/// Parts at once; the budget of their buffers bounds them too.
const PARTS: usize = 8;
/// A first part of so many bytes is sent before the second one comes.
const LARGE: u64 = 32 << 20;
/// What may be spent on giving up an upload.
const ABORT: Duration = Duration::from_secs(10);

/// A part to be sent, and the memory that it takes.
type Filled = (PartBody, OwnedSemaphorePermit);

/// One object.
pub(super) struct Transfer {
    pub(super) requests: Requests,
    pub(super) key: Key,
}

impl Transfer {
    /// Sends the content from front to back; a receiver that is gone ends it.
    pub(super) async fn read(
        &self,
        key: Option<Arc<StreamKey>>,
        out: Sender<Vec<Bytes>>,
    ) -> Result<(), ObjectsError> {
        let key = key.as_ref();
        let overhead = if key.is_some() { OVERHEAD } else { 0 };
        let (first, object) = self.range(&*self.requests.store, key, 0, None).await?;
        let size = object.size;
        if size < overhead {
            return Err(ObjectsError::without_iv(size));
        }
        // A receiver that is gone has its own reason.
        if out.send(first).await.is_err() {
            return Ok(());
        }
        let starts = (RANGE..size - overhead).step_by(RANGE as usize);
        let patient = &*self.requests.patient;
        let ranges = starts.map(|start| self.range(patient, key, start, Some(&object.etag)));
        let mut ranges = futures::stream::iter(ranges).buffered(RANGES);
        while let Some((bytes, _)) = ranges.try_next().await? {
            if out.send(bytes).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The content from `start` on, as much as one range holds, and what is known of the whole object. With
    /// `same`, it has to be that object still.
    async fn range(
        &self,
        store: &dyn Store,
        key: Option<&Arc<StreamKey>>,
        start: u64,
        same: Option<&ETag>,
    ) -> Result<(Vec<Bytes>, crate::store::ObjectMeta), ObjectsError> {
        self.bytes(store, key, ByteRange::new(start, RANGE), same).await
    }

    /// The content of a range, fewer bytes only where the object ends.
    pub(super) async fn bytes(
        &self,
        store: &dyn Store,
        key: Option<&Arc<StreamKey>>,
        wanted: ByteRange,
        same: Option<&ETag>,
    ) -> Result<(Vec<Bytes>, crate::store::ObjectMeta), ObjectsError> {
        let range = if key.is_some() { StreamKey::object_range(wanted) } else { wanted };
        let Object { meta, body, metadata, .. } = self.object(store, range, same).await?;
        let expected = range.length().min(meta.size.saturating_sub(range.offset()));
        if body.len() as u64 != expected {
            let error = StoreError::new(StoreErrorKind::Corrupt, "get", &self.key);
            return Err(error.with_source("fewer bytes than the object has").into());
        }
        let parts = match key {
            None => body.parts().cloned().collect(),
            // Shorter than its IV: the caller sees it by the size.
            Some(_) if (body.len() as u64) < OVERHEAD => Vec::new(),
            Some(key) => {
                let mut whole = Vec::with_capacity(body.len());
                body.parts().for_each(|part| whole.extend_from_slice(part));
                if let Some(iv) = metadata.get(KEY_CHECK).and_then(|check| key.refuses(check)) {
                    let is_of_iv = match range.offset() {
                        0 => whole.starts_with(&iv),
                        // Told beside what may have been replaced since: the object's own beginning says.
                        _ => self.begins_with(store, iv, &meta.etag).await?,
                    };
                    if is_of_iv {
                        return Err(ObjectsError::OtherKey(self.key.to_string()));
                    }
                }
                let opened = key.open_range(wanted, whole);
                let opened = opened.map_err(|error| ObjectsError::Damaged(error.to_string()))?;
                vec![Bytes::from(opened)]
            }
        };
        Ok((parts, meta))
    }

    /// A range of the object; with `same`, of that one.
    async fn object(
        &self,
        store: &dyn Store,
        range: ByteRange,
        same: Option<&ETag>,
    ) -> Result<Object, ObjectsError> {
        let object = match store.get(&self.key, Some(range), None).await {
            Ok(Fetched::Object(object)) => object,
            Ok(Fetched::Unchanged) => return Err(ObjectsError::Ended),
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Err(match same {
                    Some(_) => ObjectsError::Changed(self.key.to_string()),
                    None => ObjectsError::NotFound,
                });
            }
            Err(error) => return Err(error.into()),
        };
        match same {
            Some(same) if *same != object.meta.etag => {
                Err(ObjectsError::Changed(self.key.to_string()))
            }
            _ => Ok(object),
        }
    }

    async fn begins_with(
        &self,
        store: &dyn Store,
        iv: [u8; 16],
        etag: &ETag,
    ) -> Result<bool, ObjectsError> {
        let object = self.object(store, ByteRange::new(0, OVERHEAD), Some(etag)).await?;
        let bytes: Vec<u8> = object.body.parts().flatten().copied().collect();
        Ok(bytes == iv)
    }

    /// Stores what comes: in one request if it is one part, else in parts.
    pub(super) async fn write(
        &self,
        headers: Headers,
        mut pieces: Receiver<Piece>,
    ) -> Result<ETag, ObjectsError> {
        let (first, share) = match next(&mut pieces).await? {
            Some(piece) => piece,
            None => {
                return Ok(self.requests.files.put_file(&self.key, Bytes::new(), &headers).await?);
            }
        };
        // A large first part may leave no room for the second to be filled.
        if first.length() >= LARGE {
            return self.in_parts(headers, (None, vec![(first, share)]), pieces, None).await;
        }
        let Some(second) = next(&mut pieces).await? else {
            let first = first.bytes().map_err(ObjectsError::Source)?;
            return Ok(self.requests.files.put_file(&self.key, first, &headers).await?);
        };
        self.in_parts(headers, (None, vec![(first, share), second]), pieces, None).await
    }

    /// Stores what comes in parts, of which there are two at least: none is held back until the next comes. `earlier`:
    /// they follow those of an upload that has begun. `followed`: who is told how far the file at a path has come.
    pub(super) async fn write_parts(
        &self,
        headers: Headers,
        mut pieces: Receiver<Piece>,
        earlier: Option<(Upload, Vec<Part>)>,
        followed: Option<(String, Arc<Progress>)>,
    ) -> Result<ETag, ObjectsError> {
        let begun = match earlier {
            Some(_) => Vec::new(),
            None => vec![next(&mut pieces).await?.ok_or(ObjectsError::Ended)?],
        };
        self.in_parts(headers, (earlier, begun), pieces, followed).await
    }

    async fn in_parts(
        &self,
        headers: Headers,
        (earlier, begun): (Option<(Upload, Vec<Part>)>, Vec<Filled>),
        pieces: Receiver<Piece>,
        followed: Option<(String, Arc<Progress>)>,
    ) -> Result<ETag, ObjectsError> {
        let (upload, stored) = match earlier {
            Some(earlier) => earlier,
            None => {
                let files = &self.requests.files;
                let upload = files.begin_upload(&self.key, &headers, PartsFrom::Here).await?;
                if let Some((path, progress)) = &followed {
                    progress.begin(path, &upload, &headers);
                }
                (upload, Vec::new())
            }
        };
        let followed = followed.map(|(_, progress)| progress);
        let progress = followed.as_deref();
        let given_up = Some((upload.clone(), followed.clone()));
        let mut guard = Guard { transfer: self, upload: given_up };
        let parts = self.send_parts(&upload, (stored, begun), pieces, progress).await;
        let done = match parts {
            Ok(parts) => {
                if let Some(progress) = progress {
                    progress.ending();
                }
                let completed = self.requests.files.complete_upload(&self.key, &upload, &parts);
                completed.await.map_err(ObjectsError::from)
            }
            Err(error) => Err(error),
        };
        // Whether it was completed is unknown: to abort it then does no harm either way.
        if done.is_err()
            && let Some(progress) = progress
        {
            progress.fail();
        }
        let is_over = done.is_ok() || self.give_up(&upload).await;
        guard.upload = None;
        if is_over && let Some(progress) = progress {
            progress.over();
        }
        done
    }

    /// Stores a content in one request.
    pub(super) async fn put(&self, body: Bytes, headers: &Headers) -> Result<ETag, ObjectsError> {
        Ok(self.requests.files.put_file(&self.key, body, headers).await?)
    }

    async fn send_parts(
        &self,
        upload: &Upload,
        (stored, begun): (Vec<Part>, Vec<Filled>),
        mut pieces: Receiver<Piece>,
        progress: Option<&Progress>,
    ) -> Result<Vec<Part>, ObjectsError> {
        let send = async |number: u32, body: PartBody, share| {
            let part = self.requests.files.upload_part(&self.key, upload, number, body).await?;
            match progress {
                Some(progress) => progress.stored(number, part.clone(), share),
                None => drop(share),
            }
            Ok::<_, StoreError>((number, part))
        };
        let mut under_way = FuturesUnordered::new();
        let mut done: Vec<(u32, Part)> = (1..).zip(stored).collect();
        let mut count = done.len() as u32;
        for (body, share) in begun {
            count += 1;
            under_way.push(send(count, body, share));
        }
        let mut open = true;
        while open || !under_way.is_empty() {
            tokio::select! {
                Some(sent) = under_way.next() => done.push(sent?),
                piece = next(&mut pieces), if open && under_way.len() < PARTS => match piece? {
                    Some((body, share)) => {
                        count += 1;
                        under_way.push(send(count, body, share));
                    }
                    None => open = false,
                },
            }
        }
        done.sort_unstable_by_key(|(number, _)| *number);
        Ok(done.into_iter().map(|(_, part)| part).collect())
    }

    /// Gives an upload up; whether the store has done so.
    pub(super) async fn give_up(&self, upload: &Upload) -> bool {
        let abort = self.requests.files.abort_upload(&self.key, upload);
        match tokio::time::timeout(ABORT, abort).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::warn!("the parts of an upload stay behind: {error}"),
            Err(_) => tracing::warn!("the parts of an upload of {} stay behind", self.key),
        }
        false
    }
}

/// Gives an upload up whose future was dropped, as a signal does it.
struct Guard<'a> {
    transfer: &'a Transfer,
    upload: Option<(Upload, Option<Arc<Progress>>)>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let Some((upload, followed)) = self.upload.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        let Transfer { requests, key } = self.transfer;
        let transfer = Transfer { requests: requests.clone(), key: key.clone() };
        let afterwards = requests.afterwards.clone();
        let give_up = async move {
            if transfer.give_up(&upload).await
                && let Some(progress) = followed
            {
                progress.over();
            }
        };
        afterwards.spawn_on(give_up, &runtime);
    }
}

pub(super) async fn next(pieces: &mut Receiver<Piece>) -> Result<Option<Filled>, ObjectsError> {
    match pieces.recv().await {
        Some(Piece::Part(body, share)) => Ok(Some((body, share))),
        Some(Piece::End) => Ok(None),
        Some(Piece::Failed(error)) => Err(ObjectsError::Source(error)),
        None => Err(ObjectsError::Ended),
    }
}

/// The media type that a name's ending stands for.
pub(super) fn content_type(path: &str) -> &'static str {
    let ending = path.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
    match ending.map(|(_, ending)| ending.to_ascii_lowercase()).as_deref() {
        Some("css") => "text/css; charset=utf-8",
        Some("gif") => "image/gif",
        Some("gz") => "application/gzip",
        Some("htm" | "html") => "text/html; charset=utf-8",
        Some("jpeg" | "jpg") => "image/jpeg",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("pdf") => "application/pdf",
        Some("png") => "image/png",
        Some("tar") => "application/x-tar",
        Some("txt") => "text/plain; charset=utf-8",
        Some("xml") => "text/xml; charset=utf-8",
        Some("zip") => "application/zip",
        _ => "application/octet-stream",
    }
}
