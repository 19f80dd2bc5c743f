//! What the tests of several modules make: memory, machines, and small files of each format.

use std::io::Write;

use memory::{GuestMemory, allocate, ranges};

use crate::inflate::Compression;
use crate::{Platform, SleepRegisters, VirtioMmio};

/// Fresh memory of `mib` MiB.
pub(crate) fn ram(mib: u64) -> GuestMemory {
    allocate(&ranges(mib << 20)).unwrap()
}

/// A machine with so many vCPUs and virtio devices.
pub(crate) fn platform(vcpus: u8, devices: u32) -> Platform {
    let device =
        |n| VirtioMmio { address: 0xC000_1000 + n * 0x1000, len: 0x1000, gsi: 5 + n % 1000 };
    let sleep = SleepRegisters { control_port: 0x600, status_port: 0x601, off_type: 5 };
    Platform { vcpus, virtio: (0..devices).map(device).collect(), sleep, real_time_clock: false }
}

/// The compressions that are unpacked.
pub(crate) const COMPRESSIONS: [Compression; 5] =
    [Compression::Gzip, Compression::Xz, Compression::Lzma, Compression::Zstd, Compression::Lz4];

/// `data` as one stream.
pub(crate) fn compress(compression: Compression, data: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lzma => {
            let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
            let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
            let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::bulk::compress(data, 1).unwrap(),
        Compression::Lz4 => {
            let mut packed = 0x184C_2102u32.to_le_bytes().to_vec();
            for chunk in data.chunks(8 << 20) {
                let block = lz4_flex::block::compress(chunk);
                packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
                packed.extend_from_slice(&block);
            }
            packed
        }
        Compression::Bzip2 | Compression::Lzo => unreachable!("no test makes these"),
    }
}

/// A "newc" archive of these files, padded as cpio pads.
pub(crate) fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, data) in files.iter().copied().chain([("TRAILER!!!", &b""[..])]) {
        let zero = "00000000";
        archive.extend_from_slice(b"070701");
        archive.extend_from_slice(format!("{zero}000081a4").as_bytes());
        archive.extend_from_slice(zero.repeat(4).as_bytes());
        archive.extend_from_slice(format!("{:08x}", data.len()).as_bytes());
        archive.extend_from_slice(zero.repeat(4).as_bytes());
        archive.extend_from_slice(format!("{:08x}{zero}", name.len() + 1).as_bytes());
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// One program header of a test's ELF file.
#[derive(Clone)]
pub(crate) struct Load {
    pub kind: u32,
    pub offset: u64,
    pub address: u64,
    pub file_len: u64,
    pub memory_len: u64,
}

/// Where the bytes of a test's ELF file start.
pub(crate) const ELF_DATA: u64 = 0x1000;

/// A segment of [`ELF_DATA`]'s bytes.
pub(crate) fn load(address: u64, file_len: u64, memory_len: u64) -> Load {
    Load { kind: 1, offset: ELF_DATA, address, file_len, memory_len }
}

/// An ELF file for x86-64 with these program headers, and `data` at [`ELF_DATA`].
pub(crate) fn elf(entry: u64, loads: &[Load], data: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, loads.len() as u16, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    for load in loads {
        file.extend_from_slice(&load.kind.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        for word in [load.offset, load.address, load.address, load.file_len, load.memory_len, 4] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    assert!(file.len() as u64 <= ELF_DATA);
    file.resize(ELF_DATA as usize, 0);
    file.extend_from_slice(data);
    file
}

/// A PT_NOTE over [`ELF_DATA`]'s bytes from `offset` on.
pub(crate) fn note_segment(offset: u64, len: u64) -> Load {
    Load { kind: 4, offset: ELF_DATA + offset, address: 0, file_len: len, memory_len: len }
}

/// One note.
pub(crate) fn note(owner: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [owner.len() as u32, value.len() as u32, kind] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    for part in [owner, value] {
        note.extend_from_slice(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// A `bzImage` of protocol `version` around `payload`.
pub(crate) fn bzimage(version: u16, payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 2 * 512];
    file[0x1F1] = 1;
    file[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&version.to_le_bytes());
    file[0x248..0x24C].copy_from_slice(&16u32.to_le_bytes());
    file[0x24C..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(&[0; 16]);
    file.extend_from_slice(payload);
    file
}
