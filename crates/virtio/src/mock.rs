//! A driver for tests and benchmarks: it finds a device behind its registers, sets up its queues
//! in guest memory, and can be as wrong as a test wants.
//!
//! Queue n's rings lie from [`RINGS`] on, [`RING_STRIDE`] bytes each; buffers come from a simple
//! allocator above [`BUFFERS`]. All of it panics when a test misuses it, never for what the device
//! does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bus::{Device, IrqLine};
use memory::{Bytes, GuestAddress, GuestMemory};
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

use crate::{Half, MAX_QUEUE_SIZE, Register, RingPart, Status};

/// Bytes of RAM that [`ram`] makes.
pub const RAM_SIZE: u64 = 4 << 20;
/// Where queue 0's rings begin.
pub const RINGS: u64 = 0x1000;
/// Bytes from one queue's rings to the next queue's.
pub const RING_STRIDE: u64 = 0x3000;
/// Where buffers begin.
pub const BUFFERS: u64 = 0x10_0000;

/// Offsets in a queue's rings.
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;

/// Descriptor flag: another one follows.
pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
/// Descriptor flag: for the device to write.
pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
/// Descriptor flag: a table of descriptors.
pub const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// RAM for a test.
pub fn ram() -> Arc<GuestMemory> {
    Arc::new(memory::allocate(&memory::ranges(RAM_SIZE)).expect("a few MiB can be mapped"))
}

/// An interrupt line that counts.
#[derive(Debug, Default)]
pub struct CountingLine(AtomicU32);

