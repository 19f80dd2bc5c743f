//! The software TLB, and every access of the guest to its memory.
//!
//! An access first compares the page of its last byte with a tag in a direct-mapped table; if that
//! matches, the page's bytes are at `address + addend` in this process. Everything else (a page not
//! in the table, MMIO, a page that holds decoded code, an access that crosses into another page)
//! takes the slow path in `access.rs`.
//!
//! There are four sets of entries, so that a change of privilege is a change of offset:
//! supervisor, supervisor with SMAP suspended (EFLAGS.AC), user, and one that stays empty, for runs
//! that will be undone.
//!
//! The accesses themselves are single host instructions in `asm!`: guest memory is shared with
//! other vCPUs and devices, and may be unaligned, which Rust's own memory operations do not allow.
//! On an x86 host they have exactly the ordering and atomicity that the guest expects.

use std::arch::asm;

use crate::access;
use crate::cpu::{Cpu, Trap, rflags};

/// Entries in a set.
pub const SET_ENTRIES: usize = 8192;
const ENTRIES: usize = 4 * SET_ENTRIES;
/// Offset of the set for accesses by user code.
pub const USER_SET: usize = 2 * SET_ENTRIES;
/// Offset of the set that is always empty.
pub const DRY_SET: usize = 3 * SET_ENTRIES;
/// Shifted by this and masked with [`INDEX_MASK`], an address is the offset of its entry in a set.
pub const INDEX_SHIFT: u8 = 12 - ENTRY_SHIFT;
/// See [`INDEX_SHIFT`].
pub const INDEX_MASK: i32 = (SET_ENTRIES as i32 - 1) << ENTRY_SHIFT;
/// Log2 of an entry's bytes.
const ENTRY_SHIFT: u8 = size_of::<Entry>().trailing_zeros() as u8;

const CR4_SMAP: u64 = 1 << 21;

/// One translated page.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// The page's virtual address if it may be read without asking.
    pub read: u64,
    /// The page's virtual address if it may be written without asking.
    pub write: u64,
    /// The page's first byte in this process.
    pub host: u64,
    /// Makes the entry's size a power of two.
    unused: u64,
}

impl Entry {
    /// Where the byte at `va`, whose page matched, lies in this process.
    #[inline(always)]
    fn host_of(&self, va: u64) -> u64 {
        self.host.wrapping_add(va & 0xFFF)
    }
}

/// In `Tlb::frames`: the mapping is global.
const GLOBAL: u32 = 1 << 31;

/// A tag that matches no access whose first byte has entry number `index`. Its last byte is in the
/// page of that entry or in the next one, and the tag has the bits of neither: translated code
/// compares these bits only. The interpreter compares those that page addresses have clear as well.
const fn no_page(index: usize) -> u64 {
    ((index ^ 2) << 12 | 1) as u64
}

/// Entry number `index` with no page in it.
const fn empty(index: usize) -> Entry {
    Entry { read: no_page(index), write: no_page(index), host: 0, unused: 0 }
}

/// All sets of one vCPU.
pub struct Tlb {
    entries: Box<[Entry; ENTRIES]>,
    /// The guest frame number in each entry; apart from them, since they are searched.
    frames: Box<[u32; ENTRIES]>,
    /// Indices of entries filled with pages that are not global, since they were last dropped.
    /// Guests that patch their code switch CR3 thousands of times with a handful of these.
    local: Vec<u16>,
    /// The same for global pages.
    global: Vec<u16>,
    /// The entry of each set that was last filled as writable.
    last_writable: [usize; 4],
    /// Raised by every flush that may unmap user-half code: see `block.rs`.
    pub low_generation: u32,
    /// Raised by every flush that may unmap kernel-half code.
    pub high_generation: u32,
}

impl Default for Tlb {
    fn default() -> Self {
        let entries: Vec<_> = (0..ENTRIES).map(empty).collect();
        Self {
            entries: boxed(entries),
            frames: boxed(vec![0; ENTRIES]),
            local: Vec::with_capacity(ENTRIES),
            global: Vec::with_capacity(ENTRIES),
            last_writable: [0; 4],
            low_generation: 1,
            high_generation: 1,
        }
    }
}

