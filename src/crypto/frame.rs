//! One frame: a piece of plaintext sealed under a suite. Segments are rows of frames (chunks),
//! records have one or two. A key is derived for one sealed thing, so a frame's nonce only has to
//! differ within that thing.
//!
//! | suite | frame |
//! |---|---|
//! | GCM | `ciphertext, tag (16)`, nonce and associated data as GCM has them |
//! | CFB | `IV (16), ciphertext, tag (16)`: tag = GMAC-AES-256 (GCM of nothing) under a key of its own, over `associated data, IV, ciphertext` |
//! | none | `plaintext, checksum (16)`: keyed BLAKE3 over `plaintext, associated data, nonce, length of the plaintext (8)`, the key being public |
//!
//! Encrypt-then-MAC: the tag is checked before anything is deciphered. Associated data are either
//! always absent for a kind of thing (segments) or say their own length (records), so that in CFB
//! they never run into the ciphertext.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::cfb::Cipher;
use super::derive;
use super::error::CryptoError;
use super::keyring::gcm_key;
use super::secret::Key32;
use super::suite::Suite;

/// Bytes of a tag or checksum.
pub(super) const TAG: usize = 16;

/// A nonce, unique among the frames of one sealed thing.
pub(super) type FrameNonce = [u8; 12];

/// The key of one sealed thing.
// One at a time, on the stack: a box would cost an allocation for every record.
#[allow(clippy::large_enum_variant)]
pub(super) enum FrameKey {
    Gcm(LessSafeKey),
    Cfb { cipher: Cipher, mac: LessSafeKey },
    Checksum([u8; 32]),
}

impl FrameKey {
    /// HKDF-SHA256 from the master key; for the suite `none` a public value that binds the same facts.
    pub(super) fn derive(
        suite: Suite,
        master: Option<&Key32>,
        salt: &[u8],
        info: &[&[u8]],
    ) -> Result<Self, CryptoError> {
        let Some(master) = master else {
            let mut hash = blake3::Hasher::new_derive_key(derive::CHECKSUM);
            hash.update(&(salt.len() as u64).to_be_bytes()).update(salt);
            info.iter().for_each(|part| {
                hash.update(part);
            });
            return Ok(Self::Checksum(hash.finalize().into()));
        };
        let mut keys = Zeroizing::new([0; 64]);
        derive::expand(master.expose(), salt, info, keys.as_mut());
        // Two halves of 32 bytes: the cipher's key (its first bytes for shorter keys), the MAC's.
        let (first, second) = (
            Key32::filled(|out| out.copy_from_slice(&keys[..32])),
            Key32::filled(|out| out.copy_from_slice(&keys[32..])),
        );
        Ok(match suite {
            Suite::Aes256Gcm => Self::Gcm(gcm_key(first.expose())),
            Suite::Aes256Cfb | Suite::Aes192Cfb | Suite::Aes128Cfb => Self::Cfb {
                cipher: Cipher::new(suite, first.expose())?,
                mac: gcm_key(second.expose()),
            },
            Suite::None => {
                return Err(CryptoError::Invalid {
                    why: "an unencrypted volume has no master key",
                });
            }
        })
    }

    /// Seals `frame[before..len - TAG]` in place; for CFB the IV stands already in front. `aad` is
    /// empty for segments.
    pub(super) fn seal(&self, nonce: FrameNonce, aad: &[u8], frame: &mut [u8]) {
        match self {
            Self::Gcm(key) => {
                let (content, tag) = split_tag(frame);
                tag.copy_from_slice(gcm(key, nonce, aad, content).as_ref());
            }
            Self::Cfb { cipher, .. } => {
                let (body, _) = split_tag(frame);
                let (iv, content) = body.split_at_mut(16);
                let iv: &[u8; 16] = (&*iv).try_into().expect("split at 16");
                cipher.encrypt(iv, content);
                self.authenticate(nonce, aad, frame);
            }
            Self::Checksum(key) => {
                let (content, tag) = split_tag(frame);
                tag.copy_from_slice(&checksum(key, nonce, aad, content));
            }
        }
    }

