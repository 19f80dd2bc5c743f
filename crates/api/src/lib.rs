//! Firecracker's API without its sockets: HTTP over bytes, the routes, the wire types, which its
//! configuration file has as well, the errors' texts, and the way into a [`spec::VmSpec`].
//!
//! ```text
//!   bytes ──http──▶ http::Request ──Request::parse──▶ Request (typed body) ──▶ Configuration
//!   configuration file ──VmConfigFile──▶ Requests                                  │ to_spec
//!                                                                             spec::VmSpec
//! ```
//!
//! Each body refuses keys it does not know; only the top level of a configuration file does not,
//! as in Firecracker. The types stop here: what runs a machine sees `spec` alone. There are no
//! sockets and no files in this crate.
#![forbid(unsafe_code)]

mod balloon;
mod boot_source;
mod config_file;
mod configuration;
mod cpu_config;
mod device;
mod drive;
mod error;
pub mod http;
mod instance;
mod limiter;
mod machine_config;
mod observe;
mod request;
mod snapshot;
#[cfg(test)]
mod tests;
mod text;

pub use balloon::{
    Balloon, BalloonStats, BalloonStatsUpdate, BalloonUpdate, HintingStart, HintingStatus,
};
pub use boot_source::BootSource;
pub use config_file::{CONFIG_FILE_MAX, CpuConfigSource, FileMachineConfig, VmConfigFile};
pub use configuration::Configuration;
pub use cpu_config::{
    Bitmap, CpuConfig, CpuidLeafModifier, CpuidRegister, CpuidRegisterModifier, KvmCapability,
    MsrModifier,
};
pub use device::{
    Entropy, MemoryHotplug, MemoryHotplugUpdate, MmdsConfig, MmdsVersion, NetworkInterface,
    NetworkInterfaceUpdate, Pmem, PmemUpdate, Serial, Vsock,
};
pub use drive::{CacheType, Drive, DriveUpdate, IoEngine};
pub use error::{
    BalloonError, BootSourceError, DEVICE_NOT_FOUND, DriveError, Error, MachineConfigError,
    MemoryHotplugError, MmdsConfigError, NetworkError, StartError, VsockError,
};
pub use instance::{Action, ActionBody, InstanceInfo, InstanceState, Version};
pub use limiter::{RateLimiter, TokenBucket};
pub use machine_config::{CpuTemplate, HugePages, MachineConfig, MachineConfigUpdate};
pub use observe::{LogLevel, Logger, Metrics, UnknownLevel};
pub use request::{Configure, Metadata, Operate, OperateBalloon, Request, RequestError, Tell};
pub use snapshot::{
    MemoryBackend, MemoryBackendType, NetworkOverride, SnapshotCreate, SnapshotHugePages,
    SnapshotLoad, SnapshotType, VmState, VmStateUpdate, VsockOverride,
};

/// The version of Firecracker whose configuration, flags and API these are. Clients parse it.
pub const FIRECRACKER_VERSION: &str = "1.17.0";

/// The version of Firecracker's snapshot format that goes with [`FIRECRACKER_VERSION`].
pub const SNAPSHOT_VERSION: &str = "11.0.0";
