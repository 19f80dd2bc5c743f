//! The x87 instructions: the guest's image is loaded, the instruction executed from a table of all
//! of them, and the image saved.
//!
//! An exception that the guest does not mask only becomes pending on the host, exactly as on the
//! guest's processor; the host leaves with FNINIT, so nothing is ever raised there. Before a waiting
//! instruction the guest's pending exception is found in software.

use crate::exec::ARITHMETIC_FLAGS;
use crate::plan::Plan;
use crate::state::{FpState, Operand};
use crate::{Exception, Gprs, Outcome};

/// The slot of a memory form: the low three bits of the opcode and ModRM.reg.
pub(crate) const fn mem_slot(opcode: u8, digit: u8) -> u16 {
    assert!(opcode >= 0xd8 && opcode <= 0xdf && digit < 8);
    (opcode as u16 - 0xd8) * 8 + digit as u16
}

/// The slot of a memory form with an operand-size prefix, of the instructions where it matters.
pub(crate) const fn short_slot(opcode: u8, digit: u8) -> u16 {
    match (opcode, digit) {
        (0xd9, 4) => 64,
        (0xd9, 6) => 65,
        (0xdd, 4) => 66,
        (0xdd, 6) => 67,
        _ => panic!("the operand-size prefix matters to FLDENV, FNSTENV, FRSTOR and FNSAVE only"),
    }
}

/// The slot of a register form: the low three bits of the opcode and ModRM.
pub(crate) const fn reg_slot(opcode: u8, modrm: u8) -> u16 {
    assert!(opcode >= 0xd8 && opcode <= 0xdf && modrm >= 0xc0);
    68 + (opcode as u16 - 0xd8) * 64 + (modrm as u16 - 0xc0)
}

/// Executes slot `slot` on the image at `image`, the memory operand at `mem` and the arithmetic flags
/// of `flags`; returns RFLAGS.
#[unsafe(naked)]
unsafe extern "sysv64" fn execute(image: *mut u8, mem: *mut u8, slot: u64, flags: u64) -> u64 {
    std::arch::naked_asm!(
        "fxrstor64 [rdi]",
        "lea rax, [rip + 3f]",
        "lea rdx, [rax + rdx * 4]",
        // OF is bit 11 of RFLAGS: adding it to 127 overflows. SAHF sets the others.
        "mov eax, ecx",
        "shr eax, 11",
        "and al, 1",
        "add al, 127",
        "mov ah, cl",
        "sahf",
        "call rdx",
        "pushfq",
        "pop rax",
        "fxsave64 [rdi]",
        "fninit",
        "ldmxcsr [rip + 2f]",
        "ret",
        "2: .long 0x1f80",
        ".balign 4",
        // Slots of four bytes: the instruction on [rsi], RET.
        "3:",
        ".set .Lsparkler_simd_op, 0",
        ".rept 64",
        ".byte 0xd8 + (.Lsparkler_simd_op >> 3), ((.Lsparkler_simd_op & 7) << 3) | 6, 0xc3, 0x90",
        ".set .Lsparkler_simd_op, .Lsparkler_simd_op + 1",
        ".endr",
        ".byte 0x66, 0xd9, 0x26, 0xc3",
        ".byte 0x66, 0xd9, 0x36, 0xc3",
        ".byte 0x66, 0xdd, 0x26, 0xc3",
        ".byte 0x66, 0xdd, 0x36, 0xc3",
        ".set .Lsparkler_simd_op, 0",
        ".rept 512",
        ".byte 0xd8 + (.Lsparkler_simd_op >> 6), 0xc0 | (.Lsparkler_simd_op & 63), 0xc3, 0x90",
        ".set .Lsparkler_simd_op, .Lsparkler_simd_op + 1",
        ".endr",
    )
}

/// A waiting instruction: #MF first, if one is pending.
pub(crate) fn waiting(
    plan: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    mem: &mut Operand,
    rflags: u64,
) -> Outcome {
    if fp.x87_pending() {
        return Outcome::Raise(Exception::Mf);
    }
    direct(plan, fp, gpr, mem, rflags)
}

/// A waiting instruction that sets RFLAGS.
pub(crate) fn compare(
    plan: &Plan,
    fp: &mut FpState,
    _: &mut Gprs,
    mem: &mut Operand,
    rflags: u64,
) -> Outcome {
    if fp.x87_pending() {
        return Outcome::Raise(Exception::Mf);
    }
    Outcome::Flags(run(plan, fp, mem, rflags) as u16 & ARITHMETIC_FLAGS)
}

/// An instruction that does not wait.
pub(crate) fn direct(
    plan: &Plan,
    fp: &mut FpState,
    _: &mut Gprs,
    mem: &mut Operand,
    rflags: u64,
) -> Outcome {
    run(plan, fp, mem, rflags);
    Outcome::Done
}

/// FNSTENV and FNSAVE in their 32-bit format: the pointers in the operand are not the host's.
pub(crate) fn store_environment(
    plan: &Plan,
    fp: &mut FpState,
    _: &mut Gprs,
    mem: &mut Operand,
    rflags: u64,
) -> Outcome {
    run(plan, fp, mem, rflags);
    mem.put(12, [0; 10]);
    mem.put(24, [0; 2]);
    mem.put(20, [0; 4]);
    Outcome::Done
}

/// FNSTENV and FNSAVE in their 16-bit format.
pub(crate) fn store_short_environment(
    plan: &Plan,
    fp: &mut FpState,
    _: &mut Gprs,
    mem: &mut Operand,
    rflags: u64,
) -> Outcome {
    run(plan, fp, mem, rflags);
    mem.put(6, [0; 8]);
    Outcome::Done
}

/// FNSTSW AX.
pub(crate) fn status_to_ax(
    _: &Plan,
    fp: &mut FpState,
    gpr: &mut Gprs,
    _: &mut Operand,
    _: u64,
) -> Outcome {
    gpr[0] = gpr[0] & !0xffff | u64::from(fp.fsw());
    Outcome::Done
}

/// FWAIT.
pub(crate) fn wait(_: &Plan, fp: &mut FpState, _: &mut Gprs, _: &mut Operand, _: u64) -> Outcome {
    if fp.x87_pending() { Outcome::Raise(Exception::Mf) } else { Outcome::Done }
}

fn run(plan: &Plan, fp: &mut FpState, mem: &mut Operand, rflags: u64) -> u64 {
    let (image, mem) = (fp.as_mut_ptr(), mem.as_mut_ptr());
    // SAFETY: the image is 512 bytes, aligned to 64, and its MXCSR has no reserved bit, which
    // `FpState` keeps; the operand buffer is larger than the largest x87 operand; the slot is one of
    // the table's, since only `mem_slot`, `short_slot` and `reg_slot` make them. No x87 exception is
    // raised: the host's x87 state is clean before and FNINIT leaves it so.
    let rflags = unsafe { execute(image, mem, u64::from(plan.imm), rflags) };
    fp.drop_pointers();
    rflags
}
