//! The virtio block device (virtio 1.2, 5.2).
//!
//! One queue. [`request`] reads what the driver wants; this module carries it out on a
//! [`BlockBackend`], which gets pieces of guest memory to fill or drain, so that nothing is copied
//! on the way. Every request that has room for a status byte is answered with one; a chain without
//! comes back unanswered, with nothing written.
//!
//! Offered: SEG_MAX, BLK_SIZE, RO for read-only disks, FLUSH for disks that write back. Without
//! FLUSH the driver takes writes for durable when they complete, and a FLUSH that comes
//! nevertheless is answered without asking the back end. Discard, write-zeroes and several queues
//! are not offered.

pub mod request;

use std::io;

use memory::GuestMemory;
use virtio::bindings::virtio_blk as wire;
use virtio::bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio::{
    Activated, BufferError, Chain, GuestSlice, MAX_CHAIN_LEN, MAX_QUEUE_SIZE, Outcome,
    VirtioDevice, copy_config,
};
use vm_memory::bitmap::Bitmap;

use self::request::{Disk, ID_LEN, Operation, Refusal, Request, SECTOR_SIZE};

/// Data buffers in one request: a full chain but for header and status.
const SEGMENTS_MAX: u32 = MAX_CHAIN_LEN as u32 - 2;

/// Bytes of configuration space, up to `blk_size` (virtio 1.2, 5.2.4).
const CONFIG_LEN: usize = 24;
/// Offsets in it.
const CONFIG_CAPACITY: usize = 0;
const CONFIG_SEG_MAX: usize = 12;
const CONFIG_BLK_SIZE: usize = 20;

/// A disk's contents, on the host.
///
/// Offsets and lengths are in bytes and lie within [`BlockBackend::len`]. The slices are guest
/// RAM, which the guest may change at the same time; they fit preadv(2) and pwritev(2). A read
/// need not mark the slices as written: the device does. Calls come one at a time.
pub trait BlockBackend: Send {
    /// Bytes on the disk. What does not make a whole sector at the end is not shown to the guest.
    fn len(&self) -> u64;

    /// Fills all of `into` from `offset` on.
    fn read_at(&mut self, offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()>;

    /// Writes all of `from` from `offset` on.
    fn write_at(&mut self, offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()>;

    /// Makes durable what was written.
    fn flush(&mut self) -> io::Result<()>;

    /// The disk's identity for the guest: ASCII, padded with zeroes.
    fn id(&self) -> [u8; ID_LEN as usize];

    /// Whether the disk has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a disk presents itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockOptions {
    /// Writes are refused.
    pub read_only: bool,
    /// The driver is to flush for durability (FLUSH): Firecracker's cache type "Writeback".
    pub write_back: bool,
}

/// The device.
pub struct Block<B> {
    backend: B,
    options: BlockOptions,
    active: Option<Activated>,
}

impl<B: BlockBackend> Block<B> {
    /// A disk over `backend`.
    pub fn new(backend: B, options: BlockOptions) -> Self {
        Self { backend, options, active: None }
    }

    /// Puts other contents into the disk; use it through `MmioTransport::update_config`, which
    /// tells the driver of the new capacity.
    pub fn replace(&mut self, backend: B) -> B {
        std::mem::replace(&mut self.backend, backend)
    }

    /// The disk's contents.
    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(CONFIG_CAPACITY, &(self.backend.len() / SECTOR_SIZE).to_le_bytes());
        put(CONFIG_SEG_MAX, &SEGMENTS_MAX.to_le_bytes());
        put(CONFIG_BLK_SIZE, &(SECTOR_SIZE as u32).to_le_bytes());
        config
    }
}

impl<B: BlockBackend> VirtioDevice for Block<B> {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn device_features(&self) -> u64 {
        [
            (wire::VIRTIO_BLK_F_SEG_MAX, true),
            (wire::VIRTIO_BLK_F_BLK_SIZE, true),
            (wire::VIRTIO_BLK_F_RO, self.options.read_only),
            (wire::VIRTIO_BLK_F_FLUSH, self.options.write_back),
        ]
        .into_iter()
        .filter(|(_, offered)| *offered)
        .fold(0, |features, (bit, _)| features | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[MAX_QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config(), offset, data);
    }

    fn activate(&mut self, activated: Activated) {
        self.active = Some(activated);
    }

