//! Stubs: an instruction of the host between loads and stores of its operands.
//!
//! A stub is a naked function, assembled at build time; nothing is generated while a guest runs.
//! All share one signature:
//!
//! | register | argument |
//! | --- | --- |
//! | rdi | destination: 16 bytes that may be read and written |
//! | rsi | source: 16 bytes that may be read |
//! | rdx | the immediate |
//! | rcx | the guest's FXSAVE image |
//! | r8 | the guest's general registers |
//! | rax | result: RFLAGS, where the row's `exec` uses them |
//!
//! The kinds whose names start with `fp` run under the guest's MXCSR and put the host's back; their
//! caller makes sure that every exception is masked. An instruction with an immediate is a table of
//! 256 slots of eight bytes, each the instruction and a `ret`. Stubs use x86-64-v2 only.

/// A stub's type; see the module's doc for the arguments.
pub(crate) type Stub = unsafe extern "sysv64" fn(*mut u8, *const u8, u64, *mut u8, *mut u64) -> u64;

/// The stub of rows whose work is done in Rust.
pub(crate) unsafe extern "sysv64" fn none(
    _: *mut u8,
    _: *const u8,
    _: u64,
    _: *mut u8,
    _: *mut u64,
) -> u64 {
    0
}

/// A naked function of the stub's type from lines of assembly.
macro_rules! assembly {
    ($($line:tt)*) => {{
        #[unsafe(naked)]
        unsafe extern "sysv64" fn stub(
            _: *mut u8,
            _: *const u8,
            _: u64,
            _: *mut u8,
            _: *mut u64,
        ) -> u64 {
            std::arch::naked_asm!($($line)*)
        }
        stub as $crate::stub::Stub
    }};
}

/// 256 slots of one instruction with each immediate, from label 3 on. AT&T syntax: a symbol is an
/// immediate there.
macro_rules! slots {
    ($($before:literal,)* ; $op:expr; $($after:literal,)*) => {
        $crate::stub::assembly!(
            $($before,)*
            "lea 3f(%rip), %r10",
            "lea (%r10,%rdx,8), %r10",
            "mov (%r8), %rax",
            "mov 16(%r8), %rdx",
            "call *%r10",
            $($after,)*
            "ret",
            "2: .long 0x1f80",
            ".balign 8",
            "3:",
            ".set .Lsparkler_simd_imm, 0",
            ".rept 256",
            ".balign 8",
            $op,
            "ret",
            ".set .Lsparkler_simd_imm, .Lsparkler_simd_imm + 1",
            ".endr",
            options(att_syntax)
        )
    };
}

