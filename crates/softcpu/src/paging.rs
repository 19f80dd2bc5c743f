//! Translation of linear addresses by the guest's page tables (SDM Vol. 3A, chapter 4).
//!
//! 4-level paging in long mode; PAE is not offered below it, and 32-bit paging is, for kernels that
//! pass through it while they enter long mode. Accessed and dirty flags are set with locked
//! operations, since other vCPUs walk the same tables.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory::RamPage;

use crate::cpu::{Cpu, Exception, Trap, rflags, vector};

/// What an access is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read data.
    Read,
    /// Write data.
    Write,
    /// Fetch code.
    Fetch,
}

/// On whose behalf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privilege {
    /// CPL is 3, and the access is not an implicit supervisor access.
    pub user: bool,
    /// SMAP is suspended (EFLAGS.AC, explicit supervisor accesses only).
    pub smap_off: bool,
}

impl Privilege {
    /// Implicit supervisor accesses: descriptor tables, the TSS, stacks of exceptions.
    pub const SYSTEM: Self = Self { user: false, smap_off: false };
}

/// A page translation.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    /// The physical address of the byte asked for.
    pub physical: u64,
    /// The mapping is global.
    pub global: bool,
    /// A write through this mapping needs no further look at the tables: it is permitted and the
    /// dirty flag is set.
    pub writable: bool,
}

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;
/// Physical address bits 12 to 51.
const FRAME: u64 = 0x000F_FFFF_FFFF_F000;
/// Physical address width that CPUID reports: bits above it are reserved.
pub const PHYSICAL_BITS: u32 = 46;
const RESERVED: u64 = FRAME & !((1 << PHYSICAL_BITS) - 1);

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PGE: u64 = 1 << 7;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_NXE: u64 = 1 << 11;

/// Page-fault error code bits (SDM Vol. 3A, figure 4-12).
mod error {
    pub const P: u32 = 1 << 0;
    pub const W: u32 = 1 << 1;
    pub const U: u32 = 1 << 2;
    pub const RSVD: u32 = 1 << 3;
    pub const I: u32 = 1 << 4;
}

/// Whether `va` is canonical for 48-bit linear addresses.
#[inline]
pub fn canonical(va: u64) -> bool {
    ((va as i64) << 16 >> 16) as u64 == va
}

impl Cpu {
    /// The privilege of plain data accesses now.
    pub fn privilege(&self) -> Privilege {
        Privilege { user: self.cpl == 3, smap_off: self.eflags & rflags::AC != 0 }
    }

