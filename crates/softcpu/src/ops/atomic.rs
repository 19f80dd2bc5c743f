//! XCHG with memory, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.
//!
//! Run as the host's own locked instructions on the translated address, they are atomic towards
//! other vCPUs; the forms without a LOCK prefix run locked too, which no guest can tell.

use std::arch::asm;
use std::marker::PhantomData;

use crate::cpu::{Cpu, RAX, RBX, RCX, RDX, Step};
use crate::flags::FX_ZF;
use crate::op::{Exec, Op};
use crate::ops::alu::{Add, Alu, Cmp};
use crate::tlb::Width;

/// The host's locked instructions at width `T`.
pub trait Atomic: Width {
    /// XCHG.
    ///
    /// # Safety
    /// `host` points to a `Self` in guest RAM or in the vCPU's bounce buffer.
    unsafe fn xchg(host: u64, value: Self) -> Self;
    /// LOCK XADD: the old value, and the flags.
    ///
    /// # Safety
    /// As for `xchg`.
    unsafe fn xadd(host: u64, value: Self) -> Self;
    /// LOCK CMPXCHG: the value found.
    ///
    /// # Safety
    /// As for `xchg`.
    unsafe fn cmpxchg(host: u64, expected: Self, new: Self) -> Self;
}

macro_rules! atomic {
    ($ty:ty, $class:ident, $m:literal, $ptr:literal, $acc:tt) => {
        impl Atomic for $ty {
            #[inline(always)]
            unsafe fn xchg(host: u64, mut value: Self) -> Self {
                // SAFETY: the caller vouches for `host`.
                unsafe {
                    asm!(concat!("xchg ", $ptr, " ptr [{p}], {v", $m, "}"), p = in(reg) host,
                         v = inout($class) value, options(nostack, preserves_flags));
                }
                value
            }
            #[inline(always)]
            unsafe fn xadd(host: u64, mut value: Self) -> Self {
                // SAFETY: the caller vouches for `host`.
                unsafe {
                    asm!(concat!("lock xadd ", $ptr, " ptr [{p}], {v", $m, "}"), p = in(reg) host,
                         v = inout($class) value, options(nostack));
                }
                value
            }
            #[inline(always)]
            unsafe fn cmpxchg(host: u64, mut expected: Self, new: Self) -> Self {
                // SAFETY: the caller vouches for `host`.
                unsafe {
                    asm!(concat!("lock cmpxchg ", $ptr, " ptr [{p}], {v", $m, "}"), p = in(reg) host,
                         v = in($class) new, inout($acc) expected, options(nostack));
                }
                expected
            }
        }
    };
}

atomic!(u8, reg_byte, "", "byte", "al");
atomic!(u16, reg, ":x", "word", "ax");
atomic!(u32, reg, ":e", "dword", "eax");
atomic!(u64, reg, ":r", "qword", "rax");

/// XCHG memory, register.
pub struct XchgMem<T>(PhantomData<T>);
impl<T: Atomic> Exec for XchgMem<T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.get::<T>(op.a);
        let va = cpu.address::<T, true>(op)?;
        let place = cpu.modify::<T>(va)?;
        // SAFETY: `modify` found a place for a `T`.
        let old = unsafe { T::xchg(place.host, value) };
        cpu.modified(place);
        cpu.set(op.a, old);
        Ok(())
    }
}

/// XADD memory, register.
pub struct XaddMem<T>(PhantomData<T>);
impl<T: Atomic> Exec for XaddMem<T>
where
    Add: Alu<T>,
{
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.get::<T>(op.a);
        let va = cpu.address::<T, true>(op)?;
        let place = cpu.modify::<T>(va)?;
        // SAFETY: `modify` found a place for a `T`.
        let old = unsafe { T::xadd(place.host, value) };
        cpu.modified(place);
        cpu.fx = Add::flagged(old, value, cpu.fx).1;
        cpu.set(op.a, old);
        Ok(())
    }
}

