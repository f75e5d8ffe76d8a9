//! Where the storage is, and how to reach it.

use super::options::{COMMON, LOCAL, S3, Use};
use super::remote;
use super::{Conf, DatasafedError, STORAGE, absolute, authorities, identity, variable};
use crate::store::{
    AzureConfig, FtpConfig, GoogleConfig, ListVersion, Listing, PathStyle, Profile, Provider,
    S3Config, S3Credentials, Tls,
};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where files are.
#[derive(Debug)]
pub enum Place {
    /// In a bucket.
    Bucket {
        /// How to reach it.
        config: Box<S3Config>,
        /// What all keys begin with, without `/` at either end; may be empty.
        prefix: String,
    },
    /// In a container of Azure.
    Azure {
        /// How to reach it.
        config: Box<AzureConfig>,
        /// As for a bucket.
        prefix: String,
    },
    /// In a bucket of Google, by its own protocol.
    Google {
        /// How to reach it.
        config: Box<GoogleConfig>,
        /// As for a bucket.
        prefix: String,
    },
    /// On a server of FTP.
    Ftp {
        /// How to reach it.
        config: Box<FtpConfig>,
        /// The directory; empty is where the server puts who logs in.
        root: String,
    },
    /// In a local directory.
    Directory {
        /// It; made when the first file is stored.
        root: PathBuf,
        /// Whether symbolic links are followed; else they are not there.
        follow_links: bool,
    },
}

/// The place that the settings name.
pub fn place(conf: &Conf) -> Result<Place, DatasafedError> {
    let options = Options { conf, backend: "" };
    let kind = options.get("type").unwrap_or_default();
    match kind.as_str() {
        "s3" => bucket(&Options { conf, backend: "S3" }),
        "local" => directory(&Options { conf, backend: "LOCAL" }),
        "azureblob" => remote::azure(&Options { conf, backend: "AZUREBLOB" }),
        "google cloud storage" | "googlecloudstorage" | "gcs" => {
            remote::google(&Options { conf, backend: "GCS" })
        }
        "ftp" => remote::ftp(&Options { conf, backend: "FTP" }),
        "" => Err(DatasafedError::new(
            "the configuration has no type in its section [storage]: write type = s3, azureblob, google cloud \
             storage, ftp or local",
        )),
        _ => Err(DatasafedError(format!(
            "storage type {kind:?} is not supported here: the types are s3 (with a provider), azureblob, google \
             cloud storage, ftp and local"
        ))),
    }
}

/// Settings by name: the environment goes before the file, as with rclone.
pub(super) struct Options<'a> {
    conf: &'a Conf,
    backend: &'static str,
}

impl Options<'_> {
    pub(super) fn get(&self, name: &str) -> Option<String> {
        // The original takes this one from the file alone.
        if name == "root" {
            return self.conf.get(STORAGE, name).map(str::to_owned);
        }
        let upper = name.to_uppercase();
        let mut variables = vec![format!("RCLONE_CONFIG_BACKEND_{upper}")];
        if !self.backend.is_empty() {
            variables.push(format!("RCLONE_{}_{upper}", self.backend));
        }
        let told = variables.iter().map(|name| variable(name)).find(|value| !value.is_empty());
        if let Some(told) = told {
            return Some(told.to_string_lossy().into_owned());
        }
        // What was obscured for somebody else is used as it was written.
        let plain = self.conf.plain.iter().rev().find(|(key, _)| key == name);
        if let Some((_, plain)) = plain {
            return Some(plain.clone());
        }
        self.conf.get(STORAGE, name).map(str::to_owned)
    }

    /// A value that the file asks to obscure, as it was written; not one that the environment has in its place.
    pub(super) fn plain(&self, name: &str) -> Option<&str> {
        let (_, plain) = self.conf.plain.iter().rev().find(|(key, _)| key == name)?;
        (self.get(name).as_ref() == Some(plain)).then_some(plain)
    }

    /// The same; nothing is what is empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, DatasafedError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(DatasafedError(format!("storage.{name} = {text}: write true or false"))),
        }
    }

    /// Refuses keys that nobody knows, and those whose wish would be lost.
    pub(super) fn check(&self, rows: &[(&str, Use)]) -> Result<(), DatasafedError> {
        let known = || COMMON.iter().chain(rows);
        for (name, fate) in known() {
            let Use::Refused(nothing) = fate else { continue };
            if let Some(value) = self.text(name)
                && value != *nothing
            {
                return Err(DatasafedError(format!(
                    "storage.{name} is set, but is not supported here: take it out of the configuration"
                )));
            }
        }
        let Some(section) = self.conf.ini.section(STORAGE) else { return Ok(()) };
        let unknown = section.keys().find(|key| known().all(|(name, _)| name != key));
        let Some(unknown) = unknown else { return Ok(()) };
        let nearest =
            known().map(|(name, _)| *name).min_by_key(|name| strsim::levenshtein(name, unknown));
        let nearest = nearest.filter(|name| strsim::levenshtein(name, unknown) <= 3);
        let hint = nearest.map_or("take it out".to_owned(), |name| format!("is {name} meant?"));
        Err(DatasafedError(format!("storage.{unknown} is no key of this storage type: {hint}")))
    }
}

