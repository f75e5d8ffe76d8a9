//! What a provider's templates render to, as the objects of Kubernetes that they become.

use super::crd::{BackupRepo, StorageProviderSpec};
use super::parameters::Parameters;
use super::template::{self, Context};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// The parameter that gives each namespace its place, and that place: as the tool's base path has it.
pub const SUB_DIR: &str = "subDir";
/// See [`SUB_DIR`].
pub const OWN_PLACE: &str = "${pvc.metadata.namespace}";

/// The templates of a provider with what goes into them.
pub struct Templates<'a> {
    provider: &'a StorageProviderSpec,
    context: Context,
}

impl<'a> Templates<'a> {
    /// `secret` is the namespace and name of the CSI driver's Secret.
    pub fn new(
        provider: &'a StorageProviderSpec,
        parameters: &Parameters,
        secret: (&str, &str),
        storage_class: &str,
    ) -> Self {
        let context = Context {
            parameters: parameters.for_templates(provider),
            secret: (secret.1.to_owned(), secret.0.to_owned()),
            storage_class: storage_class.to_owned(),
        };
        Self { provider, context }
    }

    fn render(&self, what: &str, text: Option<&String>) -> Result<Option<String>, String> {
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
        template::render(text, &self.context)
            .map(Some)
            .map_err(|error| format!("StorageProvider's {what}: {error}"))
    }

    fn document<T: DeserializeOwned>(
        &self,
        what: &str,
        text: Option<&String>,
    ) -> Result<Option<T>, String> {
        let Some(text) = self.render(what, text)? else { return Ok(None) };
        // The parser's message would quote the text around an error, in which secrets are.
        let parsed = serde_saphyr::from_str(&text).map_err(|error| {
            let place = error.location().map(|at| format!(" in line {}", at.line()));
            format!(
                "StorageProvider's {what} renders to no such object in YAML{}",
                place.unwrap_or_default()
            )
        });
        parsed.map(Some)
    }

    /// The keys and values of the CSI driver's Secret.
    pub fn csi_secret(&self) -> Result<Option<BTreeMap<String, String>>, String> {
        let what = "csiDriverSecretTemplate";
        let values: Option<BTreeMap<String, Value>> =
            self.document(what, self.provider.csi_driver_secret_template.as_ref())?;
        let Some(values) = values else { return Ok(None) };
        let text = |(key, value): (String, Value)| {
            let value = match value {
                Value::Null => String::new(),
                Value::String(text) => text,
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                _ => return Err(format!("StorageProvider's {what}: {key} is no text")),
            };
            Ok((key, value))
        };
        values.into_iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// The StorageClass, without name and labels.
    pub fn storage_class(&self) -> Result<Option<StorageClass>, String> {
        let what = "storageClassTemplate";
        let class: Option<StorageClass> =
            self.document(what, self.provider.storage_class_template.as_ref())?;
        match class {
            Some(class) if class.provisioner.is_empty() => Err(format!(
                "StorageProvider's {what} renders to a StorageClass without provisioner"
            )),
            class => Ok(class),
        }
    }

    /// Whether who mounts and who calls the tool meet at the same files: volumes of files at a fixed place for each
    /// namespace, and a configuration for the tool.
    pub fn meet(&self) -> bool {
        let class = self.storage_class().ok().flatten();
        let parameters = class.and_then(|class| class.parameters).unwrap_or_default();
        parameters.get("layout").is_some_and(|layout| layout == "objects")
            && parameters.get(SUB_DIR).is_some_and(|place| place == OWN_PLACE)
            && matches!(self.tool_config(), Ok(Some(_)))
    }

    /// The claim, without name and labels.
    pub fn claim(&self) -> Result<Option<PersistentVolumeClaim>, String> {
        self.document(
            "persistentVolumeClaimTemplate",
            self.provider.persistent_volume_claim_template.as_ref(),
        )
    }

    /// datasafed's configuration file.
    pub fn tool_config(&self) -> Result<Option<String>, String> {
        self.render("datasafedConfigTemplate", self.provider.datasafed_config_template.as_ref())
    }
}

/// The path of the pre-check's object.
pub fn pre_check_path(repo: &BackupRepo) -> String {
    let prefix = repo.spec.path_prefix.as_deref().unwrap_or_default().trim_matches('/');
    match prefix {
        "" => "precheck.txt".to_owned(),
        prefix => format!("{prefix}/precheck.txt"),
    }
}
