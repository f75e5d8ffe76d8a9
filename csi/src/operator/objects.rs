//! The objects that are made for a repository.

use super::crd::{AccessMethod, BackupRepo};
use super::names;
use super::observed::{Kind, Reference, Settings};
use super::render::pre_check_path;
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EnvVar, LocalObjectReference,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, Secret,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// datasafed's file in its Secret.
pub const CONFIG_KEY: &str = "datasafed.conf";
/// The passphrase beside it, and in the CSI driver's Secret.
pub const PASSPHRASE_KEY: &str = "passphrase";
/// Where a namespace's files are to be, for DATASAFED_BACKEND_BASE_PATH.
pub const BASE_PATH_KEY: &str = "base-path";
/// A claim asks for something; object storage has no size.
const USUAL_CAPACITY: &str = "100Gi";
/// Where a pre-check finds the authorities of stores.
const AUTHORITIES: &str = "/etc/strongroom/ca";
/// KubeBlocks' pre-check is user 65532, as its images are.
const USER: i64 = 65532;
/// The exit code of a pre-check that would fail again: wrong credentials, no such bucket.
pub const HOPELESS: i32 = 3;
/// A pre-check that takes longer has failed.
const DEADLINE_SECONDS: i64 = 15 * 60;

/// A repository's objects and their names.
pub struct Maker<'a> {
    /// The repository.
    pub repo: &'a BackupRepo,
    /// How the operator was started.
    pub settings: &'a Settings,
    /// Of the parameters.
    pub digest: &'a str,
}

/// A repository's name.
pub fn name(repo: &BackupRepo) -> &str {
    repo.metadata.name.as_deref().unwrap_or_default()
}

/// A repository's uid.
pub fn uid(repo: &BackupRepo) -> &str {
    repo.metadata.uid.as_deref().unwrap_or_default()
}

/// The names of what is made for it: those of its status, else new ones.
pub struct Names {
    /// Namespace and name of the CSI driver's Secret.
    pub csi_secret: (String, String),
    /// Of the StorageClass.
    pub storage_class: String,
    /// Of the claims.
    pub claim: String,
    /// Of the Secrets with datasafed's configuration.
    pub tool_config: String,
    /// Of the pre-check.
    pub pre_check: String,
}

impl Names {
    /// Of a repository.
    pub fn of(repo: &BackupRepo, settings: &Settings) -> Self {
        let status = repo.status.clone().unwrap_or_default();
        let new = |prefix| names::derived(prefix, name(repo), uid(repo));
        let secret = status.generated_csi_driver_secret.unwrap_or_default();
        Self {
            csi_secret: (
                secret.namespace.unwrap_or_else(|| settings.namespace.clone()),
                secret.name.unwrap_or_else(|| new("secret")),
            ),
            storage_class: status.generated_storage_class_name.unwrap_or_else(|| new("sc")),
            claim: status.backup_pvc_name.unwrap_or_else(|| new("pvc")),
            tool_config: status.tool_config_secret_name.unwrap_or_else(|| new("tool-config")),
            pre_check: names::pre_check(name(repo), uid(repo)),
        }
    }
}

