//! Kernels and initial RAM disks: any bytes, and bytes in the frame of an ELF file or of a
//! `bzImage`, so that more than the magic numbers are reached.

use boot::{Input, Source as _, load_initrd, load_kernel};
use memory::{GuestAddress, GuestMemory, GuestMemoryBackend};

use crate::source::Source;

/// RAM of the guest.
const RAM_LEN: u64 = 4 << 20;
/// Most program headers in the frame of an ELF file.
const SEGMENTS_MAX: u8 = 6;

/// Loads what `data` describes.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let memory = memory::allocate(&[(GuestAddress(0), RAM_LEN)]).expect("four MiB");
    let choice = source.u8();
    let file = match choice % 4 {
        0 => source.bytes(usize::MAX).to_vec(),
        1 | 2 => elf(&mut source),
        _ => bzimage(&mut source),
    };
    let end = match load_kernel(&memory, Input { name: "kernel", source: &&file[..] }) {
        Ok(kernel) => {
            assert!(kernel.end <= RAM_LEN && kernel.entry < kernel.end);
            kernel.end
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            u64::from(choice) << 14
        }
    };
    initrd(&memory, &file, end);
}

fn initrd(memory: &GuestMemory, file: &[u8], kernel_end: u64) {
    let half = file.split_at(file.len() / 2).0;
    let part = |bytes| Input { name: "initrd", source: bytes };
    if let Ok(Some(initrd)) = load_initrd(memory, &[part(&half), part(&file)], kernel_end) {
        assert!(initrd.address >= kernel_end && initrd.address.is_multiple_of(memory::PAGE_SIZE));
        let last = GuestAddress(initrd.address + initrd.len - 1);
        assert!(memory.address_in_range(last) && initrd.len >= file.size());
    }
}

/// A file with the header of a 64-bit kernel and segments that mostly fit.
fn elf(source: &mut Source<'_>) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    let entry = number(source);
    for word in [entry, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    let count = source.u8() % SEGMENTS_MAX;
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, count, 0, 0, 0, 0, 0, 0, 0]);
    for _ in 0..count {
        let kind = u32::from(if source.u8() & 3 == 0 { 4u8 } else { 1 });
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        let offset = u64::from(source.u16());
        let (address, file_len, memory_len) = (number(source), number(source), number(source));
        for word in [offset, address, address, file_len, memory_len, 4] {
            file.extend(word.to_le_bytes());
        }
    }
    // A byte anywhere may be another one.
    let at = usize::from(source.u16());
    if let Some(byte) = file.get_mut(at) {
        *byte ^= source.u8();
    }
    file.extend(source.bytes(usize::MAX));
    file
}

/// A number that is often one of an address in RAM, or of a small length.
fn number(source: &mut Source<'_>) -> u64 {
    match source.u8() % 4 {
        0 => source.u64(),
        1 => u64::from(source.u16()),
        2 => (1 << 20) + u64::from(source.u16()),
        _ => u64::from(source.u8()),
    }
}

/// A set-up header, and a payload that may begin as a compressed file does.
fn bzimage(source: &mut Source<'_>) -> Vec<u8> {
    const MAGICS: [&[u8]; 7] = [
        b"\x7fELF",
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0",
        b"\x5d\0\0",
        b"\x02\x21\x4c\x18",
        b"\x28\xb5\x2f\xfd",
        b"BZh",
    ];
    let mut file = vec![0; 2 * 512];
    file[0x1F1] = 1;
    file[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&[0x0F, 2]);
    file[0x248..0x24C].copy_from_slice(&16u32.to_le_bytes());
    let at = usize::from(source.u16());
    if let Some(byte) = file.get_mut(at) {
        *byte ^= source.u8();
    }
    let magic = MAGICS.get(usize::from(source.u8() % 8)).copied().unwrap_or_default();
    let payload = [magic, source.bytes(usize::MAX)].concat();
    file[0x24C..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend([0; 16]);
    file.extend(payload);
    file
}
