//! x87, MMX and SSE: the glue to the `simd` crate, and the moves that are too frequent for it.

use simd::{Class, Exception as FpException, MemUse, Outcome, Plan};

use crate::cpu::{Cpu, Exception, RDI, Step, vector};
use crate::op::{Exec, Op};
use crate::tlb::Width;

const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;

impl Cpu {
    /// #UD or #NM where the control registers forbid instructions of this class.
    #[inline(always)]
    pub fn check_fp(&mut self, class: Class) -> Step {
        if self.cr0 & (CR0_EM | CR0_TS) == 0 && self.cr4 & CR4_OSFXSR != 0 && class != Class::Xsave {
            return Ok(());
        }
        self.check_fp_slowly(class)
    }

    #[cold]
    #[inline(never)]
    fn check_fp_slowly(&mut self, class: Class) -> Step {
        let (em, ts) = (self.cr0 & CR0_EM != 0, self.cr0 & CR0_TS != 0);
        let undefined = match class {
            Class::Mmx => em,
            Class::Sse => em || self.cr4 & CR4_OSFXSR == 0,
            Class::Xsave => self.cr4 & CR4_OSXSAVE == 0,
            Class::X87 | Class::Wait | Class::Plain => false,
        };
        let not_available = match class {
            Class::X87 => em || ts,
            Class::Wait => ts && self.cr0 & CR0_MP != 0,
            Class::Mmx | Class::Sse | Class::Xsave => ts,
            Class::Plain => false,
        };
        match (undefined, not_available) {
            (true, _) => Err(self.ud()),
            (false, true) => Err(self.raise(Exception::plain(vector::NM))),
            (false, false) => Ok(()),
        }
    }

    fn run_plan(&mut self, op: &Op, plan: &Plan) -> Step {
        self.check_fp(plan.class)?;
        let va = self.plan_address(op, plan)?;
        let len = usize::from(plan.mem_bytes);
        let mut operand = std::mem::take(&mut self.port.operand);
        let result = self.run_plan_on(plan, va, &mut operand, len);
        self.port.operand = operand;
        result
    }

    fn plan_address(&mut self, op: &Op, plan: &Plan) -> Result<u64, crate::cpu::Trap> {
        if plan.mem == MemUse::None {
            return Ok(0);
        }
        let write = plan.mem != MemUse::Read;
        let bytes = u64::from(plan.mem_bytes);
        let va = if plan.at_rdi {
            let with_base = Op { base: RDI as u8, disp: 0, ..copy_of(op) };
            self.slow_address(&with_base, bytes, write)?
        } else {
            self.slow_address(op, bytes, write)?
        };
        if va & (u64::from(plan.align) - 1) != 0 {
            return Err(self.gp0());
        }
        Ok(va)
    }

    fn run_plan_on(&mut self, plan: &Plan, va: u64, operand: &mut simd::Operand, len: usize) -> Step {
        if matches!(plan.mem, MemUse::Read | MemUse::ReadWrite) {
            let bytes = &mut operand.bytes_mut()[..len];
            self.load_bytes(va, bytes)?;
        }
        let flags = self.rflags();
        match plan.run(&mut self.fp, &mut self.regs, operand, flags) {
            Outcome::Done => {}
            Outcome::Flags(flags) => self.fx = crate::flags::from_rflags(u64::from(flags)),
            Outcome::Raise(FpException::Mf) => {
                return Err(self.raise(Exception::plain(vector::MF)));
            }
            Outcome::Raise(FpException::Xm) if self.cr4 & CR4_OSXMMEXCPT == 0 => {
                return Err(self.ud());
            }
            Outcome::Raise(FpException::Xm) => {
                return Err(self.raise(Exception::plain(vector::XM)));
            }
            Outcome::Raise(FpException::Gp) => return Err(self.gp0()),
        }
        if matches!(plan.mem, MemUse::Write | MemUse::ReadWrite) {
            self.store_bytes(va, &operand.bytes()[..len])?;
        }
        Ok(())
    }

