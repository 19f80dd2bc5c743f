//! What an instruction's operands are to an op: forms, widths, register numbers, memory addresses.

use iced_x86::{Instruction, OpKind, Register};

use crate::cpu::{FS_BASE, GS_BASE, RIP, ZERO};
use crate::decode::{Context, Decoded};
use crate::op::{Handler, Op, mem_flags};

/// The kinds of an instruction's first two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
    Reg,
    Mem,
    Other,
}

pub(super) fn form(i: &Instruction) -> Form {
    let kind = |n: u32| match i.op_kind(n) {
        OpKind::Register => 'r',
        OpKind::Memory => 'm',
        OpKind::Immediate8
        | OpKind::Immediate8_2nd
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => 'i',
        _ => 'o',
    };
    match (i.op_count(), i.op_count() > 0, i.op_count() > 1) {
        (0, ..) => Form::Other,
        (1, ..) => match kind(0) {
            'r' => Form::Reg,
            'm' => Form::Mem,
            _ => Form::Other,
        },
        _ => match (kind(0), kind(1)) {
            ('r', 'r') => Form::RegReg,
            ('r', 'i') => Form::RegImm,
            ('r', 'm') => Form::RegMem,
            ('m', 'r') => Form::MemReg,
            ('m', 'i') => Form::MemImm,
            _ => Form::Other,
        },
    }
}

/// Bytes of operand `n`.
pub(super) fn bytes(i: &Instruction, n: u32) -> usize {
    match i.op_kind(n) {
        OpKind::Register => i.op_register(n).size(),
        _ => i.memory_size().size(),
    }
}

/// A general register as [`Op::a`] wants it.
pub(super) fn reg(r: Register) -> u8 {
    match r {
        Register::AH => 1,
        Register::CH => 3,
        Register::DH => 5,
        Register::BH => 7,
        _ if r.size() == 1 => r.full_register().number() as u8 * 2,
        _ => r.number() as u8,
    }
}

/// ES, CS, SS, DS, FS, GS as numbers.
pub(super) fn segment_number(r: Register) -> u8 {
    r.number() as u8
}

/// A new op for `d`, with its memory operand, if it has one, filled in.
pub(super) fn base_op(d: &Decoded, context: Context, run: Handler) -> Op {
    let i = &d.instruction;
    let mut op = Op::new(run);
    op.offset = d.offset;
    op.next = d.offset + i.len() as u8;
    let has_memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    if has_memory {
        fill_memory(&mut op, i, context);
    }
    op
}

pub(super) fn fill_memory(op: &mut Op, i: &Instruction, context: Context) {
    op.base = match i.memory_base() {
        Register::None => ZERO as u8,
        Register::RIP | Register::EIP => RIP as u8,
        r => r.number() as u8,
    };
    op.index = match i.memory_index() {
        Register::None => ZERO as u8,
        r => r.number() as u8,
    };
    op.scale = i.memory_index_scale().trailing_zeros() as u8;
    op.disp = i.memory_displacement64() as i32;
    let address_size = address_size(i, context);
    fill_segment(op, i.memory_segment(), address_size, context);
}

/// Bits of the effective address.
pub(super) fn address_size(i: &Instruction, context: Context) -> usize {
    let named = [i.memory_base(), i.memory_index()].into_iter().find(|r| *r != Register::None);
    match named {
        Some(r) => r.size() * 8,
        None => match i.memory_displ_size() {
            2 => 16,
            4 => 32,
            _ => context.bits as usize,
        },
    }
}

pub(super) fn fill_segment(op: &mut Op, segment: Register, address_bits: usize, context: Context) {
    if context.bits == 64 {
        op.seg = match segment {
            Register::FS => FS_BASE as u8,
            Register::GS => GS_BASE as u8,
            _ => ZERO as u8,
        };
        op.scale |= if address_bits == 32 { mem_flags::ADDR32 } else { 0 };
        return;
    }
    op.seg = segment_number(segment);
    op.scale |= mem_flags::LEGACY;
    op.scale |= if address_bits == 16 { mem_flags::ADDR16 } else { mem_flags::ADDR32 };
}

/// Whether the displacement does not fit the op (MOV with a 64-bit absolute address).
pub(super) fn is_far_displacement(i: &Instruction) -> bool {
    let displacement = i.memory_displacement64();
    i.memory_displ_size() == 8
        && i.memory_base() == Register::None
        && displacement as i32 as i64 as u64 != displacement
}

/// Fills in registers and immediate of a two-operand instruction; the memory operand is in already.
pub(super) fn fill_operands(op: &mut Op, form: Form, i: &Instruction) {
    match form {
        Form::RegReg => (op.a, op.b) = (reg(i.op0_register()), reg(i.op1_register())),
        Form::RegImm => {
            op.a = reg(i.op0_register());
            op.imm.set(i.immediate(1));
        }
        Form::RegMem => op.a = reg(i.op0_register()),
        Form::MemReg => op.a = reg(i.op1_register()),
        _ => op.imm.set(i.immediate(1)),
    }
}
