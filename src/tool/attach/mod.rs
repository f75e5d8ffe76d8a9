//! A volume served on a connection to the kernel that somebody else has made and keeps: the server may
//! die and the next one goes on. See `docs/takeover.md`.

pub mod protocol;
pub mod socket;
