//! Rank 4: settings, parsed once: flag, then environment, then configuration file. Layers below get
//! values; this one alone reads the environment, the clock and the random source.

pub mod datasafed;
mod file;
pub mod ini;
pub mod obscure;
mod passphrase;
mod process;
mod url;
mod world;

use crate::store::WebIdentity;
use std::path::{Path, PathBuf};

pub use self::url::{InvalidUrl, StoreBase, VolumeUrl};
pub use file::{ConfigError, ConfigFile, PlaceSettings};
pub use passphrase::{Handed, PassphraseError, PassphraseSource};
pub use process::{is_gone, this_process};
pub use world::system_world;

/// Parses a size as people write it: `256MiB`, `1G`, `4096`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let size: Result<bytesize::ByteSize, _> = text.parse();
    let size = size.map_err(|_| "is no size; examples: 256MiB, 1G, 1073741824".to_owned())?;
    Ok(size.as_u64())
}

/// Parses a duration as people write it: `5m`, `90s`, `1h 30m`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "is no duration; examples: 90s, 5m, 1h 30m, 500ms".to_owned())
}

/// Parses megabits a second (`100`, `2.5`, `100Mbps`) into bits a second.
pub fn parse_megabits(text: &str) -> Result<u64, String> {
    let number = ["Mbps", "mbps", "Mbit/s"].iter().find_map(|unit| text.strip_suffix(unit));
    let rate: Option<f64> = number.unwrap_or(text).trim().parse().ok();
    // Below 10 kbit/s a single record would take longer than a request may wait.
    match rate {
        Some(rate) if (0.01..=1e6).contains(&rate) => Ok((rate * 1e6) as u64),
        _ => Err("is no rate in megabits a second; examples: 100, 2.5".to_owned()),
    }
}

/// Parses permission bits as chmod(1) takes them in digits: `0755`, `2770`.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777 && !text.starts_with('+'))
        .ok_or_else(|| "is no mode; examples, in octal digits: 0755, 2770".to_owned())
}

/// Files and directories of certificate authorities that are trusted beside the system's: those of SSL_CERT_DIR, and
/// `certs` beside this program, which KubeBlocks copies into images that have none, or have old ones.
pub fn more_authorities() -> Vec<PathBuf> {
    // As Go has them: SSL_CERT_DIR alone does not take the place of the system's file.
    const SYSTEM: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let named = std::env::var_os("SSL_CERT_DIR").unwrap_or_default();
    let is_alone = !named.is_empty() && variable("SSL_CERT_FILE").is_none();
    let system = SYSTEM.iter().map(PathBuf::from).find(|path| path.exists());
    let named: Vec<PathBuf> = std::env::split_paths(&named).collect();
    let named = named.into_iter().filter(|path| !path.as_os_str().is_empty());
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).map(|folder| folder.join("certs"));
    system.filter(|_| is_alone).into_iter().chain(named).chain(beside).collect()
}

/// This machine's name, for the session that others see.
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Where large temporary files go: TMPDIR, or what is a disk where /tmp may be memory.
pub fn temporary_directory() -> PathBuf {
    let usual = || PathBuf::from(if Path::new("/var/tmp").is_dir() { "/var/tmp" } else { "/tmp" });
    std::env::var_os("TMPDIR").filter(|path| !path.is_empty()).map_or_else(usual, PathBuf::from)
}

/// The token that pods of clouds get in place of keys, if the variables that Amazon's SDKs read name one.
pub fn web_identity() -> Option<WebIdentity> {
    Some(WebIdentity {
        token_file: variable("AWS_WEB_IDENTITY_TOKEN_FILE")?.into(),
        role: variable("AWS_ROLE_ARN")?,
        session: variable("AWS_ROLE_SESSION_NAME"),
        endpoint: variable("AWS_ENDPOINT_URL_STS"),
    })
}

/// An environment variable, if it is set, not empty, and text.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
