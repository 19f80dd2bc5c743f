//! What a virtual machine is asked to be: plain data that has been validated once.
//!
//! Wire formats convert into these types with `TryFrom` or the constructors here; whoever holds a
//! [`VmSpec`] need not check it again. Limits have names in [`limits`].
//!
//! This crate refuses values out of range, ids with strange characters, a second root drive, and
//! two network interfaces with one MAC address. It does not look at the host: whether a path
//! exists is found out by whoever opens it. It knows neither JSON nor file descriptors.
#![forbid(unsafe_code)]

mod balloon;
mod boot;
mod cpu_template;
mod drive;
mod error;
mod id;
pub mod limits;
mod mmds;
mod net;
mod rate;
mod size;
mod vsock;

pub use balloon::Balloon;
pub use boot::{BootSource, CommandLine, DEFAULT_COMMAND_LINE, InitrdPart};
pub use cpu_template::{
    Bits, CPU_MODIFIERS_MAX, CPUID_REGISTERS, Capability, CpuTemplate, CpuidModifier, MsrModifier,
    NamedTemplate,
};
pub use drive::{CacheType, Drive, DriveBackend, Drives, IoEngine};
pub use error::Error;
pub use id::{DeviceId, InstanceId};
pub use mmds::{Mmds, MmdsVersion};
pub use net::{MacAddress, NetworkInterface, NetworkInterfaces};
pub use rate::{RateLimiter, TokenBucket};
pub use size::{MemoryMib, VcpuCount};
pub use vsock::Vsock;

use std::path::PathBuf;

/// One virtual machine, complete: everything that is needed to build it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// The machine's name in logs, metrics and for the guest's metadata service.
    pub id: InstanceId,
    /// What it boots.
    pub boot: BootSource,
    /// How many virtual CPUs it has.
    pub vcpus: VcpuCount,
    /// How much RAM it has.
    pub memory: MemoryMib,
    /// What is changed about the CPU that the guest sees.
    pub cpu_template: CpuTemplate,
    /// Whether two vCPUs each are threads of one core, as far as the guest is told.
    pub smt: bool,
    /// Whether the pages that the guest writes are logged from the start.
    pub track_dirty_pages: bool,
    /// Its disks, in the order in which the guest finds them.
    pub drives: Drives,
    /// Its network interfaces, in the order in which the guest finds them.
    pub network: NetworkInterfaces,
    /// Sockets between host and guest.
    pub vsock: Option<Vsock>,
    /// Memory that the guest gives back.
    pub balloon: Option<Balloon>,
    /// The metadata service.
    pub mmds: Option<Mmds>,
    /// The source of random numbers that the guest may have.
    pub entropy: Option<Entropy>,
    /// Where its serial console goes.
    pub serial: Serial,
    /// Whether the guest can report the end of its boot by a write to a fixed page.
    pub boot_timer: bool,
}

impl VmSpec {
    /// A machine with the default size (1 vCPU, 128 MiB) and no devices but the console.
    pub fn new(id: InstanceId, boot: BootSource) -> Self {
        Self {
            id,
            boot,
            vcpus: VcpuCount::default(),
            memory: MemoryMib::default(),
            cpu_template: CpuTemplate::default(),
            smt: false,
            track_dirty_pages: false,
            drives: Drives::default(),
            network: NetworkInterfaces::default(),
            vsock: None,
            balloon: None,
            mmds: None,
            entropy: None,
            serial: Serial::default(),
            boot_timer: false,
        }
    }
}

/// A virtio random number generator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entropy {
    /// How much the guest may draw.
    pub rate_limiter: RateLimiter,
}

/// The serial console COM1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serial {
    /// Where the guest's output goes.
    pub output: SerialOutput,
    /// Bytes over this rate are dropped.
    pub rate_limiter: Option<TokenBucket>,
}

/// Where the output of COM1 goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SerialOutput {
    /// The process's standard output; input comes from its standard input.
    #[default]
    Stdio,
    /// A file or named pipe, appended to; there is no input.
    File(PathBuf),
}
