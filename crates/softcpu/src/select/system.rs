//! The table from system instructions to handlers.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::Ending;
use super::moves::stack_bytes;
use super::operands::{base_op, bytes, reg, segment_number};
use crate::cpu::{CS, DS, ES, FS, FS_BASE, GS, GS_BASE, SS};
use crate::decode::{Context, Decoded};
use crate::op::{Exec, Handler, Op, jump_and_leave, step, step_and_leave};
use crate::ops::{stack, system as ops};

/// How an op goes on.
fn falls<E: Exec>() -> (Handler, Ending) {
    (step::<E>, Ending::FallsThrough)
}

/// The outer loop looks at the world behind the op.
fn leaves<E: Exec>() -> (Handler, Ending) {
    (step_and_leave::<E>, Ending::Ends)
}

/// The op sets RIP itself.
fn jumps<E: Exec>() -> (Handler, Ending) {
    (jump_and_leave::<E>, Ending::Ends)
}

/// The op of a system instruction.
pub fn system(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let i = &d.instruction;
    if i.has_lock_prefix() {
        return None;
    }
    without_operands(d, context)
        .or_else(|| transfers(d, context))
        .or_else(|| registers(d, context))
        .or_else(|| selectors(d, context))
        .or_else(|| ports(d, context))
}

fn without_operands(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let i = &d.instruction;
    let long = context.bits == 64;
    let (run, ending) = match i.mnemonic() {
        // Prefetches and ENDBR are among the reserved (`decode::OPTIONS`).
        Mnemonic::Nop | Mnemonic::Reservednop | Mnemonic::Clflush => falls::<ops::Nop>(),
        Mnemonic::Lfence | Mnemonic::Sfence | Mnemonic::Mfence => falls::<ops::Fence>(),
        Mnemonic::Pause => falls::<ops::Pause>(),
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => leaves::<ops::Undefined>(),
        Mnemonic::Hlt => leaves::<ops::Hlt>(),
        Mnemonic::Cli => leaves::<ops::Cli>(),
        Mnemonic::Sti => falls::<ops::Sti>(),
        Mnemonic::Cld => falls::<ops::Cld>(),
        Mnemonic::Std => falls::<ops::Std>(),
        Mnemonic::Clac => leaves::<ops::Clac>(),
        Mnemonic::Stac => leaves::<ops::Stac>(),
        Mnemonic::Cpuid => falls::<ops::Cpuid>(),
        Mnemonic::Rdtsc => falls::<ops::Rdtsc>(),
        Mnemonic::Rdtscp => falls::<ops::Rdtscp>(),
        Mnemonic::Rdpmc => falls::<ops::Rdpmc>(),
        Mnemonic::Rdmsr => falls::<ops::Rdmsr>(),
        Mnemonic::Wrmsr => leaves::<ops::Wrmsr>(),
        Mnemonic::Swapgs if long => leaves::<ops::Swapgs>(),
        Mnemonic::Wbinvd | Mnemonic::Invd => falls::<ops::Wbinvd>(),
        Mnemonic::Clts => leaves::<ops::Clts>(),
        Mnemonic::Xgetbv => falls::<ops::Xgetbv>(),
        Mnemonic::Xsetbv => leaves::<ops::Xsetbv>(),
        Mnemonic::Vmcall | Mnemonic::Vmmcall => falls::<ops::Vmcall>(),
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => leaves::<stack::Popf>(),
        _ => return decimals(d, context),
    };
    let mut op = base_op(d, context, run);
    op.b = stack_bytes(i);
    Some((op, ending))
}

fn decimals(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let i = &d.instruction;
    let (kind, base) = match i.mnemonic() {
        Mnemonic::Aaa => (0, 0),
        Mnemonic::Aas => (1, 0),
        Mnemonic::Daa => (2, 0),
        Mnemonic::Das => (3, 0),
        Mnemonic::Aam => (4, i.immediate8()),
        Mnemonic::Aad => (5, i.immediate8()),
        _ => return None,
    };
    let (run, ending) = falls::<ops::Decimal>();
    let op = Op { a: kind, ..base_op(d, context, run) };
    op.imm.set(u64::from(base));
    Some((op, ending))
}

/// Whatever changes CS: interrupts, far transfers, system calls.
fn transfers(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let i = &d.instruction;
    let (run, ending) = match i.mnemonic() {
        Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Int1 => jumps::<ops::Int>(),
        Mnemonic::Into => jumps::<ops::Into>(),
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => jumps::<ops::Iret>(),
        Mnemonic::Syscall if context.bits == 64 => jumps::<ops::Syscall>(),
        Mnemonic::Sysret | Mnemonic::Sysretq => jumps::<ops::Sysret>(),
        Mnemonic::Sysenter => jumps::<ops::Sysenter>(),
        Mnemonic::Sysexit | Mnemonic::Sysexitq => jumps::<ops::Sysexit>(),
        Mnemonic::Retf => jumps::<ops::FarRet>(),
        Mnemonic::Jmp | Mnemonic::Call => return far(d, context),
        _ => return None,
    };
    let mut op = base_op(d, context, run);
    op.a = u8::from(matches!(i.mnemonic(), Mnemonic::Sysretq | Mnemonic::Sysexitq));
    op.b = transfer_bits(i);
    op.aux = match i.mnemonic() {
        Mnemonic::Int => u32::from(i.immediate8()),
        Mnemonic::Int3 => 3,
        Mnemonic::Int1 => 0x100,
        _ => 0,
    };
    if i.mnemonic() == Mnemonic::Retf && i.op_count() == 1 {
        op.imm.set(u64::from(i.immediate16()));
    }
    Some((op, ending))
}

