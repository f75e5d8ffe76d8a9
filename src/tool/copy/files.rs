//! A tree of files as other programs see them: names, bytes and times, and nothing else.

use super::item::{Item, Keeps, Kind, ancestors};
use super::local::{LocalTree, Xattrs, said};
use crate::tool::output::{Failure, shown};
use crate::volume::objects::{
    Entry, Kind as What, Layout, ListFiles, Modified, ObjectsError, PartWriter,
};
use crate::world::{Clock, Timestamp};
use bytes::Bytes;
use futures::StreamExt;
use nix::sys::stat::{Mode, umask};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::channel;

/// Files removed at the same time.
const REMOVALS: usize = 16;
/// The longest name that a local file system takes, in bytes.
const NAME_LIMIT: usize = 255;

/// A directory of a storage and all that is below.
pub(super) struct FilesTree {
    layout: Layout,
    /// Its path in the storage, and how whoever asks calls it.
    root: String,
    called: String,
    clock: Arc<dyn Clock>,
    /// What the process takes from the modes of what it makes.
    mask: u32,
}

impl FilesTree {
    pub(super) const KEEPS: Keeps =
        Keeps { mode: 0, owner: false, live_times: false, directories: false, coarse: true };

    pub(super) fn new(layout: Layout, root: &str, called: &str, clock: Arc<dyn Clock>) -> Self {
        // It can only be read by setting it: to a strict one, for whoever makes a file meanwhile.
        let mask = umask(Mode::from_bits_truncate(0o077));
        umask(mask);
        Self { layout, root: root.to_owned(), called: called.to_owned(), clock, mask: mask.bits() }
    }

    /// The failure of something in this tree.
    pub(super) fn said(&self, path: &[u8], why: impl std::fmt::Display) -> Failure {
        let called = self.called.trim_end_matches('/');
        match path {
            b"" => Failure::new(format!("{}: {why}", self.called)),
            _ => Failure::new(format!("{called}/{}: {why}", shown(path))),
        }
    }

    /// Where something is in the storage.
    fn path(&self, path: &[u8]) -> Result<String, Failure> {
        let text = std::str::from_utf8(path)
            .map_err(|_| self.said(path, "its name is no UTF-8, as names in a storage are"))?;
        Ok(if self.root.is_empty() { text.to_owned() } else { format!("{}/{text}", self.root) })
    }

    /// Everything below, and what cannot be a file of a tree.
    pub(super) async fn scan(&self, to_read: bool) -> Result<(Vec<Item>, Vec<Failure>), Failure> {
        let mut entries = Vec::new();
        let mut emit = |entry| {
            entries.push(entry);
            Ok(())
        };
        let request = ListFiles { depth: None, told_times: true };
        match self.layout.list(&self.root, request, &mut emit).await {
            Ok(()) => {}
            Err(ObjectsError::NoDirectory | ObjectsError::NotFound) if !to_read => {}
            Err(error) => return Err(self.said(b"", error)),
        }
        if to_read && entries.is_empty() && !self.layout.has_directories() {
            return Err(self.said(b"", ObjectsError::NoDirectory));
        }
        let mut failures = Vec::new();
        entries.retain_mut(|entry| {
            let Some(below) = below(&self.root, &entry.path) else { return false };
            entry.path = below.to_owned();
            let fits = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= NAME_LIMIT;
            let is_usable = entry.path.split('/').all(fits) && !entry.path.contains('\0');
            if !is_usable {
                let why = "cannot be the name of a file of a tree: left where it is";
                failures.push(self.said(entry.path.as_bytes(), why));
            }
            is_usable
        });
        // A bucket has directories as beginnings of names, also where a file has such a name.
        let mut directories: BTreeSet<Vec<u8>> = BTreeSet::new();
        for entry in &entries {
            let path = entry.path.as_bytes();
            directories.extend(ancestors(path).map(<[u8]>::to_vec));
            if !matches!(entry.kind, What::File(_)) {
                directories.insert(path.to_vec());
            }
        }
        let now = self.clock.now();
        let mut items = Vec::new();
        for entry in entries {
            let What::File(size) = entry.kind else { continue };
            if directories.contains(entry.path.as_bytes()) {
                let why = "a file has the name of a directory: left where it is";
                failures.push(self.said(entry.path.as_bytes(), why));
                continue;
            }
            let (mtime, taken_then) = match entry.modified {
                Modified::Told(time) => (time, false),
                Modified::Stored(time) => (time, true),
                Modified::Unknown => (now, false),
            };
            let item = self.item(entry.path.into_bytes(), Kind::File(size), mtime);
            items.push(Item { taken_then, ..item });
        }
        let directories = directories.into_iter();
        items.extend(directories.map(|path| self.item(path, Kind::Directory, now)));
        Ok((items, failures))
    }

