//! Data: sealing and storing segments, fetching and opening parts of them.
//!
//! Segments are immutable, so what was fetched stays true and may be kept: an LRU holds sealed bytes,
//! which are opened again for each read. Fetches of the same bytes at the same time are one request.

use super::extents::{ExtentMap, Piece};
use super::record::{FileContent, PageRef, SegmentRun, decode_page, encode_page};
use super::{Volume, keys};
use crate::crypto::{CHUNK, CryptoError, SegmentSpec};
use crate::store::{Body, Fetched, Hits, StoreError, StoreErrorKind};
use crate::units::{ByteRange, FileId, SegmentId};
use crate::volume::VolumeError;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Plaintext that becomes one segment, gathered only when it is sealed.
pub trait SegmentSource: Send + 'static {
    /// The pieces in order.
    fn parts(&self) -> Vec<&[u8]>;
}

impl SegmentSource for Vec<Bytes> {
    fn parts(&self) -> Vec<&[u8]> {
        self.iter().map(|part| &part[..]).collect()
    }
}

/// Slots of more chunks were fetched for somebody who reads on.
const LONG_SLOT: u32 = 4;
/// Chunks that one request of a large read fetches, at most: 8 MiB, the size of most segments.
const FETCH_CHUNKS: u32 = 128;

type Fetch = Shared<BoxFuture<'static, Result<Body, Arc<StoreError>>>>;

/// Sealed chunks by segment and position.
pub(super) struct SegmentCache {
    inner: Mutex<CacheState>,
    limit: u64,
    hits: Hits,
}

#[derive(Default)]
struct CacheState {
    segments: HashMap<SegmentId, BTreeMap<u32, Slot>>,
    recency: Option<LruCache<(SegmentId, u32), u64>>,
    bytes: u64,
}

#[derive(Clone)]
struct Slot {
    chunks: u32,
    fetch: Fetch,
}

impl SegmentCache {
    pub(super) fn new(limit: u64) -> Self {
        let state = CacheState { recency: Some(LruCache::unbounded()), ..CacheState::default() };
        Self { inner: Mutex::new(state), limit, hits: Hits::default() }
    }

    /// The slot that holds `chunk`, with its first chunk.
    fn find(&self, segment: SegmentId, chunk: u32) -> Option<(u32, Slot)> {
        let mut state = self.inner.lock();
        let (first, slot) = {
            let slots = state.segments.get(&segment)?;
            let (&first, slot) = slots.range(..=chunk).next_back()?;
            (chunk - first < slot.chunks).then(|| (first, slot.clone()))?
        };
        if let Some(recency) = &mut state.recency {
            recency.promote(&(segment, first));
        }
        Some((first, slot))
    }

    /// How many chunks from `chunk` on are free of slots, at most `wanted`.
    fn gap(&self, segment: SegmentId, chunk: u32, wanted: u32) -> u32 {
        let state = self.inner.lock();
        let next = state
            .segments
            .get(&segment)
            .and_then(|slots| slots.range(chunk..).next().map(|(&first, _)| first - chunk));
        next.map_or(wanted, |gap| gap.min(wanted))
    }

    fn insert(&self, segment: SegmentId, first: u32, slot: Slot) {
        let size = u64::from(slot.chunks) * CHUNK;
        let mut state = self.inner.lock();
        state.segments.entry(segment).or_default().insert(first, slot);
        state.bytes += size;
        if let Some(recency) = &mut state.recency {
            recency.put((segment, first), size);
        }
        while state.bytes > self.limit.max(size) {
            let oldest = state.recency.as_mut().and_then(LruCache::pop_lru);
            let Some(((segment, first), _)) = oldest else { break };
            state.forget(segment, first);
        }
    }

    /// A long slot that has been read to its end goes first: who reads on will not come back, while
    /// what was fetched ahead is older and still to be read.
    fn read_to_end(&self, segment: SegmentId, first: u32, chunks: u32) {
        if chunks > LONG_SLOT
            && let Some(recency) = &mut self.inner.lock().recency
        {
            recency.demote(&(segment, first));
        }
    }