fn transfer_bits(i: &Instruction) -> u8 {
    match i.code() {
        Code::Iretw | Code::Retfw | Code::Retfw_imm16 => 16,
        Code::Iretd | Code::Retfd | Code::Retfd_imm16 => 32,
        _ => 64,
    }
}

fn far(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let i = &d.instruction;
    let call = i.mnemonic() == Mnemonic::Call;
    let direct = matches!(i.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32);
    let (run, ending) = match (call, direct) {
        (false, true) => jumps::<ops::Far<false, false>>(),
        (true, true) => jumps::<ops::Far<true, false>>(),
        (false, false) => jumps::<ops::Far<false, true>>(),
        (true, false) => jumps::<ops::Far<true, true>>(),
    };
    let mut op = base_op(d, context, run);
    if direct {
        op.aux = u32::from(i.far_branch_selector());
        (op.b, _) = match i.op0_kind() {
            OpKind::FarBranch16 => (16, op.imm.set(u64::from(i.far_branch16()))),
            _ => (32, op.imm.set(u64::from(i.far_branch32()))),
        };
    } else {
        op.b = match i.code() {
            Code::Jmp_m1616 | Code::Call_m1616 => 16,
            Code::Jmp_m1632 | Code::Call_m1632 => 32,
            Code::Jmp_m1664 | Code::Call_m1664 => 64,
            _ => return None,
        };
    }
    Some((op, ending))
}

/// Control and debug registers, and the bases of FS and GS.
fn registers(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let i = &d.instruction;
    let (target, source) = (i.op0_register(), i.op1_register());
    match i.mnemonic() {
        Mnemonic::Mov if target.is_cr() => {
            let (run, ending) = leaves::<ops::MovToCr>();
            Some((
                Op { a: reg(source), b: target.number() as u8, ..base_op(d, context, run) },
                ending,
            ))
        }
        Mnemonic::Mov if source.is_cr() => {
            let (run, ending) = falls::<ops::MovFromCr>();
            Some((
                Op { a: reg(target), b: source.number() as u8, ..base_op(d, context, run) },
                ending,
            ))
        }
        Mnemonic::Mov if target.is_dr() => {
            let (run, ending) = leaves::<ops::MovToDr>();
            Some((
                Op { a: reg(source), b: target.number() as u8, ..base_op(d, context, run) },
                ending,
            ))
        }
        Mnemonic::Mov if source.is_dr() => {
            let (run, ending) = falls::<ops::MovFromDr>();
            Some((
                Op { a: reg(target), b: source.number() as u8, ..base_op(d, context, run) },
                ending,
            ))
        }
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
            Some(bases(d, context))
        }
        Mnemonic::Rdrand | Mnemonic::Rdseed => {
            let run: Handler = match bytes(i, 0) {
                2 => step::<ops::Random<u16>>,
                4 => step::<ops::Random<u32>>,
                _ => step::<ops::Random<u64>>,
            };
            Some((Op { a: reg(target), ..base_op(d, context, run) }, Ending::FallsThrough))
        }
        Mnemonic::Invlpg => {
            let (run, ending) = leaves::<ops::Invlpg>();
            Some((base_op(d, context, run), ending))
        }
        Mnemonic::Mov if is_absolute_mov(i.code()) => absolute_mov(d, context),
        _ => None,
    }
}

fn bases(d: &Decoded, context: Context) -> (Op, Ending) {
    let i = &d.instruction;
    let (run, ending) = match i.mnemonic() {
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase => falls::<ops::ReadBase>(),
        _ => leaves::<ops::WriteBase>(),
    };
    let fs = matches!(i.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Wrfsbase);
    let op = Op {
        a: reg(i.op0_register()),
        b: if fs { FS_BASE as u8 } else { GS_BASE as u8 },
        aux: bytes(i, 0) as u32 * 8,
        ..base_op(d, context, run)
    };
    (op, ending)
}

/// MOV between the accumulator and memory at an address in the instruction.
pub fn is_absolute_mov(code: Code) -> bool {
    matches!(
        code,
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    )
}

/// MOV between the accumulator and a 64-bit absolute address.
fn absolute_mov(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let i = &d.instruction;
    let store = i.op0_kind() == OpKind::Memory;
    let (run, ending) =
        if store { falls::<ops::StoreAbsolute>() } else { falls::<ops::LoadAbsolute>() };
    let mut op = base_op(d, context, run);
    op.base = crate::cpu::ZERO as u8;
    op.imm.set(i.memory_displacement64());
    op.b = i.memory_size().size() as u8;
    Some((op, ending))
}

