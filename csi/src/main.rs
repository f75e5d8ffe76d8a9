//! The CSI driver of Strongroom.
fn main() {}
