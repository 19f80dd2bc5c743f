//! An x86-64 CPU in software, behind the vCPU contract.
//!
//! [`SoftVm`] is the back end for hosts without usable hardware virtualisation. It interprets
//! blocks of decoded instructions on x86-64 hosts, with the host's own arithmetic, flags, SSE and
//! x87 units, so that results are exact, and translates those that run often.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `cpu`, `flags`, `regs` | the state of a vCPU |
//! | `decode`, `select` | from bytes to blocks of ops |
//! | `op`, `block` | how ops lead to one another; where blocks live and die |
//! | `ops` | what instructions do |
//! | `jit` | hot blocks as host code |
//! | `system` | descriptors, exceptions, far transfers, control registers, MSRs, CPUID |
//! | `tlb`, `access`, `paging`, `debug` | the guest's memory |
//! | `run`, `smp` | the outer loop; agreement between vCPUs |
//! | `vm`, `io` | the machine around: interrupt controllers, time, devices |
//!
//! What is absent: virtual-8086 mode, hardware task switches, PAE paging outside of long mode,
//! system management mode, alignment checks (#AC), AVX.

mod access;
mod block;
mod cpu;
mod debug;
mod decode;
mod flags;
mod io;
mod jit;
mod op;
mod ops;
mod paging;
mod regs;
mod run;
mod select;
mod smp;
mod system;
mod tlb;
mod vm;

pub use jit::{CACHE_BYTES_MAX, CACHE_BYTES_MIN, JitOptions};
pub use vm::{Options, SoftVm};
