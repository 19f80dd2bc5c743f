//! The log of written pages, one [`PageState`] for each 4 KiB page of a RAM region.
//!
//! A page is in one of two states towards the software CPU:
//!
//! ```text
//!            note_code(lines)                      written(lines that hold code)
//!   plain ───────────────────────▶ holds code ───────────────────────────────────▶ plain
//!                                                  version += 1: decoded blocks die
//! ```
//!
//! A vCPU may cache a page as writable only while it is plain. It announces that with
//! [`PageState::announce_writer`] *before* it checks [`PageState::holds_code`]; the vCPU that
//! decodes calls [`PageState::note_code`] *before* it reads [`PageState::writers`]. Both are
//! sequentially consistent, so at least one of the two sees the other (Dekker's pattern).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

use crate::PAGE_SIZE;

/// Granularity, in bytes, at which a page remembers where it holds decoded code: 64 lines a page.
pub const LINE_SIZE: u64 = 64;

/// What is known of one 4 KiB page of guest RAM. All zero is the state of a page never touched.
#[derive(Debug, Default)]
pub struct PageState {
    /// Bit n: line n (64 bytes) holds code that some vCPU decoded.
    code_lines: AtomicU64,
    /// Raised whenever decoded code in this page may have gone stale.
    version: AtomicU32,
    /// Bit n: vCPU n may hold a TLB entry that lets it write here without asking.
    writers: AtomicU32,
}

impl PageState {
    /// The counter that decoded blocks compare with to learn whether they are stale.
    #[inline]
    pub fn version(&self) -> &AtomicU32 {
        &self.version
    }

    /// Whether any line of the page holds decoded code.
    #[inline]
    pub fn holds_code(&self) -> bool {
        self.code_lines.load(Ordering::SeqCst) != 0
    }

    /// Whether any of `len` bytes from `offset` lies in a line that holds decoded code.
    #[inline]
    pub fn code_in(&self, offset: u64, len: u64) -> bool {
        self.code_lines.load(Ordering::SeqCst) & line_mask(offset, len) != 0
    }

    /// Records that `len` bytes from `offset` in the page are about to be decoded as code. Says
    /// whether the page was plain until now.
    pub fn note_code(&self, offset: u64, len: u64) -> bool {
        self.code_lines.fetch_or(line_mask(offset, len), Ordering::SeqCst) == 0
    }

    /// Records a write of `len` bytes at `offset` in the page that has already happened. Says
    /// whether it hit decoded code, which is then stale.
    #[inline]
    pub fn written(&self, offset: u64, len: u64) -> bool {
        if self.code_lines.load(Ordering::SeqCst) & line_mask(offset, len) == 0 {
            return false;
        }
        self.code_lines.store(0, Ordering::SeqCst);
        self.version.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// vCPU `id` (0 to 31) is about to cache this page as writable.
    #[inline]
    pub fn announce_writer(&self, id: u8) {
        let bit = 1 << (id & 31);
        if self.writers.load(Ordering::Relaxed) & bit == 0 {
            self.writers.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// The vCPUs, as a bit mask, that may have cached this page as writable.
    #[inline]
    pub fn writers(&self) -> u32 {
        self.writers.load(Ordering::SeqCst)
    }

    /// Forgets the announced writers in `mask`, who have dropped their cached entries.
    pub fn retract_writers(&self, mask: u32) {
        self.writers.fetch_and(!mask, Ordering::SeqCst);
    }
}

/// The lines that `len` bytes from `offset` touch; what lies beyond the page is cut off.
fn line_mask(offset: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    let first = (offset % PAGE_SIZE) / LINE_SIZE;
    let last = ((offset % PAGE_SIZE) + len - 1).min(PAGE_SIZE - 1) / LINE_SIZE;
    (u64::MAX >> (63 - (last - first))) << first
}

/// A zeroed, lazily backed array of `T`, where all-zero bytes are a valid `T`.
///
/// A `Vec` would touch every element to initialise it, which for the page states of a large guest
/// costs milliseconds and megabytes that most pages never need.
struct ZeroedArray<T> {
    ptr: NonNull<T>,
    len: usize,
}

impl<T: Zeroable> ZeroedArray<T> {
    fn new(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero: `layout` rounds an empty array up to one element.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw.cast::<T>()) else { handle_alloc_error(layout) };
        Self { ptr, len }
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len.max(1)).expect("RAM sizes are bounded far below isize::MAX")
    }

    fn as_slice(&self) -> &[T] {
        // SAFETY: `ptr` holds `len` elements, zeroed at allocation, which `Zeroable` says is valid.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T> Drop for ZeroedArray<T> {
    fn drop(&mut self) {
        let layout = Layout::array::<T>(self.len.max(1)).expect("as it was allocated");
        // SAFETY: allocated in `new` with this very layout.
        unsafe { dealloc(self.ptr.as_ptr().cast(), layout) }
    }
}

// SAFETY: the array owns its elements; sharing it is sharing `&T`.
unsafe impl<T: Send> Send for ZeroedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for ZeroedArray<T> {}

/// Types for which all-zero bytes are a valid value and that need no drop.
trait Zeroable {}
impl Zeroable for PageState {}
impl Zeroable for AtomicU64 {}

/// The states of a RAM region's pages, and which of them were written.
pub struct PageLog {
    pages: ZeroedArray<PageState>,
    /// One bit a page.
    dirty: ZeroedArray<AtomicU64>,
}

impl std::fmt::Debug for PageLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageLog({} pages)", self.pages.len)
    }
}

