//! Strongroom: object storage as an encrypted POSIX file system.
#![warn(missing_docs)]

pub mod crypto;
pub mod store;
pub mod units;
pub mod world;
