//! What an x86-64 CPU does for the operating system: segments, transfers between privileges,
//! exceptions, control and model-specific registers, CPUID.
//!
//! The decoder and the handlers of ops have already fetched operands; the functions here are given
//! values, selectors and linear addresses, and follow the Intel SDM (Vol. 2 for instructions, Vol.
//! 3A chapters 2 to 10 for the rest). Every function either completes, or leaves an exception
//! pending and has changed nothing that a restart would repeat.
//!
//! ```text
//!   op handlers ──▶ segment   transfer   iret   fast_call   control   debug   flags_io   misc
//!   outer loop  ──▶ exception ──▶ stack          msr ──▶ mtrr, pvclock      state
//! ```
//!
//! Not offered, and refused as the SDM says of a CPU that lacks it: hardware task switching and
//! task gates, virtual-8086 mode, PAE paging outside of long mode, PCID, machine checks,
//! performance counters, MONITOR, UMIP, and every speculation control.

pub mod apic_page;
pub mod control;
pub mod cpuid;
pub mod debug;
pub mod exception;
pub mod fast_call;
pub mod flags_io;
pub mod iret;
pub mod misc;
pub mod msr;
pub mod mtrr;
pub mod pvclock;
pub mod random;
pub mod segment;
pub mod stack;
pub mod state;
pub mod transfer;

#[cfg(test)]
mod tests;
