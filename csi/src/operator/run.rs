//! The operator's process: watches whatever a repository depends on, and brings each repository to where the core
//! wants it. It holds nothing in memory but the repositories and the providers, and nothing on disk: whatever it did
//! half is taken up from the cluster's state.
//!
//! Where KubeBlocks' own controller runs, it does nothing but wait: two controllers of one kind would undo each
//! other's work.

use super::cluster::{Cluster, asking_resource};
use super::crd::{BackupRepo, StorageProvider};
use super::encryption::Encryption;
use super::health::Health;
use super::names;
use super::observed::{Action as Do, Plan, Reference};
use super::trouble::causes;
use super::{neighbour, provider, reconcile};
use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// One look and what follows from it, at most this often in a row.
const ROUNDS: usize = 8;
/// After an error of the API server.
const AFTER_ERROR: Duration = Duration::from_secs(5);
/// What the cluster refused may be allowed a while later.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);
/// Everything is looked at again now and then, should an event have been lost.
const AT_LAST: Duration = Duration::from_secs(10 * 60);
/// Repositories that are worked on at the same time.
const AT_ONCE: u16 = 8;

/// Runs until it is told to end.
///
/// # Errors
/// The API server cannot be reached at the start, the kinds are not there, or KubeBlocks came.
pub async fn run(cluster: Cluster, health: Health, ended: watch::Receiver<bool>) -> io::Result<()> {
    wait_for_kinds(&cluster, &health, ended.clone()).await?;
    neighbour::gone(&cluster, &health, ended.clone()).await?;
    if *ended.borrow() {
        return Ok(());
    }
    tracing::info!("watching BackupRepos and StorageProviders");
    let work = async {
        tokio::join!(
            repositories(cluster.clone(), health, ended.clone()),
            providers(cluster.clone(), ended.clone())
        );
        Ok(())
    };
    tokio::select! {
        result = work => result,
        why = neighbour::came(&cluster) => why.and_then(|()| Err(io::Error::other(
            "KubeBlocks' own controller of BackupRepos has come: this operator ends, so that the two do not fight; \
             switch it off (operator.enabled=false in the chart)",
        ))),
    }
}

/// Waits until the kinds can be listed; an operator often starts before its kinds are known.
async fn wait_for_kinds(
    cluster: &Cluster,
    health: &Health,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut told = false;
    loop {
        let one = ListParams::default().limit(1);
        let repos = Api::<BackupRepo>::all(cluster.client()).list_metadata(&one).await;
        let providers = Api::<StorageProvider>::all(cluster.client()).list_metadata(&one).await;
        let error = match (repos, providers) {
            (Ok(_), Ok(_)) => return Ok(()),
            (Err(error), _) | (_, Err(error)) => error,
        };
        health.waits(format!("BackupRepos cannot be listed: {}", causes(&error)));
        match &error {
            kube::Error::Api(status) if status.code == 404 => {
                if !told {
                    tracing::warn!(
                        "the kinds BackupRepo and StorageProvider are not known to the cluster yet: strongroom-csi \
                         crds | kubectl apply -f -"
                    );
                    told = true;
                }
            }
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                return Err(io::Error::other(format!("list BackupRepos: {error}")));
            }
            _ => tracing::warn!("the API server cannot be asked: {}", causes(&error)),
        }
        tokio::select! {
            () = tokio::time::sleep(AFTER_ERROR) => {}
            _ = ended.wait_for(|ended| *ended) => return Ok(()),
        }
    }
}

/// Returns when the process is told to end.
async fn told(mut ended: watch::Receiver<bool>) {
    let _ = ended.wait_for(|ended| *ended).await;
}

/// After an error of the API server.
fn again<K, C>(_: Arc<K>, error: &kube::Error, _: Arc<C>) -> Action {
    tracing::warn!("{}", causes(error));
    Action::requeue(AFTER_ERROR)
}

/// What the machinery around reconciles says of itself: objects that cannot be read stop a watch.
fn tell<T>(result: Result<T, kube::runtime::controller::Error<kube::Error, watcher::Error>>) {
    if let Err(error @ kube::runtime::controller::Error::QueueError(_)) = result {
        tracing::warn!("{}", causes(&error));
    }
}

async fn repositories(cluster: Cluster, health: Health, ended: watch::Receiver<bool>) {
    let controller =
        Controller::new(Api::<BackupRepo>::all(cluster.client()), watcher::Config::default())
            .with_config(Config::default().concurrency(AT_ONCE));
    let triggers = triggers(&cluster, &controller.store());
    // They could be listed a moment ago.
    health.watches(controller.store());
    let counted = health.clone();
    let context = Context { cluster, health, refusals: Mutex::default() };
    controller
        .reconcile_on(triggers)
        .graceful_shutdown_on(told(ended))
        .run(bring, again, Arc::new(context))
        .for_each(|result| {
            if matches!(result, Err(kube::runtime::controller::Error::QueueError(_))) {
                counted.ended(false);
            }
            tell(result);
            std::future::ready(())
        })
        .await;
}

