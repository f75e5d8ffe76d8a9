//! Rank 2: the engine. A volume keeps a tree of files in an object store: names are small sealed
//! records, data are immutable sealed segments, and there is no database. `docs/format.md` describes
//! the objects; [`native`] is this layout. [`objects`] is the
//! other one: a file per object, for exchange with other programs.
//!
//! This layer knows neither the kernel nor the command line, reads no clock and no environment by
//! itself, and never lets plaintext reach the store.

mod error;
pub mod native;
pub mod objects;
pub mod scratch;

pub use error::VolumeError;
