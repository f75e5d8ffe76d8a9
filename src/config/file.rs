//! The configuration file (TOML).

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What the file may say. Every key is also a flag of the same name and means the same.
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
    /// File with the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// All memory for data: `256MiB`.
    pub memory_limit: Option<String>,
    /// How long a request may wait for the store: `5m`.
    pub io_timeout: Option<String>,
    /// `close` or `fsync`.
    pub durability: Option<String>,
    /// Other users may use a mount.
    pub allow_other: Option<bool>,
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

    /// Reads the file's text; `path` is for the message.
    #[doc(hidden)]
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            // The library's message has several lines; the first says where, the last what.
            let message = error.message().to_owned();
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let place = line.map_or(String::new(), |line| format!("line {line}: "));
            ConfigError::Malformed(path.to_owned(), format!("{place}{message}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_that_names_it_and_its_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "region = \"eu\"\nregio = \"x\"\n").expect("written");
        let error = ConfigFile::find(Some(&path)).expect_err("unknown key").to_string();
        assert!(error.contains("line 2") && error.contains("regio"), "{error}");
    }
}
