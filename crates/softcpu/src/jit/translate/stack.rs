//! PUSH, POP and LEAVE.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{Access, Flow, Known, Translator, Unknown};
use crate::jit::emit::At;
use crate::jit::regs::{ADDRESS, BASE, Place, SCRATCH, STACK, field, place};

/// An access to the stack.
pub(super) const READ: Access = Access { bytes: 8, write: false, aligned: false };
/// A push.
pub(super) const WRITE: Access = Access { bytes: 8, write: true, aligned: false };

impl Translator<'_> {
    /// PUSH, POP and LEAVE of 64 bits.
    pub(super) fn stack(&mut self, i: &Instruction) -> Known<Flow> {
        let segment = i.op_count() > 0 && i.op0_register().is_segment_register();
        let increment = i.stack_pointer_increment();
        match (i.mnemonic(), i.op_kind(0)) {
            (Mnemonic::Leave, _) if i.code() == iced_x86::Code::Leaveq => self.leave_frame(),
            _ if segment || increment.abs() != 8 => return Err(Unknown),
            (Mnemonic::Push, OpKind::Register) => {
                self.push_register(i.op0_register().number() as u8)
            }
            (Mnemonic::Push, OpKind::Memory) => self.push_memory(i)?,
            (Mnemonic::Push, _) => self.push_immediate(i)?,
            (Mnemonic::Pop, OpKind::Register) => self.pop_register(i.op0_register().number() as u8),
            _ => return Err(Unknown),
        }
        Ok(Flow::Next)
    }

    /// The place below the top of the stack.
    pub(super) fn below_stack(&mut self) -> At {
        self.give_up_flags();
        self.look_up_stack(-8, WRITE)
    }

    /// The place at the top of the stack.
    pub(super) fn top_of_stack(&mut self) -> At {
        self.give_up_flags();
        self.look_up_stack(0, READ)
    }

    /// Moves the guest's stack pointer.
    pub(super) fn move_stack(&mut self, by: i32) {
        self.code.lea(STACK, At { base: STACK, disp: by });
    }

    fn push_register(&mut self, guest: u8) {
        let at = self.below_stack();
        let register = self.fetch(guest, SCRATCH);
        self.code.store(register, at);
        self.move_stack(-8);
    }

    fn push_immediate(&mut self, i: &Instruction) -> Known<()> {
        let value = i32::try_from(i.immediate(0) as i64).map_err(|_| Unknown)?;
        let at = self.below_stack();
        self.code.store_imm(at, value);
        self.move_stack(-8);
        Ok(())
    }

    fn push_memory(&mut self, i: &Instruction) -> Known<()> {
        let from = self.memory(i, READ)?;
        self.code.load(ADDRESS, from);
        self.code.store(ADDRESS, field!(temporary));
        let at = self.below_stack();
        self.code.load(SCRATCH, field!(temporary));
        self.code.store(SCRATCH, at);
        self.move_stack(-8);
        Ok(())
    }

    fn pop_register(&mut self, guest: u8) {
        let at = self.top_of_stack();
        match place(guest) {
            // POP RSP ends with the value popped.
            Place::Register(STACK) => return self.code.load(STACK, at),
            Place::Register(register) => self.code.load(register, at),
            Place::Slot(slot) => {
                self.code.load(SCRATCH, at);
                self.code.store(SCRATCH, slot);
            }
        }
        self.move_stack(8);
    }

    fn leave_frame(&mut self) {
        self.give_up_flags();
        self.code.mov(ADDRESS, BASE);
        let at = self.look_up(READ);
        self.code.lea(STACK, At { base: BASE, disp: 8 });
        self.code.load(BASE, at);
    }
}
