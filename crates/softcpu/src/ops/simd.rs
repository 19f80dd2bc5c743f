//! x87, MMX and SSE: the glue to the `simd` crate, and the moves that are too frequent for it.

use simd::{Class, Exception as FpException, MemUse, Outcome, Plan};

use crate::cpu::{Cpu, Exception, RDI, Step, Trap, vector};
use crate::op::{Exec, Op};
use crate::paging::{Access, canonical};
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
        if self.cr0 & (CR0_EM | CR0_TS) == 0 && self.cr4 & CR4_OSFXSR != 0 && class != Class::Xsave
        {
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
        if plan.mem == MemUse::ReadWrite {
            self.probe_write(va, len)?;
        }
        if matches!(plan.mem, MemUse::Read | MemUse::ReadWrite) {
            self.load_fp_operand(va, len)?;
        }
        self.run_loaded_plan(plan)?;
        if matches!(plan.mem, MemUse::Write | MemUse::ReadWrite) {
            self.store_fp_operand(va, len)?;
        }
        Ok(())
    }

    /// Raises the page fault that a store of `len` bytes would end in, before anything changes.
    pub fn probe_write(&mut self, va: u64, len: usize) -> Step {
        let last = va.wrapping_add(len as u64 - 1);
        if self.long_mode() && !(canonical(va) && canonical(last)) {
            // The load, which comes next, says so.
            return Ok(());
        }
        self.probe_page(va)?;
        if va & !0xFFF == last & !0xFFF { Ok(()) } else { self.probe_page(last & !0xFFF) }
    }

    fn probe_page(&mut self, va: u64) -> Step {
        let va = if self.long_mode() { va } else { va & 0xFFFF_FFFF };
        if self.tlb.entry(self.tlb_set, va).write == va & !0xFFF {
            return Ok(());
        }
        let privilege = self.privilege();
        self.translate(va, Access::Write, privilege).map(|_| ())
    }

    fn plan_address(&mut self, op: &Op, plan: &Plan) -> Result<u64, Trap> {
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

    /// Runs a plan whose memory operand, if it reads one, is loaded.
    #[inline(always)]
    fn run_loaded_plan(&mut self, plan: &Plan) -> Step {
        let flags = self.rflags();
        match plan.run(&mut self.fp, &mut self.regs, &mut self.port.operand, flags) {
            Outcome::Done => Ok(()),
            Outcome::Flags(flags) => {
                self.fx = crate::flags::from_rflags(u64::from(flags));
                Ok(())
            }
            Outcome::Raise(exception) => Err(self.raise_fp(exception)),
        }
    }

    #[cold]
    fn raise_fp(&mut self, exception: FpException) -> Trap {
        match exception {
            FpException::Mf => self.raise(Exception::plain(vector::MF)),
            FpException::Xm if self.cr4 & CR4_OSXMMEXCPT == 0 => self.ud(),
            FpException::Xm => self.raise(Exception::plain(vector::XM)),
            FpException::Gp => self.gp0(),
        }
    }

    fn load_fp_operand(&mut self, va: u64, len: usize) -> Step {
        let (low, high) = match len {
            16 if va & 0xFFF <= 0xFF0 => {
                (self.load::<u64>(va)?, self.load::<u64>(va.wrapping_add(8))?)
            }
            8 => (self.load::<u64>(va)?, 0),
            4 => (self.load::<u32>(va)?.to_u64(), 0u64),
            _ => return self.load_large_operand(va, len),
        };
        let value = u128::from(high) << 64 | u128::from(low);
        self.port.operand.bytes_mut()[..16].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    #[inline(never)]
    fn load_large_operand(&mut self, va: u64, len: usize) -> Step {
        let mut bytes = [0; simd::XSAVE_BYTES];
        let privilege = self.privilege();
        self.read_linear(va, &mut bytes[..len], privilege)?;
        self.port.operand.bytes_mut()[..len].copy_from_slice(&bytes[..len]);
        Ok(())
    }

    fn store_fp_operand(&mut self, va: u64, len: usize) -> Step {
        let bytes = self.port.operand.bytes();
        let mut first = [0; 16];
        first.copy_from_slice(&bytes[..16]);
        let value = u128::from_le_bytes(first);
        match len {
            8 => self.store(va, value as u64),
            4 => self.store(va, value as u32),
            _ => {
                let bytes = *bytes;
                let privilege = self.privilege();
                self.write_linear(va, &bytes[..len], privilege)
            }
        }
    }
}

/// A second op like `op`.
pub(crate) fn copy_of(op: &Op) -> Op {
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

/// [`RunPlan`] where there is no memory operand.
pub struct RunRegisterPlan;
impl Exec for RunRegisterPlan {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let plan = cpu.code.plan(op.aux);
        cpu.check_fp(plan.class)?;
        cpu.run_loaded_plan(&plan)
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
        // Both halves must be writable before either is written, and of two faults the first half's
        // is the one.
        let last = match cpu.modify::<u64>(va.wrapping_add(8)) {
            Ok(last) => last,
            Err(_) => {
                cpu.modify::<u64>(va)?;
                cpu.modify::<u64>(va.wrapping_add(8))?
            }
        };
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
