//! `drives`: block devices.

use serde::{Deserialize, Serialize};

use crate::RateLimiter;

/// One block device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Its name.
    pub drive_id: String,
    /// The partition that holds the root file system, by its UUID.
    pub partuuid: Option<String>,
    /// Whether the guest's root file system is on it.
    pub is_root_device: bool,
    /// Whether the guest may flush the host's cache.
    #[serde(default)]
    pub cache_type: CacheType,
    /// Whether the guest may not write.
    pub is_read_only: Option<bool>,
    /// The file behind it.
    pub path_on_host: Option<String>,
    /// Limits of its speed.
    pub rate_limiter: Option<RateLimiter>,
    /// How the host does its I/O.
    pub io_engine: Option<IoEngine>,
    /// The socket of a vhost-user back end, instead of a file.
    pub socket: Option<String>,
}

/// What changes about a block device while the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DriveUpdate {
    /// Its name.
    pub drive_id: String,
    /// The file that takes the place of the one behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_on_host: Option<String>,
    /// Limits of its speed; what is not given stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// Whether the guest may flush the host's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum CacheType {
    /// Flushes are not offered.
    #[default]
    Unsafe,
    /// A flush reaches the host's disk.
    Writeback,
}

/// How the host does a drive's I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum IoEngine {
    /// io_uring.
    Async,
    /// A system call for each request.
    #[default]
    Sync,
}
