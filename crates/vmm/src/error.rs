//! Why a machine cannot be run.

use std::io;

use thiserror::Error;

/// A machine could not be started, or could not go on.
#[derive(Debug, Error)]
pub enum Error {
    /// More memory was asked for than there is.
    #[error(
        "mem_size_mib is {wanted_mib}, but this host has {total_mib} MiB; ask for less, or run it \
         on a larger host"
    )]
    Memory {
        /// What the machine should have.
        wanted_mib: u64,
        /// All that the host has.
        total_mib: u64,
    },
    /// The guest's memory cannot be mapped.
    #[error(transparent)]
    Ram(#[from] memory::RamError),
    /// A disk cannot be opened.
    #[error(transparent)]
    Disk(#[from] host::DiskError),
    /// A disk over another cannot be opened.
    #[error(transparent)]
    Overlay(#[from] host::OverlayError),
    /// A tap cannot be opened.
    #[error(transparent)]
    Tap(#[from] host::TapError),
    /// The socket device's socket cannot be made.
    #[error(transparent)]
    Vsock(#[from] host::UnixError),
    /// The host gives no random numbers.
    #[error("the host gives no random numbers: {0}")]
    Entropy(io::Error),
    /// The machine cannot be put together: the kernel, its initial RAM disk, or the devices.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// The CPU back end failed.
    #[error(transparent)]
    Cpu(#[from] vcpu::Error),
    /// A vCPU shut down.
    #[error(
        "vCPU {id} met a triple fault: the guest's kernel crashed before it could say why; see \
         its console output, or try another kernel"
    )]
    TripleFault {
        /// The vCPU's number.
        id: usize,
    },
    /// A file that the console is to go to cannot be opened.
    #[error("cannot open {path} for the serial console: {source}")]
    SerialFile {
        /// The file.
        path: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The host gives no thread.
    #[error(
        "cannot start the thread of vCPU {id}: {source}; the limit of processes may be reached"
    )]
    Thread {
        /// The vCPU's number.
        id: usize,
        /// The host's reason.
        source: io::Error,
    },
    /// The event loop failed.
    #[error("the event loop cannot go on: {0}")]
    EventLoop(io::Error),
}

impl Error {
    pub(crate) fn event_loop(error: io::Error) -> Self {
        Self::EventLoop(error)
    }
}
