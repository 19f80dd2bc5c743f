//! A split virtqueue (virtio 1.2, 2.7), on virtio-queue.

use std::sync::atomic::{Ordering, fence};

use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend};
use thiserror::Error;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
pub use virtio_queue::QueueState;
use virtio_queue::{Error as RingError, QueueOwnedT, QueueT};

use crate::turn::{Answer, Handler, Turn, Until};
use crate::{Chain, Interrupt, Outcome};

/// The largest queue that a device may offer.
pub const MAX_QUEUE_SIZE: u16 = 256;

/// Alignment of the three parts (virtio 1.2, 2.7).
const DESC_TABLE_ALIGN: u64 = 16;
const AVAIL_RING_ALIGN: u64 = 2;
const USED_RING_ALIGN: u64 = 4;

/// Where the entries of a ring begin, behind its flags and its index (virtio 1.2, 2.7.6, 2.7.8).
const RING_ENTRIES: u64 = 4;
/// Bytes of an entry of the available ring; behind the last is the index at which the driver wants
/// an interrupt, if it uses EVENT_IDX (2.7.10).
const AVAIL_ENTRY_LEN: u64 = 2;
/// Bytes of an entry of the used ring.
const USED_ENTRY_LEN: u64 = 8;
/// Most entries that are written to the used ring at a time.
const ENTRIES_PER_WRITE: usize = 32;

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
    /// How many chains were given back since the driver's wish for an interrupt was looked at.
    unsignalled: u16,
    /// Kept for its allocation, as is the next.
    scratch: Chain,
    /// Chains that a handler had kept, and gives back.
    ended: Vec<(u16, u32)>,
}

impl Queue {
    /// A queue as `state` describes it, whose parts are checked against `memory` if it is ready.
    pub fn from_state(state: QueueState, memory: &GuestMemory) -> Result<Self, QueueError> {
        if state.ready {
            check(&state, memory)?;
        }
        let ring = state.try_into()?;
        Ok(Self { ring, unsignalled: 0, scratch: Chain::default(), ended: Vec::new() })
    }

    /// Whether the driver has set the queue up.
    pub fn ready(&self) -> bool {
        self.ring.ready()
    }