impl PageLog {
    /// The state of page `index` (counted from the region's start), if the region has it.
    #[inline]
    pub fn page(&self, index: usize) -> Option<&PageState> {
        self.pages.as_slice().get(index)
    }

    /// All page states, in address order.
    pub fn pages(&self) -> &[PageState] {
        self.pages.as_slice()
    }

    /// Sets the written bit of page `index`.
    #[inline]
    pub fn set_dirty(&self, index: usize) {
        if let Some(word) = self.dirty.as_slice().get(index / 64) {
            let bit = 1 << (index % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Indices of the pages written since the last call, and forgets them.
    ///
    /// The caller has stopped the vCPUs and makes them drop their writable TLB entries.
    pub fn take_dirty(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for (i, word) in self.dirty.as_slice().iter().enumerate() {
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                found.push(i * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
        found
    }
}

impl Default for PageLog {
    fn default() -> Self {
        Self::with_len(0)
    }
}

impl NewBitmap for PageLog {
    fn with_len(len: usize) -> Self {
        let pages = len.div_ceil(PAGE_SIZE as usize);
        Self { pages: ZeroedArray::new(pages), dirty: ZeroedArray::new(pages.div_ceil(64)) }
    }
}

impl<'a> WithBitmapSlice<'a> for PageLog {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for PageLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let page_size = PAGE_SIZE as usize;
        let end = offset.saturating_add(len);
        for index in offset / page_size..=(end - 1) / page_size {
            let Some(page) = self.page(index) else { return };
            self.set_dirty(index);
            let start = offset.max(index * page_size);
            let stop = end.min((index + 1) * page_size);
            page.written((start % page_size) as u64, (stop - start) as u64);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let index = offset / PAGE_SIZE as usize;
        let word = self.dirty.as_slice().get(index / 64);
        word.is_some_and(|w| w.load(Ordering::Relaxed) & (1 << (index % 64)) != 0)
    }

    fn slice_at(&self, offset: usize) -> <Self as WithBitmapSlice<'_>>::S {
        RefSlice::new(self, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_masks() {
        for (offset, len, expected) in [
            (0, 1, 1),
            (63, 1, 1),
            (63, 2, 0b11),
            (64, 64, 0b10),
            (4095, 1, 1 << 63),
            (4095, 100, 1 << 63),
            (0, 4096, u64::MAX),
            (10, 0, 0),
        ] {
            assert_eq!(line_mask(offset, len), expected, "{offset}+{len}");
        }
    }

    #[test]
    fn a_write_to_code_raises_the_version_once() {
        let log = PageLog::with_len(3 * 4096);
        let page = log.page(1).unwrap();
        page.note_code(128, 20);
        log.mark_dirty(4096, 64);
        assert_eq!(page.version().load(Ordering::SeqCst), 0);
        log.mark_dirty(4096 + 100, 64);
        assert_eq!(page.version().load(Ordering::SeqCst), 1);
        assert!(!page.holds_code());
        log.mark_dirty(4096 + 100, 64);
        assert_eq!(page.version().load(Ordering::SeqCst), 1);
    }

    #[test]
    fn dirty_pages_are_taken_once() {
        let log = PageLog::with_len(200 * 4096);
        log.mark_dirty(4095, 2);
        log.mark_dirty(199 * 4096, 1 << 40);
        assert!(log.dirty_at(0) && log.dirty_at(4096) && !log.dirty_at(8192));
        assert_eq!(log.take_dirty(), [0, 1, 199]);
        assert!(log.take_dirty().is_empty());
    }
}
