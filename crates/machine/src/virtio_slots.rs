//! The virtio devices: which there are, in which order, and their way onto the bus.
//!
//! The order is Firecracker's, because guests find devices by it: the balloon, the disks with the
//! root first, the network interfaces, the socket device, the source of random numbers. Each takes
//! the next place of the address map, and its back end from the [`Parts`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bus::IoSpace;
use devices::Alarm;
use devices::balloon::Balloon;
use devices::block::{Block, BlockBackend, BlockOptions};
use devices::net::{Detour, Detoured, Net, NetOptions, RX, TX, Tap};
use devices::rate::RateLimiter;
use devices::rng::{EntropySource, Rng};
use devices::vsock::{Host, Vsock};
use memory::GuestMemory;
use metrics::{InterruptMetrics, Metrics};
use spec::{CacheType, Drive, DriveBackend, IoEngine, NetworkInterface, VmSpec};
use vcpu::Vm;
use virtio::{MmioTransport, Notify, Register, VirtioDevice};

use crate::counted::counted_line;
use crate::map::VirtioPlaces;
use crate::parts::{Alarms, Link};
use crate::{Error, Parts};

/// A disk behind its registers.
pub type DiskDevice = MmioTransport<Block<Box<dyn BlockBackend>>>;
/// A network interface behind its registers.
pub type NetDevice = MmioTransport<Net<Box<dyn Tap>>>;
/// The socket device behind its registers.
pub type VsockDevice = MmioTransport<Vsock>;
/// The balloon behind its registers.
pub type BalloonDevice = MmioTransport<Balloon>;
/// The source of random numbers behind its registers.
pub type RngDevice = MmioTransport<Rng<Box<dyn EntropySource>>>;

/// A virtio device, by its kind.
#[derive(Clone)]
pub enum VirtioHandle {
    /// A disk.
    Block(Arc<DiskDevice>),
    /// A network interface.
    Net(Arc<NetDevice>),
    /// The socket device.
    Vsock(Arc<VsockDevice>),
    /// The balloon.
    Balloon(Arc<BalloonDevice>),
    /// The source of random numbers.
    Rng(Arc<RngDevice>),
}

impl VirtioHandle {
    /// Who serves the device's queues.
    pub fn notify(&self) -> Arc<dyn Notify> {
        match self {
            Self::Block(device) => device.clone(),
            Self::Net(device) => device.clone(),
            Self::Vsock(device) => device.clone(),
            Self::Balloon(device) => device.clone(),
            Self::Rng(device) => device.clone(),
        }
    }
}

/// A virtio device in its place.
#[derive(Clone)]
pub struct VirtioSlot {
    /// The device.
    pub handle: VirtioHandle,
    /// Its id in the specification, unique among those of its kind.
    pub id: String,
    /// How many queues it has.
    pub queues: u32,
    /// Where it is.
    pub place: boot::VirtioMmio,
}

/// A write to a notification register that the CPU back end can turn into an event, past the bus.
///
/// Whoever serves events offers it to [`Vm::doorbell`], and calls [`Notify::notify`] for each
/// event. Where it is not offered or not taken, the write reaches the device by the bus.
#[derive(Clone)]
pub struct Doorbell {
    /// The register's physical address.
    pub address: u64,
    /// The queue, which is the value that is written.
    pub queue: u32,
    /// Whose register it is.
    pub device: Arc<dyn Notify>,
}

impl VirtioSlot {
    /// The device's doorbells, one for each queue.
    pub fn doorbells(&self) -> impl Iterator<Item = Doorbell> + '_ {
        let address = u64::from(self.place.address) + Register::QueueNotify.offset();
        let device = self.handle.notify();
        let doorbell = move |queue| Doorbell { address, queue, device: device.clone() };
        (0..self.queues).map(doorbell)
    }
}

/// What virtio devices take from the host.
pub(crate) struct BackEnds {
    disks: VecDeque<Box<dyn BlockBackend>>,
    links: VecDeque<Link>,
    vsock: Option<Box<dyn Host>>,
    entropy: Box<dyn EntropySource>,
    alarms: Box<dyn Alarms>,
    metrics: Arc<Metrics>,
}

impl BackEnds {
    /// Takes them out of `parts`, and checks that there is one for each device of `spec`.
    pub fn take(spec: &VmSpec, parts: &mut Parts) -> Result<Self, Error> {
        for (what, wanted, given) in [
            ("drives", spec.drives.len(), parts.disks.len()),
            ("network interfaces", spec.network.len(), parts.links.len()),
            ("socket devices", spec.vsock.iter().len(), parts.vsock.iter().len()),
        ] {
            if wanted != given {
                return Err(Error::BackEnds { what, wanted, given });
            }
        }
        Ok(Self {
            disks: std::mem::take(&mut parts.disks).into(),
            links: std::mem::take(&mut parts.links).into(),
            vsock: parts.vsock.take(),
            entropy: std::mem::replace(&mut parts.entropy, Box::new(NoEntropy)),
            alarms: std::mem::replace(&mut parts.alarms, Box::new(crate::parts::NoAlarms)),
            metrics: parts.metrics.clone(),
        })
    }
}

/// Stands where a source of random numbers was taken.
struct NoEntropy;

