//! The compressions of datasafed by name. Objects hold plain streams of each format, without anything
//! before or after, so that any other program of that format reads them too.

mod deflate;
mod s2;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use std::io::{self, Read, Write};

/// One name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codec(Format);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Raw (RFC 1951), at a level.
    Deflate(u32),
    /// RFC 1952, at a level.
    Gzip(u32),
    Lz4,
    S2(s2::Effort),
    /// RFC 8878, at a level.
    Zstd(i32),
}

/// Every name, as the original's messages list them.
pub(super) const NAMES: &[&str] = &[
    "deflate-best-compression",
    "deflate-best-speed",
    "deflate-default",
    "gzip",
    "gzip-best-compression",
    "gzip-best-speed",
    "lz4",
    "pgzip",
    "pgzip-best-compression",
    "pgzip-best-speed",
    "s2-better",
    "s2-default",
    "s2-parallel-4",
    "s2-parallel-8",
    "zstd",
    "zstd-best-compression",
    "zstd-better-compression",
    "zstd-fastest",
];

impl Codec {
    /// The one of a name. Levels that other libraries count in their own way are those of about the same
    /// effort here.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(Self(match name {
            "deflate-best-compression" => Format::Deflate(9),
            "deflate-best-speed" => Format::Deflate(1),
            "deflate-default" => Format::Deflate(6),
            "gzip" | "pgzip" => Format::Gzip(6),
            "gzip-best-compression" | "pgzip-best-compression" => Format::Gzip(9),
            "gzip-best-speed" | "pgzip-best-speed" => Format::Gzip(1),
            "lz4" => Format::Lz4,
            "s2-better" => Format::S2(s2::Effort::Better),
            "s2-default" | "s2-parallel-4" | "s2-parallel-8" => Format::S2(s2::Effort::Usual),
            "zstd" => Format::Zstd(3),
            "zstd-best-compression" => Format::Zstd(11),
            "zstd-better-compression" => Format::Zstd(7),
            "zstd-fastest" => Format::Zstd(1),
            _ => return None,
        }))
    }

    /// Compresses everything that a source gives.
    pub(super) fn compress(self, source: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
        match self.0 {
            Format::Deflate(level) => deflate::compress(level, source, out),
            Format::Gzip(level) => {
                let mut encoder = GzEncoder::new(out, Compression::new(level));
                io::copy(source, &mut encoder)?;
                encoder.finish().map(drop)
            }
            Format::Lz4 => {
                // Blocks that refer to each other are read by few.
                let info = FrameInfo::new()
                    .block_size(BlockSize::Max4MB)
                    .block_mode(BlockMode::Independent)
                    .content_checksum(true);
                let mut encoder = FrameEncoder::with_frame_info(info, out);
                io::copy(source, &mut encoder)?;
                encoder.finish().map(drop).map_err(io::Error::from)
            }
            Format::S2(effort) => s2::compress(effort, source, out),
            Format::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                encoder.include_checksum(true)?;
                io::copy(source, &mut encoder)?;
                encoder.finish().map(drop)
            }
        }
    }

    /// Decompresses a stream of the format, whatever its level.
    ///
    /// # Errors
    /// What is damaged or cut off; what came before it has been written then.
    pub(super) fn decompress(self, source: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
        match self.0 {
            Format::Deflate(_) => deflate::decompress(source, out),
            Format::Gzip(_) => io::copy(&mut MultiGzDecoder::new(source), out).map(drop),
            Format::Lz4 => io::copy(&mut FrameDecoder::new(source), out).map(drop),
            Format::S2(_) => s2::decompress(source, out),
            Format::Zstd(_) => {
                io::copy(&mut zstd::stream::read::Decoder::new(source)?, out).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Vec<Vec<u8>> {
        let text = b"the same again and again, ".repeat(100_000);
        let mut noise = vec![0; 3 << 20];
        let mut state = 1_u32;
        for byte in &mut noise {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        vec![Vec::new(), b"x".to_vec(), text, noise]
    }

    #[allow(clippy::type_complexity, reason = "plain and packed, in pairs")]
    fn both_ways(name: &str) -> (Codec, Vec<(Vec<u8>, Vec<u8>)>) {
        let codec = Codec::named(name).unwrap_or_else(|| panic!("{name} is a name"));
        let pairs = contents().into_iter().map(|content| {
            let mut stored = Vec::new();
            codec.compress(&mut content.as_slice(), &mut stored).expect(name);
            (content, stored)
        });
        (codec, pairs.collect())
    }

    #[test]
    fn every_name_gives_back_what_it_took() {
        for name in NAMES {
            let (codec, pairs) = both_ways(name);
            for (content, stored) in pairs {
                let mut back = Vec::new();
                codec.decompress(&mut stored.as_slice(), &mut back).expect(name);
                assert!(back == content, "{name}: {} bytes", content.len());
            }
        }
        assert_eq!(Codec::named("brotli"), None);
    }

    #[test]
    fn a_stream_that_is_cut_off_or_damaged_is_an_error() {
        for name in NAMES {
            let (codec, pairs) = both_ways(name);
            for (content, stored) in pairs.into_iter().skip(2) {
                for cut in [1, 3, 100, stored.len() / 2] {
                    let mut back = Vec::new();
                    let part = &stored[..stored.len() - cut];
                    let result = codec.decompress(&mut &*part, &mut back);
                    assert!(result.is_err() || back == content, "{name} without {cut} bytes");
                }
                if name.starts_with("deflate") {
                    // It has no checksum.
                    continue;
                }
                let mut damaged = stored.clone();
                let middle = damaged.len() / 2;
                damaged[middle] ^= 1;
                let result = codec.decompress(&mut damaged.as_slice(), &mut io::sink());
                assert!(result.is_err(), "{name}: damage goes unnoticed");
            }
        }
    }
}
