//! Rewrapping: what is sealed under an older master key is sealed again under the newest one.
//!
//! Records are replaced by CAS, one by one, in the order of a listing; those that are done already are
//! known by their headers, so that a run that was cut short is just repeated. With
//! [`RewrapSettings::data`] the segments of files follow: they are read, sealed under new ids and stored,
//! then the record is replaced.
//!
//! Crash story: a record is the former one or the new one, both readable. New segments that no record
//! refers to yet, and old ones that none does any more, are garbage for gc.

use super::entries::{Expect, Place};
use super::extents::{ExtentMap, Piece};
use super::listing::is_hidden;
use super::record::{Content, DecodeError, FileContent};
use super::session::{self, LEASE};
use super::{Volume, keys, proto};
use crate::crypto::{MasterNumber, Suite, record_master};
use crate::store::{Fetched, Key, ListRequest, ObjectMeta, StoreErrorKind};
use crate::units::{ByteRange, FileId};
use crate::volume::VolumeError;
use futures::stream::{self, StreamExt, TryStreamExt};
use prost::Message;
use std::collections::HashSet;
use std::sync::Arc;

/// Records under way at the same time.
const RECORDS: usize = 16;
/// Segments of a file under way at the same time.
const SEGMENTS: usize = 3;
/// A new segment's plaintext, unless the old ones are larger.
const SEGMENT: u64 = 8 << 20;
/// How often a record is looked at anew because somebody else has changed it meanwhile.
const ATTEMPTS: usize = 8;

/// What is to be sealed anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct RewrapSettings {
    /// The data of files too, not only records.
    pub data: bool,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct RewrapReport {
    /// Records looked at.
    pub records: u64,
    /// Records sealed anew.
    pub resealed: u64,
    /// Files whose data were sealed anew.
    pub files: u64,
    /// Bytes of data that were sealed anew.
    pub bytes: u64,
    /// What was left as it is, and why: damaged, or open elsewhere.
    pub left: Vec<(String, String)>,
}

/// What became of a record.
enum Outcome {
    /// It needs nothing.
    Current,
    /// It was sealed anew, with so many bytes of data.
    Resealed(u64),
    /// It stays as it is.
    Left(String),
}

impl Volume {
    /// Seals anew what an older master key protects. `progress` is called with the number of records and
    /// of bytes that were done since the last call.
    pub async fn rewrap(
        self: &Arc<Self>,
        settings: RewrapSettings,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<RewrapReport, VolumeError> {
        if self.suite() == Suite::None {
            let why = "the volume is not encrypted: it has no keys to change";
            return Err(VolumeError::Invalid(why.to_owned()));
        }
        self.refresh_keys().await?;
        let pinned = if settings.data { self.pinned_files().await? } else { HashSet::new() };
        let (pinned, mut report) = (&pinned, RewrapReport::default());
        for prefix in ["t/", "i/"] {
            let mut request = ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() };
            loop {
                let page = self.store().list(&request).await?;
                let mut outcomes = stream::iter(page.objects)
                    .map(|ObjectMeta { key, .. }| async move {
                        let outcome = self.rewrap_record(&key, settings, pinned, progress).await;
                        progress(1, 0);
                        outcome.map(|outcome| (key, outcome))
                    })
                    .buffer_unordered(RECORDS);
                while let Some((key, outcome)) = outcomes.try_next().await? {
                    report.records += 1;
                    match outcome {
                        Outcome::Current => {}
                        Outcome::Resealed(bytes) => {
                            report.resealed += 1;
                            report.files += u64::from(bytes > 0);
                            report.bytes += bytes;
                        }
                        Outcome::Left(why) => report.left.push((key.to_string(), why)),
                    }
                }
                match page.next {
                    Some(next) => request.start_after = Some(next),
                    None => break,
                }
            }
        }
        report.left.sort();
        Ok(report)
    }

