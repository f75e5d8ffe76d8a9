//! `strongroom.json`: what a volume is and how its keys are wrapped.
//!
//! Crash story: the descriptor is created with If-None-Match and read back; a change is written first
//! as a write-once copy `k/<generation>`, then by If-Match over the descriptor. A crash between the two
//! leaves a copy that the next change overwrites nothing with: it takes the next free generation.

use crate::crypto::{CryptoError, Keyring, KeyringRecord, Passphrase, Suite};
use crate::units::VolumeId;
use crate::volume::VolumeError;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// The newest format that this program reads and the one that it writes.
pub const FORMAT: u64 = 1;
/// A descriptor's size, at most: sixteen slots and thousands of master keys fit.
pub const SIZE_LIMIT: u64 = 1 << 20;

/// The descriptor's stored form.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Format version of the whole volume.
    pub format: u64,
    /// The volume's id, 32 hexadecimal digits.
    pub volume: String,
    /// The encryption suite's name.
    pub suite: String,
    /// Plaintext bytes in a chunk of a segment.
    pub chunk_size: u64,
    /// Counts the changes of this descriptor.
    pub generation: u64,
    /// Key slots and wrapped master keys.
    pub keyring: KeyringRecord,
    /// MAC over the JSON of all the above (this field being empty), in hexadecimal digits.
    #[serde(default)]
    pub mac: String,
}

impl Descriptor {
    /// A new volume's descriptor.
    pub fn new(keyring: &Keyring, record: KeyringRecord) -> Self {
        Self {
            format: FORMAT,
            volume: keyring.volume().to_string(),
            suite: keyring.suite().to_string(),
            chunk_size: crate::crypto::CHUNK,
            generation: 1,
            keyring: record,
            mac: String::new(),
        }
    }

    /// The stored form, authenticated.
    pub fn seal(&mut self, keyring: &Keyring) -> Vec<u8> {
        self.mac = HEXLOWER.encode(&keyring.mac(&self.authenticated()));
        let mut text =
            serde_json::to_vec_pretty(self).expect("a descriptor is strings and numbers");
        text.push(b'\n');
        text
    }

    /// Reads the stored form; it is not to be trusted before [`Self::open`].
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self, VolumeError> {
        // The version first: a newer descriptor may have other fields.
        #[derive(Deserialize)]
        struct Version {
            format: u64,
        }
        let not_ours = |error: serde_json::Error| {
            VolumeError::NotAVolume(format!(
                "{what}: is not a volume's descriptor: {error}; if it is damaged, copies of it lie under k/"
            ))
        };
        let Version { format } = serde_json::from_slice(bytes).map_err(not_ours)?;
        if format > FORMAT {
            return Err(VolumeError::NewerFormat {
                what: what.to_owned(),
                found: format,
                known: FORMAT,
            });
        }
        serde_json::from_slice(bytes).map_err(|error| VolumeError::corrupt(what, error))
    }

    /// Opens the keyring with the passphrase and authenticates the descriptor.
    pub fn open(
        &self,
        passphrase: Option<&Passphrase>,
        what: &str,
    ) -> Result<Keyring, VolumeError> {
        let volume: VolumeId = self
            .volume
            .parse()
            .map_err(|_| VolumeError::corrupt(what, "volume id is malformed"))?;
        let suite: Suite = self
            .suite
            .parse()
            .map_err(|_| VolumeError::corrupt(what, format!("unknown suite {:?}", self.suite)))?;
        let keyring = Keyring::open(volume, suite, &self.keyring, passphrase)
            .map_err(|error| passphrase_error(error, what))?;
        self.authenticate(&keyring, what)?;
        Ok(keyring)
    }

    /// The keys of a later descriptor of the same volume, without the passphrase: who has opened a volume
    /// can open what its other users have changed since.
    pub fn reopen(&self, former: &Keyring, what: &str) -> Result<Keyring, VolumeError> {
        let same =
            self.volume == former.volume().to_string() && self.suite == former.suite().to_string();
        if !same {
            return Err(VolumeError::corrupt(what, "it is another volume's now"));
        }
        let keyring =
            former.reopened(&self.keyring).map_err(|error| VolumeError::corrupt(what, error))?;
        self.authenticate(&keyring, what)?;
        Ok(keyring)
    }

    fn authenticate(&self, keyring: &Keyring, what: &str) -> Result<(), VolumeError> {
        if self.chunk_size != crate::crypto::CHUNK {
            return Err(VolumeError::corrupt(what, "unknown chunk size"));
        }
        let mac = HEXLOWER.decode(self.mac.as_bytes()).unwrap_or_default();
        keyring
            .verify_mac(&self.authenticated(), &mac)
            .map_err(|_| VolumeError::corrupt(what, "its authentication code does not match"))
    }

    fn authenticated(&self) -> Vec<u8> {
        let bare = Self { mac: String::new(), ..self.clone() };
        serde_json::to_vec(&bare).expect("a descriptor is strings and numbers")
    }
}

/// Wrong and missing passphrases have a remedy of their own; everything else is damage.
fn passphrase_error(error: CryptoError, what: &str) -> VolumeError {
    match error {
        CryptoError::WrongPassphrase | CryptoError::PassphraseNeeded => {
            VolumeError::Passphrase(error)
        }
        other => VolumeError::corrupt(what, other),
    }
}
