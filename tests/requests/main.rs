//! What operations cost in requests to the store, and that saving them loses nothing: the index of
//! directories, heads read by range, names known to be absent, names removed late, and files that are moved
//! while they are written.

mod directories;
mod exclusive;
mod ground;
mod moves;
mod names;
mod removals;
#[path = "../model/world.rs"]
#[allow(dead_code, reason = "the model uses more of it")]
mod world;
