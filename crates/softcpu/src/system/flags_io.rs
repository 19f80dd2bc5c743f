//! What IOPL governs: the interrupt flag, PUSHF and POPF, and the I/O ports (SDM Vol. 1, 19.5).

use crate::cpu::{Cpu, Step, Trap, rflags};
use crate::system::control::cr4;

/// Where a 32-bit or 64-bit TSS holds the offset of its I/O permission bitmap.
const TSS_BITMAP: u64 = 0x66;
/// What POPF may change at any privilege level.
const POPF_ALWAYS: u64 =
    rflags::ARITH | rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID;

impl Cpu {
    /// Whether the CPL is at most IOPL, or there is no protection at all.
    pub(crate) fn io_privileged(&self) -> bool {
        !self.protected_mode() || u64::from(self.cpl) <= (self.eflags & rflags::IOPL) >> 12
    }

    /// CLI.
    pub fn cli(&mut self) -> Step {
        self.accept(self.io_privileged())?;
        self.eflags &= !rflags::IF;
        Ok(())
    }

    /// STI: interrupts are held off for one more instruction if they were disabled.
    pub fn sti(&mut self) -> Step {
        self.accept(self.io_privileged())?;
        self.shadow |= self.eflags & rflags::IF == 0;
        self.eflags |= rflags::IF;
        Ok(())
    }

    /// The image that PUSHF pushes, to be cut to the operand size.
    pub fn pushf_value(&mut self) -> Result<u64, Trap> {
        Ok(self.rflags() & !(rflags::VM | rflags::RF))
    }

    /// POPF of an `image` of `bytes` bytes. Bits that the privilege level may not change
    /// keep their values, without a fault.
    pub fn popf(&mut self, image: u64, bytes: u8) -> Step {
        let mut changes = POPF_ALWAYS;
        if self.io_privileged() {
            changes |= rflags::IF;
        }
        if self.cpl == 0 || !self.protected_mode() {
            changes |= rflags::IOPL;
        }
        if bytes == 2 {
            changes &= 0xFFFF;
        }
        let cleared = if bytes == 2 { 0 } else { rflags::RF };
        self.set_rflags((self.rflags() & !changes | image & changes) & !cleared);
        Ok(())
    }

    /// STAC: #UD outside of CPL 0.
    pub fn stac(&mut self) -> Step {
        self.set_alignment_check(true)
    }

    /// CLAC: #UD outside of CPL 0.
    pub fn clac(&mut self) -> Step {
        self.set_alignment_check(false)
    }

    fn set_alignment_check(&mut self, set: bool) -> Step {
        if self.cpl != 0 {
            return Err(self.ud());
        }
        self.eflags = if set { self.eflags | rflags::AC } else { self.eflags & !rflags::AC };
        self.update_mode();
        Ok(())
    }

    /// Whether code may access `size` bytes of ports from `port` on, else #GP(0).
    pub fn check_io(&mut self, port: u16, size: u8) -> Step {
        if self.io_privileged() {
            return Ok(());
        }
        let allowed = self.bitmap_allows(port, size)?;
        self.accept(allowed)
    }

    /// Looks `size` ports up in the TSS's bitmap, of which always two bytes are read.
    fn bitmap_allows(&mut self, port: u16, size: u8) -> Result<bool, Trap> {
        let limit = u64::from(self.tr.limit);
        let wide = self.tr.attributes & 8 != 0;
        if self.tr.unusable || !wide || limit < TSS_BITMAP + 1 {
            return Ok(false);
        }
        let bitmap: u16 = self.read_system(self.tr.base.wrapping_add(TSS_BITMAP))?;
        let offset = u64::from(bitmap) + u64::from(port >> 3);
        if offset + 1 > limit {
            return Ok(false);
        }
        let bits: u16 = self.read_system(self.tr.base.wrapping_add(offset))?;
        let wanted = ((1u32 << size) - 1) << (port & 7);
        Ok(u32::from(bits) & wanted == 0)
    }

    /// #GP(0) for reads of the TSC that CR4.TSD forbids.
    pub(crate) fn check_tsc(&mut self) -> Step {
        self.accept(self.cr4 & cr4::TSD == 0 || self.cpl == 0)
    }
}
