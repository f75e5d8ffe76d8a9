//! NodePublishVolume and NodeUnpublishVolume: a staged volume is bound to a pod's directory.

use super::{FROM_KUBELET, NodeService};
use crate::api::csi::volume_capability::access_mode::Mode;
use crate::api::csi::{
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
};
use crate::request;
use crate::status;
use crate::volume::{Keys, Options, Role};
use tonic::Status;

impl NodeService {
    pub(super) async fn publish(
        &self,
        request: NodePublishVolumeRequest,
    ) -> Result<NodePublishVolumeResponse, Status> {
        let NodePublishVolumeRequest {
            volume_id: id,
            publish_context: _,
            staging_target_path,
            target_path,
            volume_capability,
            readonly,
            secrets,
            // What it says of the volume counted when it was staged; with a roleArn it tells of the pod, too.
            volume_context,
        } = request;
        request::volume_id(&id)?;
        let target = request::path("target_path", &target_path)?;
        let usage = request::capability(volume_capability.as_ref())?;
        let staging = request::path("staging_target_path", &staging_target_path)?;
        let mut options = Options::default();
        options
            .add_flags(&usage.flags)
            .map_err(|why| Status::invalid_argument(format!("mount_flags: {why}")))?;
        let _turn = self.busy.begin(&id)?;
        let refused = |why: String| Status::failed_precondition(format!("volume {id}: {why}"));
        let by_token = volume_context.get(Role::ARN).is_some_and(|arn| !arn.is_empty());
        if by_token {
            // What NodeStage is told, but for what it could not know.
            let wish = self.wish(NodeStageVolumeRequest {
                volume_id: id.clone(),
                staging_target_path,
                volume_capability,
                secrets: secrets.clone(),
                volume_context: volume_context.clone(),
                ..NodeStageVolumeRequest::default()
            })?;
            self.serve_by_token(wish, &volume_context, &secrets).await?;
        }
        let held =
            self.held(&id).await?.filter(|held| held.path == staging && held.mounted).ok_or_else(
                || refused(format!("it is not staged at {}: stage it first", staging.display())),
            )?;
        let known = self.recall(&id).await?;
        if !by_token && known.as_ref().is_some_and(|known| known.lent.is_some()) {
            return Err(refused(
                "it is mounted for the pods of one service account, and the attributes of this PersistentVolume name no \
                 roleArn: give it the same attributes, or a volume of its own"
                    .to_owned(),
            ));
        }
        let other = held.targets.iter().find(|(path, _)| *path != target);
        if let Some((other, _)) = other
            && usage.mode == Mode::SingleNodeSingleWriter
        {
            return Err(refused(format!(
                "its access mode allows one pod, and it is published at {} already",
                other.display()
            )));
        }
        let brings_keys = secrets.keys().any(|key| !key.starts_with(FROM_KUBELET));
        if !by_token && brings_keys {
            let secrets = self.secrets(secrets, Keys::Needed)?;
            match (self.workers.get(&id), known) {
                (Some(worker), Some(known)) => self.renew(&id, known, &worker, &secrets).await?,
                // With the keys of this call: those that are remembered may have been revoked meanwhile.
                (None, Some(known)) => self.revive_with(&id, known, &secrets).await?,
                (_, None) => drop(self.worker_of(&id).await?),
            }
        }
        let read_only = readonly || options.read_only || usage.is_read_only();
        self.keeper
            .publish(&id, &target, read_only)
            .await
            .map_err(|error| status::of_keeper(&error))?;
        Ok(NodePublishVolumeResponse {})
    }

    pub(super) async fn unpublish(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<NodeUnpublishVolumeResponse, Status> {
        let NodeUnpublishVolumeRequest { volume_id: id, target_path } = request;
        request::volume_id(&id)?;
        let target = request::path("target_path", &target_path)?;
        let _turn = self.busy.begin(&id)?;
        self.keeper.unpublish(&target).await.map_err(|error| status::of_keeper(&error))?;
        Ok(NodeUnpublishVolumeResponse {})
    }
}
