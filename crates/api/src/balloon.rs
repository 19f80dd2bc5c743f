//! `balloon`: memory that the guest gives back.

use serde::{Deserialize, Serialize};

/// The balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
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

impl From<Balloon> for spec::Balloon {
    fn from(body: Balloon) -> Self {
        Self {
            amount_mib: body.amount_mib,
            deflate_on_oom: body.deflate_on_oom,
            stats_interval_s: body.stats_polling_interval_s,
            free_page_hinting: body.free_page_hinting,
            free_page_reporting: body.free_page_reporting,
        }
    }
}

/// The body of `PATCH /balloon`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonUpdate {
    /// The balloon's new size in MiB.
    pub amount_mib: u32,
}

/// The body of `PATCH /balloon/statistics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonStatsUpdate {
    /// Seconds between two statistics.
    pub stats_polling_interval_s: u16,
}

/// The answer to `GET /balloon/statistics`. What the guest did not tell is not there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct BalloonStats {
    /// Pages of 4 KiB that the balloon is to have.
    pub target_pages: u32,
    /// Pages of 4 KiB that it has.
    pub actual_pages: u32,
    /// MiB that it is to have.
    pub target_mib: u32,
    /// MiB that it has.
    pub actual_mib: u32,
    /// Bytes swapped in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    /// Page faults that waited for a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    /// Bytes that nothing uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_memory: Option<u64>,
    /// Bytes that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_memory: Option<u64>,
    /// Bytes that a new program could have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_memory: Option<u64>,
    /// Bytes of the page cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_caches: Option<u64>,
    /// Huge pages that were had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_failures: Option<u64>,
    /// Processes killed for want of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    /// Allocations that had to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alloc_stall: Option<u64>,
    /// Memory looked through in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_scan: Option<u64>,
    /// Memory looked through while somebody waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_scan: Option<u64>,
    /// Memory won in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_reclaim: Option<u64>,
    /// Memory won while somebody waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_reclaim: Option<u64>,
}

/// The body of `PATCH /balloon/hinting/start`, which may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HintingStart {
    /// Whether the run is acknowledged as soon as the guest is through.
    #[serde(default = "yes")]
    pub acknowledge_on_stop: bool,
}

impl Default for HintingStart {
    fn default() -> Self {
        Self { acknowledge_on_stop: yes() }
    }
}

fn yes() -> bool {
    true
}

/// The answer to `GET /balloon/hinting/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct HintingStatus {
    /// The last command to the guest.
    pub host_cmd: u32,
    /// The last command from the guest.
    pub guest_cmd: Option<u32>,
}
