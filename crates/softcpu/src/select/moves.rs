//! Moves, string instructions, the stack.

use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::operands::{
    Form, address_size, base_op, bytes, fill_operands, fill_segment, form, is_far_displacement,
    reg, segment_number,
};
use super::{condition_number, handler};
use crate::cpu::ZERO;
use crate::decode::{Context, Decoded};
use crate::op::{Handler, Op};
use crate::ops::{mov, stack, string};

pub(super) fn moves(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let run = match i.mnemonic() {
        Mnemonic::Mov => return plain_mov(d, context),
        Mnemonic::Movzx => return extend::<false>(d, context),
        Mnemonic::Movsx | Mnemonic::Movsxd => return extend::<true>(d, context),
        Mnemonic::Lea => return lea(d, context),
        Mnemonic::Xchg if form(i) == Form::RegReg => {
            by_width!(bytes(i, 0), T => handler::<mov::XchgReg<T>>())
        }
        Mnemonic::Bswap => by_wide!(bytes(i, 0), T => handler::<mov::Bswap<T>>()),
        Mnemonic::Cbw => handler::<mov::ExtendAccumulator<u8, u16>>(),
        Mnemonic::Cwde => handler::<mov::ExtendAccumulator<u16, u32>>(),
        Mnemonic::Cdqe => handler::<mov::ExtendAccumulator<u32, u64>>(),
        Mnemonic::Cwd => handler::<mov::SignIntoData<u16>>(),
        Mnemonic::Cdq => handler::<mov::SignIntoData<u32>>(),
        Mnemonic::Cqo => handler::<mov::SignIntoData<u64>>(),
        Mnemonic::Lahf => handler::<mov::Lahf>(),
        Mnemonic::Sahf => handler::<mov::Sahf>(),
        Mnemonic::Xlatb => return xlat(d, context),
        _ => return conditional_moves(d, context),
    };
    let mut op = base_op(d, context, run);
    if i.op_count() > 0 {
        op.a = reg(i.op0_register());
    }
    if i.op_count() > 1 {
        op.b = reg(i.op1_register());
    }
    Some(op)
}

pub(super) fn plain_mov(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let special = |r: Register| r.is_cr() || r.is_dr() || r.is_segment_register() || r.is_tr();
    if special(i.op0_register()) || special(i.op1_register()) {
        return None;
    }
    if is_far_displacement(i) {
        return None;
    }
    let form = form(i);
    let run = by_width!(bytes(i, 0), T => match form {
        Form::RegReg => handler::<mov::MovRegReg<T>>(),
        Form::RegImm => handler::<mov::MovRegImm<T>>(),
        Form::RegMem => handler::<mov::MovRegMem<T>>(),
        Form::MemReg => handler::<mov::MovMemReg<T>>(),
        Form::MemImm => handler::<mov::MovMemImm<T>>(),
        Form::Reg | Form::Mem | Form::Other => return None,
    });
    let mut op = base_op(d, context, run);
    fill_operands(&mut op, form, i);
    Some(op)
}

pub(super) fn extend<const SIGNED: bool>(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let memory = i.op1_kind() == OpKind::Memory;
    let source = if memory { i.memory_size().size() } else { i.op1_register().size() };
    let run = by_wide!(bytes(i, 0), D => match (source, memory) {
        (1, false) => handler::<mov::ExtendReg<u8, D, SIGNED>>(),
        (1, true) => handler::<mov::ExtendMem<u8, D, SIGNED>>(),
        (2, false) => handler::<mov::ExtendReg<u16, D, SIGNED>>(),
        (2, true) => handler::<mov::ExtendMem<u16, D, SIGNED>>(),
        (_, false) => handler::<mov::ExtendReg<u32, D, SIGNED>>(),
        (_, true) => handler::<mov::ExtendMem<u32, D, SIGNED>>(),
    });
    let mut op = base_op(d, context, run);
    op.a = reg(i.op0_register());
    if !memory {
        op.b = reg(i.op1_register());
    }
    Some(op)
}

pub(super) fn lea(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let cut = address_size(i, context) != 64;
    let run = by_wide!(bytes(i, 0), T => if cut { handler::<mov::LeaCut<T>>() } else { handler::<mov::Lea<T>>() });
    Some(Op { a: reg(i.op0_register()), ..base_op(d, context, run) })
}

