//! Changes of names that the kernel asks for once more, since the process that it asked before was killed before it
//! answered: what was done already must be answered as done. What a change is about is written down before it begins,
//! and that it was done before it is answered; the entry is taken back when the answer has left.
//!
//! An object in the store tells nobody who has put it there. So what is found where something was being made, and where
//! nothing was when that began, is taken for its own. What a move has come to: `redo.rs`.

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
    pub(super) fn accountable(&self) -> Option<RequestId> {
        self.keep.as_ref().and(current())
    }

    /// What the former process wrote of this request.
    fn reply_before(&self, request: RequestId) -> Option<ReplyForm> {
        self.replies.lock().get(&request.number).filter(|_| request.resent).cloned()
    }

    pub(super) fn write_down(&self, number: u64, form: &ReplyForm) {
        if let Some(keep) = &self.keep {
            keep.reply(number, form);
        }
    }

    /// Writes down that a change was done; one that failed is of no account.
    fn end(&self, request: RequestId, result: Result<(), FsError>) -> Result<(), FsError> {
        let done = result.is_ok();
        self.write_down(request.number, &ReplyForm { done, ..ReplyForm::default() });
        result
    }

    /// What has a name; `None` if nothing.
    async fn there(&self, parent: Ino, name: &[u8]) -> Result<Option<Arc<Node>>, FsError> {
        // What cannot be a name is told by whoever is asked to use it.
        let Ok(name) = name_of(name) else { return Ok(None) };
        let _paths = self.paths.read().await;
        match self.find(parent, name).await {
            Ok(node) => Ok(Some(node)),
            Err(FsError::NotFound) => Ok(None),
            // Never nothing for what cannot be asked.
            Err(error) => Err(error),
        }
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
        let was_free = self.made_before(request, parent, name).await?;
        let created = self.create(caller, parent, name, modes, open).await;
        if !was_free || !matches!(created, Err(FsError::Exists)) {
            return created;
        }
        let Some(node) = self.there(parent, name).await? else { return created };
        // It is new: there is nothing to truncate.
        let mode = OpenMode { truncate: false, excl: false, ..open };
        let opened = self.open(caller, node.ino, mode).await?;
        Ok((self.entry(&node), opened))
    }

    /// Whether this request had begun to make something where nothing was; writes down that it begins.
    async fn made_before(
        &self,
        request: RequestId,
        parent: Ino,
        name: &[u8],
    ) -> Result<bool, FsError> {
        if let Some(reply) = self.reply_before(request) {
            return Ok(reply.was_free);
        }
        let was_free = self.there(parent, name).await?.is_none();
        self.write_down(request.number, &ReplyForm { was_free, ..ReplyForm::default() });
        Ok(false)
    }

    /// mkdir, mknod and symlink, once.
    pub(super) async fn made_once(
        &self,
        (parent, name): (Ino, &[u8]),
        kind: Kind,
        make: impl Future<Output = Result<EntryReply, FsError>>,
    ) -> Result<EntryReply, FsError> {
        let Some(request) = self.accountable() else { return make.await };
        let was_free = self.made_before(request, parent, name).await?;
        let made = make.await;
        if was_free
            && matches!(made, Err(FsError::Exists))
            && let Some(node) = self.there(parent, name).await?
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
            Some(reply) => {
                let there = self.there(parent, name).await?;
                let etag = there.as_ref().and_then(|node| etag_of(node));
                if reply.etag.is_some() && etag.is_some() && etag != reply.etag {
                    // It was removed, and somebody else has made another one of the name.
                    return self.end(request, Ok(()));
                }
                reply.ino != 0
            }
            None => {
                let there = self.there(parent, name).await?;
                let etag = there.as_ref().and_then(|node| etag_of(node));
                let ino = there.map_or(0, |node| node.ino.0);
                self.write_down(request.number, &ReplyForm { ino, etag, ..ReplyForm::default() });
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
            // When this process began, it could not be ended.
            Some(reply) if reply.moves.is_some() => match self.end_move(request.number).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return self.end(request, Err(error)),
            },
            // Nothing of it is to be seen.
            _ => {}
        }
        let renamed = self.rename(from, to, mode).await;
        self.end(request, renamed)
    }
}

/// The mark of a file that is stored.
fn etag_of(node: &Node) -> Option<String> {
    let state = node.state.lock();
    state.found.as_ref().filter(|_| state.kind != Kind::Directory).map(|found| found.etag.0.clone())
}
