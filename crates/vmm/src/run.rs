//! From a specification to a running machine, and to its end.
//!
//! The order: what is asked for is checked against the host, disks are opened, the CPU is chosen
//! while that goes on, `machine` builds the guest, the threads start. Whatever fails before the
//! first guest instruction leaves nothing behind.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use devices::serial::Serial;
use devices::status_port::GuestEvents;
use host::terminal::RawMode;
use host::{HostEntropy, SignalFd, system};
use log::{debug, info, warn};
use machine::Parts;
use spec::{SerialOutput, VmSpec};

use crate::console::Console;
use crate::control::{Control, End};
use crate::cpu::{self, CpuOptions, Decision};
use crate::event_loop::{EventLoop, Requests};
use crate::guest::Guest;
use crate::resources::Resources;
use crate::wiring::Wiring;
use crate::{Error, logger, metrics, threads};

/// Descriptors that a machine may need: the socket device's connections and callers are 2,046 of
/// them.
const DESCRIPTORS_MAX: u64 = 4096;

/// How long the vCPUs' threads have to return once the machine ends.
const JOIN_PATIENCE: Duration = Duration::from_secs(2);

/// A step of a machine's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is known which CPU runs the guest.
    CpuChosen,
    /// Kernel and initial RAM disk are in guest memory, and the devices are made.
    KernelLoaded,
    /// The first vCPU executes its first instruction.
    Running,
}

/// Who wants to know how a machine starts.
pub trait Observer: Send + Sync {
    /// Which CPU it became, and why.
    fn cpu(&self, _decision: &Decision) {}
    /// A step is done.
    fn stage(&self, _stage: Stage) {}
}

/// How a program embeds a machine.
pub struct Setup {
    /// What is at the other end of the serial line.
    pub console: Console,
    /// The handle by which the machine will be known.
    pub control: Control,
    /// Signals for the event loop to look at.
    pub signals: Option<SignalFd>,
    /// Who wants to know how it starts.
    pub observer: Arc<dyn Observer>,
    /// Who listens to the guest's init.
    pub guest_events: Option<Arc<dyn GuestEvents>>,
    /// What is open already of what the specification names.
    pub resources: Resources,
    /// What the guest's metadata service tells.
    pub metadata: mmds::Store,
}

impl Setup {
    /// A machine as the `firecracker` binary runs it: the console is this process's standard input
    /// and output.
    pub fn plain() -> Result<Self, Error> {
        Ok(Self {
            console: Console::plain(),
            control: Control::new().map_err(Error::event_loop)?,
            signals: None,
            observer: Arc::new(Log),
            guest_events: None,
            resources: Resources::default(),
            metadata: mmds::Store::new(mmds::STORE_BYTES_DEFAULT),
        })
    }
}

/// A running machine.
pub struct Machine {
    event_loop: EventLoop,
    serial: Arc<Serial>,
    _terminal: Option<RawMode>,
}

impl Machine {
    /// Starts a machine as the `firecracker` binary does: a terminal on standard input is raw, and
    /// a fatal signal is logged.
    pub fn start(spec: VmSpec, cpu: impl Into<CpuOptions>, setup: Setup) -> Result<Self, Error> {
        logger::heed_signals().map_err(Error::event_loop)?;
        let mut machine = Self::start_with(spec, cpu, setup)?;
        machine._terminal = host::terminal::raw().map_err(Error::event_loop)?;
        Ok(machine)
    }

