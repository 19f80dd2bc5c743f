//! The metadata service.

use std::net::Ipv4Addr;

use crate::DeviceId;

/// How the guest reaches the metadata service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mmds {
    /// The network interfaces on which it answers.
    pub interfaces: Vec<DeviceId>,
    /// The protocol.
    pub version: MmdsVersion,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it answers as EC2's service does, whatever the client accepts.
    pub imds_compat: bool,
}

/// The protocol of the metadata service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MmdsVersion {
    /// Plain requests.
    #[default]
    V1,
    /// Requests with a token.
    V2,
}
