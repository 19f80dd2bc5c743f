//! The table from instructions to handlers.
//!
//! [`single`] fills one op for one instruction; [`fused`] one op for CMP or TEST and the Jcc behind
//! it. What is not in a table raises #UD.

/// `$body` with the type `$T` that has `$bytes` bytes: 2, 4 or 8.
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

/// The same, with bytes as well.
macro_rules! by_width {
    ($bytes:expr, $T:ident => $body:expr) => {
        match $bytes {
            1 => {
                type $T = u8;
                $body
            }
            wide => by_wide!(wide, $T => $body),
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

mod branches;
mod floating;
mod integer;
mod moves;
mod operands;
mod system;

use iced_x86::{ConditionCode, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::cpu::Cpu;
use crate::decode::{Context, Decoded};
use crate::op::{Exec, Handler, Op, step, step_and_leave};
use crate::ops::system as ops;

pub use branches::fused;
pub use system::is_absolute_mov;

/// Whether anything comes behind an op in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The next instruction.
    FallsThrough,
    /// Nothing: the op ends the block.
    Ends,
}

fn handler<E: Exec>() -> Handler {
    step::<E>
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

fn condition_number(i: &Instruction) -> u8 {
    (i.condition_code() as u8).wrapping_sub(ConditionCode::o as u8) & 15
}

/// Ends the block behind the instruction that STI or MOV SS protects.
pub fn end_shadow(d: &Decoded, row: &mut Vec<Op>) {
    let mut op = Op::new(step_and_leave::<ops::EndShadow>);
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
    if let Some(ending) = branches::branches(d, context, row) {
        return ending;
    }
    if let Some((op, ending)) = system::system(d, context) {
        row.push(op);
        return ending;
    }
    if let Some(op) = floating::floating(d, context, cpu) {
        row.push(op);
        return Ending::FallsThrough;
    }
    log::debug!("undefined instruction: {:?} in {}-bit code", d.instruction.code(), context.bits);
    row.push(operands::base_op(d, context, step_and_leave::<ops::Undefined>));
    Ending::Ends
}

/// Everything that is not a branch, a system instruction, or floating point.
fn plain(d: &Decoded, context: Context) -> Option<Op> {
    let i = &d.instruction;
    integer::arithmetic(d, context)
        .or_else(|| moves::moves(d, context))
        .or_else(|| integer::shifts(d, context))
        .or_else(|| integer::multiplies(d, context))
        .or_else(|| integer::bit_ops(d, context))
        .or_else(|| integer::atomics(d, context))
        .or_else(|| moves::strings(d, context))
        .or_else(|| moves::stack_ops(d, context))
        .filter(|_| !i.has_lock_prefix() || may_lock(i))
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
