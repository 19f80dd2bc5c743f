//! Virtio 1.2 as a device sees it: split queues over guest memory, and the MMIO transport.
//!
//! ```text
//!   guest's driver ──registers──▶ MmioTransport ──activate, process_queue──▶ VirtioDevice
//!         │                          │    ▲                                      │
//!         └──rings in RAM──▶ Queue ◀─┘    └────────────── Interrupt ◀────────────┘
//! ```
//!
//! [`MmioTransport`] holds the registers and the status byte; a [`VirtioDevice`] receives its
//! [`Queue`]s when the driver is ready and gives them back at a reset. The transport's own
//! features ([`RING_FEATURES`]) are offered for every device: the queue implements them.
//!
//! Everything in a ring is the guest's word and is checked when it is read, once, into a
//! [`Chain`]. What breaks the rules of the ring itself (a chain that loops or leaves the table, an
//! available index that runs ahead) ends in DEVICE_NEEDS_RESET; what merely makes one request
//! senseless is the device's to answer. Legacy and packed rings, ring reset and notification data
//! are not offered.
#![forbid(unsafe_code)]

mod chain;
mod device;
mod interrupt;
mod mmio;
#[cfg(any(test, feature = "test-utils"))]
pub mod mock;
mod queue;
mod turn;

pub use chain::{BufferError, Chain, GuestSlice, MAX_CHAIN_LEN, Segment};
pub use device::{Activated, Outcome, VirtioDevice, copy_config};
pub use interrupt::Interrupt;
pub use mmio::{
    Half, MMIO_WINDOW, MmioTransport, Notify, Register, RingPart, Status, TransportState,
};
pub use queue::{MAX_QUEUE_SIZE, Queue, QueueError, QueueState};
pub use turn::{Answer, Handler, Turn, Until};
pub use virtio_bindings as bindings;

use thiserror::Error as ThisError;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// The features of the rings and the transport, offered on top of each device's own: VERSION_1,
/// EVENT_IDX and INDIRECT_DESC.
pub const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Why a transport could not be made, or a saved one not be restored.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The device asks for queues that the transport does not offer: a fault in the device.
    #[error(
        "virtio device {device_type} asks for a queue of {size}: the size must be a power of two \
         up to {MAX_QUEUE_SIZE}"
    )]
    QueueSize {
        /// The device's type number.
        device_type: u32,
        /// The size it asked for.
        size: u16,
    },
    /// The device has more queues than the transport keeps apart: a fault in the device.
    #[error(
        "virtio device {device_type} has {count} queues; the transport serves up to {}",
        mmio::MAX_QUEUES
    )]
    QueueCount {
        /// The device's type number.
        device_type: u32,
        /// How many it has.
        count: usize,
    },
    /// A saved state does not belong to this device, or was damaged.
    #[error(
        "saved virtio state does not fit device {device_type}: {reason}; restore it into the machine it was saved from"
    )]
    State {
        /// The device's type number.
        device_type: u32,
        /// What does not fit.
        reason: String,
    },
}
