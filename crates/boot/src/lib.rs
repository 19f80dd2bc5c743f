//! From a kernel file to a guest that can be started: what a PC's firmware and boot loader do.
//!
//! Bytes go in, guest memory comes out, in this order:
//!
//! ```text
//!   load_kernel ──▶ load_initrd ──▶ write_tables ──▶ write_entry ──▶ the boot vCPU's CpuState
//!    ELF, bzImage    cpio parts     ACPI, MP table    command line, memory map, GDT, page tables
//! ```
//!
//! A kernel is an ELF `vmlinux` or a `bzImage`, told apart by their magic numbers. A `bzImage` is
//! unpacked here, by the host, into the ELF file that it carries; its own unpacking code never
//! runs. The kernel is entered by the PVH protocol (the Xen project's "x86/HVM direct boot ABI")
//! if it has that entry, and by Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst) if
//! not. Addresses are those of [`layout`].
//!
//! Every byte of a file is taken as hostile: what does not fit, overlaps, or overflows is refused
//! by an [`Error`] that names the file. Memory is expected to be fresh: pages that would hold
//! zeros are left alone.
//!
//! This crate refuses 32-bit kernels, kernels below 1 MiB, and files compressed with bzip2 or
//! LZO. It does not set the local APIC's LINT pins: CPU back ends start with LINT0 as ExtINT and
//! LINT1 as NMI. It opens no files and knows no devices beyond their addresses.
#![forbid(unsafe_code)]

mod acpi;
mod bytes;
mod bzimage;
mod command_line;
mod cpu;
mod elf;
mod entry;
mod error;
mod inflate;
mod initrd;
mod kernel;
pub mod layout;
mod memory_map;
mod mptable;
mod source;
mod tables;

#[cfg(test)]
mod testing;

pub use command_line::{Root, command_line};
pub use cpu::application_processor;
pub use entry::write_entry;
pub use error::{Error, InflateFault, InitrdFault, KernelFault};
pub use initrd::{Initrd, load_initrd};
pub use kernel::{Format, Kernel, Protocol, load_kernel};
pub use memory_map::{MapEntry, MapKind, memory_map};
pub use source::{FileSource, Input, Source};
pub use tables::{Platform, SleepRegisters, VirtioMmio, write_tables};
