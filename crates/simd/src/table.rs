//! The tables: one row an instruction, grouped by how it is executed.
//!
//! A new instruction is a row: its `Code`, its stub (of the group's kind, see `stub`) and, where its
//! operands are not the obvious ones, a [`Tweak`] in brackets. Operands come from the instruction:
//! the first is the destination, the second the source, the third a mask.

mod mmx;
mod moves;
mod sse_float;
mod sse_integer;
mod system;
mod x87;

use iced_x86::Instruction;

use crate::exec::Exec;
use crate::plan::{Class, MemUse, is_legacy, stack_register};
use crate::stub::Stub;

/// What a table knows of an instruction.
pub(crate) struct Row {
    pub(crate) class: Class,
    pub(crate) exec: Exec,
    pub(crate) stub: Stub,
    pub(crate) tweak: Tweak,
    /// The slot of an x87 instruction.
    pub(crate) slot: u16,
}

/// What an instruction's operands differ in from the rule.
#[derive(Clone, Copy)]
pub(crate) enum Tweak {
    Obvious,
    /// A 16-byte operand that need not be aligned.
    Unaligned,
    /// The destination is its high eight bytes.
    DstHigh,
    /// The source is its high eight bytes.
    SrcHigh,
    /// The destination is the lane that the immediate selects: bytes a lane, lanes.
    DstLane(u8, u8),
    /// The source is the lane that the immediate selects: bytes a lane, lanes.
    SrcLane(u8, u8),
    /// Another function where the source is memory.
    FromMemory(Exec),
    /// The immediate's element selection is for a register source only.
    Insertps,
    /// The memory operand is not accessed.
    NoMemory,
    /// The only operand is memory that is read.
    Reads,
    /// The memory operand is loaded and then stored.
    Updates,
    /// A state area: bytes, alignment, use.
    Area(u16, u8, MemUse),
}

/// The row of an instruction.
pub(crate) fn row(instr: &Instruction) -> Option<Row> {
    let code = instr.code();
    if !is_legacy(code) {
        return None;
    }
    sse_integer::row(code)
        .or_else(|| moves::row(code))
        .or_else(|| sse_float::row(code))
        .or_else(|| mmx::row(code))
        .or_else(|| system::row(code))
        .or_else(|| x87::row(code, stack_register(instr)))
}

/// Groups of rows: `class, exec, kind of stub { Code "operation" [tweak]; }`.
macro_rules! rows {
    ($($class:ident, $exec:expr, $kind:ident {
        $($code:ident $($op:literal)* $([$tweak:expr])?;)*
    })*) => {
        pub(super) fn row(code: iced_x86::Code) -> Option<$crate::table::Row> {
            Some(match code {
                $($(iced_x86::Code::$code => $crate::table::Row {
                    class: $crate::plan::Class::$class,
                    exec: $exec,
                    stub: $crate::stub::stub!($kind $($op)*),
                    tweak: $crate::table::or_none!($($tweak)?),
                    slot: 0,
                },)*)*
                _ => return None,
            })
        }
    };
}

/// Groups of x87 rows: `exec, kind of slot, tweak { Code opcode digit-or-ModRM; }`.
macro_rules! x87_rows {
    ($($exec:expr, $slot:ident, $tweak:ident { $($code:ident $opcode:literal $reg:literal;)* })*) => {
        pub(super) fn row(code: iced_x86::Code, register: u16) -> Option<$crate::table::Row> {
            let (exec, slot, tweak): ($crate::exec::Exec, u16, $crate::table::Tweak) = match code {
                $($(iced_x86::Code::$code => ($exec, const { $slot($opcode, $reg) }, $crate::table::Tweak::$tweak),)*)*
                _ => return None,
            };
            Some($crate::table::Row {
                class: $crate::plan::Class::X87,
                exec,
                stub: $crate::stub::stub!(rust),
                tweak,
                slot: slot + register,
            })
        }
    };
}

macro_rules! or_none {
    () => {
        $crate::table::Tweak::Obvious
    };
    ($tweak:expr) => {
        $tweak
    };
}

use {or_none, rows, x87_rows};
