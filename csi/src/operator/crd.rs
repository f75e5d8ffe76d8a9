//! The two kinds, as KubeBlocks has them: `BackupRepo` and `StorageProvider` of
//! `dataprotection.kubeblocks.io/v1alpha1`. The manifests are generated from these types
//! (`strongroom-csi crds`). Where they take more than KubeBlocks' own, the field says so; what KubeBlocks takes,
//! these take.
#![allow(clippy::duplicated_attributes, reason = "columns of one type look like that to it")]

use kube::{CustomResource, CustomResourceExt};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A repository for backups.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "dataprotection.kubeblocks.io",
    version = "v1alpha1",
    kind = "BackupRepo",
    plural = "backuprepos",
    category = "kubeblocks",
    derive = "PartialEq",
    status = "BackupRepoStatus",
    doc = "A repository for backups.",
    printcolumn(json_path = ".status.phase", name = "STATUS", type_ = "string"),
    printcolumn(
        json_path = ".spec.storageProviderRef",
        name = "STORAGEPROVIDER",
        type_ = "string"
    ),
    printcolumn(json_path = ".spec.accessMethod", name = "ACCESSMETHOD", type_ = "string"),
    printcolumn(json_path = ".status.isDefault", name = "DEFAULT", type_ = "boolean"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "AGE", type_ = "date")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupRepoSpec {
    /// The StorageProvider whose templates are used. It cannot be changed.
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "self == oldSelf", "message": "StorageProviderRef is immutable"}
    ]))]
    pub storage_provider_ref: String,
    /// Mount: a PersistentVolumeClaim in each namespace. Tool: a configuration file for datasafed in each namespace.
    #[serde(default)]
    pub access_method: AccessMethod,
    /// The capacity of the claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "capacity")]
    pub volume_capacity: Option<Value>,
    /// What becomes of a volume whose claim is deleted.
    pub pv_reclaim_policy: ReclaimPolicy,
    /// The provider's parameters that are no secrets: texts, or (other than KubeBlocks) truth values and numbers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "parameters")]
    pub config: BTreeMap<String, Value>,
    /// The Secret whose keys are the provider's secret parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<SecretReference>,
    /// What the path of each backup begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([a-zA-Z0-9-_]+/?)*$"))]
    pub path_prefix: Option<String>,
}

/// How workloads reach a repository.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum AccessMethod {
    /// As a file system.
    #[default]
    Mount,
    /// With the tool datasafed.
    Tool,
}

impl AccessMethod {
    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mount => "Mount",
            Self::Tool => "Tool",
        }
    }
}

/// What becomes of a volume whose claim is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ReclaimPolicy {
    /// It is deleted with its data.
    Delete,
    /// It stays.
    Retain,
}

impl ReclaimPolicy {
    /// As StorageClasses write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Retain => "Retain",
        }
    }
}

/// A Secret in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct SecretReference {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What the operator found and made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupRepoStatus {
    /// PreChecking, Failed, Ready or Deleting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Each step on the way to Ready, and what is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the specification that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The Secret for the CSI driver.
    #[serde(default, rename = "generatedCSIDriverSecret", skip_serializing_if = "Option::is_none")]
    pub generated_csi_driver_secret: Option<SecretReference>,
    /// The StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated_storage_class_name: Option<String>,
    /// The claim's name in each namespace.
    #[serde(default, rename = "backupPVCName", skip_serializing_if = "Option::is_none")]
    pub backup_pvc_name: Option<String>,
    /// The name in each namespace of the Secret with datasafed's configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_config_secret_name: Option<String>,
    /// Whether this is the repository of backups that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_default: Option<bool>,
    /// When the store was last found to be usable (other than KubeBlocks).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub last_successful_check_time: Option<String>,
}

/// Where a repository stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Phase {
    /// It is being looked at.
    PreChecking,
    /// A condition says what is wrong.
    Failed,
    /// It can be used.
    Ready,
    /// It goes when nothing uses it any more.
    Deleting,
}