/// The stub of one kind for one mnemonic.
macro_rules! stub {
    // Both operands XMM, or 16 bytes.
    (xmm $op:literal) => {
        $crate::stub::assembly!(
            "movups xmm0, [rdi]",
            "movups xmm1, [rsi]",
            concat!($op, " xmm0, xmm1"),
            "movups [rdi], xmm0",
            "ret",
        )
    };
    // As `xmm`; the shift count is the immediate.
    (xmm_count $op:literal) => {
        $crate::stub::assembly!(
            "movups xmm0, [rdi]",
            "movd xmm1, edx",
            concat!($op, " xmm0, xmm1"),
            "movups [rdi], xmm0",
            "ret",
        )
    };
    // As `xmm`; the mask is XMM0.
    (xmm_mask $op:literal) => {
        $crate::stub::assembly!(
            "movups xmm2, [rdi]",
            "movups xmm1, [rsi]",
            "movups xmm0, [rcx + 160]",
            concat!($op, " xmm2, xmm1, xmm0"),
            "movups [rdi], xmm2",
            "ret",
        )
    };
    // As `xmm`, with an immediate.
    (xmm_imm $op:literal) => {
        $crate::stub::slots!(
            "movups (%rdi), %xmm0",
            "movups (%rsi), %xmm1",;
            concat!($op, " $.Lsparkler_simd_imm, %xmm1, %xmm0");
            "movups %xmm0, (%rdi)",
        )
    };
    // A string compare that leaves an index in ECX; the opcode is spelt out for the REX.W form.
    (str_index $op:literal) => {
        $crate::stub::slots!(
            "movups (%rdi), %xmm1",
            "movups (%rsi), %xmm2",;
            concat!(".byte ", $op, ", 0xca, .Lsparkler_simd_imm");
            "pushfq",
            "pop %rax",
            "mov %rcx, 8(%r8)",
        )
    };
    // A string compare that leaves a mask in XMM0.
    (str_mask $op:literal) => {
        $crate::stub::slots!(
            "movups (%rdi), %xmm1",
            "movups (%rsi), %xmm2",;
            concat!(".byte ", $op, ", 0xca, .Lsparkler_simd_imm");
            "pushfq",
            "pop %rax",
            "movups %xmm0, 160(%rcx)",
        )
    };
    // Both operands XMM, under the guest's MXCSR.
    (fp $op:literal) => {
        $crate::stub::stub!(fp_raw
            "movups xmm0, [rdi]",
            "movups xmm1, [rsi]",
            concat!($op, " xmm0, xmm1"),
            "movups [rdi], xmm0",
        )
    };
    // A comparison that sets RFLAGS, under the guest's MXCSR.
    (fp_flags $op:literal) => {
        $crate::stub::stub!(fp_raw
            "movups xmm0, [rdi]",
            "movups xmm1, [rsi]",
            concat!($op, " xmm0, xmm1"),
            "pushfq",
            "pop rax",
        )
    };
    // To a general register, under the guest's MXCSR.
    (fp_to_gpr $op:literal) => {
        $crate::stub::stub!(fp_raw
            "movups xmm1, [rsi]",
            concat!($op, ", xmm1"),
            "mov [rdi], rax",
        )
    };
    // From a general register or memory, under the guest's MXCSR.
    (fp_from_gpr $op:literal) => {
        $crate::stub::stub!(fp_raw
            "movups xmm0, [rdi]",
            concat!($op, " ptr [rsi]"),
            "movups [rdi], xmm0",
        )
    };
    // To an MMX register, under the guest's MXCSR.
    (fp_to_mm $op:literal) => {
        $crate::stub::stub!(fp_raw
            "movups xmm1, [rsi]",
            concat!($op, " mm0, xmm1"),
            "movq [rdi], mm0",
            "emms",
        )
    };
    // As `fp`, with an immediate.
    (fp_imm $op:literal) => {
        $crate::stub::slots!(
            "ldmxcsr 24(%rcx)",
            "movups (%rdi), %xmm0",
            "movups (%rsi), %xmm1",;
            concat!($op, " $.Lsparkler_simd_imm, %xmm1, %xmm0");
            "movups %xmm0, (%rdi)",
            "stmxcsr 24(%rcx)",
            "ldmxcsr 2f(%rip)",
        )
    };
    (fp_raw $($line:expr,)*) => {
        $crate::stub::assembly!(
            "ldmxcsr [rcx + 24]",
            $($line,)*
            "stmxcsr [rcx + 24]",
            "ldmxcsr [rip + 2f]",
            "ret",
            "2: .long 0x1f80",
        )
    };
    // Both operands MMX, or 8 bytes.
    (mm $op:literal) => {
        $crate::stub::assembly!(
            "movq mm0, [rdi]",
            "movq mm1, [rsi]",
            concat!($op, " mm0, mm1"),
            "movq [rdi], mm0",
            "emms",
            "ret",
        )
    };
    // As `mm`; the shift count is the immediate.
    (mm_count $op:literal) => {
        $crate::stub::assembly!(
            "movq mm0, [rdi]",
            "movd mm1, edx",
            concat!($op, " mm0, mm1"),
            "movq [rdi], mm0",
            "emms",
            "ret",
        )
    };
    // As `mm`, with an immediate.
    (mm_imm $op:literal) => {
        $crate::stub::slots!(
            "movq (%rdi), %mm0",
            "movq (%rsi), %mm1",;
            concat!($op, " $.Lsparkler_simd_imm, %mm1, %mm0");
            "movq %mm0, (%rdi)",
            "emms",
        )
    };
    // Anything else: the lines themselves, with the `ret` added.
    (raw $($line:literal)*) => {
        $crate::stub::assembly!($($line,)* "ret",)
    };
    // No stub: the row's `exec` does the work.
    (rust) => {
        $crate::stub::none as $crate::stub::Stub
    };
}

pub(crate) use {assembly, slots, stub};
