//! Verification: is everything that the tree names there, whole and authentic?
//!
//! Reads every record, and of every segment either its presence and size (a listing) or all its bytes.
//! Changes nothing; damage is reported and the walk goes on.

use super::extents::{ExtentMap, Piece};
use super::manifest::Line;
use super::namespace::Found;
use super::record::{Content, FileContent};
use super::{Volume, keys};
use crate::store::{ListRequest, list_all};
use crate::units::{ByteRange, DirId, FileId};
use crate::volume::VolumeError;
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

/// Files checked at the same time.
const PARALLEL: usize = 8;
/// Records fetched at the same time.
const RECORDS: usize = 64;
/// Bytes read at once.
const READ: u64 = 8 << 20;

/// How thorough a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every record is opened; segments are there and have the right size.
    Presence,
    /// Every byte is read and authenticated.
    Content,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Directories, the root included.
    pub directories: u64,
    /// Regular files (each once, however many names it has).
    pub files: u64,
    /// Symlinks and special files.
    pub others: u64,
    /// Bytes of all files' sizes.
    pub bytes: u64,
    /// Damage, each with its path.
    pub damage: Vec<(Vec<u8>, String)>,
}

/// Hears of every place that is found whole, in the order of the names of each directory.
pub type Visit<'a> = dyn FnMut(&Line) -> Result<(), VolumeError> + Send + 'a;

impl Volume {
    /// Verifies the whole tree. `progress` hears of bytes that were checked, `visit` of every place.
    ///
    /// Memory: the names of one directory, the ids of directories, and those of files with several names.
    /// A directory that a move cut short left under two names, maybe one of them below itself, is read once.
    pub async fn verify(
        self: &Arc<Self>,
        depth: Depth,
        progress: &(dyn Fn(u64) + Sync),
        visit: &mut Visit<'_>,
    ) -> Result<Report, VolumeError> {
        let mut report = Report { directories: 1, ..Report::default() };
        let mut seen: HashSet<FileId> = HashSet::new();
        let mut read = HashSet::from([self.root_directory()]);
        let mut pending = vec![(self.root_directory(), Vec::new())];
        let mut checks = FuturesUnordered::new();
        if let Some(root) = self.root().await? {
            visit(&Line::of(b"/", &root))?;
        }
        while let Some((dir, path)) = pending.pop() {
            let mut entries = pin!(self.open_all(dir).await?);
            while let Some((name, found)) = entries.next().await {
                let path = [&path[..], b"/", &name].concat();
                let found = match found {
                    Ok(Some(found)) => found,
                    Ok(None) => continue,
                    Err(error) if is_damage(&error) => {
                        report.damage.push((path, error.to_string()));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                visit(&Line::of(&path, &found.entry))?;
                let content = &found.home().record.content;
                if let (Some(inode), Content::File(file)) = (&found.inode, content) {
                    if !seen.insert(file.id) {
                        continue;
                    }
                    visit(&Line::of(&path, inode))?;
                }
                match content {
                    Content::Directory(dir) => {
                        if read.insert(*dir) {
                            report.directories += 1;
                            pending.push((*dir, path));
                        }
                    }
                    Content::File(file) => {
                        report.files += 1;
                        report.bytes += file.size;
                        let file = file.clone();
                        checks.push(async move {
                            (path, self.verify_file(&file, depth, progress).await)
                        });
                        if checks.len() >= PARALLEL {
                            report.note(checks.next().await)?;
                        }
                    }
                    Content::Symlink(..) | Content::Special(..) | Content::Link(_) => {
                        report.others += 1;
                    }
                }
            }
        }
        while let Some(checked) = checks.next().await {
            report.note(Some(checked))?;
        }
        report.damage.sort();
        Ok(report)
    }

    /// Every name of a directory, in order, with what is behind it, or why that cannot be opened.
    async fn open_all(
        &self,
        dir: DirId,
    ) -> Result<impl Stream<Item = (Vec<u8>, Result<Option<Found>, VolumeError>)>, VolumeError>
    {
        let mut listed = self.list_directory(dir).await?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(futures::stream::iter(listed)
            .map(move |entry| async move {
                let found = self.lookup(dir, &entry.name).await;
                (entry.name, found)
            })
            .buffered(RECORDS))
    }

    async fn verify_file(
        self: &Arc<Self>,
        content: &FileContent,
        depth: Depth,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), VolumeError> {
        let map = self.load_map(content).await?;
        if depth == Depth::Presence {
            self.verify_presence(content.id, &map, content.size).await?;
            progress(content.size);
            return Ok(());
        }
        let mut at = 0;
        while at < content.size {
            let range = ByteRange::between(at, (at + READ).min(content.size));
            self.read_pieces(content.id, map.lookup(range)).await?;
            at = range.end();
            progress(range.length());
        }
        Ok(())
    }

    /// Compares the segments that a map refers to with a listing of what is there.
    async fn verify_presence(
        &self,
        file: FileId,
        map: &ExtentMap,
        size: u64,
    ) -> Result<(), VolumeError> {
        let mut listed: HashMap<FileId, HashMap<String, u64>> = HashMap::new();
        for (_, piece) in map.lookup(ByteRange::new(0, size)) {
            let Some(Piece::Segments(run)) = piece else { continue };
            let owner = run.owner.unwrap_or(file);
            if let std::collections::hash_map::Entry::Vacant(vacant) = listed.entry(owner) {
                let prefix = keys::segments_prefix(owner);
                let request = ListRequest { prefix, ..ListRequest::default() };
                let (objects, _) = list_all(&**self.store(), request).await?;
                vacant.insert(
                    objects
                        .into_iter()
                        .map(|object| (object.key.as_str().to_owned(), object.size))
                        .collect(),
                );
            }
            for index in 0..u64::from(run.count) {
                let id =
                    crate::units::SegmentId { counter: run.first.counter + index, ..run.first };
                let length = if index + 1 == u64::from(run.count) {
                    run.last_length
                } else {
                    run.segment_length
                };
                let key = keys::segment(owner, id);
                let found = listed.get(&owner).and_then(|segments| segments.get(key.as_str()));
                let expected = self.keyring().sealed_length(length);
                match found {
                    None => {
                        return Err(VolumeError::corrupt(key, "segment is missing from the store"));
                    }
                    Some(size) if *size != expected => {
                        let why = format!("segment has {size} bytes instead of {expected}");
                        return Err(VolumeError::corrupt(key, why));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }
}

impl Report {
    /// Enters what the check of a file found.
    fn note(
        &mut self,
        checked: Option<(Vec<u8>, Result<(), VolumeError>)>,
    ) -> Result<(), VolumeError> {
        match checked {
            Some((path, Err(error))) if is_damage(&error) => {
                self.damage.push((path, error.to_string()));
                Ok(())
            }
            Some((_, result)) => result,
            None => Ok(()),
        }
    }
}

fn is_damage(error: &VolumeError) -> bool {
    matches!(error, VolumeError::Corrupt { .. } | VolumeError::NewerFormat { .. })
}
