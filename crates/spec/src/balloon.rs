//! The balloon.

/// Memory that the guest gives back to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balloon {
    /// How much the guest is to give back, in MiB.
    pub amount_mib: u32,
    /// Whether a guest that runs out of memory may take it back.
    pub deflate_on_oom: bool,
    /// Seconds from one of the guest's statistics to the next; 0 for none.
    pub stats_interval_s: u16,
    /// Whether the guest can be asked which of its pages are free.
    pub free_page_hinting: bool,
    /// Whether the guest reports pages as it frees them.
    pub free_page_reporting: bool,
}
