//! ControllerExpandVolume and ControllerModifyVolume: changes of a volume's record. A bucket has no end, so a
//! volume's size is what its users were promised, not a limit that is enforced; the mutable parameters count
//! from the next time that the volume is staged on a node.

use super::ControllerService;
use crate::api::csi::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerModifyVolumeRequest,
    ControllerModifyVolumeResponse,
};
use crate::record::{Record, State};
use crate::request;
use crate::volume::{Handle, Options, Parameters};
use std::collections::HashMap;
use tonic::Status;

impl ControllerService {
    pub(super) async fn expand(
        &self,
        request: ControllerExpandVolumeRequest,
    ) -> Result<ControllerExpandVolumeResponse, Status> {
        let ControllerExpandVolumeRequest { volume_id, capacity_range, secrets, volume_capability } =
            request;
        request::volume_id(&volume_id)?;
        if capacity_range.is_none() {
            return Err(Status::invalid_argument("capacity_range: is missing"));
        }
        let (least, most) = request::capacity(capacity_range.as_ref())?;
        if volume_capability.is_some() {
            request::capability(volume_capability.as_ref())?;
        }
        let record = self
            .change(&volume_id, secrets, |record| {
                if most.is_some_and(|most| record.capacity > most) {
                    return Err(Status::out_of_range(format!(
                        "capacity_range: the volume has {} bytes already, and no volume shrinks",
                        record.capacity
                    )));
                }
                record.capacity = record.capacity.max(least);
                Ok(())
            })
            .await?;
        Ok(ControllerExpandVolumeResponse {
            capacity_bytes: record.capacity,
            node_expansion_required: false,
        })
    }

    pub(super) async fn modify(
        &self,
        request: ControllerModifyVolumeRequest,
    ) -> Result<ControllerModifyVolumeResponse, Status> {
        let ControllerModifyVolumeRequest { volume_id, secrets, mutable_parameters } = request;
        request::volume_id(&volume_id)?;
        Options::default().add_mutable(&mutable_parameters).map_err(Status::invalid_argument)?;
        let dialect = self.settings.dialect;
        self.change(&volume_id, secrets, |record| {
            record.mutable.extend(mutable_parameters);
            let given = record.parameters.clone().into_iter().collect();
            let known = Parameters::parse(&given, dialect).and_then(|mut parameters| {
                parameters.options.add_mutable(&record.mutable.clone().into_iter().collect())?;
                parameters.check_options()
            });
            known.map_err(Status::invalid_argument)
        })
        .await?;
        Ok(ControllerModifyVolumeResponse {})
    }

    async fn change(
        &self,
        volume_id: &str,
        secrets: HashMap<String, String>,
        change: impl FnOnce(&mut Record) -> Result<(), Status>,
    ) -> Result<Record, Status> {
        let missing = || {
            Status::not_found(format!(
                "volume {volume_id}: no volume that this driver has made: only those can be changed"
            ))
        };
        let handle = Handle::parse(volume_id).map_err(|_| missing())?;
        let key = handle.record_key().ok_or_else(missing)?;
        let _turn = self.busy.begin(&handle.to_string())?;
        let secrets = self.secrets(secrets)?;
        let store = self.bucket(&handle, &secrets).await?;
        let found = Record::load(&*store, &key).await?.ok_or_else(missing)?;
        if found.record.state != State::Ready {
            return Err(Status::aborted(format!(
                "volume {volume_id}: it is still being made or deleted: try again"
            )));
        }
        let mut record = found.record.clone();
        change(&mut record)?;
        let found = found.change(&*store, &key, |known| *known = record).await?;
        Ok(found.record)
    }
}
