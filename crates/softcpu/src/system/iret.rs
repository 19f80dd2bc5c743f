//! IRET (SDM Vol. 2): back from an exception or interrupt, to the same or an outer privilege
//! level, in real, protected and long mode.
//!
//! Returns to a task (NT) and to virtual-8086 mode are refused with #GP(0).

use crate::cpu::{CodeSize, Cpu, RSP, SS, Step, rflags};

/// What IRET may change at any privilege level, of a 16-bit image.
const ALWAYS: u64 = rflags::ARITH | rflags::TF | rflags::DF | rflags::NT;
/// What a 32-bit or 64-bit image adds.
const WIDE: u64 = rflags::RF | rflags::AC | rflags::ID;

impl Cpu {
    /// IRET with operand size `bits`.
    pub fn iret(&mut self, bits: u32) -> Step {
        let width = bits as usize / 8;
        if !self.protected_mode() {
            return self.iret_real(width);
        }
        if self.eflags & rflags::NT != 0 {
            return Err(self.gp0());
        }
        let [offset, selector, image] = self.read_stack(0, width)?;
        if image & rflags::VM != 0 && self.cpl == 0 && !self.long_mode() && width > 2 {
            log::warn!("vCPU {}: IRET to virtual-8086 mode, which does not exist: #GP", self.id);
            return Err(self.gp0());
        }
        let back = self.check_return(selector as u16, offset)?;
        let flags = self.returned_flags(image, width);
        let pops_stack = back.cpl > self.cpl || self.runs_long_code();
        let outer = if pops_stack {
            let [pointer, stack] = self.read_stack(3 * width as u64, width)?;
            Some((pointer, self.check_return_stack(stack as u16, &back)?))
        } else {
            None
        };
        let outwards = back.cpl > self.cpl;
        match outer {
            Some((pointer, segment)) => {
                self.arrive(back.code, back.selector, back.offset, back.cpl);
                self.segments[SS] = segment;
                self.put_returned_pointer(pointer);
            }
            None => {
                let pointer = self.regs[RSP].wrapping_add(3 * width as u64);
                self.put_stack_pointer(pointer);
                self.arrive(back.code, back.selector, back.offset, back.cpl);
            }
        }
        if outwards {
            self.drop_privileged_segments(back.cpl);
        }
        self.finish_iret(flags);
        Ok(())
    }

    fn iret_real(&mut self, width: usize) -> Step {
        let [offset, selector, image] = self.read_stack(0, width)?;
        let flags = self.returned_flags(image, width);
        let pointer = self.regs[RSP].wrapping_add(3 * width as u64);
        self.far_jump(selector as u16, offset)?;
        self.put_stack_pointer(pointer);
        self.finish_iret(flags);
        Ok(())
    }

    fn finish_iret(&mut self, flags: u64) {
        self.set_rflags(flags);
        self.msrs.nmi_blocked = false;
    }

    /// A 64-bit pointer for 64-bit code, else its low half or, for a 16-bit stack, quarter.
    fn put_returned_pointer(&mut self, pointer: u64) {
        match self.code_size {
            CodeSize::Bits64 => self.regs[RSP] = pointer,
            CodeSize::Bits32 | CodeSize::Bits16 => self.put_stack_pointer(pointer),
        }
    }

    /// RFLAGS after IRET at the current privilege level popped `image`.
    fn returned_flags(&self, image: u64, width: usize) -> u64 {
        let mut changes = ALWAYS;
        if width > 2 {
            changes |= WIDE;
        }
        if self.io_privileged() {
            changes |= rflags::IF;
        }
        if self.cpl == 0 || !self.protected_mode() {
            changes |= rflags::IOPL;
        }
        self.rflags() & !changes | image & changes
    }
}
