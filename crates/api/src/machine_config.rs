//! `machine-config`: CPUs and memory.

use serde::{Deserialize, Serialize};

/// The machine's size. A field that is missing has Firecracker's default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Number of vCPUs.
    pub vcpu_count: u8,
    /// RAM in MiB.
    pub mem_size_mib: usize,
    /// Whether vCPUs come in pairs that share a core.
    #[serde(default)]
    pub smt: bool,
    /// A named CPU feature set (deprecated).
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
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
        }
    }
}

/// A change of the machine's size: what is not given stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[serde(default)]
pub struct MachineConfigUpdate {
    /// Number of vCPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_count: Option<u8>,
    /// RAM in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_size_mib: Option<usize>,
    /// Whether vCPUs come in pairs that share a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smt: Option<bool>,
    /// A named CPU feature set (deprecated).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<CpuTemplate>,
    /// Whether written pages are noted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_dirty_pages: Option<bool>,
    /// Which pages of the host back the guest's RAM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<HugePages>,
}

impl From<MachineConfig> for MachineConfigUpdate {
    /// All fields; a CPU template that is not named stays.
    fn from(config: MachineConfig) -> Self {
        Self {
            vcpu_count: Some(config.vcpu_count),
            mem_size_mib: Some(config.mem_size_mib),
            smt: Some(config.smt),
            cpu_template: config.cpu_template,
            track_dirty_pages: Some(config.track_dirty_pages),
            huge_pages: Some(config.huge_pages),
        }
    }
}

impl MachineConfig {
    /// What the user should know of a size that is accepted: requests that change nothing in this
    /// version. One sentence each.
    pub fn notices(&self) -> Vec<String> {
        let ignored = self.huge_pages != HugePages::None;
        let notice = "machine-config: huge_pages has no effect in this version";
        ignored.then(|| notice.to_owned()).into_iter().collect()
    }

    /// This size with the change made.
    pub(crate) fn updated(&self, update: MachineConfigUpdate) -> Self {
        let template = update.cpu_template.or(self.cpu_template);
        Self {
            vcpu_count: update.vcpu_count.unwrap_or(self.vcpu_count),
            mem_size_mib: update.mem_size_mib.unwrap_or(self.mem_size_mib),
            smt: update.smt.unwrap_or(self.smt),
            cpu_template: template.filter(|template| *template != CpuTemplate::None),
            track_dirty_pages: update.track_dirty_pages.unwrap_or(self.track_dirty_pages),
            huge_pages: update.huge_pages.unwrap_or(self.huge_pages),
        }
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
