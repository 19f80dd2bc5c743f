//! Loading a kernel.

use memory::{GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion};

use crate::elf::{self, Elf, Segment};
use crate::layout::{HIGH_MEMORY, IDENTITY_MAP_END};
use crate::{Error, Input, KernelFault, Source, bzimage};

/// A kernel in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// How it was packed.
    pub format: Format,
    /// How it is entered.
    pub protocol: Protocol,
    /// Physical address at which it is entered.
    pub entry: u64,
    /// First physical address behind it.
    pub end: u64,
}

/// How a kernel is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An ELF file, `vmlinux`.
    Elf,
    /// A `bzImage`, unpacked by us.
    BzImage,
}

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// In 32-bit protected mode, with a `hvm_start_info`.
    Pvh,
    /// In 64-bit mode, with a `boot_params`.
    Linux64,
}

/// Loads the kernel `input` into fresh memory.
pub fn load_kernel(memory: &GuestMemory, input: Input<'_>) -> Result<Kernel, Error> {
    load(memory, input.source).map_err(|fault| Error::Kernel { file: input.name.to_owned(), fault })
}

fn load(memory: &GuestMemory, source: &dyn Source) -> Result<Kernel, KernelFault> {
    let mut start = vec![0; (bzimage::HEADER_LEN as u64).min(source.size()) as usize];
    source.read_at(0, &mut start)?;
    if start.starts_with(&elf::MAGIC) {
        return load_elf(memory, source, Format::Elf);
    }
    if bzimage::is_bzimage(&start) {
        let unpacked = bzimage::unpack(source, &start, ram_bytes(memory))?;
        return load_elf(memory, &&unpacked[..], Format::BzImage);
    }
    start.truncate(8);
    Err(KernelFault::NotAKernel { start })
}

fn load_elf(
    memory: &GuestMemory,
    source: &dyn Source,
    format: Format,
) -> Result<Kernel, KernelFault> {
    let elf = elf::parse(source)?;
    let kernel = place(memory, &elf, format)?;
    for segment in &elf.segments {
        let address = GuestAddress(segment.address);
        source.copy_to(segment.offset, segment.file_len, memory, address)?;
    }
    Ok(kernel)
}

/// Checks that `elf` can be loaded and entered.
fn place(memory: &GuestMemory, elf: &Elf, format: Format) -> Result<Kernel, KernelFault> {
    for segment in &elf.segments {
        check_segment(memory, segment)?;
    }
    check_overlap(&elf.segments)?;
    let ends = elf.segments.iter().map(|s| s.address + s.memory_len);
    let end = ends.max().ok_or(KernelFault::NoSegments)?;
    let (protocol, entry) = match elf.pvh_entry {
        Some(entry) => (Protocol::Pvh, entry.into()),
        None if end > IDENTITY_MAP_END => {
            return Err(KernelFault::AboveIdentityMap { end, max: IDENTITY_MAP_END });
        }
        None => (Protocol::Linux64, elf.entry),
    };
    if !elf.segments.iter().any(|s| (s.address..s.address + s.memory_len).contains(&entry)) {
        return Err(KernelFault::Entry { entry });
    }
    Ok(Kernel { format, protocol, entry, end })
}

fn check_segment(memory: &GuestMemory, segment: &Segment) -> Result<(), KernelFault> {
    let &Segment { index, address, memory_len, .. } = segment;
    if address < HIGH_MEMORY {
        return Err(KernelFault::TooLow { index, address, min: HIGH_MEMORY });
    }
    // The parser saw to it that this neither wraps nor is empty.
    let last = address + (memory_len - 1);
    let region = memory.find_region(GuestAddress(address));
    if region.is_none_or(|r| last > r.last_addr().0) {
        let mib = ram_bytes(memory) >> 20;
        return Err(KernelFault::OutsideRam { index, address, last, mib });
    }
    Ok(())
}