impl EntropySource for NoEntropy {
    fn fill(&mut self, _bytes: &mut [u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Puts all virtio devices of `spec` on the bus.
pub(crate) fn attach(
    spec: &VmSpec,
    memory: &Arc<GuestMemory>,
    vm: &dyn Vm,
    io: &mut IoSpace,
    back_ends: BackEnds,
) -> Result<Vec<VirtioSlot>, Error> {
    let BackEnds { mut disks, mut links, vsock, entropy, mut alarms, metrics } = back_ends;
    let interrupts = &metrics.interrupts;
    let places = VirtioPlaces::default();
    let mut row = Row { memory, vm, io, interrupts, places, slots: Vec::new() };
    let alarms = alarms.as_mut();
    if let Some(settings) = spec.balloon {
        let alarm = row.alarm(alarms, devices::balloon::STATS_QUEUE)?;
        let balloon = Balloon::new(settings, alarm, metrics.balloon.clone());
        row.add("balloon", balloon, VirtioHandle::Balloon)?;
    }
    for drive in &spec.drives {
        let Some(disk) = disks.pop_front() else { break };
        let block = block(drive, disk, row.alarm(alarms, 0)?, &metrics)?;
        row.add(drive.id().as_str(), block, VirtioHandle::Block)?;
    }
    for interface in &spec.network {
        let Some(link) = links.pop_front() else { break };
        let net = net(interface, link, |queue| row.alarm(alarms, queue as u32), &metrics)?;
        row.add(interface.id().as_str(), net, VirtioHandle::Net)?;
    }
    if let (Some(settings), Some(host)) = (&spec.vsock, vsock) {
        let alarm = row.alarm(alarms, 0)?;
        let cid = settings.guest_cid().into();
        row.add("vsock", Vsock::new(cid, host, alarm, metrics.vsock.clone()), VirtioHandle::Vsock)?;
    }
    if let Some(settings) = &spec.entropy {
        let limiter = RateLimiter::new(settings.rate_limiter, row.alarm(alarms, 0)?);
        let rng = Rng::new(entropy).limited(limiter).counted(metrics.entropy.clone());
        row.add("rng", rng, VirtioHandle::Rng)?;
    }
    Ok(row.slots)
}

fn block(
    drive: &Drive,
    disk: Box<dyn BlockBackend>,
    alarm: Box<dyn Alarm>,
    metrics: &Metrics,
) -> Result<Block<Box<dyn BlockBackend>>, Error> {
    let id = drive.id().to_string();
    let unsupported = match (drive.backend(), drive.io_engine) {
        (DriveBackend::File(_), _) | (DriveBackend::Overlay(_), IoEngine::Sync) => None,
        (DriveBackend::Overlay(_), IoEngine::Async) => {
            Some("overlays with the I/O engine Async are")
        }
        (DriveBackend::VhostUser(_), _) => Some("vhost-user sockets are"),
    };
    if let Some(what) = unsupported {
        return Err(Error::Unsupported { device: "drive", id, what });
    }
    let options = BlockOptions {
        read_only: drive.read_only,
        write_back: drive.cache == CacheType::Writeback,
    };
    let start = Instant::now();
    let block = Block::new(disk, options)
        .with_limiter(RateLimiter::new(drive.rate_limiter, alarm))
        .with_metrics(metrics.block.add(&id), Box::new(move || start.elapsed()));
    Ok(if drive.is_root { block.with_fixed_id() } else { block })
}

fn net(
    interface: &NetworkInterface,
    link: Link,
    mut alarm: impl FnMut(usize) -> Result<Box<dyn Alarm>, Error>,
    metrics: &Metrics,
) -> Result<Net<Box<dyn Tap>>, Error> {
    let options = NetOptions {
        mac: interface.guest_mac,
        mtu: interface.mtu(),
        drop_spoofed: interface.drop_spoofed,
    };
    let rx = RateLimiter::new(interface.rx_rate_limiter, alarm(RX)?);
    let tx = RateLimiter::new(interface.tx_rate_limiter, alarm(TX)?);
    let detoured = |detour: Box<dyn Detour>| Ok::<_, Error>(Detoured { detour, alarm: alarm(RX)? });
    let detoured = link.detour.map(detoured).transpose()?;
    let metrics = metrics.net.add(interface.id().as_str());
    Ok(Net::new(link.tap, options, rx, tx, detoured, metrics))
}

/// The devices attached so far.
struct Row<'a> {
    memory: &'a Arc<GuestMemory>,
    vm: &'a dyn Vm,
    io: &'a mut IoSpace,
    interrupts: &'a Arc<InterruptMetrics>,
    places: VirtioPlaces,
    slots: Vec<VirtioSlot>,
}

impl Row<'_> {
    /// An alarm for queue `queue` of the device that is added next.
    fn alarm(&self, alarms: &mut dyn Alarms, queue: u32) -> Result<Box<dyn Alarm>, Error> {
        alarms.alarm(self.slots.len(), queue).map_err(Error::Alarm)
    }

    fn add<D: VirtioDevice + 'static>(
        &mut self,
        id: &str,
        device: D,
        handle: impl FnOnce(Arc<MmioTransport<D>>) -> VirtioHandle,
    ) -> Result<(), Error> {
        let place = self.places.next()?;
        let queues = device.queue_sizes().len() as u32;
        let line = counted_line(self.vm.irq_line(place.gsi)?, self.interrupts);
        let transport = Arc::new(MmioTransport::new(device, self.memory.clone(), line)?);
        self.io.mmio.insert(place.address.into(), place.len.into(), transport.clone())?;
        self.slots.push(VirtioSlot { handle: handle(transport), id: id.to_owned(), queues, place });
        Ok(())
    }
}
