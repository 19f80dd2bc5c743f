//! Virtio over MMIO, version 2 (virtio 1.2, 4.2): the registers of one device.
//!
//! ```text
//!  0 ──▶ ACKNOWLEDGE ──▶ DRIVER ──▶ FEATURES_OK ──▶ DRIVER_OK ──▶ NEEDS_RESET
//!  ▲                                    │  queues set up  │ active       │
//!  └──────────── writing 0, from anywhere ◀───────────────┴──────────────┘
//! ```
//!
//! A status bit counts only on top of those before it; FEATURES_OK is refused for features that
//! were not offered or without VERSION_1. A queue is set up between FEATURES_OK and DRIVER_OK; one
//! that does not fit ends in NEEDS_RESET. Writes out of turn are ignored.
//!
//! Everything is behind one lock but InterruptStatus and InterruptACK, which any thread may use
//! while a queue is being served. A write to QueueNotify serves the queue on the vCPU's thread, in
//! bounded turns: when a turn ends with work left, the driver is interrupted, and its
//! acknowledgement begins the next turn. So no vCPU thread is ever held for longer than a turn.

mod registers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::{Device, IrqLine};
use memory::GuestMemory;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use self::registers::{CONFIG_START, MAGIC, VENDOR, VERSION};
pub use self::registers::{Half, Register, RingPart, Status};
use crate::{
    Activated, Error, Interrupt, MAX_QUEUE_SIZE, Outcome, Queue, QueueState, RING_FEATURES,
    VirtioDevice, queue,
};

/// Bytes of address space that a device takes.
pub const MMIO_WINDOW: u64 = 0x1000;

/// Most queues of a device: one bit each in the set of unfinished queues.
pub(crate) const MAX_QUEUES: usize = 64;

/// A virtio device's registers, as a device on the bus.
pub struct MmioTransport<D = Box<dyn VirtioDevice>> {
    memory: Arc<GuestMemory>,
    interrupt: Interrupt,
    /// Bit n: the last turn on queue n ended with work left.
    unfinished: AtomicU64,
    locked: Mutex<Locked<D>>,
}

/// Who serves a queue when it is told to: a transport, whatever device is behind it.
pub trait Notify: Send + Sync {
    /// Serves queue `index`, as if the driver had notified it: for a doorbell that bypasses the
    /// bus, or because the device's back end has something for the queue.
    fn notify(&self, index: u32);
}

struct Locked<D> {
    device: D,
    state: State,
}

/// The registers that hold something.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    status: Status,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<QueueState>,
    config_generation: u32,
}

/// A transport's registers and queues, as they are saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportState {
    /// The device type it was saved from.
    pub device_type: u32,
    /// The status byte.
    pub status: u8,
    /// DeviceFeaturesSel.
    pub device_features_select: u32,
    /// DriverFeaturesSel.
    pub driver_features_select: u32,
    /// The features accepted so far.
    pub driver_features: u64,
    /// QueueSel.
    pub queue_select: u32,
    /// Configuration and position of each queue.
    pub queues: Vec<QueueState>,
    /// ConfigGeneration.
    pub config_generation: u32,
    /// InterruptStatus.
    pub interrupt_status: u32,
}

impl<D: VirtioDevice> MmioTransport<D> {
    /// Puts `device` behind registers, over the guest's `memory`, interrupting on `line`.
    pub fn new(device: D, memory: Arc<GuestMemory>, line: Arc<dyn IrqLine>) -> Result<Self, Error> {
        let (device_type, sizes) = (device.device_type(), device.queue_sizes());
        if sizes.len() > MAX_QUEUES {
            return Err(Error::QueueCount { device_type, count: sizes.len() });
        }
        if let Some(&size) = sizes.iter().find(|s| !s.is_power_of_two() || **s > MAX_QUEUE_SIZE) {
            return Err(Error::QueueSize { device_type, size });
        }
        let state = State::new(sizes);
        Ok(Self {
            memory,
            interrupt: Interrupt::new(line),
            unfinished: AtomicU64::new(0),
            locked: Mutex::new(Locked { device, state }),
        })
    }

