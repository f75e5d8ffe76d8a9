//! The interface files are our own text, but the standards' interfaces: names, numbers, types and options are
//! those of the files that the standards publish, which `make tools` fetches.

#[allow(dead_code, reason = "other suites use the rest")]
#[path = "../../tests/support/cache.rs"]
mod cache;

use std::fs;
use std::path::{Path, PathBuf};

/// A file's descriptor, with options, without comments.
fn descriptor(file: &Path) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    // The descriptor holds the file's name.
    fs::copy(file, folder.path().join("compared.proto")).expect("copied");
    let mut compiler = protox::Compiler::new([folder.path()]).expect("a compiler");
    compiler.open_file("compared.proto").expect("a protobuf file");
    compiler.encode_file_descriptor_set()
}

fn standard(name: &str) -> PathBuf {
    cache::cached(Path::new("interfaces").join(name))
}

fn ours(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto").join(name)
}

fn check(ours_name: &str, standard_name: &str) {
    let (ours, standard) = (descriptor(&ours(ours_name)), descriptor(&standard(standard_name)));
    assert!(standard.len() > 500, "{} bytes", standard.len());
    assert!(ours == standard, "proto/{ours_name} is not the interface of {standard_name}");
}

#[test]
fn csi_is_the_standards() {
    check("csi.proto", "csi.proto-v1.12.0");
}

#[test]
fn registration_is_kubelets() {
    check("pluginregistration.proto", "pluginregistration.proto-v0.34.4");
}

#[test]
fn a_number_that_differs_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = fs::read_to_string(ours("pluginregistration.proto")).expect("ours");
    let changed = folder.path().join("changed.proto");
    fs::write(&changed, text.replace("string name = 2;", "string name = 7;")).expect("written");
    assert_ne!(descriptor(&changed), descriptor(&ours("pluginregistration.proto")));
}