    /// Loads up to a page, by the fast path where the width has one.
    fn load_bytes(&mut self, va: u64, bytes: &mut [u8]) -> Step {
        match bytes.len() {
            16 if va & 0xFFF <= 0xFF0 => {
                let low = self.load::<u64>(va)?;
                let high = self.load::<u64>(va.wrapping_add(8))?;
                bytes[..8].copy_from_slice(&low.to_le_bytes());
                bytes[8..].copy_from_slice(&high.to_le_bytes());
            }
            8 => bytes.copy_from_slice(&self.load::<u64>(va)?.to_le_bytes()),
            4 => bytes.copy_from_slice(&self.load::<u32>(va)?.to_le_bytes()),
            _ => {
                let privilege = self.privilege();
                self.read_linear(va, bytes, privilege)?;
            }
        }
        Ok(())
    }

    fn store_bytes(&mut self, va: u64, bytes: &[u8]) -> Step {
        match bytes.len() {
            16 if va & 0xFFF <= 0xFF0 => {
                let (low, high) = halves(bytes);
                self.store(va, low)?;
                self.store(va.wrapping_add(8), high)
            }
            8 => self.store(va, halves(bytes).0),
            4 => self.store(va, halves(bytes).0 as u32),
            _ => {
                let privilege = self.privilege();
                self.write_linear(va, bytes, privilege)
            }
        }
    }
}

fn halves(bytes: &[u8]) -> (u64, u64) {
    let mut whole = [0; 16];
    let len = bytes.len().min(16);
    whole[..len].copy_from_slice(&bytes[..len]);
    let value = u128::from_le_bytes(whole);
    (value as u64, (value >> 64) as u64)
}

fn copy_of(op: &Op) -> Op {
    Op {
        run: op.run,
        imm: op.imm.clone(),
        disp: op.disp,
        aux: op.aux,
        a: op.a,
        b: op.b,
        base: op.base,
        index: op.index,
        scale: op.scale,
        seg: op.seg,
        offset: op.offset,
        next: op.next,
    }
}

/// Runs plan number `op.aux` of the code cache.
pub struct RunPlan;
impl Exec for RunPlan {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let plan = cpu.code.plan(op.aux);
        cpu.run_plan(op, &plan)
    }
}

/// MOVUPS, MOVAPS and kin: 16 bytes from memory to XMM `op.a`; `ALIGNED` ones demand alignment.
pub struct LoadXmm<const ALIGNED: bool>;
impl<const ALIGNED: bool> Exec for LoadXmm<ALIGNED> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.check_fp(Class::Sse)?;
        let va = cpu.address::<u64, false>(op)?;
        if ALIGNED && va & 15 != 0 {
            return Err(cpu.gp0());
        }
        let low = cpu.load::<u64>(va)?;
        let high = cpu.load::<u64>(va.wrapping_add(8))?;
        cpu.fp.set_xmm(usize::from(op.a), u128::from(high) << 64 | u128::from(low));
        Ok(())
    }
}

/// MOVUPS, MOVAPS and kin: XMM `op.a` to 16 bytes of memory.
pub struct StoreXmm<const ALIGNED: bool>;
impl<const ALIGNED: bool> Exec for StoreXmm<ALIGNED> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.check_fp(Class::Sse)?;
        let va = cpu.address::<u64, true>(op)?;
        if ALIGNED && va & 15 != 0 {
            return Err(cpu.gp0());
        }
        let value = cpu.fp.xmm(usize::from(op.a));
        // Both halves must be writable before either is written.
        let last = cpu.modify::<u64>(va.wrapping_add(8))?;
        cpu.store(va, value as u64)?;
        if last.slow {
            return cpu.store(va.wrapping_add(8), (value >> 64) as u64);
        }
        // SAFETY: `modify` found a place for a `u64`.
        unsafe { u64::store(last.host, (value >> 64) as u64) };
        Ok(())
    }
}

/// MOVAPS and kin, register to register.
pub struct CopyXmm;
impl Exec for CopyXmm {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.check_fp(Class::Sse)?;
        let value = cpu.fp.xmm(usize::from(op.b));
        cpu.fp.set_xmm(usize::from(op.a), value);
        Ok(())
    }
}

/// PXOR, XORPS, XORPD, register with register.
pub struct XorXmm;
impl Exec for XorXmm {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.check_fp(Class::Sse)?;
        let value = cpu.fp.xmm(usize::from(op.a)) ^ cpu.fp.xmm(usize::from(op.b));
        cpu.fp.set_xmm(usize::from(op.a), value);
        Ok(())
    }
}
