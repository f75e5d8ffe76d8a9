//! The edge to the API server: looks at the state around a repository. What the core decided upon it is done in
//! `perform`; besides these only `run` talks to the cluster.

use super::crd::{AccessMethod, BackupRepo, StorageProvider};
use super::encryption::Encryption;
use super::names;
use super::objects::{Names, name};
use super::observed::{Asking, Object, Observed, Reference, Settings};
use super::provider::Driver;
use super::tenants;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// Objects are listed in pages of this many.
const PAGE: u32 = 500;
/// The longest value of a label.
const LABEL_LIMIT: usize = 63;
/// KubeBlocks' objects that may ask for a repository.
const ASKING_KINDS: &[&str] = &["Backup", "Restore"];

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    settings: Settings,
}

impl Cluster {
    /// The cluster that a client reaches.
    pub fn new(client: Client, settings: Settings) -> Self {
        Self { client, settings }
    }

    /// The client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// How the operator was started.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Looks at the state around a repository; `None` if it is gone. `others` are the other default repositories.
    pub async fn observe(
        &self,
        repo: &str,
        refusals: &BTreeMap<Reference, String>,
    ) -> kube::Result<Option<Observed>> {
        let repos = Api::<BackupRepo>::all(self.client.clone());
        let Some(repo) = repos.get_opt(repo).await? else { return Ok(None) };
        let called = Names::of(&repo, &self.settings);
        // A longer name can be no label's value, so that nothing has it; what would get it is refused.
        let value = name(&repo);
        let value = if value.len() <= LABEL_LIMIT { value } else { "no-such-label" }.to_owned();
        let label = format!("{}={value}", names::LABEL_REPO);
        let labelled = ListParams::default().labels(&label);
        let provider = &repo.spec.storage_provider_ref;
        let provider = match is_name(provider) {
            true => Api::<StorageProvider>::all(self.client.clone()).get_opt(provider).await?,
            false => None,
        };
        let credential = repo.spec.credential.as_ref();
        let credential = match credential {
            Some(reference) => {
                let namespace = reference.namespace.as_deref().unwrap_or(&self.settings.namespace);
                self.secret(namespace, reference.name.as_deref().unwrap_or_default()).await?
            }
            None => None,
        };
        let passphrase = match Encryption::of(&repo) {
            Ok(Some(wish)) => {
                let (namespace, name) = wish.secret(&repo, &self.settings.namespace);
                self.secret(namespace, name).await?
            }
            _ => None,
        };
        let csi_secret = self.secret(&called.csi_secret.0, &called.csi_secret.1).await?;
        let classes = Api::<StorageClass>::all(self.client.clone());
        let storage_class = classes.get_opt(&called.storage_class).await?;
        let secrets: Vec<Secret> = self.all(Api::all(self.client.clone()), &labelled).await?;
        let (secrets, others): (Vec<Secret>, Vec<Secret>) = secrets
            .into_iter()
            .partition(|secret| secret.labels().contains_key(names::LABEL_TOOL_CONFIG));
        let mut tenant_csi_secrets = others;
        tenant_csi_secrets.retain(|secret| {
            secret.labels().contains_key(names::LABEL_TENANT)
                && secret.namespace().as_deref() == Some(&called.csi_secret.0)
        });
        let tenants = match tenants::are_wanted(&repo) {
            Ok(true) => {
                let home = tenants::home(&repo, &self.settings.namespace);
                let api = Api::<Secret>::namespaced(self.client.clone(), home);
                self.all(api, &ListParams::default().labels(&tenants::selector(&value))).await?
            }
            _ => Vec::new(),
        };
        let claims: Vec<PersistentVolumeClaim> =
            self.all(Api::all(self.client.clone()), &labelled).await?;
        let jobs = Api::<Job>::namespaced(self.client.clone(), &self.settings.namespace);
        let job = jobs.get_opt(&called.pre_check).await?;
        let (pods, warnings) = match &job {
            Some(job) => {
                let claim = claims.iter().find(|claim| {
                    claim.name_any() == called.pre_check
                        && claim.namespace().as_deref() == Some(&self.settings.namespace)
                        && claim.status.as_ref().and_then(|status| status.phase.as_deref())
                            == Some("Pending")
                });
                self.pods(job, claim).await?
            }
            None => (Vec::new(), Vec::new()),
        };
        let ending = repo.metadata.deletion_timestamp.is_some();
        let (users, volumes) = match ending {
            true => {
                let users = self.users(&called, &secrets, &claims).await?;
                (users, self.volumes(&called.storage_class).await?)
            }
            false => (Vec::new(), Vec::new()),
        };
        let defaults = self.other_defaults(&repos, &repo).await?;
        let objects = self.objects(&label).await?;
        let supplied = match repo.spec.access_method {
            AccessMethod::Tool => places(&secrets, &called.tool_config),
            AccessMethod::Mount => places(&claims, &called.claim),
        };
        let ending = self.ending(&objects, &supplied).await?;
        Ok(Some(Observed {
            now: Timestamp::now(),
            provider,
            credential,
            passphrase,
            csi_secret,
            tenant_csi_secrets,
            tenants,
            storage_class,
            secrets,
            claims,
            job,
            pods,
            warnings,
            namespaces: self.namespaces(&value).await?,
            objects,
            ending,
            defaults,
            users,
            volumes,
            refusals: refusals.clone(),
            repo,
        }))
    }

    async fn other_defaults(
        &self,
        repos: &Api<BackupRepo>,
        repo: &BackupRepo,
    ) -> kube::Result<Vec<String>> {
        if !names::is_default(repo.annotations()) {
            return Ok(Vec::new());
        }
        let all = repos.list_metadata(&ListParams::default()).await?;
        let others = all.items.iter().filter(|other| {
            names::is_default(other.annotations())
                && other.metadata.deletion_timestamp.is_none()
                && other.metadata.uid != repo.metadata.uid
        });
        Ok(others.map(ResourceExt::name_any).collect())
    }

