//! The keeper: the only privileged process, and the one that must not die. It opens /dev/fuse, mounts,
//! binds and unmounts, and holds for each volume the connection to the kernel and the memory that the
//! volume's worker keeps its state in, so that a worker may be killed and the next one goes on.
//!
//! It never parses file data, a name or a worker's state; it has no network, no runtime and no thread but
//! one for each request and one that watches for volumes without a worker. Read in this order: `protocol`,
//! `server`, `volumes`, `mounts`, `answer`.

mod answer;
pub mod client;
mod held;
mod mounts;
mod paths;
pub mod protocol;
mod server;
mod volumes;

pub use client::{Device, Keeper, KeeperError};
pub use protocol::{FailureKind, Held, MountOptions};
pub use server::{Settings, run};
