//! What a mount of files remembers for the process that takes over from it: the keys and values of its ledger.
//!
//! | key | value |
//! |---|---|
//! | `F` | that this is the memory of a mount of files, and not of a volume's |
//! | `I`, `T` | as for a volume's: the connection to the kernel; how many processes served before |
//! | `N` number | a node: its place, its attributes, what the store has of it |
//! | `L` number | lookups of it that the kernel holds |
//! | `H` handle | an open file |
//! | `D` handle | an open directory |
//! | `R` unique | a change of names under way, or done and perhaps not answered |
//!
//! Bytes that are not stored are in the arena, as far as a file is short and was written from front to back; of
//! others a kill loses what was written since the last close or fsync, and whoever has them open is told (EIO). Every
//! value is read as hostile: what does not decode is reported as damage, and nothing is guessed.

use super::attributes::format;
use super::content::LARGEST;
use super::name_of;
use super::table::State;
use super::unfinished::Unfinished;
use crate::fs::arena::{Arena, Run};
use crate::fs::ledger::{Found as Entries, Ledger};
use crate::fs::once::RequestId;
use crate::fs::remembered::{HandleForm, INIT, InitForm, TAKEOVERS, key, split};
use crate::fs::types::{HandleId, Ino, Kind, OpenMode, Opened};
use crate::store::{ETag, Headers};
use crate::volume::objects::tree::Found;
use crate::world::Timestamp;
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// That the memory is one of files.
const FILES: &[u8] = b"F";
/// What it says.
const VERSION: &[u8] = b"1";
/// No count and no handle reaches this by counting.
const UNTRUE: u64 = u64::MAX / 2;

/// What outlives the process.
pub(super) struct Keep {
    pub(super) ledger: Ledger,
    pub(super) arena: Arc<Arena>,
    pub(super) takeovers: u64,
}

/// What outlives a mount's process, and what a former one left.
pub struct ObjectsEstate {
    pub(super) keep: Arc<Keep>,
    pub(super) former: Former,
    pub(super) runs: Vec<Run>,
    init: Option<InitForm>,
}

impl ObjectsEstate {
    /// Opens the memory of a mount, with what a former process left in it; new memory is made ready, with an arena for
    /// `dirty_bytes`. The caller sees to it that no other process uses it.
    ///
    /// # Errors
    /// If the memory is of another version or layout, or damaged as a whole.
    pub fn open(state: File, arena: OwnedFd, dirty_bytes: u64) -> io::Result<Self> {
        let (ledger, found) = Ledger::open(state)?;
        let (former, init) = Former::read(found.unwrap_or_default())?;
        let (mut former, init) = (former, init);
        let is_new = former.takeovers.is_none() && former.nodes.is_empty();
        let (arena, runs) = match Arena::adopt(arena, dirty_bytes) {
            Ok(adopted) => adopted,
            Err(error) if is_new => return Err(error),
            Err(error) => {
                tracing::error!("{error}");
                former.damaged = true;
                (Arc::new(Arena::create(dirty_bytes)?), Vec::new())
            }
        };
        ledger.put(FILES, VERSION);
        let takeovers = former.takeovers.map_or(0, |count| count.saturating_add(1));
        ledger.put(TAKEOVERS, &takeovers.to_le_bytes());
        let keep = Arc::new(Keep { ledger, arena, takeovers });
        Ok(Self { keep, former, runs, init })
    }

    /// How the connection to the kernel was negotiated.
    pub fn negotiated(&self) -> crate::fs::estate::Negotiated {
        crate::fs::estate::Negotiated(self.init.clone())
    }
}

/// What a former process wrote, by kind.
#[derive(Debug, Default)]
pub(super) struct Former {
    pub(super) takeovers: Option<u64>,
    /// With the bytes that were written.
    pub(super) nodes: BTreeMap<Ino, (Kept, Vec<u8>)>,
    pub(super) lookups: HashMap<Ino, u64>,
    pub(super) files: BTreeMap<u64, (HandleForm, u64)>,
    pub(super) directories: BTreeMap<u64, Ino>,
    pub(super) replies: HashMap<u64, ReplyForm>,
    pub(super) uploads: BTreeMap<u64, Unfinished>,
    /// Not everything is there.
    pub(super) damaged: bool,
    /// Keys of what makes no sense, which is taken away once that is told.
    pub(super) senseless: Vec<Vec<u8>>,
}

