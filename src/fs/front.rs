//! What serves the kernel's requests: a volume's file system, or files in a bucket.
//!
//! A request that changes names may be sent again when another process takes a mount over; whoever can be
//! taken over answers it as it was answered, or would have been.

use super::errno::FsError;
use super::once::RequestId;
use super::types::*;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// One end of a copy within a mount: the file, its handle, the offset.
pub type Place = (Ino, HandleId, u64);

/// A served file system. The requests are those of FUSE; what is not offered is `NotSupported`.
pub trait Front: Send + Sync + 'static {
    /// Works on a request that may be sent again.
    fn as_request<W>(
        self: &Arc<Self>,
        _request: RequestId,
        work: W,
    ) -> impl Future<Output = ()> + Send
    where
        W: Future<Output = ()> + Send + 'static,
    {
        work
    }

    /// Finds a name; counts a lookup.
    fn lookup(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
    ) -> impl Future<Output = Result<EntryReply, FsError>> + Send;

    /// Takes lookups back.
    fn forget(self: &Arc<Self>, ino: Ino, lookups: u64);

    /// Counts a lookup of a node that a listing has told.
    fn remember(self: &Arc<Self>, ino: Ino);

    /// Attributes, and for how long they are true.
    fn getattr(
        self: &Arc<Self>,
        ino: Ino,
        handle: Option<HandleId>,
    ) -> impl Future<Output = Result<(Attr, Duration), FsError>> + Send;

    /// Changes attributes.
    fn setattr(
        self: &Arc<Self>,
        caller: &Caller,
        ino: Ino,
        set: SetAttr,
    ) -> impl Future<Output = Result<(Attr, Duration), FsError>> + Send;

    /// Where a symbolic link leads.
    fn readlink(
        self: &Arc<Self>,
        ino: Ino,
    ) -> impl Future<Output = Result<Vec<u8>, FsError>> + Send;

    /// Makes a file of any kind but a directory.
    fn mknod(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        modes: (u32, u32),
        rdev: u32,
    ) -> impl Future<Output = Result<EntryReply, FsError>> + Send;

    /// Makes a directory; `modes` are its mode and the maker's umask.
    fn mkdir(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        modes: (u32, u32),
    ) -> impl Future<Output = Result<EntryReply, FsError>> + Send;

    /// Removes a name that is no directory's.
    fn unlink(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
    ) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Removes an empty directory.
    fn rmdir(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
    ) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Makes a symbolic link.
    fn symlink(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> impl Future<Output = Result<EntryReply, FsError>> + Send;

    /// Moves a name.
    fn rename(
        self: &Arc<Self>,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Gives a file one more name.
    fn link(
        self: &Arc<Self>,
        ino: Ino,
        parent: Ino,
        name: &[u8],
    ) -> impl Future<Output = Result<EntryReply, FsError>> + Send;

    /// Opens a file.
    fn open(
        self: &Arc<Self>,
        caller: &Caller,
        ino: Ino,
        mode: OpenMode,
    ) -> impl Future<Output = Result<Opened, FsError>> + Send;

    /// Makes and opens a file.
    fn create(
        self: &Arc<Self>,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        modes: (u32, u32),
        open: OpenMode,
    ) -> impl Future<Output = Result<(EntryReply, Opened), FsError>> + Send;

    /// Reads; fewer bytes only at the end.
    fn read(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        size: u32,
    ) -> impl Future<Output = Result<Bytes, FsError>> + Send;

    /// Writes at once, if that needs no waiting.
    fn try_write(
        self: &Arc<Self>,
        _ino: Ino,
        _handle: HandleId,
        _offset: u64,
        _data: &[u8],
    ) -> Option<Result<u32, FsError>> {
        None
    }

    /// Writes.
    fn write(
        self: &Arc<Self>,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        data: Vec<u8>,
    ) -> impl Future<Output = Result<u32, FsError>> + Send;

    /// A descriptor is closed.
    fn flush(
        self: &Arc<Self>,
        caller: &Caller,
        ino: Ino,
        handle: HandleId,
    ) -> impl Future<Output = Result<(), FsError>> + Send;

    /// The last descriptor of a handle is closed.
    fn release(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
    ) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Makes what was written durable.
    fn fsync(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        data_only: bool,
    ) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Opens a directory.
    fn opendir(
        self: &Arc<Self>,
        ino: Ino,
    ) -> impl Future<Output = Result<HandleId, FsError>> + Send;

    /// The next rows of a directory from `offset` on; with attributes if that is asked.
    fn readdir(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        attributes: bool,
    ) -> impl Future<Output = Result<Vec<DirEntry>, FsError>> + Send;

    /// Closes a directory.
    fn releasedir(
        self: &Arc<Self>,
        handle: HandleId,
    ) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Makes a directory's names durable.
    fn fsyncdir(self: &Arc<Self>, ino: Ino) -> impl Future<Output = Result<(), FsError>> + Send;

    /// The file system's size.
    fn statfs(self: &Arc<Self>) -> impl Future<Output = Result<StatFs, FsError>> + Send;

    /// Sets an extended attribute.
    fn setxattr(
        self: &Arc<Self>,
        _ino: Ino,
        _name: &[u8],
        _value: &[u8],
        _mode: XattrMode,
    ) -> impl Future<Output = Result<(), FsError>> + Send {
        std::future::ready(Err(FsError::NotSupported))
    }

    /// An extended attribute.
    fn getxattr(
        self: &Arc<Self>,
        _ino: Ino,
        _name: &[u8],
    ) -> impl Future<Output = Result<Vec<u8>, FsError>> + Send {
        std::future::ready(Err(FsError::NotSupported))
    }

    /// The names of the extended attributes, each ended by NUL.
    fn listxattr(
        self: &Arc<Self>,
        _ino: Ino,
    ) -> impl Future<Output = Result<Vec<u8>, FsError>> + Send {
        std::future::ready(Err(FsError::NotSupported))
    }

    /// Removes an extended attribute.
    fn removexattr(
        self: &Arc<Self>,
        _ino: Ino,
        _name: &[u8],
    ) -> impl Future<Output = Result<(), FsError>> + Send {
        std::future::ready(Err(FsError::NotSupported))
    }

    /// Reserves a range, or makes it zeros.
    fn fallocate(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        length: u64,
        mode: FallocateMode,
    ) -> impl Future<Output = Result<(), FsError>> + Send;

    /// The next data or hole.
    fn lseek(
        self: &Arc<Self>,
        ino: Ino,
        handle: HandleId,
        offset: u64,
        whence: SeekWhence,
    ) -> impl Future<Output = Result<u64, FsError>> + Send;

    /// Copies within the file system; the kernel copies by itself where this is not offered.
    fn copy_file_range(
        self: &Arc<Self>,
        _from: Place,
        _to: Place,
        _length: u64,
    ) -> impl Future<Output = Result<u64, FsError>> + Send {
        std::future::ready(Err(FsError::NotSupported))
    }

    /// Stores what is not stored yet; returns what could not be, and why.
    fn drain(self: &Arc<Self>) -> impl Future<Output = Vec<(String, FsError)>> + Send;
}
