//! A split virtqueue (virtio 1.2, 2.7), on virtio-queue.

use std::sync::atomic::Ordering;

use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend};
use thiserror::Error;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
pub use virtio_queue::QueueState;
use virtio_queue::{Error as RingError, QueueOwnedT, QueueT};

use crate::{Chain, Interrupt, Outcome};

/// The largest queue that a device may offer.
pub const MAX_QUEUE_SIZE: u16 = 256;

/// Most looks at the ring, and so most requests, in one turn: four full rings.
const TURN_LOOKS: u32 = 4 * MAX_QUEUE_SIZE as u32;
/// No further request is begun in a turn once its requests carried this many bytes.
const TURN_BYTES: u64 = 16 << 20;
/// Requests after which the driver hears of what is done so far.
const LOOKS_PER_SIGNAL: u32 = 16;

/// Alignment of the three parts (virtio 1.2, 2.7).
const DESC_TABLE_ALIGN: u64 = 16;
const AVAIL_RING_ALIGN: u64 = 2;
const USED_RING_ALIGN: u64 = 4;

/// The driver broke the rules of a ring. Only a reset of the device mends that.
#[derive(Debug, Error)]
pub enum QueueError {
    /// A size that is not a power of two, or larger than offered.
    #[error("queue size {size} is not a power of two up to {max}")]
    Size {
        /// The size asked for.
        size: u16,
        /// The largest size offered.
        max: u16,
    },
    /// A part of the ring at an address where it cannot be.
    #[error("the {part} at {address:#x} is unaligned, or not in guest memory")]
    Placement {
        /// Which part.
        part: &'static str,
        /// Its guest physical address.
        address: u64,
    },
    /// The available index is further ahead than the queue is long.
    #[error("the available index runs ahead of the queue")]
    AvailIndex,
    /// More descriptors than a chain may have.
    #[error("the descriptor chain at {head} is too long")]
    ChainTooLong {
        /// First descriptor of the chain.
        head: u16,
    },
    /// A chain that leaves the table, loops, nests indirect tables or exceeds 4 GiB.
    #[error("the descriptor chain at {head} is broken")]
    ChainBroken {
        /// First descriptor of the chain.
        head: u16,
    },
    /// A buffer for the device to read follows one for it to write.
    #[error("the descriptor chain at {head} has a readable buffer after a writable one")]
    ReadableAfterWritable {
        /// First descriptor of the chain.
        head: u16,
    },
    /// Anything else that virtio-queue refuses.
    #[error("ring access failed: {0}")]
    Ring(#[from] RingError),
}

/// One queue, as the device that owns it uses it.
///
/// A queue that the driver did not set up is always empty.
#[derive(Debug)]
pub struct Queue {
    ring: virtio_queue::Queue,
    /// Something was used since the driver's wish for an interrupt was last looked at.
    used: bool,
    /// Kept for its allocation.
    scratch: Chain,
}

impl Queue {
    /// A queue as `state` describes it, whose parts are checked against `memory` if it is ready.
    pub fn from_state(state: QueueState, memory: &GuestMemory) -> Result<Self, QueueError> {
        if state.ready {
            check(&state, memory)?;
        }
        Ok(Self { ring: state.try_into()?, used: false, scratch: Chain::default() })
    }

