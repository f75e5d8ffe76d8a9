//! URLs of volumes and of paths in them: `s3://bucket/prefix/path`, `file:///directory/path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A place in a store: where a volume is, or (with the rest) a path inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUrl {
    /// The store.
    pub base: StoreBase,
    /// What follows, without leading and trailing `/`. `//` in the URL splits it: before it is the
    /// volume's root, after it the path inside.
    pub path: String,
    /// The length of the part of `path` that is the volume's root, where `//` marked it.
    pub marked_root: Option<usize>,
}

/// The store that a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreBase {
    /// An S3 bucket.
    S3(String),
    /// The local file system.
    File,
}

/// A URL that names no place of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is no volume URL: {why}; examples: s3://bucket/prefix, file:///some/directory")]
pub struct InvalidUrl {
    url: String,
    why: &'static str,
}

impl FromStr for VolumeUrl {
    type Err = InvalidUrl;

    fn from_str(url: &str) -> Result<Self, InvalidUrl> {
        let invalid = |why| InvalidUrl { url: url.to_owned(), why };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        let (base, path) = match scheme {
            "s3" => {
                let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(invalid("it names no bucket"));
                }
                // Older buckets have capitals, underscores and more than 63 characters.
                let usual = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
                if !(3..=255).contains(&bucket.len()) || !bucket.bytes().all(usual) {
                    return Err(invalid(
                        "a bucket's name has at least 3 characters, all of them letters, digits, dots or \
                         hyphens; keys and endpoints are settings of their own",
                    ));
                }
                (StoreBase::S3(bucket.to_owned()), path)
            }
            "file" => match rest.strip_prefix('/') {
                Some(path) => (StoreBase::File, path),
                None => return Err(invalid("a file URL has three slashes and an absolute path")),
            },
            _ => return Err(invalid("its scheme is neither s3 nor file")),
        };
        let (root, inside) = match path.split_once("//") {
            Some((root, inside)) => (Some(clean(root)), clean(inside)),
            None => (None, clean(path)),
        };
        if inside
            .split('/')
            .chain(root.iter().flat_map(|root| root.split('/')))
            .any(|part| part == "..")
        {
            return Err(invalid("`..` is not allowed"));
        }
        Ok(match root {
            Some(root) => {
                let marked_root = Some(root.len());
                let path = match (root.as_str(), inside.as_str()) {
                    (_, "") => root,
                    ("", _) => inside,
                    (root, inside) => format!("{root}/{inside}"),
                };
                Self { base, path, marked_root }
            }
            None => Self { base, path: inside, marked_root: None },
        })
    }
}

impl VolumeUrl {
    /// Where the volume's root can be: prefixes of the path from the left, or the one that is marked.
    pub fn candidates(&self) -> Vec<&str> {
        if let Some(length) = self.marked_root {
            return vec![&self.path[..length]];
        }
        let mut ends: Vec<usize> = self.path.match_indices('/').map(|(at, _)| at).collect();
        ends.insert(0, 0);
        if !self.path.is_empty() {
            ends.push(self.path.len());
        }
        ends.dedup();
        ends.into_iter().map(|end| &self.path[..end]).collect()
    }

    /// The path inside the volume whose root is `root`.
    pub fn inside(&self, root: &str) -> &str {
        self.path[root.len()..].trim_start_matches('/')
    }

    /// The local directory of a file URL's part.
    pub fn directory(part: &str) -> PathBuf {
        PathBuf::from(format!("/{part}"))
    }
}

impl fmt::Display for VolumeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            StoreBase::S3(bucket) => write!(f, "s3://{bucket}/{}", self.path),
            StoreBase::File => write!(f, "file:///{}", self.path),
        }
    }
}

/// Without empty parts and `.`, leading and trailing slashes.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_looked_for_from_the_left_unless_it_is_marked() {
        let url: VolumeUrl = "s3://bucket/a/b/c".parse().expect("a URL");
        assert_eq!(url.candidates(), ["", "a", "a/b", "a/b/c"]);
        assert_eq!(url.inside("a"), "b/c");
        let url: VolumeUrl = "s3://bucket/a//b/c/".parse().expect("a URL");
        assert_eq!(url.candidates(), ["a"]);
        assert_eq!(url.inside("a"), "b/c");
        let url: VolumeUrl = "file://///x".parse().expect("a URL");
        assert_eq!((url.candidates(), url.inside(""), url.path.as_str()), (vec![""], "x", "x"));
        let url: VolumeUrl = "s3://bucket".parse().expect("a URL");
        assert_eq!((url.candidates(), url.inside("")), (vec![""], ""));
    }

    #[test]
    fn what_is_no_url_says_why() {
        for (url, why) in [
            ("bucket/x", "no scheme"),
            ("s3:///x", "no bucket"),
            ("s3://b1/x", "at least 3"),
            ("s3://key:secret@bucket/x", "settings of their own"),
            ("file://x/y", "three slashes"),
            ("gopher://x", "scheme"),
            ("s3://bucket/a/../c", "`..`"),
        ] {
            let error = url.parse::<VolumeUrl>().expect_err(url).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
