//! Firecracker's wire types: what its configuration file holds and its API's requests carry, and
//! their way into a [`spec::VmSpec`].
//!
//! ```text
//!   JSON ──serde──▶ VmConfigFile, Drive, MachineConfig, … ──TryFrom──▶ spec::…
//!          shape                                             meaning
//! ```
//!
//! Each body refuses keys it does not know; only the top level of a configuration file does not,
//! as in Firecracker. The types stop here: what runs a machine sees `spec` alone. There are no
//! sockets and no files in this crate.
#![forbid(unsafe_code)]

mod boot_source;
mod config_file;
mod convert;
mod device;
mod drive;
mod error;
mod limiter;
mod machine_config;
mod observe;
#[cfg(test)]
mod tests;

pub use boot_source::BootSource;
pub use config_file::{CONFIG_FILE_MAX, VmConfigFile};
pub use device::{
    Balloon, Entropy, MemoryHotplug, MmdsConfig, MmdsVersion, NetworkInterface, Pmem, Serial, Vsock,
};
pub use drive::{CacheType, Drive, IoEngine};
pub use error::{DriveError, Error, MachineConfigError};
pub use limiter::{RateLimiter, TokenBucket};
pub use machine_config::{CpuTemplate, HugePages, MachineConfig};
pub use observe::{LogLevel, Logger, Metrics, UnknownLevel};

/// The version of Firecracker whose configuration, flags and API these are. Clients parse it.
pub const FIRECRACKER_VERSION: &str = "1.17.0";

/// The version of Firecracker's snapshot format that goes with [`FIRECRACKER_VERSION`].
pub const SNAPSHOT_VERSION: &str = "11.0.0";
