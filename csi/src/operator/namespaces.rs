//! What each namespace that asks gets: datasafed's configuration (Tool) or a claim (Mount). Nobody gets anything
//! before the repository is Ready; what somebody has is kept as it should be.
//!
//! A namespace asks by its label `strongroom.io/backup-repo`, and what it got goes with the label. Or a Backup or
//! Restore in it asks by KubeBlocks' labels: then a configuration stays as long as any of them is there, a claim, whose
//! volume has the backups, as long as the repository. What lies in a namespace asks for nothing: whoever may write
//! Secrets there could otherwise give the keys to himself. A repository that is
//! bound to namespaces (`strongroom.io/namespaces`) takes back what others have.

use super::conditions::{Conditions, kinds};
use super::crd::{AccessMethod, ReclaimPolicy};
use super::names;
use super::objects::{self, Maker, Names, PASSPHRASE_KEY, is_by_label, reference};
use super::observed::{Action, Kind, Observed, Reference};
use super::tenants::{self, Tenants};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};

/// Why a namespace cannot have the tool's configuration of a repository that is mounted.
const NOT_BY_TOOL: &str = "asks for the tool, which finds other files than volumes have: for both the repository needs \
                           layout objects and pvReclaimPolicy Retain";
/// No message names more.
const SHOWN: usize = 5;

/// What goes into every namespace.
pub(super) struct Parcel<'a> {
    /// How the repository is reached.
    pub method: AccessMethod,
    /// The contents of the Secret (Tool); of a repository that is mounted, if the tool finds the same files.
    pub config: Option<&'a BTreeMap<String, Vec<u8>>>,
    /// The provider's claim (Mount).
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// The StorageClass that was made (Mount).
    pub storage_class: Option<&'a str>,
    /// Where each namespace has Secrets of its own.
    pub tenants: Option<&'a Tenants<'a>>,
}

/// The namespace's own place in the repository, where KubeBlocks puts its backups too.
fn base_path(observed: &Observed, namespace: &str) -> String {
    let prefix = observed.repo.spec.path_prefix.as_deref().unwrap_or_default();
    match prefix.trim_matches('/') {
        "" => format!("/{namespace}"),
        prefix => format!("/{prefix}/{namespace}"),
    }
}

/// The namespaces that may ask; `None`: all.
pub(super) fn allowed(observed: &Observed) -> Option<BTreeSet<&str>> {
    let annotations = observed.repo.metadata.annotations.as_ref()?;
    let list = annotations.get(names::NAMESPACES)?;
    Some(list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect())
}

