//! The guest's buffers for what it receives, as one stretch of memory.
//!
//! Chains are taken from the queue, in its order, as far as they are needed; their slices stand in
//! one row, so that one readv(2) fills as many chains as the frame needs. Chains that are not
//! needed stay for the next frame of the same turn, and go back to the queue at its end.
//!
//! A driver that accepted MRG_RXBUF takes a frame in any number of chains; for others it has to
//! fit in one (virtio 1.2, 5.1.6.4). A chain with a readable buffer, too little room, or memory
//! that is not RAM goes back unused.

use memory::{Bytes, GuestMemory, GuestMemoryBackend};
use virtio::{Chain, GuestSlice, Queue, QueueError, Segment};
use vm_memory::bitmap::Bitmap;

use super::frame::{FRAME_MAX, NUM_BUFFERS};

/// No further chain is taken once there are so many slices: with the longest chain on top, that is
/// within what readv(2) takes (`UIO_MAXIOV`, 1024).
const SLICES_MAX: usize = 512;

/// What the driver's buffers are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// A frame may span chains.
    pub mergeable: bool,
    /// The least room in one chain.
    pub chain_min: usize,
}

/// Whether there is room for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// There is.
    Enough,
    /// The driver has to give more buffers.
    Short,
    /// The driver's buffers are not made for such a frame.
    Never,
}

/// The chains taken and not filled yet.
pub(super) struct Buffers<'m> {
    memory: &'m GuestMemory,
    shape: Shape,
    /// The chain taken last.
    chain: Chain,
    taken: Vec<Taken>,
    /// How many of `taken`, from the first on, went back to the driver.
    returned: usize,
    slices: Vec<GuestSlice<'m>>,
    /// How many of `slices` belong to those.
    filled: usize,
    /// Bytes in the slices that are not filled.
    room: usize,
    /// How many unfit chains went back to the driver.
    unfit: u64,
    /// The chains of one frame and the bytes in each; kept for its allocation.
    used: Vec<(u16, u32)>,
}

/// A chain.
#[derive(Debug, Clone, Copy)]
struct Taken {
    head: u16,
    /// Its room; 0 if it is unfit.
    len: usize,
    slices: usize,
}

impl<'m> Buffers<'m> {
    /// No buffers yet.
    pub fn new(memory: &'m GuestMemory, shape: Shape) -> Self {
        Self {
            memory,
            shape,
            chain: Chain::default(),
            taken: Vec::new(),
            returned: 0,
            slices: Vec::new(),
            filled: 0,
            room: 0,
            unfit: 0,
            used: Vec::new(),
        }
    }

