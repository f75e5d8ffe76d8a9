//! The vocabulary of the file system's operations, free of any kernel interface: what a caller asks
//! for, already parsed, and what is answered. Nothing here does I/O.

use std::time::Duration;

use crate::world::Timestamp;

/// A node of the mounted tree. The kernel's node id and `st_ino` are the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of the mount.
    pub const ROOT: Self = Self(1);
}

impl std::fmt::Display for Ino {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// Who asks: the credentials that a new node is created with. Permissions are the kernel's to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Thread id, 0 if the kernel acts by itself.
    pub pid: u32,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix domain socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl Kind {
    /// The kind in the `S_IFMT` bits of a mode; no such bits mean a regular file, as for mknod(2).
    pub fn from_mode(mode: u32) -> Option<Self> {
        match mode & libc::S_IFMT {
            0 | libc::S_IFREG => Some(Self::File),
            libc::S_IFDIR => Some(Self::Directory),
            libc::S_IFLNK => Some(Self::Symlink),
            libc::S_IFIFO => Some(Self::Fifo),
            libc::S_IFSOCK => Some(Self::Socket),
            libc::S_IFCHR => Some(Self::CharDevice),
            libc::S_IFBLK => Some(Self::BlockDevice),
            _ => None,
        }
    }
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Node.
    pub ino: Ino,
    /// Size in bytes.
    pub size: u64,
    /// Units of 512 bytes that are allocated.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the node.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Kind.
    pub kind: Kind,
    /// Permission bits, set-user-id, set-group-id and sticky: `07777` at most.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// Preferred size of one read or write.
    pub blksize: u32,
}

/// The answer to whatever finds or makes a name. The kernel then holds one more lookup of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryReply {
    /// The node.
    pub attr: Attr,
    /// Tells two nodes apart that had the same number one after the other.
    pub generation: u64,
    /// How long the kernel may believe name and attributes without asking.
    pub ttl: Duration,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// The time of the operation.
    Now,
    /// This one.
    At(Timestamp),
}

/// Attributes to change; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (`07777` at most).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeSet>,
    /// Last change of the content.
    pub mtime: Option<TimeSet>,
    /// Last change of the node, only when the kernel keeps the times itself.
    pub ctime: Option<Timestamp>,
    /// The open file through which the change is made (ftruncate, futimens).
    pub handle: Option<HandleId>,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// Every write goes to the end (`O_APPEND`).
    pub append: bool,
    /// The content is dropped first (`O_TRUNC`).
    pub truncate: bool,
    /// Every write is durable before it returns (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
    /// The page cache is not wanted (`O_DIRECT`).
    pub direct: bool,
    /// The name must not exist (`O_EXCL`; with create only).
    pub excl: bool,
}

impl OpenMode {
    /// From the flags of open(2).
    pub const fn from_flags(flags: i32) -> Self {
        let access = flags & libc::O_ACCMODE;
        Self {
            read: access != libc::O_WRONLY,
            write: access != libc::O_RDONLY,
            append: flags & libc::O_APPEND != 0,
            truncate: flags & libc::O_TRUNC != 0,
            // O_SYNC holds the bit of O_DSYNC on Linux, and the record is published for both.
            sync: flags & libc::O_DSYNC != 0,
            direct: flags & libc::O_DIRECT != 0,
            excl: flags & libc::O_EXCL != 0,
        }
    }
}

/// An opened file and what the kernel's page cache may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub handle: HandleId,
    /// Reads and writes pass the page cache by.
    pub direct_io: bool,
    /// Pages cached from an earlier open are still true.
    pub keep_cache: bool,
}

/// What rename does about an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// It is an error (`RENAME_NOREPLACE`).
    NoReplace,
    /// Both change places (`RENAME_EXCHANGE`).
    Exchange,
}