    /// Translates `va` or leaves #PF pending with CR2 set. `va` is canonical (or cut to 32 bits).
    pub fn translate(
        &mut self,
        va: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<Translation, Trap> {
        if self.cr0 & CR0_PG == 0 {
            return Ok(Translation { physical: va, global: false, writable: true });
        }
        let walked = if self.long_mode() {
            self.walk_long(va, access, privilege)
        } else {
            self.walk_32(va, access, privilege)
        };
        walked.map_err(|error| self.page_fault(va, access, privilege, error))
    }

    fn page_fault(&mut self, va: u64, access: Access, privilege: Privilege, error: u32) -> Trap {
        let nx = self.efer & EFER_NXE != 0 && self.long_mode() || self.cr4 & CR4_SMEP != 0;
        let mut code = error;
        code |= if privilege.user { error::U } else { 0 };
        code |= match access {
            Access::Write => error::W,
            Access::Fetch if nx => error::I,
            Access::Fetch | Access::Read => 0,
        };
        self.cr2 = va;
        self.raise(Exception::with(vector::PF, code))
    }

    fn walk_long(&self, va: u64, access: Access, privilege: Privilege) -> Result<Translation, u32> {
        let mut table = self.cr3 & FRAME;
        let mut rights = Rights { writable: true, user: true, executable: true };
        let nxe = self.efer & EFER_NXE != 0;
        for level in (0..4).rev() {
            let slot = table | (va >> (12 + 9 * level) & 0x1FF) << 3;
            let (entry, page) = self.table_entry(slot).ok_or(0u32)?;
            let value = entry.load(Ordering::Relaxed);
            if value & P == 0 {
                return Err(0);
            }
            let leaf = level == 0 || level < 3 && value & PS != 0;
            let span = 1u64 << (12 + 9 * level);
            let misplaced = leaf && level > 0 && value & (span - 1) & FRAME & !(1 << 12) != 0;
            let bad_size = level == 3 && value & PS != 0;
            if value & RESERVED != 0 || !nxe && value & NX != 0 || misplaced || bad_size {
                return Err(error::P | error::RSVD);
            }
            rights.narrow(value);
            if !leaf {
                set_bits(entry, page, value, A);
                table = value & FRAME;
                continue;
            }
            self.check(rights, access, privilege)?;
            let dirty = if access == Access::Write { A | D } else { A };
            set_bits(entry, page, value, dirty);
            let frame = value & FRAME & !(span - 1);
            return Ok(Translation {
                physical: frame | va & (span - 1),
                global: value & G != 0 && self.cr4 & CR4_PGE != 0,
                writable: access == Access::Write
                    || value & D != 0 && self.check(rights, Access::Write, privilege).is_ok(),
            });
        }
        unreachable!("the loop returns at level 0 at the latest")
    }

    /// Two-level 32-bit paging, with 4 MiB pages if CR4.PSE is set.
    fn walk_32(&self, va: u64, access: Access, privilege: Privilege) -> Result<Translation, u32> {
        let directory = self.cr3 & 0xFFFF_F000;
        let entry = self.table_entry_32(directory | (va >> 22 & 0x3FF) << 2).ok_or(0u32)?;
        let value = u64::from(entry.load(Ordering::Relaxed));
        if value & P == 0 {
            return Err(0);
        }
        let mut rights = Rights { writable: true, user: true, executable: true };
        rights.narrow(value);
        let big = value & PS != 0 && self.cr4 & CR4_PSE != 0;
        let (entry, value, span, table) = if big {
            (entry, value, 1u64 << 22, directory)
        } else {
            entry.fetch_or(A as u32, Ordering::Relaxed);
            self.mark_dirty(directory);
            let slot = value & 0xFFFF_F000 | (va >> 12 & 0x3FF) << 2;
            let leaf = self.table_entry_32(slot).ok_or(0u32)?;
            let value = u64::from(leaf.load(Ordering::Relaxed));
            if value & P == 0 {
                return Err(0);
            }
            rights.narrow(value);
            (leaf, value, 1 << 12, slot)
        };
        self.check(rights, access, privilege)?;
        let dirty = if access == Access::Write { A | D } else { A };
        entry.fetch_or(dirty as u32, Ordering::Relaxed);
        self.mark_dirty(table);
        Ok(Translation {
            physical: value & 0xFFFF_F000 & !(span - 1) | va & (span - 1),
            global: value & G != 0 && self.cr4 & CR4_PGE != 0,
            writable: access == Access::Write
                || value & D != 0 && self.check(rights, Access::Write, privilege).is_ok(),
        })
    }

    /// The rules of SDM Vol. 3A, 4.6.1.
    fn check(&self, rights: Rights, access: Access, privilege: Privilege) -> Result<(), u32> {
        let supervisor_write_protect = self.cr0 & CR0_WP != 0;
        let allowed = match (privilege.user, access) {
            (true, Access::Read) => rights.user,
            (true, Access::Write) => rights.user && rights.writable,
            (true, Access::Fetch) => rights.user && rights.executable,
            (false, Access::Fetch) => {
                rights.executable && !(rights.user && self.cr4 & CR4_SMEP != 0)
            }
            (false, Access::Read | Access::Write) => {
                let smap = rights.user && self.cr4 & CR4_SMAP != 0 && !privilege.smap_off;
                let protected =
                    access == Access::Write && !rights.writable && supervisor_write_protect;
                !smap && !protected
            }
        };
        if allowed { Ok(()) } else { Err(error::P) }
    }

    /// The paging-structure entry at physical address `slot`, if that is RAM.
    fn table_entry(&self, slot: u64) -> Option<(&AtomicU64, RamPage<'_>)> {
        let page = self.port.ram.page(slot >> 12)?;
        // SAFETY: the entry is 8-byte aligned inside a page of RAM that lives as long as the
        // vCPU, and all of the host's accesses to page tables are atomic.
        let entry =
            unsafe { &*page.host.as_ptr().add((slot & 0xFF8) as usize).cast::<AtomicU64>() };
        Some((entry, page))
    }

    fn mark_dirty(&self, physical: u64) {
        if let Some(page) = self.port.ram.page(physical >> 12) {
            page.set_dirty();
        }
    }

    fn table_entry_32(&self, slot: u64) -> Option<&AtomicU32> {
        let page = self.port.ram.page(slot >> 12)?;
        // SAFETY: as in `table_entry`, with 4-byte alignment.
        Some(unsafe { &*page.host.as_ptr().add((slot & 0xFFC) as usize).cast::<AtomicU32>() })
    }
}

#[derive(Clone, Copy)]
struct Rights {
    writable: bool,
    user: bool,
    executable: bool,
}

impl Rights {
    fn narrow(&mut self, entry: u64) {
        self.writable &= entry & RW != 0;
        self.user &= entry & US != 0;
        self.executable &= entry & NX == 0;
    }
}

/// Sets `bits` in a paging-structure entry, unless they are.
fn set_bits(entry: &AtomicU64, page: RamPage<'_>, value: u64, bits: u64) {
    if value & bits != bits {
        entry.fetch_or(bits, Ordering::Relaxed);
        page.set_dirty();
    }
}
