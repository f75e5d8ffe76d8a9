//! Volume ids. An id says where the volume is, so that it can be deleted and mounted with nothing but its
//! secret: `bucket/path`, as csi-s3 writes it, then `//` and how the store is reached, if its StorageClass
//! says so rather than the secret: `bucket/path//e=https://minio:9000;r=eu;p=1`. A `//` can be in no path.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::fmt;
use strongroom::volume::native::keys::PREFIX_LIMIT;

/// The longest id that the standard allows, in bytes.
pub const ID_LIMIT: usize = 128;
/// Names up to this length become the last part of the path as they are.
const NAME_LIMIT: usize = 63;

/// How a store is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// URL of the endpoint, with its scheme.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Bucket in the path (true) or in the host name (false).
    pub path_style: Option<bool>,
}

impl Reach {
    /// What this one leaves open is taken from another one.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            endpoint: self.endpoint.clone().or_else(|| other.endpoint.clone()),
            region: self.region.clone().or_else(|| other.region.clone()),
            path_style: self.path_style.or(other.path_style),
        }
    }
}

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    bucket: String,
    /// Without slashes at its ends; empty: the whole bucket.
    path: String,
    reach: Reach,
}

impl Handle {
    /// The handle of a new volume: its name's place under the prefix.
    ///
    /// # Errors
    /// Which part is unusable, or that the id would be too long and what to shorten.
    pub fn of_new(bucket: &str, prefix: &str, name: &str, reach: Reach) -> Result<Self, String> {
        check_bucket(bucket)?;
        check_path(prefix)?;
        let mut parts = vec![plain(name), digest(name)].into_iter().flatten();
        let at = |part: String| {
            let path = if prefix.is_empty() { part } else { format!("{prefix}/{part}") };
            Self { bucket: bucket.to_owned(), path, reach: reach.clone() }
        };
        let fits = |handle: &Self| {
            handle.path.len() <= PREFIX_LIMIT && handle.to_string().len() <= ID_LIMIT
        };
        parts.by_ref().map(at).find(fits).ok_or_else(too_long)
    }

    /// The handle of a volume at a fixed place under the prefix.
    ///
    /// # Errors
    /// As [`Self::of_new`].
    pub fn at_place(bucket: &str, prefix: &str, place: &str, reach: Reach) -> Result<Self, String> {
        check_bucket(bucket)?;
        check_path(prefix)?;
        check_path(place)?;
        let path = if prefix.is_empty() { place.to_owned() } else { format!("{prefix}/{place}") };
        let handle = Self { bucket: bucket.to_owned(), path, reach };
        let fits = handle.path.len() <= PREFIX_LIMIT && handle.to_string().len() <= ID_LIMIT;
        fits.then_some(handle).ok_or_else(too_long)
    }

    /// Reads an id.
    ///
    /// # Errors
    /// Why it is none of ours.
    pub fn parse(id: &str) -> Result<Self, String> {
        if id.is_empty() || id.len() > ID_LIMIT {
            return Err(format!("it has {} bytes, not 1 to {ID_LIMIT}", id.len()));
        }
        let (place, reach) = id.split_once("//").unwrap_or((id, ""));
        let (bucket, path) = place.split_once('/').unwrap_or((place, ""));
        let path = path.strip_suffix('/').unwrap_or(path);
        check_bucket(bucket)?;
        check_path(path)?;
        Ok(Self { bucket: bucket.to_owned(), path: path.to_owned(), reach: parse_reach(reach)? })
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What the id says of how the store is reached.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// The prefix of all the volume's objects, with its slash; empty if it has the bucket for itself.
    pub fn prefix(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!("{}/", self.path) }
    }

    /// The URL for the engine. The volume is exactly there, not further up or down.
    pub fn url(&self) -> String {
        format!("s3://{}/{}//", self.bucket, self.path)
    }

    /// The key of the record that tells of the volume, beside its prefix: it is written before the volume
    /// and removed after it. `None` for a whole bucket, beside which there is nothing.
    pub fn record_key(&self) -> Option<String> {
        let (parent, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        (!name.is_empty()).then(|| record_key(parent, name))
    }

    /// The part of the path that is the volume's own.
    pub fn name(&self) -> &str {
        self.path.rsplit_once('/').map_or(&self.path, |(_, name)| name)
    }

    /// The part of the path above the volume's own.
    pub fn parent(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(parent, _)| parent)
    }
}

/// Where the record of a volume with this name lies.
pub(crate) fn record_key(parent: &str, name: &str) -> String {
    format!("{}{name}.json", records_prefix(parent))
}

/// Where the records of the volumes under a prefix lie.
pub(crate) fn records_prefix(parent: &str) -> String {
    if parent.is_empty() { ".volumes/".to_owned() } else { format!("{parent}/.volumes/") }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bucket)?;
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        let Reach { endpoint, region, path_style } = &self.reach;
        let fields = [
            endpoint.as_ref().map(|endpoint| format!("e={endpoint}")),
            region.as_ref().map(|region| format!("r={region}")),
            path_style.map(|on| format!("p={}", u8::from(on))),
        ];
        let fields: Vec<String> = fields.into_iter().flatten().collect();
        if fields.is_empty() { Ok(()) } else { write!(f, "//{}", fields.join(";")) }
    }
}

fn too_long() -> String {
    format!(
        "bucket and prefix are too long: a volume's id has at most {ID_LIMIT} bytes; shorten the prefix, or move \
         `endpoint` and `region` from the StorageClass into the secret"
    )
}

/// A name that can be a part of a path as it is.
fn plain(name: &str) -> Option<String> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    (begins && name.len() <= NAME_LIMIT && name.bytes().all(usual)).then(|| name.to_owned())
}

