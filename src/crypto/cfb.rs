//! AES in 128-bit cipher feedback mode (NIST SP 800-38A, CFB128; the same as OpenSSL's `aes-*-cfb`).
//!
//! Enciphering is serial within one stream: a block needs the ciphertext of the block before, so one
//! stream leaves most of the AES units idle. Many chunks are therefore enciphered side by side, one
//! block of each at a time. Deciphering has no such chain and runs as wide as the processor likes.

use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::typenum::Unsigned;
use aes::cipher::{
    Block, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser,
    KeyInit, ParBlocks,
};
use aes::{Aes128Enc, Aes192Enc, Aes256Enc};

use super::error::CryptoError;
use super::frame::TAG;
use super::suite::Suite;

/// AES with a key of one of its three lengths; only its forward direction, as CFB needs no other.
pub(super) enum Cipher {
    Aes128(Aes128Enc),
    Aes192(Aes192Enc),
    Aes256(Box<Aes256Enc>),
}

impl Cipher {
    /// The key's first bytes, as many as the suite wants.
    pub(super) fn new(suite: Suite, key: &[u8; 32]) -> Result<Self, CryptoError> {
        let invalid = CryptoError::Invalid { why: "the algorithm is not one of AES-*-CFB" };
        let key = &key[..suite.cfb_key_length().ok_or(invalid)?];
        match key.len() {
            16 => Aes128Enc::new_from_slice(key).map(Self::Aes128),
            24 => Aes192Enc::new_from_slice(key).map(Self::Aes192),
            _ => Aes256Enc::new_from_slice(key).map(|cipher| Self::Aes256(Box::new(cipher))),
        }
        .map_err(|_| invalid)
    }

    /// Enciphers one stream in place; a last partial block uses the beginning of its keystream.
    /// Returns the last whole ciphertext block, which is the IV of what would follow.
    pub(super) fn encrypt(&self, iv: &[u8; 16], data: &mut [u8]) -> [u8; 16] {
        let mut state = *iv;
        self.with_backend(Serial { state: &mut state, data });
        state
    }

    /// Deciphers one stream in place; returns the last whole ciphertext block.
    pub(super) fn decrypt(&self, iv: &[u8; 16], data: &mut [u8]) -> [u8; 16] {
        let mut state = *iv;
        self.with_backend(Decrypt { state: &mut state, data });
        state
    }

    /// Deciphers a stream `IV, ciphertext` and appends its plaintext.
    pub(super) fn decrypt_onto(&self, stream: &[u8], out: &mut Vec<u8>) {
        self.with_backend(DecryptOnto { stream, out });
    }

    /// The keystream block after this ciphertext block.
    pub(super) fn keystream(&self, block: &[u8; 16]) -> [u8; 16] {
        let mut keystream = [0; 16];
        self.encrypt(block, &mut keystream);
        keystream
    }

    /// Enciphers frames `IV, content, tag` in place, side by side (tags are left alone). All contents
    /// but the last must have the same length, a multiple of 16.
    pub(super) fn encrypt_frames(&self, frames: &mut [&mut [u8]]) {
        let Some(size) = frames.first().map(|frame| frame.len()) else { return };
        let equal = frames.iter().take_while(|frame| frame.len() == size).count();
        let (equal, last) = frames.split_at_mut(if size.is_multiple_of(16) { equal } else { 0 });
        if !equal.is_empty() {
            self.with_backend(SideBySide { frames: equal });
        }
        for frame in last {
            let (iv, rest) = frame.split_first_chunk_mut::<16>().expect("a frame has an IV");
            let (content, _) = rest.split_last_chunk_mut::<TAG>().expect("a frame has a tag");
            self.encrypt(iv, content);
        }
    }

    fn with_backend(&self, closure: impl BlockCipherEncClosure<BlockSize = U16>) {
        match self {
            Self::Aes128(cipher) => cipher.encrypt_with_backend(closure),
            Self::Aes192(cipher) => cipher.encrypt_with_backend(closure),
            Self::Aes256(cipher) => cipher.encrypt_with_backend(closure),
        }
    }
}

struct Serial<'a> {
    state: &'a mut [u8; 16],
    data: &'a mut [u8],
}

impl BlockSizeUser for Serial<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Serial<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let (blocks, tail) = self.data.as_chunks_mut::<16>();
        let mut state = Array(*self.state);
        for block in blocks {
            backend.encrypt_block_inplace(&mut state);
            state.0 = xor(&state.0, block);
            *block = state.0;
        }
        *self.state = state.0;
        if !tail.is_empty() {
            backend.encrypt_block_inplace(&mut state);
            tail.iter_mut().zip(state.0).for_each(|(byte, key)| *byte ^= key);
        }
    }
}

struct Decrypt<'a> {
    state: &'a mut [u8; 16],
    data: &'a mut [u8],
}

