//! System instructions: each op hands its operands to the functions in `system/`.

use std::marker::PhantomData;

use crate::cpu::{Cpu, Pending, RAX, RCX, RDX, RIP, Step, rflags};
use crate::flags::FX_ZF;
use crate::op::{Exec, Op, next_rip};
use crate::tlb::Width;

/// What PAUSE takes of the budget, in instructions.
const PAUSE_COST: i32 = 64;

/// An op without parameters.
macro_rules! exec {
    ($(#[$doc:meta])* $name:ident, |$op:pat_param, $cpu:ident| $body:expr) => {
        $(#[$doc])*
        pub struct $name;
        impl Exec for $name {
            fn exec($op: &Op, $cpu: &mut Cpu) -> Step {
                $body
            }
        }
    };
}

exec!(/** Nothing: NOP, hints. */ Nop, |_, _cpu| Ok(()));
exec!(/** LFENCE, SFENCE, MFENCE: other vCPUs see the guest's accesses in the host's order. */ Fence, |_, _cpu| {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
});
exec!(/** PAUSE: lets another vCPU's thread run where they share a core. */ Pause, |_, cpu| {
    cpu.budget = (cpu.budget - PAUSE_COST).max(0);
    Ok(())
});
exec!(/** UD0, UD1, UD2 and everything unknown. */ Undefined, |_, cpu| Err(cpu.ud()));
exec!(/** HLT. */ Hlt, |_, cpu| {
    cpu.require_cpl0()?;
    cpu.pending = Pending::Halt;
    Ok(())
});
exec!(/** CLI. */ Cli, |_, cpu| cpu.cli());
exec!(/** STI: interrupts stay off for one more instruction if they were off. */ Sti, |_, cpu| {
    cpu.sti()?;
    cpu.look_up_soon();
    Ok(())
});
exec!(/** Ends the shadow of STI or MOV SS behind the instruction that it covers. */ EndShadow, |_, cpu| {
    cpu.shadow = false;
    Ok(())
});
exec!(/** CLD. */ Cld, |_, cpu| {
    cpu.eflags &= !rflags::DF;
    Ok(())
});
exec!(/** STD. */ Std, |_, cpu| {
    cpu.eflags |= rflags::DF;
    Ok(())
});
exec!(/** CLAC. */ Clac, |_, cpu| cpu.clac());
exec!(/** STAC. */ Stac, |_, cpu| cpu.stac());
exec!(/** CPUID. */ Cpuid, |_, cpu| {
    cpu.cpuid_instruction();
    Ok(())
});
exec!(/** RDTSC. */ Rdtsc, |_, cpu| cpu.rdtsc());
exec!(/** RDTSCP. */ Rdtscp, |_, cpu| cpu.rdtscp());
exec!(/** RDPMC. */ Rdpmc, |_, cpu| Err(cpu.gp0()));
exec!(/** RDMSR. */ Rdmsr, |_, cpu| {
    cpu.require_cpl0()?;
    let value = cpu.rdmsr(cpu.regs[RCX] as u32)?;
    cpu.regs[RAX] = value & 0xFFFF_FFFF;
    cpu.regs[RDX] = value >> 32;
    Ok(())
});
exec!(/** WRMSR. */ Wrmsr, |_, cpu| {
    cpu.require_cpl0()?;
    let value = cpu.regs[RDX] << 32 | cpu.regs[RAX] & 0xFFFF_FFFF;
    cpu.wrmsr(cpu.regs[RCX] as u32, value)
});
exec!(/** SWAPGS. */ Swapgs, |_, cpu| cpu.swapgs());
exec!(/** SYSCALL. */ Syscall, |op, cpu| cpu.syscall(next_rip(op, cpu)));
exec!(/** SYSRET; `op.a` is 1 for the 64-bit form. */ Sysret, |op, cpu| cpu.sysret(op.a == 1));
exec!(/** SYSENTER. */ Sysenter, |_, cpu| cpu.sysenter());
exec!(/** SYSEXIT; `op.a` is 1 for the 64-bit form. */ Sysexit, |op, cpu| cpu.sysexit(op.a == 1));
exec!(/** IRET with operand size `op.b` bits. */ Iret, |op, cpu| cpu.iret(u32::from(op.b)));
exec!(/** INVLPG. */ Invlpg, |op, cpu| {
    cpu.require_cpl0()?;
    let va = cpu.slow_address(op, 0, false)?;
    cpu.tlb.flush_page(va);
    Ok(())
});
exec!(/** WBINVD, INVD: there is no cache to write back. */ Wbinvd, |_, cpu| cpu.require_cpl0());
exec!(/** CLTS. */ Clts, |_, cpu| cpu.clts());
exec!(/** MOV register, CRn: register `op.a`, control register `op.b`. */ MovFromCr, |op, cpu| {
    let value = cpu.read_cr(op.b)?;
    cpu.regs[usize::from(op.a)] = value;
    Ok(())
});
exec!(/** MOV CRn, register. */ MovToCr, |op, cpu| {
    let value = cpu.regs[usize::from(op.a)];
    cpu.write_cr(op.b, value)
});
exec!(/** MOV register, DRn. */ MovFromDr, |op, cpu| {
    let value = cpu.read_dr(op.b)?;
    cpu.regs[usize::from(op.a)] = value;
    Ok(())
});
exec!(/** MOV DRn, register. */ MovToDr, |op, cpu| {
    let value = cpu.regs[usize::from(op.a)];
    cpu.write_dr(op.b, value)
});
exec!(/** XGETBV. */ Xgetbv, |_, cpu| cpu.xgetbv());
exec!(/** XSETBV. */ Xsetbv, |_, cpu| cpu.xsetbv());
exec!(/** VMCALL, VMMCALL. */ Vmcall, |_, cpu| cpu.vmcall());
exec!(/** RDFSBASE, RDGSBASE: `op.a` register, `op.b` base slot, `op.aux` bits. */ ReadBase, |op, cpu| {
    cpu.check_fsgsbase()?;
    let value = cpu.regs[usize::from(op.b)];
    cpu.regs[usize::from(op.a)] = if op.aux == 32 { value & 0xFFFF_FFFF } else { value };
    Ok(())
});
exec!(/** WRFSBASE, WRGSBASE. */ WriteBase, |op, cpu| {
    cpu.check_fsgsbase()?;
    let value = cpu.regs[usize::from(op.a)];
    let value = if op.aux == 32 { value & 0xFFFF_FFFF } else { value };
    if !crate::paging::canonical(value) {
        return Err(cpu.gp0());
    }
    cpu.regs[usize::from(op.b)] = value;
    Ok(())
});

/// INT n (`op.aux`), INT3, INTO.
pub struct Int;
impl Exec for Int {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let start = cpu.regs[RIP];
        let instruction = cpu.truncate_rip(start.wrapping_add(u64::from(op.offset)));
        cpu.regs[RIP] = next_rip(op, cpu);
        cpu.interrupted = true;
        if op.aux == 0x100 {
            // INT1 (ICEBP).
            let _ = cpu.deliver_icebp(instruction);
        } else {
            let _ = cpu.deliver_software(op.aux as u8, instruction);
        }
        if cpu.pending == Pending::Shutdown { Err(crate::cpu::Trap) } else { Ok(()) }
    }
}

/// INTO: only with OF set.
pub struct Into;
impl Exec for Into {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        if cpu.fx & crate::flags::FX_OF == 0 {
            cpu.regs[RIP] = next_rip(op, cpu);
            return Ok(());
        }
        let instruction = cpu.truncate_rip(cpu.regs[RIP].wrapping_add(u64::from(op.offset)));
        cpu.regs[RIP] = next_rip(op, cpu);
        cpu.interrupted = true;
        let _ = cpu.deliver_software(crate::cpu::vector::OF, instruction);
        if cpu.pending == Pending::Shutdown { Err(crate::cpu::Trap) } else { Ok(()) }
    }
}

