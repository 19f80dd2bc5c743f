//! The bodies of the devices other than drives and the balloon.

use std::net::Ipv4Addr;

use serde::{Deserialize, Deserializer, Serialize};
use spec::MacAddress;

use crate::{MemoryHotplugError, RateLimiter, TokenBucket};

/// `network-interfaces`: a network card on a tap of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Its name.
    pub iface_id: String,
    /// The tap on the host.
    pub host_dev_name: String,
    /// The card's address, as `aa:bb:cc:dd:ee:ff`.
    #[serde(default, deserialize_with = "mac_address")]
    pub guest_mac: Option<String>,
    /// The largest packet, in bytes, that the guest is told of.
    pub mtu: Option<u16>,
    /// Limits towards the guest.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits from the guest.
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// An address in its usual form; Firecracker finds a bad one while it reads the body.
fn mac_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let address: Result<MacAddress, _> = text.parse();
    let address =
        address.map_err(|_| serde::de::Error::custom("The provided MAC address is invalid."))?;
    Ok(Some(address.to_string()))
}

/// What changes about a network card while the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterfaceUpdate {
    /// Its name.
    pub iface_id: String,
    /// Limits towards the guest; what is not given stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits from the guest; what is not given stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// `vsock`: sockets between host and guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
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

/// `entropy`: a source of random numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    /// Limits of its speed.
    pub rate_limiter: Option<RateLimiter>,
}

/// `pmem`: a file mapped into the guest's address space.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
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
    pub rate_limiter: Option<RateLimiter>,
}

/// What changes about a mapped file while the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PmemUpdate {
    /// Its name.
    pub id: String,
    /// Limits of its flushes; what is not given stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `memory-hotplug`: memory that is added and taken while the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplug {
    /// All of it, in MiB.
    pub total_size_mib: usize,
    /// The guest's granularity, in MiB.
    #[serde(default = "MemoryHotplug::default_block_size_mib")]
    pub block_size_mib: usize,
    /// The host's granularity, in MiB.
    #[serde(default = "MemoryHotplug::default_slot_size_mib")]
    pub slot_size_mib: usize,
}

impl MemoryHotplug {
    /// The smallest block, which is also the one that is meant where none is given.
    pub const BLOCK_SIZE_MIB_MIN: usize = 2;
    /// The smallest slot, which is also the one that is meant where none is given.
    pub const SLOT_SIZE_MIB_MIN: usize = 128;

    /// Checks the sizes against each other.
    pub fn check(&self) -> Result<(), MemoryHotplugError> {
        let Self { total_size_mib: total, block_size_mib: block, slot_size_mib: slot } = *self;
        if block < Self::BLOCK_SIZE_MIB_MIN {
            Err(MemoryHotplugError::SmallBlock(Self::BLOCK_SIZE_MIB_MIN))
        } else if !block.is_power_of_two() {
            Err(MemoryHotplugError::BlockNoPowerOfTwo)
        } else if slot < Self::SLOT_SIZE_MIB_MIN {
            Err(MemoryHotplugError::SmallSlot(Self::SLOT_SIZE_MIB_MIN))
        } else if !slot.is_multiple_of(block) {
            Err(MemoryHotplugError::SlotNoMultiple(block))
        } else if total < slot {
            Err(MemoryHotplugError::SmallTotal(slot))
        } else if !total.is_multiple_of(slot) {
            Err(MemoryHotplugError::TotalNoMultiple(slot))
        } else {
            Ok(())
        }
    }

    fn default_block_size_mib() -> usize {
        Self::BLOCK_SIZE_MIB_MIN
    }

    fn default_slot_size_mib() -> usize {
        Self::SLOT_SIZE_MIB_MIN
    }
}

/// The body of `PATCH /hotplug/memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplugUpdate {
    /// How much of the memory the guest is to have, in MiB.
    pub requested_size_mib: usize,
}

/// `mmds-config`: the metadata service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MmdsConfig {
    /// The protocol's version.
    #[serde(default)]
    pub version: MmdsVersion,
    /// The network interfaces on which it answers.
    pub network_interfaces: Vec<String>,
    /// Its address.
    pub ipv4_address: Option<Ipv4Addr>,
    /// Whether it answers as EC2's service does.
    #[serde(default)]
    pub imds_compat: bool,
}

impl MmdsConfig {
    /// The service's address where none is given.
    pub const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
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
    #[serde(default, deserialize_with = "crate::text::optional_path")]
    pub serial_out_path: Option<String>,
    /// Limit of the output's speed.
    pub rate_limiter: Option<TokenBucket>,
}