/// Adds what is to be done in the namespaces, and says the condition.
pub(super) fn look(
    observed: &Observed,
    maker: &Maker<'_>,
    called: &Names,
    parcel: &Parcel<'_>,
    is_ready: bool,
    conditions: &mut Conditions,
    actions: &mut Vec<Action>,
) {
    let allowed = allowed(observed);
    let may = |name: &str| allowed.as_ref().is_none_or(|allowed| allowed.contains(name));
    let going = going(observed);
    let (by_label, by_object) = asking(observed);
    let mut wanted = wanted(observed, called, &by_label, &by_object);
    let refused: Vec<&str> = wanted.keys().copied().filter(|name| !may(name)).collect();
    wanted.retain(|name, _| may(name) && !going.contains(name));

    let mut prepared = 0;
    let mut troubles = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for (namespace, is_by_label) in &wanted {
        let existing = secret_in(observed, called, namespace);
        let wants_tool = asks_for_tool(observed, namespace);
        let mut lacking = Vec::new();
        let own = match parcel.tenants.map(|tenants| tenants.own(namespace)) {
            None => None,
            Some(Ok(own)) => Some(own),
            Some(Err(why)) => {
                troubles.push(format!("{namespace}: {why}"));
                // What it was given before there were tenants is everybody's.
                let shared = existing.filter(|existing| !tenants::is_theirs(existing));
                let shared = shared.filter(|shared| shared.metadata.deletion_timestamp.is_none());
                actions.extend(
                    shared.map(|shared| Action::Delete(reference(Kind::Secret, &shared.metadata))),
                );
                continue;
            }
        };
        let config = own.as_ref().map_or(parcel.config, |own| own.config.as_ref());
        if let Some(wanted) = own.as_ref().and_then(|own| own.csi_secret.as_ref()) {
            let mut existing = observed.tenant_csi_secrets.iter();
            let existing = existing.find(|made| made.metadata.name == wanted.metadata.name);
            if existing.is_none_or(|existing| !objects::is_current(existing, wanted)) {
                lacking.push(Action::Secret(wanted.clone()));
            }
        }
        // What a workload was once given is kept as it should be.
        if parcel.method == AccessMethod::Tool || wants_tool || existing.is_some() {
            match config {
                Some(config) => {
                    let mut config = config.clone();
                    let base = base_path(observed, namespace);
                    config.insert(objects::BASE_PATH_KEY.to_owned(), base.into_bytes());
                    let mut secret =
                        maker.tool_config(namespace, &called.tool_config, config, *is_by_label);
                    if own.as_ref().is_some_and(|own| own.is_theirs)
                        && let Some(labels) = &mut secret.metadata.labels
                    {
                        labels.insert(names::LABEL_TENANT.to_owned(), (*namespace).to_owned());
                    }
                    if existing.is_none_or(|existing| !objects::is_current(existing, &secret)) {
                        lacking.push(Action::Secret(secret));
                    }
                }
                None if wants_tool => {
                    troubles.push(format!("{namespace}: {NOT_BY_TOOL}"));
                    continue;
                }
                None => {}
            }
        }
        if parcel.method == AccessMethod::Mount
            && !wants_tool
            && claim_in(observed, called, namespace).is_none()
        {
            lacking.push(Action::Claim(maker.claim(
                namespace,
                &called.claim,
                parcel.storage_class,
                parcel.claim,
                *is_by_label,
            )));
        }
        if lacking.is_empty() {
            prepared += 1;
            done.insert(namespace);
        } else if is_ready {
            let why = lacking.iter().find_map(|action| observed.refusals.get(&made(action)));
            troubles.extend(why.map(|why| format!("{namespace}: {why}")));
            actions.extend(lacking);
        }
    }
    actions.extend(leftovers(observed, called, &wanted, &going));
    if !is_ready {
        actions.extend(plain(observed, called));
    }
    for object in observed.objects.iter().filter(|object| object.waits) {
        if is_ready && done.contains(object.namespace.as_str()) {
            actions.push(Action::Release(object.clone()));
        }
    }
    if !refused.is_empty() {
        conditions.no(
            kinds::NAMESPACES,
            "NamespaceNotAllowed",
            format!(
                "{} may not use this repository: add them to its annotation {}, or take their label {} away",
                list(&refused),
                names::NAMESPACES,
                names::LABEL_ASK
            ),
        );
    } else if !troubles.is_empty() {
        let troubles: Vec<&str> = troubles.iter().map(String::as_str).collect();
        conditions.no(
            kinds::NAMESPACES,
            "PrepareNamespaceFailed",
            format!("{}: {}", troubles.len(), list(&troubles)),
        );
    } else if wanted.is_empty() {
        conditions.drop(kinds::NAMESPACES);
    } else {
        let plural = if prepared == 1 { "" } else { "s" };
        let message = format!("{prepared} namespace{plural} of {} prepared", wanted.len());
        match prepared == wanted.len() {
            true => conditions.yes(kinds::NAMESPACES, "NamespacesPrepared", message),
            false => conditions.unknown(kinds::NAMESPACES, "PreparingNamespaces", message),
        }
    }
}

/// What is taken back although the repository cannot be used: what nobody asks for any more, or may not have.
pub(super) fn withdraw(observed: &Observed, called: &Names) -> Vec<Action> {
    let allowed = allowed(observed);
    let (by_label, by_object) = asking(observed);
    let mut wanted = wanted(observed, called, &by_label, &by_object);
    wanted.retain(|name, _| allowed.as_ref().is_none_or(|allowed| allowed.contains(name)));
    // What is in both is found gone the second time, which is as well.
    let mut back = leftovers(observed, called, &wanted, &going(observed));
    back.extend(plain(observed, called));
    back
}

/// Configurations that would go on storing plain data although encryption is asked for, in whatever way: they go
/// at once, and come back encrypted when the repository can be used.
fn plain(observed: &Observed, called: &Names) -> Vec<Action> {
    let annotations = observed.repo.metadata.annotations.as_ref();
    if annotations.is_none_or(|all| !all.contains_key(names::ENCRYPTION)) {
        return Vec::new();
    }
    let encrypts = |secret: &k8s_openapi::api::core::v1::Secret| {
        secret.data.as_ref().is_some_and(|data| data.contains_key(PASSPHRASE_KEY))
    };
    let secrets = observed.secrets.iter().filter(|secret| {
        secret.metadata.name.as_deref() == Some(&called.tool_config)
            && secret.metadata.deletion_timestamp.is_none()
            && !encrypts(secret)
    });
    secrets.map(|secret| Action::Delete(reference(Kind::Secret, &secret.metadata))).collect()
}

/// Whether the data of a claim outlive it for certain: it was made from the class as that is now, which retains.
pub(super) fn is_retained(observed: &Observed, claim: &PersistentVolumeClaim) -> bool {
    let Some(class) = &observed.storage_class else { return false };
    let of_class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref())
        == class.metadata.name.as_deref();
    observed.repo.spec.pv_reclaim_policy == ReclaimPolicy::Retain
        && class.reclaim_policy.as_deref() == Some(ReclaimPolicy::Retain.as_str())
        && of_class
        && !is_older(&claim.metadata, &class.metadata)
}

/// Whether one object was made before another one.
pub(super) fn is_older(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    let time = |of: &ObjectMeta| of.creation_timestamp.as_ref().map(|time| time.0);
    time(one).zip(time(other)).is_some_and(|(one, other)| one < other)
}

