//! PUSH, POP, LEAVE, ENTER, PUSHF, POPF, PUSHA, POPA, in 64-bit mode and in legacy modes.

use crate::cpu::{Cpu, Exception, Pending, RBP, RSP, SS, Step, Trap, vector};
use crate::op::{Exec, Op};
use crate::tlb::Width;

impl Cpu {
    /// Pushes a `T` on the 64-bit stack.
    #[inline(always)]
    pub fn push<T: Width>(&mut self, value: T) -> Step {
        let rsp = self.regs[RSP].wrapping_sub(T::BYTES);
        self.store(rsp, value)?;
        self.regs[RSP] = rsp;
        Ok(())
    }

    /// Pops a `T` from the 64-bit stack.
    #[inline(always)]
    pub fn pop<T: Width>(&mut self) -> Result<T, Trap> {
        let value = self.load::<T>(self.regs[RSP])?;
        self.regs[RSP] = self.regs[RSP].wrapping_add(T::BYTES);
        Ok(value)
    }

    /// The stack pointer's width: 64-bit mode, or SS.B.
    fn sp_mask(&self) -> u64 {
        if self.code_size == crate::cpu::CodeSize::Bits64 {
            u64::MAX
        } else if self.segments[SS].attributes & 1 << 10 != 0 {
            0xFFFF_FFFF
        } else {
            0xFFFF
        }
    }

    /// Adds to the stack pointer at its width.
    pub fn add_sp(&mut self, amount: u64) {
        let mask = self.sp_mask();
        let sp = self.regs[RSP].wrapping_add(amount) & mask;
        let kept = if mask == 0xFFFF { self.regs[RSP] & !mask } else { 0 };
        self.regs[RSP] = kept | sp;
    }

    /// Pushes `bytes` (2, 4 or 8) bytes in whatever mode.
    pub fn push_legacy(&mut self, value: u64, bytes: u8) -> Step {
        let offset = self.regs[RSP].wrapping_sub(u64::from(bytes)) & self.sp_mask();
        let va = self.stack_operand(offset, bytes, true)?;
        match bytes {
            2 => self.store(va, value as u16)?,
            4 => self.store(va, value as u32)?,
            _ => self.store(va, value)?,
        }
        self.add_sp(0u64.wrapping_sub(u64::from(bytes)));
        Ok(())
    }

    /// Reads `bytes` (2, 4 or 8) bytes at `displacement` from the stack pointer, popping nothing.
    pub fn peek_legacy(&mut self, displacement: u64, bytes: u8) -> Result<u64, Trap> {
        let offset = self.regs[RSP].wrapping_add(displacement) & self.sp_mask();
        let va = self.stack_operand(offset, bytes, false)?;
        match bytes {
            2 => Ok(self.load::<u16>(va)?.to_u64()),
            4 => Ok(self.load::<u32>(va)?.to_u64()),
            _ => self.load::<u64>(va),
        }
    }

    /// Pops `bytes` (2, 4 or 8) bytes in whatever mode.
    pub fn pop_legacy(&mut self, bytes: u8) -> Result<u64, Trap> {
        let value = self.peek_legacy(0, bytes)?;
        self.add_sp(u64::from(bytes));
        Ok(value)
    }

    /// #SS in place of #GP where a stack pointer that is not canonical failed, in an instruction
    /// that has another memory operand as well.
    #[inline(always)]
    pub fn stack_fault(&mut self, trap: Trap) -> Trap {
        if std::mem::take(&mut self.not_canonical) {
            self.pending = Pending::Fault(Exception::with(vector::SS, 0));
        }
        trap
    }

    fn stack_operand(&mut self, offset: u64, bytes: u8, write: bool) -> Result<u64, Trap> {
        if self.code_size == crate::cpu::CodeSize::Bits64 {
            return Ok(offset);
        }
        self.linear_legacy(SS, offset, u64::from(bytes), write)
    }
}

/// PUSH r64.
pub struct PushReg;
impl Exec for PushReg {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.get::<u64>(op.a);
        cpu.push(value)
    }
}

/// POP r64: POP RSP ends with the value popped.
pub struct PopReg;
impl Exec for PopReg {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.pop::<u64>()?;
        cpu.set(op.a, value);
        Ok(())
    }
}

/// PUSH imm, sign-extended to 64 bits.
pub struct PushImm;
impl Exec for PushImm {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.push(op.imm.get())
    }
}

/// PUSH m64.
pub struct PushMem;
impl Exec for PushMem {
    #[inline(always)]
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.load_operand::<u64>(op)?;
        cpu.push(value).map_err(|trap| cpu.stack_fault(trap))
    }
}

/// PUSH of every other kind: `op.b` bytes of register `op.a` (`KIND` 0), the immediate (1), memory
/// (2), or segment register `op.a` (3).
pub struct PushAny<const KIND: u8>;
impl<const KIND: u8> Exec for PushAny<KIND> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = match (KIND, op.b) {
            (0, _) => cpu.regs[usize::from(op.a)],
            (1, _) => op.imm.get(),
            (2, 2) => cpu.load_operand::<u16>(op)?.to_u64(),
            (2, 4) => cpu.load_operand::<u32>(op)?.to_u64(),
            (2, _) => cpu.load_operand::<u64>(op)?,
            _ => u64::from(cpu.segments[usize::from(op.a)].selector),
        };
        cpu.push_legacy(value, op.b).map_err(|trap| cpu.stack_fault(trap))
    }
}