impl Former {
    fn read(found: Entries) -> io::Result<(Self, Option<InitForm>)> {
        let mut former = Self { damaged: found.damaged, ..Self::default() };
        let mut init = None;
        let is_of_files = found.entries.iter().any(|(key, value)| key == FILES && value == VERSION);
        if !is_of_files && !found.entries.is_empty() && !found.damaged {
            return Err(io::Error::other(
                "the state that the former worker left is that of another layout, or of another version: unstage \
                 the volume",
            ));
        }
        for (key, value) in found.entries {
            let understood = match &*key {
                INIT => InitForm::decode(&*value).map(|form| init = Some(form)).ok(),
                _ => former.enter(&key, &value),
            };
            if understood.is_none() {
                former.spoilt(key);
            }
        }
        Ok((former, init))
    }

    /// What this key says makes no sense.
    pub(super) fn spoilt(&mut self, key: Vec<u8>) {
        tracing::debug!("this entry of the former server makes no sense: {}", key.escape_ascii());
        self.damaged = true;
        self.senseless.push(key);
    }

    /// `None` if an entry makes no sense.
    fn enter(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            FILES => return (value == VERSION).then_some(()),
            TAKEOVERS => {
                self.takeovers = Some(u64::from_le_bytes(value.try_into().ok()?));
                return Some(());
            }
            _ => {}
        }
        let (letter, number, rest) = split(key)?;
        if number >= UNTRUE && matches!(letter, b'P' | b'U') {
            return None;
        }
        if letter == b'P' {
            return self.uploads.entry(number).or_default().enter_part(rest, value);
        }
        if !rest.is_empty() || number >= UNTRUE && matches!(letter, b'H' | b'D') {
            return None;
        }
        let ino = Ino(number);
        match letter {
            b'N' if ino == Ino::ROOT => return None,
            b'N' => {
                let kept = NodeForm::decode(value).ok()?.read()?;
                self.nodes.insert(ino, (kept, value.to_vec()));
            }
            b'L' => {
                let count = u64::from_le_bytes(value.try_into().ok()?);
                self.lookups.insert(ino, Some(count).filter(|count| *count < UNTRUE)?);
            }
            b'H' => {
                let OpenForm { handle, replaced } = OpenForm::decode(value).ok()?;
                self.files.insert(number, (handle?, replaced));
            }
            b'D' => {
                let ino = Ino(u64::from_le_bytes(value.try_into().ok()?));
                self.directories.insert(number, ino);
            }
            b'U' => self.uploads.entry(number).or_default().enter_upload(value)?,
            b'R' => drop(self.replies.insert(number, ReplyForm::read(value)?)),
            _ => return None,
        }
        Some(())
    }
}

/// What the store has of a node.
#[derive(Clone, PartialEq, Message)]
struct FoundForm {
    #[prost(uint64, tag = "1")]
    size: u64,
    #[prost(bool, tag = "2")]
    is_cut: bool,
    #[prost(string, tag = "3")]
    etag: String,
    #[prost(int64, tag = "4")]
    stored: i64,
    #[prost(string, optional, tag = "5")]
    content_type: Option<String>,
    #[prost(btree_map = "string, string", tag = "6")]
    metadata: BTreeMap<String, String>,
}

/// A node.
#[derive(Clone, PartialEq, Message)]
struct NodeForm {
    /// None of both: its name is gone.
    #[prost(uint64, tag = "1")]
    parent: u64,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
    /// Kind and permissions, as in st_mode.
    #[prost(uint32, tag = "3")]
    mode: u32,
    #[prost(uint32, tag = "4")]
    uid: u32,
    #[prost(uint32, tag = "5")]
    gid: u32,
    #[prost(uint32, tag = "6")]
    rdev: u32,
    #[prost(uint64, tag = "7")]
    size: u64,
    #[prost(int64, tag = "8")]
    mtime: i64,
    #[prost(int64, tag = "9")]
    ctime: i64,
    #[prost(bool, tag = "10")]
    dirty: bool,
    #[prost(bool, tag = "11")]
    removed_here: bool,
    #[prost(bool, tag = "12")]
    time_was_set: bool,
    #[prost(bool, tag = "13")]
    was_moved: bool,
    #[prost(uint64, tag = "14")]
    replaced: u64,
    #[prost(message, optional, tag = "15")]
    found: Option<FoundForm>,
    /// What was written is lost, which is still to be told.
    #[prost(bool, tag = "16")]
    lost: bool,
    /// It was sent to be stored, and nobody knows whether it was.
    #[prost(bool, tag = "17")]
    sent: bool,
    /// Which of the runs in the arena are its bytes.
    #[prost(uint64, tag = "18")]
    spare: u64,
}

