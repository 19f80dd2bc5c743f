//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT.
//!
//! An operation with live flags is the host's own instruction, whose flags LAHF and SETO take; one
//! whose flags nobody reads (the decoder knows) is plain arithmetic.

use std::arch::asm;
use std::marker::PhantomData;

use crate::cpu::{Cpu, Step};
use crate::flags::FX_CF;
use crate::op::{Exec, Op};
use crate::tlb::Width;

/// A two-operand operation at width `T`.
pub trait Alu<T: Width> {
    /// The result is written back (not CMP, TEST).
    const WRITES: bool = true;
    /// Result and flags; `fx` carries CF in.
    fn flagged(a: T, b: T, fx: u16) -> (T, u16);
    /// The result alone.
    fn plain(a: T, b: T, fx: u16) -> T;
    /// The operation, locked, on memory; returns the flags.
    ///
    /// # Safety
    /// `host` points to a `T` in guest RAM or in the vCPU's bounce buffer.
    unsafe fn locked(host: u64, b: T, fx: u16) -> u16;
}

macro_rules! alu_op {
    ($name:ident, $mnemonic:literal, $writes:literal, $carry:literal, $locked:literal, |$a:ident, $b:ident, $c:ident| $plain:expr) => {
        #[doc = concat!("`", $mnemonic, "`.")]
        pub struct $name;
        alu_op!(@width $name, $mnemonic, $writes, $carry, $locked, u8, reg_byte, "", "byte", |$a, $b, $c| $plain);
        alu_op!(@width $name, $mnemonic, $writes, $carry, $locked, u16, reg, ":x", "word", |$a, $b, $c| $plain);
        alu_op!(@width $name, $mnemonic, $writes, $carry, $locked, u32, reg, ":e", "dword", |$a, $b, $c| $plain);
        alu_op!(@width $name, $mnemonic, $writes, $carry, $locked, u64, reg, ":r", "qword", |$a, $b, $c| $plain);
    };
    (@width $name:ident, $mnemonic:literal, $writes:literal, $carry:literal, $locked:literal, $ty:ty, $class:ident, $m:literal, $ptr:literal, |$a:ident, $b:ident, $c:ident| $plain:expr) => {
        impl Alu<$ty> for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn flagged(a: $ty, b: $ty, fx: u16) -> ($ty, u16) {
                let mut r = a;
                let out: u16;
                // SAFETY: register arithmetic only.
                unsafe {
                    asm!($carry, concat!($mnemonic, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                         a = inout($class) r, b = in($class) b, inout("ax") fx => out,
                         options(pure, nomem, nostack));
                }
                (r, out)
            }
            #[inline(always)]
            fn plain($a: $ty, $b: $ty, fx: u16) -> $ty {
                let $c = (fx >> 8 & 1) as $ty;
                let _ = ($c, $b);
                $plain
            }
            #[inline(always)]
            unsafe fn locked(host: u64, b: $ty, fx: u16) -> u16 {
                let out: u16;
                // SAFETY: the caller vouches for `host`.
                unsafe {
                    asm!($carry, concat!($locked, $mnemonic, " ", $ptr, " ptr [{p}], {b", $m, "}"), "lahf", "seto al",
                         p = in(reg) host, b = in($class) b, inout("ax") fx => out, options(nostack));
                }
                out
            }
        }
    };
}

alu_op!(Add, "add", true, "", "lock ", |a, b, c| a.wrapping_add(b));
alu_op!(Or, "or", true, "", "lock ", |a, b, c| a | b);
alu_op!(Adc, "adc", true, "bt ax, 8", "lock ", |a, b, c| a.wrapping_add(b).wrapping_add(c));
alu_op!(Sbb, "sbb", true, "bt ax, 8", "lock ", |a, b, c| a.wrapping_sub(b).wrapping_sub(c));
alu_op!(And, "and", true, "", "lock ", |a, b, c| a & b);
alu_op!(Sub, "sub", true, "", "lock ", |a, b, c| a.wrapping_sub(b));
alu_op!(Xor, "xor", true, "", "lock ", |a, b, c| a ^ b);
alu_op!(Cmp, "cmp", false, "", "", |a, b, c| a);
alu_op!(Test, "test", false, "", "", |a, b, c| a);

