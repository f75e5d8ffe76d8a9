//! A volume served on a connection to the kernel that somebody else has made and keeps: the server may
//! die and the next one goes on. See `docs/takeover.md`.

mod control;
pub(super) mod kinds;
pub mod locks;
mod place;
mod progress;
pub mod protocol;
pub mod socket;
mod worker;

pub(super) use worker::run;
