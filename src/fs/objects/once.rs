//! Changes of names that the kernel asks for once more, since the process that it asked before was killed before it
//! answered: what was done already must be answered as done. What a change is about is written down before it begins,
//! and that it was done before it is answered; the entry is taken back when the answer has left.
//!
//! An object in the store tells nobody who has put it there. So what is found where a change that had begun would have
//! put it, and where nothing was when it began, is taken for that change's own.

use super::remembered::ReplyForm;
use super::table::Node;
use super::{ObjectFs, name_of};
use crate::fs::errno::FsError;
use crate::fs::once::{RequestId, as_work_of, current};
use crate::fs::types::{Caller, EntryReply, Ino, Kind, OpenMode, Opened, RenameMode};
use std::future::Future;
use std::sync::Arc;

impl ObjectFs {
    /// Works on a request that must not happen twice; `work` ends when it is answered.
    pub(super) async fn once<W: Future<Output = ()>>(&self, request: RequestId, work: W) {
        let Some(keep) = &self.keep else { return work.await };
        as_work_of(request, work).await;
        keep.answered(request);
        self.unanswered.lock().remove(&request.number);
        self.replies.lock().remove(&request.number);
    }

    /// The request, if somebody could take over from this process.
    fn accountable(&self) -> Option<RequestId> {
        self.keep.as_ref().and(current())
    }

    /// What the former process wrote of this request.
    fn reply_before(&self, request: RequestId) -> Option<ReplyForm> {
        self.replies.lock().get(&request.number).filter(|_| request.resent).cloned()
    }

    fn write_down(&self, request: RequestId, form: &ReplyForm) {
        if let Some(keep) = &self.keep {
            keep.reply(request, form);
        }
    }

    fn end(&self, request: RequestId, result: Result<(), FsError>) -> Result<(), FsError> {
        if result.is_ok() {
            self.write_down(request, &ReplyForm { done: true, ..ReplyForm::default() });
        }
        result
    }

    /// What has a name; `None` if nothing.
    async fn there(&self, parent: Ino, name: &[u8]) -> Option<Arc<Node>> {
        let name = name_of(name).ok()?;
        let _paths = self.paths.read().await;
        self.find(parent, name).await.ok()
    }

    /// A handle that this request has been given already.
    fn opened_before(&self) -> Option<(Arc<Node>, Opened)> {
        let request = current().filter(|request| request.resent)?;
        let opened = self.unanswered.lock().get(&request.number).copied()?;
        let handle = self.handle(opened.handle).ok()?;
        Some((handle.node, opened))
    }

    /// [`Self::open`], once.
    pub(super) async fn open_once(
        self: &Arc<Self>,
        caller: &Caller,
        ino: Ino,
        mode: OpenMode,
    ) -> Result<Opened, FsError> {
        match self.opened_before() {
            Some((node, opened)) if node.ino == ino => Ok(opened),
            _ => self.open(caller, ino, mode).await,
        }
    }

    /// [`Self::create`], once.
    pub(super) async fn create_once(
        self: &Arc<Self>,
        caller: &Caller,
        (parent, name): (Ino, &[u8]),
        modes: (u32, u32),
        open: OpenMode,
    ) -> Result<(EntryReply, Opened), FsError> {
        if let Some((node, opened)) = self.opened_before() {
            return Ok((self.entry(&node), opened));
        }
        let Some(request) = self.accountable() else {
            return self.create(caller, parent, name, modes, open).await;
        };
        let was_free = self.made_before(request, parent, name).await;
        let created = self.create(caller, parent, name, modes, open).await;
        if !was_free || !matches!(created, Err(FsError::Exists)) {
            return created;
        }
        let Some(node) = self.there(parent, name).await else { return created };
        // It is new: there is nothing to truncate.
        let mode = OpenMode { truncate: false, excl: false, ..open };
        let opened = self.open(caller, node.ino, mode).await?;
        Ok((self.entry(&node), opened))
    }

    /// Whether this request had begun to make something where nothing was; writes down that it begins.
    async fn made_before(&self, request: RequestId, parent: Ino, name: &[u8]) -> bool {
        if let Some(reply) = self.reply_before(request) {
            return reply.was_free;
        }
        let was_free = self.there(parent, name).await.is_none();
        self.write_down(request, &ReplyForm { was_free, ..ReplyForm::default() });
        false
    }