/// What all reconciles share.
struct Context {
    cluster: Cluster,
    health: Health,
    /// What the cluster refused the last time, by repository, so that a condition does not come and go.
    refusals: Mutex<BTreeMap<String, Refusals>>,
}

type Refusals = BTreeMap<Reference, String>;

/// Brings one repository to where it should be.
async fn bring(repo: Arc<BackupRepo>, context: Arc<Context>) -> kube::Result<Action> {
    let name = repo.name_any();
    let mut refusals = context
        .refusals
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&name)
        .unwrap_or_default();
    let at_work = context.health.begins(&name);
    let result = rounds(&context.cluster, &name, &mut refusals).await;
    drop(at_work);
    context.health.ended(result.is_ok());
    if !refusals.is_empty() {
        context.refusals.lock().unwrap_or_else(PoisonError::into_inner).insert(name, refusals);
    }
    result
}

async fn rounds(cluster: &Cluster, name: &str, refusals: &mut Refusals) -> kube::Result<Action> {
    for _ in 0..ROUNDS {
        let Some(observed) = cluster.observe(name, refusals).await? else {
            refusals.clear();
            return Ok(Action::await_change());
        };
        let plan = reconcile::plan(&observed, cluster.settings());
        if plan.is_idle() {
            refusals.clear();
            return Ok(Action::requeue(pause(&plan, refusals)));
        }
        let refused = perform(cluster, &observed.repo, &plan).await?;
        let again = refused == *refusals;
        *refusals = refused;
        if again && !refusals.is_empty() && plan.status.is_none() {
            return Ok(Action::requeue(pause(&plan, refusals)));
        }
    }
    Ok(Action::requeue(Duration::from_secs(1)))
}

fn pause(plan: &Plan, refusals: &Refusals) -> Duration {
    let most = if refusals.is_empty() { AT_LAST } else { AFTER_REFUSAL };
    plan.again.unwrap_or(most).clamp(Duration::from_millis(200), most)
}

/// Writes the status, then does what is to be done. What concerns one namespace does not keep the others waiting.
async fn perform(cluster: &Cluster, repo: &BackupRepo, plan: &Plan) -> kube::Result<Refusals> {
    if let Some(status) = &plan.status {
        cluster.write_status(repo, status).await?;
    }
    let mut refusals = BTreeMap::new();
    let mut failure = None;
    for action in &plan.actions {
        match cluster.perform(repo, action).await {
            Ok(None) => {}
            Ok(Some((place, why))) => {
                tracing::warn!("BackupRepo {}: {place}: {why}", repo.name_any());
                refusals.insert(place, why);
            }
            // The order of a repository's own things matters; those of namespaces do not wait for each other.
            Err(error) if matches!(action, Do::Metadata { .. }) => return Err(error),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(refusals), Err)
}

async fn providers(cluster: Cluster, ended: watch::Receiver<bool>) {
    let controller =
        Controller::new(Api::<StorageProvider>::all(cluster.client()), watcher::Config::default());
    let store = controller.store();
    let drivers = metadata::<CSIDriver>(Api::all(cluster.client()), watcher::Config::default());
    let drivers = drivers.flat_map(move |driver| {
        let name = driver.name_any();
        let of = |provider: &Arc<StorageProvider>| {
            provider.spec.csi_driver_name.as_deref() == Some(name.as_str())
        };
        let found: Vec<_> = store
            .state()
            .iter()
            .filter(|provider| of(provider))
            .map(|it| ObjectRef::from_obj(&**it))
            .collect();
        stream::iter(found)
    });
    controller
        .reconcile_on(drivers)
        .graceful_shutdown_on(told(ended))
        .run(bring_provider, again, Arc::new(cluster))
        .for_each(|result| async { tell(result) })
        .await;
}

async fn bring_provider(
    provider: Arc<StorageProvider>,
    cluster: Arc<Cluster>,
) -> kube::Result<Action> {
    let driver = cluster.driver(provider.spec.csi_driver_name.as_deref().unwrap_or_default()).await;
    if let Some(status) = provider::status(&provider, &driver, Timestamp::now()) {
        cluster.write_provider_status(&provider, &status).await?;
    }
    let again = matches!(driver, provider::Driver::Doubtful(_));
    Ok(Action::requeue(if again { AFTER_REFUSAL } else { AT_LAST }))
}

/// The repositories that an event anywhere may concern.
fn triggers(
    cluster: &Cluster,
    repos: &Store<BackupRepo>,
) -> SelectAll<BoxStream<'static, ObjectRef<BackupRepo>>> {
    let client = || cluster.client();
    let ours = || watcher::Config::default().labels(names::LABEL_REPO);
    let namespace = &cluster.settings().namespace;
    let mut all = SelectAll::new();
    all.push(labelled::<PersistentVolumeClaim>(Api::all(client()), ours()));
    all.push(labelled::<StorageClass>(Api::all(client()), ours()));
    all.push(labelled::<Job>(Api::namespaced(client(), namespace), ours()));
    all.push(labelled::<Pod>(Api::namespaced(client(), namespace), ours()));
    for kind in ["Backup", "Restore"] {
        all.push(asking(cluster, kind));
    }
    // A Secret that somebody names has no label: all of them are watched, but only their names and labels.
    let store = repos.clone();
    let secrets = metadata::<Secret>(Api::all(client()), watcher::Config::default());
    let namespace = namespace.clone();
    let secrets = secrets.flat_map(move |secret| {
        let found: Vec<_> = match owner(&secret) {
            Some(repo) => vec![repo],
            None => matching(&store, |repo| names_secret(repo, &secret, &namespace)),
        };
        stream::iter(found)
    });
    all.push(secrets.boxed());
    let store = repos.clone();
    let providers = metadata::<StorageProvider>(Api::all(client()), watcher::Config::default());
    let providers = providers.flat_map(move |provider| {
        let name = provider.name_any();
        stream::iter(matching(&store, |repo| repo.spec.storage_provider_ref == name))
    });
    all.push(providers.boxed());
    // A namespace whose label changed may have asked for any of them before.
    let store = repos.clone();
    let config = watcher::Config::default().labels(names::LABEL_ASK);
    let spaces = metadata::<Namespace>(Api::all(client()), config);
    all.push(spaces.flat_map(move |_| stream::iter(matching(&store, |_| true))).boxed());
    // Two repositories that say that they are the default look at each other.
    let store = repos.clone();
    let others = metadata::<BackupRepo>(Api::all(client()), watcher::Config::default());
    let others = others.flat_map(move |changed| {
        let defaults = matching(&store, |repo| {
            repo.name_any() != changed.name_any()
                && repo.annotations().contains_key(names::IS_DEFAULT)
        });
        stream::iter(defaults)
    });
    all.push(others.boxed());
    all
}

