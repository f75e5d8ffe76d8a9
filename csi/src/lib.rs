//! The CSI driver of Strongroom. See `docs/takeover.md` for the processes.
#![warn(missing_docs)]

pub mod keeper;
pub mod worker;