    /// Works on the device from outside, between two register accesses.
    pub fn update<R>(&self, change: impl FnOnce(&mut D) -> R) -> R {
        change(&mut self.lock().device)
    }

    /// As [`MmioTransport::update`], for a change that shows in configuration space: the driver is
    /// told to read it again.
    pub fn update_config<R>(&self, change: impl FnOnce(&mut D) -> R) -> R {
        let mut locked = self.lock();
        let result = change(&mut locked.device);
        locked.state.config_generation = locked.state.config_generation.wrapping_add(1);
        if locked.state.is_running() {
            self.interrupt.signal_config();
        }
        result
    }

    /// The registers and queues, for saving. The vCPUs and back ends are stopped.
    pub fn state(&self) -> TransportState {
        let locked = self.lock();
        let state = &locked.state;
        let active = locked.device.activated().map(Activated::queue_states);
        TransportState {
            device_type: locked.device.device_type(),
            status: state.status.0,
            device_features_select: state.device_features_select,
            driver_features_select: state.driver_features_select,
            driver_features: state.driver_features,
            queue_select: state.queue_select,
            queues: active.unwrap_or_else(|| state.queues.clone()),
            config_generation: state.config_generation,
            interrupt_status: self.interrupt.status(),
        }
    }

    /// Brings a transport that was not used yet to a saved state, and its device to life if it
    /// was alive. The queues are served again with the driver's next acknowledgement.
    pub fn restore(&self, saved: &TransportState) -> Result<(), Error> {
        let mut locked = self.lock();
        let refuse = |reason: String| Error::State { device_type: saved.device_type, reason };
        if saved.device_type != locked.device.device_type() {
            return Err(refuse(format!("the device has type {}", locked.device.device_type())));
        }
        let sizes = locked.device.queue_sizes();
        if !saved.queues.iter().map(|q| &q.max_size).eq(sizes) {
            return Err(refuse(format!("the device has queues of {sizes:?}")));
        }
        if saved.driver_features & !(locked.device.device_features() | RING_FEATURES) != 0 {
            return Err(refuse(format!("it has features {:#x}", saved.driver_features)));
        }
        for queue in saved.queues.iter().filter(|q| q.ready) {
            queue::check(queue, &self.memory).map_err(|e| refuse(e.to_string()))?;
        }
        locked.state = State {
            status: Status(saved.status),
            device_features_select: saved.device_features_select,
            driver_features_select: saved.driver_features_select,
            driver_features: saved.driver_features,
            queue_select: saved.queue_select,
            queues: saved.queues.clone(),
            config_generation: saved.config_generation,
        };
        self.interrupt.restore(saved.interrupt_status);
        if locked.state.status.has(Status::DRIVER_OK) {
            self.activate(&mut locked);
            self.unfinished.store(ready_mask(&saved.queues), Ordering::SeqCst);
            self.interrupt.signal_used();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Locked<D>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, register: Register) -> u32 {
        if register == Register::InterruptStatus {
            return self.interrupt.status();
        }
        let locked = self.lock();
        let (device, state) = (&locked.device, &locked.state);
        match register {
            Register::MagicValue => MAGIC,
            Register::Version => VERSION,
            Register::DeviceId => device.device_type(),
            Register::VendorId => VENDOR,
            Register::DeviceFeatures => {
                let offered = device.device_features() | RING_FEATURES;
                Half::selected(state.device_features_select).map_or(0, |half| half.of(offered))
            }
            Register::QueueNumMax => state.selected().map_or(0, |q| u32::from(q.max_size)),
            Register::QueueReady => state.selected().map_or(0, |q| u32::from(q.ready)),
            Register::Status => u32::from(state.status.0),
            // A length of all ones says that there is no such region (4.2.2).
            Register::SharedMemory => u32::MAX,
            Register::ConfigGeneration => state.config_generation,
            Register::InterruptStatus
            | Register::DeviceFeaturesSel
            | Register::DriverFeatures
            | Register::DriverFeaturesSel
            | Register::QueueSel
            | Register::QueueNum
            | Register::QueueNotify
            | Register::InterruptAck
            | Register::QueueAddress(..)
            | Register::SharedMemorySel => 0,
        }
    }

    fn write_register(&self, register: Register, value: u32) {
        match register {
            Register::InterruptAck => self.acknowledge(value),
            Register::QueueNotify => self.notify(value),
            Register::Status => self.write_status(value),
            Register::DeviceFeaturesSel => self.lock().state.device_features_select = value,
            Register::DriverFeaturesSel => self.lock().state.driver_features_select = value,
            Register::DriverFeatures => self.lock().state.write_features(value),
            Register::QueueSel => self.lock().state.queue_select = value,
            Register::QueueNum => {
                let size = u16::try_from(value).unwrap_or(0);
                self.lock().state.configure(|queue| queue.size = size);
            }
            Register::QueueReady => {
                self.lock().state.write_ready(value, &self.memory, &self.interrupt);
            }
            Register::QueueAddress(part, half) => self.lock().state.configure(|queue| {
                let address = match part {
                    RingPart::DescTable => &mut queue.desc_table,
                    RingPart::Available => &mut queue.avail_ring,
                    RingPart::Used => &mut queue.used_ring,
                };
                *address = half.replace(*address, value);
            }),
            Register::MagicValue
            | Register::Version
            | Register::DeviceId
            | Register::VendorId
            | Register::DeviceFeatures
            | Register::QueueNumMax
            | Register::InterruptStatus
            | Register::SharedMemorySel
            | Register::SharedMemory
            | Register::ConfigGeneration => {}
        }
    }

    fn acknowledge(&self, reasons: u32) {
        self.interrupt.acknowledge(reasons);
        if self.unfinished.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut queues = self.unfinished.swap(0, Ordering::SeqCst);
        while queues != 0 {
            self.notify(queues.trailing_zeros());
            queues &= queues - 1;
        }
    }

    fn write_status(&self, value: u32) {
        let mut locked = self.lock();
        if value == 0 {
            return self.reset(&mut locked);
        }
        let written = Status(value as u8);
        if !written.has(Status(locked.state.status.0 & !Status::NEEDS_RESET.0)) {
            log::debug!(
                "virtio driver clears status bits: {:?} -> {written:?}",
                locked.state.status
            );
            return;
        }
        if written.has(Status::FAILED) {
            locked.state.status = locked.state.status.with(Status::FAILED);
        }
        let offered = locked.device.device_features() | RING_FEATURES;
        let newly_running = locked.state.advance(written, offered);
        if newly_running {
            self.activate(&mut locked);
        }
    }

    fn activate(&self, locked: &mut Locked<D>) {
        let Locked { device, state } = locked;
        let event_idx = state.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let queues: Result<Vec<_>, _> = state
            .queues
            .iter()
            .map(|q| {
                Queue::from_state(QueueState { event_idx_enabled: event_idx, ..*q }, &self.memory)
            })
            .collect();
        match queues {
            Ok(queues) => device.activate(Activated {
                memory: self.memory.clone(),
                queues,
                interrupt: self.interrupt.clone(),
                features: state.driver_features,
            }),
            Err(error) => {
                log::debug!("virtio device not activated: {error}");
                state.needs_reset(&self.interrupt);
            }
        }
    }

    fn reset(&self, locked: &mut Locked<D>) {
        locked.device.reset();
        let generation = locked.state.config_generation;
        locked.state = State::new(locked.device.queue_sizes());
        locked.state.config_generation = generation;
        self.unfinished.store(0, Ordering::SeqCst);
        self.interrupt.acknowledge(u32::MAX);
    }
}

impl<D: VirtioDevice> Notify for MmioTransport<D> {
    fn notify(&self, index: u32) {
        let mut locked = self.lock();
        let index = index as usize;
        if index >= locked.state.queues.len() || !locked.state.is_running() {
            return;
        }
        match locked.device.process_queue(index) {
            Outcome::Done => {}
            Outcome::More => {
                self.unfinished.fetch_or(1 << index, Ordering::SeqCst);
                self.interrupt.signal_used();
            }
            Outcome::Broken => locked.state.needs_reset(&self.interrupt),
        }
    }
}

impl<D: VirtioDevice> Device for MmioTransport<D> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_START) {
            return self.lock().device.read_config(offset, data);
        }
        match Register::at(offset, data.len()) {
            Some(register) => data.copy_from_slice(&self.read_register(register).to_le_bytes()),
            None => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_START) {
            let mut locked = self.lock();
            if locked.state.status.has(Status::DRIVER) {
                locked.device.write_config(offset, data);
            }
            return;
        }
        if let (Some(register), Ok(value)) = (Register::at(offset, data.len()), data.try_into()) {
            self.write_register(register, u32::from_le_bytes(value));
        }
    }
}

