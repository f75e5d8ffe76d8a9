//! What the core decides upon, and what it decides: the state of the cluster around one repository, and the list of
//! things to do. Plain data; nothing here talks to anybody.

use super::crd::{BackupRepo, BackupRepoStatus, StorageProvider};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Toleration};
use k8s_openapi::api::storage::v1::StorageClass;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How the operator was started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the CSI drivers' Secrets and the pre-checks are.
    pub namespace: String,
    /// The image of the pre-check's Job: ours.
    pub image: String,
    /// When the image is fetched.
    pub pull_policy: Option<String>,
    /// The Secrets that it is fetched with.
    pub pull_secrets: Vec<String>,
    /// What pre-checks tolerate of nodes.
    pub tolerations: Vec<Toleration>,
    /// A ConfigMap with the authorities of stores (`ca.crt`), for pre-checks, as the driver has it.
    pub authorities: Option<String>,
    /// A repository that was found usable is looked at again after this long.
    pub check_every: Duration,
    /// After a failed pre-check the next one begins after this long, then twice this long, and so on.
    pub retry_first: Duration,
    /// ... but never later than this.
    pub retry_last: Duration,
}

/// The state around a repository.
#[derive(Clone)]
pub struct Observed {
    /// It.
    pub repo: BackupRepo,
    /// The time.
    pub now: Timestamp,
    /// Its provider.
    pub provider: Option<StorageProvider>,
    /// The Secret that it names.
    pub credential: Option<Secret>,
    /// The Secret with the passphrase that it names.
    pub passphrase: Option<Secret>,
    /// The Secret that was made for the CSI driver.
    pub csi_secret: Option<Secret>,
    /// Those of tenants.
    pub tenant_csi_secrets: Vec<Secret>,
    /// The Secrets that administrators made for tenants.
    pub tenants: Vec<Secret>,
    /// The StorageClass that was made.
    pub storage_class: Option<StorageClass>,
    /// The Secrets with datasafed's configuration, in all namespaces, and the pre-check's.
    pub secrets: Vec<Secret>,
    /// The claims, in all namespaces, and the pre-check's.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The pre-check's Job.
    pub job: Option<Job>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// What the cluster says of its pods that do not start, the newest last.
    pub warnings: Vec<String>,
    /// The namespaces that ask by their label.
    pub namespaces: Vec<Asking>,
    /// Backups and Restores with the repository's label.
    pub objects: Vec<Object>,
    /// The namespaces of those that are being deleted; only of those that have not got what they ask for.
    pub ending: BTreeSet<String>,
    /// Other repositories that say that they are the default.
    pub defaults: Vec<String>,
    /// Who has a volume or a configuration of the repository open; looked at while it is being deleted.
    pub users: Vec<String>,
    /// PersistentVolumes of the class that the driver has still to delete; looked at likewise.
    pub volumes: Vec<String>,
    /// What the cluster refused to do a moment ago, and why.
    pub refusals: BTreeMap<Reference, String>,
}

/// A namespace that asks for the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Its name.
    pub name: String,
    /// Whether it is going.
    pub going: bool,
    /// Whether it wants datasafed's configuration also of a repository that is mounted.
    pub by_tool: bool,
}

/// A Backup or Restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `Backup` or `Restore`.
    pub kind: String,
    /// Where.
    pub namespace: String,
    /// Which.
    pub name: String,
    /// Whether it waits for its namespace to be prepared.
    pub waits: bool,
    /// Whether it keeps the repository: a Backup that has not failed, or a continuous one.
    pub holds: bool,
}

/// The kinds of objects that are made for repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Secret,
    StorageClass,
    PersistentVolumeClaim,
    Job,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, unless the cluster is.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{:?} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{:?} {}", self.kind, self.name),
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "a plan has a handful of them, and lives for a moment"
)]
pub enum Action {
    /// Write the repository's own metadata: its finalizers, if they change, and annotations, `None` to remove one.
    Metadata {
        /// All of them.
        finalizers: Option<Vec<String>>,
        /// Those that change.
        annotations: BTreeMap<String, Option<String>>,
    },
    /// Make it or make it like this (server-side apply).
    Secret(Secret),
    /// Make it.
    StorageClass(StorageClass),
    /// Make it.
    Claim(PersistentVolumeClaim),
    /// Make it.
    Job(Job),
    /// Delete it, with what belongs to it.
    Delete(Reference),
    /// Tell a Backup or Restore that its namespace is prepared.
    Release(Object),
}

/// What is to be done, in this order: the status is written, then the actions are performed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The status, if it is another than the stored one.
    pub status: Option<BackupRepoStatus>,
    /// The actions.
    pub actions: Vec<Action>,
    /// When to look again although nothing happened.
    pub again: Option<Duration>,
}

impl Plan {
    /// Whether everything is as it should be.
    pub fn is_idle(&self) -> bool {
        self.status.is_none() && self.actions.is_empty()
    }
}
