//! From memory to the store: segments while data arrive, then the record.
//!
//! The record's conditional PUT is the one commit point of a file (see `volume::native::entries`).
//! Crash before it: the former content stands, the new segments are garbage. Crash after it: the new
//! content stands, whole, since every segment that it refers to was acknowledged before.

use super::core::{Durability, FileSystem, map_missing};
use super::dirty::FrozenBatch;
use super::errno::FsError;
use super::inode::{Body, Inode, State};
use super::io::{FileHandleState, SEALING_UNIT};
use super::types::{HandleId, Ino};
use crate::units::{ByteRange, FileId};
use crate::volume::VolumeError;
use crate::volume::native::Stored;
use crate::volume::native::entries::Expect;
use crate::volume::native::extents::Piece;
use crate::volume::native::index::WORTH_IT;
use crate::volume::native::record::{Content, FileContent, INLINE_LIMIT, Record, SegmentRun};
use crate::volume::native::segments::SegmentSource;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A segment's plaintext while a file is small; it grows with the file.
const SEGMENT: u64 = 8 << 20;
/// How often changes that could not be stored are tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often a file is stored under one more session before its writer is told.
const ATTEMPTS: usize = 3;

impl SegmentSource for FrozenBatch {
    fn parts(&self) -> Vec<&[u8]> {
        self.pieces().into_iter().map(|(_, bytes)| bytes).collect()
    }
}

impl FileSystem {
    /// close(2): in `close` mode everything is in the store when this returns.
    pub async fn flush(self: &Arc<Self>, _ino: Ino, handle: HandleId) -> Result<(), FsError> {
        let file = self.file(handle)?;
        if file.mode.write {
            match self.config.durability {
                Durability::Close => return self.store_and_report(&file).await,
                Durability::Fsync => {
                    let (fs, inode) = (self.clone(), file.inode.clone());
                    self.runtime.spawn(async move { fs.store_inode(&inode).await });
                }
            }
        }
        self.unreported(&file)
    }

    /// fsync(2): everything is in the store when this returns.
    pub async fn fsync(
        self: &Arc<Self>,
        _ino: Ino,
        handle: HandleId,
        _datasync: bool,
    ) -> Result<(), FsError> {
        let file = self.file(handle)?;
        self.store_and_report(&file).await
    }

    /// Stores what this handle's file has; every failure is told to a handle once.
    async fn store_and_report(self: &Arc<Self>, file: &FileHandleState) -> Result<(), FsError> {
        let stored = self.store_inode(&file.inode).await;
        self.removals_beside(&file.inode).await;
        let before = self.unreported(file);
        stored.and(before)
    }

    /// Stores everything that is not stored yet, before an unmount. Returns what could not be.
    pub async fn drain(self: &Arc<Self>) -> Vec<(String, FsError)> {
        let failed = self.store_everything().await;
        if failed.is_empty() {
            self.index_the_rest().await;
        }
        if failed.is_empty()
            && let Err(error) = self.volume.session().end(&self.volume).await
        {
            tracing::warn!("session not ended: {error}");
        }
        failed
    }

    /// The same while the mount is used, now and later.
    pub async fn store_everything(self: &Arc<Self>) -> Vec<(String, FsError)> {
        let mut failed = Vec::new();
        let inodes = self.table.lock().all();
        for inode in inodes {
            if let Err(error) = self.store_inode(&inode).await {
                failed.push((inode.state.lock().place.to_string(), error));
            }
        }
        self.late.wait_for_all(None).await;
        failed.extend(self.late.take_failures(None));
        if failed.is_empty() {
            self.store_all_times().await;
        }
        failed
    }

