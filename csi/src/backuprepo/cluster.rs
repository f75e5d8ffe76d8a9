//! The user's cluster: which one it is, and what is asked of it, with errors that say what to do.

use super::Place;
use crate::operator::crd::{BackupRepo, StorageProvider};
use crate::operator::names;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use std::io;

/// Where Secrets are, if there is no operator to be with.
const USUAL_NAMESPACE: &str = "kb-system";

/// A cluster.
pub(super) struct Cluster {
    pub(super) client: Client,
}

impl Cluster {
    pub(super) async fn connect(place: &Place) -> io::Result<Self> {
        let options =
            KubeConfigOptions { context: place.context.clone(), ..KubeConfigOptions::default() };
        let config = match (&place.kubeconfig, &place.context) {
            (None, None) => Config::infer().await.map_err(|error| no_cluster(&error)),
            (Some(file), _) => {
                let read = Kubeconfig::read_from(file).map_err(|error| no_cluster(&error))?;
                Config::from_custom_kubeconfig(read, &options)
                    .await
                    .map_err(|error| no_cluster(&error))
            }
            (None, Some(_)) => {
                Config::from_kubeconfig(&options).await.map_err(|error| no_cluster(&error))
            }
        };
        let client = Client::try_from(config?).map_err(|error| no_cluster(&error))?;
        Ok(Self { client })
    }

    pub(super) fn repos(&self) -> Api<BackupRepo> {
        Api::all(self.client.clone())
    }

    /// All repositories, by name.
    pub(super) async fn list(&self) -> io::Result<Vec<BackupRepo>> {
        let listed = self.repos().list(&ListParams::default()).await;
        let mut repos = listed.map_err(|error| failed("list BackupRepos", &error))?.items;
        repos.sort_by_key(ResourceExt::name_any);
        Ok(repos)
    }

    /// One of them.
    pub(super) async fn repo(&self, name: &str) -> io::Result<BackupRepo> {
        let found = self.repos().get_opt(name).await;
        found.map_err(|error| failed(&format!("BackupRepo {name}"), &error))?.ok_or_else(|| {
            io::Error::other(format!(
                "BackupRepo {name}: there is none of this name: strongroom backuprepo list"
            ))
        })
    }

    /// A provider, by name.
    pub(super) async fn provider(&self, name: &str) -> io::Result<StorageProvider> {
        let api = Api::<StorageProvider>::all(self.client.clone());
        let what = format!("StorageProvider {name}");
        if let Some(found) = api.get_opt(name).await.map_err(|error| failed(&what, &error))? {
            return Ok(found);
        }
        let listed = api.list_metadata(&ListParams::default()).await;
        let listed = listed.map_err(|error| failed("list StorageProviders", &error))?.items;
        let mut names: Vec<String> = listed.iter().map(ResourceExt::name_any).collect();
        names.sort();
        let there = match names.is_empty() {
            true => "there is none at all: kubectl apply -f deploy/storage-providers".to_owned(),
            false => format!("there are: {}", names.join(", ")),
        };
        Err(io::Error::other(format!("{what}: is not there; {there}")))
    }

    /// There is at most one default: none but this one, which may be new and have no name yet.
    pub(super) async fn check_default(&self, name: Option<&str>) -> io::Result<()> {
        let repos = self.list().await?;
        let other = repos.iter().find(|repo| {
            names::is_default(repo.annotations())
                && repo.metadata.deletion_timestamp.is_none()
                && repo.metadata.name.as_deref() != name
        });
        let Some(other) = other.map(ResourceExt::name_any) else { return Ok(()) };
        Err(io::Error::other(format!(
            "{other} is the default repository already, and there can be only one: strongroom backuprepo \
             update {other} --default=false"
        )))
    }

    /// The operator's namespace, where Secrets with keys lie beside it.
    pub(super) async fn namespace(&self) -> String {
        let label = "app.kubernetes.io/name=strongroom-csi,app.kubernetes.io/component=operator";
        let api = Api::<Deployment>::all(self.client.clone());
        // Who may not look gets the usual one.
        let found = api.list_metadata(&ListParams::default().labels(label)).await.ok();
        let first = found.and_then(|found| found.items.into_iter().next());
        first.and_then(|first| first.namespace()).unwrap_or_else(|| USUAL_NAMESPACE.to_owned())
    }
}

fn no_cluster(error: &dyn std::error::Error) -> io::Error {
    let why = crate::operator::causes(error);
    io::Error::other(format!(
        "no cluster: {why}: set KUBECONFIG, or use --kubeconfig and --context"
    ))
}

/// What was asked, and why it failed.
pub(super) fn failed(what: &str, error: &kube::Error) -> io::Error {
    let why = match error {
        kube::Error::Api(status)
            if status.code == 404
                && status.message.contains("could not find the requested resource") =>
        {
            format!(
                "{}: the kinds are not known to this cluster: install the chart with operator.enabled=true, or \
                 KubeBlocks",
                status.message
            )
        }
        kube::Error::Api(status) => status.message.clone(),
        error => crate::operator::causes(error),
    };
    io::Error::other(format!("{what}: {why}"))
}
