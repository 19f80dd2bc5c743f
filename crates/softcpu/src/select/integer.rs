//! Integer arithmetic, shifts, multiplication and division, bits, atomics.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::handler;
use super::operands::{Form, base_op, bytes, fill_operands, form, reg};
use crate::decode::{Context, Decoded};
use crate::op::{Handler, Op};
use crate::ops::alu::{self, Alu, Unary};
use crate::ops::{atomic, bits, muldiv, shift};
use crate::tlb::Width;

pub(super) fn arithmetic(d: &Decoded, context: Context) -> Option<Op> {
    match d.instruction.mnemonic() {
        Mnemonic::Add => two_operands::<alu::Add>(d, context),
        Mnemonic::Or => two_operands::<alu::Or>(d, context),
        Mnemonic::Adc => two_operands::<alu::Adc>(d, context),
        Mnemonic::Sbb => two_operands::<alu::Sbb>(d, context),
        Mnemonic::And => two_operands::<alu::And>(d, context),
        Mnemonic::Sub => two_operands::<alu::Sub>(d, context),
        Mnemonic::Xor => two_operands::<alu::Xor>(d, context),
        Mnemonic::Cmp => two_operands::<alu::Cmp>(d, context),
        Mnemonic::Test => two_operands::<alu::Test>(d, context),
        Mnemonic::Inc => one_operand::<alu::Inc>(d, context),
        Mnemonic::Dec => one_operand::<alu::Dec>(d, context),
        Mnemonic::Neg => one_operand::<alu::Neg>(d, context),
        Mnemonic::Not => one_operand::<alu::Not>(d, context),
        Mnemonic::Clc => Some(Op { a: 0, ..base_op(d, context, handler::<alu::CarryFlag>()) }),
        Mnemonic::Stc => Some(Op { a: 1, ..base_op(d, context, handler::<alu::CarryFlag>()) }),
        Mnemonic::Cmc => Some(Op { a: 2, ..base_op(d, context, handler::<alu::CarryFlag>()) }),
        _ => None,
    }
}

pub(super) fn two_operands<O>(d: &Decoded, context: Context) -> Option<Op>
where
    O: Alu<u8> + Alu<u16> + Alu<u32> + Alu<u64>,
{
    let i = &d.instruction;
    let form = form(i);
    let size = bytes(i, 0);
    let run = by_width!(size, T => if i.has_lock_prefix() {
        match form {
            Form::MemReg => handler::<alu::Locked<O, T, false>>(),
            Form::MemImm => handler::<alu::Locked<O, T, true>>(),
            _ => return None,
        }
    } else if d.flags_live {
        alu_form::<O, T, true>(form)?
    } else {
        alu_form::<O, T, false>(form)?
    });
    let mut op = base_op(d, context, run);
    fill_operands(&mut op, form, i);
    Some(op)
}

pub(super) fn alu_form<O: Alu<T>, T: Width, const F: bool>(form: Form) -> Option<Handler> {
    Some(match form {
        Form::RegReg => handler::<alu::RegReg<O, T, F>>(),
        Form::RegImm => handler::<alu::RegImm<O, T, F>>(),
        Form::RegMem => handler::<alu::RegMem<O, T, F>>(),
        Form::MemReg => handler::<alu::MemReg<O, T, F>>(),
        Form::MemImm => handler::<alu::MemImm<O, T, F>>(),
        Form::Reg | Form::Mem | Form::Other => return None,
    })
}

pub(super) fn one_operand<O>(d: &Decoded, context: Context) -> Option<Op>
where
    O: Unary<u8> + Unary<u16> + Unary<u32> + Unary<u64>,
{
    let i = &d.instruction;
    let memory = i.op0_kind() == OpKind::Memory;
    let run = by_width!(bytes(i, 0), T => match (memory, i.has_lock_prefix()) {
        (false, _) => handler::<alu::UnaryReg<O, T>>(),
        (true, false) => handler::<alu::UnaryMem<O, T>>(),
        (true, true) => handler::<alu::UnaryLocked<O, T>>(),
    });
    let mut op = base_op(d, context, run);
    if !memory {
        op.a = reg(i.op0_register());
    }
    Some(op)
}

