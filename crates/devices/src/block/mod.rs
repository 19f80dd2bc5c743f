//! The virtio block device (virtio 1.2, 5.2).
//!
//! One queue. [`request`] reads what the driver wants; `serve` carries it out on a
//! [`BlockBackend`], which gets pieces of guest memory to fill or drain, so that nothing is copied
//! on the way. Every request that has room for a status byte is answered with one; a chain without
//! comes back unanswered, with nothing written.
//!
//! Offered: SEG_MAX, BLK_SIZE, RO for read-only disks, FLUSH for disks that write back, DISCARD
//! and WRITE_ZEROES for all that can be written. Without FLUSH the driver takes writes for durable
//! when they complete, and a FLUSH that comes nevertheless is answered without asking the back
//! end. Firecracker offers no discards; here guests give back what they delete. Several queues are
//! not offered.
//!
//! Transfers may be on their way while the device goes on, [`IN_FLIGHT_MAX`] of them. A reset and
//! [`Block::replace`] wait for them.

mod backend;
mod flight;
pub mod request;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use metrics::BlockMetrics;
use virtio::bindings::virtio_blk as wire;
use virtio::bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio::{Activated, MAX_CHAIN_LEN, MAX_QUEUE_SIZE, Outcome, VirtioDevice, copy_config};

pub use self::backend::{Begun, BlockBackend, IN_FLIGHT_MAX, Tag, Transfer};
use self::request::{DISCARD_SECTORS_MAX, EXTENTS_MAX, SECTOR_SIZE, ZERO_SECTORS_MAX};
use self::serve::{Ring, Server};
use crate::rate::RateLimiter;

/// Data buffers in one request: a full chain but for header and status.
const SEGMENTS_MAX: u32 = MAX_CHAIN_LEN as u32 - 2;
/// Where discards best begin and end, in sectors: the block size of the host's file systems.
const DISCARD_ALIGNMENT: u32 = 8;

/// Bytes of configuration space, with the fields of WRITE_ZEROES and what pads them (virtio 1.2,
/// 5.2.4).
const CONFIG_LEN: usize = 60;
/// Offsets in it.
const CONFIG_CAPACITY: usize = 0;
const CONFIG_SEG_MAX: usize = 12;
const CONFIG_BLK_SIZE: usize = 20;
const CONFIG_DISCARD_SECTORS_MAX: usize = 36;
const CONFIG_DISCARD_SEGMENTS_MAX: usize = 40;
const CONFIG_DISCARD_ALIGNMENT: usize = 44;
const CONFIG_ZERO_SECTORS_MAX: usize = 48;
const CONFIG_ZERO_SEGMENTS_MAX: usize = 52;
const CONFIG_ZERO_MAY_UNMAP: usize = 56;

/// Tells the time since some fixed moment.
pub type Clock = Box<dyn Fn() -> Duration + Send>;

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
    server: Server<B>,
    active: Option<Activated>,
}

impl<B: BlockBackend> Block<B> {
    /// A disk over `backend`, without limits.
    pub fn new(backend: B, options: BlockOptions) -> Self {
        Self { server: Server::new(backend, options), active: None }
    }

    /// Limits what the guest may transfer. A disk whose limits may change gets a limiter even if
    /// it does not limit yet.
    pub fn with_limiter(mut self, limiter: RateLimiter) -> Self {
        self.server.limiter = Some(limiter);
        self
    }

    /// Counts in `metrics`; `clock` tells how long transfers take.
    pub fn with_metrics(mut self, metrics: Arc<BlockMetrics>, clock: Clock) -> Self {
        self.server.metrics = metrics;
        self.server.clock = clock;
        self
    }

    /// Keeps the identity of the contents that the disk has now, whatever replaces them: guests
    /// may find their root by it.
    pub fn with_fixed_id(mut self) -> Self {
        self.server.fixed_id = Some(self.server.backend.id());
        self
    }

    /// Puts other contents into the disk when all that is on its way has ended; use it through
    /// `MmioTransport::update_config`, which tells the driver of the new capacity.
    pub fn replace(&mut self, backend: B) -> B {
        self.settle();
        self.server.metrics.update_count.inc();
        std::mem::replace(&mut self.server.backend, backend)
    }

    /// Waits for all that is on its way and answers it: before the disk's state is saved.
    pub fn settle(&mut self) {
        if let Some(Activated { memory, queues, interrupt, .. }) = &mut self.active
            && let Some(queue) = queues.first_mut()
        {
            self.server.settle(&mut Ring { memory, queue, interrupt });
        }
    }

    /// What limits the guest, to be changed.
    pub fn limiter(&mut self) -> Option<&mut RateLimiter> {
        self.server.limiter.as_mut()
    }

    /// The disk's contents.
    pub fn backend(&mut self) -> &mut B {
        &mut self.server.backend
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(CONFIG_CAPACITY, &(self.server.backend.len() / SECTOR_SIZE).to_le_bytes());
        put(CONFIG_SEG_MAX, &SEGMENTS_MAX.to_le_bytes());
        put(CONFIG_BLK_SIZE, &(SECTOR_SIZE as u32).to_le_bytes());
        if !self.server.options.read_only {
            put(CONFIG_DISCARD_SECTORS_MAX, &DISCARD_SECTORS_MAX.to_le_bytes());
            put(CONFIG_DISCARD_SEGMENTS_MAX, &(EXTENTS_MAX as u32).to_le_bytes());
            put(CONFIG_DISCARD_ALIGNMENT, &DISCARD_ALIGNMENT.to_le_bytes());
            put(CONFIG_ZERO_SECTORS_MAX, &ZERO_SECTORS_MAX.to_le_bytes());
            put(CONFIG_ZERO_SEGMENTS_MAX, &(EXTENTS_MAX as u32).to_le_bytes());
            put(CONFIG_ZERO_MAY_UNMAP, &[1]);
        }
        config
    }
}

impl<B: BlockBackend> VirtioDevice for Block<B> {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn device_features(&self) -> u64 {
        let options = self.server.options;
        [
            (wire::VIRTIO_BLK_F_SEG_MAX, true),
            (wire::VIRTIO_BLK_F_BLK_SIZE, true),
            (wire::VIRTIO_BLK_F_RO, options.read_only),
            (wire::VIRTIO_BLK_F_FLUSH, options.write_back),
            (wire::VIRTIO_BLK_F_DISCARD, !options.read_only),
            (wire::VIRTIO_BLK_F_WRITE_ZEROES, !options.read_only),
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
        let Some(Activated { memory, queues, interrupt, .. }) = &mut self.active else {
            return Outcome::Done;
        };
        let Some(queue) = queues.get_mut(index) else { return Outcome::Done };
        self.server.turn(&mut Ring { memory, queue, interrupt })
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            self.server.forget(&active.memory);
        }
    }

    fn activated(&self) -> Option<&Activated> {
        self.active.as_ref()
    }
}
