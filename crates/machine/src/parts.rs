//! What a machine is made of, besides its specification.

use std::io::Write;
use std::sync::Arc;

use devices::PowerSink;
use devices::block::BlockBackend;
use devices::rng::EntropySource;
use devices::status_port::GuestEvents;
use memory::GuestMemory;
use vcpu::Vm;

/// The host's side of a machine: everything that it does not make itself.
pub struct Parts {
    /// Its RAM, fresh: `memory::allocate` of the specification's size.
    pub memory: Arc<GuestMemory>,
    /// The CPU back end, over this RAM.
    pub vm: Arc<dyn Vm>,
    /// Who switches it off.
    pub power: Arc<dyn PowerSink>,
    /// The drives' contents, one for each of the specification's drives and in their order.
    pub disks: Vec<Box<dyn BlockBackend>>,
    /// Where COM1's output goes.
    pub serial_output: Box<dyn Write + Send>,
    /// Called on a vCPU's thread when COM1 has room for input that it refused before.
    pub serial_room: Box<dyn Fn() + Send + Sync>,
    /// Where the guest's random numbers come from.
    pub entropy: Box<dyn EntropySource>,
    /// Who listens to the guest's init; without, there is no port for it.
    pub guest_events: Option<Arc<dyn GuestEvents>>,
    /// Called once, on a vCPU's thread, when the guest writes to the boot timer, if it has one.
    pub booted: Option<Box<dyn FnOnce() + Send>>,
    /// Whether the back end answers at a real-time clock's ports, 0x70 and 0x71.
    pub real_time_clock: bool,
}

impl Parts {
    /// Parts without disks and listeners, with a serial line that goes nowhere.
    pub fn new(
        memory: Arc<GuestMemory>,
        vm: Arc<dyn Vm>,
        power: Arc<dyn PowerSink>,
        entropy: Box<dyn EntropySource>,
    ) -> Self {
        Self {
            memory,
            vm,
            power,
            disks: Vec::new(),
            serial_output: Box::new(std::io::sink()),
            serial_room: Box::new(|| ()),
            entropy,
            guest_events: None,
            booted: None,
            real_time_clock: false,
        }
    }
}
