//! Listings.

use super::ObjectFs;
use super::attributes::may_be_link;
use super::names::Before;
use super::table::Node;
use crate::fs::errno::FsError;
use crate::fs::types::{DirEntry, HandleId, Ino, Kind};
use crate::store::{StoreError, StoreErrorKind};
use crate::volume::objects::ObjectsError;
use crate::volume::objects::tree::{Found, Looked, RowFile};
use futures::StreamExt;
use std::collections::HashSet;
use std::sync::Arc;

/// Rows that are told at once.
const ROWS: usize = 128;
/// Objects asked for their headers at once.
const HEADS: usize = 32;

/// The number of what was not looked at, as libfuse has it; who wants to know asks.
const UNKNOWN: Ino = Ino(0xffff_ffff);

/// An open directory: what was in it when it was read from its beginning.
pub(super) struct DirectoryHandle {
    node: Arc<Node>,
    rows: tokio::sync::Mutex<Rows>,
}

/// What was in it, once it was read.
#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    is_listed: bool,
}

impl DirectoryHandle {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, rows: tokio::sync::Mutex::default() }
    }
}

#[derive(Clone)]
struct Row {
    name: String,
    /// What the listing told of a file.
    listed: Option<RowFile>,
    is_gone: bool,
    is_directory: bool,
    /// Once it was asked for.
    node: Option<Arc<Node>>,
}

impl ObjectFs {
    pub(super) fn opendir(&self, ino: Ino) -> Result<HandleId, FsError> {
        let node = self.parent(ino)?;
        node.state.lock().handles += 1;
        let id = HandleId(self.next_number());
        self.directories.lock().insert(id, Arc::new(DirectoryHandle::new(node)));
        if let Some(keep) = &self.keep {
            keep.opened_directory(id, ino);
        }
        Ok(id)
    }

    pub(super) async fn releasedir(&self, handle: HandleId) {
        let Some(open) = self.directories.lock().remove(&handle) else { return };
        if let Some(keep) = &self.keep {
            keep.closed(handle);
        }
        let handle = open;
        {
            let mut state = handle.node.state.lock();
            state.handles = state.handles.saturating_sub(1);
        }
        let Rows { rows, .. } = std::mem::take(&mut *handle.rows.lock().await);
        self.let_go(rows);
        self.table.lock().drop_if_unused(handle.node.ino);
    }

    fn let_go(&self, rows: Vec<Row>) {
        let mut table = self.table.lock();
        for node in rows.into_iter().filter_map(|row| row.node) {
            table.drop_if_unused(node.ino);
        }
    }

