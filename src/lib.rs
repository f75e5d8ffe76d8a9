//! Strongroom: object storage as an encrypted POSIX file system.
#![warn(missing_docs)]

pub mod config;
pub mod crypto;
pub mod fs;
pub mod store;
pub mod tool;
pub mod units;
pub mod volume;
pub mod world;
