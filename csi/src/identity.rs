//! The Identity service: who this is. Controller and node serve the same one.

use crate::api::csi::identity_server::Identity;
use crate::api::csi::plugin_capability::{
    Service, Type, VolumeExpansion, service, volume_expansion,
};
use crate::api::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
};
use crate::driver::DriverName;
use tonic::{Request, Response, Status};

/// Whether the process can serve its calls, or why not.
pub type Ready = std::sync::Arc<dyn Fn() -> ReadyFuture + Send + Sync>;
/// What [`Ready`] returns.
pub type ReadyFuture = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The service.
pub struct IdentityService {
    name: DriverName,
    ready: Ready,
}

impl IdentityService {
    /// `ready` is asked at each probe.
    pub fn new(name: DriverName, ready: Ready) -> Self {
        Self { name, ready }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.name.to_string(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let controller = Type::Service(Service { r#type: service::Type::ControllerService.into() });
        let online = Type::VolumeExpansion(VolumeExpansion {
            r#type: volume_expansion::Type::Online.into(),
        });
        let capability = |capability| PluginCapability { r#type: Some(capability) };
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities: [controller, online].map(capability).into(),
        }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        match (self.ready)().await {
            Ok(()) => Ok(Response::new(ProbeResponse { ready: Some(true) })),
            Err(why) => Err(Status::failed_precondition(why)),
        }
    }
}
