//! Rank 3: POSIX semantics over a volume: nodes, handles, dirty bytes in memory and the budget that
//! bounds them. Only `fuse.rs` and `session.rs` know the kernel's interface; the rest never does.

mod absent;
mod ahead;
pub mod arena;
mod attributes;
mod compact;
mod content;
pub mod core;
mod directory;
pub mod dirty;
pub mod errno;
pub mod fuse;
mod inode;
mod io;
mod late;
mod names;
mod opening;
pub mod ownership;
mod publish;
mod reading;
pub mod session;
mod settle;
mod table;
mod times;
pub mod types;
