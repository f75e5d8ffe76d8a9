//! Compiles the gRPC interfaces without a system protoc: servers for the driver, clients for its tests.

/// Messages with secrets in them: they get no `Debug`, so that no log line can show one.
const WITH_SECRETS: &[&str] = &[
    "CreateVolumeRequest",
    "DeleteVolumeRequest",
    "ControllerPublishVolumeRequest",
    "ControllerUnpublishVolumeRequest",
    "ValidateVolumeCapabilitiesRequest",
    "ControllerModifyVolumeRequest",
    "CreateSnapshotRequest",
    "DeleteSnapshotRequest",
    "ListSnapshotsRequest",
    "GetSnapshotRequest",
    "ControllerExpandVolumeRequest",
    "NodeStageVolumeRequest",
    "NodePublishVolumeRequest",
    "NodeExpandVolumeRequest",
    "CreateVolumeGroupSnapshotRequest",
    "DeleteVolumeGroupSnapshotRequest",
    "GetVolumeGroupSnapshotRequest",
    "GetMetadataAllocatedRequest",
    "GetMetadataDeltaRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["csi.proto", "pluginregistration.proto"];
    for file in files {
        println!("cargo::rerun-if-changed=../proto/{file}");
    }
    let descriptors = protox::compile(files, ["../proto"])?;
    tonic_prost_build::configure()
        .skip_debug(WITH_SECRETS.iter().map(|message| format!(".csi.v1.{message}")))
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
