//! FXSAVE, FXRSTOR, XSAVE and XRSTOR on the operand buffer.
//!
//! XSAVE is that of XCR0 = 3, in the standard format (SDM vol. 1, 13.7 and 13.8). Both components are
//! always in use, so XSTATE_BV reports what was asked for.

use crate::plan::Plan;
use crate::state::{FXSAVE_BYTES, FpState, MXCSR, MXCSR_MASK, MXCSR_RESET, Operand, ST, XMM};
use crate::{Exception, Gprs, Outcome};

/// XCR0's supported bits: x87 and SSE.
const X87: u64 = 1;
const SSE: u64 = 2;
const XSTATE_BV: usize = FXSAVE_BYTES;
const HEADER_RESERVED: usize = FXSAVE_BYTES + 8;
/// The end of XMM15, and of XMM7, which is the last outside 64-bit mode.
const XMM_END: usize = XMM + 256;
const XMM_END_32: usize = XMM + 128;

/// FXSAVE and FXSAVE64: with the pointers zero their formats are one.
pub(crate) fn fxsave(
    plan: &Plan,
    fp: &mut FpState,
    _: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    mem.bytes_mut()[..XMM].copy_from_slice(&fp.image()[..XMM]);
    save_xmm(plan, fp, mem);
    Outcome::Done
}

/// FXRSTOR and FXRSTOR64.
pub(crate) fn fxrstor(
    plan: &Plan,
    fp: &mut FpState,
    _: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    if !restore_mxcsr(fp, mem) {
        return Outcome::Raise(Exception::Gp);
    }
    restore_x87(fp, mem);
    restore_xmm(plan, fp, mem);
    Outcome::Done
}

/// XSAVE and XSAVE64.
pub(crate) fn xsave(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    let wanted = requested(gpr);
    if wanted & X87 != 0 {
        mem.bytes_mut()[..MXCSR].copy_from_slice(&fp.image()[..MXCSR]);
        mem.bytes_mut()[ST..XMM].copy_from_slice(&fp.image()[ST..XMM]);
    }
    if wanted & SSE != 0 {
        mem.bytes_mut()[MXCSR..ST].copy_from_slice(&fp.image()[MXCSR..ST]);
        save_xmm(plan, fp, mem);
    }
    let present = u64::from_le_bytes(mem.get(XSTATE_BV));
    mem.put(XSTATE_BV, (present | wanted).to_le_bytes());
    Outcome::Done
}

/// XRSTOR and XRSTOR64.
pub(crate) fn xrstor(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    _: u64,
) -> Outcome {
    let wanted = requested(gpr);
    let present = u64::from_le_bytes(mem.get(XSTATE_BV));
    let reserved: [u8; 16] = mem.get(HEADER_RESERVED);
    if present & !(X87 | SSE) != 0 || reserved != [0; 16] {
        return Outcome::Raise(Exception::Gp);
    }
    if wanted & SSE != 0 && !restore_mxcsr(fp, mem) {
        return Outcome::Raise(Exception::Gp);
    }
    if wanted & X87 != 0 {
        if present & X87 != 0 {
            restore_x87(fp, mem);
        } else {
            fp.clear_range(ST..XMM);
            fp.reset_x87();
        }
    }
    if wanted & SSE != 0 {
        if present & SSE != 0 {
            restore_xmm(plan, fp, mem);
        } else {
            fp.clear_range(XMM..xmm_end(plan));
        }
    }
    Outcome::Done
}

/// The components of EDX:EAX that exist.
fn requested(gpr: &Gprs) -> u64 {
    (gpr[0] & 0xffff_ffff) & (X87 | SSE)
}

fn xmm_end(plan: &Plan) -> usize {
    if plan.in_64_bit_mode() { XMM_END } else { XMM_END_32 }
}

fn save_xmm(plan: &Plan, fp: &FpState, mem: &mut Operand) {
    let range = XMM..xmm_end(plan);
    mem.bytes_mut()[range.clone()].copy_from_slice(&fp.image()[range]);
}

fn restore_xmm(plan: &Plan, fp: &mut FpState, mem: &Operand) {
    fp.load_range(XMM..xmm_end(plan), mem.bytes());
}

fn restore_mxcsr(fp: &mut FpState, mem: &Operand) -> bool {
    fp.set_mxcsr(u32::from_le_bytes(mem.get(MXCSR)))
}

fn restore_x87(fp: &mut FpState, mem: &Operand) {
    fp.load_range(0..MXCSR, mem.bytes());
    fp.load_range(ST..XMM, mem.bytes());
    fp.normalise();
}

const _: () = assert!(MXCSR_RESET & !MXCSR_MASK == 0);
