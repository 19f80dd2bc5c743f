//! `snapshot`: a machine's state to files and back. And `vm`: whether it runs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The body of `PUT /snapshot/create`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// All memory, or what was written since the last snapshot.
    #[serde(default)]
    pub snapshot_type: SnapshotType,
    /// Where the state goes.
    pub snapshot_path: PathBuf,
    /// Where the memory goes.
    pub mem_file_path: PathBuf,
}

/// How much memory a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum SnapshotType {
    /// What was written since the last one.
    Diff,
    /// All.
    #[default]
    Full,
}

/// The body of `PUT /snapshot/load`. One of `mem_backend` and `mem_file_path` is there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotLoad {
    /// Where the state is.
    pub snapshot_path: PathBuf,
    /// Where the memory is (deprecated).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_file_path: Option<PathBuf>,
    /// Where the memory is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_backend: Option<MemoryBackend>,
    /// The former name of `track_dirty_pages` (deprecated).
    #[serde(default)]
    pub enable_diff_snapshots: bool,
    /// Whether written pages are noted.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Whether the guest runs at once.
    #[serde(default)]
    pub resume_vm: bool,
    /// Other taps for network interfaces.
    #[serde(default)]
    pub network_overrides: Vec<NetworkOverride>,
    /// Another socket on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
    /// Whether the guest's clock is set forward.
    #[serde(default)]
    pub clock_realtime: bool,
    /// Which pages of the host back the guest's RAM.
    #[serde(default)]
    pub huge_pages: SnapshotHugePages,
}

/// Where a snapshot's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryBackend {
    /// The file, or the socket of the process that has the pages.
    pub backend_path: PathBuf,
    /// Which of both.
    pub backend_type: MemoryBackendType,
}

/// What holds a snapshot's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum MemoryBackendType {
    /// A file.
    File,
    /// A process that is asked for each page.
    Uffd,
}

/// Another tap for a network interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkOverride {
    /// The interface.
    pub iface_id: String,
    /// The tap.
    pub host_dev_name: String,
}

/// Another socket for the socket device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VsockOverride {
    /// The socket on the host.
    pub uds_path: String,
}

/// Which pages of the host back a restored guest's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum SnapshotHugePages {
    /// Those that the snapshot says.
    #[default]
    Snapshot,
    /// Whatever the host does by itself.
    None,
    /// Transparent huge pages are asked for.
    Transparent,
    /// 2 MiB pages from hugetlbfs.
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}

/// The body of `PATCH /vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VmStateUpdate {
    /// What the guest is to do.
    pub state: VmState,
}

/// What a guest is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum VmState {
    /// Stand still.
    Paused,
    /// Go on.
    Resumed,
}
