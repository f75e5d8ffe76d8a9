//! Files in a bucket, one object each, mounted: what other programs have put there, and what they can read.
//!
//! What it promises: close(2) and fsync(2) return when the file is in the store, whole; an error of theirs says
//! that it is not. Reads ask for the ranges they need. What is written from front to back leaves in parts, in
//! bounded memory; a file that is changed elsewhere is kept, enciphered, in a scratch file, and stored anew as a
//! whole. Owner, mode and time are kept beside the bytes, as s3fs and geesefs do it.
//!
//! What it cannot promise, since one object is one file: hard links, a rename of a directory at one moment, and
//! O_EXCL between two mounts. A rename copies, in the store.
//!
//! | file | what |
//! |---|---|
//! | [`table`] | nodes and their names |
//! | [`names`], [`moves`] | look-ups; making, removing and moving names |
//! | [`directory`] | listings |
//! | [`attributes`] | what is told of a node, to the kernel and in headers |
//! | [`opening`], [`content`] | open files: reading, writing, truncation |
//! | [`storing`] | how a file gets into the store |
//! | [`callers`] | who closes a file, and who only happens to have it |
//! | [`overlay`], [`scratch`] | a file changed in its middle |
//! | [`reading`] | ranges, ahead of who reads in order |
//! | [`remembered`], [`recorder`], [`spare`], [`unfinished`] | what a process that takes over finds |
//! | [`takeover`], [`once`], [`redo`] | going on where a former process stopped |

mod attributes;
mod callers;
mod content;
mod directory;
mod front;
mod moves;
mod names;
mod once;
mod opening;
mod overlay;
mod reading;
mod recorder;
mod redo;
pub mod remembered;
mod spare;
mod storing;
mod table;
mod takeover;
mod unfinished;

use super::errno::FsError;
use super::ownership::Ownership;
use super::types::{EntryReply, HandleId, Ino, Kind, OpenMode, Opened};
use crate::store::StoreError;
use crate::volume::VolumeError;
use crate::volume::objects::writer::Budget;
use crate::volume::objects::{BucketTree, ObjectsError};
use crate::world::World;
use callers::Users;
use directory::DirectoryHandle;
use parking_lot::Mutex;
use reading::Blocks;
pub use remembered::ObjectsEstate;
use remembered::{Keep, ReplyForm};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use table::{Node, State, Table};
use tokio::sync::RwLock;

/// How files are served.
#[derive(Clone, Debug)]
pub struct ObjectsConfig {
    /// Bytes of data in memory, what is written and what was read together.
    pub memory: u64,
    /// How long names and attributes are taken for true without asking the store.
    pub attribute_ttl: Duration,
    /// Owners and modes.
    pub ownership: Ownership,
    /// Where files lie that are changed in their middle, enciphered and without a name, until they are stored.
    pub scratch: PathBuf,
}

/// An open file.
#[derive(Clone)]
struct Handle {
    node: Arc<Node>,
    mode: OpenMode,
    /// What [`State::replaced`] was when it was opened: another one's content is not mixed with this one's.
    replaced: u64,
    users: Arc<Mutex<Users>>,
}

impl Handle {
    /// Refuses what another node has put in this file's place.
    fn check(&self) -> Result<(), FsError> {
        match self.node.state.lock().replaced == self.replaced {
            true => Ok(()),
            false => {
                Err(FsError::stale("the file was replaced by somebody else while it was open"))
            }
        }
    }
}

/// Files in a bucket, as a file system.
pub struct ObjectFs {
    tree: Arc<BucketTree>,
    config: ObjectsConfig,
    world: World,
    /// Who the files belong to of which nobody has said it.
    owner: (u32, u32),
    table: Mutex<Table>,
    handles: Mutex<HashMap<HandleId, Handle>>,
    directories: Mutex<HashMap<HandleId, Arc<DirectoryHandle>>>,
    /// Handles, and contents.
    counter: AtomicU64,
    budget: Budget,
    blocks: Blocks,
    /// Held, shared, by whoever uses a path for longer; a directory's move has it alone.
    paths: Arc<RwLock<()>>,
    /// Where what another process would need to go on is written down; `None` if nobody can take over.
    keep: Option<Arc<Keep>>,
    /// Handles that a former process gave out and perhaps never told the kernel of, by request.
    unanswered: Mutex<HashMap<u64, Opened>>,
    /// Changes of names that a former process had begun, by request.
    replies: Mutex<HashMap<u64, ReplyForm>>,
}

