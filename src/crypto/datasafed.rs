//! The encrypted stream of datasafed: `IV (16 random bytes), CFB128-AES(key, IV, plaintext)`, the key
//! being HKDF-SHA256 of the passphrase with salt `encryption` and no info, cut to 16, 24 or 32 bytes.
//! One key for every object under a passphrase, and no tag: a changed object is **not** noticed, and a wrong passphrase
//! only where a [`StreamKey::check`] was stored beside the object. It is here for exchange with datasafed; native volumes
//! do not use it.
//!
//! Any range can be read with one extra block before it; writing is strictly from front to back.

use super::cfb::Cipher;
use super::derive;
use super::error::CryptoError;
use super::secret::{Key32, Passphrase};
use super::suite::Suite;
use crate::units::ByteRange;
use crate::world::Entropy;
use data_encoding::HEXLOWER;

/// Bytes an object is longer than its plaintext: the IV.
pub const OVERHEAD: u64 = 16;

/// Bytes of what a [`StreamKey::check`] tells a key by.
const TOLD: usize = 8;
/// The form of a check. One of another form says nothing to this program.
const FORM: &str = "1";

/// The key of a passphrase.
pub struct StreamKey {
    cipher: Cipher,
    /// Of the same passphrase, for nothing but checks.
    check: Key32,
    suite: Suite,
}

impl StreamKey {
    /// Derives it.
    ///
    /// # Errors
    /// `Invalid` if the suite is not one of AES-*-CFB or the passphrase is empty.
    pub fn derive(passphrase: &Passphrase, suite: Suite) -> Result<Self, CryptoError> {
        if passphrase.length() == 0 {
            return Err(CryptoError::Invalid { why: "encryption pass phrase should not be empty" });
        }
        let secret = |info: &[&[u8]]| {
            Key32::filled(|key| derive::expand(passphrase.expose(), b"encryption", info, key))
        };
        let (key, check) = (secret(&[]), secret(&[derive::STREAM_CHECK]));
        Ok(Self { cipher: Cipher::new(suite, key.expose())?, check, suite })
    }

    /// What may be stored beside an object that begins with this IV, so that whoever reads it with another passphrase or
    /// algorithm hears of it: `1-IV-TAG`, both in hexadecimal, TAG being 8 bytes that HKDF-SHA256 makes of the IV under a
    /// secret of the passphrase. Of an object that was replaced meanwhile it says nothing. Whoever guesses passphrases can
    /// try them on it as fast as on the beginning of a content that is known.
    pub fn check(&self, iv: &[u8; 16]) -> String {
        let mut told = [0; TOLD];
        let info = [derive::STREAM_CHECK, self.suite.name().as_bytes()];
        derive::expand(self.check.expose(), iv, &info, &mut told);
        format!("{FORM}-{}-{}", HEXLOWER.encode(iv), HEXLOWER.encode(&told))
    }

    /// What a check that was stored beside an object says against this key: the object has another one if it begins
    /// with this IV. `None` if it speaks for this key, or is none.
    pub fn refuses(&self, check: &str) -> Option<[u8; 16]> {
        let (iv, told) = check.strip_prefix(FORM)?.strip_prefix('-')?.split_once('-')?;
        let iv: [u8; 16] = HEXLOWER.decode(iv.as_bytes()).ok()?.try_into().ok()?;
        let is_one = HEXLOWER.decode(told.as_bytes()).is_ok_and(|told| told.len() == TOLD);
        (is_one && check != self.check(&iv)).then_some(iv)
    }

