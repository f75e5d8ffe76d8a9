//! What the core decided, done in the cluster.
//!
//! Secrets are written by server-side apply, so that fields of others stay; what cannot be changed is created once.
//! What the cluster refuses (no right, an invalid object) is remembered for the next look, so that a condition says
//! it; everything else is an error, after which the repository is looked at again.

use super::cluster::Cluster;
use super::crd::{BackupRepo, BackupRepoStatus, StorageProvider, StorageProviderStatus};
use super::names;
use super::objects::name;
use super::observed::{Action, Kind, Reference};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Debug;

impl Cluster {
    /// Writes a repository's status.
    pub async fn write_status(
        &self,
        repo: &BackupRepo,
        status: &BackupRepoStatus,
    ) -> kube::Result<()> {
        let body = status_body::<BackupRepo, _>(&repo.metadata.uid, status);
        let api = Api::<BackupRepo>::all(self.client());
        api.patch_status(name(repo), &forced(), &Patch::Apply(body)).await.map(drop)
    }

    /// Writes a provider's status.
    pub async fn write_provider_status(
        &self,
        provider: &StorageProvider,
        status: &StorageProviderStatus,
    ) -> kube::Result<()> {
        let body = status_body::<StorageProvider, _>(&provider.metadata.uid, status);
        let api = Api::<StorageProvider>::all(self.client());
        api.patch_status(&provider.name_any(), &forced(), &Patch::Apply(body)).await.map(drop)
    }

    /// Does one thing. `Ok(Some)` says what was refused, and why.
    pub async fn perform(
        &self,
        repo: &BackupRepo,
        action: &Action,
    ) -> kube::Result<Option<(Reference, String)>> {
        let (place, result) = match action {
            Action::Metadata { finalizers, annotations } => {
                let mut metadata = json!({"annotations": annotations});
                if let Some(finalizers) = finalizers {
                    metadata["finalizers"] = json!(finalizers);
                    // The list is written whole: whoever changed it meanwhile must be seen first.
                    metadata["resourceVersion"] = json!(repo.metadata.resource_version);
                }
                let api = Api::<BackupRepo>::all(self.client());
                let patch = Patch::Merge(json!({"metadata": metadata}));
                return match api.patch(name(repo), &by_us(), &patch).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                    result => result.map(|_| None),
                };
            }
            Action::Secret(secret) => (
                super::objects::reference(Kind::Secret, &secret.metadata),
                self.apply(secret).await,
            ),
            Action::StorageClass(class) => {
                let api = Api::<StorageClass>::all(self.client());
                (
                    super::objects::reference(Kind::StorageClass, &class.metadata),
                    self.create(api, class).await.map(drop),
                )
            }
            Action::Claim(claim) => {
                let space = claim.metadata.namespace.clone().unwrap_or_default();
                let api = Api::<PersistentVolumeClaim>::namespaced(self.client(), &space);
                let place = super::objects::reference(Kind::PersistentVolumeClaim, &claim.metadata);
                // It is not among those with the repository's label, or it would not be made.
                match self.create(api, claim).await {
                    Ok(false) => {
                        let why = format!(
                            "it is there already without the label {}={}",
                            names::LABEL_REPO,
                            name(repo)
                        );
                        return Ok(Some((place, why)));
                    }
                    result => (place, result.map(drop)),
                }
            }
            Action::Job(job) => {
                let space = job.metadata.namespace.clone().unwrap_or_default();
                let api = Api::<Job>::namespaced(self.client(), &space);
                let made = self.create(api, job).await.map(drop);
                (super::objects::reference(Kind::Job, &job.metadata), made)
            }
            Action::Delete(reference) => (reference.clone(), self.delete(reference).await),
            Action::Release(object) => {
                let api = self.dynamic(&object.kind, Some(&object.namespace));
                let labels: BTreeMap<&str, Option<&str>> = [(names::LABEL_WAIT, None)].into();
                let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
                let result = api.patch(&object.name, &by_us(), &patch).await;
                return match result {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                    result => result.map(|_| None),
                };
            }
        };
        match result {
            Err(kube::Error::Api(status)) if is_refusal(status.code) => {
                Ok(Some((place, status.message.clone())))
            }
            result => result.map(|()| None),
        }
    }

    async fn apply(&self, secret: &Secret) -> kube::Result<()> {
        let space = secret.metadata.namespace.clone().unwrap_or_default();
        let api = Api::<Secret>::namespaced(self.client(), &space);
        api.patch(&secret.name_any(), &forced(), &Patch::Apply(secret)).await.map(drop)
    }

    /// False if one of its name is there already.
    async fn create<K>(&self, api: Api<K>, object: &K) -> kube::Result<bool>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Serialize,
    {
        let parameters = kube::api::PostParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..Default::default()
        };
        match api.create(&parameters, object).await {
            // Whoever made it: the next look tells whether it is as it should be.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            result => result.map(|_| true),
        }
    }

    async fn delete(&self, reference: &Reference) -> kube::Result<()> {
        let Reference { kind, namespace, name } = reference;
        let client = self.client();
        let space = namespace.as_deref().unwrap_or_default();
        // The pods of a Job go with it, but it need not wait for them.
        let how = DeleteParams::background();
        let result = match kind {
            Kind::Secret => {
                Api::<Secret>::namespaced(client, space).delete(name, &how).await.map(drop)
            }
            Kind::StorageClass => {
                Api::<StorageClass>::all(client).delete(name, &how).await.map(drop)
            }
            Kind::PersistentVolumeClaim => {
                let api = Api::<PersistentVolumeClaim>::namespaced(client, space);
                api.delete(name, &how).await.map(drop)
            }
            Kind::Job => Api::<Job>::namespaced(client, space).delete(name, &how).await.map(drop),
        };
        match result {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result,
        }
    }
}

/// An answer that another attempt at the same would get again.
fn is_refusal(code: u16) -> bool {
    matches!(code, 400 | 403 | 404 | 405 | 413 | 415 | 422)
}

fn by_us() -> PatchParams {
    PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn forced() -> PatchParams {
    PatchParams::apply(names::FIELD_MANAGER).force()
}

fn status_body<K: Resource<DynamicType = ()>, S: Serialize>(
    uid: &Option<String>,
    status: &S,
) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // An object of the same name that was made anew is not meant.
        "metadata": {"uid": uid},
        "status": status,
    })
}
