//! The kinds: the generated manifests are fresh, and say what the contract says.

use crate::world::{read, root};
use serde_json::{Value, json};
use strongroom_csi::operator::crd;

#[test]
fn the_generated_manifests_are_fresh() {
    let folder = root().join("deploy/chart/crds-of-operator");
    let mut expected = Vec::new();
    for (name, value) in crd::definitions() {
        let text = crd::yaml(&value).expect("YAML");
        let stored = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            stored == text,
            "deploy/chart/crds-of-operator/{name} is not what the types say: strongroom-csi crds --directory deploy/chart/crds-of-operator"
        );
        expected.push(name.to_owned());
    }
    let mut found: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, expected);
}

fn definition(name: &str) -> Value {
    read(
        &root().join(format!(
            "deploy/chart/crds-of-operator/dataprotection.kubeblocks.io_{name}.yaml"
        )),
    )
}

fn schema(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
}

fn columns(definition: &Value) -> Vec<(String, String, String)> {
    let columns = definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array();
    let text = |column: &Value, key: &str| column[key].as_str().unwrap_or_default().to_owned();
    columns
        .into_iter()
        .flatten()
        .map(|column| (text(column, "name"), text(column, "jsonPath"), text(column, "type")))
        .collect()
}

fn row(name: &str, path: &str, kind: &str) -> (String, String, String) {
    (name.to_owned(), path.to_owned(), kind.to_owned())
}

/// Without what is for people.
fn bare(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept =
                map.iter().filter(|(key, value)| *key != "description" || !value.is_string());
            kept.map(|(key, value)| (key.clone(), bare(value))).collect()
        }
        Value::Array(values) => values.iter().map(bare).collect(),
        other => other.clone(),
    }
}

#[test]
fn backup_repo_has_the_contracts_schema() {
    let definition = definition("backuprepos");
    assert_eq!(definition["metadata"]["name"], "backuprepos.dataprotection.kubeblocks.io");
    assert_eq!(definition["spec"]["scope"], "Cluster");
    assert_eq!(definition["spec"]["names"]["categories"], json!(["kubeblocks"]));
    assert_eq!(definition["spec"]["versions"][0]["subresources"], json!({"status": {}}));
    assert_eq!(
        columns(&definition),
        [
            row("STATUS", ".status.phase", "string"),
            row("STORAGEPROVIDER", ".spec.storageProviderRef", "string"),
            row("ACCESSMETHOD", ".spec.accessMethod", "string"),
            row("DEFAULT", ".status.isDefault", "boolean"),
            row("AGE", ".metadata.creationTimestamp", "date"),
        ]
    );
    let reference = json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}},
        "x-kubernetes-map-type": "atomic",
    });
    assert_eq!(
        bare(&schema(&definition)["spec"]),
        json!({
            "type": "object",
            "properties": {
                "accessMethod": {"type": "string", "enum": ["Mount", "Tool"], "default": "Mount"},
                // KubeBlocks: type string. The users' manifests have forcePathStyle: true.
                "config": {
                    "type": "object",
                    "additionalProperties": {"x-kubernetes-preserve-unknown-fields": true},
                },
                "credential": reference,
                "pathPrefix": {"type": "string", "pattern": "^([a-zA-Z0-9-_]+/?)*$"},
                "pvReclaimPolicy": {"type": "string", "enum": ["Delete", "Retain"]},
                "storageProviderRef": {
                    "type": "string",
                    "x-kubernetes-validations": [
                        {"rule": "self == oldSelf", "message": "StorageProviderRef is immutable"}
                    ],
                },
                "volumeCapacity": {
                    "anyOf": [{"type": "integer"}, {"type": "string"}],
                    "pattern": "^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$",
                    "x-kubernetes-int-or-string": true,
                },
            },
            "required": ["pvReclaimPolicy", "storageProviderRef"],
        })
    );
    let mut status = bare(&schema(&definition)["status"]);
    let fields = status["properties"].as_object_mut().expect("fields");
    // Ours alone.
    assert!(fields.remove("lastSuccessfulCheckTime").is_some());
    assert_eq!(
        status,
        json!({
            "type": "object",
            "properties": {
                "phase": {"type": "string", "enum": ["PreChecking", "Failed", "Ready", "Deleting"]},
                "conditions": conditions(),
                "observedGeneration": {"type": "integer", "format": "int64"},
                "generatedCSIDriverSecret": reference,
                "generatedStorageClassName": {"type": "string"},
                "backupPVCName": {"type": "string"},
                "toolConfigSecretName": {"type": "string"},
                "isDefault": {"type": "boolean"},
            },
        })
    );
}

fn conditions() -> Value {
    json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "type": {
                    "type": "string",
                    "maxLength": 316,
                    "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {"type": "string", "maxLength": 32768},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0.0},
            },
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        },
    })
}

#[test]
fn storage_provider_has_the_contracts_schema() {
    let definition = definition("storageproviders");
    assert_eq!(
        columns(&definition),
        [
            row("STATUS", ".status.phase", "string"),
            row("CSIDRIVER", ".spec.csiDriverName", "string"),
            row("AGE", ".metadata.creationTimestamp", "date"),
        ]
    );
    let text = json!({"type": "string"});
    assert_eq!(
        bare(&schema(&definition)["spec"]),
        json!({
            "type": "object",
            "properties": {
                "csiDriverName": text,
                "csiDriverSecretTemplate": text,
                "storageClassTemplate": text,
                "persistentVolumeClaimTemplate": text,
                "datasafedConfigTemplate": text,
                "parametersSchema": {
                    "type": "object",
                    "properties": {
                        "credentialFields": {"type": "array", "items": text},
                        "openAPIV3Schema": {
                            "type": "object",
                            "x-kubernetes-preserve-unknown-fields": true,
                        },
                    },
                },
            },
        })
    );
    assert_eq!(
        bare(&schema(&definition)["status"]),
        json!({
            "type": "object",
            "properties": {
                "phase": {"type": "string", "enum": ["NotReady", "Ready"]},
                "conditions": conditions(),
            },
        })
    );
}
