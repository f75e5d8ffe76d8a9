//! The state of StorageProviders: Ready when the CSI driver that they name is there, or they name none.

use super::conditions::{Conditions, kinds};
use super::crd::{ProviderPhase, StorageProvider, StorageProviderStatus};
use jiff::Timestamp;

/// What is known of a CSI driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// It is there.
    Found,
    /// It is not.
    Absent,
    /// The cluster did not say.
    Doubtful(String),
}

/// The status of a provider, if it is another than the stored one.
pub fn status(
    provider: &StorageProvider,
    driver: &Driver,
    now: Timestamp,
) -> Option<StorageProviderStatus> {
    let stored = provider.status.clone().unwrap_or_default();
    let mut conditions =
        Conditions::new(stored.conditions.clone(), now, provider.metadata.generation);
    let name = provider.spec.csi_driver_name.as_deref().unwrap_or_default();
    let phase = match driver {
        _ if name.is_empty() => {
            conditions.yes(kinds::DRIVER, "CSIDriverObjectFound", "no CSI driver is needed");
            ProviderPhase::Ready
        }
        Driver::Found => {
            conditions.yes(kinds::DRIVER, "CSIDriverObjectFound", "");
            ProviderPhase::Ready
        }
        Driver::Absent => {
            conditions.unknown(
                kinds::DRIVER,
                "CheckCSIDriverFailed",
                format!(
                    "CSIDriver {name} is not there: install the driver; accessMethod Tool works without it"
                ),
            );
            ProviderPhase::NotReady
        }
        Driver::Doubtful(why) => {
            conditions.unknown(
                kinds::DRIVER,
                "CheckCSIDriverFailed",
                format!("CSIDriver {name} could not be looked for: {why}"),
            );
            ProviderPhase::NotReady
        }
    };
    let status = StorageProviderStatus { phase: Some(phase), conditions: conditions.into_list() };
    (status != stored).then_some(status)
}
