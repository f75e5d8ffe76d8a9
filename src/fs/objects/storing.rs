//! How a file gets into the store: what a close, an fsync(2) and the end of the mount do.

use super::ObjectFs;
use super::attributes::changed_meanwhile;
use super::content::Content;
use super::overlay::{Overlay, Source};
use super::table::{Attempt, Busy, Node};
use crate::fs::errno::FsError;
use crate::fs::types::{Ino, Kind};
use crate::store::{Headers, StoreErrorKind};
use crate::units::ByteRange;
use crate::volume::objects::bucket::{KEY_CHECK, told_by};
use crate::volume::objects::tree::Found;
use crate::volume::objects::writer::{Taken, Written};
use crate::volume::objects::{ObjectsError, Writer};
use futures::StreamExt;
use std::sync::Arc;

/// Bytes of the store's that are fetched at once when a changed file is stored anew, and how many times at once.
const FETCH: u64 = 4 << 20;
const FETCHES: usize = 4;
/// What is kept of a file that is removed while it is open; of a longer one the rest is gone.
const KEPT: u64 = 64 << 20;

impl ObjectFs {
    /// Stores what is not stored.
    pub(super) async fn publish(self: &Arc<Self>, node: &Arc<Node>) -> Result<(), FsError> {
        let _paths = self.paths.read().await;
        let mut content = self.content_of(node).await;
        self.publish_content(node, &mut content).await
    }

    /// The same for a caller that holds the content and the paths.
    pub(super) async fn publish_content(
        &self,
        node: &Node,
        content: &mut Content,
    ) -> Result<(), FsError> {
        let (is_named, removed_here) = {
            let state = node.state.lock();
            (state.place.is_some(), state.removed_here)
        };
        match content {
            Content::Clean => return Ok(()),
            Content::Lost(error) => return Err(error.clone()),
            // Its name was removed: nobody can ask for it once it is closed.
            Content::Stream(_) | Content::Overlay(_) if !is_named && removed_here => return Ok(()),
            Content::Stream(_) | Content::Overlay(_) if !is_named => {
                return Err(FsError::stale("the file was removed by somebody else"));
            }
            Content::Stream(_) | Content::Overlay(_) => {}
        }
        let path = self.path(node)?;
        if let Content::Stream(writer) = content
            && !writer.goes_to(&path)
        {
            let error = FsError::io(format!("{path}: it was moved while it was being written"));
            self.lose(node, content, &error);
            return Err(error);
        }
        let (wanted, begun) = {
            let state = node.state.lock();
            let anew = |with_time| self.headers_anew(&state, &path, with_time);
            (anew(true), anew(state.time_was_set))
        };
        let _busy = Busy::new(node);
        let attempt = Attempt {
            changes: node.state.lock().changes,
            size: match content {
                Content::Stream(writer) => writer.length(),
                Content::Overlay(overlay) => overlay.size(),
                Content::Clean | Content::Lost(_) => 0,
            },
            headers: [wanted.clone(), begun.clone()],
        };
        let former = {
            let mut state = node.state.lock();
            state.sent = true;
            state.maybe_stored.replace(attempt.clone())
        };
        if let Some(former) = former
            && self.was_stored(node, &path, &former).await?
            && former == attempt
        {
            let found = node.state.lock().found.clone();
            node.state.lock().dirty = false;
            *content = Content::Clean;
            if let Some(found) = found {
                self.stored(node, found);
            }
            self.keep_spare(node, content);
            return Ok(());
        }
        let (written, size) = match content {
            Content::Stream(writer) => {
                let is_short = writer.whole().is_some();
                let headers = if is_short { &wanted } else { &begun };
                let result = writer.finish(headers).await;
                let size = writer.length();
                match self.or_arrived(node, &path, writer, result).await {
                    Ok(written) => (written, size),
                    Err(error) => {
                        let failed = writer.has_failed();
                        let error = FsError::from(error);
                        if failed {
                            self.lose(node, content, &error);
                        }
                        return Err(error);
                    }
                }
            }
            Content::Overlay(overlay) => {
                (self.store_overlay(node, overlay, &path, (&wanted, &begun)).await?, overlay.size())
            }
            Content::Clean | Content::Lost(_) => return Ok(()),
        };
        let Written { etag, headers } = written;
        let found = Found { size, is_cut: false, etag, stored: self.world.clock.now(), headers };
        // The bytes are in the store under this name: what follows may fail without losing them.
        let (found, mended) = self.with_headers(node, &path, found, wanted).await;
        // Whoever takes over learns first that they are stored, and then that nothing is on its way any more.
        let stored = std::mem::take(content);
        node.state.lock_silently().dirty = false;
        self.stored(node, found);
        drop(stored);
        self.keep_spare(node, content);
        mended
    }

