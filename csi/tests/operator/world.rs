//! A cluster in memory around one repository: what a plan says is done, so that the next look sees it. Jobs end when a
//! test says so.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus, Secret,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use strongroom_csi::operator::crd::{
    BackupRepo, BackupRepoStatus, Condition, ConditionStatus, Phase, StorageProvider,
};
use strongroom_csi::operator::names;
use strongroom_csi::operator::observed::{Action, Asking, Kind, Observed, Reference, Settings};
use strongroom_csi::operator::provider::{self, Driver};
use strongroom_csi::operator::reconcile;

/// No repository needs more looks until nothing is left to do.
const LOOKS: usize = 12;

pub(crate) struct World {
    pub(crate) observed: Observed,
    pub(crate) settings: Settings,
    /// Everything that was done.
    pub(crate) done: Vec<Action>,
    /// How often the status was written.
    pub(crate) statuses: usize,
    /// When the last plan wants another look.
    pub(crate) again: Option<Duration>,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> T {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A manifest of the users' documentation, word for word.
pub(crate) fn seed(name: &str) -> BackupRepo {
    read(&root().join(format!("csi/tests/operator/seeds/{name}.yaml")))
}

/// A provider of this repository.
pub(crate) fn provider(name: &str) -> StorageProvider {
    let mut provider: StorageProvider =
        read(&root().join(format!("deploy/storage-providers/{name}.yaml")));
    provider.status = provider::status(&provider, &Driver::Found, at(0));
    provider
}

/// Whatever is wrong, the page says what to do.
fn remedies(status: &BackupRepoStatus) {
    static PAGE: OnceLock<String> = OnceLock::new();
    let page = PAGE.get_or_init(|| {
        std::fs::read_to_string(root().join("docs/backuprepo.md")).expect("the page")
    });
    for condition in &status.conditions {
        if condition.status == ConditionStatus::False {
            assert!(page.contains(&format!("| {} | ", condition.kind)), "{condition:?}");
            assert!(page.contains(&condition.reason), "{condition:?}");
        }
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("a time")
}

pub(crate) fn secret(namespace: &str, name: &str, values: &[(&str, &str)]) -> Secret {
    let data = values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
    let mut secret = Secret { data: Some(data.collect()), ..Secret::default() };
    secret.metadata.namespace = Some(namespace.to_owned());
    secret.metadata.name = Some(name.to_owned());
    secret
}

impl World {
    /// The users' manifest for a provider, with its credential, and nothing else.
    pub(crate) fn of_seed(name: &str) -> Self {
        let mut repo = seed(name);
        repo.metadata.uid = Some("5e1f2c1e-1111-4222-8333-444455556666".to_owned());
        repo.metadata.generation = Some(1);
        let credential = repo.spec.credential.clone().expect("the seeds name a Secret");
        let credential = secret(
            credential.namespace.as_deref().expect("a namespace"),
            credential.name.as_deref().expect("a name"),
            &[("accessKeyId", "AKIA"), ("secretAccessKey", "s3cr3t")],
        );
        Self {
            observed: Observed {
                now: at(0),
                provider: Some(provider(&repo.spec.storage_provider_ref)),
                credential: Some(credential),
                passphrase: None,
                csi_secret: None,
                tenant_csi_secrets: Vec::new(),
                tenants: Vec::new(),
                storage_class: None,
                secrets: Vec::new(),
                claims: Vec::new(),
                job: None,
                pods: Vec::new(),
                warnings: Vec::new(),
                namespaces: Vec::new(),
                ending: Default::default(),
                objects: Vec::new(),
                defaults: Vec::new(),
                users: Vec::new(),
                volumes: Vec::new(),
                refusals: BTreeMap::new(),
                repo,
            },
            settings: Settings {
                pull_secrets: Vec::new(),
                tolerations: Vec::new(),
                namespace: "kb-system".to_owned(),
                image: "strongroom:test".to_owned(),
                pull_policy: None,
                authorities: None,
                check_every: Duration::from_secs(3600),
                retry_first: Duration::from_secs(30),
                retry_last: Duration::from_secs(900),
            },
            done: Vec::new(),
            statuses: 0,
            again: None,
        }
    }

    /// Looks and does until nothing is left to do; how much was written.
    pub(crate) fn settle(&mut self) -> usize {
        let before = self.done.len() + self.statuses;
        for _ in 0..LOOKS {
            let plan = reconcile::plan(&self.observed, &self.settings);
            self.again = plan.again;
            if plan.is_idle() {
                // Time alone changes no status.
                let mut later = self.observed.clone();
                later.now = later.now.checked_add(Duration::from_secs(1)).expect("a time");
                let later = reconcile::plan(&later, &self.settings);
                assert!(later.status.is_none() || !later.actions.is_empty(), "{later:?}");
                return self.done.len() + self.statuses - before;
            }
            if let Some(status) = plan.status {
                remedies(&status);
                self.observed.repo.status = Some(status);
                self.statuses += 1;
            }
            for action in plan.actions {
                self.perform(&action);
                self.done.push(action);
            }
        }
        panic!("no end after {LOOKS} looks; the last was {:?}", self.done.last());
    }

    /// Settles, has the pre-check pass, and settles.
    pub(crate) fn become_ready(&mut self) {
        self.settle();
        self.end_job(Ok(()));
        self.settle();
        assert_eq!(self.phase(), Phase::Ready, "{:?}", self.status().conditions);
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.observed.now =
            self.observed.now.checked_add(Duration::from_secs(seconds)).expect("a time");
    }

    /// The Job ends, with these last words if it fails.
    pub(crate) fn end_job(&mut self, how: Result<(), &str>) {
        let now = self.observed.now;
        let job = self.observed.job.as_mut().expect("a Job runs");
        let (kind, words) = match how {
            Ok(()) => ("Complete", None),
            Err(words) => ("Failed", Some(words)),
        };
        job.status = Some(JobStatus {
            conditions: Some(vec![JobCondition {
                type_: kind.to_owned(),
                status: "True".to_owned(),
                last_transition_time: Some(Time(now)),
                ..JobCondition::default()
            }]),
            ..JobStatus::default()
        });
        if let Some(words) = words {
            let ended = ContainerStateTerminated {
                exit_code: 3,
                message: Some(words.to_owned()),
                ..ContainerStateTerminated::default()
            };
            let status = ContainerStatus {
                name: "pre-check".to_owned(),
                state: Some(ContainerState {
                    terminated: Some(ended),
                    ..ContainerState::default()
                }),
                ..ContainerStatus::default()
            };
            let status =
                PodStatus { container_statuses: Some(vec![status]), ..PodStatus::default() };
            self.observed.pods = vec![Pod { status: Some(status), ..Pod::default() }];
        }
    }

    pub(crate) fn ask(&mut self, namespace: &str) {
        let name = namespace.to_owned();
        self.observed.namespaces.push(Asking { name, going: false, by_tool: false });
    }

    pub(crate) fn annotate(&mut self, name: &str, value: &str) {
        let annotations = self.observed.repo.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn status(&self) -> &BackupRepoStatus {
        self.observed.repo.status.as_ref().expect("a status was written")
    }

    pub(crate) fn phase(&self) -> Phase {
        self.status().phase.expect("a phase")
    }

    pub(crate) fn condition(&self, kind: &str) -> &Condition {
        let all = &self.status().conditions;
        all.iter()
            .find(|condition| condition.kind == kind)
            .unwrap_or_else(|| panic!("{kind} in {all:?}"))
    }

    /// The Secret of that kind of contents in a namespace.
    pub(crate) fn config_in(&self, namespace: &str) -> Option<&Secret> {
        let name = self.status().tool_config_secret_name.as_deref();
        self.observed.secrets.iter().find(|secret| {
            secret.metadata.namespace.as_deref() == Some(namespace)
                && secret.metadata.name.as_deref() == name
        })
    }

    fn perform(&mut self, action: &Action) {
        let observed = &mut self.observed;
        match action {
            Action::Metadata { finalizers, annotations } => {
                let metadata = &mut observed.repo.metadata;
                if let Some(finalizers) = finalizers {
                    metadata.finalizers = Some(finalizers.clone());
                }
                let stored = metadata.annotations.get_or_insert_with(BTreeMap::new);
                for (name, value) in annotations {
                    match value {
                        Some(value) => stored.insert(name.clone(), value.clone()),
                        None => stored.remove(name),
                    };
                }
            }
            Action::Secret(secret) => {
                let labels = secret.metadata.labels.as_ref().expect("labels");
                let same = |other: &Secret| {
                    other.metadata.name == secret.metadata.name
                        && other.metadata.namespace == secret.metadata.namespace
                };
                if labels.contains_key(names::LABEL_TOOL_CONFIG) {
                    observed.secrets.retain(|other| !same(other));
                    observed.secrets.push(secret.clone());
                } else if labels.contains_key(names::LABEL_TENANT) {
                    observed.tenant_csi_secrets.retain(|other| !same(other));
                    observed.tenant_csi_secrets.push(secret.clone());
                } else {
                    observed.csi_secret = Some(secret.clone());
                }
            }
            Action::StorageClass(class) => {
                assert!(observed.storage_class.is_none(), "a StorageClass cannot be changed");
                observed.storage_class = Some(class.clone());
            }
            Action::Claim(claim) => observed.claims.push(claim.clone()),
            Action::Job(job) => {
                assert!(observed.job.is_none(), "the name is taken");
                observed.job = Some(job.clone());
                observed.pods.clear();
            }
            Action::Delete(reference) => self.delete(reference),
            Action::Release(object) => {
                let mut waiting = observed.objects.iter_mut();
                let found = waiting.find(|other| *other == object).expect("it waits");
                found.waits = false;
            }
        }
    }

    fn delete(&mut self, reference: &Reference) {
        let observed = &mut self.observed;
        let is = |metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            metadata.name.as_deref() == Some(&reference.name)
                && metadata.namespace == reference.namespace
        };
        match reference.kind {
            Kind::Secret => {
                observed.secrets.retain(|secret| !is(&secret.metadata));
                observed.tenant_csi_secrets.retain(|secret| !is(&secret.metadata));
                observed.csi_secret.take_if(|secret| is(&secret.metadata));
            }
            Kind::StorageClass => observed.storage_class = None,
            Kind::PersistentVolumeClaim => observed.claims.retain(|claim| !is(&claim.metadata)),
            Kind::Job => observed.job = None,
        }
    }
}

impl World {
    /// Does one thing that a plan wanted.
    pub(crate) fn done_only(&mut self, action: Action) {
        self.perform(&action);
        self.done.push(action);
    }
}