/// What stands for every other name. Two names never meet here: 96 bits of SHA-256, and the record says
/// whose place it is.
fn digest(name: &str) -> Option<String> {
    Some(format!("v-{}", HEXLOWER.encode(&Sha256::digest(name)[..12])))
}

fn parse_reach(text: &str) -> Result<Reach, String> {
    let mut reach = Reach::default();
    for field in text.split(';').filter(|field| !field.is_empty()) {
        match field.split_once('=') {
            Some(("e", endpoint)) => reach.endpoint = Some(check_endpoint(endpoint)?),
            Some(("r", region)) => reach.region = Some(check_region(region)?),
            Some(("p", "0")) => reach.path_style = Some(false),
            Some(("p", "1")) => reach.path_style = Some(true),
            _ => return Err("what follows its `//` is not e=ENDPOINT;r=REGION;p=0|1".to_owned()),
        }
    }
    Ok(reach)
}

/// A bucket's name, as the engine takes it.
pub(crate) fn check_bucket(bucket: &str) -> Result<(), String> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    match (3..=255).contains(&bucket.len()) && bucket.bytes().all(usual) {
        true => Ok(()),
        false => Err(format!(
            "bucket {bucket:?}: a bucket's name has at least 3 characters, all of them letters, digits, \
             dots or hyphens"
        )),
    }
}

/// A path without empty parts, `.` and `..`.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    let odd = |part: &str| {
        matches!(part, "" | "." | ".." | ".volumes") || part.chars().any(char::is_control)
    };
    if !path.is_empty() && path.split('/').any(odd) {
        return Err(format!(
            "prefix {path:?}: its parts are names, without `.`, `..`, `.volumes`, control characters and \
             empty parts"
        ));
    }
    Ok(())
}

/// An http or https URL without user name and password; without a scheme it is https.
pub(crate) fn check_endpoint(endpoint: &str) -> Result<String, String> {
    // Not repeated: it may hold a password.
    let unusable = || {
        "endpoint is no http or https URL of a host; examples: https://minio.example:9000, \
         http://10.0.0.7:9000"
            .to_owned()
    };
    let whole = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("https://{endpoint}"),
    };
    let rest = whole.strip_prefix("http://").or_else(|| whole.strip_prefix("https://"));
    let rest = rest.ok_or_else(unusable)?;
    let host = rest.split('/').next().unwrap_or_default();
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ';' | '"' | '?' | '#');
    if host.is_empty() || host.contains('@') || whole.contains(odd) {
        return Err(unusable());
    }
    Ok(whole.trim_end_matches('/').to_owned())
}

/// A region's name.
pub(crate) fn check_region(region: &str) -> Result<String, String> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    match (1..=64).contains(&region.len()) && region.bytes().all(usual) {
        true => Ok(region.to_owned()),
        false => Err("region: letters, digits and hyphens are what it is made of".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bucket: &str, prefix: &str, name: &str, reach: Reach) -> Result<String, String> {
        Handle::of_new(bucket, prefix, name, reach).map(|handle| handle.to_string())
    }

    #[test]
    fn an_id_is_where_the_volume_is() {
        let none = Reach::default;
        assert_eq!(id("backups", "", "pvc-1", none()).as_deref(), Ok("backups/pvc-1"));
        assert_eq!(id("backups", "a/b", "pvc-1", none()).as_deref(), Ok("backups/a/b/pvc-1"));
        let reach = Reach {
            endpoint: Some("http://127.0.0.1:9000".to_owned()),
            region: Some("eu".to_owned()),
            path_style: Some(true),
        };
        let whole = id("backups", "a", "pvc-1", reach.clone()).expect("an id");
        assert_eq!(whole, "backups/a/pvc-1//e=http://127.0.0.1:9000;r=eu;p=1");
        let handle = Handle::parse(&whole).expect("ours");
        assert_eq!((handle.reach(), handle.prefix().as_str()), (&reach, "a/pvc-1/"));
        assert_eq!(handle.record_key().as_deref(), Some("a/.volumes/pvc-1.json"));
        assert_eq!(handle.url(), "s3://backups/a/pvc-1//");
    }

    #[test]
    fn every_name_of_1_to_128_bytes_becomes_an_id_that_is_read_back() {
        for name in ["x".to_owned(), "n".repeat(128), "é/../ü".to_owned(), "..".to_owned()] {
            let whole = id("bucket", "", &name, Reach::default()).expect("an id");
            assert!(whole.len() <= ID_LIMIT, "{whole}");
            assert_eq!(Handle::parse(&whole).map(|handle| handle.to_string()), Ok(whole));
        }
        assert_ne!(
            id("bucket", "", &"n".repeat(127), Reach::default()),
            id("bucket", "", &"n".repeat(128), Reach::default())
        );
    }

    #[test]
    fn an_id_that_would_be_too_long_says_what_to_shorten() {
        let error = id("bucket", "p/".repeat(70).trim_end_matches('/'), "n", Reach::default());
        assert!(error.expect_err("too long").contains("shorten the prefix"));
    }

    #[test]
    fn ids_of_others_are_not_ours() {
        for id in [
            "",
            "b",
            "vol:1/x",
            "bucket/../x",
            "bucket/a/./b",
            "bucket/.volumes/x",
            "bucket/a//x=1",
            "bucket/a//p=2",
            "bucket//e=ftp://x",
            "bucket/a//e=http://user:word@host",
            "bucket/a\nb",
        ] {
            assert!(Handle::parse(id).is_err(), "{id:?}");
        }
        assert!(Handle::parse(&"b".repeat(ID_LIMIT + 1)).is_err());
        for id in ["bucket", "bucket/", "bucket/prefix/", "bucket/a/b"] {
            assert!(Handle::parse(id).is_ok(), "{id:?}");
        }
    }
}
