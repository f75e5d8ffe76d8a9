//! Moves that a former process had begun to carry out in the store, and did not come to the end of, are carried out
//! to their end before anybody sees the half of one.
//!
//! Crash story: what is checked is checked, and what is to be stored is stored, before a move is written down with
//! its names ([`ObjectFs::move_begins`]); only then is anything copied. Until that is written down nothing of it is to
//! be seen, and the kernel's asking again begins it anew. From then on it is only carried on: a copy is made again,
//! and what has been copied is deleted. Where the store cannot be reached when the next process begins, its being
//! asked for once more tries it again.

use super::ObjectFs;
use super::remembered::{MoveForm, ReplyForm};
use super::table::{Busy, Node};
use crate::fs::errno::FsError;
use crate::fs::types::{Ino, Kind};
use crate::volume::objects::tree::{Found, Looked};
use std::sync::Arc;

impl ObjectFs {
    /// Writes down that from now on something of a move may be seen in the store.
    pub(super) fn move_begins(
        &self,
        node: &Node,
        (parent, name): (Ino, &str),
        (new_parent, new_name): (Ino, &str),
        target: Option<&Arc<Node>>,
    ) -> Option<(u64, ReplyForm)> {
        let request = self.accountable()?;
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        let found = target.and_then(|target| target.state.lock().found.clone());
        let target = found.map(|found| found.etag.0);
        let (parent, new_parent) = (parent.0, new_parent.0);
        let moves = MoveForm { parent, name, new_parent, new_name, target, copied: false };
        let form = ReplyForm { ino: node.ino.0, moves: Some(moves), ..ReplyForm::default() };
        self.write_down(request.number, &form);
        Some((request.number, form))
    }

    /// Writes down that of a directory's move only the deletions are left.
    pub(super) fn all_is_copied(&self, number: u64, mut form: ReplyForm) {
        if let Some(moves) = &mut form.moves {
            moves.copied = true;
        }
        self.write_down(number, &form);
    }

    /// Ends what a former process had begun, while this one begins to serve: a copy may take the store long. Whoever
    /// uses a path waits for it.
    pub(super) async fn end_moves(self: &Arc<Self>) {
        let begun: Vec<(u64, ReplyForm)> = {
            let replies = self.replies.lock();
            let is_begun = |reply: &ReplyForm| !reply.done && reply.moves.is_some();
            let begun = replies.iter().filter(|(_, reply)| is_begun(reply));
            begun.map(|(number, reply)| (*number, reply.clone())).collect()
        };
        if begun.is_empty() {
            return;
        }
        let (fs, paths) = (self.clone(), self.paths.clone().write_owned().await);
        tokio::spawn(async move {
            for (number, reply) in begun {
                let ended = match fs.node(Ino(reply.ino)) {
                    Ok(node) if is_directory(&node) => {
                        fs.end_directory_move(number, &node, &reply).await
                    }
                    Ok(node) => fs.end_file_move(number, &node, &reply).await,
                    Err(_) => Ok(false),
                };
                match ended {
                    Ok(true) => {}
                    // Whoever asks for it once more begins it anew; nobody else does.
                    Ok(false) => fs.settled(number, ReplyForm::default()),
                    Err(error) => tracing::warn!(
                        "a rename that the former server had begun is not ended yet: {error}"
                    ),
                }
            }
            drop(paths);
        });
    }

    /// Carries a move to its end that was begun for a request; whether it happened. If it did not, nothing of it is
    /// to be seen.
    pub(super) async fn end_move(&self, number: u64) -> Result<bool, FsError> {
        let reply = |fs: &Self| fs.replies.lock().get(&number).cloned();
        // It may be under way still.
        let _paths = self.paths.write().await;
        let Some(reply) = reply(self) else { return Ok(false) };
        if reply.done {
            return Ok(true);
        }
        match self.node(Ino(reply.ino)) {
            Ok(node) if is_directory(&node) => self.end_directory_move(number, &node, &reply).await,
            Ok(node) => self.end_file_move(number, &node, &reply).await,
            Err(_) => Ok(false),
        }
    }

    fn has_moved(&self, number: u64, moves: &MoveForm) {
        self.note_name(Ino(moves.parent), &moves.name, false);
        self.note_name(Ino(moves.new_parent), &moves.new_name, true);
        self.settled(number, ReplyForm { done: true, ..ReplyForm::default() });
    }

    fn settled(&self, number: u64, reply: ReplyForm) {
        self.write_down(number, &reply);
        self.replies.lock().insert(number, reply);
    }

    /// What else is known under the name that a move gives.
    fn known_at(&self, node: &Node, moves: &MoveForm) -> Option<Arc<Node>> {
        let there = self.table.lock().child(Ino(moves.new_parent), &moves.new_name);
        there.filter(|there| there.ino != node.ino)
    }

