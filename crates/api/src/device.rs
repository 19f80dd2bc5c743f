//! The bodies of the devices other than drives.

use serde::{Deserialize, Serialize};

use crate::{RateLimiter, TokenBucket};

/// `network-interfaces`: a network card on a tap of the host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Its name.
    pub iface_id: String,
    /// The tap on the host.
    pub host_dev_name: String,
    /// The card's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<String>,
    /// The largest packet, in bytes, that the guest is told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Limits towards the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits from the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// `vsock`: sockets between host and guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The device's name (deprecated).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock_id: Option<String>,
    /// The guest's context id.
    pub guest_cid: u32,
    /// The socket on the host.
    pub uds_path: String,
}

/// `balloon`: memory that the guest gives back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// Its size in MiB.
    pub amount_mib: u32,
    /// Whether it shrinks when the guest is short of memory.
    pub deflate_on_oom: bool,
    /// Seconds between two statistics; 0 for none.
    #[serde(default)]
    pub stats_polling_interval_s: u16,
    /// Whether the guest is asked for hints of free pages.
    #[serde(default)]
    pub free_page_hinting: bool,
    /// Whether the guest reports free pages.
    #[serde(default)]
    pub free_page_reporting: bool,
}

/// `entropy`: a source of random numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    /// Limits of its speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `pmem`: a file mapped into the guest's address space.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pmem {
    /// Its name.
    pub id: String,
    /// The file behind it.
    pub path_on_host: String,
    /// Whether the guest's root file system is on it.
    #[serde(default)]
    pub root_device: bool,
    /// Whether the guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// Limits of its flushes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `memory-hotplug`: memory that is added and taken while the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplug {
    /// All of it, in MiB.
    pub total_size_mib: u32,
    /// The guest's granularity, in MiB.
    #[serde(default = "default_block_size_mib")]
    pub block_size_mib: u32,
    /// The host's granularity, in MiB.
    #[serde(default = "default_slot_size_mib")]
    pub slot_size_mib: u32,
}

fn default_block_size_mib() -> u32 {
    2
}

fn default_slot_size_mib() -> u32 {
    128
}

/// `mmds-config`: the metadata service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MmdsConfig {
    /// The protocol's version.
    #[serde(default)]
    pub version: MmdsVersion,
    /// The network interfaces on which it answers.
    pub network_interfaces: Vec<String>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<String>,
    /// Whether it answers as EC2's service does.
    #[serde(default)]
    pub imds_compat: bool,
}

/// Version of the metadata service's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum MmdsVersion {
    /// Plain requests.
    #[default]
    V1,
    /// Requests carry a token.
    V2,
}

/// The body of `PUT /serial`; the configuration file has no such part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// Where output goes instead of standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_out_path: Option<String>,
    /// Limit of the output's speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<TokenBucket>,
}
