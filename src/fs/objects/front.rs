//! The requests of the kernel.

use super::ObjectFs;
use crate::fs::errno::FsError;
use crate::fs::front::Front;
use crate::fs::once::RequestId;
use crate::fs::types::*;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

impl Front for ObjectFs {
    fn as_request<W>(
        self: &Arc<Self>,
        request: RequestId,
        work: W,
    ) -> impl Future<Output = ()> + Send
    where
        W: Future<Output = ()> + Send + 'static,
    {
        ObjectFs::once(self, request, work)
    }

    async fn lookup(
        self: &Arc<Self>,
        _caller: &Caller,
        parent: Ino,
        name: &[u8],
    ) -> Result<EntryReply, FsError> {
        ObjectFs::lookup(self, parent, name).await
    }

    fn forget(self: &Arc<Self>, ino: Ino, lookups: u64) {
        self.table.lock().forget(ino, lookups);
    }

    fn remember(self: &Arc<Self>, ino: Ino) {
        if let Some(node) = self.table.lock().get(ino) {
            node.state.lock().lookups += 1;
        }
    }

    async fn getattr(
        self: &Arc<Self>,
        ino: Ino,
        _handle: Option<HandleId>,
    ) -> Result<(Attr, Duration), FsError> {
        ObjectFs::getattr(self, ino).await
    }

    async fn setattr(
        self: &Arc<Self>,
        _caller: &Caller,
        ino: Ino,
        set: SetAttr,
    ) -> Result<(Attr, Duration), FsError> {
        ObjectFs::setattr(self, ino, set).await
    }

    async fn readlink(self: &Arc<Self>, ino: Ino) -> Result<Vec<u8>, FsError> {
        ObjectFs::readlink(self, ino).await
    }

    async fn mknod(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        modes: (u32, u32),
        rdev: u32,
    ) -> Result<EntryReply, FsError> {
        let kind = Kind::from_mode(modes.0).unwrap_or(Kind::File);
        let make = ObjectFs::mknod(self, caller, parent, name, modes, rdev);
        self.made_once((parent, name), kind, make).await
    }

    async fn mkdir(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        modes: (u32, u32),
    ) -> Result<EntryReply, FsError> {
        let make = ObjectFs::mkdir(self, caller, parent, name, modes);
        self.made_once((parent, name), Kind::Directory, make).await
    }

    async fn unlink(self: &Arc<Self>, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.removed_once(parent, name, ObjectFs::unlink(self, parent, name)).await
    }

    async fn rmdir(self: &Arc<Self>, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.removed_once(parent, name, ObjectFs::rmdir(self, parent, name)).await
    }

    async fn symlink(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<EntryReply, FsError> {
        let make = ObjectFs::symlink(self, caller, parent, name, target);
        self.made_once((parent, name), Kind::Symlink, make).await
    }

    async fn rename(
        self: &Arc<Self>,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.rename_once(from, to, mode).await
    }

    /// An object has one name.
    async fn link(self: &Arc<Self>, _: Ino, _: Ino, _: &[u8]) -> Result<EntryReply, FsError> {
        Err(FsError::Permission)
    }

    async fn open(
        self: &Arc<Self>,
        caller: &Caller,
        ino: Ino,
        mode: OpenMode,
    ) -> Result<Opened, FsError> {
        self.open_once(caller, ino, mode).await
    }

    async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        modes: (u32, u32),
        open: OpenMode,
    ) -> Result<(EntryReply, Opened), FsError> {
        self.create_once(caller, (parent, name), modes, open).await
    }

    async fn read(
        self: &Arc<Self>,
        _ino: Ino,
        handle: HandleId,
        offset: u64,
        size: u32,
    ) -> Result<Bytes, FsError> {
        ObjectFs::read(self, handle, offset, size).await
    }

    async fn write(
        self: &Arc<Self>,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<u32, FsError> {
        ObjectFs::write(self, caller, handle, offset, data).await
    }

    async fn flush(
        self: &Arc<Self>,
        caller: &Caller,
        _ino: Ino,
        handle: HandleId,
    ) -> Result<(), FsError> {
        ObjectFs::flush(self, caller, handle).await
    }

    async fn release(self: &Arc<Self>, _ino: Ino, handle: HandleId) -> Result<(), FsError> {
        ObjectFs::release(self, handle).await
    }

    async fn fsync(self: &Arc<Self>, ino: Ino, _: HandleId, _: bool) -> Result<(), FsError> {
        let node = self.node(ino)?;
        self.publish(&node).await
    }

    async fn opendir(self: &Arc<Self>, ino: Ino) -> Result<HandleId, FsError> {
        ObjectFs::opendir(self, ino)
    }

    async fn readdir(
        self: &Arc<Self>,
        _ino: Ino,
        handle: HandleId,
        offset: u64,
        attributes: bool,
    ) -> Result<Vec<DirEntry>, FsError> {
        ObjectFs::readdir(self, handle, offset, attributes).await
    }

    async fn releasedir(self: &Arc<Self>, handle: HandleId) -> Result<(), FsError> {
        ObjectFs::releasedir(self, handle).await;
        Ok(())
    }

    async fn fsyncdir(self: &Arc<Self>, ino: Ino) -> Result<(), FsError> {
        ObjectFs::fsyncdir(self, ino).await
    }

    async fn statfs(self: &Arc<Self>) -> Result<StatFs, FsError> {
        Ok(StatFs::BOUNDLESS)
    }

    async fn fallocate(
        self: &Arc<Self>,
        _ino: Ino,
        handle: HandleId,
        offset: u64,
        length: u64,
        mode: FallocateMode,
    ) -> Result<(), FsError> {
        ObjectFs::fallocate(self, handle, offset, length, mode).await
    }

    async fn lseek(
        self: &Arc<Self>,
        _ino: Ino,
        handle: HandleId,
        offset: u64,
        whence: SeekWhence,
    ) -> Result<u64, FsError> {
        ObjectFs::lseek(self, handle, offset, whence)
    }

    async fn drain(self: &Arc<Self>) -> Vec<(String, FsError)> {
        ObjectFs::drain(self).await
    }
}
