//! Control registers (SDM Vol. 3A, 2.5, and 10.8.5 for entering and leaving long mode).

use crate::cpu::{CodeSize, Cpu, Step, Trap};
use crate::paging::PHYSICAL_BITS;
use crate::system::msr::{EFER_LMA, EFER_LME, cs_is_long};

/// Bits of CR0.
mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const WP: u64 = 1 << 16;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    /// All that exist: PE, MP, EM, TS, ET, NE, WP, AM, NW, CD and PG.
    pub const KNOWN: u64 = 0x3F | WP | 1 << 18 | NW | CD | PG;
    /// What LMSW writes: PE, MP, EM and TS.
    pub const MACHINE_STATUS: u64 = 0xF;
    /// What changes translations.
    pub const PAGING: u64 = PE | WP | PG;
}

/// Bits of CR4.
pub(crate) mod cr4 {
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
    /// All that CPUID offers; the others are #GP(0).
    pub const OFFERED: u64 =
        TSD | DE | PSE | PAE | PGE | PCE | OSFXSR | OSXMMEXCPT | FSGSBASE | OSXSAVE | SMEP | SMAP;
    /// What changes translations.
    pub const PAGING: u64 = PSE | PAE | PGE | SMEP | SMAP;
}

const CR3_RESERVED: u64 = !((1 << PHYSICAL_BITS) - 1);

/// The task state segments of 16 bits, available and busy, which long mode does not know.
const TSS16_TYPES: [u16; 2] = [1, 3];

impl Cpu {
    /// MOV from CR0, CR2, CR3, CR4 or CR8; #UD for the others.
    pub fn read_cr(&mut self, number: u8) -> Result<u64, Trap> {
        let value = match number {
            0 => self.cr0,
            2 => self.cr2,
            3 => self.cr3,
            4 => self.cr4,
            8 => u64::from(self.cr8()),
            _ => return Err(self.ud()),
        };
        self.require_cpl0()?;
        Ok(value)
    }

    /// MOV to CR0, CR2, CR3, CR4 or CR8. The outer loop is to look at the world behind it.
    pub fn write_cr(&mut self, number: u8, value: u64) -> Step {
        if !matches!(number, 0 | 2 | 3 | 4 | 8) {
            return Err(self.ud());
        }
        self.require_cpl0()?;
        match number {
            0 => self.write_cr0(value),
            2 => {
                self.cr2 = value;
                Ok(())
            }
            3 => self.write_cr3(value),
            4 => self.write_cr4(value),
            _ => {
                self.refuse_bits(value, !0xF)?;
                self.set_cr8(value as u8);
                Ok(())
            }
        }
    }

    fn write_cr0(&mut self, value: u64) -> Step {
        self.refuse_bits(value, !0xFFFF_FFFF)?;
        let value = value & cr0::KNOWN | cr0::ET;
        let has = |bit| value & bit != 0;
        self.accept((!has(cr0::PG) || has(cr0::PE)) && (!has(cr0::NW) || has(cr0::CD)))?;
        let changed = value ^ self.cr0;
        if changed & cr0::PG != 0 {
            if has(cr0::PG) {
                self.check_paging_on()?;
            } else {
                // Paging can be left from compatibility mode only.
                self.accept(self.code_size != CodeSize::Bits64)?;
            }
        }
        self.cr0 = value;
        let long = has(cr0::PG) && self.efer & EFER_LME != 0;
        self.efer = if long { self.efer | EFER_LMA } else { self.efer & !EFER_LMA };
        if changed & cr0::PAGING != 0 {
            self.tlb.flush_all();
        }
        self.update_mode();
        Ok(())
    }

    /// Long mode needs PAE, a CS that is not yet a 64-bit one, and no 16-bit TSS. Below it, PAE
    /// is not offered.
    fn check_paging_on(&mut self) -> Step {
        let pae = self.cr4 & cr4::PAE != 0;
        let long = self.efer & EFER_LME != 0;
        let tss16 = !self.tr.unusable && TSS16_TYPES.contains(&(self.tr.attributes & 0xF));
        if !long && pae {
            log::warn!("vCPU {}: PAE paging outside of long mode is not offered: #GP", self.id);
        }
        let ready = pae && !cs_is_long(self) && !tss16;
        self.accept(if long { ready } else { !pae })
    }

    fn write_cr3(&mut self, value: u64) -> Step {
        let long = self.long_mode();
        self.accept(!long || value & CR3_RESERVED == 0)?;
        self.cr3 = if long { value } else { value & 0xFFFF_FFFF };
        self.tlb.flush_non_global();
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Step {
        self.refuse_bits(value, !cr4::OFFERED)?;
        self.accept(!self.long_mode() || value & cr4::PAE != 0)?;
        let changed = value ^ self.cr4;
        self.cr4 = value;
        if changed & cr4::PAGING != 0 {
            self.tlb.flush_all();
        }
        self.update_mode();
        Ok(())
    }

    /// LMSW: the low four bits of CR0; PE can be set but not cleared.
    pub fn lmsw(&mut self, value: u16) -> Step {
        self.require_cpl0()?;
        let bits = u64::from(value) & cr0::MACHINE_STATUS;
        let kept = self.cr0 & !(cr0::MACHINE_STATUS & !cr0::PE);
        self.write_cr0(kept | bits)
    }

    /// CLTS.
    pub fn clts(&mut self) -> Step {
        self.require_cpl0()?;
        self.cr0 &= !cr0::TS;
        Ok(())
    }
}
