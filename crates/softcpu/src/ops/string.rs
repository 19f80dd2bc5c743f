//! MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, with and without a repeat prefix.
//!
//! Repeated MOVS and STOS that go upwards work on whole stretches of pages at a time. All of them
//! update RCX, RSI and RDI as they go, so that a fault or an interrupt in the middle finds the
//! registers exact and the instruction restarts where it stopped.
//!
//! `op.imm` is 0 without a prefix, 1 for REP/REPE, 2 for REPNE. `op.seg` and `op.scale` describe
//! the source's segment and the address size as for any memory operand.

use std::marker::PhantomData;

use crate::cpu::{Cpu, ES, Pending, RAX, RCX, RDI, RDX, RSI, Step, Trap, rflags};
use crate::flags::FX_ZF;
use crate::op::{Exec, Op, mem_flags};
use crate::ops::alu::{Alu, Cmp};
use crate::tlb::Width;

/// Elements after which a repeated instruction looks whether an interrupt waits.
const STRETCH: u64 = 4096;

/// Runs a stretch of at most the given number of elements. Says how many it did, and whether the
/// condition ended the repetition.
type Stretch = fn(&Op, &mut Cpu, u64) -> Result<(u64, bool), Trap>;

impl Cpu {
    fn string_mask(op: &Op) -> u64 {
        if op.scale & mem_flags::ADDR32 != 0 {
            0xFFFF_FFFF
        } else if op.scale & mem_flags::ADDR16 != 0 {
            0xFFFF
        } else {
            u64::MAX
        }
    }

    /// The linear address of the source (RSI) element.
    fn source<T: Width>(&mut self, op: &Op) -> Result<u64, Trap> {
        let offset = self.regs[RSI] & Self::string_mask(op);
        if op.scale & mem_flags::LEGACY == 0 {
            return Ok(offset.wrapping_add(self.regs[usize::from(op.seg)]));
        }
        self.linear_legacy(usize::from(op.seg), offset, T::BYTES, false)
    }

    /// The linear address of the destination (ES:RDI) element.
    fn destination<T: Width>(&mut self, op: &Op, write: bool) -> Result<u64, Trap> {
        let offset = self.regs[RDI] & Self::string_mask(op);
        if op.scale & mem_flags::LEGACY == 0 {
            return Ok(offset);
        }
        self.linear_legacy(ES, offset, T::BYTES, write)
    }

    /// Moves an index register by `elements` in the direction of DF.
    fn advance<T: Width>(&mut self, register: usize, op: &Op, elements: u64) {
        let bytes = elements.wrapping_mul(T::BYTES);
        let signed = if self.eflags & rflags::DF != 0 { 0u64.wrapping_sub(bytes) } else { bytes };
        self.set_cut(register, op, self.regs[register].wrapping_add(signed));
    }

    /// Writes an index or count register at the address size.
    fn set_cut(&mut self, register: usize, op: &Op, value: u64) {
        let mask = Self::string_mask(op);
        let kept = if mask == 0xFFFF { self.regs[register] & !mask } else { 0 };
        self.regs[register] = kept | value & mask;
    }

    fn count_down(&mut self, op: &Op, elements: u64) {
        self.set_cut(RCX, op, self.regs[RCX].wrapping_sub(elements));
    }

    /// Runs one element, or as many as RCX says; `one` leaves the index registers moved.
    fn repeat(&mut self, op: &Op, one: Stretch) -> Step {
        if op.imm.get() == 0 {
            return one(op, self, 1).map(|_| ());
        }
        let mut done = 0;
        loop {
            let left = self.regs[RCX] & Self::string_mask(op);
            if left == 0 {
                return Ok(());
            }
            // Single-stepping stops behind every iteration.
            let stepping = self.eflags & rflags::TF != 0;
            let (moved, ended) = one(op, self, if stepping { 1 } else { left })?;
            self.count_down(op, moved);
            done += moved;
            if ended {
                return Ok(());
            }
            if (stepping || done >= STRETCH) && self.regs[RCX] & Self::string_mask(op) != 0 {
                // Interrupts are taken between elements, with RIP still at the instruction.
                self.pending = Pending::None;
                self.look_up_soon();
                return Err(Trap);
            }
        }
    }

    /// How many `T`s from `va` upwards lie in its page.
    fn room<T: Width>(va: u64) -> u64 {
        (4096 - (va & 0xFFF)) / T::BYTES
    }

    fn upwards(&self, op: &Op) -> bool {
        self.eflags & rflags::DF == 0 && op.scale < mem_flags::ADDR32
    }
}

/// MOVS.
pub struct Movs<T>(PhantomData<T>);
impl<T: Width> Exec for Movs<T> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.repeat(op, movs_some::<T>)
    }
}