    /// Takes the next chain from the available ring into `chain`; false where there is none.
    pub fn pop(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, QueueError> {
        if !self.ring.ready() {
            return Ok(false);
        }
        let mut available = self.ring.iter(memory).map_err(|e| match e {
            RingError::InvalidAvailRingIndex => QueueError::AvailIndex,
            other => QueueError::Ring(other),
        })?;
        match available.next() {
            Some(descriptors) => chain.load(descriptors).map(|()| true),
            None => Ok(false),
        }
    }

    /// Puts the chain taken last back, to be popped again.
    pub fn undo_pop(&mut self) {
        self.ring.go_to_previous_position();
    }

    /// Gives the chain that began at `head` back to the driver, with `len` bytes written to it.
    pub fn add_used(
        &mut self,
        memory: &GuestMemory,
        head: u16,
        len: u32,
    ) -> Result<(), QueueError> {
        self.used = true;
        Ok(self.ring.add_used(memory, head, len)?)
    }

    /// Whether the driver wants to be interrupted for what was used since the last call.
    pub fn needs_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if !std::mem::take(&mut self.used) {
            return Ok(false);
        }
        if self.ring.event_idx_enabled() {
            return Ok(self.ring.needs_notification(memory)?);
        }
        let flags = GuestAddress(self.ring.avail_ring());
        let flags: u16 = memory.load(flags, Ordering::Acquire).map_err(RingError::GuestMemory)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Asks the driver not to notify: the device is looking anyway.
    pub fn disable_notification(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        Ok(self.ring.disable_notification(memory)?)
    }

    /// Asks the driver to notify again. True where something became available meanwhile, of which
    /// no notification may come.
    pub fn enable_notification(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        Ok(self.ring.enable_notification(memory)?)
    }

    /// Serves what is in the queue in one turn: `handle` gets each chain and says how many bytes
    /// it wrote. The turn is bounded in requests and in bytes.
    pub fn serve(
        &mut self,
        memory: &GuestMemory,
        interrupt: &Interrupt,
        handle: impl FnMut(&Chain) -> u32,
    ) -> Outcome {
        if !self.ring.ready() {
            return Outcome::Done;
        }
        let mut chain = std::mem::take(&mut self.scratch);
        let turn = self.turn(memory, interrupt, &mut chain, handle);
        self.scratch = chain;
        // Also after a broken chain: the driver gets what was done before it.
        let signalled = self.signal(memory, interrupt);
        match turn.and_then(|outcome| signalled.map(|()| outcome)) {
            Ok(outcome) => outcome,
            Err(error) => {
                log::debug!("virtio queue given up: {error}");
                Outcome::Broken
            }
        }
    }

    /// The queue's configuration and positions, for saving.
    pub fn state(&self) -> QueueState {
        self.ring.state()
    }

    fn turn(
        &mut self,
        memory: &GuestMemory,
        interrupt: &Interrupt,
        chain: &mut Chain,
        mut handle: impl FnMut(&Chain) -> u32,
    ) -> Result<Outcome, QueueError> {
        let mut bytes = 0;
        self.disable_notification(memory)?;
        // An empty look counts as well: a guest can make the index come and go between two looks.
        for looks in 1..=TURN_LOOKS {
            if self.pop(memory, chain)? {
                let written = handle(chain);
                self.add_used(memory, chain.head(), written)?;
                bytes += chain.readable_len() + chain.writable_len();
            } else if !self.enable_notification(memory)? {
                return Ok(Outcome::Done);
            }
            if bytes >= TURN_BYTES {
                break;
            }
            if looks % LOOKS_PER_SIGNAL == 0 {
                self.signal(memory, interrupt)?;
            }
        }
        Ok(Outcome::More)
    }

    fn signal(&mut self, memory: &GuestMemory, interrupt: &Interrupt) -> Result<(), QueueError> {
        if self.needs_interrupt(memory)? {
            interrupt.signal_used();
        }
        Ok(())
    }
}

/// Checks a queue that the driver declares ready: its size, and that each part lies aligned in RAM.
pub(crate) fn check(state: &QueueState, memory: &GuestMemory) -> Result<(), QueueError> {
    let QueueState { size, max_size: max, .. } = *state;
    if !size.is_power_of_two() || size > max {
        return Err(QueueError::Size { size, max });
    }
    let entries = u64::from(size);
    for (part, address, align, len) in [
        ("descriptor table", state.desc_table, DESC_TABLE_ALIGN, 16 * entries),
        ("available ring", state.avail_ring, AVAIL_RING_ALIGN, 6 + 2 * entries),
        ("used ring", state.used_ring, USED_RING_ALIGN, 6 + 8 * entries),
    ] {
        let placed = address != 0
            && address.is_multiple_of(align)
            && GuestMemoryBackend::check_range(memory, GuestAddress(address), len as usize);
        if !placed {
            return Err(QueueError::Placement { part, address });
        }
    }
    Ok(())
}