impl ObjectFs {
    /// Serves the files of a bucket, which must be there.
    pub async fn start(
        tree: Arc<BucketTree>,
        config: ObjectsConfig,
        owner: (u32, u32),
        world: World,
    ) -> Result<Arc<Self>, StoreError> {
        Ok(Arc::new(Self::prepare(tree, config, owner, world, None).await?))
    }

    async fn prepare(
        tree: Arc<BucketTree>,
        config: ObjectsConfig,
        owner: (u32, u32),
        world: World,
        keep: Option<Arc<Keep>>,
    ) -> Result<Self, StoreError> {
        tree.check().await?;
        let fs = Self {
            tree,
            world,
            owner,
            table: Mutex::new(Table::new(keep.clone())),
            handles: Mutex::default(),
            directories: Mutex::default(),
            counter: AtomicU64::new(1),
            // What is written and may be needed by who takes over is in memory twice.
            budget: Budget::new(if keep.is_some() {
                config.memory / 8 * 3
            } else {
                config.memory / 2
            }),
            blocks: Blocks::new(config.memory / 4),
            paths: Arc::default(),
            config,
            keep,
            unanswered: Mutex::default(),
            replies: Mutex::default(),
        };
        let mut root = State::new(Kind::Directory, fs.world.clock.now(), 0);
        let mark = fs.tree.mark("").await.map_err(|error| match error {
            ObjectsError::Store(error) => error,
            other => {
                StoreError::new(crate::store::StoreErrorKind::Other, "head", fs.tree.describe())
                    .with_source(other)
            }
        })?;
        fs.fill(&mut root, mark);
        fs.table.lock().add_root(root);
        Ok(fs)
    }

    fn node(&self, ino: Ino) -> Result<Arc<Node>, FsError> {
        self.table.lock().get(ino).ok_or(FsError::Moved)
    }

    /// A directory.
    fn parent(&self, ino: Ino) -> Result<Arc<Node>, FsError> {
        let node = self.node(ino)?;
        let kind = node.state.lock().kind;
        if kind == Kind::Directory { Ok(node) } else { Err(FsError::NotDirectory) }
    }

    fn handle(&self, handle: HandleId) -> Result<Handle, FsError> {
        self.handles.lock().get(&handle).cloned().ok_or(FsError::BadHandle)
    }

    fn next_number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    fn now(&self) -> Duration {
        self.world.clock.boot_time()
    }

    /// Whether what was asked of the store then is still taken for true.
    fn is_fresh(&self, checked: Option<Duration>) -> bool {
        checked.is_some_and(|at| self.now().saturating_sub(at) < self.config.attribute_ttl)
    }

    /// Whether what is known of a node is taken for true without asking the store.
    fn is_known(&self, state: &State) -> bool {
        state.dirty || state.busy > 0 || self.is_fresh(state.checked)
    }

    /// The path of a node that has a name.
    fn path(&self, node: &Node) -> Result<String, FsError> {
        self.table.lock().path(node.ino).ok_or(FsError::Moved)
    }

    /// The path of a name in a directory.
    fn path_in(&self, parent: Ino, name: &str) -> Result<String, FsError> {
        let parent = self.table.lock().path(parent).ok_or(FsError::Moved)?;
        let path = if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        if self.tree.fits(&path) { Ok(path) } else { Err(FsError::NameTooLong) }
    }

    /// The answer that a node was found or made; counts a lookup.
    fn entry(&self, node: &Arc<Node>) -> EntryReply {
        let node = self.table.lock().count_lookup(node);
        self.entry_uncounted(&node)
    }

    fn entry_uncounted(&self, node: &Node) -> EntryReply {
        EntryReply { attr: self.attr(node), generation: 0, ttl: self.config.attribute_ttl }
    }
}

/// A name as part of a key.
fn name_of(name: &[u8]) -> Result<&str, FsError> {
    super::core::check_name(name)?;
    // Keys are UTF-8.
    std::str::from_utf8(name).map_err(|_| FsError::Invalid)
}

impl From<ObjectsError> for FsError {
    fn from(error: ObjectsError) -> Self {
        match error {
            ObjectsError::NotFound | ObjectsError::NoDirectory => Self::NotFound,
            ObjectsError::IsDirectory => Self::IsDirectory,
            ObjectsError::Store(error) => VolumeError::Store(error).into(),
            ObjectsError::Invalid(_) => Self::NameTooLong,
            ObjectsError::Changed(_) => Self::stale(error),
            ObjectsError::Local { .. }
            | ObjectsError::Damaged(_)
            | ObjectsError::OtherKey(_)
            | ObjectsError::Source(_)
            | ObjectsError::Sink(_)
            | ObjectsError::Ended => Self::io(error),
        }
    }
}
