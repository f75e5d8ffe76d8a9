//! The opened keys of a volume.
//!
//! ```text
//! passphrase -KDF-> slot key, commitment      one pair per slot, up to 16
//! slot key   -GCM-> key-sealing key (KSK)     one per volume
//! KSK        -HKDF-> name key, descriptor MAC key, wrapping key
//! wrapping key -GCM-> master keys             numbered; new data are sealed under the highest
//! master key -HKDF-> one key per segment and per record
//! ```
//! Adding or removing a passphrase touches the slots only. Removing a slot does not take the key-sealing
//! key away from somebody who has opened it before; for that, data must be sealed anew in a new volume.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::derive;
use super::error::CryptoError;
use super::kdf::{self, Kdf};
use super::keyring_record::{
    Binary, KeyringRecord, MAX_MASTERS, MAX_SLOTS, Master, Slot, WRAPPED, check_label,
};
use super::secret::{Key32, Passphrase};
use super::suite::Suite;
use crate::units::VolumeId;
use crate::world::Entropy;

/// The number of a master key; 0 where there is none (unencrypted volumes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterNumber(pub u32);

impl fmt::Display for MasterNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A passphrase to be given a slot.
pub struct NewSlot<'a> {
    /// What its owner calls it: up to 64 bytes, no control characters, not secret.
    pub label: &'a str,
    /// The passphrase.
    pub passphrase: &'a Passphrase,
    /// How to derive the slot's key from it.
    pub kdf: Kdf,
}

/// The opened keys of one volume. All keys are wiped when it is dropped.
pub struct Keyring {
    volume: VolumeId,
    suite: Suite,
    /// `None` if and only if the suite is `Suite::None`.
    keys: Option<Keys>,
}

struct Keys {
    sealing: Key32,
    mac: Key32,
    names: Zeroizing<[u8; 64]>,
    /// Never empty.
    masters: BTreeMap<MasterNumber, Key32>,
}

impl Keyring {
    /// The keys of a new volume, and their stored form. The first slot is given if and only if the
    /// suite encrypts.
    ///
    /// # Errors
    /// `Invalid` or `Limit` if slot and suite do not fit each other or the slot is not acceptable.
    pub fn create(
        volume: VolumeId,
        suite: Suite,
        first: Option<NewSlot<'_>>,
        entropy: &dyn Entropy,
    ) -> Result<(Self, KeyringRecord), CryptoError> {
        let mut record = KeyringRecord { slots: Vec::new(), masters: Vec::new() };
        let slot = match (suite, first) {
            (Suite::None, None) => return Ok((Self { volume, suite, keys: None }, record)),
            (Suite::None, Some(_)) => {
                return Err(CryptoError::Invalid {
                    why: "create keyring: a volume that is not encrypted takes no passphrase",
                });
            }
            (_, None) => return Err(CryptoError::PassphraseNeeded),
            (_, Some(slot)) => slot,
        };
        let sealing = Key32::filled(|key| entropy.fill(key));
        let mut keyring =
            Self { volume, suite, keys: Some(Keys::new(sealing, volume, BTreeMap::new())) };
        keyring.add_master(&mut record, entropy)?;
        keyring.add_slot(&mut record, slot, entropy)?;
        Ok((keyring, record))
    }

