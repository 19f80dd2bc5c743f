//! Jumps, calls and returns, and how they find the next block.
//!
//! A direct jump inside a page keeps a link to its target's head: the page that holds both is the
//! same physical page whatever it is mapped as. Every other jump looks the target up by RIP in the
//! jump cache, and falls back to the outer loop.

use crate::cpu::{Cpu, Exception, RCX, RIP, RSP, Step, vector};
use crate::flags::condition;
use crate::op::{Exec, Op, enter, mem_flags, next};
use crate::ops::alu::{Alu, Cmp, Test};
use crate::paging::canonical;
use crate::tlb::Width;

/// Where a jump finds its target.
pub trait Reach {
    /// `RIP` is set; goes on there.
    fn go(op: &Op, cpu: &mut Cpu);
}

/// By the link in the op: the target lies in the same page.
pub struct Near;
impl Reach for Near {
    #[inline(always)]
    fn go(op: &Op, cpu: &mut Cpu) {
        match op.link() {
            Some(head) => enter(head, cpu),
            None => cpu.link_from.0 = Some(op.into()),
        }
    }
}

/// By RIP in the jump cache.
pub struct Looked;
impl Reach for Looked {
    #[inline(always)]
    fn go(_: &Op, cpu: &mut Cpu) {
        if let Some(head) = cpu.code.known(cpu.regs[RIP], cpu.mode_key, &cpu.tlb) {
            enter(head, cpu);
        }
    }
}

/// By the outer loop, with RIP cut to the width in `op.b` (16 or 32): legacy code.
pub struct Cut;
impl Reach for Cut {
    #[inline(always)]
    fn go(op: &Op, cpu: &mut Cpu) {
        cpu.regs[RIP] &= if op.b == 16 { 0xFFFF } else { 0xFFFF_FFFF };
        if let Some(head) = cpu.code.known(cpu.regs[RIP], cpu.mode_key, &cpu.tlb) {
            enter(head, cpu);
        }
    }
}

/// JMP to the distance in `op.aux`; also what ends a block that runs into the next.
pub extern "C" fn jump<R: Reach>(op: &Op, cpu: &mut Cpu) {
    cpu.regs[RIP] = cpu.regs[RIP].wrapping_add(op.aux as i32 as i64 as u64);
    R::go(op, cpu);
}

/// Takes the jump whose distance the op behind holds in `disp` (fused pairs need their own).
#[inline(always)]
fn taken<R: Reach>(op: &Op, cpu: &mut Cpu) {
    // SAFETY: the decoder puts a `jump` op behind every conditional one.
    let behind = unsafe { &*(op as *const Op).add(1) };
    cpu.regs[RIP] = cpu.regs[RIP].wrapping_add(behind.disp as i64 as u64);
    R::go(op, cpu);
}

/// Jcc.
pub extern "C" fn jump_if<R: Reach, const CC: u8>(op: &Op, cpu: &mut Cpu) {
    if condition::<CC>(cpu.fx) { taken::<R>(op, cpu) } else { next(op, cpu) }
}

/// CMP or TEST as the first half of a fused pair.
pub trait Compare<T: Width>: Alu<T> {
    /// Condition `CC` of the flags that the operation leaves, from its operands.
    fn holds<const CC: u8>(a: T, b: T, fx: u16) -> bool;
}

impl<T: Width> Compare<T> for Cmp
where
    Cmp: Alu<T>,
{
    #[inline(always)]
    fn holds<const CC: u8>(a: T, b: T, fx: u16) -> bool {
        let (ua, ub, sa, sb) = (a.to_u64(), b.to_u64(), a.to_i64(), b.to_i64());
        let holds = match CC >> 1 {
            1 => ua < ub,
            2 => ua == ub,
            3 => ua <= ub,
            6 => sa < sb,
            7 => sa <= sb,
            _ => return condition::<CC>(fx),
        };
        holds != (CC & 1 != 0)
    }
}

impl<T: Width> Compare<T> for Test
where
    Test: Alu<T>,
{
    #[inline(always)]
    fn holds<const CC: u8>(a: T, b: T, fx: u16) -> bool {
        let (u, s) = (a.to_u64() & b.to_u64(), a.to_i64() & b.to_i64());
        let holds = match CC >> 1 {
            1 => false,
            2 | 3 => u == 0,
            4 | 6 => s < 0,
            7 => s <= 0,
            _ => return condition::<CC>(fx),
        };
        holds != (CC & 1 != 0)
    }
}

/// The operands of a fused pair.
pub trait Operands<T: Width> {
    /// Both, or a trap.
    fn fetch(op: &Op, cpu: &mut Cpu) -> Result<(T, T), crate::cpu::Trap>;
}

