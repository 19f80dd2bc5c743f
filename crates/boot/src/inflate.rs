//! Unpacking the compressions that Linux knows for kernels and initial RAM disks.
//!
//! Output and the decoders' own memory are limited. bzip2 and LZO are recognised and refused: no
//! distribution of today uses them.

use std::io::Read;

use liblzma::stream::Stream;

use crate::bytes::u32_at;
use crate::error::InflateFault;

/// Bytes that an xz or lzma decoder may use: Linux compresses with dictionaries of up to 128 MiB.
const DECODER_MEMORY_MAX: u64 = 160 << 20;
/// Bytes of an unpacked block of lz4's legacy frame (lz4's Frame Format description).
const LZ4_BLOCK_MAX: u64 = 8 << 20;

/// A compression, told by its magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Xz,
    Lzma,
    Lz4,
    Zstd,
    Bzip2,
    Lzo,
}

const MAGICS: [(&[u8], Compression); 7] = [
    (&[0x1F, 0x8B], Compression::Gzip),
    (&[0xFD, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
    (&[0x5D, 0, 0], Compression::Lzma),
    (&LZ4_MAGIC, Compression::Lz4),
    (&[0x28, 0xB5, 0x2F, 0xFD], Compression::Zstd),
    (b"BZh", Compression::Bzip2),
    (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
];
const LZ4_MAGIC: [u8; 4] = 0x184C_2102u32.to_le_bytes();

impl Compression {
    /// The compression of `bytes`.
    pub(crate) fn detect(bytes: &[u8]) -> Result<Self, InflateFault> {
        let found = MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic));
        found
            .map(|(_, compression)| *compression)
            .ok_or_else(|| InflateFault::Unknown { start: bytes.iter().take(8).copied().collect() })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Lzo => "LZO",
        }
    }
}

/// Unpacks one stream from the front of `input` and moves it behind the stream. Refuses more than
/// `limit` bytes of output; `hint` is how many are expected, or 0.
pub(crate) fn inflate(
    compression: Compression,
    input: &mut &[u8],
    limit: u64,
    hint: u64,
) -> Result<Vec<u8>, InflateFault> {
    let corrupt = |reason: String| InflateFault::Corrupt { format: compression.name(), reason };
    let lzma_error = |e: liblzma::stream::Error| corrupt(e.to_string());
    let capacity = hint.min(limit) as usize;
    match compression {
        Compression::Gzip => {
            drain(compression, flate2::bufread::GzDecoder::new(input), limit, capacity)
        }
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(DECODER_MEMORY_MAX, 0).map_err(lzma_error)?;
            let decoder = liblzma::bufread::XzDecoder::new_stream(input, stream);
            drain(compression, decoder, limit, capacity)
        }
        Compression::Lzma => {
            let stream = Stream::new_lzma_decoder(DECODER_MEMORY_MAX).map_err(lzma_error)?;
            let decoder = liblzma::bufread::XzDecoder::new_stream(input, stream);
            drain(compression, decoder, limit, capacity)
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(input)
                .map_err(|e| corrupt(e.to_string()))?;
            drain(compression, decoder.single_frame(), limit, capacity)
        }
        Compression::Lz4 => inflate_lz4(input, limit, capacity),
        Compression::Bzip2 | Compression::Lzo => {
            Err(InflateFault::Unsupported { format: compression.name() })
        }
    }
}

/// Reads all that `decoder` yields, if that is no more than `limit` bytes.
fn drain(
    compression: Compression,
    decoder: impl Read,
    limit: u64,
    capacity: usize,
) -> Result<Vec<u8>, InflateFault> {
    let mut output = Vec::with_capacity(capacity);
    decoder
        .take(limit.saturating_add(1))
        .read_to_end(&mut output)
        .map_err(|e| InflateFault::Corrupt { format: compression.name(), reason: e.to_string() })?;
    if output.len() as u64 > limit { Err(InflateFault::TooBig { limit }) } else { Ok(output) }
}

/// Unpacks lz4's legacy frame: a magic number, then blocks with their compressed length before
/// them. It has no end mark; a length that is 0 or that exceeds what follows is not a block's, but
/// padding or the size that a kernel's build appends.
fn inflate_lz4(input: &mut &[u8], limit: u64, capacity: usize) -> Result<Vec<u8>, InflateFault> {
    let corrupt = |reason: String| InflateFault::Corrupt { format: "lz4", reason };
    // Zeroed ahead of what is filled, and not again for each block: blocks can be tiny.
    let mut output = Vec::with_capacity(capacity);
    let mut filled = 0;
    let mut rest = *input;
    while let Some(len) = u32_at(rest, 0) {
        if len.to_le_bytes() == LZ4_MAGIC {
            rest = &rest[4..];
            continue;
        }
        let block = match rest[4..].get(..len as usize) {
            Some([]) => break,
            Some(block) => block,
            None if rest.len() == 4 => break,
            None => return Err(corrupt("it ends inside of a block".to_owned())),
        };
        let room = LZ4_BLOCK_MAX.min(limit - filled as u64) as usize;
        if output.len() < filled + room {
            output.resize(filled + room, 0);
        }
        match lz4_flex::block::decompress_into(block, &mut output[filled..filled + room]) {
            Ok(unpacked) => filled += unpacked,
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. })
                if (room as u64) < LZ4_BLOCK_MAX =>
            {
                return Err(InflateFault::TooBig { limit });
            }
            Err(e) => return Err(corrupt(e.to_string())),
        }
        rest = &rest[4 + block.len()..];
    }
    *input = rest;
    output.truncate(filled);
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{COMPRESSIONS, compress};

    #[test]
    fn unpacks_and_stops_behind_the_stream() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for compression in COMPRESSIONS {
            let mut packed = compress(compression, &data);
            assert_eq!(Compression::detect(&packed).unwrap(), compression);
            packed.extend_from_slice(&[0; 4]);
            let mut input = &packed[..];
            let unpacked = inflate(compression, &mut input, 1 << 20, 7).unwrap();
            assert!(unpacked == data, "{compression:?}");
            assert_eq!(input, [0; 4], "{compression:?}");

            let error = inflate(compression, &mut &packed[..], data.len() as u64 - 1, 0);
            let text = error.unwrap_err().to_string();
            assert_eq!(text, "it unpacks to more than 399999 bytes: give the machine more memory");

            let cut = packed.len() / 2;
            let error = inflate(compression, &mut &packed[..cut], 1 << 20, 0).unwrap_err();
            let text = error.to_string();
            let expected = format!("damaged {} data: ", compression.name());
            assert!(text.starts_with(&expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_unpack() {
        for (bytes, expected) in [
            (
                &b"BZh91AY"[..],
                "bzip2 compression is not supported: use zstd, gzip, xz, lzma or lz4",
            ),
            (b"\x89LZO\0", "LZO compression is not supported: use zstd, gzip, xz, lzma or lz4"),
            (b"hello", "unknown compression, starts with [68, 65, 6c, 6c, 6f]"),
            (b"", "unknown compression, starts with []"),
        ] {
            let result = Compression::detect(bytes)
                .and_then(|c| inflate(c, &mut { bytes }, 1 << 20, u64::MAX));
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
    }
}
