//! Giving guest memory back to the host.
//!
//! A discarded page keeps its address and reads as zero from then on; the host has its memory back
//! until the guest touches it again. To everybody who watches the log that is a write of zeroes:
//! the page is marked as written, and code that was decoded from it is stale.

use std::io;

use thiserror::Error;
use vm_memory::bitmap::Bitmap;
use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::{GuestMemory, PAGE_SIZE, PageLog};

/// Why memory could not be given back.
#[derive(Debug, Error)]
pub enum DiscardError {
    /// The guest named addresses that are not, or not wholly, in one stretch of RAM.
    #[error("{len:#x} bytes at {start:#x} cannot be given back: they are not guest memory")]
    NotRam {
        /// First guest physical address.
        start: u64,
        /// How many bytes.
        len: u64,
    },
    /// The host refused.
    #[error("the host does not take {len:#x} bytes of guest memory at {start:#x} back: {source}")]
    Host {
        /// First guest physical address.
        start: u64,
        /// How many bytes.
        len: u64,
        /// Its reason.
        source: io::Error,
    },
}

/// Gives the pages that lie wholly within `len` bytes from `start` back to the host, and says how
/// many bytes these are.
///
/// The contents are lost. A vCPU or device that writes to one of the pages at the same time may
/// find its bytes there or not.
pub fn discard(memory: &GuestMemory, start: GuestAddress, len: u64) -> Result<u64, DiscardError> {
    let not_ram = || DiscardError::NotRam { start: start.0, len };
    let (region, offset) = memory.to_region_addr(start).ok_or_else(not_ram)?;
    let end = offset.0.checked_add(len).filter(|end| *end <= region.len()).ok_or_else(not_ram)?;
    // Both are within the region, whose length is a number of pages far from overflow.
    let (first, end) = (offset.0.next_multiple_of(PAGE_SIZE), end / PAGE_SIZE * PAGE_SIZE);
    if first >= end {
        return Ok(0);
    }
    let given = give_back(region, first as usize, (end - first) as usize);
    // Also after a failure, which may come half-way. And behind the change, as every write.
    region.bitmap().mark_dirty(first as usize, (end - first) as usize);
    match given {
        Ok(()) => Ok(end - first),
        Err(source) => Err(DiscardError::Host { start: start.0, len, source }),
    }
}

