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
//! Network interfaces and vhost-user drives are refused, since there are no devices for them yet.
//! Rate limits and the asynchronous I/O engine are accepted but not applied, and a warning says
//! so.
#![forbid(unsafe_code)]

mod attach;
mod build;
mod error;
pub mod map;
mod parts;
mod timings;

pub use attach::{Doorbell, VirtioKind, VirtioSlot};
pub use build::{Machine, build};
pub use error::Error;
pub use parts::Parts;
pub use timings::Timings;

#[cfg(doc)]
use spec::VmSpec;
