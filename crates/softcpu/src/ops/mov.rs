//! Moves: MOV, MOVZX, MOVSX, MOVSXD, LEA, XCHG of registers, CMOVcc, SETcc, CBW and kin, BSWAP,
//! LAHF, SAHF and XLAT.

use std::marker::PhantomData;

use crate::cpu::{Cpu, RAX, RBX, RDX, Step};
use crate::flags::{FX_OF, condition};
use crate::op::{Exec, Op};
use crate::tlb::Width;

/// MOV register, register.
pub struct MovRegReg<T>(PhantomData<T>);
impl<T: Width> Exec for MovRegReg<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.get::<T>(op.b);
        cpu.set(op.a, value);
        Ok(())
    }
}

/// MOV register, immediate.
pub struct MovRegImm<T>(PhantomData<T>);
impl<T: Width> Exec for MovRegImm<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.set(op.a, T::from_u64(op.imm.get()));
        Ok(())
    }
}

/// MOV register, memory.
pub struct MovRegMem<T>(PhantomData<T>);
impl<T: Width> Exec for MovRegMem<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.load_operand::<T>(op)?;
        cpu.set(op.a, value);
        Ok(())
    }
}

/// MOV memory, register.
pub struct MovMemReg<T>(PhantomData<T>);
impl<T: Width> Exec for MovMemReg<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.get::<T>(op.a);
        cpu.store_operand(op, value)
    }
}

/// MOV memory, immediate.
pub struct MovMemImm<T>(PhantomData<T>);
impl<T: Width> Exec for MovMemImm<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.store_operand(op, T::from_u64(op.imm.get()))
    }
}

#[inline(always)]
fn extend<S: Width, D: Width, const SIGNED: bool>(value: S) -> D {
    D::from_u64(if SIGNED { value.to_i64() as u64 } else { value.to_u64() })
}

/// MOVZX, MOVSX, MOVSXD register, register.
pub struct ExtendReg<S, D, const SIGNED: bool>(PhantomData<(S, D)>);
impl<S: Width, D: Width, const SIGNED: bool> Exec for ExtendReg<S, D, SIGNED> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.get::<S>(op.b);
        cpu.set(op.a, extend::<S, D, SIGNED>(value));
        Ok(())
    }
}

/// MOVZX, MOVSX, MOVSXD register, memory.
pub struct ExtendMem<S, D, const SIGNED: bool>(PhantomData<(S, D)>);
impl<S: Width, D: Width, const SIGNED: bool> Exec for ExtendMem<S, D, SIGNED> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.load_operand::<S>(op)?;
        cpu.set(op.a, extend::<S, D, SIGNED>(value));
        Ok(())
    }
}

/// LEA.
pub struct Lea<T>(PhantomData<T>);
impl<T: Width> Exec for Lea<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let address = cpu.offset_of(op);
        cpu.set(op.a, T::from_u64(address));
        Ok(())
    }
}

/// LEA with an address-size prefix or in legacy code.
pub struct LeaCut<T>(PhantomData<T>);
impl<T: Width> Exec for LeaCut<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let address = cpu.cut_offset(op);
        cpu.set(op.a, T::from_u64(address));
        Ok(())
    }
}

/// XCHG register, register.
pub struct XchgReg<T>(PhantomData<T>);
impl<T: Width> Exec for XchgReg<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (a, b) = (cpu.get::<T>(op.a), cpu.get::<T>(op.b));
        cpu.set(op.a, b);
        cpu.set(op.b, a);
        Ok(())
    }
}

/// CMOVcc register, register. A 32-bit destination loses its upper half either way.
pub struct CmovReg<T, const CC: u8>(PhantomData<T>);
impl<T: Width, const CC: u8> Exec for CmovReg<T, CC> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (old, new) = (cpu.get::<T>(op.a), cpu.get::<T>(op.b));
        cpu.set(op.a, if condition::<CC>(cpu.fx) { new } else { old });
        Ok(())
    }
}

/// CMOVcc register, memory: the load happens either way.
pub struct CmovMem<T, const CC: u8>(PhantomData<T>);
impl<T: Width, const CC: u8> Exec for CmovMem<T, CC> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let new = cpu.load_operand::<T>(op)?;
        let old = cpu.get::<T>(op.a);
        cpu.set(op.a, if condition::<CC>(cpu.fx) { new } else { old });
        Ok(())
    }
}

/// SETcc register.
pub struct SetReg<const CC: u8>;
impl<const CC: u8> Exec for SetReg<CC> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.set(op.a, u8::from(condition::<CC>(cpu.fx)));
        Ok(())
    }
}

/// SETcc memory.
pub struct SetMem<const CC: u8>;
impl<const CC: u8> Exec for SetMem<CC> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = u8::from(condition::<CC>(cpu.fx));
        cpu.store_operand(op, value)
    }
}

/// CBW, CWDE, CDQE: the accumulator's lower half `S` extended to `D`.
pub struct ExtendAccumulator<S, D>(PhantomData<(S, D)>);
impl<S: Width, D: Width> Exec for ExtendAccumulator<S, D> {
    #[inline(always)]
    fn exec(_: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.get::<S>(RAX as u8).to_i64();
        cpu.set(RAX as u8, D::from_u64(value as u64));
        Ok(())
    }
}

/// CWD, CDQ, CQO: the accumulator's sign into the data register.
pub struct SignIntoData<T>(PhantomData<T>);
impl<T: Width> Exec for SignIntoData<T> {
    #[inline(always)]
    fn exec(_: &Op, cpu: &mut Cpu) -> Step {
        let sign = cpu.get::<T>(RAX as u8).to_i64() >> 63;
        cpu.set(RDX as u8, T::from_u64(sign as u64));
        Ok(())
    }
}

/// BSWAP at 32 or 64 bits; at 16 bits the result is undefined, and zero as on the host.
pub struct Bswap<T>(PhantomData<T>);
impl<T: Width> Exec for Bswap<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.get::<T>(op.a).to_u64();
        let swapped = match T::BYTES {
            8 => value.swap_bytes(),
            4 => u64::from((value as u32).swap_bytes()),
            _ => 0,
        };
        cpu.set(op.a, T::from_u64(swapped));
        Ok(())
    }
}

/// LAHF.
pub struct Lahf;
impl Exec for Lahf {
    #[inline(always)]
    fn exec(_: &Op, cpu: &mut Cpu) -> Step {
        let ah = crate::flags::to_rflags(cpu.fx) as u8 | 2;
        cpu.set(1, ah);
        Ok(())
    }
}

/// SAHF: OF stays.
pub struct Sahf;
impl Exec for Sahf {
    #[inline(always)]
    fn exec(_: &Op, cpu: &mut Cpu) -> Step {
        let ah = u64::from(cpu.get::<u8>(1));
        cpu.fx = crate::flags::from_rflags(ah) & !FX_OF | cpu.fx & FX_OF;
        Ok(())
    }
}

/// XLAT: AL = [rBX + AL]. The decoder makes RBX the base.
pub struct Xlat;
impl Exec for Xlat {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let saved = cpu.regs[RBX];
        cpu.regs[RBX] = saved.wrapping_add(u64::from(cpu.get::<u8>(0)));
        let loaded = cpu.load_operand::<u8>(op);
        cpu.regs[RBX] = saved;
        cpu.set(0, loaded?);
        Ok(())
    }
}
