//! Where a kernel or an initial RAM disk is read from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memory::{Bytes, GuestAddress, GuestMemory, PAGE_SIZE};

/// A source together with the name that errors call it by.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// A path, or a description of bytes that come from no file.
    pub name: &'a str,
    /// The bytes.
    pub source: &'a dyn Source,
}

/// Bytes that can be read at any offset.
pub trait Source {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `into` with the bytes from `offset` on.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Copies `len` bytes from `offset` on to `address` of fresh guest memory: pages that hold
    /// only zeros may be left out.
    ///
    /// The default goes through a buffer that stays in the CPU's cache. That is faster than a
    /// `read` straight into the guest's memory, because a page left out is a page fault less and a
    /// third of a kernel is zeros.
    fn copy_to(
        &self,
        offset: u64,
        len: u64,
        memory: &GuestMemory,
        address: GuestAddress,
    ) -> io::Result<()> {
        let mut buffer = vec![0; COPY_BUFFER.min(usize::try_from(len).unwrap_or(COPY_BUFFER))];
        let mut done = 0;
        while done < len {
            let chunk = (len - done).min(buffer.len() as u64) as usize;
            let chunk = &mut buffer[..chunk];
            self.read_at(offset + done, chunk)?;
            copy_nonzero(chunk, memory, GuestAddress(address.0 + done))?;
            done += chunk.len() as u64;
        }
        Ok(())
    }
}

/// Bytes that are copied at once: within a CPU's second-level cache.
const COPY_BUFFER: usize = 256 << 10;

/// A regular file that is only read.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    /// Reads `file`, which must be a regular file.
    pub fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}")));
        }
        Ok(Self { file, size: metadata.len() })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}

impl Source for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(slice(self, offset, into.len() as u64)?);
        Ok(())
    }

    fn copy_to(
        &self,
        offset: u64,
        len: u64,
        memory: &GuestMemory,
        address: GuestAddress,
    ) -> io::Result<()> {
        copy_nonzero(slice(self, offset, len)?, memory, address)
    }
}

fn slice(bytes: &[u8], offset: u64, len: u64) -> io::Result<&[u8]> {
    let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
    range
        .and_then(|(start, len)| bytes.get(start..start.checked_add(len)?))
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Writes `bytes` at `address`, except for the pages that are all zero. Neighbouring pages that
/// are not are written together.
fn copy_nonzero(bytes: &[u8], memory: &GuestMemory, address: GuestAddress) -> io::Result<()> {
    let page = PAGE_SIZE as usize;
    let first = page - (address.0 % PAGE_SIZE) as usize;
    let mut pending = 0..0;
    let mut at = 0;
    while at < bytes.len() {
        let next = if at == 0 { first } else { at + page }.min(bytes.len());
        if is_zero(&bytes[at..next]) {
            write(&bytes[pending.clone()], memory, address.0 + pending.start as u64)?;
            pending = next..next;
        } else {
            pending.end = next;
        }
        at = next;
    }
    write(&bytes[pending.clone()], memory, address.0 + pending.start as u64)
}

fn write(bytes: &[u8], memory: &GuestMemory, address: u64) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    memory.write_slice(bytes, GuestAddress(address)).map_err(io::Error::other)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most pages that are not zero show it in their first bytes.
    let (head, tail) = bytes.split_at(bytes.len().min(64));
    head.iter().all(|b| *b == 0) && tail.iter().fold(0, |all, b| all | b) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ram;

    #[test]
    fn copies_around_pages_of_zeros() {
        let mut bytes = vec![0u8; 5 * 4096 + 17];
        for at in [3, 4095, 2 * 4096 + 5, 5 * 4096 + 16] {
            bytes[at] = at as u8 | 1;
        }
        for address in [0x1000u64, 0x1FFF, 0x2345] {
            let memory = ram(1);
            let source: &[u8] = &bytes;
            source.copy_to(0, bytes.len() as u64, &memory, GuestAddress(address)).unwrap();
            let mut back = vec![1; bytes.len()];
            memory.read_slice(&mut back, GuestAddress(address)).unwrap();
            assert!(back == bytes, "{address:#x}");
        }
    }

    #[test]
    fn refuses_what_lies_outside() {
        let source: &[u8] = &[1, 2, 3];
        for (offset, len) in [(0, 4), (3, 1), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(source.copy_to(offset, len, &ram(1), GuestAddress(0)).is_err());
        }
        assert!(source.copy_to(0, 3, &ram(1), GuestAddress((1 << 20) - 2)).is_err());
    }
}