fn movs_some<T: Width>(op: &Op, cpu: &mut Cpu, left: u64) -> Result<(u64, bool), Trap> {
    let from = cpu.source::<T>(op)?;
    let to = cpu.destination::<T>(op, true)?;
    if left > 1 && cpu.upwards(op) {
        let elements = left.min(Cpu::room::<T>(from)).min(Cpu::room::<T>(to));
        if elements > 1 && cpu.copy_inside_pages(from, to, elements * T::BYTES, T::BYTES) {
            cpu.advance::<T>(RSI, op, elements);
            cpu.advance::<T>(RDI, op, elements);
            return Ok((elements, false));
        }
    }
    let value = cpu.load::<T>(from)?;
    cpu.store::<T>(to, value)?;
    cpu.advance::<T>(RSI, op, 1);
    cpu.advance::<T>(RDI, op, 1);
    Ok((1, false))
}

/// STOS.
pub struct Stos<T>(PhantomData<T>);
impl<T: Width> Exec for Stos<T> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.repeat(op, stos_some::<T>)
    }
}

fn stos_some<T: Width>(op: &Op, cpu: &mut Cpu, left: u64) -> Result<(u64, bool), Trap> {
    let to = cpu.destination::<T>(op, true)?;
    let value = cpu.get::<T>(RAX as u8);
    if left > 1 && cpu.upwards(op) {
        let elements = left.min(Cpu::room::<T>(to));
        if elements > 1 && cpu.fill_inside_page(to, elements, value) {
            cpu.advance::<T>(RDI, op, elements);
            return Ok((elements, false));
        }
    }
    cpu.store::<T>(to, value)?;
    cpu.advance::<T>(RDI, op, 1);
    Ok((1, false))
}

/// LODS.
pub struct Lods<T>(PhantomData<T>);
impl<T: Width> Exec for Lods<T> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.repeat(op, |op, cpu, _| {
            let from = cpu.source::<T>(op)?;
            let value = cpu.load::<T>(from)?;
            cpu.set(RAX as u8, value);
            cpu.advance::<T>(RSI, op, 1);
            Ok((1, false))
        })
    }
}

/// Whether a repeated comparison ends here: REPE when unequal, REPNE when equal.
fn ends(op: &Op, cpu: &Cpu) -> bool {
    let equal = cpu.fx & FX_ZF != 0;
    op.imm.get() == if equal { 2 } else { 1 }
}

/// CMPS.
pub struct Cmps<T>(PhantomData<T>);
impl<T: Width> Exec for Cmps<T>
where
    Cmp: Alu<T>,
{
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.repeat(op, |op, cpu, _| {
            let from = cpu.source::<T>(op)?;
            let to = cpu.destination::<T>(op, false)?;
            let a = cpu.load::<T>(from)?;
            let b = cpu.load::<T>(to)?;
            cpu.fx = Cmp::flagged(a, b, cpu.fx).1;
            cpu.advance::<T>(RSI, op, 1);
            cpu.advance::<T>(RDI, op, 1);
            Ok((1, ends(op, cpu)))
        })
    }
}

/// SCAS.
pub struct Scas<T>(PhantomData<T>);
impl<T: Width> Exec for Scas<T>
where
    Cmp: Alu<T>,
{
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.repeat(op, |op, cpu, _| {
            let to = cpu.destination::<T>(op, false)?;
            let b = cpu.load::<T>(to)?;
            let a = cpu.get::<T>(RAX as u8);
            cpu.fx = Cmp::flagged(a, b, cpu.fx).1;
            cpu.advance::<T>(RDI, op, 1);
            Ok((1, ends(op, cpu)))
        })
    }
}

/// INS.
pub struct Ins<T>(PhantomData<T>);
impl<T: Width> Exec for Ins<T> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let port = cpu.regs[RDX] as u16;
        cpu.check_io(port, T::BYTES as u8)?;
        cpu.repeat(op, |op, cpu, _| {
            let to = cpu.destination::<T>(op, true)?;
            // The right to write is checked before the port is read, which cannot be undone.
            let place = cpu.modify::<T>(to)?;
            let port = cpu.regs[RDX] as u16;
            let value = cpu.port_in(port, T::BYTES as usize);
            // SAFETY: `modify` found a place for a `T`.
            unsafe { T::store(place.host, T::from_u64(value)) };
            cpu.modified(place);
            cpu.advance::<T>(RDI, op, 1);
            Ok((1, false))
        })
    }
}

/// OUTS.
pub struct Outs<T>(PhantomData<T>);
impl<T: Width> Exec for Outs<T> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let port = cpu.regs[RDX] as u16;
        cpu.check_io(port, T::BYTES as u8)?;
        cpu.repeat(op, |op, cpu, _| {
            let from = cpu.source::<T>(op)?;
            let value = cpu.load::<T>(from)?.to_u64();
            let port = cpu.regs[RDX] as u16;
            cpu.port_out(port, value, T::BYTES as usize);
            cpu.advance::<T>(RSI, op, 1);
            Ok((1, false))
        })
    }
}
