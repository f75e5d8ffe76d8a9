//! Bytes that are not in the store yet, in a file on this machine's disk that nobody else can read: it has no
//! name, and holds only what is enciphered under a key that is nowhere but in this process's memory.
//!
//! AES-256 in counter mode (NIST SP 800-38A): every byte is written once, at a place that no other byte of this
//! file has had, so that no part of the key stream is used twice.

use crate::world::Entropy;
use aes::Aes256;
use ctr::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use data_encoding::HEXLOWER;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use zeroize::Zeroizing;

type Cipher = ctr::Ctr128BE<Aes256>;

/// A file of its own key.
pub struct Scratch {
    file: File,
    key: Zeroizing<[u8; 32]>,
    end: u64,
}

impl Scratch {
    /// A new one in a directory.
    pub fn create(directory: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        // Gone with the last descriptor, also after kill -9.
        let nameless = options.clone().custom_flags(libc::O_TMPFILE).open(directory);
        let file = match nameless {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
                let name = format!(".strongroom-{}", HEXLOWER.encode(&entropy.bytes::<8>()));
                let path = directory.join(name);
                let file = options.create_new(true).open(&path)?;
                std::fs::remove_file(&path)?;
                file
            }
            other => other?,
        };
        let mut key = Zeroizing::new([0; 32]);
        entropy.fill(&mut *key);
        Ok(Self { file, key, end: 0 })
    }

    /// Bytes that were ever written.
    pub fn end(&self) -> u64 {
        self.end
    }

    fn apply(&self, at: u64, data: &mut [u8]) {
        let mut cipher = Cipher::new((&*self.key).into(), (&[0; 16]).into());
        cipher.seek(at);
        cipher.apply_keystream(data);
    }

    /// Writes bytes; returns where they are.
    pub fn append(&mut self, mut data: Vec<u8>) -> io::Result<u64> {
        let at = self.end;
        self.apply(at, &mut data);
        // Before it is tried: what a failed write has left there is not written over.
        self.end += data.len() as u64;
        self.file.write_all_at(&data, at)?;
        Ok(at)
    }

    /// Reads what was written.
    pub fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; length];
        self.file.read_exact_at(&mut data, at)?;
        self.apply(at, &mut data);
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(std::sync::atomic::AtomicU8);

    impl Entropy for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
    }

    #[test]
    fn what_is_written_is_read_at_any_place_and_lies_enciphered() {
        let directory = tempfile::tempdir().expect("a directory");
        let entropy = Counting(7.into());
        let mut scratch = Scratch::create(directory.path(), &entropy).expect("created");
        let (first, second) = (b"a text of some length ".repeat(10), vec![0_u8; 100]);
        assert_eq!(scratch.append(first.clone()).expect("written"), 0);
        let at = scratch.append(second.clone()).expect("written");
        assert_eq!(scratch.read(at, 100).expect("read"), second);
        assert_eq!(scratch.read(3, 50).expect("read"), first[3..53]);
        let mut raw = vec![0; scratch.end() as usize];
        scratch.file.read_exact_at(&mut raw, 0).expect("read");
        assert!(!raw.windows(6).any(|window| window == b"length" || window == [0; 6]));
        assert!(directory.path().read_dir().expect("listed").next().is_none(), "it has a name");
        assert!(scratch.read(scratch.end(), 1).is_err(), "nothing for what was never written");
    }
}