/// IN: `op.b` bytes; the port is `op.imm`, or DX if that is 0x10000.
pub struct In;
impl Exec for In {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let port = port_of(op, cpu);
        cpu.check_io(port, op.b)?;
        let value = cpu.port_in(port, usize::from(op.b));
        match op.b {
            1 => cpu.set(RAX as u8, value as u8),
            2 => cpu.set(RAX as u8, value as u16),
            _ => cpu.set(RAX as u8, value as u32),
        }
        Ok(())
    }
}

/// OUT: as [`In`].
pub struct Out;
impl Exec for Out {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let port = port_of(op, cpu);
        cpu.check_io(port, op.b)?;
        cpu.port_out(port, cpu.regs[RAX], usize::from(op.b));
        Ok(())
    }
}

fn port_of(op: &Op, cpu: &Cpu) -> u16 {
    match op.imm.get() {
        0x10000 => cpu.regs[RDX] as u16,
        port => port as u16,
    }
}

/// A 16-bit operand: register `op.a`, or (`MEM`) memory.
fn operand16<const MEM: bool>(op: &Op, cpu: &mut Cpu) -> Result<u16, crate::cpu::Trap> {
    if MEM { cpu.load_operand::<u16>(op) } else { Ok(cpu.regs[usize::from(op.a)] as u16) }
}

