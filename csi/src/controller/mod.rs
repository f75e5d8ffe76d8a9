//! The Controller service: volumes as prefixes of buckets. It keeps nothing itself; what it knows lies in the
//! bucket (see [`crate::record`]), so it can be restarted between any two calls.

mod change;
mod create;
mod delete;
mod listing;

use crate::api::csi::controller_server::Controller;
use crate::api::csi::controller_service_capability::{Rpc, Type, rpc};
use crate::api::csi::*;
use crate::busy::{Busy, to_its_end};
use crate::observe;
use crate::place::{self, Defaults};
use crate::record::Record;
use crate::request;
use crate::status;
use crate::volume::{Dialect, Handle, Keys, Layout, Parameters, Secrets};
pub use listing::Listed;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use strongroom::store::{Key, ListRequest, Store, StoreErrorKind};
use strongroom::volume::native::keys;
use tonic::{Request, Response, Status};

/// What the controller was told at its start.
#[derive(Debug)]
pub struct Settings {
    /// Whose parameters are spoken.
    pub dialect: Dialect,
    /// How stores are reached where nothing else is said.
    pub defaults: Defaults,
    /// A directory with a file for each key of a secret, for calls that bring none.
    pub credentials: Option<PathBuf>,
    /// The places whose volumes can be listed.
    pub listed: Vec<Listed>,
}

/// The service.
#[derive(Clone, Debug)]
pub struct ControllerService {
    settings: Arc<Settings>,
    busy: Busy,
}

