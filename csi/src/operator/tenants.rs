//! Tenants with Secrets of their own, so that what one namespace is given opens nothing of another's.
//!
//! A repository asks for it by the annotation `strongroom.io/tenant-secrets: "true"`. No namespace is given the
//! repository's own credentials then: an administrator makes a Secret for each, beside the repository's, with the labels
//! `strongroom.io/backup-repo: REPOSITORY` and `strongroom.io/tenant: NAMESPACE`. Its keys take the place of the
//! repository's credentials, and of its passphrase. What the driver needs of it lies in the operator's namespace, under
//! a name that ends in the tenant's; the StorageClass leaves the choice to whose claim it is. It stays there as long as
//! the repository: by it another passphrase is noticed, which would not open what the namespace has.

use super::crd::{BackupRepo, StorageProviderSpec};
use super::encryption::Encryption;
use super::names;
use super::objects::{Maker, Names, PASSPHRASE_KEY, name};
use super::observed::{Observed, Settings};
use super::parameters::{Parameters, is_declared};
use super::render::Templates;
use super::storage::{driver_values, tool_files};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::storage::v1::StorageClass;
use std::collections::BTreeMap;

/// What the provisioner puts a claim's namespace in the place of.
const CLAIMS_NAMESPACE: &str = "${pvc.namespace}";

/// Whether a repository's namespaces have Secrets of their own.
///
/// # Errors
/// The annotation says neither yes nor no.
pub fn are_wanted(repo: &BackupRepo) -> Result<bool, String> {
    let annotations = repo.metadata.annotations.as_ref();
    match annotations.and_then(|all| all.get(names::TENANT_SECRETS)).map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(format!(
            "annotation {}: {other:?} is neither \"true\" nor \"false\"",
            names::TENANT_SECRETS
        )),
    }
}

/// The namespace of the Secrets that are made for tenants: that of the repository's own, else the operator's.
pub fn home<'a>(repo: &'a BackupRepo, otherwise: &'a str) -> &'a str {
    let credential = repo.spec.credential.as_ref();
    credential.and_then(|reference| reference.namespace.as_deref()).unwrap_or(otherwise)
}

/// The labels by which a repository's tenants' Secrets are found.
pub fn selector(repo: &str) -> String {
    format!("{}={repo},{}", names::LABEL_ASK, names::LABEL_TENANT)
}

/// What the StorageClass of such a repository calls the driver's Secret.
pub(super) fn of_any(called: &Names) -> String {
    format!("{}-{CLAIMS_NAMESPACE}", called.csi_secret.1)
}

/// Where the driver finds a tenant's.
pub(super) fn of(called: &Names, namespace: &str) -> (String, String) {
    let (home, name) = &called.csi_secret;
    (home.clone(), format!("{name}-{namespace}"))
}

/// Whether a configuration says that it was made of its namespace's own Secret.
pub(super) fn is_theirs(config: &Secret) -> bool {
    let labels = config.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.contains_key(names::LABEL_TENANT))
}

/// Whether there are Secrets that were made of tenants' own for the driver.
pub(super) fn were_served(observed: &Observed, called: &Names, here: &str) -> bool {
    let (_, own) = of(called, here);
    let mut made = observed.tenant_csi_secrets.iter();
    made.any(|secret| secret.metadata.name.as_deref() != Some(&own))
}

/// Whether a StorageClass gives each claim the Secret of its namespace.
pub(super) fn are_used_by(class: &StorageClass) -> bool {
    let parameters = class.parameters.iter().flatten();
    let mut secrets = parameters.filter(|(key, _)| key.ends_with("secret-name")).peekable();
    secrets.peek().is_some() && secrets.all(|(_, value)| value.contains(CLAIMS_NAMESPACE))
}

/// What is made of the Secrets, for any namespace.
pub(super) struct Tenants<'a> {
    pub(super) observed: &'a Observed,
    pub(super) settings: &'a Settings,
    pub(super) called: &'a Names,
    pub(super) maker: &'a Maker<'a>,
    pub(super) provider: &'a StorageProviderSpec,
    /// The repository's own.
    pub(super) parameters: &'a Parameters,
    pub(super) wish: Option<&'a Encryption>,
    /// The repository's own configuration for the tool, if namespaces have one.
    pub(super) config: Option<&'a BTreeMap<String, Vec<u8>>>,
}

/// What a namespace gets of its own.
pub(super) struct Own {
    /// The tool's configuration.
    pub(super) config: Option<BTreeMap<String, Vec<u8>>>,
    /// The driver's Secret.
    pub(super) csi_secret: Option<Secret>,
    /// Made of the namespace's own Secret, not of the repository's.
    pub(super) is_theirs: bool,
}