impl BlockSizeUser for Decrypt<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Decrypt<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let (blocks, tail) = self.data.as_chunks_mut::<16>();
        let mut previous = *self.state;
        let mut groups = blocks.chunks_exact_mut(B::ParBlocksSize::USIZE);
        let mut keystream = ParBlocks::<B>::default();
        for group in &mut groups {
            // The keystream of a block is the encrypted ciphertext block before it.
            keystream[0].0 = previous;
            for (key, block) in keystream[1..].iter_mut().zip(&*group) {
                key.0 = *block;
            }
            previous = group[group.len() - 1];
            backend.encrypt_par_blocks_inplace(&mut keystream);
            for (block, key) in group.iter_mut().zip(&keystream) {
                *block = xor(block, &key.0);
            }
        }
        for block in groups.into_remainder() {
            let mut key = Array(previous);
            previous = *block;
            backend.encrypt_block_inplace(&mut key);
            *block = xor(block, &key.0);
        }
        *self.state = previous;
        if !tail.is_empty() {
            let mut key = Array(previous);
            backend.encrypt_block_inplace(&mut key);
            tail.iter_mut().zip(key.0).for_each(|(byte, key)| *byte ^= key);
        }
    }
}

/// From buffer to buffer. The cipher's input is the stream itself: each block, the IV first, gives the
/// keystream for the block that follows it.
struct DecryptOnto<'a> {
    stream: &'a [u8],
    out: &'a mut Vec<u8>,
}

impl BlockSizeUser for DecryptOnto<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for DecryptOnto<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let Some(content) = self.stream.get(16..) else { return };
        let (content, tail) = content.as_chunks::<16>();
        let (inputs, _) = self.stream.as_chunks::<16>();
        let inputs = Array::cast_slice_from_core(inputs);
        let (groups, _) = ParBlocks::<B>::slice_as_chunks(&inputs[..content.len()]);
        let mut keystream = ParBlocks::<B>::default();
        let (grouped, single) = content.split_at(groups.len() * B::ParBlocksSize::USIZE);
        for (input, group) in groups.iter().zip(grouped.chunks_exact(keystream.len())) {
            backend.encrypt_par_blocks((input, &mut keystream).into());
            for (key, block) in keystream.iter_mut().zip(group) {
                key.0 = xor(block, &key.0);
            }
            self.out.extend_from_slice(Array::cast_slice_to_core(&keystream).as_flattened());
        }
        for (input, block) in inputs[grouped.len()..].iter().zip(single) {
            let mut key = *input;
            backend.encrypt_block_inplace(&mut key);
            self.out.extend_from_slice(&xor(block, &key.0));
        }
        if !tail.is_empty() {
            let mut key = inputs[content.len()];
            backend.encrypt_block_inplace(&mut key);
            self.out.extend(tail.iter().zip(key.0).map(|(byte, key)| byte ^ key));
        }
    }
}

/// Frames of equal length, each of whole blocks.
struct SideBySide<'a, 'b> {
    frames: &'a mut [&'b mut [u8]],
}

impl BlockSizeUser for SideBySide<'_, '_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for SideBySide<'_, '_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let mut rest = self.frames;
        while !rest.is_empty() {
            // Measured with AES-NI: 8 side by side are as fast as 10 and faster than 6, 12 or 16.
            rest = match rest.len() {
                8.. => lanes::<8, B>(backend, rest),
                4.. => lanes::<4, B>(backend, rest),
                2.. => lanes::<2, B>(backend, rest),
                _ => lanes::<1, B>(backend, rest),
            };
        }
    }
}

/// Enciphers the first `N` frames; returns the others.
#[inline(always)]
fn lanes<'a, 'b, const N: usize, B: BlockCipherEncBackend<BlockSize = U16>>(
    backend: &B,
    frames: &'a mut [&'b mut [u8]],
) -> &'a mut [&'b mut [u8]] {
    let (frames, rest) = frames.split_at_mut(N);
    let mut lanes: [&mut [[u8; 16]]; N] = {
        let mut frames = frames.iter_mut();
        std::array::from_fn(|_| frames.next().expect("there are N frames").as_chunks_mut().0)
    };
    let mut state: [Block<B>; N] = std::array::from_fn(|lane| Array(lanes[lane][0]));
    // Block 0 is the IV, the last one the tag's place.
    let blocks = lanes[0].len() - 1;
    for index in 1..blocks {
        for (state, lane) in state.iter_mut().zip(&mut lanes) {
            backend.encrypt_block_inplace(state);
            state.0 = xor(&state.0, &lane[index]);
            lane[index] = state.0;
        }
    }
    rest
}

#[inline(always)]
fn xor(a: &[u8; 16], b: &[u8; 16]) -> [u8; 16] {
    (u128::from_ne_bytes(*a) ^ u128::from_ne_bytes(*b)).to_ne_bytes()
}
