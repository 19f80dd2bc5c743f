//! The guests' machine code, assembled from `guests/*.s` into this program's read-only data.
//!
//! The assembler also makes an index, so that Rust needs only two symbols: for each blob its
//! offset and length. A blob is position-independent; nothing here is ever executed by the host.

use std::arch::global_asm;

/// The machine code of one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blob(usize);

impl Blob {
    pub(crate) fn code(self) -> &'static [u8] {
        let index = &raw const suite_index;
        let base = &raw const suite_blobs;
        // SAFETY: the index has two words for each of the blobs that the macro below declares,
        // which are the only values of `Blob`; the words delimit bytes of the same section.
        unsafe {
            let entry = index.add(self.0 * 2);
            std::slice::from_raw_parts(
                base.add(entry.read() as usize),
                entry.add(1).read() as usize,
            )
        }
    }
}

macro_rules! guests {
    ($($constant:ident $name:literal,)*) => {
        global_asm!(
            include_str!("../guests/macros.s"),
            ".pushsection .rodata.guest_suite, \"a\", @progbits",
            ".hidden suite_blobs",
            ".globl suite_blobs",
            "suite_blobs:",
            $(
                ".balign 16",
                concat!(".Lstart_", $name, ":"),
                "9000:",
                include_str!(concat!("../guests/", $name, ".s")),
                ".code64",
                concat!(".Lend_", $name, ":"),
            )*
            ".balign 4",
            ".hidden suite_index",
            ".globl suite_index",
            "suite_index:",
            $(
                concat!(
                    ".long .Lstart_", $name, " - suite_blobs, ",
                    ".Lend_", $name, " - .Lstart_", $name
                ),
            )*
            ".popsection",
            options(raw)
        );
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Index { $($constant,)* }
        $(pub(crate) const $constant: Blob = Blob(Index::$constant as usize);)*
    };
}

unsafe extern "C" {
    static suite_blobs: u8;
    static suite_index: u32;
}

guests! {
    SUPPORT "support",
    TRAMPOLINE "trampoline",
    PORTS "ports",
    PORTS_STRING "ports_string",
    MMIO "mmio",
    APIC_ONE_SHOT "apic_one_shot",
    APIC_PERIODIC "apic_periodic",
    APIC_DEADLINE "apic_deadline",
    APIC_PRIORITY "apic_priority",
    IOAPIC_EDGE "ioapic_edge",
    PIC_VIRTUAL_WIRE "pic_virtual_wire",
    PIT_ONE_SHOT "pit_one_shot",
    EXCEPTIONS "exceptions",
    EXCEPTIONS_STRICT "exceptions_strict",
    FPU_EXCEPTIONS "fpu_exceptions",
    DOUBLE_FAULT "double_fault",
    TRIPLE_FAULT "triple_fault",
    PAGE_FAULTS "page_faults",
    RESERVED_BITS "reserved_bits",
    PAGE_FAULTS_USER "page_faults_user",
    RING3 "ring3",
    RING3_STRICT "ring3_strict",
    SYSCALL "syscall",
    COMPAT "compat",
    PROTECTED_ENTRY "protected_entry",
    AP_START "ap_start",
    SMC "smc",
    SMC_NEXT "smc_next",
    SMC_OTHER_VCPU "smc_other_vcpu",
    LOCKED "locked",
    PAGE_SIZES "page_sizes",
    PAGE_1G "page_1g",
    ACCESSED_DIRTY "accessed_dirty",
    TLB "tlb",
    SMEP "smep",
    SMAP "smap",
    REP_FAULT "rep_fault",
    FS_GS "fs_gs",
    FSGSBASE "fsgsbase",
    BREAKPOINTS "breakpoints",
    SINGLE_STEP "single_step",
    RDTSC "rdtsc",
    CPUID "cpuid",
    FPU_STATE "fpu_state",
    XSAVE "xsave",
    XSAVE_SIZE "xsave_size",
    KEYBOARD_RESET "keyboard_reset",
    SPIN "spin",
    HALT "halt",
    COUNT "count",
    DOORBELL "doorbell",
}
