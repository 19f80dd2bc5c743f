//! Allocation of guest RAM, and the raw view of it that CPUs use.

use std::ptr::NonNull;
use std::sync::Arc;

use thiserror::Error;
use vm_memory::bitmap::NewBitmap;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionCollection, GuestRegionMmap,
};

use crate::{GuestMemory, PAGE_SIZE, PageLog, PageState};

/// RAM below this address, then a hole for devices up to 4 GiB (the MMIO window of Firecracker's
/// memory layout).
const LOW_RAM_END: u64 = 0xC000_0000;
/// Where RAM goes on above the hole.
const HIGH_RAM_START: u64 = 1 << 32;

/// How much of the start of RAM is backed by huge pages: where the kernel lies and boots.
const HUGE_HEAD: u64 = 48 << 20;

/// Why guest RAM could not be had.
#[derive(Debug, Error)]
pub enum RamError {
    /// The host refused the mapping.
    #[error("cannot map {mib} MiB of guest memory: {source}")]
    Map {
        /// Size asked for.
        mib: u64,
        /// The host's reason.
        source: MmapRegionError,
    },
    /// Regions overlap or are out of order: a fault in the caller's layout.
    #[error("guest memory regions do not fit together: {0}")]
    Layout(#[from] vm_memory::GuestRegionCollectionError),
}

/// The (start, length) ranges that `bytes` of RAM occupy: below 3 GiB, and the rest from 4 GiB on.
pub fn ranges(bytes: u64) -> Vec<(GuestAddress, u64)> {
    let low = bytes.min(LOW_RAM_END);
    let mut ranges = vec![(GuestAddress(0), low)];
    if bytes > low {
        ranges.push((GuestAddress(HIGH_RAM_START), bytes - low));
    }
    ranges
}

/// Maps private, lazily backed RAM for the given ranges.
pub fn allocate(ranges: &[(GuestAddress, u64)]) -> Result<GuestMemory, RamError> {
    let mut regions = Vec::new();
    for &(start, len) in ranges {
        let map_error = |source| RamError::Map { mib: len >> 20, source };
        let mapping =
            MmapRegionBuilder::new_with_bitmap(len as usize, PageLog::with_len(len as usize))
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
                .build()
                .map_err(map_error)?;
        if start.0 == 0 {
            prefer_huge_pages(mapping.as_ptr(), len.min(HUGE_HEAD));
        }
        let region = GuestRegionMmap::new(mapping, start)
            .ok_or_else(|| map_error(MmapRegionError::InvalidOffsetLength))?;
        regions.push(region);
    }
    Ok(GuestRegionCollection::from_regions(regions)?)
}

/// Asks the host for huge pages behind `len` bytes at `host`: what is there is all touched within
/// milliseconds, and 4 KiB at a time that costs the host more than the copying does. A host that
/// has no huge pages serves small ones.
fn prefer_huge_pages(host: *mut u8, len: u64) {
    // SAFETY: the range is this process's own fresh mapping; the advice changes no content.
    unsafe { libc::madvise(host.cast(), len as usize, libc::MADV_HUGEPAGE) };
}

/// One page of RAM as a CPU sees it.
#[derive(Clone, Copy)]
pub struct RamPage<'a> {
    /// The page's first byte in this process; valid for [`PAGE_SIZE`] bytes.
    pub host: NonNull<u8>,
    /// The log's entry for the page.
    pub state: &'a PageState,
    log: &'a PageLog,
    index: usize,
}

impl RamPage<'_> {
    /// Sets the page's written bit in the log.
    #[inline]
    pub fn set_dirty(&self) {
        self.log.set_dirty(self.index);
    }
}

/// A cheap lookup from guest frame number to host page, for a CPU that runs guest code.
///
/// It keeps the memory alive. Whoever dereferences [`RamPage::host`] treats RAM as shared with the
/// guest's other CPUs and with devices: raw reads and writes only, never a Rust reference.
#[derive(Clone)]
pub struct RamView {
    memory: Arc<GuestMemory>,
    regions: Vec<Region>,
}

#[derive(Clone, Copy)]
struct Region {
    first_frame: u64,
    frames: u64,
    host: NonNull<u8>,
    index: usize,
}

// SAFETY: the pointers are into `memory`, which the view keeps alive and which is itself
// Send + Sync; dereferencing them is the reader's own unsafe act.
unsafe impl Send for RamView {}
// SAFETY: as above; the view itself has no interior mutability.
unsafe impl Sync for RamView {}

impl RamView {
    /// A view of all of `memory`.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        let regions = memory
            .iter()
            .enumerate()
            .filter_map(|(index, r)| {
                Some(Region {
                    first_frame: r.start_addr().0 / PAGE_SIZE,
                    frames: r.len() / PAGE_SIZE,
                    host: NonNull::new(r.get_mmap().as_ptr())?,
                    index,
                })
            })
            .collect();
        Self { memory, regions }
    }

    /// The memory behind the view.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The page with frame number `frame` (guest physical address / 4096), if it is RAM.
    #[inline]
    pub fn page(&self, frame: u64) -> Option<RamPage<'_>> {
        let region = self.regions.iter().find(|r| frame.wrapping_sub(r.first_frame) < r.frames)?;
        let index = (frame - region.first_frame) as usize;
        let log = self.log(region.index)?;
        let state = log.page(index)?;
        // SAFETY: index < frames, so the page lies inside the region's mapping.
        let host = unsafe { region.host.add(index * PAGE_SIZE as usize) };
        Some(RamPage { host, state, log, index })
    }

    fn log(&self, region: usize) -> Option<&PageLog> {
        self.memory.iter().nth(region).map(|r| r.bitmap_ref())
    }
}

trait BitmapRef {
    fn bitmap_ref(&self) -> &PageLog;
}

impl BitmapRef for GuestRegionMmap<PageLog> {
    fn bitmap_ref(&self) -> &PageLog {
        // Deref to the MmapRegion, which owns the log.
        (**self).bitmap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn ram_splits_around_the_device_hole() {
        let gib = 1 << 30;
        assert_eq!(ranges(gib), [(GuestAddress(0), gib)]);
        let split = [(GuestAddress(0), 3 * gib), (GuestAddress(4 * gib), gib)];
        assert_eq!(ranges(4 * gib), split);
    }

    #[test]
    fn device_writes_reach_the_view_and_the_log() {
        let memory = Arc::new(allocate(&ranges(1 << 20)).unwrap());
        let view = RamView::new(memory.clone());
        let page = view.page(3).unwrap();
        page.state.note_code(8, 4);
        memory.write_slice(b"abcd", GuestAddress(3 * 4096 + 8)).unwrap();
        // SAFETY: inside the page.
        assert_eq!(unsafe { page.host.add(8).read_volatile() }, b'a');
        assert!(!page.state.holds_code());
        assert!(view.page(256).is_none());
    }
}
