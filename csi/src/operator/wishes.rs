//! The first steps: what a repository asks for, and whether it can be had.

use super::conditions::kinds;
use super::crd::{AccessMethod, ConditionStatus, StorageProvider, StorageProviderSpec};
use super::encryption::Encryption;
use super::names;
use super::namespaces::{self, list};
use super::objects::PASSPHRASE_KEY;
use super::parameters::Parameters;
use super::reconcile::Work;
use super::render::Templates;
use super::tenants;
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;

impl<'o> Work<'o> {
    /// The provider, if it can serve the access method, and whether its driver is there.
    pub(super) fn provider(&mut self) -> Option<(&'o StorageProvider, bool)> {
        let kind = kinds::PROVIDER;
        let spec = &self.observed.repo.spec;
        let name = &spec.storage_provider_ref;
        let Some(provider) = &self.observed.provider else {
            let message = format!(
                "StorageProvider {name} is not there: kubectl get storageproviders shows which are; those of \
                 deploy/storage-providers are installed with kubectl apply"
            );
            return self.refuse(kind, "StorageProviderNotFound", message);
        };
        if !provider.spec.serves(spec.access_method) {
            let (needs, other) = match spec.access_method {
                AccessMethod::Mount => ("storageClassTemplate", "Tool"),
                AccessMethod::Tool => ("datasafedConfigTemplate", "Mount"),
            };
            let message = format!(
                "StorageProvider {name} has no {needs}: use accessMethod {other}, or another provider"
            );
            return self.refuse(kind, "InvalidStorageProvider", message);
        }
        let status = provider.status.as_ref();
        let installed = status.into_iter().flat_map(|status| &status.conditions).any(|condition| {
            condition.kind == kinds::DRIVER && condition.status == ConditionStatus::True
        });
        if spec.access_method == AccessMethod::Tool || installed {
            self.conditions.yes(kind, "StorageProviderReady", "");
        }
        Some((provider, installed))
    }

    /// How the repository is reached: as it says, or, where its driver is not there, with the tool, if that finds the
    /// same files at the same place.
    pub(super) fn method(
        &mut self,
        templates: &Templates<'_>,
        is_installed: bool,
    ) -> Option<AccessMethod> {
        let spec = &self.observed.repo.spec;
        if spec.access_method == AccessMethod::Tool || is_installed {
            self.conditions.drop(kinds::MOUNT);
            return Some(spec.access_method);
        }
        let name = &spec.storage_provider_ref;
        let provider = self.observed.provider.as_ref();
        let driver = provider.and_then(|provider| provider.spec.csi_driver_name.as_deref());
        let driver = driver.unwrap_or_default();
        if !templates.meet() {
            self.conditions.drop(kinds::MOUNT);
            let message = format!(
                "CSI driver {driver} of StorageProvider {name} is not installed: install it, or use accessMethod Tool \
                 (with pvReclaimPolicy Retain and layout objects, namespaces would get the tool meanwhile)"
            );
            return self.refuse(kinds::PROVIDER, "StorageProviderNotReady", message);
        }
        self.conditions.yes(kinds::PROVIDER, "StorageProviderReady", "");
        self.conditions.no(
            kinds::MOUNT,
            "FallenBackToTool",
            format!(
                "CSI driver {driver} is not installed: namespaces get datasafed's configuration in place of a claim, with \
                 the same passphrase and place, so that either way restores the other's backups"
            ),
        );
        Some(AccessMethod::Tool)
    }

    /// The parameters, if none is missing.
    pub(super) fn parameters(&mut self, provider: &StorageProviderSpec) -> Option<Parameters> {
        let spec = &self.observed.repo.spec;
        let kind = kinds::PARAMETERS;
        let mut keys = BTreeMap::new();
        if let Some(reference) = &spec.credential {
            let Some(secret) = &self.observed.credential else {
                let namespace = reference.namespace.as_deref().unwrap_or("NAMESPACE");
                let name = reference.name.as_deref().unwrap_or("NAME");
                let message = format!(
                    "Secret {namespace}/{name} is not there: make it (kubectl create secret generic {name} -n \
                     {namespace} --from-literal=...), or correct spec.credential"
                );
                return self.refuse(kind, "CredentialSecretNotFound", message);
            };
            let data = secret.data.iter().flatten();
            keys.extend(data.map(|(key, value)| (key.clone(), value.0.clone())));
        }
        let parameters = match Parameters::merge(provider, &spec.config, &keys) {
            Ok(parameters) => parameters,
            Err(error) => return self.refuse(kind, "ParametersInvalid", error),
        };
        let missing = parameters.missing(provider);
        if !missing.is_empty() {
            let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
            let message = format!(
                "StorageProvider {} needs {}: set them in spec.config, or in the Secret of spec.credential",
                spec.storage_provider_ref,
                list(&missing)
            );
            return self.refuse(kind, "ParametersMissing", message);
        }
        let unknown = parameters.unknown(provider);
        let unknown: Vec<&str> = unknown.iter().map(String::as_str).collect();
        let message = match unknown.is_empty() {
            true => String::new(),
            false => format!("the provider does not know {}, which have no effect", list(&unknown)),
        };
        self.conditions.yes(kind, "ParametersChecked", message);
        Some(parameters)
    }

