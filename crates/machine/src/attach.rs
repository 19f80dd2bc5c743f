//! Making devices and putting them on the buses.

use std::collections::VecDeque;
use std::sync::Arc;

use boot::SleepRegisters;
use bus::IoSpace;
use devices::acpi_power::{self, AcpiPower};
use devices::block::{Block, BlockBackend, BlockOptions};
use devices::boot_timer::{self, BootTimer};
use devices::debug::{self, PostCode};
use devices::i8042::{self, I8042};
use devices::rng::{EntropySource, Rng};
use devices::serial::{self, Serial};
use devices::status_port::{self, StatusPort};
use log::warn;
use memory::GuestMemory;
use spec::{CacheType, Drive, DriveBackend, Entropy, IoEngine, NetworkInterface, VmSpec};
use vcpu::Vm;
use virtio::{MmioTransport, Register, VirtioDevice};

use crate::map::{ACPI_POWER_PORT, BOOT_TIMER, VirtioPlaces};
use crate::{Error, Parts};

/// Which kind of virtio device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtioKind {
    /// A disk.
    Block,
    /// The source of random numbers.
    Rng,
}

/// A virtio device in its place.
#[derive(Clone)]
pub struct VirtioSlot {
    /// Its kind.
    pub kind: VirtioKind,
    /// Its id in the specification, unique among those of its kind.
    pub id: String,
    /// Its registers.
    pub transport: Arc<MmioTransport>,
    /// How many queues it has.
    pub queues: u32,
    /// Where it is.
    pub place: boot::VirtioMmio,
}

/// A write to a notification register that the CPU back end can turn into an event, past the bus.
///
/// Whoever serves events offers it to [`Vm::doorbell`], and calls [`MmioTransport::notify`] for
/// each event. Where it is not offered or not taken, the write reaches the device by the bus.
#[derive(Clone)]
pub struct Doorbell {
    /// The register's physical address.
    pub address: u64,
    /// The queue, which is the value that is written.
    pub queue: u32,
    /// Whose register it is.
    pub transport: Arc<MmioTransport>,
}

impl VirtioSlot {
    /// The device's doorbells, one for each queue.
    pub fn doorbells(&self) -> impl Iterator<Item = Doorbell> + '_ {
        let address = u64::from(self.place.address) + Register::QueueNotify.offset();
        let doorbell = move |queue| Doorbell { address, queue, transport: self.transport.clone() };
        (0..self.queues).map(doorbell)
    }
}

/// The devices of a machine.
pub(crate) struct Attached {
    pub io: IoSpace,
    pub serial: Arc<Serial>,
    pub i8042: Arc<I8042>,
    pub virtio: Vec<VirtioSlot>,
}

/// Where the ACPI tables say that the sleep registers are.
pub(crate) const SLEEP: SleepRegisters = SleepRegisters {
    control_port: ACPI_POWER_PORT + acpi_power::SLEEP_CONTROL as u16,
    status_port: ACPI_POWER_PORT + acpi_power::SLEEP_STATUS as u16,
    off_type: acpi_power::S5_SLEEP_TYPE,
};

/// Makes all devices that `spec` asks for, and those that every machine has.
pub(crate) fn attach(spec: &VmSpec, parts: Parts) -> Result<Attached, Error> {
    let mut io = IoSpace::default();
    let (drives, disks) = (spec.drives.len(), parts.disks.len());
    if drives != disks {
        return Err(Error::Disks { drives, disks });
    }
    let (memory, vm) = (&parts.memory, parts.vm.as_ref());
    let mut back_ends = BackEnds { disks: parts.disks.into(), entropy: Some(parts.entropy) };
    let virtio = attach_virtio(spec, memory, vm, &mut io, &mut back_ends)?;

    let line = vm.irq_line(serial::COM1_IRQ)?;
    let serial = Arc::new(Serial::new(line, parts.serial_output, parts.serial_room));
    if spec.serial.rate_limiter.is_some() {
        warn!("the rate limit of the serial console is not applied");
    }
    let i8042 = Arc::new(I8042::new(vm.irq_line(boot::layout::I8042_GSI)?, parts.power.clone()));
    let power = Arc::new(AcpiPower::new(parts.power));
    io.ports.insert(serial::COM1_PORT, serial::PORTS, serial.clone())?;
    io.ports.insert(i8042::PORT, i8042::PORTS, i8042.clone())?;
    io.ports.insert(ACPI_POWER_PORT.into(), acpi_power::WINDOW, power)?;
    io.ports.insert(debug::PORT, 1, Arc::new(PostCode::default()))?;
    if let Some(events) = parts.guest_events {
        let port = Arc::new(StatusPort::new(events));
        io.ports.insert(status_port::PORT, status_port::PORTS, port)?;
    }
    if spec.boot_timer {
        let timer = Arc::new(BootTimer::new(parts.booted.unwrap_or_else(|| Box::new(|| ()))));
        io.mmio.insert(BOOT_TIMER, boot_timer::WINDOW, timer)?;
    }
    Ok(Attached { io, serial, i8042, virtio })
}

