//! The oracle: one instruction executed by the host itself, with every register loaded before and
//! saved after, and with the exceptions it raises caught.

use std::sync::Once;

use iced_x86::code_asm::{CodeAssembler, ptr, r8, r9, r10, r11, r12, r13, r14, r15};
use iced_x86::code_asm::{qword_ptr, rax, rbp, rbx, rcx, rdi, rdx, rsi};
use iced_x86::{Code as Opcode, Instruction, OpCodeOperandKind, OpKind, Register};

/// Everything an instruction sees. `r15` holds its address while the instruction runs, and RSP is the
/// host's; neither is an operand.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct Context {
    pub image: [u8; 512],
    pub mem: [u8; 1024],
    pub gpr: [u64; 16],
    pub rflags: u64,
    /// The vector of the exception raised, or 0.
    pub trapped: u64,
    resume: u64,
}

pub const MEM_OFFSET: i64 = 512;
const GPR_OFFSET: i32 = 1536;
const RFLAGS_OFFSET: i32 = GPR_OFFSET + 128;

impl Context {
    pub fn new() -> Self {
        Context {
            image: [0; 512],
            mem: [0; 1024],
            gpr: [0; 16],
            rflags: 0x202,
            trapped: 0,
            resume: 0,
        }
    }
}

/// Runnable code for a list of instructions.
pub struct Code {
    base: *mut u8,
    bytes: usize,
    /// Offsets of each instruction's function and of what follows the instruction.
    entries: Vec<(usize, usize)>,
}

impl Code {
    pub fn new(instructions: &[Vec<u8>]) -> Self {
        install_handler();
        let (prologue, epilogue) = (prologue(), epilogue());
        let mut text = Vec::new();
        let mut entries = Vec::new();
        for bytes in instructions {
            let start = text.len();
            text.extend_from_slice(&prologue);
            text.extend_from_slice(bytes);
            entries.push((start, text.len()));
            text.extend_from_slice(&epilogue);
        }
        let bytes = text.len().next_multiple_of(4096);
        // SAFETY: a fresh private mapping, written while writable and only then made executable.
        let base = unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(base, libc::MAP_FAILED);
            std::ptr::copy_nonoverlapping(text.as_ptr(), base.cast(), text.len());
            assert_eq!(libc::mprotect(base, bytes, libc::PROT_READ | libc::PROT_EXEC), 0);
            base.cast::<u8>()
        };
        Code { base, bytes, entries }
    }

    pub fn run(&self, index: usize, context: &mut Context) {
        let (entry, after) = self.entries[index];
        context.trapped = 0;
        context.resume = self.base as u64 + after as u64;
        // SAFETY: the code keeps the calling convention (see `prologue`), touches the context only,
        // and an exception of its instruction resumes at the epilogue.
        unsafe {
            let function: unsafe extern "sysv64" fn(*mut Context) =
                std::mem::transmute(self.base.add(entry));
            function(context);
        }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing runs in it any more.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

fn prologue() -> Vec<u8> {
    assemble(|a| {
        for register in [rbx, rbp, r12, r13, r14, r15] {
            a.push(register)?;
        }
        a.mov(r15, rdi)?;
        a.fxrstor64(ptr(r15))?;
        a.push(qword_ptr(r15 + RFLAGS_OFFSET))?;
        a.popfq()?;
        for (i, register) in registers() {
            a.mov(register, qword_ptr(r15 + (GPR_OFFSET + 8 * i)))?;
        }
        Ok(())
    })
}

fn epilogue() -> Vec<u8> {
    assemble(|a| {
        for (i, register) in registers() {
            a.mov(qword_ptr(r15 + (GPR_OFFSET + 8 * i)), register)?;
        }
        a.pushfq()?;
        a.pop(qword_ptr(r15 + RFLAGS_OFFSET))?;
        a.fxsave64(ptr(r15))?;
        a.fninit()?;
        a.push(0x1f80)?;
        a.ldmxcsr(ptr(iced_x86::code_asm::rsp))?;
        a.pop(rax)?;
        a.cld()?;
        for register in [r15, r14, r13, r12, rbp, rbx] {
            a.pop(register)?;
        }
        a.ret()
    })
}

fn registers() -> [(i32, iced_x86::code_asm::AsmRegister64); 14] {
    [
        (0, rax),
        (1, rcx),
        (2, rdx),
        (3, rbx),
        (5, rbp),
        (6, rsi),
        (7, rdi),
        (8, r8),
        (9, r9),
        (10, r10),
        (11, r11),
        (12, r12),
        (13, r13),
        (14, r14),
    ]
}

fn assemble(emit: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).expect("64 is a bitness");
    emit(&mut assembler).expect("the operands are valid");
    assembler.assemble(0).expect("no branch")
}

fn install_handler() {
    static INSTALLED: Once = Once::new();
    // SAFETY: the handler touches the interrupted context and the test's own only.
    INSTALLED.call_once(|| unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_exception as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        for signal in [libc::SIGFPE, libc::SIGSEGV] {
            assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        }
    });
}

extern "C" fn on_exception(_: libc::c_int, _: *mut libc::siginfo_t, ucontext: *mut libc::c_void) {
    // SAFETY: the kernel passes the interrupted context, whose R15 is our `Context` in test code.
    unsafe {
        let registers = &mut (*ucontext.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let context = registers[libc::REG_R15 as usize] as *mut Context;
        (*context).trapped = registers[libc::REG_TRAPNO as usize] as u64;
        registers[libc::REG_RIP as usize] = (*context).resume as i64;
    }
}

/// The register form of an instruction, where it has one.
pub fn example(code: Opcode) -> Instruction {
    use OpCodeOperandKind as K;
    let info = code.op_code();
    let mut instr = Instruction::default();
    instr.set_code(code);
    for i in 0..info.op_count().min(4) {
        match info.op_kind(i) {
            K::mem => instr.set_op_kind(i, OpKind::Memory),
            K::seg_rDI => instr.set_op_kind(i, OpKind::MemorySegRDI),
            K::imm8 => instr.set_op_kind(i, OpKind::Immediate8),
            K::mm_or_mem | K::mm_reg | K::mm_rm => instr.set_op_register(i, Register::MM1),
            K::st0 | K::sti_opcode => instr.set_op_register(i, Register::ST0),
            K::r8_or_mem => instr.set_op_register(i, Register::AL),
            K::r16_or_mem | K::r16_reg | K::ax => instr.set_op_register(i, Register::AX),
            K::r32_or_mem | K::r32_reg => instr.set_op_register(i, Register::EAX),
            K::r64_or_mem | K::r64_reg => instr.set_op_register(i, Register::RAX),
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => instr.set_op_register(i, Register::XMM1),
            _ => {}
        }
    }
    instr
}
