//! The state of one software vCPU, and how its instructions fail.
//!
//! [`Cpu`] is owned by the thread that runs it. What instructions touch most lies first. A failing
//! instruction leaves its reason in [`Cpu::pending`] and returns [`Trap`], a marker with no
//! content, so that the fast path carries nothing; the outer loop in `run.rs` looks the reason up.

use std::sync::Arc;

use simd::FpState;
use vcpu::{DescriptorTable, MpState, Segment};

use crate::block::CodeCache;
use crate::jit::{DryRun, Gate, Jit};
use crate::op::Op;
use crate::tlb::Tlb;
use crate::vm::{CpuPort, Shared};

/// Number of slots in [`Cpu::regs`]: the architectural registers and the pseudo registers below.
pub const REG_SLOTS: usize = 32;

/// Index of RAX in [`Cpu::regs`].
pub const RAX: usize = 0;
/// Index of RCX.
pub const RCX: usize = 1;
/// Index of RDX.
pub const RDX: usize = 2;
/// Index of RBX.
pub const RBX: usize = 3;
/// Index of RSP.
pub const RSP: usize = 4;
/// Index of RBP.
pub const RBP: usize = 5;
/// Index of RSI.
pub const RSI: usize = 6;
/// Index of RDI.
pub const RDI: usize = 7;
/// Index of R11.
pub const R11: usize = 11;
/// Always zero: stands for "no base", "no index", "no segment base".
pub const ZERO: usize = 16;
/// RIP of the first instruction of the block that runs.
pub const RIP: usize = 17;
/// Base address of FS.
pub const FS_BASE: usize = 18;
/// Base address of GS.
pub const GS_BASE: usize = 19;

/// Segment register numbers, as instructions encode them.
pub const ES: usize = 0;
/// CS.
pub const CS: usize = 1;
/// SS.
pub const SS: usize = 2;
/// DS.
pub const DS: usize = 3;
/// FS.
pub const FS: usize = 4;
/// GS.
pub const GS: usize = 5;

/// RFLAGS bits (SDM Vol. 1, 3.4.3).
pub mod rflags {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// The bit that reads as one.
    pub const FIXED: u64 = 1 << 1;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Trap (single step).
    pub const TF: u64 = 1 << 8;
    /// Interrupt enable.
    pub const IF: u64 = 1 << 9;
    /// Direction.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level, two bits.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check, and SMAP override.
    pub const AC: u64 = 1 << 18;
    /// CPUID toggle.
    pub const ID: u64 = 1 << 21;
    /// The six arithmetic flags.
    pub const ARITH: u64 = CF | PF | AF | ZF | SF | OF;
}

/// Exception vectors (SDM Vol. 3A, table 6-1).
pub mod vector {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint.
    pub const BP: u8 = 3;
    /// Overflow.
    pub const OF: u8 = 4;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Device not available.
    pub const NM: u8 = 7;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack-segment fault.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// x87 floating-point error.
    pub const MF: u8 = 16;
    /// SIMD floating-point exception.
    pub const XM: u8 = 19;
}

/// An exception on its way to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// The error code, for vectors that push one.
    pub error: Option<u32>,
}

impl Exception {
    /// An exception without an error code.
    pub const fn plain(vector: u8) -> Self {
        Self { vector, error: None }
    }

    /// An exception with an error code.
    pub const fn with(vector: u8, error: u32) -> Self {
        Self { vector, error: Some(error) }
    }
}

/// An instruction did not complete: [`Cpu::pending`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap;

/// What instructions return.
pub type Step = Result<(), Trap>;

/// Why control came back from a chain of blocks to the outer loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// Nothing special: go on at RIP (the budget ran out, or the target is not known yet).
    None,
    /// An instruction raised a fault: RIP is that of the instruction.
    Fault(Exception),
    /// Run the instruction at RIP alone, then decode anew: it changes the block that holds it.
    Alone,
    /// HLT.
    Halt,
    /// Triple fault.
    Shutdown,
}

/// How code is decoded: the L and D bits of CS together with EFER.LMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CodeSize {
    /// Real mode, or protected mode with CS.D = 0.
    Bits16 = 0,
    /// Protected or compatibility mode with CS.D = 1.
    Bits32 = 1,
    /// 64-bit mode.
    Bits64 = 2,
}

impl CodeSize {
    /// 16, 32 or 64.
    pub fn bits(self) -> u32 {
        16 << self as u32
    }
}

/// One vCPU.
///
/// It is `Send` because every pointer in it is into its own [`CodeCache`], which moves with it.
#[repr(C)]
pub struct Cpu {
    /// The sixteen general registers, then the pseudo registers [`ZERO`], [`RIP`], [`FS_BASE`],
    /// [`GS_BASE`].
    pub regs: [u64; REG_SLOTS],
    /// The arithmetic flags as LAHF and SETO leave them in AX: see `flags.rs`.
    pub fx: u16,
    /// Instructions that may still run before the outer loop looks at the world.
    pub budget: i32,
    /// Offset in [`Tlb`] of the entries for the current privilege: see `tlb.rs`.
    pub tlb_set: usize,
    /// What is mixed into RIP to look a block up: privilege and code size.
    pub mode_key: u64,
    /// All of RFLAGS but the arithmetic flags.
    pub eflags: u64,
    /// How often a block runs in the interpreter before it is translated.
    pub hot: u64,
    /// Instructions that the outer loop let run since the start.
    pub instructions: u64,
    /// Accesses whose page was not in the TLB.
    pub tlb_misses: u64,
    /// Why the last chain of blocks ended.
    pub pending: Pending,
    /// Offset, from [`RIP`], of the instruction that trapped.
    pub trap_offset: u8,
    /// The instruction just run (STI, MOV SS, POP SS) holds interrupts off for one more.
    pub shadow: bool,
    /// The block that runs is a single instruction that will not be used again.
    pub alone: bool,
    /// The instruction just run was INT n, INT3 or INTO, behind which there is no single-step trap.
    pub interrupted: bool,
    /// The pending #GP is for an address that is not canonical.
    pub not_canonical: bool,
    /// A jump that wants to be linked with the block that the outer loop finds next.
    pub link_from: LinkFrom,
    /// What translated code needs besides registers.
    pub gate: Gate,

