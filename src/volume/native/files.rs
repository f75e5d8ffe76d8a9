//! Whole files and paths without a mount: what the tool needs.

use super::entries::{Expect, Loaded, Stored};
use super::extents::{ExtentMap, Piece};
use super::namespace::{Found, GRACE};
use super::record::{Attributes, Content, FileContent, INLINE_LIMIT, Record};
use super::{Place, Volume};
use crate::units::{ByteRange, DirId, FileId};
use crate::volume::VolumeError;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A segment's plaintext.
const SEGMENT: usize = 8 << 20;
/// Segments under way at the same time.
const PARALLEL: usize = 4;
/// Bytes that one read fetches, and reads under way.
const READ: u64 = 8 << 20;
const READS: usize = 6;
/// How often a change is based anew on what another node has just written.
const ATTEMPTS: usize = 8;

/// Where a path leads.
#[derive(Clone, Debug)]
pub enum Walked {
    /// The root.
    Root,
    /// A name in a directory; `found` is absent if there is no such name.
    Name {
        /// The directory.
        dir: DirId,
        /// The name.
        name: Vec<u8>,
        /// What it leads to.
        found: Option<Box<Found>>,
    },
}

/// The name that a file is to get.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its directory.
    pub dir: DirId,
    /// The name.
    pub name: &'a [u8],
    /// Whether something may stand there. If not, a request is spared; should something stand there all
    /// the same, it is found and replaced.
    pub seen: bool,
    /// Whether only this name changes where a file of several names stands there: it becomes a file of its
    /// own, and the others keep what they have, as after a rename over it. Else all names show the new
    /// content, as after writing into it.
    pub alone: bool,
}

