//! The workers of this node's volumes, and what is remembered of each volume beyond the life of this process.
//!
//! # Crash story
//! Before a worker is started, everything that it is started with goes into the keeper's memory. Whatever ends
//! this process (an upgrade, a kill), the next one finds each volume in the keeper's list, recalls that, and
//! starts a worker on the same connection to the kernel: pods see a pause. A volume whose worker cannot be
//! started is tried again until it can, or is unstaged.

use super::NodeService;
use super::token::Lent;
use crate::status;
use crate::volume::WorkerSecrets;
use crate::worker::Worker;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use strongroom::tool::attach::protocol::{Settings as WorkerSettings, encode, parse};
use tonic::Status;
use zeroize::Zeroizing;

/// How often volumes without a worker are looked for.
const REVIVING: Duration = Duration::from_secs(5);
/// How long calls are not taken yet because workers of a former process are started again.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// What the keeper keeps of a volume. Only in memory: it holds secrets.
#[derive(Serialize, Deserialize)]
pub(super) struct Remembered {
    /// What its worker is started with.
    pub(super) settings: WorkerSettings,
    /// Its keys.
    pub(super) secrets: WorkerSecrets,
    /// Access mode, by number.
    pub(super) mode: i32,
    /// Its attributes, to tell another volume of the same id.
    pub(super) context: BTreeMap<String, String>,
    /// Its size in bytes; 0: none was asked for.
    pub(super) capacity: i64,
    /// Whose its keys are, if they are lent for the tokens of pods.
    #[serde(default)]
    pub(super) lent: Option<Lent>,
    /// Whether a worker has ever served it: else nobody can have written anything.
    #[serde(default = "yes")]
    pub(super) served: bool,
}

/// What a former version does not say.
fn yes() -> bool {
    true
}

impl Remembered {
    fn parse(blob: &[u8]) -> Option<Self> {
        let by_token = parse::<ByToken<Self>>(blob).map(|ByToken { by_token }| by_token);
        by_token.or_else(|_| parse(blob)).ok()
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        match self.lent {
            Some(_) => encode(&ByToken { by_token: self }),
            None => encode(self),
        }
    }
}

/// How a volume whose keys are lent is remembered. Versions of this program that know of no such volumes do not find
/// what they look for, and leave it alone: they would serve it to pods of every account.
#[derive(Serialize, Deserialize)]
struct ByToken<T> {
    by_token: T,
}

/// The workers that this process has started, by volume.
#[derive(Clone, Default)]
pub(super) struct Workers(Arc<Mutex<HashMap<String, Entry>>>);

#[derive(Clone)]
enum Entry {
    /// It was started; it and its supervisor take care of themselves.
    Started(Arc<Worker>),
    /// It could not be.
    Failed(String),
}

impl Workers {
    /// A volume's worker.
    pub(super) fn get(&self, volume: &str) -> Option<Arc<Worker>> {
        match self.all().get(volume) {
            Some(Entry::Started(worker)) => Some(worker.clone()),
            _ => None,
        }
    }

    /// Why a volume has no worker, if that is known.
    pub(super) fn trouble(&self, volume: &str) -> Option<String> {
        match self.all().get(volume) {
            Some(Entry::Failed(why)) => Some(why.clone()),
            _ => None,
        }
    }

    pub(super) fn insert(&self, volume: &str, worker: Worker) -> Arc<Worker> {
        let worker = Arc::new(worker);
        self.all().insert(volume.to_owned(), Entry::Started(worker.clone()));
        worker
    }

    pub(super) fn fail(&self, volume: &str, why: String) {
        self.all().insert(volume.to_owned(), Entry::Failed(why));
    }

    /// Forgets a volume; its worker, if it had one.
    pub(super) fn remove(&self, volume: &str) -> Option<Arc<Worker>> {
        match self.all().remove(volume) {
            Some(Entry::Started(worker)) => Some(worker),
            _ => None,
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeService {
    /// What the keeper remembers of a staged volume.
    pub(super) async fn recall(&self, volume: &str) -> Result<Option<Remembered>, Status> {
        let blob = self.keeper.recall(volume).await.map_err(|error| status::of_keeper(&error))?;
        let Some(blob) = blob.map(Zeroizing::new) else { return Ok(None) };
        // Another version of this program may have written it: then the next NodeStage does anew.
        Ok(Remembered::parse(&blob))
    }

    pub(super) async fn remember(
        &self,
        volume: &str,
        remembered: &Remembered,
    ) -> Result<(), Status> {
        let blob = remembered.encode();
        self.keeper.remember(volume, &blob).await.map_err(|error| status::of_keeper(&error))
    }

    /// Starts the worker of a volume that the keeper holds, as it is remembered there. The caller has the volume's turn.
    pub(super) async fn start_worker(
        &self,
        volume: &str,
        device: crate::keeper::Device,
        remembered: &mut Remembered,
    ) -> Result<Arc<Worker>, Status> {
        let Remembered { settings, secrets, .. } = &*remembered;
        match Worker::start(&self.settings.worker, device, settings, secrets.copied()).await {
            Ok(worker) => {
                let derived = worker.derived();
                if derived != remembered.secrets.derived || !remembered.served {
                    remembered.secrets.derived = derived;
                    remembered.served = true;
                    // Makes the next start shorter, and tells that something may have been written.
                    if let Err(status) = self.remember(volume, remembered).await {
                        tracing::warn!(volume, "{}", status.message());
                    }
                }
                Ok(self.workers.insert(volume, worker))
            }
            Err(error) => {
                self.workers.fail(volume, error.to_string());
                Err(status::of_worker(&error))
            }
        }
    }

    /// The worker of a volume, started again from what is remembered if there is none. The caller has the
    /// volume's turn.
    pub(super) async fn worker_of(&self, volume: &str) -> Result<Arc<Worker>, Status> {
        if let Some(worker) = self.workers.get(volume) {
            return Ok(worker);
        }
        let mut remembered = self.recall(volume).await?.ok_or_else(|| {
            Status::failed_precondition(format!(
                "volume {volume}: its keys are not known any more (the keeper was restarted): it has to be \
                 staged again"
            ))
        })?;
        let device = self.keeper.device(volume).await.map_err(|error| status::of_keeper(&error))?;
        self.start_worker(volume, device, &mut remembered).await
    }

    /// Looks for volumes without a worker, now and from time to time. Returns after the first look, or when
    /// that takes long: stores may be away.
    pub(super) async fn revive(self) {
        let (looked, first) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            self.revive_once().await;
            // Whoever waited may have given up.
            let _ = looked.send(());
            loop {
                tokio::time::sleep(REVIVING).await;
                self.revive_once().await;
            }
        });
        let _ = tokio::time::timeout(FIRST_LOOK, first).await;
    }

    async fn revive_once(&self) {
        let held = match self.keeper.list().await {
            Ok(held) => held,
            Err(error) => return tracing::warn!("{error}"),
        };
        let mut tasks = tokio::task::JoinSet::new();
        for held in held {
            if !held.remembered || self.workers.get(&held.volume).is_some() {
                continue;
            }
            // Whoever has the turn does what is needed.
            let Ok(turn) = self.busy.begin(&held.volume) else { continue };
            let node = self.clone();
            tasks.spawn(async move {
                let _turn = turn;
                match node.worker_of(&held.volume).await {
                    Ok(_) => tracing::info!(volume = held.volume, "its worker was started again"),
                    Err(status) => tracing::warn!(
                        volume = held.volume,
                        "its worker could not be started, and is tried again: {}",
                        status.message()
                    ),
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}