/// Makes `len` bytes from `offset` of `region`, which it has, memory that was never touched.
fn give_back(region: &GuestRegionMmap<PageLog>, offset: usize, len: usize) -> io::Result<()> {
    let mapping: &MmapRegion<PageLog> = region;
    let host = mapping.as_ptr().wrapping_add(offset).cast::<libc::c_void>();
    if mapping.file_offset().is_some() {
        return replace_by_anonymous(host, len, mapping.prot());
    }
    // SAFETY: the range lies within the region's own mapping, which is private and anonymous:
    // pages of zeroes take its place, and the mapping stays. Guest RAM is only ever reached by raw
    // accesses, which expect that others change it.
    match unsafe { libc::madvise(host, len, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A private mapping of a file would show the file's contents again instead of zeroes: anonymous
/// memory takes its place, at the same addresses.
fn replace_by_anonymous(host: *mut libc::c_void, len: usize, prot: i32) -> io::Result<()> {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range lies within a mapping that the region owns and will unmap as a whole; the
    // kernel puts the new pages there in one step, so that no access finds a hole.
    match unsafe { libc::mmap(host, len, prot, flags, -1, 0) } {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RamView, allocate};
    use std::fs::File;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use vm_memory::bitmap::NewBitmap;
    use vm_memory::mmap::MmapRegionBuilder;
    use vm_memory::{Bytes, FileOffset, GuestRegionCollection};

    const START: u64 = 1 << 32;
    const PAGES: u64 = 64;

    /// RAM whose every byte is 0xAA, with a clean log.
    fn ram() -> GuestMemory {
        filled(allocate(&[(GuestAddress(START), PAGES * PAGE_SIZE)]).unwrap())
    }

    fn filled(memory: GuestMemory) -> GuestMemory {
        memory.write_slice(&vec![0xAA; (PAGES * PAGE_SIZE) as usize], GuestAddress(START)).unwrap();
        log(&memory).take_dirty();
        memory
    }

    fn log(memory: &GuestMemory) -> &PageLog {
        let region: &MmapRegion<PageLog> = memory.iter().next().unwrap();
        region.bitmap()
    }

    /// The pages that hold zeroes; every other page must be as `ram` made it.
    fn zeroed(memory: &GuestMemory) -> Vec<usize> {
        let mut bytes = vec![0; (PAGES * PAGE_SIZE) as usize];
        memory.read_slice(&mut bytes, GuestAddress(START)).unwrap();
        let zeroed = |page: &[u8]| page.iter().all(|byte| *byte == 0);
        let kept = |page: &[u8]| page.iter().all(|byte| *byte == 0xAA);
        let pages = bytes.chunks(PAGE_SIZE as usize).enumerate();
        pages
            .filter(|(i, page)| zeroed(page) || !(kept(page) || panic!("page {i}")))
            .map(|(i, _)| i)
            .collect()
    }

    /// The pages that the host has memory for.
    fn resident(memory: &GuestMemory) -> Vec<usize> {
        let host = memory.get_host_address(GuestAddress(START)).unwrap();
        let mut pages = [0u8; PAGES as usize];
        let len = (PAGES * PAGE_SIZE) as usize;
        // SAFETY: the range is mapped, and the kernel writes a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(host.cast(), len, pages.as_mut_ptr()) }, 0);
        (0..PAGES as usize).filter(|page| pages[*page] & 1 != 0).collect()
    }

    fn check(start: u64, len: u64, expected: std::ops::Range<usize>) {
        let memory = ram();
        let given = discard(&memory, GuestAddress(START + start), len).unwrap();
        let expected: Vec<usize> = expected.collect();
        assert_eq!(given, expected.len() as u64 * PAGE_SIZE, "{start:#x}+{len:#x}");
        let left: Vec<_> = (0..PAGES as usize).filter(|page| !expected.contains(page)).collect();
        assert_eq!(resident(&memory), left, "{start:#x}+{len:#x}");
        assert_eq!(log(&memory).take_dirty(), expected, "{start:#x}+{len:#x}");
        assert_eq!(zeroed(&memory), expected, "{start:#x}+{len:#x}");
    }

    #[test]
    fn whole_pages_within_the_range_are_given_back() {
        check(0, PAGES * 4096, 0..64);
        check(0x3000, 0x2000, 3..5);
        check(0x3001, 0x2000, 4..5);
        check(0x2FFF, 0x2001, 3..5);
        check(0x3000, 0x1FFF, 3..4);
        check(0x3001, 0x1FFE, 0..0);
        check(0x3000, 0, 0..0);
        check(PAGES * 4096 - 1, 1, 0..0);
        check((PAGES - 1) * 4096, 4096, 63..64);
    }

    #[test]
    fn what_is_not_ram_is_refused() {
        let memory = ram();
        for (start, len) in [
            (0, 4096),
            (START - 1, 4096),
            (START - 4096, 8192),
            (START, PAGES * 4096 + 1),
            (START + 4096, u64::MAX),
            (START + PAGES * 4096, 0),
            (u64::MAX, 1),
        ] {
            let error = discard(&memory, GuestAddress(start), len).unwrap_err();
            assert!(matches!(error, DiscardError::NotRam { .. }), "{start:#x}+{len:#x}: {error}");
        }
        assert_eq!(zeroed(&memory), [0usize; 0]);
        assert!(log(&memory).take_dirty().is_empty());
    }

    #[test]
    fn decoded_code_goes_stale() {
        let view = RamView::new(Arc::new(ram()));
        let state = |page| view.page((START >> 12) + page).unwrap().state;
        for page in [2, 3] {
            state(page).note_code(100, 8);
        }
        discard(view.memory(), GuestAddress(START + 0x3000), 4096).unwrap();
        assert!(!state(3).holds_code() && state(2).holds_code());
        assert_eq!(state(3).version().load(Ordering::SeqCst), 1);
        assert_eq!(state(2).version().load(Ordering::SeqCst), 0);
    }

    #[test]
    fn ram_from_a_file_becomes_zero_as_well() {
        let len = (PAGES * PAGE_SIZE) as usize;
        let path = std::env::temp_dir().join(format!("sparkler-discard-{}", std::process::id()));
        std::fs::write(&path, vec![0x55; len]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mapping = MmapRegionBuilder::new_with_bitmap(len, PageLog::with_len(len))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::new(file, 0))
            .build()
            .unwrap();
        let region = GuestRegionMmap::new(mapping, GuestAddress(START)).unwrap();
        let memory = filled(GuestRegionCollection::from_regions(vec![region]).unwrap());
        discard(&memory, GuestAddress(START + 0x5000), 0x3000).unwrap();
        assert_eq!(zeroed(&memory), [5, 6, 7]);
        memory.write_obj(7u8, GuestAddress(START + 0x5000)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(START + 0x5000)).unwrap(), 7);
    }
}
