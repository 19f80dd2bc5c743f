//! Operands in registers, and the addresses of operands in memory.

use crate::access;
use crate::cpu::{Cpu, REG_SLOTS, Trap};
use crate::op::{Op, mem_flags};
use crate::tlb::Width;

const SLOT: usize = REG_SLOTS - 1;

impl Cpu {
    /// Reads register operand `r` (see [`Op::a`]).
    #[inline(always)]
    pub fn get<T: Width>(&self, r: u8) -> T {
        if T::BYTES == 1 {
            T::from_u64(self.regs[(r >> 1) as usize & SLOT] >> ((r & 1) * 8))
        } else {
            T::from_u64(self.regs[r as usize & SLOT])
        }
    }

    /// Writes register operand `r`: 32-bit values clear the upper half, narrower ones keep the rest.
    #[inline(always)]
    pub fn set<T: Width>(&mut self, r: u8, value: T) {
        match T::BYTES {
            1 => {
                let shift = (r & 1) * 8;
                let slot = &mut self.regs[(r >> 1) as usize & SLOT];
                *slot = *slot & !(0xFF << shift) | value.to_u64() << shift;
            }
            2 => {
                let slot = &mut self.regs[r as usize & SLOT];
                *slot = *slot & !0xFFFF | value.to_u64();
            }
            _ => self.regs[r as usize & SLOT] = value.to_u64(),
        }
    }

    /// The effective address without a segment base, uncut: what LEA computes.
    #[inline(always)]
    pub fn offset_of(&self, op: &Op) -> u64 {
        self.regs[op.base as usize & SLOT]
            .wrapping_add(self.regs[op.index as usize & SLOT] << (op.scale & 3))
            .wrapping_add(op.disp as i64 as u64)
    }

    /// The linear address of the memory operand, to be read (`WRITE` false) or written.
    #[inline(always)]
    pub fn address<T: Width, const WRITE: bool>(&mut self, op: &Op) -> Result<u64, Trap> {
        if op.scale < mem_flags::ADDR32 {
            return Ok(self.offset_of(op).wrapping_add(self.regs[op.seg as usize & SLOT]));
        }
        access::call_slow_address(self, op, T::BYTES, WRITE)
    }

    /// [`Cpu::address`] where an address-size prefix or legacy segmentation takes part.
    pub fn slow_address(&mut self, op: &Op, bytes: u64, write: bool) -> Result<u64, Trap> {
        let offset = self.cut_offset(op);
        if op.scale & mem_flags::LEGACY == 0 {
            return Ok(offset.wrapping_add(self.regs[op.seg as usize & SLOT]));
        }
        self.linear_legacy(usize::from(op.seg), offset, bytes, write)
    }

    /// The effective address, cut to the address size.
    pub fn cut_offset(&self, op: &Op) -> u64 {
        let offset = self.offset_of(op);
        if op.scale & mem_flags::ADDR32 != 0 {
            offset & 0xFFFF_FFFF
        } else if op.scale & mem_flags::ADDR16 != 0 {
            offset & 0xFFFF
        } else {
            offset
        }
    }

    /// Loads the memory operand.
    #[inline(always)]
    pub fn load_operand<T: Width>(&mut self, op: &Op) -> Result<T, Trap> {
        let va = self.address::<T, false>(op)?;
        self.load::<T>(va)
    }

    /// Stores the memory operand.
    #[inline(always)]
    pub fn store_operand<T: Width>(&mut self, op: &Op, value: T) -> Result<(), Trap> {
        let va = self.address::<T, true>(op)?;
        self.store::<T>(va, value)
    }
}