impl Maker<'_> {
    fn metadata(&self, namespace: Option<&str>, called: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(called.to_owned()),
            namespace: namespace.map(str::to_owned),
            labels: Some([(names::LABEL_REPO.to_owned(), name(self.repo).to_owned())].into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "dataprotection.kubeblocks.io/v1alpha1".to_owned(),
                kind: "BackupRepo".to_owned(),
                name: name(self.repo).to_owned(),
                uid: uid(self.repo).to_owned(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        }
    }

    fn digest_annotation(&self) -> (String, String) {
        (names::DIGEST.to_owned(), self.digest.to_owned())
    }

    /// The CSI driver's Secret.
    pub fn csi_secret(&self, at: &(String, String), values: BTreeMap<String, Vec<u8>>) -> Secret {
        let mut metadata = self.metadata(Some(&at.0), &at.1);
        metadata.annotations = Some([self.digest_annotation()].into());
        secret(metadata, values)
    }

    /// The CSI driver's Secret for the claims of one namespace.
    pub fn tenant_csi_secret(
        &self,
        at: &(String, String),
        tenant: &str,
        values: BTreeMap<String, Vec<u8>>,
    ) -> Secret {
        let mut made = self.csi_secret(at, values);
        if let Some(labels) = &mut made.metadata.labels {
            labels.insert(names::LABEL_TENANT.to_owned(), tenant.to_owned());
        }
        made
    }

    /// A Secret with datasafed's configuration; `by_label` if it goes with the namespace's label.
    pub fn tool_config(
        &self,
        namespace: &str,
        called: &str,
        values: BTreeMap<String, Vec<u8>>,
        by_label: bool,
    ) -> Secret {
        let mut metadata = self.metadata(Some(namespace), called);
        if let Some(labels) = &mut metadata.labels {
            labels.insert(names::LABEL_TOOL_CONFIG.to_owned(), "true".to_owned());
        }
        metadata.annotations = Some([self.digest_annotation()].into());
        mark(&mut metadata, by_label);
        secret(metadata, values)
    }

    /// The StorageClass.
    pub fn storage_class(&self, called: &str, rendered: StorageClass) -> StorageClass {
        StorageClass {
            metadata: self.metadata(None, called),
            reclaim_policy: Some(self.repo.spec.pv_reclaim_policy.as_str().to_owned()),
            volume_binding_mode: Some("Immediate".to_owned()),
            ..rendered
        }
    }

    /// A claim; `rendered` is what the provider's template says of it.
    pub fn claim(
        &self,
        namespace: &str,
        called: &str,
        storage_class: Option<&str>,
        rendered: Option<&PersistentVolumeClaim>,
        by_label: bool,
    ) -> PersistentVolumeClaim {
        let mut spec: PersistentVolumeClaimSpec =
            rendered.and_then(|claim| claim.spec.clone()).unwrap_or_default();
        // An empty name is a volume without class; a template that renders to none means the cluster's.
        spec.storage_class_name = spec.storage_class_name.filter(|name| !name.is_empty());
        spec.storage_class_name =
            spec.storage_class_name.or_else(|| storage_class.map(str::to_owned));
        spec.access_modes.get_or_insert_with(|| vec!["ReadWriteMany".to_owned()]);
        spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        let capacity = match &self.repo.spec.volume_capacity {
            None => USUAL_CAPACITY.to_owned(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(number) => number.to_string(),
        };
        let resources = spec.resources.get_or_insert_with(VolumeResourceRequirements::default);
        resources
            .requests
            .get_or_insert_with(BTreeMap::new)
            .entry("storage".to_owned())
            .or_insert(Quantity(capacity));
        let mut metadata = self.metadata(Some(namespace), called);
        mark(&mut metadata, by_label);
        PersistentVolumeClaim { metadata, spec: Some(spec), status: None }
    }

    /// The pre-check's Job. It has what a workload of the repository has, and nothing else.
    pub fn job(&self, called: &str, attempt: u32, method: AccessMethod) -> Job {
        let path = pre_check_path(self.repo);
        let volume = |source: Volume, path: &str, read_only: bool| {
            let mount = VolumeMount {
                name: source.name.clone(),
                mount_path: path.to_owned(),
                read_only: Some(read_only),
                ..VolumeMount::default()
            };
            (source, mount)
        };
        let mut trusted = None;
        let ((volume, mount), arguments) = match method {
            AccessMethod::Mount => {
                let claim = PersistentVolumeClaimVolumeSource {
                    claim_name: called.to_owned(),
                    read_only: None,
                };
                let source = Volume {
                    name: "backup".to_owned(),
                    persistent_volume_claim: Some(claim),
                    ..Volume::default()
                };
                (volume(source, "/backup", false), ["--directory", "/backup"])
            }
            AccessMethod::Tool => {
                let secret = SecretVolumeSource {
                    secret_name: Some(called.to_owned()),
                    ..SecretVolumeSource::default()
                };
                let source = Volume {
                    name: "datasafed-config".to_owned(),
                    secret: Some(secret),
                    ..Volume::default()
                };
                trusted = self.settings.authorities.clone().map(|name| {
                    let source = Volume {
                        name: "store-ca".to_owned(),
                        config_map: Some(ConfigMapVolumeSource {
                            name,
                            ..ConfigMapVolumeSource::default()
                        }),
                        ..Volume::default()
                    };
                    volume(source, AUTHORITIES, true)
                });
                (
                    volume(source, "/etc/datasafed", true),
                    ["--config", "/etc/datasafed/datasafed.conf"],
                )
            }
        };
        let variable = trusted.as_ref().map(|_| EnvVar {
            name: "CA_CERT_PATH".to_owned(),
            value: Some(format!("{AUTHORITIES}/ca.crt")),
            ..EnvVar::default()
        });
        let (mut volumes, mut mounts) = (vec![volume], vec![mount]);
        if let Some((volume, mount)) = trusted {
            volumes.push(volume);
            mounts.push(mount);
        }
        let quantity = |pairs: [(&str, &str); 2]| {
            pairs.map(|(key, value)| (key.to_owned(), Quantity(value.to_owned()))).into()
        };
        let container = Container {
            name: "pre-check".to_owned(),
            image: Some(self.settings.image.clone()),
            image_pull_policy: self.settings.pull_policy.clone(),
            command: Some(
                ["/usr/bin/strongroom-csi", "pre-check"]
                    .into_iter()
                    .chain(arguments)
                    .chain(["--path", &path])
                    .map(str::to_owned)
                    .collect(),
            ),
            env: variable.map(|variable| vec![variable]),
            volume_mounts: Some(mounts),
            resources: Some(ResourceRequirements {
                requests: Some(quantity([("cpu", "10m"), ("memory", "32Mi")])),
                limits: Some(quantity([("cpu", "1"), ("memory", "256Mi")])),
                ..ResourceRequirements::default()
            }),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                capabilities: Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    ..Capabilities::default()
                }),
                read_only_root_filesystem: Some(true),
                ..SecurityContext::default()
            }),
            ..Container::default()
        };
        let pull_secrets = self.settings.pull_secrets.iter();
        let pull_secrets = pull_secrets.map(|name| LocalObjectReference { name: name.clone() });
        let pod = PodSpec {
            image_pull_secrets: Some(pull_secrets.collect()),
            tolerations: Some(self.settings.tolerations.clone()),
            restart_policy: Some("Never".to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            containers: vec![container],
            volumes: Some(volumes),
            ..PodSpec::default()
        };
        let mut metadata = self.metadata(Some(&self.settings.namespace), called);
        let generation = self.repo.metadata.generation.unwrap_or_default();
        metadata.annotations = Some(
            [
                self.digest_annotation(),
                (names::ATTEMPT.to_owned(), attempt.to_string()),
                (names::GENERATION.to_owned(), generation.to_string()),
            ]
            .into(),
        );
        let labels = metadata.labels.clone();
        Job {
            metadata,
            spec: Some(JobSpec {
                backoff_limit: Some(2),
                active_deadline_seconds: Some(DEADLINE_SECONDS),
                pod_failure_policy: Some(PodFailurePolicy {
                    rules: vec![PodFailurePolicyRule {
                        action: "FailJob".to_owned(),
                        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                            container_name: Some("pre-check".to_owned()),
                            operator: "In".to_owned(),
                            values: vec![HOPELESS],
                        }),
                        on_pod_conditions: None,
                    }],
                }),
                template: PodTemplateSpec {
                    metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
                    spec: Some(pod),
                },
                ..JobSpec::default()
            }),
            status: None,
        }
    }
}

