//! What a driver asks of a disk (virtio 1.2, 5.2.6): from a chain's bytes to a [`Request`].
//!
//! Nothing here touches the disk. A chain is a 16-byte header, then data, then a writable status
//! byte at the very end; how the driver cuts that into descriptors does not matter. The data of a
//! discard or of a write of zeroes is a list of extents, which [`extents`] reads.

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
/// Most extents in one discard or write of zeroes.
pub const EXTENTS_MAX: usize = 16;
/// Most sectors in one extent of a discard: 2 GiB, which costs a host little.
pub const DISCARD_SECTORS_MAX: u32 = 1 << 22;
/// Most sectors in one extent of a write of zeroes: 16 MiB, for hosts that have to write them.
pub const ZERO_SECTORS_MAX: u32 = 1 << 15;

/// Bytes in a request's header.
const HEADER_LEN: u64 = 16;
/// The writable byte at the end.
const STATUS_LEN: u64 = 1;
/// Bytes of an extent: its first sector, how many, and flags.
pub const EXTENT_LEN: usize = 16;

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
    /// Do something to extents of the disk, which the chain lists.
    Extents {
        /// What to do.
        action: Action,
        /// The bytes of the chain's readable part that list them.
        list: Range<u64>,
    },
}

/// What happens to an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Its contents are of no use any more.
    Discard,
    /// It becomes zero.
    WriteZeroes,
}

/// Some bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first of them.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// Whether the host may take their room back.
    pub may_unmap: bool,
}

/// Why a request is answered without being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be done: VIRTIO_BLK_S_IOERR.
    Failed(Fault),
    /// The disk has no such request, or not with these flags: VIRTIO_BLK_S_UNSUPP.
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
    /// More than [`REQUEST_MAX`], or than an extent or a list of them may have.
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
            wire::VIRTIO_BLK_T_DISCARD => disk.list(Action::Discard, readable_len),
            wire::VIRTIO_BLK_T_WRITE_ZEROES => disk.list(Action::WriteZeroes, readable_len),
            kind => Err(Refusal::Unsupported { kind }),
        };
        Ok(Self { operation, status_at })
    }
}

impl Operation {
    /// Bytes that go between guest and disk.
    pub fn transfer_len(&self) -> u64 {
        match self {
            Operation::Read { data, .. } | Operation::Write { data, .. } => data.end - data.start,
            Operation::Flush | Operation::GetId { .. } | Operation::Extents { .. } => 0,
        }
    }

    /// Bytes that success writes to the chain, but for the status.
    pub fn written_len(&self) -> u64 {
        match self {
            Operation::Read { data, .. } | Operation::GetId { data } => data.end - data.start,
            Operation::Write { .. } | Operation::Flush | Operation::Extents { .. } => 0,
        }
    }
}

/// Reads the extents in `list`: all of them are on the disk and as large as they may be, or none
/// is returned.
pub fn extents(action: Action, list: &[u8], disk: Disk) -> Result<Vec<Extent>, Refusal> {
    let (extents, rest) = list.as_chunks::<EXTENT_LEN>();
    if !rest.is_empty() {
        return Err(Refusal::Failed(Fault::Length));
    }
    if extents.len() > EXTENTS_MAX {
        return Err(Refusal::Failed(Fault::TooMuch));
    }
    extents.iter().map(|bytes| action.extent(*bytes, disk)).collect()
}

impl Action {
    fn kind(self) -> u32 {
        match self {
            Action::Discard => wire::VIRTIO_BLK_T_DISCARD,
            Action::WriteZeroes => wire::VIRTIO_BLK_T_WRITE_ZEROES,
        }
    }

    fn extent(self, bytes: [u8; EXTENT_LEN], disk: Disk) -> Result<Extent, Refusal> {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes(flags);
        // UNMAP belongs to writes of zeroes only (virtio 1.2, 5.2.6.2).
        let (known, sectors_max) = match self {
            Action::Discard => (0, DISCARD_SECTORS_MAX),
            Action::WriteZeroes => (wire::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, ZERO_SECTORS_MAX),
        };
        if flags & !known != 0 {
            return Err(Refusal::Unsupported { kind: self.kind() });
        }
        if sectors > sectors_max {
            return Err(Refusal::Failed(Fault::TooMuch));
        }
        let len = u64::from(sectors) * SECTOR_SIZE;
        let offset = disk.place(sector, len)?;
        let may_unmap = flags & wire::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        Ok(Extent { offset, len, may_unmap })
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
        self.place(sector, len)
    }

    /// A list of extents to change, which takes up all of the chain's readable part behind the
    /// header.
    fn list(self, action: Action, readable_len: u64) -> Result<Operation, Refusal> {
        if self.read_only {
            return Err(Refusal::Failed(Fault::ReadOnly));
        }
        if readable_len - HEADER_LEN > (EXTENTS_MAX * EXTENT_LEN) as u64 {
            return Err(Refusal::Failed(Fault::TooMuch));
        }
        Ok(Operation::Extents { action, list: HEADER_LEN..readable_len })
    }

    /// Where `len` bytes from `sector` begin, if they are on the disk.
    fn place(self, sector: u64, len: u64) -> Result<u64, Refusal> {
        let offset = sector.checked_mul(SECTOR_SIZE);
        let end = offset.and_then(|o| o.checked_add(len));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= self.len => Ok(offset),
            _ => Err(Refusal::Failed(Fault::OutOfRange)),
        }
    }
}