/// POP of every other kind: `op.b` bytes into register `op.a` (`KIND` 0), memory (2), or segment
/// register `op.a` (3).
pub struct PopAny<const KIND: u8>;
impl<const KIND: u8> Exec for PopAny<KIND> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.peek_legacy(0, op.b).map_err(|trap| cpu.stack_fault(trap))?;
        match (KIND, op.b) {
            (0, 2) => {
                cpu.add_sp(2);
                cpu.set(op.a, value as u16);
            }
            (0, _) => {
                cpu.add_sp(u64::from(op.b));
                cpu.regs[usize::from(op.a)] = value;
            }
            (2, _) => pop_to_memory(op, cpu, value)?,
            _ => {
                cpu.load_segment(usize::from(op.a), value as u16)?;
                cpu.add_sp(u64::from(op.b));
            }
        }
        Ok(())
    }
}

/// The address of POP's memory operand is computed with the stack pointer already raised.
fn pop_to_memory(op: &Op, cpu: &mut Cpu, value: u64) -> Step {
    let before = cpu.regs[RSP];
    cpu.add_sp(u64::from(op.b));
    let stored = match op.b {
        2 => cpu.store_operand(op, value as u16),
        4 => cpu.store_operand(op, value as u32),
        _ => cpu.store_operand(op, value),
    };
    if stored.is_err() {
        cpu.regs[RSP] = before;
    }
    stored
}

/// LEAVE in 64-bit mode.
pub struct Leave;
impl Exec for Leave {
    #[inline(always)]
    fn exec(_: &Op, cpu: &mut Cpu) -> Step {
        let rbp = cpu.regs[RBP];
        let value = cpu.load::<u64>(rbp)?;
        cpu.regs[RSP] = rbp.wrapping_add(8);
        cpu.regs[RBP] = value;
        Ok(())
    }
}

/// LEAVE otherwise, with `op.b` bytes.
pub struct LeaveAny;
impl Exec for LeaveAny {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let before = cpu.regs[RSP];
        let mask = cpu.sp_mask();
        cpu.regs[RSP] = before & !mask | cpu.regs[RBP] & mask;
        match cpu.pop_legacy(op.b) {
            Ok(value) if op.b == 2 => cpu.set(RBP as u8, value as u16),
            Ok(value) => cpu.regs[RBP] = value,
            Err(trap) => {
                cpu.regs[RSP] = before;
                return Err(trap);
            }
        }
        Ok(())
    }
}

/// ENTER: `op.b` bytes an item, frame size in `op.imm`, nesting level in `op.a`.
pub struct Enter;
impl Exec for Enter {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let before = cpu.regs[RSP];
        let done = enter_frame(op, cpu);
        if done.is_err() {
            cpu.regs[RSP] = before;
        }
        done
    }
}

fn enter_frame(op: &Op, cpu: &mut Cpu) -> Step {
    let mask = cpu.sp_mask();
    let bytes = u64::from(op.b);
    let level = op.a & 31;
    cpu.push_legacy(cpu.regs[RBP], op.b)?;
    let frame = cpu.regs[RSP];
    let mut link = cpu.regs[RBP];
    for _ in 1..level {
        link = link.wrapping_sub(bytes) & mask;
        let displacement = link.wrapping_sub(cpu.regs[RSP]);
        let value = cpu.peek_legacy(displacement, op.b)?;
        cpu.push_legacy(value, op.b)?;
    }
    if level > 0 {
        cpu.push_legacy(frame, op.b)?;
    }
    cpu.add_sp(0u64.wrapping_sub(op.imm.get()));
    // A write at the final stack pointer must be possible (SDM Vol. 2A, ENTER).
    let last = cpu.stack_operand(cpu.regs[RSP] & mask, op.b, true)?;
    cpu.probe_write(last, 1)?;
    match op.b {
        2 => cpu.set(RBP as u8, frame as u16),
        4 => cpu.set(RBP as u8, frame as u32),
        _ => cpu.regs[RBP] = frame,
    }
    Ok(())
}

/// PUSHF with `op.b` bytes.
pub struct Pushf;
impl Exec for Pushf {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.pushf_value()?;
        cpu.push_legacy(value, op.b)
    }
}

/// POPF with `op.b` bytes.
pub struct Popf;
impl Exec for Popf {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.peek_legacy(0, op.b)?;
        cpu.popf(value, op.b)?;
        cpu.add_sp(u64::from(op.b));
        Ok(())
    }
}

/// PUSHA with `op.b` bytes an item.
pub struct Pusha;
impl Exec for Pusha {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let before = cpu.regs[RSP];
        for r in 0..8 {
            let value = if r == RSP { before } else { cpu.regs[r] };
            if let Err(trap) = cpu.push_legacy(value, op.b) {
                cpu.regs[RSP] = before;
                return Err(trap);
            }
        }
        Ok(())
    }
}

/// POPA with `op.b` bytes an item.
pub struct Popa;
impl Exec for Popa {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let mut values = [0; 8];
        for (i, value) in values.iter_mut().enumerate() {
            *value = cpu.peek_legacy(i as u64 * u64::from(op.b), op.b)?;
        }
        for (i, value) in values.into_iter().enumerate() {
            let register = 7 - i;
            match (register, op.b) {
                (RSP, _) => {}
                (_, 2) => cpu.set(register as u8, value as u16),
                _ => cpu.regs[register] = value,
            }
        }
        cpu.add_sp(8 * u64::from(op.b));
        Ok(())
    }
}
