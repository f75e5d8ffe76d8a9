//! The operator: its core in scenarios, the users' manifests as they stand, the providers, the kinds; and the whole on
//! a real API server.

#[path = "../../../tests/support/authority.rs"]
mod authority;
mod commands;
mod fallback;
mod guards;
mod kinds;
mod manifests;
#[path = "../../../tests/support/minio.rs"]
#[allow(dead_code, reason = "each test binary uses its own part")]
mod minio;
mod namespaces;
mod programs;
mod scenarios;
mod server;
mod stories;
#[path = "../support/system.rs"]
mod system;
mod templates;
mod tenants;
mod world;

use server::PATIENCE;
use system::{ends_with_this_thread, fresh_hex};
