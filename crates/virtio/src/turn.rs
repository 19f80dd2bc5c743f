//! The bounds of one turn on a queue, the same for all devices, and what a device does in it.
//!
//! ```text
//!   pop ──▶ handle ──Used──────────────▶ used ring
//!    ▲         ├─────Kept──▶ … settle ──▶ used ring
//!    └─undo────┴─────PutBack: the turn is over, unless what it waits for has ended
//! ```
//!
//! A turn ends when the queue is empty, when a chain is put back, or at its bounds: then the rest
//! has to wait, so that neither other queues nor the vCPU that notified do.

use crate::{Chain, MAX_QUEUE_SIZE};

/// Most looks at the ring, and so most requests, in one turn: four full rings.
const LOOKS_MAX: u32 = 4 * MAX_QUEUE_SIZE as u32;
/// No further request is begun in a turn once its requests carried this many bytes.
const BYTES_MAX: u64 = 16 << 20;
/// Looks after which the driver hears of what is done so far.
const LOOKS_PER_PAUSE: u32 = 16;

/// What was done in a turn, against its bounds. [`Queue::serve`](crate::Queue::serve) keeps it;
/// a device that takes several chains for one piece of work keeps its own.
#[derive(Debug, Default)]
pub struct Turn {
    looks: u32,
    bytes: u64,
}

impl Turn {
    /// Begins another look for work, if the turn has room for one. An empty look counts as well: a
    /// guest can make its index come and go between two looks.
    pub fn look(&mut self) -> bool {
        let room = self.looks < LOOKS_MAX && !self.is_heavy();
        self.looks += u32::from(room);
        room
    }

    /// The work of this look moved so many bytes.
    pub fn spend(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether the turn moved as many bytes as it may.
    pub fn is_heavy(&self) -> bool {
        self.bytes >= BYTES_MAX
    }

    /// Whether it is time to tell the driver what is done so far.
    pub fn pauses(&self) -> bool {
        self.looks.is_multiple_of(LOOKS_PER_PAUSE)
    }
}

/// What became of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done with, and goes back to the driver with so many bytes written.
    Used(u32),
    /// The device keeps it, and gives it back later.
    Kept,
    /// It stays in the queue, and all behind it with it.
    PutBack(Until),
}

/// What a chain waits for that was put back. The driver need not notify meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The end of a chain that was kept. If one ends at once, the turn goes on.
    Ended,
    /// Something that has the queue served, as an alarm does.
    Served,
    /// The next turn: the device did enough in this one.
    NextTurn,
}

/// A device that keeps chains, and gives them back when it is done with them.
pub trait Handler {
    /// Carries out the request in `chain`, or begins it.
    fn handle(&mut self, chain: &mut Chain) -> Answer;

    /// Sends off what was begun, and adds the chains that were kept and are done to `ended`: the
    /// head of each, and how many bytes were written to it. Called now and then, and at the end of
    /// each turn.
    fn settle(&mut self, ended: &mut Vec<(u16, u32)>);
}