    /// mkdir, mknod and symlink, once.
    pub(super) async fn made_once(
        &self,
        (parent, name): (Ino, &[u8]),
        kind: Kind,
        make: impl Future<Output = Result<EntryReply, FsError>>,
    ) -> Result<EntryReply, FsError> {
        let Some(request) = self.accountable() else { return make.await };
        let was_free = self.made_before(request, parent, name).await;
        let made = make.await;
        if was_free
            && matches!(made, Err(FsError::Exists))
            && let Some(node) = self.there(parent, name).await
            && node.state.lock().kind == kind
        {
            return Ok(self.entry(&node));
        }
        made
    }

    /// unlink and rmdir, once.
    pub(super) async fn removed_once(
        &self,
        parent: Ino,
        name: &[u8],
        remove: impl Future<Output = Result<(), FsError>>,
    ) -> Result<(), FsError> {
        let Some(request) = self.accountable() else { return remove.await };
        let begun = match self.reply_before(request) {
            Some(reply) if reply.done => return Ok(()),
            Some(reply) => reply.ino != 0,
            None => {
                let ino = self.there(parent, name).await.map_or(0, |node| node.ino.0);
                self.write_down(request, &ReplyForm { ino, ..ReplyForm::default() });
                false
            }
        };
        let removed = remove.await;
        // It was there when this was asked first.
        let happened = begun && matches!(removed, Err(FsError::NotFound));
        self.end(request, if happened { Ok(()) } else { removed })
    }

    /// [`Self::rename`], once.
    pub(super) async fn rename_once(
        self: &Arc<Self>,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let Some(request) = self.accountable() else { return self.rename(from, to, mode).await };
        match self.reply_before(request) {
            Some(reply) if reply.done => return Ok(()),
            Some(reply) if reply.ino != 0 => {
                if let Some(result) = self.go_on_renaming(&reply, from, to).await {
                    return self.end(request, result);
                }
            }
            Some(_) => {}
            None => {
                let ino = self.there(from.0, from.1).await.map_or(0, |node| node.ino.0);
                let target = match ino {
                    0 => None,
                    _ => self.there(to.0, to.1).await,
                };
                let was_free =
                    target.is_none_or(|target| target.state.lock().kind == Kind::Directory);
                self.write_down(request, &ReplyForm { done: false, ino, was_free });
            }
        }
        let renamed = self.rename(from, to, mode).await;
        self.end(request, renamed)
    }

    /// A rename that a former process had begun; `None` if nothing of it is to be seen.
    async fn go_on_renaming(
        self: &Arc<Self>,
        reply: &ReplyForm,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
    ) -> Option<Result<(), FsError>> {
        let (old_name, new_name) = (name_of(from.1).ok()?, name_of(to.1).ok()?);
        let node = self.node(Ino(reply.ino)).ok()?;
        let is_directory = node.state.lock().kind == Kind::Directory;
        let paths = [self.path_in(from.0, old_name).ok()?, self.path_in(to.0, new_name).ok()?];
        let mut there = [false; 2];
        for (path, there) in paths.iter().zip(&mut there) {
            *there = match self.tree.look(path).await {
                Ok(looked) => !matches!(looked, crate::volume::objects::tree::Looked::Nothing),
                Err(error) => return Some(Err(error.into())),
            };
        }
        match there {
            // It was moved; nobody had come to say so.
            [false, true] => {
                self.moved_before(&node, to.0, new_name);
                Some(Ok(()))
            }
            // Half moved: some are under both names, none under neither.
            [true, true] if is_directory && reply.was_free => {
                Some(self.finish_moving(&node, (&paths[0], &paths[1]), (to.0, new_name)).await)
            }
            _ => None,
        }
    }

    async fn finish_moving(
        &self,
        node: &Arc<Node>,
        (old, new): (&str, &str),
        (parent, name): (Ino, &str),
    ) -> Result<(), FsError> {
        let _paths = self.all_paths().await?;
        self.tree.move_directory(old, new).await?;
        self.moved_before(node, parent, name);
        Ok(())
    }

    /// Gives a node the name under which the store has it already.
    fn moved_before(&self, node: &Arc<Node>, parent: Ino, name: &str) {
        let former = node.state.lock().place.clone();
        let mut table = self.table.lock();
        table.rename(node, parent, name);
        for inner in table.below(node.ino).iter().chain([node]) {
            let mut state = inner.state.lock();
            state.version += 1;
            (state.checked, state.names) = (None, None);
            state.absent.clear();
            state.was_moved = true;
        }
        drop(table);
        if let Some((above, old)) = former {
            self.note_name(above, &old, false);
        }
        self.note_name(parent, name, true);
    }
}
