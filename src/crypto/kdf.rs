//! From a passphrase to 32 bytes of key material. The parameters come from the bucket, so both ends
//! of their ranges are checked before any is used: too high would let the store exhaust memory or
//! time, too low would let it make guessing cheap for whoever writes the next slot with them.

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::derive;
use super::error::CryptoError;
use super::secret::{HOW, Key32, Passphrase};

/// Bytes of salt of a key slot.
pub(super) const SALT: usize = 16;

/// How a key slot makes its key from the passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kdf {
    /// Argon2id version 0x13 (RFC 9106).
    Argon2id {
        /// Memory in KiB: 8,192 to 1,048,576.
        memory_kib: u32,
        /// Passes over the memory: 1 to 16, and at most 4 GiB touched in all.
        passes: u32,
        /// Lanes: 1 to 16.
        lanes: u32,
    },
    /// PBKDF2 with HMAC-SHA256 (RFC 8018), for where a policy asks for it.
    Pbkdf2HmacSha256 {
        /// Iterations: 100,000 to 10,000,000.
        iterations: u32,
    },
    /// HKDF-SHA256 (RFC 5869) only, without stretching: for secrets of at least 32 *random* bytes.
    Raw,
}

impl Default for Kdf {
    /// Argon2id with 64 MiB, 3 passes, 1 lane (RFC 9106's second recommendation, less its lanes).
    fn default() -> Self {
        Self::Argon2id { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

impl Kdf {
    /// Whether the parameters are within their ranges.
    pub fn check(self) -> Result<(), CryptoError> {
        let why = match self {
            Self::Argon2id { memory_kib, passes, lanes } => {
                let touched = u64::from(memory_kib) * u64::from(passes);
                let allowed = (8 * 1024..=1024 * 1024).contains(&memory_kib)
                    && (1..=16).contains(&passes)
                    && (1..=16).contains(&lanes)
                    && touched <= 4 * 1024 * 1024;
                (!allowed).then_some(
                    "key derivation: argon2id wants 8192 to 1048576 KiB of memory, 1 to 16 passes \
                     (4 GiB touched in all) and 1 to 16 lanes",
                )
            }
            Self::Pbkdf2HmacSha256 { iterations } => (!(100_000..=10_000_000)
                .contains(&iterations))
            .then_some("key derivation: pbkdf2-hmac-sha256 wants 100000 to 10000000 iterations"),
            Self::Raw => None,
        };
        why.map_or(Ok(()), |why| Err(CryptoError::Invalid { why }))
    }

    /// Whether this passphrase is long enough for it.
    pub(super) fn takes(self, passphrase: &Passphrase) -> bool {
        match self {
            Self::Raw => passphrase.length() >= 32,
            Self::Argon2id { .. } | Self::Pbkdf2HmacSha256 { .. } => passphrase.length() >= 1,
        }
    }

    /// 32 bytes from the passphrase and the slot's salt.
    ///
    /// # Errors
    /// `Invalid` for parameters out of range or a passphrase that is too short.
    pub(super) fn derive(
        self,
        passphrase: &Passphrase,
        salt: &[u8; SALT],
    ) -> Result<Key32, CryptoError> {
        self.check()?;
        if !self.takes(passphrase) {
            return Err(CryptoError::Invalid {
                why: match self {
                    Self::Raw => "key derivation: a raw secret has at least 32 random bytes",
                    _ => "key derivation: the passphrase is empty",
                },
            });
        }
        let mut how = [0; HOW];
        let (parameters, place) = how.split_at_mut(HOW - SALT);
        parameters.copy_from_slice(&self.to_bytes());
        place.copy_from_slice(salt);
        passphrase.derive_once(&how, || {
            let mut outcome = Ok(());
            let key = Key32::filled(|out| match self {
                Self::Argon2id { memory_kib, passes, lanes } => {
                    outcome = argon2id(memory_kib, passes, lanes, passphrase, salt, out);
                }
                Self::Pbkdf2HmacSha256 { iterations } => {
                    pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.expose(), salt, iterations, out);
                }
                Self::Raw => derive::expand(passphrase.expose(), salt, &[derive::RAW_SECRET], out),
            });
            outcome.map(|()| key)
        })
    }

    /// The parameters as bytes, for binding them to what they protect.
    pub(super) fn to_bytes(self) -> [u8; 13] {
        let (code, numbers) = match self {
            Self::Argon2id { memory_kib, passes, lanes } => (1, [memory_kib, passes, lanes]),
            Self::Pbkdf2HmacSha256 { iterations } => (2, [iterations, 0, 0]),
            Self::Raw => (3, [0; 3]),
        };
        let mut bytes = [0; 13];
        bytes[0] = code;
        for (place, number) in bytes[1..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }
}

fn argon2id(
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    passphrase: &Passphrase,
    salt: &[u8; SALT],
    out: &mut [u8; 32],
) -> Result<(), CryptoError> {
    // What is left to fail after `check` is the allocation of the memory.
    let failed = |_| CryptoError::Invalid {
        why: "key derivation: argon2id failed, most likely for want of memory",
    };
    let params = Params::new(memory_kib, passes, lanes, Some(out.len())).map_err(failed)?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.expose(), salt, out)
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_out_of_range_are_refused_on_both_sides() {
        let argon = |memory_kib, passes, lanes| Kdf::Argon2id { memory_kib, passes, lanes };
        for bad in [
            argon(8191, 3, 1),
            argon(1024 * 1024 + 1, 1, 1),
            argon(u32::MAX, u32::MAX, u32::MAX),
            argon(65536, 0, 1),
            argon(65536, 17, 1),
            argon(65536, 3, 0),
            argon(65536, 3, 17),
            argon(1024 * 1024, 5, 1),
            Kdf::Pbkdf2HmacSha256 { iterations: 99_999 },
            Kdf::Pbkdf2HmacSha256 { iterations: 10_000_001 },
        ] {
            assert!(matches!(bad.check(), Err(CryptoError::Invalid { .. })), "{bad:?}");
        }
        assert_eq!(Kdf::default().check(), Ok(()));
    }

    #[test]
    fn a_short_raw_secret_is_refused() {
        let short = Passphrase::new(vec![7; 31]);
        assert!(Kdf::Raw.derive(&short, &[0; SALT]).is_err());
        assert!(Kdf::Raw.derive(&Passphrase::new(vec![7; 32]), &[0; SALT]).is_ok());
        assert!(Kdf::default().derive(&Passphrase::new(vec![]), &[0; SALT]).is_err());
    }

    #[test]
    fn what_was_derived_before_is_known_by_its_parameters_and_salt() {
        let dear = Kdf::Pbkdf2HmacSha256 { iterations: 100_000 };
        let cheap = Kdf::Argon2id { memory_kib: 8192, passes: 1, lanes: 1 };
        let first = Passphrase::new(b"passphrase".to_vec());
        let key = dear.derive(&first, &[1; SALT]).expect("derived");
        let other = dear.derive(&first, &[2; SALT]).expect("derived");
        assert_ne!(key.expose(), other.expose());
        assert_eq!(first.derived().len(), 2 * 61);
        // A key that nobody could derive shows that it is taken from what was handed over.
        let mut handed = first.derived();
        handed[29..61].fill(0x5a);
        let second = Passphrase::with_derived(b"passphrase".to_vec(), &handed[..121]);
        assert_eq!(dear.derive(&second, &[1; SALT]).expect("known").expose(), &[0x5a; 32]);
        // The rest of what was handed over is cut off and left out; other parameters are another key.
        assert_eq!(dear.derive(&second, &[2; SALT]).expect("derived").expose(), other.expose());
        cheap.derive(&second, &[1; SALT]).expect("derived");
        assert_eq!(second.derived().len(), 3 * 61);
    }
}
