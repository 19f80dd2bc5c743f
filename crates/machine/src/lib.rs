//! From a [`VmSpec`] to a machine that can run.
//!
//! [`build()`] puts together what others made: RAM and a CPU back end, disks, the serial line's far
//! end. It owns the address map ([`map`]) and the order of assembly:
//!
//! ```text
//!   devices on the buses ──▶ kernel ──▶ initrd ──▶ tables ──▶ vCPUs in their first state
//! ```
//!
//! The machine does not know whether KVM or the software CPU runs it, where its disks come from, or
//! who serves its event loop: it comes back as a [`Machine`], whose parts the process spreads over
//! its threads. It opens the kernel's and the initial RAM disk's files, and nothing else.
//!
//! Vhost-user drives are refused, since there is no device for them yet.
#![forbid(unsafe_code)]

mod attach;
mod build;
mod counted;
mod error;
pub mod map;
mod parts;
mod timings;
mod virtio_slots;

pub use build::{Machine, build};
pub use error::Error;
pub use parts::{Alarms, Link, Parts};
pub use timings::Timings;
pub use virtio_slots::{
    BalloonDevice, DiskDevice, Doorbell, NetDevice, RngDevice, VirtioHandle, VirtioSlot,
    VsockDevice,
};

#[cfg(doc)]
use spec::VmSpec;
