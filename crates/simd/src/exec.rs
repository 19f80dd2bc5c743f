//! What a plan runs: one small function for each way in which operands and exceptions are handled.
//!
//! `unsafe` is here and in `x87` only, where a stub is called. The obligation is the same at each
//! call, and [`Plan`]'s constructor keeps it: a location lies inside its base with 16 bytes to spare.

use crate::plan::{Base, Loc, Plan};
use crate::state::{FLAGS, FpState, MXCSR_MASKS, Operand, ST, XMM};
use crate::{Exception, Gprs, Outcome};

/// The function that runs a plan. The last argument is RFLAGS.
pub(crate) type Exec = fn(&Plan, &mut FpState, &mut Gprs, &mut Operand, u64) -> Outcome;

/// The arithmetic flags of RFLAGS: CF, PF, AF, ZF, SF and OF.
pub const ARITHMETIC_FLAGS: u16 = 0x8d5;
/// The mask of the invalid, denormal and divide-by-zero flags, which precede the computation.
const PRE_COMPUTATION: u32 = 0x07;
/// Underflow's mask bit in MXCSR, its flag and the flush-to-zero bit.
const UNDERFLOW_MASK: u32 = 1 << 11;
const UNDERFLOW: u32 = 1 << 4;
const FLUSH_TO_ZERO: u32 = 1 << 15;
const RESULT_FLAGS: u32 = 0x38;

/// A stub that touches neither MXCSR nor x87.
pub(crate) fn plain(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    call(plan, fp, gpr, mem);
    Outcome::Done
}

/// As [`plain`], for a stub that returns RFLAGS.
pub(crate) fn plain_flags(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    flags(call(plan, fp, gpr, mem))
}

/// A stub that computes under MXCSR.
pub(crate) fn fp(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    if fp.mxcsr() & MXCSR_MASKS == MXCSR_MASKS {
        call(plan, fp, gpr, mem);
        return Outcome::Done;
    }
    match fp_unmasked(plan, fp, gpr, mem) {
        Ok(_) => Outcome::Done,
        Err(exception) => Outcome::Raise(exception),
    }
}

/// As [`fp()`], for a stub that returns RFLAGS.
pub(crate) fn fp_flags(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    if fp.mxcsr() & MXCSR_MASKS == MXCSR_MASKS {
        return flags(call(plan, fp, gpr, mem));
    }
    match fp_unmasked(plan, fp, gpr, mem) {
        Ok(rflags) => flags(rflags),
        Err(exception) => Outcome::Raise(exception),
    }
}

/// A stub on MMX registers: the x87 state becomes MMX state first.
pub(crate) fn mmx(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    if fp.x87_pending() {
        return Outcome::Raise(Exception::Mf);
    }
    fp.enter_mmx();
    call(plan, fp, gpr, mem);
    fill_exponent(plan.dst, fp);
    Outcome::Done
}

/// A conversion from or to an MMX register, under MXCSR.
pub(crate) fn mmx_fp(
    plan: &Plan,
    state: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    rflags: u64,
) -> Outcome {
    if state.x87_pending() {
        return Outcome::Raise(Exception::Mf);
    }
    state.enter_mmx();
    let outcome = fp(plan, state, gpr, mem, rflags);
    if outcome == Outcome::Done {
        fill_exponent(plan.dst, state);
    }
    outcome
}

/// Copies the low N bytes and leaves the rest of the destination.
pub(crate) fn copy<const N: usize>(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    let value = load(plan.src, fp, gpr, mem);
    store::<N>(plan.dst, value, fp, gpr, mem);
    Outcome::Done
}

/// Copies the low N bytes and clears up to Z bytes of the destination.
pub(crate) fn copy_zero<const N: usize, const Z: usize>(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    let value = load(plan.src, fp, gpr, mem) & ((1 << (8 * N)) - 1);
    store::<Z>(plan.dst, value, fp, gpr, mem);
    Outcome::Done
}

