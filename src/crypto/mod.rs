//! Rank 1: everything cryptographic, pure and synchronous: no I/O, no clock, no random source of its own.
//!
//! What it promises: nothing is released that was not verified first; whatever was sealed for one
//! place (volume, segment, file, directory, name) does not open in another; lengths that come from a
//! bucket are bounded before anything is allocated for them.
//!
//! What it never does: read the environment, log, print a secret, fall back to another format when
//! one does not verify, or notice that the store answers with an *older* valid object (rollback).
//!
//! | file | what |
//! |---|---|
//! | `secret`, `kdf` | passphrases and how keys are made from them |
//! | `keyring` | the opened keys of a volume; `keyring_record` is their stored form |
//! | `suite` | the algorithms a volume can be sealed with |
//! | `segment` | immutable file data in chunks of 64 KiB |
//! | `record` | sealed records (head and body), and the names in a directory (`name`) |
//! | `frame`, `cfb`, `derive` | the pieces those are made of |
//! | `datasafed` | the stream that datasafed writes and reads |

mod cfb;
mod derive;
mod frame;
mod name;

pub mod datasafed;
pub mod error;
pub mod kdf;
pub mod keyring;
pub mod keyring_record;
pub mod record;
pub mod secret;
pub mod segment;
pub mod suite;

pub use error::CryptoError;
pub use kdf::Kdf;
pub use keyring::{Keyring, MasterNumber, NewSlot};
pub use keyring_record::{KeyringRecord, SlotSummary};
pub use record::{
    HeadOutcome, OpenedHead, OpenedRecord, RecordContext, Role, record_master, record_salt,
};
pub use secret::Passphrase;
pub use segment::{CHUNK, SegmentSpec};
pub use suite::Suite;
