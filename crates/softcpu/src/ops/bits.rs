//! BT, BTS, BTR, BTC, BSF, BSR.

use std::arch::asm;
use std::marker::PhantomData;

use crate::cpu::{Cpu, Step, Trap};
use crate::op::{Exec, Op, mem_flags};
use crate::ops::simd::copy_of;
use crate::tlb::Width;

/// BT and what it may do to the bit.
pub trait BitOp<T: Width> {
    /// The bit changes (not BT).
    const WRITES: bool;
    /// Result and flags; bit number modulo the width.
    fn apply(a: T, bit: T, fx: u16) -> (T, u16);
    /// The operation, locked, on memory; the bit is within the operand.
    ///
    /// # Safety
    /// `host` points to a `T` in guest RAM or in the vCPU's bounce buffer.
    unsafe fn locked(host: u64, bit: T, fx: u16) -> u16;
}

macro_rules! bit_op {
    ($name:ident, $mnemonic:literal, $locked:literal, $writes:literal) => {
        #[doc = concat!("`", $mnemonic, "`.")]
        pub struct $name;
        bit_op!(@width $name, $mnemonic, $locked, $writes, u16, ":x", "word");
        bit_op!(@width $name, $mnemonic, $locked, $writes, u32, ":e", "dword");
        bit_op!(@width $name, $mnemonic, $locked, $writes, u64, ":r", "qword");
    };
    (@width $name:ident, $mnemonic:literal, $locked:literal, $writes:literal, $ty:ty, $m:literal, $ptr:literal) => {
        impl BitOp<$ty> for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply(a: $ty, bit: $ty, fx: u16) -> ($ty, u16) {
                let mut r = a;
                let out: u16;
                // SAFETY: register arithmetic only; the other flags stay as they were.
                unsafe {
                    asm!("add al, 127", "sahf", concat!($mnemonic, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                         a = inout(reg) r, b = in(reg) bit, inout("ax") fx => out,
                         options(pure, nomem, nostack));
                }
                (r, out)
            }
            #[inline(always)]
            unsafe fn locked(host: u64, bit: $ty, fx: u16) -> u16 {
                let out: u16;
                // SAFETY: the caller vouches for `host`, and that `bit` lies in the operand.
                unsafe {
                    asm!("add al, 127", "sahf", concat!($locked, $mnemonic, " ", $ptr, " ptr [{p}], {b", $m, "}"), "lahf", "seto al",
                         p = in(reg) host, b = in(reg) bit, inout("ax") fx => out, options(nostack));
                }
                out
            }
        }
    };
}

bit_op!(Bt, "bt", "", false);
bit_op!(Bts, "bts", "lock ", true);
bit_op!(Btr, "btr", "lock ", true);
bit_op!(Btc, "btc", "lock ", true);

/// The bit number operand: an immediate (`IMM`), or register `op.b`.
#[inline(always)]
fn bit_number<T: Width, const IMM: bool>(op: &Op, cpu: &Cpu) -> T {
    if IMM { T::from_u64(op.imm.get()) } else { cpu.get::<T>(op.b) }
}

/// On register `op.a`.
pub struct BitReg<O, T, const IMM: bool>(PhantomData<(O, T)>);
impl<O: BitOp<T>, T: Width, const IMM: bool> Exec for BitReg<O, T, IMM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (r, fx) = O::apply(cpu.get::<T>(op.a), bit_number::<T, IMM>(op, cpu), cpu.fx);
        cpu.fx = fx;
        if O::WRITES {
            cpu.set(op.a, r);
        }
        Ok(())
    }
}

