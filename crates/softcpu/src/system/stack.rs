//! Stack frames that are written or read as a whole, so that a transfer either happens or faults
//! without a trace.

use vcpu::Segment;

use crate::cpu::{CodeSize, Cpu, Exception, RSP, SS, Trap, rflags, vector};
use crate::paging::{Privilege, canonical};
use crate::system::segment::{attributes, within_limit};

const FRAME_BYTES: usize = 64;

/// Values to be pushed together: at most eight.
pub(crate) struct Frame {
    bytes: [u8; FRAME_BYTES],
    start: usize,
    width: usize,
}

impl Frame {
    /// An empty frame of slots of `width` bytes.
    pub(crate) fn new(width: usize) -> Self {
        Self { bytes: [0; FRAME_BYTES], start: FRAME_BYTES, width }
    }

    /// Pushes a value, cut to the slot's width.
    pub(crate) fn push(&mut self, value: u64) {
        self.start -= self.width;
        let slot = &mut self.bytes[self.start..self.start + self.width];
        slot.copy_from_slice(&value.to_le_bytes()[..self.width]);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Bytes in the slots of a frame that a gate makes: `wide` gates are those of more than 16 bits.
pub(crate) fn slot_width(long: bool, wide: bool) -> usize {
    match (long, wide) {
        (true, _) => 8,
        (false, true) => 4,
        (false, false) => 2,
    }
}

/// A stack that a frame goes to: the current one, or one that a transfer switches to.
#[derive(Clone, Copy)]
pub(crate) struct Stack {
    /// SS; its base and limit do not count if `long` is set.
    pub(crate) segment: Segment,
    /// The stack pointer.
    pub(crate) pointer: u64,
    /// The privilege level that accesses it.
    pub(crate) cpl: u8,
    /// The pointer has 64 bits and segmentation is off.
    pub(crate) long: bool,
    /// The error code of #SS.
    pub(crate) fault: u32,
}

impl Stack {
    fn mask(&self) -> u64 {
        match self.segment.attributes & attributes::BIG {
            _ if self.long => u64::MAX,
            0 => 0xFFFF,
            _ => 0xFFFF_FFFF,
        }
    }
}

impl Cpu {
    /// The stack in use.
    pub(crate) fn current_stack(&self) -> Stack {
        Stack {
            segment: self.segments[SS],
            pointer: self.regs[RSP],
            cpl: self.cpl,
            long: self.code_size == CodeSize::Bits64,
            fault: 0,
        }
    }

    /// Writes `frame` below the stack's pointer, and returns the pointer to it; the registers
    /// stay as they are.
    pub(crate) fn push_frame(&mut self, stack: &Stack, frame: &Frame) -> Result<u64, Trap> {
        let len = frame.bytes().len() as u64;
        let pointer = stack.pointer.wrapping_sub(len) & stack.mask();
        let va = self.frame_address(stack, pointer, len)?;
        if stack.cpl == self.cpl && va & 0xFFF <= 4096 - len {
            self.store_slots(va, frame)?;
        } else {
            let smap_off = self.eflags & rflags::AC != 0;
            let privilege = Privilege { user: stack.cpl == 3, smap_off };
            self.write_linear(va, frame.bytes(), privilege)?;
        }
        Ok(pointer)
    }

    /// Reads `N` slots of `width` bytes from the current stack, from `skip` bytes above its
    /// pointer on.
    pub(crate) fn read_stack<const N: usize>(
        &mut self,
        skip: u64,
        width: usize,
    ) -> Result<[u64; N], Trap> {
        let stack = self.current_stack();
        let len = N * width;
        let pointer = stack.pointer.wrapping_add(skip) & stack.mask();
        let va = self.frame_address(&stack, pointer, len as u64)?;
        let mut values = [0; N];
        for (i, value) in values.iter_mut().enumerate() {
            let va = va.wrapping_add((i * width) as u64);
            *value = match width {
                8 => self.load::<u64>(va)?,
                4 => u64::from(self.load::<u32>(va)?),
                _ => u64::from(self.load::<u16>(va)?),
            };
        }
        Ok(values)
    }

    /// Writes a frame that lies inside one page with the rights of the code that runs, through
    /// the TLB. A page that takes the first slot takes all of them.
    fn store_slots(&mut self, va: u64, frame: &Frame) -> Result<(), Trap> {
        for (i, slot) in (0u64..).zip(frame.bytes().chunks_exact(frame.width)) {
            let va = va.wrapping_add(i * frame.width as u64);
            let mut value = [0; 8];
            value[..frame.width].copy_from_slice(slot);
            let value = u64::from_le_bytes(value);
            match frame.width {
                8 => self.store::<u64>(va, value)?,
                4 => self.store::<u32>(va, value as u32)?,
                _ => self.store::<u16>(va, value as u16)?,
            }
        }
        Ok(())
    }

    fn frame_address(&mut self, stack: &Stack, pointer: u64, len: u64) -> Result<u64, Trap> {
        let segment = &stack.segment;
        let fits = if stack.long {
            canonical(pointer) && canonical(pointer.wrapping_add(len - 1))
        } else {
            (!segment.unusable || !self.protected_mode()) && within_limit(segment, pointer, len)
        };
        if !fits {
            return Err(self.raise(Exception::with(vector::SS, stack.fault)));
        }
        let base = if stack.long { 0 } else { segment.base };
        let va = base.wrapping_add(pointer);
        Ok(if stack.long { va } else { va & 0xFFFF_FFFF })
    }

    /// Sets the stack pointer to the width that SS and the code size in force give it.
    pub(crate) fn put_stack_pointer(&mut self, pointer: u64) {
        let stack = self.current_stack();
        self.regs[RSP] = match stack.mask() {
            0xFFFF => self.regs[RSP] & !0xFFFF | pointer & 0xFFFF,
            mask => pointer & mask,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_grow_down() {
        let mut frame = Frame::new(4);
        frame.push(0x1_1122_3344);
        frame.push(5);
        assert_eq!(frame.bytes(), [5, 0, 0, 0, 0x44, 0x33, 0x22, 0x11]);
    }
}
