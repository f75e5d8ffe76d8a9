//! Changes of names that the kernel asks for once more, since the process that it asked before was killed
//! before it answered: what was done already must be answered as done, not done again.
//!
//! Two means. New things get ids that are made from the request, so that what exists already can be told to
//! be this request's own. Removals, moves and links write down before they begin what they are about, and
//! when they are done; the entry is taken back when the answer has left.

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::{Identity, Inode};
use super::remembered::{ReplyForm, key};
use super::types::{Caller, EntryReply, HandleId, Ino, OpenMode, Opened, RenameMode};
use crate::units::{DirId, FileId};
use prost::Message;
use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;

/// A request of the kernel. One that is sent again has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    pub(super) number: u64,
    pub(super) resent: bool,
}

impl RequestId {
    /// From the number that the kernel gives it; the highest bit says that it is sent again.
    pub fn from_unique(unique: u64) -> Self {
        const RESENT: u64 = 1 << 63;
        Self { number: unique & !RESENT, resent: unique & RESENT != 0 }
    }
}

tokio::task_local! {
    /// The request being worked on, and how many ids it has taken.
    static REQUEST: (RequestId, Cell<u64>);
}

/// Does some work as that of a request.
pub(super) async fn as_work_of<W: Future<Output = ()>>(request: RequestId, work: W) {
    REQUEST.scope((request, Cell::new(0)), work).await;
}

/// The request that this task works on, if it matters.
pub(super) fn current() -> Option<RequestId> {
    REQUEST.try_with(|(request, _)| *request).ok()
}

impl FileSystem {
    /// Works on a request that must not happen twice; `work` ends when it is answered.
    pub async fn as_request<W: Future<Output = ()>>(&self, request: RequestId, work: W) {
        let Some(recorder) = &self.recorder else { return work.await };
        as_work_of(request, work).await;
        recorder.ledger.remove(&key(b'R', request.number));
        self.unanswered.lock().remove(&request.number);
    }

    /// The id of a new thing: the same when the same request comes again.
    pub(super) fn new_id(&self) -> [u8; 16] {
        let derived = self.recorder.as_ref().and_then(|recorder| {
            let taken = |(request, taken): &(RequestId, Cell<u64>)| {
                (request.number, taken.replace(taken.get() + 1))
            };
            let (number, taken) = REQUEST.try_with(taken).ok()?;
            Some(derived_id(&recorder.secret, number, taken))
        });
        derived.unwrap_or_else(|| self.volume.world().entropy.bytes())
    }

    /// The number of the request that opens a file, to be written down with the handle.
    pub(super) fn opening_request(&self) -> u64 {
        current().map_or(0, |request| request.number)
    }

    /// A handle that this request has been given already.
    fn opened_before(&self) -> Option<(Arc<Inode>, Opened)> {
        let request = current().filter(|request| request.resent)?;
        let opened = self.unanswered.lock().get(&request.number).copied()?;
        let file = self.file(opened.handle).ok()?;
        Some((file.inode.clone(), opened))
    }

    /// What this request made, if a name holds it: then it happened before.
    async fn made_before(&self, parent: Ino, name: &[u8]) -> Option<Arc<Inode>> {
        let request = current().filter(|request| request.resent)?;
        let secret = &self.recorder.as_ref()?.secret;
        let child = self.find(parent, name).await.ok()?;
        let id = derived_id(secret, request.number, 0);
        let ours = [Identity::File(FileId(id)), Identity::Directory(DirId(id))];
        if !ours.contains(&child.identity) {
            return None;
        }
        {
            let mut state = child.state.lock();
            if state.home.is_none() && !state.is_changed() {
                // The former process had not come to say that it is to be stored.
                state.modified += 1;
            }
        }
        Some(child)
    }