fn going(observed: &Observed) -> BTreeSet<&str> {
    let going = observed.namespaces.iter().filter(|namespace| namespace.going);
    let going = going.map(|namespace| namespace.name.as_str());
    going.chain(observed.ending.iter().map(String::as_str)).collect()
}

/// The namespaces that ask by their label, and those with objects that ask.
fn asking(observed: &Observed) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let by_label = observed.namespaces.iter().map(|namespace| namespace.name.as_str());
    let by_object = observed.objects.iter().map(|object| object.namespace.as_str());
    (by_label.collect(), by_object.collect())
}

/// The namespaces that have or ask for something, and whether what they get goes with the label.
fn wanted<'a>(
    observed: &'a Observed,
    called: &Names,
    by_label: &BTreeSet<&'a str>,
    by_object: &BTreeSet<&'a str>,
) -> BTreeMap<&'a str, bool> {
    let mut wanted: BTreeMap<&str, bool> = by_label.iter().map(|name| (*name, true)).collect();
    wanted.extend(by_object.iter().map(|name| (*name, false)));
    if observed.repo.spec.access_method == AccessMethod::Mount {
        // What was made for a Backup or Restore once stays; whoever may make claims could have one of the class anyway.
        let claims = observed.claims.iter().map(|claim| &claim.metadata);
        let staying = claims
            .filter(|metadata| metadata.name.as_deref() == Some(&called.claim))
            .filter(|metadata| metadata.deletion_timestamp.is_none() && !is_by_label(metadata))
            .filter_map(|metadata| metadata.namespace.as_deref());
        wanted.extend(staying.map(|name| (name, false)));
    }
    wanted
}

/// Whether a namespace says by its label that it wants the tool.
fn asks_for_tool(observed: &Observed, namespace: &str) -> bool {
    observed.namespaces.iter().any(|asking| asking.name == namespace && asking.by_tool)
}

/// Whether a namespace of a repository that is mounted has the tool's configuration, or is to have it.
pub(super) fn uses_tool(observed: &Observed, called: &Names) -> bool {
    observed.namespaces.iter().any(|asking| asking.by_tool)
        || observed
            .secrets
            .iter()
            .any(|secret| secret.metadata.name.as_deref() == Some(&called.tool_config))
}

/// Whether a namespace asks, be it by its label or by an object in it.
pub(super) fn asks(observed: &Observed, namespace: &str) -> bool {
    let (by_label, by_object) = asking(observed);
    by_label.contains(namespace) || by_object.contains(namespace)
}

/// What namespaces have that they no longer ask for, or may not have. A claim whose deletion would delete backups
/// stays; so does everything that belongs to the other access method, until the repository goes.
fn leftovers(
    observed: &Observed,
    called: &Names,
    wanted: &BTreeMap<&str, bool>,
    going: &BTreeSet<&str>,
) -> Vec<Action> {
    let unwanted = |metadata: &ObjectMeta| {
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        metadata.deletion_timestamp.is_none()
            && !wanted.contains_key(namespace)
            && !going.contains(namespace)
    };
    let secrets = observed
        .secrets
        .iter()
        .filter(|secret| secret.metadata.name.as_deref() == Some(&called.tool_config))
        .filter(|secret| unwanted(&secret.metadata))
        .map(|secret| reference(Kind::Secret, &secret.metadata));
    let claims = observed
        .claims
        .iter()
        .filter(|claim| claim.metadata.name.as_deref() == Some(&called.claim))
        .filter(|claim| is_retained(observed, claim))
        .filter(|claim| unwanted(&claim.metadata))
        .map(|claim| reference(Kind::PersistentVolumeClaim, &claim.metadata));
    let found: Vec<Reference> = match observed.repo.spec.access_method {
        AccessMethod::Tool => secrets.collect(),
        // Those that have the tool as well.
        AccessMethod::Mount => claims.chain(secrets).collect(),
    };
    found.into_iter().map(Action::Delete).collect()
}

fn secret_in<'a>(
    observed: &'a Observed,
    called: &Names,
    namespace: &str,
) -> Option<&'a k8s_openapi::api::core::v1::Secret> {
    observed.secrets.iter().find(|secret| {
        secret.metadata.namespace.as_deref() == Some(namespace)
            && secret.metadata.name.as_deref() == Some(&called.tool_config)
    })
}

fn claim_in<'a>(
    observed: &'a Observed,
    called: &Names,
    namespace: &str,
) -> Option<&'a PersistentVolumeClaim> {
    observed.claims.iter().find(|claim| {
        claim.metadata.namespace.as_deref() == Some(namespace)
            && claim.metadata.name.as_deref() == Some(&called.claim)
    })
}

fn made(action: &Action) -> Reference {
    match action {
        Action::Secret(secret) => reference(Kind::Secret, &secret.metadata),
        Action::Claim(claim) => reference(Kind::PersistentVolumeClaim, &claim.metadata),
        // Nothing else is made in namespaces.
        _ => Reference { kind: Kind::Job, namespace: None, name: String::new() },
    }
}

/// Some of them, and how many more there are.
pub(super) fn list(names: &[&str]) -> String {
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
