//! Checks of what every call has: ids, paths, capabilities, sizes. The message names the field.

use crate::api::csi::volume_capability::AccessType;
use crate::api::csi::volume_capability::access_mode::Mode;
use crate::api::csi::{CapacityRange, VolumeCapability};
use crate::volume::ID_LIMIT;
use std::path::{Component, Path, PathBuf};
use tonic::Status;

/// A volume id is there and as short as it must be.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn volume_id(id: &str) -> Result<(), Status> {
    match id.len() {
        0 => Err(Status::invalid_argument("volume_id: is missing")),
        1..=ID_LIMIT => Ok(()),
        bytes => Err(Status::invalid_argument(format!(
            "volume_id: has {bytes} bytes, more than {ID_LIMIT}"
        ))),
    }
}

/// A path on this machine: absolute, of names alone.
///
/// # Errors
/// INVALID_ARGUMENT that names the field.
pub fn path(field: &str, text: &str) -> Result<PathBuf, Status> {
    if text.is_empty() {
        return Err(Status::invalid_argument(format!("{field}: is missing")));
    }
    let path = Path::new(text);
    let names = |part| matches!(part, Component::RootDir | Component::Normal(_));
    // `components` drops `.` and doubled slashes by itself.
    let usable = path.is_absolute()
        && path.components().all(names)
        && path.parent().is_some()
        && !text.contains('\0')
        && !text.split('/').any(|part| part == ".");
    match usable {
        true => Ok(path.components().collect()),
        false => Err(Status::invalid_argument(format!(
            "{field}: {text:?} is not an absolute path without `.` and `..`"
        ))),
    }
}

/// How a volume is to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// On how many nodes, by how many.
    pub mode: Mode,
    /// Mount flags.
    pub flags: Vec<String>,
}

impl Use {
    /// Whether one node alone uses the volume.
    pub fn is_single_node(&self) -> bool {
        matches!(
            self.mode,
            Mode::SingleNodeWriter
                | Mode::SingleNodeReaderOnly
                | Mode::SingleNodeSingleWriter
                | Mode::SingleNodeMultiWriter
        )
    }

    /// Whether nobody may write.
    pub fn is_read_only(&self) -> bool {
        matches!(self.mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly)
    }
}

/// A capability that can be had.
///
/// # Errors
/// INVALID_ARGUMENT that names what cannot.
pub fn capability(given: Option<&VolumeCapability>) -> Result<Use, Status> {
    let invalid = |why: &str| Status::invalid_argument(format!("volume_capability: {why}"));
    let given = given.ok_or_else(|| invalid("is missing"))?;
    let mount = match &given.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => {
            return Err(invalid("a volume is a file system, never a block device: ask for mount"));
        }
        None => return Err(invalid("access_type is missing")),
    };
    if !mount.volume_mount_group.is_empty() {
        return Err(invalid("volume_mount_group is not offered (VOLUME_MOUNT_GROUP)"));
    }
    let mode = given.access_mode.ok_or_else(|| invalid("access_mode is missing"))?.mode();
    if mode == Mode::Unknown {
        return Err(invalid("access_mode is unknown"));
    }
    Ok(Use { mode, flags: mount.mount_flags.clone() })
}

/// What a range of sizes asks for, in bytes: at least, and at most.
///
/// # Errors
/// INVALID_ARGUMENT or OUT_OF_RANGE.
pub fn capacity(range: Option<&CapacityRange>) -> Result<(i64, Option<i64>), Status> {
    let Some(CapacityRange { required_bytes, limit_bytes }) = range else { return Ok((0, None)) };
    let (required, limit) = (*required_bytes, *limit_bytes);
    if required < 0 || limit < 0 {
        return Err(Status::invalid_argument("capacity_range: a size is negative"));
    }
    if limit > 0 && required > limit {
        return Err(Status::out_of_range(format!(
            "capacity_range: {required} bytes are required and {limit} are the limit"
        )));
    }
    Ok((required, (limit > 0).then_some(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_lead_elsewhere_are_refused() {
        assert_eq!(path("p", "/a//b/").expect("fine"), PathBuf::from("/a/b"));
        for bad in ["", "a/b", "/", "/a/../b", "/a/./b", "/a\0b"] {
            let status = path("target_path", bad).expect_err(bad);
            assert!(status.message().contains("target_path"), "{status}");
        }
    }

    #[test]
    fn a_range_is_a_minimum_and_a_maximum() {
        let range = |required_bytes, limit_bytes| CapacityRange { required_bytes, limit_bytes };
        assert_eq!(capacity(None).expect("fine"), (0, None));
        assert_eq!(capacity(Some(&range(5, 0))).expect("fine"), (5, None));
        assert_eq!(capacity(Some(&range(0, 9))).expect("fine"), (0, Some(9)));
        assert!(capacity(Some(&range(9, 5))).is_err());
        assert!(capacity(Some(&range(-1, 5))).is_err());
    }
}
