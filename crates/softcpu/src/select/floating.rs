//! x87, MMX and SSE: a few moves by ops of our own, all else by plans of the `simd` crate.

use iced_x86::Code;

use super::handler;
use super::moves::string_op;
use super::operands::{Form, base_op, form};
use crate::cpu::Cpu;
use crate::decode::{Context, Decoded};
use crate::op::Op;
use crate::ops::simd;

/// x87, MMX, SSE.
pub(super) fn floating(d: &Decoded, context: Context, cpu: &mut Cpu) -> Option<Op> {
    if let Some(op) = xmm_moves(d, context) {
        return Some(op);
    }
    let i = &d.instruction;
    let plan = ::simd::plan(i)?;
    let at_rdi = plan.at_rdi;
    let run = match plan.mem {
        ::simd::MemUse::None => handler::<simd::RunRegisterPlan>(),
        _ => handler::<simd::RunPlan>(),
    };
    let number = cpu.code.keep_plan(plan);
    let mut op = if at_rdi { string_op(d, context, run) } else { base_op(d, context, run) };
    op.aux = number;
    Some(op)
}

pub(super) fn xmm_moves(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let (aligned, moves) = match i.code() {
        Code::Movaps_xmm_xmmm128 | Code::Movapd_xmm_xmmm128 | Code::Movdqa_xmm_xmmm128 => {
            (true, true)
        }
        Code::Movaps_xmmm128_xmm | Code::Movapd_xmmm128_xmm | Code::Movdqa_xmmm128_xmm => {
            (true, true)
        }
        Code::Movups_xmm_xmmm128 | Code::Movupd_xmm_xmmm128 | Code::Movdqu_xmm_xmmm128 => {
            (false, true)
        }
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            (false, true)
        }
        Code::Pxor_xmm_xmmm128 | Code::Xorps_xmm_xmmm128 | Code::Xorpd_xmm_xmmm128 => (true, false),
        _ => return None,
    };
    let form = form(i);
    let run = match (form, moves, aligned) {
        (Form::RegReg, true, _) => handler::<simd::CopyXmm>(),
        (Form::RegReg, false, _) => handler::<simd::XorXmm>(),
        (Form::RegMem, true, true) => handler::<simd::LoadXmm<true>>(),
        (Form::RegMem, true, false) => handler::<simd::LoadXmm<false>>(),
        (Form::MemReg, true, true) => handler::<simd::StoreXmm<true>>(),
        (Form::MemReg, true, false) => handler::<simd::StoreXmm<false>>(),
        _ => return None,
    };
    let mut op = base_op(d, context, run);
    match form {
        Form::RegReg => {
            (op.a, op.b) = (i.op0_register().number() as u8, i.op1_register().number() as u8)
        }
        Form::RegMem => op.a = i.op0_register().number() as u8,
        _ => op.a = i.op1_register().number() as u8,
    }
    Some(op)
}
