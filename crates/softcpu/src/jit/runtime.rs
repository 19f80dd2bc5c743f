//! The way into translated code and out of it.
//!
//! [`enter`] moves the guest's registers from the [`Cpu`] to where translated code has them (see
//! `regs.rs`) and jumps; translated code jumps to `leave` with the number of an exit, which moves
//! them back and returns that number. XMM registers and MXCSR follow when a block needs them.
//!
//! What translated code may touch is its frame, guest RAM through the TLB, and, by way of `leave`,
//! the `Cpu`; it runs on the stack of its caller.

use std::arch::naked_asm;
use std::mem::offset_of;

use super::regs::Frame;
use crate::cpu::{Cpu, FS_BASE, GS_BASE, RIP};
use crate::tlb::{Entry, INDEX_MASK, INDEX_SHIFT};

/// Bytes of the frame on the stack, such that it is aligned to 16.
const FRAME_BYTES: usize = size_of::<Frame>().next_multiple_of(16) + 8;

/// What translated code needs besides registers, kept up to date by the one who calls [`enter`].
#[derive(Default)]
#[repr(C)]
pub struct Gate {
    /// See [`Frame::tlb`].
    pub tlb: u64,
    /// See [`Frame::jumps`].
    pub jumps: u64,
    /// See [`Frame::fp_usable`].
    pub fp_usable: u64,
    /// See [`Frame::stack_page`].
    pub stack_page: u64,
    /// See [`Frame::stack_host`].
    pub stack_host: u64,
}

/// Runs the code at `code` on the state of `cpu` until it leaves, and gives the number of the exit.
/// `Cpu::regs[RIP]` is then the address of the page in which it left.
///
/// # Safety
/// `code` is the address of a translation in the code memory of this vCPU, that was made from what
/// memory holds at `Cpu::regs[RIP]` (or checks that itself); the words of `Cpu::gate` point to this
/// vCPU's tables.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter(cpu: *mut Cpu, code: u64) -> u32 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, {bytes}",
        "mov [rsp + {f_cpu}], rdi",
        "mov [rsp + {f_temporary}], rsi",
        "mov rax, [rdi + 8*10]",
        "mov [rsp + {f_slots}], rax",
        "mov rax, [rdi + 8*11]",
        "mov [rsp + {f_slots} + 8], rax",
        "mov rax, [rdi + 8*15]",
        "mov [rsp + {f_slots} + 16], rax",
        "mov rax, [rdi + {c_rip}]",
        "and rax, -4096",
        "mov [rsp + {f_page}], rax",
        "mov rax, [rdi + {g_tlb}]",
        "mov [rsp + {f_tlb}], rax",
        "mov rax, [rdi + {g_jumps}]",
        "mov [rsp + {f_jumps}], rax",
        "mov rax, [rdi + {g_fp_usable}]",
        "mov [rsp + {f_fp_usable}], rax",
        "mov rax, [rdi + {g_stack_page}]",
        "mov [rsp + {f_stack_page}], rax",
        "mov rax, [rdi + {g_stack_host}]",
        "mov [rsp + {f_stack_host}], rax",
        "lea rax, [rip + {find_stack}]",
        "mov [rsp + {f_find_stack}], rax",
        "mov eax, [rdi + {c_budget}]",
        "mov [rsp + {f_budget}], eax",
        "mov dword ptr [rsp + {f_fp_live}], 0",
        "movzx eax, word ptr [rdi + {c_fx}]",
        "mov [rsp + {f_fx}], rax",
        "mov rax, [rdi + {c_fs}]",
        "mov [rsp + {f_fs}], rax",
        "mov rax, [rdi + {c_gs}]",
        "mov [rsp + {f_gs}], rax",
        "lea rax, [rip + {leave}]",
        "mov [rsp + {f_leave}], rax",
        "lea rax, [rip + {load_fp}]",
        "mov [rsp + {f_load_fp}], rax",
        "mov rax, [rdi + 8*0]",
        "mov rcx, [rdi + 8*1]",
        "mov rdx, [rdi + 8*2]",
        "mov rbx, [rdi + 8*3]",
        "mov r15, [rdi + 8*4]",
        "mov r10, [rdi + 8*5]",
        "mov rsi, [rdi + 8*6]",
        "mov r8, [rdi + 8*8]",
        "mov r9, [rdi + 8*9]",
        "mov r12, [rdi + 8*12]",
        "mov r13, [rdi + 8*13]",
        "mov r14, [rdi + 8*14]",
        "mov rdi, [rdi + 8*7]",
        "jmp [rsp + {f_temporary}]",
        bytes = const FRAME_BYTES,
        f_cpu = const offset_of!(Frame, cpu),
        f_temporary = const offset_of!(Frame, temporary),
        f_slots = const offset_of!(Frame, slots),
        f_page = const offset_of!(Frame, page),
        f_tlb = const offset_of!(Frame, tlb),
        f_jumps = const offset_of!(Frame, jumps),
        f_fp_usable = const offset_of!(Frame, fp_usable),
        f_budget = const offset_of!(Frame, budget),
        f_fp_live = const offset_of!(Frame, fp_live),
        f_fx = const offset_of!(Frame, fx),
        f_fs = const offset_of!(Frame, fs_base),
        f_gs = const offset_of!(Frame, gs_base),
        f_leave = const offset_of!(Frame, leave),
        f_stack_page = const offset_of!(Frame, stack_page),
        f_stack_host = const offset_of!(Frame, stack_host),
        f_find_stack = const offset_of!(Frame, find_stack),
        g_stack_page = const offset_of!(Cpu, gate) + offset_of!(Gate, stack_page),
        g_stack_host = const offset_of!(Cpu, gate) + offset_of!(Gate, stack_host),
        f_load_fp = const offset_of!(Frame, load_fp),
        g_tlb = const offset_of!(Cpu, gate) + offset_of!(Gate, tlb),
        g_jumps = const offset_of!(Cpu, gate) + offset_of!(Gate, jumps),
        g_fp_usable = const offset_of!(Cpu, gate) + offset_of!(Gate, fp_usable),
        c_rip = const offset_of!(Cpu, regs) + 8 * RIP,
        c_fs = const offset_of!(Cpu, regs) + 8 * FS_BASE,
        c_gs = const offset_of!(Cpu, regs) + 8 * GS_BASE,
        c_budget = const offset_of!(Cpu, budget),
        c_fx = const offset_of!(Cpu, fx),
        leave = sym leave,
        load_fp = sym load_fp,
        find_stack = sym find_stack,
    )
}