    /// Seals content that stands elsewhere into a frame of GCM, without associated data. The frame has
    /// room for the content and its tag.
    pub(super) fn seal_apart(&self, nonce: FrameNonce, content: &[u8], frame: &mut [u8]) {
        if let Self::Gcm(key) = self {
            let (place, tag) = split_tag(frame);
            key.seal_out_of_place_scatter(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                content,
                place,
                &[],
                tag,
            )
            .expect("the frame is as long as the content and its tag");
        }
    }

    /// The tag of a CFB frame whose content is enciphered already.
    pub(super) fn authenticate(&self, nonce: FrameNonce, aad: &[u8], frame: &mut [u8]) {
        if let Self::Cfb { mac, .. } = self {
            let (body, tag) = split_tag(frame);
            let joined = join(aad, body);
            tag.copy_from_slice(gcm(mac, nonce, &joined, &mut []).as_ref());
        }
    }

    /// Verifies the frame, then appends its plaintext. `out` is unchanged if it does not verify.
    pub(super) fn open(
        &self,
        nonce: FrameNonce,
        aad: &[u8],
        frame: &[u8],
        out: &mut Vec<u8>,
        what: &'static str,
    ) -> Result<(), CryptoError> {
        let damaged = CryptoError::Damaged { what };
        let (body, tag) = frame.split_last_chunk::<TAG>().ok_or(damaged)?;
        let start = out.len();
        let unique = Nonce::assume_unique_for_key(nonce);
        match self {
            Self::Gcm(key) => {
                out.resize(start + body.len(), 0);
                let place = &mut out[start..];
                key.open_separate_gather(unique, Aad::from(aad), body, tag, place).map_err(|_| {
                    // The library has deciphered into it before it knew: leave nothing behind.
                    zeroize::Zeroize::zeroize(&mut out[start..]);
                    out.truncate(start);
                    damaged
                })
            }
            Self::Cfb { cipher, mac } => {
                if body.len() < 16 {
                    return Err(damaged);
                }
                let joined = join(aad, body);
                mac.open_separate_gather(unique, Aad::from(&*joined), &[], tag, &mut [])
                    .map_err(|_| damaged)?;
                cipher.decrypt_onto(body, out);
                Ok(())
            }
            Self::Checksum(key) => {
                if !bool::from(checksum(key, nonce, aad, body).ct_eq(tag)) {
                    return Err(damaged);
                }
                out.extend_from_slice(body);
                Ok(())
            }
        }
    }
}

fn split_tag(frame: &mut [u8]) -> (&mut [u8], &mut [u8; TAG]) {
    // Whoever seals has laid the frame out, tag included.
    frame.split_last_chunk_mut::<TAG>().expect("a frame has room for its tag")
}

fn gcm(key: &LessSafeKey, nonce: FrameNonce, aad: &[u8], content: &mut [u8]) -> impl AsRef<[u8]> {
    key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), content)
        // Fails only beyond 64 GiB; segments and records are far smaller.
        .expect("a frame is shorter than 64 GiB")
}

/// GMAC takes its input in one piece. Segments, where speed counts, have no associated data.
fn join<'a>(aad: &[u8], body: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
    if aad.is_empty() { body.into() } else { [aad, body].concat().into() }
}

fn checksum(key: &[u8; 32], nonce: FrameNonce, aad: &[u8], content: &[u8]) -> [u8; TAG] {
    let mut hash = blake3::Hasher::new_keyed(key);
    hash.update(content).update(aad).update(&nonce).update(&(content.len() as u64).to_be_bytes());
    let mut checksum = [0; TAG];
    checksum.copy_from_slice(&hash.finalize().as_bytes()[..TAG]);
    checksum
}
