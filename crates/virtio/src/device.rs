//! What a virtio device is to its transport.

use std::sync::Arc;

use memory::GuestMemory;

use crate::{Interrupt, Queue, QueueState};

/// A virtio device behind a transport.
///
/// The transport calls it under its own lock, one call at a time, on the thread of a vCPU or of an
/// event loop. Between [`VirtioDevice::activate`] and [`VirtioDevice::reset`] the device owns what
/// it was given; outside of that time `process_queue` is not called.
pub trait VirtioDevice: Send {
    /// The device type (virtio 1.2, 5).
    fn device_type(&self) -> u32;

    /// The device's own feature bits; the transport adds [`crate::RING_FEATURES`].
    fn device_features(&self) -> u64;

    /// The largest size of each queue: powers of two up to [`crate::MAX_QUEUE_SIZE`]. Their number
    /// never changes.
    fn queue_sizes(&self) -> &[u16];

    /// The driver reads `data.len()` bytes of configuration space at `offset`. What lies beyond
    /// the device's fields reads as zero; [`copy_config`] does that.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver writes configuration space; most devices have nothing to write.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready: from now on the queues may be used.
    fn activate(&mut self, activated: Activated);

    /// Takes what is in queue `index`, which exists, up to a bound on the work of one turn.
    fn process_queue(&mut self, index: usize) -> Outcome;

    /// The driver wants nothing to do with what came before. Drops what `activate` gave.
    fn reset(&mut self);

    /// What `activate` gave, while the device is active. The transport saves the queues from it.
    fn activated(&self) -> Option<&Activated>;
}

/// What a device works with while it is active.
#[derive(Debug)]
pub struct Activated {
    /// The guest's RAM.
    pub memory: Arc<GuestMemory>,
    /// One queue for each of [`VirtioDevice::queue_sizes`]; those that the driver did not set up
    /// stay empty.
    pub queues: Vec<Queue>,
    /// How to reach the driver.
    pub interrupt: Interrupt,
    /// The features that the driver accepted.
    pub features: u64,
}

impl Activated {
    /// Whether the driver accepted feature bit `bit`.
    pub fn has_feature(&self, bit: u32) -> bool {
        self.features & (1 << bit) != 0
    }

    /// The queues' states, for saving.
    pub fn queue_states(&self) -> Vec<QueueState> {
        self.queues.iter().map(Queue::state).collect()
    }
}

/// How a turn on a queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Nothing is left to do until the driver, or the device's back end, says so.
    Done,
    /// The turn's bound is reached and there is more in the queue.
    More,
    /// The driver broke the rules of the ring. The transport sets DEVICE_NEEDS_RESET and calls
    /// no more.
    Broken,
}

/// Copies configuration space `config` from `offset` on into `data`; zeroes beyond its end.
pub fn copy_config(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset).ok().and_then(|start| config.get(start..)).unwrap_or(&[]);
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
}

impl<D: VirtioDevice + ?Sized> VirtioDevice for Box<D> {
    fn device_type(&self) -> u32 {
        (**self).device_type()
    }
    fn device_features(&self) -> u64 {
        (**self).device_features()
    }
    fn queue_sizes(&self) -> &[u16] {
        (**self).queue_sizes()
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        (**self).read_config(offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        (**self).write_config(offset, data);
    }
    fn activate(&mut self, activated: Activated) {
        (**self).activate(activated);
    }
    fn process_queue(&mut self, index: usize) -> Outcome {
        (**self).process_queue(index)
    }
    fn reset(&mut self) {
        (**self).reset();
    }
    fn activated(&self) -> Option<&Activated> {
        (**self).activated()
    }
}