    fn process_queue(&mut self, index: usize) -> Outcome {
        let Self { backend, options, active } = self;
        let Some(Activated { memory, queues, interrupt, .. }) = active else {
            return Outcome::Done;
        };
        let Some(queue) = queues.get_mut(index) else { return Outcome::Done };
        queue.serve(memory, interrupt, |chain| answer(backend, *options, memory, chain))
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn activated(&self) -> Option<&Activated> {
        self.active.as_ref()
    }
}

impl<B: BlockBackend + ?Sized> BlockBackend for Box<B> {
    fn len(&self) -> u64 {
        (**self).len()
    }
    fn read_at(&mut self, offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()> {
        (**self).read_at(offset, into)
    }
    fn write_at(&mut self, offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()> {
        (**self).write_at(offset, from)
    }
    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }
    fn id(&self) -> [u8; ID_LEN as usize] {
        (**self).id()
    }
}

/// Why a request could not be carried out: whose fault it is decides who hears of it.
enum Failure {
    /// The request is senseless: the guest's fault.
    Refused(Refusal),
    /// Its buffers are: the guest's fault as well.
    Buffer(BufferError),
    /// The back end failed: the host's.
    Host(io::Error),
}

impl Failure {
    /// The status byte for the driver; the log gets the reason.
    fn status(&self) -> u32 {
        match self {
            Failure::Refused(Refusal::Unsupported { kind }) => {
                log::debug!("virtio-block request of unknown type {kind}");
                return wire::VIRTIO_BLK_S_UNSUPP;
            }
            Failure::Refused(Refusal::Failed(fault)) => {
                log::debug!("virtio-block request refused: {fault:?}");
            }
            Failure::Buffer(error) => log::debug!("virtio-block request refused: {error}"),
            Failure::Host(error) => {
                log::warn!("disk request failed: {error}; the guest gets an I/O error");
            }
        }
        wire::VIRTIO_BLK_S_IOERR
    }
}

impl From<BufferError> for Failure {
    fn from(error: BufferError) -> Self {
        Failure::Buffer(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Host(error)
    }
}

/// Carries out the request in `chain` and answers it. Returns how many bytes were written to the
/// chain, for the used ring.
fn answer(
    backend: &mut impl BlockBackend,
    options: BlockOptions,
    memory: &GuestMemory,
    chain: &Chain,
) -> u32 {
    let len = backend.len() / SECTOR_SIZE * SECTOR_SIZE;
    let disk = Disk { len, read_only: options.read_only };
    let request = match Request::parse(memory, chain, disk) {
        Ok(request) => request,
        Err(unanswerable) => {
            log::debug!("virtio-block request dropped: {unanswerable:?}");
            return 0;
        }
    };
    let done = request
        .operation
        .map_err(Failure::Refused)
        .and_then(|operation| execute(backend, options, memory, chain, &operation));
    let (written, status) = match done {
        Ok(written) => (written, wire::VIRTIO_BLK_S_OK),
        Err(failure) => (0, failure.status()),
    };
    match chain.write_at(memory, request.status_at, &[status as u8]) {
        // Bounded by the largest request.
        Ok(()) => written as u32 + 1,
        Err(_) => 0,
    }
}

/// Carries out `operation`. Returns how many bytes it wrote to the chain.
fn execute(
    backend: &mut impl BlockBackend,
    options: BlockOptions,
    memory: &GuestMemory,
    chain: &Chain,
    operation: &Operation,
) -> Result<u64, Failure> {
    match operation {
        Operation::Read { offset, data } => {
            let slices = chain.writable_slices(memory, data.clone())?;
            let read = backend.read_at(*offset, &slices);
            // Also after a failure, which may come half-way.
            for slice in &slices {
                slice.bitmap().mark_dirty(0, slice.len());
            }
            read?;
            Ok(data.end - data.start)
        }
        Operation::Write { offset, data } => {
            let slices = chain.readable_slices(memory, data.clone())?;
            backend.write_at(*offset, &slices)?;
            Ok(0)
        }
        Operation::Flush => {
            if options.write_back {
                backend.flush()?;
            }
            Ok(0)
        }
        Operation::GetId { data } => {
            chain.write_at(memory, data.start, &backend.id())?;
            Ok(data.end - data.start)
        }
    }
}
