//! Decoded instructions, and how one leads to the next.
//!
//! A block is a row of [`Op`]s in memory: a head, one op for each instruction (or for a fused
//! pair), and an ending op. Each op names its handler, and each handler ends by calling the next
//! op's; with optimisation that call is a jump, so a block runs without a dispatch loop and with
//! one well-predicted indirect branch per op. The block budget bounds how many blocks follow one
//! another, so that the stack stays bounded even where the compiler does not make it a jump.
//!
//! The one `unsafe` step, from an op to its neighbour, is in [`next`]; its invariant is that
//! `block.rs` ends every row with an op that does not call it.

use std::cell::Cell;
use std::ptr::NonNull;

use crate::cpu::{Cpu, Step};

/// Runs an op and whatever follows it.
pub type Handler = extern "C" fn(&Op, &mut Cpu);

/// One decoded instruction.
#[repr(C)]
pub struct Op {
    /// What executes it.
    pub run: Handler,
    /// The immediate, or the link of an ending op to its target's head (0: none yet).
    pub imm: Cell<u64>,
    /// Displacement of the memory operand; on an op behind a fused jump, the jump's distance.
    pub disp: i32,
    /// A second immediate: for an ending op the distance from the block's start to the target.
    pub aux: u32,
    /// First register operand: an index into `Cpu::regs`, or for 8-bit operands index * 2, plus 1
    /// for AH, CH, DH and BH.
    pub a: u8,
    /// Second register operand, likewise.
    pub b: u8,
    /// Base register of the memory operand ([`crate::cpu::ZERO`] for none).
    pub base: u8,
    /// Index register of the memory operand ([`crate::cpu::ZERO`] for none).
    pub index: u8,
    /// Log2 of the index's scale, and in bits 4 to 7 the [`mem_flags`].
    pub scale: u8,
    /// Segment: base register slot in 64-bit mode, segment register number otherwise.
    pub seg: u8,
    /// Offset of the instruction from the block's start.
    pub offset: u8,
    /// Offset of the instruction behind it.
    pub next: u8,
}

/// Flags in [`Op::scale`] that make a memory operand take the long way.
pub mod mem_flags {
    /// The effective address is cut to 32 bits.
    pub const ADDR32: u8 = 1 << 4;
    /// The effective address is cut to 16 bits.
    pub const ADDR16: u8 = 1 << 5;
    /// Legacy segmentation: base, limit and rights are checked; `seg` is a register number.
    pub const LEGACY: u8 = 1 << 6;
}

/// The distance from the block's start to the instruction behind `op`.
impl Op {
    /// An op that does nothing yet, for the decoder to fill in.
    pub fn new(run: Handler) -> Self {
        let zero = crate::cpu::ZERO as u8;
        Self {
            run,
            imm: Cell::new(0),
            disp: 0,
            aux: 0,
            a: zero,
            b: zero,
            base: zero,
            index: zero,
            scale: 0,
            seg: zero,
            offset: 0,
            next: 0,
        }
    }

    /// The linked target of an ending op.
    #[inline(always)]
    pub fn link(&self) -> Option<NonNull<Op>> {
        NonNull::new(self.imm.get() as *mut Op)
    }
}

/// The semantics of one kind of op. `exec` either completes, or traps with no effect that a
/// restart would repeat.
pub trait Exec {
    /// Executes `op`.
    fn exec(op: &Op, cpu: &mut Cpu) -> Step;
}

/// The handler of an op that falls through to the next.
pub extern "C" fn step<E: Exec>(op: &Op, cpu: &mut Cpu) {
    match E::exec(op, cpu) {
        Ok(()) => next(op, cpu),
        Err(_) => cpu.trap_offset = op.offset,
    }
}

/// The handler of an op after which the outer loop must look at the world before the next
/// instruction: whatever may change the mode, the mappings or the interrupt flag.
pub extern "C" fn step_and_leave<E: Exec>(op: &Op, cpu: &mut Cpu) {
    match E::exec(op, cpu) {
        Ok(()) => {
            cpu.regs[crate::cpu::RIP] = next_rip(op, cpu);
            cpu.look_up_soon();
        }
        Err(_) => cpu.trap_offset = op.offset,
    }
}

/// The handler of an op that sets `Cpu::regs[RIP]` itself (far transfers, SYSCALL, IRET…), after
/// which the outer loop looks at the world.
pub extern "C" fn jump_and_leave<E: Exec>(op: &Op, cpu: &mut Cpu) {
    match E::exec(op, cpu) {
        Ok(()) => cpu.look_up_soon(),
        Err(_) => cpu.trap_offset = op.offset,
    }
}

/// RIP of the instruction behind `op`, cut to the code size's width.
#[inline]
pub fn next_rip(op: &Op, cpu: &Cpu) -> u64 {
    cpu.truncate_rip(cpu.regs[crate::cpu::RIP].wrapping_add(u64::from(op.next)))
}

/// Runs the op behind `op` in its block.
#[inline(always)]
pub fn next(op: &Op, cpu: &mut Cpu) {
    // SAFETY: `op` lies in a row made by `block.rs`, whose last op never calls `next`, and rows
    // are not freed while a handler runs (see `CodeCache::flush`).
    let next = unsafe { &*(op as *const Op).add(1) };
    (next.run)(next, cpu)
}

/// Runs the block whose head is `head`; `Cpu::regs[RIP]` is its first instruction's address.
#[inline(always)]
pub fn enter(head: NonNull<Op>, cpu: &mut Cpu) {
    // SAFETY: heads come from the code cache of this very vCPU, which frees rows only in
    // `CodeCache::flush`, between chains, when it has forgotten every pointer to them.
    let head = unsafe { head.as_ref() };
    (head.run)(head, cpu)
}
