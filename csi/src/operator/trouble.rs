//! What the cluster says of a pre-check that does not begin: its pods, and the events of Job, pod and claim.

use super::cluster::Cluster;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};

impl Cluster {
    /// The pods of a Job, and the newest warnings of those that do not run.
    pub(super) async fn pods(
        &self,
        job: &Job,
        claim: Option<&PersistentVolumeClaim>,
    ) -> kube::Result<(Vec<Pod>, Vec<String>)> {
        let Some(uid) = job.metadata.uid.as_deref() else { return Ok(Default::default()) };
        let label = format!("batch.kubernetes.io/controller-uid={uid}");
        let pods = Api::<Pod>::namespaced(self.client(), &self.settings().namespace);
        let mut pods = self.all(pods, &ListParams::default().labels(&label)).await?;
        pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let pending = pods.iter().rev().find(|pod| {
            pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending")
        });
        // A Job that may make no pod says so itself; a claim that gets no volume keeps the pod waiting.
        let uids = [
            Some(uid),
            pending.and_then(|pod| pod.metadata.uid.as_deref()),
            claim.and_then(|claim| claim.metadata.uid.as_deref()),
        ];
        let mut warnings = Vec::new();
        for uid in uids.into_iter().flatten() {
            warnings.extend(self.warnings(uid).await?);
        }
        Ok((pods, warnings))
    }

    /// What the cluster complains of an object, the newest last.
    async fn warnings(&self, uid: &str) -> kube::Result<Vec<String>> {
        let fields = format!("involvedObject.uid={uid},type=Warning");
        let events = Api::<Event>::namespaced(self.client(), &self.settings().namespace);
        let mut events = self.all(events, &ListParams::default().fields(&fields)).await?;
        events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        let told = |event: Event| {
            let reason = event.reason.unwrap_or_default();
            event.message.map(|message| format!("{reason}: {message}"))
        };
        Ok(events.into_iter().filter_map(told).collect())
    }
}

/// An error with what caused it: the client's own text for a server that cannot be reached says nothing of why.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = Vec::new();
    for text in chain.map(ToString::to_string) {
        // Many repeat what is below them.
        if !texts.iter().any(|former| former.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}