    /// Translated addresses.
    pub tlb: Tlb,
    /// x87, MMX and SSE state.
    pub fp: Box<FpState>,

    /// ES, CS, SS, DS, FS, GS. The bases of FS and GS live in [`Cpu::regs`] and are copied here
    /// only when a state is saved.
    pub segments: [Segment; 6],
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Global descriptor table register.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table register.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Debug conditions (DR6 bits) met by the instruction that runs, reported behind it.
    pub debug_hits: u64,
    /// Current privilege level: CS.RPL, kept in step with CS.
    pub cpl: u8,
    /// How code is decoded now.
    pub code_size: CodeSize,
    /// Runnable, halted, or waiting for INIT or SIPI.
    pub mp_state: MpState,
    /// Model-specific registers.
    pub msrs: crate::system::msr::Msrs,

    /// This vCPU's number, and its APIC id.
    pub id: u8,
    /// Decoded code.
    pub code: CodeCache,
    /// Translated code, if there is any.
    pub jit: Option<Box<Jit>>,
    /// What is noted of a run that will be undone, while there is one.
    pub dry: Option<Box<DryRun>>,
    /// The local APIC, and how devices are reached; none of it is touched by plain instructions.
    pub port: CpuPort,
    /// What all vCPUs of the machine share.
    pub shared: Arc<Shared>,
}

/// The op of a jump that wants to be linked.
#[derive(Default)]
pub struct LinkFrom(pub Option<std::ptr::NonNull<Op>>);

// SAFETY: the pointer is into the `CodeCache` of the same `Cpu`, and is followed by the thread that
// owns both.
unsafe impl Send for LinkFrom {}

impl Cpu {
    /// Leaves an exception pending and returns the marker for it.
    #[cold]
    #[inline(never)]
    pub fn raise(&mut self, exception: Exception) -> Trap {
        self.pending = Pending::Fault(exception);
        Trap
    }

    /// #GP(0).
    pub fn gp0(&mut self) -> Trap {
        self.raise(Exception::with(vector::GP, 0))
    }

    /// #UD.
    pub fn ud(&mut self) -> Trap {
        self.raise(Exception::plain(vector::UD))
    }

    /// #GP(0) unless the CPL is 0.
    pub fn require_cpl0(&mut self) -> Step {
        if self.cpl == 0 { Ok(()) } else { Err(self.gp0()) }
    }

    /// EFER.LMA.
    #[inline]
    pub fn long_mode(&self) -> bool {
        self.efer & (1 << 10) != 0
    }

    /// CR0.PE.
    #[inline]
    pub fn protected_mode(&self) -> bool {
        self.cr0 & 1 != 0
    }

    /// All of RFLAGS.
    pub fn rflags(&self) -> u64 {
        self.eflags | rflags::FIXED | crate::flags::to_rflags(self.fx)
    }

    /// Sets all of RFLAGS. The caller has decided which bits may change.
    pub fn set_rflags(&mut self, value: u64) {
        self.fx = crate::flags::from_rflags(value);
        self.eflags = value & !rflags::ARITH | rflags::FIXED;
        self.update_mode();
    }

    /// Recomputes what follows from CPL, CS, CR0, CR4, EFER and RFLAGS.AC: call after any of them
    /// changed.
    pub fn update_mode(&mut self) {
        let cs = self.segments[CS].attributes;
        self.code_size = match (self.long_mode() && cs & (1 << 9) != 0, cs & (1 << 10) != 0) {
            (true, _) => CodeSize::Bits64,
            (false, true) => CodeSize::Bits32,
            (false, false) => CodeSize::Bits16,
        };
        let flat = self.code_size == CodeSize::Bits64 || self.segments[CS].base == 0;
        self.mode_key =
            (self.code_size as u64) << 48 | u64::from(self.cpl == 3) << 52 | u64::from(!flat) << 53;
        self.tlb_set = Tlb::set_for(self.cpl, self.cr4, self.eflags);
    }

    /// `rip` cut to the code size's width.
    #[inline]
    pub fn truncate_rip(&self, rip: u64) -> u64 {
        match self.code_size {
            CodeSize::Bits64 => rip,
            CodeSize::Bits32 => rip & 0xFFFF_FFFF,
            CodeSize::Bits16 => rip & 0xFFFF,
        }
    }

    /// Whether blocks found at a RIP may be remembered by that RIP: the code segment is flat.
    pub fn flat_code(&self) -> bool {
        self.mode_key & 1 << 53 == 0
    }

    /// Makes the outer loop look at interrupts, timers and requests at the next block.
    #[inline]
    pub fn look_up_soon(&mut self) {
        self.instructions = self.instructions.saturating_sub(self.budget.max(0) as u64);
        self.budget = 0;
    }
}
