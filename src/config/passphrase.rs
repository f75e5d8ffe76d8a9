//! Where the passphrase comes from: a file, the environment or a prompt. Never an argument, which every
//! user of the machine could read.

use crate::crypto::Passphrase;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The longest passphrase that is read; a file that is longer was given by mistake.
const LIMIT: u64 = 64 << 10;

const TEXT_VARIABLE: &str = "STRONGROOM_PASSPHRASE";
const FILE_VARIABLE: &str = "STRONGROOM_PASSPHRASE_FILE";

/// What the settings say of it.
#[derive(Clone, Debug, Default)]
pub struct PassphraseSource {
    /// `--passphrase-file`.
    pub flag: Option<PathBuf>,
    /// `passphrase_file` of the configuration file.
    pub config: Option<PathBuf>,
    /// What the program that started this one says of it; then nothing else counts.
    pub handed: Option<Handed>,
}

/// A passphrase that another program has handed over, or that there is none.
#[derive(Clone)]
pub struct Handed(Option<Arc<Passphrase>>);

impl Handed {
    /// What was handed over.
    pub fn new(passphrase: Option<Passphrase>) -> Self {
        Self(passphrase.map(Arc::new))
    }

    /// The keys that were derived from it, see [`Passphrase::derived`].
    pub fn derived(&self) -> Zeroizing<Vec<u8>> {
        self.0.as_deref().map(Passphrase::derived).unwrap_or_default()
    }
}

/// Never the passphrase.
impl std::fmt::Debug for Handed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Handed" } else { "None" })
    }
}

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// The file cannot be read.
    #[error("cannot read passphrase file {}: {}", .0.display(), .1)]
    Unreadable(PathBuf, std::io::Error),
    /// It holds nothing, or far too much.
    #[error("passphrase file {}: {}", .0.display(), .1)]
    Unusable(PathBuf, &'static str),
    /// No source at all.
    #[error(
        "the volume is encrypted and no passphrase is given: use --passphrase-file FILE, or set \
         STRONGROOM_PASSPHRASE_FILE or STRONGROOM_PASSPHRASE"
    )]
    Missing,
    /// The two prompts of a new passphrase differ.
    #[error("the two passphrases differ; nothing was changed")]
    Different,
    /// The terminal failed.
    #[error("cannot read the passphrase from the terminal: {0}")]
    Terminal(std::io::Error),
}

impl PassphraseSource {
    /// The passphrase of an existing volume.
    pub fn read(&self) -> Result<Arc<Passphrase>, PassphraseError> {
        match self.without_prompt()? {
            Some(passphrase) => Ok(passphrase),
            None => prompt("Passphrase: ").map(Arc::new),
        }
    }

    /// A new passphrase: at a terminal it is asked for twice.
    pub fn read_new(&self) -> Result<Arc<Passphrase>, PassphraseError> {
        if let Some(passphrase) = self.without_prompt()? {
            return Ok(passphrase);
        }
        Self::prompt_for_new()
    }

    /// Asks for a new passphrase, twice.
    pub fn prompt_for_new() -> Result<Arc<Passphrase>, PassphraseError> {
        let (first, second) = (ask("New passphrase: ")?, ask("Once more: ")?);
        if *first != *second {
            return Err(PassphraseError::Different);
        }
        Ok(Arc::new(Passphrase::new(first.as_bytes().to_vec())))
    }

    /// Whether a passphrase is given by any setting. Nothing is read or asked for.
    pub fn is_given(&self) -> bool {
        self.chosen().is_some()
    }

    /// Where the passphrase comes from, for messages.
    pub fn shown(&self) -> String {
        match self.chosen() {
            Some(Chosen::Handed(_)) => "the program that started this one".to_owned(),
            Some(Chosen::Text(_)) => TEXT_VARIABLE.to_owned(),
            Some(Chosen::File(path, None)) => path.display().to_string(),
            Some(Chosen::File(path, Some(by))) => format!("{} ({by})", path.display()),
            None => "the prompt".to_owned(),
        }
    }

    /// The setting that counts: flag, then environment, then configuration file.
    fn chosen(&self) -> Option<Chosen> {
        if let Some(Handed(passphrase)) = &self.handed {
            return passphrase.clone().map(Chosen::Handed);
        }
        if let Some(path) = &self.flag {
            return Some(Chosen::File(path.clone(), None));
        }
        if let Some(text) = std::env::var_os(TEXT_VARIABLE).filter(|text| !text.is_empty()) {
            return Some(Chosen::Text(Passphrase::new(text.into_vec())));
        }
        if let Some(path) = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()) {
            return Some(Chosen::File(path.into(), Some(FILE_VARIABLE)));
        }
        let path = self.config.clone()?;
        Some(Chosen::File(path, Some("configuration file")))
    }

    /// The passphrase that a file holds; `path` is for the message. One line end at its end does not
    /// belong to the passphrase.
    #[doc(hidden)]
    pub fn parse_file(path: &Path, bytes: &[u8]) -> Result<Passphrase, PassphraseError> {
        let unusable = |why| Err(PassphraseError::Unusable(path.to_owned(), why));
        if bytes.len() as u64 > LIMIT {
            return unusable("it is longer than 64 KiB");
        }
        let bytes = bytes
            .strip_suffix(b"\n")
            .map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line));
        if bytes.is_empty() {
            return unusable("it is empty");
        }
        Ok(Passphrase::new(bytes.to_vec()))
    }

    fn without_prompt(&self) -> Result<Option<Arc<Passphrase>>, PassphraseError> {
        match self.chosen() {
            Some(Chosen::File(path, _)) => read_file(&path).map(|read| Some(Arc::new(read))),
            Some(Chosen::Text(passphrase)) => Ok(Some(Arc::new(passphrase))),
            Some(Chosen::Handed(passphrase)) => Ok(Some(passphrase)),
            None => Ok(None),
        }
    }
}

/// Where a passphrase is.
enum Chosen {
    /// In a file, named by a flag or by something else.
    File(PathBuf, Option<&'static str>),
    /// In the environment.
    Text(Passphrase),
    /// From the program that started this one.
    Handed(Arc<Passphrase>),
}

fn read_file(path: &Path) -> Result<Passphrase, PassphraseError> {
    use std::os::unix::fs::PermissionsExt;
    let unreadable = |error| PassphraseError::Unreadable(path.to_owned(), error);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_file() && metadata.permissions().mode() & 0o004 != 0 {
        tracing::warn!("passphrase file {} can be read by every user", path.display());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    PassphraseSource::parse_file(path, &bytes)
}

fn prompt(text: &str) -> Result<Passphrase, PassphraseError> {
    Ok(Passphrase::new(ask(text)?.as_bytes().to_vec()))
}

fn ask(text: &str) -> Result<Zeroizing<String>, PassphraseError> {
    if !std::io::stdin().is_terminal() {
        return Err(PassphraseError::Missing);
    }
    rpassword::prompt_password(text).map(Zeroizing::new).map_err(PassphraseError::Terminal)
}
