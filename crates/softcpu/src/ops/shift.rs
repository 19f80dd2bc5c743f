//! SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD: the host's own instructions, so that the flags
//! that the manual leaves undefined are the host's too. A count of zero leaves all flags alone.

use std::arch::asm;
use std::marker::PhantomData;

use crate::cpu::{Cpu, RCX, Step};
use crate::op::{Exec, Op};
use crate::tlb::Width;

/// A shift or rotate at width `T`.
pub trait Shift<T: Width> {
    /// Result and flags after `count` (already masked, not zero); `fx` holds the flags before.
    fn apply(a: T, count: u8, fx: u16) -> (T, u16);
}

macro_rules! shift_op {
    ($name:ident, $mnemonic:literal) => {
        #[doc = concat!("`", $mnemonic, "`.")]
        pub struct $name;
        shift_op!(@width $name, $mnemonic, u8, reg_byte, "");
        shift_op!(@width $name, $mnemonic, u16, reg, ":x");
        shift_op!(@width $name, $mnemonic, u32, reg, ":e");
        shift_op!(@width $name, $mnemonic, u64, reg, ":r");
    };
    (@width $name:ident, $mnemonic:literal, $ty:ty, $class:ident, $m:literal) => {
        impl Shift<$ty> for $name {
            #[inline(always)]
            fn apply(a: $ty, count: u8, fx: u16) -> ($ty, u16) {
                let mut r = a;
                let out: u16;
                // SAFETY: register arithmetic only. ADD 127 turns AL = OF into the flag OF, SAHF
                // restores the others: rotates keep some of them.
                unsafe {
                    asm!("add al, 127", "sahf", concat!($mnemonic, " {a", $m, "}, cl"), "lahf", "seto al",
                         a = inout($class) r, in("cl") count, inout("ax") fx => out,
                         options(pure, nomem, nostack));
                }
                (r, out)
            }
        }
    };
}

shift_op!(Shl, "shl");
shift_op!(Shr, "shr");
shift_op!(Sar, "sar");
shift_op!(Rol, "rol");
shift_op!(Ror, "ror");
shift_op!(Rcl, "rcl");
shift_op!(Rcr, "rcr");

/// The count as the processor masks it: five bits, six for 64-bit operands.
#[inline(always)]
fn masked<T: Width>(count: u8) -> u8 {
    count & if T::BYTES == 8 { 63 } else { 31 }
}

#[inline(always)]
fn count<T: Width, const IMM: bool>(op: &Op, cpu: &Cpu) -> u8 {
    masked::<T>(if IMM { op.imm.get() as u8 } else { cpu.regs[RCX] as u8 })
}

/// On a register, by an immediate (`IMM`) or CL.
pub struct ShiftReg<O, T, const IMM: bool>(PhantomData<(O, T)>);
impl<O: Shift<T>, T: Width, const IMM: bool> Exec for ShiftReg<O, T, IMM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let count = count::<T, IMM>(op, cpu);
        let a = cpu.get::<T>(op.a);
        if count == 0 {
            cpu.set(op.a, a);
            return Ok(());
        }
        let (r, fx) = O::apply(a, count, cpu.fx);
        cpu.fx = fx;
        cpu.set(op.a, r);
        Ok(())
    }
}

/// On memory, by an immediate (`IMM`) or CL.
pub struct ShiftMem<O, T, const IMM: bool>(PhantomData<(O, T)>);
impl<O: Shift<T>, T: Width, const IMM: bool> Exec for ShiftMem<O, T, IMM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let count = count::<T, IMM>(op, cpu);
        let va = cpu.address::<T, true>(op)?;
        let place = cpu.modify::<T>(va)?;
        if count != 0 {
            // SAFETY: `modify` found a place for a `T`.
            let (r, fx) = O::apply(unsafe { T::load(place.host) }, count, cpu.fx);
            cpu.fx = fx;
            // SAFETY: as above.
            unsafe { T::store(place.host, r) };
        }
        cpu.modified(place);
        Ok(())
    }
}

/// SHLD or SHRD at width `T`.
pub trait DoubleShift<T: Width> {
    /// Result and flags after `count` (masked, not zero).
    fn apply(a: T, b: T, count: u8) -> (T, u16);
}

macro_rules! double_shift_op {
    ($name:ident, $mnemonic:literal) => {
        #[doc = concat!("`", $mnemonic, "`.")]
        pub struct $name;
        double_shift_op!(@width $name, $mnemonic, u16, ":x");
        double_shift_op!(@width $name, $mnemonic, u32, ":e");
        double_shift_op!(@width $name, $mnemonic, u64, ":r");
    };
    (@width $name:ident, $mnemonic:literal, $ty:ty, $m:literal) => {
        impl DoubleShift<$ty> for $name {
            #[inline(always)]
            fn apply(a: $ty, b: $ty, count: u8) -> ($ty, u16) {
                let mut r = a;
                let out: u16;
                // SAFETY: register arithmetic only.
                unsafe {
                    asm!(concat!($mnemonic, " {a", $m, "}, {b", $m, "}, cl"), "lahf", "seto al",
                         a = inout(reg) r, b = in(reg) b, in("cl") count, out("ax") out,
                         options(pure, nomem, nostack));
                }
                (r, out)
            }
        }
    };
}

double_shift_op!(Shld, "shld");
double_shift_op!(Shrd, "shrd");

/// SHLD, SHRD on a register.
pub struct DoubleShiftReg<O, T, const IMM: bool>(PhantomData<(O, T)>);
impl<O: DoubleShift<T>, T: Width, const IMM: bool> Exec for DoubleShiftReg<O, T, IMM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let count = count::<T, IMM>(op, cpu);
        let a = cpu.get::<T>(op.a);
        if count == 0 {
            cpu.set(op.a, a);
            return Ok(());
        }
        let (r, fx) = O::apply(a, cpu.get::<T>(op.b), count);
        cpu.fx = fx;
        cpu.set(op.a, r);
        Ok(())
    }
}

/// SHLD, SHRD on memory; the register operand is `op.a`.
pub struct DoubleShiftMem<O, T, const IMM: bool>(PhantomData<(O, T)>);
impl<O: DoubleShift<T>, T: Width, const IMM: bool> Exec for DoubleShiftMem<O, T, IMM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let count = count::<T, IMM>(op, cpu);
        let b = cpu.get::<T>(op.a);
        let va = cpu.address::<T, true>(op)?;
        let place = cpu.modify::<T>(va)?;
        if count != 0 {
            // SAFETY: `modify` found a place for a `T`.
            let (r, fx) = O::apply(unsafe { T::load(place.host) }, b, count);
            cpu.fx = fx;
            // SAFETY: as above.
            unsafe { T::store(place.host, r) };
        }
        cpu.modified(place);
        Ok(())
    }
}
