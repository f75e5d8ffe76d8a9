//! Streams of S2, the superset of Snappy's framing format: chunks `type, length (24 bits), checksum, data`
//! after a chunk that names the format. The blocks are those of the crate `minlz`; the chunks are ours,
//! since its reader takes a stream that is cut off within a chunk's head for one that ended, and believes
//! a block's length before it is checked.

use minlz::crc::crc;
use minlz::{decode, decode_len, encode, encode_better};
use std::io::{self, Read, Write};

/// Names the format; Snappy's own is read too.
const NAME: &[u8; 10] = b"\xff\x06\x00\x00S2sTwO";
const SNAPPY: &[u8; 6] = b"sNaPpY";
const COMPRESSED: u8 = 0x00;
const PLAIN: u8 = 0x01;
const IDENTIFIER: u8 = 0xff;
/// Chunks from here on (below the identifier) may be skipped.
const SKIPPABLE: u8 = 0x80;
/// Bytes of a block as they are written.
const BLOCK: usize = 1 << 20;
/// Bytes that a block may have, decompressed.
const LARGEST: usize = 4 << 20;
const CHECKSUM: usize = 4;

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    Usual,
    Better,
}

pub(super) fn compress(
    effort: Effort,
    source: &mut dyn Read,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK);
    let mut begun = false;
    loop {
        block.clear();
        (&mut *source).take(BLOCK as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(());
        }
        if !std::mem::replace(&mut begun, true) {
            out.write_all(NAME)?;
        }
        let compressed = match effort {
            Effort::Usual => encode(&block),
            Effort::Better => encode_better(&block),
        };
        // What gains next to nothing is stored as it is, and read faster.
        let worth = compressed.len() < block.len() - block.len() / 32;
        let (kind, data) = if worth { (COMPRESSED, &compressed) } else { (PLAIN, &block) };
        let length = u32::try_from(data.len() + CHECKSUM).map_err(io::Error::other)?;
        let [a, b, c, _] = length.to_le_bytes();
        out.write_all(&[kind, a, b, c])?;
        out.write_all(&crc(&block).to_le_bytes())?;
        out.write_all(data)?;
    }
}

pub(super) fn decompress(source: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let mut named = false;
    let mut data = Vec::new();
    loop {
        let mut head = Vec::with_capacity(4);
        (&mut *source).take(4).read_to_end(&mut head)?;
        let [kind, a, b, c] = match *head {
            [] => return Ok(()),
            [kind, a, b, c] => [kind, a, b, c],
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        data.clear();
        // As much as is there, so that a length is believed only when its bytes have come.
        (&mut *source).take(length as u64).read_to_end(&mut data)?;
        if data.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match kind {
            IDENTIFIER if data == NAME[4..] || data == SNAPPY => named = true,
            IDENTIFIER => return Err(invalid("another format")),
            _ if !named => return Err(invalid("not a stream of S2")),
            COMPRESSED | PLAIN => out.write_all(&block(kind, &data)?)?,
            SKIPPABLE.. => {}
            _ => return Err(invalid("a chunk of an unknown type")),
        }
    }
}

fn block(kind: u8, chunk: &[u8]) -> io::Result<Vec<u8>> {
    let Some((checksum, data)) = chunk.split_first_chunk::<CHECKSUM>() else {
        return Err(invalid("a chunk without its checksum"));
    };
    let block = match kind {
        COMPRESSED => {
            let (length, _) = decode_len(data).map_err(|_| invalid("a damaged block"))?;
            if length > LARGEST {
                return Err(invalid("a block that is too large"));
            }
            decode(data).map_err(|_| invalid("a damaged block"))?
        }
        _ => data.to_vec(),
    };
    if crc(&block).to_le_bytes() != *checksum {
        return Err(invalid("a block with another checksum"));
    }
    Ok(block)
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("s2: {why}"))
}