    /// The wish with its passphrase; the outer `None` if it cannot be fulfilled.
    #[allow(clippy::option_option)]
    pub(super) fn encryption(
        &mut self,
        parameters: &Parameters,
    ) -> Option<Option<(Encryption, Vec<u8>)>> {
        let kind = kinds::ENCRYPTION;
        let observed = self.observed;
        // What was made of an earlier wish remembers it; any of it may have been deleted by somebody.
        let held = |secret: &'o Secret| Some(&secret.data.as_ref()?.get(PASSPHRASE_KEY)?.0);
        let kept = observed.csi_secret.as_ref().and_then(held);
        let annotations = observed.repo.metadata.annotations.as_ref();
        let digest = annotations.and_then(|all| all.get(names::DIGEST));
        let former = digest.and_then(|digest| Some(digest.split_once('-')?.1.to_uppercase()));
        let wish = match Encryption::of(&observed.repo) {
            Ok(Some(wish)) => wish,
            Ok(None) if kept.is_some() || former.is_some() => {
                return self.refuse(
                    kind,
                    "EncryptionRemoved",
                    format!(
                        "this repository was encrypted: give it its annotation {} back, or make another repository \
                         for plain backups",
                        names::ENCRYPTION
                    ),
                );
            }
            Ok(None) => {
                let asked = parameters.get("encryption").unwrap_or_default();
                if !matches!(asked, "" | "none") {
                    let message = format!(
                        "the parameter encryption alone encrypts nothing: ask for {asked} by the annotation {}, \
                         which names the passphrase's Secret, too",
                        names::ENCRYPTION
                    );
                    return self.refuse(kind, "EncryptionInvalid", message);
                }
                self.conditions.drop(kind);
                return Some(None);
            }
            Err(error) => return self.refuse(kind, "EncryptionInvalid", error),
        };
        let (namespace, name) = wish.secret(&observed.repo, &self.settings.namespace);
        let key = &wish.pass_phrase_secret_key_ref.key;
        let Some(secret) = &observed.passphrase else {
            let message =
                format!("Secret {namespace}/{name} with the passphrase is not there: make it");
            return self.refuse(kind, "PassphraseNotFound", message);
        };
        let value =
            secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.clone());
        let Some(passphrase) = value.filter(|value| !value.is_empty()) else {
            let message =
                format!("Secret {namespace}/{name} has no passphrase under the key {key}");
            return self.refuse(kind, "PassphraseNotFound", message);
        };
        // What lies in namespaces their tenants can write: it counts where all of it says the same against the wish.
        // Those of tenants with Secrets of their own have other ones.
        let has_tenants = !matches!(tenants::are_wanted(&observed.repo), Ok(false));
        let copies = observed.secrets.iter().filter(|secret| !has_tenants && self.is_given(secret));
        let mut copies = copies.filter_map(held).peekable();
        let is_another = match kept {
            Some(kept) => *kept != passphrase,
            None if former.is_none() || copies.peek().is_none() => false,
            None => copies.all(|copy| *copy != passphrase),
        };
        if is_another {
            let message = format!(
                "the passphrase in Secret {namespace}/{name} is another than the one that this repository began \
                 with, which opens its backups: put that one back, or make another repository"
            );
            return self.refuse(kind, "PassphraseChanged", message);
        }
        if let Some(former) = former.filter(|former| *former != wish.algorithm) {
            let message = format!(
                "this repository's backups are encrypted with {former}, which {} would not decrypt: put that one back, \
                 or make another repository",
                wish.algorithm
            );
            return self.refuse(kind, "AlgorithmChanged", message);
        }
        self.conditions.yes(kind, "EncryptionChecked", format!("{} is used", wish.algorithm));
        Some(Some((wish, passphrase)))
    }

    /// Whether a Secret has the name and the place of one that a namespace was given.
    fn is_given(&self, secret: &Secret) -> bool {
        let namespace = secret.metadata.namespace.as_deref();
        secret.metadata.name.as_deref() == Some(&self.called.tool_config)
            && namespace.is_some_and(|namespace| namespaces::asks(self.observed, namespace))
    }
}
