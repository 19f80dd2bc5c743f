//! Why a machine could not be built.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A machine could not be built.
#[derive(Debug, Error)]
pub enum Error {
    /// The host does not open a file.
    #[error("cannot open the {what} {path}: {source}", path = path.display())]
    Open {
        /// What it is to the machine.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// Kernel, initial RAM disk or tables cannot be loaded.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// The CPU back end failed.
    #[error(transparent)]
    Cpu(#[from] vcpu::Error),
    /// There are more devices than places for them.
    #[error("the machine has more than {max} virtio devices: remove drives or interfaces")]
    TooManyDevices {
        /// How many there may be.
        max: usize,
    },
    /// The specification asks for a device that there is not.
    #[error("{device} {id}: {what} not supported by this version: remove it")]
    Unsupported {
        /// The kind of the device.
        device: &'static str,
        /// Its id.
        id: String,
        /// What there is not, with its verb.
        what: &'static str,
    },
    /// The parts do not fit the specification: a fault of whoever made them.
    #[error("the machine has {wanted} {what}, and {given} were opened for them")]
    BackEnds {
        /// The kind of the devices.
        what: &'static str,
        /// How many the specification has.
        wanted: usize,
        /// How many the parts have.
        given: usize,
    },
    /// The host gives no timer.
    #[error("cannot make a timer for a device: {0}")]
    Alarm(io::Error),
    /// A device does not fit its transport: a fault of ours.
    #[error(transparent)]
    Virtio(#[from] virtio::Error),
    /// Two devices at one address: a fault of ours.
    #[error(transparent)]
    Map(#[from] bus::RangeError),
}
