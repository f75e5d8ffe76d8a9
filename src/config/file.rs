//! The configuration file (TOML).

use super::VolumeUrl;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the file may say. Every key is also a flag of the same name and means the same (`path_style`,
/// `--path-style`), and an environment variable (`STRONGROOM_PATH_STYLE`); those two win.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// S3 endpoint.
    pub endpoint: Option<String>,
    /// S3 region.
    pub region: Option<String>,
    /// Bucket in the path instead of the host name.
    pub path_style: Option<bool>,
    /// Profile of the AWS files.
    pub profile: Option<String>,
    /// Certificate authorities, PEM.
    pub ca_bundle: Option<PathBuf>,
    /// Client certificate, PEM.
    pub client_cert: Option<PathBuf>,
    /// Its key, PEM; without it in the certificate's file.
    pub client_key: Option<PathBuf>,
    /// File with the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// How long a request may wait for the store: `5m`.
    #[serde(deserialize_with = "duration")]
    pub io_timeout: Option<Duration>,
    /// Requests to the store under way at once.
    #[serde(deserialize_with = "requests")]
    pub concurrency: Option<u32>,
    /// Bits a second to and from the store; in the file megabits: `"100"`.
    #[serde(deserialize_with = "megabits")]
    pub rate_limit: Option<u64>,
    /// What is logged.
    pub log: Option<String>,
    /// `text` or `json`.
    pub log_format: Option<String>,
    /// All memory for data: `256MiB`.
    #[serde(deserialize_with = "size")]
    pub memory_limit: Option<u64>,
    /// Where a mount keeps what it has read.
    pub cache_dir: Option<PathBuf>,
    /// How much of it: `10GiB`.
    #[serde(deserialize_with = "size")]
    pub cache_size: Option<u64>,
    /// What a mount shows: `native` (a volume) or `objects` (a bucket's files as they are).
    pub layout: Option<String>,
    /// How the files of the `objects` layout are enciphered: `AES-256-CFB`.
    pub encryption: Option<String>,
    /// Where the `objects` layout keeps what it has not stored yet.
    pub scratch_dir: Option<PathBuf>,
    /// `close` or `fsync`.
    pub durability: Option<String>,
    /// How long names and attributes are taken for true: `1s`.
    #[serde(deserialize_with = "duration")]
    pub attribute_ttl: Option<Duration>,
    /// Other users may use a mount.
    pub allow_other: Option<bool>,
    /// A mount refuses every change.
    pub read_only: Option<bool>,
    /// A mount has its volume alone.
    pub exclusive: Option<bool>,
    /// A mount does not collect garbage.
    pub no_gc: Option<bool>,
    /// Shown as owner of everything.
    pub uid: Option<u32>,
    /// Shown as group of everything.
    pub gid: Option<u32>,
    /// Mode of new directories: `"0777"`.
    #[serde(deserialize_with = "mode")]
    pub dir_mode: Option<u32>,
    /// Mode of new files: `"0666"`.
    #[serde(deserialize_with = "mode")]
    pub file_mode: Option<u32>,
    /// Bits that new things do not get: `"027"`.
    #[serde(deserialize_with = "mode")]
    pub umask: Option<u32>,
    /// Settings of single places, by the beginnings of their URLs: `[at."s3://offsite"]`.
    #[serde(deserialize_with = "places")]
    pub at: Vec<(VolumeUrl, PlaceSettings)>,
}

/// What is said of one place: it comes before everything else that is said, flags included.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlaceSettings {
    /// S3 endpoint.
    pub endpoint: Option<String>,
    /// S3 region.
    pub region: Option<String>,
    /// Bucket in the path instead of the host name.
    pub path_style: Option<bool>,
    /// Profile of the AWS files, whose credentials come before those in the environment.
    pub profile: Option<String>,
    /// Certificate authorities, PEM.
    pub ca_bundle: Option<PathBuf>,
    /// Client certificate, PEM.
    pub client_cert: Option<PathBuf>,
    /// Its key, PEM; without it in the certificate's file.
    pub client_key: Option<PathBuf>,
    /// File with the passphrase.
    pub passphrase_file: Option<PathBuf>,
}

fn places<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(VolumeUrl, PlaceSettings)>, D::Error> {
    let places = BTreeMap::<String, PlaceSettings>::deserialize(deserializer)?;
    let parsed = places.into_iter().map(|(place, said)| {
        let url: Result<VolumeUrl, _> = place.parse();
        let url = url.map_err(|error| de::Error::custom(format_args!("at: {error}")))?;
        Ok((url, said))
    });
    parsed.collect()
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    parsed(deserializer, super::parse_size)
}

