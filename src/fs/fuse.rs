//! The kernel's side of the file system: every request is parsed into `types.rs`, handed to the
//! engine, and answered. No decision about files is taken here, and no name or content is logged.
//!
//! A request's work is polled once on the thread that read it, so that what is answered from memory
//! costs no change of threads, and goes on in the runtime when it has to wait. A FUSE thread is
//! therefore never blocked by the store. Reads and fsyncs, which may compute, start in the runtime.
//!
//! Interrupts: the library refuses FUSE_INTERRUPT, so a caller waits until the engine answers, and
//! the engine bounds every wait.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::errno::FsError;
use super::front::Front;
use super::once::RequestId;
use super::operations;
use super::types::*;
use crate::world::Timestamp;

/// The largest write the kernel sends at once, and the largest read it asks for.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// Requests such as read-ahead that the kernel may have under way at once.
const MAX_BACKGROUND: u16 = 128;
/// Most that one copy_file_range moves, so that its count fits the 32 bits of the answer.
const MAX_COPY: u64 = 1 << 30;

/// Translates between the kernel and a file system.
pub struct FuseAdapter<F> {
    fs: Arc<F>,
    runtime: Handle,
    tasks: TaskTracker,
}

impl<F: Front> FuseAdapter<F> {
    /// An adapter whose requests are worked on in `runtime`.
    pub fn new(fs: Arc<F>, runtime: Handle) -> Self {
        Self { fs, runtime, tasks: TaskTracker::new() }
    }

    /// The requests under way. It is closed when the kernel has sent its last request; whoever waits
    /// for it knows then that all are answered, also the releases that nobody waited for.
    pub fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    /// Works on a request in the runtime.
    fn spawn<W>(&self, operation: &'static str, ino: INodeNo, work: W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let span = tracing::debug_span!("fuse", operation, ino = ino.0);
        self.tasks.spawn_on(timed(operation, work).instrument(span), &self.runtime);
    }