fn bucket(options: &Options<'_>) -> Result<Place, DatasafedError> {
    options.check(S3)?;
    let name = options.get("provider").unwrap_or_default();
    let provider = Provider::named(&name).ok_or_else(|| {
        let names = crate::store::PROVIDERS.iter().map(|provider| provider.name);
        let names: Vec<&str> = names.collect();
        DatasafedError(format!(
            "s3 provider {name:?} is not known: storage.provider is one of {}",
            names.join(", ")
        ))
    })?;
    let (bucket, prefix) = split_root(options, "the bucket")?;
    let config = S3Config {
        bucket,
        region: options.text("region"),
        endpoint: options.text("endpoint").map(|endpoint| with_scheme(&endpoint)).transpose()?,
        path_style: match provider.path_style {
            PathStyle::Host => None,
            // A false one where no host name can hold the bucket would lead nowhere.
            PathStyle::Settings => {
                options.flag("force_path_style")?.unwrap_or(true).then_some(true)
            }
        },
        tls: tls(options)?,
        profile: options.text("profile").map(|name| Profile { name, over_environment: true }),
        credentials: credentials(options)?,
        web_identity: crate::config::web_identity(),
        listing: listing(options, provider)?,
        part_limit: number(options, "max_upload_parts")?
            .unwrap_or(provider.part_limit)
            .clamp(1, provider.part_limit),
        batch_deletes: provider.batch_deletes,
        crc32c: provider.crc32c,
    };
    Ok(Place::Bucket { config: Box::new(config), prefix })
}

/// The bucket that the root names, and what all keys begin with.
pub(super) fn split_root(
    options: &Options<'_>,
    what: &str,
) -> Result<(String, String), DatasafedError> {
    let root = options.get("root").unwrap_or_default();
    let root = root.trim_matches('/');
    let (bucket, prefix) = root.split_once('/').unwrap_or((root, ""));
    if bucket.is_empty() {
        return Err(DatasafedError(format!("storage.root is empty: it names {what}")));
    }
    // Names of files have no `.` and `..` in them either.
    let prefix = prefix.split('/').filter(|part| !part.is_empty() && *part != ".");
    Ok((bucket.to_owned(), prefix.collect::<Vec<_>>().join("/")))
}

/// Whom to trust, and who we are.
pub(super) fn tls(options: &Options<'_>) -> Result<Tls, DatasafedError> {
    Ok(Tls {
        authorities: authorities(),
        more_authorities: crate::config::more_authorities(),
        identity: identity()?,
        unverified: options.flag("no_check_certificate")?.unwrap_or(false),
    })
}

fn credentials(options: &Options<'_>) -> Result<S3Credentials, DatasafedError> {
    let given = (options.text("access_key_id"), options.text("secret_access_key"));
    match given {
        (Some(access_key), Some(secret_key)) => Ok(S3Credentials::Given {
            access_key,
            secret_key: Zeroizing::new(secret_key),
            session_token: options.text("session_token").map(Zeroizing::new),
        }),
        (None, None) if options.flag("env_auth")?.unwrap_or(false) => Ok(S3Credentials::Found),
        // The templates of storage providers say env_auth = false: a pod's token is there for a reason.
        (None, None) if crate::config::web_identity().is_some() => Ok(S3Credentials::Found),
        (None, None) => Ok(S3Credentials::Anonymous),
        (Some(_), None) => Err(DatasafedError::new(
            "storage.secret_access_key is empty: it belongs to storage.access_key_id",
        )),
        (None, Some(_)) => Err(DatasafedError::new(
            "storage.access_key_id is empty: it belongs to storage.secret_access_key",
        )),
    }
}

fn listing(options: &Options<'_>, provider: &Provider) -> Result<Listing, DatasafedError> {
    let version = match number(options, "list_version")?.unwrap_or(0) {
        0 => provider.listing.version,
        1 => ListVersion::V1,
        2 => ListVersion::V2,
        other => {
            return Err(DatasafedError(format!(
                "storage.list_version = {other}: write 1 or 2, or take it out"
            )));
        }
    };
    let encoded = match options.text("list_url_encode").as_deref() {
        None | Some("unset") => provider.listing.encoded,
        Some(_) => options.flag("list_url_encode")?.unwrap_or(provider.listing.encoded),
    };
    Ok(Listing { version, encoded })
}

fn directory(options: &Options<'_>) -> Result<Place, DatasafedError> {
    options.check(LOCAL)?;
    let root = absolute(Path::new(&options.get("root").unwrap_or_default()));
    if std::fs::metadata(&root).is_ok_and(|found| !found.is_dir()) {
        return Err(DatasafedError(format!(
            "storage.root {}: is a file not a directory",
            root.display()
        )));
    }
    Ok(Place::Directory { root, follow_links: options.flag("copy_links")?.unwrap_or(false) })
}

pub(super) fn number(options: &Options<'_>, name: &str) -> Result<Option<u32>, DatasafedError> {
    let Some(text) = options.text(name) else { return Ok(None) };
    let number = text.parse();
    number.map(Some).map_err(|_| DatasafedError(format!("storage.{name} = {text}: write a number")))
}

/// Endpoints without a scheme are https, as rclone takes them.
pub(super) fn with_scheme(endpoint: &str) -> Result<String, DatasafedError> {
    let whole = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("https://{endpoint}"),
    };
    let usable = ::url::Url::parse(&whole)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    // Not repeated: it may hold a password.
    usable.then_some(whole).ok_or_else(|| {
        DatasafedError::new(
            "storage.endpoint is no http or https URL: write https://HOST[:PORT] or http://HOST[:PORT]",
        )
    })
}
