//! Jumps, calls and returns: the edges of a translation.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::stack::READ;
use super::{Exit, Flow, Known, Translator, Unknown};
use crate::decode::{INSTRUCTION_BYTES_MAX, crosses};
use crate::jit::cache::{JUMP_INDEX_MASK, JUMP_SLOT_SHIFT, JumpSlot};
use crate::jit::emit::{At, Gap, alu, cc, group};
use crate::jit::flags;
use crate::jit::regs::{ADDRESS, SCRATCH, STACK, field};

impl Translator<'_> {
    /// JMP, CALL and RET, near and of 64 bits.
    pub(super) fn transfer(&mut self, i: &Instruction) -> Known<Flow> {
        let direct = i.op_count() > 0 && i.op0_kind() == OpKind::NearBranch64;
        match i.mnemonic() {
            Mnemonic::Jmp if direct => {
                self.save_flags();
                self.edge(i.near_branch64() as i64);
            }
            Mnemonic::Call if direct => self.call(i.near_branch64() as i64),
            Mnemonic::Jmp if i.is_jmp_near_indirect() => self.indirect(i, false)?,
            Mnemonic::Call if i.is_call_near_indirect() => self.indirect(i, true)?,
            Mnemonic::Ret if is_wide_return(i) => {
                let released = if i.op_count() == 1 { i32::from(i.immediate16()) } else { 0 };
                self.return_near(released);
            }
            _ => return Err(Unknown),
        }
        Ok(Flow::Ended)
    }

    /// Jcc.
    pub(super) fn conditional(&mut self, i: &Instruction) -> Known<Flow> {
        if i.op0_kind() != OpKind::NearBranch64 {
            return Err(Unknown);
        }
        let encoding = self.encoding()?;
        self.take_flags();
        self.save_flags();
        let taken = self.code.jump_if(encoding.opcode & 15);
        self.edge(self.decoded().end());
        self.edge_from(taken, i.near_branch64() as i64);
        Ok(Flow::Ended)
    }

    /// Goes on at `target`, counted from the block's start. The flags are put away.
    pub(super) fn edge(&mut self, target: i64) {
        let offset = target + i64::from(self.source.offset);
        if self.may_link(offset) {
            let gap = self.code.jump();
            self.link(gap, offset as u32);
        } else {
            self.far_edge(offset);
        }
    }

    /// Whether a jump to `offset` stays in this page, whatever address it is mapped at.
    fn may_link(&self, offset: i64) -> bool {
        let near_end = offset > 4096 - INSTRUCTION_BYTES_MAX as i64;
        (0..4096).contains(&offset) && !(near_end && crosses(&(self.source.peek)(offset as u32)))
    }

    /// As [`Translator::edge`], where `gap` is a jump that leads there.
    fn edge_from(&mut self, gap: Gap, target: i64) {
        let offset = target + i64::from(self.source.offset);
        if self.may_link(offset) {
            self.link(gap, offset as u32);
        } else {
            self.code.fill(gap, self.code.here());
            self.far_edge(offset);
        }
    }

    fn link(&mut self, gap: Gap, offset: u32) {
        if offset == self.source.offset && self.source.loops {
            self.code.fill(gap, self.linked);
        } else {
            self.stubs.push((gap, Exit::Link { site: 0, offset }));
        }
    }

    /// Goes on at `offset`, counted from the page, in another page.
    fn far_edge(&mut self, offset: i64) {
        // The decoder's displacements have 32 bits, and blocks lie inside pages.
        let offset = offset as i32;
        self.code.load(ADDRESS, field!(page));
        self.code.lea(ADDRESS, At { base: ADDRESS, disp: offset });
        self.jump_by_address(Exit::Go { offset }, 0);
    }

    /// Goes on at the address in [`ADDRESS`], having moved the stack pointer by `release`; or leaves
    /// by `unknown` with nothing done. The flags are put away.
    fn jump_by_address(&mut self, unknown: Exit, release: i32) {
        self.code.mov(SCRATCH, ADDRESS);
        self.code.shift(true, false, SCRATCH, 12);
        self.code.op_reg(false, &[alu::XOR], SCRATCH, ADDRESS);
        self.code.alu_imm(false, group::AND, SCRATCH, JUMP_INDEX_MASK);
        self.code.shift(false, true, SCRATCH, JUMP_SLOT_SHIFT);
        self.code.alu_at(alu::ADD, SCRATCH, field!(jumps));
        let key = std::mem::offset_of!(JumpSlot, key) as i32;
        self.code.alu_at(alu::CMP, ADDRESS, At { base: SCRATCH, disp: key });
        self.leave_if(cc::NE, unknown);
        self.code.alu_imm(true, group::AND, ADDRESS, -4096);
        self.code.store(ADDRESS, field!(page));
        if release != 0 {
            self.move_stack(release);
        }
        let code = std::mem::offset_of!(JumpSlot, code) as i32;
        self.code.jump_at(At { base: SCRATCH, disp: code });
    }

    /// Stores the return address below the stack, whose pointer stays.
    fn store_return(&mut self) {
        let behind = self.decoded().end() + i64::from(self.source.offset);
        let at = self.below_stack();
        self.code.load(SCRATCH, field!(page));
        self.code.lea(SCRATCH, At { base: SCRATCH, disp: behind as i32 });
        self.code.store(SCRATCH, at);
    }

    /// Leaves to the interpreter, which raises #GP, if [`ADDRESS`] is no canonical address: if its
    /// upper 17 bits are not all equal.
    fn refuse_if_not_canonical(&mut self) {
        self.give_up_flags();
        self.code.mov(SCRATCH, ADDRESS);
        self.code.shift_signed(true, SCRATCH, 47);
        self.code.alu_imm(true, group::ADD, SCRATCH, 1);
        self.code.alu_imm(true, group::CMP, SCRATCH, 1);
        self.leave_if(cc::A, self.interpret());
    }

    fn call(&mut self, target: i64) {
        self.save_flags();
        self.store_return();
        self.move_stack(-8);
        self.edge(target);
    }

    fn return_near(&mut self, released: i32) {
        self.save_flags_if(flags::ALL);
        let at = self.top_of_stack();
        self.code.load(ADDRESS, at);
        self.jump_by_address(self.interpret(), 8 + released);
    }

    fn indirect(&mut self, i: &Instruction, calls: bool) -> Known<()> {
        self.save_flags_if(flags::ALL);
        if i.op0_kind() == OpKind::Memory {
            if i.memory_size().size() != 8 {
                return Err(Unknown);
            }
            let at = self.memory(i, READ)?;
            self.code.load(ADDRESS, at);
        } else {
            if i.op0_register().size() != 8 {
                return Err(Unknown);
            }
            let from = self.fetch(i.op0_register().number() as u8, ADDRESS);
            self.code.mov(ADDRESS, from);
        }
        if calls {
            self.refuse_if_not_canonical();
            self.code.store(ADDRESS, field!(temporary));
            self.store_return();
            self.code.load(ADDRESS, field!(temporary));
        }
        // Should the target not be known, the interpreter does all of it again.
        self.jump_by_address(self.interpret(), if calls { -8 } else { 0 });
        Ok(())
    }
}

/// RET that pops 64 bits.
fn is_wide_return(i: &Instruction) -> bool {
    matches!(i.code(), iced_x86::Code::Retnq | iced_x86::Code::Retnq_imm16)
}

const _: () = assert!(STACK != SCRATCH && STACK != ADDRESS);