    /// The guest's RAM.
    pub fn memory(&self) -> &'m GuestMemory {
        self.memory
    }

    /// Takes chains from `queue` until a frame of `len` bytes fits, or as many as there are up to an
    /// unfit one, so that the work is bounded.
    pub fn gather(&mut self, queue: &mut Queue, len: usize) -> Result<Room, QueueError> {
        if self.filled >= SLICES_MAX {
            self.forget_filled();
        }
        loop {
            match self.room_for(len) {
                Room::Short => {}
                decided => return Ok(decided),
            }
            if !queue.pop(self.memory, &mut self.chain)? || !self.take(queue)? {
                return Ok(self.room_for(len));
            }
        }
    }

    /// Where the next frame goes.
    pub fn slices(&self) -> &[GuestSlice<'m>] {
        let first = self.first().map_or(0, |chain| chain.slices);
        let count = if self.shape.mergeable { self.slices.len() - self.filled } else { first };
        &self.slices[self.filled..self.filled + count]
    }

    /// Bytes in [`Self::slices`].
    pub fn room(&self) -> usize {
        let first = self.first().map_or(0, |chain| chain.len);
        if self.shape.mergeable { self.room } else { first }
    }

    /// Writes `bytes` at `offset` of where the next frame goes; there is room.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        write_all(self.slices(), offset, bytes);
    }

    /// Appends the first bytes of where the next frame goes to `into`: so many, or all there are.
    pub fn read(&self, len: usize, into: &mut Vec<u8>) {
        let mut rest = len;
        for slice in self.slices() {
            let part = rest.min(slice.len());
            let start = into.len();
            into.resize(start + part, 0);
            // A slice is RAM: reading it does not fail.
            let _ = slice.read_slice(&mut into[start..], 0);
            rest -= part;
        }
    }

    /// Gives the driver the frame of `len` bytes that [`Self::slices`] begin with.
    pub fn finish(&mut self, queue: &mut Queue, len: usize) -> Result<(), QueueError> {
        let slices = self.filled;
        self.used.clear();
        let mut rest = len;
        while let Some(chain) = self.taken.get(self.returned).filter(|_| rest > 0) {
            let part = rest.min(chain.len);
            if part == 0 {
                self.unfit += 1;
                queue.add_used(self.memory, chain.head, 0)?;
            } else {
                // At most FRAME_MAX.
                self.used.push((chain.head, part as u32));
            }
            rest -= part;
            self.room -= chain.len;
            self.filled += chain.slices;
            self.returned += 1;
        }
        let slices = &self.slices[slices..self.filled];
        mark_written(slices, len);
        // Bounded by SLICES_MAX.
        write_all(slices, NUM_BUFFERS, &(self.used.len() as u16).to_le_bytes());
        // A driver that sees the first chain of a frame looks for the others at once (virtio 1.2,
        // 5.1.6.4.1).
        queue.add_used_all(self.memory, &self.used)
    }

    /// Logs all as written that a read may have written which gave no frame to the driver.
    pub fn spoil(&self) {
        mark_written(self.slices(), self.room());
    }

    /// Puts what is left back into the queue, and says how many chains were unfit.
    pub fn put_back(&mut self, queue: &mut Queue) -> u64 {
        for _ in self.taken.drain(self.returned..) {
            queue.undo_pop();
        }
        self.slices.truncate(self.filled);
        self.room = 0;
        self.unfit
    }

    fn forget_filled(&mut self) {
        self.taken.drain(..std::mem::take(&mut self.returned));
        self.slices.drain(..std::mem::take(&mut self.filled));
    }

    fn first(&self) -> Option<&Taken> {
        self.taken[self.returned..].iter().find(|chain| chain.len > 0)
    }

    fn room_for(&self, len: usize) -> Room {
        let most = if self.shape.mergeable {
            self.slices.len() - self.filled >= SLICES_MAX
        } else {
            self.first().is_some()
        };
        if self.room() >= len {
            Room::Enough
        } else if most {
            Room::Never
        } else {
            Room::Short
        }
    }

    /// Adds the chain that was popped, and says whether it is fit.
    fn take(&mut self, queue: &mut Queue) -> Result<bool, QueueError> {
        let (head, before) = (self.chain.head(), self.slices.len());
        let len = self.add_slices().unwrap_or(0);
        if len == 0 {
            self.slices.truncate(before);
        }
        if len == 0 && self.returned == self.taken.len() {
            // Nothing before it has to go back to the queue: so it can leave at once.
            self.unfit += 1;
            queue.add_used(self.memory, head, 0)?;
        } else {
            self.room += len;
            self.taken.push(Taken { head, len, slices: self.slices.len() - before });
        }
        Ok(len > 0)
    }

    /// Adds the slices of the chain, as far as a frame can need them, and says how much room they
    /// have. None for a chain that is unfit.
    fn add_slices(&mut self) -> Option<usize> {
        if self.chain.readable_len() > 0 || self.chain.writable_len() < self.shape.chain_min as u64
        {
            return None;
        }
        let mut len = 0;
        for Segment { address, len: segment_len } in self.chain.writable() {
            let wanted = (*segment_len as usize).min(FRAME_MAX - len);
            if wanted == 0 {
                break;
            }
            for slice in GuestMemoryBackend::get_slices(self.memory, *address, wanted) {
                self.slices.push(slice.ok()?);
            }
            len += wanted;
        }
        Some(len)
    }
}

/// Writes `bytes` at `offset` of the row of `slices`, as far as it goes.
fn write_all(slices: &[GuestSlice<'_>], offset: usize, bytes: &[u8]) {
    let (mut skip, mut rest) = (offset, bytes);
    for slice in slices {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let (now, later) = rest.split_at(rest.len().min(slice.len() - skip));
        // A slice is RAM: writing it does not fail.
        let _ = slice.write_slice(now, skip);
        (skip, rest) = (0, later);
        if rest.is_empty() {
            break;
        }
    }
}

/// Logs the first `len` bytes of the row of `slices` as written.
fn mark_written(slices: &[GuestSlice<'_>], len: usize) {
    let mut rest = len;
    for slice in slices {
        if rest == 0 {
            break;
        }
        let part = rest.min(slice.len());
        slice.bitmap().mark_dirty(0, part);
        rest -= part;
    }
}