/// Moves the guest's registers back, and returns from [`enter`] with the number in R11.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave() {
    naked_asm!(
        "mov rbp, [rsp + {f_cpu}]",
        "mov [rbp + 8*0], rax",
        "mov [rbp + 8*1], rcx",
        "mov [rbp + 8*2], rdx",
        "mov [rbp + 8*3], rbx",
        "mov [rbp + 8*4], r15",
        "mov [rbp + 8*5], r10",
        "mov [rbp + 8*6], rsi",
        "mov [rbp + 8*7], rdi",
        "mov [rbp + 8*8], r8",
        "mov [rbp + 8*9], r9",
        "mov [rbp + 8*12], r12",
        "mov [rbp + 8*13], r13",
        "mov [rbp + 8*14], r14",
        "mov rax, [rsp + {f_slots}]",
        "mov [rbp + 8*10], rax",
        "mov rax, [rsp + {f_slots} + 8]",
        "mov [rbp + 8*11], rax",
        "mov rax, [rsp + {f_slots} + 16]",
        "mov [rbp + 8*15], rax",
        "mov rax, [rsp + {f_page}]",
        "mov [rbp + {c_rip}], rax",
        "mov eax, [rsp + {f_budget}]",
        "mov [rbp + {c_budget}], eax",
        "mov rax, [rsp + {f_fx}]",
        "mov [rbp + {c_fx}], ax",
        "cmp dword ptr [rsp + {f_fp_live}], 0",
        "je 2f",
        "mov rax, [rbp + {c_fp}]",
        "movaps [rax + {xmm} + 16*0], xmm0",
        "movaps [rax + {xmm} + 16*1], xmm1",
        "movaps [rax + {xmm} + 16*2], xmm2",
        "movaps [rax + {xmm} + 16*3], xmm3",
        "movaps [rax + {xmm} + 16*4], xmm4",
        "movaps [rax + {xmm} + 16*5], xmm5",
        "movaps [rax + {xmm} + 16*6], xmm6",
        "movaps [rax + {xmm} + 16*7], xmm7",
        "movaps [rax + {xmm} + 16*8], xmm8",
        "movaps [rax + {xmm} + 16*9], xmm9",
        "movaps [rax + {xmm} + 16*10], xmm10",
        "movaps [rax + {xmm} + 16*11], xmm11",
        "movaps [rax + {xmm} + 16*12], xmm12",
        "movaps [rax + {xmm} + 16*13], xmm13",
        "movaps [rax + {xmm} + 16*14], xmm14",
        "movaps [rax + {xmm} + 16*15], xmm15",
        "stmxcsr [rax + {mxcsr}]",
        "ldmxcsr [rip + 3f]",
        "2:",
        "mov eax, r11d",
        "add rsp, {bytes}",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        "3: .long {mxcsr_host}",
        bytes = const FRAME_BYTES,
        f_cpu = const offset_of!(Frame, cpu),
        f_slots = const offset_of!(Frame, slots),
        f_page = const offset_of!(Frame, page),
        f_budget = const offset_of!(Frame, budget),
        f_fx = const offset_of!(Frame, fx),
        f_fp_live = const offset_of!(Frame, fp_live),
        c_rip = const offset_of!(Cpu, regs) + 8 * RIP,
        c_budget = const offset_of!(Cpu, budget),
        c_fx = const offset_of!(Cpu, fx),
        c_fp = const offset_of!(Cpu, fp),
        xmm = const simd::XMM_OFFSET,
        mxcsr = const simd::MXCSR_OFFSET,
        mxcsr_host = const simd::MXCSR_RESET,
    )
}

