//! The CSI driver of Strongroom: one program with a subcommand for each process. See `docs/csi.md` for the
//! calls and `docs/takeover.md` for the processes.
//!
//! | file | what |
//! |---|---|
//! | `api` | generated from `proto/` |
//! | `volume`, `request`, `status` | parsing once, and the one mapping of errors |
//! | `identity`, `controller`, `node` | the services, a file each |
//! | `record`, `place` | what is kept in the bucket, and how it is reached |
//! | `registration` | how kubelet learns of the node plugin |
//! | `operator` | BackupRepos, for clusters without KubeBlocks |
//! | `backuprepo` | the same from the command line |
//! | `keeper`, `worker` | the privileged process, and the file systems' processes |
#![warn(missing_docs)]

pub mod api;
pub mod backuprepo;
pub mod busy;
pub mod controller;
pub mod driver;
pub mod identity;
pub mod keeper;
pub mod metrics;
pub mod node;
mod observe;
pub mod operator;
pub mod place;
pub mod record;
pub mod registration;
pub mod request;
pub mod serve;
pub mod status;
pub mod volume;
pub mod worker;
