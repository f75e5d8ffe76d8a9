//! One place for every label that keeps one use of a key apart from another, and for HKDF-SHA256
//! (RFC 5869). Every label ends in NUL and none is the beginning of another; what follows a label
//! has a fixed length or says its length, so that no two inputs run together.

use hkdf::Hkdf;
use sha2::Sha256;

pub(super) const RAW_SECRET: &[u8] = b"strongroom v1 raw secret\0";
pub(super) const SLOT: &[u8] = b"strongroom v1 slot\0";
pub(super) const MASTER_WRAP: &[u8] = b"strongroom v1 master wrap\0";
pub(super) const NAMES: &[u8] = b"strongroom v1 names\0";
pub(super) const DESCRIPTOR_MAC: &[u8] = b"strongroom v1 descriptor mac\0";
pub(super) const MANIFEST_MAC: &[u8] = b"strongroom v1 manifest mac\0";
pub(super) const SEGMENT: &[u8] = b"strongroom v1 segment\0";
pub(super) const RECORD: &[u8] = b"strongroom v1 record\0";
pub(super) const STREAM_CHECK: &[u8] = b"strongroom v1 stream check\0";
/// Context string of BLAKE3's derive_key mode for the checksums of unencrypted volumes.
pub(super) const CHECKSUM: &str = "strongroom v1 checksum";

/// HKDF-SHA256: extract with `salt`, expand with the parts of `info` one after the other.
pub(super) fn expand(secret: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    Hkdf::<Sha256>::new(Some(salt), secret)
        .expand_multi_info(info, out)
        // Fails only beyond 255 * 32 bytes of output; all callers ask for at most 64.
        .expect("at most 64 bytes are asked for");
}