impl CountingLine {
    /// How often the line was triggered since the last call.
    pub fn take(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl IrqLine for CountingLine {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One descriptor, as it lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next one.
    pub next: u16,
}

impl Descriptor {
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A buffer of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffer {
    /// For the device to read.
    Out(u64, u32),
    /// For the device to write.
    In(u64, u32),
}

/// An entry of a used ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Head of the chain that is done.
    pub head: u32,
    /// Bytes that the device says it wrote.
    pub len: u32,
}

/// The driver of one device.
pub struct MockDriver {
    device: Arc<dyn Device>,
    memory: Arc<GuestMemory>,
    queues: Vec<DriverQueue>,
    next_buffer: u64,
}

/// The driver's side of a queue.
#[derive(Debug, Clone, Copy, Default)]
struct DriverQueue {
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

impl MockDriver {
    /// A driver that has not touched `device` yet.
    pub fn new(device: Arc<dyn Device>, memory: Arc<GuestMemory>) -> Self {
        Self { device, memory, queues: Vec::new(), next_buffer: BUFFERS }
    }

    /// A driver that has brought `device` up with those of its features that are in `features`,
    /// and with all its queues as large as they can be.
    pub fn start(device: Arc<dyn Device>, memory: Arc<GuestMemory>, features: u64) -> Self {
        let mut driver = Self::new(device, memory);
        driver.negotiate(features);
        driver.set_up_queues(MAX_QUEUE_SIZE);
        driver.write(Register::Status, u32::from(Status::DRIVER_OK.with(LIVE).0));
        driver
    }

    /// Reads a register.
    pub fn read(&self, register: Register) -> u32 {
        let mut data = [0; 4];
        self.device.read(register.offset(), &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn write(&self, register: Register, value: u32) {
        self.device.write(register.offset(), &value.to_le_bytes());
    }

    /// Reads `len` bytes of configuration space.
    pub fn config(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.device.read(0x100 + offset, &mut data);
        data
    }

    /// The status byte.
    pub fn status(&self) -> Status {
        Status(self.read(Register::Status) as u8)
    }

    /// The features offered.
    pub fn offered(&self) -> u64 {
        [0, 1].into_iter().fold(0, |features, half| {
            self.write(Register::DeviceFeaturesSel, half);
            features | u64::from(self.read(Register::DeviceFeatures)) << (32 * half)
        })
    }

    /// Resets the device and agrees on those of the offered features that are in `features`.
    pub fn negotiate(&mut self, features: u64) {
        self.write(Register::Status, 0);
        self.write(Register::Status, 1);
        self.write(Register::Status, 3);
        let features = self.offered() & features;
        for half in [0, 1] {
            self.write(Register::DriverFeaturesSel, half);
            self.write(Register::DriverFeatures, (features >> (32 * half)) as u32);
        }
        self.write(Register::Status, u32::from(LIVE.0));
    }

    /// Sets up all queues with sizes of at most `size`.
    pub fn set_up_queues(&mut self, size: u16) {
        self.queues.clear();
        for index in 0.. {
            self.write(Register::QueueSel, index);
            let max = self.read(Register::QueueNumMax);
            if max == 0 {
                break;
            }
            let queue = DriverQueue { size: size.min(max as u16), ..DriverQueue::default() };
            self.queues.push(queue);
            self.clear_rings(index as usize);
            self.write(Register::QueueNum, u32::from(queue.size));
            let [table, available, used] = self.rings(index as usize);
            self.place(RingPart::DescTable, table);
            self.place(RingPart::Available, available);
            self.place(RingPart::Used, used);
            self.write(Register::QueueReady, 1);
        }
    }

    /// Tells the device where a part of the selected queue is.
    pub fn place(&self, part: RingPart, address: u64) {
        self.write(Register::QueueAddress(part, Half::Low), address as u32);
        self.write(Register::QueueAddress(part, Half::High), (address >> 32) as u32);
    }

    /// Where queue `index` has its descriptor table, available ring and used ring.
    pub fn rings(&self, index: usize) -> [u64; 3] {
        let base = RINGS + RING_STRIDE * index as u64;
        [base, base + AVAILABLE, base + USED]
    }

    /// A buffer of `len` bytes.
    pub fn allocate(&mut self, len: u64) -> u64 {
        let address = self.next_buffer;
        self.next_buffer = (address + len).next_multiple_of(16);
        assert!(self.next_buffer <= RAM_SIZE, "the test needs more memory than there is");
        address
    }

    /// A buffer with `bytes` in it.
    pub fn allocate_with(&mut self, bytes: &[u8]) -> u64 {
        let address = self.allocate(bytes.len() as u64);
        self.memory.write_slice(bytes, GuestAddress(address)).expect("allocated");
        address
    }

    /// What guest memory holds.
    pub fn peek(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).expect("in memory");
        bytes
    }

    /// Writes descriptor `at` of queue `index`.
    pub fn describe(&self, index: usize, at: u16, descriptor: Descriptor) {
        let address = self.rings(index)[0] + 16 * u64::from(at);
        self.poke(address, &descriptor.bytes());
    }

    /// Puts a chain of `buffers` into queue `index` and returns its head.
    pub fn add(&mut self, index: usize, buffers: &[Buffer]) -> u16 {
        let size = self.queues[index].size;
        let head = self.queues[index].next_descriptor;
        for (i, buffer) in buffers.iter().enumerate() {
            let at = (head + i as u16) % size;
            let next = (at + 1) % size;
            self.describe(index, at, descriptor(*buffer, i + 1 < buffers.len(), next));
        }
        self.queues[index].next_descriptor = (head + buffers.len() as u16) % size;
        self.offer(index, head);
        head
    }

    /// As [`MockDriver::add`], through an indirect table.
    pub fn add_indirect(&mut self, index: usize, buffers: &[Buffer]) -> u16 {
        let table: Vec<u8> = buffers
            .iter()
            .enumerate()
            .flat_map(|(i, b)| descriptor(*b, i + 1 < buffers.len(), i as u16 + 1).bytes())
            .collect();
        let address = self.allocate_with(&table);
        let at = self.queues[index].next_descriptor;
        let len = table.len() as u32;
        self.describe(index, at, Descriptor { address, len, flags: INDIRECT, next: 0 });
        self.queues[index].next_descriptor = (at + 1) % self.queues[index].size;
        self.offer(index, at);
        at
    }

    /// Makes the chain at `head` available in queue `index`.
    pub fn offer(&mut self, index: usize, head: u16) {
        let ring = self.rings(index)[1];
        let queue = &mut self.queues[index];
        let slot = u64::from(queue.available % queue.size);
        queue.available = queue.available.wrapping_add(1);
        let available = queue.available;
        self.poke(ring + 4 + 2 * slot, &head.to_le_bytes());
        self.set_available(index, available);
    }

    /// Sets the available index of queue `index`, whatever is in the ring.
    pub fn set_available(&self, index: usize, value: u16) {
        self.poke(self.rings(index)[1] + 2, &value.to_le_bytes());
    }

    /// Sets the flags of the available ring of queue `index`.
    pub fn set_available_flags(&self, index: usize, flags: u16) {
        self.poke(self.rings(index)[1], &flags.to_le_bytes());
    }

    /// Asks for an interrupt when the used index of queue `index` passes `value` (EVENT_IDX).
    pub fn set_used_event(&self, index: usize, value: u16) {
        let at = self.rings(index)[1] + 4 + 2 * u64::from(self.queues[index].size);
        self.poke(at, &value.to_le_bytes());
    }

    /// Notifies the device of queue `index`.
    pub fn kick(&self, index: usize) {
        self.write(Register::QueueNotify, index as u32);
    }

    /// Takes and acknowledges the pending interrupt reasons, as an interrupt handler does.
    pub fn take_interrupt(&self) -> u32 {
        let reasons = self.read(Register::InterruptStatus);
        self.write(Register::InterruptAck, reasons);
        reasons
    }

    /// The next entry of the used ring of queue `index`.
    pub fn take_used(&mut self, index: usize) -> Option<Used> {
        let ring = self.rings(index)[2];
        let done: u16 = self.memory.read_obj(GuestAddress(ring + 2)).expect("in memory");
        let queue = &mut self.queues[index];
        if queue.used == done {
            return None;
        }
        let slot = ring + 4 + 8 * u64::from(queue.used % queue.size);
        queue.used = queue.used.wrapping_add(1);
        let [head, len]: [u32; 2] = self.memory.read_obj(GuestAddress(slot)).expect("in memory");
        Some(Used { head, len })
    }

    /// Writes guest memory.
    pub fn poke(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).expect("in memory");
    }

    fn clear_rings(&self, index: usize) {
        self.poke(self.rings(index)[0], &[0; RING_STRIDE as usize]);
    }
}

/// All bits before DRIVER_OK.
const LIVE: Status = Status(Status::ACKNOWLEDGE.0 | Status::DRIVER.0 | Status::FEATURES_OK.0);

fn descriptor(buffer: Buffer, more: bool, next: u16) -> Descriptor {
    let (address, len, direction) = match buffer {
        Buffer::Out(address, len) => (address, len, 0),
        Buffer::In(address, len) => (address, len, WRITE),
    };
    let chained = if more { NEXT } else { 0 };
    Descriptor { address, len, flags: direction | chained, next: if more { next } else { 0 } }
}