/// A node as it was.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) place: Option<(Ino, String)>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) rdev: u32,
    pub(super) size: u64,
    pub(super) times: (Timestamp, Timestamp),
    pub(super) dirty: bool,
    pub(super) removed_here: bool,
    pub(super) time_was_set: bool,
    pub(super) was_moved: bool,
    pub(super) replaced: u64,
    pub(super) found: Option<Found>,
    pub(super) lost: bool,
    pub(super) sent: bool,
    pub(super) spare: u64,
}

impl NodeForm {
    fn of(state: &State) -> Self {
        let place = state.place.clone();
        let found = state.found.as_ref().map(|found| {
            let Found { size, is_cut, etag, stored, headers } = found;
            let Headers { content_type, metadata } = headers;
            FoundForm {
                size: *size,
                is_cut: *is_cut,
                etag: etag.0.clone(),
                stored: stored.0,
                content_type: content_type.clone(),
                metadata: metadata.clone(),
            }
        });
        Self {
            parent: place.as_ref().map_or(0, |(parent, _)| parent.0),
            name: place.map(|(_, name)| name),
            mode: format(state.kind) | state.mode,
            uid: state.uid,
            gid: state.gid,
            rdev: state.rdev,
            size: state.size,
            mtime: state.mtime.0,
            ctime: state.ctime.0,
            dirty: state.dirty,
            removed_here: state.removed_here,
            time_was_set: state.time_was_set,
            // A change of its headers makes it another object, too.
            was_moved: state.was_moved || state.busy > 0,
            replaced: state.replaced,
            found,
            lost: state.lost,
            sent: state.sent,
            spare: state.spare,
        }
    }

    /// `None` if it makes no sense.
    fn read(self) -> Option<Kept> {
        let place = match self.name {
            Some(name) => {
                name_of(name.as_bytes()).ok()?;
                Some((Ino(self.parent), name))
            }
            None => None,
        };
        let found = self.found.map(|form| {
            let FoundForm { size, is_cut, etag, stored, content_type, metadata } = form;
            let headers = Headers { content_type, metadata };
            Found { size, is_cut, etag: ETag(etag), stored: Timestamp(stored), headers }
        });
        let sizes = self.size.max(found.as_ref().map_or(0, |found| found.size));
        Some(Kept {
            place,
            kind: Kind::from_mode(self.mode)?,
            mode: self.mode & 0o7777,
            owner: (self.uid, self.gid),
            rdev: self.rdev,
            size: Some(self.size).filter(|_| sizes <= LARGEST)?,
            times: (Timestamp(self.mtime), Timestamp(self.ctime)),
            dirty: self.dirty,
            removed_here: self.removed_here,
            time_was_set: self.time_was_set,
            was_moved: self.was_moved,
            replaced: self.replaced,
            found,
            lost: self.lost,
            sent: self.sent,
            spare: self.spare,
        })
    }
}

/// An open file.
#[derive(Clone, PartialEq, Message)]
struct OpenForm {
    #[prost(message, optional, tag = "1")]
    handle: Option<HandleForm>,
    /// What [`State::replaced`] was when it was opened.
    #[prost(uint64, tag = "2")]
    replaced: u64,
}