    /// Works on a request here as long as it does not have to wait, then in the runtime.
    fn begin<W>(&self, operation: &'static str, ino: INodeNo, work: W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let span = tracing::debug_span!("fuse", operation, ino = ino.0);
        let mut work = Box::pin(self.tasks.track_future(timed(operation, work).instrument(span)));
        let _runtime = self.runtime.enter();
        // A panic would end this thread and with it the mount; dropping the reply answers EIO, as it
        // does when a task of the runtime panics. The spawned future is polled again at once, so the
        // wake-up that the no-op waker swallows is not missed.
        let first = catch_unwind(AssertUnwindSafe(|| {
            work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        if matches!(first, Ok(poll) if poll.is_pending()) {
            self.runtime.spawn(work);
        }
    }
}

impl<F: Front> FuseAdapter<F> {
    /// Begins a request that must not happen twice when the kernel sends it to the next process again.
    fn once<W>(&self, request: &Request, operation: &'static str, ino: INodeNo, work: W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let (fs, id) = (self.fs.clone(), RequestId::from_unique(request.unique().0));
        self.begin(operation, ino, async move { fs.as_request(id, work).await });
    }
}

/// The same work, whose time is counted.
async fn timed(operation: &'static str, work: impl Future<Output = ()>) {
    let start = Instant::now();
    work.await;
    operations::answered(operation, start.elapsed());
}

/// Finishes a request: the `Ok` value goes to `$done`, an error to the reply.
macro_rules! answer {
    ($reply:ident, $operation:literal, $result:expr, $done:expr) => {
        match $result {
            Ok(value) => $done($reply, value),
            Err(error) => $reply.error(failed($operation, &error)),
        }
    };
}

impl<F: Front> Filesystem for FuseAdapter<F> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED.iter() {
            // Older kernels lack some; none of them is needed to be correct.
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "kernel lacks a capability");
            }
        }
        // Each setter answers an excessive value with the nearest that is allowed.
        if let Err(nearest) = config.set_max_write(MAX_WRITE) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(16 << 20) {
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn destroy(&mut self) {
        self.tasks.close();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), bytes(name));
        self.begin("lookup", parent, async move {
            answer!(reply, "lookup", fs.lookup(&caller, Ino(parent.0), &name).await, give_entry)
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.fs.forget(Ino(ino.0), lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs.clone();
        let handle = handle.map(|handle| HandleId(handle.0));
        self.begin("getattr", ino, async move {
            answer!(reply, "getattr", fs.getattr(Ino(ino.0), handle).await, give_attr)
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (fs, caller) = (self.fs.clone(), caller(request));
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(time_set),
            mtime: mtime.map(time_set),
            ctime: ctime.map(from_kernel),
            handle: handle.map(|handle| HandleId(handle.0)),
        };
        self.begin("setattr", ino, async move {
            answer!(reply, "setattr", fs.setattr(&caller, Ino(ino.0), set).await, give_attr)
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        self.begin("readlink", ino, async move {
            let result = fs.readlink(Ino(ino.0)).await;
            answer!(reply, "readlink", result, |reply: ReplyData, target: Vec<u8>| {
                reply.data(&target)
            })
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), bytes(name));
        self.once(request, "mknod", parent, async move {
            let parent = Ino(parent.0);
            let result = fs.mknod(&caller, parent, &name, (mode, umask), rdev).await;
            answer!(reply, "mknod", result, give_entry)
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), bytes(name));
        self.once(request, "mkdir", parent, async move {
            let result = fs.mkdir(&caller, Ino(parent.0), &name, (mode, umask)).await;
            answer!(reply, "mkdir", result, give_entry)
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), bytes(name));
        self.once(request, "unlink", parent, async move {
            answer!(reply, "unlink", fs.unlink(Ino(parent.0), &name).await, done)
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), bytes(name));
        self.once(request, "rmdir", parent, async move {
            answer!(reply, "rmdir", fs.rmdir(Ino(parent.0), &name).await, done)
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), bytes(name));
        let target = bytes(target.as_os_str());
        self.once(request, "symlink", parent, async move {
            let result = fs.symlink(&caller, Ino(parent.0), &name, &target).await;
            answer!(reply, "symlink", result, give_entry)
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = rename_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (fs, name, new_name) = (self.fs.clone(), bytes(name), bytes(new_name));
        self.once(request, "rename", parent, async move {
            let (from, to) = ((Ino(parent.0), &name[..]), (Ino(new_parent.0), &new_name[..]));
            answer!(reply, "rename", fs.rename(from, to, mode).await, done)
        });
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (fs, name) = (self.fs.clone(), bytes(name));
        self.once(request, "link", ino, async move {
            let result = fs.link(Ino(ino.0), Ino(parent.0), &name).await;
            answer!(reply, "link", result, give_entry)
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, caller) = (self.fs.clone(), caller(request));
        let mode = OpenMode::from_flags(flags.0);
        self.once(request, "open", ino, async move {
            let result = fs.open(&caller, Ino(ino.0), mode).await;
            answer!(reply, "open", result, |reply: ReplyOpen, opened: Opened| {
                reply.opened(FileHandle(opened.handle.0), open_flags(&opened))
            })
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), bytes(name));
        let open = OpenMode::from_flags(flags);
        self.once(request, "create", parent, async move {
            let modes = (mode, umask);
            let result = fs.create(&caller, Ino(parent.0), &name, modes, open).await;
            answer!(
                reply,
                "create",
                result,
                |reply: ReplyCreate, (entry, opened): (EntryReply, Opened)| {
                    reply.created(
                        &entry.ttl,
                        &attributes(&entry.attr),
                        Generation(entry.generation),
                        FileHandle(opened.handle.0),
                        open_flags(&opened),
                    )
                }
            )
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs.clone();
        self.spawn("read", ino, async move {
            let result = fs.read(Ino(ino.0), HandleId(handle.0), offset, size).await;
            answer!(reply, "read", result, |reply: ReplyData, data: bytes::Bytes| {
                reply.data(&data)
            })
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (node, handle) = (Ino(ino.0), HandleId(handle.0));
        let start = Instant::now();
        // As in `begin`, a panic must not take the thread along.
        let tried =
            catch_unwind(AssertUnwindSafe(|| self.fs.try_write(node, handle, offset, data)));
        let Ok(tried) = tried else { return reply.error(Errno::EIO) };
        if let Some(result) = tried {
            answer!(reply, "write", result, ReplyWrite::written);
            return operations::answered("write", start.elapsed());
        }
        let (fs, caller, data) = (self.fs.clone(), caller(request), data.to_vec());
        self.spawn("write", ino, async move {
            let result = fs.write(&caller, handle, offset, data).await;
            answer!(reply, "write", result, ReplyWrite::written)
        });
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (fs, caller) = (self.fs.clone(), caller(request));
        self.begin("flush", ino, async move {
            answer!(reply, "flush", fs.flush(&caller, Ino(ino.0), HandleId(handle.0)).await, done)
        });
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.begin("release", ino, async move {
            answer!(reply, "release", fs.release(Ino(ino.0), HandleId(handle.0)).await, done)
        });
    }

    fn fsync(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.spawn("fsync", ino, async move {
            let result = fs.fsync(Ino(ino.0), HandleId(handle.0), datasync).await;
            answer!(reply, "fsync", result, done)
        });
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs.clone();
        self.begin("opendir", ino, async move {
            let result = fs.opendir(Ino(ino.0)).await;
            answer!(reply, "opendir", result, |reply: ReplyOpen, handle: HandleId| {
                reply.opened(FileHandle(handle.0), FopenFlags::empty())
            })
        });
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        self.begin("readdir", ino, async move {
            let result = fs.readdir(Ino(ino.0), HandleId(handle.0), offset, false).await;
            answer!(reply, "readdir", result, give_rows)
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let (fs, caller) = (self.fs.clone(), caller(request));
        self.begin("readdirplus", ino, async move {
            match fs.readdir(Ino(ino.0), HandleId(handle.0), offset, true).await {
                Ok(rows) => give_rows_plus(&fs, &caller, Ino(ino.0), reply, rows).await,
                Err(error) => reply.error(failed("readdirplus", &error)),
            }
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.begin("releasedir", ino, async move {
            answer!(reply, "releasedir", fs.releasedir(HandleId(handle.0)).await, done)
        });
    }

    fn fsyncdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.begin("fsyncdir", ino, async move {
            answer!(reply, "fsyncdir", fs.fsyncdir(Ino(ino.0)).await, done)
        });
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let fs = self.fs.clone();
        self.begin("statfs", ino, async move {
            answer!(reply, "statfs", fs.statfs().await, give_statfs)
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = XattrMode::from_flags(flags) else { return reply.error(Errno::EINVAL) };
        let (fs, name, value) = (self.fs.clone(), bytes(name), value.to_vec());
        self.once(request, "setxattr", ino, async move {
            let result = fs.setxattr(Ino(ino.0), &name, &value, mode).await;
            answer!(reply, "setxattr", result, done)
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, name) = (self.fs.clone(), bytes(name));
        self.begin("getxattr", ino, async move {
            let result = fs.getxattr(Ino(ino.0), &name).await;
            answer!(reply, "getxattr", result, |reply, value| give_xattr(reply, size, value))
        });
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = self.fs.clone();
        self.begin("listxattr", ino, async move {
            let result = fs.listxattr(Ino(ino.0)).await;
            answer!(reply, "listxattr", result, |reply, names| give_xattr(reply, size, names))
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), bytes(name));
        self.once(request, "removexattr", ino, async move {
            let result = fs.removexattr(Ino(ino.0), &name).await;
            answer!(reply, "removexattr", result, done)
        });
    }

    fn ioctl(
        &self,
        _: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // FICLONE and its kin are answered by the kernel itself; what arrives here (chattr's flags,
        // terminals' questions) has no meaning for these files.
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = FallocateMode::from_raw(mode) else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        let fs = self.fs.clone();
        self.begin("fallocate", ino, async move {
            let handle = HandleId(handle.0);
            let result = fs.fallocate(Ino(ino.0), handle, offset, length, mode).await;
            answer!(reply, "fallocate", result, done)
        });
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some(whence) = SeekWhence::from_raw(whence) else { return reply.error(Errno::EINVAL) };
        // POSIX: an offset before the start is as wrong as one beyond the end.
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let fs = self.fs.clone();
        self.begin("lseek", ino, async move {
            let result = fs.lseek(Ino(ino.0), HandleId(handle.0), offset, whence).await;
            answer!(reply, "lseek", result, |reply: ReplyLseek, at| match i64::try_from(at) {
                Ok(at) => reply.offset(at),
                Err(_) => reply.error(Errno::EOVERFLOW),
            })
        });
    }

    fn copy_file_range(
        &self,
        _: &Request,
        ino_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let fs = self.fs.clone();
        self.spawn("copy_file_range", ino_in, async move {
            let (from, source) = (Ino(ino_in.0), HandleId(handle_in.0));
            let (to, target) = (Ino(ino_out.0), HandleId(handle_out.0));
            let length = length.min(MAX_COPY);
            let result = fs
                .copy_file_range((from, source, offset_in), (to, target, offset_out), length)
                .await;
            answer!(reply, "copy_file_range", result, |reply: ReplyWrite, copied: u64| {
                // At most MAX_COPY was asked for.
                reply.written(copied.min(MAX_COPY) as u32)
            })
        });
    }
}

/// What is asked of the kernel. Not asked for: the writeback cache (with it the kernel ignores the
/// server's size and mtime, which other nodes change), locks (they stay in the kernel, one node's),
/// POSIX ACLs, and HANDLE_KILLPRIV (the kernel then clears set-id bits by setattr before a write).
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_AUTO_INVAL_DATA)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

fn time_set(time: TimeOrNow) -> TimeSet {
    match time {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(time) => TimeSet::At(from_kernel(time)),
    }
}

/// A time that the kernel sent. Before 1970 fuser 0.18 subtracts the nanoseconds from the epoch that the
/// kernel, as timespec has it, adds to the (negative) seconds; what it sends back is right.
fn from_kernel(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(_) => Timestamp::from_system_time(time),
        Err(before) => {
            let seconds = Duration::from_secs(before.duration().as_secs());
            let nanos = Duration::from_nanos(before.duration().subsec_nanos().into());
            Timestamp::from_system_time(UNIX_EPOCH - seconds + nanos)
        }
    }
}

fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None
    }
}

/// The error as the kernel takes it, after logging it: here is where errors of requests are handled.
fn failed(operation: &'static str, error: &FsError) -> Errno {
    if error.is_fault() {
        tracing::error!(operation, %error, "request failed");
    } else {
        tracing::debug!(operation, %error, "request refused");
    }
    operations::refused(error.errno());
    Errno::from_i32(error.errno())
}

fn done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

fn give_entry(reply: ReplyEntry, entry: EntryReply) {
    reply.entry(&entry.ttl, &attributes(&entry.attr), Generation(entry.generation));
}

fn give_attr(reply: ReplyAttr, (attr, ttl): (Attr, Duration)) {
    reply.attr(&ttl, &attributes(&attr));
}

fn give_statfs(reply: ReplyStatfs, statfs: StatFs) {
    let StatFs { block_size, blocks, free, available, files, files_free, name_length } = statfs;
    reply.statfs(blocks, free, available, files, files_free, block_size, name_length, block_size);
}

/// The protocol of getxattr(2) and listxattr(2): size 0 asks for the size only.
fn give_xattr(reply: ReplyXattr, size: u32, value: Vec<u8>) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(&value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn give_rows(mut reply: ReplyDirectory, rows: Vec<DirEntry>) {
    for row in rows {
        let name = OsStr::from_bytes(&row.name);
        if reply.add(INodeNo(row.ino.0), row.next_offset, file_type(row.kind), name) {
            break;
        }
    }
    reply.ok();
}

/// Rows with attributes. Each row that is really sent is one more lookup for the kernel to forget,
/// counted before the reply leaves, because the kernel may forget it at once. `.` and `..` are not.
async fn give_rows_plus<F: Front>(
    fs: &Arc<F>,
    caller: &Caller,
    parent: Ino,
    mut reply: ReplyDirectoryPlus,
    rows: Vec<DirEntry>,
) {
    for row in rows {
        let dots = row.name == b"." || row.name == b"..";
        let (entry, looked_up) = match row.entry {
            Some(entry) => (entry, false),
            None if dots => (bare_entry(&row), false),
            // The library cannot send a row without a node, so it is looked up, which counts. A row
            // that cannot be is left out: it is gone, or the caller's own lookup says why.
            None => match fs.lookup(caller, parent, &row.name).await {
                Ok(entry) => (entry, true),
                Err(error) => {
                    failed("readdirplus", &error);
                    continue;
                }
            },
        };
        let full = reply.add(
            INodeNo(entry.attr.ino.0),
            row.next_offset,
            OsStr::from_bytes(&row.name),
            &entry.ttl,
            &attributes(&entry.attr),
            Generation(entry.generation),
        );
        match (full, looked_up) {
            (true, true) => fs.forget(entry.attr.ino, 1),
            (false, false) if !dots => fs.remember(entry.attr.ino),
            _ => {}
        }
        if full {
            break;
        }
    }
    reply.ok();
}

/// `.` or `..` as a row with attributes: the kernel takes only number and kind from it.
fn bare_entry(row: &DirEntry) -> EntryReply {
    let time = Timestamp::default();
    EntryReply {
        attr: Attr {
            ino: row.ino,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            kind: row.kind,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
        },
        generation: 0,
        ttl: Duration::ZERO,
    }
}

fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags
}

fn attributes(attr: &Attr) -> FileAttr {
    let Attr {
        ino,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        btime,
        kind,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        blksize,
    } = *attr;
    FileAttr {
        ino: INodeNo(ino.0),
        size,
        blocks,
        atime: atime.to_system_time(),
        mtime: mtime.to_system_time(),
        ctime: ctime.to_system_time(),
        crtime: btime.to_system_time(),
        kind: file_type(kind),
        perm: (mode & 0o7777) as u16,
        nlink,
        uid,
        gid,
        rdev,
        blksize,
        flags: 0,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_reach_the_kernel_unchanged() {
        let row = DirEntry {
            ino: Ino(7),
            kind: Kind::Fifo,
            name: b"p".to_vec(),
            next_offset: 1,
            entry: None,
        };
        let attr = Attr { mode: 0o4755, mtime: Timestamp(-1), rdev: 9, ..bare_entry(&row).attr };
        let sent = attributes(&attr);
        assert_eq!((sent.ino, sent.kind, sent.perm), (INodeNo(7), FileType::NamedPipe, 0o4755));
        assert_eq!(Timestamp::from_system_time(sent.mtime), Timestamp(-1));
        assert_eq!(sent.rdev, 9);
    }

    #[test]
    fn a_time_before_1970_counts_its_nanoseconds_forward() {
        // What fuser makes of the timespec { -5, 999_999_999 }.
        let sent = UNIX_EPOCH - Duration::new(5, 999_999_999);
        assert_eq!(from_kernel(sent), Timestamp(-4_000_000_001));
        let later = UNIX_EPOCH + Duration::new(5, 1);
        assert_eq!(from_kernel(later), Timestamp(5_000_000_001));
    }

    #[test]
    fn contradictory_rename_flags_are_refused() {
        assert_eq!(rename_mode(RenameFlags::empty()), Some(RenameMode::Replace));
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE), Some(RenameMode::Exchange));
        assert_eq!(rename_mode(RenameFlags::all()), None);
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), None);
    }
}
