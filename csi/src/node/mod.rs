//! The Node service. It mounts nothing itself: the keeper does that, and a worker process for each volume is
//! the file system. What must outlive this process lies in the keeper's memory, secrets too; nothing is
//! written to a disk. The data path never runs here.

mod publish;
mod stage;
mod state;
mod stats;
mod token;

use crate::api::csi::node_server::Node;
use crate::api::csi::node_service_capability::{Rpc, Type, rpc};
use crate::api::csi::*;
use crate::busy::{Busy, to_its_end};
use crate::keeper::{Held, Keeper};
use crate::observe;
use crate::place::Defaults;
use crate::status;
use crate::volume::{Dialect, Keys, Secrets};
use state::Workers;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// How the keys begin that kubelet adds to a secret.
const FROM_KUBELET: &str = "csi.storage.k8s.io/";

/// What the node plugin was told at its start.
#[derive(Debug)]
pub struct Settings {
    /// This node's name, as the orchestrator knows it.
    pub node_id: String,
    /// Whose parameters are spoken.
    pub dialect: Dialect,
    /// How stores are reached where nothing else is said.
    pub defaults: Defaults,
    /// A directory with a file for each key of a secret, for volumes that bring none.
    pub credentials: Option<PathBuf>,
    /// The keeper's socket.
    pub keeper: PathBuf,
    /// The `strongroom` program.
    pub worker: PathBuf,
    /// Where volumes with the option `cache-size` keep what they have read.
    pub cache: Option<PathBuf>,
    /// Where volumes of files keep what is changed in its middle, enciphered, until it is stored.
    pub scratch: Option<PathBuf>,
}

/// The service.
#[derive(Clone)]
pub struct NodeService {
    settings: Arc<Settings>,
    keeper: Keeper,
    busy: Busy,
    workers: Workers,
}

impl NodeService {
    /// A node plugin; the workers of volumes that the keeper holds already are started again.
    ///
    /// # Errors
    /// If there is no keeper.
    pub async fn start(settings: Settings) -> Result<Self, crate::keeper::KeeperError> {
        let keeper = Keeper::connect(&settings.keeper).await?;
        let service = Self {
            settings: Arc::new(settings),
            keeper,
            busy: Busy::default(),
            workers: Workers::default(),
        };
        service.clone().revive().await;
        Ok(service)
    }

    /// Whether calls can be served: without a keeper none can.
    ///
    /// # Errors
    /// Why not.
    pub async fn ready(&self) -> Result<(), String> {
        self.keeper.list().await.map(drop).map_err(|error| error.to_string())
    }

    /// The volumes of this node, for metrics. What a worker does not say soon is left away; they are asked side by
    /// side, so that many that are silent keep nobody waiting longer than one.
    pub async fn volumes(&self) -> Vec<crate::metrics::Volume> {
        let held = self.keeper.list().await.unwrap_or_default();
        let asked = held.into_iter().map(async |held| crate::metrics::Volume {
            stats: self.stats_of(&held.volume).await,
            id: held.volume,
            served: held.served,
            unserved_seconds: held.unserved_seconds,
            targets: held.targets.len(),
        });
        futures::future::join_all(asked).await
    }

    /// The secrets of a call, or the driver's own.
    fn secrets(&self, mut given: HashMap<String, String>, keys: Keys) -> Result<Secrets, Status> {
        // What kubelet adds: tokens, where the driver asks for them there.
        given.retain(|key, _| !key.starts_with(FROM_KUBELET));
        match (&self.settings.credentials, given.is_empty()) {
            (Some(directory), true) => Secrets::read(directory, keys),
            _ => Secrets::parse(given, keys),
        }
    }

    /// What the keeper holds of a volume.
    async fn held(&self, volume: &str) -> Result<Option<Held>, Status> {
        let held = self.keeper.list().await.map_err(|error| status::of_keeper(&error))?;
        Ok(held.into_iter().find(|held| held.volume == volume))
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let (node, request) = (self.clone(), request.into_inner());
        let id = request.volume_id.clone();
        let work = to_its_end(async move { node.stage(request).await });
        observe::call("NodeStageVolume", id.escape_debug(), work).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let (node, request) = (self.clone(), request.into_inner());
        let id = request.volume_id.clone();
        let work = to_its_end(async move { node.unstage(request).await });
        observe::call("NodeUnstageVolume", id.escape_debug(), work).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let (node, request) = (self.clone(), request.into_inner());
        let id = request.volume_id.clone();
        let work = to_its_end(async move { node.publish(request).await });
        observe::call("NodePublishVolume", id.escape_debug(), work).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let (node, request) = (self.clone(), request.into_inner());
        let id = request.volume_id.clone();
        let work = to_its_end(async move { node.unpublish(request).await });
        observe::call("NodeUnpublishVolume", id.escape_debug(), work).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let (node, request) = (self.clone(), request.into_inner());
        let id = request.volume_id.clone();
        let work = to_its_end(async move { node.stats(request).await });
        observe::call("NodeGetVolumeStats", id.escape_debug(), work).await
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let (node, request) = (self.clone(), request.into_inner());
        let id = request.volume_id.clone();
        let work = to_its_end(async move { node.expand(request).await });
        observe::call("NodeExpandVolume", id.escape_debug(), work).await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let kinds = [
            rpc::Type::StageUnstageVolume,
            rpc::Type::GetVolumeStats,
            rpc::Type::ExpandVolume,
            rpc::Type::VolumeCondition,
            rpc::Type::SingleNodeMultiWriter,
        ];
        let capability = |kind: rpc::Type| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
        };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: kinds.into_iter().map(capability).collect(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.settings.node_id.clone(),
            // As many as the node's memory allows, which the orchestrator does not know either.
            max_volumes_per_node: 0,
            accessible_topology: None,
        }))
    }
}
