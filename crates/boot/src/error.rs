//! What can go wrong between a kernel file and a guest that can be started.

use std::io;

use memory::GuestMemoryError;
use thiserror::Error;

/// A guest could not be prepared.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel's file is not a kernel that this machine can start.
    #[error("kernel {file}: {fault}")]
    Kernel {
        /// Its name.
        file: String,
        /// What is wrong with it.
        fault: KernelFault,
    },
    /// A part of the initial RAM disk cannot be used.
    #[error("initrd {file}: {fault}")]
    Initrd {
        /// Its name.
        file: String,
        /// What is wrong with it.
        fault: InitrdFault,
    },
    /// The command line is too long once the machine has added to it.
    #[error(
        "the kernel command line is {len} bytes long with what the machine appends for its \
         devices; at most {max} fit: shorten boot_args"
    )]
    CommandLine {
        /// Its length without the final NUL.
        len: usize,
        /// The longest that is allowed.
        max: usize,
    },
    /// Firmware tables outgrow their area.
    #[error("the machine's tables need {needed} bytes, and there are {room}: use fewer devices")]
    Tables {
        /// Bytes that they have.
        needed: usize,
        /// Bytes that there are.
        room: usize,
    },
    /// A table of ours lies outside of the guest's memory.
    #[error("cannot write the boot tables: {0}: give the machine at least 1 MiB of memory")]
    Memory(#[from] GuestMemoryError),
}

/// What is wrong with a kernel's file.
#[derive(Debug, Error)]
pub enum KernelFault {
    /// The host cannot read it.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Neither magic number is there.
    #[error(
        "is not a kernel: neither an x86-64 ELF file (vmlinux) nor a bzImage; it starts with \
         {start:02x?}"
    )]
    NotAKernel {
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// An ELF file for something else.
    #[error("is an ELF file, but not for x86-64: {field} is {value}, not {expected}")]
    ElfKind {
        /// The header's field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it must hold.
        expected: &'static str,
    },
    /// Something lies behind the file's end.
    #[error("is cut short: {what} needs {needed} bytes, and the file has {size}")]
    Truncated {
        /// What lies there.
        what: &'static str,
        /// Size that the file would need.
        needed: u64,
        /// Size that it has.
        size: u64,
    },
    /// There is nothing to load.
    #[error("has no segments to load")]
    NoSegments,
    /// There are too many segments.
    #[error("has {count} program headers; at most {max} are allowed")]
    TooManySegments {
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A segment's numbers contradict each other.
    #[error("segment {index} is malformed: {reason}")]
    Segment {
        /// Its number among the program headers.
        index: usize,
        /// What does not fit together.
        reason: &'static str,
    },
    /// A segment would overwrite the first MiB.
    #[error("segment {index} is to be loaded at {address:#x}, below {min:#x}")]
    TooLow {
        /// Its number among the program headers.
        index: usize,
        /// Where it wants to be.
        address: u64,
        /// The lowest address that is allowed.
        min: u64,
    },
    /// A segment does not lie in RAM.
    #[error(
        "segment {index} is to be loaded at {address:#x} to {last:#x}, outside of the machine's \
         {mib} MiB of memory: give the machine more"
    )]
    OutsideRam {
        /// Its number among the program headers.
        index: usize,
        /// Its first address.
        address: u64,
        /// Its last address.
        last: u64,
        /// The machine's RAM in MiB.
        mib: u64,
    },
    /// Two segments share an address.
    #[error("segments overlap at {address:#x}")]
    Overlap {
        /// The first address that both have.
        address: u64,
    },
    /// The entry point is not in a segment.
    #[error("its entry point {entry:#x} lies outside of its segments")]
    Entry {
        /// Where it would start.
        entry: u64,
    },
    /// The kernel cannot be entered, since the first page tables do not reach it.
    #[error("it ends at {end:#x}, and without a PVH entry it must end below {max:#x}")]
    AboveIdentityMap {
        /// Its end.
        end: u64,
        /// The end of the first page tables' map.
        max: u64,
    },
    /// A bzImage of a kernel before 2.6.26.
    #[error("is a bzImage of boot protocol {}.{:02}; 2.08 or later is needed", version >> 8, version & 0xFF)]
    OldProtocol {
        /// The version as the header has it.
        version: u16,
    },
    /// A bzImage that carries no compressed kernel.
    #[error("is a bzImage without a payload")]
    NoPayload,
    /// The payload of a bzImage is not an ELF file.
    #[error("is a bzImage whose payload is not an ELF file")]
    PayloadNotElf,
    /// The payload cannot be unpacked.
    #[error("cannot be unpacked: {0}")]
    Inflate(#[from] InflateFault),
}

/// What is wrong with a part of the initial RAM disk.
#[derive(Debug, Error)]
pub enum InitrdFault {
    /// The host cannot read it.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// It cannot be unpacked.
    #[error("cannot be unpacked: {0}")]
    Inflate(#[from] InflateFault),
    /// It does not fit.
    #[error(
        "does not fit: the initial RAM disk has {needed} bytes so far, and between the kernel and \
         the end of memory there are {room}: give the machine more memory"
    )]
    TooBig {
        /// Its bytes together with the parts before it.
        needed: u64,
        /// Bytes that there are.
        room: u64,
    },
}

/// Why compressed bytes cannot be unpacked.
#[derive(Debug, Error)]
pub enum InflateFault {
    /// No format has this magic number.
    #[error("unknown compression, starts with {start:02x?}")]
    Unknown {
        /// The first bytes.
        start: Vec<u8>,
    },
    /// A format that is not built in.
    #[error("{format} compression is not supported: use zstd, gzip, xz, lzma or lz4")]
    Unsupported {
        /// Its name.
        format: &'static str,
    },
    /// The decoder gave up.
    #[error("damaged {format} data: {reason}")]
    Corrupt {
        /// The format's name.
        format: &'static str,
        /// The decoder's reason.
        reason: String,
    },
    /// It unpacks to more than there may be.
    #[error("it unpacks to more than {limit} bytes: give the machine more memory")]
    TooBig {
        /// The limit.
        limit: u64,
    },
}
