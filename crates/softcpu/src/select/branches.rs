//! Near branches, and the fusion of CMP or TEST with the Jcc behind it.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind};

use super::operands::{Form, base_op, bytes, form, reg};
use super::{Ending, condition_number};
use crate::decode::{Context, Decoded};
use crate::op::{Handler, Op, jump_and_leave, mem_flags};
use crate::ops::alu;
use crate::ops::branch::{self, Compare, Cut, Looked, Near};
use crate::tlb::Width;

/// Puts `Near`, `Looked` or `Cut` into a handler with one type parameter for the jump's reach.
macro_rules! by_reach {
    ($reach:expr, $R:ident => $body:expr) => {
        match $reach {
            Reach::Near => {
                type $R = Near;
                $body
            }
            Reach::Looked => {
                type $R = Looked;
                $body
            }
            Reach::Cut => {
                type $R = Cut;
                $body
            }
        }
    };
}

#[derive(Clone, Copy)]
pub(super) enum Reach {
    Near,
    Looked,
    Cut,
}

pub(super) fn reach(distance: i64, context: Context) -> Reach {
    match context.bits {
        64 if context.in_page(distance) => Reach::Near,
        64 => Reach::Looked,
        _ => Reach::Cut,
    }
}

/// The distance from the block's start to a near branch's target, and the operand size in bits.
pub(super) fn branch_target(i: &Instruction) -> (i64, u8) {
    match i.op0_kind() {
        OpKind::NearBranch16 => (i64::from(i.near_branch16() as i16), 16),
        OpKind::NearBranch32 => (i64::from(i.near_branch32() as i32), 32),
        _ => (i.near_branch64() as i64, 64),
    }
}

/// The op behind a conditional jump: the way that is not taken, and the distance of the other.
pub(super) fn not_taken(d: &Decoded, taken: i64, context: Context) -> Op {
    let next = d.offset + d.instruction.len() as u8;
    let run = by_reach!(reach(i64::from(next), context), R => branch::jump::<R>);
    Op {
        aux: u32::from(next),
        disp: taken as i32,
        b: context.bits as u8,
        offset: d.offset,
        next,
        ..Op::new(run)
    }
}

/// Fuses CMP or TEST with the Jcc behind it, if they are such a pair of a form that pays.
pub fn fused(first: &Decoded, second: &Decoded, context: Context, row: &mut Vec<Op>) -> bool {
    let (i, j) = (&first.instruction, &second.instruction);
    if context.bits != 64 || !j.is_jcc_short_or_near() || j.op0_kind() != OpKind::NearBranch64 {
        return false;
    }
    let form = form(i);
    let size = if form == Form::Other { 0 } else { bytes(i, 0) };
    if size == 2 || size == 0 {
        return false;
    }
    let (taken, _) = branch_target(j);
    let reach = reach(taken, context);
    let cc = condition_number(j);
    let run = match i.mnemonic() {
        Mnemonic::Cmp => fused_handler::<alu::Cmp>(form, size, cc, reach),
        Mnemonic::Test => fused_handler::<alu::Test>(form, size, cc, reach),
        _ => None,
    };
    let Some(run) = run else { return false };
    let mut op = base_op(first, context, run);
    match form {
        Form::RegReg => (op.a, op.b) = (reg(i.op0_register()), reg(i.op1_register())),
        Form::RegImm => (op.a, op.aux) = (reg(i.op0_register()), i.immediate(1) as u32),
        Form::RegMem => op.a = reg(i.op0_register()),
        Form::MemReg => op.a = reg(i.op1_register()),
        _ => op.aux = i.immediate(1) as u32,
    }
    row.push(op);
    row.push(not_taken(second, taken, context));
    true
}

pub(super) fn fused_handler<O>(form: Form, size: usize, cc: u8, reach: Reach) -> Option<Handler>
where
    O: Compare<u8> + Compare<u32> + Compare<u64>,
{
    Some(match size {
        1 => fused_width::<O, u8>(form, cc, reach)?,
        4 => fused_width::<O, u32>(form, cc, reach)?,
        _ => fused_width::<O, u64>(form, cc, reach)?,
    })
}

pub(super) fn fused_width<O: Compare<T>, T: Width>(
    form: Form,
    cc: u8,
    reach: Reach,
) -> Option<Handler> {
    let near = matches!(reach, Reach::Near);
    Some(match form {
        Form::RegReg => fused_operands::<O, branch::OfRegReg, T>(cc, near),
        Form::RegImm => fused_operands::<O, branch::OfRegImm, T>(cc, near),
        Form::RegMem => fused_operands::<O, branch::OfRegMem, T>(cc, near),
        Form::MemReg => fused_operands::<O, branch::OfMemReg, T>(cc, near),
        Form::MemImm => fused_operands::<O, branch::OfMemImm, T>(cc, near),
        Form::Reg | Form::Mem | Form::Other => return None,
    })
}

pub(super) fn fused_operands<O: Compare<T>, P: branch::Operands<T>, T: Width>(
    cc: u8,
    near: bool,
) -> Handler {
    by_condition!(cc, CC => if near {
        branch::compare_and_jump::<Near, O, P, T, CC>
    } else {
        branch::compare_and_jump::<Looked, O, P, T, CC>
    })
}