pub(super) fn shifts(d: &Decoded, context: Context) -> Option<Op> {
    match d.instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => one_shift::<shift::Shl>(d, context),
        Mnemonic::Shr => one_shift::<shift::Shr>(d, context),
        Mnemonic::Sar => one_shift::<shift::Sar>(d, context),
        Mnemonic::Rol => one_shift::<shift::Rol>(d, context),
        Mnemonic::Ror => one_shift::<shift::Ror>(d, context),
        Mnemonic::Rcl => one_shift::<shift::Rcl>(d, context),
        Mnemonic::Rcr => one_shift::<shift::Rcr>(d, context),
        Mnemonic::Shld => two_shift::<shift::Shld>(d, context),
        Mnemonic::Shrd => two_shift::<shift::Shrd>(d, context),
        _ => None,
    }
}

pub(super) fn one_shift<O>(d: &Decoded, context: Context) -> Option<Op>
where
    O: shift::Shift<u8> + shift::Shift<u16> + shift::Shift<u32> + shift::Shift<u64>,
{
    let i = &d.instruction;
    let immediate = i.op1_kind() == OpKind::Immediate8;
    let memory = i.op0_kind() == OpKind::Memory;
    let run = by_width!(bytes(i, 0), T => match (memory, immediate) {
        (false, true) => handler::<shift::ShiftReg<O, T, true>>(),
        (false, false) => handler::<shift::ShiftReg<O, T, false>>(),
        (true, true) => handler::<shift::ShiftMem<O, T, true>>(),
        (true, false) => handler::<shift::ShiftMem<O, T, false>>(),
    });
    let mut op = base_op(d, context, run);
    if immediate {
        op.imm.set(u64::from(i.immediate8()));
    }
    if !memory {
        op.a = reg(i.op0_register());
    }
    Some(op)
}

pub(super) fn two_shift<O>(d: &Decoded, context: Context) -> Option<Op>
where
    O: shift::DoubleShift<u16> + shift::DoubleShift<u32> + shift::DoubleShift<u64>,
{
    let i = &d.instruction;
    let immediate = i.op2_kind() == OpKind::Immediate8;
    let memory = i.op0_kind() == OpKind::Memory;
    let run = by_wide!(bytes(i, 0), T => match (memory, immediate) {
        (false, true) => handler::<shift::DoubleShiftReg<O, T, true>>(),
        (false, false) => handler::<shift::DoubleShiftReg<O, T, false>>(),
        (true, true) => handler::<shift::DoubleShiftMem<O, T, true>>(),
        (true, false) => handler::<shift::DoubleShiftMem<O, T, false>>(),
    });
    let mut op = base_op(d, context, run);
    if immediate {
        op.imm.set(u64::from(i.immediate8()));
    }
    if memory {
        op.a = reg(i.op1_register());
    } else {
        (op.a, op.b) = (reg(i.op0_register()), reg(i.op1_register()));
    }
    Some(op)
}

pub(super) fn multiplies(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let run = match i.mnemonic() {
        Mnemonic::Mul => widening::<false>(i),
        Mnemonic::Imul => match i.op_count() {
            1 => widening::<true>(i),
            2 => by_wide!(bytes(i, 0), T => if i.op1_kind() == OpKind::Memory {
                handler::<muldiv::Imul2<T, true>>()
            } else {
                handler::<muldiv::Imul2<T, false>>()
            }),
            _ => by_wide!(bytes(i, 0), T => if i.op1_kind() == OpKind::Memory {
                handler::<muldiv::Imul3<T, true>>()
            } else {
                handler::<muldiv::Imul3<T, false>>()
            }),
        },
        Mnemonic::Div => dividing::<false>(i),
        Mnemonic::Idiv => dividing::<true>(i),
        _ => return None,
    };
    let mut op = base_op(d, context, run);
    if i.op0_kind() == OpKind::Register {
        op.a = reg(i.op0_register());
    }
    if i.op_count() > 1 && i.op1_kind() == OpKind::Register {
        op.b = reg(i.op1_register());
    }
    if i.op_count() == 3 {
        op.imm.set(i.immediate(2));
    }
    Some(op)
}

pub(super) fn widening<const SIGNED: bool>(i: &Instruction) -> Handler {
    let memory = i.op0_kind() == OpKind::Memory;
    match (bytes(i, 0), memory) {
        (1, false) => handler::<muldiv::MulByte<SIGNED, false>>(),
        (1, true) => handler::<muldiv::MulByte<SIGNED, true>>(),
        (size, false) => by_wide!(size, T => handler::<muldiv::Mul<T, SIGNED, false>>()),
        (size, true) => by_wide!(size, T => handler::<muldiv::Mul<T, SIGNED, true>>()),
    }
}

