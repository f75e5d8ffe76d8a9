//! What programs do on a mount, beside the peers, in one run on one server: `cargo bench --bench peers`.
//!
//! The systems: this mount as it comes (`close`: shared with other nodes, durable when a file is
//! closed), with `--exclusive`, and with `--exclusive --durability fsync`, which encrypt (AES-256-GCM); `--layout
//! objects`, which does not, as the peers do not: s3fs; geesefs; `rclone mount --vfs-cache-mode full`. Each system has a bucket of
//! its own and is mounted anew, with empty caches, wherever a row says cold.
//!
//! A second figure after `+` is the time until the last object was in the store, where the program had
//! been answered before that (geesefs and rclone store seconds after a close).
//!
//! `LATENCY=20` puts that many milliseconds on each round trip to the server (toxiproxy), and runs the
//! rows in which round trips count. `SYSTEMS` and `ROWS` choose by parts of their names.
#![allow(missing_docs, dead_code, clippy::print_stdout)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod latency;
mod systems;
mod workloads;

use latency::Proxy;
use systems::{Ground, Kind};
use workloads::{Row, Took};

fn main() {
    let latency: u64 = std::env::var("LATENCY")
        .ok()
        .and_then(|text| text.trim_end_matches("ms").parse().ok())
        .unwrap_or(0);
    let mut minio = support::minio::Minio::start();
    let proxy = (latency > 0).then(|| Proxy::start(&minio.endpoint, latency));
    if let Some(proxy) = &proxy {
        minio.endpoint.clone_from(&proxy.endpoint);
    }
    let minio = std::sync::Arc::new(minio);
    let material = workloads::Material::new();
    let rows: Vec<Row> =
        workloads::rows(latency > 0).into_iter().filter(|row| chosen("ROWS", row.name)).collect();
    let systems: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| chosen("SYSTEMS", kind.name())).collect();

    let mut table: Vec<Vec<Option<Took>>> = vec![Vec::new(); rows.len()];
    let mut memory = Vec::new();
    for kind in &systems {
        let mut ground = Ground::new(*kind, minio.clone());
        for (row, cells) in rows.iter().zip(&mut table) {
            let took = (row.run)(&mut ground, &material);
            println!("{:<48} {:<14} {took}", row.name, kind.name());
            cells.push(Some(took));
        }
        memory.push(ground.finish());
    }

    println!(
        "\n{}",
        if latency > 0 {
            format!("{latency} ms on each round trip; seconds")
        } else {
            "seconds".to_owned()
        }
    );
    print!("{:<48}", "");
    systems.iter().for_each(|kind| print!(" {:>16}", kind.name()));
    println!();
    for (row, cells) in rows.iter().zip(table) {
        print!("{:<48}", row.name);
        cells.iter().flatten().for_each(|took| print!(" {:>16}", took.to_string()));
        println!();
    }
    print!("{:<48}", "peak memory, MiB");
    memory.iter().for_each(|mib| print!(" {mib:>16}"));
    println!();
}

/// Whether a variable of the environment names a part of this, or is not set.
fn chosen(variable: &str, name: &str) -> bool {
    std::env::var(variable).map_or(true, |parts| parts.split(',').any(|part| name.contains(part)))
}
