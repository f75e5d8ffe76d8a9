//! KubeBlocks' own controller of BackupRepos, beside which this operator must not work.

use super::cluster::Cluster;
use super::health::Health;
use super::trouble::causes;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use std::io;
use std::time::Duration;
use tokio::sync::watch;

/// How often KubeBlocks is looked for.
const NEIGHBOUR: Duration = Duration::from_secs(60);

/// Waits until KubeBlocks' controller is not there.
pub(super) async fn gone(
    cluster: &Cluster,
    health: &Health,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut told = String::new();
    loop {
        let why = match kubeblocks(cluster.client()).await? {
            Some(None) => return Ok(()),
            Some(Some(name)) => format!(
                "Deployment {name} is KubeBlocks' own controller of BackupRepos: this operator waits until it is \
                 gone. The CSI driver and the StorageProviders work with KubeBlocks as they are"
            ),
            None => "whether KubeBlocks is there cannot be asked just now: this operator waits"
                .to_owned(),
        };
        if told != why {
            tracing::warn!("{why}");
            health.waits(&why);
            told = why;
        }
        tokio::select! {
            () = tokio::time::sleep(NEIGHBOUR) => {}
            _ = ended.wait_for(|ended| *ended) => return Ok(()),
        }
    }
}

/// Returns when KubeBlocks' controller is there.
pub(super) async fn came(cluster: &Cluster) -> io::Result<()> {
    loop {
        tokio::time::sleep(NEIGHBOUR).await;
        if let Some(Some(_)) = kubeblocks(cluster.client()).await? {
            return Ok(());
        }
    }
}

/// KubeBlocks' controller of BackupRepos, if it has replicas. The outer `None`: that cannot be told now.
///
/// # Errors
/// It may not be asked.
#[allow(clippy::option_option)]
async fn kubeblocks(client: Client) -> io::Result<Option<Option<String>>> {
    let label = ListParams::default().labels("app.kubernetes.io/component=dataprotection");
    let list = match Api::<Deployment>::all(client).list(&label).await {
        Ok(list) => list,
        Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
            return Err(io::Error::other(format!(
                "look for KubeBlocks, which this operator must not work beside: {}",
                status.message
            )));
        }
        Err(error) => {
            tracing::warn!("look for KubeBlocks: {}", causes(&error));
            return Ok(None);
        }
    };
    let found = list.items.into_iter().find(|deployment| {
        let is = deployment
            .labels()
            .get("app.kubernetes.io/name")
            .is_some_and(|name| name.contains("kubeblocks"))
            || deployment.name_any().ends_with("-dataprotection");
        let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        is && replicas != Some(0)
    });
    Ok(Some(found.map(|deployment| {
        format!("{}/{}", deployment.namespace().unwrap_or_default(), deployment.name_any())
    })))
}
