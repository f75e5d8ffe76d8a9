//! What is told of a node: to the kernel, and in an object's headers.

use super::ObjectFs;
use super::table::{Busy, Node, State};
use crate::fs::errno::FsError;
use crate::fs::types::{Attr, Ino, Kind, SetAttr, TimeSet};
use crate::store::Headers;
use crate::volume::objects::attributes::{SYMLINK, Told};
use crate::volume::objects::bucket::KEY_CHECK;
use crate::volume::objects::tree::Found;
use crate::volume::objects::{BucketTree, ObjectsError};
use std::sync::Arc;
use std::time::Duration;

/// What nobody has given a mode.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// The kind in st_mode.
pub(super) fn format(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
    }
}

/// The kind of a file that headers tell.
pub(super) fn kind_of(found: &Found) -> Kind {
    let mode = Told::by(&found.headers).mode.unwrap_or(0);
    match Kind::from_mode(mode) {
        // A directory is not an object without a slash.
        Some(Kind::Directory) | None => Kind::File,
        Some(kind) => kind,
    }
}

impl ObjectFs {
    /// Takes what the store has of a node for true.
    pub(super) fn fill(&self, state: &mut State, found: Option<Found>) {
        let is_directory = state.kind == Kind::Directory;
        let told = found.as_ref().map(|found| Told::by(&found.headers)).unwrap_or_default();
        let (fixed, usual) = match is_directory {
            true => (self.config.ownership.dir_mode, DIRECTORY_MODE),
            false => (self.config.ownership.file_mode, FILE_MODE),
        };
        let usual = fixed.unwrap_or(usual) & !self.config.ownership.umask;
        state.mode = told.mode.unwrap_or(usual) & 0o7777;
        state.uid = told.uid.unwrap_or(self.owner.0);
        state.gid = told.gid.unwrap_or(self.owner.1);
        state.rdev = told.rdev.unwrap_or(0);
        if let Some(found) = &found {
            state.mtime = told.modified.unwrap_or(found.stored);
            state.ctime = found.stored.max(state.mtime);
            state.atime = state.mtime;
            if !is_directory {
                state.size = match &told.link {
                    Some(link) => link.len() as u64,
                    None => found.size,
                };
            }
        }
        let was = state.found.as_ref().map(|found| &found.etag);
        if was != found.as_ref().map(|found| &found.etag) {
            state.replaced += u64::from(was.is_some() && !state.was_moved);
            state.content_id = self.next_number();
            state.link = None;
        }
        if told.link.is_some() {
            state.link = told.link;
        }
        state.found = found;
        (state.time_was_set, state.was_moved) = (false, false);
        state.checked = Some(self.now());
    }

    pub(super) fn attr(&self, node: &Node) -> Attr {
        let state = node.state.lock();
        let attr = Attr {
            ino: node.ino,
            size: state.size,
            blocks: state.size.div_ceil(512),
            atime: state.atime,
            mtime: state.mtime,
            ctime: state.ctime,
            btime: state.mtime,
            kind: state.kind,
            mode: state.mode,
            nlink: match (state.kind, &state.place) {
                (Kind::Directory, _) => 2,
                (_, None) => 0,
                _ => 1,
            },
            uid: state.uid,
            gid: state.gid,
            rdev: state.rdev,
            blksize: 4096,
        };
        self.config.ownership.shown(attr, node.ino == Ino::ROOT)
    }

    /// The headers of a node as it is now; what others have put there stays. Without its time where that is
    /// not known yet.
    pub(super) fn headers(&self, state: &State, path: &str, with_time: bool) -> Headers {
        let found = state.found.as_ref().map(|found| found.headers.clone());
        let mut headers = found.unwrap_or_else(|| Headers {
            content_type: Some(BucketTree::content_type(path)),
            ..Headers::default()
        });
        // In datasafed's form the target is the content, which is enciphered.
        let link = state.link.clone().filter(|_| !self.tree.is_encrypted());
        let told = Told {
            mode: Some(format(state.kind) | state.mode),
            uid: Some(state.uid),
            gid: Some(state.gid),
            modified: with_time.then_some(state.mtime),
            rdev: Some(state.rdev),
            link,
        };
        if !with_time {
            headers.metadata.remove("mtime");
        }
        told.put_into(&mut headers);
        headers
    }

    /// The same for other content than it had: what told of that goes.
    pub(super) fn headers_anew(&self, state: &State, path: &str, with_time: bool) -> Headers {
        let mut headers = self.headers(state, path, with_time);
        headers.metadata.remove(KEY_CHECK);
        headers
    }

    pub(super) async fn getattr(
        &self,
        ino: Ino,
    ) -> Result<(crate::fs::types::Attr, Duration), FsError> {
        let node = self.node(ino)?;
        let (kind, is_known, has_name) = {
            let state = node.state.lock();
            (state.kind, self.is_known(&state), state.place.is_some())
        };
        if kind != Kind::Directory && !is_known && has_name {
            self.refresh(&node).await?;
        }
        Ok((self.attr(&node), self.config.attribute_ttl))
    }

