//! Renames: copies in the store, and deletions.
//!
//! Crash story of a file: the copy stands whole under the new name before the old one is deleted; a crash between
//! the two leaves both. What stood under the new name stands until then. Of a directory: object by object, all
//! copied before the first is deleted; a crash leaves some of them under both names, none under neither. Whoever takes
//! over goes on with it (`redo.rs`).

use super::attributes::changed_meanwhile;
use super::content::Content;
use super::table::{Busy, Node};
use super::{ObjectFs, name_of};
use crate::fs::errno::FsError;
use crate::fs::types::{Ino, Kind, RenameMode};
use crate::volume::objects::tree::Found;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{MutexGuard, OwnedRwLockWriteGuard};

/// How long a directory's move waits for files that are being stored.
const BUSY: Duration = Duration::from_secs(120);
const TURN: Duration = Duration::from_millis(500);

impl ObjectFs {
    pub(super) async fn rename(
        self: &Arc<Self>,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        if mode == RenameMode::Exchange {
            return Err(FsError::Invalid);
        }
        let name = name_of(name).map_err(|_| FsError::NotFound)?;
        let new_name = name_of(new_name)?;
        let node = self.find(parent, name).await?;
        let is_directory = node.state.lock().kind == Kind::Directory;
        if is_directory {
            // Most of what is to be stored below it is stored before the others are kept waiting.
            let below = self.table.lock().below(node.ino);
            for inner in below {
                let is_dirty = inner.state.lock().dirty;
                if is_dirty {
                    self.publish(&inner).await?;
                }
            }
            let _paths = self.all_paths().await?;
            return self
                .rename_directory(&node, (parent, name), (new_parent, new_name), mode)
                .await;
        }
        let _paths = self.paths.read().await;
        self.rename_file(&node, (parent, name), (new_parent, new_name), mode).await
    }

    /// All paths, when nobody uses one for a moment. Waited for in short turns: the others wait behind it.
    pub(super) async fn all_paths(&self) -> Result<OwnedRwLockWriteGuard<()>, FsError> {
        let since = self.now();
        loop {
            match tokio::time::timeout(TURN, self.paths.clone().write_owned()).await {
                Ok(paths) => return Ok(paths),
                Err(_) if self.now().saturating_sub(since) > BUSY => return Err(FsError::Busy),
                Err(_) => tokio::time::sleep(TURN / 4).await,
            }
        }
    }

