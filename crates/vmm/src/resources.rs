//! What a machine's devices hold of the host: files, taps, a socket.
//!
//! ```text
//!   drive, interface, vsock ──▶ Resources ──take──▶ Taken ──▶ machine::Parts
//!    opened as it is configured      └ what is missing is opened now
//! ```
//!
//! A client that configures a machine step by step learns of a file that is not there with the step
//! that names it. What is opened again under the same name takes the place of what was there. What
//! was opened differently, or not at all, when the machine starts is opened then.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use devices::block::BlockBackend;
use host::{DiskClaim, EventFd, FileDisk, OverlayDisk, Passt, Tap, UnixHost, UringDisk};
use log::warn;
use spec::{Drive, DriveBackend, IoEngine, NetworkInterface, VmSpec, Vsock};

use crate::Error;

/// What was opened so far, each with what it was opened for.
#[derive(Default)]
pub struct Resources {
    disks: BTreeMap<String, (Drive, Disk)>,
    wires: BTreeMap<String, (NetworkInterface, Wire)>,
    vsock: Option<(Vsock, UnixHost)>,
}

/// The host's end of a network interface.
pub(crate) struct Wire {
    /// It.
    pub back_end: Box<dyn devices::net::Tap>,
    /// What is raised when something comes.
    pub event: OwnedFd,
}

/// A drive's file.
pub(crate) struct Disk {
    /// The contents.
    pub back_end: Box<dyn BlockBackend>,
    /// What another file must have to take its place.
    pub seat: Seat,
}

/// The place that a disk has, whatever is in it.
pub(crate) struct Seat {
    claim: DiskClaim,
    read_only: bool,
    /// Raised when transfers end, if they do so by themselves.
    event: Option<Arc<EventFd>>,
}

/// All that a machine needs, in the order of its specification.
pub(crate) struct Taken {
    pub disks: Vec<Disk>,
    pub wires: Vec<Wire>,
    pub vsock: Option<UnixHost>,
}

impl Wire {
    fn new(back_end: impl devices::net::Tap + AsFd + 'static) -> Result<Self, Error> {
        let event = back_end.as_fd().try_clone_to_owned().map_err(Error::event_loop)?;
        Ok(Self { back_end: Box::new(back_end), event })
    }

    fn tap(interface: &NetworkInterface) -> Result<Self, Error> {
        Self::new(Tap::open(interface.host_device())?)
    }
}

impl Resources {
    /// Opens a drive's file.
    pub fn drive(&mut self, drive: &Drive) -> Result<(), Error> {
        let id = drive.id().to_string();
        // The file may be the same, and would still be locked.
        self.disks.remove(&id);
        self.disks.insert(id, (drive.clone(), Disk::open(drive)?));
        Ok(())
    }

    /// Opens a network interface's tap.
    pub fn interface(&mut self, interface: &NetworkInterface) -> Result<(), Error> {
        let id = interface.id().to_string();
        self.wires.remove(&id);
        self.wires.insert(id, (interface.clone(), Wire::tap(interface)?));
        Ok(())
    }

    /// Gives a network interface a wire to passt in the place of its tap.
    pub fn passt(&mut self, interface: &NetworkInterface, passt: Passt) -> Result<(), Error> {
        let wire = Wire::new(passt)?;
        self.wires.insert(interface.id().to_string(), (interface.clone(), wire));
        Ok(())
    }

    /// Makes the socket device's socket.
    pub fn vsock(&mut self, vsock: &Vsock) -> Result<(), Error> {
        if let Some((old, host)) = self.vsock.take()
            && let Err(error) = host.remove()
        {
            warn!("the socket {} stays: {error}", old.socket().display());
        }
        self.vsock = Some((vsock.clone(), UnixHost::bind(vsock.socket())?));
        Ok(())
    }

    /// Takes what `spec` needs, and opens what of it is not open yet.
    pub(crate) fn take(mut self, spec: &VmSpec) -> Result<Taken, Error> {
        let mut taken = Taken { disks: Vec::new(), wires: Vec::new(), vsock: None };
        for drive in &spec.drives {
            let opened = self.disks.remove(drive.id().as_str());
            taken.disks.push(match opened.filter(|(same, _)| same == drive) {
                Some((_, disk)) => disk,
                None => Disk::open(drive)?,
            });
        }
        for interface in &spec.network {
            let opened = self.wires.remove(interface.id().as_str());
            taken.wires.push(match opened.filter(|(same, _)| same == interface) {
                Some((_, wire)) => wire,
                None => Wire::tap(interface)?,
            });
        }
        if let Some(vsock) = &spec.vsock {
            if !matches!(&self.vsock, Some((same, _)) if same == vsock) {
                self.vsock(vsock)?;
            }
            taken.vsock = self.vsock.take().map(|(_, host)| host);
        }
        Ok(taken)
    }
}

impl Disk {
    fn open(drive: &Drive) -> Result<Self, Error> {
        match drive.backend() {
            DriveBackend::Overlay(path) => Self::open_overlay(path, drive.read_only),
            // The machine refuses sockets, in words of its own.
            DriveBackend::File(path) | DriveBackend::VhostUser(path) => {
                Self::open_file(path, drive)
            }
        }
    }

    /// With the I/O engine Sync: the machine refuses another.
    fn open_overlay(path: &Path, read_only: bool) -> Result<Self, Error> {
        let disk = OverlayDisk::open(path)?;
        let seat = Seat { claim: disk.claim(), read_only, event: None };
        Ok(Self { back_end: Box::new(disk), seat })
    }

    fn open_file(path: &Path, drive: &Drive) -> Result<Self, Error> {
        let file = FileDisk::open(path, drive.read_only)?;
        warn_of_excess(path, &file);
        let event = match drive.io_engine {
            IoEngine::Sync => None,
            IoEngine::Async => Some(Arc::new(EventFd::new().map_err(Error::event_loop)?)),
        };
        let seat = Seat { claim: file.claim(), read_only: drive.read_only, event };
        Ok(Self { back_end: seat.back_end(file)?, seat })
    }
}

impl Seat {
    /// Opens another file, or the same again, for this place. The file that is there now stays
    /// locked.
    pub fn open_instead(&self, path: &Path) -> Result<Disk, Error> {
        let file = FileDisk::open_instead(path, self.read_only, &self.claim)?;
        warn_of_excess(path, &file);
        let seat =
            Self { claim: file.claim(), read_only: self.read_only, event: self.event.clone() };
        Ok(Disk { back_end: self.back_end(file)?, seat })
    }

    /// What to watch for the disk's queue, if there is anything.
    pub fn event(&self) -> std::io::Result<Option<OwnedFd>> {
        self.event.as_ref().map(|event| event.as_fd().try_clone_to_owned()).transpose()
    }

    fn back_end(&self, file: FileDisk) -> Result<Box<dyn BlockBackend>, Error> {
        Ok(match &self.event {
            None => Box::new(file),
            Some(event) => Box::new(UringDisk::new(file, event.as_ref())?),
        })
    }
}

fn warn_of_excess(path: &Path, disk: &FileDisk) {
    if disk.excess() > 0 {
        let (path, excess) = (path.display(), disk.excess());
        warn!("disk {path}: its last {excess} bytes make no 512-byte sector and are left out");
    }
}