/// Segment registers, descriptor tables, selectors.
fn selectors(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let i = &d.instruction;
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    let (target, source) = (i.op0_register(), i.op1_register());
    macro_rules! by_memory {
        ($way:ident, $name:ident) => {
            if memory { $way::<ops::$name<true>>() } else { $way::<ops::$name<false>>() }
        };
    }
    let ((run, ending), kind) = match i.mnemonic() {
        Mnemonic::Mov if target.is_segment_register() => {
            if target == Register::CS {
                return None;
            }
            (by_memory!(leaves, MovToSeg), segment_number(target))
        }
        Mnemonic::Mov if source.is_segment_register() => {
            (by_memory!(falls, MovFromSeg), segment_number(source))
        }
        Mnemonic::Pop if target.is_segment_register() => return Some(pop_segment(d, context)),
        Mnemonic::Sldt => (by_memory!(falls, StoreSystem), 0),
        Mnemonic::Str => (by_memory!(falls, StoreSystem), 1),
        Mnemonic::Smsw => (by_memory!(falls, StoreSystem), 2),
        Mnemonic::Lldt => (by_memory!(leaves, LoadSystem), 0),
        Mnemonic::Ltr => (by_memory!(leaves, LoadSystem), 1),
        Mnemonic::Lmsw => (by_memory!(leaves, LoadSystem), 2),
        Mnemonic::Verr => (by_memory!(falls, Verify), 0),
        Mnemonic::Verw => (by_memory!(falls, Verify), 1),
        Mnemonic::Lar | Mnemonic::Lsl => return Some(load_access(d, context, memory)),
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
            return Some(far_pointer(d, context));
        }
        _ => return descriptor_tables(d, context),
    };
    let mut op = Op { b: kind, ..base_op(d, context, run) };
    let register = if source.is_gpr() && target.is_segment_register() { source } else { target };
    if register.is_gpr() {
        op.a = reg(register);
        op.aux = register.size() as u32 * 8;
    }
    Some((op, ending))
}

fn pop_segment(d: &Decoded, context: Context) -> (Op, Ending) {
    let i = &d.instruction;
    let (run, ending) = leaves::<stack::PopAny<3>>();
    let a = segment_number(i.op0_register());
    (Op { a, b: stack_bytes(i), ..base_op(d, context, run) }, ending)
}

fn load_access(d: &Decoded, context: Context, memory: bool) -> (Op, Ending) {
    let i = &d.instruction;
    let (run, ending) = match (i.mnemonic() == Mnemonic::Lsl, memory) {
        (false, false) => falls::<ops::LoadAccess<false, false>>(),
        (false, true) => falls::<ops::LoadAccess<false, true>>(),
        (true, false) => falls::<ops::LoadAccess<true, false>>(),
        (true, true) => falls::<ops::LoadAccess<true, true>>(),
    };
    let mut op = base_op(d, context, run);
    op.a = reg(i.op0_register());
    op.aux = i.op0_register().size() as u32 * 8;
    if !memory {
        op.b = reg(i.op1_register());
    }
    (op, ending)
}

fn far_pointer(d: &Decoded, context: Context) -> (Op, Ending) {
    let i = &d.instruction;
    let (run, ending) = leaves::<ops::LoadFarPointer>();
    let segment = match i.mnemonic() {
        Mnemonic::Lds => DS,
        Mnemonic::Les => ES,
        Mnemonic::Lfs => FS,
        Mnemonic::Lgs => GS,
        _ => SS,
    };
    debug_assert_ne!(segment, CS);
    let op = Op {
        a: reg(i.op0_register()),
        b: i.op0_register().size() as u8 * 8,
        aux: segment as u32,
        ..base_op(d, context, run)
    };
    (op, ending)
}

fn descriptor_tables(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let kind = match d.instruction.mnemonic() {
        Mnemonic::Lgdt => 0,
        Mnemonic::Lidt => 1,
        Mnemonic::Sgdt => 2,
        Mnemonic::Sidt => 3,
        _ => return None,
    };
    let (run, ending) = falls::<ops::DescriptorTableOp>();
    let bits = match d.instruction.code() {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 | Code::Sgdt_m1632_16 | Code::Sidt_m1632_16 => 16,
        Code::Lgdt_m1632 | Code::Lidt_m1632 | Code::Sgdt_m1632 | Code::Sidt_m1632 => 32,
        _ => 64,
    };
    Some((Op { a: kind, b: bits, ..base_op(d, context, run) }, ending))
}

fn ports(d: &Decoded, context: Context) -> Option<(Op, Ending)> {
    let i = &d.instruction;
    let input = match i.mnemonic() {
        Mnemonic::In => true,
        Mnemonic::Out => false,
        _ => return None,
    };
    let (run, ending) = if input { leaves::<ops::In>() } else { leaves::<ops::Out>() };
    let (port, data) = if input { (1, 0) } else { (0, 1) };
    let mut op = base_op(d, context, run);
    op.b = i.op_register(data).size() as u8;
    op.imm.set(match i.op_kind(port) {
        OpKind::Immediate8 => i.immediate(port),
        _ => 0x10000,
    });
    Some((op, ending))
}
