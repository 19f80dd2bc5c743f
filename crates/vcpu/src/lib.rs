//! What a machine asks of a CPU back end, whichever it is: KVM or the software CPU.
//!
//! A back end makes a [`Vm`] over the guest's RAM. The machine takes interrupt lines and vCPUs
//! from it, gives each vCPU its first [`CpuState`], and then runs it on a thread of its own:
//!
//! ```text
//!   Vm::vcpu(id) ──▶ set_state ──▶ run(io) ──▶ Exit ──▶ run(io) ──▶ …
//!                                     │  ▲
//!              device access: io.ports / io.mmio, on the vCPU's thread
//! ```
//!
//! The interrupt controllers and the timers of a PC (local APIC, IO-APIC, 8259, 8254) belong to
//! the back end. `HLT` sleeps inside [`Vcpu::run`]. A vCPU other than the first waits there for
//! its INIT and SIPI as well.
#![forbid(unsafe_code)]

mod state;

use std::sync::Arc;

use bus::{IoSpace, IrqLine};
use thiserror::Error;

pub use state::{CpuState, DescriptorTable, MpState, Segment};

/// Why [`Vcpu::run`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Somebody kicked the vCPU: look at what they want, then run on.
    Kicked,
    /// The vCPU shut down: a triple fault, or an equivalent of it.
    TripleFault,
    /// The guest asked for power-off or reset through an interface of the back end itself.
    Reset,
}

/// A CPU back end failed, or could not do what it was asked.
#[derive(Debug, Error)]
pub enum Error {
    /// The host refused something that the back end needs.
    #[error("{what}: {source}")]
    Host {
        /// What was attempted, for example `KVM_CREATE_VCPU 1`.
        what: String,
        /// The host's reason.
        source: std::io::Error,
    },
    /// The back end met a guest state it cannot run.
    #[error("vCPU {id} cannot go on at {rip:#x}: {reason}")]
    Stuck {
        /// The vCPU's number.
        id: u8,
        /// Its instruction pointer.
        rip: u64,
        /// What it met.
        reason: String,
    },
    /// A request outside of what the back end offers.
    #[error("{0}")]
    Unsupported(String),
}

/// One virtual machine of a back end: its RAM, interrupt controllers and vCPUs.
pub trait Vm: Send + Sync {
    /// Makes vCPU `id`, counted from 0; each id once. It starts in the state of a PC's reset:
    /// vCPU 0 runnable, the others waiting for SIPI.
    fn vcpu(&self, id: u8) -> Result<Box<dyn Vcpu>, Error>;

    /// The interrupt line of global system interrupt `gsi`, 0 to 23.
    fn irq_line(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, Error>;

    /// Asks the back end to turn guest writes of the 32-bit `value` to `address` into a write of
    /// `event` (an eventfd), past the bus. False where the back end has no such short cut: then
    /// the write reaches the device through [`IoSpace`].
    fn doorbell(
        &self,
        address: u64,
        value: u32,
        event: std::os::fd::BorrowedFd<'_>,
    ) -> Result<bool, Error>;

    /// One word for logs and `sparkler doctor`: `kvm` or `soft`.
    fn name(&self) -> &'static str;
}

/// One virtual CPU, owned by the thread that runs it.
pub trait Vcpu: Send {
    /// Loads a whole state; what [`CpuState`] does not name keeps its value.
    fn set_state(&mut self, state: &CpuState) -> Result<(), Error>;

    /// The whole state. Only between runs.
    fn state(&mut self) -> Result<CpuState, Error>;

    /// Runs guest code until something needs the machine's attention.
    fn run(&mut self, io: &Arc<IoSpace>) -> Result<Exit, Error>;

    /// A handle by which other threads make [`Vcpu::run`] return soon.
    fn kicker(&self) -> Arc<dyn Kick>;
}

/// Stops a vCPU's [`Vcpu::run`] from another thread.
///
/// A kick is never lost: one that arrives while the vCPU is outside of `run` makes the next `run`
/// return at once. Several kicks may count as one.
pub trait Kick: Send + Sync {
    /// Makes the vCPU return [`Exit::Kicked`] soon.
    fn kick(&self);
}
