//! The end of a repository: what uses it is waited for, then what was made for it goes, then it. What is in the bucket
//! stays, unless the reclaim policy of the volumes is Delete.

use super::conditions::{Conditions, kinds};
use super::crd::{Phase, ReclaimPolicy};
use super::names;
use super::namespaces::{is_retained, list};
use super::objects::{Names, reference};
use super::observed::{Action, Kind, Observed, Plan, Reference, Settings};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use std::time::Duration;

/// What still uses a repository changes without a word to us.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The plan for a repository that is being deleted.
pub(super) fn plan(observed: &Observed, settings: &Settings) -> Plan {
    let finalizers = observed.repo.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|name| name == names::FINALIZER) {
        return Plan::default();
    }
    let stored = observed.repo.status.clone().unwrap_or_default();
    let generation = observed.repo.metadata.generation;
    let mut conditions = Conditions::new(stored.conditions.clone(), observed.now, generation);
    let mut plan = Plan { again: Some(LOOK_AGAIN), ..Plan::default() };
    let done = end(observed, settings, &mut conditions, &mut plan.actions);
    if done {
        plan.actions.push(Action::Metadata {
            finalizers: Some(
                finalizers.into_iter().filter(|name| name != names::FINALIZER).collect(),
            ),
            annotations: Default::default(),
        });
    }
    let mut status = stored.clone();
    status.phase = Some(Phase::Deleting);
    status.observed_generation = generation;
    status.conditions = conditions.into_list();
    plan.status = (status != stored).then_some(status);
    plan
}

/// Adds what is to be deleted now; true when nothing is left.
fn end(
    observed: &Observed,
    settings: &Settings,
    conditions: &mut Conditions,
    actions: &mut Vec<Action>,
) -> bool {
    let called = Names::of(&observed.repo, settings);
    let backups: Vec<String> = observed
        .objects
        .iter()
        .filter(|object| object.holds)
        .map(|object| format!("{} {}/{}", object.kind, object.namespace, object.name))
        .collect();
    if !backups.is_empty() {
        let backups: Vec<&str> = backups.iter().map(String::as_str).collect();
        conditions.no(
            kinds::DELETED,
            "HaveAssociatedBackups",
            format!("backups are in this repository: {}; delete them first", list(&backups)),
        );
        return false;
    }
    if !observed.users.is_empty() {
        let users: Vec<&str> = observed.users.iter().map(String::as_str).collect();
        conditions.no(
            kinds::DELETED,
            "InUse",
            format!("{} use this repository: end them, or wait for them", list(&users)),
        );
        return false;
    }
    let lost: Vec<String> = match observed.repo.spec.pv_reclaim_policy {
        ReclaimPolicy::Delete => Vec::new(),
        ReclaimPolicy::Retain => {
            let ours = |claim: &&PersistentVolumeClaim| {
                claim.metadata.name.as_deref() != Some(&called.pre_check)
                    && claim.metadata.deletion_timestamp.is_none()
            };
            let claims = observed.claims.iter().filter(ours);
            claims
                .filter(|claim| !is_retained(observed, claim))
                .map(|claim| reference(Kind::PersistentVolumeClaim, &claim.metadata).to_string())
                .collect()
        }
    };
    if !lost.is_empty() {
        let lost: Vec<&str> = lost.iter().map(String::as_str).collect();
        conditions.no(
            kinds::DELETED,
            "DataWouldBeDeleted",
            format!(
                "pvReclaimPolicy is Retain, but the volumes of these may be deleted with them: {}: set \
                 persistentVolumeReclaimPolicy of their PersistentVolumes to Retain and delete them, or set \
                 pvReclaimPolicy to Delete",
                list(&lost)
            ),
        );
        return false;
    }
    if let Some((place, why)) = observed.refusals.iter().next() {
        conditions.no(
            kinds::DELETED,
            "DeletionRefused",
            format!("{place} could not be deleted: {why}"),
        );
    }
    if let Some(job) = &observed.job {
        actions.push(Action::Delete(reference(Kind::Job, &job.metadata)));
    }
    let claims: Vec<String> = observed
        .claims
        .iter()
        .map(|claim| reference(Kind::PersistentVolumeClaim, &claim.metadata).to_string())
        .chain(observed.volumes.iter().cloned())
        .collect();
    if !claims.is_empty() || observed.job.is_some() {
        let going =
            observed.claims.iter().filter(|claim| claim.metadata.deletion_timestamp.is_none());
        let going = going.map(|claim| reference(Kind::PersistentVolumeClaim, &claim.metadata));
        actions.extend(going.map(Action::Delete));
        // The driver needs its Secret to delete the volumes.
        let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
        conditions.no(
            kinds::DELETED,
            "HaveResidualPVCs",
            format!("waiting until these are gone: {}", list(&claims)),
        );
        return false;
    }
    let secrets = observed.secrets.iter().chain(&observed.csi_secret);
    let secrets = secrets.chain(&observed.tenant_csi_secrets);
    let mut left: Vec<Reference> =
        secrets.map(|secret| reference(Kind::Secret, &secret.metadata)).collect();
    if observed.storage_class.is_some() {
        left.push(Reference {
            kind: Kind::StorageClass,
            namespace: None,
            name: called.storage_class.clone(),
        });
    }
    left.sort();
    left.dedup();
    let done = left.is_empty();
    actions.extend(left.into_iter().map(Action::Delete));
    if done {
        conditions.yes(kinds::DELETED, "DerivedObjectsDeleted", "");
    }
    done
}
