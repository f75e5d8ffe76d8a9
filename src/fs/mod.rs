//! Rank 3: POSIX semantics over a volume: nodes, handles, dirty bytes in memory and the budget that
//! bounds them. Only `fuse.rs` and `session.rs` know the kernel's interface; the rest never does.

mod absent;
mod ahead;
pub mod arena;
mod arena_table;
mod attributes;
pub mod burden;
mod compact;
mod connection;
mod content;
pub mod core;
mod directory;
pub mod dirty;
pub mod errno;
pub mod estate;
pub mod fuse;
mod inode;
mod io;
mod late;
pub mod ledger;
mod names;
pub mod once;
mod opening;
pub mod operations;
pub mod ownership;
mod publish;
mod reading;
mod recorder;
pub mod remembered;
pub mod session;
mod settle;
mod table;
mod takeover;
mod times;
pub mod types;