pub(super) fn xlat(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let mut op = base_op(d, context, handler::<mov::Xlat>());
    let base = i.memory_base();
    op.base = crate::cpu::RBX as u8;
    op.index = ZERO as u8;
    op.disp = 0;
    op.scale = 0;
    fill_segment(&mut op, i.memory_segment(), base.size() * 8, context);
    Some(op)
}

pub(super) fn conditional_moves(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    // Jcc has a condition too, and so have LOOPE and LOOPNE.
    if i.condition_code() == ConditionCode::None || i.flow_control() != FlowControl::Next {
        return None;
    }
    let cc = condition_number(i);
    let memory = i.op_count() > 1 && i.op1_kind() == OpKind::Memory
        || i.op_count() == 1 && i.op0_kind() == OpKind::Memory;
    let sets = i.op_count() == 1;
    let run = match (sets, memory) {
        (true, false) => by_condition!(cc, CC => handler::<mov::SetReg<CC>>()),
        (true, true) => by_condition!(cc, CC => handler::<mov::SetMem<CC>>()),
        (false, false) if is_cmov(i) => {
            by_wide!(bytes(i, 0), T => by_condition!(cc, CC => handler::<mov::CmovReg<T, CC>>()))
        }
        (false, true) if is_cmov(i) => {
            by_wide!(bytes(i, 0), T => by_condition!(cc, CC => handler::<mov::CmovMem<T, CC>>()))
        }
        _ => return None,
    };
    let mut op = base_op(d, context, run);
    if i.op0_kind() == OpKind::Register {
        op.a = reg(i.op0_register());
    }
    if i.op_count() > 1 && i.op1_kind() == OpKind::Register {
        op.b = reg(i.op1_register());
    }
    Some(op)
}

pub(super) fn is_cmov(i: &Instruction) -> bool {
    i.op0_register().is_gpr()
}

pub(super) fn strings(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let run = match i.code() {
        Code::Movsb_m8_m8 => handler::<string::Movs<u8>>(),
        Code::Movsw_m16_m16 => handler::<string::Movs<u16>>(),
        Code::Movsd_m32_m32 => handler::<string::Movs<u32>>(),
        Code::Movsq_m64_m64 => handler::<string::Movs<u64>>(),
        Code::Stosb_m8_AL => handler::<string::Stos<u8>>(),
        Code::Stosw_m16_AX => handler::<string::Stos<u16>>(),
        Code::Stosd_m32_EAX => handler::<string::Stos<u32>>(),
        Code::Stosq_m64_RAX => handler::<string::Stos<u64>>(),
        Code::Lodsb_AL_m8 => handler::<string::Lods<u8>>(),
        Code::Lodsw_AX_m16 => handler::<string::Lods<u16>>(),
        Code::Lodsd_EAX_m32 => handler::<string::Lods<u32>>(),
        Code::Lodsq_RAX_m64 => handler::<string::Lods<u64>>(),
        Code::Cmpsb_m8_m8 => handler::<string::Cmps<u8>>(),
        Code::Cmpsw_m16_m16 => handler::<string::Cmps<u16>>(),
        Code::Cmpsd_m32_m32 => handler::<string::Cmps<u32>>(),
        Code::Cmpsq_m64_m64 => handler::<string::Cmps<u64>>(),
        Code::Scasb_AL_m8 => handler::<string::Scas<u8>>(),
        Code::Scasw_AX_m16 => handler::<string::Scas<u16>>(),
        Code::Scasd_EAX_m32 => handler::<string::Scas<u32>>(),
        Code::Scasq_RAX_m64 => handler::<string::Scas<u64>>(),
        Code::Insb_m8_DX => handler::<string::Ins<u8>>(),
        Code::Insw_m16_DX => handler::<string::Ins<u16>>(),
        Code::Insd_m32_DX => handler::<string::Ins<u32>>(),
        Code::Outsb_DX_m8 => handler::<string::Outs<u8>>(),
        Code::Outsw_DX_m16 => handler::<string::Outs<u16>>(),
        Code::Outsd_DX_m32 => handler::<string::Outs<u32>>(),
        _ => return None,
    };
    let op = string_op(d, context, run);
    op.imm.set(match (i.has_repne_prefix(), i.has_rep_prefix()) {
        (true, _) => 2,
        (_, true) => 1,
        _ => 0,
    });
    Some(op)
}

