//! How kubelet learns of the node plugin: a socket in its `plugins_registry`, on which it asks who we are.
//! The node-driver-registrar sidecar does the same from outside and may be used instead.

mod authority;

pub use authority::Local;

use crate::api::registration::registration_server::{Registration, RegistrationServer};
use crate::api::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use crate::driver::DriverName;
use tonic::{Request, Response, Status};

/// The service.
pub struct RegistrationService {
    name: DriverName,
    /// The CSI socket as kubelet sees it, on the host.
    endpoint: String,
}

impl RegistrationService {
    /// `endpoint` is the path of the CSI socket on the host.
    pub fn server(name: DriverName, endpoint: String) -> RegistrationServer<Self> {
        RegistrationServer::new(Self { name, endpoint })
    }
}

/// The socket's name in kubelet's registry.
pub fn socket_name(name: &DriverName) -> String {
    format!("{name}-reg.sock")
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.name.to_string(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        match plugin_registered {
            true => tracing::info!("registered with kubelet"),
            // It asks again by itself.
            false => tracing::error!("kubelet does not register this driver: {error}"),
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
