//! Compressed streams, told apart by how they begin.

use std::io::{self, BufRead, BufReader, Read};

use crate::{Error, Result};

/// A method of compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Gzip,
    Xz,
    Lzma,
    Zstd,
    /// The format of `lz4 -l`, which the kernel uses.
    Lz4Legacy,
    Bzip2,
    Lzo,
}

/// How each method's streams begin.
const MAGIC: [(&[u8], Method); 7] = [
    (b"\x1F\x8B", Method::Gzip),
    (b"\xFD7zXZ\0", Method::Xz),
    (b"\x5D\0\0", Method::Lzma),
    (b"\x28\xB5\x2F\xFD", Method::Zstd),
    (b"\x02\x21\x4C\x18", Method::Lz4Legacy),
    (b"BZh", Method::Bzip2),
    (b"\x89LZO", Method::Lzo),
];

impl Method {
    /// The method of a stream that begins like this; none if it is not
    /// compressed by any of them.
    pub(crate) fn of(beginning: &[u8]) -> Option<Self> {
        MAGIC.iter().find(|(magic, _)| beginning.starts_with(magic)).map(|&(_, method)| method)
    }

    /// A reader of the uncompressed stream; `what` names it in errors.
    pub(crate) fn reader<'a>(
        self,
        stream: impl Read + 'a,
        what: &str,
    ) -> Result<Box<dyn Read + 'a>> {
        let unsupported = |method| Error::Compression { what: what.to_string(), method };
        Ok(match self {
            Method::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
            Method::Xz => Box::new(liblzma::read::XzDecoder::new(stream)),
            Method::Lzma => {
                let decoder = liblzma::stream::Stream::new_lzma_decoder(u64::MAX);
                let decoder = decoder.map_err(|error| Error::format(what, error.to_string()))?;
                Box::new(liblzma::read::XzDecoder::new_stream(stream, decoder))
            }
            Method::Zstd => {
                let decoder = zstd::stream::read::Decoder::new(stream);
                Box::new(decoder.map_err(|error| Error::format(what, error.to_string()))?)
            }
            Method::Lz4Legacy => Box::new(Lz4Legacy::new(BufReader::new(stream))),
            Method::Bzip2 => return Err(unsupported("bzip2")),
            Method::Lzo => return Err(unsupported("LZO")),
        })
    }
}

/// Uncompresses the old LZ4 frame: the magic number, then blocks, each after
/// its compressed length, of 8 MiB uncompressed but for the last
/// (lz4_Frame_format.md, "Legacy frame").
struct Lz4Legacy<R> {
    stream: R,
    block: Vec<u8>,
    at: usize,
}

const LZ4_BLOCK: usize = 8 << 20;
const LZ4_MAGIC: u32 = 0x184C_2102;

impl<R: BufRead> Lz4Legacy<R> {
    fn new(stream: R) -> Self {
        Lz4Legacy { stream, block: Vec::new(), at: 0 }
    }

    /// Reads the next block; false at the stream's end.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut length = [0; 4];
        loop {
            if self.stream.fill_buf()?.len() < length.len() {
                // A kernel's stream ends with padding or its size, never with
                // another length; what is shorter than one is the end.
                return Ok(false);
            }
            self.stream.read_exact(&mut length)?;
            // Frames may follow each other.
            if u32::from_le_bytes(length) != LZ4_MAGIC {
                break;
            }
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an LZ4 block is too long"));
        }
        let mut compressed = vec![0; length];
        self.stream.read_exact(&mut compressed)?;
        self.block = lz4_flex::block::decompress(&compressed, LZ4_BLOCK)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.at = 0;
        Ok(!self.block.is_empty())
    }
}

impl<R: BufRead> Read for Lz4Legacy<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() && !self.next_block()? {
            return Ok(0);
        }
        let count = to.len().min(self.block.len() - self.at);
        to[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// Compresses as the kernel's build does.
    pub(crate) fn lz4_legacy(data: &[u8]) -> Vec<u8> {
        let mut stream = LZ4_MAGIC.to_le_bytes().to_vec();
        for block in data.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(block);
            stream.extend((block.len() as u32).to_le_bytes());
            stream.extend(block);
        }
        stream
    }

    fn check(method: Method, stream: &[u8], data: &[u8]) {
        assert_eq!(Method::of(stream), Some(method));
        let mut got = Vec::new();
        method.reader(stream, "a test").unwrap().read_to_end(&mut got).unwrap();
        assert!(got == data, "{method:?}");
        // Cut short it fails or gives less, and never panics.
        let mut less = Vec::new();
        let cut =
            method.reader(&stream[..stream.len() / 2], "a test").unwrap().read_to_end(&mut less);
        assert!(cut.is_err() || less.len() < data.len(), "{method:?}");
    }

    #[test]
    fn streams_come_back_whole() {
        let data: Vec<u8> = (0..9 << 20).map(|i: u32| (i / 100) as u8).collect();
        check(Method::Lz4Legacy, &lz4_legacy(&data), &data);
        check(Method::Zstd, &zstd::encode_all(data.as_slice(), 1).unwrap(), &data);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&data).unwrap();
        check(Method::Gzip, &gzip.finish().unwrap(), &data);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&data).unwrap();
        check(Method::Xz, &xz.finish().unwrap(), &data);
    }

    #[test]
    fn unsupported_methods_are_named() {
        let error = Method::Lzo.reader(&b""[..], "vmlinuz").err().unwrap().to_string();
        assert!(error.contains("vmlinuz") && error.contains("LZO"), "{error}");
        assert_eq!(Method::of(b"\x7FELF"), None);
    }
}