/// An op whose memory operand is DS:rSI (or its override) and, implicitly, ES:rDI.
pub(super) fn string_op(d: &Decoded, context: Context, run: Handler) -> Op {
    let i = &d.instruction;
    let mut op = Op::new(run);
    op.offset = d.offset;
    op.next = d.offset + i.len() as u8;
    let address_bits = (0..i.op_count())
        .find_map(|n| match i.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(16),
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(32),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(64),
            _ => None,
        })
        .unwrap_or(context.bits as usize);
    let segment = match i.segment_prefix() {
        Register::None => Register::DS,
        named => named,
    };
    fill_segment(&mut op, segment, address_bits, context);
    op
}

pub(super) fn stack_ops(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let long = context.bits == 64;
    let kind = i.op_kind(0);
    let segment = i.op_count() > 0 && i.op0_register().is_segment_register();
    let size = stack_bytes(i);
    let run = match (i.mnemonic(), kind) {
        (Mnemonic::Push, OpKind::Register) if segment => handler::<stack::PushAny<3>>(),
        (Mnemonic::Push, OpKind::Register) if long && size == 8 => handler::<stack::PushReg>(),
        (Mnemonic::Push, OpKind::Register) => handler::<stack::PushAny<0>>(),
        (Mnemonic::Push, OpKind::Memory) if long && size == 8 => handler::<stack::PushMem>(),
        (Mnemonic::Push, OpKind::Memory) => handler::<stack::PushAny<2>>(),
        (Mnemonic::Push, _) if long && size == 8 => handler::<stack::PushImm>(),
        (Mnemonic::Push, _) => handler::<stack::PushAny<1>>(),
        (Mnemonic::Pop, OpKind::Register) if segment => return None,
        (Mnemonic::Pop, OpKind::Register) if long && size == 8 => handler::<stack::PopReg>(),
        (Mnemonic::Pop, OpKind::Register) => handler::<stack::PopAny<0>>(),
        (Mnemonic::Pop, _) => handler::<stack::PopAny<2>>(),
        (Mnemonic::Leave, _) if long && size == 8 => handler::<stack::Leave>(),
        (Mnemonic::Leave, _) => handler::<stack::LeaveAny>(),
        (Mnemonic::Enter, _) => handler::<stack::Enter>(),
        (Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq, _) => handler::<stack::Pushf>(),
        (Mnemonic::Pusha | Mnemonic::Pushad, _) => handler::<stack::Pusha>(),
        (Mnemonic::Popa | Mnemonic::Popad, _) => handler::<stack::Popa>(),
        _ => return None,
    };
    let mut op = base_op(d, context, run);
    op.b = size;
    match (i.mnemonic(), kind) {
        (Mnemonic::Enter, _) => {
            op.imm.set(u64::from(i.immediate16()));
            op.a = i.immediate8_2nd();
        }
        (Mnemonic::Push | Mnemonic::Pop, OpKind::Register) if segment => {
            op.a = segment_number(i.op0_register());
        }
        (Mnemonic::Push | Mnemonic::Pop, OpKind::Register) => op.a = reg(i.op0_register()),
        (Mnemonic::Push, OpKind::Memory) => {}
        (Mnemonic::Push, _) => op.imm.set(i.immediate(0)),
        _ => {}
    }
    Some(op)
}

/// Bytes that one push or pop of the instruction moves.
pub(super) fn stack_bytes(i: &Instruction) -> u8 {
    match i.mnemonic() {
        Mnemonic::Pusha | Mnemonic::Popa => 2,
        Mnemonic::Pushad | Mnemonic::Popad => 4,
        Mnemonic::Pushf | Mnemonic::Popf => 2,
        Mnemonic::Pushfd | Mnemonic::Popfd => 4,
        Mnemonic::Enter => match i.code() {
            Code::Enterw_imm16_imm8 => 2,
            Code::Enterd_imm16_imm8 => 4,
            _ => 8,
        },
        Mnemonic::Leave => match i.code() {
            Code::Leavew => 2,
            Code::Leaved => 4,
            _ => 8,
        },
        _ => i.stack_pointer_increment().unsigned_abs().clamp(2, 8) as u8,
    }
}