    /// With the mode and owner of what this process makes.
    fn item(&self, path: Vec<u8>, kind: Kind, mtime: Timestamp) -> Item {
        let mode = if kind == Kind::Directory { 0o777 } else { 0o666 };
        Item {
            path,
            kind,
            mode: mode & !self.mask,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mtime,
            taken_then: false,
            record: None,
        }
    }

    pub(super) async fn make_directory(&self, item: &Item) -> Result<(), Failure> {
        if !self.layout.has_directories() {
            return Ok(());
        }
        let made = self.layout.make_directory(&self.path(&item.path)?).await;
        made.map_err(|error| self.said(&item.path, error))
    }

    /// Why something that is neither a file nor a directory is not stored.
    pub(super) fn refused(&self, item: &Item) -> Failure {
        let what = match item.kind {
            Kind::Symlink(_) => "a symbolic link",
            _ => "a FIFO, socket or device",
        };
        let why = format!(
            "is {what} and was left out: the storage has files and directories only (pack such a tree: \
             `tar -c DIR | datasafed push - NAME.tar`)"
        );
        self.said(&item.path, why)
    }

    /// Stores a local file.
    pub(super) async fn push(
        &self,
        from: &LocalTree,
        item: &Item,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let path = self.path(&item.path)?;
        let file = from.open(item)?;
        let (place, expected) = (from.place(&item.path), item.bytes());
        let produce = move |out: &mut PartWriter<'_>| {
            let shown = place.display();
            // One that grows all the time has an end all the same.
            let got = out
                .fill(&mut file.take(expected.saturating_add(1)))
                .map_err(|error| io::Error::new(error.kind(), format!("read {shown}: {error}")))?;
            match got == expected {
                true => Ok(()),
                false => Err(io::Error::other(format!(
                    "{shown} had {expected} bytes when the tree was looked at, and has not any more: not stored; \
                     copy it when nobody writes to it"
                ))),
            }
        };
        let written = self.layout.write(&path, item.mtime, Some(expected), produce).await;
        written.map_err(|error| self.said(&item.path, error))?;
        progress(expected);
        from.check_unchanged(item)
    }

    /// Fetches a file into a local tree.
    pub(super) async fn pull(
        &self,
        to: &LocalTree,
        item: &Item,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let path = self.path(&item.path)?;
        let place = to.place(&item.path);
        let mut incoming = to.receive(item)?;
        let (sender, mut pieces) = channel::<Vec<Bytes>>(1);
        let (file, moved) = (&mut incoming.file, &mut progress);
        let write = async move {
            let mut total = 0;
            while let Some(batch) = pieces.recv().await {
                for piece in batch {
                    file.write_all(&piece).await?;
                    total += piece.len() as u64;
                    moved(piece.len() as u64);
                }
            }
            file.flush().await?;
            Ok::<u64, io::Error>(total)
        };
        let (read, written) = tokio::join!(self.layout.read(&path, sender), write);
        let written = written.map_err(|error| said(&place, &error));
        // Whoever cannot write hears of that: the reader has no reason of its own.
        let total = match (read, written) {
            (Err(error), Ok(_)) => return Err(self.said(&item.path, error)),
            (_, written) => written?,
        };
        if total != item.bytes() {
            let why = "changed since its directory was listed: not fetched; do it again";
            return Err(self.said(&item.path, why));
        }
        to.finish(incoming, &as_there(item, &place), &Xattrs::new()).await
    }

    /// Copies a file within the storage.
    pub(super) async fn copy(
        &self,
        to: &Self,
        item: &Item,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let (from, to) = (self.path(&item.path)?, to.path(&item.path)?);
        let copied = self.layout.copy(&from, &to, self.clock.now()).await;
        copied.map_err(|error| self.said(&item.path, error))?;
        progress(item.bytes());
        Ok(())
    }

    /// Removes a file, or a directory with the files of this tree that are below; what others have there stays.
    pub(super) async fn remove(&self, item: &Item) -> Result<(), Failure> {
        let path = self.path(&item.path)?;
        let failed = |error| self.said(&item.path, error);
        if !item.is_directory() {
            return self.layout.remove(&path).await.map_err(failed);
        }
        let (mut files, mut directories) = (Vec::new(), BTreeSet::from([path.clone()]));
        let mut emit = |entry: Entry| {
            match entry.kind {
                What::File(_) => files.push(entry.path),
                What::Directory | What::Implied => drop(directories.insert(entry.path)),
            }
            Ok(())
        };
        let request = ListFiles { depth: None, told_times: false };
        match self.layout.list(&path, request, &mut emit).await {
            Ok(()) => {}
            Err(ObjectsError::NoDirectory | ObjectsError::NotFound) => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        let removals = files.iter().map(|file| self.layout.remove(file)).collect::<Vec<_>>();
        let removed: Vec<_> =
            futures::stream::iter(removals).buffer_unordered(REMOVALS).collect().await;
        removed.into_iter().collect::<Result<(), _>>().map_err(failed)?;
        for directory in directories.iter().rev() {
            // One that is not empty holds what is not of this tree.
            let _ = self.layout.remove_directory(directory).await;
        }
        Ok(())
    }
}