/// Near branches.
pub(super) fn branches(d: &Decoded, context: Context, row: &mut Vec<Op>) -> Option<Ending> {
    let i = &d.instruction;
    match i.flow_control() {
        FlowControl::ConditionalBranch => conditional(d, context, row),
        FlowControl::UnconditionalBranch
            if i.op0_kind() != OpKind::FarBranch16 && i.op0_kind() != OpKind::FarBranch32 =>
        {
            let (distance, size) = branch_target(i);
            let run = by_reach!(reach(distance, context), R => branch::jump::<R>);
            row.push(Op { aux: distance as u32, b: size, ..base_op(d, context, run) });
        }
        FlowControl::Call if is_near_direct(i) => {
            let (distance, size) = branch_target(i);
            let run: Handler = match reach(distance, context) {
                Reach::Near => branch::call::<Near>,
                Reach::Looked => branch::call::<Looked>,
                Reach::Cut => jump_and_leave::<branch::CallLegacy>,
            };
            row.push(Op { aux: distance as u32, b: size, ..base_op(d, context, run) });
        }
        FlowControl::IndirectBranch if i.is_jmp_near_indirect() => indirect(d, context, row, false),
        FlowControl::IndirectCall if i.is_call_near_indirect() => indirect(d, context, row, true),
        FlowControl::Return if i.mnemonic() == Mnemonic::Ret => {
            let run: Handler = if context.bits == 64 && stack_return_bits(i) == 64 {
                branch::ret
            } else {
                jump_and_leave::<branch::RetLegacy>
            };
            let op = Op { b: stack_return_bits(i), ..base_op(d, context, run) };
            if i.op_count() == 1 {
                op.imm.set(u64::from(i.immediate16()));
            }
            row.push(op);
        }
        _ => return None,
    }
    Some(Ending::Ends)
}

pub(super) fn is_near_direct(i: &Instruction) -> bool {
    matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

pub(super) fn stack_return_bits(i: &Instruction) -> u8 {
    match i.code() {
        Code::Retnw | Code::Retnw_imm16 => 16,
        Code::Retnd | Code::Retnd_imm16 => 32,
        _ => 64,
    }
}

pub(super) fn conditional(d: &Decoded, context: Context, row: &mut Vec<Op>) {
    let i = &d.instruction;
    let (distance, size) = branch_target(i);
    let reach = reach(distance, context);
    let kind = match i.mnemonic() {
        Mnemonic::Loopne => Some(0),
        Mnemonic::Loope => Some(1),
        Mnemonic::Loop => Some(2),
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => Some(3),
        _ => None,
    };
    let run: Handler = match kind {
        Some(_) => by_reach!(reach, R => branch::loop_if::<R>),
        None => {
            by_condition!(condition_number(i), CC => by_reach!(reach, R => branch::jump_if::<R, CC>))
        }
    };
    let mut op = Op { a: kind.unwrap_or(0), b: size, ..base_op(d, context, run) };
    op.scale = if kind.is_some() { loop_counter_flag(i) } else { 0 };
    row.push(op);
    row.push(not_taken(d, distance, context));
}

/// The width of the counter of LOOP and JCXZ, as an address-size flag.
pub(super) fn loop_counter_flag(i: &Instruction) -> u8 {
    match i.code() {
        Code::Jcxz_rel8_16 | Code::Jcxz_rel8_32 => mem_flags::ADDR16,
        Code::Jecxz_rel8_16 | Code::Jecxz_rel8_32 | Code::Jecxz_rel8_64 => mem_flags::ADDR32,
        Code::Loop_rel8_16_CX | Code::Loop_rel8_32_CX => mem_flags::ADDR16,
        Code::Loope_rel8_16_CX | Code::Loope_rel8_32_CX => mem_flags::ADDR16,
        Code::Loopne_rel8_16_CX | Code::Loopne_rel8_32_CX => mem_flags::ADDR16,
        Code::Loop_rel8_16_ECX | Code::Loop_rel8_32_ECX | Code::Loop_rel8_64_ECX => {
            mem_flags::ADDR32
        }
        Code::Loope_rel8_16_ECX | Code::Loope_rel8_32_ECX | Code::Loope_rel8_64_ECX => {
            mem_flags::ADDR32
        }
        Code::Loopne_rel8_16_ECX | Code::Loopne_rel8_32_ECX | Code::Loopne_rel8_64_ECX => {
            mem_flags::ADDR32
        }
        _ => 0,
    }
}

pub(super) fn indirect(d: &Decoded, context: Context, row: &mut Vec<Op>, call: bool) {
    let i = &d.instruction;
    let memory = i.op0_kind() == OpKind::Memory;
    let size = bytes(i, 0) as u8 * 8;
    let run: Handler = match (context.bits == 64 && size == 64, call, memory) {
        (true, true, true) => branch::indirect::<true, true>,
        (true, true, false) => branch::indirect::<true, false>,
        (true, false, true) => branch::indirect::<false, true>,
        (true, false, false) => branch::indirect::<false, false>,
        (false, _, true) => jump_and_leave::<branch::IndirectLegacy<true>>,
        (false, _, false) => jump_and_leave::<branch::IndirectLegacy<false>>,
    };
    let mut op = Op { b: size, ..base_op(d, context, run) };
    if !memory {
        op.a = reg(i.op0_register());
    }
    op.imm.set(u64::from(call));
    row.push(op);
}