/// As [`copy_zero`], where one side is an MMX register.
pub(crate) fn mmx_copy<const N: usize, const Z: usize>(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    rflags: u64,
) -> Outcome {
    if fp.x87_pending() {
        return Outcome::Raise(Exception::Mf);
    }
    fp.enter_mmx();
    copy_zero::<N, Z>(plan, fp, gpr, mem, rflags);
    fill_exponent(plan.dst, fp);
    Outcome::Done
}

/// MASKMOVQ and MASKMOVDQU: the bytes whose mask has its top bit set.
pub(crate) fn mask_move<const N: usize>(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    if N == 8 {
        if fp.x87_pending() {
            return Outcome::Raise(Exception::Mf);
        }
        fp.enter_mmx();
    }
    let source = load(plan.src, fp, gpr, mem).to_le_bytes();
    let mask = load(plan.mask, fp, gpr, mem).to_le_bytes();
    for i in 0..N {
        if mask[i] & 0x80 != 0 {
            mem.put(i, [source[i]]);
        }
    }
    Outcome::Done
}

/// PSLLDQ.
pub(crate) fn shift_bytes_left(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    let value = load(plan.dst, fp, gpr, mem);
    let value = value.checked_shl(8 * u32::from(plan.imm)).unwrap_or(0);
    store::<16>(plan.dst, value, fp, gpr, mem);
    Outcome::Done
}

/// PSRLDQ.
pub(crate) fn shift_bytes_right(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    let value = load(plan.dst, fp, gpr, mem);
    let value = value.checked_shr(8 * u32::from(plan.imm)).unwrap_or(0);
    store::<16>(plan.dst, value, fp, gpr, mem);
    Outcome::Done
}

/// Fences and prefetches.
pub(crate) fn nothing(_: &Plan, _: &mut FpState, _: &mut Gprs, _: &mut Operand, _: u64) -> Outcome {
    Outcome::Done
}

/// EMMS.
pub(crate) fn emms(_: &Plan, fp: &mut FpState, _: &mut Gprs, _: &mut Operand, _: u64) -> Outcome {
    if fp.x87_pending() {
        return Outcome::Raise(Exception::Mf);
    }
    fp.leave_mmx();
    Outcome::Done
}

/// LDMXCSR.
pub(crate) fn ldmxcsr(
    _: &Plan,
    fp: &mut FpState,
    _: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    if fp.set_mxcsr(u32::from_le_bytes(mem.get(0))) {
        Outcome::Done
    } else {
        Outcome::Raise(Exception::Gp)
    }
}

/// STMXCSR.
pub(crate) fn stmxcsr(
    _: &Plan,
    fp: &mut FpState,
    _: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    mem.put(0, fp.mxcsr().to_le_bytes());
    Outcome::Done
}

/// Runs a stub that computes under an MXCSR with exceptions unmasked, into a copy, and commits
/// unless one of them is raised.
///
/// The host runs with everything masked, which differs from the guest in two ways. An unmasked
/// underflow is raised for any tiny result, a masked one flagged only for an inexact one: flushing
/// to zero makes every tiny result flag. And an unmasked exception found before the computation
/// hides those found after it (SDM vol. 1, 11.5.2).
#[cold]
fn fp_unmasked(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
) -> Result<u64, Exception> {
    let guest = fp.mxcsr();
    let masked = guest & !FLAGS | MXCSR_MASKS;
    let tiny_traps = guest & UNDERFLOW_MASK == 0;
    let first = if tiny_traps { masked | FLUSH_TO_ZERO } else { masked };
    let (mut raised, result, rflags) = trial(plan, first, fp, gpr, mem);
    if raised & UNDERFLOW != 0 && tiny_traps {
        let (inexact, ..) = trial(plan, masked & !FLUSH_TO_ZERO, fp, gpr, mem);
        raised = inexact | UNDERFLOW;
    }
    let unmasked = raised & !(guest >> 7);
    if unmasked & PRE_COMPUTATION != 0 {
        raised &= !RESULT_FLAGS;
    }
    fp.put_mxcsr(guest | raised);
    if unmasked != 0 {
        return Err(Exception::Xm);
    }
    match plan.dst.base() {
        Base::Gpr => store::<8>(plan.dst, result, fp, gpr, mem),
        Base::Fp if plan.dst.offset() < XMM => store::<8>(plan.dst, result, fp, gpr, mem),
        Base::Fp | Base::Mem => store::<16>(plan.dst, result, fp, gpr, mem),
    }
    Ok(rflags)
}