/// What a path is below a directory; `None` if it is not.
fn below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    let below = match directory {
        "" => path,
        _ => path.strip_prefix(directory)?.strip_prefix('/')?,
    };
    Some(below.trim_end_matches('/')).filter(|below| !below.is_empty())
}

/// An item with the mode and owner of the file that it replaces.
fn as_there(item: &Item, place: &Path) -> Item {
    let mut item = item.clone();
    if let Ok(former) = fs::symlink_metadata(place)
        && former.is_file()
    {
        item.mode = former.permissions().mode() & 0o7777;
        (item.uid, item.gid) = (former.uid(), former.gid());
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::datasafed::StreamKey;
    use crate::volume::objects::parts::{Piece, Plan};
    use crate::volume::objects::{Beside, Emit, Files};
    use async_trait::async_trait;
    use tokio::sync::mpsc::{Receiver, Sender};

    /// A storage that lists what it likes: servers here refuse to store such names.
    struct Hostile(&'static [(&'static str, What)]);

    #[async_trait]
    impl Files for Hostile {
        async fn find(&self, _: &str) -> Result<Entry, ObjectsError> {
            Err(ObjectsError::NotFound)
        }

        async fn list(&self, _: &str, _: ListFiles, emit: Emit<'_>) -> Result<(), ObjectsError> {
            self.0.iter().try_for_each(|&(path, kind)| {
                emit(Entry { path: path.to_owned(), kind, modified: Modified::Unknown })
            })
        }

        async fn read(
            &self,
            _: &str,
            _: Option<Arc<StreamKey>>,
            _: Sender<Vec<Bytes>>,
        ) -> Result<(), ObjectsError> {
            Err(ObjectsError::NotFound)
        }

        async fn write(&self, _: &str, _: Beside, _: Receiver<Piece>) -> Result<(), ObjectsError> {
            Err(ObjectsError::Ended)
        }

        async fn remove(&self, _: &str) -> Result<(), ObjectsError> {
            Ok(())
        }

        async fn remove_tree(&self, _: &str) -> Result<(), ObjectsError> {
            Ok(())
        }

        async fn make_directory(&self, _: &str) -> Result<(), ObjectsError> {
            Ok(())
        }

        async fn remove_directory(&self, _: &str) -> Result<(), ObjectsError> {
            Ok(())
        }

        fn has_directories(&self) -> bool {
            false
        }

        fn plan(&self, _: Option<u64>) -> Plan {
            Plan::Even
        }
    }

    #[tokio::test]
    async fn names_that_lead_out_of_a_tree_are_left_where_they_are() {
        const FILE: What = What::File(4);
        let listed = Hostile(&[
            ("t/good", FILE),
            ("t/deep/er/good", FILE),
            ("t/../../outside", FILE),
            ("t/d/..", FILE),
            ("t/./y", FILE),
            ("t/d//z", FILE),
            ("t/nul\0", FILE),
            ("/etc/passwd", FILE),
            ("elsewhere", FILE),
            ("t/both", FILE),
            ("t/both/below", FILE),
            ("t/..", What::Directory),
            ("t/both", What::Implied),
            ("t/", What::Directory),
        ]);
        let world = crate::config::system_world();
        let layout = Layout::new(Arc::new(listed), None, world.entropy);
        let tree = FilesTree::new(layout, "t", "t", world.clock);
        let (items, failures) = tree.scan(true).await.expect("listed");
        let mut names: Vec<(&[u8], bool)> =
            items.iter().map(|item| (&*item.path, item.is_directory())).collect();
        names.sort_unstable();
        let expected: [(&[u8], bool); 6] = [
            (b"both", true),
            (b"both/below", false),
            (b"deep", true),
            (b"deep/er", true),
            (b"deep/er/good", false),
            (b"good", false),
        ];
        assert_eq!(names, expected);
        assert_eq!(failures.len(), 7, "{failures:?}");
    }
}
