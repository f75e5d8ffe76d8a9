//! Renames: copies in the store, and deletions.
//!
//! Crash story of a file: the copy stands whole under the new name before the old one is deleted; a crash between
//! the two leaves both. What stood under the new name stands until then. Of a directory: object by object, all
//! copied before the first is deleted; a crash leaves some of them under both names, none under neither.

use super::content::Content;
use super::table::Node;
use super::{ObjectFs, name_of};
use crate::fs::errno::FsError;
use crate::fs::types::{Ino, Kind, RenameMode};
use crate::volume::objects::tree::Found;
use std::sync::Arc;
use tokio::sync::MutexGuard;

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
            let _paths = self.paths.write().await;
            return self
                .rename_directory(&node, (parent, name), (new_parent, new_name), mode)
                .await;
        }
        let _paths = self.paths.read().await;
        self.rename_file(&node, (parent, name), (new_parent, new_name), mode).await
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
        let (mut content, mut replaced) = lock_both(node, target.as_ref()).await;
        self.know(node).await?;
        self.publish_content(node, &mut content).await?;
        let (old, new) = (self.path(node)?, self.path_in(to.0, to.1)?);
        if let (Some(target), Some(content)) = (&target, &mut replaced) {
            self.keep_open(target, content).await?;
        }
        let found = node.state.lock().found.clone().ok_or(FsError::NotFound)?;
        let headers = self.headers(&node.state.lock(), &new, true);
        let etag = self.tree.copy(&old, &found, &new, Some(&headers)).await?;
        if let (Some(target), Some(content)) = (&target, &mut replaced) {
            self.name_gone(target, content);
        }
        self.keep_directory(from.0).await?;
        self.tree.remove(&old).await?;
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
        for inner in &below {
            let mut content = inner.content.lock().await;
            self.publish_content(inner, &mut content).await?;
        }
        let (old, new) = (self.path(node)?, self.path_in(to.0, to.1)?);
        // A directory that nothing marks is moved with what is in it; should that be nothing by now, it stays
        // a directory by its mark.
        self.keep_directory(node.ino).await?;
        self.tree.move_directory(&old, &new).await?;
        self.keep_directory(from.0).await?;
        if let Some(target) = &target {
            let mut content = target.content.lock().await;
            self.name_gone(target, &mut content);
        }
        self.table.lock().rename(node, to.0, to.1);
        // The copies may have other marks.
        for inner in below {
            let mut state = inner.state.lock();
            state.version += 1;
            state.checked = None;
            state.names = None;
            state.absent.clear();
            // That it has another mark then is no other one's doing.
            state.was_moved = true;
        }
        {
            let mut state = node.state.lock();
            state.version += 1;
            state.names = None;
            state.absent.clear();
        }
        self.note_name(from.0, from.1, false);
        self.note_name(to.0, to.1, true);
        Ok(())
    }
}

/// Takes the contents of two nodes, always in the same order, so that two renames do not wait for each other.
async fn lock_both<'n>(
    node: &'n Node,
    other: Option<&'n Arc<Node>>,
) -> (MutexGuard<'n, Content>, Option<MutexGuard<'n, Content>>) {
    match other {
        None => (node.content.lock().await, None),
        Some(other) if other.ino < node.ino => {
            let second = other.content.lock().await;
            (node.content.lock().await, Some(second))
        }
        Some(other) => {
            let first = node.content.lock().await;
            (first, Some(other.content.lock().await))
        }
    }
}
