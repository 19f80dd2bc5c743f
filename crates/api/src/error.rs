//! Why a request is refused, in Firecracker's words: its clients match them.
//!
//! A reason that only the host knows (a file that cannot be opened, a device that fails) is a text
//! inside of one of these.

use std::path::PathBuf;

use thiserror::Error;

use crate::http::Status;

/// A request that was understood and cannot be granted, or a configuration file that cannot.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum Error {
    #[error("The requested operation is not supported before starting the microVM.")]
    BeforeStart,
    #[error("The requested operation is not supported after starting the microVM.")]
    AfterStart,
    #[error("The requested operation is not supported: {0}")]
    NotSupported(&'static str),
    #[error("PCI is not enabled")]
    NoPci,
    #[error("Invalid JSON: {0}")]
    Json(serde_json::Error),
    #[error("Balloon config error: {0}")]
    BalloonConfig(BalloonError),
    #[error("Balloon update error: {0}")]
    BalloonUpdate(String),
    #[error("Boot source error: {0}")]
    BootSource(BootSourceError),
    #[error("Configure CPU error: {0}")]
    ConfigureCpu(String),
    #[error("Create snapshot error: {0}")]
    CreateSnapshot(String),
    #[error("Drive config error: {0}")]
    Drive(DriveError),
    #[error("Internal VMM error: {0}")]
    Internal(String),
    #[error("Load snapshot error: {0}")]
    LoadSnapshot(String),
    #[error("Logger error: {0}")]
    Logger(String),
    #[error("Machine config error: {0}")]
    MachineConfig(MachineConfigError),
    #[error("Memory hotplug config error: {0}")]
    MemoryHotplugConfig(MemoryHotplugError),
    #[error("Memory hotplug update error: {0}")]
    MemoryHotplugUpdate(String),
    #[error("Metrics error: {0}")]
    Metrics(String),
    #[error("MMDS error: {0}")]
    Mmds(String),
    #[error("MMMDS config error: {0}")]
    MmdsConfig(MmdsConfigError),
    #[error("MMDS limit exceeded error: {0}")]
    MmdsLimit(String),
    #[error("Network config error: {0}")]
    Network(NetworkError),
    #[error("Pmem config error: {0}")]
    Pmem(String),
    #[error("Start microvm error: {0}")]
    Start(StartError),
    #[error("Vsock config error: {0}")]
    Vsock(VsockError),
}

impl Error {
    /// The status that goes with it.
    pub fn status(&self) -> Status {
        let too_large = matches!(self, Self::MmdsLimit(_));
        if too_large { Status::PayloadTooLarge } else { Status::BadRequest }
    }
}

/// What a device that is not there is called in the errors of requests to it.
pub const DEVICE_NOT_FOUND: &str = "Failed perform action on device: Device not found";

/// What is wrong with a balloon.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum BalloonError {
    #[error("No balloon device found.")]
    NotFound,
    #[error("Amount of pages requested is too large.")]
    TooLarge,
}

/// What is wrong with a kernel, its initial RAM disk or its command line. Firecracker's texts do not
/// name the file, which the client did; [`Debug`] does.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum BootSourceError {
    #[error("The kernel file cannot be opened: {reason}")]
    Kernel { path: PathBuf, reason: String },
    #[error(
        "The initrd file cannot be opened due to invalid path or invalid permissions. {reason}"
    )]
    Initrd { path: PathBuf, reason: String },
    #[error("The kernel command line is invalid: {0}")]
    CommandLine(spec::Error),
}

/// What is wrong with a drive.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum DriveError {
    #[error("Unable to create the virtio block device: {0}")]
    Value(#[from] spec::Error),
    #[error("Unable to create the virtio block device: Invalid block config.")]
    OneBackend,
    #[error(
        "Unable to create the virtio block device: drives with a socket are not supported by this \
         version; name a file with path_on_host"
    )]
    VhostUser,
    #[error("Unable to create the virtio block device: Virtio backend error: {0}")]
    Open(String),
    #[error("A root block device already exists!")]
    SecondRoot,
    #[error("Unable to patch the block device: {0} Please verify the request arguments.")]
    Update(String),
}

/// What is wrong with a machine's size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum MachineConfigError {
    #[error(
        "The number of vCPUs must be greater than 0, less than {} and must be 1 or an even number \
         if SMT is enabled.",
        spec::limits::VCPUS_MAX
    )]
    VcpuCount,
    #[error("The memory size (MiB) is either 0, or not a multiple of the configured page size.")]
    MemorySize,
    #[error("The memory size (MiB) is smaller than the previously set balloon device target size.")]
    SmallerThanBalloon,
}

/// What is wrong with memory that is to be added.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum MemoryHotplugError {
    #[error("Block size must not be lower than {0} MiB")]
    SmallBlock(usize),
    #[error("Block size must be a power of 2")]
    BlockNoPowerOfTwo,
    #[error("Slot size must not be lower than {0} MiB")]
    SmallSlot(usize),
    #[error("Slot size must be a multiple of block size ({0} MiB)")]
    SlotNoMultiple(usize),
    #[error("Total size must not be lower than slot size ({0} MiB)")]
    SmallTotal(usize),
    #[error("Total size must be a multiple of slot size ({0} MiB)")]
    TotalNoMultiple(usize),
    #[error("hot-pluggable memory is not supported by this version; give the machine more memory")]
    NotSupported,
}

/// What is wrong with the metadata service's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum MmdsConfigError {
    #[error("The list of network interface IDs that allow forwarding MMDS requests is empty.")]
    NoInterfaces,
    #[error(
        "The list of network interface IDs provided contains at least one ID that does not \
         correspond to any existing network interface."
    )]
    UnknownInterface,
    #[error("The MMDS IPv4 address is not link local.")]
    NotLinkLocal,
}

/// What is wrong with a network interface.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum NetworkError {
    #[error("Could not create the network device: {0}")]
    Value(spec::Error),
    #[error("Could not create the network device: {0}")]
    Open(String),
    #[error("The MAC address is already in use: {0}")]
    MacInUse(String),
    #[error("Unable to update the network device: {0}")]
    Update(String),
}

/// Why a machine does not start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum StartError {
    #[error("Cannot start microvm without kernel configuration.")]
    NoKernel,
    #[error("Failed to get CPU template: {0}")]
    CpuTemplate(spec::Error),
    #[error("Invalid Memory Configuration: {0}")]
    Memory(spec::Error),
    #[error("{0}")]
    Failed(String),
}

/// What is wrong with the socket device.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say what the variants mean")]
pub enum VsockError {
    #[error("Cannot create vsock device: {0}")]
    Value(spec::Error),
    #[error("Cannot create backend for vsock device: {0}")]
    Open(String),
}
