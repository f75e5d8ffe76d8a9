//! What gc reads of a record: its head, by range, and the pages of its extents.

use super::{GcError, lease};
use crate::crypto::HeadOutcome;
use crate::store::{ETag, Fetched, Object, StoreErrorKind};
use crate::units::ByteRange;
use crate::volume::VolumeError;
use crate::volume::native::record::{Content, FileContent, Record, Source};
use crate::volume::native::{Place, Volume, proto};
use std::sync::Arc;
use std::time::Duration;

/// Bytes asked for first: most heads, and small records whole.
const FIRST: u64 = 4 << 10;
/// How often a record that changes between two requests is read anew.
const ATTEMPTS: usize = 8;

/// A record without its body.
pub(super) struct Head {
    pub(super) record: Record,
    pub(super) salt: [u8; 16],
    pub(super) etag: ETag,
    pub(super) age: Option<Duration>,
}

/// Reads a head; `None` if nothing is there.
pub(super) async fn load(volume: &Volume, place: &Place) -> Result<Option<Head>, GcError> {
    let key = place.key(volume);
    let mut wanted = FIRST;
    for _ in 0..ATTEMPTS {
        let range = ByteRange::new(0, wanted);
        let Object { meta, body, date, .. } =
            match volume.store().get(&key, Some(range), None).await {
                Ok(Fetched::Object(object)) => object,
                Ok(Fetched::Unchanged) => continue,
                Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        let body = body.bytes();
        volume.learn_master(crate::crypto::record_master(&body)).await;
        let outcome =
            volume.with_context(place, |context| volume.keyring().open_record_head(context, &body));
        match outcome.map_err(|error| volume.damage(place, error))? {
            HeadOutcome::Opened(opened) => {
                let record = Record::decode(&opened.head, None)
                    .map_err(|error| volume.malformed(place, error))?;
                if record.buried_at.is_some() != opened.tombstone {
                    return Err(VolumeError::corrupt(place, "tombstone mark contradicts it").into());
                }
                let age = lease::age(meta.modified, date);
                let (salt, etag) = (opened.salt, meta.etag);
                return Ok(Some(Head { record, salt, etag, age }));
            }
            // It says how much is needed, a little over a megabyte at most; it may change before that.
            HeadOutcome::NeedMore(more) if more > wanted && more <= meta.size => wanted = more,
            HeadOutcome::NeedMore(_) => {
                return Err(VolumeError::corrupt(place, "record is truncated").into());
            }
        }
    }
    Err(VolumeError::Conflict(place.to_string()).into())
}

/// What kind of thing a record is, and the id in it.
pub(super) fn target(record: &Record) -> (proto::Kind, [u8; 16]) {
    match &record.content {
        Content::File(file) => (proto::Kind::File, file.id.0),
        Content::Directory(dir) => (proto::Kind::Directory, dir.0),
        // What it is exactly does not matter: nothing lies under its id.
        Content::Symlink(id, _) | Content::Special(id, ..) => (proto::Kind::Symlink, id.0),
        Content::Link(inode) => (proto::Kind::Link, inode.0),
    }
}

/// Every segment that a record refers to: its own, those of its clones' sources, its pages and what
/// they refer to. Runs that touch are one.
pub(super) async fn runs(
    volume: &Arc<Volume>,
    record: &Record,
) -> Result<Vec<proto::GcRun>, GcError> {
    let Some(file) = record.file() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let mut add = |run: &crate::volume::native::record::SegmentRun| {
        let owner = run.owner.unwrap_or(file.id);
        let (first, count) = (run.first, u64::from(run.count));
        found.push((owner.0, first.session.0, first.counter, count));
    };
    for extent in &file.extents {
        if let Source::Segments(run) = &extent.source {
            add(run);
        }
    }
    if !file.pages.is_empty() {
        file.pages.iter().for_each(|page| add(&page.segment));
        // Without what lies in the body, which was not read.
        let paged = FileContent { extents: Vec::new(), ..file.clone() };
        let map = volume.load_map(&paged).await?;
        map.runs().for_each(|(_, run)| add(run));
    }
    found.sort_unstable();
    let mut runs: Vec<proto::GcRun> = Vec::new();
    for (owner, session, counter, count) in found {
        if let Some(last) = runs.last_mut()
            && last.owner == owner
            && last.session == session
            && counter <= last.counter + last.count
        {
            last.count = last.count.max((counter + count).saturating_sub(last.counter));
            continue;
        }
        let (owner, session) = (owner.to_vec(), session.to_vec());
        runs.push(proto::GcRun { owner, session, counter, count });
    }
    Ok(runs)
}