    /// mkdir, mknod and symlink: `made` is what came of trying.
    pub async fn made_once(
        &self,
        parent: Ino,
        name: &[u8],
        made: Result<EntryReply, FsError>,
    ) -> Result<EntryReply, FsError> {
        if !matches!(made, Err(FsError::Exists)) {
            return made;
        }
        match self.made_before(parent, name).await {
            Some(inode) => Ok(self.entry_reply(&inode, true)),
            None => made,
        }
    }

    /// [`Self::open`], once.
    pub async fn open_once(
        self: &Arc<Self>,
        caller: &Caller,
        ino: Ino,
        mode: OpenMode,
    ) -> Result<Opened, FsError> {
        match self.opened_before() {
            Some((inode, opened)) if inode.ino == ino => Ok(opened),
            _ => self.open(caller, ino, mode).await,
        }
    }

    /// [`Self::create`], once.
    pub async fn create_once(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        (mode, umask): (u32, u32),
        open: OpenMode,
    ) -> Result<(EntryReply, Opened), FsError> {
        if let Some((inode, opened)) = self.opened_before() {
            return Ok((self.entry_reply(&inode, true), opened));
        }
        let created = self.create(caller, parent, name, mode, umask, open).await;
        if !matches!(created, Err(FsError::Exists)) {
            return created;
        }
        let Some(inode) = self.made_before(parent, name).await else { return created };
        let reply = self.entry_reply(&inode, true);
        // It is new: there is nothing to truncate.
        let mode = OpenMode { truncate: false, ..open };
        Ok((reply, self.open(caller, inode.ino, mode).await?))
    }

    /// [`Self::unlink`], once.
    pub async fn unlink_once(self: &Arc<Self>, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.removed_once(parent, name, self.unlink(parent, name)).await
    }

    /// [`Self::rmdir`], once.
    pub async fn rmdir_once(self: &Arc<Self>, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.removed_once(parent, name, self.rmdir(parent, name)).await
    }

    async fn removed_once(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
        remove: impl Future<Output = Result<(), FsError>>,
    ) -> Result<(), FsError> {
        let Some(request) = self.accountable() else { return remove.await };
        let begun = match self.reply_before(request) {
            Some(reply) if reply.done => return Ok(()),
            Some(reply) => reply.ino != 0,
            None => {
                let there = self.find(parent, name).await;
                self.begin(request, there.map_or(Ino(0), |inode| inode.ino));
                false
            }
        };
        let removed = remove.await;
        // It was there when this was asked first.
        let happened = begun && matches!(removed, Err(FsError::NotFound));
        self.end(request, if happened { Ok(()) } else { removed })
    }

    /// [`Self::rename`], once.
    pub async fn rename_once(
        self: &Arc<Self>,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let rename = self.rename(parent, name, new_parent, new_name, mode);
        let Some(request) = self.accountable() else { return rename.await };
        match self.reply_before(request) {
            Some(reply) if reply.done => return Ok(()),
            Some(reply) => {
                // What was to be moved is at the new name: an exchange, too, is done then.
                let there = self.find(new_parent, new_name).await;
                if reply.ino != 0 && there.is_ok_and(|inode| inode.ino.0 == reply.ino) {
                    let left = self.find(parent, name).await;
                    if left.map_or(true, |inode| inode.ino.0 != reply.ino) {
                        return self.end(request, Ok(()));
                    }
                }
            }
            None => {
                let there = self.find(parent, name).await;
                self.begin(request, there.map_or(Ino(0), |inode| inode.ino));
            }
        }
        let renamed = rename.await;
        self.end(request, renamed)
    }

    /// [`Self::link`], once.
    pub async fn link_once(
        self: &Arc<Self>,
        ino: Ino,
        parent: Ino,
        name: &[u8],
    ) -> Result<EntryReply, FsError> {
        let Some(request) = self.accountable() else { return self.link(ino, parent, name).await };
        let begun = self.reply_before(request).is_some();
        if !begun {
            let free = matches!(self.find(parent, name).await, Err(FsError::NotFound));
            if free {
                self.begin(request, ino);
            }
        }
        let mut linked = self.link(ino, parent, name).await;
        if begun && matches!(linked, Err(FsError::Stale { .. })) {
            // The former process had come half way: the names are not as it wrote them down.
            self.look_again(ino).await;
            linked = self.link(ino, parent, name).await;
        }
        if begun
            && matches!(linked, Err(FsError::Exists))
            && let Ok(there) = self.find(parent, name).await
            && there.ino == ino
        {
            return Ok(self.entry_reply(&there, true));
        }
        linked
    }