/// MOV Sreg, register or memory: segment register `op.b`.
pub struct MovToSeg<const MEM: bool>;
impl<const MEM: bool> Exec for MovToSeg<MEM> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let selector = operand16::<MEM>(op, cpu)?;
        cpu.load_segment(usize::from(op.b), selector)?;
        if usize::from(op.b) == crate::cpu::SS {
            cpu.shadow = true;
        }
        Ok(())
    }
}

/// Stores a 16-bit system value: to register `op.a` with `op.aux` bits, or (`MEM`) to memory.
fn put16<const MEM: bool>(op: &Op, cpu: &mut Cpu, value: u16) -> Step {
    if MEM {
        return cpu.store_operand(op, value);
    }
    match op.aux {
        16 => cpu.set(op.a, value),
        32 => cpu.set(op.a, u32::from(value)),
        _ => cpu.set(op.a, u64::from(value)),
    }
    Ok(())
}

/// MOV register or memory, Sreg.
pub struct MovFromSeg<const MEM: bool>;
impl<const MEM: bool> Exec for MovFromSeg<MEM> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.segments[usize::from(op.b)].selector;
        put16::<MEM>(op, cpu, value)
    }
}

/// SLDT (`op.b` 0), STR (1), SMSW (2).
pub struct StoreSystem<const MEM: bool>;
impl<const MEM: bool> Exec for StoreSystem<MEM> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        match op.b {
            0 => {
                let value = cpu.sldt()?;
                put16::<MEM>(op, cpu, value)
            }
            1 => {
                let value = cpu.str()?;
                put16::<MEM>(op, cpu, value)
            }
            _ => {
                let value = cpu.cr0;
                if MEM || op.aux == 16 {
                    return put16::<MEM>(op, cpu, value as u16);
                }
                cpu.set(op.a, value as u32);
                Ok(())
            }
        }
    }
}

/// LLDT (`op.b` 0), LTR (1), LMSW (2).
pub struct LoadSystem<const MEM: bool>;
impl<const MEM: bool> Exec for LoadSystem<MEM> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = operand16::<MEM>(op, cpu)?;
        match op.b {
            0 => cpu.lldt(value),
            1 => cpu.ltr(value),
            _ => cpu.lmsw(value),
        }
    }
}

/// VERR (`op.b` 0), VERW (1).
pub struct Verify<const MEM: bool>;
impl<const MEM: bool> Exec for Verify<MEM> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let selector = operand16::<MEM>(op, cpu)?;
        let good = if op.b == 0 { cpu.verr(selector)? } else { cpu.verw(selector)? };
        set_zf(cpu, good);
        Ok(())
    }
}

fn set_zf(cpu: &mut Cpu, value: bool) {
    cpu.fx = if value { cpu.fx | FX_ZF } else { cpu.fx & !FX_ZF };
}

/// LAR, or (`LIMIT`) LSL: selector in `op.b` or memory, result in `op.a` with `op.aux` bits.
pub struct LoadAccess<const LIMIT: bool, const MEM: bool>;
impl<const LIMIT: bool, const MEM: bool> Exec for LoadAccess<LIMIT, MEM> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let selector = if MEM { cpu.load_operand::<u16>(op)? } else { cpu.get::<u16>(op.b) };
        let found = if LIMIT { cpu.lsl(selector)? } else { cpu.lar(selector)? };
        if let Some(value) = found {
            match op.aux {
                16 => cpu.set(op.a, value as u16),
                _ => cpu.set(op.a, value),
            }
        }
        set_zf(cpu, found.is_some());
        Ok(())
    }
}

