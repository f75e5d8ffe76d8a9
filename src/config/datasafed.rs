//! What datasafed is told: its configuration file, its variables, and those of rclone that stand for
//! keys of the file. Parsed into places and keys before anything is done.

mod options;
mod remote;
mod storage;

pub use storage::{Place, place};

use super::ini::Ini;
use super::obscure::obscure;
use super::{parse_megabits, system_world};
use crate::crypto::datasafed::StreamKey;
use crate::crypto::{Passphrase, Suite};
use crate::store::ClientIdentity;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Where the file is unless told otherwise.
pub const FILE: &str = "/etc/datasafed/datasafed.conf";
/// The section that says where the storage is.
pub const STORAGE: &str = "storage";
/// The section that asks for encryption.
const ENCRYPTION: &str = "encryption";
/// Ends a key whose value is to be obscured.
const NEED_OBSCURE: &str = ".need_obscure";

/// A setting that cannot be used: what it is, why, and what to do.
#[derive(Debug)]
pub struct DatasafedError(pub(super) String);

impl DatasafedError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Display for DatasafedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DatasafedError {}

/// Settings of the file, as `getconf` tells them, and those that had to be obscured as they were.
pub struct Conf {
    ini: Ini,
    plain: Vec<(String, String)>,
    /// Where the file is.
    folder: PathBuf,
}

impl Conf {
    /// The settings of a local backend if the environment names one, else those of the file.
    pub fn load(file: &Path) -> Result<Self, DatasafedError> {
        if let Some(root) = local_backend()? {
            let mut ini = Ini::default();
            let storage = ini.section_mut(STORAGE);
            storage.set("type", "local".to_owned());
            storage.set("copy_links", "true".to_owned());
            storage.set("root", root.to_string_lossy().into_owned());
            return Ok(Self { ini, plain: Vec::new(), folder: PathBuf::new() });
        }
        let shown = file.display();
        let bytes = std::fs::read(file).map_err(|error| {
            let why = error.to_string();
            let why = why.split(" (os error").next().unwrap_or_default().to_lowercase();
            let (operation, hint) = match error.kind() {
                _ if file.is_dir() => ("BOM: read", "name a file with -c"),
                std::io::ErrorKind::NotFound => (
                    "open",
                    "name the file with -c, or a directory by DATASAFED_LOCAL_BACKEND_PATH",
                ),
                _ => ("open", "it has to be readable for the user whom this runs as"),
            };
            DatasafedError(format!("{operation} {shown}: {why}: {hint}"))
        })?;
        let ini =
            Ini::parse(&bytes).map_err(|error| DatasafedError(format!("{shown}: {error}")))?;
        let mut conf = Self::obscured(ini);
        conf.folder = file.parent().unwrap_or(Path::new("")).to_owned();
        Ok(conf)
    }

    fn obscured(mut ini: Ini) -> Self {
        let mut plain = Vec::new();
        let entropy = system_world().entropy;
        for section in ini.sections_mut() {
            let keys: Vec<String> = section.keys().map(str::to_owned).collect();
            for key in keys {
                let Some(name) = key.strip_suffix(NEED_OBSCURE) else { continue };
                let value = section.remove(&key).unwrap_or_default();
                section.set(name, obscure(&value, entropy.bytes()));
                plain.push((name.to_owned(), value));
            }
        }
        Self { ini, plain, folder: PathBuf::new() }
    }

    /// A setting as `getconf` tells it.
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        let section = if section.is_empty() { super::ini::FIRST } else { section };
        self.ini.section(section)?.get(key)
    }
}

/// The prefix of all paths: cleaned of blanks, not yet of dots.
pub fn base_path() -> String {
    variable("DATASAFED_BACKEND_BASE_PATH").to_string_lossy().trim().to_owned()
}

/// Bits a second to and from the storage, if there is a limit. The original datasafed knows none.
pub fn rate_limit() -> Result<Option<u64>, DatasafedError> {
    limit("STRONGROOM_RATE_LIMIT", parse_megabits)
}

/// Requests under way at once, if there is a limit.
pub fn concurrency() -> Result<Option<usize>, DatasafedError> {
    limit("STRONGROOM_CONCURRENCY", |text| {
        let number = text.parse().ok().filter(|number| (1..=1024).contains(number));
        number.ok_or_else(|| "is no number from 1 to 1024".to_owned())
    })
}

