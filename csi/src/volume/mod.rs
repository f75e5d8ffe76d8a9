//! What a call says of a volume, parsed once: handle, parameters, options, secrets. Below this module nothing
//! is checked again, and no secret leaves [`Secrets`] but into a connection or a worker.

mod geesefs;
mod handle;
mod options;
mod parameters;
mod secrets;

pub use handle::{Handle, ID_LIMIT, Reach};
pub(crate) use handle::{record_key, records_prefix};
pub use options::{MUTABLE, Options};
pub(crate) use parameters::SUB_DIR;
pub use parameters::{Encryption, Layout, Parameters, Role};
pub use secrets::{Keys, Secrets, WorkerSecrets};

/// Whose parameters and secrets are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Our own.
    Own,
    /// csi-s3's, whose driver name this driver was given, and our own where they do not collide.
    CsiS3,
}

/// The name of csi-s3's driver.
pub const CSI_S3: &str = "ru.yandex.s3.csi";

impl Dialect {
    /// What a driver of this name speaks.
    pub fn of_driver(name: &str) -> Self {
        if name == CSI_S3 { Self::CsiS3 } else { Self::Own }
    }
}

/// A bucket and a prefix in it, as an id may have them.
pub(crate) fn check_place(bucket: &str, prefix: &str) -> Result<(), String> {
    handle::check_bucket(bucket)?;
    handle::check_path(prefix)
}