    pub(super) async fn readdir(
        &self,
        handle: HandleId,
        offset: u64,
        attributes: bool,
    ) -> Result<Vec<DirEntry>, FsError> {
        let handle = self.directories.lock().get(&handle).cloned().ok_or(FsError::BadHandle)?;
        let _paths = self.paths.read().await;
        let mut known = handle.rows.lock().await;
        let ino = handle.node.ino;
        let mut told = Vec::new();
        // One that a former process was listing goes on where that was, in the order of names.
        if offset == 0 || !known.is_listed {
            let rows = self.list(&handle.node).await?;
            let former = std::mem::replace(&mut *known, Rows { rows, is_listed: true });
            self.let_go(former.rows);
        }
        let rows = &mut known.rows;
        let above = handle.node.state.lock().place.as_ref().map_or(Ino::ROOT, |(above, _)| *above);
        for (index, (name, ino)) in
            [(b".".to_vec(), ino), (b"..".to_vec(), above)].into_iter().enumerate()
        {
            if offset <= index as u64 {
                let next_offset = index as u64 + 1;
                told.push(DirEntry { ino, kind: Kind::Directory, name, next_offset, entry: None });
            }
        }
        let mut begin =
            usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX).min(rows.len());
        // Nothing told means that there is no more: rows that are gone by now must not look like that.
        while begin < rows.len() {
            let end = (begin + ROWS).min(rows.len());
            self.ask(ino, &mut rows[begin..end], attributes).await?;
            for (index, row) in rows.iter().enumerate().take(end).skip(begin) {
                let (kind, number, entry) = match &row.node {
                    Some(node) => {
                        let entry = attributes.then(|| self.entry_uncounted(node));
                        (node.state.lock().kind, node.ino, entry)
                    }
                    // Removed since, or only its kind was wanted.
                    None if attributes || row.is_gone => continue,
                    None => {
                        let kind = if row.is_directory { Kind::Directory } else { Kind::File };
                        (kind, UNKNOWN, None)
                    }
                };
                let name = row.name.clone().into_bytes();
                told.push(DirEntry {
                    ino: number,
                    kind,
                    name,
                    next_offset: index as u64 + 3,
                    entry,
                });
            }
            if told.iter().any(|row| row.next_offset > 2) {
                break;
            }
            begin = end;
        }
        Ok(told)
    }

    /// What is in a directory, in the store or on its way there.
    async fn list(&self, directory: &Node) -> Result<Vec<Row>, FsError> {
        let path = self.path(directory)?;
        let asked = self.now();
        let on_their_way = || {
            let children = self.table.lock().children(directory.ino);
            children.into_iter().filter(|(_, node)| node.state.lock().dirty).collect::<Vec<_>>()
        };
        // What is stored while the listing is on its way may be in neither.
        let before = on_their_way();
        let listed = self.tree.list(&path).await?;
        let mut rows: Vec<Row> = listed
            .into_iter()
            .map(|row| Row {
                is_directory: row.file.is_none(),
                listed: row.file,
                is_gone: false,
                name: row.name,
                node: None,
            })
            .collect();
        let names: HashSet<String> = rows.iter().map(|row| row.name.clone()).collect();
        let mut all = names;
        for (name, node) in before.into_iter().chain(on_their_way()) {
            let place = node.state.lock().place.clone();
            if place == Some((directory.ino, name.clone())) && all.insert(name.clone()) {
                let (listed, is_gone) = (None, false);
                rows.push(Row { name, listed, is_gone, is_directory: false, node: Some(node) });
            }
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        directory.state.lock().names = Some((asked, all));
        Ok(rows)
    }

    /// Finds out what of rows the listing did not tell: all, if their attributes are wanted, else whether
    /// they are links.
    async fn ask(&self, parent: Ino, rows: &mut [Row], attributes: bool) -> Result<(), FsError> {
        let asks: Vec<_> = rows
            .iter()
            .map(|row| {
                let row = row.clone();
                async move {
                    let may_be_link = row.listed.as_ref().is_none_or(|file| may_be_link(file.size));
                    let is_wanted = attributes || !row.is_directory && may_be_link;
                    match is_wanted && row.node.is_none() {
                        true => self.ask_one(parent, &row).await.map(|node| (node, true)),
                        false => Ok((row.node, false)),
                    }
                }
            })
            .collect();
        let mut answers = futures::stream::iter(asks).buffered(HEADS);
        let mut nodes = Vec::new();
        while let Some(node) = answers.next().await {
            nodes.push(node?);
        }
        drop(answers);
        for (row, (node, was_asked)) in rows.iter_mut().zip(nodes) {
            row.is_gone = was_asked && node.is_none();
            row.node = node;
        }
        Ok(())
    }

    /// The node of a row; none if it is gone.
    async fn ask_one(&self, parent: Ino, row: &Row) -> Result<Option<Arc<Node>>, FsError> {
        let known = self.table.lock().child(parent, &row.name);
        if let Some(node) = &known {
            let state = node.state.lock();
            // A copy with other headers may have the same mark, so that the listing's does not say that these
            // are still true.
            let is_same_kind = row.is_directory == (state.kind == Kind::Directory);
            if state.dirty || self.is_known(&state) && is_same_kind {
                drop(state);
                return Ok(known);
            }
        }
        let before = Before::of(known);
        let path = match self.path_in(parent, &row.name) {
            Err(FsError::NameTooLong) => return Ok(None),
            other => other?,
        };
        let looked = match row.is_directory {
            true => Looked::Directory(self.tree.mark(&path).await?),
            false => match (self.tree.file(&path).await, &row.listed) {
                (Ok(found), _) => found.map_or(Looked::Nothing, Looked::File),
                // One that may not be looked at keeps the others from being told neither.
                (Err(ObjectsError::Store(error)), Some(file)) if is_about_one(&error) => {
                    tracing::warn!("{path}: only what the listing tells is known: {error}");
                    let (size, etag) = (file.size, file.etag.clone());
                    let (stored, headers) = Default::default();
                    Looked::File(Found { size, is_cut: false, etag, stored, headers })
                }
                (Err(error), _) => return Err(error.into()),
            },
        };
        match self.adopt(parent, &row.name, looked, before) {
            Ok(node) => Ok(Some(node)),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether a store that refuses this may answer for others.
fn is_about_one(error: &StoreError) -> bool {
    matches!(error.kind, StoreErrorKind::Denied | StoreErrorKind::Invalid | StoreErrorKind::Other)
}