/// One row of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Node.
    pub ino: Ino,
    /// Kind.
    pub kind: Kind,
    /// Name, any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Where the row after this one is found; stable while the directory is open.
    pub next_offset: u64,
    /// Attributes, when they were asked for. Carries no lookup of its own.
    pub entry: Option<EntryReply>,
}

/// What statfs(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Size of a block in bytes; the counts of blocks are in this unit.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Blocks that users other than root may take.
    pub available: u64,
    /// All nodes.
    pub files: u64,
    /// Free nodes.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_length: u32,
}

impl StatFs {
    /// Room that a file system pretends to have: object stores have no limit of their own.
    pub const BOUNDLESS: Self = {
        const BLOCK: u64 = 4096;
        let blocks = (1_u64 << 50) / BLOCK;
        Self {
            blocks,
            free: blocks,
            available: blocks,
            files: 1 << 32,
            files_free: (1 << 32) - 1,
            block_size: BLOCK as u32,
            name_length: 255,
        }
    };
}

/// What setxattr does about an attribute's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Makes or replaces it.
    Set,
    /// Fails if it is there.
    Create,
    /// Fails if it is not there.
    Replace,
}

impl XattrMode {
    /// From the flags of setxattr(2); `None` if they contradict themselves or are unknown.
    pub const fn from_flags(flags: i32) -> Option<Self> {
        match flags {
            0 => Some(Self::Set),
            libc::XATTR_CREATE => Some(Self::Create),
            libc::XATTR_REPLACE => Some(Self::Replace),
            _ => None,
        }
    }
}

/// What lseek looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekWhence {
    /// The next byte that is stored.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

impl SeekWhence {
    /// From the `whence` of lseek(2); the others are the kernel's to answer.
    pub const fn from_raw(whence: i32) -> Option<Self> {
        match whence {
            libc::SEEK_DATA => Some(Self::Data),
            libc::SEEK_HOLE => Some(Self::Hole),
            _ => None,
        }
    }
}

/// What fallocate does with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallocateMode {
    /// Reserves it and grows the file over it.
    Allocate,
    /// Reserves it; the size stays.
    KeepSize,
    /// Makes it a hole; the size stays.
    PunchHole,
    /// Makes it read as zeros and grows the file over it.
    ZeroRange,
    /// Makes it read as zeros; the size stays.
    ZeroRangeKeepSize,
}

impl FallocateMode {
    /// From the mode of fallocate(2); `None` for those that are not offered.
    pub const fn from_raw(mode: i32) -> Option<Self> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        match mode {
            0 => Some(Self::Allocate),
            KEEP => Some(Self::KeepSize),
            PUNCH => Some(Self::PunchHole),
            ZERO => Some(Self::ZeroRange),
            ZERO_KEEP => Some(Self::ZeroRangeKeepSize),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_flags_become_what_they_ask_for() {
        let mode = OpenMode::from_flags(libc::O_WRONLY | libc::O_APPEND | libc::O_SYNC);
        assert_eq!(mode, OpenMode { write: true, append: true, sync: true, ..OpenMode::default() });
        let mode = OpenMode::from_flags(libc::O_RDWR | libc::O_TRUNC | libc::O_EXCL);
        assert!(mode.read && mode.write && mode.truncate && mode.excl && !mode.sync);
        assert_eq!(OpenMode::from_flags(0), OpenMode { read: true, ..OpenMode::default() });
    }

    #[test]
    fn unknown_modes_are_refused() {
        assert_eq!(FallocateMode::from_raw(libc::FALLOC_FL_PUNCH_HOLE), None);
        assert_eq!(FallocateMode::from_raw(libc::FALLOC_FL_COLLAPSE_RANGE), None);
        assert_eq!(XattrMode::from_flags(3), None);
        assert_eq!(SeekWhence::from_raw(libc::SEEK_END), None);
        assert_eq!(Kind::from_mode(0o170000), None);
        assert_eq!(Kind::from_mode(0o644), Some(Kind::File));
    }
}
