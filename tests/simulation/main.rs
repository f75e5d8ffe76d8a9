//! gc among nodes that go on working: races that each rule was made for (`rules`), what crashes leave and
//! gc mends (`repairs`), and seeded runs of several nodes over a store that delays, loses and repeats
//! (`seeds`): whatever was acknowledged stays, and what is garbage goes.
#![allow(clippy::print_stderr, reason = "the steps of a run that is traced")]

mod directories;
mod gate;
mod lab;
mod moves;
mod node;
mod repairs;
mod rules;
mod seeds;
mod wire;
#[path = "../model/world.rs"]
mod world;
