//! Where `make tools` keeps what it compiles and fetches.

use std::path::{Path, PathBuf};

/// The directory: STRONGROOM_CACHE, or the usual one below HOME.
pub(crate) fn cache_directory() -> PathBuf {
    std::env::var_os("STRONGROOM_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/strongroom")
    })
}

/// What it must have at a path below that directory.
pub(crate) fn cached(path: impl AsRef<Path>) -> PathBuf {
    let path = cache_directory().join(path);
    assert!(path.exists(), "{} is missing: run `make tools`", path.display());
    path
}