pub(super) fn dividing<const SIGNED: bool>(i: &Instruction) -> Handler {
    let memory = i.op0_kind() == OpKind::Memory;
    match (bytes(i, 0), memory) {
        (1, false) => handler::<muldiv::DivByte<SIGNED, false>>(),
        (1, true) => handler::<muldiv::DivByte<SIGNED, true>>(),
        (size, false) => by_wide!(size, T => handler::<muldiv::Div<T, SIGNED, false>>()),
        (size, true) => by_wide!(size, T => handler::<muldiv::Div<T, SIGNED, true>>()),
    }
}

pub(super) fn bit_ops(d: &Decoded, context: Context) -> Option<Op> {
    match d.instruction.mnemonic() {
        Mnemonic::Bt => bit_op::<bits::Bt>(d, context),
        Mnemonic::Bts => bit_op::<bits::Bts>(d, context),
        Mnemonic::Btr => bit_op::<bits::Btr>(d, context),
        Mnemonic::Btc => bit_op::<bits::Btc>(d, context),
        Mnemonic::Bsf => bit_scan::<false>(d, context),
        Mnemonic::Bsr => bit_scan::<true>(d, context),
        _ => None,
    }
}

pub(super) fn bit_op<O>(d: &Decoded, context: Context) -> Option<Op>
where
    O: bits::BitOp<u16> + bits::BitOp<u32> + bits::BitOp<u64>,
{
    let i = &d.instruction;
    let immediate = i.op1_kind() == OpKind::Immediate8;
    let memory = i.op0_kind() == OpKind::Memory;
    let run = by_wide!(bytes(i, 0), T => match (memory, immediate) {
        (false, true) => handler::<bits::BitReg<O, T, true>>(),
        (false, false) => handler::<bits::BitReg<O, T, false>>(),
        (true, true) => handler::<bits::BitMem<O, T, true>>(),
        (true, false) => handler::<bits::BitMem<O, T, false>>(),
    });
    let mut op = base_op(d, context, run);
    if immediate {
        op.imm.set(u64::from(i.immediate8()));
    } else {
        op.b = reg(i.op1_register());
    }
    if !memory {
        op.a = reg(i.op0_register());
    }
    Some(op)
}

pub(super) fn bit_scan<const REVERSE: bool>(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let memory = i.op1_kind() == OpKind::Memory;
    let run = by_wide!(bytes(i, 0), T => if memory {
        handler::<bits::BitScan<T, REVERSE, true>>()
    } else {
        handler::<bits::BitScan<T, REVERSE, false>>()
    });
    let mut op = base_op(d, context, run);
    op.a = reg(i.op0_register());
    if !memory {
        op.b = reg(i.op1_register());
    }
    Some(op)
}

pub(super) fn atomics(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let memory = i.op_count() > 0 && i.op0_kind() == OpKind::Memory;
    let run = match (i.mnemonic(), memory) {
        (Mnemonic::Xchg, true) => by_width!(bytes(i, 0), T => handler::<atomic::XchgMem<T>>()),
        (Mnemonic::Xadd, true) => by_width!(bytes(i, 0), T => handler::<atomic::XaddMem<T>>()),
        (Mnemonic::Xadd, false) => by_width!(bytes(i, 0), T => handler::<atomic::XaddReg<T>>()),
        (Mnemonic::Cmpxchg, true) => {
            by_width!(bytes(i, 0), T => handler::<atomic::CmpxchgMem<T>>())
        }
        (Mnemonic::Cmpxchg, false) => {
            by_width!(bytes(i, 0), T => handler::<atomic::CmpxchgReg<T>>())
        }
        (Mnemonic::Cmpxchg8b, true) => handler::<atomic::Cmpxchg8b>(),
        (Mnemonic::Cmpxchg16b, true) => handler::<atomic::Cmpxchg16b>(),
        // XCHG register, memory is the same instruction.
        (Mnemonic::Xchg, false) if form(i) == Form::RegMem => {
            by_width!(bytes(i, 0), T => handler::<atomic::XchgMem<T>>())
        }
        _ => return None,
    };
    let mut op = base_op(d, context, run);
    match form(i) {
        Form::MemReg => op.a = reg(i.op1_register()),
        Form::RegMem => op.a = reg(i.op0_register()),
        Form::RegReg => (op.a, op.b) = (reg(i.op0_register()), reg(i.op1_register())),
        _ => {}
    }
    Some(op)
}
