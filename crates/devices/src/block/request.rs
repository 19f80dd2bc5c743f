//! What a driver asks of a disk (virtio 1.2, 5.2.6): from a chain's bytes to a [`Request`].
//!
//! Nothing here touches the disk. A chain is a 16-byte header, then data, then a writable status
//! byte at the very end; how the driver cuts that into descriptors does not matter.

use std::ops::Range;

use memory::GuestMemory;
use virtio::Chain;
use virtio::bindings::virtio_blk as wire;

/// Bytes in a sector, the unit of addresses in requests whatever the disk's block size.
pub const SECTOR_SIZE: u64 = 512;
/// Most data in one request.
pub const REQUEST_MAX: u64 = 64 << 20;
/// Bytes in a disk's identity.
pub const ID_LEN: u64 = wire::VIRTIO_BLK_ID_BYTES as u64;

/// Bytes in a request's header.
const HEADER_LEN: u64 = 16;
/// The writable byte at the end.
const STATUS_LEN: u64 = 1;

/// A request that can be answered: there is a status byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do, or why not.
    pub operation: Result<Operation, Refusal>,
    /// Where in the writable part the status byte is.
    pub status_at: u64,
}

/// What the driver wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Read the disk into the guest.
    Read {
        /// First byte on the disk.
        offset: u64,
        /// The bytes of the chain's writable part to fill.
        data: Range<u64>,
    },
    /// Write from the guest to the disk.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// The bytes of the chain's readable part to take.
        data: Range<u64>,
    },
    /// Make what was written durable.
    Flush,
    /// Say the disk's identity.
    GetId {
        /// The bytes of the chain's writable part to fill.
        data: Range<u64>,
    },
}

/// Why a request is answered without being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be done: VIRTIO_BLK_S_IOERR.
    Failed(Fault),
    /// The disk has no such request: VIRTIO_BLK_S_UNSUPP.
    Unsupported {
        /// The request's type.
        kind: u32,
    },
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Data that are not whole sectors.
    Length,
    /// More than [`REQUEST_MAX`].
    TooMuch,
    /// Sectors that the disk does not have.
    OutOfRange,
    /// A write to a disk that is read-only.
    ReadOnly,
    /// Too little room for the answer.
    NoRoom,
}

/// A chain that cannot even be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswerable {
    /// No whole header.
    NoHeader,
    /// No writable byte for the status.
    NoStatus,
}

/// What a request is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes on the disk, a multiple of [`SECTOR_SIZE`].
    pub len: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

impl Request {
    /// Reads the request in `chain`.
    pub fn parse(memory: &GuestMemory, chain: &Chain, disk: Disk) -> Result<Self, Unanswerable> {
        let mut header = [0; HEADER_LEN as usize];
        chain.read_at(memory, 0, &mut header).map_err(|_| Unanswerable::NoHeader)?;
        Self::decode(header, chain.readable_len(), chain.writable_len(), disk)
    }

    /// Decodes a request from its header and the lengths of the chain's two parts.
    pub fn decode(
        header: [u8; HEADER_LEN as usize],
        readable_len: u64,
        writable_len: u64,
        disk: Disk,
    ) -> Result<Self, Unanswerable> {
        if readable_len < HEADER_LEN {
            return Err(Unanswerable::NoHeader);
        }
        let status_at = writable_len.checked_sub(STATUS_LEN).ok_or(Unanswerable::NoStatus)?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([k0, k1, k2, k3]);
        let sector = u64::from_le_bytes(sector);
        let operation = match kind {
            wire::VIRTIO_BLK_T_IN => disk
                .extent(sector, status_at)
                .map(|offset| Operation::Read { offset, data: 0..status_at }),
            wire::VIRTIO_BLK_T_OUT if disk.read_only => Err(Refusal::Failed(Fault::ReadOnly)),
            wire::VIRTIO_BLK_T_OUT => disk
                .extent(sector, readable_len - HEADER_LEN)
                .map(|offset| Operation::Write { offset, data: HEADER_LEN..readable_len }),
            wire::VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
            wire::VIRTIO_BLK_T_GET_ID if status_at < ID_LEN => Err(Refusal::Failed(Fault::NoRoom)),
            wire::VIRTIO_BLK_T_GET_ID => Ok(Operation::GetId { data: 0..ID_LEN }),
            kind => Err(Refusal::Unsupported { kind }),
        };
        Ok(Self { operation, status_at })
    }
}

impl Disk {
    /// Where `len` bytes from `sector` begin, if they are on the disk and not too many.
    fn extent(self, sector: u64, len: u64) -> Result<u64, Refusal> {
        if !len.is_multiple_of(SECTOR_SIZE) {
            return Err(Refusal::Failed(Fault::Length));
        }
        if len > REQUEST_MAX {
            return Err(Refusal::Failed(Fault::TooMuch));
        }
        let offset = sector.checked_mul(SECTOR_SIZE);
        let end = offset.and_then(|o| o.checked_add(len));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= self.len => Ok(offset),
            _ => Err(Refusal::Failed(Fault::OutOfRange)),
        }
    }
}
