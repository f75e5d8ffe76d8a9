//! Raw DEFLATE (RFC 1951): no header, no checksum; only its own end tells that it is whole.

use flate2::write::DeflateEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};
use std::io::{self, Read, Write};

/// What one step takes and gives.
const BUFFER: usize = 128 << 10;

pub(super) fn compress(level: u32, source: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let mut encoder = DeflateEncoder::new(out, Compression::new(level));
    io::copy(source, &mut encoder)?;
    encoder.finish().map(drop)
}

/// The library's own reader takes a stream that is cut off for one that ended.
pub(super) fn decompress(source: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let mut decoder = Decompress::new(false);
    let (mut input, mut output) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let count = match source.read(&mut input) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut left = &input[..count];
        loop {
            let (took, gave) = (decoder.total_in(), decoder.total_out());
            let status = decoder
                .decompress(left, &mut output, FlushDecompress::None)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let took = (decoder.total_in() - took) as usize;
            let gave = (decoder.total_out() - gave) as usize;
            out.write_all(&output[..gave])?;
            left = &left[took..];
            match status {
                Status::StreamEnd => return Ok(()),
                // It may hold back more than fitted.
                _ if left.is_empty() && gave < output.len() => break,
                _ if took == 0 && gave == 0 => break,
                _ => {}
            }
        }
    }
}