    /// Takes the next chain from the available ring into `chain`; false where there is none.
    pub fn pop(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, QueueError> {
        if !self.ready() {
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

    /// The driver's index: how many chains it has made available so far, as 16 bits count them.
    pub fn available_index(&self, memory: &GuestMemory) -> Result<u16, QueueError> {
        Ok(self.ring.avail_idx(memory, Ordering::Acquire)?.0)
    }

    /// Gives the chain that began at `head` back to the driver, with `len` bytes written to it.
    pub fn add_used(
        &mut self,
        memory: &GuestMemory,
        head: u16,
        len: u32,
    ) -> Result<(), QueueError> {
        self.unsignalled = self.unsignalled.saturating_add(1);
        Ok(self.ring.add_used(memory, head, len)?)
    }

    /// As [`Queue::add_used`], for several chains: the driver sees all of them or none.
    pub fn add_used_all(
        &mut self,
        memory: &GuestMemory,
        used: &[(u16, u32)],
    ) -> Result<(), QueueError> {
        let Some(((last, last_len), before)) = used.split_last() else { return Ok(()) };
        if !self.ready() {
            return Ok(());
        }
        // Entries behind the index are not the driver's yet; the last one's index shows them all.
        let per_write = ENTRIES_PER_WRITE.min(self.ring.size().into());
        for chunk in before.chunks(per_write.max(1)) {
            self.write_used(memory, chunk)?;
        }
        self.add_used(memory, *last, *last_len)
    }

    /// Interrupts the driver if it wants that for what it got back since the last call.
    pub fn signal(
        &mut self,
        memory: &GuestMemory,
        interrupt: &Interrupt,
    ) -> Result<(), QueueError> {
        if self.needs_interrupt(memory)? {
            interrupt.signal_used();
        }
        Ok(())
    }

    /// Asks the driver not to notify: the device is looking anyway.
    pub fn disable_notification(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        if !self.ready() {
            return Ok(());
        }
        Ok(self.ring.disable_notification(memory)?)
    }

    /// Asks the driver to notify again. True where something became available meanwhile, of which
    /// no notification may come.
    pub fn enable_notification(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        Ok(self.ready() && self.ring.enable_notification(memory)?)
    }

    /// Serves what is in the queue in one bounded [`Turn`]: `handle` gets each chain.
    pub fn serve(
        &mut self,
        memory: &GuestMemory,
        interrupt: &Interrupt,
        handle: impl FnMut(&mut Chain) -> Answer,
    ) -> Outcome {
        self.serve_by(memory, interrupt, &mut Immediate(handle))
    }

    /// As [`Queue::serve`], for a device that keeps chains and gives them back later.
    pub fn serve_by(
        &mut self,
        memory: &GuestMemory,
        interrupt: &Interrupt,
        handler: &mut impl Handler,
    ) -> Outcome {
        if !self.ready() {
            return Outcome::Done;
        }
        let mut chain = std::mem::take(&mut self.scratch);
        let turn = self.turn(memory, interrupt, handler, &mut chain);
        self.scratch = chain;
        // Also after a broken chain: the driver gets what was done before it.
        let settled = self.settle(memory, interrupt, handler);
        match turn.and_then(|outcome| settled.map(|_| outcome)) {
            Ok(outcome) => outcome,
            Err(error) => {
                log::debug!("virtio queue given up: {error}");
                Outcome::Broken
            }
        }
    }

    /// Gives back what the handler had kept and is done with, and tells the driver. True if there
    /// was any.
    pub fn settle(
        &mut self,
        memory: &GuestMemory,
        interrupt: &Interrupt,
        handler: &mut impl Handler,
    ) -> Result<bool, QueueError> {
        let mut ended = std::mem::take(&mut self.ended);
        handler.settle(&mut ended);
        let added = self.add_used_all(memory, &ended);
        let any = !ended.is_empty();
        ended.clear();
        self.ended = ended;
        added.and_then(|()| self.signal(memory, interrupt)).map(|()| any)
    }

    /// The queue's configuration and positions, for saving.
    pub fn state(&self) -> QueueState {
        self.ring.state()
    }

    fn turn(
        &mut self,
        memory: &GuestMemory,
        interrupt: &Interrupt,
        handler: &mut impl Handler,
        chain: &mut Chain,
    ) -> Result<Outcome, QueueError> {
        let mut turn = Turn::default();
        self.disable_notification(memory)?;
        while turn.look() {
            if self.pop(memory, chain)? {
                let (head, len) = (chain.head(), chain.readable_len() + chain.writable_len());
                match handler.handle(chain) {
                    Answer::Used(written) => self.add_used(memory, head, written)?,
                    Answer::Kept => {}
                    Answer::PutBack(until) => {
                        self.undo_pop();
                        match until {
                            // What is sent off may end at once, and make room.
                            Until::Ended if self.settle(memory, interrupt, handler)? => continue,
                            Until::Ended | Until::Served => return Ok(Outcome::Done),
                            Until::NextTurn => return Ok(Outcome::More),
                        }
                    }
                }
                turn.spend(len);
            } else if !self.enable_notification(memory)? {
                return Ok(Outcome::Done);
            }
            if turn.pauses() {
                self.settle(memory, interrupt, handler)?;
            }
        }
        Ok(Outcome::More)
    }

    /// Writes entries to where the next ones belong: at most [`ENTRIES_PER_WRITE`], and no more than
    /// the ring has.
    fn write_used(&mut self, memory: &GuestMemory, used: &[(u16, u32)]) -> Result<(), QueueError> {
        let mut bytes = [0; ENTRIES_PER_WRITE * USED_ENTRY_LEN as usize];
        let (entries, _) = bytes.as_chunks_mut::<4>();
        for (entry, (head, len)) in entries.chunks_exact_mut(2).zip(used) {
            entry[0] = u32::from(*head).to_le_bytes();
            entry[1] = len.to_le_bytes();
        }
        let (next, size) = (self.ring.next_used(), self.ring.size());
        let slot = next % size;
        // What does not fit before the ring's end goes to its start.
        let fits = used.len().min(usize::from(size - slot));
        let (end, rest) =
            bytes[..used.len() * USED_ENTRY_LEN as usize].split_at(fits * USED_ENTRY_LEN as usize);
        let entries = self.ring.used_ring() + RING_ENTRIES;
        for (slot, bytes) in [(slot, end), (0, rest)] {
            let at = GuestAddress(entries + USED_ENTRY_LEN * u64::from(slot));
            memory.write_slice(bytes, at).map_err(RingError::GuestMemory)?;
        }
        let count = used.len() as u16;
        self.ring.set_next_used(next.wrapping_add(count));
        self.unsignalled = self.unsignalled.saturating_add(count);
        Ok(())
    }

    /// Whether the driver wants to be interrupted for what it got back since the last call.
    fn needs_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        let added = std::mem::take(&mut self.unsignalled);
        if added == 0 {
            return Ok(false);
        }
        // The driver sees what it got before its wish is read (2.7.7.2, 2.7.10).
        fence(Ordering::SeqCst);
        let avail = self.ring.avail_ring();
        if !self.ring.event_idx_enabled() {
            let flags = load(memory, avail)?;
            return Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        let event =
            load(memory, avail + RING_ENTRIES + AVAIL_ENTRY_LEN * u64::from(self.ring.size()))?;
        Ok(self.ring.next_used().wrapping_sub(event).wrapping_sub(1) < added)
    }
}

/// Serves by a function that keeps no chain.
struct Immediate<F>(F);

impl<F: FnMut(&mut Chain) -> Answer> Handler for Immediate<F> {
    fn handle(&mut self, chain: &mut Chain) -> Answer {
        (self.0)(chain)
    }

    fn settle(&mut self, _ended: &mut Vec<(u16, u32)>) {}
}

fn load(memory: &GuestMemory, at: u64) -> Result<u16, QueueError> {
    let value: u16 =
        memory.load(GuestAddress(at), Ordering::Relaxed).map_err(RingError::GuestMemory)?;
    Ok(u16::from_le(value))
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