/// Loads the guest's XMM registers and MXCSR, whose exceptions are all masked. Called by blocks at
/// their head, when [`ADDRESS`](super::regs::ADDRESS) and flags are free.
#[unsafe(naked)]
unsafe extern "sysv64" fn load_fp() {
    naked_asm!(
        "mov rbp, [rsp + 8 + {f_cpu}]",
        "mov rbp, [rbp + {c_fp}]",
        "movaps xmm0, [rbp + {xmm} + 16*0]",
        "movaps xmm1, [rbp + {xmm} + 16*1]",
        "movaps xmm2, [rbp + {xmm} + 16*2]",
        "movaps xmm3, [rbp + {xmm} + 16*3]",
        "movaps xmm4, [rbp + {xmm} + 16*4]",
        "movaps xmm5, [rbp + {xmm} + 16*5]",
        "movaps xmm6, [rbp + {xmm} + 16*6]",
        "movaps xmm7, [rbp + {xmm} + 16*7]",
        "movaps xmm8, [rbp + {xmm} + 16*8]",
        "movaps xmm9, [rbp + {xmm} + 16*9]",
        "movaps xmm10, [rbp + {xmm} + 16*10]",
        "movaps xmm11, [rbp + {xmm} + 16*11]",
        "movaps xmm12, [rbp + {xmm} + 16*12]",
        "movaps xmm13, [rbp + {xmm} + 16*13]",
        "movaps xmm14, [rbp + {xmm} + 16*14]",
        "movaps xmm15, [rbp + {xmm} + 16*15]",
        "ldmxcsr [rbp + {mxcsr}]",
        "mov dword ptr [rsp + 8 + {f_fp_live}], 1",
        "ret",
        f_cpu = const offset_of!(Frame, cpu),
        f_fp_live = const offset_of!(Frame, fp_live),
        c_fp = const offset_of!(Cpu, fp),
        xmm = const simd::XMM_OFFSET,
        mxcsr = const simd::MXCSR_OFFSET,
    )
}

/// Finds the place of an access to the stack that is not in the frame's page. RBP holds its address
/// exclusive-or that page's, R11 its bytes less one. If the page is in the TLB and may be written it
/// becomes the frame's, RBP the place, and the flag ZF is set; otherwise ZF is clear.
#[unsafe(naked)]
unsafe extern "sysv64" fn find_stack() {
    naked_asm!(
        "xor rbp, [rsp + 8 + {page}]",
        "mov [rsp + 8 + {first}], rbp",
        "add r11, rbp",
        "mov [rsp + 8 + {last}], r11",
        "mov r11d, ebp",
        "shr r11d, {shift}",
        "and r11d, {mask}",
        "add r11, [rsp + 8 + {tlb}]",
        "mov rbp, [rsp + 8 + {last}]",
        "xor rbp, [r11 + {e_write}]",
        "test rbp, -4096",
        "jne 2f",
        "mov rbp, [r11 + {e_write}]",
        "mov [rsp + 8 + {page}], rbp",
        "mov r11, [r11 + {e_host}]",
        "mov [rsp + 8 + {host}], r11",
        "xor rbp, [rsp + 8 + {first}]",
        "add rbp, r11",
        "cmp r11, r11",
        "2:",
        "ret",
        page = const offset_of!(Frame, stack_page),
        host = const offset_of!(Frame, stack_host),
        first = const offset_of!(Frame, first),
        last = const offset_of!(Frame, last),
        tlb = const offset_of!(Frame, tlb),
        shift = const INDEX_SHIFT,
        mask = const INDEX_MASK,
        e_write = const offset_of!(Entry, write),
        e_host = const offset_of!(Entry, host),
    )
}