/// Registers `a` and `b`.
pub struct OfRegReg;
impl<T: Width> Operands<T> for OfRegReg {
    #[inline(always)]
    fn fetch(op: &Op, cpu: &mut Cpu) -> Result<(T, T), crate::cpu::Trap> {
        Ok((cpu.get(op.a), cpu.get(op.b)))
    }
}

/// Register `a` and the immediate in `aux`.
pub struct OfRegImm;
impl<T: Width> Operands<T> for OfRegImm {
    #[inline(always)]
    fn fetch(op: &Op, cpu: &mut Cpu) -> Result<(T, T), crate::cpu::Trap> {
        Ok((cpu.get(op.a), T::from_u64(op.aux as i32 as i64 as u64)))
    }
}

/// Memory and the immediate in `aux`.
pub struct OfMemImm;
impl<T: Width> Operands<T> for OfMemImm {
    #[inline(always)]
    fn fetch(op: &Op, cpu: &mut Cpu) -> Result<(T, T), crate::cpu::Trap> {
        Ok((cpu.load_operand(op)?, T::from_u64(op.aux as i32 as i64 as u64)))
    }
}

/// Memory and register `a`.
pub struct OfMemReg;
impl<T: Width> Operands<T> for OfMemReg {
    #[inline(always)]
    fn fetch(op: &Op, cpu: &mut Cpu) -> Result<(T, T), crate::cpu::Trap> {
        Ok((cpu.load_operand(op)?, cpu.get(op.a)))
    }
}

/// Register `a` and memory.
pub struct OfRegMem;
impl<T: Width> Operands<T> for OfRegMem {
    #[inline(always)]
    fn fetch(op: &Op, cpu: &mut Cpu) -> Result<(T, T), crate::cpu::Trap> {
        let b = cpu.load_operand(op)?;
        Ok((cpu.get(op.a), b))
    }
}

/// CMP or TEST with the Jcc behind it. The flags are left as the pair would leave them.
pub extern "C" fn compare_and_jump<R, O, P, T, const CC: u8>(op: &Op, cpu: &mut Cpu)
where
    R: Reach,
    O: Compare<T>,
    P: Operands<T>,
    T: Width,
{
    let Ok((a, b)) = P::fetch(op, cpu) else {
        cpu.trap_offset = op.offset;
        return;
    };
    let fx = O::flagged(a, b, cpu.fx).1;
    cpu.fx = fx;
    if O::holds::<CC>(a, b, fx) { taken::<R>(op, cpu) } else { next(op, cpu) }
}

/// LOOP, LOOPE, LOOPNE, JRCXZ. `op.a`: 0 LOOPNE, 1 LOOPE, 2 LOOP, 3 JRCXZ; the address-size flags
/// in `op.scale` give the counter's width.
pub extern "C" fn loop_if<R: Reach>(op: &Op, cpu: &mut Cpu) {
    let mask = match op.scale {
        s if s & mem_flags::ADDR32 != 0 => 0xFFFF_FFFF,
        s if s & mem_flags::ADDR16 != 0 => 0xFFFF,
        _ => u64::MAX,
    };
    let mut count = cpu.regs[RCX] & mask;
    if op.a != 3 {
        count = count.wrapping_sub(1) & mask;
        // A 32-bit counter clears the upper half, a 16-bit one keeps the rest.
        let kept = if mask == 0xFFFF { cpu.regs[RCX] & !mask } else { 0 };
        cpu.regs[RCX] = kept | count;
    }
    let jumps = match op.a {
        0 => count != 0 && condition::<5>(cpu.fx),
        1 => count != 0 && condition::<4>(cpu.fx),
        2 => count != 0,
        _ => count == 0,
    };
    if jumps { taken::<R>(op, cpu) } else { next(op, cpu) }
}

/// Pushes the return address of a 64-bit call.
#[inline(always)]
fn push_return(op: &Op, cpu: &mut Cpu) -> Step {
    let back = cpu.regs[RIP].wrapping_add(u64::from(op.next));
    let rsp = cpu.regs[RSP].wrapping_sub(8);
    cpu.store::<u64>(rsp, back)?;
    cpu.regs[RSP] = rsp;
    Ok(())
}

/// CALL to the distance in `op.aux`, in 64-bit mode.
pub extern "C" fn call<R: Reach>(op: &Op, cpu: &mut Cpu) {
    if push_return(op, cpu).is_err() {
        cpu.trap_offset = op.offset;
        return;
    }
    cpu.regs[RIP] = cpu.regs[RIP].wrapping_add(op.aux as i32 as i64 as u64);
    R::go(op, cpu);
}