impl ControllerService {
    /// A controller.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), busy: Busy::default() }
    }

    /// The secrets of a call, or the driver's own.
    fn secrets(&self, given: HashMap<String, String>) -> Result<Secrets, Status> {
        match (&self.settings.credentials, given.is_empty()) {
            (Some(directory), true) => Secrets::read(directory, Keys::Needed),
            _ => Secrets::parse(given, Keys::Needed),
        }
    }

    async fn bucket(&self, handle: &Handle, secrets: &Secrets) -> Result<Arc<dyn Store>, Status> {
        let defaults = &self.settings.defaults;
        place::bucket(handle.bucket(), handle.reach(), secrets, defaults)
            .await
            .map_err(|error| status::of_store(&error))
    }

    async fn validate(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Status> {
        let ValidateVolumeCapabilitiesRequest {
            volume_id,
            volume_context,
            volume_capabilities,
            parameters,
            secrets,
            mutable_parameters,
        } = request;
        request::volume_id(&volume_id)?;
        if volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume_capabilities: none are given"));
        }
        let handle = Handle::parse(&volume_id)
            .map_err(|why| Status::not_found(format!("volume {volume_id}: {why}")))?;
        let secrets = self.secrets(secrets)?;
        let store = self.bucket(&handle, &secrets).await?;
        let asked = Parameters::parse(&volume_context, self.settings.dialect);
        let is_of_files = asked.is_ok_and(|asked| asked.layout == Layout::Objects);
        self.must_exist(&*store, &handle, is_of_files).await?;
        let unsupported = || {
            for capability in &volume_capabilities {
                request::capability(Some(capability))?;
            }
            for given in [&volume_context, &parameters] {
                Parameters::parse(given, self.settings.dialect)
                    .map_err(Status::invalid_argument)?;
            }
            let mut options = crate::volume::Options::default();
            options.add_mutable(&mutable_parameters).map_err(Status::invalid_argument)
        };
        Ok(match unsupported() {
            Err(status) => ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message: status.message().to_owned(),
            },
            Ok(()) => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(validate_volume_capabilities_response::Confirmed {
                    volume_context,
                    volume_capabilities,
                    parameters,
                    mutable_parameters,
                }),
                message: String::new(),
            },
        })
    }

    /// A volume of ours has a record; one that somebody else has made for us, a descriptor; files in a bucket need
    /// neither.
    async fn must_exist(
        &self,
        store: &dyn Store,
        handle: &Handle,
        is_of_files: bool,
    ) -> Result<(), Status> {
        if let Some(key) = handle.record_key()
            && Record::load(store, &key).await?.is_some()
        {
            return Ok(());
        }
        let missing =
            || Status::not_found(format!("volume {handle}: there is no such volume in the bucket"));
        let key =
            Key::new(format!("{}{}", handle.prefix(), keys::DESCRIPTOR)).ok_or_else(missing)?;
        match store.head(&key).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == StoreErrorKind::NotFound && is_of_files => {
                let request =
                    ListRequest { prefix: handle.prefix(), limit: 1, ..ListRequest::default() };
                store.list(&request).await.map(drop).map_err(|error| status::of_store(&error))
            }
            Err(error) if error.kind == StoreErrorKind::NotFound => Err(missing()),
            Err(error) => Err(status::of_store(&error)),
        }
    }
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let (controller, request) = (self.clone(), request.into_inner());
        let name = request.name.clone();
        let work = to_its_end(async move { controller.create(request).await });
        observe::call("CreateVolume", name.escape_debug(), work).await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let (controller, request) = (self.clone(), request.into_inner());
        let id = request.volume_id.clone();
        let work = to_its_end(async move { controller.delete(request).await });
        observe::call("DeleteVolume", id.escape_debug(), work).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        let id = request.volume_id.clone();
        let work = self.validate(request);
        observe::call("ValidateVolumeCapabilities", id.escape_debug(), work).await
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        observe::call("ListVolumes", "", self.list(request.into_inner())).await
    }

    async fn get_capacity(
        &self,
        request: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        observe::call("GetCapacity", "", self.capacity(request.into_inner())).await
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let mut kinds = vec![
            rpc::Type::CreateDeleteVolume,
            rpc::Type::ExpandVolume,
            rpc::Type::SingleNodeMultiWriter,
            rpc::Type::ModifyVolume,
        ];
        if !self.settings.listed.is_empty() {
            kinds.extend([rpc::Type::ListVolumes, rpc::Type::GetCapacity]);
        }
        let capability = |kind: rpc::Type| ControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
        };
        Ok(Response::new(ControllerGetCapabilitiesResponse {
            capabilities: kinds.into_iter().map(capability).collect(),
        }))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        let (controller, request) = (self.clone(), request.into_inner());
        let id = request.volume_id.clone();
        let work = to_its_end(async move { controller.expand(request).await });
        observe::call("ControllerExpandVolume", id.escape_debug(), work).await
    }

    async fn controller_modify_volume(
        &self,
        request: Request<ControllerModifyVolumeRequest>,
    ) -> Result<Response<ControllerModifyVolumeResponse>, Status> {
        let (controller, request) = (self.clone(), request.into_inner());
        let id = request.volume_id.clone();
        let work = to_its_end(async move { controller.modify(request).await });
        observe::call("ControllerModifyVolume", id.escape_debug(), work).await
    }

    async fn controller_publish_volume(
        &self,
        _: Request<ControllerPublishVolumeRequest>,
    ) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
        Err(not_offered("volumes need no attaching (attachRequired: false)"))
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<ControllerUnpublishVolumeResponse>, Status> {
        Err(not_offered("volumes need no attaching (attachRequired: false)"))
    }

    async fn create_snapshot(
        &self,
        _: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        Err(not_offered("there are no snapshots"))
    }

    async fn delete_snapshot(
        &self,
        _: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        Err(not_offered("there are no snapshots"))
    }

    async fn list_snapshots(
        &self,
        _: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        Err(not_offered("there are no snapshots"))
    }

    async fn get_snapshot(
        &self,
        _: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        Err(not_offered("there are no snapshots"))
    }

    async fn controller_get_volume(
        &self,
        _: Request<ControllerGetVolumeRequest>,
    ) -> Result<Response<ControllerGetVolumeResponse>, Status> {
        Err(not_offered("how a volume does is known on its nodes (NodeGetVolumeStats)"))
    }
}

/// Capabilities that are not advertised.
fn not_offered(why: &str) -> Status {
    Status::unimplemented(format!("not offered by this driver: {why}"))
}
