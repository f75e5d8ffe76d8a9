//! The operations of a sequence: each on the file system and on the reference.

use crate::reference::{Kind, Name, NodeId, Slot, Version};
use crate::run::{CALLER, Ended, Handle, Run};
use rand::RngExt;
use std::time::Duration;
use strongroom::fs::core::Durability;
use strongroom::fs::errno::FsError;
use strongroom::fs::types::{FallocateMode, OpenMode, RenameMode, SetAttr, XattrMode};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "a-rather-long-name-with-.-and-\u{e9}"];
const MANY_HANDLES: usize = 6;

/// The pieces of a copy that is not shared.
const COPIED_AT_ONCE: usize = 2 << 20;

impl Run {
    /// One random operation.
    pub(crate) fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..12 => self.create(),
            12..17 => self.open(),
            17..33 => self.write(),
            33..37 => self.resize(),
            37..40 => self.fallocate(),
            40..43 => self.copy(),
            43..51 => self.fsync(),
            51..61 => self.close(),
            61..65 => self.chmod(),
            65..68 => self.xattr(),
            68..72 => self.mkdir(),
            72..74 => self.symlink(),
            74..76 => self.rmdir(),
            76..80 => self.unlink(),
            80..88 => self.rename(),
            88..91 => self.link(),
            91..95 => self.read(),
            95..97 => self.look(),
            97..98 => self.forget_one(),
            _ => self.pass_time(),
        }
    }

    /// An operation that changes the store, for a crash in the middle of it.
    pub(crate) fn step_to_die_in(&mut self) {
        match self.random.random_range(0..12) {
            0 => self.create(),
            1..3 => self.fsync(),
            3..5 => self.close(),
            5 => self.chmod(),
            6 => self.mkdir(),
            7 => self.unlink(),
            8..10 => self.rename(),
            10 => self.link(),
            _ => self.rmdir(),
        }
    }

    fn any_name(&mut self) -> Name {
        let directories = self.reference.directories();
        let dir = self.pick(&directories).unwrap_or_default();
        (dir, NAMES[self.random.random_range(0..NAMES.len())].to_owned())
    }

    /// A name that exists, mostly.
    fn some_name(&mut self) -> Name {
        let names: Vec<Name> = self
            .reference
            .directories()
            .into_iter()
            .flat_map(|dir| self.reference.children(dir).into_keys().map(move |name| (dir, name)))
            .collect();
        match self.pick(&names) {
            Some(name) if self.chance(0.9) => name,
            _ => self.any_name(),
        }
    }

    fn some_handle(&mut self, write: bool) -> Option<usize> {
        let usable: Vec<usize> =
            (0..self.handles.len()).filter(|at| self.handles[*at].write || !write).collect();
        self.pick(&usable)
    }

    fn is_written(&self, node: NodeId) -> bool {
        self.handles.iter().any(|handle| handle.node == node && handle.write)
    }

    /// Which of its last versions a node has after a change that may have failed.
    fn redetermine(&mut self, node: NodeId) {
        if self.dying {
            return;
        }
        let found = self.undisturbed(|run| run.observe(node));
        let found = found.unwrap_or_else(|error| self.fail(format!("node {node}: {error}")));
        let versions = &self.reference.nodes[node].versions;
        let known = versions.iter().rev().take(2).any(|version| *version == found);
        if !known {
            self.fail(format!("node {node} is {found:?} and not {:?}", versions.last()));
        }
        self.reference.nodes[node].versions.push(found);
    }

    fn create(&mut self) {
        let name = self.any_name();
        let exclusive = self.chance(0.4);
        let before = self.reference.live(&name);
        if self.handles.len() >= MANY_HANDLES
            || before.is_some_and(|node| self.reference.kind(node) != Kind::File)
        {
            return;
        }
        self.note(format!("create {name:?} exclusive {exclusive}"));
        let mode = OpenMode { read: true, write: true, excl: exclusive, ..OpenMode::default() };
        let expected = (exclusive && before.is_some()).then_some(libc::EEXIST);
        let fs = self.fs();
        let result = self.ino(name.0).and_then(|parent| {
            self.wait(fs.create(&CALLER, parent, name.1.as_bytes(), 0o644, 0, mode))
        });
        match self.judge(expected, result) {
            Ended::Done((entry, opened)) => {
                let node = before.unwrap_or_else(|| self.new_file(&name, exclusive));
                self.known(node, &entry.attr);
                self.handles.push(Handle { node, id: opened.handle, write: true });
            }
            Ended::Refused => {}
            Ended::Doubt if before.is_none() && exclusive => {
                let version = Version { mode: 0o644, ..Version::default() };
                let node = self.reference.add(Kind::File, version);
                self.reference.may_be(&name, Some(node));
                self.settle(&[name]);
            }
            Ended::Doubt => self.settle(&[name]),
        }
    }

    fn new_file(&mut self, name: &Name, stored: bool) -> NodeId {
        let version = Version { mode: 0o644, ..Version::default() };
        let node = self.reference.add(Kind::File, version);
        if stored {
            self.reference.set(name, Some(node));
            self.reference.acknowledge(node);
        } else {
            self.reference.may_be(name, Some(node));
            self.reference.shown(name, Some(node));
        }
        node
    }

    fn open(&mut self) {
        let files = self.reference.reachable(Kind::File);
        let Some(node) = self.pick(&files) else { return };
        if self.handles.len() >= MANY_HANDLES {
            return;
        }
        let write = self.chance(0.7);
        let truncate = write && self.chance(0.2);
        self.note(format!("open {node} write {write} truncate {truncate}"));
        let mode = OpenMode { read: true, write, truncate, ..OpenMode::default() };
        let fs = self.fs();
        let result = self.ino(node).and_then(|ino| self.wait(fs.open(&CALLER, ino, mode)));
        match self.judge(None, result) {
            Ended::Done(opened) => {
                if truncate {
                    self.reference.change(node, |version| version.content.resize(0));
                }
                self.handles.push(Handle { node, id: opened.handle, write });
            }
            Ended::Refused | Ended::Doubt => {}
        }
    }

    fn write(&mut self) {
        let Some(at) = self.some_handle(true) else { return self.create() };
        let (node, id) = (self.handles[at].node, self.handles[at].id);
        let size = self.reference.nodes[node].current().content.size();
        let offset = match self.random.random_range(0..10) {
            0..4 => size,
            4..8 => self.random.random_range(0..=size),
            8 => self.random.random_range(0..size + 300_000),
            _ if self.chance(0.1) => self.random.random_range(0..10 << 20),
            _ => 0,
        };
        let most = [10, 5000, 70_000, 300_000][self.random.random_range(0..4)];
        let mut data = vec![0; self.random.random_range(0..most)];
        self.random.fill(&mut data[..]);
        self.note(format!("write {node} {} bytes at {offset}", data.len()));
        let (fs, ino) = (self.fs(), self.ino(node));
        let result = ino.and_then(|ino| match fs.try_write(ino, id, offset, &data) {
            Some(result) => result,
            None => self.wait(fs.write(id, offset, data.clone())),
        });
        match self.judge(None, result) {
            Ended::Done(count) => {
                if count as usize != data.len() {
                    self.fail(format!("{count} bytes written"));
                }
                if !data.is_empty() {
                    self.reference.change(node, |version| version.content.write(offset, &data));
                }
            }
            Ended::Refused | Ended::Doubt => self.fail("a write does not wait for the store"),
        }
    }

    fn resize(&mut self) {
        let files = self.reference.reachable(Kind::File);
        let Some(node) = self.pick(&files) else { return };
        let size = self.reference.nodes[node].current().content.size();
        let size = if self.chance(0.6) {
            self.random.random_range(0..=size)
        } else {
            self.random.random_range(0..size + 200_000)
        };
        self.note(format!("resize {node} to {size}"));
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.set_attributes(node, set, |version| version.content.resize(size));
    }

    fn chmod(&mut self) {
        let kinds = [Kind::File, Kind::File, Kind::Directory];
        let kind = self.pick(&kinds).unwrap_or(Kind::File);
        let nodes = self.reference.reachable(kind);
        let Some(node) = self.pick(&nodes) else { return };
        let mode = self.random.random_range(0..0o1000);
        self.note(format!("chmod {node} {mode:o}"));
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        self.set_attributes(node, set, |version| version.mode = mode);
    }

    fn set_attributes(&mut self, node: NodeId, set: SetAttr, change: impl FnOnce(&mut Version)) {
        let fs = self.fs();
        let ino = self.ino(node);
        let result = ino.and_then(|ino| self.wait(fs.setattr(&CALLER, ino, set)));
        self.changed(node, result.map(drop), change);
    }

    fn xattr(&mut self) {
        let kinds = [Kind::File, Kind::File, Kind::Directory];
        let kind = self.pick(&kinds).unwrap_or(Kind::File);
        let nodes = self.reference.reachable(kind);
        let Some(node) = self.pick(&nodes) else { return };
        let name = [&b"user.a"[..], b"user.b"][self.random.random_range(0..2)];
        let fs = self.fs();
        let ino = self.ino(node);
        if self.reference.nodes[node].current().xattrs.contains_key(name) && self.chance(0.4) {
            self.note(format!("removexattr {node}"));
            let result = ino.and_then(|ino| self.wait(fs.removexattr(ino, name)));
            self.changed(node, result, |version| drop(version.xattrs.remove(name)));
        } else {
            let value = vec![self.random.random(); self.random.random_range(0..100)];
            self.note(format!("setxattr {node} {} bytes", value.len()));
            let result =
                ino.and_then(|ino| self.wait(fs.setxattr(ino, name, &value, XattrMode::Set)));
            self.changed(node, result, |version| {
                version.xattrs.insert(name.to_vec(), value);
            });
        }
    }

    /// After a change of attributes: it is in the store unless the file is being written.
    fn changed(
        &mut self,
        node: NodeId,
        result: Result<(), strongroom::fs::errno::FsError>,
        change: impl FnOnce(&mut Version),
    ) {
        match self.judge(None, result) {
            Ended::Done(()) => {
                self.reference.change(node, change);
                if !self.is_written(node) {
                    self.reference.acknowledge(node);
                }
            }
            Ended::Refused => {}
            Ended::Doubt => {
                self.reference.change(node, change);
                self.redetermine(node);
            }
        }
    }

    fn fallocate(&mut self) {
        let Some(at) = self.some_handle(true) else { return };
        let (node, id) = (self.handles[at].node, self.handles[at].id);
        let size = self.reference.nodes[node].current().content.size();
        let offset = self.random.random_range(0..size + 1000);
        let length = self.random.random_range(1..100_000);
        let modes = [
            FallocateMode::Allocate,
            FallocateMode::KeepSize,
            FallocateMode::PunchHole,
            FallocateMode::ZeroRange,
            FallocateMode::ZeroRangeKeepSize,
        ];
        let mode = modes[self.random.random_range(0..modes.len())];
        self.note(format!("fallocate {node} {mode:?} {length} bytes at {offset}"));
        let fs = self.fs();
        let ino = self.ino(node);
        let result = ino.and_then(|ino| self.wait(fs.fallocate(ino, id, offset, length, mode)));
        match self.judge(None, result) {
            Ended::Done(()) => self.reference.change(node, |version| {
                let content = &mut version.content;
                if !matches!(mode, FallocateMode::Allocate | FallocateMode::KeepSize) {
                    content.zero(offset, length);
                }
                if matches!(mode, FallocateMode::Allocate | FallocateMode::ZeroRange) {
                    content.resize(content.size().max(offset + length));
                }
            }),
            Ended::Refused | Ended::Doubt => self.fail("fallocate needs no store"),
        }
    }

    fn copy(&mut self) {
        let Some(from) = self.some_handle(false) else { return };
        let Some(to) = self.some_handle(true) else { return };
        let (from, from_id) = (self.handles[from].node, self.handles[from].id);
        let (to, to_id) = (self.handles[to].node, self.handles[to].id);
        let size = self.reference.nodes[from].current().content.size();
        let start = if self.chance(0.5) { 0 } else { self.random.random_range(0..=size) };
        let length = self.random.random_range(0..=size + 10);
        let target = self.reference.nodes[to].current().content.size();
        let target = if self.chance(0.5) { 0 } else { self.random.random_range(0..=target) };
        if from == to && start.abs_diff(target) < length {
            return;
        }
        self.note(format!("copy {length} bytes at {start} of {from} to {target} of {to}"));
        let fs = self.fs();
        let result = self.ino(from).and_then(|a| Ok((a, self.ino(to)?))).and_then(|(a, b)| {
            self.wait(fs.copy_file_range((a, from_id, start), (b, to_id, target), length))
        });
        match self.judge(None, result) {
            Ended::Done(count) => {
                let data = self.reference.nodes[from].current().content.read(start, length);
                if count != data.len() as u64 {
                    self.fail(format!("{count} bytes copied, not {}", data.len()));
                }
                // It is done in pieces, and what was closed before may be published between two of them.
                for (at, piece) in
                    (target..).step_by(COPIED_AT_ONCE).zip(data.chunks(COPIED_AT_ONCE))
                {
                    self.reference.change(to, |version| version.content.write(at, piece));
                }
            }
            Ended::Refused => {}
            Ended::Doubt if self.dying => {}
            Ended::Doubt => {
                // A part of it, from the start on.
                let found = self.undisturbed(|run| run.observe(to));
                let found = found.unwrap_or_else(|error| self.fail(error));
                let data = self.reference.nodes[from].current().content.read(start, length);
                let mut whole = self.reference.nodes[to].current().clone();
                let begun = (0..=data.len()).rev().step_by(1).find(|count| {
                    let bytes = found.content.read(target, *count as u64);
                    bytes.len() == *count && bytes == data[..*count]
                });
                if let Some(count) = begun.filter(|count| *count > 0) {
                    whole.content.write(target, &data[..count]);
                }
                if whole != found {
                    self.fail(format!("node {to} is {found:?}, not {whole:?}"));
                }
                self.reference.nodes[to].versions.push(found);
            }
        }
    }

    fn fsync(&mut self) {
        let Some(at) = self.some_handle(false) else { return };
        let (node, id) = (self.handles[at].node, self.handles[at].id);
        self.note(format!("fsync {node}"));
        let fs = self.fs();
        let ino = self.ino(node);
        let result = ino.and_then(|ino| self.wait(fs.fsync(ino, id, false)));
        if let Ended::Done(()) = self.judge(None, result) {
            self.reference.acknowledge(node);
        }
    }

    fn close(&mut self) {
        let Some(at) = self.some_handle(false) else { return };
        let Handle { node, id, write } = self.handles.swap_remove(at);
        self.note(format!("close {node} write {write}"));
        let fs = self.fs();
        let ino = self.ino(node);
        let result = ino.and_then(|ino| self.wait(fs.flush(ino, id)));
        if let Ended::Done(()) = self.judge(None, result)
            && write
            && self.durability == Durability::Close
        {
            self.reference.acknowledge(node);
        }
        let released = match self.ino(node) {
            Ok(ino) => self.wait(fs.release(ino, id)),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            self.fail(format!("release: {error}"));
        }
        self.forget_unlinked(node);
    }

    fn forget_unlinked(&mut self, node: NodeId) {
        let open = self.handles.iter().any(|handle| handle.node == node);
        if !open && self.reference.names_of(node).is_empty() {
            self.forget(node);
        }
    }

    fn mkdir(&mut self) {
        let name = self.any_name();
        if self.reference.directories().len() > 3 {
            return;
        }
        self.note(format!("mkdir {name:?}"));
        let fs = self.fs();
        let result = self
            .ino(name.0)
            .and_then(|parent| self.wait(fs.mkdir(&CALLER, parent, name.1.as_bytes(), 0o755, 0)));
        let version = Version { mode: 0o755, ..Version::default() };
        self.made(name, Kind::Directory, version, result);
    }

    fn symlink(&mut self) {
        let name = self.any_name();
        let target = format!("target-{}", self.random.random_range(0..1000)).into_bytes();
        self.note(format!("symlink {name:?}"));
        let fs = self.fs();
        let result = self
            .ino(name.0)
            .and_then(|parent| self.wait(fs.symlink(&CALLER, parent, name.1.as_bytes(), &target)));
        let version = Version { mode: 0o777, target, ..Version::default() };
        self.made(name, Kind::Symlink, version, result);
    }

    fn made(
        &mut self,
        name: Name,
        kind: Kind,
        version: Version,
        result: Result<strongroom::fs::types::EntryReply, strongroom::fs::errno::FsError>,
    ) {
        let taken = self.reference.live(&name).is_some();
        match self.judge(taken.then_some(libc::EEXIST), result) {
            Ended::Done(reply) => {
                let node = self.reference.add(kind, version);
                self.known(node, &reply.attr);
                self.reference.set(&name, Some(node));
                self.reference.acknowledge(node);
            }
            Ended::Refused => {}
            Ended::Doubt => {
                if !taken {
                    let node = self.reference.add(kind, version);
                    self.reference.may_be(&name, Some(node));
                }
                self.settle(&[name]);
            }
        }
    }

    fn unlink(&mut self) {
        let name = self.some_name();
        let node = self.reference.live(&name);
        let expected = match node.map(|node| self.reference.kind(node)) {
            None => Some(libc::ENOENT),
            Some(Kind::Directory) => Some(libc::EISDIR),
            Some(_) => None,
        };
        self.note(format!("unlink {name:?}, node {node:?}"));
        let fs = self.fs();
        let result =
            self.ino(name.0).and_then(|parent| self.wait(fs.unlink(parent, name.1.as_bytes())));
        let result = result.and_then(|()| self.removals_stored(name.0));
        self.removed(name, expected, result);
    }

    fn rmdir(&mut self) {
        let name = self.some_name();
        let node = self.reference.live(&name);
        let expected = match node {
            None => Some(libc::ENOENT),
            Some(node) if self.reference.kind(node) != Kind::Directory => Some(libc::ENOTDIR),
            Some(node) if !self.reference.children(node).is_empty() => Some(libc::ENOTEMPTY),
            Some(_) => None,
        };
        self.note(format!("rmdir {name:?}, node {node:?}"));
        let fs = self.fs();
        let result =
            self.ino(name.0).and_then(|parent| self.wait(fs.rmdir(parent, name.1.as_bytes())));
        let result = result.and_then(|()| self.removals_stored(name.0));
        self.removed(name, expected, result);
    }

    /// What is removed leaves later; a failure is told by fsync of the directory.
    fn removals_stored(&mut self, dir: NodeId) -> Result<(), FsError> {
        let fs = self.fs();
        let ino = self.ino(dir)?;
        self.wait(fs.fsyncdir(ino))
    }

    fn removed(
        &mut self,
        name: Name,
        expected: Option<i32>,
        result: Result<(), strongroom::fs::errno::FsError>,
    ) {
        let node = self.reference.live(&name);
        match self.judge(expected, result) {
            Ended::Done(()) => {
                self.reference.set(&name, None);
                if let Some(node) = node {
                    self.forget_unlinked(node);
                }
            }
            Ended::Refused => {}
            Ended::Doubt => {
                if expected.is_none() {
                    self.reference.may_be(&name, None);
                }
                self.settle(&[name]);
            }
        }
    }

    fn rename(&mut self) {
        let (from, to) = (self.some_name(), self.any_name());
        let modes = [
            RenameMode::Replace,
            RenameMode::Replace,
            RenameMode::Replace,
            RenameMode::NoReplace,
            RenameMode::Exchange,
        ];
        let mode = modes[self.random.random_range(0..modes.len())];
        let (moving, replaced) = (self.reference.live(&from), self.reference.live(&to));
        // What the kernel refuses by itself.
        if mode == RenameMode::Exchange && replaced.is_none() {
            return;
        }
        let into_itself = moving.is_some_and(|node| self.reference.is_within(to.0, node));
        let over_parent = replaced.is_some_and(|node| self.reference.is_within(from.0, node));
        if into_itself || over_parent {
            return;
        }
        self.note(format!(
            "rename {mode:?} {from:?}, node {moving:?}, to {to:?}, node {replaced:?}"
        ));
        let expected = self.rename_error(moving, replaced, mode);
        let fs = self.fs();
        let parents = self.ino(from.0).and_then(|a| Ok((a, self.ino(to.0)?)));
        let result = parents.and_then(|(a, b)| {
            self.wait(fs.rename(a, from.1.as_bytes(), b, to.1.as_bytes(), mode))
        });
        match self.judge(expected, result) {
            Ended::Done(()) if moving != replaced && mode == RenameMode::Exchange => {
                for (name, node) in [(from, replaced), (to, moving)] {
                    let slot = replaced_by(&self.reference, &name, node);
                    self.reference.slots.insert(name, slot);
                }
            }
            Ended::Done(()) if moving != replaced => {
                // The order keeps the moving node in sight of the reference.
                self.reference.slots.insert(to.clone(), replaced_by(&self.reference, &to, moving));
                if let Some(replaced) = replaced {
                    let others = self.reference.names_of(replaced).is_empty();
                    self.reference.nodes[replaced].doomed |= others;
                    if others && self.reference.kind(replaced) == Kind::Directory {
                        self.reference.slots.retain(|(dir, _), _| *dir != replaced);
                    }
                    self.forget_unlinked(replaced);
                }
                self.reference.set(&from, None);
            }
            Ended::Done(()) | Ended::Refused => {}
            Ended::Doubt => {
                if expected.is_none() && moving != replaced {
                    if mode == RenameMode::Exchange {
                        // Both keep a name, and both names keep something.
                        for (name, node) in [(&from, replaced), (&to, moving)] {
                            let slot = self.reference.slots.entry(name.clone()).or_default();
                            slot.stored.insert(node);
                        }
                    } else if let Some(moving) = moving {
                        let doomed = self.reference.nodes[moving].doomed;
                        self.reference.may_be(&to, Some(moving));
                        self.reference.may_be(&from, None);
                        // It keeps one of the two.
                        self.reference.nodes[moving].doomed = doomed;
                    }
                }
                self.settle(&[from, to]);
            }
        }
    }

    fn rename_error(
        &self,
        moving: Option<NodeId>,
        replaced: Option<NodeId>,
        mode: RenameMode,
    ) -> Option<i32> {
        let Some(moving) = moving else { return Some(libc::ENOENT) };
        let replaced = replaced?;
        if mode == RenameMode::NoReplace {
            return Some(libc::EEXIST);
        }
        let is_directory = |node| self.reference.kind(node) == Kind::Directory;
        match (is_directory(moving), is_directory(replaced)) {
            _ if mode == RenameMode::Exchange => None,
            _ if moving == replaced => None,
            (true, true) if !self.reference.children(replaced).is_empty() => Some(libc::ENOTEMPTY),
            (true, false) => Some(libc::ENOTDIR),
            (false, true) => Some(libc::EISDIR),
            _ => None,
        }
    }

    fn link(&mut self) {
        let files = self.reference.reachable(Kind::File);
        let Some(node) = self.pick(&files) else { return };
        let name = self.any_name();
        let taken = self.reference.live(&name).is_some();
        self.note(format!("link {node} as {name:?}"));
        let fs = self.fs();
        let inos = self.ino(node).and_then(|ino| Ok((ino, self.ino(name.0)?)));
        let result =
            inos.and_then(|(ino, parent)| self.wait(fs.link(ino, parent, name.1.as_bytes())));
        match self.judge(taken.then_some(libc::EEXIST), result) {
            Ended::Done(reply) => {
                self.known(node, &reply.attr);
                self.reference.set(&name, Some(node));
                self.reference.acknowledge(node);
            }
            Ended::Refused => {}
            Ended::Doubt => {
                if !taken {
                    self.reference.may_be(&name, Some(node));
                }
                self.settle(&[name]);
            }
        }
    }

    fn read(&mut self) {
        let Some(at) = self.some_handle(false) else { return };
        let (node, id) = (self.handles[at].node, self.handles[at].id);
        let size = self.reference.nodes[node].current().content.size();
        let offset = self.random.random_range(0..size + 10);
        let length = self.random.random_range(0..200_000_u32);
        self.note(format!("read {node} {length} bytes at {offset}"));
        let fs = self.fs();
        let ino = self.ino(node);
        let result = ino.and_then(|ino| self.wait(fs.read(ino, id, offset, length)));
        if let Ended::Done(bytes) = self.judge(None, result) {
            let wanted = self.reference.nodes[node].current().content.read(offset, length.into());
            if bytes != wanted {
                let at = bytes.iter().zip(&wanted).position(|(a, b)| a != b);
                let lengths = (bytes.len(), wanted.len());
                self.fail(format!("wrong bytes at {at:?} of what was read: {lengths:?}"));
            }
        }
    }

    /// A directory or a node, as the running mount shows it.
    fn look(&mut self) {
        if self.chance(0.5) {
            let directories = self.reference.directories();
            let dir = self.pick(&directories).unwrap_or_default();
            self.note(format!("list {dir}"));
            let result = self.list(dir);
            if let Ended::Done(names) = self.judge(None, result) {
                let wanted = self.reference.children(dir).into_keys().collect();
                if names != wanted {
                    self.fail(format!("listed {names:?}, not {wanted:?}"));
                }
            }
        } else {
            let kinds = [Kind::File, Kind::File, Kind::Directory, Kind::Symlink];
            let kind = self.pick(&kinds).unwrap_or(Kind::File);
            let nodes = self.reference.reachable(kind);
            let Some(node) = self.pick(&nodes) else { return };
            self.note(format!("look at {node}"));
            let result = self.observe(node);
            if let Ended::Done(found) = self.judge(None, result) {
                let current = self.reference.nodes[node].current();
                if found != *current {
                    let at = found.content.difference(&current.content);
                    self.fail(format!("{found:?}, not {current:?}: {at:?}"));
                }
            }
        }
    }

    fn forget_one(&mut self) {
        let files = self.reference.reachable(Kind::File);
        let Some(node) = self.pick(&files) else { return };
        if !self.handles.iter().any(|handle| handle.node == node) {
            self.note(format!("forget {node}"));
            self.forget(node);
        }
    }

    fn pass_time(&mut self) {
        let seconds = [1, 2, 70, 400][self.random.random_range(0..4)];
        self.note(format!("{seconds} seconds pass"));
        self.clock.advance(Duration::from_secs(seconds));
        self.wait(tokio::task::yield_now());
    }

    /// Once the store is well again, everything can be stored, and is as the reference has it.
    pub(crate) fn recover(&mut self) {
        self.note("the store is well".to_owned());
        self.end_faults();
        let fs = self.fs();
        for at in 0..self.handles.len() {
            let (node, id) = (self.handles[at].node, self.handles[at].id);
            let ino = self.ino(node).unwrap_or_else(|error| self.fail(error));
            // The first may tell of an earlier failure.
            let _ = self.wait(fs.fsync(ino, id, false));
            if let Err(error) = self.wait(fs.fsync(ino, id, false)) {
                self.fail(format!("node {node} cannot be stored: {error}"));
            }
            self.reference.acknowledge(node);
        }
        while !self.handles.is_empty() {
            self.close();
        }
        for dir in self.reference.directories() {
            let names = self.list(dir).unwrap_or_else(|error| self.fail(error));
            let wanted = self.reference.children(dir).into_keys().collect();
            if names != wanted {
                self.fail(format!("directory {dir} has {names:?}, not {wanted:?}"));
            }
        }
    }
}

fn replaced_by(reference: &crate::reference::Reference, name: &Name, node: Option<NodeId>) -> Slot {
    let mut slot = reference.slots.get(name).cloned().unwrap_or_default();
    slot.live = node;
    slot.stored = [node].into();
    slot
}