/// CALL or JMP to a 64-bit address in register `op.a` or (`MEM`) memory.
pub extern "C" fn indirect<const CALL: bool, const MEM: bool>(op: &Op, cpu: &mut Cpu) {
    let target = if MEM { cpu.load_operand::<u64>(op) } else { Ok(cpu.get::<u64>(op.a)) };
    let Ok(target) = target else {
        cpu.trap_offset = op.offset;
        return;
    };
    if !CALL {
        return go_to(target, cpu.regs[RSP], op, cpu);
    }
    if !canonical(target) {
        return refuse_call(op, cpu);
    }
    if let Err(trap) = push_return(op, cpu) {
        if MEM {
            let _ = cpu.stack_fault(trap);
        }
        cpu.trap_offset = op.offset;
        return;
    }
    cpu.regs[RIP] = target;
    Looked::go(op, cpu);
}

/// Jumps to `target` with a new stack pointer, or #GP if the target is not canonical: no block has
/// such an address.
#[inline(always)]
fn go_to(target: u64, rsp: u64, op: &Op, cpu: &mut Cpu) {
    let known = cpu.code.known(target, cpu.mode_key, &cpu.tlb);
    if known.is_none() && !canonical(target) {
        return refuse_target(op, cpu);
    }
    cpu.regs[RSP] = rsp;
    cpu.regs[RIP] = target;
    if let Some(head) = known {
        enter(head, cpu);
    }
}

/// [`refuse_target`] of a CALL, which is found out behind a stack that cannot be pushed to.
#[cold]
#[inline(never)]
extern "C" fn refuse_call(op: &Op, cpu: &mut Cpu) {
    let slot = cpu.regs[RSP].wrapping_sub(8);
    cpu.trap_offset = op.offset;
    if !canonical(slot) {
        let _ = cpu.raise(Exception::with(vector::SS, 0));
    } else if cpu.probe_write(slot, 8).is_ok() {
        let _ = cpu.gp0();
    }
}

#[cold]
#[inline(never)]
extern "C" fn refuse_target(op: &Op, cpu: &mut Cpu) {
    let _ = cpu.gp0();
    cpu.trap_offset = op.offset;
}

/// RET in 64-bit mode, releasing `op.imm` further bytes.
pub extern "C" fn ret(op: &Op, cpu: &mut Cpu) {
    let rsp = cpu.regs[RSP];
    let Ok(target) = cpu.load::<u64>(rsp) else {
        cpu.trap_offset = op.offset;
        return;
    };
    let above = rsp.wrapping_add(8).wrapping_add(op.imm.get());
    go_to(target, above, op, cpu)
}

/// Legacy near CALL to `op.aux`, operand size in `op.b` (16 or 32).
pub struct CallLegacy;
impl Exec for CallLegacy {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let back = cpu.truncate_rip(cpu.regs[RIP].wrapping_add(u64::from(op.next)));
        let target = cpu.regs[RIP].wrapping_add(op.aux as i32 as i64 as u64);
        cpu.push_legacy(back, op.b / 8)?;
        cpu.regs[RIP] = target & width_mask(op.b);
        Ok(())
    }
}

/// Legacy indirect CALL (`op.imm` 1) or JMP (0) through register `op.a` or memory, operand size
/// in `op.b`.
pub struct IndirectLegacy<const MEM: bool>;
impl<const MEM: bool> Exec for IndirectLegacy<MEM> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let target = match (MEM, op.b) {
            (true, 16) => cpu.load_operand::<u16>(op)?.to_u64(),
            (true, _) => cpu.load_operand::<u32>(op)?.to_u64(),
            (false, _) => cpu.regs[usize::from(op.a)],
        };
        if op.imm.get() != 0 {
            let back = cpu.truncate_rip(cpu.regs[RIP].wrapping_add(u64::from(op.next)));
            cpu.push_legacy(back, op.b / 8)?;
        }
        cpu.regs[RIP] = target & width_mask(op.b);
        Ok(())
    }
}

/// Legacy RET, operand size in `op.b`, releasing `op.imm` further bytes.
pub struct RetLegacy;
impl Exec for RetLegacy {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let target = cpu.pop_legacy(op.b / 8)?;
        cpu.add_sp(op.imm.get());
        cpu.regs[RIP] = target & width_mask(op.b);
        Ok(())
    }
}

fn width_mask(bits: u8) -> u64 {
    if bits == 16 { 0xFFFF } else { 0xFFFF_FFFF }
}