/// A virtio device that the specification asks for.
enum Wanted<'a> {
    Block(&'a Drive),
    Net(&'a NetworkInterface),
    Rng(&'a Entropy),
}

/// The virtio devices in the order in which guests find them, which is that of Firecracker.
fn wanted(spec: &VmSpec) -> impl Iterator<Item = Wanted<'_>> {
    let drives = spec.drives.iter().map(Wanted::Block);
    let interfaces = spec.network.iter().map(Wanted::Net);
    drives.chain(interfaces).chain(spec.entropy.iter().map(Wanted::Rng))
}

/// What virtio devices take from the host.
struct BackEnds {
    /// In the order of the drives.
    disks: VecDeque<Box<dyn BlockBackend>>,
    entropy: Option<Box<dyn EntropySource>>,
}

fn attach_virtio(
    spec: &VmSpec,
    memory: &Arc<GuestMemory>,
    vm: &dyn Vm,
    io: &mut IoSpace,
    back_ends: &mut BackEnds,
) -> Result<Vec<VirtioSlot>, Error> {
    let mut places = VirtioPlaces::default();
    let mut slots = Vec::new();
    for wanted in wanted(spec) {
        let place = places.next()?;
        let Some((kind, id, device)) = make(&wanted, back_ends)? else { continue };
        let queues = device.queue_sizes().len() as u32;
        let line = vm.irq_line(place.gsi)?;
        let transport = Arc::new(MmioTransport::new(device, memory.clone(), line)?);
        io.mmio.insert(place.address.into(), place.len.into(), transport.clone())?;
        slots.push(VirtioSlot { kind, id, transport, queues, place });
    }
    Ok(slots)
}

type Made = (VirtioKind, String, Box<dyn VirtioDevice>);

/// Makes one virtio device; None if its back end was used up, which the count of disks rules out.
fn make(wanted: &Wanted<'_>, back_ends: &mut BackEnds) -> Result<Option<Made>, Error> {
    match wanted {
        Wanted::Block(drive) => {
            let id = drive.id().to_string();
            if let DriveBackend::VhostUser(_) = drive.backend() {
                let what = "vhost-user sockets are";
                return Err(Error::Unsupported { device: "drive", id, what });
            }
            warn_of_drive(drive);
            let options = BlockOptions {
                read_only: drive.read_only,
                write_back: drive.cache == CacheType::Writeback,
            };
            let disk = back_ends.disks.pop_front();
            Ok(disk.map(|disk| {
                let block: Box<dyn VirtioDevice> = Box::new(Block::new(disk, options));
                (VirtioKind::Block, id, block)
            }))
        }
        Wanted::Net(interface) => {
            let (id, what) = (interface.id().to_string(), "network interfaces are");
            Err(Error::Unsupported { device: "network interface", id, what })
        }
        Wanted::Rng(entropy) => {
            if entropy.rate_limiter != spec::RateLimiter::default() {
                warn!("the rate limit of the entropy device is not applied");
            }
            let source = back_ends.entropy.take();
            Ok(source.map(|source| {
                let rng: Box<dyn VirtioDevice> = Box::new(Rng::new(source));
                (VirtioKind::Rng, "rng".to_owned(), rng)
            }))
        }
    }
}

fn warn_of_drive(drive: &Drive) {
    let id = drive.id();
    if drive.rate_limiter != spec::RateLimiter::default() {
        warn!("drive {id}: its rate limit is not applied");
    }
    if drive.io_engine == IoEngine::Async {
        warn!("drive {id}: it uses the I/O engine Sync instead of Async");
    }
}
