//! datasafed's command line beside the real datasafed 0.2.0: what both print, store, read and refuse. And
//! what ours does otherwise on purpose (docs/datasafed.md).
//!
//! `STRONGROOM_SEED=n` runs the generated command lines of one seed, `STRONGROOM_CASES=n` that many of them
//! in each world.

#![allow(clippy::print_stdout, reason = "the seed of a run")]

mod bad_input;
mod beyond;
mod comparison;
mod compressions;
mod differences;
mod endurance;
mod generator;
mod google_parts;
mod keys;
mod logs;
mod programs;
mod providers;
mod remotes;
mod scripts;
mod servers;
mod service_account;
mod stored;
#[path = "../support/mod.rs"]
mod support;
mod worlds;