    /// Brings an inode's content and attributes into the store; does nothing if they are there.
    pub(super) async fn store_inode(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<(), FsError> {
        let turn = inode.turn.lock().await;
        let result = self.store_locked(inode).await;
        // Before the turn is given up: whoever comes next finds nothing to store, but must tell of this.
        let mut state = inode.state.lock();
        match &result {
            Err(error) => {
                state.failures += 1;
                state.failure = Some(error.clone());
                tracing::error!(file = %state.place, "not stored: {error}");
            }
            // What failed before was kept in memory and is stored now, unless it went to another name.
            Ok(()) if !matches!(state.failure, Some(FsError::Stale { .. })) => state.failure = None,
            Ok(()) => {}
        }
        drop(state);
        drop(turn);
        self.note_body(inode);
        self.table.lock().drop_if_unused(inode.ino);
        result
    }

    /// The same for a caller who holds the inode's turn.
    pub(super) async fn store_locked(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<(), FsError> {
        let session = self.volume.session();
        for _ in 0..ATTEMPTS {
            let wanted = {
                let state = inode.state.lock();
                if state.unlinked || !state.is_changed() {
                    return Ok(());
                }
                state.modified
            };
            session.begin_change(&self.volume).await?;
            let epoch = session.epoch();
            if let Ok(file) = inode.file()
                && matches!(inode.state.lock().content, Body::File(_))
            {
                self.load_map(inode).await?;
                self.store_data(inode, file).await?;
                self.store_former_segments_again(inode, file).await?;
                self.merge_small_segments(inode, file).await;
                self.store_pages(inode, file).await?;
            }
            self.publish(inode, wanted, epoch).await?;
            if session.epoch() == epoch {
                return Ok(());
            }
            // Declared dead on the way: what the record refers to may be swept.
            inode.state.lock().modified += 1;
        }
        Err(FsError::stale(
            "the session is declared dead again and again: is the clock of a node wrong?",
        ))
    }

    /// Publishes the record of what is stored; `wanted` changes at least are covered by it. Nothing is
    /// published if the session is not that of `epoch` any more.
    async fn publish(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        wanted: u64,
        epoch: u64,
    ) -> Result<(), FsError> {
        if self.volume.session().epoch() != epoch {
            return Ok(());
        }
        let (record, modified, home, place) = {
            let mut state = inode.state.lock();
            state.sent_change = state.written.newest_change();
            // Writes that came in since are not in the record: they remain changes.
            let complete = match &state.content {
                Body::File(body) => body.dirty.dirty_bytes() == 0,
                _ => true,
            };
            let covered = if complete { state.modified } else { wanted };
            (self.record(inode, &state)?, covered, state.home.clone(), state.place.clone())
        };
        let stored = match &home {
            Some(home) => self.volume.replace(home, record.clone()).await,
            None => self.volume.put_record(&place, record.clone(), Expect::Free).await,
        };
        let stored = match stored {
            Err(VolumeError::Conflict(_) | VolumeError::Exists(_)) => {
                let home = home.as_ref();
                return self.settle_conflict(inode, home, place, record, modified).await;
            }
            other => other?,
        };
        let mut state = inode.state.lock();
        self.published(&mut state, stored, modified);
        Ok(())
    }

    /// Enters what was published; changes made meanwhile stay changes.
    pub(super) fn published(&self, state: &mut State, stored: Stored, modified: u64) {
        if let (Body::File(body), Content::File(content)) =
            (&mut state.content, &stored.record.content)
        {
            body.stored = content.clone();
        }
        state.place = stored.place.clone();
        if stored.record.attributes == state.attributes {
            state.times_pending = false;
        }
        state.home = Some(stored);
        state.published = state.published.max(modified);
        state.published_change = state.published_change.max(state.sent_change);
        state.checked_at = Some(self.boot_time());
    }

    /// The record that says what the inode is now. Bytes that are dirty again already are left out.
    pub(super) fn record(&self, inode: &Inode, state: &State) -> Result<Record, FsError> {
        let content = match (&state.content, state.home.as_ref().map(|home| &home.record.content)) {
            (Body::File(body), _) => {
                let layout = body.map.as_ref().ok_or_else(map_missing)?.layout();
                // Without dirty data everything is settled, also what was written and punched out again.
                let clean = body.dirty.dirty_bytes() == 0;
                let content = FileContent {
                    id: inode.file()?,
                    size: if clean { body.size } else { body.settled_size },
                    extents: layout.extents,
                    pages: layout.pages,
                    inline: layout.inline,
                };
                Content::File(match state.kept_as {
                    Some(id) => content.shared_with(id),
                    None => content,
                })
            }
            (Body::Directory, _) => Content::Directory(inode.directory()?),
            (Body::Symlink(target), _) => Content::Symlink(inode.file()?, target.clone()),
            (Body::Special(kind, rdev), _) => Content::Special(inode.file()?, *kind, *rdev),
        };
        let mut record = Record::new(state.attributes.clone(), content);
        record.links = state.links;
        if let Some(home) = &state.home {
            record.publishes = home.record.publishes.clone();
            // As long as the old name may stand, the new one says where it came from.
            record.moved_from = home.record.moved_from.clone();
            record.exchanged = home.record.exchanged.clone();
        }
        Ok(record)
    }

    /// Uploads what is dirty, or keeps it for the record if it is little.
    async fn store_data(self: &Arc<Self>, inode: &Arc<Inode>, file: FileId) -> Result<(), FsError> {
        loop {
            let uploaded = inode.uploaded.notified();
            let mut spent = None;
            let step = {
                let mut state = inode.state.lock();
                let body = state.file_mut()?;
                if std::mem::take(&mut body.upload_failed) {
                    // Its bytes are dirty again; this round tries them.
                    tracing::debug!("an earlier upload failed and is tried again");
                }
                let map = body.map.as_ref().ok_or_else(map_missing)?;
                let fresh = body.dirty.freezable_bytes();
                if fresh > 0 {
                    if fresh + map.inline_bytes() <= INLINE_LIMIT as u64 && body.uploads == 0 {
                        if let Some(batch) = body.dirty.freeze(INLINE_LIMIT as u64) {
                            for (range, bytes) in batch.pieces() {
                                let bytes = bytes::Bytes::copy_from_slice(bytes);
                                body.put(range, Piece::Inline(bytes));
                                body.settled_size = body.settled_size.max(range.end());
                            }
                            body.dirty.complete(&batch);
                            // Like an upload until its memory is free: what makes parts of it void stays
                            // written down as long as it is described.
                            body.uploads += 1;
                            spent = Some(batch);
                        }
                        // The lock first, see `complete`.
                        drop(state);
                        if spent.take().is_some() {
                            inode.state.lock().file_mut()?.uploads -= 1;
                            inode.uploaded.notify_waiters();
                        }
                        self.room.notify_waiters();
                        continue;
                    }
                    Step::Upload
                } else if body.uploads > 0 {
                    Step::Wait
                } else if map.inline_bytes() > INLINE_LIMIT as u64 {
                    Step::Upload
                } else {
                    return Ok(());
                }
            };
            match step {
                Step::Wait => uploaded.await,
                Step::Upload => {
                    let Some((batch, permits)) = self.freeze_segment(inode, 1).await? else {
                        continue;
                    };
                    let (fs, inode) = (self.clone(), inode.clone());
                    // The last error of a round is what the caller hears; the others are in the log.
                    let more = {
                        let state = inode.state.lock();
                        state.file()?.dirty.freezable_bytes() > 0
                    };
                    if more {
                        self.runtime.spawn(async move {
                            let _ = fs.upload_batch(&inode, file, batch, permits).await;
                        });
                    } else {
                        self.upload_batch(&inode, file, batch, permits).await?;
                    }
                }
            }
            let failed = {
                let mut state = inode.state.lock();
                std::mem::take(&mut state.file_mut()?.upload_failed)
            };
            if failed {
                let state = inode.state.lock();
                return Err(state
                    .failure
                    .clone()
                    .unwrap_or_else(|| FsError::io("an upload failed")));
            }
        }
    }

    async fn store_pages(&self, inode: &Inode, file: FileId) -> Result<(), FsError> {
        let pages = {
            let state = inode.state.lock();
            state.file()?.map.as_ref().ok_or_else(map_missing)?.pages_to_write()
        };
        if pages.is_empty() {
            return Ok(());
        }
        let versions: Vec<_> =
            pages.iter().map(|(range, extents)| (*range, extents.clone())).collect();
        let written = self.volume.write_pages(file, pages).await?;
        let mut state = inode.state.lock();
        let map = state.file_mut()?.map.as_mut().ok_or_else(map_missing)?;
        // A page is valid only if the map still says what was written.
        let current = map.pages_to_write();
        for (page, version) in written.into_iter().zip(versions) {
            if current.contains(&version) {
                map.page_written(page);
            }
        }
        Ok(())
    }

    /// Starts uploads while there is a whole segment's worth of dirty data. Called after every write.
    pub(super) fn upload_full_segments(self: &Arc<Self>, inode: &Arc<Inode>) {
        let full = {
            let state = inode.state.lock();
            match &state.content {
                Body::File(body) => body.dirty.freezable_bytes() >= segment_length(body.size),
                _ => false,
            }
        };
        if full {
            self.start_upload(inode, SEGMENT);
        }
    }

    /// The arena is full: dirty data leave, the largest first, until something comes free.
    pub(super) fn make_room(self: &Arc<Self>) {
        let mut inodes: Vec<_> = self
            .table
            .lock()
            .all()
            .into_iter()
            .filter_map(|inode| {
                let bytes = match &inode.state.lock().content {
                    Body::File(body) => body.dirty.freezable_bytes(),
                    _ => 0,
                };
                (bytes > 0).then_some((bytes, inode))
            })
            .collect();
        inodes.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (_, inode) in inodes.into_iter().take(4) {
            self.start_upload(&inode, 1);
        }
    }

    /// Sends one segment of at least `at_least` bytes in the background, if there is a permit for it.
    fn start_upload(self: &Arc<Self>, inode: &Arc<Inode>, at_least: u64) {
        let Ok(file) = inode.file() else { return };
        let wanted = {
            let state = inode.state.lock();
            let Ok(body) = state.file() else { return };
            body.dirty.freezable_bytes().min(segment_length(body.size))
        };
        let Ok(permits) = self.uploads.clone().try_acquire_many_owned(self.permits(wanted)) else {
            // The uploads under way come back here when they end.
            return;
        };
        let Some(batch) = self.freeze(inode, wanted, at_least) else { return };
        let (fs, inode) = (self.clone(), inode.clone());
        self.runtime.spawn(async move {
            let _ = fs.upload_batch(&inode, file, batch, permits).await;
        });
    }

    /// The same for a caller who waits for a permit.
    async fn freeze_segment(
        &self,
        inode: &Arc<Inode>,
        at_least: u64,
    ) -> Result<Option<(FrozenBatch, tokio::sync::OwnedSemaphorePermit)>, FsError> {
        let wanted = {
            let state = inode.state.lock();
            let body = state.file()?;
            let inline = body.map.as_ref().map_or(0, |map| map.inline_bytes());
            (body.dirty.freezable_bytes() + inline).min(segment_length(body.size))
        };
        let permits = self
            .uploads
            .clone()
            .acquire_many_owned(self.permits(wanted))
            .await
            .map_err(|_| FsError::io("file system is stopping"))?;
        Ok(self.freeze(inode, wanted, at_least).map(|batch| (batch, permits)))
    }

    fn permits(&self, bytes: u64) -> u32 {
        let all = (self.config.upload_bytes / SEALING_UNIT).max(1);
        bytes.div_ceil(SEALING_UNIT).clamp(1, all) as u32
    }

    /// Takes dirty data for one segment. Inline data join them: a file with segments keeps only what
    /// comes after its last publish in the record.
    fn freeze(&self, inode: &Inode, limit: u64, at_least: u64) -> Option<FrozenBatch> {
        let mut state = inode.state.lock();
        let file = state.kept_as.or(inode.file().ok())?;
        let body = state.file_mut().ok()?;
        if body.dirty.freezable_bytes() + body.map.as_ref()?.inline_bytes() < at_least.max(1) {
            return None;
        }
        self.spill_inline(file, body);
        let batch = body.dirty.freeze(limit)?;
        body.uploads += 1;
        Some(batch)
    }

    /// Makes the data in the record dirty again, where nothing newer is, so that they go into a segment.
    /// They stay in the map until that segment is stored: a publish meanwhile must not miss them.
    fn spill_inline(&self, file: FileId, body: &mut super::inode::FileBody) {
        let Some(map) = &body.map else { return };
        let inline: Vec<(ByteRange, bytes::Bytes)> =
            map.inline_pieces().map(|(range, bytes)| (range, bytes.clone())).collect();
        for (range, bytes) in inline {
            for hole in body.dirty.holes(range) {
                let start = (hole.offset() - range.offset()) as usize;
                let part = &bytes[start..start + hole.length() as usize];
                // Without room it stays in the record for now.
                body.dirty.write(&self.arena, file, hole.offset(), part);
            }
        }
    }

    /// Sends a frozen batch and enters where its bytes are now.
    async fn upload_batch(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        file: FileId,
        batch: FrozenBatch,
        permits: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<(), FsError> {
        let number = {
            let mut state = inode.state.lock();
            state.file_mut()?.numbers.take(self.volume.session())
        };
        let (batch, result) = self.volume.upload(file, number, batch).await;
        drop(permits);
        let mut spent = None;
        let result = {
            let mut state = inode.state.lock();
            let body = state.file_mut()?;
            match result {
                Ok(run) => {
                    for (range, start) in body.dirty.complete(&batch) {
                        let run = SegmentRun { start, ..run.clone() };
                        body.put(range, Piece::Segments(run));
                        body.settled_size = body.settled_size.max(range.end());
                    }
                    spent = Some(batch);
                    Ok(())
                }
                Err(error) => {
                    body.dirty.thaw(batch);
                    body.upload_failed = true;
                    let error = FsError::from(error);
                    state.failure = Some(error.clone());
                    Err(error)
                }
            }
        };
        // After the lock, see `complete`; and before anybody takes the upload for ended.
        drop(spent);
        inode.state.lock().file_mut()?.uploads -= 1;
        inode.uploaded.notify_waiters();
        self.room.notify_waiters();
        if let Err(error) = &result {
            tracing::warn!(file = %inode.state.lock().place, "segment not stored, kept in memory: {error}");
        } else {
            self.upload_full_segments(inode);
        }
        self.table.lock().drop_if_unused(inode.ino);
        result
    }
}

enum Step {
    Wait,
    Upload,
}

/// Bigger files have bigger segments: fewer requests and fewer objects.
pub(super) fn segment_length(size: u64) -> u64 {
    match size >> 30 {
        0..4 => SEGMENT,
        4..32 => 2 * SEGMENT,
        32..256 => 4 * SEGMENT,
        _ => 8 * SEGMENT,
    }
}

/// Tries again and again to store what could not be stored, until the file system is dropped.
pub(super) async fn retry_in_background(fs: Weak<FileSystem>) {
    loop {
        tokio::time::sleep(RETRY).await;
        let Some(fs) = fs.upgrade() else { return };
        let now = fs.boot_time();
        let inodes = {
            let mut table = fs.table.lock();
            table.expire_absent(now, Duration::from_secs(60));
            table.all()
        };
        fs.index_what_was_made(WORTH_IT).await;
        for inode in inodes {
            let due = {
                let state = inode.state.lock();
                // Files open for writing are stored when their writers ask for it.
                state.is_changed() && !state.unlinked && state.writers == 0
            };
            if due {
                let _ = fs.store_inode(&inode).await;
            }
            fs.store_times(&inode, false).await;
        }
    }
}
