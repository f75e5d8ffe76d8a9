//! Attributes and extended attributes.

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::{Body, Inode};
use super::types::{Attr, Caller, HandleId, Ino, SetAttr, TimeSet, XattrMode};
use std::sync::Arc;
use std::time::Duration;

/// As Linux limits them.
const XATTR_NAME_LIMIT: usize = 255;
const XATTR_VALUE_LIMIT: usize = 64 << 10;
/// All attributes of one file: they lie in the head of its record.
const XATTR_TOTAL_LIMIT: usize = 256 << 10;

impl FileSystem {
    /// stat(2), from memory: the kernel asks for names, with LOOKUP, when what it knows is too old.
    pub async fn getattr(
        &self,
        ino: Ino,
        _handle: Option<HandleId>,
    ) -> Result<(Attr, Duration), FsError> {
        let inode = self.inode(ino)?;
        Ok((self.shown(inode.attr()), self.config.attribute_ttl))
    }

    /// chmod, chown, truncate, utimens. Stored at once, unless the file is being written: then the
    /// change goes with what its writers store.
    pub async fn setattr(
        self: &Arc<Self>,
        _caller: &Caller,
        ino: Ino,
        set: SetAttr,
    ) -> Result<(Attr, Duration), FsError> {
        let inode = self.inode(ino)?;
        if self.volume.is_read_only() {
            return Err(FsError::ReadOnly);
        }
        if let Some(size) = set.size {
            inode.file()?;
            self.set_size(&inode, size).await?;
        }
        let now = self.now();
        let store_now = {
            let mut state = inode.state.lock();
            let SetAttr { mode, uid, gid, size: _, atime, mtime, ctime, handle: _ } = set;
            let attributes = &mut state.attributes;
            if let Some(mode) = mode {
                attributes.mode = mode & 0o7777;
            }
            attributes.uid = uid.unwrap_or(attributes.uid);
            attributes.gid = gid.unwrap_or(attributes.gid);
            let time = |set: TimeSet| match set {
                TimeSet::Now => now,
                TimeSet::At(time) => time,
            };
            attributes.atime = atime.map_or(attributes.atime, time);
            attributes.mtime = mtime.map_or(attributes.mtime, time);
            attributes.ctime = ctime.unwrap_or(now);
            state.modified += 1;
            !state.unlinked
                && (state.writers == 0
                    || state.home.is_some() && set.handle.is_none() && !is_dirty(&state.content))
        };
        if store_now {
            self.store_inode(&inode).await?;
        }
        Ok((self.shown(inode.attr()), self.config.attribute_ttl))
    }

    /// readlink(2).
    pub async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        match &self.inode(ino)?.state.lock().content {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(FsError::Invalid),
        }
    }

    /// setxattr(2).
    pub async fn setxattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), FsError> {
        check_xattr(name)?;
        if value.len() > XATTR_VALUE_LIMIT {
            return Err(FsError::Range);
        }
        let inode = self.inode(ino)?;
        {
            let now = self.now();
            let mut state = inode.state.lock();
            let xattrs = &mut state.attributes.xattrs;
            match (mode, xattrs.contains_key(name)) {
                (XattrMode::Create, true) => return Err(FsError::Exists),
                (XattrMode::Replace, false) => return Err(FsError::NoData),
                _ => {}
            }
            let others: usize = xattrs
                .iter()
                .filter(|(known, _)| known.as_slice() != name)
                .map(|(name, value)| name.len() + value.len())
                .sum();
            if others + name.len() + value.len() > XATTR_TOTAL_LIMIT {
                return Err(FsError::NoSpace {
                    message: "extended attributes of one file are limited to 256 KiB".to_owned(),
                });
            }
            xattrs.insert(name.to_vec(), value.to_vec());
            state.attributes.ctime = now;
            state.modified += 1;
        }
        self.store_attributes(&inode).await
    }

    /// getxattr(2).
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let inode = self.inode(ino)?;
        let state = inode.state.lock();
        state.attributes.xattrs.get(name).cloned().ok_or(FsError::NoData)
    }

    /// listxattr(2): names, each ended by NUL.
    pub async fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let inode = self.inode(ino)?;
        let state = inode.state.lock();
        let mut names = Vec::new();
        for name in state.attributes.xattrs.keys() {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names)
    }

    /// removexattr(2).
    pub async fn removexattr(self: &Arc<Self>, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        let inode = self.inode(ino)?;
        {
            let now = self.now();
            let mut state = inode.state.lock();
            state.attributes.xattrs.remove(name).ok_or(FsError::NoData)?;
            state.attributes.ctime = now;
            state.modified += 1;
        }
        self.store_attributes(&inode).await
    }

    async fn store_attributes(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<(), FsError> {
        let being_written = {
            let state = inode.state.lock();
            state.unlinked || state.writers > 0
        };
        if being_written { Ok(()) } else { self.store_inode(inode).await }
    }
}

fn is_dirty(content: &Body) -> bool {
    match content {
        Body::File(body) => body.dirty.dirty_bytes() > 0 || body.uploads > 0,
        _ => false,
    }
}

/// Names of attributes that are kept. POSIX ACLs are not: chmod and stat would have to obey them.
fn check_xattr(name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > XATTR_NAME_LIMIT {
        return Err(FsError::Range);
    }
    if name.starts_with(b"system.") {
        return Err(FsError::NotSupported);
    }
    Ok(())
}
