//! Owner, mode, times and kind of a file in an object's headers, as s3fs and geesefs write them.
//!
//! | name | value | written by |
//! |---|---|---|
//! | `mode` | kind and permissions as st_mode, decimal (rclone: octal) | s3fs, geesefs, rclone |
//! | `uid`, `gid` | decimal | s3fs, geesefs, rclone |
//! | `mtime` | seconds, with a fraction | s3fs, rclone, datasafed; geesefs without, and reads no other |
//! | `rdev` | decimal | geesefs |
//! | `--symlink-target` | the target, percent-encoded; the object is empty | geesefs |
//!
//! s3fs has a symbolic link's target as the object's content. What else is there stays as it is.

use super::bucket::{MTIME, spelled, told_time};
use crate::store::Headers;
use crate::world::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const MODE: &str = "mode";
const UID: &str = "uid";
const GID: &str = "gid";
const RDEV: &str = "rdev";
const LINK: &str = "--symlink-target";
/// A target is shorter (PATH_MAX).
const TARGET_LIMIT: usize = 4096;
/// The kinds of st_mode.
const FORMAT: u32 = 0o170_000;
/// A symbolic link.
pub const SYMLINK: u32 = 0o120_000;

/// What headers tell of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Kind (0 if it is not told) and permissions, as st_mode has them.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last change of the content.
    pub modified: Option<Timestamp>,
    /// Device number of a device.
    pub rdev: Option<u32>,
    /// Where a symbolic link leads, if that is not the object's content.
    pub link: Option<Vec<u8>>,
}

impl Told {
    /// What headers tell; what makes no sense is not told.
    pub fn by(headers: &Headers) -> Self {
        let number = |name: &str| headers.metadata.get(name)?.parse().ok();
        let mode = headers.metadata.get(MODE).and_then(|text| mode(text));
        let link = headers.metadata.get(LINK).filter(|target| !target.is_empty());
        let link = link.map(|target| percent_decode_str(target).collect::<Vec<u8>>());
        // Longer than any path, or not a path at all.
        let link = link.filter(|link| link.len() < TARGET_LIMIT && !link.contains(&0));
        let mode = match (&link, mode) {
            (Some(_), mode) => Some(SYMLINK | mode.map_or(0o777, |mode| mode & 0o7777)),
            (None, mode) => mode,
        };
        Self {
            mode,
            uid: number(UID),
            gid: number(GID),
            modified: told_time(headers),
            rdev: number(RDEV),
            link,
        }
    }

    /// Puts what is told into headers; what is not stays as it was there.
    pub fn put_into(&self, headers: &mut Headers) {
        let mut set = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                headers.metadata.insert(name.to_owned(), value);
            }
        };
        set(MODE, self.mode.map(|mode| mode.to_string()));
        set(UID, self.uid.map(|uid| uid.to_string()));
        set(GID, self.gid.map(|gid| gid.to_string()));
        set(MTIME, self.modified.map(spelled));
        set(RDEV, self.rdev.filter(|rdev| *rdev != 0).map(|rdev| rdev.to_string()));
        // geesefs takes only text; s3fs reads the content.
        let link = self.link.as_deref().and_then(|link| std::str::from_utf8(link).ok());
        set(LINK, link.map(|link| utf8_percent_encode(link, NON_ALPHANUMERIC).to_string()));
    }
}

/// A mode in decimal or, as rclone writes it, in octal: which of the two, its kind tells.
fn mode(text: &str) -> Option<u32> {
    let is_mode = |mode: &u32| *mode <= 0o177_777 && is_kind(*mode & FORMAT);
    let decimal = || text.parse().ok().filter(is_mode);
    let octal = || u32::from_str_radix(text, 8).ok().filter(is_mode);
    if text.starts_with('0') { octal() } else { decimal().or_else(octal) }
}

fn is_kind(format: u32) -> bool {
    matches!(
        format,
        0 | 0o010_000 | 0o020_000 | 0o040_000 | 0o060_000 | 0o100_000 | SYMLINK | 0o140_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(metadata: &[(&str, &str)]) -> Headers {
        let metadata =
            metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Headers { content_type: None, metadata: metadata.collect() }
    }

    #[test]
    fn modes_are_read_as_each_program_writes_them() {
        for (text, expected) in [
            ("33188", Some(0o100_644)),
            ("16877", Some(0o040_755)),
            ("41471", Some(0o120_777)),
            ("100664", Some(0o100_664)),
            ("0100664", Some(0o100_664)),
            ("40755", Some(0o040_755)),
            ("120777", Some(0o120_777)),
            ("420", Some(0o644)),
            ("", None),
            ("rw-r--r--", None),
            ("-1", None),
            ("99999999999", None),
            ("0177777", None),
        ] {
            assert_eq!(Told::by(&headers(&[("mode", text)])).mode, expected, "{text}");
        }
    }

    #[test]
    fn what_is_put_into_headers_is_told_by_them_and_the_rest_stays() {
        let mut given = headers(&[("kept", "as it is"), ("mode", "1")]);
        let told = Told {
            mode: Some(0o120_777),
            uid: Some(1000),
            gid: Some(0),
            modified: Some(Timestamp(1_700_000_000_123_456_789)),
            rdev: None,
            link: Some("../a b/%é".as_bytes().to_vec()),
        };
        told.put_into(&mut given);
        assert_eq!(Told::by(&given), told);
        assert_eq!(given.metadata["kept"], "as it is");
        assert!(given.metadata.values().all(|value| value.is_ascii()));
    }

    #[test]
    fn a_link_of_geesefs_needs_no_mode() {
        let told = Told::by(&headers(&[("--symlink-target", "a%2Fb")]));
        assert_eq!((told.mode, told.link.as_deref()), (Some(0o120_777), Some(&b"a/b"[..])));
    }
}