fn check_overlap(segments: &[Segment]) -> Result<(), KernelFault> {
    let mut ranges: Vec<_> =
        segments.iter().map(|s| (s.address, s.address + s.memory_len)).collect();
    ranges.sort_unstable();
    match ranges.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(KernelFault::Overlap { address: pair[1].0 }),
        None => Ok(()),
    }
}

/// All of the guest's RAM in bytes.
fn ram_bytes(memory: &GuestMemory) -> u64 {
    memory.iter().map(|r| r.len()).sum()
}

#[cfg(test)]
mod tests {
    use memory::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        COMPRESSIONS, ELF_DATA, Load, bzimage, compress, elf, load, note, note_segment, ram,
    };

    const MIB: u64 = 1 << 20;

    fn load_bytes(file: &[u8], mib: u64) -> (GuestMemory, Result<Kernel, String>) {
        let memory = ram(mib);
        let result = load_kernel(&memory, Input { name: "k", source: &file });
        (memory, result.map_err(|e| e.to_string()))
    }

    /// Loads into 2 MiB.
    fn refusal(file: &[u8]) -> String {
        load_bytes(file, 2).1.unwrap_err()
    }

    /// A kernel of 16 bytes at 1 MiB that is entered at its start.
    fn simple() -> Vec<u8> {
        elf(MIB, &[load(MIB, 16, 0x3000)], b"0123456789abcdef")
    }

    #[test]
    fn segments_go_to_their_place() {
        let data: Vec<u8> = (0..0x3000u32).map(|i| (i / 64) as u8).collect();
        let second = Load { offset: ELF_DATA + 0x2000, ..load(MIB + 0x9000, 0x1000, 0x2000) };
        let nothing = load(0, 0, 0);
        let file = elf(MIB + 5, &[load(MIB, 0x2000, 0x8000), nothing, second], &data);
        let (memory, kernel) = load_bytes(&file, 2);
        let expected = Kernel {
            format: Format::Elf,
            protocol: Protocol::Linux64,
            entry: MIB + 5,
            end: MIB + 0xB000,
        };
        assert_eq!(kernel, Ok(expected));
        for (address, range) in [(MIB, 0..0x2000), (MIB + 0x9000, 0x2000..0x3000)] {
            let mut back = vec![0; range.len()];
            memory.read_slice(&mut back, GuestAddress(address)).unwrap();
            assert!(back == data[range]);
        }
    }

    #[test]
    fn pvh_entries() {
        let entry = MIB as u32 + 4;
        let other = note(b"Xen\0", 6, b"linux\0");
        let foreign = note(b"GNU\0", 18, &7u32.to_le_bytes());
        for (notes, expected) in [
            (note(b"Xen\0", 18, &entry.to_le_bytes()), Some(entry)),
            (note(b"Xen\0", 18, &u64::from(entry).to_le_bytes()), Some(entry)),
            (
                [other.clone(), foreign, note(b"Xen\0", 18, &entry.to_le_bytes())].concat(),
                Some(entry),
            ),
            (other, None),
            (note(b"Xen\0", 18, &[1, 2]), None),
            (note(b"Xen\0", 18, &u64::MAX.to_le_bytes()), None),
            (vec![0xFF; 64], None),
            (vec![], None),
        ] {
            let data = [&[0; 16][..], &notes].concat();
            let file = elf(MIB, &[load(MIB, 16, 16), note_segment(16, notes.len() as u64)], &data);
            let kernel = load_bytes(&file, 2).1.unwrap();
            let (protocol, entry) = match expected {
                Some(entry) => (Protocol::Pvh, entry.into()),
                None => (Protocol::Linux64, MIB),
            };
            assert_eq!((kernel.protocol, kernel.entry), (protocol, entry));
        }
    }

    #[test]
    fn bzimages_are_unpacked() {
        let inner = simple();
        let size = (inner.len() as u32).to_le_bytes();
        let mut payloads = vec![inner.clone()];
        payloads.extend(COMPRESSIONS.map(|c| [&compress(c, &inner)[..], &size].concat()));
        for payload in payloads {
            let (memory, kernel) = load_bytes(&bzimage(0x20F, &payload), 2);
            let kernel = kernel.unwrap();
            assert_eq!((kernel.format, kernel.entry), (Format::BzImage, MIB));
            let mut back = [0; 16];
            memory.read_slice(&mut back, GuestAddress(MIB)).unwrap();
            assert_eq!(&back, b"0123456789abcdef");
        }
    }

    #[test]
    fn files_that_are_no_kernel() {
        let gzip = |data: &[u8]| compress(crate::inflate::Compression::Gzip, data);
        let mut no_payload = bzimage(0x20F, b"x");
        no_payload[0x248..0x24C].fill(0);
        let bomb = gzip(&vec![0; 3 << 20]);
        let damaged = [0x1F, 0x8B, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
        for (file, expected) in [
            (
                vec![],
                "is not a kernel: neither an x86-64 ELF file (vmlinux) nor a bzImage; it starts with []",
            ),
            (
                b"#!/bin/sh\n".to_vec(),
                "is not a kernel: neither an x86-64 ELF file (vmlinux) nor a bzImage; it starts with [23, 21, 2f, 62, 69, 6e, 2f, 73]",
            ),
            (bzimage(0x205, b"x"), "is a bzImage of boot protocol 2.05; 2.08 or later is needed"),
            (no_payload, "is a bzImage without a payload"),
            (
                bzimage(0x20F, b"hello"),
                "cannot be unpacked: unknown compression, starts with [68, 65, 6c, 6c, 6f]",
            ),
            (
                bzimage(0x20F, b"BZh9"),
                "cannot be unpacked: bzip2 compression is not supported: use zstd, gzip, xz, lzma or lz4",
            ),
            (bzimage(0x20F, &gzip(b"hello")), "is a bzImage whose payload is not an ELF file"),
            (
                bzimage(0x20F, &bomb),
                "cannot be unpacked: it unpacks to more than 2097152 bytes: give the machine more memory",
            ),
            (
                bzimage(0x20F, &damaged),
                "cannot be unpacked: damaged gzip data: invalid gzip header",
            ),
        ] {
            assert_eq!(refusal(&file), format!("kernel k: {expected}"));
        }
    }

    /// Changes bytes of a good kernel, and checks what is said of it.
    fn check_patched(patches: &[(usize, &[u8])], expected: &str) {
        let mut file = simple();
        for (offset, bytes) in patches {
            file[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(refusal(&file), format!("kernel k: {expected}"));
    }

    #[test]
    fn hostile_headers() {
        let max = u64::MAX.to_le_bytes();
        check_patched(
            &[(4, &[1])],
            "is an ELF file, but not for x86-64: class is 1, not 64-bit (2)",
        );
        check_patched(
            &[(5, &[2])],
            "is an ELF file, but not for x86-64: byte order is 2, not little-endian (1)",
        );
        check_patched(
            &[(16, &[1])],
            "is an ELF file, but not for x86-64: type is 1, not an executable (2 or 3)",
        );
        check_patched(
            &[(18, &[183])],
            "is an ELF file, but not for x86-64: machine is 183, not x86-64 (62)",
        );
        check_patched(
            &[(54, &[32])],
            "is an ELF file, but not for x86-64: size of a program header is 32, not 56",
        );
        check_patched(&[(56, &[65])], "has 65 program headers; at most 64 are allowed");
        check_patched(&[(56, &[0])], "has no segments to load");
        check_patched(&[(64, &[9])], "has no segments to load");
        check_patched(
            &[(32, &max)],
            "is cut short: the table of program headers needs 18446744073709551615 bytes, and the file has 4112",
        );
        check_patched(&[(72, &max)], "segment 0 is malformed: its place in the file wraps");
        check_patched(&[(88, &max)], "segment 0 is malformed: its address wraps");
        check_patched(
            &[(96, &max)],
            "segment 0 is malformed: it is longer in the file than in memory",
        );
        check_patched(
            &[(96, &[17])],
            "is cut short: a segment needs 4113 bytes, and the file has 4112",
        );
        check_patched(&[(24, &[0, 0, 8])], "its entry point 0x80000 lies outside of its segments");
        check_patched(
            &[(24, &max)],
            "its entry point 0xffffffffffffffff lies outside of its segments",
        );
    }

    #[test]
    fn hostile_places() {
        for (loads, expected) in [
            (vec![load(MIB - 1, 16, 16)], "segment 0 is to be loaded at 0xfffff, below 0x100000"),
            (
                vec![load(MIB, 0, MIB + 1)],
                "segment 0 is to be loaded at 0x100000 to 0x200000, outside of the machine's 2 MiB of memory: give the machine more",
            ),
            (
                vec![load(1 << 40, 0, 1)],
                "segment 0 is to be loaded at 0x10000000000 to 0x10000000000, outside of the machine's 2 MiB of memory: give the machine more",
            ),
            (vec![load(MIB, 0, 0x2000), load(MIB + 0x1FFF, 0, 1)], "segments overlap at 0x101fff"),
            (
                vec![load(MIB, 16, 16), note_segment(0, 17)],
                "is cut short: a note segment needs 4113 bytes, and the file has 4112",
            ),
        ] {
            assert_eq!(refusal(&elf(MIB, &loads, &[0; 16])), format!("kernel k: {expected}"));
        }
        let high = elf(MIB, &[load(MIB, 16, 1 << 30)], &[0; 16]);
        assert_eq!(
            load_bytes(&high, 2048).1.unwrap_err(),
            "kernel k: it ends at 0x40100000, and without a PVH entry it must end below 0x40000000"
        );
        // A segment may not reach into the hole for devices.
        assert!(load_bytes(&elf(MIB, &[load(MIB, 16, 3 << 30)], &[0; 16]), 4096).1.is_err());
    }

    #[test]
    fn files_cut_short() {
        let inner = simple();
        let packed = bzimage(0x20F, &compress(crate::inflate::Compression::Zstd, &inner));
        for file in [inner, packed] {
            for len in (0..file.len()).filter(|l| *l < 0x300 || *l % 64 == 0 || file.len() - l < 9)
            {
                let error = refusal(&file[..len]);
                assert!(error.starts_with("kernel k: "), "{len}: {error}");
                assert!(!error.contains('\n'), "{len}: {error}");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            start in prop::sample::select(vec![&b""[..], b"\x7fELF\x02\x01\x01"]),
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let _ = load_bytes(&[start, &bytes].concat(), 2);
        }

        #[test]
        fn damaged_kernels_never_panic(
            patches in prop::collection::vec((0usize..200, any::<[u8; 2]>()), 1..6),
        ) {
            let notes = note(b"Xen\0", 18, &1u32.to_le_bytes());
            let data = [&[0; 16][..], &notes].concat();
            let loads = [load(MIB, 16, 0x3000), note_segment(16, notes.len() as u64)];
            let mut file = elf(MIB, &loads, &data);
            for (offset, bytes) in patches {
                file[offset..offset + 2].copy_from_slice(&bytes);
            }
            let _ = load_bytes(&file, 2);
        }

        #[test]
        fn damaged_bzimages_never_panic(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            header in prop::collection::vec((0x1F1usize..0x250, any::<u8>()), 0..4),
            compression in prop::sample::select(COMPRESSIONS.to_vec()),
            patch in (0usize..100, any::<u8>()),
        ) {
            let mut packed = compress(compression, &payload);
            let at = patch.0 % packed.len();
            packed[at] = patch.1;
            let mut file = bzimage(0x20F, &packed);
            for (offset, byte) in header {
                file[offset] = byte;
            }
            let _ = load_bytes(&file, 2);
        }
    }
}