/// Result and flags, or the result with the flags left alone where nobody reads them.
#[inline(always)]
fn compute<O: Alu<T>, T: Width, const F: bool>(cpu: &mut Cpu, a: T, b: T) -> T {
    if F || !O::WRITES {
        let (r, fx) = O::flagged(a, b, cpu.fx);
        cpu.fx = fx;
        r
    } else {
        O::plain(a, b, cpu.fx)
    }
}

/// Register, register.
pub struct RegReg<O, T, const F: bool>(PhantomData<(O, T)>);
impl<O: Alu<T>, T: Width, const F: bool> Exec for RegReg<O, T, F> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (a, b) = (cpu.get::<T>(op.a), cpu.get::<T>(op.b));
        let r = compute::<O, T, F>(cpu, a, b);
        if O::WRITES {
            cpu.set(op.a, r);
        }
        Ok(())
    }
}

/// Register, immediate.
pub struct RegImm<O, T, const F: bool>(PhantomData<(O, T)>);
impl<O: Alu<T>, T: Width, const F: bool> Exec for RegImm<O, T, F> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let a = cpu.get::<T>(op.a);
        let r = compute::<O, T, F>(cpu, a, T::from_u64(op.imm.get()));
        if O::WRITES {
            cpu.set(op.a, r);
        }
        Ok(())
    }
}

/// Register, memory.
pub struct RegMem<O, T, const F: bool>(PhantomData<(O, T)>);
impl<O: Alu<T>, T: Width, const F: bool> Exec for RegMem<O, T, F> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let b = cpu.load_operand::<T>(op)?;
        let a = cpu.get::<T>(op.a);
        let r = compute::<O, T, F>(cpu, a, b);
        if O::WRITES {
            cpu.set(op.a, r);
        }
        Ok(())
    }
}

#[inline(always)]
fn on_memory<O: Alu<T>, T: Width, const F: bool>(op: &Op, cpu: &mut Cpu, b: T) -> Step {
    if !O::WRITES {
        let a = cpu.load_operand::<T>(op)?;
        compute::<O, T, F>(cpu, a, b);
        return Ok(());
    }
    let va = cpu.address::<T, true>(op)?;
    let place = cpu.modify::<T>(va)?;
    // SAFETY: `modify` found a place for a `T`.
    let a = unsafe { T::load(place.host) };
    let r = compute::<O, T, F>(cpu, a, b);
    // SAFETY: as above.
    unsafe { T::store(place.host, r) };
    cpu.modified(place);
    Ok(())
}

/// Memory, register.
pub struct MemReg<O, T, const F: bool>(PhantomData<(O, T)>);
impl<O: Alu<T>, T: Width, const F: bool> Exec for MemReg<O, T, F> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let b = cpu.get::<T>(op.a);
        on_memory::<O, T, F>(op, cpu, b)
    }
}

/// Memory, immediate.
pub struct MemImm<O, T, const F: bool>(PhantomData<(O, T)>);
impl<O: Alu<T>, T: Width, const F: bool> Exec for MemImm<O, T, F> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        on_memory::<O, T, F>(op, cpu, T::from_u64(op.imm.get()))
    }
}

/// Locked: memory, register or (`IMM`) immediate.
pub struct Locked<O, T, const IMM: bool>(PhantomData<(O, T)>);
impl<O: Alu<T>, T: Width, const IMM: bool> Exec for Locked<O, T, IMM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let b = if IMM { T::from_u64(op.imm.get()) } else { cpu.get::<T>(op.a) };
        let va = cpu.address::<T, true>(op)?;
        let place = cpu.modify::<T>(va)?;
        // SAFETY: `modify` found a place for a `T`.
        cpu.fx = unsafe { O::locked(place.host, b, cpu.fx) };
        cpu.modified(place);
        Ok(())
    }
}