/// XADD register, register.
pub struct XaddReg<T>(PhantomData<T>);
impl<T: Atomic> Exec for XaddReg<T>
where
    Add: Alu<T>,
{
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (a, b) = (cpu.get::<T>(op.a), cpu.get::<T>(op.b));
        let (sum, fx) = Add::flagged(a, b, cpu.fx);
        cpu.fx = fx;
        cpu.set(op.b, a);
        cpu.set(op.a, sum);
        Ok(())
    }
}

/// CMPXCHG memory, register.
pub struct CmpxchgMem<T>(PhantomData<T>);
impl<T: Atomic> Exec for CmpxchgMem<T>
where
    Cmp: Alu<T>,
{
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (expected, new) = (cpu.get::<T>(RAX as u8), cpu.get::<T>(op.a));
        let va = cpu.address::<T, true>(op)?;
        let place = cpu.modify::<T>(va)?;
        // SAFETY: `modify` found a place for a `T`.
        let found = unsafe { T::cmpxchg(place.host, expected, new) };
        cpu.modified(place);
        cpu.fx = Cmp::flagged(expected, found, cpu.fx).1;
        if cpu.fx & FX_ZF == 0 {
            cpu.set(RAX as u8, found);
        }
        Ok(())
    }
}

/// CMPXCHG register, register.
pub struct CmpxchgReg<T>(PhantomData<T>);
impl<T: Atomic> Exec for CmpxchgReg<T>
where
    Cmp: Alu<T>,
{
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (expected, found) = (cpu.get::<T>(RAX as u8), cpu.get::<T>(op.a));
        cpu.fx = Cmp::flagged(expected, found, cpu.fx).1;
        if cpu.fx & FX_ZF != 0 {
            let new = cpu.get::<T>(op.b);
            cpu.set(op.a, new);
        } else {
            // The destination is left alone, its upper half included.
            cpu.set(RAX as u8, found);
        }
        Ok(())
    }
}

/// CMPXCHG8B.
pub struct Cmpxchg8b;
impl Exec for Cmpxchg8b {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let pair =
            |high: usize, low: usize, cpu: &Cpu| cpu.regs[high] << 32 | cpu.regs[low] & 0xFFFF_FFFF;
        let (expected, new) = (pair(RDX, RAX, cpu), pair(RCX, RBX, cpu));
        let va = cpu.address::<u64, true>(op)?;
        let place = cpu.modify::<u64>(va)?;
        // SAFETY: `modify` found a place for a `u64`.
        let found = unsafe { u64::cmpxchg(place.host, expected, new) };
        cpu.modified(place);
        if found == expected {
            cpu.fx |= FX_ZF;
        } else {
            cpu.fx &= !FX_ZF;
            cpu.regs[RAX] = found & 0xFFFF_FFFF;
            cpu.regs[RDX] = found >> 32;
        }
        Ok(())
    }
}

/// CMPXCHG16B: the operand is aligned, or #GP.
pub struct Cmpxchg16b;
impl Exec for Cmpxchg16b {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let va = cpu.address::<u64, true>(op)?;
        if va & 15 != 0 {
            return Err(cpu.gp0());
        }
        // The operand is aligned, so the second half lies in the page of the first.
        let place = cpu.modify_16(va)?;
        let (mut low, mut high) = (cpu.regs[RAX], cpu.regs[RDX]);
        let equal: u64;
        // SAFETY: `modify_16` found a place for sixteen aligned bytes. RBX is the compiler's, so it
        // is swapped in and out.
        unsafe {
            asm!("xchg rbx, rsi", "lock cmpxchg16b xmmword ptr [rdi]", "mov rbx, rsi", "sete sil",
                 inout("rsi") cpu.regs[RBX] => equal, in("rdi") place.host,
                 inout("rax") low, inout("rdx") high, in("rcx") cpu.regs[RCX], options(nostack));
        }
        cpu.modified(place);
        if equal & 0xFF != 0 {
            cpu.fx |= FX_ZF;
        } else {
            cpu.fx &= !FX_ZF;
            cpu.regs[RAX] = low;
            cpu.regs[RDX] = high;
        }
        Ok(())
    }
}
