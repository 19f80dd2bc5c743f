//! What a machine is made of, besides its specification.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::block::BlockBackend;
use devices::net::{Detour, Tap};
use devices::rng::EntropySource;
use devices::status_port::GuestEvents;
use devices::vsock::Host;
use devices::{Alarm, PowerSink};
use memory::GuestMemory;
use metrics::Metrics;
use vcpu::Vm;

/// Makes the alarms of a machine's devices.
pub trait Alarms: Send {
    /// An alarm for queue `queue` of the virtio device with number `slot` in the guest's order.
    fn alarm(&mut self, slot: usize, queue: u32) -> io::Result<Box<dyn Alarm>>;
}

/// The other end of a network interface's wire.
pub struct Link {
    /// The host's network.
    pub tap: Box<dyn Tap>,
    /// Who else is there.
    pub detour: Option<Box<dyn Detour>>,
}

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
    /// The network interfaces' other ends, one for each of the specification's interfaces and in
    /// their order.
    pub links: Vec<Link>,
    /// The host's side of the socket device, if the specification has one.
    pub vsock: Option<Box<dyn Host>>,
    /// Who makes the alarms of devices that have to wait.
    pub alarms: Box<dyn Alarms>,
    /// Where the devices count.
    pub metrics: Arc<Metrics>,
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
    /// Parts without disks, links and listeners, with a serial line that goes nowhere, and alarms
    /// that never ring.
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
            links: Vec::new(),
            vsock: None,
            alarms: Box::new(NoAlarms),
            metrics: Arc::default(),
            serial_output: Box::new(std::io::sink()),
            serial_room: Box::new(|| ()),
            entropy,
            guest_events: None,
            booted: None,
            real_time_clock: false,
        }
    }
}

/// Makes alarms that never ring, for machines whose devices do not wait.
pub(crate) struct NoAlarms;

impl Alarms for NoAlarms {
    fn alarm(&mut self, _slot: usize, _queue: u32) -> io::Result<Box<dyn Alarm>> {
        Ok(Box::new(NoAlarm(Instant::now())))
    }
}

struct NoAlarm(Instant);

impl Alarm for NoAlarm {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn set(&self, _delay: Duration) {}
}
