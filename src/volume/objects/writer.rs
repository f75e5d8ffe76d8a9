//! A file that is written from front to back, by a task that may not block: in one request if it is short,
//! else in parts that leave while it grows.

use super::bucket::KEY_CHECK;
use super::error::ObjectsError;
use super::parts::{Piece, Plan};
use super::progress::{Begun, Chain, Progress};
use super::tree::BucketTree;
use crate::crypto::datasafed::{OVERHEAD, Suspended};
use crate::store::{ETag, Headers, Part, Upload};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

const MIB: usize = 1 << 20;
/// How long a file waits for memory that others hold.
const STALLED: Duration = Duration::from_secs(10);
/// How long before it is kept elsewhere, if nothing of it has left.
const SOON: Duration = Duration::from_millis(200);

/// What all writers together may take in memory.
#[derive(Clone)]
pub struct Budget {
    semaphore: Arc<Semaphore>,
    mebibytes: usize,
    /// Counts what was had of it.
    granted: Arc<AtomicU64>,
}

impl Budget {
    /// So many bytes, a MiB at least.
    pub fn new(bytes: u64) -> Self {
        let mebibytes = usize::try_from(bytes).unwrap_or(usize::MAX) / MIB;
        let mebibytes = mebibytes.clamp(1, u32::MAX as usize >> 3);
        let semaphore = Arc::new(Semaphore::new(mebibytes));
        Self { semaphore, mebibytes, granted: Arc::default() }
    }
}

/// A file being written. Until [`Writer::finish`] nothing appears in the store. Dropped, it never was.
pub struct Writer {
    /// Which of all that this process has begun.
    id: u64,
    tree: Arc<BucketTree>,
    path: String,
    plan: Plan,
    budget: Budget,
    /// The part that is being filled, in plaintext, and its share of the budget.
    buffer: Vec<u8>,
    share: Option<OwnedSemaphorePermit>,
    length: u64,
    /// Once the first part has left.
    leaving: Option<Leaving>,
    failed: bool,
    /// It has waited in vain for memory once.
    has_stalled: bool,
    /// Told how far it has come.
    progress: Option<Arc<Progress>>,
    /// Another process had all its parts stored, and perhaps the file: what that was begun with.
    was_ending: Option<Headers>,
}

struct Leaving {
    pieces: Sender<Piece>,
    task: JoinHandle<Result<ETag, ObjectsError>>,
    /// Parts that have left.
    number: u32,
    /// Of an enciphered file, before its first part has left.
    iv: [u8; 16],
    cipher: Option<Suspended>,
    headers: Headers,
}

/// Whether bytes were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// They were.
    All,
    /// There is no memory for another file of this length, and nothing of it has left: none was taken.
    NoRoom,
}

/// What a finished file was stored as.
#[derive(Debug)]
pub struct Written {
    /// The object's mark.
    pub etag: ETag,
    /// With which headers it was begun, and of an enciphered one what tells its key; those at the end are the same only
    /// if it went in one request.
    pub headers: Headers,
}

