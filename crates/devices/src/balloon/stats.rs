//! The guest's memory statistics (virtio 1.2, 5.5.6.3, and `linux/virtio_balloon.h` for the tags
//! that are newer).

/// Most bytes of statistics that are looked at: far more than there are tags.
pub const STATS_LEN_MAX: u64 = 1024;

/// Bytes of one statistic: a tag of 16 bits and a value of 64, both little-endian.
const STAT_LEN: usize = 10;

/// What is known of the balloon and of the guest's memory.
///
/// A statistic that the driver never gave is missing; one that it gave once keeps its value until
/// it gives another. Amounts of memory are in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BalloonStats {
    /// Pages of 4 KiB that the balloon should hold.
    pub target_pages: u32,
    /// Pages of 4 KiB that the driver says it holds.
    pub actual_pages: u32,
    /// MiB that the balloon should hold.
    pub target_mib: u32,
    /// MiB that the driver says it holds.
    pub actual_mib: u32,
    /// Memory that was swapped in.
    pub swap_in: Option<u64>,
    /// Memory that was swapped out.
    pub swap_out: Option<u64>,
    /// Page faults that needed the disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Memory that is not used for anything.
    pub free_memory: Option<u64>,
    /// All memory.
    pub total_memory: Option<u64>,
    /// Memory that programs could have without swapping.
    pub available_memory: Option<u64>,
    /// Memory that caches files and can be had at once.
    pub disk_caches: Option<u64>,
    /// Huge pages that were given to programs.
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that could not be given.
    pub hugetlb_failures: Option<u64>,
    /// Programs killed for want of memory; since Linux 6.12, as all that follow.
    pub oom_kill: Option<u64>,
    /// Allocations that had to wait.
    pub alloc_stall: Option<u64>,
    /// Memory looked through in the background.
    pub async_scan: Option<u64>,
    /// Memory looked through by who wanted some.
    pub direct_scan: Option<u64>,
    /// Memory reclaimed in the background.
    pub async_reclaim: Option<u64>,
    /// Memory reclaimed by who wanted some.
    pub direct_reclaim: Option<u64>,
}

impl BalloonStats {
    /// Takes the driver's statistics over, and says how many had a tag that nobody knows. What
    /// does not make a whole statistic at the end is ignored.
    pub fn update(&mut self, bytes: &[u8]) -> u64 {
        let (stats, _) = bytes.as_chunks::<STAT_LEN>();
        let mut unknown = 0;
        for &[t0, t1, ref value @ ..] in stats {
            match self.field(u16::from_le_bytes([t0, t1])) {
                Some(field) => *field = Some(u64::from_le_bytes(*value)),
                None => unknown += 1,
            }
        }
        unknown
    }

    fn field(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_memory,
            5 => &mut self.total_memory,
            6 => &mut self.available_memory,
            7 => &mut self.disk_caches,
            8 => &mut self.hugetlb_allocations,
            9 => &mut self.hugetlb_failures,
            10 => &mut self.oom_kill,
            11 => &mut self.alloc_stall,
            12 => &mut self.async_scan,
            13 => &mut self.direct_scan,
            14 => &mut self.async_reclaim,
            15 => &mut self.direct_reclaim,
            _ => return None,
        })
    }
}