fn megabits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Number(f64),
        Text(String),
    }
    let text = match Given::deserialize(deserializer)? {
        Given::Number(number) => number.to_string(),
        Given::Text(text) => text,
    };
    let parsed = super::parse_megabits(&text);
    parsed.map(Some).map_err(|why| de::Error::custom(format_args!("{text:?} {why}")))
}

fn requests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(deserializer)? {
        number @ 1..=1024 => Ok(Some(number)),
        number => Err(de::Error::custom(format_args!("{number} is not in 1 to 1024"))),
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    parsed(deserializer, super::parse_duration)
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    parsed(deserializer, super::parse_mode)
}

fn parsed<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let value = parse(&text).map_err(|why| de::Error::custom(format_args!("{text:?} {why}")))?;
    Ok(Some(value))
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read configuration file {}: {}", .0.display(), .1)]
    Unreadable(PathBuf, std::io::Error),
    /// It says something unknown or malformed.
    #[error("configuration file {}: {}", .0.display(), .1)]
    Malformed(PathBuf, String),
}

impl ConfigFile {
    /// What is said of the place that a URL is in: the longest beginning counts.
    pub fn place(&self, url: &VolumeUrl) -> Option<(&VolumeUrl, &PlaceSettings)> {
        let begins = |place: &VolumeUrl| {
            let rest = url.path.strip_prefix(&*place.path);
            let is_below =
                |rest: &str| rest.is_empty() || place.path.is_empty() || rest.starts_with('/');
            place.base == url.base && rest.is_some_and(is_below)
        };
        let places = self.at.iter().map(|(place, said)| (place, said));
        let places = places.filter(|(place, _)| begins(place));
        places.max_by_key(|(place, _)| place.path.len())
    }

    /// The file that was named, or the first that exists of the user's and the system's.
    pub fn find(named: Option<&Path>) -> Result<Self, ConfigError> {
        if let Some(path) = named {
            return Self::read(path);
        }
        let home = super::variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| super::variable("HOME").map(|home| Path::new(&home).join(".config")));
        let candidates = home
            .map(|home| home.join("strongroom/config.toml"))
            .into_iter()
            .chain([PathBuf::from("/etc/strongroom/config.toml")]);
        for path in candidates {
            if path.exists() {
                return Self::read(&path);
            }
        }
        Ok(Self::default())
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable(path.to_owned(), error))?;
        Self::parse(&text, path)
    }

    /// The same keys from a program that starts this one.
    pub fn from_json(options: &serde_json::Map<String, serde_json::Value>) -> Result<Self, String> {
        let options = serde_json::Value::Object(options.clone());
        serde_json::from_value(options).map_err(|error| format!("options: {error}"))
    }

    /// Reads the file's text; `path` is for the message.
    #[doc(hidden)]
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            // The library's message has several lines; the first says where, the last what.
            let message = error.message().to_owned();
            let line = error.span().map(|span| text[..span.start].matches('\n').count());
            let place = line.map_or(String::new(), |line| {
                let key = text.lines().nth(line).and_then(|line| line.split_once('='));
                let key = key.map_or("", |(key, _)| key.trim());
                // What is wrong with a value does not say whose value it is.
                let key = if message.contains(key) { String::new() } else { format!("{key}: ") };
                format!("line {}: {key}", line + 1)
            });
            ConfigError::Malformed(path.to_owned(), format!("{place}{message}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_of_a_url_says_how_its_place_is_reached() {
        let text = "[at.\"s3://house\"]\nregion = \"one\"\n[at.\"s3://house//b\"]\nregion = \"two\"\n\
                    [at.\"file:///srv\"]\nregion = \"three\"\n";
        let file = ConfigFile::parse(text, Path::new("config.toml")).expect("read");
        let region = |url: &str| {
            let url = url.parse().expect("a URL");
            file.place(&url).and_then(|(_, said)| said.region.as_deref())
        };
        assert_eq!(region("s3://house"), Some("one"));
        assert_eq!(region("s3://house/bc/d"), Some("one"));
        assert_eq!(region("s3://house/b"), Some("two"));
        assert_eq!(region("s3://house/b//c"), Some("two"));
        assert_eq!(region("file:///srv/x"), Some("three"));
        assert_eq!(region("s3://houses"), None);
        for wrong in ["[at.\"s3://house\"]\nregio = \"x\"\n", "[at.offsite]\nregion = \"x\"\n"] {
            assert!(ConfigFile::parse(wrong, Path::new("config.toml")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it_and_its_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "region = \"eu\"\nregio = \"x\"\n").expect("written");
        let error = ConfigFile::find(Some(&path)).expect_err("unknown key").to_string();
        assert!(error.contains("line 2") && error.contains("regio"), "{error}");
    }
}