/// A one-operand operation at width `T`.
pub trait Unary<T: Width> {
    /// Result and flags.
    fn apply(a: T, fx: u16) -> (T, u16);
    /// The operation, locked, on memory; returns the flags.
    ///
    /// # Safety
    /// As for [`Alu::locked`].
    unsafe fn locked(host: u64, fx: u16) -> u16;
}

macro_rules! unary_op {
    ($name:ident, $mnemonic:literal, $keep:literal) => {
        #[doc = concat!("`", $mnemonic, "`.")]
        pub struct $name;
        unary_op!(@width $name, $mnemonic, $keep, u8, reg_byte, "", "byte");
        unary_op!(@width $name, $mnemonic, $keep, u16, reg, ":x", "word");
        unary_op!(@width $name, $mnemonic, $keep, u32, reg, ":e", "dword");
        unary_op!(@width $name, $mnemonic, $keep, u64, reg, ":r", "qword");
    };
    (@width $name:ident, $mnemonic:literal, $keep:literal, $ty:ty, $class:ident, $m:literal, $ptr:literal) => {
        impl Unary<$ty> for $name {
            #[inline(always)]
            fn apply(a: $ty, fx: u16) -> ($ty, u16) {
                let mut r = a;
                let out: u16;
                // SAFETY: register arithmetic only. ADD 127 then SAHF restores all six flags for
                // operations that keep some (INC, DEC: CF; NOT: all).
                unsafe {
                    asm!($keep, concat!($mnemonic, " {a", $m, "}"), "lahf", "seto al",
                         a = inout($class) r, inout("ax") fx => out,
                         options(pure, nomem, nostack));
                }
                (r, out)
            }
            #[inline(always)]
            unsafe fn locked(host: u64, fx: u16) -> u16 {
                let out: u16;
                // SAFETY: the caller vouches for `host`.
                unsafe {
                    asm!($keep, concat!("lock ", $mnemonic, " ", $ptr, " ptr [{p}]"), "lahf", "seto al",
                         p = in(reg) host, inout("ax") fx => out, options(nostack));
                }
                out
            }
        }
    };
}

unary_op!(Inc, "inc", "bt ax, 8");
unary_op!(Dec, "dec", "bt ax, 8");
unary_op!(Neg, "neg", "");
unary_op!(Not, "not", "add al, 127\nsahf");

/// On a register.
pub struct UnaryReg<O, T>(PhantomData<(O, T)>);
impl<O: Unary<T>, T: Width> Exec for UnaryReg<O, T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (r, fx) = O::apply(cpu.get::<T>(op.a), cpu.fx);
        cpu.fx = fx;
        cpu.set(op.a, r);
        Ok(())
    }
}

/// On memory.
pub struct UnaryMem<O, T>(PhantomData<(O, T)>);
impl<O: Unary<T>, T: Width> Exec for UnaryMem<O, T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let va = cpu.address::<T, true>(op)?;
        let place = cpu.modify::<T>(va)?;
        // SAFETY: `modify` found a place for a `T`.
        let (r, fx) = O::apply(unsafe { T::load(place.host) }, cpu.fx);
        cpu.fx = fx;
        // SAFETY: as above.
        unsafe { T::store(place.host, r) };
        cpu.modified(place);
        Ok(())
    }
}

/// On memory, locked.
pub struct UnaryLocked<O, T>(PhantomData<(O, T)>);
impl<O: Unary<T>, T: Width> Exec for UnaryLocked<O, T> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let va = cpu.address::<T, true>(op)?;
        let place = cpu.modify::<T>(va)?;
        // SAFETY: `modify` found a place for a `T`.
        cpu.fx = unsafe { O::locked(place.host, cpu.fx) };
        cpu.modified(place);
        Ok(())
    }
}

/// CLC, STC, CMC: `op.a` is 0, 1, 2.
pub struct CarryFlag;
impl Exec for CarryFlag {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.fx = match op.a {
            0 => cpu.fx & !FX_CF,
            1 => cpu.fx | FX_CF,
            _ => cpu.fx ^ FX_CF,
        };
        Ok(())
    }
}
