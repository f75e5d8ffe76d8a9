//! What the keeper is asked and what it answers: JSON messages in the frames of
//! `strongroom::tool::attach::socket`, one request and one answer for each connection. Both sides refuse a
//! [`VERSION`] that is not theirs.

use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// Of the messages.
pub const VERSION: u32 = 1;
/// A volume's id is never longer (as CSI has it).
pub const LONGEST_ID: usize = 128;
/// What [`Request::Remember`] takes at most.
pub const LARGEST_BLOB: usize = 64 << 10;

/// One request with the version of who sends it.
#[derive(Serialize, Deserialize)]
pub struct Message {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    pub request: Request,
}

/// How a volume is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOptions {
    /// The kernel refuses every change.
    pub read_only: bool,
    /// SELinux context of everything in it (`context=`).
    pub selinux_context: Option<String>,
}

/// What the keeper is asked.
#[derive(Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Mount a volume; if that is its mount already, nothing happens. Answer: [`Answer::Device`].
    Stage {
        /// The volume.
        volume: String,
        /// The staging directory; it is made if it is missing.
        path: PathBuf,
        /// How.
        options: MountOptions,
    },
    /// The descriptors of a staged volume, for a worker. Answer: [`Answer::Device`].
    Device {
        /// The volume.
        volume: String,
    },
    /// Bind a staged volume to another directory, which is made if it is missing.
    Publish {
        /// The volume.
        volume: String,
        /// The directory.
        target: PathBuf,
        /// The binding refuses every change.
        read_only: bool,
    },
    /// Take a binding away, and its directory; what is not there is fine.
    Unpublish {
        /// The directory.
        target: PathBuf,
    },
    /// Unmount a volume and forget it; an unknown one is fine.
    Unstage {
        /// The volume.
        volume: String,
    },
    /// All volumes. Answer: [`Answer::Volumes`].
    List,
    /// Keep bytes for a staged volume, in memory only.
    Remember {
        /// The volume.
        volume: String,
        /// The bytes, opaque.
        blob: Vec<u8>,
    },
    /// Give them back. Answer: [`Answer::Blob`].
    Recall {
        /// The volume.
        volume: String,
    },
    /// Drop them.
    Forget {
        /// The volume.
        volume: String,
    },
}

/// What the keeper answers.
#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done,
    /// Done; three descriptors come along: fuse, arena, state.
    Device,
    /// All volumes, by id.
    Volumes {
        /// Each.
        volumes: Vec<Held>,
    },
    /// What was to be kept.
    Blob {
        /// The bytes, if there are any.
        blob: Option<Vec<u8>>,
    },
    /// Not done.
    Failed {
        /// What the caller can do about it.
        kind: FailureKind,
        /// For people: the volume, the path, why.
        message: String,
    },
}

/// A volume that the keeper holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its id.
    pub volume: String,
    /// Where it is staged.
    pub path: PathBuf,
    /// How it was mounted.
    pub options: MountOptions,
    /// Whether that mount is (still) in the tree.
    pub mounted: bool,
    /// Whether a worker serves it.
    pub served: bool,
    /// For how many seconds nobody has served it; 0 while somebody does.
    pub unserved_seconds: u64,
    /// Whether the keeper answers its requests with EIO because nobody serves it.
    pub answered_with_errors: bool,
    /// Where it is bound to, and whether read-only.
    pub targets: Vec<(PathBuf, bool)>,
    /// Whether something is remembered for it.
    pub remembered: bool,
}

/// What the caller can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request makes no sense.
    Invalid,
    /// No such volume here: stage it.
    NotFound,
    /// It is staged or bound otherwise (another path, other options).
    Conflict,
    /// Programs use it, or it is bound somewhere: later.
    Busy,
    /// The staging path does not hold this keeper's mount: stage it again.
    NotMounted,
    /// This caller, or this path, is not allowed.
    Denied,
    /// The system refused.
    System,
}

/// A volume's id that can be shown and be a mount's source.
pub fn check_volume(volume: &str) -> Result<(), String> {
    let usable = !volume.is_empty()
        && volume.len() <= LONGEST_ID
        && !volume.chars().any(|character| character.is_control() || character == ',');
    if usable {
        Ok(())
    } else {
        Err(format!(
            "volume id: must be 1 to {LONGEST_ID} bytes without control characters or commas"
        ))
    }
}

/// A path that names one place: absolute, not the root, without `.` and `..`.
pub fn check_path(path: &Path) -> Result<(), String> {
    let plain =
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    if path.is_absolute() && plain && path.parent().is_some() && !bytes.contains(&0) {
        Ok(())
    } else {
        Err(format!("{}: path must be absolute, without `.` and `..`", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_paths_that_could_mean_something_else_are_refused() {
        assert!(check_volume("bucket/prefix with blanks").is_ok());
        let long = "x".repeat(129);
        for bad in ["", "a\nb", "a,suid", long.as_str()] {
            assert!(check_volume(bad).is_err(), "{bad:?}");
        }
        assert!(check_path(Path::new("/var/lib/kubelet/x")).is_ok());
        for bad in ["", "/", "x", "/a/../b", "./a"] {
            assert!(check_path(Path::new(bad)).is_err(), "{bad:?}");
        }
    }
}