/// The reference of a namespaced object.
pub fn reference(kind: Kind, metadata: &ObjectMeta) -> Reference {
    Reference {
        kind,
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

/// Whether it goes with the namespace's label.
pub fn is_by_label(metadata: &ObjectMeta) -> bool {
    metadata.annotations.as_ref().is_some_and(|all| all.contains_key(names::ASKED_BY))
}

fn mark(metadata: &mut ObjectMeta, by_label: bool) {
    if by_label {
        let annotations = metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(names::ASKED_BY.to_owned(), "namespace-label".to_owned());
    }
}

fn secret(metadata: ObjectMeta, values: BTreeMap<String, Vec<u8>>) -> Secret {
    let data = values.into_iter().map(|(key, value)| (key, ByteString(value))).collect();
    Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() }
}

/// Whether an existing Secret is as it should be: same contents, and what we say of it.
pub fn is_current(existing: &Secret, wanted: &Secret) -> bool {
    let has = |have: &Option<BTreeMap<String, String>>, want: &Option<BTreeMap<String, String>>| {
        let have = |key: &String| have.as_ref().and_then(|have| have.get(key));
        want.iter().flatten().all(|(key, value)| have(key) == Some(value))
    };
    // What others add stays, as with every field that is not ours.
    let data = |key: &String| existing.data.as_ref().and_then(|data| data.get(key));
    wanted.data.iter().flatten().all(|(key, value)| data(key) == Some(value))
        && has(&existing.metadata.labels, &wanted.metadata.labels)
        && has(&existing.metadata.annotations, &wanted.metadata.annotations)
        && is_by_label(&existing.metadata) == is_by_label(&wanted.metadata)
}