/// One aspect of a state, as everywhere in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    #[schemars(
        length(max = 316),
        regex(
            pattern = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
        )
    )]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word.
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    )]
    pub reason: String,
    /// Why, and what to do.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// Since when.
    #[schemars(schema_with = "time")]
    pub last_transition_time: String,
    /// The generation that it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// How a kind of storage is reached: Go templates with the repository's parameters.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "dataprotection.kubeblocks.io",
    version = "v1alpha1",
    kind = "StorageProvider",
    plural = "storageproviders",
    category = "kubeblocks",
    derive = "PartialEq",
    status = "StorageProviderStatus",
    doc = "How a kind of storage is reached.",
    printcolumn(json_path = ".status.phase", name = "STATUS", type_ = "string"),
    printcolumn(json_path = ".spec.csiDriverName", name = "CSIDRIVER", type_ = "string"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "AGE", type_ = "date")
)]
#[serde(rename_all = "camelCase")]
pub struct StorageProviderSpec {
    /// The CSI driver that mounts it; none if it cannot be mounted.
    #[serde(default, rename = "csiDriverName", skip_serializing_if = "Option::is_none")]
    pub csi_driver_name: Option<String>,
    /// Renders to YAML: the keys and values of the driver's Secret.
    #[serde(default, rename = "csiDriverSecretTemplate", skip_serializing_if = "Option::is_none")]
    pub csi_driver_secret_template: Option<String>,
    /// Renders to YAML: a StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_template: Option<String>,
    /// Renders to YAML: a PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim_template: Option<String>,
    /// Renders to datasafed's configuration file; none if datasafed cannot reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datasafed_config_template: Option<String>,
    /// The parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_schema: Option<ParametersSchema>,
}

impl StorageProviderSpec {
    /// Whether it has a template for an access method.
    pub fn serves(&self, method: AccessMethod) -> bool {
        let given =
            |text: &Option<String>| text.as_ref().is_some_and(|text| !text.trim().is_empty());
        match method {
            AccessMethod::Mount => {
                given(&self.storage_class_template) || given(&self.persistent_volume_claim_template)
            }
            AccessMethod::Tool => given(&self.datasafed_config_template),
        }
    }
}

/// The parameters of a provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ParametersSchema {
    /// Names, types, defaults and which of them are required.
    #[serde(default, rename = "openAPIV3Schema", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub open_api_v3_schema: Option<Value>,
    /// Those that come from the Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credential_fields: Vec<String>,
}

/// What is known of a provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StorageProviderStatus {
    /// NotReady or Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ProviderPhase>,
    /// Whether its CSI driver is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Whether a provider can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs)]
pub enum ProviderPhase {
    NotReady,
    Ready,
}

fn capacity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
        "x-kubernetes-int-or-string": true,
    })
}

/// The users' documented YAML has `forcePathStyle: true`, which is no string: any scalar is taken here, and what
/// is none of them is told in a condition.
fn parameters(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {"x-kubernetes-preserve-unknown-fields": true},
    })
}

fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// The CustomResourceDefinitions, each with its file's name.
pub fn definitions() -> Vec<(&'static str, Value)> {
    let of = |definition| {
        let mut value = json!(definition);
        tidy(&mut value);
        // Whoever removes the chart keeps the repositories' objects.
        value["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
        value
    };
    vec![
        ("dataprotection.kubeblocks.io_backuprepos.yaml", of(BackupRepo::crd())),
        ("dataprotection.kubeblocks.io_storageproviders.yaml", of(StorageProvider::crd())),
    ]
}

/// KubeBlocks' schema knows no null and no formats of integers but int64; lines of comments are joined.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            // kube's rewriter takes the types away that Kubernetes wants to see here.
            if map.contains_key("x-kubernetes-int-or-string") {
                map.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
            }
            // The enum of an optional field lists null.
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(values) => values.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// A manifest in YAML.
///
/// # Errors
/// None for what [`definitions`] gives.
pub fn yaml(value: &Value) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(value)
}
