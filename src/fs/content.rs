//! What of a file's content must be in memory before it is read or changed, and is fetched only then: the
//! pages of a long map, and the data in a record of which only the head was read (by a listing of its
//! directory, or from the directory's index).

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::{Body, FileBody, Identity, Inode};
use super::settle::merge_attributes;
use crate::volume::native::Stored;
use crate::volume::native::entries::Loaded;
use crate::volume::native::namespace::Found;
use crate::volume::native::record::{Content, FileContent};
use std::sync::Arc;

/// How many moves by other nodes are followed to where a file is now.
const MOVES: usize = 8;

impl FileSystem {
    /// Makes sure that a file's map is in memory, with the data that lie in its record. It stays there as long as the
    /// inode is pinned, open or changed.
    pub(super) async fn load_map(&self, inode: &Arc<Inode>) -> Result<(), FsError> {
        let (content, home) = {
            let state = inode.state.lock();
            match &state.content {
                Body::File(body) if body.map.is_none() => (body.stored.clone(), state.home.clone()),
                _ => return Ok(()),
            }
        };
        let content = match home {
            Some(home) if !content.is_whole() => self.load_body(inode, &home).await?,
            _ => content,
        };
        let map = self.volume.load_map(&content).await?;
        let mut state = inode.state.lock();
        if let Body::File(body) = &mut state.content
            && body.map.is_none()
            && body.stored == content
        {
            body.map = Some(map);
        }
        drop(state);
        self.note_body(inode);
        Ok(())
    }

    /// Fetches the record of which the head is known, and enters what it says.
    async fn load_body(&self, inode: &Arc<Inode>, home: &Stored) -> Result<FileContent, FsError> {
        // Another change may have fetched it already.
        let found = match home.record.is_whole() {
            true => None,
            false => Some(self.find_whole(inode, home).await?),
        };
        let whole = found.as_ref().map_or(home, |found| found.home()).clone();
        let Content::File(content) = &whole.record.content else {
            return Err(self.gone(inode, home));
        };
        let content = content.clone();
        if whole.etag != home.etag && self.is_only_writer() {
            // Who has changed it, if nobody else may? Ours are no changes of what a thief has stored.
            self.volume.session().confirm_lease(&self.volume).await?;
        }
        if let Some(found) = &found {
            self.note_link(inode, found);
        }
        let mut guard = inode.state.lock();
        let state = &mut *guard;
        let based_on_it = state.home.as_ref().is_some_and(|now| now.etag == home.etag);
        let Body::File(body) = &mut state.content else { return Ok(content) };
        // Without a map nothing was written and the size is as it was stored: only attributes may have
        // been changed here.
        if !based_on_it || body.map.is_some() {
            return Ok(body.stored.clone());
        }
        **body = match whole.etag == home.etag {
            true => body.loaded(content),
            false => FileBody {
                read_in_small_pieces: body.read_in_small_pieces,
                ..FileBody::new(content)
            },
        };
        let content = body.stored.clone();
        if whole.etag != home.etag {
            // Another node has changed it since: ours are changes of that.
            state.attributes = merge_attributes(
                &home.record.attributes,
                &state.attributes,
                &whole.record.attributes,
            );
            state.links = whole.record.links.max(1);
        }
        state.place = whole.place.clone();
        state.home = Some(whole);
        Ok(content)
    }

    /// The record of a file of which the head is known, wherever other nodes have moved it since.
    async fn find_whole(&self, inode: &Arc<Inode>, home: &Stored) -> Result<Found, FsError> {
        let mut place = home.place.clone();
        for _ in 0..MOVES {
            let next = match self.volume.load(&place, None).await? {
                Loaded::Live(entry) => {
                    let found = self.volume.resolve(entry).await?;
                    let identity = Identity::of(&found.home().record.content);
                    if identity == Some(inode.state.lock().identity(inode)) {
                        return Ok(found);
                    }
                    None
                }
                Loaded::Tombstone(buried) => self.moved_to(inode, &buried),
                Loaded::Absent | Loaded::Unchanged => None,
            };
            match next {
                Some(next) => {
                    self.forget_place(inode, &place);
                    self.doubt_places([&next]);
                    place = next;
                }
                // A look-up of another name may have found it since.
                None => match self.other_place(inode, &place) {
                    Some(other) => place = other,
                    None => break,
                },
            }
        }
        Err(self.gone(inode, home))
    }

    /// Another thing, or none, is where the head was read: the names that led here are asked for again, and what was
    /// changed of its attributes is told as not stored, once.
    fn gone(&self, inode: &Inode, home: &Stored) -> FsError {
        let names = inode.state.lock().names.clone();
        let mut table = self.table.lock();
        for (parent, name) in names {
            table.doubt_name(parent, &name);
        }
        let mut state = inode.state.lock();
        state.checked_at = None;
        if matches!(&state.content, Body::File(body) if body.map.is_none()) {
            state.published = state.modified;
        }
        drop(state);
        FsError::stale(format!("{}: removed or replaced by another node", home.place))
    }
}
