//! A descriptor chain, read from the guest once and checked.
//!
//! A chain is a readable part, which the driver filled, followed by a writable part, which the
//! device fills (virtio 1.2, 2.7.4.2). Devices address both by byte offset, so that no device
//! depends on how the driver cut its buffers (2.7.4).

use std::ops::Range;

use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, PageLog};
use thiserror::Error;
use virtio_queue::DescriptorChain;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::RefSlice;

use crate::QueueError;

/// Most descriptors in one chain, also through an indirect table (virtio 1.2, 2.7.5.3.1: a chain
/// is no longer than the queue).
pub const MAX_CHAIN_LEN: usize = 256;

/// A piece of guest RAM for a back end to fill or drain, with its part of the log of written
/// pages. Whoever fills it through a raw pointer marks it: `slice.bitmap().mark_dirty(0, len)`.
pub type GuestSlice<'a> = VolatileSlice<'a, RefSlice<'a, PageLog>>;

/// One descriptor's buffer, of at least one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address; not yet known to be RAM.
    pub address: GuestAddress,
    /// Length in bytes, never 0.
    pub len: u32,
}

/// A chain's buffers do not hold what was asked for.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum BufferError {
    /// The chain is shorter than the access.
    #[error("the descriptor chain ends before byte {end}")]
    TooShort {
        /// First byte after the access.
        end: u64,
    },
    /// A buffer is not, or not wholly, in RAM.
    #[error("descriptor buffer {address:#x}+{len:#x} is not in guest memory")]
    NotRam {
        /// Its guest physical address.
        address: u64,
        /// Its length in bytes.
        len: u64,
    },
}

/// The buffers of one request. Reused from request to request, so that serving a queue does not
/// allocate.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    /// How many of `segments`, from the first on, are readable.
    readable: usize,
    readable_len: u64,
    writable_len: u64,
}

impl Chain {
    /// The index to return in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the driver gave to the device.
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }

    /// The buffers to read.
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.readable]
    }

    /// The buffers to write.
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.readable..]
    }

    /// Copies `data.len()` bytes from byte `offset` of the readable part.
    pub fn read_at(
        &self,
        memory: &GuestMemory,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), BufferError> {
        let mut done = 0;
        for piece in pieces(self.readable(), offset, data.len() as u64)? {
            let len = piece.len as usize;
            memory
                .read_slice(&mut data[done..done + len], piece.address)
                .map_err(|_| not_ram(piece))?;
            done += len;
        }
        Ok(())
    }

    /// Copies `data` to byte `offset` of the writable part.
    pub fn write_at(
        &self,
        memory: &GuestMemory,
        offset: u64,
        data: &[u8],
    ) -> Result<(), BufferError> {
        let mut done = 0;
        for piece in pieces(self.writable(), offset, data.len() as u64)? {
            let len = piece.len as usize;
            memory
                .write_slice(&data[done..done + len], piece.address)
                .map_err(|_| not_ram(piece))?;
            done += len;
        }
        Ok(())
    }

    /// The bytes `range` of the readable part, where they lie.
    pub fn readable_slices<'m>(
        &self,
        memory: &'m GuestMemory,
        range: Range<u64>,
    ) -> Result<Vec<GuestSlice<'m>>, BufferError> {
        slices(self.readable(), memory, range)
    }

    /// The bytes `range` of the writable part, where they lie.
    pub fn writable_slices<'m>(
        &self,
        memory: &'m GuestMemory,
        range: Range<u64>,
    ) -> Result<Vec<GuestSlice<'m>>, BufferError> {
        slices(self.writable(), memory, range)
    }

    /// Reads the whole of `chain`, which is bounded and whose every descriptor is read once.
    pub(crate) fn load(&mut self, chain: DescriptorChain<&GuestMemory>) -> Result<(), QueueError> {
        self.clear(chain.head_index());
        let mut last_seen = false;
        let mut writing = false;
        for (count, descriptor) in chain.enumerate() {
            if count == MAX_CHAIN_LEN {
                return Err(QueueError::ChainTooLong { head: self.head });
            }
            last_seen = !descriptor.has_next();
            let writable = descriptor.is_write_only();
            if writing && !writable {
                return Err(QueueError::ReadableAfterWritable { head: self.head });
            }
            writing = writable;
            self.push(Segment { address: descriptor.addr(), len: descriptor.len() }, writable);
        }
        // The iterator stops without a word where a chain leaves its table, loops, nests indirect
        // tables, or is longer than 2^32 bytes.
        if !last_seen {
            return Err(QueueError::ChainBroken { head: self.head });
        }
        Ok(())
    }

    fn clear(&mut self, head: u16) {
        self.head = head;
        self.segments.clear();
        self.readable = 0;
        self.readable_len = 0;
        self.writable_len = 0;
    }

    fn push(&mut self, segment: Segment, writable: bool) {
        if segment.len == 0 {
            return;
        }
        self.segments.push(segment);
        if writable {
            self.writable_len += u64::from(segment.len);
        } else {
            self.readable += 1;
            self.readable_len += u64::from(segment.len);
        }
    }
}

/// Cuts the `len` bytes from `offset` out of `segments`.
fn pieces(
    segments: &[Segment],
    offset: u64,
    len: u64,
) -> Result<impl Iterator<Item = Segment> + '_, BufferError> {
    let total: u64 = segments.iter().map(|s| u64::from(s.len)).sum();
    let end = offset.saturating_add(len);
    if end > total {
        return Err(BufferError::TooShort { end });
    }
    let mut start = 0;
    Ok(segments.iter().filter_map(move |segment| {
        let this = start..start + u64::from(segment.len);
        start = this.end;
        let (from, to) = (this.start.max(offset), this.end.min(end));
        // A piece is part of a segment, so its length fits; an address that wraps is not RAM.
        (from < to).then(|| Segment {
            address: GuestAddress(segment.address.0.wrapping_add(from - this.start)),
            len: (to - from) as u32,
        })
    }))
}

fn slices<'m>(
    segments: &[Segment],
    memory: &'m GuestMemory,
    range: Range<u64>,
) -> Result<Vec<GuestSlice<'m>>, BufferError> {
    let mut found = Vec::with_capacity(segments.len());
    for piece in pieces(segments, range.start, range.end.saturating_sub(range.start))? {
        for slice in GuestMemoryBackend::get_slices(memory, piece.address, piece.len as usize) {
            found.push(slice.map_err(|_| not_ram(piece))?);
        }
    }
    Ok(found)
}

fn not_ram(piece: Segment) -> BufferError {
    BufferError::NotRam { address: piece.address.0, len: u64::from(piece.len) }
}