/// On memory, where a register's bit number reaches beyond the operand; always locked when it
/// writes, which is right for the unlocked form too.
pub struct BitMem<O, T, const IMM: bool>(PhantomData<(O, T)>);
impl<O: BitOp<T>, T: Width, const IMM: bool> Exec for BitMem<O, T, IMM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let number = bit_number::<T, IMM>(op, cpu);
        let width = T::BYTES * 8;
        let mut va =
            if O::WRITES { cpu.address::<T, true>(op)? } else { cpu.address::<T, false>(op)? };
        if !IMM {
            let words = number.to_i64() >> width.trailing_zeros();
            let distance = (words * T::BYTES as i64) as u64;
            va = match op.scale {
                s if s < mem_flags::ADDR32 => va.wrapping_add(distance),
                _ => far_word::<T>(op, cpu, distance, O::WRITES)?,
            };
        }
        let bit = T::from_u64(number.to_u64() & (width - 1));
        if !O::WRITES {
            let a = cpu.load::<T>(va)?;
            cpu.fx = O::apply(a, bit, cpu.fx).1;
            return Ok(());
        }
        let place = cpu.modify::<T>(va)?;
        // SAFETY: `modify` found a place for a `T`, and `bit` is less than its width.
        cpu.fx = unsafe { O::locked(place.host, bit, cpu.fx) };
        cpu.modified(place);
        Ok(())
    }
}

/// The address of the word at `distance` where an address-size prefix or legacy segmentation takes
/// part: the distance is a part of the effective address.
#[cold]
#[inline(never)]
fn far_word<T: Width>(op: &Op, cpu: &mut Cpu, distance: u64, write: bool) -> Result<u64, Trap> {
    // Such addresses are cut to 32 or 16 bits, so that no more of the distance counts.
    let far = Op { disp: op.disp.wrapping_add(distance as i32), ..copy_of(op) };
    cpu.slow_address(&far, T::BYTES, write)
}

/// BSF or (`REVERSE`) BSR: a zero source leaves the destination, as processors do.
#[inline(always)]
fn scan<T: Width, const REVERSE: bool>(old: T, source: T, fx: u16) -> (T, u16) {
    let (mut r, out): (u64, u16);
    r = old.to_u64();
    let source = source.to_u64();
    // SAFETY: register arithmetic only.
    unsafe {
        match (T::BYTES, REVERSE) {
            (8, false) => {
                asm!("bsf {r}, {s}", "lahf", "seto al", r = inout(reg) r, s = in(reg) source, inout("ax") fx => out, options(pure, nomem, nostack))
            }
            (8, true) => {
                asm!("bsr {r}, {s}", "lahf", "seto al", r = inout(reg) r, s = in(reg) source, inout("ax") fx => out, options(pure, nomem, nostack))
            }
            (4, false) => {
                asm!("bsf {r:e}, {s:e}", "lahf", "seto al", r = inout(reg) r, s = in(reg) source, inout("ax") fx => out, options(pure, nomem, nostack))
            }
            (4, true) => {
                asm!("bsr {r:e}, {s:e}", "lahf", "seto al", r = inout(reg) r, s = in(reg) source, inout("ax") fx => out, options(pure, nomem, nostack))
            }
            (_, false) => {
                asm!("bsf {r:x}, {s:x}", "lahf", "seto al", r = inout(reg) r, s = in(reg) source, inout("ax") fx => out, options(pure, nomem, nostack))
            }
            (_, true) => {
                asm!("bsr {r:x}, {s:x}", "lahf", "seto al", r = inout(reg) r, s = in(reg) source, inout("ax") fx => out, options(pure, nomem, nostack))
            }
        }
    }
    (T::from_u64(r), out)
}

/// BSF, BSR register, register or memory. With a zero source and a 32-bit destination the whole
/// 64-bit register keeps its value, as processors do.
pub struct BitScan<T, const REVERSE: bool, const MEM: bool>(PhantomData<T>);
impl<T: Width, const REVERSE: bool, const MEM: bool> Exec for BitScan<T, REVERSE, MEM> {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let source = if MEM { cpu.load_operand::<T>(op)? } else { cpu.get::<T>(op.b) };
        let (r, fx) = scan::<T, REVERSE>(cpu.get::<T>(op.a), source, cpu.fx);
        cpu.fx = fx;
        if source.to_u64() != 0 {
            cpu.set(op.a, r);
        }
        Ok(())
    }
}