/// Runs the stub under `mxcsr` on a copy of the destination: the flags raised, the result, RFLAGS.
fn trial(
    plan: &Plan,
    mxcsr: u32,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
) -> (u32, u128, u64) {
    let mut result = load(plan.dst, fp, gpr, mem);
    fp.put_mxcsr(mxcsr);
    let (image, registers) = (fp.as_mut_ptr(), gpr.as_mut_ptr());
    let source = pointer(plan.src, image, registers, mem);
    // SAFETY: the destination is the 16 bytes of `result`, the source lies inside its base with 16
    // bytes to spare (kept by `Loc`), and the image and the registers are exclusively borrowed.
    // Every exception is masked in the image's MXCSR, set above.
    let rflags = unsafe {
        (plan.stub)((&raw mut result).cast(), source, u64::from(plan.imm), image, registers)
    };
    (fp.mxcsr() & FLAGS, result, rflags)
}

/// Runs the stub on the operands themselves. The caller made sure that no exception is unmasked in
/// MXCSR if the stub computes under it.
#[inline(always)]
fn call(plan: &Plan, fp: &mut FpState, gpr: &mut Gprs, mem: &mut Operand) -> u64 {
    let (image, registers) = (fp.as_mut_ptr(), gpr.as_mut_ptr());
    let destination = pointer(plan.dst, image, registers, mem);
    let source = pointer(plan.src, image, registers, mem);
    // SAFETY: both locations lie inside their bases with 16 bytes to spare (kept by `Loc`), and
    // all three bases are exclusively borrowed here. The stub is static and keeps the host's state.
    unsafe { (plan.stub)(destination, source, u64::from(plan.imm), image, registers) }
}

#[inline(always)]
fn pointer(loc: Loc, image: *mut u8, registers: *mut u64, mem: &mut Operand) -> *mut u8 {
    let base = match loc.base() {
        Base::Fp => image,
        Base::Gpr => registers.cast(),
        Base::Mem => mem.as_mut_ptr(),
    };
    base.wrapping_add(loc.offset())
}

/// The 16 bytes at a location; of a general register, its value shifted to start there.
#[inline(always)]
fn load(loc: Loc, fp: &FpState, gpr: &Gprs, mem: &Operand) -> u128 {
    match loc.base() {
        Base::Fp => u128::from_le_bytes(fp.get(loc.offset())),
        Base::Gpr => u128::from(gpr[loc.offset() / 8] >> (8 * (loc.offset() % 8))),
        Base::Mem => u128::from_le_bytes(mem.get(loc.offset())),
    }
}

/// Stores the low N bytes at a location; a general register is always written whole.
#[inline(always)]
fn store<const N: usize>(
    loc: Loc,
    value: u128,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
) {
    let bytes = value.to_le_bytes();
    let mut low = [0; N];
    low.copy_from_slice(&bytes[..N]);
    match loc.base() {
        Base::Fp => fp.put(loc.offset(), low),
        Base::Gpr => gpr[loc.offset() / 8] = value as u64,
        Base::Mem => mem.put(loc.offset(), low),
    }
}

/// A write to an MMX register sets the 16 bits above it (SDM vol. 1, 9.2.1).
#[inline]
fn fill_exponent(dst: Loc, fp: &mut FpState) {
    if dst.base() == Base::Fp && (ST..XMM).contains(&dst.offset()) {
        fp.put((dst.offset() & !15) + 8, [0xff; 2]);
    }
}

#[inline(always)]
fn flags(rflags: u64) -> Outcome {
    Outcome::Flags(rflags as u16 & ARITHMETIC_FLAGS)
}