fn boxed<T>(values: Vec<T>) -> Box<[T; ENTRIES]> {
    let boxed = values.into_boxed_slice().try_into();
    boxed.unwrap_or_else(|_| unreachable!("the length is ENTRIES"))
}

impl Tlb {
    /// The set that an access at `cpl` uses.
    pub fn set_for(cpl: u8, cr4: u64, eflags: u64) -> usize {
        match cpl {
            3 => USER_SET,
            _ if cr4 & CR4_SMAP != 0 && eflags & rflags::AC != 0 => SET_ENTRIES,
            _ => 0,
        }
    }

    #[inline(always)]
    fn index(set: usize, va: u64) -> usize {
        (set | (va >> 12) as usize & (SET_ENTRIES - 1)) & (ENTRIES - 1)
    }

    /// The address of a set's first entry.
    pub fn set_address(&self, set: usize) -> u64 {
        std::ptr::from_ref(&self.entries[set & (ENTRIES - 1)]) as u64
    }

    /// The address and the place in this process of a page that may be written: that of `va`, or
    /// another if that is not in the set.
    pub fn writable_page(&self, set: usize, va: u64) -> Option<(u64, u64)> {
        let page = |entry: &Entry| (entry.write, entry.host);
        let entry = self.entry(set, va);
        if entry.write == va & !0xFFF {
            return Some(page(entry));
        }
        let last = &self.entries[self.last_writable[(set / SET_ENTRIES) & 3] & (ENTRIES - 1)];
        (last.write & 0xFFF == 0).then(|| page(last))
    }

    /// The entry that would hold the page of `va`.
    #[inline(always)]
    pub fn entry(&self, set: usize, va: u64) -> &Entry {
        &self.entries[Self::index(set, va)]
    }

    /// Puts a page in. `host` is its first byte in this process.
    pub fn fill(
        &mut self,
        set: usize,
        va: u64,
        host: u64,
        frame: u64,
        global: bool,
        writable: bool,
    ) {
        let page = va & !0xFFF;
        let index = Self::index(set, va);
        self.note(index, global);
        let mark = if global { GLOBAL } else { 0 };
        self.frames[index] = frame as u32 & !GLOBAL | mark;
        if writable {
            self.last_writable[(set / SET_ENTRIES) & 3] = index;
        }
        let entry = &mut self.entries[index];
        entry.read = page;
        entry.write = if writable { page } else { no_page(index) };
        entry.host = host;
    }

    fn note(&mut self, index: usize, global: bool) {
        let list = if global { &mut self.global } else { &mut self.local };
        if list.len() < ENTRIES {
            return list.push(index as u16);
        }
        // The list is full, of repetitions perhaps: its entries start anew.
        if global {
            self.drop_global();
            self.global.push(index as u16);
        } else {
            self.drop_local();
            self.local.push(index as u16);
        }
    }

    fn drop_global(&mut self) {
        for index in self.global.drain(..) {
            let index = usize::from(index) & (ENTRIES - 1);
            if self.frames[index] & GLOBAL != 0 {
                self.entries[index] = empty(index);
            }
        }
    }

    fn drop_local(&mut self) {
        for index in self.local.drain(..) {
            let index = usize::from(index) & (ENTRIES - 1);
            if self.frames[index] & GLOBAL == 0 {
                self.entries[index] = empty(index);
            }
        }
    }

    /// Drops everything.
    pub fn flush_all(&mut self) {
        self.drop_local();
        self.drop_global();
        self.low_generation = self.low_generation.wrapping_add(1);
        self.high_generation = self.high_generation.wrapping_add(1);
    }

    /// Drops all but global pages, as a write to CR3 does.
    pub fn flush_non_global(&mut self) {
        self.drop_local();
        self.low_generation = self.low_generation.wrapping_add(1);
    }

