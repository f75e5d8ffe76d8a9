//! A volume's file system as what the kernel asks: see the methods that are called.

use super::core::FileSystem;
use super::errno::FsError;
use super::front::{Front, Place};
use super::once::RequestId;
use super::types::*;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

impl Front for FileSystem {
    fn as_request<W>(
        self: &Arc<Self>,
        request: RequestId,
        work: W,
    ) -> impl Future<Output = ()> + Send
    where
        W: Future<Output = ()> + Send + 'static,
    {
        FileSystem::as_request(self, request, work)
    }

    async fn lookup(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
    ) -> Result<EntryReply, FsError> {
        FileSystem::lookup(self, caller, parent, name).await
    }

    fn forget(self: &Arc<Self>, ino: Ino, lookups: u64) {
        FileSystem::forget(self, ino, lookups);
    }

    fn remember(self: &Arc<Self>, ino: Ino) {
        FileSystem::remember(self, ino);
    }

    async fn getattr(
        self: &Arc<Self>,
        ino: Ino,
        handle: Option<HandleId>,
    ) -> Result<(Attr, Duration), FsError> {
        FileSystem::getattr(self, ino, handle).await
    }

    async fn setattr(
        self: &Arc<Self>,
        caller: &Caller,
        ino: Ino,
        set: SetAttr,
    ) -> Result<(Attr, Duration), FsError> {
        FileSystem::setattr(self, caller, ino, set).await
    }

    async fn readlink(self: &Arc<Self>, ino: Ino) -> Result<Vec<u8>, FsError> {
        FileSystem::readlink(self, ino).await
    }

    async fn mknod(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        (mode, umask): (u32, u32),
        rdev: u32,
    ) -> Result<EntryReply, FsError> {
        let made = FileSystem::mknod(self, caller, parent, name, mode, umask, rdev).await;
        self.made_once(parent, name, made).await
    }

    async fn mkdir(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        (mode, umask): (u32, u32),
    ) -> Result<EntryReply, FsError> {
        let made = FileSystem::mkdir(self, caller, parent, name, mode, umask).await;
        self.made_once(parent, name, made).await
    }

    async fn unlink(self: &Arc<Self>, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.unlink_once(parent, name).await
    }

    async fn rmdir(self: &Arc<Self>, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.rmdir_once(parent, name).await
    }

    async fn symlink(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<EntryReply, FsError> {
        let made = FileSystem::symlink(self, caller, parent, name, target).await;
        self.made_once(parent, name, made).await
    }

    async fn rename(
        self: &Arc<Self>,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.rename_once(from, to, mode).await
    }

    async fn link(
        self: &Arc<Self>,
        ino: Ino,
        parent: Ino,
        name: &[u8],
    ) -> Result<EntryReply, FsError> {
        self.link_once(ino, parent, name).await
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
        self.create_once(caller, parent, name, modes, open).await
    }

    async fn read(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        size: u32,
    ) -> Result<Bytes, FsError> {
        FileSystem::read(self, ino, handle, offset, size).await
    }

    fn try_write(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        data: &[u8],
    ) -> Option<Result<u32, FsError>> {
        FileSystem::try_write(self, ino, handle, offset, data)
    }

    async fn write(
        self: &Arc<Self>,
        _caller: &Caller,
        handle: HandleId,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<u32, FsError> {
        FileSystem::write(self, handle, offset, data).await
    }

    async fn flush(
        self: &Arc<Self>,
        _caller: &Caller,
        ino: Ino,
        handle: HandleId,
    ) -> Result<(), FsError> {
        FileSystem::flush(self, ino, handle).await
    }

    async fn release(self: &Arc<Self>, ino: Ino, handle: HandleId) -> Result<(), FsError> {
        FileSystem::release(self, ino, handle).await
    }

    async fn fsync(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        data_only: bool,
    ) -> Result<(), FsError> {
        FileSystem::fsync(self, ino, handle, data_only).await
    }

    async fn opendir(self: &Arc<Self>, ino: Ino) -> Result<HandleId, FsError> {
        FileSystem::opendir(self, ino).await
    }

    async fn readdir(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        attributes: bool,
    ) -> Result<Vec<DirEntry>, FsError> {
        FileSystem::readdir(self, ino, handle, offset, attributes).await
    }

    async fn releasedir(self: &Arc<Self>, handle: HandleId) -> Result<(), FsError> {
        FileSystem::releasedir(self, handle).await
    }

    async fn fsyncdir(self: &Arc<Self>, ino: Ino) -> Result<(), FsError> {
        FileSystem::fsyncdir(self, ino).await
    }

    async fn statfs(self: &Arc<Self>) -> Result<StatFs, FsError> {
        FileSystem::statfs(self).await
    }

    async fn setxattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), FsError> {
        let change = FileSystem::setxattr(self, ino, name, value, mode);
        self.xattr_once(ino, name, change).await
    }

    async fn getxattr(self: &Arc<Self>, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        FileSystem::getxattr(self, ino, name).await
    }

    async fn listxattr(self: &Arc<Self>, ino: Ino) -> Result<Vec<u8>, FsError> {
        FileSystem::listxattr(self, ino).await
    }

    async fn removexattr(self: &Arc<Self>, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        let change = FileSystem::removexattr(self, ino, name);
        self.xattr_once(ino, name, change).await
    }

    async fn fallocate(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        length: u64,
        mode: FallocateMode,
    ) -> Result<(), FsError> {
        FileSystem::fallocate(self, ino, handle, offset, length, mode).await
    }

    async fn lseek(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        whence: SeekWhence,
    ) -> Result<u64, FsError> {
        FileSystem::lseek(self, ino, handle, offset, whence).await
    }

    async fn copy_file_range(
        self: &Arc<Self>,
        from: Place,
        to: Place,
        length: u64,
    ) -> Result<u64, FsError> {
        FileSystem::copy_file_range(self, from, to, length).await
    }

    async fn drain(self: &Arc<Self>) -> Vec<(String, FsError)> {
        FileSystem::drain(self).await
    }
}