impl Writer {
    /// Begins a file of `size` bytes, if that is known.
    pub fn new(tree: Arc<BucketTree>, path: String, size: Option<u64>, budget: Budget) -> Self {
        let overhead = if tree.is_encrypted() { OVERHEAD } else { 0 };
        let plan = Plan::parts(tree.part_limit(), size.map(|size| size.saturating_add(overhead)));
        let (buffer, share, leaving) = (Vec::new(), None, None);
        static COUNT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: COUNT.fetch_add(1, Ordering::Relaxed),
            tree,
            path,
            plan,
            budget,
            buffer,
            share,
            length: 0,
            leaving,
            failed: false,
            has_stalled: false,
            progress: None,
            was_ending: None,
        }
    }

    /// Whether somebody is told how far it has come, or it is too late for that.
    pub fn is_watched(&self) -> bool {
        self.progress.is_some() || self.leaving.is_some()
    }

    /// Has somebody told how far it comes, who is made for its [`Self::id`]; nothing of it may have left.
    pub fn watch(&mut self, watch: impl FnOnce(u64) -> Progress) {
        if !self.is_watched() {
            self.progress = Some(Arc::new(watch(self.id)));
        }
    }

    /// Goes on with an upload that another process has begun, behind the last part that is known to be stored
    /// ([`Self::length`]). It takes what memory there is, and waits for none.
    ///
    /// # Errors
    /// `Invalid` if that makes no sense, `OtherKey` if it was enciphered with another key.
    pub fn resume(
        tree: Arc<BucketTree>,
        begun: Begun,
        budget: Budget,
        watch: impl FnOnce(u64) -> Progress,
    ) -> Result<Self, ObjectsError> {
        let invalid = || ObjectsError::Invalid("an upload that cannot be gone on with".to_owned());
        let Begun { path, upload, headers, stored, ending } = begun;
        let last = stored.last().ok_or_else(invalid)?;
        let cipher = match (tree.stream_key(), &last.chain) {
            (None, None) => None,
            (Some(key), Some(Chain { iv, block, check })) if *check == key.check(iv) => {
                Some(Suspended::after(*iv, *block))
            }
            (Some(_), Some(_)) => return Err(ObjectsError::OtherKey(path)),
            _ => return Err(invalid()),
        };
        let number = u32::try_from(stored.len()).map_err(|_| invalid())?;
        let length = last.end;
        let parts = stored.into_iter().map(|milestone| milestone.part).collect();
        let mut writer = Self::new(tree, path, None, budget);
        writer.watch(watch);
        (writer.length, writer.has_stalled) = (length, true);
        writer.was_ending = ending.then(|| headers.clone());
        writer.leaving =
            Some(Leaving { number, cipher, ..writer.leave(&headers, Some((upload, parts)))? });
        Ok(writer)
    }

    /// Everything so far was acknowledged to whoever writes it.
    pub fn acknowledge(&self) {
        if let Some(progress) = &self.progress {
            progress.acknowledge(self.length);
        }
    }

    /// If another process may have stored the file already: what it had begun it with.
    pub fn was_ending(&self) -> Option<&Headers> {
        self.was_ending.as_ref()
    }

    /// Which of all that this process has begun; never 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Everything so far, if none of it has left.
    pub fn whole(&self) -> Option<&[u8]> {
        (self.leaving.is_none() && !self.failed).then_some(&*self.buffer)
    }

    /// Sees to it that the file gets to a path; whether it does: what has left goes where it was begun.
    pub fn goes_to(&mut self, path: &str) -> bool {
        if self.path != path && self.whole().is_some() {
            path.clone_into(&mut self.path);
        }
        self.path == path
    }

    /// Whether it has failed for good: what had left is lost.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Room in the part that is being filled.
    fn room(&self) -> usize {
        let number = self.leaving.as_ref().map_or(1, |leaving| leaving.number + 1);
        let iv = if number == 1 && self.tree.is_encrypted() { OVERHEAD as usize } else { 0 };
        self.plan.size(number).saturating_sub(iv).saturating_sub(self.buffer.len())
    }

    /// Takes bytes. `headers` are those of the object if this makes its first part leave.
    pub async fn write(
        &mut self,
        mut data: &[u8],
        headers: &Headers,
    ) -> Result<Taken, ObjectsError> {
        while !data.is_empty() {
            if self.room() == 0 {
                self.hand_over(headers, false).await?;
            }
            if !self.has_share(data.len()).await? {
                return Ok(Taken::NoRoom);
            }
            let (now, later) = data.split_at(data.len().min(self.room()));
            self.buffer.extend_from_slice(now);
            self.length += now.len() as u64;
            data = later;
        }
        Ok(Taken::All)
    }

    /// Whether there is memory for more: short files go without asking.
    async fn has_share(&mut self, more: usize) -> Result<bool, ObjectsError> {
        if self.share.is_some() || self.leaving.is_none() && self.buffer.len() + more <= MIB {
            return Ok(true);
        }
        match self.leaving {
            None => self.share = self.first_share().await,
            // The parts of its own that are on their way will give theirs back.
            Some(_) => self.wait_for_share().await?,
        }
        Ok(self.share.is_some())
    }

    /// Memory for the first part, if there is some soon. What is held for files that leave already stays theirs:
    /// open files that stand still are not to take all.
    async fn first_share(&self) -> Option<OwnedSemaphorePermit> {
        let wanted = self.wanted();
        let reserve = (self.budget.mebibytes / 4).max(wanted as usize);
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let budget = &self.budget.semaphore;
            if budget.available_permits() >= wanted as usize + reserve
                && let Ok(share) = budget.clone().try_acquire_many_owned(wanted)
            {
                return Some(share);
            }
            if tokio::time::Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(SOON / 10).await;
        }
    }

    /// Waits for memory for the next part. Where files that stand still hold all of it, it goes on without
    /// after a while: more memory is better than a backup that hangs.
    pub async fn wait_for_share(&mut self) -> Result<(), ObjectsError> {
        if self.share.is_some() {
            return Ok(());
        }
        let Budget { semaphore, granted, .. } = &self.budget;
        let share = loop {
            let patience = if self.has_stalled { Duration::ZERO } else { STALLED };
            let before = granted.load(Ordering::Relaxed);
            let share = semaphore.clone().acquire_many_owned(self.wanted());
            match tokio::time::timeout(patience, share).await {
                Ok(share) => {
                    self.has_stalled = false;
                    break share;
                }
                // It is only slow: others get on.
                Err(_) if granted.load(Ordering::Relaxed) != before => {}
                Err(_) => {
                    if !std::mem::replace(&mut self.has_stalled, true) {
                        tracing::warn!(
                            "files that are open and stand still hold the memory for writing"
                        );
                    }
                    break semaphore.clone().acquire_many_owned(0).await;
                }
            }
        };
        granted.fetch_add(1, Ordering::Relaxed);
        self.share = Some(share.map_err(|_| ObjectsError::Ended)?);
        Ok(())
    }

    /// What the part that is being filled takes of the budget, in MiB.
    fn wanted(&self) -> u32 {
        let number = self.leaving.as_ref().map_or(1, |leaving| leaving.number + 1);
        let wanted = self.plan.size(number).div_ceil(MIB).min(self.budget.mebibytes);
        u32::try_from(wanted).unwrap_or(u32::MAX)
    }

    /// Sends the part that is full on its way, or the last one.
    async fn hand_over(&mut self, headers: &Headers, is_last: bool) -> Result<(), ObjectsError> {
        if self.failed {
            return Err(ObjectsError::Ended);
        }
        // Until all of it is handed over: what goes wrong on the way is lost.
        self.failed = true;
        let mut part = std::mem::take(&mut self.buffer);
        let mut leaving = match self.leaving.take() {
            Some(leaving) => leaving,
            None => {
                let iv = self.tree.entropy().bytes();
                Leaving { iv, ..self.leave(&self.with_check(headers, &iv), None)? }
            }
        };
        leaving.number += 1;
        if let Some(key) = self.tree.stream_key() {
            let (key, iv) = (key.clone(), leaving.iv);
            let before = leaving.cipher.take();
            // Takes some milliseconds.
            let enciphered = tokio::task::spawn_blocking(move || {
                let mut encryptor = match &before {
                    Some(before) => key.resume(before),
                    None => key.encryptor_with_iv(iv),
                };
                encryptor.update(&mut part);
                if before.is_none() {
                    part.splice(..0, encryptor.iv());
                }
                (part, encryptor.suspend())
            });
            let (enciphered, after) = enciphered.await.map_err(|_| ObjectsError::Ended)?;
            part = enciphered;
            leaving.cipher = Some(after);
        }
        let share = match self.share.take() {
            Some(share) => share,
            // A short file takes none of the budget.
            None => {
                let none = self.budget.semaphore.clone().try_acquire_many_owned(0);
                none.map_err(|_| ObjectsError::Ended)?
            }
        };
        if let Some(progress) = &self.progress {
            let chain = match (self.tree.stream_key(), &leaving.cipher) {
                (Some(key), Some(cipher)) => cipher.between_blocks().map(|(iv, block)| Chain {
                    iv,
                    block,
                    check: key.check(&iv),
                }),
                _ => None,
            };
            // Behind a part that is too short, or whose last block is not full, nothing can go on.
            let goes_on = !is_last && chain.is_some() == self.tree.is_encrypted();
            progress.left(leaving.number, goes_on.then_some((self.length, chain)));
        }
        let sent = leaving.pieces.send(Piece::Part(Bytes::from(part).into(), share)).await;
        if sent.is_err() {
            // The task has its reason.
            return Err(ended(leaving.task).await);
        }
        self.leaving = Some(leaving);
        self.failed = false;
        Ok(())
    }

    /// `earlier`: an upload with parts that are stored.
    fn leave(
        &self,
        headers: &Headers,
        earlier: Option<(Upload, Vec<Part>)>,
    ) -> Result<Leaving, ObjectsError> {
        let (pieces, incoming) = channel(1);
        let transfer = self.tree.transfer(&self.path)?;
        let given = headers.clone();
        let followed = self.progress.clone().map(|progress| (self.path.clone(), progress));
        let task =
            tokio::spawn(
                async move { transfer.write_parts(given, incoming, earlier, followed).await },
            );
        let (iv, headers) = ([0; 16], headers.clone());
        Ok(Leaving { pieces, task, number: 0, iv, cipher: None, headers })
    }

    /// The headers with what tells the key of an enciphered file, which begins with this IV.
    fn with_check(&self, headers: &Headers, iv: &[u8; 16]) -> Headers {
        let mut headers = headers.clone();
        if let Some(key) = self.tree.stream_key() {
            headers.metadata.insert(KEY_CHECK.to_owned(), key.check(iv));
        }
        headers
    }

    /// Stores the file. What could not be stored in one request may be tried again; a file in parts has
    /// then failed for good.
    pub async fn finish(&mut self, headers: &Headers) -> Result<Written, ObjectsError> {
        if self.failed {
            return Err(ObjectsError::Ended);
        }
        if self.leaving.is_none() {
            return self.finish_short(headers).await;
        }
        if !self.buffer.is_empty() {
            self.hand_over(headers, true).await?;
        }
        let Some(Leaving { pieces, task, headers, .. }) = self.leaving.take() else {
            return Err(ObjectsError::Ended);
        };
        self.failed = true;
        // A receiver that is gone has its reason, which the task returns.
        let _ = pieces.send(Piece::End).await;
        let etag = task.await.map_err(|_| ObjectsError::Ended)??;
        Ok(Written { etag, headers })
    }

    async fn finish_short(&mut self, headers: &Headers) -> Result<Written, ObjectsError> {
        let mut part = self.buffer.clone();
        // Another one for each attempt: more may have been written since.
        let iv = self.tree.entropy().bytes();
        if let Some(key) = self.tree.stream_key() {
            key.encryptor_with_iv(iv).update(&mut part);
            part.splice(..0, iv);
        }
        let headers = self.with_check(headers, &iv);
        let transfer = self.tree.transfer(&self.path)?;
        let etag = transfer.put(Bytes::from(part), &headers).await?;
        Ok(Written { etag, headers })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(progress) = &self.progress {
            progress.end();
        }
        // The upload is given up by the transfer that is dropped with its task.
        if let Some(leaving) = self.leaving.take() {
            leaving.task.abort();
        }
    }
}

async fn ended(task: JoinHandle<Result<ETag, ObjectsError>>) -> ObjectsError {
    match task.await {
        Ok(Err(error)) => error,
        _ => ObjectsError::Ended,
    }
}
