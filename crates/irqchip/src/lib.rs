//! The interrupt controllers and timers of a PC, as pure state machines.
//!
//! The software CPU uses this crate where the KVM back end uses the in-kernel
//! chips. Nothing here starts a thread, reads a host clock or does I/O: time
//! comes in as a parameter (`now_ns`, monotonic nanoseconds of the VM's own
//! clock), and whatever has a timer says when it next wants to be polled
//! (`next_deadline`).
//!
//! ```text
//!   devices ──set_gsi──▶ IrqChip ┬▶ Pic ───INTR──▶ Sink::extint ─┐
//!              (one Mutex)       └▶ IoApic ─────▶ Sink::message ─┤
//!                                                                ▼
//!   vCPU n ◀─drain─ LocalApic ◀── IrqInbox n (atomics) ◀── ApicBus ◀── IPIs
//! ```
//!
//! * A [`LocalApic`] belongs to its vCPU's thread and is never shared. Other
//!   threads reach it only through its [`IrqInbox`].
//! * [`IrqChip`] is one value that the back end keeps behind one mutex. Its
//!   [`Sink`] is handed to each call and is expected to post to inboxes, which
//!   takes no lock.
//! * Every part holds its whole state in a `...State` struct with public
//!   fields: saving is a clone, restoring is building from it.
//!
//! What is absent: thermal and performance interrupts are registers only, the
//! APIC bus does not arbitrate, SMIs are dropped, and the real-time clock
//! never interrupts.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod apic;
mod bitmap;
mod bus;
mod chip;
mod error;
mod inbox;
mod ioapic;
mod message;
mod pic;
mod pit;
mod rtc;
mod time;

pub use apic::{
    APIC_BASE_ADDRESS, ApicAction, ApicConfig, ApicMode, ApicRouting, LocalApic, LocalApicState,
    LogicalModel, LvtEntry, TimerState, TscClock,
};
pub use bitmap::Bitmap256;
pub use bus::ApicBus;
pub use chip::{
    Clock, Gsi0Pin, IRQCHIP_PORTS, IrqChip, IrqChipConfig, IrqChipState, PortRange, Sink,
};
pub use error::Error;
pub use inbox::IrqInbox;
pub use ioapic::{
    IOAPIC_BASE_ADDRESS, IOAPIC_PIN_COUNT, IoApic, IoApicState, IoApicVersion, Redirection,
};
pub use message::{
    DESTINATION_BROADCAST, DeliveryMode, DestinationMode, Ipi, Message, Shorthand, Trigger,
};
pub use pic::{Chip8259State, InitStep, Pic, PicPort, PicState};
pub use pit::{Access, ChannelState, Counting, PIT_HZ, Pit, PitMode, PitOutput, PitPort, PitState};
pub use rtc::{Calendar, Rtc, RtcPort, RtcState};