    /// chmod, chown, truncate, utimens. Stored at once, unless the file is being written: then the change goes
    /// with it.
    pub(super) async fn setattr(
        self: &Arc<Self>,
        ino: Ino,
        set: SetAttr,
    ) -> Result<(crate::fs::types::Attr, Duration), FsError> {
        let node = self.node(ino)?;
        let _paths = self.paths.read().await;
        let mut content = self.content_of(&node).await;
        if let Some(handle) = set.handle {
            self.handle(handle)?.check()?;
        }
        self.know(&node).await?;
        let _busy = Busy::new(&node);
        if let Some(size) = set.size {
            self.truncate(&node, &mut content, size).await?;
        }
        let SetAttr { mode, uid, gid, atime, mtime, .. } = set;
        let now = self.world.clock.now();
        let time = |set: TimeSet| match set {
            TimeSet::Now => now,
            TimeSet::At(time) => time,
        };
        let changes = mode.is_some() || uid.is_some() || gid.is_some() || mtime.is_some();
        let (dirty, has_name) = {
            let mut state = node.state.lock();
            state.mode = mode.unwrap_or(state.mode);
            state.uid = uid.unwrap_or(state.uid);
            state.gid = gid.unwrap_or(state.gid);
            // Times of access are kept nowhere.
            state.atime = atime.map_or(state.atime, time);
            if let Some(mtime) = mtime {
                state.mtime = time(mtime);
                state.time_was_set = true;
            }
            if changes || set.size.is_some() {
                state.ctime = now;
            }
            (state.dirty, state.place.is_some() || ino == Ino::ROOT)
        };
        if dirty {
            // truncate(2) has no close that would store it.
            if set.size.is_some() && set.handle.is_none() {
                self.publish_content(&node, &mut content).await?;
            }
        } else if changes && has_name {
            self.store_attributes(&node).await?;
        }
        drop(content);
        Ok((self.attr(&node), self.config.attribute_ttl))
    }

    /// Stores attributes of what is stored already. For a caller that holds the node's content and the paths.
    pub(super) async fn store_attributes(&self, node: &Node) -> Result<(), FsError> {
        let path = self.path(node)?;
        let (headers, found, kind) = {
            let state = node.state.lock();
            (self.headers(&state, &path, true), state.found.clone(), state.kind)
        };
        if kind == Kind::Directory {
            // The root of a whole bucket has no mark: what is set there holds as long as the mount.
            if node.ino == Ino::ROOT && !self.tree.has_prefix() {
                return Ok(());
            }
            let etag = self.tree.put_mark(&path, &headers).await?;
            self.stored(
                node,
                Found { size: 0, is_cut: false, etag, stored: self.world.clock.now(), headers },
            );
            return Ok(());
        }
        let Some(found) = found else { return Ok(()) };
        let etag = self.tree.copy(&path, &found, &path, Some(&headers)).await;
        let etag = etag.map_err(|error| changed_meanwhile(node, error))?;
        // The bytes are the same: what was read of them stays true.
        let content_id = node.state.lock().content_id;
        self.stored(node, Found { etag, headers, stored: self.world.clock.now(), ..found });
        node.state.lock().content_id = content_id;
        Ok(())
    }

    /// Notes what this mount has stored.
    pub(super) fn stored(&self, node: &Node, found: Found) {
        let mut state = node.state.lock();
        state.version += 1;
        (state.was_moved, state.sent, state.maybe_stored) = (false, false, None);
        state.checked = Some(self.now());
        state.content_id = self.next_number();
        state.time_was_set = false;
        if state.kind == Kind::File {
            state.opened = Some(found.etag.clone());
        }
        state.found = Some(found);
    }

    /// Asks the store for a file whose object's mark is not known.
    pub(super) async fn know(&self, node: &Node) -> Result<(), FsError> {
        let is_unknown = {
            let state = node.state.lock();
            state.was_moved && state.kind != Kind::Directory && state.place.is_some()
        };
        if is_unknown { self.refresh(node).await } else { Ok(()) }
    }

    /// Asks the store for a file again.
    pub(super) async fn refresh(&self, node: &Node) -> Result<(), FsError> {
        let path = self.path(node)?;
        let before = node.state.lock().version;
        let found = self.tree.file(&path).await?;
        let mut state = node.state.lock();
        if state.version != before || state.dirty || state.busy > 0 {
            return Ok(());
        }
        match found {
            // Another kind of thing has another node: the kernel looks the name up again.
            Some(found) if kind_of(&found) == state.kind => {
                self.fill(&mut state, Some(found));
                Ok(())
            }
            _ => {
                state.checked = None;
                Err(FsError::Moved)
            }
        }
    }

    pub(super) async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let node = self.node(ino)?;
        let (kind, link, found) = {
            let state = node.state.lock();
            (state.kind, state.link.clone(), state.found.clone())
        };
        if kind != Kind::Symlink {
            return Err(FsError::Invalid);
        }
        if let Some(link) = link {
            return Ok(link);
        }
        let found = found.ok_or(FsError::Moved)?;
        let path = self.path(&node)?;
        let range = crate::units::ByteRange::new(0, libc::PATH_MAX as u64);
        let parts = self.tree.read(&path, &found.etag, range).await?;
        let link: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        if link.is_empty() || link.contains(&0) {
            return Err(FsError::io(format!("{path}: a symbolic link without a target")));
        }
        node.state.lock().link = Some(link.clone());
        Ok(link)
    }
}

/// That another one has put another object there: it is asked for again.
pub(super) fn changed_meanwhile(node: &Node, error: ObjectsError) -> FsError {
    if let ObjectsError::Changed(_) = error {
        node.state.lock().checked = None;
    }
    error.into()
}

/// What an object's size says of its being a symbolic link: none has a longer target.
pub(super) fn may_be_link(size: u64) -> bool {
    size <= libc::PATH_MAX as u64
}

const _: () = assert!(SYMLINK == libc::S_IFLNK);
