//! MUL, IMUL, DIV, IDIV.

use std::arch::asm;
use std::marker::PhantomData;

use crate::cpu::{Cpu, Exception, RAX, RDX, Step, vector};
use crate::op::{Exec, Op};
use crate::tlb::Width;

/// The accumulator pair's operations at width `T`, which the host's own instructions do.
pub trait MulDiv: Width {
    /// MUL (or, `SIGNED`, IMUL): low half, high half, flags. Some hosts leave SF, ZF, AF and PF as
    /// they are, so the host's instruction starts from `fx`.
    fn mul<const SIGNED: bool>(a: Self, b: Self, fx: u16) -> (Self, Self, u16);
    /// IMUL with two or three operands: the low half, flags, likewise.
    fn imul(a: Self, b: Self, fx: u16) -> (Self, u16);
    /// DIV (or, `SIGNED`, IDIV) of `high:low`: quotient and remainder; none for #DE. Flags are the
    /// host's.
    fn div<const SIGNED: bool>(high: Self, low: Self, by: Self) -> Option<(Self, Self)>;
}

macro_rules! muldiv {
    ($ty:ty, $signed:ty, $wide:ty, $signed_wide:ty, $bits:literal, $m:literal) => {
        impl MulDiv for $ty {
            #[inline(always)]
            fn mul<const SIGNED: bool>(a: Self, b: Self, mut fx: u16) -> (Self, Self, u16) {
                let (low, high): (u64, u64);
                // SAFETY: register arithmetic only.
                unsafe {
                    if SIGNED {
                        asm!("sahf", "mov rax, {l}", concat!("imul {b", $m, "}"), "mov {l}, rax", "lahf",
                             "seto al", b = in(reg) b as u64, l = inout(reg) a as u64 => low,
                             inout("ax") fx, out("rdx") high, options(pure, nomem, nostack));
                    } else {
                        asm!("sahf", "mov rax, {l}", concat!("mul {b", $m, "}"), "mov {l}, rax", "lahf",
                             "seto al", b = in(reg) b as u64, l = inout(reg) a as u64 => low,
                             inout("ax") fx, out("rdx") high, options(pure, nomem, nostack));
                    }
                }
                (low as $ty, high as $ty, fx)
            }
            #[inline(always)]
            fn imul(a: Self, b: Self, mut fx: u16) -> (Self, u16) {
                let mut r = a;
                // SAFETY: register arithmetic only.
                unsafe {
                    asm!("sahf", concat!("imul {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                         a = inout(reg) r, b = in(reg) b, inout("ax") fx,
                         options(pure, nomem, nostack));
                }
                (r, fx)
            }
            #[inline(always)]
            fn div<const SIGNED: bool>(high: Self, low: Self, by: Self) -> Option<(Self, Self)> {
                let dividend = (high as $wide) << $bits | low as $wide;
                if SIGNED {
                    let (dividend, by) = (dividend as $signed_wide, by as $signed as $signed_wide);
                    let quotient = dividend.checked_div(by)?;
                    let quotient_narrow = <$signed>::try_from(quotient).ok()?;
                    Some((quotient_narrow as $ty, dividend.wrapping_rem(by) as $ty))
                } else {
                    let by_wide = by as $wide;
                    let quotient = dividend.checked_div(by_wide)?;
                    Some((<$ty>::try_from(quotient).ok()?, (dividend % by_wide) as $ty))
                }
            }
        }
    };
}

muldiv!(u16, i16, u32, i32, 16, ":x");
muldiv!(u32, i32, u64, i64, 32, ":e");

impl MulDiv for u64 {
    #[inline(always)]
    fn mul<const SIGNED: bool>(a: Self, b: Self, mut fx: u16) -> (Self, Self, u16) {
        let (low, high): (u64, u64);
        // SAFETY: register arithmetic only.
        unsafe {
            if SIGNED {
                asm!("sahf", "mov rax, {l}", "imul {b}", "mov {l}, rax", "lahf", "seto al", b = in(reg) b,
                     l = inout(reg) a => low, inout("ax") fx, out("rdx") high,
                     options(pure, nomem, nostack));
            } else {
                asm!("sahf", "mov rax, {l}", "mul {b}", "mov {l}, rax", "lahf", "seto al", b = in(reg) b,
                     l = inout(reg) a => low, inout("ax") fx, out("rdx") high,
                     options(pure, nomem, nostack));
            }
        }
        (low, high, fx)
    }
    #[inline(always)]
    fn imul(a: Self, b: Self, mut fx: u16) -> (Self, u16) {
        let mut r = a;
        // SAFETY: register arithmetic only.
        unsafe {
            asm!("sahf", "imul {a}, {b}", "lahf", "seto al", a = inout(reg) r, b = in(reg) b,
                 inout("ax") fx, options(pure, nomem, nostack));
        }
        (r, fx)
    }
    #[inline(always)]
    fn div<const SIGNED: bool>(high: Self, low: Self, by: Self) -> Option<(Self, Self)> {
        if SIGNED {
            return signed_div_128(high, low, by);
        }
        if high >= by {
            return None;
        }
        let (quotient, remainder): (u64, u64);
        // SAFETY: high < by, so the divisor is not zero and the quotient fits.
        unsafe {
            asm!("div {by}", by = in(reg) by, inout("rax") low => quotient,
                 inout("rdx") high => remainder, options(pure, nomem, nostack));
        }
        Some((quotient, remainder))
    }
}

#[inline(always)]
fn signed_div_128(high: u64, low: u64, by: u64) -> Option<(u64, u64)> {
    if high == (low as i64 >> 63) as u64 {
        let (dividend, by) = (low as i64, by as i64);
        return Some((dividend.checked_div(by)? as u64, dividend.checked_rem(by)? as u64));
    }
    let dividend = (i128::from(high as i64) << 64) | i128::from(low);
    let by = i128::from(by as i64);
    let quotient = i64::try_from(dividend.checked_div(by)?).ok()?;
    Some((quotient as u64, dividend.wrapping_rem(by) as u64))
}

/// The second operand: a register (`op.a`) or (`MEM`) memory.
#[inline(always)]
fn operand<T: Width, const MEM: bool>(op: &Op, cpu: &mut Cpu) -> Result<T, crate::cpu::Trap> {
    if MEM { cpu.load_operand::<T>(op) } else { Ok(cpu.get::<T>(op.a)) }
}

/// MUL, IMUL with one operand.
pub struct Mul<T, const SIGNED: bool, const MEM: bool>(PhantomData<T>);
impl<T: MulDiv, const SIGNED: bool, const MEM: bool> Exec for Mul<T, SIGNED, MEM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let b = operand::<T, MEM>(op, cpu)?;
        let (low, high, fx) = T::mul::<SIGNED>(cpu.get::<T>(RAX as u8), b, cpu.fx);
        cpu.set(RAX as u8, low);
        cpu.set(RDX as u8, high);
        cpu.fx = fx;
        Ok(())
    }
}

