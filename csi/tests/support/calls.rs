//! The calls that kubelet and the provisioner make, with what they usually say.

use super::{Driver, Process};
use std::path::{Path, PathBuf};
use strongroom_csi::api::csi::controller_client::ControllerClient;
use strongroom_csi::api::csi::identity_client::IdentityClient;
use strongroom_csi::api::csi::node_client::NodeClient;
use strongroom_csi::api::csi::volume_capability::access_mode::Mode;
use strongroom_csi::api::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use strongroom_csi::api::csi::*;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A volume that a test has made, with the places where it is staged and published.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) context: std::collections::HashMap<String, String>,
    pub(crate) staging: PathBuf,
    pub(crate) target: PathBuf,
}

/// A file system that is mounted in a way.
pub(crate) fn capability(mode: Mode) -> VolumeCapability {
    capability_with(mode, &[])
}

/// The same with mount flags.
pub(crate) fn capability_with(mode: Mode, flags: &[&str]) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            mount_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            ..MountVolume::default()
        })),
    }
}

/// The error of a call: its code, and each part is in its message.
pub(crate) fn refused<T>(result: Result<T, Status>, code: Code, parts: &[&str]) {
    let Err(status) = result else { panic!("it did not fail; {code:?} was expected: {parts:?}") };
    assert_eq!(status.code(), code, "{status}");
    for part in parts {
        assert!(status.message().contains(part), "{part:?} is not in: {}", status.message());
    }
}

impl Driver {
    fn channel(&self, process: Process) -> Channel {
        let address = format!("unix:{}", self.socket(process).display());
        let endpoint = Endpoint::from_shared(address).expect("an address");
        self.block_on(endpoint.connect()).expect("it listens")
    }

    pub(crate) fn identity(&self, process: Process) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel(process))
    }

    pub(crate) fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel(Process::Controller))
    }

    pub(crate) fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel(Process::Node))
    }

    /// What a provisioner asks for.
    pub(crate) fn wish(&self, name: &str) -> CreateVolumeRequest {
        CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
            volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
            parameters: self.parameters(),
            secrets: self.secrets(),
            ..CreateVolumeRequest::default()
        }
    }

    pub(crate) fn create(&self, wish: CreateVolumeRequest) -> Result<Volume, Status> {
        let created = self.block_on(self.controller().create_volume(wish))?;
        Ok(created.into_inner().volume.expect("a volume is told"))
    }

    /// A volume, and places for it.
    pub(crate) fn make(&self, name: &str) -> Made {
        let volume = self.create(self.wish(name)).expect("created");
        self.made(name, volume)
    }

    /// Places for a volume.
    pub(crate) fn made(&self, name: &str, volume: Volume) -> Made {
        Made {
            id: volume.volume_id,
            context: volume.volume_context,
            staging: self.local(&format!("staging-{name}")),
            target: self.local(&format!("pod-{name}/mount")),
        }
    }

    pub(crate) fn delete(&self, id: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_id: id.to_owned(), secrets: self.secrets() };
        self.block_on(self.controller().delete_volume(request)).map(drop)
    }

    /// What kubelet asks to stage.
    pub(crate) fn stage_request(&self, made: &Made) -> NodeStageVolumeRequest {
        NodeStageVolumeRequest {
            volume_id: made.id.clone(),
            staging_target_path: text(&made.staging),
            volume_capability: Some(capability(Mode::SingleNodeWriter)),
            secrets: self.secrets(),
            volume_context: made.context.clone(),
            ..NodeStageVolumeRequest::default()
        }
    }

    pub(crate) fn stage_with(&self, request: NodeStageVolumeRequest) -> Result<(), Status> {
        self.block_on(self.node().node_stage_volume(request)).map(drop)
    }

    pub(crate) fn stage(&self, made: &Made) -> Result<(), Status> {
        self.stage_with(self.stage_request(made))
    }

    pub(crate) fn unstage(&self, made: &Made) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: made.id.clone(),
            staging_target_path: text(&made.staging),
        };
        self.block_on(self.node().node_unstage_volume(request)).map(drop)
    }

    /// What kubelet asks to publish.
    pub(crate) fn publish_request(&self, made: &Made, target: &Path) -> NodePublishVolumeRequest {
        // kubelet makes the pod's directory, the driver the mount's.
        std::fs::create_dir_all(target.parent().expect("a directory")).expect("made");
        NodePublishVolumeRequest {
            volume_id: made.id.clone(),
            staging_target_path: text(&made.staging),
            target_path: text(target),
            volume_capability: Some(capability(Mode::SingleNodeWriter)),
            volume_context: made.context.clone(),
            ..NodePublishVolumeRequest::default()
        }
    }

    pub(crate) fn publish_with(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.block_on(self.node().node_publish_volume(request)).map(drop)
    }

    pub(crate) fn publish(&self, made: &Made) -> Result<(), Status> {
        self.publish_with(self.publish_request(made, &made.target))
    }

    pub(crate) fn unpublish_at(&self, made: &Made, target: &Path) -> Result<(), Status> {
        let request =
            NodeUnpublishVolumeRequest { volume_id: made.id.clone(), target_path: text(target) };
        self.block_on(self.node().node_unpublish_volume(request)).map(drop)
    }

    pub(crate) fn unpublish(&self, made: &Made) -> Result<(), Status> {
        self.unpublish_at(made, &made.target)
    }

    /// The volume is ready in a pod.
    pub(crate) fn attach(&self, made: &Made) {
        self.stage(made).expect("staged");
        self.publish(made).expect("published");
    }

    /// The pod is gone.
    pub(crate) fn detach(&self, made: &Made) {
        self.unpublish(made).expect("unpublished");
        self.unstage(made).expect("unstaged");
    }

    pub(crate) fn stats(&self, made: &Made) -> Result<NodeGetVolumeStatsResponse, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: made.id.clone(),
            volume_path: text(&made.target),
            ..NodeGetVolumeStatsRequest::default()
        };
        self.block_on(self.node().node_get_volume_stats(request)).map(tonic::Response::into_inner)
    }

    /// Whether something is wrong with a volume, and what.
    pub(crate) fn condition(&self, made: &Made) -> VolumeCondition {
        let stats = self.stats(made).expect("stats");
        stats.volume_condition.expect("a condition")
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("temporary paths are text").to_owned()
}