/// A change of names under way.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ReplyForm {
    /// It was done; what follows is of no account then.
    #[prost(bool, tag = "1")]
    pub(super) done: bool,
    /// What had the name that it takes away, 0 if nothing.
    #[prost(uint64, tag = "2")]
    pub(super) ino: u64,
    /// Nothing had the name that it gives.
    #[prost(bool, tag = "3")]
    pub(super) was_free: bool,
    /// A move of which something may be seen in the store.
    #[prost(message, optional, tag = "4")]
    pub(super) moves: Option<MoveForm>,
    /// The mark of what had the name that it takes away, if that was stored.
    #[prost(string, optional, tag = "5")]
    pub(super) etag: Option<String>,
}

/// From where to where.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MoveForm {
    #[prost(uint64, tag = "1")]
    pub(super) parent: u64,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(uint64, tag = "3")]
    pub(super) new_parent: u64,
    #[prost(string, tag = "4")]
    pub(super) new_name: String,
    /// The mark of what a file's move is to replace.
    #[prost(string, optional, tag = "5")]
    pub(super) target: Option<String>,
    /// Everything below a directory stands under the new name.
    #[prost(bool, tag = "6")]
    pub(super) copied: bool,
}

impl ReplyForm {
    /// `None` if it makes no sense.
    fn read(value: &[u8]) -> Option<Self> {
        let form = Self::decode(value).ok()?;
        for name in form.moves.iter().flat_map(|moves| [&moves.name, &moves.new_name]) {
            name_of(name.as_bytes()).ok()?;
        }
        Some(form)
    }
}

/// What the ledger has of a node.
#[derive(Default)]
pub(super) struct Written {
    pub(super) node: Vec<u8>,
    pub(super) lookups: u64,
}

impl Keep {
    /// Writes down what changed of a node.
    pub(super) fn record(&self, ino: Ino, state: &mut State) {
        let is_needed = state.lookups > 0 || state.handles > 0 || state.children > 0 || state.dirty;
        if ino == Ino::ROOT || !is_needed && state.written.node.is_empty() {
            return;
        }
        let node = NodeForm::of(state).encode_to_vec();
        if node != state.written.node {
            self.ledger.put(&key(b'N', ino.0), &node);
            state.written.node = node;
        }
        if state.lookups != state.written.lookups {
            match state.lookups {
                0 => self.ledger.remove(&key(b'L', ino.0)),
                lookups => self.ledger.put(&key(b'L', ino.0), &lookups.to_le_bytes()),
            }
            state.written.lookups = state.lookups;
        }
    }

    /// Nobody needs a node any more.
    pub(super) fn forget(&self, ino: Ino, written: &mut Written) {
        let Written { node, lookups } = std::mem::take(written);
        if lookups > 0 {
            self.ledger.remove(&key(b'L', ino.0));
        }
        if !node.is_empty() {
            self.ledger.remove(&key(b'N', ino.0));
        }
    }

    /// An open file; `request` is the one that opened it.
    pub(super) fn opened(
        &self,
        opened: Opened,
        (ino, mode): (Ino, OpenMode),
        replaced: u64,
        request: Option<RequestId>,
    ) {
        let Opened { handle, direct_io, keep_cache } = opened;
        let unique = request.map_or(0, |request| request.number);
        let form = HandleForm::of(ino, mode, (direct_io, keep_cache), unique);
        let form = OpenForm { handle: Some(form), replaced };
        self.ledger.put(&key(b'H', handle.0), &form.encode_to_vec());
    }

    /// An open directory.
    pub(super) fn opened_directory(&self, handle: HandleId, ino: Ino) {
        self.ledger.put(&key(b'D', handle.0), &ino.0.to_le_bytes());
    }

    /// Either is closed.
    pub(super) fn closed(&self, handle: HandleId) {
        self.ledger.remove(&key(b'H', handle.0));
        self.ledger.remove(&key(b'D', handle.0));
    }

    /// A change of names, before it begins and when it is done.
    pub(super) fn reply(&self, number: u64, form: &ReplyForm) {
        self.ledger.put(&key(b'R', number), &form.encode_to_vec());
    }

    /// Its answer has left.
    pub(super) fn answered(&self, request: RequestId) {
        self.ledger.remove(&key(b'R', request.number));
    }
}

/// Reads an entry as it could come from a former process. For tests with any bytes.
pub fn parse_entry(key: &[u8], value: &[u8]) -> bool {
    Former::default().enter(key, value).is_some()
}