    /// What was sent in parts was begun with headers that may not be those that are wanted at its end: gives it those.
    /// What it is then, and whether that could be done.
    pub(super) async fn with_headers(
        &self,
        node: &Node,
        path: &str,
        found: Found,
        wanted: Headers,
    ) -> (Found, Result<(), FsError>) {
        let same = |wanted: &Headers| {
            wanted.content_type == found.headers.content_type
                && told_by(wanted) == told_by(&found.headers)
        };
        if same(&wanted) {
            return (found, Ok(()));
        }
        let only_time = {
            let mut without = wanted.clone();
            without.metadata.remove("mtime");
            !node.state.lock().time_was_set && same(&without)
        };
        let mut wanted = wanted;
        if let Some(check) = found.headers.metadata.get(KEY_CHECK) {
            wanted.metadata.insert(KEY_CHECK.to_owned(), check.clone());
        }
        if !only_time {
            return match self.tree.copy(path, &found, path, Some(&wanted)).await {
                Ok(etag) => (Found { etag, headers: wanted, ..found }, Ok(())),
                Err(error) => (found, Err(changed_meanwhile(node, error))),
            };
        }
        // It has the time at which the store had it whole.
        let told = match self.tree.file(path).await {
            Ok(told) => told.filter(|told| told.etag == found.etag),
            // It is stored, whatever its time is.
            Err(error) => {
                tracing::debug!("{path}: its time is not known: {error}");
                None
            }
        };
        if let Some(told) = &told {
            node.state.lock().mtime = told.stored;
        }
        (told.unwrap_or(found), Ok(()))
    }

    /// Before a file is stored once more that could not be stored: whether it was, after all, and is there. What
    /// another one has put there since is not replaced.
    async fn was_stored(
        &self,
        node: &Node,
        path: &str,
        Attempt { size, headers, .. }: &Attempt,
    ) -> Result<bool, FsError> {
        let there = self.tree.file(path).await?;
        let known = node.state.lock().found.clone();
        let etags = [&there, &known].map(|found| found.as_ref().map(|found| &found.etag));
        if etags[0] == etags[1] {
            return Ok(false);
        }
        let is_ours = |found: &Found| {
            let sent = |ours: &Headers| told_by(ours) == told_by(&found.headers);
            found.size == *size && headers.iter().any(sent)
        };
        match there {
            Some(found) if is_ours(&found) => {
                node.state.lock().found = Some(found);
                Ok(true)
            }
            None => Ok(false),
            Some(_) => {
                let why = "another file was put in its place after it could not be stored";
                Err(FsError::stale(why))
            }
        }
    }

    /// What a former process had sent may have been stored after this one had looked: it is what this one could not do.
    async fn or_arrived(
        &self,
        node: &Node,
        path: &str,
        writer: &Writer,
        result: Result<Written, ObjectsError>,
    ) -> Result<Written, ObjectsError> {
        // The store knows nothing of the upload any more: it has ended, perhaps as an object that was there with the
        // same bytes before.
        let is_over = matches!(&result, Err(ObjectsError::Store(error)) if error.kind == StoreErrorKind::NotFound);
        if result.is_err()
            && let Some(headers) = writer.was_ending()
            && let Some(Found { etag, headers, .. }) =
                self.arrived(node, path, writer.length(), headers, is_over).await
        {
            return Ok(Written { etag, headers });
        }
        result
    }

