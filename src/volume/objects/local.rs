//! Writes a local file that replaces another one whole, or not at all.

use super::ObjectsError;
use super::parts::Piece;
use crate::world::{Entropy, Timestamp};
use data_encoding::HEXLOWER;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::Receiver;

/// Ends the name of a file that is being written.
const UNFINISHED: &str = ".strongroom-part";
/// The longest name that local file systems take, in bytes.
const NAME_LIMIT: usize = 255;

/// Whether a name is that of a file being written (or left by a process that was killed at it).
pub(super) fn is_unfinished(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".") && name.ends_with(UNFINISHED.as_bytes())
}

/// A file beside its place, renamed to it at the end. Dropped before that, it is removed.
pub struct Replacement {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Replacement {
    /// Begins a file that will be at `target`, or where that leads if it is a symbolic link. It gets the
    /// permissions of the file that is there, else `mode` less the process's mask.
    pub fn begin(target: &Path, mode: u32, entropy: &dyn Entropy) -> io::Result<Self> {
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        let temporary = beside(&target, entropy);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        let replacement = Self { file, temporary, target, done: false };
        if let Ok(former) = fs::metadata(&replacement.target) {
            let mode = former.permissions().mode() & 0o7777;
            // Best effort: not every file system has modes.
            let _ = replacement.file.set_permissions(Permissions::from_mode(mode));
        }
        Ok(replacement)
    }

    /// Removes what is unfinished when it is dropped, also where a thread that is stuck holds the file.
    pub fn guard(&self) -> Unfinished {
        Unfinished(self.temporary.clone())
    }

    /// Puts it into its place, on disk before it has its name. With a time, that is its time.
    pub fn finish(mut self, modified: Option<Timestamp>) -> io::Result<()> {
        if let Some(time) = modified {
            // Best effort, as above.
            let _ = self.file.set_modified(time.to_system_time());
        }
        self.file.sync_data()?;
        fs::rename(&self.temporary, &self.target)?;
        self.done = true;
        Ok(())
    }
}

/// A file that is being written. Once it is in its place there is nothing of this name.
pub struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Write for Replacement {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn beside(target: &Path, entropy: &dyn Entropy) -> PathBuf {
    let name = unfinished_name(target.file_name().unwrap_or_default().as_bytes(), entropy);
    target.with_file_name(OsString::from_vec(name))
}

/// The name of a file that is being written and will have this one.
pub(super) fn unfinished_name(finished: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
    let mut name = b".".to_vec();
    name.extend_from_slice(finished);
    let ending = format!(".{}{UNFINISHED}", HEXLOWER.encode(&entropy.bytes::<4>()));
    name.truncate(NAME_LIMIT - ending.len());
    // What was text stays text.
    while std::str::from_utf8(finished).is_ok() && std::str::from_utf8(&name).is_err() {
        name.pop();
    }
    name.extend_from_slice(ending.as_bytes());
    name
}

/// Where what comes is written.
pub(super) enum Target {
    /// A pipe or a device is written into: replacing it would take it away from everybody.
    Device(File),
    /// A file, which appears at the end.
    File(Replacement),
}

impl Target {
    /// Begins to write.
    pub(super) fn open(target: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        if fs::metadata(target).is_ok_and(|found| !found.is_file()) {
            return OpenOptions::new().write(true).open(target).map(Self::Device);
        }
        Replacement::begin(target, 0o666, entropy).map(Self::File)
    }

    /// To be held by whoever may be broken off.
    pub(super) fn guard(&self) -> Option<Unfinished> {
        match self {
            Self::Device(_) => None,
            Self::File(file) => Some(file.guard()),
        }
    }

    /// Writes everything that comes. For a thread that may wait. `failed` names the file.
    pub(super) fn store(
        self,
        modified: Timestamp,
        mut pieces: Receiver<Piece>,
        failed: impl Fn(io::Error) -> ObjectsError,
    ) -> Result<(), ObjectsError> {
        match self {
            Self::Device(mut device) => copy(&mut device, &mut pieces, failed),
            Self::File(mut file) => {
                copy(&mut file, &mut pieces, &failed)?;
                file.finish(Some(modified)).map_err(failed)
            }
        }
    }
}

fn copy(
    out: &mut dyn Write,
    pieces: &mut Receiver<Piece>,
    failed: impl Fn(io::Error) -> ObjectsError,
) -> Result<(), ObjectsError> {
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Part(body, _)) => {
                let bytes = body.bytes().map_err(ObjectsError::Source)?;
                out.write_all(&bytes).map_err(&failed)?;
            }
            Some(Piece::End) => return Ok(()),
            Some(Piece::Failed(error)) => return Err(ObjectsError::Source(error)),
            None => return Err(ObjectsError::Ended),
        }
    }
}