    /// Starts a machine that is embedded in another program.
    pub fn start_with(
        spec: VmSpec,
        cpu: impl Into<CpuOptions>,
        setup: Setup,
    ) -> Result<Self, Error> {
        let cpu = cpu.into();
        let start = Instant::now();
        let cpu_start = system::process_cpu_time();
        raise_descriptor_limit();
        check_memory(&spec)?;
        let deciding = thread::spawn(move || cpu::decide(cpu.choice));
        let taken = setup.resources.take(&spec)?;
        let console = open_console(&spec, setup.console)?;
        let memory = Arc::new(memory::allocate(&memory::ranges(spec.memory.bytes()))?);
        let decision = deciding.join().unwrap_or(Decision::Soft);
        setup.observer.cpu(&decision);
        setup.observer.stage(Stage::CpuChosen);
        let vm = cpu::open(&decision, cpu, memory.clone(), &spec)?;
        let waker = setup.control.clone();
        let mut wiring = Wiring::new(&spec, taken, &setup.metadata)?;
        let parts = Parts {
            disks: std::mem::take(&mut wiring.disks),
            links: std::mem::take(&mut wiring.links),
            vsock: wiring.vsock.take(),
            alarms: Box::new(wiring.alarms.clone()),
            metrics: metrics::registry().clone(),
            serial_output: console.output,
            serial_room: Box::new(move || waker.wake()),
            guest_events: setup.guest_events,
            booted: Some(Box::new(move || log_boot_time(start, cpu_start))),
            real_time_clock: decision.has_real_time_clock(),
            ..Parts::new(memory, vm, Arc::new(setup.control.clone()), Box::new(HostEntropy))
        };
        let built = machine::build(&spec, parts)?;
        debug!("machine built: {}", built.timings);
        setup.observer.stage(Stage::KernelLoaded);
        let watches = wiring.connect(&built)?;
        setup.observer.stage(Stage::Running);
        threads::start(built.vcpus, &built.io, &setup.control)?;
        let guest = Guest {
            control: setup.control.clone(),
            virtio: built.virtio,
            i8042: built.i8042,
            seats: wiring.seats,
        };
        let event_loop = EventLoop {
            control: setup.control,
            serial: built.serial.clone(),
            input: console.input,
            signals: setup.signals,
            watches,
            guest,
        };
        Ok(Self { event_loop, serial: built.serial, _terminal: None })
    }

    /// Serves the machine until it ends, and requests to it.
    pub(crate) fn serve(self, requests: &mut dyn Requests) -> End {
        self.run(Some(requests))
    }

    /// Serves the machine until it ends.
    pub fn wait(self) -> End {
        self.run(None)
    }

    fn run(self, requests: Option<&mut dyn Requests>) -> End {
        let control = self.event_loop.control.clone();
        let end = self.event_loop.run(requests).unwrap_or_else(End::Failed);
        control.end(End::PowerOff);
        if control.join(JOIN_PATIENCE) {
            self.serial.flush();
        } else {
            warn!("a vCPU does not stop; its last output may be lost");
        }
        end
    }
}

/// Says in the log which CPU runs.
struct Log;

impl Observer for Log {
    fn cpu(&self, decision: &Decision) {
        info!("{decision}");
    }
}

fn check_memory(spec: &VmSpec) -> Result<(), Error> {
    let Some(host) = system::host_memory() else { return Ok(()) };
    let wanted_mib = spec.memory.get();
    if spec.memory.bytes() > host.total {
        return Err(Error::Memory { wanted_mib, total_mib: host.total >> 20 });
    }
    if spec.memory.bytes() > host.available {
        let available = host.available >> 20;
        warn!("the guest may use {wanted_mib} MiB, but only {available} MiB are available now");
    }
    Ok(())
}

/// Whoever has fewer descriptors than it takes hears of it when one is missing.
fn raise_descriptor_limit() {
    match system::raise_descriptor_limit(DESCRIPTORS_MAX) {
        Ok(limit) => debug!("up to {limit} file descriptors"),
        Err(error) => warn!("the limit of file descriptors stays as it is: {error}"),
    }
}

/// The console that the specification asks for.
fn open_console(spec: &VmSpec, console: Console) -> Result<Console, Error> {
    match &spec.serial.output {
        SerialOutput::Stdio => Ok(console),
        SerialOutput::File(path) => Ok(Console { output: open_output(path)?, input: None }),
    }
}

fn open_output(path: &Path) -> Result<Box<dyn Write + Send>, Error> {
    match OpenOptions::new().append(true).create(true).open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(source) => Err(Error::SerialFile { path: path.display().to_string(), source }),
    }
}

fn log_boot_time(start: Instant, cpu_start: Duration) {
    let wall = start.elapsed();
    let cpu = system::process_cpu_time().saturating_sub(cpu_start);
    info!(
        "Guest-boot-time = {:>6} us {} ms, {:>6} CPU us {} CPU ms",
        wall.as_micros(),
        wall.as_millis(),
        cpu.as_micros(),
        cpu.as_millis()
    );
}