    /// What an upload was to make that was begun with these headers, if that is there, and was not before unless it
    /// may have been.
    pub(super) async fn arrived(
        &self,
        node: &Node,
        path: &str,
        size: u64,
        headers: &Headers,
        may_be_known: bool,
    ) -> Option<Found> {
        let (known, wanted) = {
            let state = node.state.lock();
            let known = state.found.as_ref().map(|found| found.etag.clone());
            (known, self.headers_anew(&state, path, true))
        };
        match self.tree.file(path).await {
            Ok(found) => found.filter(|found| {
                let told = told_by(&found.headers);
                let key = |headers: &Headers| headers.metadata.get(KEY_CHECK).cloned();
                // That of an enciphered file is of no other object.
                let is_ours = [told_by(headers), told_by(&wanted)].contains(&told)
                    && key(headers) == key(&found.headers);
                let is_new = may_be_known || known.as_ref() != Some(&found.etag);
                is_ours && found.size == size && is_new
            }),
            Err(error) => {
                tracing::debug!("{path}: whether it was stored is not known: {error}");
                None
            }
        }
    }

    /// Stores a changed file anew, as a whole.
    async fn store_overlay(
        &self,
        node: &Node,
        overlay: &Overlay,
        path: &str,
        (wanted, begun): (&Headers, &Headers),
    ) -> Result<Written, FsError> {
        let size = overlay.size();
        let mut writer =
            Writer::new(self.tree.clone(), path.to_owned(), Some(size), self.budget.clone());
        let base = if overlay.needs_base() { Some(self.base(node)?) } else { None };
        let cut = |(piece, source): (ByteRange, Source)| {
            let starts = (piece.offset()..piece.end()).step_by(FETCH as usize);
            starts.map(move |start| {
                let part = ByteRange::between(start, (start + FETCH).min(piece.end()));
                let source = match source {
                    Source::Scratch(at) => Source::Scratch(at + (start - piece.offset())),
                    other => other,
                };
                (part, source)
            })
        };
        let pieces = overlay.pieces(ByteRange::new(0, size)).flat_map(cut);
        let fetches =
            pieces.map(|(piece, source)| self.piece(overlay, base.as_ref(), piece, source));
        let mut fetches = futures::stream::iter(fetches).buffered(FETCHES);
        while let Some(parts) = fetches.next().await {
            for part in parts? {
                match writer.write(&part, begun).await? {
                    Taken::All => {}
                    Taken::NoRoom => self.wait_for_room(&mut writer, &part, begun).await?,
                }
            }
        }
        let headers = if writer.whole().is_some() { wanted } else { begun };
        Ok(writer.finish(headers).await?)
    }

    /// Writes when others have given memory back: nothing of this file waits for this writer.
    pub(super) async fn wait_for_room(
        &self,
        writer: &mut Writer,
        data: &[u8],
        headers: &Headers,
    ) -> Result<(), ObjectsError> {
        writer.wait_for_share().await?;
        match writer.write(data, headers).await? {
            Taken::All => Ok(()),
            Taken::NoRoom => Err(ObjectsError::Ended),
        }
    }

