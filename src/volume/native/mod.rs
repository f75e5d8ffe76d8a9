//! The native layout: see `docs/format.md` for the objects and their keys.
//!
//! | file | what |
//! |---|---|
//! | `keys` | spells and reads object keys, alone |
//! | `record`, `proto`, `descriptor` | stored forms |
//! | `entries` | one record: load, conditional store, lost replies |
//! | `namespace` | names: create, rename, link, bury; the crash story of each |
//! | `rivals` | moves of one thing by several nodes at the same time |
//! | `exchange` | two names swapped |
//! | `heads` | records read without the data in them |
//! | `listing`, `parts` | a directory's entries; large ones in parallel |
//! | `index` | the cache of a directory's heads |
//! | `extents` | the map of a file in use |
//! | `segments` | data: upload, fetch, cache |
//! | `session` | who writes, which segment numbers are used, what is pinned |
//! | `exclusive` | the lease of who wants to be the only writer |
//! | `verify`, `manifest`, `comparison` | is everything there and whole; is it as new as it was |
//! | `passphrases`, `rewrap` | changing keys, and sealing anew under the newest |
//! | `gc` | the only thing that deletes segments |
//! | `volume` | init and open |

pub mod comparison;
pub mod descriptor;
pub mod entries;
mod exchange;
pub mod exclusive;
pub mod extents;
pub mod files;
pub mod gc;
mod heads;
pub mod index;
pub mod keys;
pub mod listing;
pub mod manifest;
pub mod namespace;
mod parts;
mod passphrases;
mod proto;
pub mod record;
pub mod rewrap;
mod rivals;
pub mod segments;
pub mod session;
pub mod verify;
mod volume;

pub use entries::{Place, Stored};
pub use volume::{InitSettings, OpenSettings, Volume};

/// A segment's plaintext, at most.
pub const SEGMENT_LIMIT: u64 = 64 << 20;