    /// What stands where something is to be moved to.
    async fn target(
        &self,
        node: &Node,
        (parent, name): (Ino, &str),
        mode: RenameMode,
    ) -> Result<Option<Arc<Node>>, FsError> {
        self.parent(parent)?;
        match self.find(parent, name).await {
            Ok(target) if target.ino == node.ino => Ok(None),
            Ok(_) if mode == RenameMode::NoReplace => Err(FsError::Exists),
            Ok(target) => Ok(Some(target)),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn rename_file(
        &self,
        node: &Arc<Node>,
        from: (Ino, &str),
        to: (Ino, &str),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        if from == to {
            return Ok(());
        }
        let target = self.target(node, to, mode).await?;
        if target.as_ref().is_some_and(|target| target.state.lock().kind == Kind::Directory) {
            return Err(FsError::IsDirectory);
        }
        let (mut content, mut replaced) = self.lock_both(node, target.as_ref()).await;
        self.know(node).await?;
        self.publish_content(node, &mut content).await?;
        let _busy = (Busy::new(node), target.as_ref().map(|target| Busy::new(target)));
        let (old, new) = (self.path(node)?, self.path_in(to.0, to.1)?);
        self.keep_directory(from.0).await?;
        if let (Some(target), Some(content)) = (&target, &mut replaced) {
            self.keep_what_is_open(target, content).await;
        }
        let found = node.state.lock().found.clone().ok_or(FsError::NotFound)?;
        let headers = self.headers(&node.state.lock(), &new, true);
        self.move_begins(node, from, to, target.as_ref());
        let etag = match self.tree.copy(&old, &found, &new, Some(&headers)).await {
            Ok(etag) => etag,
            Err(error) => {
                if let (Some(target), Some(content)) = (&target, &mut replaced) {
                    self.unkeep(target, content);
                }
                return Err(changed_meanwhile(node, error));
            }
        };
        if let (Some(target), Some(content)) = (&target, &mut replaced) {
            self.name_gone(target, content);
        }
        // What another one has put under the old name meanwhile is its own.
        self.tree.remove_if(&old, &found.etag).await?;
        let content_id = node.state.lock().content_id;
        self.table.lock().rename(node, to.0, to.1);
        self.stored(node, Found { etag, headers, stored: self.world.clock.now(), ..found });
        // The bytes are the same.
        node.state.lock().content_id = content_id;
        self.note_name(from.0, from.1, false);
        self.note_name(to.0, to.1, true);
        Ok(())
    }

    /// For a caller that has the paths alone.
    async fn rename_directory(
        &self,
        node: &Arc<Node>,
        from: (Ino, &str),
        to: (Ino, &str),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        if from == to {
            return Ok(());
        }
        if self.table.lock().is_within(to.0, node.ino) {
            return Err(FsError::Invalid);
        }
        let target = self.target(node, to, mode).await?;
        if let Some(target) = &target {
            if target.state.lock().kind != Kind::Directory {
                return Err(FsError::NotDirectory);
            }
            self.check_empty(target).await?;
        }
        let below = self.table.lock().below(node.ino);
        // Until all is moved what the store says of the old names means nothing.
        let busy: Vec<Busy> = below.iter().chain([node]).map(|node| Busy::new(node)).collect();
        for inner in &below {
            let mut content = self.content_of(inner).await;
            self.publish_content(inner, &mut content).await?;
        }
        let (old, new) = (self.path(node)?, self.path_in(to.0, to.1)?);
        // A directory that nothing marks is moved with what is in it; should that be nothing by now, it stays
        // a directory by its mark.
        self.keep_directory(node.ino).await?;
        self.keep_directory(from.0).await?;
        let begun = self.move_begins(node, from, to, None);
        let copied = self.tree.copy_directory(&old, &new).await?;
        if let Some((number, form)) = begun {
            self.all_is_copied(number, form);
        }
        self.tree.remove_copied(&old, copied).await?;
        if let Some(target) = &target {
            let mut content = self.content_of(target).await;
            self.name_gone(target, &mut content);
        }
        self.table.lock().rename(node, to.0, to.1);
        drop(busy);
        self.note_moved(node);
        self.note_name(from.0, from.1, false);
        self.note_name(to.0, to.1, true);
        Ok(())
    }

    /// Notes that a directory has been moved with everything below it.
    pub(super) fn note_moved(&self, node: &Arc<Node>) {
        // The copies may have other marks. Also of what was looked up meanwhile.
        for inner in self.table.lock().below(node.ino) {
            let mut state = inner.state.lock();
            state.version += 1;
            state.checked = None;
            state.names = None;
            state.absent.clear();
            // That it has another mark then is no other one's doing.
            state.was_moved = true;
        }
        let mut state = node.state.lock();
        state.version += 1;
        state.names = None;
        state.absent.clear();
    }

    /// Takes the contents of two nodes, always in the same order, so that two renames do not wait for each
    /// other.
    pub(super) async fn lock_both<'n>(
        &self,
        node: &'n Node,
        other: Option<&'n Arc<Node>>,
    ) -> (MutexGuard<'n, Content>, Option<MutexGuard<'n, Content>>) {
        match other {
            None => (self.content_of(node).await, None),
            Some(other) if other.ino < node.ino => {
                let second = self.content_of(other).await;
                (self.content_of(node).await, Some(second))
            }
            Some(other) => {
                let first = self.content_of(node).await;
                (first, Some(self.content_of(other).await))
            }
        }
    }
}