impl State {
    fn new(queue_sizes: &[u16]) -> Self {
        let queues = queue_sizes.iter().map(|&max_size| QueueState {
            max_size,
            size: max_size,
            ..QueueState::default()
        });
        Self {
            status: Status::default(),
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: queues.collect(),
            config_generation: 0,
        }
    }

    /// Whether the queues may be served.
    fn is_running(&self) -> bool {
        self.status.has(Status::DRIVER_OK)
            && !self.status.has_any(Status::NEEDS_RESET.with(Status::FAILED))
    }

    fn selected(&self) -> Option<&QueueState> {
        self.queues.get(self.queue_select as usize)
    }

    /// Changes the selected queue, if it is time to set up queues.
    fn configure(&mut self, change: impl FnOnce(&mut QueueState)) {
        if !self.status.has(Status::FEATURES_OK) || self.status.has(Status::DRIVER_OK) {
            return;
        }
        let queue = self.queues.get_mut(self.queue_select as usize);
        if let Some(queue) = queue.filter(|q| !q.ready) {
            change(queue);
        }
    }

    fn write_ready(&mut self, value: u32, memory: &GuestMemory, interrupt: &Interrupt) {
        if self.status.has(Status::DRIVER_OK) {
            return;
        }
        if value != 1 {
            let queue = self.queues.get_mut(self.queue_select as usize);
            if let Some(queue) = queue {
                queue.ready = false;
            }
            return;
        }
        let mut refused = None;
        self.configure(|queue| match queue::check(queue, memory) {
            Ok(()) => queue.ready = true,
            Err(error) => refused = Some(error),
        });
        if let Some(error) = refused {
            log::debug!("virtio queue {} refused: {error}", self.queue_select);
            self.needs_reset(interrupt);
        }
    }

