//! Changing a volume's passphrases and master keys: only the descriptor changes, never data.
//!
//! Crash story: the new descriptor is first written to `k/<generation>`, which is never overwritten,
//! then over `strongroom.json` by If-Match on what it was based on. A crash between the two leaves a
//! copy of a descriptor that never was in force; the next change takes a later generation.

use super::descriptor::{Descriptor, SIZE_LIMIT};
use super::{Volume, keys};
use crate::crypto::{Keyring, MasterNumber, NewSlot, Passphrase, Suite};
use crate::store::{Fetched, PutWhen, StoreErrorKind};
use crate::units::ByteRange;
use crate::volume::VolumeError;

/// How often a change is based anew on what somebody else has just written.
const ATTEMPTS: usize = 4;

impl Volume {
    /// Adds a passphrase; returns its slot's number.
    pub async fn add_passphrase(
        &self,
        passphrase: &Passphrase,
        slot: &NewSlot<'_>,
    ) -> Result<u32, VolumeError> {
        let entropy = self.world().entropy.clone();
        self.change_descriptor(passphrase, |keyring, descriptor| {
            let NewSlot { label, passphrase, kdf } = slot;
            let slot = NewSlot { label, passphrase, kdf: *kdf };
            keyring.add_slot(&mut descriptor.keyring, slot, &*entropy)
        })
        .await
    }

    /// Removes a slot. Whoever has read the volume's keys with its passphrase still knows them.
    pub async fn remove_passphrase(
        &self,
        passphrase: &Passphrase,
        slot: u32,
    ) -> Result<(), VolumeError> {
        self.change_descriptor(passphrase, |_, descriptor| {
            Keyring::remove_slot(&mut descriptor.keyring, slot)
        })
        .await
    }

    /// Adds a master key, under which everything new is sealed; returns its number. Programs that have
    /// the volume open learn of it within a minute, or when they meet what is sealed under it.
    pub async fn rotate_master(&self, passphrase: &Passphrase) -> Result<u32, VolumeError> {
        let entropy = self.world().entropy.clone();
        self.change_descriptor(passphrase, |keyring, descriptor| {
            Ok(keyring.add_master(&mut descriptor.keyring, &*entropy)?.0)
        })
        .await
    }

    /// Reads the descriptor again and takes over the keys that other programs have added to it. What is
    /// sealed from then on is sealed under the newest one.
    ///
    /// # Errors
    /// `Corrupt` if the descriptor is not authentic; the keys stay what they were.
    pub async fn refresh_keys(&self) -> Result<(), VolumeError> {
        if self.suite() == Suite::None {
            return Ok(());
        }
        let _turn = self.key_turn.lock().await;
        self.read_keys().await
    }

    /// To be called before something is opened that names this master key: an unknown one is looked for
    /// in the descriptor, once. The number may come from a hostile store, which gains a request by it.
    pub(super) async fn learn_master(&self, number: Option<MasterNumber>) {
        let Some(number) = number.filter(|number| !self.keyring().has_master(*number)) else {
            return;
        };
        let _turn = self.key_turn.lock().await;
        // Somebody else has looked while this one waited.
        if self.suite() == Suite::None || self.keyring().has_master(number) {
            return;
        }
        if let Err(error) = self.read_keys().await {
            tracing::warn!("the descriptor cannot be read for master key {number}: {error}");
        }
    }

    async fn read_keys(&self) -> Result<(), VolumeError> {
        let what = format!("{}: {}", self.store().describe(), keys::DESCRIPTOR);
        let range = ByteRange::new(0, SIZE_LIMIT);
        let object = match self.store().get(&keys::descriptor(), Some(range), None).await? {
            Fetched::Object(object) => object,
            Fetched::Unchanged => return Ok(()),
        };
        let descriptor = Descriptor::parse(&object.body.bytes(), &what)?;
        let known = self.descriptor().generation;
        if descriptor.generation < known {
            let found = descriptor.generation;
            tracing::error!(
                "{what}: generation {found} stands there after {known} was read: the store has rolled it \
                 back, or somebody has put an old copy there"
            );
        }
        if descriptor.generation <= known {
            return Ok(());
        }
        let keyring = descriptor.reopen(self.keyring(), &what)?;
        tracing::info!("keys as of generation {} of the descriptor", descriptor.generation);
        self.set_keys(keyring, descriptor);
        Ok(())
    }

    async fn change_descriptor<T>(
        &self,
        passphrase: &Passphrase,
        change: impl Fn(&mut Keyring, &mut Descriptor) -> Result<T, crate::crypto::CryptoError>,
    ) -> Result<T, VolumeError> {
        let key = keys::descriptor();
        let what = format!("{}: {}", self.store().describe(), keys::DESCRIPTOR);
        let capabilities = self.probe().await?;
        for _ in 0..ATTEMPTS {
            let range = ByteRange::new(0, SIZE_LIMIT);
            let object = match self.store().get(&key, Some(range), None).await? {
                Fetched::Object(object) => object,
                Fetched::Unchanged => continue,
            };
            let mut descriptor = Descriptor::parse(&object.body.bytes(), &what)?;
            let mut keyring = descriptor.open(Some(passphrase), &what)?;
            let result = change(&mut keyring, &mut descriptor)
                .map_err(|error| VolumeError::Invalid(error.to_string()))?;
            let sealed = loop {
                descriptor.generation += 1;
                let sealed = bytes::Bytes::from(descriptor.seal(&keyring));
                let copy = keys::descriptor_copy(descriptor.generation);
                match self.store().head(&copy).await {
                    Ok(_) => continue,
                    Err(error) if error.kind == StoreErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
                let when = if capabilities.if_absent { PutWhen::IfAbsent } else { PutWhen::Always };
                match self.store().put(&copy, sealed.clone(), when).await {
                    Ok(_) => break sealed,
                    Err(error) if error.kind == StoreErrorKind::PreconditionFailed => {}
                    Err(error) => return Err(error.into()),
                }
            };
            let when = if capabilities.if_match {
                PutWhen::IfMatch(object.meta.etag)
            } else {
                PutWhen::Always
            };
            match self.store().put(&key, sealed.clone(), when).await {
                Ok(_) => return Ok(result),
                Err(error) => {
                    // A lost reply is settled by reading; a change by somebody else is the new base.
                    match self.store().get(&key, None, None).await? {
                        Fetched::Object(now) if now.body.bytes() == sealed => return Ok(result),
                        _ if error.kind == StoreErrorKind::PreconditionFailed => {}
                        _ => return Err(error.into()),
                    }
                }
            }
        }
        Err(VolumeError::Conflict(what))
    }
}
