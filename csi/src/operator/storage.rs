//! The steps that make what drivers and workloads are told: Secret, StorageClass, claim, datasafed's file.

use super::conditions::kinds;
use super::crd::{AccessMethod, BackupRepo};
use super::encryption::Encryption;
use super::names;
use super::namespaces::{is_older, list};
use super::objects::{self, CONFIG_KEY, Maker, PASSPHRASE_KEY, reference};
use super::observed::{Action, Kind, Reference};
use super::reconcile::Work;
use super::render::Templates;
use super::tenants;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use std::collections::BTreeMap;

impl Work<'_> {
    /// The CSI driver's Secret and the StorageClass; whether there is a class.
    pub(super) fn storage(
        &mut self,
        templates: &Templates<'_>,
        digest: &str,
        wish: Option<&Encryption>,
        passphrase: Option<&[u8]>,
        method: AccessMethod,
        has_tenants: bool,
    ) -> Option<bool> {
        let kind = kinds::STORAGE_CLASS;
        let observed = self.observed;
        let maker = Maker { repo: &observed.repo, settings: self.settings, digest };
        let is_said = |repo: &BackupRepo| {
            let annotations = repo.metadata.annotations.as_ref();
            annotations.is_some_and(|all| all.contains_key(names::TENANT_SECRETS))
        };
        if !has_tenants
            && !is_said(&observed.repo)
            && tenants::were_served(observed, &self.called, &self.settings.namespace)
        {
            let message = format!(
                "the annotation {0} is gone, and this repository's namespaces have Secrets of their own: put it back;                  {0}: \"false\" gives all of them the repository's credentials and passphrase, which open nothing that \
                 they have stored so far",
                names::TENANT_SECRETS
            );
            return self.refuse(kind, "TenantSecretsRemoved", message);
        }
        let values = match driver_values(templates, passphrase) {
            Ok(values) => values,
            Err(error) => return self.refuse(kind, "PrepareCSISecretFailed", error),
        };
        if let Some(values) = values {
            let wanted = maker.csi_secret(&self.called.csi_secret, values.clone());
            if !self.secret(observed.csi_secret.as_ref(), &wanted) {
                return None;
            }
            if has_tenants && method == AccessMethod::Mount {
                // What the pre-check's claim is made with is the repository's own.
                let here = &self.settings.namespace;
                let at = tenants::of(&self.called, here);
                let wanted = maker.tenant_csi_secret(&at, here, values);
                let mut existing = observed.tenant_csi_secrets.iter();
                let existing = existing.find(|secret| secret.metadata.name == wanted.metadata.name);
                if !self.secret(existing, &wanted) {
                    return None;
                }
            }
        } else {
            self.status.generated_csi_driver_secret = None;
        }
        if method == AccessMethod::Tool {
            self.conditions.yes(kind, "StorageClassCreated", "not needed to access with the tool");
            return Some(false);
        }
        let rendered = match templates.storage_class() {
            Ok(rendered) => rendered,
            Err(error) => return self.refuse(kind, "PrepareStorageClassFailed", error),
        };
        let Some(rendered) = rendered else {
            if wish.is_some() {
                return self.not_encrypting("has no StorageClass of its own");
            }
            self.conditions.yes(kind, "StorageClassCreated", "the provider needs none");
            return Some(false);
        };
        self.status.generated_storage_class_name = Some(self.called.storage_class.clone());
        let wanted = maker.storage_class(&self.called.storage_class, rendered);
        if let Some(wish) = wish
            && !encrypts(&wanted, wish)
        {
            return self.not_encrypting("does not give encryption to its driver");
        }
        if has_tenants && !tenants::are_used_by(&wanted) {
            let message = format!(
                "StorageProvider {} tells its driver of no Secret by CSIDriverSecretRef, so that tenants cannot have their \
                 own: use another provider, or accessMethod Tool",
                observed.repo.spec.storage_provider_ref
            );
            return self.refuse(kind, "PrepareStorageClassFailed", message);
        }
        let Some(existing) = &observed.storage_class else {
            let place = Reference {
                kind: Kind::StorageClass,
                namespace: None,
                name: self.called.storage_class.clone(),
            };
            self.plan.actions.push(Action::StorageClass(wanted));
            if let Some(why) = observed.refusals.get(&place) {
                let message = format!("{place} could not be made: {why}");
                return self.refuse(kind, "PrepareStorageClassFailed", message);
            }
            self.begun = true;
            self.conditions.unknown(kind, "PrepareStorageClass", "the StorageClass is being made");
            return None;
        };
        if let Some(wish) = wish
            && !encrypts(existing, wish)
        {
            let message = format!(
                "StorageClass {} was made without this encryption: make another repository for encrypted backups",
                self.called.storage_class
            );
            return self.refuse(kinds::ENCRYPTION, "EncryptionNotSupported", message);
        }
        if tenants::are_used_by(&wanted) != tenants::are_used_by(existing) {
            let mut claims = observed.claims.iter().map(|claim| &claim.metadata);
            if has_tenants
                && wish.is_some()
                && claims.any(|claim| claim.namespace.as_ref() != Some(&self.settings.namespace))
            {
                let message = "its namespaces have claims by the repository's passphrase, which their own would not open: \
                               make another repository for tenants, or give each the former passphrase as its own, then \
                               delete these claims (with pvReclaimPolicy Retain) and the StorageClass"
                    .to_owned();
                return self.refuse(kind, "PrepareStorageClassFailed", message);
            }
            let message = format!(
                "StorageClass {} was made {} Secrets of tenants: kubectl delete storageclass {0} has it made anew (what is \
                 mounted stays so)",
                self.called.storage_class,
                if has_tenants { "before there were" } else { "for" },
            );
            return self.refuse(kind, "PrepareStorageClassFailed", message);
        }
        if wish.is_some() {
            // A class that was deleted and made anew does not encrypt what was made before it.
            let older = observed.claims.iter().filter(|claim| {
                claim.metadata.deletion_timestamp.is_none()
                    && is_older(&claim.metadata, &existing.metadata)
            });
            let older: Vec<String> = older
                .map(|claim| reference(Kind::PersistentVolumeClaim, &claim.metadata).to_string())
                .collect();
            if !older.is_empty() {
                let older: Vec<&str> = older.iter().map(String::as_str).collect();
                let message = format!(
                    "these are older than the StorageClass that encrypts, and may hold plain data: {}: delete them, \
                     or make another repository for encrypted backups",
                    list(&older)
                );
                return self.refuse(kinds::ENCRYPTION, "EncryptionNotSupported", message);
            }
        }
        let same_policy = existing.reclaim_policy == wanted.reclaim_policy;
        let message = match same_policy
            && existing.parameters == wanted.parameters
            && existing.mount_options.as_ref().filter(|all| !all.is_empty())
                == wanted.mount_options.as_ref().filter(|all| !all.is_empty())
        {
            true => String::new(),
            false => format!(
                "StorageClass {} keeps the parameters and the reclaim policy it was made with, since the volumes have \
                 them; delete it to have it made anew for volumes to come",
                self.called.storage_class
            ),
        };
        self.conditions.yes(kind, "StorageClassCreated", message);
        Some(true)
    }

    /// Makes the CSI driver's Secret what it should be; whether it is.
    fn secret(&mut self, existing: Option<&Secret>, wanted: &Secret) -> bool {
        if existing.is_some_and(|existing| objects::is_current(existing, wanted)) {
            return true;
        }
        let place = reference(Kind::Secret, &wanted.metadata);
        self.plan.actions.push(Action::Secret(wanted.clone()));
        match self.observed.refusals.get(&place) {
            Some(why) => self.conditions.no(
                kinds::STORAGE_CLASS,
                "PrepareCSISecretFailed",
                format!("{place} could not be written: {why}"),
            ),
            None => {
                self.begun = true;
                let message = format!("{place} is being written");
                self.conditions.unknown(kinds::STORAGE_CLASS, "PrepareCSISecret", message);
            }
        }
        false
    }

    fn not_encrypting<T>(&mut self, why: &str) -> Option<T> {
        let provider = &self.observed.repo.spec.storage_provider_ref;
        let message = format!(
            "StorageProvider {provider} {why}, so that a mounted volume would hold plain data: use a provider whose \
             storageClassTemplate sets the parameter encryption (deploy/storage-providers), or accessMethod Tool"
        );
        self.refuse(kinds::ENCRYPTION, "EncryptionNotSupported", message)
    }

    /// The provider's claim, if it has one.
    pub(super) fn claim_template(
        &mut self,
        templates: &Templates<'_>,
        wish: Option<&Encryption>,
        method: AccessMethod,
    ) -> Option<Option<PersistentVolumeClaim>> {
        let kind = kinds::CLAIM;
        if method == AccessMethod::Tool {
            self.conditions.yes(kind, "Skipped", "");
            return Some(None);
        }
        match templates.claim() {
            Ok(Some(claim)) => {
                if wish.is_some() && has_other_storage(&claim, &self.called.storage_class) {
                    return self.not_encrypting("has a claim with storage of its own");
                }
                self.conditions.yes(kind, "PVCTemplateChecked", "");
                Some(Some(claim))
            }
            Ok(None) => {
                self.conditions.yes(kind, "Skipped", "");
                Some(None)
            }
            Err(error) => self.refuse(kind, "BadPVCTemplate", error),
        }
    }

    /// What workloads find in /etc/datasafed.
    pub(super) fn tool_config(
        &mut self,
        templates: &Templates<'_>,
        wish: Option<&Encryption>,
        passphrase: Option<&[u8]>,
    ) -> Option<BTreeMap<String, Vec<u8>>> {
        match tool_files(templates, wish, passphrase) {
            Ok(files) => Some(files),
            Err(error) => self.refuse(kinds::PROVIDER, "InvalidStorageProvider", error),
        }
    }
}

