//! The floating-point and vector instructions of the software CPU: x87, MMX, SSE to SSE4.2, and what
//! goes with them (CRC32, POPCNT, MOVNTI, FXSAVE, XSAVE of x87 and SSE, fences and prefetches).
//!
//! An instruction is executed by the host's own units, on the guest's registers, through a stub that
//! was assembled at build time. So every result is exact: 80-bit arithmetic, NaNs, rounding, status
//! and flags. The price is a host that is x86-64-v2 or later.
//!
//! ```text
//! Instruction --plan()--> Plan (once)   fill Operand --Plan::run()--> Outcome   store Operand
//! ```
//!
//! The crate refuses what it does not know: VEX, EVEX, AES, SHA, 3DNow! and SSE4A instructions have no
//! plan. It never raises anything on the host: unmasked SSE exceptions are found in the flags, and
//! pending x87 exceptions in the status word. It knows no guest memory and no control registers; the
//! caller moves the operand and checks alignment, CR0 and CR4 as the plan's fields say.
//!
//! Three things differ from a processor, none in a result:
//!
//! - FIP, FDP and FOP are always zero (see [`FpState`]).
//! - When an unmasked overflow or underflow raises #XM, PE tells whether the result of the masked
//!   response is inexact, where a processor tells it of the unbounded result.
//! - When DPPS or DPPD raises #XM, the flags of the steps after the one that raised it are set too.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("sparkler-simd executes on the host's x86-64 units");

mod area;
mod exec;
mod plan;
mod state;
mod stub;
mod table;
mod x87;

pub use exec::ARITHMETIC_FLAGS;
pub use plan::{Class, MemUse, Plan, plan};
pub use state::{
    FXSAVE_BYTES, FpState, MXCSR_MASK, MXCSR_OFFSET, MXCSR_RESET, Operand, XMM_OFFSET, XSAVE_BYTES,
};

/// Whether this host has the instructions that the stubs are made of.
pub fn host_is_supported() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("fxsr")
        && has!("sse3")
        && has!("ssse3")
        && has!("sse4.1")
        && has!("sse4.2")
        && has!("popcnt")
}

/// The guest's general registers, RAX to R15 (in encoding order) at 0 to 15.
pub type Gprs = [u64; 32];

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It completed.
    Done,
    /// It completed and replaces the six arithmetic flags, here at their places in RFLAGS.
    Flags(u16),
    /// It faulted.
    Raise(Exception),
}

/// The exceptions that an instruction raises beside those of its memory operand and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// #MF: an unmasked x87 exception is pending.
    Mf,
    /// #XM: an unmasked SSE exception; #UD where CR4.OSXMMEXCPT is clear.
    Xm,
    /// #GP(0): reserved bits of MXCSR or of an XSAVE header.
    Gp,
}
