//! Strongroom: object storage as an encrypted POSIX file system, and the tool that reaches into it.
//!
//! # Bird's eye
//! Read: kernel -> [`fs`] (handle) -> [`volume`] (range, extents, segments, cache) -> [`store`], and back
//! through [`crypto`], which opens what came. Write: kernel -> dirty bytes in memory -> segments, sealed
//! off the kernel's threads and stored while data arrive -> one conditional PUT of the file's record, the
//! commit point. The tool is the same engine without [`fs`].
//!
//! # Layers
//! | rank | module | never |
//! |---|---|---|
//! | 0 | [`units`], [`world`] | does I/O |
//! | 1 | [`crypto`] | does I/O, reads a clock or a random source of its own, knows stores |
//! | 1 | [`store`] | sees plaintext or keys, knows what a file is |
//! | 2 | [`volume`] | knows the kernel or the command line |
//! | 3 | [`fs`] | knows settings; only `fs/fuse.rs` and `fs/session.rs` know FUSE |
//! | 4 | [`config`] | the only one that reads environment, clock and randomness |
//! | 5 | [`tool`] | prints; nothing below does |
//!
//! A module uses lower ranks only; `tests/tidy.rs` holds that.
//!
//! # Invariants
//! 1. Crypto does no I/O. The store never sees plaintext or keys. Plaintext reaches no disk and no log.
//! 2. One module spells object keys (`volume::native::keys`); one spells each stored form; stored forms are
//!    versioned and frozen by vectors.
//! 3. Only garbage collection (`volume::native::gc`) deletes segments.
//! 4. No race, crash or lost reply removes the last name of data that was acknowledged.
//! 5. What fsync or close acknowledged is readable from a fresh mount after `kill -9` at any point.
//! 6. Bucket content is hostile: every length is bounded before allocation, authenticated before
//!    interpretation.
//! 7. Nothing below the configuration layer reads the environment, the clock or the random source.
#![warn(missing_docs)]

pub mod config;
pub mod crypto;
pub mod fs;
pub mod store;
pub mod tool;
pub mod units;
pub mod volume;
pub mod world;