    async fn rewrap_record(
        self: &Arc<Self>,
        key: &Key,
        settings: RewrapSettings,
        pinned: &HashSet<FileId>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Outcome, VolumeError> {
        let Some(place) = self.place_of(key) else {
            return Ok(Outcome::Left("is not spelled as an entry of this volume".to_owned()));
        };
        for _ in 0..ATTEMPTS {
            let object = match self.store().get(key, None, None).await {
                Ok(Fetched::Object(object)) => object,
                Ok(Fetched::Unchanged) => return Ok(Outcome::Current),
                Err(error) if error.kind == StoreErrorKind::NotFound => {
                    return Ok(Outcome::Current);
                }
                Err(error) => return Err(error.into()),
            };
            let master = record_master(&object.body.bytes());
            self.learn_master(master).await;
            let newest = self.keyring().current_master();
            let (stored, buried) = match self.open_object(&place, object) {
                Ok(opened) => opened,
                Err(error) if is_damage(&error) => return Ok(Outcome::Left(error.to_string())),
                Err(error) => return Err(error),
            };
            let file = match &stored.record.content {
                Content::File(content) if settings.data && !buried => Some(content),
                _ => None,
            };
            if file.is_none() && master == Some(newest) {
                return Ok(Outcome::Current);
            }
            // The steps of an exchange know each other by their seals: it is finished first.
            if !buried && stored.record.exchanged.is_some() {
                let settled = self.settled(stored).await?;
                if settled.place != place {
                    continue;
                }
                let record = (*settled.record).clone();
                match self.put_record(&place, record, Expect::Exactly(settled.etag)).await {
                    Ok(_) | Err(VolumeError::Conflict(_)) => continue,
                    Err(error) => return Err(error),
                }
            }
            if !buried && matches!(&place, Place::Entry(_, name) if is_hidden(name)) {
                return Ok(Outcome::Left("is a step of an exchange that is under way".to_owned()));
            }
            let mut record = (*stored.record).clone();
            let (mut bytes, mut left) = (0, None);
            if let Some(content) = file {
                match self.sealed_anew(content, newest, pinned, progress).await {
                    Ok(Anew::Current) => {}
                    Ok(Anew::Sealed(content, sealed)) => {
                        record.content = Content::File(content);
                        bytes = sealed;
                    }
                    Ok(Anew::Pinned) => {
                        left =
                            Some("its file is open elsewhere: repeat when it is closed".to_owned());
                    }
                    Err(error) if is_damage(&error) => left = Some(error.to_string()),
                    Err(error) => return Err(error),
                }
            }
            let changed = record.content != stored.record.content;
            if master != Some(newest) || changed {
                match self.put_record(&place, record, Expect::Exactly(stored.etag)).await {
                    Ok(_) => {}
                    Err(VolumeError::Conflict(_)) => continue,
                    Err(error) => return Err(error),
                }
            } else if left.is_none() {
                return Ok(Outcome::Current);
            }
            return Ok(left.map_or(Outcome::Resealed(bytes), Outcome::Left));
        }
        Ok(Outcome::Left("was changed again and again meanwhile: repeat later".to_owned()))
    }

    fn place_of(&self, key: &Key) -> Option<Place> {
        if let Some(inode) = keys::inode_id(key.as_str()) {
            return Some(Place::Inode(inode));
        }
        let dir = keys::entry_directory(key.as_str())?;
        Some(Place::Entry(dir, keys::entry_name(self.keyring(), dir, key.as_str())?))
    }

    /// A file's content with all its data under the newest key. A file that is pinned is only looked at.
    async fn sealed_anew(
        self: &Arc<Self>,
        content: &FileContent,
        newest: MasterNumber,
        pinned: &HashSet<FileId>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Anew, VolumeError> {
        let mut map = self.load_map(content).await?;
        let old = old_ranges(&map, content.size, newest);
        if old.is_empty() && old_page(&map, newest).is_none() {
            return Ok(Anew::Current);
        }
        if pinned.contains(&content.id) {
            return Ok(Anew::Pinned);
        }
        let source = map.clone();
        let mut copies = stream::iter(old)
            .map(|range| {
                // Taken in order, so that consecutive numbers make one extent.
                let number = self.session().take_segments(1);
                let pieces = source.lookup(range);
                async move {
                    let parts = self.read_pieces(content.id, pieces).await?;
                    let (_, run) = self.upload(content.id, number, parts).await;
                    Ok::<_, VolumeError>((range, run?))
                }
            })
            .buffered(SEGMENTS);
        let mut bytes = 0;
        while let Some((range, run)) = copies.try_next().await? {
            map.insert(range, Piece::Segments(run));
            bytes += range.length();
            progress(0, range.length());
        }
        drop(copies);
        // A page may be older than what it lists: writing its first piece again makes it a new one.
        while let Some(range) = old_page(&map, newest) {
            match map.lookup(range).into_iter().find_map(|(part, piece)| Some((part, piece?))) {
                Some((part, piece)) => map.insert(part, piece),
                None => map.remove(range),
            }
        }
        for page in self.write_pages(content.id, map.pages_to_write()).await? {
            map.page_written(page);
        }
        let layout = map.layout();
        let content = FileContent {
            id: content.id,
            size: content.size,
            extents: layout.extents,
            pages: layout.pages,
            inline: layout.inline,
        };
        Ok(Anew::Sealed(content, bytes))
    }

    /// The files that living sessions hold open: what they are about to publish is based on what these
    /// files are now.
    async fn pinned_files(&self) -> Result<HashSet<FileId>, VolumeError> {
        let mut pinned = HashSet::new();
        let mut request = ListRequest { prefix: "s/".to_owned(), ..ListRequest::default() };
        loop {
            let page = self.store().list(&request).await?;
            for ObjectMeta { key, modified, .. } in page.objects {
                let age = page.date.0.saturating_sub(modified.0);
                if i128::from(age) > LEASE.as_nanos() as i128 {
                    continue;
                }
                let object = match self.store().get(&key, None, None).await {
                    Ok(Fetched::Object(object)) => object,
                    Ok(Fetched::Unchanged) => continue,
                    Err(error) if error.kind == StoreErrorKind::NotFound => continue,
                    Err(error) => return Err(error.into()),
                };
                self.learn_master(record_master(&object.body.bytes())).await;
                let opened = self
                    .keyring()
                    .open_record(&session::context(key.as_str()), &object.body.bytes())
                    .map_err(|error| VolumeError::corrupt(&key, error))?;
                let files = pins(&opened.head).map_err(|why| VolumeError::corrupt(&key, why))?;
                pinned.extend(files);
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(pinned),
            }
        }
    }
}

/// What became of a file's data.
enum Anew {
    /// They need nothing.
    Current,
    /// They do, but the file is open elsewhere.
    Pinned,
    /// They were sealed anew: the content, and how many bytes.
    Sealed(FileContent, u64),
}

/// The files that a session's record pins.
#[doc(hidden)]
pub fn pins(head: &[u8]) -> Result<Vec<FileId>, DecodeError> {
    let damaged = DecodeError::Damaged("not a session");
    let session = proto::Session::decode(head).map_err(|_| damaged)?;
    let ids = session.pinned_files.iter().map(|id| FileId::try_from(id.as_slice()));
    ids.collect::<Result<_, _>>().map_err(|_| damaged)
}

/// The range of a page that is sealed under an older key.
fn old_page(map: &ExtentMap, newest: MasterNumber) -> Option<ByteRange> {
    let old = |page: &super::record::PageRef| page.segment.master != newest;
    map.layout().pages.into_iter().find(old).map(|page| page.range)
}

/// Parts of a file under older keys, as they become new segments.
fn old_ranges(map: &ExtentMap, size: u64, newest: MasterNumber) -> Vec<ByteRange> {
    let mut ranges: Vec<ByteRange> = Vec::new();
    for (range, piece) in map.lookup(ByteRange::new(0, size)) {
        let Some(Piece::Segments(run)) = piece else { continue };
        if run.master == newest {
            continue;
        }
        let most = run.segment_length.max(SEGMENT);
        let mut at = range.offset();
        while at < range.end() {
            // Small neighbours become one segment.
            if let Some(last) = ranges.last_mut()
                && last.end() == at
                && last.length() < SEGMENT
            {
                at = (last.offset() + SEGMENT).min(range.end());
                *last = ByteRange::between(last.offset(), at);
                continue;
            }
            let end = (at + most).min(range.end());
            ranges.push(ByteRange::between(at, end));
            at = end;
        }
    }
    ranges
}

fn is_damage(error: &VolumeError) -> bool {
    matches!(error, VolumeError::Corrupt { .. } | VolumeError::NewerFormat { .. })
}

#[cfg(test)]
mod tests {
    use super::super::record::SegmentRun;
    use super::*;
    use crate::units::{SegmentId, SessionId};

    #[test]
    fn small_neighbours_become_one_segment_and_new_ones_stay() {
        let mut map = ExtentMap::default();
        let run = |counter, master, length| {
            Piece::Segments(SegmentRun {
                first: SegmentId { session: SessionId([1; 16]), counter },
                count: 1,
                segment_length: length,
                last_length: length,
                start: 0,
                master: MasterNumber(master),
                owner: None,
            })
        };
        for index in 0..4 {
            map.insert(ByteRange::new(index * 100, 100), run(10 + 2 * index, 1, 100));
        }
        map.insert(ByteRange::new(400, 100), run(30, 2, 100));
        map.insert(ByteRange::new(1000, 20 << 20), run(40, 1, 20 << 20));
        let size = 1000 + (20 << 20);
        let old = old_ranges(&map, size, MasterNumber(2));
        assert_eq!(old, [ByteRange::new(0, 400), ByteRange::new(1000, 20 << 20)]);
        assert_eq!(old_ranges(&map, size, MasterNumber(1)), [ByteRange::new(400, 100)]);
    }
}
