//! A device's interrupt: the two reasons in the status register, and the line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bus::IrqLine;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};

/// Tells the driver of used buffers and of changed configuration (virtio 1.2, 4.2.2, registers
/// InterruptStatus and InterruptACK).
///
/// Takes no lock: a device may signal from any thread while a vCPU reads the registers.
#[derive(Clone)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

struct Shared {
    status: AtomicU32,
    line: Arc<dyn IrqLine>,
}

impl Interrupt {
    /// An interrupt with no reason pending, on `line`.
    pub fn new(line: Arc<dyn IrqLine>) -> Self {
        Self { shared: Arc::new(Shared { status: AtomicU32::new(0), line }) }
    }

    /// The driver should look at its used rings.
    pub fn signal_used(&self) {
        self.signal(VIRTIO_MMIO_INT_VRING);
    }

    /// The driver should read the configuration space, or the status byte, again.
    pub fn signal_config(&self) {
        self.signal(VIRTIO_MMIO_INT_CONFIG);
    }

    /// The pending reasons: bit 0 used buffers, bit 1 configuration.
    pub fn status(&self) -> u32 {
        self.shared.status.load(Ordering::SeqCst)
    }

    /// The driver has seen the reasons in `mask`.
    pub(crate) fn acknowledge(&self, mask: u32) {
        self.shared.status.fetch_and(!mask, Ordering::SeqCst);
    }

    /// Sets the pending reasons when a saved device is restored, and tells the driver of them.
    pub(crate) fn restore(&self, status: u32) {
        let status = status & (VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
        self.shared.status.store(status, Ordering::SeqCst);
        if status != 0 {
            self.shared.line.trigger();
        }
    }

    fn signal(&self, reason: u32) {
        self.shared.status.fetch_or(reason, Ordering::SeqCst);
        self.shared.line.trigger();
    }
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Interrupt(status {:#x})", self.status())
    }
}