    /// Drops the page of `va`, as INVLPG does.
    pub fn flush_page(&mut self, va: u64) {
        for set in [0, SET_ENTRIES, USER_SET] {
            let index = Self::index(set, va);
            self.entries[index] = empty(index);
        }
        if va >> 63 == 0 {
            self.low_generation = self.low_generation.wrapping_add(1);
        } else {
            self.high_generation = self.high_generation.wrapping_add(1);
        }
    }

    /// Makes guest frame `frame` not writable without asking.
    pub fn protect_frame(&mut self, frame: u64) {
        let frame = frame as u32 & !GLOBAL;
        for (index, found) in self.frames.iter().enumerate() {
            if found & !GLOBAL == frame {
                self.entries[index].write = no_page(index);
            }
        }
    }
}

/// The integer widths of operands.
pub trait Width: Copy + Eq + 'static {
    /// Bytes.
    const BYTES: u64;
    /// From the low bits of a register.
    fn from_u64(value: u64) -> Self;
    /// Zero-extended.
    fn to_u64(self) -> u64;
    /// Sign-extended.
    fn to_i64(self) -> i64;
    /// Reads guest memory with one instruction.
    ///
    /// # Safety
    /// `host` points to `BYTES` bytes of guest RAM.
    unsafe fn load(host: u64) -> Self;
    /// Writes guest memory with one instruction.
    ///
    /// # Safety
    /// As for `load`.
    unsafe fn store(host: u64, value: Self);
}

macro_rules! width {
    ($ty:ty, $signed:ty, $class:ident, $mov:literal, $store:literal) => {
        impl Width for $ty {
            const BYTES: u64 = size_of::<$ty>() as u64;
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $ty
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as $signed as i64
            }
            #[inline(always)]
            unsafe fn load(host: u64) -> Self {
                let value: $ty;
                // SAFETY: the caller vouches for `host`.
                unsafe {
                    asm!($mov, v = out($class) value, p = in(reg) host,
                         options(nostack, preserves_flags, readonly));
                }
                value
            }
            #[inline(always)]
            unsafe fn store(host: u64, value: Self) {
                // SAFETY: the caller vouches for `host`.
                unsafe {
                    asm!($store, v = in($class) value, p = in(reg) host,
                         options(nostack, preserves_flags));
                }
            }
        }
    };
}

width!(u8, i8, reg_byte, "mov {v}, byte ptr [{p}]", "mov byte ptr [{p}], {v}");
width!(u16, i16, reg, "mov {v:x}, word ptr [{p}]", "mov word ptr [{p}], {v:x}");
width!(u32, i32, reg, "mov {v:e}, dword ptr [{p}]", "mov dword ptr [{p}], {v:e}");
width!(u64, i64, reg, "mov {v:r}, qword ptr [{p}]", "mov qword ptr [{p}], {v:r}");

/// Where a read-modify-write may work: see [`Cpu::modify`].
#[derive(Clone, Copy)]
pub struct Place {
    /// Host address of the operand.
    pub host: u64,
    /// Set if `Cpu::modified` must be called behind the change.
    pub slow: bool,
}

impl Cpu {
    /// Loads from linear address `va` with the current privilege.
    #[inline(always)]
    pub fn load<T: Width>(&mut self, va: u64) -> Result<T, Trap> {
        let entry = self.tlb.entry(self.tlb_set, va);
        if entry.read == va.wrapping_add(T::BYTES - 1) & !0xFFF {
            // SAFETY: a filled entry maps the whole page to guest RAM, which lives as long as the
            // vCPU; the tag says that first and last byte are in that page.
            return Ok(unsafe { T::load(entry.host_of(va)) });
        }
        access::call_slow_load(self, va, T::BYTES).map(T::from_u64)
    }

    /// Stores to linear address `va` with the current privilege.
    #[inline(always)]
    pub fn store<T: Width>(&mut self, va: u64, value: T) -> Result<(), Trap> {
        let entry = self.tlb.entry(self.tlb_set, va);
        if entry.write == va.wrapping_add(T::BYTES - 1) & !0xFFF {
            // SAFETY: as in `load`.
            unsafe { T::store(entry.host_of(va), value) };
            return Ok(());
        }
        access::call_slow_store(self, va, T::BYTES, value.to_u64())
    }