    /// Asks the store for the names of an inode.
    async fn look_again(&self, ino: Ino) {
        let Ok(inode) = self.inode(ino) else { return };
        let (names, now) = (inode.state.lock().names.clone(), self.boot_time());
        for (parent, name) in names {
            // A name that cannot be asked for is told of by what is tried next.
            let _ = self.find_dentry_checked(parent, &name, Some(now)).await;
        }
    }

    /// setxattr and removexattr, once: whether the attribute was there before is written down first, so that
    /// what was done is not taken for an error of who asks again.
    pub async fn xattr_once(
        &self,
        ino: Ino,
        name: &[u8],
        change: impl Future<Output = Result<(), FsError>>,
    ) -> Result<(), FsError> {
        let Some(request) = self.accountable() else { return change.await };
        let was_there = match self.reply_before(request) {
            Some(reply) if reply.done => return Ok(()),
            Some(reply) => Some(reply.ino != 0),
            None => {
                let there = self.getxattr(ino, name).await.is_ok();
                self.begin(request, if there { ino } else { Ino(0) });
                None
            }
        };
        let changed = change.await;
        let happened = matches!(
            (was_there, &changed),
            (Some(false), Err(FsError::Exists)) | (Some(true), Err(FsError::NoData))
        );
        self.end(request, if happened { Ok(()) } else { changed })
    }

    /// The request, if somebody could take over from this process.
    fn accountable(&self) -> Option<RequestId> {
        self.recorder.as_ref().and(current())
    }

    /// What the former process wrote of this request.
    fn reply_before(&self, request: RequestId) -> Option<ReplyForm> {
        self.replies.lock().get(&request.number).filter(|_| request.resent).cloned()
    }

    fn begin(&self, request: RequestId, about: Ino) {
        let Some(recorder) = &self.recorder else { return };
        let form = ReplyForm { done: false, ino: about.0 };
        recorder.ledger.put(&key(b'R', request.number), &form.encode_to_vec());
    }

    fn end(&self, request: RequestId, result: Result<(), FsError>) -> Result<(), FsError> {
        let Some(recorder) = &self.recorder else { return result };
        if result.is_ok() {
            let form = ReplyForm { done: true, ino: 0 };
            recorder.ledger.put(&key(b'R', request.number), &form.encode_to_vec());
        }
        result
    }

    /// Handles that a former process gave out and perhaps never told the kernel of.
    pub(super) fn expect_again(&self, number: u64, opened: Opened) {
        if number != 0 {
            self.unanswered.lock().insert(number, opened);
        }
    }

    /// The number of the highest handle must not be given out again.
    pub(super) fn skip_handles(&self, HandleId(highest): HandleId) {
        self.next_handle.fetch_max(highest.saturating_add(1), std::sync::atomic::Ordering::Relaxed);
    }
}

/// An id that nobody who does not know the secret can tell from a random one.
fn derived_id(secret: &[u8; 32], request: u64, taken: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(&request.to_le_bytes());
    hasher.update(&taken.to_le_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sent_again_is_the_same_request() {
        let (first, again) = (RequestId::from_unique(6), RequestId::from_unique(1 << 63 | 6));
        assert_eq!(first.number, again.number);
        assert!(again.resent && !first.resent);
        let secret = [3; 32];
        assert_eq!(derived_id(&secret, first.number, 0), derived_id(&secret, again.number, 0));
        assert_ne!(derived_id(&secret, 6, 0), derived_id(&secret, 6, 1));
        assert_ne!(derived_id(&secret, 6, 0), derived_id(&secret, 8, 0));
    }
}
