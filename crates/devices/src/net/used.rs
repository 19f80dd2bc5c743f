//! Giving the chains of one frame back at once.
//!
//! A driver that sees the first buffer of a frame looks for the others at once (virtio 1.2,
//! 5.1.6.4.1), so it has to see all of them or none. [`Queue::add_used`] shows each entry that it
//! adds. So the entries of all but the last are written here, behind the index that the driver
//! reads, and the queue is told that they are there; its last one then shows them all.

use std::sync::atomic::{Ordering, fence};

use memory::{Bytes, GuestAddress, GuestMemory};
use virtio::{Queue, QueueError, QueueState};

/// Where the entries of a used ring begin, and the bytes of each (virtio 1.2, 2.7.8).
const USED_ENTRIES: u64 = 4;
const USED_ENTRY_LEN: u64 = 8;
/// Where the entries of an available ring begin, and the bytes of each; behind them is the index
/// at which the driver wants an interrupt (virtio 1.2, 2.7.6, 2.7.10).
const AVAILABLE_ENTRIES: u64 = 4;
const AVAILABLE_ENTRY_LEN: u64 = 2;

/// Gives chains back: their heads, and the bytes written to each. True if the driver wants an
/// interrupt for what the queue does not know of: ask [`Queue::needs_interrupt`] as well.
pub(super) fn add_all_used(
    queue: &mut Queue,
    memory: &GuestMemory,
    used: &[(u16, u32)],
) -> Result<bool, QueueError> {
    let Some(((last, last_len), before)) = used.split_last() else { return Ok(false) };
    if before.is_empty() {
        queue.add_used(memory, *last, *last_len)?;
        return Ok(false);
    }
    // A queue made from a state begins to count anew what an interrupt may be due for.
    let due_before = queue.needs_interrupt(memory)?;
    let old = queue.state();
    let mut new = old;
    for (head, len) in before {
        write_entry(memory, &new, *head, *len)?;
        new.next_used = new.next_used.wrapping_add(1);
    }
    *queue = Queue::from_state(new, memory)?;
    queue.add_used(memory, *last, *last_len)?;
    Ok(due_before || wants_interrupt(memory, &old, new.next_used)?)
}

fn write_entry(
    memory: &GuestMemory,
    state: &QueueState,
    head: u16,
    len: u32,
) -> Result<(), QueueError> {
    let slot = u64::from(state.next_used % state.size);
    let address = state.used_ring + USED_ENTRIES + USED_ENTRY_LEN * slot;
    let entry = [u32::from(head).to_le(), len.to_le()];
    memory
        .write_obj(entry, GuestAddress(address))
        .map_err(|_| QueueError::Placement { part: "used ring", address })
}

/// Whether the driver wants to hear of the entries from `old.next_used` up to `end`, by EVENT_IDX.
fn wants_interrupt(memory: &GuestMemory, old: &QueueState, end: u16) -> Result<bool, QueueError> {
    if !old.event_idx_enabled {
        return Ok(false);
    }
    // The entries are visible before the driver's wish is read.
    fence(Ordering::SeqCst);
    let entries = AVAILABLE_ENTRY_LEN * u64::from(old.size);
    let address = old.avail_ring + AVAILABLE_ENTRIES + entries;
    let event: u16 = memory
        .load(GuestAddress(address), Ordering::Relaxed)
        .map_err(|_| QueueError::Placement { part: "available ring", address })?;
    let passed = end.wrapping_sub(u16::from_le(event)).wrapping_sub(1);
    Ok(passed < end.wrapping_sub(old.next_used))
}
