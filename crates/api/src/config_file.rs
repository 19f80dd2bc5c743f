//! The configuration file: all of a machine in one JSON object.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::{
    Balloon, BootSource, Configure, CpuConfig, Drive, Entropy, Error, Logger, MachineConfig,
    MemoryHotplug, Metrics, MmdsConfig, NetworkInterface, Pmem, Vsock,
};

/// Largest configuration file, in bytes, that is read.
pub const CONFIG_FILE_MAX: u64 = 1 << 20;

/// The whole of a configuration file. As in Firecracker, its top level may hold keys that nobody
/// knows; each part below it may not.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmConfigFile {
    /// What to boot.
    pub boot_source: BootSource,
    /// Block devices, in the order in which the guest sees them (the root device moves to the
    /// front).
    pub drives: Vec<Drive>,
    /// CPUs and memory.
    #[serde(default)]
    pub machine_config: Option<FileMachineConfig>,
    /// Changes to the CPU's features: an object, or the path of a file that holds it.
    #[serde(default)]
    pub cpu_config: Option<CpuConfigSource>,
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

/// Where changes to the CPU's features stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuConfigSource {
    /// In a file of their own.
    File(String),
    /// In this file.
    Inline(CpuConfig),
}

/// The machine's size in a file, where its older name for `smt` is still understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMachineConfig {
    /// The size, the older name taken into account.
    pub config: MachineConfig,
    /// What was said by the older name.
    pub ht_enabled: Option<bool>,
}

impl VmConfigFile {
    /// Reads the JSON text of a configuration file.
    pub fn parse(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(Error::Json)
    }

    /// The file as a client's requests, in Firecracker's order, so that of several faults the same
    /// one is reported. `cpu_config` is what [`VmConfigFile::cpu_config`] says or leads to.
    pub fn requests(self, cpu_config: Option<CpuConfig>) -> Vec<Configure> {
        let mut requests = Vec::new();
        let machine = self.machine_config.map(|machine| machine.config);
        requests.extend(self.logger.map(Configure::Logger));
        requests.extend(self.metrics.map(Configure::Metrics));
        requests.extend(machine.map(Configure::Machine));
        requests.extend(cpu_config.map(Configure::Cpu));
        requests.push(Configure::BootSource(self.boot_source));
        requests.extend(self.drives.into_iter().map(Configure::Drive));
        requests.extend(self.network_interfaces.into_iter().map(Configure::NetworkInterface));
        requests.extend(self.vsock.map(Configure::Vsock));
        requests.extend(self.balloon.map(Configure::Balloon));
        requests.extend(self.mmds_config.map(Configure::Mmds));
        requests.extend(self.entropy.map(Configure::Entropy));
        requests.extend(self.pmem.into_iter().map(Configure::Pmem));
        requests.extend(self.memory_hotplug.map(Configure::MemoryHotplug));
        requests
    }
}

impl<'de> Deserialize<'de> for CpuConfigSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(path) => Ok(Self::File(path)),
            object => CpuConfig::deserialize(object).map(Self::Inline).map_err(D::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for FileMachineConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = Map::deserialize(deserializer)?;
        let ht_enabled = map.remove("ht_enabled").map(bool::deserialize).transpose();
        let ht_enabled = ht_enabled.map_err(D::Error::custom)?;
        let mut config =
            MachineConfig::deserialize(Value::Object(map)).map_err(D::Error::custom)?;
        config.smt |= ht_enabled.unwrap_or_default();
        Ok(Self { config, ht_enabled })
    }
}
