//! The generated interfaces. `csi/build.rs` makes them of `proto/`; nothing here is written by hand.

/// The Container Storage Interface, `proto/csi.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Registration with kubelet, `proto/pluginregistration.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
