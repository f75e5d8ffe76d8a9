//! Compiles the stored forms without a system protoc.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/volume.proto");
    let descriptors = protox::compile(["volume.proto"], ["proto"])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;
    // Which build this is, for `strongroom version`; absent outside a checkout.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("target.txt"), env::var("TARGET")?)?;
    Ok(())
}