    /// Starts a new object: write [`Encryptor::iv`] first.
    pub fn encryptor(&self, entropy: &dyn Entropy) -> Encryptor<'_> {
        self.encryptor_with_iv(entropy.bytes())
    }

    /// Starts a new object under a given IV, which must never be used twice.
    pub fn encryptor_with_iv(&self, iv: [u8; 16]) -> Encryptor<'_> {
        Encryptor { iv, stream: Stream::new(&self.cipher, iv) }
    }

    /// Goes on where an encryptor stopped.
    pub fn resume(&self, suspended: &Suspended) -> Encryptor<'_> {
        let Suspended { iv, block, used } = *suspended;
        Encryptor { iv, stream: Stream { cipher: &self.cipher, block, used } }
    }

    /// Reads an object's plaintext from its start, given the IV it begins with.
    pub fn decryptor(&self, iv: [u8; 16]) -> Decryptor<'_> {
        Decryptor { stream: Stream::new(&self.cipher, iv) }
    }

    /// Which bytes of the object to fetch for `range` of the plaintext: the block before it as well.
    pub fn object_range(range: ByteRange) -> ByteRange {
        let start = range.offset() - range.offset() % 16;
        ByteRange::between(start, range.end().saturating_add(OVERHEAD))
    }

    /// The plaintext of `range`, or as much of it as the object has, from the bytes that
    /// [`StreamKey::object_range`] asked for (fewer at the object's end).
    ///
    /// # Errors
    /// `Damaged` if not even the block before the range is there, or there is more than was asked for.
    pub fn open_range(
        &self,
        range: ByteRange,
        mut object: Vec<u8>,
    ) -> Result<Vec<u8>, CryptoError> {
        let wanted = Self::object_range(range);
        let skip = (range.offset() % 16) as usize;
        let Some((previous, data)) = object.split_first_chunk_mut::<16>() else {
            return Err(CryptoError::Damaged { what: "stream: its IV is cut off" });
        };
        if (data.len() as u64 + OVERHEAD) > wanted.length() {
            return Err(CryptoError::Damaged { what: "stream: more bytes than were asked for" });
        }
        self.cipher.decrypt(previous, data);
        object.drain(..(16 + skip).min(object.len()));
        Ok(object)
    }
}

/// Enciphers one object, from front to back.
pub struct Encryptor<'a> {
    iv: [u8; 16],
    stream: Stream<'a>,
}

impl Encryptor<'_> {
    /// The first 16 bytes of the object.
    pub fn iv(&self) -> [u8; 16] {
        self.iv
    }

    /// Enciphers the next bytes in place; pieces may have any length.
    pub fn update(&mut self, data: &mut [u8]) {
        self.stream.update(data, Cipher::encrypt, |plain, key| {
            let cipher = plain ^ key;
            (cipher, cipher)
        });
    }
}

impl Encryptor<'_> {
    /// Stops, so that somebody else may go on.
    pub fn suspend(self) -> Suspended {
        Suspended { iv: self.iv, block: self.stream.block, used: self.stream.used }
    }
}

/// An encryptor between two pieces, without its key.
pub struct Suspended {
    iv: [u8; 16],
    block: [u8; 16],
    used: usize,
}

impl Suspended {
    /// Between two blocks: the IV and the last block of ciphertext, which tell nothing that is not stored. `None`
    /// within a block.
    pub fn between_blocks(&self) -> Option<([u8; 16], [u8; 16])> {
        (self.used == 0).then_some((self.iv, self.block))
    }

    /// Between two blocks again.
    pub fn after(iv: [u8; 16], block: [u8; 16]) -> Self {
        Self { iv, block, used: 0 }
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.block);
    }
}

/// Deciphers one object, from front to back.
pub struct Decryptor<'a> {
    stream: Stream<'a>,
}

impl Decryptor<'_> {
    /// Deciphers the next bytes in place; pieces may have any length.
    pub fn update(&mut self, data: &mut [u8]) {
        self.stream.update(data, Cipher::decrypt, |cipher, key| (cipher ^ key, cipher));
    }
}

/// What both directions carry from one piece to the next.
struct Stream<'a> {
    cipher: &'a Cipher,
    /// The ciphertext block before the current one; for the used part of a block that is begun, its
    /// ciphertext, and its keystream for the rest.
    block: [u8; 16],
    /// Bytes of the current block that are done.
    used: usize,
}

impl<'a> Stream<'a> {
    fn new(cipher: &'a Cipher, iv: [u8; 16]) -> Self {
        Self { cipher, block: iv, used: 0 }
    }

    /// `step` maps an input byte and a keystream byte to the output and the ciphertext byte.
    fn update(
        &mut self,
        data: &mut [u8],
        whole_blocks: fn(&Cipher, &[u8; 16], &mut [u8]) -> [u8; 16],
        step: fn(u8, u8) -> (u8, u8),
    ) {
        let begun = if self.used == 0 { 0 } else { (16 - self.used).min(data.len()) };
        let (begun, data) = data.split_at_mut(begun);
        self.bytes(begun, step);
        let (whole, tail) = data.split_at_mut(data.len() - data.len() % 16);
        if !whole.is_empty() {
            self.block = whole_blocks(self.cipher, &self.block, whole);
        }
        if !tail.is_empty() {
            self.block = self.cipher.keystream(&self.block);
            self.bytes(tail, step);
        }
    }

    fn bytes(&mut self, data: &mut [u8], step: fn(u8, u8) -> (u8, u8)) {
        for (byte, key) in data.iter_mut().zip(&mut self.block[self.used..]) {
            (*byte, *key) = step(*byte, *key);
        }
        self.used = (self.used + data.len()) % 16;
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.block);
    }
}