    async fn secret(&self, namespace: &str, name: &str) -> kube::Result<Option<Secret>> {
        if !is_name(namespace) || !is_name(name) {
            return Ok(None);
        }
        Api::namespaced(self.client.clone(), namespace).get_opt(name).await
    }

    /// Everything that is listed, page by page.
    pub(super) async fn all<K>(&self, api: Api<K>, what: &ListParams) -> kube::Result<Vec<K>>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        let mut found = Vec::new();
        let mut page = what.clone().limit(PAGE);
        loop {
            let list = api.list(&page).await?;
            found.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    /// The namespaces that ask by their label.
    async fn namespaces(&self, repo: &str) -> kube::Result<Vec<Asking>> {
        let label = format!("{}={repo}", names::LABEL_ASK);
        let api = Api::<Namespace>::all(self.client.clone());
        let list = api.list_metadata(&ListParams::default().labels(&label)).await?;
        let asking = list.items.into_iter().map(|namespace| Asking {
            by_tool: namespace.labels().get(names::LABEL_METHOD).is_some_and(|how| how == "Tool"),
            going: namespace.metadata.deletion_timestamp.is_some(),
            name: namespace.name_any(),
        });
        Ok(asking.collect())
    }

    /// Which namespaces of objects are being deleted: nothing can be made in them any more. What is `supplied` needs
    /// nothing and is not asked for.
    async fn ending(
        &self,
        objects: &[Object],
        supplied: &BTreeSet<String>,
    ) -> kube::Result<BTreeSet<String>> {
        let lacking: BTreeSet<&String> = objects.iter().map(|object| &object.namespace).collect();
        let mut ending = BTreeSet::new();
        for name in lacking.into_iter().filter(|name| !supplied.contains(*name)) {
            let found = Api::<Namespace>::all(self.client.clone()).get_metadata_opt(name).await?;
            if found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
                ending.insert(name.clone());
            }
        }
        Ok(ending)
    }

    /// Backups and Restores, where there are such kinds.
    async fn objects(&self, label: &str) -> kube::Result<Vec<Object>> {
        let mut found = Vec::new();
        for kind in ASKING_KINDS {
            let api = self.dynamic(kind, None);
            let list = match self.all(api, &ListParams::default().labels(label)).await {
                Ok(list) => list,
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(error),
            };
            found.extend(list.into_iter().map(|object| {
                let phase = object.data.pointer("/status/phase").and_then(Value::as_str);
                let continuous = object.labels().get("dataprotection.kubeblocks.io/backup-type");
                let continuous = continuous.is_some_and(|kind| kind == "Continuous");
                Object {
                    waits: object
                        .labels()
                        .get(names::LABEL_WAIT)
                        .is_some_and(|value| value == "true"),
                    holds: *kind == "Backup" && (continuous || phase != Some("Failed")),
                    kind: (*kind).to_owned(),
                    namespace: object.namespace().unwrap_or_default(),
                    name: object.name_any(),
                }
            }));
        }
        Ok(found)
    }

    pub(super) fn dynamic(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = asking_resource(kind);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// The running pods that have a claim or a configuration of the repository.
    async fn users(
        &self,
        called: &Names,
        secrets: &[Secret],
        claims: &[PersistentVolumeClaim],
    ) -> kube::Result<Vec<String>> {
        let spaces = secrets.iter().map(|secret| secret.namespace());
        let spaces = spaces.chain(claims.iter().map(|claim| claim.namespace()));
        let spaces: BTreeSet<String> = spaces.flatten().collect();
        let mut users = Vec::new();
        for space in spaces {
            let api = Api::<Pod>::namespaced(self.client.clone(), &space);
            let running =
                ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
            for pod in self.all(api, &running).await? {
                if pod.spec.as_ref().is_some_and(|spec| super::users::uses(spec, called)) {
                    users.push(format!("Pod {space}/{}", pod.name_any()));
                }
            }
        }
        Ok(users)
    }

    /// Volumes of the class that are to be deleted with their claims.
    async fn volumes(&self, class: &str) -> kube::Result<Vec<String>> {
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let volumes = self.all(api, &ListParams::default()).await?;
        let left = volumes.iter().filter(|volume| {
            let spec = volume.spec.as_ref();
            let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
            let of = spec.and_then(|spec| spec.storage_class_name.as_deref());
            of == Some(class) && policy == Some("Delete")
        });
        Ok(left.map(|volume| format!("PersistentVolume {}", volume.name_any())).collect())
    }

    /// Whether a CSI driver is there.
    pub async fn driver(&self, name: &str) -> Driver {
        if name.is_empty() {
            return Driver::Found;
        }
        match Api::<CSIDriver>::all(self.client.clone()).get_opt(name).await {
            Ok(Some(_)) => Driver::Found,
            Ok(None) => Driver::Absent,
            Err(error) => Driver::Doubtful(error.to_string()),
        }
    }
}

/// Backups and Restores are KubeBlocks' kinds; nothing but their metadata and phase is looked at.
pub fn asking_resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("dataprotection.kubeblocks.io", "v1alpha1", kind))
}

/// Whether an object can have this name; what cannot is nowhere, and asking for it is no request at all.
fn is_name(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=253).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}

/// The namespaces that have an object of this name.
fn places<K: ResourceExt>(objects: &[K], name: &str) -> BTreeSet<String> {
    let called = objects.iter().filter(|object| object.meta().name.as_deref() == Some(name));
    called.filter_map(ResourceExt::namespace).collect()
}
