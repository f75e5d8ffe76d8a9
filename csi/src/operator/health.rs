//! What the operator tells of itself: whether it works, for kubelet, and how its repositories are, for Prometheus.

use super::crd::{BackupRepo, Condition, ConditionStatus, Phase};
use crate::metrics::{self, Metric};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A look at a repository that has taken so long is stuck: also one of very many namespaces on a slow API server
/// ends long before.
const STUCK: Duration = Duration::from_secs(60 * 60);

const RECONCILES: &str = "strongroom_operator_reconciles_total";
const WAITING: &str = "strongroom_operator_waiting";
const CONDITION: &str = "strongroom_backuprepo_condition";

/// The names of all numbers.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    [RECONCILES, WAITING, CONDITION].into_iter().chain(OF_REPOSITORIES.iter().map(|row| row.0))
}

/// Kept by the operator as it works, read by whoever asks.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Why nothing is watched yet; empty: it is.
    waits: Option<String>,
    repos: Option<Store<BackupRepo>>,
    /// Reconciles by how they ended.
    done: u64,
    failed: u64,
    /// What is worked on, and since when.
    at_work: BTreeMap<String, Instant>,
}

/// Until it is dropped, a repository is being worked on.
pub(super) struct AtWork(Health, String);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.state().at_work.remove(&self.1);
    }
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is watched yet, because of this.
    pub(super) fn waits(&self, why: impl Into<String>) {
        self.state().waits = Some(why.into());
    }

    /// The repositories are watched.
    pub(super) fn watches(&self, repos: Store<BackupRepo>) {
        let mut state = self.state();
        state.waits = None;
        state.repos = Some(repos);
    }

    /// A repository is worked on from now on.
    pub(super) fn begins(&self, repo: &str) -> AtWork {
        self.state().at_work.insert(repo.to_owned(), Instant::now());
        AtWork(self.clone(), repo.to_owned())
    }

    /// A reconcile has ended.
    pub(super) fn ended(&self, well: bool) {
        let mut state = self.state();
        if well {
            state.done += 1;
        } else {
            state.failed += 1;
        }
    }

    /// Serves `/metrics`, `/healthz` and `/readyz` until the process is told to end.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn serve(self, address: SocketAddr, ended: watch::Receiver<bool>) -> io::Result<()> {
        let (page, alive, ready) = (self.clone(), self.clone(), self);
        let router = metrics::page(Arc::new(move || {
            let page = page.clone();
            Box::pin(async move { page.text() })
        }));
        let router: Router = router
            .route("/healthz", get(move || async move { answer(alive.alive()) }))
            .route("/readyz", get(move || async move { answer(ready.ready()) }));
        metrics::serve_router(address, router, ended).await
    }

    fn alive(&self) -> Result<(), String> {
        let state = self.state();
        let stuck = state.at_work.iter().find(|(_, since)| since.elapsed() > STUCK);
        match stuck {
            None => Ok(()),
            Some((repo, since)) => {
                Err(format!("BackupRepo {repo} has been worked on for {:?}", since.elapsed()))
            }
        }
    }

    fn ready(&self) -> Result<(), String> {
        let state = self.state();
        match (&state.waits, &state.repos) {
            (Some(why), _) => Err(why.clone()),
            (None, Some(_)) => Ok(()),
            (None, None) => Err("starting".to_owned()),
        }
    }

    fn text(&self) -> String {
        let (repos, done, failed, waits) = {
            let state = self.state();
            let repos = state.repos.as_ref().map(Store::state).unwrap_or_default();
            (repos, state.done, state.failed, state.waits.is_some())
        };
        let mut text = String::new();
        let help = "Looks at a repository, by how they ended.";
        let mut metric = Metric::new(&mut text, RECONCILES, "counter", help);
        metric.add("", &[("result", "done")], done as f64);
        metric.add("", &[("result", "failed")], failed as f64);
        let help =
            "1 while nothing is watched: KubeBlocks' controller is there, or the kinds are not.";
        Metric::new(&mut text, WAITING, "gauge", help).add("", &[], f64::from(u8::from(waits)));
        for (name, help, value) in OF_REPOSITORIES {
            let mut metric = Metric::new(&mut text, name, "gauge", help);
            for repo in &repos {
                let labels = [
                    ("backuprepo", &*repo.name_any()),
                    ("provider", &repo.spec.storage_provider_ref),
                    ("access_method", repo.spec.access_method.as_str()),
                ];
                if let Some(value) = value(repo) {
                    metric.add("", &labels, value);
                }
            }
        }
        let help = "1 if a condition holds, 0 if not, by its reason.";
        let mut metric = Metric::new(&mut text, CONDITION, "gauge", help);
        for repo in &repos {
            for condition in conditions(repo) {
                let labels = [
                    ("backuprepo", &*repo.name_any()),
                    ("condition", &condition.kind),
                    ("reason", &condition.reason),
                ];
                let holds = condition.status == ConditionStatus::True;
                metric.add("", &labels, f64::from(u8::from(holds)));
            }
        }
        text
    }
}

/// A number of a repository: its name, what it is, and how it is taken.
type OfRepository = (&'static str, &'static str, fn(&BackupRepo) -> Option<f64>);

const OF_REPOSITORIES: &[OfRepository] = &[
    ("strongroom_backuprepo_ready", "1 while the repository can be used.", |repo| {
        let phase = repo.status.as_ref().and_then(|status| status.phase);
        Some(f64::from(u8::from(phase == Some(Phase::Ready))))
    }),
    (
        "strongroom_backuprepo_last_success_timestamp_seconds",
        "When a check of the store last passed, in seconds since 1970.",
        |repo| {
            let time = repo.status.as_ref()?.last_successful_check_time.as_ref()?;
            Some(time.parse::<Timestamp>().ok()?.as_second() as f64)
        },
    ),
];

fn conditions(repo: &BackupRepo) -> &[Condition] {
    repo.status.as_ref().map_or(&[], |status| &status.conditions)
}

fn answer(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_it_watches_and_says_why_it_does_not() {
        let health = Health::default();
        assert_eq!(health.ready(), Err("starting".to_owned()));
        health.waits("KubeBlocks is there");
        assert_eq!(health.ready(), Err("KubeBlocks is there".to_owned()));
        assert!(health.text().contains("\nstrongroom_operator_waiting 1\n"), "{}", health.text());
        let (store, _writer) = kube::runtime::reflector::store();
        health.watches(store);
        assert_eq!(health.ready(), Ok(()));
        assert!(health.text().contains("\nstrongroom_operator_waiting 0\n"), "{}", health.text());
    }

    #[test]
    fn work_that_does_not_end_is_told() {
        let health = Health::default();
        let work = health.begins("my-repo");
        assert_eq!(health.alive(), Ok(()));
        let Some(long_ago) = Instant::now().checked_sub(2 * STUCK) else { return };
        health.state().at_work.insert("my-repo".to_owned(), long_ago);
        assert!(health.alive().is_err_and(|why| why.contains("my-repo")));
        drop(work);
        assert_eq!(health.alive(), Ok(()));
    }
}
