//! Instructions about the CPU itself: CPUID, the time stamp counter, XCR0, the bases of FS and GS,
//! random numbers, hypercalls.

use crate::cpu::{CodeSize, Cpu, GS_BASE, RAX, RBX, RCX, RDX, Step};
use crate::flags::FX_CF;
use crate::system::control::cr4;
use crate::system::cpuid::{CpuidContext, cpuid};
use crate::system::random;

/// XCR0: x87, which cannot be disabled.
const XCR0_X87: u64 = 1 << 0;
/// XCR0: SSE.
const XCR0_SSE: u64 = 1 << 1;
/// KVM's answer to a hypercall that it does not know, Linux's `KVM_ENOSYS`.
const HYPERCALL_UNKNOWN: i64 = -1000;
/// Its answer to user code, Linux's `KVM_EPERM`.
const HYPERCALL_FORBIDDEN: i64 = -1;

impl Cpu {
    /// CPUID: EAX and ECX in, EAX, EBX, ECX and EDX out.
    pub fn cpuid_instruction(&mut self) {
        let (leaf, subleaf) = (self.regs[RAX] as u32, self.regs[RCX] as u32);
        let words = cpuid(leaf, subleaf, &self.cpuid_context());
        for (register, word) in [RAX, RBX, RCX, RDX].into_iter().zip(words) {
            self.regs[register] = u64::from(word);
        }
    }

    fn cpuid_context(&self) -> CpuidContext<'_> {
        CpuidContext {
            vcpu_id: self.id,
            vcpu_count: self.shared.vcpus,
            cr4: self.cr4,
            changes: self.shared.cpu_template.cpuid(),
        }
    }

    /// RDTSC.
    pub fn rdtsc(&mut self) -> Step {
        self.check_tsc()?;
        self.put_pair(self.tsc());
        Ok(())
    }

    /// RDTSCP.
    pub fn rdtscp(&mut self) -> Step {
        self.rdtsc()?;
        self.regs[RCX] = self.msrs.tsc_aux;
        Ok(())
    }

    /// XGETBV of XCR0.
    pub fn xgetbv(&mut self) -> Step {
        self.require_xsave()?;
        self.accept(self.regs[RCX] as u32 == 0)?;
        self.put_pair(self.xcr0);
        Ok(())
    }

    /// XSETBV of XCR0.
    pub fn xsetbv(&mut self) -> Step {
        self.require_xsave()?;
        self.require_cpl0()?;
        let value = self.pair();
        let valid = value & XCR0_X87 != 0 && value & !(XCR0_X87 | XCR0_SSE) == 0;
        self.accept(self.regs[RCX] as u32 == 0 && valid)?;
        self.xcr0 = value;
        Ok(())
    }

    fn require_xsave(&mut self) -> Step {
        if self.cr4 & cr4::OSXSAVE != 0 { Ok(()) } else { Err(self.ud()) }
    }

    /// EDX:EAX.
    fn pair(&self) -> u64 {
        self.regs[RDX] << 32 | self.regs[RAX] & 0xFFFF_FFFF
    }

    fn put_pair(&mut self, value: u64) {
        self.regs[RAX] = value & 0xFFFF_FFFF;
        self.regs[RDX] = value >> 32;
    }

    /// SWAPGS.
    pub fn swapgs(&mut self) -> Step {
        if self.code_size != CodeSize::Bits64 {
            return Err(self.ud());
        }
        self.require_cpl0()?;
        std::mem::swap(&mut self.regs[GS_BASE], &mut self.msrs.kernel_gs_base);
        Ok(())
    }

    /// What RDFSBASE, WRGSBASE and their kin ask before they touch a base: #UD unless CR4.FSGSBASE
    /// offers them to 64-bit code.
    pub fn check_fsgsbase(&mut self) -> Step {
        let offered = self.cr4 & cr4::FSGSBASE != 0 && self.code_size == CodeSize::Bits64;
        if offered { Ok(()) } else { Err(self.ud()) }
    }

    /// RDRAND and RDSEED: a value to be cut to the operand size. CF says whether there was one;
    /// the other arithmetic flags are cleared.
    pub fn random(&mut self) -> u64 {
        let value = random::next();
        self.fx = if value.is_some() { FX_CF } else { 0 };
        value.unwrap_or(0)
    }

    /// VMCALL and VMMCALL: no hypercall is known.
    pub fn vmcall(&mut self) -> Step {
        let answer = if self.cpl == 0 { HYPERCALL_UNKNOWN } else { HYPERCALL_FORBIDDEN };
        self.regs[RAX] = answer as u64;
        Ok(())
    }
}