/// The contents of the CSI driver's Secret, if there is to be one: also where no driver needs it, by it the first
/// passphrase is remembered.
pub(super) fn driver_values(
    templates: &Templates<'_>,
    passphrase: Option<&[u8]>,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
    let values = templates.csi_secret()?;
    let mut values = values
        .map(|values| values.into_iter().map(|(key, value)| (key, value.into_bytes())).collect());
    if let Some(passphrase) = passphrase {
        let values = values.get_or_insert_with(BTreeMap::new);
        values.insert(PASSPHRASE_KEY.to_owned(), passphrase.to_vec());
    }
    Ok(values)
}

/// What workloads find in /etc/datasafed.
pub(super) fn tool_files(
    templates: &Templates<'_>,
    wish: Option<&Encryption>,
    passphrase: Option<&[u8]>,
) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut config = templates.tool_config()?.unwrap_or_default();
    let mut files = BTreeMap::new();
    if let (Some(wish), Some(passphrase)) = (wish, passphrase) {
        if !config.ends_with('\n') {
            config.push('\n');
        }
        config.push_str(&format!(
            "\n[encryption]\nalgorithm = {}\npass_phrase_file = {PASSPHRASE_KEY}\n",
            wish.algorithm
        ));
        files.insert(PASSPHRASE_KEY.to_owned(), passphrase.to_vec());
    }
    files.insert(CONFIG_KEY.to_owned(), config.into_bytes());
    Ok(files)
}

/// Whether a claim is not for a volume of our class.
fn has_other_storage(claim: &PersistentVolumeClaim, class: &str) -> bool {
    claim.spec.as_ref().is_some_and(|spec| {
        let named = spec.storage_class_name.as_deref().filter(|name| !name.is_empty());
        named.is_some_and(|name| name != class)
            || spec.volume_name.as_ref().is_some_and(|name| !name.is_empty())
            || spec.data_source.is_some()
            || spec.data_source_ref.is_some()
    })
}

/// Whether a class tells its driver to encrypt so.
fn encrypts(class: &StorageClass, wish: &Encryption) -> bool {
    let parameters = class.parameters.as_ref();
    parameters.and_then(|all| all.get("encryption")).is_some_and(|value| *value == wish.algorithm)
}
