//! What a mount's settings make of owners and modes. A volume keeps what programs set; these change
//! what is shown of owners, and what new things begin with.

use super::types::Attr;

/// As the options of other FUSE file systems have it: `--uid`, `--gid`, `--dir-mode`, `--file-mode`,
/// `--umask`. Nothing set: as on a local disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ownership {
    /// Shown as owner of everything. What chown sets is kept in the volume and not shown.
    pub uid: Option<u32>,
    /// Shown as group of everything.
    pub gid: Option<u32>,
    /// What a new directory's mode is, whatever its maker asked for; chmod changes it as ever. The root,
    /// which `init` made, is shown with at least these bits.
    pub dir_mode: Option<u32>,
    /// What a new file's mode is, whatever its maker asked for.
    pub file_mode: Option<u32>,
    /// Bits that new things do not get, beside those that their maker's own umask takes.
    pub umask: u32,
}

impl Ownership {
    /// The mode of something new. `asked` is what its maker asked for, less its umask.
    pub fn new_mode(&self, asked: u32, is_directory: bool) -> u32 {
        let fixed = if is_directory { self.dir_mode } else { self.file_mode };
        fixed.unwrap_or(asked) & 0o7777 & !self.umask
    }

    /// What is shown of a thing.
    pub fn shown(&self, mut attr: Attr, is_root: bool) -> Attr {
        attr.uid = self.uid.unwrap_or(attr.uid);
        attr.gid = self.gid.unwrap_or(attr.gid);
        if is_root && let Some(mode) = self.dir_mode {
            attr.mode |= mode & 0o7777 & !self.umask;
        }
        attr
    }
}