    fn remove(&self, segment: SegmentId, first: u32) {
        let mut state = self.inner.lock();
        if let Some(recency) = &mut state.recency {
            recency.pop(&(segment, first));
        }
        state.forget(segment, first);
    }
}

impl CacheState {
    fn forget(&mut self, segment: SegmentId, first: u32) {
        if let Some(slots) = self.segments.get_mut(&segment) {
            if let Some(slot) = slots.remove(&first) {
                self.bytes -= u64::from(slot.chunks) * CHUNK;
            }
            if slots.is_empty() {
                self.segments.remove(&segment);
            }
        }
    }
}

impl Volume {
    /// How often the parts of segments that reads needed were in memory, or on their way to it; and how often they
    /// were not.
    pub fn cache_hits(&self) -> (u64, u64) {
        self.cache().hits.snapshot()
    }

    /// Seals a segment and stores it under a number that was never used. A failed upload may be tried
    /// again by another call, which seals under another number: a segment id is sealed at most once.
    ///
    /// Crash story: until a record refers to it, a segment is garbage that gc finds.
    pub async fn upload<S: SegmentSource>(
        self: &Arc<Self>,
        file: FileId,
        segment: SegmentId,
        source: S,
    ) -> (S, Result<SegmentRun, VolumeError>) {
        if let Err(error) = self.session().begin_change(self).await {
            return (source, Err(error));
        }
        let sealing = {
            let volume = self.clone();
            tokio::task::spawn_blocking(move || {
                let sealed = volume.keyring().seal_segment(
                    segment,
                    file,
                    &source.parts(),
                    &*volume.world().entropy,
                );
                (source, sealed)
            })
        };
        let (source, sealed) = match sealing.await {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let result = async {
            let (sealed, spec) = sealed.map_err(|error| VolumeError::corrupt(segment, error))?;
            let key = keys::segment(file, segment);
            // Not conditional: the same bytes may be sent again after a lost reply.
            self.store().put(&key, sealed.into(), crate::store::PutWhen::Always).await?;
            Ok(SegmentRun {
                first: segment,
                count: 1,
                segment_length: spec.length,
                last_length: spec.length,
                start: 0,
                master: spec.master,
                owner: None,
            })
        };
        let result = result.await;
        (source, result)
    }

    /// Loads a file's map: its pages are fetched, the rest is in the record.
    pub async fn load_map(
        self: &Arc<Self>,
        content: &FileContent,
    ) -> Result<ExtentMap, VolumeError> {
        if !content.is_whole() {
            return Err(VolumeError::corrupt(
                format!("file {}", content.id),
                "only its head was read",
            ));
        }
        let fetches = content.pages.iter().map(|page| async {
            let bytes = self.read_run(content.id, &page.segment, page.segment.last_length).await?;
            let owner = page.segment.owner;
            let mut extents = decode_page(&bytes.concat(), page.range).map_err(|error| {
                let owner = owner.unwrap_or(content.id);
                VolumeError::corrupt(keys::segment(owner, page.segment.first), error)
            })?;
            for extent in &mut extents {
                if let super::record::Source::Segments(run) = &mut extent.source {
                    run.owner = run.owner.or(owner);
                }
            }
            Ok::<_, VolumeError>(extents)
        });
        let pages = futures::future::try_join_all(fetches).await?;
        Ok(ExtentMap::new(content, pages))
    }

    /// Stores the pages that a map needs before its record can be published.
    pub async fn write_pages(
        self: &Arc<Self>,
        file: FileId,
        pages: Vec<(ByteRange, Vec<super::record::Extent>)>,
    ) -> Result<Vec<PageRef>, VolumeError> {
        let uploads = pages.into_iter().map(|(range, extents)| async move {
            let number = self.session().take_segments(1);
            let source = vec![Bytes::from(encode_page(&extents))];
            let (_, segment) = self.upload(file, number, source).await;
            Ok(PageRef { range, segment: segment? })
        });
        futures::future::try_join_all(uploads).await
    }

    /// Reads pieces of a file (as [`ExtentMap::lookup`] gave them) in order; holes are zeros.
    pub async fn read_pieces(
        self: &Arc<Self>,
        file: FileId,
        pieces: Vec<(ByteRange, Option<Piece>)>,
    ) -> Result<Vec<Bytes>, VolumeError> {
        let reads = pieces.into_iter().map(|(range, piece)| async move {
            match piece {
                // The caller bounds the range by what it was asked to read.
                None => Ok(vec![Bytes::from(vec![0; range.length() as usize])]),
                Some(Piece::Inline(bytes)) => Ok(vec![bytes]),
                Some(Piece::Segments(run)) => self.read_run(file, &run, range.length()).await,
            }
        });
        Ok(futures::future::try_join_all(reads).await?.concat())
    }

    /// Starts fetching what a later read will want, without waiting for it.
    pub fn prefetch(self: &Arc<Self>, file: FileId, run: &SegmentRun, length: u64) {
        for (spec, range) in parts(file, run, length) {
            let (first, count) = chunks(&spec, range);
            let mut chunk = first;
            while chunk < first + count {
                let (at, slot) = self.slot(&spec, chunk, first + count - chunk);
                chunk = at + slot.chunks;
            }
        }
    }

    /// Reads `length` bytes from the start of a run.
    async fn read_run(
        self: &Arc<Self>,
        file: FileId,
        run: &SegmentRun,
        length: u64,
    ) -> Result<Vec<Bytes>, VolumeError> {
        let reads = parts(file, run, length).map(|(spec, range)| self.read_segment(spec, range));
        futures::future::try_join_all(reads).await
    }

    async fn read_segment(
        self: &Arc<Self>,
        spec: SegmentSpec,
        range: ByteRange,
    ) -> Result<Bytes, VolumeError> {
        self.learn_master(Some(spec.master)).await;
        let key = keys::segment(spec.file, spec.segment);
        let (first, count) = chunks(&spec, range);
        // All requests first, so that they are under way together.
        let mut slots = Vec::new();
        let mut chunk = first;
        while chunk < first + count {
            let (at, slot) = self.slot(&spec, chunk, first + count - chunk);
            let end = (at + slot.chunks).min(first + count);
            slots.push((at, chunk, end, slot));
            chunk = end;
        }
        let opener = self.keyring().segment_opener(&spec);
        let opener = opener.map_err(|error| VolumeError::corrupt(&key, error))?;
        let mut plain = Vec::with_capacity(count as usize * CHUNK as usize);
        for (at, from, to, slot) in slots {
            let sealed = match slot.fetch.await {
                Ok(sealed) => sealed,
                Err(error) => {
                    self.cache().remove(spec.segment, at);
                    return Err(self.missing_segment(&key, &error));
                }
            };
            // The slot holds whole chunks from `at` on; cut out those asked for.
            let mut place = self.sealed_chunks(&spec, at, from);
            for chunk in from..to {
                let end = place + opener.sealed_chunk(chunk).unwrap_or(0);
                let opened = sealed
                    .range(place..end)
                    .ok_or(CryptoError::Damaged { what: "segment is truncated" })
                    .and_then(|frame| opener.open(chunk, &frame, &mut plain));
                if let Err(error) = opened {
                    self.cache().remove(spec.segment, at);
                    return Err(VolumeError::corrupt(&key, error));
                }
                place = end;
            }
            if to == at + slot.chunks {
                self.cache().read_to_end(spec.segment, at, slot.chunks);
            }
        }
        let skip = (range.offset() - u64::from(first) * CHUNK) as usize;
        let end = skip + range.length() as usize;
        if end > plain.len() {
            return Err(VolumeError::corrupt(&key, "segment is shorter than its record says"));
        }
        Ok(Bytes::from(plain).slice(skip..end))
    }

    /// The slot that holds `chunk`; a new one fetches up to `wanted` chunks.
    fn slot(self: &Arc<Self>, spec: &SegmentSpec, chunk: u32, wanted: u32) -> (u32, Slot) {
        let found = self.cache().find(spec.segment, chunk);
        self.cache().hits.count(found.is_some());
        if let Some(found) = found {
            return found;
        }
        let chunks = self.cache().gap(spec.segment, chunk, wanted.clamp(1, FETCH_CHUNKS)).max(1);
        let start = u64::from(chunk) * CHUNK;
        let plain = ByteRange::between(start, (start + u64::from(chunks) * CHUNK).min(spec.length));
        let (_, sealed) = self.keyring().sealed_range(spec.length, plain);
        let key = keys::segment(spec.file, spec.segment);
        let volume = self.clone();
        // A task of its own: it goes on when the reader that began it gives up.
        let task = tokio::spawn(async move {
            match volume.store().get(&key, Some(sealed), None).await {
                Ok(Fetched::Object(object)) => Ok(object.body),
                Ok(Fetched::Unchanged) => {
                    Err(Arc::new(StoreError::new(StoreErrorKind::Corrupt, "get", &key)))
                }
                Err(error) => Err(Arc::new(error)),
            }
        });
        let fetch = async move {
            task.await.unwrap_or_else(|_| {
                Err(Arc::new(StoreError::new(StoreErrorKind::Unavailable, "get", "segment")))
            })
        };
        let slot = Slot { chunks, fetch: fetch.boxed().shared() };
        self.cache().insert(spec.segment, chunk, slot.clone());
        (chunk, slot)
    }

    /// Sealed bytes from chunk `from` up to chunk `to` of a segment.
    fn sealed_chunks(&self, spec: &SegmentSpec, from: u32, to: u32) -> usize {
        let range =
            ByteRange::between(u64::from(from) * CHUNK, (u64::from(to) * CHUNK).min(spec.length));
        if range.is_empty() {
            return 0;
        }
        self.keyring().sealed_range(spec.length, range).1.length() as usize
    }

    fn missing_segment(&self, key: &crate::store::Key, error: &StoreError) -> VolumeError {
        if error.kind == StoreErrorKind::NotFound {
            return VolumeError::corrupt(key, "segment is missing from the store");
        }
        VolumeError::Store(StoreError {
            kind: error.kind,
            operation: error.operation,
            object: error.object.clone(),
            effect_unknown: error.effect_unknown,
            source: error.source.as_ref().map(|source| source.to_string().into()),
        })
    }
}

/// The segments of a run that `length` bytes from its start lie in, and the bytes in each.
fn parts(
    file: FileId,
    run: &SegmentRun,
    length: u64,
) -> impl Iterator<Item = (SegmentSpec, ByteRange)> + use<> {
    let run = run.clone();
    let wanted = ByteRange::new(run.start, length);
    let first = wanted.offset() / run.segment_length;
    let last = wanted.end().saturating_sub(1) / run.segment_length;
    (first..=last).map(move |index| {
        let segment_start = index * run.segment_length;
        let whole =
            if index + 1 == u64::from(run.count) { run.last_length } else { run.segment_length };
        let part = wanted.intersection(ByteRange::new(segment_start, whole));
        let spec = SegmentSpec {
            segment: SegmentId { counter: run.first.counter + index, ..run.first },
            file: run.owner.unwrap_or(file),
            master: run.master,
            length: whole,
        };
        (spec, ByteRange::new(part.offset().saturating_sub(segment_start), part.length()))
    })
}

/// The first chunk that a range of a segment lies in, and how many. A segment has at most 1,024.
fn chunks(spec: &SegmentSpec, range: ByteRange) -> (u32, u32) {
    let first = range.offset() / CHUNK;
    let last = range.end().min(spec.length).saturating_sub(1) / CHUNK;
    (first as u32, (last.saturating_sub(first) + 1) as u32)
}
