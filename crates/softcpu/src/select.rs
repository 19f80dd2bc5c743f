//! The table from instructions to handlers.
//!
//! [`single`] fills one op for one instruction; [`fused`] one op for CMP or TEST and the Jcc behind
//! it. What is not in a table raises #UD.

use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::cpu::{Cpu, FS_BASE, GS_BASE, RIP, ZERO};
use crate::decode::{Context, Decoded};
use crate::op::{Exec, Handler, Op, jump_and_leave, mem_flags, step, step_and_leave};
use crate::ops::alu::{self, Alu, Unary};
use crate::ops::branch::{self, Compare, Cut, Looked, Near};
use crate::ops::{atomic, bits, mov, muldiv, shift, simd, stack, string, system};
use crate::tlb::Width;

/// Whether anything comes behind an op in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The next instruction.
    FallsThrough,
    /// Nothing: the op ends the block.
    Ends,
}

/// `$body` with the type `$T` that has `$bytes` bytes.
macro_rules! by_width {
    ($bytes:expr, $T:ident => $body:expr) => {
        match $bytes {
            1 => {
                type $T = u8;
                $body
            }
            2 => {
                type $T = u16;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            _ => {
                type $T = u64;
                $body
            }
        }
    };
}

/// The same without bytes.
macro_rules! by_wide {
    ($bytes:expr, $T:ident => $body:expr) => {
        match $bytes {
            2 => {
                type $T = u16;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            _ => {
                type $T = u64;
                $body
            }
        }
    };
}

/// `$body` with the constant `$CC` for a condition's number.
macro_rules! by_condition {
    ($number:expr, $CC:ident => $body:expr) => {
        by_condition!(@arms $number, $CC, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@arms $number:expr, $CC:ident, $body:expr, $($n:literal)*) => {
        match $number {
            $($n => { const $CC: u8 = $n; $body })*
            _ => unreachable!("a condition has four bits"),
        }
    };
}

fn handler<E: Exec>() -> Handler {
    step::<E>
}

/// The kinds of an instruction's first two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
    Reg,
    Mem,
    Other,
}

fn form(i: &Instruction) -> Form {
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
pub(crate) fn bytes(i: &Instruction, n: u32) -> usize {
    match i.op_kind(n) {
        OpKind::Register => i.op_register(n).size(),
        _ => i.memory_size().size(),
    }
}

/// A general register as [`Op::a`] wants it.
pub(crate) fn reg(r: Register) -> u8 {
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
pub(crate) fn segment_number(r: Register) -> u8 {
    r.number() as u8
}

/// A new op for `d`, with its memory operand, if it has one, filled in.
pub(crate) fn base_op(d: &Decoded, context: Context, run: Handler) -> Op {
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

fn fill_memory(op: &mut Op, i: &Instruction, context: Context) {
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
fn address_size(i: &Instruction, context: Context) -> usize {
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

fn fill_segment(op: &mut Op, segment: Register, address_bits: usize, context: Context) {
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
fn is_far_displacement(i: &Instruction) -> bool {
    let displacement = i.memory_displacement64();
    i.memory_displ_size() == 8
        && i.memory_base() == Register::None
        && displacement as i32 as i64 as u64 != displacement
}

/// Whether the instruction ends a block: behind it the world may be another.
pub fn ends_block(i: &Instruction) -> bool {
    if i.flow_control() != FlowControl::Next {
        return true;
    }
    match i.mnemonic() {
        Mnemonic::Cli
        | Mnemonic::Popf
        | Mnemonic::Popfd
        | Mnemonic::Popfq
        | Mnemonic::Hlt
        | Mnemonic::Invlpg
        | Mnemonic::Wrmsr
        | Mnemonic::Lmsw
        | Mnemonic::Clts
        | Mnemonic::Xsetbv
        | Mnemonic::Swapgs
        | Mnemonic::Clac
        | Mnemonic::Stac
        | Mnemonic::Wrfsbase
        | Mnemonic::Wrgsbase
        | Mnemonic::Lds
        | Mnemonic::Les
        | Mnemonic::Lfs
        | Mnemonic::Lgs
        | Mnemonic::Lss
        | Mnemonic::In
        | Mnemonic::Out => true,
        Mnemonic::Mov => {
            let target = i.op0_register();
            i.op0_kind() == OpKind::Register
                && (target.is_cr() || target.is_dr() || target.is_segment_register())
        }
        Mnemonic::Pop => i.op0_register().is_segment_register(),
        _ => false,
    }
}

/// Whether the instruction always sets the flags that it is said to modify: shifts by CL and
/// repeated comparisons may leave them, and bit tests and multiplications some of them, as the host
/// does.
pub fn always_sets_flags(i: &Instruction) -> bool {
    match i.mnemonic() {
        Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shld
        | Mnemonic::Shrd
        | Mnemonic::Bt
        | Mnemonic::Bts
        | Mnemonic::Btr
        | Mnemonic::Btc
        | Mnemonic::Mul
        | Mnemonic::Imul
        | Mnemonic::Div
        | Mnemonic::Idiv => false,
        _ => !(i.has_rep_prefix() || i.has_repne_prefix()),
    }
}

/// Whether the instruction's memory access goes through SS: it moves the stack pointer, or its
/// operand's default segment is SS.
pub fn uses_stack(i: &Instruction) -> bool {
    let explicit = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    if !explicit {
        return i.is_stack_instruction();
    }
    // The prefixes of CS, DS, ES and SS count for nothing in 64-bit mode.
    let by_stack_register =
        matches!(i.memory_base().full_register(), Register::RSP | Register::RBP);
    by_stack_register && !matches!(i.memory_segment(), Register::FS | Register::GS)
}

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
enum Reach {
    Near,
    Looked,
    Cut,
}

fn reach(distance: i64, context: Context) -> Reach {
    match context.bits {
        64 if context.in_page(distance) => Reach::Near,
        64 => Reach::Looked,
        _ => Reach::Cut,
    }
}

/// The distance from the block's start to a near branch's target, and the operand size in bits.
fn branch_target(i: &Instruction) -> (i64, u8) {
    match i.op0_kind() {
        OpKind::NearBranch16 => (i64::from(i.near_branch16() as i16), 16),
        OpKind::NearBranch32 => (i64::from(i.near_branch32() as i32), 32),
        _ => (i.near_branch64() as i64, 64),
    }
}

fn condition_number(i: &Instruction) -> u8 {
    (i.condition_code() as u8).wrapping_sub(ConditionCode::o as u8) & 15
}

/// The op behind a conditional jump: the way that is not taken, and the distance of the other.
fn not_taken(d: &Decoded, taken: i64, context: Context) -> Op {
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

fn fused_handler<O>(form: Form, size: usize, cc: u8, reach: Reach) -> Option<Handler>
where
    O: Compare<u8> + Compare<u32> + Compare<u64>,
{
    Some(match size {
        1 => fused_width::<O, u8>(form, cc, reach)?,
        4 => fused_width::<O, u32>(form, cc, reach)?,
        _ => fused_width::<O, u64>(form, cc, reach)?,
    })
}

fn fused_width<O: Compare<T>, T: Width>(form: Form, cc: u8, reach: Reach) -> Option<Handler> {
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

fn fused_operands<O: Compare<T>, P: branch::Operands<T>, T: Width>(cc: u8, near: bool) -> Handler {
    by_condition!(cc, CC => if near {
        branch::compare_and_jump::<Near, O, P, T, CC>
    } else {
        branch::compare_and_jump::<Looked, O, P, T, CC>
    })
}

/// Ends the block behind the instruction that STI or MOV SS protects.
pub fn end_shadow(d: &Decoded, row: &mut Vec<Op>) {
    let mut op = Op::new(step_and_leave::<system::EndShadow>);
    op.offset = d.offset;
    op.next = d.offset + d.instruction.len() as u8;
    row.push(op);
}

/// Appends the op or ops of one instruction.
pub fn single(d: &Decoded, context: Context, cpu: &mut Cpu, row: &mut Vec<Op>) -> Ending {
    if let Some(op) = plain(d, context) {
        row.push(op);
        return Ending::FallsThrough;
    }
    if let Some(ending) = branches(d, context, row) {
        return ending;
    }
    if let Some((op, ending)) = crate::select_system::system(d, context) {
        row.push(op);
        return ending;
    }
    if let Some(op) = floating(d, context, cpu) {
        row.push(op);
        return Ending::FallsThrough;
    }
    log::debug!("undefined instruction: {:?} in {}-bit code", d.instruction.code(), context.bits);
    row.push(base_op(d, context, step_and_leave::<system::Undefined>));
    Ending::Ends
}

/// Everything that is not a branch, a system instruction, or floating point.
fn plain(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    arithmetic(d, context)
        .or_else(|| moves(d, context))
        .or_else(|| shifts(d, context))
        .or_else(|| multiplies(d, context))
        .or_else(|| bit_ops(d, context))
        .or_else(|| atomics(d, context))
        .or_else(|| strings(d, context))
        .or_else(|| stack_ops(d, context))
        .filter(|_| !i.has_lock_prefix() || crate::select::may_lock(i))
}

/// Whether a LOCK prefix is allowed: read-modify-write instructions with a memory destination.
pub fn may_lock(i: &Instruction) -> bool {
    let mnemonic = matches!(
        i.mnemonic(),
        Mnemonic::Add
            | Mnemonic::Or
            | Mnemonic::Adc
            | Mnemonic::Sbb
            | Mnemonic::And
            | Mnemonic::Sub
            | Mnemonic::Xor
            | Mnemonic::Inc
            | Mnemonic::Dec
            | Mnemonic::Neg
            | Mnemonic::Not
            | Mnemonic::Bts
            | Mnemonic::Btr
            | Mnemonic::Btc
            | Mnemonic::Xchg
            | Mnemonic::Xadd
            | Mnemonic::Cmpxchg
            | Mnemonic::Cmpxchg8b
            | Mnemonic::Cmpxchg16b
    );
    mnemonic && i.op0_kind() == OpKind::Memory
}

fn arithmetic(d: &Decoded, context: Context) -> Option<Op> {
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

fn two_operands<O>(d: &Decoded, context: Context) -> Option<Op>
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
    Some(op)
}

fn alu_form<O: Alu<T>, T: Width, const F: bool>(form: Form) -> Option<Handler> {
    Some(match form {
        Form::RegReg => handler::<alu::RegReg<O, T, F>>(),
        Form::RegImm => handler::<alu::RegImm<O, T, F>>(),
        Form::RegMem => handler::<alu::RegMem<O, T, F>>(),
        Form::MemReg => handler::<alu::MemReg<O, T, F>>(),
        Form::MemImm => handler::<alu::MemImm<O, T, F>>(),
        Form::Reg | Form::Mem | Form::Other => return None,
    })
}

fn one_operand<O>(d: &Decoded, context: Context) -> Option<Op>
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

fn moves(d: &Decoded, context: Context) -> Option<Op> {
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

fn plain_mov(d: &Decoded, context: Context) -> Option<Op> {
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
    Some(op)
}

fn extend<const SIGNED: bool>(d: &Decoded, context: Context) -> Option<Op> {
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

fn lea(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    let cut = address_size(i, context) != 64;
    let run = by_wide!(bytes(i, 0), T => if cut { handler::<mov::LeaCut<T>>() } else { handler::<mov::Lea<T>>() });
    Some(Op { a: reg(i.op0_register()), ..base_op(d, context, run) })
}

fn xlat(d: &Decoded, context: Context) -> Option<Op> {
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

fn conditional_moves(d: &Decoded, context: Context) -> Option<Op> {
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

fn is_cmov(i: &Instruction) -> bool {
    i.op0_register().is_gpr()
}

fn shifts(d: &Decoded, context: Context) -> Option<Op> {
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

fn one_shift<O>(d: &Decoded, context: Context) -> Option<Op>
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

fn two_shift<O>(d: &Decoded, context: Context) -> Option<Op>
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

fn multiplies(d: &Decoded, context: Context) -> Option<Op> {
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

fn widening<const SIGNED: bool>(i: &Instruction) -> Handler {
    let memory = i.op0_kind() == OpKind::Memory;
    match (bytes(i, 0), memory) {
        (1, false) => handler::<muldiv::MulByte<SIGNED, false>>(),
        (1, true) => handler::<muldiv::MulByte<SIGNED, true>>(),
        (size, false) => by_wide!(size, T => handler::<muldiv::Mul<T, SIGNED, false>>()),
        (size, true) => by_wide!(size, T => handler::<muldiv::Mul<T, SIGNED, true>>()),
    }
}

fn dividing<const SIGNED: bool>(i: &Instruction) -> Handler {
    let memory = i.op0_kind() == OpKind::Memory;
    match (bytes(i, 0), memory) {
        (1, false) => handler::<muldiv::DivByte<SIGNED, false>>(),
        (1, true) => handler::<muldiv::DivByte<SIGNED, true>>(),
        (size, false) => by_wide!(size, T => handler::<muldiv::Div<T, SIGNED, false>>()),
        (size, true) => by_wide!(size, T => handler::<muldiv::Div<T, SIGNED, true>>()),
    }
}

fn bit_ops(d: &Decoded, context: Context) -> Option<Op> {
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

fn bit_op<O>(d: &Decoded, context: Context) -> Option<Op>
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

fn bit_scan<const REVERSE: bool>(d: &Decoded, context: Context) -> Option<Op> {
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

fn atomics(d: &Decoded, context: Context) -> Option<Op> {
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

fn strings(d: &Decoded, context: Context) -> Option<Op> {
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
fn string_op(d: &Decoded, context: Context, run: Handler) -> Op {
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

fn stack_ops(d: &Decoded, context: Context) -> Option<Op> {
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
pub fn stack_bytes(i: &Instruction) -> u8 {
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

/// Near branches.
fn branches(d: &Decoded, context: Context, row: &mut Vec<Op>) -> Option<Ending> {
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

fn is_near_direct(i: &Instruction) -> bool {
    matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

fn stack_return_bits(i: &Instruction) -> u8 {
    match i.code() {
        Code::Retnw | Code::Retnw_imm16 => 16,
        Code::Retnd | Code::Retnd_imm16 => 32,
        _ => 64,
    }
}

fn conditional(d: &Decoded, context: Context, row: &mut Vec<Op>) {
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
fn loop_counter_flag(i: &Instruction) -> u8 {
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

fn indirect(d: &Decoded, context: Context, row: &mut Vec<Op>, call: bool) {
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

/// x87, MMX, SSE.
fn floating(d: &Decoded, context: Context, cpu: &mut Cpu) -> Option<Op> {
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

fn xmm_moves(d: &Decoded, context: Context) -> Option<Op> {
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