    /// Before a file's object goes while the file is open: keeps what can be kept of it. For a caller that
    /// holds its content and the paths.
    pub(super) async fn keep_open(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
    ) -> Result<(), FsError> {
        self.know(node).await?;
        let (found, is_open) = {
            let state = node.state.lock();
            (state.found.clone(), state.handles > 0 && state.kind == Kind::File)
        };
        let Some(found) = found.filter(|_| is_open) else { return Ok(()) };
        let needs = match &*content {
            Content::Clean => true,
            Content::Overlay(overlay) => overlay.needs_base(),
            Content::Stream(_) | Content::Lost(_) => false,
        };
        if !needs {
            return Ok(());
        }
        if found.size > KEPT {
            tracing::warn!(
                "{}: removed or replaced while it is open: whoever still reads it gets ESTALE",
                self.shown(node)
            );
            return Ok(());
        }
        let path = self.path(node)?;
        let mut kept = match &*content {
            Content::Overlay(_) => None,
            _ => Some(self.overlay(found.size)?),
        };
        let overlay = match (&mut *content, &mut kept) {
            (Content::Overlay(overlay), _) => overlay,
            (_, Some(kept)) => kept,
            _ => return Ok(()),
        };
        // What is only in the store, piece by piece.
        let pieces: Vec<_> = overlay.pieces(ByteRange::new(0, found.size)).collect();
        for (piece, _) in pieces.into_iter().filter(|(_, from)| *from == Source::Base) {
            let parts = match self.tree.read(&path, &found.etag, piece).await {
                Ok(parts) => parts,
                // It was replaced already: there is nothing to keep.
                Err(ObjectsError::Changed(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut at = piece.offset();
            for part in parts {
                let length = part.len() as u64;
                let written = overlay.write(at, part.to_vec());
                written.map_err(|error| self.scratch_failed(&error))?;
                at += length;
            }
            if at != piece.end() {
                return Err(FsError::io(format!("{path}: fewer bytes than the store told")));
            }
        }
        if let Some(kept) = kept {
            *content = Content::Overlay(kept);
        }
        Ok(())
    }

    /// The same as far as it can be done: what goes is gone all the same.
    pub(super) async fn keep_what_is_open(&self, node: &Arc<Node>, content: &mut Content) {
        if let Err(error) = self.keep_open(node, content).await {
            tracing::warn!("{}: whoever has it open gets ESTALE: {error}", self.shown(node));
        }
    }

    /// Takes back what [`Self::keep_open`] did, since the object stays.
    pub(super) fn unkeep(&self, node: &Node, content: &mut Content) {
        if !node.state.lock().dirty {
            *content = Content::Clean;
        }
    }

    /// Names are stored when they are made, but for those of files that are not closed yet. One that is on
    /// its way in parts appears when it is closed.
    pub(super) async fn fsyncdir(self: &Arc<Self>, ino: Ino) -> Result<(), FsError> {
        let children = self.table.lock().children(ino);
        for (_, child) in children {
            let is_dirty = child.state.lock().dirty;
            if !is_dirty {
                continue;
            }
            let _paths = self.paths.read().await;
            let mut content = self.content_of(&child).await;
            let is_leaving =
                matches!(&*content, Content::Stream(writer) if writer.whole().is_none());
            // What stands there under its name has one that is durable.
            let is_new = child.state.lock().found.is_none();
            if is_new && !is_leaving {
                self.publish_content(&child, &mut content).await?;
            }
        }
        Ok(())
    }

    /// How a node is called in messages.
    pub(super) fn shown(&self, node: &Node) -> String {
        self.path(node).unwrap_or_else(|_| "a removed file".to_owned()).escape_debug().to_string()
    }

    /// Stores everything before the end; what could not be, and why.
    pub(super) async fn drain(self: &Arc<Self>) -> Vec<(String, FsError)> {
        let failed = self.store_all().await;
        self.tree.settle().await;
        failed
    }

    /// The same while the mount is used, now and later.
    pub(super) async fn store_all(self: &Arc<Self>) -> Vec<(String, FsError)> {
        let nodes = self.table.lock().all();
        let dirty: Vec<_> = nodes.into_iter().filter(|node| node.state.lock().dirty).collect();
        let stores = dirty.into_iter().map(|node| async move {
            let is_written = || {
                let state = node.state.lock();
                let is_wanted = state.place.is_some() || !state.removed_here;
                state.writers > 0 && state.dirty && is_wanted
            };
            if is_written() {
                // A close that is storing it ends it.
                drop(node.content.lock().await);
            }
            let stored = match is_written() {
                // Half a file is no file, and does not take the place of a whole one.
                true => Err(FsError::io("it was not closed by whoever writes it")),
                false => self.publish(&node).await,
            };
            let name = self.shown(&node);
            self.table.lock().drop_if_unused(node.ino);
            stored.err().map(|error| (name, error))
        });
        let stores: Vec<_> = stores.collect();
        let results = futures::stream::iter(stores).buffer_unordered(16).collect::<Vec<_>>().await;
        results.into_iter().flatten().collect()
    }
}
