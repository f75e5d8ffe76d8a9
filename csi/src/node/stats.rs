//! NodeGetVolumeStats and NodeExpandVolume. Both answer from memory, with a deadline, never by a look at the
//! mount: that would wait for a store that is away.

use super::NodeService;
use crate::api::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, VolumeCondition, VolumeUsage, volume_usage,
};
use crate::keeper::Held;
use crate::request;
use crate::status;
use crate::worker::{State, Worker};
use std::path::Path;
use std::time::Duration;
use strongroom::tool::attach::protocol::Stats;
use tonic::Status;

/// What is told where no size was asked for: an exbibyte.
const ENDLESS: i64 = 1 << 60;
/// How long a scrape waits for one of them.
const SCRAPING: Duration = Duration::from_secs(1);
/// How long a worker may take to say how it is; kubelet asks every minute.
const ANSWERING: Duration = Duration::from_secs(10);

impl NodeService {
    pub(super) async fn stats(
        &self,
        request: NodeGetVolumeStatsRequest,
    ) -> Result<NodeGetVolumeStatsResponse, Status> {
        let NodeGetVolumeStatsRequest { volume_id: id, volume_path, staging_target_path: _ } =
            request;
        let held = self.held_at(&id, &volume_path).await?;
        let capacity = match self.recall(&id).await? {
            Some(known) if known.capacity > 0 => known.capacity,
            _ => ENDLESS,
        };
        Ok(NodeGetVolumeStatsResponse {
            usage: vec![VolumeUsage {
                // What a bucket holds is not counted; a promise is kept until somebody measures.
                available: capacity,
                total: capacity,
                used: 0,
                unit: volume_usage::Unit::Bytes.into(),
            }],
            volume_condition: Some(self.condition(&held).await),
        })
    }

    async fn condition(&self, held: &Held) -> VolumeCondition {
        let (abnormal, message) = match self.trouble(held).await {
            Some(trouble) => (true, trouble),
            None => (false, "it is served, and the store answers".to_owned()),
        };
        VolumeCondition { abnormal, message }
    }

    /// What is wrong with a volume, if anything is.
    async fn trouble(&self, held: &Held) -> Option<String> {
        let id = &held.volume;
        if !held.mounted {
            return Some("its mount is gone: delete the pods that use it".to_owned());
        }
        let Some(worker) = self.workers.get(id) else {
            return Some(match self.workers.trouble(id) {
                Some(why) => format!("its worker cannot be started, and is tried again: {why}"),
                None if held.remembered => "its worker is being started".to_owned(),
                None => "its keys are not known any more: it has to be staged again".to_owned(),
            });
        };
        if let State::Restarting { failures, message } = worker.state().borrow().clone() {
            return Some(format!("its worker is being restarted ({failures} failures): {message}"));
        }
        // A question under way must not be given up halfway, or its answer is taken for that of the next.
        let asked = tokio::spawn(async move { ask(&worker).await });
        match tokio::time::timeout(ANSWERING, asked).await {
            Ok(Ok(trouble)) => trouble,
            Ok(Err(error)) => Some(format!("its worker cannot be asked: {error}")),
            Err(_) => Some("it is busy storing what was written".to_owned()),
        }
    }

    /// What a volume's worker says, if it says it soon.
    pub(super) async fn stats_of(&self, id: &str) -> Option<Stats> {
        let worker = self.workers.get(id)?;
        // As above: a question under way is not given up.
        let asked = tokio::spawn(async move { worker.stats().await });
        tokio::time::timeout(SCRAPING, asked).await.ok()?.ok()?.ok()
    }

    pub(super) async fn expand(
        &self,
        request: NodeExpandVolumeRequest,
    ) -> Result<NodeExpandVolumeResponse, Status> {
        let NodeExpandVolumeRequest {
            volume_id: id,
            volume_path,
            capacity_range,
            staging_target_path: _,
            volume_capability,
            secrets: _,
        } = request;
        let held = self.held_at(&id, &volume_path).await?;
        if volume_capability.is_some() {
            request::capability(volume_capability.as_ref())?;
        }
        let (least, _) = request::capacity(capacity_range.as_ref())?;
        let _turn = self.busy.begin(&id)?;
        let mut capacity = least;
        if held.remembered
            && let Some(mut known) = self.recall(&id).await?
        {
            known.capacity = known.capacity.max(least);
            capacity = known.capacity;
            self.remember(&id, &known).await?;
        }
        Ok(NodeExpandVolumeResponse { capacity_bytes: capacity })
    }

    /// A volume that is staged or published at a path.
    async fn held_at(&self, id: &str, path: &str) -> Result<Held, Status> {
        request::volume_id(id)?;
        if path.is_empty() {
            return Err(Status::invalid_argument("volume_path: is missing"));
        }
        let held = self.held(id).await?;
        held.filter(|held| {
            let path = Path::new(path);
            held.path == path || held.targets.iter().any(|(target, _)| target == path)
        })
        .ok_or_else(|| {
            Status::not_found(format!("volume {id}: it is not at {path:?} on this node"))
        })
    }
}

/// What a worker says is wrong.
async fn ask(worker: &Worker) -> Option<String> {
    let silent = |error| format!("its worker does not answer: {error}");
    match worker.stats().await {
        Err(error) => return Some(silent(error)),
        Ok(stats) if stats.lost_files > 0 => {
            return Some(format!(
                "{} open files have lost what was written last; each reports it as EIO",
                stats.lost_files
            ));
        }
        Ok(_) => {}
    }
    match worker.health().await {
        Ok(health) if health.reachable => None,
        Ok(health) => Some(format!(
            "the store does not answer, and what is written waits: {}",
            status::in_our_words(&health.message)
        )),
        Err(error) => Some(silent(error)),
    }
}
