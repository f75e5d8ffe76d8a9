//! The generated types of `proto/volume.proto`. Only [`super::record`] and its neighbours that encode
//! stored forms use them; nothing above the volume does.
#![allow(missing_docs, clippy::all, unreachable_pub)]

include!(concat!(env!("OUT_DIR"), "/strongroom.volume.v1.rs"));
