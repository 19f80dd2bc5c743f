//! The wires between a machine's devices and the host: what each device is given, and what the
//! event loop watches for it afterwards.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use devices::block::BlockBackend;
use devices::vsock::Host;
use host::EventFd;
use machine::{Link, VirtioHandle};
use spec::VmSpec;

use crate::Error;
use crate::alarm::TimerAlarms;
use crate::metadata;
use crate::resources::{Seat, Taken};
use crate::watches::Watches;

/// The queue that waits for the host, of each device that does.
const FIRST_QUEUE: u32 = 0;

/// What is needed on both sides of `machine::build`.
pub(crate) struct Wiring {
    pub disks: Vec<Box<dyn BlockBackend>>,
    pub links: Vec<Link>,
    pub vsock: Option<Box<dyn Host>>,
    pub alarms: TimerAlarms,
    /// The drives' places, by id.
    pub seats: BTreeMap<String, Seat>,
    /// What happens on the host that a queue of the kind's device of this id waits for.
    events: Vec<HostEvent>,
}

struct HostEvent {
    fd: OwnedFd,
    kind: Kind,
    id: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Net,
    Vsock,
}

impl Wiring {
    /// Sorts what was opened for `spec` by who needs it.
    pub fn new(spec: &VmSpec, taken: Taken, metadata: &mmds::Store) -> Result<Self, Error> {
        let mut wiring = Self {
            disks: Vec::new(),
            links: Vec::new(),
            vsock: None,
            alarms: TimerAlarms::default(),
            seats: BTreeMap::new(),
            events: Vec::new(),
        };
        for (drive, disk) in spec.drives.iter().zip(taken.disks) {
            let id = drive.id().to_string();
            if let Some(fd) = disk.seat.event().map_err(Error::event_loop)? {
                wiring.events.push(HostEvent { fd, kind: Kind::Block, id: id.clone() });
            }
            wiring.disks.push(disk.back_end);
            wiring.seats.insert(id, disk.seat);
        }
        let detours = metadata::detours(spec, metadata)?;
        for ((interface, wire), detour) in spec.network.iter().zip(taken.wires).zip(detours) {
            let id = interface.id().to_string();
            wiring.events.push(HostEvent { fd: wire.event, kind: Kind::Net, id });
            wiring.links.push(Link { tap: wire.back_end, detour });
        }
        if let Some(host) = taken.vsock {
            let fd = host.events().map_err(Error::event_loop)?;
            wiring.events.push(HostEvent { fd, kind: Kind::Vsock, id: String::new() });
            wiring.vsock = Some(Box::new(host));
        }
        Ok(wiring)
    }

    /// Connects the machine that was built with all this.
    pub fn connect(&mut self, built: &machine::Machine) -> Result<Arc<Watches>, Error> {
        let watches = Watches::new().map_err(Error::event_loop)?;
        for doorbell in built.doorbells() {
            let event = EventFd::new().map_err(Error::event_loop)?;
            if built.vm.doorbell(doorbell.address, doorbell.queue, event.as_fd())? {
                let fd = event.as_fd().try_clone_to_owned().map_err(Error::event_loop)?;
                watches.add(fd, doorbell.device, doorbell.queue).map_err(Error::event_loop)?;
            }
        }
        for event in self.events.drain(..) {
            let slot = built.virtio.iter().find(|slot| match &slot.handle {
                VirtioHandle::Block(_) => event.kind == Kind::Block && slot.id == event.id,
                VirtioHandle::Net(_) => event.kind == Kind::Net && slot.id == event.id,
                VirtioHandle::Vsock(_) => event.kind == Kind::Vsock,
                VirtioHandle::Balloon(_) | VirtioHandle::Rng(_) => false,
            });
            if let Some(slot) = slot {
                let device = slot.handle.notify();
                watches.add(event.fd, device, FIRST_QUEUE).map_err(Error::event_loop)?;
            }
        }
        for alarm in self.alarms.take() {
            if let Some(slot) = built.virtio.get(alarm.slot) {
                let device = slot.handle.notify();
                watches.add(alarm.fd, device, alarm.queue).map_err(Error::event_loop)?;
            }
        }
        Ok(Arc::new(watches))
    }
}
