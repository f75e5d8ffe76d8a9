//! The operator: its core in scenarios, the users' manifests as they stand, the providers, the kinds; and the whole on
//! a real API server.

mod kinds;
mod manifests;
#[path = "../../../tests/support/minio.rs"]
#[allow(dead_code, reason = "each test binary uses its own part")]
mod minio;
mod scenarios;
mod server;
mod stories;
mod templates;
mod world;