    /// Opens the stored keys with a passphrase, trying every slot.
    ///
    /// The descriptor's MAC is still to be verified by the caller with [`Keyring::verify_mac`].
    ///
    /// # Errors
    /// `WrongPassphrase`; `PassphraseNeeded`; `Damaged` if the passphrase is right but the wrapped
    /// keys do not open for this volume and suite; `Invalid` if a passphrase is given for a volume
    /// that is not encrypted: the store may have replaced the descriptor to get at plaintext.
    pub fn open(
        volume: VolumeId,
        suite: Suite,
        record: &KeyringRecord,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, CryptoError> {
        match (suite, passphrase) {
            (Suite::None, Some(_)) => Err(CryptoError::Invalid {
                why: "open keyring: a passphrase was given but the descriptor says the volume \
                          is not encrypted; if it should be, the descriptor has been replaced",
            }),
            (Suite::None, None) if record.slots.is_empty() && record.masters.is_empty() => {
                Ok(Self { volume, suite, keys: None })
            }
            (Suite::None, None) => Err(CryptoError::Invalid {
                why: "open keyring: an unencrypted volume has no key slots",
            }),
            (_, None) => Err(CryptoError::PassphraseNeeded),
            (_, Some(_)) if record.slots.is_empty() || record.masters.is_empty() => {
                Err(CryptoError::Invalid {
                    why: "open keyring: the descriptor of an encrypted volume has no key slots",
                })
            }
            (_, Some(passphrase)) => {
                let sealing = record
                    .slots
                    .iter()
                    .find_map(|slot| open_slot(volume, suite, slot, passphrase).transpose())
                    .ok_or(CryptoError::WrongPassphrase)??;
                let keys = Keys::open(sealing, volume, suite, record)?;
                Ok(Self { volume, suite, keys: Some(keys) })
            }
        }
    }

    /// The keys of the same volume as its descriptor has them now, opened without a passphrase: what a
    /// passphrase opens never changes, so that a program that runs learns of new master keys.
    ///
    /// The descriptor's MAC is still to be verified by the caller with [`Keyring::verify_mac`].
    ///
    /// # Errors
    /// `Damaged` if the wrapped keys are not this volume's; `Invalid` for an unencrypted volume.
    pub fn reopened(&self, record: &KeyringRecord) -> Result<Self, CryptoError> {
        let sealing = self.encrypted()?.sealing.expose();
        let sealing = Key32::filled(|key| key.copy_from_slice(sealing));
        let keys = Keys::open(sealing, self.volume, self.suite, record)?;
        Ok(Self { volume: self.volume, suite: self.suite, keys: Some(keys) })
    }

    /// Adds a passphrase; returns the slot's id. The caller stores the record under a new MAC.
    ///
    /// # Errors
    /// `Limit` when all slots are taken; `Invalid` for an unencrypted volume or a bad slot.
    pub fn add_slot(
        &self,
        record: &mut KeyringRecord,
        slot: NewSlot<'_>,
        entropy: &dyn Entropy,
    ) -> Result<u32, CryptoError> {
        let NewSlot { label, passphrase, kdf } = slot;
        let keys = self.encrypted()?;
        check_label(label)?;
        if record.slots.len() >= MAX_SLOTS {
            return Err(CryptoError::Limit { what: "key slots", limit: MAX_SLOTS as u64 });
        }
        let id = match record.slots.iter().map(|slot| slot.id).max() {
            None => 1,
            Some(highest) => highest
                .checked_add(1)
                .ok_or(CryptoError::Limit { what: "slot ids", limit: u32::MAX.into() })?,
        };
        let salt = entropy.bytes();
        let (key, commitment) = slot_keys(kdf, passphrase, &salt, self.volume)?;
        let aad = slot_aad(self.volume, self.suite, id, kdf, &salt, &commitment);
        let key = wrap(&key, &aad, &keys.sealing, entropy);
        record.slots.push(Slot {
            id,
            label: label.to_owned(),
            kdf,
            salt: Binary(salt),
            commitment: Binary(commitment),
            key: Binary(key),
        });
        Ok(id)
    }

    /// Takes a slot out of the record, never the last one. Whoever opened the volume with it before
    /// may still have the keys.
    ///
    /// # Errors
    /// `Invalid` if there is no such slot or it is the last one.
    pub fn remove_slot(record: &mut KeyringRecord, id: u32) -> Result<(), CryptoError> {
        let Some(index) = record.slots.iter().position(|slot| slot.id == id) else {
            return Err(CryptoError::Invalid {
                why: "remove key slot: there is no slot with this id",
            });
        };
        if record.slots.len() == 1 {
            return Err(CryptoError::Invalid {
                why: "remove key slot: it is the last one, and without it nothing can be read; \
                      add another one first",
            });
        }
        record.slots.remove(index);
        Ok(())
    }

    /// Adds a master key under the next number; what is sealed from now on uses it. What was sealed
    /// before stays readable.
    ///
    /// # Errors
    /// `Limit` when the volume has too many; `Invalid` for an unencrypted volume.
    pub fn add_master(
        &mut self,
        record: &mut KeyringRecord,
        entropy: &dyn Entropy,
    ) -> Result<MasterNumber, CryptoError> {
        let (volume, suite) = (self.volume, self.suite);
        let keys = self.keys.as_mut().ok_or(NOT_ENCRYPTED)?;
        let known = keys.masters.keys().next_back().map_or(0, |number| number.0);
        let stored = record.masters.last().map_or(0, |master| master.number);
        if record.masters.len() >= MAX_MASTERS {
            return Err(CryptoError::Limit { what: "master keys", limit: MAX_MASTERS as u64 });
        }
        let number = known
            .max(stored)
            .checked_add(1)
            .ok_or(CryptoError::Limit { what: "master key numbers", limit: u32::MAX.into() })?;
        let master = Key32::filled(|key| entropy.fill(key));
        let wrapping = keys.wrapping(volume);
        let key = wrap(&wrapping, &master_aad(volume, suite, number), &master, entropy);
        record.masters.push(Master { number, key: Binary(key) });
        keys.masters.insert(MasterNumber(number), master);
        Ok(MasterNumber(number))
    }

    /// Authenticates a message, the descriptor: HMAC-SHA256 under the volume's key, or, if the volume
    /// is not encrypted, an unkeyed BLAKE3 that finds damage only.
    pub fn mac(&self, message: &[u8]) -> [u8; 32] {
        match &self.keys {
            Some(keys) => hmac(&keys.mac, message),
            None => {
                let mut hash = blake3::Hasher::new();
                hash.update(derive::DESCRIPTOR_MAC).update(&self.volume.0).update(message);
                hash.finalize().into()
            }
        }
    }

    /// Compares in constant time.
    ///
    /// # Errors
    /// `Damaged` if it is not this message's.
    pub fn verify_mac(&self, message: &[u8], mac: &[u8]) -> Result<(), CryptoError> {
        if bool::from(self.mac(message).as_slice().ct_eq(mac)) {
            Ok(())
        } else {
            Err(CryptoError::Damaged { what: "descriptor" })
        }
    }

    /// Authenticates a manifest by its digest: HMAC-SHA256 under a key of its own, or, if the volume is not
    /// encrypted, an unkeyed BLAKE3 that finds damage only.
    pub fn manifest_mac(&self, digest: &[u8; 32]) -> [u8; 32] {
        match &self.keys {
            Some(keys) => {
                let key = Key32::filled(|key| {
                    expand_from(&keys.sealing, derive::MANIFEST_MAC, self.volume, key);
                });
                hmac(&key, digest)
            }
            None => {
                let mut hash = blake3::Hasher::new();
                hash.update(derive::MANIFEST_MAC).update(&self.volume.0).update(digest);
                hash.finalize().into()
            }
        }
    }

    /// Compares in constant time.
    ///
    /// # Errors
    /// `Damaged` if nobody with these keys made it.
    pub fn verify_manifest_mac(&self, digest: &[u8; 32], mac: &[u8]) -> Result<(), CryptoError> {
        if bool::from(self.manifest_mac(digest).as_slice().ct_eq(mac)) {
            Ok(())
        } else {
            Err(CryptoError::Damaged { what: "manifest" })
        }
    }

    /// The volume these keys belong to.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The suite everything in the volume is sealed with.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The master key that new data are sealed under.
    pub fn current_master(&self) -> MasterNumber {
        let newest = self.keys.as_ref().and_then(|keys| keys.masters.keys().next_back());
        newest.copied().unwrap_or(MasterNumber(0))
    }

    /// Whether what is sealed under this master key can be opened.
    pub fn has_master(&self, number: MasterNumber) -> bool {
        self.master(number).is_ok()
    }

    /// The secret of that number, or no secret at all for an unencrypted volume.
    pub(super) fn master(&self, number: MasterNumber) -> Result<Option<&Key32>, CryptoError> {
        match &self.keys {
            Some(keys) => {
                let key = keys.masters.get(&number);
                key.map(Some).ok_or(CryptoError::UnknownMaster { number })
            }
            None if number == MasterNumber(0) => Ok(None),
            None => Err(CryptoError::UnknownMaster { number }),
        }
    }

    /// The key of names (AES-256-SIV's two keys), if names are sealed.
    pub(super) fn name_key(&self) -> Option<&[u8; 64]> {
        self.keys.as_ref().map(|keys| &*keys.names)
    }

    fn encrypted(&self) -> Result<&Keys, CryptoError> {
        self.keys.as_ref().ok_or(NOT_ENCRYPTED)
    }
}

const NOT_ENCRYPTED: CryptoError = CryptoError::Invalid {
    why: "the volume is not encrypted and has no keys; encryption is chosen when it is initialised",
};

impl Keys {
    fn new(sealing: Key32, volume: VolumeId, masters: BTreeMap<MasterNumber, Key32>) -> Self {
        let mac = Key32::filled(|key| expand_from(&sealing, derive::DESCRIPTOR_MAC, volume, key));
        let mut names = Zeroizing::new([0; 64]);
        expand_from(&sealing, derive::NAMES, volume, names.as_mut());
        Self { sealing, mac, names, masters }
    }