impl Tenants<'_> {
    /// # Errors
    /// What an administrator has to do before the namespace can have anything.
    pub(super) fn own(&self, namespace: &str) -> Result<Own, String> {
        let Self { settings, called, .. } = self;
        if namespace == settings.namespace {
            // The repository's own Secrets lie here.
            let config = self.config.cloned();
            return Ok(Own { config, csi_secret: None, is_theirs: false });
        }
        let (secret, place) = self.secret(namespace)?;
        let key = self.wish.map(|wish| wish.pass_phrase_secret_key_ref.key.as_str());
        let data: BTreeMap<&str, &[u8]> = secret
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.0.as_slice()))
            .collect();
        let parameters = self.parameters(&place, &data, key)?;
        let passphrase = match key {
            None => None,
            Some(key) => {
                let passphrase = data.get(key).filter(|value| !value.is_empty()).ok_or_else(|| {
                    format!("{place} has no passphrase under the key {key}, which the repository's encryption names")
                })?;
                if self.first_passphrase(namespace).is_some_and(|first| first != *passphrase) {
                    return Err(format!(
                        "the passphrase in {place} is another than the one that this namespace began with, which opens \
                         its backups: put that one back"
                    ));
                }
                Some(*passphrase)
            }
        };
        let at = of(called, namespace);
        let templates =
            Templates::new(self.provider, &parameters, (&at.0, &at.1), &called.storage_class);
        let config = match self.config {
            Some(_) => Some(tool_files(&templates, self.wish, passphrase)?),
            None => None,
        };
        let values = driver_values(&templates, passphrase)?;
        let csi_secret = values.map(|values| self.maker.tenant_csi_secret(&at, namespace, values));
        Ok(Own { config, csi_secret, is_theirs: true })
    }

    /// The one that an administrator made for a namespace, and what it is called.
    fn secret(&self, namespace: &str) -> Result<(&Secret, String), String> {
        let home = home(&self.observed.repo, &self.settings.namespace);
        let place = |secret: &Secret| {
            format!("Secret {home}/{}", secret.metadata.name.as_deref().unwrap_or_default())
        };
        let mut found = self.observed.tenants.iter().filter(|secret| {
            let labels = secret.metadata.labels.as_ref();
            labels.and_then(|all| all.get(names::LABEL_TENANT)).is_some_and(|of| of == namespace)
                && secret.metadata.deletion_timestamp.is_none()
        });
        match (found.next(), found.next()) {
            (Some(secret), None) => Ok((secret, place(secret))),
            (Some(one), Some(two)) => {
                Err(format!("{} and {} are both for it: leave one", place(one), place(two)))
            }
            (None, _) => Err(format!(
                "it needs a Secret of its own in namespace {home}, with the labels {}={} and {}={namespace}",
                names::LABEL_ASK,
                name(&self.observed.repo),
                names::LABEL_TENANT,
            )),
        }
    }

    /// The repository's parameters with the tenant's credentials.
    fn parameters(
        &self,
        place: &str,
        data: &BTreeMap<&str, &[u8]>,
        passphrase_key: Option<&str>,
    ) -> Result<Parameters, String> {
        let schema = self.provider.parameters_schema.as_ref();
        let mut fields: Vec<String> =
            schema.map_or(Vec::new(), |schema| schema.credential_fields.clone());
        // Whatever comes from the repository's Secret is the repository's alone, also where the provider does not say so.
        let credential = self.observed.credential.iter().flat_map(|secret| secret.data.iter());
        for key in credential.flatten().map(|(key, _)| key) {
            if !fields.contains(key) && Some(key.as_str()) != passphrase_key {
                fields.push(key.clone());
            }
        }
        let mut parameters = self.parameters.clone();
        let mut given = Vec::new();
        for (key, value) in data {
            if fields.iter().any(|field| field == key) {
                let value = std::str::from_utf8(value).ok().filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| format!("{place}: {key} is empty or no text"))?;
                parameters.set(key, value.to_owned());
                given.push(*key);
            } else if Some(*key) != passphrase_key && is_declared(self.provider, key) {
                return Err(format!(
                    "{place} sets {key}, which is the repository's: a tenant's own can be {}",
                    match fields.is_empty() {
                        true => "its passphrase".to_owned(),
                        false => format!("{} and its passphrase", fields.join(", ")),
                    }
                ));
            }
        }
        let is_lacking = |field: &&String| {
            !given.contains(&field.as_str())
                && self.parameters.get(field).is_some_and(|value| !value.is_empty())
        };
        match fields.iter().find(is_lacking) {
            // Never the half of one user's with the half of another's, nor what opens everybody's.
            Some(field) => Err(format!("{place} has no {field}")),
            None => Ok(parameters),
        }
    }

    /// By which what the namespace has was encrypted; what lies in the namespace itself counts only where the driver's
    /// is gone.
    fn first_passphrase(&self, namespace: &str) -> Option<&[u8]> {
        let at = of(self.called, namespace);
        let held = |secret: &'_ Secret, (home, name): (&str, &str)| {
            secret.metadata.namespace.as_deref() == Some(home)
                && secret.metadata.name.as_deref() == Some(name)
        };
        let drivers = self.observed.tenant_csi_secrets.iter();
        let given = self.observed.secrets.iter();
        let mut all =
            drivers.filter(|secret| held(secret, (&at.0, &at.1))).chain(given.filter(|secret| {
                // A shared one that was given before there were tenants says nothing.
                held(secret, (namespace, &self.called.tool_config)) && is_theirs(secret)
            }));
        all.find_map(|secret| Some(secret.data.as_ref()?.get(PASSPHRASE_KEY)?.0.as_slice()))
    }
}