/// MUL, IMUL of bytes: AX = AL * operand.
pub struct MulByte<const SIGNED: bool, const MEM: bool>;
impl<const SIGNED: bool, const MEM: bool> Exec for MulByte<SIGNED, MEM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let b = operand::<u8, MEM>(op, cpu)?;
        let product: u16;
        let mut fx = cpu.fx;
        let a = u16::from(cpu.get::<u8>(0));
        // SAFETY: register arithmetic only.
        unsafe {
            if SIGNED {
                asm!("sahf", "mov eax, {l:e}", "imul {b}", "mov {l:e}, eax", "lahf", "seto al",
                     b = in(reg_byte) b, l = inout(reg) a => product, inout("ax") fx,
                     options(pure, nomem, nostack));
            } else {
                asm!("sahf", "mov eax, {l:e}", "mul {b}", "mov {l:e}, eax", "lahf", "seto al",
                     b = in(reg_byte) b, l = inout(reg) a => product, inout("ax") fx,
                     options(pure, nomem, nostack));
            }
        }
        cpu.set(RAX as u8, product);
        cpu.fx = fx;
        Ok(())
    }
}

/// IMUL register, register or memory.
pub struct Imul2<T, const MEM: bool>(PhantomData<T>);
impl<T: MulDiv, const MEM: bool> Exec for Imul2<T, MEM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let b = if MEM { cpu.load_operand::<T>(op)? } else { cpu.get::<T>(op.b) };
        let (r, fx) = T::imul(cpu.get::<T>(op.a), b, cpu.fx);
        cpu.set(op.a, r);
        cpu.fx = fx;
        Ok(())
    }
}

/// IMUL register, register or memory, immediate.
pub struct Imul3<T, const MEM: bool>(PhantomData<T>);
impl<T: MulDiv, const MEM: bool> Exec for Imul3<T, MEM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let b = if MEM { cpu.load_operand::<T>(op)? } else { cpu.get::<T>(op.b) };
        let (r, fx) = T::imul(b, T::from_u64(op.imm.get()), cpu.fx);
        cpu.set(op.a, r);
        cpu.fx = fx;
        Ok(())
    }
}

/// DIV, IDIV. The flags, undefined by the manual, stay.
pub struct Div<T, const SIGNED: bool, const MEM: bool>(PhantomData<T>);
impl<T: MulDiv, const SIGNED: bool, const MEM: bool> Exec for Div<T, SIGNED, MEM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let by = operand::<T, MEM>(op, cpu)?;
        let (high, low) = (cpu.get::<T>(RDX as u8), cpu.get::<T>(RAX as u8));
        match T::div::<SIGNED>(high, low, by) {
            Some((quotient, remainder)) => {
                cpu.set(RAX as u8, quotient);
                cpu.set(RDX as u8, remainder);
                Ok(())
            }
            None => Err(cpu.raise(Exception::plain(vector::DE))),
        }
    }
}

/// DIV, IDIV of bytes: AL = AX / operand, AH = remainder.
pub struct DivByte<const SIGNED: bool, const MEM: bool>;
impl<const SIGNED: bool, const MEM: bool> Exec for DivByte<SIGNED, MEM> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let by = operand::<u8, MEM>(op, cpu)?;
        let dividend = cpu.get::<u16>(RAX as u8);
        let result = if SIGNED {
            let (dividend, by) = (i32::from(dividend as i16), i32::from(by as i8));
            dividend
                .checked_div(by)
                .and_then(|q| Some((i8::try_from(q).ok()? as u8, dividend.wrapping_rem(by) as u8)))
        } else {
            let by = u16::from(by);
            dividend
                .checked_div(by)
                .and_then(|q| Some((u8::try_from(q).ok()?, (dividend % by) as u8)))
        };
        match result {
            Some((quotient, remainder)) => {
                let ax = u16::from(remainder) << 8 | u16::from(quotient);
                cpu.set(RAX as u8, ax);
                Ok(())
            }
            None => Err(cpu.raise(Exception::plain(vector::DE))),
        }
    }
}