    fn write_features(&mut self, value: u32) {
        if !self.status.has(Status::DRIVER) || self.status.has(Status::FEATURES_OK) {
            return;
        }
        if let Some(half) = Half::selected(self.driver_features_select) {
            self.driver_features = half.replace(self.driver_features, value);
        }
    }

    /// Sets those bits of `written` that are next in turn. Says whether DRIVER_OK came to be.
    fn advance(&mut self, written: Status, offered: u64) -> bool {
        let before = self.status;
        let mut step = |bit: Status, allowed: bool| {
            if written.has(bit) && allowed {
                self.status = self.status.with(bit);
            }
            self.status.has(bit)
        };
        let acknowledged = step(Status::ACKNOWLEDGE, true);
        let driven = step(Status::DRIVER, acknowledged);
        let version_1 = self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
        let known = self.driver_features & !offered == 0;
        let agreed = step(Status::FEATURES_OK, driven && version_1 && known);
        let alive = !before.has_any(Status::NEEDS_RESET.with(Status::FAILED));
        step(Status::DRIVER_OK, agreed && alive) && !before.has(Status::DRIVER_OK)
    }

    /// The device cannot go on (virtio 1.2, 2.1.2).
    fn needs_reset(&mut self, interrupt: &Interrupt) {
        self.status = self.status.with(Status::NEEDS_RESET);
        if self.status.has(Status::DRIVER_OK) {
            interrupt.signal_config();
        }
    }
}

fn ready_mask(queues: &[QueueState]) -> u64 {
    queues.iter().enumerate().filter(|(_, q)| q.ready).fold(0, |mask, (i, _)| mask | 1 << i)
}