    fn open(
        sealing: Key32,
        volume: VolumeId,
        suite: Suite,
        record: &KeyringRecord,
    ) -> Result<Self, CryptoError> {
        let mut keys = Self::new(sealing, volume, BTreeMap::new());
        let wrapping = keys.wrapping(volume);
        for Master { number, key } in &record.masters {
            let master = unwrap(&wrapping, &master_aad(volume, suite, *number), &key.0)
                .ok_or(CryptoError::Damaged { what: "wrapped master key" })?;
            keys.masters.insert(MasterNumber(*number), master);
        }
        Ok(keys)
    }

    fn wrapping(&self, volume: VolumeId) -> Key32 {
        Key32::filled(|key| expand_from(&self.sealing, derive::MASTER_WRAP, volume, key))
    }
}

fn hmac(key: &Key32, message: &[u8]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn expand_from(sealing: &Key32, label: &[u8], volume: VolumeId, out: &mut [u8]) {
    derive::expand(sealing.expose(), &[], &[label, &volume.0], out);
}

/// `Ok(None)` if the slot is not this passphrase's; an error if it is, but is damaged.
fn open_slot(
    volume: VolumeId,
    suite: Suite,
    slot: &Slot,
    passphrase: &Passphrase,
) -> Result<Option<Key32>, CryptoError> {
    let Slot { id, label: _, kdf, salt, commitment, key } = slot;
    if !kdf.takes(passphrase) {
        return Ok(None);
    }
    let (slot_key, expected) = slot_keys(*kdf, passphrase, &salt.0, volume)?;
    if !bool::from(expected.ct_eq(&commitment.0)) {
        return Ok(None);
    }
    let aad = slot_aad(volume, suite, *id, *kdf, &salt.0, &commitment.0);
    unwrap(&slot_key, &aad, &key.0).map(Some).ok_or(CryptoError::Damaged { what: "key slot" })
}

/// The slot's key and its commitment. GCM alone does not commit to its key: without the commitment a
/// crafted slot could open under many passphrases at once and so tell the store which one was tried.
fn slot_keys(
    kdf: Kdf,
    passphrase: &Passphrase,
    salt: &[u8; kdf::SALT],
    volume: VolumeId,
) -> Result<(Key32, [u8; 32]), CryptoError> {
    let stretched = kdf.derive(passphrase, salt)?;
    let mut both = Zeroizing::new([0; 64]);
    let info: [&[u8]; 3] = [derive::SLOT, &volume.0, &kdf.to_bytes()];
    derive::expand(stretched.expose(), salt, &info, both.as_mut());
    let (key, commitment) = both.split_at(32);
    let mut public = [0; 32];
    public.copy_from_slice(commitment);
    Ok((Key32::filled(|out| out.copy_from_slice(key)), public))
}

fn slot_aad(
    volume: VolumeId,
    suite: Suite,
    id: u32,
    kdf: Kdf,
    salt: &[u8; kdf::SALT],
    commitment: &[u8; 32],
) -> Vec<u8> {
    let id = id.to_be_bytes();
    [derive::SLOT, &volume.0, &[suite.code()], &id, &kdf.to_bytes(), salt, commitment].concat()
}

fn master_aad(volume: VolumeId, suite: Suite, number: u32) -> Vec<u8> {
    let number = number.to_be_bytes();
    [derive::MASTER_WRAP, &volume.0, &[suite.code()], &number].concat()
}

fn wrap(under: &Key32, aad: &[u8], key: &Key32, entropy: &dyn Entropy) -> [u8; WRAPPED] {
    let nonce: [u8; 12] = entropy.bytes();
    let mut wrapped = [0; WRAPPED];
    wrapped[..12].copy_from_slice(&nonce);
    wrapped[12..44].copy_from_slice(key.expose());
    let tag = gcm_key(under.expose())
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut wrapped[12..44],
        )
        // Fails only beyond 64 GiB of plaintext.
        .expect("32 bytes can be sealed");
    wrapped[44..].copy_from_slice(tag.as_ref());
    wrapped
}

fn unwrap(under: &Key32, aad: &[u8], wrapped: &[u8; WRAPPED]) -> Option<Key32> {
    let (nonce, sealed) = wrapped.split_at(12);
    let (sealed, tag) = sealed.split_at(32);
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut outcome = Err(aws_lc_rs::error::Unspecified);
    let key = Key32::filled(|out| {
        outcome =
            gcm_key(under.expose()).open_separate_gather(nonce, Aad::from(aad), sealed, tag, out);
    });
    outcome.ok().map(|()| key)
}

/// AES-256-GCM under these 32 bytes.
pub(super) fn gcm_key(key: &[u8; 32]) -> LessSafeKey {
    // Fails only for a wrong length of the key.
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes"))
}