fn limit<T>(
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, DatasafedError> {
    let given = variable(name);
    let text = given.to_string_lossy();
    match text.trim() {
        "" => Ok(None),
        text => {
            parse(text).map(Some).map_err(|why| DatasafedError(format!("{name}: {text:?} {why}")))
        }
    }
}

/// The key of encrypted files, if the environment or else the file's section `[encryption]` asks for encryption:
/// `algorithm`, and `pass_phrase_file` with the passphrase, beside the configuration file unless its path is
/// absolute. The original datasafed knows no such section.
pub fn encryption(conf: &Conf) -> Result<Option<StreamKey>, DatasafedError> {
    let algorithm = variable("DATASAFED_ENCRYPTION_ALGORITHM");
    if !algorithm.is_empty() {
        // Its bytes as they are: neither trimmed nor text.
        let passphrase = Passphrase::new(variable("DATASAFED_ENCRYPTION_PASS_PHRASE").into_vec());
        let name = algorithm.to_string_lossy();
        return stream_key(&name, &passphrase, "DATASAFED_ENCRYPTION_ALGORITHM").map(Some);
    }
    let Some(section) = conf.ini.section(ENCRYPTION) else { return Ok(None) };
    // Whoever wrote the section wants encryption: what is missing or misspelt in it is an error.
    if let Some(key) = section.keys().find(|key| !["algorithm", "pass_phrase_file"].contains(key)) {
        return Err(DatasafedError(format!(
            "the configuration's section [{ENCRYPTION}] has {key}, which is unknown: it has algorithm and \
             pass_phrase_file"
        )));
    }
    let algorithm = section.get("algorithm").unwrap_or_default();
    let file = section.get("pass_phrase_file").filter(|file| !file.is_empty()).ok_or_else(|| {
        DatasafedError(format!(
            "the configuration's section [{ENCRYPTION}] has no pass_phrase_file: name the file with the passphrase"
        ))
    })?;
    let file = conf.folder.join(file);
    let passphrase = std::fs::read(&file).map_err(|error| {
        DatasafedError(format!("read the passphrase in {}: {error}", file.display()))
    })?;
    stream_key(algorithm, &Passphrase::new(passphrase), "encryption.algorithm").map(Some)
}

fn stream_key(
    algorithm: &str,
    passphrase: &Passphrase,
    setting: &str,
) -> Result<StreamKey, DatasafedError> {
    if passphrase.length() == 0 {
        return Err(DatasafedError::new("encryption pass phrase should not be empty"));
    }
    let name = algorithm.to_uppercase();
    let suites = [Suite::Aes128Cfb, Suite::Aes192Cfb, Suite::Aes256Cfb];
    let suite = suites.into_iter().find(|suite| suite.name() == name).ok_or_else(|| {
        DatasafedError(format!(
            "unknown encryption algorithm: {name}: {setting} is one of AES-128-CFB, AES-192-CFB, AES-256-CFB"
        ))
    })?;
    StreamKey::derive(passphrase, suite).map_err(|error| DatasafedError(error.to_string()))
}

/// Repositories of kopia are another storage altogether: to ignore the wish would store plain files where
/// somebody expects a repository.
pub fn refuse_kopia() -> Result<(), DatasafedError> {
    let root = variable("DATASAFED_KOPIA_REPO_ROOT");
    if root.as_bytes().trim_ascii().is_empty() {
        return Ok(());
    }
    Err(DatasafedError::new(
        "DATASAFED_KOPIA_REPO_ROOT is set, but repositories of kopia are not supported here: unset it \
         (useKopia: false in the BackupPolicy) and push with -z zstd; backups that are in such a repository \
         are restored with datasafed 0.2",
    ))
}

/// A file of certificate authorities that is trusted instead of the system's.
fn authorities() -> Option<PathBuf> {
    let named = ["AWS_CA_BUNDLE", "CA_CERT_PATH"].map(variable);
    named.into_iter().find(|given| !given.is_empty()).map(PathBuf::from)
}

/// Who we are to a server that asks for a client certificate.
fn identity() -> Result<Option<ClientIdentity>, DatasafedError> {
    let file = |name| Some(variable(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
    ClientIdentity::of_files(file("CLIENT_CERT_PATH"), file("CLIENT_KEY_PATH"))
        .map_err(DatasafedError)
}

fn local_backend() -> Result<Option<PathBuf>, DatasafedError> {
    const NAME: &str = "DATASAFED_LOCAL_BACKEND_PATH";
    let path = variable(NAME);
    if path.is_empty() {
        return Ok(None);
    }
    let failed = |path: &Path, why: &str| {
        DatasafedError(format!("the path \"{}\" specified by {NAME} {why}", path.display()))
    };
    let path = absolute(Path::new(&path));
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(Some(path)),
        Ok(_) => Err(failed(&path, "is not a directory")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(failed(&path, "does not exist"))
        }
        Err(error) => Err(failed(&path, &format!("cannot be used: {error}"))),
    }
}

/// An absolute path without `.` and `..`, as it is written.
fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut clean = PathBuf::new();
    for component in whole.components() {
        match component {
            std::path::Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    clean
}

fn variable(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_default()
}
