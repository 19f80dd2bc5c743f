//! `machine-config`: CPUs and memory.

use serde::{Deserialize, Serialize};

/// The machine's size. A field that is missing has Firecracker's default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Number of vCPUs.
    pub vcpu_count: u8,
    /// RAM in MiB.
    pub mem_size_mib: u64,
    /// Whether vCPUs come in pairs that share a core. `ht_enabled` is its former name.
    #[serde(default)]
    pub smt: bool,
    /// The former name of `smt`: still understood, and noticed as deprecated.
    #[serde(default, skip_serializing)]
    pub ht_enabled: Option<bool>,
    /// A named CPU feature set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<CpuTemplate>,
    /// Whether written pages are noted, for incremental snapshots.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Which pages of the host back the guest's RAM.
    #[serde(default)]
    pub huge_pages: HugePages,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            ht_enabled: None,
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
        }
    }
}

impl MachineConfig {
    /// Whether vCPUs come in pairs, by either of the field's names.
    pub fn threads_share_cores(&self) -> bool {
        self.smt || self.ht_enabled == Some(true)
    }
}

/// Firecracker's named CPU feature sets (deprecated there in favour of `cpu-config`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[expect(missing_docs, reason = "the names are the values")]
pub enum CpuTemplate {
    C3,
    T2,
    T2S,
    T2CL,
    T2A,
    V1N1,
    None,
}

/// Which pages of the host back the guest's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum HugePages {
    /// Whatever the host does by itself.
    #[default]
    None,
    /// Transparent huge pages are asked for.
    Transparent,
    /// 2 MiB pages from hugetlbfs.
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}
