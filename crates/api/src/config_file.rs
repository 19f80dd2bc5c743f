//! The configuration file: all of a machine in one JSON object.

use serde::{Deserialize, Serialize};

use crate::{
    Balloon, BootSource, Drive, Entropy, Error, Logger, MachineConfig, MemoryHotplug, Metrics,
    MmdsConfig, NetworkInterface, Pmem, Vsock,
};

/// Largest configuration file, in bytes, that is read.
pub const CONFIG_FILE_MAX: u64 = 1 << 20;

/// The whole of a configuration file. As in Firecracker, its top level may hold keys that nobody
/// knows; each part below it may not.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmConfigFile {
    /// What to boot.
    pub boot_source: BootSource,
    /// Block devices, in the order in which the guest sees them (the root device moves to the
    /// front).
    pub drives: Vec<Drive>,
    /// CPUs and memory.
    #[serde(default)]
    pub machine_config: Option<MachineConfig>,
    /// Changes to the CPU's features: an object, or the path of a file that holds it.
    #[serde(default)]
    pub cpu_config: Option<serde_json::Value>,
    /// Network cards.
    #[serde(default)]
    pub network_interfaces: Vec<NetworkInterface>,
    /// Sockets between host and guest.
    #[serde(default)]
    pub vsock: Option<Vsock>,
    /// The balloon.
    #[serde(default)]
    pub balloon: Option<Balloon>,
    /// The metadata service.
    #[serde(default)]
    pub mmds_config: Option<MmdsConfig>,
    /// The source of random numbers.
    #[serde(default)]
    pub entropy: Option<Entropy>,
    /// Files mapped into the guest.
    #[serde(default)]
    pub pmem: Vec<Pmem>,
    /// Memory that comes and goes.
    #[serde(default)]
    pub memory_hotplug: Option<MemoryHotplug>,
    /// The log.
    #[serde(default)]
    pub logger: Option<Logger>,
    /// The metrics.
    #[serde(default)]
    pub metrics: Option<Metrics>,
}

impl VmConfigFile {
    /// Reads the JSON text of a configuration file.
    pub fn parse(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(Error::Json)
    }
}