    /// Finds the place of an operand that is read and then written, with the rights for both
    /// checked, so that nothing can fail between the two.
    #[inline(always)]
    pub fn modify<T: Width>(&mut self, va: u64) -> Result<Place, Trap> {
        let entry = self.tlb.entry(self.tlb_set, va);
        if entry.write == va.wrapping_add(T::BYTES - 1) & !0xFFF {
            return Ok(Place { host: entry.host_of(va), slow: false });
        }
        let host = access::call_slow_modify(self, va, T::BYTES)?;
        Ok(Place { host, slow: true })
    }

    /// [`Cpu::modify`] for sixteen bytes, aligned to sixteen.
    pub fn modify_16(&mut self, va: u64) -> Result<Place, Trap> {
        let entry = self.tlb.entry(self.tlb_set, va);
        if entry.write == va & !0xFFF {
            return Ok(Place { host: entry.host_of(va), slow: false });
        }
        let host = access::call_slow_modify(self, va, 16)?;
        Ok(Place { host, slow: true })
    }

    /// Completes a change made at a `place` that is slow.
    #[inline(always)]
    pub fn modified(&mut self, place: Place) {
        if place.slow {
            access::call_slow_modified(self);
        }
    }
}

impl Cpu {
    /// Copies `bytes` from `from` to `to`, both stretches inside one page each, as REP MOVS with
    /// elements of `element` bytes going upwards does. False, with nothing done, if a page is not
    /// at hand or the stretches overlap so that the order of bytes matters.
    pub fn copy_inside_pages(&mut self, from: u64, to: u64, bytes: u64, element: u64) -> bool {
        let (source, target) =
            (*self.tlb.entry(self.tlb_set, from), *self.tlb.entry(self.tlb_set, to));
        if source.read != from & !0xFFF || target.write != to & !0xFFF {
            return false;
        }
        let source = source.host_of(from);
        let target = target.host_of(to);
        if target > source && target < source + bytes && target - source < element.max(8) {
            return false;
        }
        // SAFETY: both tags match, so both stretches lie in mapped pages of RAM. MOVSB going
        // upwards has the guest's own semantics on overlap.
        unsafe {
            asm!("rep movsb", inout("rcx") bytes => _, inout("rsi") source => _,
                 inout("rdi") target => _, options(nostack, preserves_flags));
        }
        true
    }

    /// Stores `elements` times `value` from `to` upwards, inside one page; false, with nothing
    /// done, if the page is not at hand.
    pub fn fill_inside_page<T: Width>(&mut self, to: u64, elements: u64, value: T) -> bool {
        let entry = *self.tlb.entry(self.tlb_set, to);
        if entry.write != to & !0xFFF {
            return false;
        }
        let target = entry.host_of(to);
        let value = value.to_u64();
        // SAFETY: the tag matches, so the stretch lies in a mapped page of RAM.
        unsafe {
            match T::BYTES {
                8 => {
                    asm!("rep stosq", inout("rcx") elements => _, inout("rdi") target => _, in("rax") value, options(nostack, preserves_flags))
                }
                4 => {
                    asm!("rep stosd", inout("rcx") elements => _, inout("rdi") target => _, in("rax") value, options(nostack, preserves_flags))
                }
                2 => {
                    asm!("rep stosw", inout("rcx") elements => _, inout("rdi") target => _, in("rax") value, options(nostack, preserves_flags))
                }
                _ => {
                    asm!("rep stosb", inout("rcx") elements => _, inout("rdi") target => _, in("rax") value, options(nostack, preserves_flags))
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Translated code found pages of other entries in the tags of empty ones, for accesses that
    /// end in the page behind the one that they begin in.
    #[test]
    fn regression_an_empty_entry_matches_no_access() {
        for index in 0..SET_ENTRIES {
            let tag = empty(index).write >> 12;
            for last in [index, (index + 1) % SET_ENTRIES] {
                assert_ne!(tag as usize % SET_ENTRIES, last, "entry {index}");
            }
        }
    }
}
