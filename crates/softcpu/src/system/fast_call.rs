//! SYSCALL, SYSRET, SYSENTER and SYSEXIT as Intel CPUs have them (SDM Vol. 2, and Vol. 3A, 5.8.7
//! and 5.8.8): flat segments from model-specific registers, no memory touched.

use crate::cpu::{CodeSize, Cpu, R11, RCX, RDX, RIP, RSP, Step, rflags};
use crate::system::msr::EFER_SCE;

/// What SYSRET takes over from R11: all but RF, VM and reserved bits.
const SYSRET_FLAGS: u64 = 0x003C_7FD7;

impl Cpu {
    /// SYSCALL; `next_rip` is the address behind it. #UD outside 64-bit code.
    pub fn syscall(&mut self, next_rip: u64) -> Step {
        self.require_syscall()?;
        let flags = self.rflags();
        self.regs[RCX] = next_rip;
        self.regs[R11] = flags & !rflags::RF;
        let selector = (self.msrs.star >> 32) as u16 & !3;
        self.put_flat_code(selector, 0, true);
        self.put_flat_stack(selector.wrapping_add(8), 0);
        self.regs[RIP] = self.msrs.lstar;
        self.set_rflags(flags & !self.msrs.fmask & !rflags::RF);
        Ok(())
    }

    /// SYSRET to 64-bit (`wide`, REX.W) or 32-bit code.
    pub fn sysret(&mut self, wide: bool) -> Step {
        self.require_syscall()?;
        self.require_cpl0()?;
        let rip = self.regs[RCX];
        let rip = if wide { self.canonical_or_gp(rip)? } else { rip & 0xFFFF_FFFF };
        let selector = (self.msrs.star >> 48) as u16;
        let code = if wide { selector.wrapping_add(16) } else { selector };
        self.put_flat_code(code | 3, 3, wide);
        self.put_flat_stack(selector.wrapping_add(8) | 3, 3);
        self.regs[RIP] = rip;
        self.set_rflags(self.regs[R11] & SYSRET_FLAGS | rflags::FIXED);
        Ok(())
    }

    /// SYSENTER. #GP(0) in real mode and while IA32_SYSENTER_CS is null.
    pub fn sysenter(&mut self) -> Step {
        let selector = self.sysenter_selector()?;
        let long = self.long_mode();
        let mask = if long { u64::MAX } else { 0xFFFF_FFFF };
        self.put_flat_code(selector, 0, long);
        self.put_flat_stack(selector.wrapping_add(8), 0);
        self.regs[RSP] = self.msrs.sysenter_esp & mask;
        self.regs[RIP] = self.msrs.sysenter_eip & mask;
        self.eflags &= !(rflags::IF | rflags::VM);
        self.update_mode();
        Ok(())
    }

    /// SYSEXIT to 64-bit (`wide`, REX.W) or 32-bit code.
    pub fn sysexit(&mut self, wide: bool) -> Step {
        let selector = self.sysenter_selector()?;
        self.require_cpl0()?;
        let (rip, rsp) = (self.regs[RDX], self.regs[RCX]);
        let (rip, rsp) = if wide {
            (self.canonical_or_gp(rip)?, self.canonical_or_gp(rsp)?)
        } else {
            (rip & 0xFFFF_FFFF, rsp & 0xFFFF_FFFF)
        };
        let code = selector.wrapping_add(if wide { 32 } else { 16 });
        self.put_flat_code(code | 3, 3, wide);
        self.put_flat_stack(code.wrapping_add(8) | 3, 3);
        self.regs[RSP] = rsp;
        self.regs[RIP] = rip;
        self.update_mode();
        Ok(())
    }

    fn require_syscall(&mut self) -> Step {
        let enabled = self.efer & EFER_SCE != 0 && self.code_size == CodeSize::Bits64;
        if enabled { Ok(()) } else { Err(self.ud()) }
    }

    fn sysenter_selector(&mut self) -> Result<u16, crate::cpu::Trap> {
        let selector = self.msrs.sysenter_cs as u16 & !3;
        self.accept(self.protected_mode() && selector != 0)?;
        Ok(selector)
    }
}