/// The metadata of whatever changes. Failures are tried again, ever more slowly.
fn metadata<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
) -> impl Stream<Item = PartialObjectMeta<K>> + Send + 'static
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let events = watcher(api, config).default_backoff();
    events.filter_map(|event| async {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => {
                Some(object)
            }
            Ok(Event::Init | Event::InitDone) => None,
            Err(error) => {
                let kind = K::kind(&());
                let why = causes(&error);
                tracing::warn!("watch of {kind}: {why}: changes are seen late, or not at all");
                None
            }
        }
    })
}

/// The repositories of objects that have the label.
fn labelled<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
) -> BoxStream<'static, ObjectRef<BackupRepo>>
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    metadata(api, config).filter_map(|object| async move { owner(&object) }).boxed()
}

/// The repositories that KubeBlocks' objects of a kind ask for. Where the kind is not known, the watch fails quietly
/// until it is.
fn asking(cluster: &Cluster, kind: &str) -> BoxStream<'static, ObjectRef<BackupRepo>> {
    let resource = asking_resource(kind);
    let api = Api::<DynamicObject>::all_with(cluster.client(), &resource);
    let events = watcher(api, watcher::Config::default().labels(names::LABEL_REPO));
    let events = events.default_backoff();
    events
        .filter_map(|event| async {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => {
                    owner(&object)
                }
                _ => None,
            }
        })
        .boxed()
}

fn owner<K: Resource>(object: &K) -> Option<ObjectRef<BackupRepo>> {
    object.labels().get(names::LABEL_REPO).map(|name| ObjectRef::new(name))
}

fn matching(
    store: &Store<BackupRepo>,
    which: impl Fn(&BackupRepo) -> bool,
) -> Vec<ObjectRef<BackupRepo>> {
    let state = store.state();
    state.iter().filter(|repo| which(repo)).map(|repo| ObjectRef::from_obj(&**repo)).collect()
}

/// Whether a repository names a Secret, as its credential or for its passphrase, or is named by it for a tenant.
fn names_secret(repo: &BackupRepo, secret: &PartialObjectMeta<Secret>, namespace: &str) -> bool {
    let (space, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
    let credential = repo.spec.credential.as_ref().is_some_and(|reference| {
        reference.name.as_deref() == Some(&name)
            && reference.namespace.as_deref().unwrap_or(namespace) == space
    });
    let passphrase = || match Encryption::of(repo) {
        Ok(Some(wish)) => wish.secret(repo, namespace) == (space.as_str(), name.as_str()),
        _ => false,
    };
    let labels = secret.labels();
    let tenant = labels.get(names::LABEL_ASK) == repo.metadata.name.as_ref()
        && labels.contains_key(names::LABEL_TENANT)
        && super::tenants::home(repo, namespace) == space;
    credential || tenant || passphrase()
}