/// LGDT (`op.a` 0), LIDT (1), SGDT (2), SIDT (3) with operand size `op.b` bits.
pub struct DescriptorTableOp;
impl Exec for DescriptorTableOp {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let bytes = if op.b == 64 { 10 } else { 6 };
        let va = cpu.slow_address(op, bytes, op.a >= 2)?;
        match op.a {
            0 => cpu.lgdt(va, u32::from(op.b)),
            1 => cpu.lidt(va, u32::from(op.b)),
            2 => cpu.sgdt(va),
            _ => cpu.sidt(va),
        }
    }
}

/// Far JMP (`CALL` false) or CALL. Direct: selector in `op.aux`, offset in `op.imm`. Through
/// memory (`MEM`): offset of `op.b` bits, then the selector.
pub struct Far<const CALL: bool, const MEM: bool>;
impl<const CALL: bool, const MEM: bool> Exec for Far<CALL, MEM> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (selector, offset) =
            if MEM { far_pointer(op, cpu, op.b)? } else { (op.aux as u16, op.imm.get()) };
        if CALL {
            let back = next_rip(op, cpu);
            cpu.far_call(selector, offset, u32::from(op.b), back)
        } else {
            cpu.far_jump(selector, offset)
        }
    }
}

/// Loads `offset:selector` with an offset of `bits` bits.
fn far_pointer(op: &Op, cpu: &mut Cpu, bits: u8) -> Result<(u16, u64), crate::cpu::Trap> {
    let bytes = u64::from(bits / 8);
    let va = cpu.slow_address(op, bytes + 2, false)?;
    let offset = match bits {
        16 => cpu.load::<u16>(va)?.to_u64(),
        32 => cpu.load::<u32>(va)?.to_u64(),
        _ => cpu.load::<u64>(va)?,
    };
    Ok((cpu.load::<u16>(va.wrapping_add(bytes))?, offset))
}

/// Far RET: operand size `op.b` bits, releasing `op.imm` further bytes.
pub struct FarRet;
impl Exec for FarRet {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        cpu.far_return(u32::from(op.b), op.imm.get() as u16)
    }
}

/// LDS, LES, LFS, LGS, LSS: segment register `op.aux`, register `op.a`, `op.b` bits.
pub struct LoadFarPointer;
impl Exec for LoadFarPointer {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let (selector, offset) = far_pointer(op, cpu, op.b)?;
        cpu.load_segment(op.aux as usize, selector)?;
        match op.b {
            16 => cpu.set(op.a, offset as u16),
            32 => cpu.set(op.a, offset as u32),
            _ => cpu.set(op.a, offset),
        }
        Ok(())
    }
}

/// RDRAND, RDSEED into register `op.a`.
pub struct Random<T>(PhantomData<T>);
impl<T: Width> Exec for Random<T> {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let value = cpu.random();
        cpu.set(op.a, T::from_u64(value));
        Ok(())
    }
}

/// AAA, AAS, DAA, DAS, AAM, AAD (`op.a` 0 to 5, base in `op.imm`): legacy modes only.
pub struct Decimal;
impl Exec for Decimal {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        crate::ops::decimal::adjust(op.a, op.imm.get() as u8, cpu)
    }
}

/// MOV accumulator, [absolute 64-bit address in `op.imm`], `op.b` bytes.
pub struct LoadAbsolute;
impl Exec for LoadAbsolute {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let va = op.imm.get().wrapping_add(cpu.regs[usize::from(op.seg)]);
        match op.b {
            1 => {
                let value = cpu.load::<u8>(va)?;
                cpu.set(RAX as u8, value);
            }
            2 => {
                let value = cpu.load::<u16>(va)?;
                cpu.set(RAX as u8, value);
            }
            4 => {
                let value = cpu.load::<u32>(va)?;
                cpu.set(RAX as u8, value);
            }
            _ => cpu.regs[RAX] = cpu.load::<u64>(va)?,
        }
        Ok(())
    }
}

/// MOV [absolute 64-bit address in `op.imm`], accumulator, `op.b` bytes.
pub struct StoreAbsolute;
impl Exec for StoreAbsolute {
    fn exec(op: &Op, cpu: &mut Cpu) -> Step {
        let va = op.imm.get().wrapping_add(cpu.regs[usize::from(op.seg)]);
        match op.b {
            1 => cpu.store(va, cpu.get::<u8>(0)),
            2 => cpu.store(va, cpu.get::<u16>(RAX as u8)),
            4 => cpu.store(va, cpu.get::<u32>(RAX as u8)),
            _ => cpu.store(va, cpu.regs[RAX]),
        }
    }
}
