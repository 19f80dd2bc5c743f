//! The devices of a microVM, a module each.
//!
//! A device is its registers and its state, and nothing of the host: what it needs from outside
//! (a disk's file, a source of entropy, where the serial line's bytes go, who switches the machine
//! off) is a trait beside it, which the process that runs the machine implements. No device knows
//! another. Guest input never panics; what the guest can make a device hold is bounded.
//!
//! | module | device | found at |
//! | --- | --- | --- |
//! | [`serial`] | 16550A serial port | eight I/O ports, COM1 |
//! | [`i8042`] | keyboard controller | I/O ports 0x60 to 0x64 |
//! | [`acpi_power`] | ACPI sleep and reset registers | I/O ports or MMIO |
//! | [`debug`] | POST codes | I/O port 0x80 |
//! | [`status_port`] | what the guest's init reports | I/O ports |
//! | [`boot_timer`] | Firecracker's boot timer | an MMIO page |
//! | [`balloon`] | virtio memory balloon | virtio |
//! | [`block`] | virtio block device | virtio |
//! | [`net`] | virtio network device | virtio |
//! | [`rng`] | virtio entropy source | virtio |
//! | [`vsock`] | virtio sockets between guest and host | virtio |
//!
//! [`rate`] limits what passes through a queue.
#![forbid(unsafe_code)]

use std::time::Duration;

pub mod acpi_power;
pub mod balloon;
pub mod block;
pub mod boot_timer;
pub mod debug;
pub mod i8042;
pub mod net;
pub mod rate;
pub mod rng;
pub mod serial;
pub mod status_port;
pub mod vsock;

/// Time, and a call at a later time, for a device that has to wait.
///
/// Each belongs to one queue of one device, which is served when the time has come.
pub trait Alarm: Send {
    /// The time since some fixed moment; it never goes back.
    fn now(&self) -> Duration;

    /// Has the queue served once `delay` from now on. What was set before is forgotten.
    fn set(&self, delay: Duration);
}

/// Who switches the machine off or resets it when the guest asks for that.
///
/// Called on a vCPU's thread, without any device's lock held. It only notes the wish and wakes
/// whoever acts on it: the vCPU runs on until it is kicked.
pub trait PowerSink: Send + Sync {
    /// The guest asked for a reset.
    fn reset(&self);
    /// The guest asked to be switched off.
    fn power_off(&self);
}

impl<A: Alarm + ?Sized> Alarm for Box<A> {
    fn now(&self) -> Duration {
        (**self).now()
    }

    fn set(&self, delay: Duration) {
        (**self).set(delay);
    }
}

/// A device could not do what it was asked from outside the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Keys were pressed, but nobody takes them.
    #[error(
        "the guest does not take keys: its keyboard is switched off, or keys pressed before were \
         never read; a guest without a keyboard driver cannot be sent Ctrl-Alt-Del"
    )]
    KeysRefused,
}