    /// For a caller that has the paths alone.
    async fn end_file_move(
        &self,
        number: u64,
        node: &Arc<Node>,
        reply: &ReplyForm,
    ) -> Result<bool, FsError> {
        let Some(moves) = &reply.moves else { return Ok(false) };
        let target = self.known_at(node, moves);
        let (content, mut replaced) = self.lock_both(node, target.as_ref()).await;
        let _busy = (Busy::new(node), target.as_ref().map(|target| Busy::new(target)));
        let old = self.path_in(Ino(moves.parent), &moves.name)?;
        let new = self.path_in(Ino(moves.new_parent), &moves.new_name)?;
        let (known, headers) = {
            let state = node.state.lock();
            (state.found.clone(), self.headers(&state, &new, true))
        };
        let Some(known) = known else { return Ok(false) };
        // The very one that was to be moved: one that somebody has made since may have the same bytes.
        let left = self.tree.file(&old).await?.filter(|left| {
            left.etag == known.etag && left.headers.metadata == known.headers.metadata
        });
        // It is the copy only if it says what the copy would say: another one may have replaced what was to be
        // moved before it was.
        let there = self.tree.file(&new).await?;
        let is_to_be_replaced = there.as_ref().map(|there| &there.etag.0) == moves.target.as_ref();
        let is_anothers = there.is_some() && !is_to_be_replaced;
        let copy = there.filter(|copy| {
            // What was to be replaced may say the same of itself.
            let is_new = !is_to_be_replaced || copy.etag == known.etag;
            is_new && copy.size == known.size && copy.headers.metadata == headers.metadata
        });
        let is_left = left.is_some();
        let found = match (copy, left) {
            (Some(copy), _) => copy,
            // Another one has put something there: whoever asks once more finds that.
            (None, Some(_)) if !is_to_be_replaced => return Ok(false),
            (None, Some(left)) => {
                if let (Some(target), Some(content)) = (&target, &mut replaced) {
                    self.keep_what_is_open(target, content).await;
                }
                let etag = self.tree.copy(&old, &left, &new, Some(&headers)).await?;
                Found { etag, headers, stored: self.world.clock.now(), ..left }
            }
            // It was moved, and another one has replaced it since: this mount finds that as it always does.
            (None, None) if is_anothers => {
                if let (Some(target), Some(content)) = (&target, &mut replaced) {
                    self.name_gone(target, content);
                }
                self.table.lock().rename(node, Ino(moves.new_parent), &moves.new_name);
                drop(content);
                self.has_moved(number, moves);
                return Ok(true);
            }
            (None, None) => return Ok(false),
        };
        if let (Some(target), Some(content)) = (&target, &mut replaced) {
            self.name_gone(target, content);
        }
        if is_left {
            self.tree.remove_if(&old, &known.etag).await?;
        }
        self.table.lock().rename(node, Ino(moves.new_parent), &moves.new_name);
        self.stored(node, found);
        drop(content);
        self.has_moved(number, moves);
        Ok(true)
    }

    /// For a caller that has the paths alone.
    async fn end_directory_move(
        &self,
        number: u64,
        node: &Arc<Node>,
        reply: &ReplyForm,
    ) -> Result<bool, FsError> {
        let Some(moves) = &reply.moves else { return Ok(false) };
        let target = self.known_at(node, moves);
        let below = self.table.lock().below(node.ino);
        let busy: Vec<Busy> = below.iter().chain([node]).map(|node| Busy::new(node)).collect();
        let old = self.path_in(Ino(moves.parent), &moves.name)?;
        let new = self.path_in(Ino(moves.new_parent), &moves.new_name)?;
        if matches!(self.tree.look(&old).await?, Looked::Directory(_)) {
            let copied = match moves.copied {
                true => self.tree.copied_directory(&old, &new).await?,
                // Another one's: whoever asks once more finds it.
                false if self.tree.file(&new).await?.is_some() => return Ok(false),
                false => match self.tree.copy_rest_of_directory(&old, &new).await? {
                    Some(copied) => copied,
                    None => return Ok(false),
                },
            };
            self.all_is_copied(number, reply.clone());
            self.tree.remove_copied(&old, copied).await?;
        } else if !matches!(self.tree.look(&new).await?, Looked::Directory(_)) {
            return Ok(false);
        }
        if let Some(target) = &target {
            let mut content = self.content_of(target).await;
            self.name_gone(target, &mut content);
        }
        self.table.lock().rename(node, Ino(moves.new_parent), &moves.new_name);
        drop(busy);
        self.note_moved(node);
        self.has_moved(number, moves);
        Ok(true)
    }
}

fn is_directory(node: &Node) -> bool {
    node.state.lock().kind == Kind::Directory
}