impl Volume {
    /// Follows a path from the root. Symbolic links are not followed. All but the last component must
    /// be directories.
    pub async fn walk(&self, path: &[u8]) -> Result<Walked, VolumeError> {
        let shown = || path.escape_ascii().to_string();
        let mut components = path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty() && *name != b".")
            .peekable();
        let mut dir = self.root_directory();
        if components.peek().is_none() {
            return Ok(Walked::Root);
        }
        while let Some(name) = components.next() {
            if !super::keys::is_name(name) {
                return Err(VolumeError::InvalidName(shown()));
            }
            let found = self.lookup(dir, name).await?;
            if components.peek().is_none() {
                return Ok(Walked::Name { dir, name: name.to_vec(), found: found.map(Box::new) });
            }
            let found = found.ok_or_else(|| VolumeError::NotFound(shown()))?;
            dir = found
                .home()
                .record
                .directory()
                .ok_or_else(|| VolumeError::NotDirectory(shown()))?;
        }
        Ok(Walked::Root)
    }

    /// Makes the directories of a path that are missing; returns the last one's id.
    pub async fn make_directories(
        &self,
        path: &[u8],
        attributes: &Attributes,
    ) -> Result<DirId, VolumeError> {
        let mut dir = self.root_directory();
        for name in
            path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
        {
            if !super::keys::is_name(name) {
                return Err(VolumeError::InvalidName(path.escape_ascii().to_string()));
            }
            let mut found = self.lookup(dir, name).await?;
            if found.is_none() {
                let id = DirId(self.world().entropy.bytes());
                let record = Record::new(attributes.clone(), Content::Directory(id));
                found = match self.create(dir, name, record).await {
                    Ok(entry) => Some(Found { entry, inode: None }),
                    Err(VolumeError::Exists(_)) => self.lookup(dir, name).await?,
                    Err(error) => return Err(error),
                };
            }
            let record = found.map(|found| found.home().record.clone());
            dir = record
                .and_then(|record| record.directory())
                .ok_or_else(|| VolumeError::NotDirectory(path.escape_ascii().to_string()))?;
        }
        Ok(dir)
    }

    /// Stores everything that `source` gives as the content of a file, new or replaced, and returns
    /// its size. The name shows the new content when all of it is stored, the former one until then.
    /// `progress` is called with the number of bytes that have been stored since the last call.
    pub async fn write_file(
        self: &Arc<Self>,
        dir: DirId,
        name: &[u8],
        attributes: Attributes,
        source: &mut (impl AsyncRead + Unpin),
        progress: impl FnMut(u64),
    ) -> Result<u64, WriteError> {
        let target = Target { dir, name, seen: true, alone: false };
        self.write_file_to(target, attributes, source, progress).await
    }

    /// The same for a name of which the caller may know that it is not taken.
    pub async fn write_file_to(
        self: &Arc<Self>,
        target: Target<'_>,
        attributes: Attributes,
        source: &mut (impl AsyncRead + Unpin),
        mut progress: impl FnMut(u64),
    ) -> Result<u64, WriteError> {
        if !super::keys::is_name(target.name) {
            return Err(VolumeError::InvalidName(target.name.escape_ascii().to_string()).into());
        }
        let id = FileId(self.world().entropy.bytes());
        let epoch = self.session().epoch();
        let mut map = ExtentMap::default();
        let mut uploads = FuturesUnordered::new();
        let (mut size, mut reserved, mut left) = (0_u64, None, 0_u64);
        loop {
            let mut buffer = Vec::with_capacity(if size == 0 { 1 << 16 } else { SEGMENT });
            let mut limited = (&mut *source).take(SEGMENT as u64);
            limited.read_to_end(&mut buffer).await.map_err(WriteError::Source)?;
            let range = ByteRange::new(size, buffer.len() as u64);
            let last = buffer.len() < SEGMENT;
            size = range.end();
            if last && buffer.len() + map.inline_bytes() as usize <= INLINE_LIMIT {
                map.insert(range, Piece::Inline(buffer.into()));
                progress(range.length());
            } else {
                // Consecutive numbers make one extent of consecutive segments.
                if left == 0 {
                    left = 64;
                    reserved = Some(self.session().take_segments(left));
                }
                let number = reserved.unwrap_or_else(|| self.session().take_segments(1));
                left = left.saturating_sub(1);
                reserved = Some(crate::units::SegmentId { counter: number.counter + 1, ..number });
                let upload = self.upload(id, number, vec![Bytes::from(buffer)]);
                uploads.push(async move { (range, upload.await.1) });
            }
            while uploads.len() >= PARALLEL || last && !uploads.is_empty() {
                let Some((range, run)) = uploads.next().await else { break };
                map.insert(range, Piece::Segments(run?));
                progress(range.length());
            }
            if last {
                break;
            }
        }
        for page in self.write_pages(id, map.pages_to_write()).await? {
            map.page_written(page);
        }
        let layout = map.layout();
        let content = Content::File(FileContent {
            id,
            size,
            extents: layout.extents,
            pages: layout.pages,
            inline: layout.inline,
        });
        // What was stored before the session was declared dead may be swept: nothing refers to it yet.
        self.session().begin_change(self).await?;
        if self.session().epoch() != epoch {
            return Err(VolumeError::Fenced.into());
        }
        self.put_file(target, attributes, content).await?;
        if self.session().epoch() != epoch {
            return Err(VolumeError::Fenced.into());
        }
        Ok(size)
    }

    /// Makes a file with the content of another one of this volume, `content` as it was read a moment ago:
    /// no bytes are moved, both refer to the same segments.
    ///
    /// Crash story: one step, the record. Should the other file be removed or replaced at the same time, its
    /// segments stay for [`GRACE`] at least (a sweep needs two marks that far apart which both find nothing that
    /// refers to them), and from the next mark on this record refers to them. `read_at` is the boot time before
    /// `content` was read: who took longer than a part of that, in a machine that slept for example, is
    /// refused.
    ///
    /// # Errors
    /// `Fenced` if it took too long: nothing stands under the name.
    pub async fn clone_file(
        &self,
        target: Target<'_>,
        attributes: Attributes,
        content: FileContent,
        read_at: Duration,
    ) -> Result<(), VolumeError> {
        if !super::keys::is_name(target.name) {
            return Err(VolumeError::InvalidName(target.name.escape_ascii().to_string()));
        }
        let took = || self.world().clock.boot_time().saturating_sub(read_at);
        self.session().begin_change(self).await?;
        if took() > GRACE / 2 {
            return Err(VolumeError::Fenced);
        }
        let id = FileId(self.world().entropy.bytes());
        let content = Content::File(content.shared_with(id));
        let stored = self.put_file(target, attributes, content).await?;
        if took() > GRACE / 2 {
            // Nobody can have read it for long.
            self.bury(&stored, false).await?;
            return Err(VolumeError::Fenced);
        }
        Ok(())
    }

    /// Copies a file's content to `target`, in order, with reads under way ahead of it.
    pub async fn read_file(
        self: &Arc<Self>,
        content: &FileContent,
        target: &mut (impl AsyncWrite + Unpin),
        mut progress: impl FnMut(u64),
    ) -> Result<(), WriteError> {
        let map = self.load_map(content).await?;
        let starts = (0..content.size.div_ceil(READ)).map(|index| index * READ);
        let reads = starts.map(|start| {
            let pieces = map.lookup(ByteRange::between(start, (start + READ).min(content.size)));
            self.read_pieces(content.id, pieces)
        });
        let mut reads = futures::stream::iter(reads).buffered(READS);
        while let Some(parts) = reads.next().await {
            for part in parts? {
                target.write_all(&part).await.map_err(WriteError::Target)?;
                progress(part.len() as u64);
            }
        }
        target.flush().await.map_err(WriteError::Target)
    }

    async fn put_file(
        &self,
        target: Target<'_>,
        attributes: Attributes,
        content: Content,
    ) -> Result<Stored, VolumeError> {
        let Target { dir, name, seen, alone } = target;
        let place = Place::Entry(dir, name.to_vec());
        for attempt in 0..ATTEMPTS {
            let found = match seen || attempt > 0 {
                true => self.lookup(dir, name).await?,
                false => None,
            };
            let mut record = Record::new(attributes.clone(), content.clone());
            let stored = match &found {
                None => self.put_record(&place, record, Expect::Free).await,
                Some(found) => {
                    let home = found.home();
                    if home.record.directory().is_some() {
                        return Err(VolumeError::IsDirectory(name.escape_ascii().to_string()));
                    }
                    if let (true, Some(inode)) = (alone, &found.inode) {
                        // Crash before the count: one too high until gc counts again, nothing is lost.
                        let replaced = self.replace(&found.entry, record).await;
                        if replaced.is_ok()
                            && let Err(error) = self.count_links(inode, -1).await
                        {
                            tracing::warn!(file = %inode.place, "names not counted: {error}");
                        }
                        match replaced {
                            Err(VolumeError::Conflict(_) | VolumeError::Exists(_)) => continue,
                            other => return other,
                        }
                    }
                    record.links = home.record.links;
                    // Whose successor it is: a store that puts the former one back is found out.
                    record.publishes.clone_from(&home.record.publishes);
                    record.attributes.btime = home.record.attributes.btime;
                    self.replace(home, record).await
                }
            };
            match stored {
                Err(VolumeError::Conflict(_) | VolumeError::Exists(_)) => {}
                other => return other,
            }
        }
        Err(VolumeError::Conflict(name.escape_ascii().to_string()))
    }

    /// Loads an entry anew.
    pub async fn reload(&self, stored: &Stored) -> Result<Option<Stored>, VolumeError> {
        match self.load(&stored.place, None).await? {
            Loaded::Live(stored) => Ok(Some(stored)),
            Loaded::Tombstone(_) | Loaded::Absent | Loaded::Unchanged => Ok(None),
        }
    }
}

/// A copy that failed on one of its two sides.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Reading what was to be stored.
    #[error("cannot read what is to be stored: {0}")]
    Source(#[source] std::io::Error),
    /// Writing what was read.
    #[error("cannot write what was read: {0}")]
    Target(#[source] std::io::Error),
}
